"""`cache`: how much disk space the cache of decoded pictures takes, and how to free it."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colorize_utils.data.cache import Entry

DESCRIPTION = "Show the decoded pictures that are kept on disk, or clear them. They are decoded again when needed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `cache` to its parser."""
    parser.add_argument("--clear", action="store_true", help="delete them (pictures and checkpoints stay)")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Lists or deletes what the cache of decoded pictures holds; returns the exit status."""
    from colorize_utils.data.cache import clear, entries
    from colorize_utils.files import cache_folder

    root = cache_folder()
    found = clear(root) if options.clear else entries(root)
    for entry in found:
        print(f"{entry.length / 1e6:9.1f} MB  {_described(entry)}")
    done = "cleared" if options.clear else "in"
    print(f"{sum(entry.length for entry in found) / 1e6:9.1f} MB  {len(found)} entries {done} {root / 'pictures'}")
    return 0


def _described(entry: "Entry") -> str:
    if entry.building:
        return "a build that runs or was killed"
    if entry.source is None:
        return f"of another version or damaged: {entry.path.name}"
    words = [f"{entry.pictures} pictures", f"{entry.size}×{entry.size}"]
    words += ["cropped"] * entry.source.crop + [f"{entry.source.part} split"] * bool(entry.source.part)
    return f"{', '.join(words)}: {entry.source.folder}"
