"""A page about a model, which shows what the means of a scoreboard hide.

It has pictures chosen by a seed, failures, what becomes of each main colour, and the scores of each species.

A picture's main colour is the mean CIE a*b* of its middle, half as wide and half as high as the picture: most
photographs of a flower show it there. The colour's name is that of its hue.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from colorize_utils.colour import unit
from colorize_utils.data import PairDataset, make_loader
from colorize_utils.files import atomic_write
from colorize_utils.metrics import Predictor, ciede2000, gray_baseline, lab, psnr
from colorize_utils.naming import NAMES, colour_name
from colorize_utils.plots import plot_grid, save_figure

WORST = 0.05  # share of the pictures that count as failures
SHOWN = 8  # pictures in a grid
REMEMBERED = 1_000_000_000  # bytes, of a predictor's results


def main_colour(colour: Tensor) -> Tensor:
    """Mean a* and b* of the middle of pictures.

    Args:
        colour: (B, 3, H, W), RGB in [0, 1].

    Returns:
        (B, 2).
    """
    height, width = colour.shape[-2:]
    middle = colour[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    return lab(middle)[:, 1:].mean(dim=(2, 3))


@dataclass(frozen=True)
class PictureScores:
    """The scores of one picture.

    Attributes:
        psnr: Of the prediction, in dB.
        gray_psnr: Of the gray picture, in dB: the baseline.
        ciede2000: Colour difference ΔE₀₀ of the prediction.
        original: (a*, b*) of the original's main colour.
        painted: (a*, b*) of the prediction's main colour.
    """

    psnr: float
    gray_psnr: float
    ciede2000: float
    original: tuple[float, float]
    painted: tuple[float, float]


@torch.no_grad()
def score_pictures(predict: Predictor, dataset: PairDataset, progress: bool = False) -> list[PictureScores]:
    """Scores every picture of a data set on its own.

    Args:
        predict: Gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), clamped to [0, 1].
        dataset: The pairs.
        progress: Shows a progress bar.

    Returns:
        The scores, in the order of the data set.
    """
    from tqdm.auto import tqdm

    scored = []
    for real, gray in tqdm(make_loader(dataset, 64), desc="scoring", unit="batch", disable=not progress):
        fake = predict(gray).clamp(0, 1)
        rows = [psnr(fake, real), psnr(gray_baseline(gray), real), ciede2000(fake, real)]
        numbers = torch.stack(rows, dim=1).tolist()
        colours = zip(main_colour(real).tolist(), main_colour(fake).tolist(), strict=True)
        for (own, grays, difference), (original, painted) in zip(numbers, colours, strict=True):
            scored.append(PictureScores(own, grays, difference, tuple(original), tuple(painted)))
    return scored


def remembering(predict: Predictor) -> Predictor:
    """Makes a predictor that colorizes no batch twice, as long as what it remembers takes less than `REMEMBERED`.

    The scoreboard and the page go through the same batches, and a prediction takes most of the time of either.

    Args:
        predict: Gray (B, 1, H, W) → 8-bit colour (B, 3, H, W), both in [0, 1], as of `Colorizer.predictor`.

    Returns:
        The same function, to the bit.
    """
    kept: dict[bytes, Tensor] = {}

    def predict_once(gray: Tensor) -> Tensor:
        batch = hashlib.sha256(gray.cpu().numpy().tobytes()).digest()
        if batch in kept:
            return unit(kept[batch]).to(gray.device)
        colour = predict(gray)
        if sum(levels.nbytes for levels in kept.values()) + colour.numel() < REMEMBERED:
            kept[batch] = (255 * colour).round().byte().cpu()
        return colour

    return predict_once


def failures(scored: Sequence[PictureScores]) -> list[int]:
    """The pictures with the highest CIEDE2000.

    Args:
        scored: The scores of a data set's pictures.

    Returns:
        The pictures' indices, the worst first: a share of `WORST`, but at least `SHOWN` where there are so many.
    """
    places = sorted(range(len(scored)), key=lambda place: -scored[place].ciede2000)
    return places[: max(SHOWN, round(WORST * len(scored)))]


def pick(places: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """Chooses pictures at random.

    Args:
        places: Indices of pictures.
        count: How many to choose; all where there are fewer.
        seed: Chooses them.

    Returns:
        The chosen indices, ascending.
    """
    return sorted(np.random.default_rng(seed).permutation(places)[:count].tolist())


def colours_table(scored: Sequence[PictureScores]) -> str:
    """Which main colours the predictions have, in percent, for each main colour of the originals: a Markdown table."""
    painted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for picture in scored:
        painted[colour_name(*picture.original)][colour_name(*picture.painted)] += 1
    lines = ["| original, pictures | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for name in NAMES:
        if total := painted[name].total():
            shares = (f"{100 * painted[name][other] / total:.0f}" for other in NAMES)
            lines.append(f"| {name}, {total} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def species_table(scored: Sequence[PictureScores], species: Sequence[str]) -> str:
    """Scores of each species as a Markdown table, the species with the lowest CIEDE2000 first.

    Its column "colour" has the name of most pictures' main colour, original → painted; "of the right name" is the share
    of pictures whose main colour has the original's name.

    Args:
        scored: The scores of a data set's pictures.
        species: The species of each picture.

    Returns:
        The table.

    Raises:
        ValueError: There are not as many species as scores.
    """
    groups = defaultdict(list)
    for picture, name in zip(scored, species, strict=True):
        groups[name].append(picture)
    titles = ["species", "pictures", "PSNR dB", "over gray", "CIEDE2000", "colour", "of the right name"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, group in sorted(groups.items(), key=lambda item: np.mean([picture.ciede2000 for picture in item[1]])):
        scores = np.array([[p.psnr, p.psnr - p.gray_psnr, p.ciede2000] for p in group]).mean(axis=0)
        originals, painted = ([colour_name(*getattr(p, side)) for p in group] for side in ("original", "painted"))
        right = np.mean([one == other for one, other in zip(originals, painted, strict=True)])
        main, answer = (Counter(names).most_common(1)[0][0] for names in (originals, painted))
        lines.append(
            f"| {name} | {len(group)} | {scores[0]:.2f} | {scores[1]:+.2f} | {scores[2]:.1f} "
            f"| {main} → {answer} | {100 * right:.0f} % |"
        )
    return "\n".join(lines)


def write_report(
    folder: Path,
    title: str,
    dataset: PairDataset,
    predictors: Mapping[str, Predictor],
    species: Callable[[str], str | None],
    seed: int = 0,
    progress: bool = False,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Writes a page about a model.

    grid.png has pictures chosen by the seed; failures.png pictures that the seed chooses from the `WORST` by CIEDE2000;
    report.md shows both, what becomes of each main colour, and, where every picture's species is known, each species.

    Args:
        folder: Where to; it is made where it is missing.
        title: Of the page.
        dataset: The pairs.
        predictors: The model's styles by name, gray (B, 1, H, W) → colour (B, 3, H, W); the first one is scored.
        species: A picture's name → its species, None where that is not known.
        seed: Chooses the pictures.
        progress: Shows a progress bar.
        notes: What a reader should know about the scores, such as `provenance.remarks`.

    Returns:
        The files.
    """
    style = next(iter(predictors))
    scored = score_pictures(predictors[style], dataset, progress)
    worst = failures(scored)
    picked = {"grid": pick(range(len(scored)), SHOWN, seed), "failures": pick(worst, SHOWN, seed)}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, places in picked.items():
        real, gray = dataset[places]
        columns = {"gray": gray, **{style: predict(gray) for style, predict in predictors.items()}, "original": real}
        rows = list(zip(*columns.values(), strict=True))
        paths.append(save_figure(plot_grid(rows, tuple(columns)), folder / f"{name}.png"))

    kinds = [kind for name in dataset.names if (kind := species(name)) is not None]
    parts = [
        f"# {title}\n",
        *(f"Note: {note}.\n" for note in notes),
        f"{len(scored)} pictures. Pictures picked by seed {seed}:\n\n![pictures picked by a seed](grid.png)\n",
        f"Failures, picked by the same seed from the {len(worst)} worst ({style}) by CIEDE2000:\n\n"
        "![failures](failures.png)\n",
        _in_common([scored[place] for place in worst], scored),
        f"What becomes of each main colour ({style}), in percent:\n\n{colours_table(scored)}\n",
    ]
    if len(kinds) == len(dataset.names):
        parts.append(f"Every species ({style}):\n\n{species_table(scored, kinds)}\n")
    with atomic_write(folder / "report.md") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return [*paths, folder / "report.md"]


def _in_common(failures: Sequence[PictureScores], scored: Sequence[PictureScores]) -> str:
    """How frequent each main colour is among the failures and among all pictures, and how strong the colours are."""
    lines = ["| original's main colour | of the failures | of all |", "|---|---|---|"]
    counts = [Counter(colour_name(*picture.original) for picture in group) for group in (failures, scored)]
    for name, _ in counts[0].most_common():
        shares = (100 * count[name] / count.total() for count in counts)
        lines.append(f"| {name} | " + " | ".join(f"{share:.0f} %" for share in shares) + " |")
    chroma = [np.mean([np.hypot(*picture.original) for picture in group]) for group in (failures, scored)]
    lines.append(f"\nC*ab of the original's main colour: {chroma[0]:.0f} among failures, {chroma[1]:.0f} among all.\n")
    return "\n".join(lines)
