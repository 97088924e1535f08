"""`export`: a checkpoint as a file for ONNX Runtime, which colorizes without PyTorch."""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from colorize_utils.cli.options import at_least

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION = (
    "Write a checkpoint as a file for ONNX Runtime, the whole of prediction in it, and compare its pictures with "
    "PyTorch's. It needs the extra int8."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `export` to its parser."""
    parser.add_argument("model", nargs="?", help="a checkpoint's name or file (default: the bundled one)")
    parser.add_argument("-o", "--output", type=Path, help="the file to write (default: NAME.onnx)")
    parser.add_argument("--exact", action="store_true", help="keep 32 bits a weight; the default is 16")
    parser.add_argument("--licence", help="what the file says of its licence (default: the registry's)")
    parser.add_argument(
        "--pictures",
        type=Path,
        help="the folder of photographs to compare on (default: the sample photograph, and scikit-learn's)",
    )
    parser.add_argument("--count", type=at_least(1), default=20, help="compare on so many of them (default: 20)")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Exports a checkpoint, compares the engines, and prints how far they are apart; returns the exit status."""
    from colorize_utils.checkpoints import DEFAULT, REGISTRY, load_generator
    from colorize_utils.files import atomic_write
    from colorize_utils.inference.export import export, verify_export

    model = options.model or DEFAULT
    loaded = load_generator(model)
    output = options.output or Path(f"{Path(loaded.name).stem}.onnx")
    known = REGISTRY.get(model)
    licence = options.licence or (known.licence if known else "not stated")
    photographs = list(islice(_photographs(options.pictures), options.count))
    with atomic_write(output) as temporary:  # a file that gives other pictures is not left behind
        export(loaded, temporary, licence, half=not options.exact)
        found = verify_export(loaded, temporary, photographs, output.name)
    print(
        f"{output}: {output.stat().st_size:,} bytes; {found.pictures} photographs differ from PyTorch's by at most "
        f"{found.levels} of 255 levels, in {found.moved:.2%} of their pixels"
    )
    return 0


def _photographs(folder: Path | None) -> Iterator["np.ndarray"]:
    """Gray photographs (H, W) uint8 to compare on: those of a folder, or what the installed packages bring."""
    from colorize_utils.data import sample_photograph
    from colorize_utils.data.pictures import is_picture, to_gray
    from colorize_utils.errors import PictureError

    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if is_picture(path))
        if not paths:
            raise PictureError(f"{folder} holds no pictures; give a folder of photographs")
        for path in paths:
            yield to_gray(path).gray
        return
    from sklearn.datasets import load_sample_images

    photograph = sample_photograph()
    for picture in (photograph, photograph.rotate(90, expand=True), *load_sample_images().images):
        yield to_gray(picture).gray
