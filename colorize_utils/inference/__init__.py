"""Gray pictures to colour pictures: `Colorizer` for one (colorizer.py), `colorize_files` for many (batch.py)."""

from colorize_utils.inference.batch import colorize_files
from colorize_utils.inference.colorizer import DEFAULT_STYLE, STYLES, Colorizer

__all__ = ["DEFAULT_STYLE", "STYLES", "Colorizer", "colorize_files"]
