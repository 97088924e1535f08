"""What hints, several answers and the width of belief are worth, measured on pictures whose colours are known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from colorize_utils.colour import unit
from colorize_utils.data import PairDataset, generator_for
from colorize_utils.data.hints import drawn_places
from colorize_utils.inference import Colorizer, Hint
from colorize_utils.metrics import ciede2000_of_pixels, lab, psnr_of
from colorize_utils.naming import NAMES, colour_name

PATCH = 6 / 256  # side of a true hint, as a share of the picture's
VISIBLE = 5.0  # ΔE₀₀ from which a pixel differs between two answers
PLACES = 16  # of each picture, at which belief is compared with what was there
_REACH = 1  # pixels in each direction that are averaged for the colour that was there
BINS = 10  # of believed probability
PUBLISHED = {0: 0.0, 1: 0.94, 2: 1.77, 5: 2.96, 10: 3.99, 20: 4.91, 50: 5.99}
"""Gain in dB of so many hints, on 1,000 pictures of ImageNet at 256×256.

Source:
    Zhang et al. 2017, "Real-Time User-Guided Image Colorization with Learned Deep Priors"; the numbers are those that
    its authors published with their code.
"""


@dataclass(frozen=True)
class HintScore:
    """What a number of true hints is worth.

    Attributes:
        hints: How many of them each picture had.
        psnr: Mean over the pictures, in dB.
        gain: Over the same pictures without a hint, in dB.
        gain_elsewhere: The same, with the hinted pixels left out on both sides.
    """

    hints: int
    psnr: float
    gain: float
    gain_elsewhere: float


@dataclass(frozen=True)
class AnswerScore:
    """What several answers are worth.

    Attributes:
        pictures: How many pictures were asked about.
        answers: How many answers each got, the mean.
        psnr: Of the single answer that `Colorizer.colorize` gives, in dB.
        best: Of each picture's best answer, in dB.
        difference: ΔE₀₀ between two answers, over the pixels where it is more than `VISIBLE`; the mean over pairs of
            answers, and over the pictures that have several.
    """

    pictures: int
    answers: float
    psnr: float
    best: float
    difference: float


@dataclass(frozen=True)
class Calibration:
    """How often a colour that was believed was there: by what people call it, and by how much it was believed.

    Attributes:
        believed: (NAMES, BINS), the mean of the probabilities within each bin; NaN where it holds none.
        occurred: (NAMES, BINS), the share of these places that had a colour of that name; NaN likewise.
        places: (NAMES, BINS), how many they are.
        there: (NAMES,), the share of all places that had a colour of that name.
    """

    believed: np.ndarray
    occurred: np.ndarray
    places: np.ndarray
    there: np.ndarray

    @property
    def error(self) -> float:
        """The mean difference between belief and occurrence, over all that was believed."""
        distances = np.abs(self.believed - self.occurred) * self.places
        return float(np.nansum(distances) / self.places.sum())


def score_hints(
    colorizer: Colorizer, dataset: PairDataset, counts: Sequence[int], seed: int = 0, progress: bool = False
) -> list[HintScore]:
    """Scores a colorizer that is told the true colours of random places.

    The places of fewer hints are among those of more. A hint's colour is its patch's mean.

    Args:
        colorizer: One that takes hints.
        dataset: The pictures.
        counts: Numbers of hints.
        seed: Of the places.
        progress: Shows a progress bar.

    Returns:
        A score for each number, in their order.

    Raises:
        ValueError: The network takes no hints.
        CheckpointError: The network's output is NaN or out of all bounds.
    """
    rows = []
    for index, (real, gray) in enumerate(_pictures(dataset, progress)):
        size = gray.shape[0]
        hints, patches = _true_hints(real, max(counts), generator_for(seed, 0, index))
        plain, *hinted = _colours(colorizer.colorize_each(gray, [(), *(hints[:count] for count in counts)]))
        errors, row = (plain - real).square().mean(dim=0), []  # (H, W)
        for count, fake in zip(counts, hinted, strict=True):
            own = (fake - real).square().mean(dim=0)
            elsewhere = torch.ones(size, size, dtype=torch.bool)
            for patch in patches[:count]:
                elsewhere[patch] = False
            levels = [psnr_of(values.mean()) for values in (own, errors, own[elsewhere], errors[elsewhere])]
            row.append([float(level) for level in levels])
        rows.append(row)
    means = np.array(rows).mean(axis=0)  # (counts, 4)
    return [
        HintScore(count, own, own - plain, own_elsewhere - plain_elsewhere)
        for count, (own, plain, own_elsewhere, plain_elsewhere) in zip(counts, means.tolist(), strict=True)
    ]


def _true_hints(real: Tensor, count: int, rng: torch.Generator) -> tuple[list[Hint], list[tuple[slice, slice]]]:
    """Hints with the true colours of a picture (3, H, W), and the pixels that they cover."""
    height, width = real.shape[1:]
    sides = max(1, round(PATCH * height)), max(1, round(PATCH * width))
    hints, patches = [], []
    for place in drawn_places(count, rng).tolist():
        top, left = (
            min(int(share * length), length - side)
            for share, length, side in zip(place, (height, width), sides, strict=True)
        )
        patch = slice(top, top + sides[0]), slice(left, left + sides[1])
        red, green, blue = (255 * real[:, *patch].mean(dim=(1, 2))).round().int().tolist()
        hints.append(Hint(left + sides[1] / 2, top + sides[0] / 2, (red, green, blue), sides[1] / 2))
        patches.append(patch)
    return hints, patches


def score_answers(colorizer: Colorizer, dataset: PairDataset, count: int = 4, progress: bool = False) -> AnswerScore:
    """Scores several answers to each picture: how good the best one is, and how much they differ.

    Args:
        colorizer: One that takes hints.
        dataset: The pictures.
        count: How many answers at most.
        progress: Shows a progress bar.

    Returns:
        The score.

    Raises:
        ValueError: The network takes no hints.
        CheckpointError: The network's output is NaN or out of all bounds.
    """
    single, best, numbers, differences = [], [], [], []
    for real, gray in _pictures(dataset, progress):
        answers = torch.stack(_colours([answer.picture for answer in colorizer.answers(gray, count)]))
        plain = _colours([colorizer.colorize(gray)])[0]
        single.append(float(psnr_of((plain - real).square().mean())))
        best.append(float(psnr_of((answers - real).square().mean(dim=(1, 2, 3))).max()))
        numbers.append(len(answers))
        if len(answers) > 1:
            differences.append(_difference(answers))
    means = (float(np.mean(values)) if values else 0.0 for values in (numbers, single, best, differences))
    return AnswerScore(len(single), *means)


def _difference(answers: Tensor) -> float:
    """ΔE₀₀ between pictures (N, 3, H, W), over the pixels where it is visible, the mean over pairs."""
    first, second = np.triu_indices(len(answers), 1)
    pairs = ciede2000_of_pixels(answers[first], answers[second])  # (pairs, H, W)
    seen = [float(pair[pair > VISIBLE].mean()) for pair in pairs if (pair > VISIBLE).any()]
    return float(np.mean(seen)) if seen else 0.0


def uncertainty_correlation(colorizer: Colorizer, dataset: PairDataset, progress: bool = False) -> float:
    """Spearman's rank correlation of the width of belief with the error, pixel by pixel; the mean over pictures.

    The error is the distance of the colours in RGB.

    Args:
        colorizer: One whose network predicts a distribution.
        dataset: The pictures.
        progress: Shows a progress bar.

    Returns:
        The mean, in [−1, 1]; a picture in which either is the same everywhere counts as 0.

    Raises:
        ValueError: The network predicts no distribution.
        CheckpointError: The network's output is NaN or out of all bounds.
    """
    found = []
    for real, gray in _pictures(dataset, progress):
        error = (_colours([colorizer.colorize(gray)])[0] - real).norm(dim=0).numpy()
        found.append(_rank_correlation(colorizer.uncertainty(gray), error))
    return float(np.mean(found))


def calibration(colorizer: Colorizer, dataset: PairDataset, seed: int = 0, progress: bool = False) -> Calibration:
    """Compares what a colorizer believes at random places with the colours that were there.

    Args:
        colorizer: One whose network predicts a distribution.
        dataset: The pictures.
        seed: Of the places, `PLACES` of each picture.
        progress: Shows a progress bar.

    Returns:
        The comparison, of what `Colorizer.palette_at` believes likely.

    Raises:
        ValueError: The network predicts no distribution.
        CheckpointError: The network's output is NaN or out of all bounds.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2: reliability diagrams.
    """
    sums, hits, counts = (np.zeros((len(NAMES), BINS)) for _ in range(3))
    there = np.zeros(len(NAMES))
    for index, (real, gray) in enumerate(_pictures(dataset, progress)):
        drawn = torch.rand(PLACES, 2, generator=generator_for(seed, 0, index)).numpy()
        rows, columns = (drawn * gray.shape).astype(int).T.tolist()
        palettes = colorizer.palettes_at(gray, list(zip(columns, rows, strict=True)))
        for y, x, believed in zip(rows, columns, palettes, strict=True):
            name = _name_of(real[:, max(0, y - _REACH) : y + _REACH + 1, max(0, x - _REACH) : x + _REACH + 1])
            there[NAMES.index(name)] += 1
            for belief in believed:
                bin = NAMES.index(belief.name), min(int(BINS * belief.probability), BINS - 1)
                sums[bin] += belief.probability
                hits[bin] += belief.name == name
                counts[bin] += 1
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, an empty bin
        return Calibration(sums / counts, hits / counts, counts, there / there.sum())


def _name_of(pixels: Tensor) -> str:
    """What people call the mean colour of pixels (3, h, w)."""
    _, a, b = lab(pixels.mean(dim=(1, 2))[None, :, None, None])[0, :, 0, 0].tolist()
    return colour_name(a, b)


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def _pictures(dataset: PairDataset, progress: bool) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Each picture in colour, (3, H, W) in [0, 1], and its gray levels, (H, W) uint8."""
    for index in tqdm(range(len(dataset)), desc="asking", unit="pic", disable=not progress):
        real, gray = dataset[[index]]
        yield real[0].cpu(), (255 * gray[0, 0]).round().byte().cpu().numpy()


