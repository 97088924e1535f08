"""Two engines under one Colorizer: which one is taken, and that they give the same pictures."""

import sys
import threading

import numpy as np
import onnx
import pytest
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from colorize_utils import machine
from colorize_utils.checkpoints import BUNDLED, DEFAULT, exported, read_weights
from colorize_utils.data import sample_photograph
from colorize_utils.errors import CheckpointError, DeviceError, PackageError
from colorize_utils.inference import Colorizer, Hint
from colorize_utils.inference.engines import choose_engine
from colorize_utils.inference.onnx_engine import OnnxEngine
from colorize_utils.inference.prediction import Prediction
from colorize_utils.inference.torch_engine import TorchEngine
from colorize_utils.models import UNet


@pytest.fixture(scope="module")
def both():
    return [Colorizer.from_checkpoint(device="cpu", engine=engine, precision="fp32") for engine in ("torch", "onnx")]


# ---------------------------------------------------------------- the same pictures


def photographs(count):
    """Parts of photographs of flowers, people, animals and things: of many sizes and aspects, dark, light and faint."""
    names = ("astronaut", "camera", "chelsea", "coffee", "coins", "moon", "page", "rocket")
    pictures = [getattr(skimage.data, name)() for name in names] + list(load_sample_images().images)
    pictures = [Image.fromarray(picture).convert("L") for picture in pictures]
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        width, height = (int(side * rng.uniform(0.2, 1)) for side in picture.size)
        left, top = (int(rng.integers(0, most + 1)) for most in (picture.width - width, picture.height - height))
        part = picture.crop((left, top, left + width, top + height))
        size = [max(1, int(side * rng.uniform(0.05, 0.6))) for side in part.size]
        levels = np.asarray(part.resize(size, Image.Resampling.BILINEAR), np.float32)
        gain, lift = rng.uniform(0.4, 1.4), rng.uniform(-40, 40)
        yield np.clip(gain * levels + lift, 0, 255).astype(np.uint8)


def assert_alike(one, two, gray):
    np.testing.assert_array_equal(np.asarray(two.convert("L")), gray)
    assert np.abs(np.asarray(one, int) - np.asarray(two)).max() <= 1


@pytest.mark.slow
def test_two_hundred_photographs_differ_by_a_level_at_most_and_keep_their_luminance(both):
    """Every third in the vivid style, every fourth with hints."""
    rng = np.random.default_rng(1)
    pixels = moved = 0
    for number, gray in enumerate(photographs(200)):
        style, hints = ("safe", "safe", "vivid")[number % 3], []
        for _ in range(3 * (number % 4 == 0)):
            x, y = rng.uniform(0, gray.shape[1]), rng.uniform(0, gray.shape[0])
            hints.append(Hint(x, y, tuple(rng.integers(0, 256, 3).tolist()), rng.uniform(1, 10)))
        one, two = (np.asarray(colorizer.colorize(gray, style=style, hints=hints)) for colorizer in both)
        assert_alike(Image.fromarray(one), Image.fromarray(two), gray)
        pixels, moved = pixels + gray.size, moved + (one != two).any(axis=2).sum()
    assert moved < 1e-3 * pixels


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (33, 65), (192, 192), (127, 3), (640, 427)])
def test_pictures_of_any_shape_are_alike(both, size):
    gray = np.asarray(sample_photograph().resize(size))
    for style in both[0].styles:
        assert_alike(*(colorizer.colorize(gray, style=style) for colorizer in both), gray)


def test_what_else_a_colorizer_tells_is_alike(both):
    gray, hint = np.asarray(sample_photograph().resize((160, 107))), Hint(75, 50, "purple")
    for colorizer in both:
        assert (colorizer.name, colorizer.size, colorizer.judged_side) == (DEFAULT, 192, 128)
    assert both[0].mark() == both[1].mark()
    one, two = (colorizer.uncertainty(gray, [hint]) for colorizer in both)
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert both[0].unfamiliarity(gray) == pytest.approx(both[1].unfamiliarity(gray), abs=1e-5)
    one, two = (colorizer.palette_at(gray, 75, 50) for colorizer in both)
    assert [belief.name for belief in one] == [belief.name for belief in two]
    assert np.abs(np.array([a.colour for a in one]) - np.array([b.colour for b in two])).max() <= 1
    one, two = (colorizer.answers(gray, 3) for colorizer in both)
    assert [(answer.name, answer.hints[0].x) for answer in one] == [(answer.name, answer.hints[0].x) for answer in two]
    one, two = (colorizer.colorize_each(gray, [(), [hint]]) for colorizer in both)
    for first, second in zip(one, two, strict=True):
        assert_alike(first, second, gray)
    one, two = (np.asarray(colorizer.colorize(gray, keep_luminance=False), int) for colorizer in both)
    assert np.abs(one - two).max() <= 1
    one, two = (colorizer.predictor()(torch.from_numpy(gray / np.float32(255))[None, None]) for colorizer in both)
    assert (one - two).abs().max() <= 1.01 / 255


