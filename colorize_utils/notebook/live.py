"""What a notebook shows and keeps while it trains: the folder of runs, the live figure, the source of functions.

IPython is imported where it is used, so that everything here can also be called from a terminal.
"""

import inspect
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from colorize_utils.colour import levels_of
from colorize_utils.errors import ColorizeError, TrainingError
from colorize_utils.files import atomic_write
from colorize_utils.notebook.bootstrap import on_colab
from colorize_utils.plots import MAX_SNAPSHOTS, figure_png, plot_progress
from colorize_utils.runs import DRIVE
from colorize_utils.training import History

if TYPE_CHECKING:
    from IPython.display import DisplayHandle, Markdown

RUNS = "COLORIZE_RUNS"  # the environment variable that names the folder of all runs


def runs_folder(mount_drive: bool = False) -> Path:
    """The folder of all runs: `COLORIZE_RUNS`, else one on a mounted Google Drive, else `runs` in the working folder.

    Args:
        mount_drive: On Colab, mounts Google Drive first (Colab asks for permission), so that a run outlasts the
            runtime.

    Returns:
        The folder, which need not exist yet.

    Raises:
        ColorizeError: Drive cannot be mounted.
    """
    if named := os.environ.get(RUNS):  # an empty value counts as none: its path would be the working folder
        return Path(named)
    if mount_drive:
        mount()
    on_drive = DRIVE / "MyDrive"
    return on_drive / "colorize-runs" if on_drive.is_dir() else Path("runs")


def mount() -> None:
    """Mounts Google Drive on Colab, if it is not mounted yet; elsewhere does nothing.

    Raises:
        ColorizeError: The permission is refused, or mounting fails.
    """
    if on_colab() and not (DRIVE / "MyDrive").is_dir():
        from google.colab import drive

        try:
            drive.mount(str(DRIVE))
        except Exception as error:
            # Colab documents no exceptions: a refusal raises its own MessageError, a failure a ValueError.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ColorizeError(
                f"Google Drive is not mounted ({reason}): run this cell again and allow it, or do without (USE_DRIVE = "
                "False keeps runs in this runtime, as long as it lives)"
            ) from error


def show_source(*parts: Callable[..., Any] | type) -> "Markdown":
    """The source of functions, methods and classes, for a cell to show.

    Args:
        *parts: The functions, methods and classes.

    Returns:
        Their sources, one below the other, as Markdown.
    """
    from IPython.display import Markdown

    sources = [textwrap.dedent(inspect.getsource(part)) for part in parts]
    return Markdown("```python\n" + "\n\n".join(sources) + "```")


class LiveFigure:
    """A figure of a run that is drawn anew after each epoch: give it to `training.train` as `on_epoch`.

    It shows the curves, and snapshots: what the generator made of one picture in the epochs so far. Snapshots are kept
    in `folder/snapshots.npz`, so that the figure of a resumed run is complete.

    Args:
        folder: The run's folder.
        pair: The picture that is watched: colour (3, H, W) and gray (1, H, W), both in [0, 1].
    """

    def __init__(self, folder: Path, pair: tuple[Tensor, Tensor]):
        self.path = Path(folder) / "snapshots.npz"
        self.colour, self.gray = pair
        self.display: DisplayHandle | None = None
        self.snapshots: dict[int, np.ndarray] = {}
        if self.path.is_file():
            with np.load(self.path) as kept:
                self.snapshots = {int(epoch): kept[epoch] for epoch in kept.files}

    def __call__(self, epoch: int, history: History, predictor: nn.Module) -> None:
        """Takes a snapshot, saves it and draws the figure.

        Args:
            epoch: The epoch that has ended, from 1.
            history: The curves so far.
            predictor: The generator, gray (B, 1, H, W) → colour (B, 3, H, W), both in [0, 1]; left in training mode.

        Raises:
            TrainingError: The snapshots cannot be saved.
        """
        device = next(predictor.parameters()).device
        predictor.eval()
        with torch.no_grad():
            fake = predictor(self.gray[None].to(device))[0]
        predictor.train()
        self.snapshots[epoch] = levels_of(fake)
        if len(self.snapshots) > 2 * MAX_SNAPSHOTS:  # every other one is kept: 350 of them would fill a Drive
            kept = sorted(self.snapshots)[::2]
            self.snapshots = {one: self.snapshots[one] for one in {*kept, epoch}}
        try:
            with atomic_write(self.path) as temporary:
                arrays: dict[str, Any] = {str(one): picture for one, picture in self.snapshots.items()}
                np.savez(temporary, **arrays)
        except OSError as error:
            raise TrainingError(
                f"cannot save {self.path} ({error.strerror or error}): free some space, then run this cell again"
            ) from error
        self.show(history)

    def show(self, history: History) -> None:
        """Draws the figure, in the place where it was drawn before.

        Args:
            history: The curves so far; later snapshots are not shown.
        """
        from IPython.display import Image, display

        done = len(history["psnr"])
        seen = {epoch: picture for epoch, picture in self.snapshots.items() if epoch <= done}
        figure = plot_progress(history, seen, levels_of(self.gray)[..., 0], levels_of(self.colour))
        picture = Image(data=figure_png(figure, dpi=72))
        if self.display is None:
            self.display = display(picture, display_id=True)
        else:
            self.display.update(picture)
