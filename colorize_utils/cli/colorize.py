"""`colorize`, the default command: colorizes pictures and folders of pictures."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from colorize_utils.cli.options import add_precision_option, imports_uncollected

MOST_NAMED = 10  # pictures that a note names
DESCRIPTION = "Colorize gray pictures: a file, several, or whole folders."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `colorize` to its parser."""
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="a picture, or a folder of pictures")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the file to write, or the folder where a folder or several pictures were given; its suffix is the format "
        "(default: NAME-colorized beside the original, in the original's format)",
    )
    parser.add_argument("--model", help="a checkpoint's name (--list-models) or file (default: the bundled one)")
    parser.add_argument("--list-models", action="store_true", help="list the checkpoints that have a name, and stop")
    parser.add_argument("--sample", action="store_true", help="colorize a photograph that comes with scikit-learn")
    parser.add_argument("--strength", type=float, default=1.0, help="0 leaves gray, 1 is the model's chroma (default)")
    parser.add_argument(
        "--style",
        choices=("safe", "vivid"),
        help="safe (default): the mean of what is possible; vivid: stronger colours; for models that have both",
    )
    parser.add_argument("--raw", action="store_true", help="the network's own output, luminance included")
    parser.add_argument(
        "--skip-colour",
        action="store_true",
        help="leave photographs that have colours of their own (a sepia print has not)",
    )
    parser.add_argument(
        "--no-mark",
        action="store_true",
        help="do not write into results that their colours are predicted, by which model and in which style",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist (never originals)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    add_precision_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, no names of written files")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Colorizes pictures, and prints what was written, failed or left alone; returns the exit status."""
    if options.list_models:
        return _list_models()
    if not (options.pictures or options.sample):
        parser.error("give a picture or a folder (or --sample, to see one colorized)")
    if options.sample and options.pictures:
        parser.error("--sample takes no pictures")
    if not 0 <= options.strength <= 4:
        parser.error(f"--strength must lie in 0 … 4, got {options.strength:g}")

    with imports_uncollected():
        from colorize_utils.checkpoints import DEFAULT
        from colorize_utils.devices import keep_freed_memory
        from colorize_utils.inference import Colorizer
        from colorize_utils.inference.batch import colorize_files

    progress, model = not options.quiet, options.model or DEFAULT
    colorizer = Colorizer.from_checkpoint(model, options.device, progress, precision=options.precision)
    if colorizer.device.type == "cpu":
        keep_freed_memory()
    if options.style not in (None, *colorizer.styles):
        parser.error(f"{colorizer.name} has no style {options.style}: it names a single colour; --strength is for it")
    report = colorize_files(
        colorizer,
        options.pictures or [_sample()],
        options.output,
        overwrite=options.overwrite,
        skip_colour=options.skip_colour,
        progress=progress,
        mark=not options.no_mark,
        keep_luminance=not options.raw,
        strength=options.strength,
        style=options.style,
    )
    for line in report.failed:
        print(f"error: {line}", file=sys.stderr)
    if report.links:
        linked = ", ".join(map(str, report.links))
        print(f"note: links to folders are not followed: {linked}; give those by name", file=sys.stderr)
    for line in not_read(report.unread):
        print(f"note: {line}", file=sys.stderr)
    if report.others:
        path, mark = report.others[0]
        print(
            f"note: {len(report.others)} of the results that were there are by another model or in another style "
            f"({path}: {mark.system}, {mark.style}); --overwrite makes them anew",
            file=sys.stderr,
        )
    if options.quiet:
        return 1 if report.failed else 0
    if report.unfamiliar:
        ordered = sorted(report.unfamiliar, key=lambda found: -found[1])
        listed = ", ".join(f"{path} ({number:.2f})" for path, number in ordered[:MOST_NAMED])
        more = f" and {len(ordered) - MOST_NAMED} more" if len(ordered) > MOST_NAMED else ""
        print(
            f"note: {colorizer.name} knows nothing like {listed}{more}: expect colours that are far off",
            file=sys.stderr,
        )
    if (coloured := len(report.coloured)) and not options.skip_colour:
        print(f"note: {coloured} had colours of their own; --skip-colour leaves those", file=sys.stderr)
    counts = f"{len(report.written)} colorized, {len(report.skipped)} already there, {len(report.failed)} failed"
    if report.left:
        print(f"{counts}, {len(report.left)} left, which have colours of their own")
    elif len(report.written) == 1:
        print(report.written[0])
    elif report.written or report.skipped:
        print(counts)
    return 1 if report.failed else 0


def not_read(unread: Counter[str]) -> Iterator[str]:
    """Says which files of a folder were not read, and how to make those readable that are pictures.

    Args:
        unread: How many there are, by their suffix.

    Yields:
        Lines.
    """
    from colorize_utils.data.pictures import NOT_READ

    for remedy in dict.fromkeys(NOT_READ.values()):
        kinds = [f"{count} {suffix}" for suffix, count in sorted(unread.items()) if NOT_READ.get(suffix) == remedy]
        if kinds:
            yield f"not read: {', '.join(kinds)}: {remedy}"
    others = {suffix or "without a suffix": count for suffix, count in unread.items() if suffix not in NOT_READ}
    if others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        yield f"not read, no pictures by their names: {listed}"


def _sample() -> Path:
    """The sample photograph, gray, as a file in the working folder; written only if it is not there yet."""
    from colorize_utils.data import sample_photograph
    from colorize_utils.data.pictures import save_picture

    path = Path("sample-flower.png")
    if not path.exists():
        save_picture(sample_photograph(), path)
    return path


def _list_models() -> int:
    from colorize_utils.checkpoints import DEFAULT, REGISTRY

    for entry in REGISTRY.values():
        default = " (default)" if entry.name == DEFAULT else ""
        print(f"{entry.name}{default}: {entry.note}; {entry.architecture}, width {entry.width:g}, ", end="")
        print(f"{entry.size}×{entry.size}; licence: {entry.licence}")
    return 0
