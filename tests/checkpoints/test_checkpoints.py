import hashlib
import json
import os
import pickle
import struct
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from colorize_utils import checkpoints
from colorize_utils.checkpoints import (
    DEFAULT,
    REGISTRY,
    RegistryEntry,
    exported,
    fetch,
    identify,
    load_generator,
    read_weights,
    state,
)
from colorize_utils.colour import luma
from colorize_utils.errors import CheckpointError
from colorize_utils.inference import Colorizer
from colorize_utils.inference.onnx_engine import OnnxEngine
from colorize_utils.models import Discriminator, DistributionUNet, UNet, WGANUNet

HTML = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


class Misbehaving(BaseHTTPRequestHandler):
    """Serves `server.content`, in the way that the path names."""

    def do_GET(self):
        self.server.requests.append(self.path)
        content, way = self.server.content, self.path.strip("/").removesuffix(".onnx")
        if way == "missing":
            self.send_error(404)
            return
        if way == "broken":
            self.send_error(503)
            return
        body = {"html": HTML, "empty": b"", "altered": content[:-1] + bytes([content[-1] ^ 1])}.get(way, content)
        self.send_response(200)
        if way != "unmeasured":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if way in ("short", "unmeasured") else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tiny_checkpoint):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    server.content, server.requests = tiny_checkpoint.read_bytes(), []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def registry(server, monkeypatch):
    """Adds an entry "flower" whose sources are ways of the server; returns how."""

    def add(*ways, known=True, **changes):
        digest = hashlib.sha256(server.content).hexdigest()
        entry = RegistryEntry(
            name="flower",
            sources=tuple(way if ":" in way else f"{server.url}/{way}" for way in ways),
            architecture="unet",
            width=1 / 16,
            size=32,
            licence="MIT",
            note="for tests",
            length=len(server.content) if known else None,
            sha256=digest if known else None,
        )
        monkeypatch.setitem(REGISTRY, "flower", replace(entry, **changes))

    return add


def cached(own_cache):
    folder = own_cache / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---------------------------------------------------------------- fetching


def test_a_download_is_cached_and_not_fetched_again(server, registry, own_cache):
    registry("good")
    first = fetch("flower", progress=False)
    assert first.read_bytes() == server.content
    assert fetch("flower", progress=False) == first
    assert server.requests == ["/good"]
    assert cached(own_cache) == ["flower.safetensors", "flower.safetensors.sha256"]
    assert load_generator("flower").size == 32


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("html", "web page, not a checkpoint .most likely Google Drive's download limit"),
        ("short", r"cut short: [\d,]+ of [\d,]+ bytes arrived|connection broke"),
        ("unmeasured", "were expected: it is cut short or altered"),
        ("altered", "was altered: its SHA-256 is"),
        ("empty", "is empty"),
        ("missing", "the server answered 404"),
        ("broken", "the server answered 503"),
        ("http://127.0.0.1:9/nobody", "no answer"),
        ("http://colorize.invalid/x", "no answer"),
        ("path:/nowhere/flower.safetensors", "does not exist"),
    ],
)
def test_a_bad_source_is_told_and_the_next_one_tried(server, registry, own_cache, way, message):
    registry(way)
    with pytest.raises(CheckpointError, match=message) as error:
        fetch("flower", progress=False)
    assert "pass its path" in str(error.value)
    assert "\n" not in str(error.value)
    assert cached(own_cache) == []

    registry(way, "good")
    assert fetch("flower", progress=False).read_bytes() == server.content


def test_every_failed_source_is_named(registry, server):
    registry("html", "missing")
    with pytest.raises(CheckpointError) as error:
        fetch("flower", progress=False)
    assert f"{server.url}/html: " in str(error.value)
    assert f"{server.url}/missing: " in str(error.value)


def test_a_cached_file_that_was_altered_is_fetched_again(server, registry):
    registry("good")
    path = fetch("flower", progress=False)
    path.write_bytes(server.content[:-1] + b"!")
    assert fetch("flower", progress=False).read_bytes() == server.content
    assert server.requests == ["/good", "/good"]


def test_an_unknown_hash_is_pinned_and_a_change_reported(server, registry, own_cache, tmp_path):
    registry("good", known=False)
    path = fetch("flower", progress=False)
    pin = path.with_name("flower.safetensors.sha256")
    assert pin.read_text() == f"{hashlib.sha256(server.content).hexdigest()}  flower.safetensors\n"
    path.unlink()
    other = checkpoints.save(tmp_path / "other.safetensors", UNet(1 / 16), {"size": 32}).read_bytes()
    original, server.content = server.content, other
    with pytest.raises(CheckpointError, match=r"not the file it was.*delete flower.safetensors.sha256"):
        fetch("flower", progress=False)
    assert cached(own_cache) == ["flower.safetensors.sha256"]
    pin.unlink()
    assert fetch("flower", progress=False).read_bytes() == server.content != original


