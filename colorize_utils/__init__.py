"""GAN colorization: gray pictures in, colour pictures out.

The three names that most users need are here: `Colorizer` colorizes, `train` trains a generator, `load_splits` loads
the pictures to train on. They are imported when they are first used, so that importing the package loads nothing else,
not even torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colorize_utils.data import load_splits
    from colorize_utils.inference import Colorizer
    from colorize_utils.training import train

__version__ = "0.1.0"
__all__ = ["Colorizer", "__version__", "load_splits", "train"]

_HOMES = {"Colorizer": "inference", "load_splits": "data", "train": "training"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
