"""Several recipes trained side by side, from the same start on the same pictures, so that a class can compare them.

`Race` trains, an epoch of one and an epoch of the next; `RaceFigure` draws them in one figure; `scrubber_html` is a
slider through what they painted, which also works in a saved notebook that nobody has run.
"""

import base64
import html
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor, nn

from colorize_utils.colour import levels_of
from colorize_utils.data import PairDataset, Splits
from colorize_utils.devices import choose_device
from colorize_utils.losses import critic_loss, gradient_norms
from colorize_utils.machine import keep_freed_memory
from colorize_utils.notebook.lesson import BLUE, GREEN, LARGE, ORANGE, plot_slopes
from colorize_utils.plots import figure_png
from colorize_utils.recipes import Recipe
from colorize_utils.training import Diverged, History, Trainer

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

SHOWN = 6  # snapshots of each runner in the figure: more are too small on a projector
JUDGED = 48  # validation pictures that a critic's gap and slopes are taken from: a second's work
STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"))  # colour and marker of each runner


class Runner:
    """One of those that train side by side.

    Args:
        recipe: What is trained.
        splits: The pictures.
        seed: What every random choice follows from, the weights at the start among them.
        device: Where it trains.

    Attributes:
        trainer: Networks, optimizers, curves.
        snapshots: Epoch → the watched picture as its generator paints it, (H, W, 3) uint8.
        gaps: Of a critic, mean D(real) − mean D(fake) on validation pictures, a number an epoch.
        slopes: Of a critic, the gradient norms after the last epoch, (B,).
        stopped: Why it ended early; "" as long as it runs.
    """

    def __init__(self, recipe: Recipe, splits: Splits, seed: int, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trainer = Trainer(recipe, splits, device, seed=seed)
        self.snapshots: dict[int, np.ndarray] = {}
        self.gaps: list[float] = []
        self.slopes = torch.zeros(0)
        self.stopped = ""

    @property
    def history(self) -> History:
        """The curves so far."""
        return self.trainer.history

    def paint(self, gray: Tensor) -> Tensor:
        """Its generator's pictures.

        Args:
            gray: (B, 1, H, W) in [0, 1]; of another size than the recipe's, they are painted at that and resized.

        Returns:
            (B, 3, H, W), RGB, clamped to [0, 1], on the CPU.
        """
        predictor, side = self.trainer.kept_predictor, self.trainer.recipe.size
        with evaluating(predictor):
            fake = predictor(_resized(gray, side, side).to(self.trainer.device)).float().clamp(0, 1).cpu()
        return _resized(fake, *gray.shape[-2:])

    def judge(self, pictures: PairDataset) -> None:
        """Takes a critic's gap and slopes; does nothing where there is no critic.

        Args:
            pictures: From the validation split; the first `JUDGED` are taken.
        """
        if self.trainer.recipe.adversary != "critic" or self.trainer.discriminator is None:
            return
        real, gray = pictures[:JUDGED]
        critic, device = self.trainer.discriminator, self.trainer.device
        real, fake = real.to(device), self.paint(gray).to(device)
        with torch.no_grad():
            self.gaps.append(-float(critic_loss(critic(real), critic(fake))))
        self.slopes = gradient_norms(critic.forward, real, fake, torch.Generator().manual_seed(0)).detach().cpu()


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    if pictures.shape[-2:] == (height, width):
        return pictures
    return F.interpolate(pictures, size=(height, width), mode="bilinear", antialias=True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A block in which a network predicts: in evaluation mode, without gradients; afterwards it is put back.

    Args:
        network: The network.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


class Race:
    """Recipes trained side by side: the same seed, so the same start and the same order of pictures.

    Args:
        recipes: Name → recipe, of as many epochs each.
        splits: The pictures, of the recipes' size.
        watched: The picture that is watched: its place in the validation split.
        seed: What every random choice follows from.
        device: Where they train; by default the fastest device there is.

    Attributes:
        runners: By name.
        gray, colour: The picture that is watched, (1, H, W) and (3, H, W).

    Raises:
        ValueError: There are no recipes, or they have different numbers of epochs.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        splits: Splits,
        watched: int = 0,
        seed: int = 0,
        device: str | torch.device | None = None,
    ):
        if len({recipe.epochs for recipe in recipes.values()}) != 1:
            raise ValueError("those that run side by side need the same number of epochs")
        self.splits, self.seed = splits, seed
        chosen = choose_device(device)
        if chosen.type == "cpu":
            keep_freed_memory()
        self.colour, self.gray = splits.val[watched]
        self.runners = {name: Runner(recipe, splits, seed, chosen) for name, recipe in recipes.items()}

    @property
    def epochs(self) -> int:
        """How many epochs every runner that was not stopped has completed."""
        return min(runner.trainer.epoch for runner in self.runners.values() if not runner.stopped) if self.runs else 0

    @property
    def runs(self) -> bool:
        """Whether a runner is left that was not stopped."""
        return any(not runner.stopped for runner in self.runners.values())

    def run(self, on_epoch: Callable[["Race"], None] | None = None, progress: bool = True) -> None:
        """Trains all of them to the end. A notebook's stop button ends it early; what was painted stays.

        A runner whose losses are no longer finite stops, says so in `stopped`, and the others go on.

        Args:
            on_epoch: Called with the race after each epoch of all runners.
            progress: Whether to show a progress bar.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                while self._run_epoch(progress):
                    if on_epoch is not None:
                        on_epoch(self)
        except KeyboardInterrupt:
            print(f"stopped after {self.epochs} epochs; what was painted so far is kept")

    def _run_epoch(self, progress: bool) -> bool:
        """An epoch of each runner; False where none has one left."""
        going = [
            runner
            for runner in self.runners.values()
            if not runner.stopped and runner.trainer.epoch < runner.trainer.recipe.epochs
        ]
        for runner in going:
            try:
                runner.trainer.run_epoch(progress, after_step=lambda: None)
            except Diverged as error:
                runner.stopped = str(error)
                continue
            runner.snapshots[runner.trainer.epoch] = levels_of(runner.paint(self.gray[None])[0])
            runner.judge(self.splits.val)
        return bool(going)


# ---------------------------------------------------------------- the figure


class RaceFigure:
    """A figure of a race, drawn anew in its place after each epoch: give it to `Race.run` as `on_epoch`.

    Args:
        plot: What draws the race; by default `plot_race`.
    """

    def __init__(self, plot: Callable[[Race], Figure] | None = None):
        self.plot = plot or plot_race
        self.display: DisplayHandle | None = None

    def __call__(self, race: Race) -> None:
        """Draws the figure, in the place where it was drawn before.

        Args:
            race: The race.
        """
        from IPython.display import Image as Shown
        from IPython.display import display

        picture = Shown(data=figure_png(self.plot(race), dpi=60))
        if self.display is None:
            self.display = display(picture, display_id=True)
        else:
            self.display.update(picture)


def plot_race(race: Race) -> Figure:
    """Both losses and validation PSNR of all runners, and below them what each has painted so far.

    Args:
        race: The race, of two runners or more.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(15, 4.5 + 2.2 * len(race.runners)), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(4, 2.2 * len(race.runners)))[:, 0]
    titles = {"generator_loss": "generator loss", "discriminator_loss": "discriminator loss", "psnr": "PSNR, dB"}
    axes = above.subplots(1, len(titles))
    for axis, (curve, title) in zip(axes, titles.items(), strict=True):
        for (name, runner), (colour, marker) in zip(race.runners.items(), STYLES, strict=False):
            values = runner.history[curve]
            axis.plot(range(1, len(values) + 1), values, color=colour, marker=marker, linewidth=2.5, label=name)
        axis.set_title(title, fontsize=LARGE)
        axis.set_xlabel("epoch", fontsize=LARGE)
        axis.tick_params(labelsize=LARGE - 4)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].legend(fontsize=LARGE)
    _paintings(below.subplots(len(race.runners), SHOWN + 2, squeeze=False), race)
    return figure


def plot_leash(race: Race) -> Figure:
    """A race of critics under different penalties: gaps, slopes, and what the last epoch painted.

    Args:
        race: The race, of recipes with a critic.

    Returns:
        The figure (`lesson.plot_slopes`).
    """
    runners = race.runners.items()
    painted = {name: runner.snapshots[max(runner.snapshots)] for name, runner in runners if runner.snapshots}
    return plot_slopes(
        {name: runner.slopes for name, runner in runners}, {name: runner.gaps for name, runner in runners}, painted
    )


def _paintings(axes: np.ndarray, race: Race) -> None:
    """A row a runner: gray, its snapshots, the original."""
    for row, (name, runner) in zip(axes, race.runners.items(), strict=True):
        epochs = sorted(runner.snapshots)
        places = np.unique(np.linspace(0, len(epochs) - 1, min(SHOWN, len(epochs))).round().astype(int))
        pictures = [(f"epoch {epochs[place]}", runner.snapshots[epochs[place]]) for place in places]
        pictures = [("gray", levels_of(race.gray)[..., 0]), *pictures, ("original", levels_of(race.colour))]
        for axis, (title, picture) in zip(row, pictures, strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=LARGE - 2)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        row[0].set_ylabel(name, fontsize=LARGE)


# ---------------------------------------------------------------- the epoch scrubber


def scrubber_html(rows: Mapping[str, Mapping[int, np.ndarray]], side: int = 256) -> str:
    """HTML of a slider through all snapshots of one picture, the rows one above the other.

    The frames lie in one long strip that scrolls sideways under a window one frame wide, so that its scroll bar is a
    slider already. That needs nothing but inline styles, which Jupyter keeps where it removes scripts: in a notebook
    that is not trusted because nobody has run it. Where scripts are allowed (a notebook that was run or is trusted,
    Colab, a page exported by nbconvert) a real slider appears below the strip, with the epoch beside it. GitHub
    removes styles as well, and shows the frames one after the other.

    Args:
        rows: Name → epoch → picture (H, W, 3) uint8. An epoch that a row lacks stays empty there.
        side: Pixels a side of a picture on the page.

    Returns:
        The HTML, with the pictures inside as JPEG. It needs no library, no network and no kernel.

    Raises:
        ValueError: There are no snapshots.
    """
    epochs = sorted({epoch for row in rows.values() for epoch in row})
    if not epochs:
        raise ValueError("there are no snapshots yet: run some epochs first")
    width = side + 32
    frames = "".join(_frame(rows, epoch, epochs[-1], side, width) for epoch in epochs)
    move = (
        "const strip = this.closest('figure').querySelector('div'); "
        "strip.scrollLeft = this.value * strip.firstElementChild.offsetWidth"
    )
    # Shown by the first picture, once scripts are allowed; otherwise a slider would be there that moves nothing.
    slider = (
        f'<div style="display:none"><input type="range" min="0" max="{len(epochs) - 1}" value="0" step="1" '
        f'aria-label="epoch" style="width:100%;margin:8px 0" oninput="{move}"></div>'
    )
    reveal = "this.closest('figure').querySelector('input').parentElement.style.display = 'block'"
    trigger = f'<img alt="" src="{PIXEL}" width="1" height="1" onload="{reveal}">'
    return (
        f'<figure style="margin:8px 0;width:{width}px">'
        f'<div style="width:{width}px;overflow-x:scroll;white-space:nowrap;border:1px solid #888">{frames}</div>'
        f"{slider}<figcaption>{trigger}Scroll sideways, or move the slider: {len(epochs)} epochs</figcaption></figure>"
    )


def _frame(rows: Mapping[str, Mapping[int, np.ndarray]], epoch: int, last: int, side: int, width: int) -> str:
    """One epoch: its number, and each row's picture with the row's name above it."""
    parts = [f'<div style="font-size:20px;font-weight:bold;text-align:center">epoch {epoch} of {last}</div>']
    for name, row in rows.items():
        label = html.escape(name, quote=True)
        picture = ""
        if epoch in row:
            alt = f"{label}, epoch {epoch}"
            picture = f'<img alt="{alt}" src="{_jpeg(row[epoch])}" width="{side}" height="{side}">'
        parts.append(
            f'<div style="height:{side + 30}px;font-size:20px;text-align:center"><div>{label}</div>{picture}</div>'
        )
    return f'<div style="display:inline-block;width:{width}px;vertical-align:top">{"".join(parts)}</div>'


def _jpeg(picture: np.ndarray) -> str:
    """A data URL of a picture (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # a transparent one


def snapshots_of(race: Race) -> dict[str, Mapping[int, np.ndarray]]:
    """What `scrubber_html` takes, of a race: gray and original would not change, and are left out.

    Args:
        race: The race.

    Returns:
        Name → epoch → picture.
    """
    return {name: runner.snapshots for name, runner in race.runners.items()}
