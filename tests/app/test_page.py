"""The page's events, as Gradio calls them."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from colorize_utils.app import page as pages
from colorize_utils.app.page import Models, Page
from colorize_utils.app.visits import Visits
from colorize_utils.errors import CheckpointError
from colorize_utils.inference import Colorizer

HOW = ("tiny", "safe", 1.0)
ME = SimpleNamespace(session_hash="me")


@pytest.fixture
def page(tmp_path, colorizer):
    return Page(Visits(tmp_path / "visits"), Models(colorizer))


@pytest.fixture
def shown(page, upload):
    page.take_in([str(upload("photo.png", (2400, 1800)))], *HOW, ME)
    return page


def of(updates, component, name="value"):
    update = updates[component]
    return update[name] if isinstance(update, dict) else update


def event(**fields):
    return SimpleNamespace(**fields)


def test_a_photograph_is_shown_gray_and_in_colour(page, upload):
    updates = page.take_in([str(upload("photo.png", (2400, 1800)))], *HOW, ME)
    gray, colour = (np.asarray(Image.open(path).convert("RGB")) for path in updates[page.slider])
    assert gray.shape == colour.shape == (768, 1024, 3)
    assert np.ptp(gray, axis=2).max() == 0 < np.ptp(colour.astype(int), axis=2).mean()
    assert of(updates, page.work, "visible") and of(updates, page.which, "visible") is False
    assert updates[page.upload] is None


def test_several_can_be_chosen_from_and_a_broken_one_gives_its_line(page, upload):
    files = [upload("a.png"), upload("a&b.png", seed=1, content=b"x"), upload("b.png", (50, 60), seed=2)]
    updates = page.take_in([str(file) for file in files], *HOW, ME)
    assert of(updates, page.which, "choices") == ["a.png", "b.png"]
    assert "a&amp;b.png is not a picture" in updates[page.notice]
    updates = page.choose_picture("b.png", *HOW, ME)
    assert Image.open(updates[page.slider][0]).size == (50, 60)
    assert "Something went wrong" in page.choose_picture("another's", *HOW, ME)[page.notice]


def test_only_broken_ones_leave_the_page_as_it_is(page, upload):
    updates = page.take_in([str(upload("b.png", content=b"x"))], *HOW, ME)
    assert page.slider not in updates and "b.png is not a picture" in updates[page.notice]


def test_one_visitor_sees_nothing_of_another(shown):
    other = SimpleNamespace(session_hash="you")
    for step in (shown.paint, shown.remove_it, shown.take_back):
        assert shown.slider not in step(*HOW, other)
    assert "First choose" in shown.tap(event(index=(1, 1)), *HOW, other)[shown.notice]


def test_style_and_strength_change_the_picture(shown):
    def strength(*how):
        return np.ptp(np.asarray(Image.open(shown.paint(*how, ME)[shown.slider][1])).astype(int), axis=2).mean()

    assert strength("tiny", "safe", 0.0) < 1 < strength("tiny", "safe", 1.0) < strength("tiny", "safe", 99.0)
    assert strength("tiny", "vivid", 1.0) > strength("tiny", "safe", 1.0)
    assert strength("tiny", "none such", 1.0) == strength("tiny", "safe", 1.0)


def test_tap_colour_change_remove_and_undo(shown):
    updates = shown.tap(event(index=(512, 384)), *HOW, ME)
    choices = re.findall(r'data-choice="(#\w{6})"', updates[shown.palette])
    assert choices and "input" in updates[shown.palette] and not of(updates, shown.remove, "visible")
    updates = shown.colour_it(event(choice=choices[0]), *HOW, ME)
    assert of(updates, shown.remove, "visible") and of(updates, shown.undo, "interactive")
    assert of(updates, shown.save_hints, "interactive")
    visit = shown._visits.of("me")
    assert visit.picture.hints[0].colour == choices[0] and visit.picture.hints[0].x == 1200
    file = of(updates, shown.save_hints)
    updates = shown.remove_it(*HOW, ME)
    assert visit.picture.hints == [] and not of(updates, shown.remove, "visible")
    shown.take_back(*HOW, ME)
    assert len(visit.picture.hints) == 1
    assert "first tap" in shown.colour_it(event(choice="red"), *HOW, ME)[shown.notice]
    shown.look_at(50, 50, *HOW, ME)
    assert "must be a name" in shown.colour_it(event(choice="nonsense"), *HOW, ME)[shown.notice]
    while visit.picture.past:
        shown.take_back(*HOW, ME)
    assert Path(file).read_text() == "[]"


def test_hints_are_loaded_from_a_file(shown, tmp_path):
    (tmp_path / "h.json").write_text('[{"x": 5, "y": 5, "colour": "red"}]')
    assert of(shown.take_hints(str(tmp_path / "h.json"), *HOW, ME), shown.save_hints, "interactive")
    (tmp_path / "h.json").write_text("nonsense")
    assert "h.json is no JSON" in shown.take_hints(str(tmp_path / "h.json"), *HOW, ME)[shown.notice]


def test_answers_are_made_when_they_are_turned_to_and_one_tap_takes_one_up(shown):
    assert "value" not in shown.turn_to(pages.COMPARE, *HOW, ME).get(shown.answers, {})
    updates = shown._turning_to(pages.ANSWERS)(*HOW, ME)
    buttons = re.findall(r'data-choice="(\d)">.*?<span>([\w ]+), (\d+)%</span>', updates[shown.answers])
    answers = shown._visits.of("me").answers
    assert [name for _, name, _ in buttons] == [answer.name for answer in answers]
    updates = shown.take_answer(event(choice=str(len(answers) - 1)), *HOW, ME)
    assert shown._visits.of("me").picture.hints == list(answers[-1].hints)
    assert of(updates, shown.views, "selected") == pages.COMPARE


def test_guesses_are_shown_when_they_are_turned_to(shown):
    assert Image.open(shown.turn_to(pages.GUESSES, *HOW, ME)[shown.guesses]).size == (1024, 768)


def test_a_model_without_hints_says_so(page, upload, tiny_unet):
    page._models._loaded["plain"] = Colorizer(tiny_unet, 32, "plain", "cpu")
    page.take_in([str(upload("photo.png"))], *HOW, ME)
    updates = page.choose_model("plain", "vivid", 1.0, ME)
    assert of(updates, page.style, "choices") == ["safe"] and "takes no colours" in updates[page.palette]
    assert "takes no hints" in page.turn_to(pages.ANSWERS, "plain", "safe", 1.0, ME)[page.notice]
    assert "does not know how sure" in page.turn_to(pages.GUESSES, "plain", "safe", 1.0, ME)[page.notice]


def test_a_model_that_cannot_be_had_gives_its_line(page, monkeypatch):
    def fails(*_, **__):
        raise CheckpointError("it cannot be downloaded")

    monkeypatch.setattr(Colorizer, "from_checkpoint", fails)
    assert "it cannot be downloaded" in page.choose_model(page._models.names[-1], "safe", 1.0, ME)[page.notice]


def test_the_file_is_made_when_it_is_asked_for(shown):
    first, second = shown.make_file(False, *HOW, ME)
    assert of(first, shown.download, "interactive") is False and of(second, shown.download, "interactive")
    assert of(second, shown.saved, "label") == "Save photo-colorized.png"
    assert Image.open(of(second, shown.saved)).size == (2400, 1800)
    shown._visits.of("me").picture.original.write_bytes(b"x")
    first, second = shown.make_file(False, *HOW, ME)
    assert of(first, shown.saved, "visible") is False and shown.saved not in second  # the older file is not handed out
    assert "photo.png is not a picture" in second[shown.notice] and of(second, shown.download, "interactive")


def test_a_batch_reports_progress_and_what_failed(page, upload):
    files = [str(upload("a.png")), str(upload("b.png", seed=1, content=b"x"))]
    start, *steps, archive, end = page.make_archive(files, False, *HOW, ME)
    assert "0 of 2" in start[page.report] and "1 of 2" in steps[0][page.report] and "2 of 2" in steps[-1][page.report]
    assert of(archive, page.archive).endswith("colorized.zip")
    assert "1 of 2 coloured.<br>b.png is not a picture" in end[page.report]
    (nothing,) = page.make_archive(None, False, *HOW, ME)
    assert "First choose" in nothing[page.report]


def test_an_error_that_nobody_expected_is_one_line_for_the_visitor(page, upload, monkeypatch, capfd):
    monkeypatch.setattr(Colorizer, "colorize", lambda *_, **__: 1 / 0)
    updates = page.take_in([str(upload("photo.png"))], *HOW, ME)
    assert "Something went wrong" in updates[page.notice] and "ZeroDivisionError" not in updates[page.notice]
    assert "ZeroDivisionError" in capfd.readouterr().err
    *_, end = page.make_archive([str(upload("a.png"))], False, *HOW, ME)
    assert "division by zero" in end[page.report]  # a batch has a line for each


def test_the_sample_is_there_offline(page):
    updates = page.take_sample(*HOW, ME)
    assert Image.open(updates[page.slider][0]).size == (640, 427)
