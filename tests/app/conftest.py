"""A tiny network that takes hints, and photographs to give it."""

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.app.picture import How
from colorize_utils.inference import Colorizer
from colorize_utils.multiscale import MultiscaleUNet


@pytest.fixture(scope="session")
def colorizer():
    torch.manual_seed(0)
    return Colorizer(MultiscaleUNet(width=1 / 16), 64, "tiny", "cpu")


@pytest.fixture
def how(colorizer):
    return How(colorizer)


@pytest.fixture
def upload(tmp_path):
    """Uploads: files as Gradio keeps them, in a folder of their content."""

    def make(name, size=(120, 90), seed=0, content=None, **options):
        folder = tmp_path / "uploads" / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
        else:
            levels = np.random.default_rng(seed).integers(0, 256, (9, 12), dtype=np.uint8)
            Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(folder / name, **options)
        return folder / name

    return make
