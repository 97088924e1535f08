import re

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.checkpoints import load_generator, release, save
from colorize_utils.cli import main
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import DataError
from colorize_utils.generator_registry import UNFAMILIAR
from colorize_utils.inference import Colorizer
from colorize_utils.inference.familiarity import CROPS, unknown_pictures
from colorize_utils.models import build_generator
from colorize_utils.multiscale import MultiscaleUNet
from colorize_utils.notebook.widgets import before_after, colorize_uploads


def checks(seed, size=(80, 60)):
    """No flower: black and white checks at random."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(255 * rng.integers(0, 2, (size[1] // 5, size[0] // 5), dtype=np.uint8)).resize(size, 0)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A checkpoint that was taught, a folder of checks that it has not seen, and what the command printed."""
    folder = tmp_path_factory.mktemp("calibrated")
    for name, seeds in (("unknown", range(12)), ("others", range(20, 26))):
        (folder / name).mkdir()
        for seed in seeds:
            checks(seed).save(folder / name / f"{seed}.png")
    torch.manual_seed(0)
    network = MultiscaleUNet(1 / 8, sizes=(32, 64)).eval()  # random features tell checks from flowers, too
    metadata = {"size": 64, "recipe": {"name": "multiscale", "epochs": 1, "keep_luminance": True}, "epoch": 1}
    save(folder / "network.safetensors", network, metadata)
    return folder


@pytest.fixture(scope="module")
def taught(calibrated):
    target = calibrated / "taught.safetensors"
    command = ["calibrate", str(calibrated / "network.safetensors"), "--unknown", str(calibrated / "unknown")]
    command += ["--check", str(calibrated / "others"), "-o", str(target)]
    assert main([*command, "--data", "generated", "--count", "200", "--quiet"]) == 0
    return target


def test_what_it_was_taught_it_tells_and_what_it_knows_it_does_not_warn_of(calibrated, taught, capsys):
    command = [
        "calibrate",
        str(taught),
        "--unknown",
        str(calibrated / "unknown"),
        "--check",
        str(calibrated / "others"),
    ]
    assert main([*command, "-o", str(calibrated / "again.safetensors"), "--data", "generated", "--quiet"]) == 0
    printed = capsys.readouterr().out
    measured = re.findall(r"AUC ([\d.]+) against (\d+) pictures .* of (\d+) % of these, and of ([\d.]+) %", printed)
    assert len(measured) == 2
    for auc, count, of_these, of_those in measured:
        assert float(auc) > 0.95 and int(of_these) > 80
        assert int(count) == 20 and float(of_those) <= 5
    one, other = load_generator(taught), load_generator(calibrated / "again.safetensors")
    assert torch.equal(one.network.strange_weight, other.network.strange_weight)
    assert one.metadata["recipe"]["name"] == "multiscale"


def test_a_released_checkpoint_keeps_the_border(calibrated, taught, tmp_path):
    release(taught, "small", tmp_path)
    exact, half = (Colorizer.from_checkpoint(path, "cpu") for path in (taught, tmp_path / "small.safetensors"))
    for picture in [checks(40), *synthetic_flowers(20, 64, seed=9)]:
        one, other = exact.unfamiliarity(picture), half.unfamiliarity(picture)
        assert 0 <= one <= 1
        assert one == pytest.approx(other, abs=0.02)


def test_without_lessons_it_says_nothing(calibrated):
    assert Colorizer.from_checkpoint(calibrated / "network.safetensors", "cpu").unfamiliarity(checks(1)) is None
    assert Colorizer(build_generator("unet", 1 / 16), 32, device="cpu").unfamiliarity(checks(1)) is None


def test_the_command_line_names_what_is_no_flower(taught, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()
    for seed in range(12):
        checks(seed + 50).save(f"album/checks-{seed:02}.png")
    Image.fromarray(synthetic_flowers(1, 64, seed=9)[0]).convert("L").save("album/flower.png")
    model = ["--model", str(taught), "--device", "cpu"]
    assert main(["album/flower.png", *model]) == 0
    assert "knows nothing like" not in capsys.readouterr().err
    assert main(["album/checks-00.png", *model]) == 0
    assert "knows nothing like album/checks-00.png (0." in capsys.readouterr().err.replace("(1.", "(0.")
    assert main(["album", *model, "--overwrite"]) == 0
    note = capsys.readouterr().err
    named, more = note.count("checks-"), re.search(r"and (\d+) more", note)
    assert named + int(more.group(1)) >= 10 and named == 10 and "flower.png" not in note
    assert main(["album", *model, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_notebook_says_so_above_the_picture(taught):
    colorizer = Colorizer.from_checkpoint(taught, "cpu")
    shown = before_after(checks(60), colorizer, name="a <fence>")
    assert colorizer.unfamiliarity(checks(60)) > UNFAMILIAR
    assert shown.warning in repr(shown)
    assert "a &lt;fence&gt;" in shown._repr_html_().split("<figure")[0]
    checks(60).save(path := taught.parent / "fence.png")
    (result,), _ = colorize_uploads({"fence.png": path.read_bytes()}, colorizer)
    assert "fence.png" in result.shown.warning
    flower = before_after(synthetic_flowers(1, 64, seed=9)[0], colorizer)
    assert flower.warning == "" and "color:#b00020" not in flower._repr_html_()


def test_of_each_unknown_picture_come_the_whole_and_squares(tmp_path):
    checks(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    Image.new("L", (1, 1)).save(tmp_path / "c.png")
    pictures = list(unknown_pictures(tmp_path, 32))
    assert len(pictures) == 2 * (1 + CROPS)
    assert {picture.shape for picture in pictures} == {(32, 32)}
    assert all((one == other).all() for one, other in zip(pictures, unknown_pictures(tmp_path, 32), strict=True))
    with pytest.raises(DataError, match="holds no pictures"):
        next(unknown_pictures(tmp_path / "nowhere", 32))


def test_only_a_network_of_several_sizes_can_be_taught(tmp_path, capsys):
    save(tmp_path / "unet.safetensors", build_generator("unet", 1 / 16), {"size": 32})
    assert main(["calibrate", str(tmp_path / "unet.safetensors"), "--unknown", str(tmp_path)]) == 1
    assert "only a multiscale-unet" in capsys.readouterr().err
