"""What several commands share: options, the help of a recipe's options, and argparse types."""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colorize_utils.data import Splits

PRECISIONS = ("auto", "fp32", "bf16", "int8")  # those of inference/engines.py: importing that would import NumPy
ENGINES = ("auto", "onnx", "torch")
RECIPE_HELP = {
    "epochs": "passes over the training pictures",
    "size": "training pictures are size×size",
    "width": "scales every layer; 1 is the original network",
    "batch_size": "pictures in a training step",
    "learning_rate": "learning rate of Adam, for both networks",
    "lambda_rec": "weight of the reconstruction loss",
    "lambda_adv": "weight of the adversarial loss",
    "lambda_dist": "weight of the distribution's cross-entropy (distribution, multiscale)",
    "n_critic": "critic updates for each generator update (wgan)",
    "critic_batch_size": "random pictures in a critic update (wgan)",
    "lambda_gp": "weight of the gradient penalty (wgan)",
    "discriminator_sigmoid": "the submission's sigmoid before BCEWithLogits",
    "bounded": "end the generator in a sigmoid",
    "keep_luminance": "keep the given luminance, and learn chroma alone",
    "decay": "let the learning rate fall to 0 over the second half",
    "flip": "mirror about half of the training pictures",
    "augment": "turn, scale, shift and light the training pictures otherwise",
    "surroundings": "gray or foreign surroundings for some training pictures",
    "hints": "give some training pictures the colours of some places, from the second half on (multiscale)",
    "degrade": "make the gray version of some training pictures look like an old print",
    "places": "random places of a picture at which a distribution is learned; 0: all (distribution, multiscale)",
    "weight_decay": "decay of the generator's kernels, as in AdamW",
    "dropout": "share of features dropped (U-Nets)",
    "ema_decay": "decay of the moving average of weights that is kept; 0 keeps the weights themselves",
}


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of commands that load training or evaluation pictures: data, device, seed and progress."""
    parser.add_argument(
        "--data",
        help="a folder that holds flowers-102/, a folder of pictures, or 'generated' "
        "(default: $COLORIZE_DATA, else Flowers-102 is downloaded)",
    )
    parser.add_argument("--count", type=at_least(10), default=200, help="how many generated flowers (default: 200)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="seed of every random choice; a folder's split is none (default: 0)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def training_splits(options: argparse.Namespace, size: int, first: bool = True) -> "Splits":
    """The pictures that `train` trains on, and `calibrate` after it: of the same options the same.

    Args:
        options: With those of `add_data_options`, and `pool`, `extra`, `drop_gray` and `crop`.
        size: Pixels a side.
        first: Whether this process is the one that shows progress.

    Returns:
        The splits.
    """
    from colorize_utils.data import load_splits

    return load_splits(
        options.data,
        size,
        pool=options.pool,
        extra=options.extra,
        drop_gray=options.drop_gray,
        crop=options.crop,
        seed=options.seed,
        count=options.count,
        progress=not options.quiet and first,
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option of commands that predict: the precision."""
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="fp32: exact; bf16: quicker on CPUs that have it; int8: quicker still on any CPU, nearly the same "
        "pictures (needs the extra int8); auto (default): bf16 where it is quicker and does not show, else fp32",
    )


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option of commands that colorize: the engine."""
    parser.add_argument(
        "--engine",
        default="auto",
        choices=ENGINES,
        help="onnx: ONNX Runtime, for the bundled model and what `export` wrote; torch: PyTorch, for all of them; auto "
        "(default): onnx where it can do what is asked for, on the CPU in fp32, else torch",
    )


@contextmanager
def imports_uncollected() -> Iterator[None]:
    """A block of imports in which Python does not look for garbage; nor does it, later, in what they made.

    An import makes hundreds of thousands of objects, which live as long as the process. Python would search them for
    garbage again and again while they are made, and once more when the process ends. Without that, colorizing one
    picture with PyTorch takes 1.6 in place of 2.0 seconds. Where torch is there already, the block does nothing.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def at_least(least: int) -> Callable[[str], int]:
    """Makes an argparse type of whole numbers.

    Args:
        least: The smallest number that it takes.

    Returns:
        A function of an option's text to its number; argparse reports its errors.
    """

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, got {value}")
        return value

    return number
