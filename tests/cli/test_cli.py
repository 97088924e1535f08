import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from colorize_utils import cli
from colorize_utils.checkpoints import RegistryEntry, load_generator, save, verify
from colorize_utils.cli import main
from colorize_utils.data import pictures
from colorize_utils.data.pictures import save_picture
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import PictureError
from colorize_utils.evaluation import realism
from colorize_utils.inference import STYLES, Colorizer
from colorize_utils.models import build_generator
from colorize_utils.training import Trainer


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def write(name, size=(30, 20), mode="L", **options):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(len(name)).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path, **options)
    return path


def tree():
    return sorted(path.as_posix() for path in Path().rglob("*") if path.is_file())


def run(*arguments):
    return main([str(argument) for argument in arguments])


# ---------------------------------------------------------------- one picture


def test_a_photograph_is_colorized_beside_itself(model, capsys):
    photo = write("photo.png")
    before = photo.read_bytes()
    assert run(photo, *model) == 0
    assert capsys.readouterr().out == "photo-colorized.png\n"
    colour = Image.open("photo-colorized.png")
    assert colour.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(colour.convert("L")), np.asarray(Image.open(photo)))
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "output", "format_name"),
    [
        ("a.jpg", None, "JPEG"),
        ("a.tiff", None, "TIFF"),
        ("a.webp", None, "WEBP"),
        ("a.bmp", None, "BMP"),
        ("a.gif", None, "PNG"),
        ("a.pgm", None, "PNG"),
        ("a.png", "b.jpg", "JPEG"),
        ("a.jpg", "below/c.png", "PNG"),
    ],
)
def test_results_have_the_format_asked_for(model, name, output, format_name, capsys):
    write(name)
    assert run(name, *(["-o", output] if output else []), *model) == 0
    path = Path(capsys.readouterr().out.strip())
    assert Image.open(path).format == format_name
    assert output is None or path == Path(output)
    assert np.asarray(Image.open(path)).std(axis=-1).max() > 0


def test_jpeg_chroma_is_not_subsampled(model):
    write("a.jpg")
    assert run("a.jpg", *model) == 0
    assert all(layer[1:3] == (1, 1) for layer in Image.open("a-colorized.jpg").layer)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_and_icc_are_kept(model, suffix):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x0132] = "my aunt", 6, "1931:05:01 12:00:00"
    exif.get_ifd(0x8769)[0x9003] = "1931:05:01 12:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = write(f"photo.{suffix}", mode="RGB", exif=exif.tobytes(), icc_profile=icc)
    assert run(photo, *model) == 0
    colour = Image.open(f"photo-colorized.{suffix}")
    assert colour.size == (20, 30)  # turned upright, and no longer said to lie on its side
    kept = colour.getexif()
    assert kept[0x010E] == "my aunt"
    assert kept.get(0x0112, 1) == 1
    assert kept.get_ifd(0x8769)[0x9003] == "1931:05:01 12:00:00"
    assert kept.get_ifd(0x8825)[1] == "N"
    assert colour.info["icc_profile"] == icc


def test_broken_exif_does_not_cost_the_picture(model):
    write("photo.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff and nonsense")
    assert run("photo.jpg", *model) == 0
    assert Image.open("photo-colorized.jpg").size == (30, 20)


