"""Albums as people have them: several pages, telephones' formats, long names, own colours, files that vanish."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter
from sklearn.datasets import load_sample_image

from colorize_utils.cli import main
from colorize_utils.inference import Colorizer, batch


@pytest.fixture
def run(tiny_checkpoint, capsys):
    """Runs the command line with a tiny network: (exit status, standard output, errors and notes)."""

    def run(*arguments):
        status = main([*map(str, arguments), "--model", str(tiny_checkpoint), "--device", "cpu"])
        out, errors = capsys.readouterr()
        lines = [line for line in errors.splitlines(keepends=True) if not line.startswith("colorizing")]  # progress
        return status, out, "".join(lines).lstrip("\r\n")

    return run


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("album").mkdir()


def noise(seed, size=(30, 20)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def write_tiff(path, *pages):
    """(image, tags) pairs, uncompressed."""
    with AppendingTiffWriter(path, new=True) as file:
        for image, options in pages:
            image.save(file, format="TIFF", **options)
            file.newFrame()


def frames(path):
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            yield image.copy()


def assert_colours_of(colour, gray):
    assert colour.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(colour.convert("L")), np.asarray(gray))
    assert np.ptp(np.asarray(colour), axis=-1).max() > 0


def results(folder="album-colorized"):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


# ---------------------------------------------------------------- pages and formats


def test_every_page_of_a_tiff_is_a_page_of_the_result(run):
    one, two, three = noise(1), noise(2, (26, 34)), noise(3, (40, 24))
    thumbnail = {"tiffinfo": {254: 1}}
    write_tiff(
        "scan.tif",
        (one, {"dpi": (300, 300)}),
        (one.resize((9, 6)), thumbnail),
        (two, {"exif": turned(6), "dpi": (600, 600)}),
        (three, {}),
    )
    assert run("scan.tif")[0] == 0
    with Image.open("scan-colorized.tif") as result:
        assert result.format == "TIFF"
    pages = list(frames("scan-colorized.tif"))
    assert len(pages) == 3
    for page, gray in zip(pages, (one, two.transpose(Image.Transpose.ROTATE_270), three), strict=True):
        assert_colours_of(page, gray)
    assert pages[1].info["dpi"] == (600, 600)


@pytest.mark.parametrize("mode", ["L", "I;16"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_an_uncompressed_tiff_that_lies_on_its_side_is_read_rightly(run, mode, orientation):
    """Pillow 13.0 takes width for height there, where it maps the file into memory."""
    gray = noise(4)
    stored = gray if mode == "L" else Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    stored.save("scan.tif", exif=turned(orientation))
    upright = {3: "ROTATE_180", 5: "TRANSPOSE", 6: "ROTATE_270", 8: "ROTATE_90"}[orientation]
    assert run("scan.tif")[0] == 0
    with Image.open("scan-colorized.tif") as result:
        assert_colours_of(result, gray.transpose(Image.Transpose[upright]))


@pytest.mark.parametrize(("name", "result"), [("a.gif", "a-colorized.png"), ("a.png", "a-colorized.png")])
def test_an_animations_frames_are_frames_of_the_result(run, name, result):
    pictures = [noise(seed) for seed in range(4)]
    times = [100, 200, 50, 70]
    pictures[0].save(name, save_all=True, append_images=pictures[1:], duration=times, loop=3)
    assert run(name)[0] == 0
    coloured = list(frames(result))
    assert len(coloured) == 4
    for frame, gray, duration in zip(coloured, pictures, times, strict=True):
        assert_colours_of(frame, gray)
        assert frame.info["duration"] == duration
    assert coloured[0].info["loop"] == 3


def test_a_frame_with_a_palette_of_its_own_after_gray_ones_is_read_rightly(run):
    """Pillow 13.0 loses that palette: frame 2 of these has one, because not all grays are in it."""
    pictures = [noise(seed, (48, 40)) for seed in range(2)] + [noise(2, (30, 20)).resize((48, 40), 0)]
    pictures[0].save("a.gif", save_all=True, append_images=pictures[1:])
    assert run("a.gif")[0] == 0
    for frame, gray in zip(frames("a-colorized.png"), pictures, strict=True):
        assert_colours_of(frame, gray)


def test_pages_are_not_lost_to_a_format_that_holds_one(run):
    noise(1).save("scan.tif", save_all=True, append_images=[noise(2)])
    for name in ("scan.jpg", "scan.png"):
        status, _, errors = run("scan.tif", "-o", name)
        assert status == 1
        assert errors.startswith("error: ")
        assert "2 pages" in errors
        assert not Path(name).exists()


def test_a_damaged_page_is_named(run):
    noise(1, (300, 200)).save("album/a.tif", save_all=True, append_images=[noise(2, (300, 200))])
    content = Path("album/a.tif").read_bytes()
    with Image.open("album/a.tif") as image:
        image.seek(1)
        offset = image.tag_v2[273][0].to_bytes(4, "little")
    assert content.count(offset) == 1
    Path("album/a.tif").write_bytes(content.replace(offset, (len(content) - 9).to_bytes(4, "little")))
    status, _, errors = run("album")
    assert status == 1
    assert "album/a.tif, page 2" in errors
    assert results() == []


def test_heic_is_read_upright_and_becomes_png(run):
    heif = pytest.importorskip("pillow_heif")
    gray = Image.fromarray(np.kron([[0, 250], [120, 60]], np.ones((32, 48))).astype(np.uint8))
    exif = turned(6)
    exif[0x010E] = "my aunt"
    heif.from_pillow(gray).save("album/IMG_1.HEIC", exif=exif.tobytes(), quality=95)
    assert run("album")[0] == 0
    assert results() == ["IMG_1.HEIC.png"]
    with Image.open("album-colorized/IMG_1.HEIC.png") as colour:
        assert colour.size == (64, 96)
        levels = np.asarray(colour.convert("L"))
        assert np.abs(levels[[20, 20, -20, -20], [20, -20, 20, -20]].astype(int) - [120, 0, 60, 250]).max() < 8
        assert colour.getexif()[0x010E] == "my aunt"
        assert colour.getexif().get(0x0112, 1) == 1


def test_without_pillow_heif_heic_is_counted_with_what_to_install(tiny_checkpoint):
    noise(1).save("album/a.png")
    for number in range(3):
        Path(f"album/{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    script = "import sys; sys.modules['pillow_heif'] = None; from colorize_utils.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "album", "album/1.heic", "-o", "out", "--model", str(tiny_checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "pip install pillow-heif" in line]
    assert len(lines) == 2
    assert lines[0].startswith("error: album/1.heic ")
    assert "3 .heic" in lines[1]
    assert results("out") == ["a.png"]


def test_what_was_not_read_is_counted_by_kind(run):
    noise(1).save("album/a.png")
    Path("album/below").mkdir()
    for name in ("a.dng", "below/b.DNG", "c.nef", "d.pdf", "e.txt", "f.txt", "noname", ".hidden.pdf"):
        Path("album", name).write_bytes(b"something")
    status, _, errors = run("album", "--quiet")
    assert status == 0
    for kind in ("2 .dng", "1 .nef", "1 .pdf", "2 .txt", "1 without a suffix"):
        assert kind in errors
    assert run("album", "-o", "album/results")[0] == 0
    assert errors == run("album", "-o", "album/results", "--quiet")[2]  # what lies among the results is not counted


def test_the_thumbnail_of_a_raw_file_is_not_taken_for_it(run):
    noise(1).save("a.tif")
    Path("a.tif").rename("a.dng")
    status, _, errors = run("a.dng", "-o", "a.png")
    assert status == 1
    assert errors.count("\n") == 1
    assert not Path("a.png").exists()


# ---------------------------------------------------------------- colours of their own


@pytest.fixture
def photographs():
    """A colour photograph, itself toned and gray."""
    colour = Image.fromarray(load_sample_image("china.jpg")).resize((320, 213))
    gray = colour.convert("L")
    levels = np.arange(256)[:, None] / 255
    toning = np.where(levels < 0.5, levels * [300, 220, 140], [150, 110, 70] + (levels - 0.5) * [210, 260, 270])
    return colour, Image.fromarray(np.rint(toning).astype(np.uint8)[np.asarray(gray)]), gray


def test_photographs_with_colours_of_their_own_are_left_and_counted(run, photographs):
    colour, sepia, gray = photographs
    colour.save("album/colour.jpg", quality=80)
    sepia.save("album/sepia.jpg", quality=80)
    gray.save("album/gray.jpg", quality=80)
    gray.convert("RGB").save("album/scan.jpg", quality=50)
    assert "1 had colours of their own" in run("album", "-o", "all")[2]
    assert len(results("all")) == 4
    for _ in range(2):
        status, out, errors = run("album", "--skip-colour")
        assert status == 0
        assert ", 1 left" in out
        assert errors == ""
    assert results() == ["gray.jpg", "scan.jpg", "sepia.jpg"]
    assert not (run("album/colour.jpg", "--skip-colour")[0] or Path("album/colour-colorized.jpg").exists())


def test_a_page_with_colours_of_its_own_stays_as_it_is_among_the_others(run, photographs):
    colour, _, gray = photographs
    colour.save("scan.tif", save_all=True, append_images=[gray])
    assert run("scan.tif", "--skip-colour")[0] == 0
    first, second = frames("scan-colorized.tif")
    np.testing.assert_array_equal(np.asarray(first), np.asarray(colour))
    assert_colours_of(second, gray)


# ---------------------------------------------------------------- writing side by side


def test_long_equal_beginnings_do_not_disturb_each_other(run, monkeypatch):
    monkeypatch.setattr(batch, "AT_ONCE", 8)
    beginning = "Scans of the album of my grandmother's sister, page "
    for number in range(300):
        noise(number, (8, 8)).save(f"album/{beginning}{number:03}.png")
    status, out, errors = run("album")
    assert (status, errors) == (0, "")
    assert out == "300 colorized, 0 already there, 0 failed\n"
    assert len(results()) == 300


def test_the_umask_is_left_alone_and_results_have_its_permissions(run, monkeypatch):
    for number in range(4):
        noise(number).save(f"album/{number}.png")
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("other threads create files with this mask"))
            assert run("album")[0] == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in Path("album-colorized").iterdir()} == {0o640}


def test_the_folder_of_results_is_not_listed_at_each_write(run, monkeypatch):
    for number in range(12):
        noise(number).save(f"album/{number}.png")
    listed = []

    def counted(function):
        def count(path="."):
            listed.append(str(path))
            return function(path)

        return count

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    assert run("album")[0] == 0
    assert sum(path.endswith("album-colorized") for path in listed) <= 2


def test_what_a_killed_run_left_is_cleared(run):
    noise(1).save("album/a.png")
    killed = """
