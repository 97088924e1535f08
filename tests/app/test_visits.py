"""What a visitor of the page can do, without the page."""

import io
import json
import shutil
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from colorize_utils.app import picture as pictures
from colorize_utils.app import visits
from colorize_utils.app.picture import How, Picture
from colorize_utils.app.visits import Visit, Visits
from colorize_utils.cli import main
from colorize_utils.errors import HintError, PictureError
from colorize_utils.inference import Colorizer, Hint


@pytest.fixture
def visit(tmp_path):
    return Visit(tmp_path / "visit")


def levels_of(image):
    return np.asarray(image).astype(int)


# ---------------------------------------------------------------- uploads


def test_a_picture_lying_on_its_side_is_shown_upright_and_small(visit, upload):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert visit.take_in([upload("photo.jpg", (3000, 2000), exif=exif)]) == []
    assert visit.picture.size == (2000, 3000)
    assert visit.picture.levels.shape == (1024, 683)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut short"])
def test_a_broken_picture_gives_its_line_and_the_others_are_taken(visit, upload, content):
    broken, whole = upload("broken.jpg", seed=1, content=content), upload("whole.jpg")
    (line,) = visit.take_in([broken, whole])
    assert line.startswith("broken.jpg ") and "\n" not in line and str(visit.folder) not in line
    assert visit.labels() == ["whole.jpg"]
    assert len(list(visit.folder.iterdir())) == 1  # nothing is left of the broken one


def test_what_is_too_large_is_refused_before_it_is_decoded(visit, upload, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 10_000)
    frames, animation = [Image.new("L", (60, 60), level) for level in range(0, 200, 50)], io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    lines = visit.take_in(
        [upload("photo.png"), upload("x.gif", content=animation.getvalue()), upload("y.png", (50, 50))]
    )
    assert [line.partition(" has over 0 million pixels")[0] for line in lines] == ["photo.png", "x.gif"]
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    (line,) = visit.take_in([upload("again.png", seed=3)])
    assert line == "again.png has over 0 MB; make it smaller, or use the command line"


def test_pictures_with_one_name_are_told_apart_and_their_number_is_bounded(visit, upload, monkeypatch):
    monkeypatch.setattr(visits, "MOST_PICTURES", 3)
    lines = visit.take_in([upload("a.png"), upload("a.png", seed=1), upload("b.png"), upload("c.png"), upload("d.png")])
    assert visit.labels() == ["a.png", "a.png (2)", "b.png"]
    assert len(lines) == 1 and "c.png" in lines[0]
    assert visit.current == 0


def test_two_visitors_with_the_same_file_do_not_disturb_each_other(tmp_path, upload, how, monkeypatch):
    """Gradio keeps files by their content: both have the same."""
    several = Visits(tmp_path / "visits")
    file = upload("class.png")
    first, second = several.of("a"), several.of("b")
    assert first.take_in([file]) == second.take_in([file]) == []
    monkeypatch.setattr(pictures.os, "link", lambda *_: (_ for _ in ()).throw(OSError))
    assert several.of("c").take_in([file]) == []
    shutil.rmtree(first.folder)
    assert second.picture.coloured_file(how).is_file()


# ---------------------------------------------------------------- hints


@pytest.fixture
def picture(visit, upload):
    visit.take_in([upload("photo.png", (2400, 1800))])
    return visit.picture


def test_a_tap_adds_a_hint_a_tap_on_it_changes_or_removes_it_and_undo_takes_back(picture):
    picture.look_at(0.5, 0.5)
    picture.colour_it("#c03050", 64)
    (hint,) = picture.hints
    assert (hint.x, hint.y, hint.colour) == (1200, 900, "#c03050")
    picture.look_at(0.9, 0.1)
    picture.colour_it("green", 64)
    picture.look_at(0.51, 0.49)  # a finger is no needle
    picture.colour_it("blue", 64)
    assert [(hint.x, hint.colour) for hint in picture.hints] == [(1200, "blue"), (2160, "green")]
    picture.remove()
    assert [hint.colour for hint in picture.hints] == ["green"]
    picture.undo()
    picture.undo()
    assert [hint.colour for hint in picture.hints] == ["#c03050", "green"]
    for _ in range(4):
        picture.undo()
    picture.remove()
    assert picture.hints == []


def test_a_colour_needs_a_place_and_has_to_be_one(picture):
    with pytest.raises(HintError, match="first tap"):
        picture.colour_it("red", 64)
    picture.look_at(2, -1)
    assert picture.place == (2399, 0)
    with pytest.raises(HintError, match="must be a name"):
        picture.colour_it("javascript:", 64)
    assert picture.hints == []