@pytest.mark.parametrize("orientation", [1, 6])
def test_odd_exif_costs_neither_the_picture_nor_the_rest_of_the_folder(model, orientation, capfd):
    """Entries of other types than their tags', which Pillow reads and cannot write back."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "my aunt"
    exif.get_ifd(0x8825).update({0: b"\x02\x03\x00\x00", 1: "N"})
    content = write("album/a.jpg", exif=exif.tobytes()).read_bytes()
    version = content.index(b"\x00\x00\x00\x01\x00\x00\x00\x04\x02\x03")  # GPSVersionID, four bytes
    assert content[version + 1 : version + 4] == b"\x00\x00\x01"
    Path("album/a.jpg").write_bytes(content[: version + 3] + b"\x02" + content[version + 4 :])  # … now text
    write("album/b.jpg")
    assert run("album", "--quiet", *model) == 0
    colour = Image.open("album-colorized/a.jpg")
    assert colour.size == ((20, 30) if orientation == 6 else (30, 20))
    assert colour.getexif()[0x010E] == "my aunt"
    assert Path("album-colorized/b.jpg").exists()
    assert capfd.readouterr().err == ""


def test_a_gray_icc_profile_is_not_put_on_a_colour_picture(model):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    write("photo.png", icc_profile=bytes(profile))
    assert run("photo.png", *model) == 0
    assert "icc_profile" not in Image.open("photo-colorized.png").info


def test_transparency_needs_a_format_that_holds_it(model, capsys):
    write("photo.png", mode="LA")
    assert run("photo.png", *model) == 0
    assert Image.open("photo-colorized.png").mode == "RGBA"
    assert run("photo.png", "-o", "photo.jpg", *model) == 1
    assert (
        "photo.jpg cannot hold the picture's transparency; choose a name that ends in .png" in capsys.readouterr().err
    )


def test_results_are_not_overwritten_unasked_and_originals_never(model, capsys):
    write("photo.png")
    Path("photo-colorized.png").write_text("something of mine")
    assert run("photo.png", *model) == 1
    assert capsys.readouterr().err == (
        "error: photo-colorized.png exists already; --overwrite replaces it, -o chooses another name\n"
    )
    assert Path("photo-colorized.png").read_text() == "something of mine"
    assert run("photo.png", "--overwrite", *model) == 0
    before = Path("photo.png").read_bytes()
    assert run("photo.png", "-o", "../here/photo.png", "--overwrite", *model) == 1
    assert "is an original; choose another output" in capsys.readouterr().err
    assert Path("photo.png").read_bytes() == before


def test_strength_and_raw_change_the_result(model):
    write("photo.png")
    for name, options in (("a", []), ("b", ["--strength", "0"]), ("c", ["--raw"])):
        assert run("photo.png", "-o", f"{name}.png", *options, *model) == 0
    normal, none, raw = (np.asarray(Image.open(f"{name}.png")).astype(int) for name in "abc")
    assert normal.std(axis=-1).max() > 0
    assert none.std(axis=-1).max() == 0
    assert (raw != normal).any()


def test_style_changes_the_result_of_a_distribution(tmp_path):
    torch.manual_seed(0)
    network = build_generator("distribution-unet", 1 / 16)
    with torch.no_grad():
        network.head.weight.mul_(400)  # untrained, it believes in all colours alike
    beyond = ["--model", save(tmp_path / "beyond.safetensors", network, {"size": 32}), "--device", "cpu"]
    write("photo.png")
    for name, options in (("a", ["--style", "safe"]), ("b", ["--style", "vivid"]), ("c", [])):
        assert run("photo.png", "-o", f"{name}.png", *options, *beyond) == 0
    safe, vivid, default = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert safe != vivid
    assert default == safe


def test_a_style_that_a_network_does_not_have_is_told(model, capsys):
    write("photo.png")
    with pytest.raises(SystemExit) as stop:
        run("photo.png", "--style", "vivid", *model)
    assert stop.value.code == 2
    assert "tiny.safetensors has no style vivid: it names a single colour; --strength" in capsys.readouterr().err


def test_the_styles_of_the_command_line_are_the_colorizers(capsys):
    with pytest.raises(SystemExit):
        run("colorize", "--help")
    assert "--style {" + ",".join(STYLES) + "}" in capsys.readouterr().out


def test_the_sample_is_a_real_photograph(model, capsys):
    assert run("--sample", *model) == 0
    assert capsys.readouterr().out == "sample-flower-colorized.png\n"
    assert Image.open("sample-flower-colorized.png").size == (640, 427)
    assert Image.open("sample-flower.png").mode == "L"


# ---------------------------------------------------------------- folders


def test_a_folder_gives_the_same_relative_names(model, capsys):
    for name in ("album/a.jpg", "album/old/b.png", "album/old/c.gif", "album/.hidden.png"):
        write(name)
    Path("album/notes.txt").write_text("1931")
    assert run("album", *model) == 0
    assert [name for name in tree() if name.startswith("album-colorized")] == [
        "album-colorized/a.jpg",
        "album-colorized/old/b.png",
        "album-colorized/old/c.gif.png",
    ]
    assert capsys.readouterr().out == "3 colorized, 0 already there, 0 failed\n"


def test_a_second_run_goes_on_where_the_first_stopped(model, capsys):
    for name in ("album/a.png", "album/b.png"):
        write(name)
    assert run("album", "-o", "out", *model) == 0
    Path("out/b.png").unlink()
    stamp = Path("out/a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert run("album", "-o", "out", *model) == 0
    assert capsys.readouterr().out.endswith("out/b.png\n")
    assert Path("out/a.png").stat().st_mtime_ns == stamp
    assert run("album", "-o", "out", *model) == 0
    assert "0 colorized, 2 already there, 0 failed" in capsys.readouterr().out


def test_results_inside_the_folder_are_not_colorized_again(model, capsys):
    write("album/a.png")
    for _ in range(2):
        assert run("album", "-o", "album/colour", *model) == 0
    assert tree() == ["album/a.png", "album/colour/a.png"]


def test_unreadable_pictures_are_reported_and_the_rest_done(model, capsys):
    for name in ("album/a.png", "album/c.png"):
        write(name)
    Path("album/b.jpg").write_bytes(b"")
    assert run("album", *model) == 1
    captured = capsys.readouterr()
    assert "error: album/b.jpg is empty (0 bytes); get a fresh copy\n" in captured.err
    assert captured.out == "2 colorized, 0 already there, 1 failed\n"
    assert [name for name in tree() if name.startswith("album-")] == ["album-colorized/a.png", "album-colorized/c.png"]


def test_several_files_and_folders(model, capsys):
    for name in ("a.png", "b.png", "album/c.png"):
        write(name)
    assert run("a.png", "b.png", "album", "-o", "out", *model) == 0
    assert [name for name in tree() if name.startswith("out")] == ["out/a.png", "out/album/c.png", "out/b.png"]
    assert run("a.png", "b.png", *model) == 0
    assert {"a-colorized.png", "b-colorized.png"} <= set(tree())


def test_two_pictures_never_share_a_result(model, capsys):
    for name in ("one/a.png", "two/a.png"):
        write(name)
    assert run("one/a.png", "two/a.png", "-o", "out", *model) == 1
    assert "two/a.png: out/a.png is the result of one/a.png already" in capsys.readouterr().err
    before = Path("one/a.png").read_bytes()
    assert run("one", "-o", "one", "--overwrite", *model) == 1
    assert Path("one/a.png").read_bytes() == before
    assert "one/a.png is an original" in capsys.readouterr().err


def test_folders_by_other_names(model, monkeypatch):
    write("album/in/a.png")
    monkeypatch.chdir("album")
    assert run(".", *model) == 0
    monkeypatch.chdir("in")
    assert run("..", "--overwrite", *model) == 0
    monkeypatch.chdir("../..")
    assert tree() == ["album-colorized/in/a.png", "album/in/a.png"]
    Path("link").symlink_to("album")
    assert run("link", *model) == 0
    assert "link-colorized/in/a.png" in tree()
    assert run("album/in", "-o", "album", *model) == 0  # the results' folder may hold the originals'
    assert "album/a.png" in tree()


def test_folders_that_cannot_be_used(model, capsys):
    Path("nothing").mkdir()
    write("album/a.png")
    Path("file").write_text("")
    assert run("nothing", *model) == 1
    assert "error: nothing holds no pictures" in capsys.readouterr().err
    assert run("album", "-o", "file", *model) == 1
    assert "error: file is a file; give a folder" in capsys.readouterr().err


def test_an_interrupt_leaves_the_rest_of_a_folder(model, monkeypatch, capsys):
    for number in range(40):
        write(f"album/{number:02}.png")
    colorize, seen = Colorizer.colorize, []

    def interrupted(self, picture, **how):
        seen.append(picture)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return colorize(self, picture, **how)

    monkeypatch.setattr(Colorizer, "colorize", interrupted)
    assert run("album", *model) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    results = [name for name in tree() if name.startswith("album-colorized")]
    assert 3 <= len(results) < 40
    assert all(Image.open(name).mode == "RGB" for name in results)  # whole ones


def test_results_are_told_in_the_order_of_the_pictures(model, capsys):
    for name in ("a.png", "c.png", "e.png"):
        write(f"album/{name}")
    for name in ("b.png", "d.png"):
        Path(f"album/{name}").write_text("no picture")
    assert run("album", *model) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in lines] == ["album/b.png", "album/d.png"]


@pytest.mark.slow
def test_int8_is_nearly_the_same(model):
    write("a.png", (64, 64))
    assert run("a.png", "-o", "exact.png", *model) == run("a.png", "-o", "int8.png", "--precision", "int8", *model) == 0
    exact, quick = (np.asarray(Image.open(name)).astype(float) for name in ("exact.png", "int8.png"))
    assert 0 < np.abs(exact - quick).mean() < 3


def test_train_passes_on_that_networks_are_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: asked.append(type(network).__name__))
    tiny = ["--data", "generated", "--count", "20", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    assert run("train", "gan-l1", *tiny, "--device", "cpu", "--compile") == 0
    assert asked == ["UNet", "Discriminator"]


@pytest.mark.slow
def test_evaluate_scores_int8(model, capsys):
    arguments = ["evaluate", model[1], "--data", "generated", "--count", "20", "--size", "32", "--quiet"]
    assert run(*arguments, "--precision", "int8") == 0
    scored = capsys.readouterr().out
    assert run(*arguments) == 0
    assert "tiny.safetensors" in scored
    columns = [text.splitlines()[-1].split("|")[2:-2] for text in (scored, capsys.readouterr().out)]
    assert columns[0] != columns[1]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_picture_that_is_too_large_for_memory_is_reported(model, capsys, monkeypatch, error):
    write("a.png")

    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr("colorize_utils.inference.Colorizer.colorize", exhausted)
    assert run("a.png", *model) == 1
    assert "error: a.png needs more memory than there is" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing_behind(monkeypatch):
    image = Image.new("RGB", (9, 9))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.Image.Image, "save", full)
    with pytest.raises(PictureError, match=r"a.png cannot be written: No space left on device"):
        save_picture(image, Path("a.png"))
    assert tree() == []
    with pytest.raises(PictureError, match=r"a.xyz cannot be written: choose a name that ends in .jpg"):
        save_picture(image, Path("a.xyz"))


# ---------------------------------------------------------------- as a program


def program(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "colorize_utils", *map(str, arguments)], capture_output=True, text=True, **options
    )


SLOW_TO_IMPORT = {"PIL", "matplotlib", "numpy", "safetensors", "scipy", "sklearn", "torch", "torchvision", "tqdm"}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ([], "PICTURE"),
        (["train"], "--data"),
        (["evaluate"], "--data"),
        (["compare"], "--data"),
        (["release"], "checkpoint"),
    ],
)
def test_help_answers_at_once(command, names):
    """It loads nothing that takes time."""
    script = """