def _colours(pictures: Sequence[Image.Image]) -> list[Tensor]:
    return [unit(torch.from_numpy(np.array(picture))).permute(2, 0, 1) for picture in pictures]


def format_hints(scores: Sequence[HintScore]) -> str:
    """The scores as a Markdown table, beside the published gain of the same number of hints."""
    titles = ["hints", "PSNR dB", "gain dB", "gain dB without the hinted pixels", "Zhang et al. 2017, on ImageNet"]
    table = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for score in scores:
        known = f"{PUBLISHED[score.hints]:.2f}" if score.hints in PUBLISHED else ""
        numbers = f"{score.psnr:.2f} | {score.gain:.2f} | {score.gain_elsewhere:.2f}"
        table.append(f"| {score.hints} | {numbers} | {known} |")
    return "\n".join(table)


def format_calibration(found: Calibration) -> str:
    """The comparison as a Markdown table, a row for each colour's name."""
    table = ["| colour | of all places | believed, the mean | was there | places |", "|---|---|---|---|---|"]
    for name, share, believed, occurred, places in zip(
        NAMES, found.there, found.believed, found.occurred, found.places, strict=True
    ):
        if total := places.sum():
            means = (np.nansum(values * places) / total for values in (believed, occurred))
            table.append(
                f"| {name} | {share:.0%} | " + " | ".join(f"{mean:.0%}" for mean in means) + f" | {total:.0f} |"
            )
    return "\n".join(table)
