"""What every test gets: its own cache, no data set of the machine's, and no network but the loopback."""

import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils import checkpoints, devices
from colorize_utils.data import load_splits
from colorize_utils.inference import precision
from colorize_utils.models import UNet

# Two, as a CI machine has; one where that is asked for, because beside other work threads that wait for others crawl.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COLORIZE_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def no_bf16(monkeypatch):
    """So that `auto` is fp32 on every machine that tests; those of bf16 ask for it."""
    for module in (devices, precision):
        monkeypatch.setattr(module, "has_bf16", lambda: False)


@pytest.fixture(scope="session")
def splits():
    """Generated flowers at 32×32: 32 training, 4 validation, 4 test pictures."""
    return load_splits("generated", 32, count=40, cache=None)


@pytest.fixture
def tiny_unet():
    torch.manual_seed(0)
    return UNet(width=1 / 16)


@pytest.fixture
def tiny_checkpoint(tmp_path, tiny_unet):
    return checkpoints.save(tmp_path / "tiny.safetensors", tiny_unet, {"size": 32, "recipe": {"name": "gan-l1"}})


@pytest.fixture
def gray_image():
    """37×29, mode L, every level present."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (29, 37), dtype=np.uint8)
    levels.flat[:256] = np.arange(256)
    return Image.fromarray(levels)