import sys
from colorize_utils.cli import main
try:
    main([*sys.argv[1:], "--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    assert names in result.stdout
    assert "colorize_utils.cli" in result.stderr.split()
    assert not SLOW_TO_IMPORT & set(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.jpg"], 1, "error: missing.jpg does not exist; check the path"),
        (["a.png", "--model", "no-such-model"], 1, "error: no-such-model is neither a file nor a known checkpoint"),
        ([], 2, "give a picture or a folder"),
        (["a.png", "--strength", "9"], 2, "--strength must lie in 0 … 4, got 9"),
        (["a.png", "--sample"], 2, "--sample takes no pictures"),
        (["a.png", "--colour"], 2, "unrecognized arguments: --colour"),
        (["train", "vgg"], 2, "invalid choice: 'vgg'"),
        (["train", "gan-l1", "--size", "50"], 2, "size must be a multiple of 32, got 50"),
        (["train", "gan-l1", "--data", "nowhere"], 1, "error: nowhere is not a folder"),
        (["a.png", "--device", "cuda:99"], 1, "error: there is no device 'cuda:99' here"),
        (["train", "gan-l1", "--precision", "int4"], 2, "invalid choice: 'int4'"),
        (["train", "gan-l1", "--data", "generated", "--count", "0"], 2, "must be 10 or more, got 0"),
        (["train", "gan-l1", "--size", "32", "--batch-size", "1"], 2, "needs a batch_size of 2 or more"),
        (["train", "wgan", "--size", "32", "--critic-batch-size", "1"], 2, "needs a critic_batch_size of 2 or more"),
        (["train", "gan-l1", "--data", "generated", "-o", "/dev/null/run", "--size", "32", "--quiet"], 1, "error: "),
        (["evaluate", "--limit", "-1"], 2, "must be 1 or more, got -1"),
        (["evaluate", "--size", "8"], 2, "must be 11 or more, got 8"),
        (["evaluate", "nowhere.pth"], 1, "error: nowhere.pth is neither a file"),
    ],
)
def test_errors_are_one_line_on_stderr_and_a_status(arguments, status, message, capsys):
    if status == 2:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    else:
        assert main(arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert status == 2 or captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("recipe", "option", "having"),
    [
        ("gan-l1", ["--n-critic", "5"], "wgan"),
        ("gan-mse", ["--lambda-gp", "10"], "wgan"),  # the default's value: it would have no effect either
        ("gan-mse", ["--lambda-dist", "2"], "distribution, multiscale"),
        ("wgan", ["--no-discriminator-sigmoid"], "gan-l1, gan-mse"),
        ("wgan", ["--discriminator-sigmoid"], "gan-l1, gan-mse"),
        ("wgan", ["--dropout", "0.1"], "gan-l1, gan-mse, distribution, multiscale"),
        ("distribution", ["--lambda-adv", "100"], "gan-l1, gan-mse, wgan"),
        ("distribution", ["--no-bounded"], "gan-l1, gan-mse, wgan"),
    ],
)
def test_an_option_without_effect_is_refused_and_the_recipes_that_have_it_are_named(recipe, option, having, capsys):
    tiny = ["--data", "generated", "--count", "20", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    with pytest.raises(SystemExit):
        run("train", recipe, *tiny, *option)
    assert capsys.readouterr().err.endswith(f": {having}\n")
    assert tree() == []


@pytest.mark.slow
def test_a_program_that_fails_says_so_to_the_shell():
    result = program("missing.jpg")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: missing.jpg does not exist; check the path\n"


def test_models_are_listed(capsys):
    assert run("--list-models") == 0
    out = capsys.readouterr().out
    assert "original-gan-l1: " in out
    assert "flowers-192 (default): " in out


def test_an_interrupt_is_no_trace(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.colorize, "run", interrupted)
    assert run("a.png") == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.slow
def test_train_then_evaluate_then_colorize(capsys):
    small = ["--size", "32", "--width", "0.0625", "--epochs", "2", "--batch-size", "8", "--count", "40"]
    arguments = ["train", "gan-l1", "--data", "generated", *small, "--keep-luminance", "--device", "cpu", "--quiet"]
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert "gan-l1 at 32×32, width 0.0625: 32 training, 4 validation pictures, 0 left out" in out
    assert "epoch 2/2" in out
    assert tree() == [
        f"runs/gan-l1/{name}"
        for name in ("best.safetensors", "curves.png", "history.json", "last.safetensors", "state.pt")
    ]
    assert run(*arguments) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert run(*arguments, "--resume") == 0

    best = "runs/gan-l1/best.safetensors"
    capsys.readouterr()
    evaluation = ["evaluate", best, "--data", "generated", "--count", "40", "--size", "32", "--limit", "3", "--quiet"]
    assert run(*evaluation, "--json", "scores.json") == 0
    out = capsys.readouterr().out
    assert "3 pictures of the test split at 32×32" in out
    assert [line.split("|")[1].strip() for line in out.splitlines()[4:]] == [
        "gray",
        "gray + mean chroma",
        best,
    ]
    capsys.readouterr()
    assert run("evaluate", best, "runs/gan-l1/last.safetensors", *evaluation[2:]) == 0
    assert "| runs/gan-l1/last.safetensors |" in capsys.readouterr().out
    assert '"pictures": 3' in Path("scores.json").read_text()

    Image.fromarray(synthetic_flowers(1, 90)[0]).convert("L").save("photo.png")
    assert run("photo.png", "--model", best) == 0
    assert os.path.exists("photo-colorized.png")


@pytest.mark.slow
def test_evaluate_writes_a_report(model, capsys):
    scored = ["--data", "generated", "--count", "100", "--size", "32", "--quiet", "--report", "page"]
    assert run("evaluate", model[1], *scored) == 0
    assert capsys.readouterr().out.endswith("report: page/report.md\n")
    assert sorted(path.name for path in Path("page").iterdir()) == ["failures.png", "grid.png", "report.md"]


def test_evaluate_says_whether_paintings_look_real_and_what_becomes_of_old_prints(model, capsys, monkeypatch):
    scored = ["--data", "generated", "--count", "60", "--size", "32", "--quiet", "--device", "cpu"]
    asked = ["--realism", "--degraded", "--json", "scores.json"]
    monkeypatch.setattr(realism, "EPOCHS", 1)
    assert run("evaluate", model[1], *scored, *asked) == 0
    assert "too few pictures: it takes 40" in capsys.readouterr().out
    assert not any("realism" in row for row in json.loads(Path("scores.json").read_text()))
    monkeypatch.setattr(realism, "LEAST", 6)
    assert run("evaluate", model[1], *scored, *asked) == 0
    out, rows = capsys.readouterr().out, json.loads(Path("scores.json").read_text())
    assert [row["name"] for row in rows] == ["gray", "gray + mean chroma", model[1]]
    for row in rows:
        assert row["realism"]["judgements"] == 6
        assert row["realism"]["low"] <= row["realism"]["accuracy"] <= row["realism"]["high"]
        assert f"\n- {row['name']}: {100 * row['realism']['accuracy']:.0f} % (" in out
        assert f" {row['old_prints']['psnr']:.2f} | {row['old_prints']['gain']:+.2f} |" in out
    assert rows[0]["old_prints"]["gain"] == rows[0]["clean"]["gain"] == 0
    assert rows[2]["old_prints"] != rows[2]["clean"]
    assert run("evaluate", model[1], *scored, "--json", "scores.json") == 0
    assert not {"realism", "old_prints", "clean"} & set(json.loads(Path("scores.json").read_text())[0])


def test_every_style_is_scored(tmp_path, capsys):
    torch.manual_seed(0)
    path = save(tmp_path / "beyond.safetensors", build_generator("distribution-unet", 1 / 16), {"size": 32})
    assert run("evaluate", path, "--data", "generated", "--count", "20", "--size", "32", "--quiet") == 0
    out = capsys.readouterr().out
    assert f"| {path}, safe |" in out
    assert f"| {path}, vivid |" in out


@pytest.mark.slow
def test_compare_trains_alike_and_scores_with_the_spread(capsys, monkeypatch):
    monkeypatch.setattr(realism, "EPOCHS", 1)
    monkeypatch.setattr(realism, "LEAST", 3)
    scale = ["--data", "generated", "--count", "40", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    assert run("compare", *scale, "--seeds", "2", "--limit", "3", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "3 test pictures; 32×32, width 0.0625, 1 epochs; ± is half of the range over the 2 seeds" in out
    rows = {cells[1].strip(): cells[2:-1] for line in out.splitlines() if len(cells := line.split("|")) > 3}
    recipes = ("gan-l1", "gan-mse", "wgan")
    kept = [f"{name}, luminance kept" for name in recipes]
    assert [name for name in rows if name not in ("prediction", "---")] == [
        "gray",
        "gray + mean chroma",
        *(row for pair in zip(recipes, kept, strict=True) for row in pair),
    ]
    runs = {path.parent.name: load_generator(path) for path in Path("runs/compare").glob("*/best.safetensors")}
    assert sorted(runs) == sorted(f"{name}-{seed}" for name in recipes for seed in (0, 1))
    assert {loaded.width for loaded in runs.values()} == {1 / 16}
    psnr, spread = (float(text) for text in rows["gan-l1"][0].split("±"))
    assert "±" not in rows["gray"][0]
    place = rows["prediction"].index(" realism ")
    assert all(0 <= int(rows[name][place].split("%")[0]) <= 100 for name in ("gray", *recipes))
    assert "±" in rows["gan-l1"][place]

    monkeypatch.setattr(realism, "LEAST", 40)
    assert run("compare", "gan-l1", *scale, "--seeds", "1", "--limit", "3") == 0  # the first of the two runs
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("| gan-l1 |"))
    single = float(row.split("|")[2])
    assert not row.split("|")[2 + place].strip()
    assert "realism: too few pictures, it takes 40" in out
    assert spread > 0
    assert run("compare", "gan-l1", *scale, "--learning-rate", "1e-5") == 1
    assert "gan-l1-0 holds another run (learning_rate 0.001 not 1e-05)" in capsys.readouterr().err
    assert min(abs(single - psnr - spread), abs(single - psnr + spread)) < 0.02


@pytest.mark.slow
def test_compare_changes_one_thing_at_a_time(capsys, monkeypatch):
    scale = ["--data", "generated", "--count", "40", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    switches = ["no-adversary", "no-sigmoid", "keep-luminance", "bounded"]
    given = ["compare", "gan-l1", *scale, "--seeds", "1", "--limit", "3", "--device", "cpu", "--switches"]
    assert run(*given, *switches) == 0
    out = capsys.readouterr().out
    plain = load_generator("runs/compare/gan-l1-0/best.safetensors").metadata["recipe"]
    fields = ["lambda_adv", "discriminator_sigmoid", "keep_luminance", "bounded"]
    for switch, field in zip(switches, fields, strict=True):
        changed = load_generator(f"runs/compare/gan-l1-{switch}-0/best.safetensors").metadata["recipe"]
        assert [name for name in plain if changed[name] != plain[name]] == [field]
        assert f"| gan-l1-{switch}, luminance kept |" in out
    with pytest.raises(SystemExit):
        run(*given, "no-such")
    assert "no switch 'no-such'; there are no-adversary, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("compare", "wgan", *scale, "--switches", "no-sigmoid")
    assert "would have no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_the_advice_after_an_interrupted_compare_can_be_followed(monkeypatch, capsys):
    scale = ["--data", "generated", "--count", "40", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    command = ["compare", "gan-l1", *scale, "--seeds", "1", "--limit", "3", "--device", "cpu"]
    step, steps = Trainer.step, []

    def stopped(self, *arguments):
        steps.append(len(self.step_losses))
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", stopped)
    assert run(*command) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert str(Path("runs/compare/gan-l1-0/state.pt")) in line
    with pytest.raises(SystemExit) as stop:
        run("compare", "--help")
    assert stop.value.code == 0
    assert set(re.findall(r"--\w+", line)) <= set(re.findall(r"--\w+", capsys.readouterr().out))
    assert run(*command) == 0
    assert steps == [0, 1, 2, 3]  # it went on


def test_compare_refuses_what_it_does_not_know(capsys):
    for arguments, message in ((["gan-l2"], "no recipe 'gan-l2'"), (["--size", "33"], "size must be a multiple of 32")):
        with pytest.raises(SystemExit) as stop:
            run("compare", *arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_release_writes_a_file_and_its_line_of_the_registry(capsys):
    tiny = ["--data", "generated", "--count", "20", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    assert run("train", "gan-l1", *tiny, "--keep-luminance", "-o", "runs/one") == 0
    capsys.readouterr()
    assert run("release", "petals", "runs/one/best.safetensors") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    path = Path("dist/weights/petals.safetensors")
    assert first == f"# {path}"
    (entry,) = eval("[" + "\n".join(lines) + "]", {"RegistryEntry": RegistryEntry})
    assert verify(path, entry) == entry.sha256
    assert (entry.name, entry.architecture, entry.width, entry.size) == ("petals", "unet", 1 / 16, 32)
    assert path.stat().st_size < 0.6 * Path("runs/one/best.safetensors").stat().st_size
    ours, theirs = load_generator(path), load_generator("runs/one/best.safetensors")
    assert ours.metadata["recipe"] == theirs.metadata["recipe"]
    gray = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.predictor(gray), theirs.predictor(gray), atol=5e-3, rtol=0)
    assert run("release", "petals", "runs/one/best.safetensors", "--exact") == 0
    assert path.stat().st_size > 0.9 * Path("runs/one/best.safetensors").stat().st_size


def test_release_wants_a_runs_checkpoint(tmp_path, tiny_unet, capsys):
    torch.save(tiny_unet.state_dict(), tmp_path / "bare.pth")
    assert run("release", "petals", tmp_path / "bare.pth") == 1
    assert "does not say how it was trained" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_checkpoints_have_the_permissions_that_the_umask_gives_to_new_files():
    tiny = ["--data", "generated", "--count", "20", "--size", "32", "--width", "0.0625", "--epochs", "1", "--quiet"]
    before = os.umask(0o027)
    try:
        assert run("train", "gan-l1", *tiny, "--device", "cpu", "-o", "runs/one") == 0
        assert run("release", "petals", "runs/one/best.safetensors") == 0
    finally:
        os.umask(before)
    written = [*Path("runs/one").iterdir(), *Path("dist/weights").iterdir()]
    assert {path.name for path in written} >= {"best.safetensors", "last.safetensors", "petals.safetensors"}
    assert {path.name: path.stat().st_mode & 0o777 for path in written} == {path.name: 0o640 for path in written}