def test_the_file_has_the_colours_of_the_hints_at_full_size(picture, how, tmp_path):
    picture.look_at(0.25, 0.5)
    picture.colour_it("red", 64)
    path = picture.coloured_file(How(how.colorizer, "vivid", 1.5))
    assert path.name == "photo-colorized.png"
    alone = how.colorizer.colorize(picture.original, style="vivid", strength=1.5, hints=picture.hints)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(alone))
    # What was shown is the same, but for what a smaller picture and JPEG change.
    shown = picture.painted(How(how.colorizer, "vivid", 1.5), tmp_path / "shown.jpg")
    assert np.abs(levels_of(alone.resize(shown.size)) - levels_of(shown)).mean() < 3


def test_saved_hints_make_the_same_picture_on_the_command_line(picture, how, tmp_path, monkeypatch):
    picture.look_at(0.25, 0.5)
    picture.colour_it("#c03050", 64)
    path = picture.hints_file()
    assert path.name == "photo-hints.json" and json.loads(path.read_text())[0]["colour"] == "#c03050"
    monkeypatch.setattr(Colorizer, "from_checkpoint", lambda *_, **__: how.colorizer)
    assert main([str(picture.original), "--hints", str(path), "-o", str(tmp_path / "x.png"), "--quiet"]) == 0
    ours = np.asarray(Image.open(picture.coloured_file(how)))
    np.testing.assert_array_equal(ours, np.asarray(Image.open(tmp_path / "x.png")))
    picture.undo()
    picture.load_hints(path)
    assert [hint.colour for hint in picture.hints] == ["#c03050"]


def test_hints_of_another_picture_or_no_hints_are_refused(picture, tmp_path):
    (tmp_path / "far.json").write_text('[{"x": 5000, "y": 1, "colour": "red"}]')
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(HintError, match=r"lies off photo.png"):
        picture.load_hints(tmp_path / "far.json")
    with pytest.raises(HintError, match=r"^none.json is no JSON"):
        picture.load_hints(tmp_path / "none.json")
    assert picture.hints == [] == picture.past


def test_dots_and_rings_mark_hints_and_the_place_that_is_looked_at(picture, how, tmp_path):
    plain = picture.painted(how, tmp_path / "shown.jpg")
    picture.look_at(0.5, 0.5)
    ring = levels_of(picture.dotted(plain)) != levels_of(plain)
    assert ring[370:398, 495:530].any() and not ring[:300].any()
    assert not ring[383:386, 510:514].any()  # what is in the ring can be seen
    picture.colour_it((10, 200, 30), 64)
    assert tuple(np.asarray(picture.dotted(plain))[384, 512]) == (10, 200, 30)


# ---------------------------------------------------------------- what the network says


def test_what_is_believed_at_a_place_is_the_networks_palette_there(picture, how):
    assert picture.believed(how) == []
    picture.look_at(0.5, 0.5)
    small = how.colorizer.palette_at(picture.levels, 512.2, 384.2)
    assert picture.believed(how) == small
    picture.colour_it("red", 64)
    assert picture.believed(how) == small  # a place's own hint tells nothing of what the network thinks


def test_an_answer_that_is_taken_up_is_what_was_shown(picture, how, tmp_path):
    picture.look_at(0.1, 0.9)
    picture.colour_it("green", 64)
    answers = picture.answers(how)
    assert answers and all(answer.hints[0] == picture.hints[0] and len(answer.hints) == 2 for answer in answers)
    answer = answers[-1]
    picture.take_up(answer.hints)
    again = levels_of(picture.painted(how, tmp_path / "shown.jpg"))
    ringless = np.abs(again - levels_of(answer.picture)).max(axis=2) < 24  # the ring, and JPEG
    assert ringless.mean() > 0.98


def test_guesses_cover_what_is_unsure_and_a_warning_is_of_what_is_not_known(picture, how, monkeypatch):
    covered = levels_of(picture.guessed(how))
    width = how.colorizer.uncertainty(picture.levels)
    orange = covered[..., 0] - covered[..., 2]
    assert (orange[width < 0.15] == 0).all() and (orange[(width > 0.5)] > 0).all()
    assert picture.warning(how) == ""
    monkeypatch.setattr(Colorizer, "unfamiliarity", lambda *_: 0.9)
    assert picture.warning(how) == "tiny knows nothing like photo.png: expect colours that are far off."


