"""What people do with pictures, all of it without PyTorch: command line, folders, the page's functions, Python."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from colorize_utils import Colorizer
from colorize_utils.app.picture import How, Picture
from colorize_utils.checkpoints import DEFAULT, REGISTRY, exported
from colorize_utils.cli import TRAINING, main
from colorize_utils.data import sample_photograph
from colorize_utils.data.metadata import read_mark
from colorize_utils.errors import CheckpointError, DeviceError, PackageError
from colorize_utils.inference import Hint, read_hints

ROOT = Path(__file__).parent.parent.parent
NEEDS = 'needs PyTorch: pip install "colorize_utils[train]"'


@pytest.fixture(scope="module")
def colorizer():
    return Colorizer.from_checkpoint()


@pytest.fixture
def photograph():
    """A small part of the sample, 160 wide and 120 high, as a file; the flower is in its middle."""
    sample_photograph().resize((160, 107)).crop((10, 5, 150, 105)).save("flower.png")
    return Path("flower.png")


def assert_luminance_kept(path, original):
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("L")), np.asarray(Image.open(original)))


def test_torch_is_not_importable():
    with pytest.raises(ImportError):
        import torch  # noqa: F401


def test_nothing_heavy_is_installed():
    heavy = ("torch", "torchvision", "scipy", "sklearn", "matplotlib", "onnx")
    for name in heavy:
        with pytest.raises(ImportError):
            __import__(name)


# ---------------------------------------------------------------- the command line


def test_the_sample_is_colorized(capsys):
    assert main(["--sample"]) == 0
    assert capsys.readouterr().out == "sample-flower-colorized.png\n"
    assert_luminance_kept("sample-flower-colorized.png", "sample-flower.png")
    red, green, blue = np.asarray(Image.open("sample-flower-colorized.png"), float)[20:200, 20:120].mean(axis=(0, 1))
    assert green > red + 2 and green > blue + 2  # the leaves behind the flower


def test_all_options_of_a_picture(photograph, capsys):
    assert main([str(photograph), "-o", "led.png", "--hint", "75,45,#c83c8c", "--uncertainty", "where.png"]) == 0
    assert main([str(photograph), "-o", "plain.png", "--style", "vivid", "--strength", "0.5"]) == 0
    assert main([str(photograph), "-o", "raw.png", "--raw"]) == 0
    assert main([str(photograph), "-o", "answers.png", "--answers", "2"]) == 0
    assert Path("answers-1.png").is_file() and Path("where.png").is_file()
    for name in ("led.png", "plain.png", "answers-1.png"):
        assert_luminance_kept(name, photograph)
    red, green, _ = np.asarray(Image.open("led.png"), int)[45, 75]
    assert red > green + 20
    assert read_mark("plain.png").checkpoint == REGISTRY[DEFAULT].sha256[:12]


def test_a_folder_is_colorized_and_gone_on_with(photograph, capsys):
    os.mkdir("album")
    for number in range(5):
        Image.open(photograph).rotate(number).save(f"album/{number}.jpg")
    (Path("album") / "broken.jpg").write_bytes(b"no picture")
    assert main(["album", "-o", "colour"]) == 1
    assert "broken.jpg" in capsys.readouterr().err
    assert sorted(path.name for path in Path("colour").iterdir()) == [f"{number}.jpg" for number in range(5)]
    assert main(["album", "-o", "colour"]) == 1
    assert "0 colorized, 5 already there, 1 failed" in capsys.readouterr().out


def test_it_warns_of_what_it_does_not_know(capsys):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(np.kron(noise, np.ones((4, 4), np.uint8))).save("noise.png")
    assert main(["noise.png"]) == 0
    assert "flowers-192 knows nothing like noise.png" in capsys.readouterr().err


ARGUMENTS = {"train": ["gan-l1"], "calibrate": ["run", "--unknown", "things"], "release": ["name", "run"]}


@pytest.mark.parametrize("command", TRAINING)
def test_what_needs_torch_says_so_in_a_line(command, capsys):
    assert main([command, *ARGUMENTS.get(command, [])]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {command} {NEEDS}") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "purpose"),
    [
        (["--model", "run.safetensors"], "run.safetensors"),
        (["--model", "run.pth"], "run.pth"),
        (["--model", "original-gan-l1"], "original-gan-l1"),
        (["--precision", "bf16"], "precision bf16"),
        (["--precision", "int8"], "precision int8"),
        (["--device", "cuda"], "device cuda"),
        (["--engine", "torch"], "the engine torch"),
    ],
)
def test_options_that_need_torch_say_so_in_a_line(options, purpose, photograph, capsys):
    for name in ("run.safetensors", "run.pth"):
        Path(name).write_bytes(b"weights")
    assert main([str(photograph), *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {purpose}") and NEEDS in said and said.count("\n") == 1


def test_a_model_that_is_not_there_is_no_matter_of_torch(photograph, capsys):
    assert main([str(photograph), "--model", "nowhere.pth"]) == 1
    assert "nowhere.pth is neither a file nor a known checkpoint" in capsys.readouterr().err


def test_a_process_needs_no_network_and_loads_nothing_heavy(photograph):
    """In a network namespace of its own there is no route, not even to this machine."""
    inside = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not permitted here")
    program = (
        "import sys; from colorize_utils.cli import main; s = main(sys.argv[1:]); print(*sys.modules); sys.exit(s)"
    )
    command = [*inside, sys.executable, "-c", program, str(photograph), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_luminance_kept("flower-colorized.png", photograph)
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"tqdm", "asyncio", "urllib.request", "http.client"}


# ---------------------------------------------------------------- from Python


def test_every_method_of_the_colorizer_works(colorizer, photograph):
    gray = np.asarray(Image.open(photograph))
    hint = Hint(75, 45, "blue")
    assert (colorizer.name, colorizer.size, colorizer.precision, str(colorizer.device)) == (DEFAULT, 192, "fp32", "cpu")
    assert colorizer.styles == ("safe", "vivid") and colorizer.takes_hints
    answers = colorizer.answers(gray, 3)
    assert [answer.probability for answer in answers] == sorted((a.probability for a in answers), reverse=True)
    np.testing.assert_array_equal(
        np.asarray(answers[0].picture), np.asarray(colorizer.colorize(gray, hints=answers[0].hints))
    )
    plain, led = colorizer.colorize_each(gray, [(), [hint]])
    assert np.abs(np.asarray(plain, int) - np.asarray(led)).max() > 20
    believed = colorizer.palette_at(gray, 75, 45)
    assert 0.9 < sum(belief.probability for belief in believed) <= 1.0001
    assert colorizer.uncertainty(gray).shape == gray.shape
    assert 0 < colorizer.unfamiliarity(gray) < 1
    assert colorizer.chroma(np.zeros((192, 192), np.uint8)).shape == (2, 96, 96)


def test_the_pages_functions_work(colorizer, photograph, tmp_path):
    folder = tmp_path / "visit"
    folder.mkdir()
    picture, how = Picture.taken_in(photograph, "aunt.png", folder), How(colorizer)
    picture.look_at(0.5, 0.4)
    assert picture.believed(how)
    picture.colour_it("#c83c8c", colorizer.size)
    shown = picture.dotted(picture.painted(how, folder / "shown.jpg"))
    assert shown.size == Image.open(photograph).size
    assert len(picture.answers(how)) >= 1 and picture.guessed(how).size == shown.size
    assert_luminance_kept(picture.coloured_file(how), photograph)
    assert read_hints(picture.hints_file()) == picture.hints


def test_what_is_not_for_the_engine_is_told(tmp_path):
    for engine in ("onnx", "auto"):
        (tmp_path / "torn.onnx").write_bytes(exported(DEFAULT).read_bytes()[:5000])
        with pytest.raises(CheckpointError, match=r"torn\.onnx is damaged or no ONNX file"):
            Colorizer.from_checkpoint(tmp_path / "torn.onnx", engine=engine)
    with pytest.raises(DeviceError, match="fp32 on the CPU, not in cuda"):
        Colorizer.from_checkpoint(device="cuda", engine="onnx")
    with pytest.raises(PackageError, match="needs PyTorch"):
        Colorizer.from_checkpoint(engine="torch")


def test_forty_lines_give_the_same_picture(colorizer, photograph):
    names = runpy.run_path(str(ROOT / "docs/forty_lines.py"))
    session = onnxruntime.InferenceSession(exported(DEFAULT))
    for style in colorizer.styles:
        own = np.asarray(colorizer.colorize(Image.open(photograph), style=style), int)
        other = np.asarray(names["colorized"](session, Image.open(photograph), style))
        assert np.abs(own - other).max() <= 2
