"""`release`: a run's checkpoint as a file to publish, with its entry for the registry."""

import argparse
from dataclasses import fields
from pathlib import Path

DESCRIPTION = (
    "Make a file to publish of a run's checkpoint, and print its entry for the registry in checkpoints/hub.py."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `release` to its parser."""
    parser.add_argument("name", help="the checkpoint's name in the registry")
    parser.add_argument("checkpoint", help="a run's best.safetensors or last.safetensors")
    parser.add_argument("-o", "--output", type=Path, default=Path("dist/weights"), help="(default: dist/weights)")
    parser.add_argument("--exact", action="store_true", help="keep 32 bits a weight; the default is 16")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Writes a run's checkpoint as a file to publish, and prints its registry entry; returns the exit status."""
    from colorize_utils.checkpoints import release

    entry = release(options.checkpoint, options.name, options.output, half=not options.exact)
    print(f"# {options.output / entry.name}{entry.suffix}")
    print("RegistryEntry(")
    for field in fields(entry):
        value = getattr(entry, field.name)
        if value != field.default:
            print(f"    {field.name}={value!r},")
    print("),")
    return 0
