"""Recipes side by side: the same as each would have done alone; and the slider through what they painted."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.models import Critic
from colorize_utils.notebook import race as module
from colorize_utils.notebook.race import (
    Race,
    RaceFigure,
    evaluating,
    plot_leash,
    plot_race,
    scrubber_html,
    snapshots_of,
)
from colorize_utils.recipes import GAN_L1, GAN_MSE, WGAN_GP
from colorize_utils.training import Diverged, train

TINY = {"size": 32, "width": 1 / 16, "epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
L1, MSE = replace(GAN_L1, **TINY), replace(GAN_MSE, **TINY)
WGAN = replace(WGAN_GP, **TINY, critic_batch_size=8)


@pytest.fixture
def finished(splits):
    """A race of two that is over, and how many epochs there were each time that it was to be drawn."""
    race, drawn = Race({"L1": L1, "MSE": MSE}, splits, watched=1, device="cpu"), []
    race.run(lambda race: drawn.append(race.epochs), progress=False)
    return race, drawn


def test_side_by_side_each_learns_what_it_would_alone(finished, splits, tmp_path):
    race, drawn = finished
    assert drawn == [1, 2]
    alone = train(MSE, splits, tmp_path, device="cpu", progress=False)
    for curve in ("generator_loss", "discriminator_loss", "psnr"):
        assert race.runners["MSE"].history[curve] == alone[curve]
        assert race.runners["L1"].history[curve] != alone[curve]


def test_they_start_from_the_same_weights(splits):
    race = Race({"L1": L1, "MSE": MSE}, splits, device="cpu")
    first, second = (runner.trainer.generator.state_dict() for runner in race.runners.values())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert race.epochs == 0


def test_the_watched_flower_is_painted_after_each_epoch(finished, splits):
    race, _ = finished
    real, gray = splits.val[1]
    assert torch.equal(race.colour, real) and torch.equal(race.gray, gray)
    for runner in race.runners.values():
        assert [*runner.snapshots] == [1, 2]
        painted = (255 * runner.paint(gray[None])[0]).round().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(runner.snapshots[2], painted)
        assert (runner.snapshots[1] != runner.snapshots[2]).any()
        assert runner.gaps == []  # a discriminator has none


def test_pictures_of_another_size_are_painted_at_the_recipes(finished):
    race, _ = finished
    runner = race.runners["L1"]
    small, large = (runner.paint(torch.full((1, 1, side, side), 0.5)) for side in (32, 64))
    assert large.shape == (1, 3, 64, 64)
    expected = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(large, expected, atol=1e-5, rtol=0)


def test_a_network_is_put_back_after_it_has_painted():
    network = torch.nn.Dropout()
    with evaluating(network):
        assert not network.training and not torch.is_grad_enabled()
    assert network.training and torch.is_grad_enabled()
    network.eval()
    with evaluating(network):
        pass
    assert not network.training


def test_a_critics_gap_and_slopes_are_taken(splits):
    race = Race(
        {"0": replace(WGAN, lambda_gp=0.0, epochs=1), "1000": replace(WGAN, lambda_gp=1000.0, epochs=1)}, splits
    )
    race.run(progress=False)
    for runner in race.runners.values():
        assert len(runner.gaps) == 1
        assert runner.slopes.shape == (4,)  # as many as there are validation pictures
        assert not runner.slopes.requires_grad
        real, gray = splits.val[:]
        critic = runner.trainer.discriminator
        assert isinstance(critic, Critic)
        with torch.no_grad():
            gap = critic(real).mean() - critic(runner.paint(gray)).mean()
        assert runner.gaps[0] == pytest.approx(float(gap), rel=1e-4, abs=1e-6)
    above, middle, below = (plot_leash(race).axes[row : row + 2] for row in (0, 2, 4))
    for place, runner in enumerate(race.runners.values()):
        np.testing.assert_allclose(above[place].lines[0].get_ydata(), runner.gaps)
        assert sum(bar.get_height() for bar in middle[place].patches) == 4
        np.testing.assert_array_equal(below[place].images[0].get_array(), runner.snapshots[1])


def test_one_that_diverges_stops_alone(splits, monkeypatch):
    race = Race({"L1": L1, "MSE": MSE}, splits, device="cpu")

    def diverge(*_, **__):
        raise Diverged("a loss became NaN")

    monkeypatch.setattr(race.runners["L1"].trainer, "run_epoch", diverge)
    race.run(progress=False)
    assert race.runners["L1"].stopped == "a loss became NaN"
    assert race.runners["MSE"].trainer.epoch == 2
    assert [*snapshots_of(race)["L1"]] == [] and [*snapshots_of(race)["MSE"]] == [1, 2]
    assert (race.epochs, race.runs) == (2, True)


def test_the_stop_button_keeps_what_was_painted(splits, capsys):
    race = Race({"L1": L1, "MSE": MSE}, splits, device="cpu")

    def stop(_):
        raise KeyboardInterrupt

    race.run(stop, progress=False)
    assert capsys.readouterr().out == "stopped after 1 epochs; what was painted so far is kept\n"
    assert [len(runner.snapshots) for runner in race.runners.values()] == [1, 1]


def test_the_global_random_state_is_left_alone(splits):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Race({"L1": replace(L1, epochs=1)}, splits, device="cpu").run(progress=False)
    assert torch.equal(torch.rand(2), expected)


def test_races_of_unequal_length_are_refused(splits):
    with pytest.raises(ValueError, match="same number of epochs"):
        Race({"L1": L1, "MSE": replace(MSE, epochs=3)}, splits)
    with pytest.raises(ValueError, match="same number of epochs"):
        Race({}, splits)


def test_the_figure_shows_both_and_stays_in_its_place(finished, monkeypatch):
    race, _ = finished
    figure = plot_race(race)
    losses, rivals, quality = figure.axes[:3]
    for axis, curve in ((losses, "generator_loss"), (rivals, "discriminator_loss"), (quality, "psnr")):
        for line, runner in zip(axis.lines, race.runners.values(), strict=True):
            np.testing.assert_allclose(line.get_ydata(), runner.history[curve])
    titles = [axis.get_title() for axis in figure.axes[3 : 3 + module.SHOWN + 2]]
    assert titles == ["gray", "epoch 1", "epoch 2", "original", "", "", "", ""]

    shown = []

    class Handle:
        def update(self, picture):
            shown.append(("again", picture.data[:4]))

    def display(picture, display_id):
        shown.append(("first", picture.data[:4]))
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    live = RaceFigure()
    live(race)
    live(race)
    assert shown == [("first", b"\x89PNG"), ("again", b"\x89PNG")]


# ---------------------------------------------------------------- the scrubber


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.all = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.all if name == tag]


def test_the_scrubber_holds_every_snapshot_in_order():
    levels = {epoch: np.full((8, 8, 3), 20 * epoch, np.uint8) for epoch in (1, 2, 5)}
    text = scrubber_html({"GAN-L1": levels, "<MSE>": {1: levels[1], 5: levels[5]}})
    page = Elements(text)
    pictures = [image for image in page.of("img") if image["alt"]]
    assert [image["alt"] for image in pictures] == [
        "GAN-L1, epoch 1", "<MSE>, epoch 1", "GAN-L1, epoch 2", "GAN-L1, epoch 5", "<MSE>, epoch 5"
    ]  # fmt: skip
    for image, epoch in zip(pictures, (1, 1, 2, 5, 5), strict=True):
        kind, content = image["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)
        assert abs(shown - 20 * epoch).max() <= 2
    (slider,) = page.of("input")
    assert (slider["min"], slider["max"]) == ("0", "2")
    assert page.of("div")[-1] == {"style": "display:none"}  # around it: shown by a script, where there are scripts
    assert "epoch 5 of 5" in text


def test_the_scrubber_needs_nothing_that_jupyter_takes_out_of_a_notebook_that_was_not_run():
    """Without scripts and handlers, the strip is left: a box that scrolls sideways, with all frames in a line."""
    page = Elements(scrubber_html({"a": {1: np.zeros((8, 8, 3), np.uint8)}}))
    assert {tag for tag, _ in page.all} == {"figure", "div", "img", "input", "figcaption"}
    strip, frame = page.of("div")[:2]
    assert "overflow-x:scroll" in strip["style"] and "white-space:nowrap" in strip["style"]
    assert "display:inline-block" in frame["style"]
    assert all(value is None or "http" not in value for _, each in page.all for value in each.values())


def test_without_snapshots_there_is_nothing_to_move_through():
    with pytest.raises(ValueError, match="run some epochs first"):
        scrubber_html({"a": {}})
