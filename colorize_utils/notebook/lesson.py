"""What the lesson shows besides training: the smallest case, the belief at a place, and its three questions.

Figures are meant for a projector: large type, few words, and colours that the colour-blind tell apart wherever colour
is not the subject.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor, nn

from colorize_utils.colour import with_luminance
from colorize_utils.data import SYNTHETIC, PairDataset, Splits
from colorize_utils.errors import HintError
from colorize_utils.inference.hints import RGB, Belief, Hint
from colorize_utils.losses import RECONSTRUCTION
from colorize_utils.notebook.profiles import Profile, choose_profile
from colorize_utils.recipes import Recipe

LARGE = 16  # points of the type in figures: legible from the last row
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # of Okabe and Ito's palette, which the colour-blind tell apart
SQUARES = "ABCDEFGH"  # the columns of the board that is laid over a picture; it has as many rows
TRAINING_PICTURES, VALIDATION_PICTURES = 256, 64  # of each, what a lesson has time for
RACE_EPOCHS, LEASH_EPOCHS = 24, 16  # in the same sense
LEASH_SIZE = 32  # pixels a side: so a critic's painter takes enough steps for its pictures to be seen


# ---------------------------------------------------------------- the scale of a lesson


def lesson_profile(name: str, recipe: Recipe) -> Profile:
    """A recipe at a scale that a class can watch, on any machine the same.

    Args:
        name: "class" or "smoke"; the environment variable `COLORIZE_PROFILE`, where set, is used instead.
        recipe: The recipe in full.

    Returns:
        The profile: of `class`, narrow networks on 64×64 pixels, for a critic 32×32 (`smaller` makes the pictures).

    Raises:
        ValueError: It is another profile: a lesson has no night on a GPU.
    """
    profile = choose_profile(name, recipe)
    if profile.name == "full":
        raise ValueError("a lesson has the profiles class and smoke; full takes a night")
    if profile.name == "smoke":
        return profile
    critic = recipe.adversary == "critic"  # its second derivatives cost most
    quick = replace(profile.recipe, width=1 / 8, epochs=RACE_EPOCHS)
    if critic:
        quick = replace(profile.recipe, size=LEASH_SIZE, width=1 / 16, epochs=LEASH_EPOCHS)
    return replace(profile, recipe=quick)


def source_of_pictures(wanted: str, profile: Profile) -> str:
    """Where the pictures are from: nothing is downloaded during a lesson.

    Args:
        wanted: A source for `data.load_splits`; "" for the profile's own.
        profile: The profile.

    Returns:
        `wanted`, else the profile's, else what `COLORIZE_DATA` says, else "generated": drawn flowers.
    """
    return wanted or profile.data or os.environ.get("COLORIZE_DATA") or SYNTHETIC


def few(splits: Splits) -> Splits:
    """Splits with as many pictures of each part as a lesson has time for, chosen by a seed."""
    val, test = (part.sample(VALIDATION_PICTURES) for part in (splits.val, splits.test))
    return replace(splits, train=splits.train.sample(TRAINING_PICTURES), val=val, test=test)


def smaller(splits: Splits, size: int) -> Splits:
    """The same pictures, reduced: each pixel is the mean of a square of them.

    Args:
        splits: The splits; few, because all of their pictures are held in memory.
        size: Pixels a side, a divisor of their own.

    Returns:
        The splits at that size; the same ones where they have it already.

    Raises:
        ValueError: `size` is no divisor.
    """
    side = splits.train.pictures.shape[1]
    if side % size:
        raise ValueError(f"pictures of {side}×{side} cannot be reduced to {size}×{size} by whole pixels")
    if side == size:
        return splits
    train, val, test = (_reduced(part, side // size) for part in (splits.train, splits.val, splits.test))
    return replace(splits, train=train, val=val, test=test)


def _reduced(part: PairDataset, factor: int) -> PairDataset:
    pictures = np.stack([np.asarray(part.pictures[row], np.float32) for row in part.rows])  # (N, H, W, 3)
    count, height, width, _ = pictures.shape
    squares = pictures.reshape(count, height // factor, factor, width // factor, factor, 3)
    return PairDataset(squares.mean(axis=(2, 4)).round().astype(np.uint8), names=part.names)


# ---------------------------------------------------------------- pictures for a projector


def plot_pictures(pictures: Mapping[str, Image.Image]) -> Figure:
    """Pictures side by side, large.

    Args:
        pictures: Title → picture, gray or in colour; one at least.

    Returns:
        The figure.
    """
    width = 13 / len(pictures)
    height = max(width * picture.height / picture.width for picture in pictures.values())
    figure = Figure(figsize=(13, height + 0.5), layout="constrained")
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(np.asarray(picture.convert("RGB")))
        axis.set_title(title, fontsize=LARGE)
        axis.axis("off")
    return figure


# ---------------------------------------------------------------- the smallest case


def alike_in_gray(first: int = 6, second: int = 4, gray: float = 0.45) -> Tensor:
    """Flowers of one gray: `first` of them red, `second` blue.

    Args:
        first: How many are red.
        second: How many are blue.
        gray: Their luma, in [0, 1].

    Returns:
        Their colours (N, 3), RGB in [0, 1].
    """
    colours = torch.tensor([[0.95, 0.20, 0.30], [0.25, 0.48, 0.95]])
    level = torch.full((2, 1, 1, 1), gray)
    colours = with_luminance(level, colours[:, :, None, None])[:, :, 0, 0]  # (2, 3)
    return colours.repeat_interleave(torch.tensor([first, second]), dim=0)


def learned_answers(colours: Tensor, loss: str, steps: int = 80) -> Tensor:
    """Trains the smallest network there is, three numbers, to answer one colour to all of some.

    Its input is always the same gray, so that a larger network could do no better.

    Args:
        colours: (N, 3), what is right, each as often as the other.
        loss: A name in `losses.RECONSTRUCTION`, "l1" or "mse".
        steps: Of Adam, with a learning rate that falls to 0.

    Returns:
        Its answer before and after each step, (steps + 1, 3).
    """
    answer = nn.Parameter(torch.full((3,), 0.5))
    optimizer = torch.optim.Adam([answer], lr=0.05)
    answers = [answer.detach().clone()]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        cost = RECONSTRUCTION[loss](answer.expand_as(colours), colours)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        answers.append(answer.detach().clone())
    return torch.stack(answers)


def best_answer(colours: Tensor, loss: str) -> Tensor:
    """The answer that costs least, by formula: under L1 each channel's median, under MSE its mean.

    Args:
        colours: (N, 3), what is right, each as often as the other.
        loss: "l1" or "mse".

    Returns:
        (3,); where L1 has several best answers, the middle of them.
    """
    return colours.quantile(0.5, dim=0) if loss == "l1" else colours.mean(dim=0)


def plot_smallest_case(colours: Tensor, answers: Mapping[str, Tensor]) -> Figure:
    """The flowers, and beside them what each loss's network answers, step by step.

    Args:
        colours: (N, 3), the flowers'.
        answers: Loss → (steps + 1, 3), as `learned_answers` gives them.

    Returns:
        The figure: time goes to the right.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(answers), width_ratios=(1, *(1.5 for _ in answers)))
    axes[0].imshow(_clamped(colours)[:, None], aspect="auto")
    axes[0].set_title(f"{len(colours)} flowers", fontsize=LARGE)
    for axis, (loss, each) in zip(axes[1:], answers.items(), strict=True):
        axis.imshow(_clamped(each)[None], aspect="auto", interpolation="nearest")
        axis.set_title(f"{loss.upper()} answers …", fontsize=LARGE)
        axis.set_xlabel("steps of training →", fontsize=LARGE)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


