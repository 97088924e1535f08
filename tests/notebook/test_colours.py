"""The panel of colours, driven as a browser drives widgets."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_widgets import parts, png, upload

from colorize_utils.app.picture import How
from colorize_utils.data import sample_photograph
from colorize_utils.inference import Colorizer
from colorize_utils.multiscale import MultiscaleUNet
from colorize_utils.notebook.colours import ColoursPanel
from colorize_utils.notebook.widgets import colorize_panel


@pytest.fixture(scope="module")
def colorizer():
    torch.manual_seed(0)
    return Colorizer(MultiscaleUNet(width=1 / 16), 64, "tiny", "cpu")


@pytest.fixture
def panel(colorizer):
    panel = ColoursPanel(lambda: How(colorizer), lambda content, name: f"{name}:{base64.b64encode(content).decode()}")
    panel.take({"../a.png": png(sample_photograph()), "b.txt": b"no", "c.png": png(sample_photograph().rotate(90))})
    return panel


def shown(panel):
    return [
        Image.open(io.BytesIO(base64.b64decode(content)))
        for content in re.findall(r"base64,([^\"]+)", panel.shown.value)
    ]


def hints(panel):
    return panel.visit.picture.hints


def test_it_is_hidden_until_there_is_a_picture_and_a_model_that_takes_hints(colorizer, tiny_unet):
    plain = ColoursPanel(lambda: How(Colorizer(tiny_unet, 32, "plain", "cpu")), lambda *_: "")
    plain.set.click()  # nothing happens
    plain.take({"a.png": png(sample_photograph())})
    assert plain.box.layout.display == "none"


def test_a_place_gets_a_colour_that_can_be_changed_removed_and_taken_back(panel, colorizer):
    assert panel.box.layout.display == "" and list(panel.which.options) == ["a.png", "c.png"]
    before = np.asarray(shown(panel)[0])
    panel.across.value = 25
    likely = panel.likely.options[1]
    assert re.fullmatch(r"[\w ]+, \d+%", likely[0])
    panel.likely.value = likely[1]
    assert panel.colour.value == likely[1]
    panel.set.click()
    assert [(hint.x, hint.colour) for hint in hints(panel)] == [(160, likely[1])]
    assert (np.asarray(shown(panel)[0]) != before).any()
    panel.colour.value = "#0000ff"
    panel.set.click()
    assert [hint.colour for hint in hints(panel)] == ["#0000ff"]
    panel.remove.click()
    assert hints(panel) == [] and panel.remove.disabled
    panel.undo.click()
    assert len(hints(panel)) == 1
    panel.file.click()
    name, _, content = panel.saved.value.partition(":")
    assert name == "a-colorized.png"
    alone = colorizer.colorize(sample_photograph(), hints=hints(panel))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), np.asarray(alone))


def test_answers_are_compared_and_one_is_taken_up_and_guesses_are_shown(panel):
    panel.answers.click()
    count = len(panel.choices.children)
    assert count >= 1 and len(shown(panel)) == count
    panel.choices.children[-1].click()
    assert len(hints(panel)) == 1 and panel.choices.children == ()
    panel.guesses.click()
    assert "Orange" in panel.status.value and len(shown(panel)) == 1


def test_another_picture_is_chosen(panel):
    panel.which.value = "c.png"
    assert shown(panel)[0].size == Image.open(panel.visit.pictures[1].gray).size
    assert panel.visit.current == 1


def test_what_goes_wrong_is_told_in_a_line(panel, monkeypatch):
    panel.visit.picture.place = None
    panel.set.click()
    assert panel.status.value == "first tap the place that has this colour"
    monkeypatch.setattr(Colorizer, "colorize", lambda *_, **__: 1 / 0)
    panel.across.value = 10
    panel.set.click()
    assert panel.status.value == "ZeroDivisionError: division by zero"


def test_the_upload_panel_has_it(colorizer):
    whole = colorize_panel(colorizer)
    files, _, style, *_ = parts(whole)
    colours = whole.children[-1]
    assert colours.layout.display == "none"
    upload(files, **{"a.png": png(sample_photograph())})
    assert colours.layout.display == ""
    picture = colours.children[1]
    before = picture.value
    assert "data:image/jpeg" in before
    style.value = "vivid"
    assert picture.value != before