import os
from pathlib import Path
from colorize_utils.files import atomic_write
with atomic_write(Path("album-colorized/a.png")) as temporary:
    temporary.write_text("half of a")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == 9
    (leftover,) = results()
    hours_ago = time.time() - 7200
    os.utime(Path("album-colorized", leftover), (hours_ago, hours_ago))
    Path("album-colorized/.mine-part-holidays.png").write_text("of somebody's own")
    os.utime("album-colorized/.mine-part-holidays.png", (hours_ago, hours_ago))
    assert run("album")[0] == 0
    assert results() == [".mine-part-holidays.png", "a.png"]


@pytest.mark.parametrize("stem", ["x" * 251, "ж" * 125, "😀" * 62])
def test_the_longest_names_have_results(run, stem):
    for name in (f"{stem}.gif", f"{stem[:-1]}1.gif", f"{stem}.png"):
        noise(1).save(f"album/{name}")
    assert run("album")[::2] == (0, "")
    assert len(results()) == 3
    assert f"{stem}.png" in results()
    assert run("album")[1].startswith("0 colorized, 3 already there")
    status, out, _ = run(f"album/{stem}.png")
    assert status == 0
    assert Path(out.rstrip("\n")).is_file()


# ---------------------------------------------------------------- what happens meanwhile


