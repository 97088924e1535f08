"""The lesson's pure pieces against what can be worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from colorize_utils.colour import luma
from colorize_utils.errors import HintError
from colorize_utils.inference.hints import Belief
from colorize_utils.losses import gradient_norms
from colorize_utils.notebook import lesson
from colorize_utils.recipes import RECIPES

# ---------------------------------------------------------------- the scale


@pytest.mark.parametrize("name", ["gan-l1", "gan-mse", "wgan"])
def test_a_lesson_changes_a_recipes_scale_and_not_its_idea(name, monkeypatch):
    monkeypatch.delenv("COLORIZE_PROFILE", raising=False)
    recipe = RECIPES[name]
    quick = lesson.lesson_profile("class", recipe).recipe
    scale = {"size", "width", "epochs", "batch_size", "critic_batch_size", "learning_rate", "decay"}
    changed = {field for field, value in recipe.as_dict().items() if quick.as_dict()[field] != value}
    assert changed <= scale
    assert lesson.lesson_profile("smoke", recipe).data == "generated"
    with pytest.raises(ValueError, match="night"):
        lesson.lesson_profile("full", recipe)


def test_nothing_is_downloaded_for_a_lesson(monkeypatch):
    profile = lesson.lesson_profile("class", RECIPES["gan-l1"])
    assert lesson.source_of_pictures("", profile) == "generated"
    monkeypatch.setenv("COLORIZE_DATA", "FLOWERS_ROOT")
    assert lesson.source_of_pictures("", profile) == "FLOWERS_ROOT"
    assert lesson.source_of_pictures("mine", profile) == "mine"
    assert lesson.source_of_pictures("", lesson.lesson_profile("smoke", RECIPES["gan-l1"])) == "generated"


def test_a_lesson_takes_few_pictures_of_each_part(splits, monkeypatch):
    monkeypatch.setattr(lesson, "TRAINING_PICTURES", 10)
    few = lesson.few(splits)
    assert (len(few.train), len(few.val), len(few.test)) == (10, 4, 4)
    assert set(few.train.names) < set(splits.train.names)


def test_smaller_pictures_are_the_same_ones(splits):
    small = lesson.smaller(splits, 16)
    assert small.val.names == splits.val.names
    (real, gray), (large, _) = small.val[:], splits.val[:]
    assert (255 * (real - F.avg_pool2d(large, 2))).abs().max() <= 0.51  # but for rounding
    assert gray.shape == (4, 1, 16, 16)
    assert lesson.smaller(splits, 32) is splits
    with pytest.raises(ValueError, match="whole pixels"):
        lesson.smaller(splits, 24)


def test_pictures_stand_side_by_side():
    first, second = Image.new("RGB", (20, 10), "red"), Image.new("L", (10, 10), 9)
    left, right = lesson.plot_pictures({"a": first, "b": second}).axes
    assert (left.get_title(), right.get_title()) == ("a", "b")
    np.testing.assert_array_equal(left.images[0].get_array(), np.asarray(first))
    assert (right.images[0].get_array() == 9).all()


# ---------------------------------------------------------------- the smallest case


def test_the_flowers_of_the_smallest_case_are_alike_in_gray():
    colours = lesson.alike_in_gray(6, 4, gray=0.45)
    assert colours.shape == (10, 3)
    assert len(colours.unique(dim=0)) == 2
    torch.testing.assert_close(luma(colours.T[None, :, :, None]), torch.full((1, 1, 10, 1), 0.45))
    assert colours.min() >= 0 and colours.max() <= 1


@pytest.mark.parametrize(("loss", "expected"), [("l1", [0.9, 0.2, 0.3]), ("mse", [0.58, 0.36, 0.62])])
def test_six_to_four_l1_takes_a_side_and_mse_the_middle(loss, expected):
    colours = torch.tensor([[0.9, 0.2, 0.3]] * 6 + [[0.1, 0.6, 1.1]] * 4)
    torch.testing.assert_close(lesson.best_answer(colours, loss), torch.tensor(expected))
    learned = lesson.learned_answers(colours, loss)
    assert learned.shape == (81, 3)
    torch.testing.assert_close(learned[0], torch.full((3,), 0.5))
    torch.testing.assert_close(learned[-1], torch.tensor(expected), atol=0.01, rtol=0)


def test_four_to_six_l1_takes_the_other_side():
    colours = lesson.alike_in_gray(4, 6)
    torch.testing.assert_close(lesson.best_answer(colours, "l1"), colours[-1])
    torch.testing.assert_close(lesson.learned_answers(colours, "l1")[-1], colours[-1], atol=0.01, rtol=0)


def test_each_channel_has_its_own_median():
    """Of three colours alike in number, L1's answer is none of them."""
    colours = torch.tensor([[1.0, 0.0, 0.5], [0.5, 1.0, 0.0], [0.0, 0.5, 1.0]])
    torch.testing.assert_close(lesson.best_answer(colours, "l1"), torch.tensor([0.5, 0.5, 0.5]))


