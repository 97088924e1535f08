"""`train`: trains a recipe, and keeps the run in a folder."""

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from colorize_utils.cli.options import RECIPE_HELP, add_data_options, training_splits
from colorize_utils.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from colorize_utils.ranks import Ranks

DESCRIPTION = (
    "Train a recipe. The run is kept in a folder: the best and the last checkpoint, curves, and the state that "
    "--resume goes on from. On several GPUs or machines: torchrun … -m colorize_utils train (docs/scale.md)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `train` to its parser."""
    parser.add_argument("recipe", choices=sorted(RECIPES), help="one of the submission's models, or the one beyond it")
    add_data_options(parser)
    parser.add_argument("--pool", action="store_true", help="deal training and validation split again, nine to one")
    parser.add_argument("--extra", type=Path, help="a folder of more training pictures; a fifth of them stays out")
    parser.add_argument("--drop-gray", action="store_true", help="leave pictures without colour out of training")
    parser.add_argument("--crop", action="store_true", help="crop the middle square; the default squashes to a square")
    parser.add_argument("-o", "--output", type=Path, help="the run's folder (default: runs/RECIPE)")
    parser.add_argument("--start-from", metavar="MODEL", help="begin with the weights of a checkpoint, not with random")
    parser.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="default: auto, by device and recipe; a run that is resumed keeps its own",
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks: for long runs on a GPU")
    parser.add_argument("--save-minutes", type=float, default=5.0, help="minutes between saves (default: 5)")
    group = parser.add_argument_group("recipe", "each replaces the recipe's own value")
    for field in fields(Recipe):
        if field.name in RECIPE_HELP:
            flag = "--" + field.name.replace("_", "-")
            if field.type is bool or isinstance(field.default, bool):
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=RECIPE_HELP[field.name])
            else:
                group.add_argument(flag, type=type(field.default), help=RECIPE_HELP[field.name])


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Trains a recipe, and saves its curves beside its checkpoints; returns the exit status."""
    changes = {name: getattr(options, name) for name in RECIPE_HELP if getattr(options, name) is not None}
    try:
        recipe = RECIPES[options.recipe].with_options(**changes)
    except ValueError as error:
        parser.error(str(error))

    from colorize_utils.ranks import joined

    with joined(options.device) as ranks:
        return _train(recipe, options, ranks)


def _train(recipe: Recipe, options: argparse.Namespace, ranks: "Ranks") -> int:
    """Trains in one process, or in one of several; of those the first one prints."""
    from colorize_utils.plots import plot_history, save_figure
    from colorize_utils.training import Diverged, History, Interrupted, train

    with ranks.one_before_the_others():
        splits = training_splits(options, recipe.size, ranks.first)
    if ranks.first:
        sizes = f"{len(splits.train)} training, {len(splits.val)} validation pictures, {len(splits.skipped)} left out"
        among = "" if ranks.alone else f"; {ranks.count} processes"
        print(f"{recipe.name} at {recipe.size}×{recipe.size}, width {recipe.width:g}: {sizes}{among}", flush=True)
    folder = options.output or Path("runs") / recipe.name

    def print_epoch(epoch: int, history: History, _: object) -> None:
        # Curves without values are left out: without an adversary there are no adversary's losses.
        latest = {curve: values[-1] for curve, values in history.items() if values}
        rival = f"discriminator {latest['discriminator_loss']:.4f}  " if "discriminator_loss" in latest else ""
        print(
            f"epoch {epoch}/{recipe.epochs}  {rival}generator {latest['generator_loss']:.4f}  "
            f"validation {latest['validation_loss']:.5f}  PSNR {latest['psnr']:.2f} dB  SSIM {latest['ssim']:.3f}  "
            f"{latest['seconds']:.1f} s",
            flush=True,
        )

    try:
        with _warnings_in_a_line():
            history = train(
                recipe,
                splits,
                folder,
                start_from=options.start_from,
                resume=options.resume,
                device=options.device,
                precision=options.precision,
                seed=options.seed,
                save_minutes=options.save_minutes,
                compiled=options.compile,
                progress=not options.quiet,
                on_epoch=print_epoch,
                ranks=ranks,
            )
    except (Diverged, Interrupted) as error:  # in all processes alike
        if ranks.first:
            raise
        return 130 if isinstance(error, Interrupted) else 1
    if ranks.first:
        save_figure(plot_history(history, title=recipe.name), folder / "curves.png")
        print(f"best checkpoint: {folder / 'best.safetensors'}; curves: {folder / 'curves.png'}")
    return 0


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Prints warnings as one line, without the place in the code, which does not help at a terminal."""
    as_it_was = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = as_it_was
