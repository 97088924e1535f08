"""GAN colorization: gray pictures in, colour pictures out.

The three names that most users need are here: `Colorizer` colorizes, `train` trains a generator, `load_splits` loads
the pictures to train on. They are imported when they are first used, so that importing the package loads nothing else,
not even torch.
"""

from typing import TYPE_CHECKING

from colorize_utils.lazy import from_rooms

if TYPE_CHECKING:
    from colorize_utils.data import load_splits
    from colorize_utils.inference import Colorizer
    from colorize_utils.training import train

__version__ = "0.1.0"
__all__ = ["Colorizer", "__version__", "load_splits", "train"]

__getattr__ = from_rooms(__name__, {"Colorizer": "inference", "load_splits": "data", "train": "training"})
