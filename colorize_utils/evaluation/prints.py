"""How well a model colorizes old prints, of which the originals' colours are known: photographs degraded on purpose.

The model sees the print; the chroma that it predicts is put on the luminance of the clean picture, and compared with
the clean original inside the print's border. So the score says what becomes of the colours, and not how much grain is
in the gray, which is kept as it is given. Beside it stands the same from the clean picture, on the same pixels.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from colorize_utils.colour import chroma_of, merge, unit
from colorize_utils.data import generator_for
from colorize_utils.data.degradation import borders, degraded
from colorize_utils.metrics import Predictor, ciede2000, gray_baseline, mae, psnr


@dataclass(frozen=True)
class Colours:
    """Scores inside the border, means over pictures.

    Attributes:
        psnr: In dB.
        gain: The same, less the gray picture's.
        mae: Mean absolute error.
        ciede2000: Colour difference ΔE₀₀.
    """

    psnr: float
    gain: float
    mae: float
    ciede2000: float


@dataclass(frozen=True)
class PrintScore:
    """What a model makes of clean pictures and of old prints of them.

    Attributes:
        name: Of the predictor.
        pictures: How many were scored.
        clean: Its colours, predicted from the clean pictures.
        old: The same, predicted from the prints.
    """

    name: str
    pictures: int
    clean: Colours
    old: Colours

    @property
    def lost(self) -> float:
        """How much less is gained over gray, in dB, from a print than from the clean picture."""
        return self.clean.gain - self.old.gain


def on_luminance(gray: Tensor, colour: Tensor) -> Tensor:
    """The chroma of pictures on other luminance, as 8-bit pictures whose gray version is exactly that.

    Args:
        gray: (B, 1, H, W) in [0, 1], 8-bit levels.
        colour: (B, 3, H, W), RGB in [0, 1].

    Returns:
        (B, 3, H, W), RGB in [0, 1], on the CPU.
    """
    levels = (255 * gray[:, 0]).round().byte().cpu().numpy()
    chroma = (255 * chroma_of(colour.float())).transpose(0, 1).cpu().numpy()  # (2, B, H, W)
    return unit(torch.from_numpy(merge(levels, chroma))).permute(0, 3, 1, 2)


@torch.no_grad()
def score_prints(
    predictors: Mapping[str, Predictor],
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int = 0,
    progress: bool = False,
) -> list[PrintScore]:
    """Scores predictors on clean pictures and on old prints of them, the same prints for each.

    Args:
        predictors: Gray (B, 1, H, W) → colour (B, 3, H, W), by name; what they return is clamped to [0, 1], and its
            chroma alone counts.
        batches: (colour (B, 3, H, W), gray (B, 1, H, W)) in [0, 1], as a loader gives them; read once.
        seed: With a batch's place, what its prints are drawn from.
        progress: Shows a progress bar.

    Returns:
        One score for each predictor, in the order given.

    Raises:
        ValueError: There are no pictures.
    """
    from tqdm.auto import tqdm

    steps = len(batches) if isinstance(batches, Sized) else None
    rows: dict[str, list[Tensor]] = {name: [] for name in predictors}  # for each batch (B, 2, 4): clean, old
    for number, (real, gray) in enumerate(tqdm(batches, "old prints", steps, unit="batch", disable=not progress)):
        rng = generator_for(seed, number)
        inside = borders(len(gray), gray.shape[-2], gray.shape[-1], rng)
        prints = (255 * degraded(gray, rng, inside)).round() / 255  # scans have 8 bits
        real, windows = real.cpu(), [_window(picture) for picture in inside]
        gray_psnr = _inside(on_luminance(gray, gray_baseline(gray)), real, windows)[:, 0]
        for name, predict in predictors.items():
            ways = []
            for seen in (gray, prints):
                painted = on_luminance(gray, predict(seen).clamp(0, 1))
                own, absolute, difference = _inside(painted, real, windows).unbind(dim=1)
                ways.append(torch.stack([own, own - gray_psnr, absolute, difference], dim=1))
            rows[name].append(torch.stack(ways, dim=1))
    scores = []
    for name, batches_of_rows in rows.items():
        if not batches_of_rows:
            raise ValueError("there are no pictures to score")
        numbers = torch.cat(batches_of_rows).double()
        clean, old = (Colours(*way) for way in numbers.mean(dim=0).tolist())
        scores.append(PrintScore(name, len(numbers), clean, old))
    return scores


def _window(inside: Tensor) -> tuple[slice, slice]:
    """Rows and columns inside a border, (1, H, W) bool, all of which are."""
    rows, columns = (inside[0].any(dim=dim).nonzero() for dim in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _inside(fake: Tensor, real: Tensor, windows: Sequence[tuple[slice, slice]]) -> Tensor:
    """PSNR, mean absolute error and CIEDE2000 of pictures (B, 3, H, W) within windows: (B, 3)."""
    scores = []
    for index, (rows, columns) in enumerate(windows):
        pair = [pictures[index : index + 1, :, rows, columns] for pictures in (fake, real)]
        scores.append(torch.cat([metric(*pair) for metric in (psnr, mae, ciede2000)]))
    return torch.stack(scores)


def format_prints(scores: Sequence[PrintScore]) -> str:
    """The scores as a Markdown table, one row for each predictor."""
    lines = [
        "| prediction | PSNR dB, clean | over gray | CIEDE2000 | PSNR dB, old | over gray | CIEDE2000 | lost dB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        cells = [f"{way.psnr:.2f} | {way.gain:+.2f} | {way.ciede2000:.2f}" for way in (score.clean, score.old)]
        lines.append(f"| {score.name} | {' | '.join(cells)} | {score.lost:.2f} |")
    return "\n".join(lines)