def test_threads_that_share_the_cores_get_the_same_pictures(both, monkeypatch):
    """A session with as many threads as each worker has cores is made once for each such number."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    colorizer = Colorizer(OnnxEngine(exported(DEFAULT)), 192)
    grays = list(photographs(4))
    alone = [np.asarray(colorizer.colorize(gray)) for gray in grays]
    shared = [None] * len(grays)

    def work(place):
        shared[place] = np.asarray(colorizer.colorize(grays[place]))

    with colorizer.shared_by(4):
        threads = [threading.Thread(target=work, args=(place,)) for place in range(len(grays))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for one, two in zip(alone, shared, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1
    assert sorted(colorizer.engine._sessions) == [1, 4]
    colorizer.colorize(grays[0])
    assert sorted(colorizer.engine._sessions) == [1, 4]


def test_nan_is_no_picture_in_either_style():
    """The gain of the vivid style looks colours up in the palette, where NaN has no place."""
    colorizer = Colorizer.from_checkpoint(device="cpu", engine="torch")
    colorizer.engine.network.networks[0].head.bias.data.fill_(float("nan"))
    for style in colorizer.styles:
        with pytest.raises(CheckpointError, match="NaN"):
            colorizer.colorize(np.zeros((20, 20), np.uint8), style=style)


def test_a_prediction_gives_what_is_wanted_and_by_default_all():
    torch.manual_seed(0)
    prediction = Prediction(UNet(1 / 16), 32).eval()
    assert (prediction.outputs, prediction.takes_hints, prediction.judged_side) == (("colour", "safe"), False, 0)
    with torch.inference_mode():
        colour, chroma = prediction(torch.rand(1, 1, 22, 38))
        assert colour.shape == (1, 3, 22, 38) and chroma.shape == (1, 2, 22, 38)
        (only,) = prediction(torch.zeros(1, 1, 22, 38), wanted=["safe"])
        assert only.shape == chroma.shape


# ---------------------------------------------------------------- which one


def test_the_rule_of_auto(monkeypatch):
    """Here torch is loaded."""
    assert choose_engine("auto", exported=True) == "torch"
    assert choose_engine("onnx", exported=True, device="cpu", precision="fp32") == "onnx"
    monkeypatch.delitem(sys.modules, "torch")
    for how in ({}, {"device": "cpu"}, {"precision": "fp32"}, {"device": torch.device("cpu")}):
        assert choose_engine("auto", exported=True, **how) == "onnx"
        assert choose_engine("auto", exported=False, **how) == "torch"
        assert choose_engine("torch", exported=True, **how) == "torch"
    for how in ({"device": "cuda"}, {"device": "mps"}, {"precision": "bf16"}, {"precision": "int8", "device": "cpu"}):
        assert choose_engine("auto", exported=True, **how) == "torch"
        with pytest.raises(DeviceError, match="fp32 on the CPU"):
            choose_engine("onnx", exported=True, **how)
    for wrong in ({"engine": "tensorrt"}, {"engine": "auto", "precision": "fp8"}):
        with pytest.raises(ValueError, match="must be one of"):
            choose_engine(exported=True, **wrong)


def test_a_colorizer_has_the_engine_that_is_asked_for(tmp_path, tiny_checkpoint):
    assert isinstance(Colorizer.from_checkpoint(device="cpu").engine, TorchEngine)
    assert isinstance(Colorizer.from_checkpoint(engine="onnx").engine, OnnxEngine)
    path = tmp_path / "mine.onnx"
    path.write_bytes(exported(DEFAULT).read_bytes())
    assert isinstance(Colorizer.from_checkpoint(path).engine, OnnxEngine)  # nothing else can compute it
    with pytest.raises(CheckpointError, match=r"mine\.onnx is for the engine onnx alone"):
        Colorizer.from_checkpoint(path, engine="torch")
    with pytest.raises(DeviceError):
        Colorizer.from_checkpoint(path, precision="bf16")
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors is no exported file; make one: .*export"):
        Colorizer.from_checkpoint(tiny_checkpoint, engine="onnx")
    with pytest.raises(CheckpointError, match="which only predicts"):
        read_weights(path)


def test_without_the_exported_file_torch_takes_its_place(tmp_path, monkeypatch):
    """As in the notebooks for Colab."""
    monkeypatch.setattr("colorize_utils.checkpoints.hub.BUNDLED", tmp_path)
    assert exported(DEFAULT) is None
    (tmp_path / "flowers-192.onnx").write_bytes((BUNDLED / "flowers-192.onnx").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short or altered"):
        exported(DEFAULT)


def test_where_torch_is_missing_it_is_named(monkeypatch, tiny_checkpoint):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    for how, purpose in (
        ({"name_or_path": tiny_checkpoint}, "not exported"),
        ({"precision": "bf16"}, "precision bf16"),
    ):
        with pytest.raises(PackageError, match=rf'{purpose}.* needs PyTorch: pip install "colorize_utils\[train\]"'):
            Colorizer.from_checkpoint(**how)


# ---------------------------------------------------------------- files that are none


def test_files_that_export_did_not_write_are_told(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"no protocol buffer")
    with pytest.raises(CheckpointError, match=r"other\.onnx is damaged or no ONNX file"):
        OnnxEngine(path)
    model = onnx.load(exported(DEFAULT))
    (place,) = (number for number, entry in enumerate(model.metadata_props) if entry.key == "format")
    model.metadata_props[place].value = "99"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"other\.onnx has format 99.*export the checkpoint again"):
        OnnxEngine(path)
    del model.metadata_props[place]
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"no network that `python -m colorize_utils export` wrote"):
        OnnxEngine(path)


def test_no_statistics_are_sent_where_the_engine_would(monkeypatch):
    import onnxruntime

    asked = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: asked.append(True), raising=False)
    OnnxEngine(exported(DEFAULT))
    assert asked