def test_the_smallest_case_is_drawn_from_first_step_to_last():
    colours = lesson.alike_in_gray()
    figure = lesson.plot_smallest_case(colours, {"l1": colours, "mse": colours[:3]})
    assert [axis.get_title() for axis in figure.axes] == ["10 flowers", "L1 answers …", "MSE answers …"]
    assert figure.axes[2].images[0].get_array().shape == (1, 3, 3)


# ---------------------------------------------------------------- the board and the belief


def test_squares_are_called_from_the_top_left():
    assert lesson.place_of("A1", (80, 160)) == (5, 10)
    assert lesson.place_of(" h8 ", (80, 160)) == (75, 150)
    assert lesson.place_of("D5", (80, 160)) == (35, 90)


@pytest.mark.parametrize("square", ["", "I1", "A9", "A0", "55", "A12"])
def test_what_is_no_square_is_said(square):
    with pytest.raises(HintError, match="such as D5"):
        lesson.place_of(square, (64, 64))


def test_a_hint_lies_in_its_square():
    hint = lesson.hint_at("D5", "crimson", (480, 240))
    assert (hint.x, hint.y, hint.radius) == (210, 135, 10)
    assert lesson.hint_at("A1", (1, 2, 3), (8, 8)).radius == 1


def test_a_board_has_the_names_of_its_squares():
    (axis,) = lesson.plot_board(Image.new("L", (64, 48))).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == list("ABCDEFGH")
    assert [label.get_text() for label in axis.get_yticklabels()] == list("12345678")


def test_compromises_are_the_weighted_median_and_mean():
    beliefs = [Belief((250, 100, 0), "red", 0.5), Belief((100, 150, 200), "blue", 0.2), Belief((0, 0, 0), "b", 0.1)]
    # Red of weights ⅝, ¼, ⅛: 250 reaches the half alone. Green: 0 (⅛), then 100 (⅝). Blue: 0, of ¾.
    single = lesson.compromises(beliefs)
    assert single["L1"] == (250, 100, 0)
    assert single["MSE"] == (round(0.625 * 250 + 0.25 * 100), round(0.625 * 100 + 0.25 * 150), round(0.25 * 200))


def test_beliefs_are_bars_in_their_colours():
    beliefs = [Belief((250, 0, 0), "red", 0.7), Belief((0, 0, 250), "blue", 0.3)]
    (axis,) = lesson.plot_beliefs(beliefs).axes
    assert [bar.get_width() for bar in axis.patches][:2] == [70, 30]
    np.testing.assert_allclose(axis.patches[1].get_facecolor(), (0, 0, 250 / 255, 1))
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "red",
        "blue",
        "L1's one answer",
        "MSE's one answer",
    ]


# ---------------------------------------------------------------- slopes


def linear_critic(norm):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 1, bias=False))
    with torch.no_grad():
        critic[1].weight.normal_(generator=torch.Generator().manual_seed(0))
        critic[1].weight.mul_(norm / critic[1].weight.norm())
    return critic


