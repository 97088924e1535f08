"""What a notebook needs of the place it runs in: the packages, a folder that outlasts it, a figure that grows.

IPython is imported where it is used, so that everything here can also be called from a terminal.
"""

import inspect
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from importlib import invalidate_caches, metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from colorize_utils import __version__
from colorize_utils.data import levels_of
from colorize_utils.devices import choose_device
from colorize_utils.files import written_whole
from colorize_utils.plots import figure_png, plot_progress

# Of each requirement the module that it brings. A test compares them with requirements.txt.
MODULES = {
    "gdown": "gdown",
    "ipywidgets": "ipywidgets",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pillow": "PIL",
    "pytorch-msssim": "pytorch_msssim",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "torch": "torch",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
}
DRIVE = Path("/content/drive")
RUNS = "COLORIZE_RUNS"  # the environment variable that names the folder of all runs


def on_colab() -> bool:
    return "google.colab" in sys.modules


def prepare() -> None:
    """Installs the packages that are missing, moves none that is there, and prints what the notebook runs on.

    Where a package cannot be had, says which and goes on: colorizing needs fewer than training.
    """
    missing = [package for package, module in MODULES.items() if find_spec(module) is None]
    if missing and not _install(missing):
        print(f"missing, and could not be installed: {', '.join(missing)}; what needs them will say so")
    place = os.path.relpath(Path(__file__).parent)
    device = choose_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"colorize_utils {__version__} from {place}")
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, on {device.type} ({name})")


def _install(packages: list[str]) -> bool:
    """Whether pip could install `packages` with every distribution that is there held at its version."""
    held = {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in held.items()), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "-c", str(constraints), *packages], stderr=subprocess.DEVNULL)
    invalidate_caches()
    return done.returncode == 0


def runs_folder(mount_drive: bool = False) -> Path:
    """The folder of all runs: `COLORIZE_RUNS`, else one on a mounted Google Drive, else `runs` in the working folder.

    mount_drive: on Colab, mount it first (Colab asks for permission), so that a run outlasts the runtime.
    """
    if RUNS in os.environ:
        return Path(os.environ[RUNS])
    if mount_drive and on_colab():
        from google.colab import drive

        drive.mount(str(DRIVE))
    on_drive = DRIVE / "MyDrive"
    return on_drive / "colorize_utils" / "runs" if on_drive.is_dir() else Path("runs")


def show_source(*parts: Callable | type):
    """The source of functions, methods and classes, for a cell to show."""
    from IPython.display import Markdown

    sources = [textwrap.dedent(inspect.getsource(part)) for part in parts]
    return Markdown("```python\n" + "\n\n".join(sources) + "```")


class LiveFigure:
    """A figure of a run that grows by the epoch: give it to `training.train` as `on_epoch`.

    folder: the run's. pair: a (colour (3, H, W), gray (1, H, W)) pair in [0, 1], the flower that is watched. What it
    looked like is kept in `folder/snapshots.npz`, so that the figure of a resumed run is whole.
    """

    def __init__(self, folder: Path, pair: tuple[Tensor, Tensor]):
        self.path = Path(folder) / "snapshots.npz"
        self.colour, self.gray = pair
        self.display = None
        self.snapshots: dict[int, np.ndarray] = {}
        if self.path.is_file():
            with np.load(self.path) as kept:
                self.snapshots = {int(epoch): kept[epoch] for epoch in kept.files}

    def __call__(self, epoch: int, history: dict, predictor: nn.Module) -> None:
        device = next(predictor.parameters()).device
        predictor.eval()
        with torch.no_grad():
            fake = predictor(self.gray[None].to(device))[0]
        predictor.train()
        self.snapshots[epoch] = levels_of(fake)
        with written_whole(self.path) as temporary:
            np.savez(temporary, **{str(epoch): picture for epoch, picture in self.snapshots.items()})
        self.show(history)

    def show(self, history: dict) -> None:
        """Draws the figure, in the place where it was drawn before."""
        from IPython.display import Image, display

        done = len(history["psnr"])
        seen = {epoch: picture for epoch, picture in self.snapshots.items() if epoch <= done}
        figure = plot_progress(history, seen, levels_of(self.gray)[..., 0], levels_of(self.colour))
        picture = Image(data=figure_png(figure, dpi=72))
        if self.display is None:
            self.display = display(picture, display_id=True)
        else:
            self.display.update(picture)