def test_a_file_that_vanishes_is_a_line_and_the_album_goes_on(run, monkeypatch):
    for number in range(12):
        noise(number, (33, 20) if number == 2 else (30, 20)).save(f"album/{number:02}.jpg")
    colorize = Colorizer.colorize

    def vanishing(self, picture, **how):
        result = colorize(self, picture, **how)
        if result.size == (33, 20):
            Path("album/02.jpg").unlink()  # opened and coloured, but not written yet
        return result

    monkeypatch.setattr(Colorizer, "colorize", vanishing)
    status, out, errors = run("album")
    assert status == 1
    assert len(results()) == 11
    assert errors.startswith("error: album/02.jpg ")
    assert errors.count("\n") == 1
    assert out == "11 colorized, 0 already there, 1 failed\n"


def test_the_pixels_in_memory_are_bounded_however_many_cores_there_are(run, monkeypatch):
    monkeypatch.setattr(batch, "AT_ONCE", 8)
    monkeypatch.setattr(batch, "PIXELS_AT_ONCE", 2500, raising=False)
    for number in range(16):
        noise(number, (100, 80) if number == 7 else (40, 25)).save(f"album/{number:02}.png")
    colorize, lock, now, most = Colorizer.colorize, threading.Lock(), [], []

    def counted(self, picture, **how):
        area = 8000 if "07" in str(getattr(picture, "filename", picture)) else 1000
        with lock:
            now.append(area)
            most.append(list(now))
        time.sleep(0.02)
        result = colorize(self, picture, **how)
        with lock:
            now.remove(area)
        return result

    monkeypatch.setattr(Colorizer, "colorize", counted)
    assert run("album")[0] == 0
    assert len(results()) == 16
    assert max(len(areas) for areas in most) == 2  # two fit, three do not
    assert all(areas == [8000] for areas in most if 8000 in areas)  # a larger one has the room for itself