def test_a_network_of_one_colour_has_no_beliefs(picture, tiny_unet):
    plain = How(Colorizer(tiny_unet, 32, "plain", "cpu"))
    picture.look_at(0.5, 0.5)
    assert picture.believed(plain) == []
    with pytest.raises(HintError, match="takes no hints"):
        picture.answers(plain)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"])
def test_a_file_comes_back_in_its_format_and_without_its_place(visit, upload, how, name):
    exif = Image.Exif()
    exif[0x010E] = "my aunt"
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 2.0, 0.0)})
    visit.take_in([upload(name, **({} if name.endswith("bmp") else {"exif": exif}))])
    original = Image.open(visit.picture.original)
    for place in (False, True):
        result = Image.open(io.BytesIO(visit.picture.coloured_file(how, place).read_bytes()))
        assert (result.format, result.size, result.mode) == (original.format, original.size, "RGB")
        if not name.endswith("bmp"):
            assert result.getexif()[0x010E] == "my aunt"
            assert bool(result.getexif().get_ifd(0x8825)) == (place and bool(original.getexif().get_ifd(0x8825)))


def test_a_kind_that_holds_no_colour_comes_back_as_png(visit, upload, how):
    visit.take_in([upload("scan.gif")])
    assert visit.picture.coloured_file(how).name == "scan-colorized.png"


def test_a_picture_that_breaks_later_gives_a_line_with_its_name(picture, how):
    picture.original.write_bytes(picture.original.read_bytes()[:2000])
    with pytest.raises(PictureError, match=r"^photo.png is damaged"):
        picture.coloured_file(how)


def test_many_pictures_come_back_in_one_file_with_a_line_for_each_that_failed(visit, upload, how):
    files = [upload("a.png"), upload("a.png", seed=1), upload("broken.jpg", seed=2, content=b"x"), upload("b.jpg")]
    steps = list(visit.colour_all(files, how))
    assert [step.done for step in steps] == [1, 2, 2, 3, 3]
    last = steps[-1]
    assert last.total == 4 and len(last.failed) == 1 and last.failed[0].startswith("broken.jpg is not a picture")
    with zipfile.ZipFile(last.archive) as archive:
        assert archive.namelist() == ["a-colorized.png", "a-colorized-2.png", "b-colorized.jpg"]
        for name, file in zip(archive.namelist(), (files[0], files[1]), strict=False):
            colour = Image.open(io.BytesIO(archive.read(name)))
            np.testing.assert_array_equal(np.asarray(colour.convert("L")), np.asarray(Image.open(file)))
    assert [path.name for path in last.archive.parent.iterdir()] == ["colorized.zip"]


def test_a_batch_without_any_result_has_no_file_and_one_that_is_too_long_says_so(visit, upload, how, monkeypatch):
    *_, last = visit.colour_all([upload("broken.jpg", content=b"x")], how)
    assert last.archive is None and len(last.failed) == 1
    monkeypatch.setattr(visits, "MOST_FILES", 1)
    *_, last = visit.colour_all([upload("a.png"), upload("b.png", seed=1)], how)
    assert last.done == 1 and last.failed == ["1 files were left out: 1 at most; upload them apart"]


# ---------------------------------------------------------------- visits


def test_a_visits_folder_cannot_be_chosen_or_guessed(tmp_path):
    several = Visits(tmp_path / "visits")
    visit = several.of("../../somewhere")
    assert visit is several.of("../../somewhere") and len(several) == 1
    assert visit.folder.parent == tmp_path / "visits" and len(visit.folder.name) > 20
    assert several.of("another").folder != visit.folder


def test_visits_that_are_idle_for_long_or_too_large_together_are_deleted(tmp_path, upload, monkeypatch):
    several = Visits(tmp_path / "visits")
    old, new = several.of("old"), several.of("new")
    for visit in (old, new):
        visit.take_in([upload("photo.png")])
    old.used = time.monotonic() - visits.IDLE - 1
    several.of("third")
    assert not old.folder.exists() and new.folder.exists()
    assert several.of("old").picture is None  # it begins anew
    monkeypatch.setattr(visits, "KEPT_BYTES", 100)
    several.of("fourth")
    assert not new.folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' paths are not that long")
def test_a_name_that_is_too_long_for_a_result_is_shortened(tmp_path, upload, how):
    folder = tmp_path / "x"
    folder.mkdir()
    picture = Picture.taken_in(upload("n" * 250 + ".png"), "n" * 250 + ".png", folder)
    picture.take_up([Hint(3, 4, "red")])
    assert picture.coloured_file(how).is_file() and picture.hints_file().is_file()
