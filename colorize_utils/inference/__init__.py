"""Gray pictures to colour pictures: `Colorizer` for one (colorizer.py), `colorize_files` for many (batch.py).

None of these names needs PyTorch; that is imported by what computes a network with it (torch_engine.py).
"""

from colorize_utils.generator_registry import STYLES
from colorize_utils.inference.batch import colorize_files
from colorize_utils.inference.colorizer import DEFAULT_STYLE, Colorizer
from colorize_utils.inference.hints import Answer, Belief, Hint, read_hints, write_hints

__all__ = [
    "DEFAULT_STYLE",
    "STYLES",
    "Answer",
    "Belief",
    "Colorizer",
    "Hint",
    "colorize_files",
    "read_hints",
    "write_hints",
]