def test_a_file_that_is_cut_short_is_not_pinned_where_nothing_is_known_of_it(server, registry, own_cache):
    registry("unmeasured", known=False)
    with pytest.raises(CheckpointError, match="cut short"):
        fetch("flower", progress=False)
    assert cached(own_cache) == []
    registry("unmeasured", "good", known=False)
    assert fetch("flower", progress=False).read_bytes() == server.content


@pytest.mark.parametrize("pin", [None, ""])
def test_a_lost_pin_is_written_again(server, registry, pin):
    registry("good", known=False)
    path = fetch("flower", progress=False)
    pin_path = path.with_name("flower.safetensors.sha256")
    pin_path.unlink() if pin is None else pin_path.write_text(pin)
    fetch("flower", progress=False)
    assert pin_path.read_text().startswith(hashlib.sha256(server.content).hexdigest())


def test_drive_goes_through_gdown(registry, server, monkeypatch, own_cache):
    calls = []

    def download(id, output, quiet):
        calls.append((id, quiet))
        with open(output, "wb") as file:
            file.write(server.content)

    monkeypatch.setattr("gdown.download", download)
    registry("drive:abc123")
    assert fetch("flower", progress=False).read_bytes() == server.content
    assert calls == [("abc123", True)]


def test_drives_quota_page_and_refusal_are_recognised(registry, monkeypatch, own_cache):
    def quota_page(id, output, quiet):
        with open(output, "wb") as file:
            file.write(HTML)

    registry("drive:abc123", known=False)
    monkeypatch.setattr("gdown.download", quota_page)
    with pytest.raises(CheckpointError, match="web page, not a checkpoint"):
        fetch("flower", progress=False)

    def refuse(id, output, quiet):
        raise RuntimeError("Cannot retrieve the public link.\nToo many users have viewed the file")

    monkeypatch.setattr("gdown.download", refuse)
    with pytest.raises(
        CheckpointError, match=r"did not hand over flower.safetensors .Cannot retrieve .* Too many users"
    ):
        fetch("flower", progress=False)
    assert cached(own_cache) == []