@pytest.mark.slow
def test_only_the_cores_that_the_process_may_use_are_counted(tiny_checkpoint):
    """On a machine of 64 cores, of which a job has three."""
    for number in range(8):
        noise(number).save(f"album/{number}.png")
    script = """
import contextlib, os, sys
os.cpu_count, os.sched_getaffinity = lambda: 64, lambda _: {0, 1, 2}
if hasattr(os, "process_cpu_count"):
    os.process_cpu_count = lambda: 3
from colorize_utils.cli import main
from colorize_utils.inference import Colorizer
Colorizer.shared_by = lambda _, workers: contextlib.nullcontext(print(workers))
sys.exit(main())
"""
    command = [sys.executable, "-c", script, "album", "--quiet", "--model", str(tiny_checkpoint)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "3\n"


# ---------------------------------------------------------------- links


def test_a_link_to_a_picture_is_one_and_what_is_not_followed_is_said(run):
    Path("other").mkdir()
    for seed, name in enumerate(("album/a.png", "other/b.png")):
        noise(seed).save(name)
    Path("album/linked").symlink_to(Path("other").absolute())
    Path("album/b.png").symlink_to(Path("other/b.png").absolute())
    Path("album/gone.png").symlink_to("nowhere.png")
    Path("album/loop.png").symlink_to("loop.png")
    status, _, errors = run("album")
    assert status == 1
    assert sorted(path.name for path in Path("album-colorized").iterdir()) == ["a.png", "b.png"]
    for lost in ("album/linked", "album/gone.png", "album/loop.png"):
        assert errors.count(lost) == 1
    status, _, errors = run("album/loop.png")
    assert (status, errors.count("\n")) == (1, 1)


def test_a_damaged_heic_is_not_told_to_install_what_is_installed(run):
    pytest.importorskip("pillow_heif")
    Path("broken.heic").write_bytes(b"no picture at all" * 100)
    status, _, errors = run("broken.heic")
    assert status == 1
    assert "broken.heic" in errors
    assert "pip install" not in errors
