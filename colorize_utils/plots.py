"""Figures: the submission's curves, gray · generated · original grids, runs compared and runs under way.

Each function returns a matplotlib Figure. Figures are made without pyplot, so that no window opens and no figure has to
be closed.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from colorize_utils.colour import levels_of
from colorize_utils.files import atomic_write

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
LEAST_PLACES = 20  # of a dot in a reliability diagram: fewer say nothing
MAX_SNAPSHOTS = 8  # pictures of a run under way that `plot_progress` draws


def plot_history(
    history: Mapping[str, Sequence[float]], title: str = "", others: Mapping[str, Mapping[str, Sequence[float]]] = {}
) -> Figure:
    """The seven curves of a run over its epochs, with other runs for comparison.

    A curve that no run has, such as a discriminator's loss where there is no discriminator, leaves its place empty.

    Args:
        history: Curve → one number an epoch; curves that are not in `CURVE_TITLES` are not drawn.
        title: The run's name, above the figure or, beside others, in the legend.
        others: Histories of other runs to draw in the same axes, by name.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(14, 6), layout="constrained")
    *axes, spare = figure.subplots(2, 4).flat
    runs = {title: history, **others}
    for axis, (curve, (name, label)) in zip(axes, CURVE_TITLES.items(), strict=True):
        for run, curves in runs.items():
            values = curves.get(curve, [])
            axis.plot(range(1, len(values) + 1), values, label=run, marker="." if len(values) < 30 else None)
        _over_epochs(axis, name, label)
        axis.set_visible(any(curves.get(curve) for curves in runs.values()))
    spare.axis("off")
    if others:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="lower right")
    else:
        figure.suptitle(title)
    return figure


def plot_progress(
    history: Mapping[str, Sequence[float]], snapshots: Mapping[int, np.ndarray], gray: np.ndarray, original: np.ndarray
) -> Figure:
    """A run under way: both losses, validation PSNR, and below them one flower as the generator colours it.

    Args:
        history: Curve → one number an epoch.
        snapshots: Epoch → the generator's picture (H, W, 3) uint8, RGB. At most `MAX_SNAPSHOTS` are drawn, evenly
            spread, the first and the last among them.
        gray: (H, W) uint8, drawn before the snapshots.
        original: (H, W, 3) uint8, RGB, drawn after them.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    curves, strip = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.5, 1))[:, 0]
    losses, rivals, quality = curves.subplots(1, 3)
    for axis, curve, title, unit in (
        (losses, "generator_loss", "Generator loss", "loss"),
        (rivals, "discriminator_loss", "Discriminator loss", "loss"),
        (quality, "psnr", "Validation PSNR", "dB"),
    ):
        values = history.get(curve, [])
        axis.plot(range(1, len(values) + 1), values, marker="." if len(values) < 30 else None)
        _over_epochs(axis, title, unit)
    epochs = sorted(snapshots)
    if len(epochs) > MAX_SNAPSHOTS:
        places = np.linspace(epochs[0], epochs[-1], MAX_SNAPSHOTS)
        epochs = sorted({min(snapshots, key=lambda epoch: abs(epoch - place)) for place in places})
    pictures = [("gray", gray), *((f"epoch {epoch}", snapshots[epoch]) for epoch in epochs), ("original", original)]
    for axis, (title, picture) in zip(strip.subplots(1, MAX_SNAPSHOTS + 2), pictures, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=9)
    for axis in strip.axes:
        axis.axis("off")
    return figure


def _over_epochs(axis: Axes, title: str, unit: str) -> None:
    axis.set(title=title, xlabel="epoch", ylabel=unit)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)


def plot_grid(rows: Sequence[Sequence[Tensor | np.ndarray]], titles: Sequence[str]) -> Figure:
    """A grid of pictures with a title above each column, e.g. gray · generated · original.

    Args:
        rows: Pictures, row by row. A picture is a tensor (1 or 3, H, W) in [0, 1], clamped to it, or an array (H, W)
            or (H, W, 3), uint8.
        titles: Of the columns.

    Returns:
        The figure.

    Raises:
        ValueError: There are no rows, or a row has another number of pictures than there are titles.
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
    """The submission's test grid, gray · generated · original, one row for each picture.

    Args:
        gray: (B, 1, H, W) in [0, 1].
        generated: (B, 3, H, W), RGB, clamped to [0, 1].
        original: (B, 3, H, W), RGB in [0, 1].

    Returns:
        The figure.

    Raises:
        ValueError: There are no pictures, or not as many of each kind.
    """
    rows = list(zip(gray, generated, original, strict=True))
    return plot_grid(rows, ("gray", "generated", "original"))


def plot_calibration(believed: np.ndarray, occurred: np.ndarray, places: np.ndarray, names: Sequence[str]) -> Figure:
    """Reliability diagrams: how often a colour was there, against how much it was believed.

    Args:
        believed: (names, bins), the mean probability within each bin; NaN where it is empty.
        occurred: (names, bins), the share of its places that had the colour.
        places: (names, bins), how many they are; the area of a dot is in proportion, and bins of fewer than
            `LEAST_PLACES` are left out.
        names: What each row is called.

    Returns:
        The figure, one diagram for each name; on the diagonal belief and occurrence agree.
    """
    columns = (len(names) + 1) // 2
    figure = Figure(figsize=(2.6 * columns, 5.6), layout="constrained")
    axes = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False).flat
    for axis, name, *values in zip(axes, names, believed, occurred, places, strict=False):
        x, y, count = np.stack(values)[:, values[2] >= LEAST_PLACES]
        axis.plot([0, 1], [0, 1], color="0.6", linestyle=":")
        axis.plot(x, y, color="0.3", linewidth=1)
        axis.scatter(x, y, s=200 * count / max(places.max(), 1), color="tab:blue", zorder=2)
        axis.set(title=f"{name} ({values[2].sum():,.0f})", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    figure.supxlabel("believed")
    figure.supylabel("was there")
    return figure


def _pixels(picture: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(picture, Tensor):
        picture = levels_of(picture)
        return picture[..., 0] if picture.shape[-1] == 1 else picture
    return picture


def figure_png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file, `dpi` pixels an inch of its size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure to a file, atomically.

    Args:
        figure: The figure.
        path: Where to; its suffix, such as .png, chooses the format. Folders that are missing are made.

    Returns:
        The path.
    """
    with atomic_write(Path(path)) as temporary:
        figure.savefig(temporary, dpi=100)
    return Path(path)
