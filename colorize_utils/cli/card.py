"""`card`: a folder to publish on the Hugging Face Hub, of a checkpoint and its model card."""

import argparse
from pathlib import Path

DESCRIPTION = (
    "Make a folder to publish on the Hugging Face Hub: a checkpoint, its model card with the front matter that the Hub "
    "reads, and its licence. Nothing is sent; `hf upload OWNER/NAME FOLDER` does that."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `card` to its parser."""
    parser.add_argument("checkpoint", nargs="?", help="a safetensors file (default: the bundled checkpoint)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="the checkpoint's model card (default: the bundled one)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("dist/hub"), help="(default: dist/hub)")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Writes a checkpoint with its card into a folder, and prints what is there; returns the exit status."""
    from colorize_utils.checkpoints import DEFAULT
    from colorize_utils.checkpoints.card import prepare

    for path in prepare(options.output, options.checkpoint or DEFAULT, options.text):
        print(path)
    return 0