@pytest.mark.parametrize("norm", [0.25, 1.0, 30.0])
def test_a_linear_critic_is_as_steep_everywhere_as_its_weights_are_long(norm):
    real, fake = torch.rand(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    slopes = gradient_norms(linear_critic(norm), real, fake)
    torch.testing.assert_close(slopes.detach(), torch.full((16,), norm))
    figure = lesson.plot_slopes({"penalty 0": slopes.detach()}, {"penalty 0": [1.0, 2.0]}, {})
    above, below, _ = figure.axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), [1, 2])
    (full,) = [bar for bar in below.patches if bar.get_height()]  # all pictures in one bar, which holds the norm
    assert full.get_height() == 16
    assert full.get_x() <= norm <= full.get_x() + full.get_width()


def test_a_bar_of_the_histogram_has_1_in_its_middle():
    bins = lesson.slope_bins({"a": torch.tensor([0.02, 40.0]), "b": torch.tensor([3.0, 0.0, float("inf")])})
    place = np.searchsorted(bins, 1) - 1
    assert np.sqrt(bins[place] * bins[place + 1]) == pytest.approx(1)
    assert bins[0] < 0.02 and bins[-1] > 40
    assert len(lesson.slope_bins({"nothing": torch.zeros(0)})) > 1


# ---------------------------------------------------------------- questions


def test_the_losses_are_asked_for_median_and_mean():
    assert lesson.check_losses(None, None) == "L1: not answered yet\nMSE: not answered yet"
    for l1 in (0.8, 0.85, 0.9):  # all of them cost the same
        assert lesson.check_losses(l1, 0.61) == "L1: right\nMSE: right"
    l1, mse = lesson.check_losses(0.61, 0.85).splitlines()
    assert l1 == "L1: not yet. 6 of 10 flowers lie above it, and every one of them pulls alike"
    assert mse.startswith("MSE: not yet, less")
    l1, mse = lesson.check_losses(0.95, 0.5).splitlines()
    assert l1.startswith("L1: not yet. 8 of 10 flowers lie below it")
    assert mse.startswith("MSE: not yet, more")


def test_what_the_check_of_the_losses_calls_right_costs_least():
    reds = np.array(lesson.REDS)
    answers = np.linspace(0, 1, 101)
    for name, cost in (("L1", abs(answers[:, None] - reds)), ("MSE", (answers[:, None] - reds) ** 2)):
        cost = cost.mean(axis=1)
        for answer, best in zip(answers, np.isclose(cost, cost.min()), strict=True):
            line = lesson.check_losses(answer, answer).splitlines()[name == "MSE"]
            assert (line == f"{name}: right") == best, (name, answer)


def test_the_penalty_is_asked_for_with_its_weight():
    critic = linear_critic(lesson.SLOPE)
    slopes = gradient_norms(critic, torch.rand(4, 3, 4, 4), torch.rand(4, 3, 4, 4))
    right = lesson.WEIGHT * float((slopes - 1).detach().square().mean())
    assert lesson.check_penalty(None) == "penalty: not answered yet"
    assert lesson.check_penalty(round(right, 3)) == "penalty: right"
    for wrong, hint in (
        (4, "without its weight"),
        (20, "squared"),
        (90, "not of 0"),
        (0, "alone"),
        (39, "more"),
        (50, "less"),
    ):
        assert lesson.check_penalty(wrong).startswith("penalty: not yet")
        assert hint in lesson.check_penalty(wrong)


def test_two_answers_are_right_more_often_than_one():
    assert lesson.check_answers(None, None) == "one answer: not answered yet\ntwo answers: not answered yet"
    assert lesson.check_answers(50, 80) == "one answer: right\ntwo answers: right"
    one, two = lesson.check_answers(100, 50).splitlines()
    assert one.startswith("one answer: not yet, fewer")
    assert two.startswith("two answers: not yet, more")
    rng = np.random.default_rng(0)  # by trying it
    flowers = rng.choice(list(lesson.BELIEF), size=20_000, p=np.array(list(lesson.BELIEF.values())) / 100)
    assert np.isin(flowers, ["yellow", "pink"]).mean() == pytest.approx(0.8, abs=0.01)