def _clamped(colours: Tensor) -> np.ndarray:
    return colours.clamp(0, 1).numpy()


# ---------------------------------------------------------------- the belief at a place


def place_of(square: str, size: tuple[int, int]) -> tuple[float, float]:
    """The middle of a square of the board, which is called as in chess, but counted from the top.

    Args:
        square: A letter and a digit, such as "D5".
        size: The picture's width and height, as `Image.size`.

    Returns:
        x and y, in pixels.

    Raises:
        HintError: There is no such square.
    """
    found = re.fullmatch(r"\s*([A-Ha-h])\s*([1-8])\s*", square)
    if found is None:
        raise HintError(f"{square!r} is no square; name one by its letter A to H and its digit 1 to 8, such as D5")
    column, row = SQUARES.index(found.group(1).upper()), int(found.group(2)) - 1
    width, height = size
    return (column + 0.5) * width / len(SQUARES), (row + 0.5) * height / len(SQUARES)


def hint_at(square: str, colour: str | RGB, size: tuple[int, int]) -> Hint:
    """A hint in the middle of a square of the board.

    Args:
        square: As of `place_of`.
        colour: As of `Hint`.
        size: The picture's width and height.

    Returns:
        The hint, a twelfth of the shorter side wide.

    Raises:
        HintError: There is no such square or colour.
    """
    x, y = place_of(square, size)
    return Hint(x, y, colour, radius=max(1.0, min(size) / 24))


