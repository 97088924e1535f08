"""Figures: the submission's curves, gray · generated · original grids, comparisons. Each returns a matplotlib Figure.

Figures are made without pyplot, so that nothing pops up and nothing has to be closed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from colorize_utils.files import written_whole

# Curve → (title, axis label), in the submission's order.
CURVE_TITLES = {
    "discriminator_loss": ("Discriminator training loss", "loss"),
    "generator_loss": ("Generator training loss", "loss"),
    "mse": ("Training MSE", "MSE"),
    "validation_loss": ("Validation loss", "MSE"),
    "psnr": ("Validation PSNR", "dB"),
    "mae": ("Validation MAE", "MAE"),
    "ssim": ("Validation SSIM", "SSIM"),
}


def plot_history(
    history: Mapping[str, Sequence[float]], title: str = "", others: Mapping[str, Mapping[str, Sequence[float]]] = {}
) -> Figure:
    """The seven curves of a run over its epochs, called `title`; `others` are more runs to draw beside it, by name."""
    figure = Figure(figsize=(14, 6), layout="constrained")
    *axes, spare = figure.subplots(2, 4).flat
    for axis, (curve, (name, label)) in zip(axes, CURVE_TITLES.items(), strict=True):
        for run, curves in {title: history, **others}.items():
            values = curves.get(curve, [])
            axis.plot(range(1, len(values) + 1), values, label=run, marker="." if len(values) < 30 else None)
        axis.set(title=name, xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    spare.axis("off")
    if others:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="lower right")
    else:
        figure.suptitle(title)
    return figure


def plot_grid(rows: Sequence[Sequence[Tensor | np.ndarray]], titles: Sequence[str]) -> Figure:
    """Pictures in rows under the column `titles`, e.g. gray · generated · original.

    A picture is a tensor (1 or 3, H, W) in [0, 1] (clamped to it), or an array (H, W) or (H, W, 3), uint8.
    Raises ValueError where there are no rows, or one has another number of pictures than there are titles.
    """
    if not rows or any(len(row) != len(titles) for row in rows):
        raise ValueError(f"each row needs {len(titles)} pictures: {', '.join(titles)}")
    figure = Figure(figsize=(2.2 * len(titles), 2.2 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row_axes, row in zip(axes, rows, strict=True):
        for axis, picture in zip(row_axes, row, strict=True):
            pixels = _pixels(picture)
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure


def plot_pairs(gray: Tensor, generated: Tensor, original: Tensor) -> Figure:
    """The submission's test grid, gray · generated · original, a row a picture; (B, C, H, W) each."""
    rows = list(zip(gray, generated, original, strict=True))
    return plot_grid(rows, ("gray", "generated", "original"))


def _pixels(picture: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(picture, Tensor):
        picture = picture.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        return picture[..., 0] if picture.shape[-1] == 1 else picture
    return picture


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure in the format of `path`'s suffix, whole or not at all."""
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, dpi=100)
    return Path(path)