def test_without_gdown_its_installation_is_advised(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    registry("drive:abc123")
    with pytest.raises(CheckpointError, match=r"needs gdown: pip install gdown"):
        fetch("flower", progress=False)


def test_an_exported_network_is_fetched_from_a_link_and_one_that_was_cut_short_is_not_kept(server, own_cache):
    server.content = exported(DEFAULT).read_bytes()
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        exported(f"{server.url}/unmeasured.onnx", progress=False)
    assert cached(own_cache) == []
    path = exported(f"{server.url}/good.onnx", progress=False)
    assert path.suffix == ".onnx" and path.read_bytes() == server.content
    assert isinstance(Colorizer.from_checkpoint(f"{server.url}/good.onnx", progress=False).engine, OnnxEngine)
    assert server.requests == ["/unmeasured.onnx", "/good.onnx"]


def test_a_cache_that_cannot_be_written_is_told(registry, tmp_path):
    registry("good")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write to .*COLORIZE_CACHE"):
        fetch("flower", cache=tmp_path / "file" / "below", progress=False)


def test_progress_is_shown_and_can_be_silenced(registry, capsys, own_cache):
    registry("good")
    fetch("flower", progress=False)
    assert capsys.readouterr().err == ""
    (own_cache / "checkpoints" / "flower.safetensors").unlink()
    fetch("flower")
    assert "flower.safetensors" in capsys.readouterr().err


def test_a_link_is_fetched_once_and_loads(server, own_cache):
    link = f"{server.url}/good"
    assert load_generator(link, progress=False).size == 32
    assert load_generator(link, progress=False).width == 1 / 16
    assert server.requests == ["/good"]
    with pytest.raises(CheckpointError, match="the server answered 404"):
        fetch(f"{server.url}/missing", progress=False)


@pytest.mark.parametrize(
    "link",
    [
        "https://drive.google.com/file/d/abc-12_3/view?usp=share_link",
        "https://drive.google.com/open?id=abc-12_3",
        "https://drive.google.com/uc?export=download&id=abc-12_3",
    ],
)
def test_links_of_google_drive_go_through_gdown(server, monkeypatch, link):
    ids = []

    def download(id, output, quiet):
        ids.append(id)
        with open(output, "wb") as file:
            file.write(server.content)

    monkeypatch.setattr("gdown.download", download)
    assert fetch(link, progress=False).read_bytes() == server.content
    assert ids == ["abc-12_3"]


def test_a_link_to_a_folder_of_google_drive_is_told():
    with pytest.raises(CheckpointError, match="names no file on Google Drive"):
        fetch("https://drive.google.com/drive/folders/", progress=False)


def test_paths_and_names_that_lead_nowhere(tmp_path, tiny_checkpoint):
    assert fetch(tiny_checkpoint) == tiny_checkpoint
    assert fetch(str(tiny_checkpoint)) == tiny_checkpoint
    with pytest.raises(CheckpointError, match=r"neither a file nor a known checkpoint; known are .*original-gan-l1"):
        fetch(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        fetch(tmp_path)


def test_the_original_submissions_checkpoint_is_in_the_catalogue():
    entry = REGISTRY["original-gan-l1"]
    assert entry.sources == ("drive:1aHGpMI5VdSlpQUcmUJnsR8ONWL2k_MOr",)
    assert (entry.architecture, entry.width, entry.size, entry.sha256) == ("unet", 1.0, 256, None)


# ---------------------------------------------------------------- reading

WRAPPED = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    "generator": lambda state: {"generator": state, "discriminator": {}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_load_in_the_usual_wrappings(tmp_path, tiny_unet, wrapping, zipped):
    path = tmp_path / "weights.pth"
    torch.save(WRAPPED[wrapping](tiny_unet.state_dict()), path, _use_new_zipfile_serialization=zipped)
    loaded = load_generator(path)
    for key, value in tiny_unet.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value)
    assert not loaded.network.training
    assert (loaded.architecture, loaded.width, loaded.size) == ("unet", 1 / 16, 256)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["module", "code", "raw pickle", "TorchScript", "optimizer"])
def test_what_is_more_than_weights_is_refused_and_never_run(tmp_path, tiny_unet, kind):
    path, mark = tmp_path / "model.pth", tmp_path / "executed"
    if kind == "module":
        torch.save(tiny_unet, path)
    elif kind == "code":
        torch.save({"state_dict": Evil(str(mark))}, path)
    elif kind == "raw pickle":
        path.write_bytes(pickle.dumps(Evil(str(mark))))
    elif kind == "TorchScript":
        torch.jit.script(nn.Linear(2, 2)).save(str(path))
    else:
        torch.save({"state_dict": torch.optim.Adam(tiny_unet.parameters())}, path)
    with pytest.raises(CheckpointError, match=r"holds more than weights.*torch.save\(model.state_dict\(\)") as error:
        read_weights(path)
    assert not mark.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no weights"),
        ([1, 2], "holds no weights .list"),
        ({"weights": torch.zeros(2), "epoch": 3}, "no plain state dict .it holds 'epoch'"),
        ({0: torch.zeros(2)}, "no plain state dict .it holds 0"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        read_weights(path)


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_files_that_are_cut_short_are_told(tmp_path, tiny_checkpoint, tiny_unet, kind, share):
    path = tmp_path / "cut"
    if kind == "safetensors":
        content = tiny_checkpoint.read_bytes()
    else:
        torch.save(tiny_unet.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
        content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cut short") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_whatever_a_damaged_file_does_to_the_unpickler_is_one_line(tmp_path, tiny_unet, kind):
    path = tmp_path / "weights.pth"
    torch.save(UNet(1 / 64).state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, min(len(content), 6000), 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :])
        try:
            read_weights(path)  # a flip inside a number is not to be seen
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_nonsense_in_the_metadata_is_told(tmp_path, tiny_unet):
    path = checkpoints.save(tmp_path / "weights.safetensors", tiny_unet, {"size": "256x256"})
    with pytest.raises(CheckpointError, match="working size is '256x256': its metadata is damaged"):
        load_generator(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n<html>sorry</html>", "web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"hello, world", "neither safetensors nor written by torch.save"),
        (struct.pack("<Q", 1 << 40) + b"{}", "neither safetensors nor written by torch.save, or cut short"),
    ],
)
def test_files_of_other_kinds_are_told(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(path)


# ---------------------------------------------------------------- building


@pytest.mark.parametrize("width", [1 / 64, 0.1, 1 / 8, 0.3])
@pytest.mark.parametrize("network", [UNet, WGANUNet, DistributionUNet])
def test_architecture_and_width_are_recognised(tmp_path, network, width):
    original = network(width)
    path = tmp_path / "weights.pth"
    torch.save(original.state_dict(), path)
    loaded = load_generator(path)
    assert type(loaded.network) is network
    gray = torch.rand(1, 1, 32, 32)
    assert torch.equal(loaded.network(gray), original.eval()(gray))


@pytest.mark.parametrize("network", [UNet, WGANUNet])
def test_bounded_networks_come_back_bounded(tmp_path, network):
    path = checkpoints.save(tmp_path / "weights.safetensors", network(1 / 64, bounded=True), {"bounded": True})
    colour = load_generator(path).network(torch.rand(1, 1, 32, 32))
    assert 0 < colour.min() <= colour.max() < 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_network_predicts_as_it_was_trained(tmp_path, tiny_unet, kept):
    checkpoints.save(tmp_path / "a.safetensors", tiny_unet, {"size": 32, "recipe": {"keep_luminance": kept}})
    loaded = load_generator(tmp_path / "a.safetensors")
    gray = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.network(gray), tiny_unet.eval()(gray))
        colour = loaded.predictor(gray)
    assert torch.allclose(luma(colour), gray, atol=1e-5) == kept
    assert (loaded.predictor is loaded.network) != kept


