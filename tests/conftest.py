"""What every test gets: its own cache, no data set of the machine's, and no network but the loopback."""

import hashlib
import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


class Hub(ThreadingHTTPServer):
    """A small Hugging Face Hub: what its library asks for when it reads, from the folders in `repositories`.

    `refusals` answers an address's path with a status and an error code, `shorten` hands over so many bytes of a file
    less than it announced. What was asked lies in `requests`: (method, path, headers).
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories, self.requests, self.refusals, self.shorten = {}, [], {}, 0
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def add(self, name, folder, commit="main"):
        """Makes a folder's files the repository's `main`, under a commit that is a hash of `commit`."""
        self.repositories[name] = Path(folder), hashlib.sha1(commit.encode()).hexdigest()


class HubHandler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, dict(self.headers)))
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if listing else parts
        refusal = self.server.refusals.get(path) or self.server.refusals.get(f"{owner}/{name}")
        if refusal or f"{owner}/{name}" not in self.server.repositories:
            status, code = refusal or (401, "RepoNotFound")
            self.answer(b"", {"X-Error-Code": code}, status)
            return
        folder, commit = self.server.repositories[f"{owner}/{name}"]
        if rest and rest[1] not in ("main", commit):
            self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        elif listing:
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            siblings = [described(file, file.relative_to(folder).as_posix()) for file in files]
            content = {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}
            self.answer(json.dumps(content).encode(), {"Content-Type": "application/json"})
        else:
            content = (folder / "/".join(rest[2:])).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            headers |= {"X-Linked-Size": str(len(content))}
            self.answer(content[: len(content) - self.server.shorten], headers)

    def answer(self, content, headers, status=200):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def described(file, name):
    """A file in the Hub's listing; checkpoints lie in its large file storage, which states their SHA-256."""
    content = file.read_bytes()
    large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 132}
    shown = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    return shown | ({"lfs": large} if name.endswith((".safetensors", ".onnx")) else {})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine, which hf:// addresses lead to, and an empty cache of its library's."""
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "")  # so that it is as it was after the test
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()  # seconds until it ends
    yield hub
    hub.shutdown()
    hub.server_close()