def plot_board(picture: Image.Image) -> Figure:
    """A picture with a board of eight by eight squares laid over it, whose names pupils can call.

    Args:
        picture: The picture, gray or in colour.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7, 7 * picture.height / picture.width + 0.5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(np.asarray(picture.convert("RGB")))
    count = len(SQUARES)
    for place in range(1, count):
        axis.axvline(place * picture.width / count - 0.5, color="white", linewidth=0.8, alpha=0.6)
        axis.axhline(place * picture.height / count - 0.5, color="white", linewidth=0.8, alpha=0.6)
    middles = (np.arange(count) + 0.5) / count
    axis.set_xticks(middles * picture.width - 0.5, list(SQUARES), fontsize=LARGE)
    axis.set_yticks(middles * picture.height - 0.5, [str(row + 1) for row in range(count)], fontsize=LARGE)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure


def compromises(beliefs: Sequence[Belief]) -> dict[str, RGB]:
    """The one colour that each loss would have a painter answer to a belief.

    Args:
        beliefs: What is believed at a place, one at least.

    Returns:
        "L1" → the median, channel by channel, and "MSE" → the mean, both weighted by probability.
    """
    colours = np.array([belief.colour for belief in beliefs], float)  # (N, 3)
    weights = np.array([belief.probability for belief in beliefs])
    weights = weights / weights.sum()
    mean = weights @ colours
    order = colours.argsort(axis=0)  # (N, 3), each channel's own
    reached = weights[order].cumsum(axis=0) >= 0.5 - 1e-9
    channels = np.arange(3)
    median = colours[order[reached.argmax(axis=0), channels], channels]
    return {"L1": _rgb(median), "MSE": _rgb(mean)}


def _rgb(colour: np.ndarray) -> RGB:
    red, green, blue = (round(level) for level in colour.tolist())
    return red, green, blue


def plot_beliefs(beliefs: Sequence[Belief]) -> Figure:
    """A bar for each colour that is believed at a place, in that colour; below them what one answer must be.

    Args:
        beliefs: What `Colorizer.palette_at` gives, the likeliest first.

    Returns:
        The figure. The two last bars are `compromises`: they have no probability, and so no length of their own.
    """
    single = compromises(beliefs)
    names = [*(belief.name for belief in beliefs), *(f"{loss}'s one answer" for loss in single)]
    lengths = [*(100 * belief.probability for belief in beliefs), *(100 for _ in single)]
    colours = [*(belief.colour for belief in beliefs), *single.values()]
    figure = Figure(figsize=(10, 0.6 * len(names) + 1), layout="constrained")
    axis = figure.subplots()
    paint = [tuple(level / 255 for level in colour) for colour in colours]
    places = [place + (place >= len(beliefs)) * 0.6 for place in range(len(names))]  # a gap before the compromises
    axis.barh(places, lengths, color=paint, edgecolor="black")
    for place, belief in zip(places, beliefs, strict=False):
        text = f" {100 * belief.probability:.0f} %"
        axis.text(100 * belief.probability, place, text, va="center", fontsize=LARGE)
    axis.set_yticks(places, names, fontsize=LARGE)
    axis.set(xlim=(0, 112), xticks=[])
    axis.invert_yaxis()
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    return figure


# ---------------------------------------------------------------- the critic's leash


def plot_slopes(
    slopes: Mapping[str, Tensor], gaps: Mapping[str, Sequence[float]], painted: Mapping[str, np.ndarray]
) -> Figure:
    """How steep a critic is under each penalty, what its gap becomes, and how its generator paints.

    Args:
        slopes: Name → gradient norms (B,), as `losses.gradient_norms` gives them.
        gaps: Name → mean D(real) − mean D(fake), a number an epoch.
        painted: Name → a picture (H, W, 3) uint8.

    Returns:
        The figure, a column for each name: above, the gap over epochs; in the middle, the histogram of the norms on a
        logarithmic axis, with a line at 1; below, the picture.
    """
    figure = Figure(figsize=(13, 10), layout="constrained")
    axes = figure.subplots(3, len(slopes), squeeze=False, height_ratios=(1, 1, 1.2))
    bins = slope_bins(slopes)
    for name, (above, middle, below), colour in zip(slopes, axes.T, (ORANGE, BLUE, GREEN), strict=False):
        values = gaps[name]
        above.plot(range(1, len(values) + 1), values, color=colour, marker="o", linewidth=3)
        above.set_title(name, fontsize=LARGE + 4)
        above.set_xlabel("epoch", fontsize=LARGE)
        above.xaxis.set_major_locator(MaxNLocator(integer=True))
        middle.hist(slopes[name].clamp(min=bins[0], max=bins[-1]).numpy(), bins=bins, color=colour)
        middle.axvline(1, color="black", linestyle="--", linewidth=2)
        middle.set_xscale("log")
        middle.set_xlabel("slope", fontsize=LARGE)
        for axis in (above, middle):
            axis.tick_params(labelsize=LARGE - 2)
        below.axis("off")
        if name in painted:
            below.imshow(painted[name])
    axes[0, 0].set_ylabel("gap", fontsize=LARGE)
    axes[1, 0].set_ylabel("pictures", fontsize=LARGE)
    return figure


def slope_bins(slopes: Mapping[str, Tensor]) -> np.ndarray:
    """Borders of a histogram of slopes: ten to a power of ten, one in the middle of a bar, all slopes and 1 within.

    Args:
        slopes: Name → gradient norms; those that are 0 or not finite do not count.

    Returns:
        Borders, rising by a constant factor.
    """
    every = torch.cat(list(slopes.values()))
    every = torch.cat([every[every.isfinite() & (every > 0)], torch.ones(1)])
    lowest, highest = (math.log10(float(value)) for value in (every.min(), every.max()))
    first, last = math.floor(10 * max(min(lowest, 0), -4)), math.ceil(10 * max(highest, 0))
    return 10 ** ((np.arange(first, last + 2) - 0.5) / 10)


# ---------------------------------------------------------------- three questions

# Ten flowers that are alike in gray, and how much red each of them had.
REDS = (0.1, 0.1, 0.2, 0.2, 0.8, 0.9, 0.9, 0.9, 1.0, 1.0)
SLOPE, WEIGHT = 3.0, 10.0  # of the second question's critic and penalty
BELIEF = {"yellow": 50, "pink": 30, "white": 20}  # per cent, of the third question


def check_losses(l1: float | None, mse: float | None) -> str:
    """The first question: how much red does each loss's network answer to `REDS`?

    Args:
        l1: The answer under L1; None where it is not answered.
        mse: The answer under MSE.

    Returns:
        A line for each: right, or in which direction to think.
    """
    ordered = sorted(REDS)
    low, high = ordered[len(ordered) // 2 - 1], ordered[len(ordered) // 2]
    lines = []
    if l1 is None:
        lines.append("L1: not answered yet")
    elif low - 1e-6 <= l1 <= high + 1e-6:
        lines.append("L1: right")
    else:
        way, above = ("up", sum(red > l1 for red in REDS)) if l1 < low else ("down", sum(red < l1 for red in REDS))
        side = "above" if way == "up" else "below"
        lines.append(f"L1: not yet. {above} of {len(REDS)} flowers lie {side} it, and every one of them pulls alike")
    mean = sum(REDS) / len(REDS)
    if mse is None:
        lines.append("MSE: not answered yet")
    elif abs(mse - mean) < 0.006:
        lines.append("MSE: right")
    elif mse < mean:
        lines.append("MSE: not yet, more: the flowers above it are farther away, and the far ones pull harder")
    else:
        lines.append("MSE: not yet, less: the flowers below it are farther away, and the far ones pull harder")
    return "\n".join(lines)


def check_penalty(penalty: float | None) -> str:
    """The second question: what does a critic D(x) = w·x with ‖w‖ = `SLOPE` pay, the penalty's weight being `WEIGHT`?

    Args:
        penalty: The answer; None where there is none.

    Returns:
        Right, or in which direction to think.
    """
    right = WEIGHT * (SLOPE - 1) ** 2
    if penalty is None:
        return "penalty: not answered yet"
    if abs(penalty - right) < 1e-6 * right:
        return "penalty: right"
    hints = {
        (SLOPE - 1) ** 2: "that is without its weight",
        WEIGHT * (SLOPE - 1): "the distance from 1 is squared",
        WEIGHT * SLOPE**2: "it is free of charge at a slope of 1, not of 0",
        WEIGHT * SLOPE: "it is free of charge at a slope of 1, and squared",
        0.0: f"it is 0 at a slope of 1 alone, and this one is {SLOPE:g}",
    }
    near = next((text for value, text in hints.items() if abs(penalty - value) < 1e-6), None)
    return f"penalty: not yet, {near or ('more' if penalty < right else 'less') + ' than that'}"


def check_answers(one: float | None, two: float | None) -> str:
    """The third question: of 100 flowers believed as in `BELIEF`, how many does one answer get right, and how many two?

    Args:
        one: Right where the likeliest colour is always painted.
        two: Right where the two likeliest are painted side by side, and one of them suffices.

    Returns:
        A line for each: right, or in which direction to think.
    """
    first, second, _ = sorted(BELIEF.values(), reverse=True)
    lines = []
    for name, given, right in (("one answer", one, first), ("two answers", two, first + second)):
        if given is None:
            lines.append(f"{name}: not answered yet")
        elif abs(given - right) < 1e-6:
            lines.append(f"{name}: right")
        elif given > right:
            rest = "white" if name == "two answers" else "pink or white"
            lines.append(f"{name}: not yet, fewer: some of the flowers are {rest}")
        else:
            lines.append(f"{name}: not yet, more: how many of the 100 have a colour that is painted?")
    return "\n".join(lines)