def test_identify_knows_what_it_does_not_know():
    assert identify({"fc.weight": torch.zeros(2, 2)}) is None
    assert identify(UNet(1 / 4).state_dict()) == ("unet", 0.25, False)
    assert identify(WGANUNet(1 / 4, bounded=True).state_dict()) == ("wgan-unet", 0.25, True)


def test_a_wrong_architecture_names_keys_and_what_the_file_fits(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(WGANUNet(1 / 8).state_dict(), path)
    with pytest.raises(
        CheckpointError,
        match=r"not a checkpoint of unet: missing encoder_block1.conv.0.weight, .* and \d+ more; unexpected "
        r"encoder1.block.0.weight.*; it fits wgan-unet at width 0.125",
    ):
        load_generator(path, architecture="unet")


def test_a_discriminator_is_told_from_a_generator(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(Discriminator(1 / 64).state_dict(), path)
    with pytest.raises(CheckpointError, match="it is a discriminator or critic; give the generator's"):
        load_generator(path)


def test_a_foreign_network_fits_none(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match="it fits none of unet, wgan-unet"):
        load_generator(path)


def test_keys_that_differ_inside_a_known_architecture_are_named(tmp_path, tiny_unet):
    state = tiny_unet.state_dict()
    del state["conv_last.bias"]
    state["decoder_block1.conv.0.weight"] = torch.zeros(1, 1, 3, 3)
    state["extra"] = torch.zeros(1)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(
        CheckpointError,
        match=r"does not fit unet at width 0.0625: missing conv_last.bias; unexpected extra; of another shape "
        r"decoder_block1.conv.0.weight \(1, 1, 3, 3\) not \(4, 12, 3, 3\)",
    ):
        load_generator(path)


def test_weights_that_are_not_finite_are_told(tmp_path, tiny_unet):
    with torch.no_grad():
        tiny_unet.conv_last.bias.fill_(float("nan"))
    path = checkpoints.save(tmp_path / "weights.safetensors", tiny_unet, {})
    with pytest.raises(CheckpointError, match="NaN or infinite weights"):
        load_generator(path)


# ---------------------------------------------------------------- writing


def test_what_is_saved_says_where_it_comes_from(tmp_path, tiny_unet):
    metadata = {"recipe": {"name": "gan-l1"}, "size": 64, "metrics": {"psnr": 20.5}}
    path = checkpoints.save(tmp_path / "below" / "weights.safetensors", tiny_unet, metadata)
    with safe_open(path, "pt") as file:
        raw = file.metadata()
    assert json.loads(raw["recipe"]) == {"name": "gan-l1"}
    assert json.loads(raw["versions"])["torch"] == torch.__version__.split("+")[0]
    loaded = load_generator(path)
    assert loaded.size == 64
    assert loaded.metadata["metrics"] == {"psnr": 20.5}
    assert load_generator(path, size=96).size == 96


@pytest.mark.parametrize("length", range(0x100, 0x200, 8))
def test_safetensors_are_told_from_pickles_whatever_their_headers_length(tmp_path, length):
    """A pickle begins with the byte 0x80, and so does a safetensors file whose header has 0x180 bytes."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header.encode() + struct.pack("<f", 2.5))
    assert read_weights(path).state["weight"].tolist() == [2.5]


def test_half_precision_halves_the_file_and_hardly_moves_the_colours(tmp_path, tiny_unet):
    full = checkpoints.save(tmp_path / "full.safetensors", tiny_unet, {})
    half = checkpoints.save(tmp_path / "half.safetensors", tiny_unet, {}, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    gray = torch.rand(1, 1, 32, 32)
    loaded = load_generator(half).network
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(loaded(gray), load_generator(full).network(gray), atol=3e-3, rtol=0)


def test_a_failed_write_leaves_the_old_file(tmp_path, tiny_unet, monkeypatch):
    path = checkpoints.save(tmp_path / "weights.safetensors", tiny_unet, {})
    before = path.read_bytes()

    def half_written(state, target, metadata):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(state, "save_file", half_written)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(path, tiny_unet, {})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]
