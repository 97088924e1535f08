"""`colorize`, the default command: colorizes pictures and folders of pictures."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from colorize_utils.cli.options import add_engine_option, add_precision_option, at_least, imports_uncollected

if TYPE_CHECKING:
    from colorize_utils.inference import Colorizer, Hint

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
    parser.add_argument(
        "--model", help="a checkpoint's name (--list-models), file or hf://OWNER/NAME (default: the bundled one)"
    )
    parser.add_argument("--list-models", action="store_true", help="list the checkpoints that have a name, and stop")
    parser.add_argument("--sample", action="store_true", help="colorize a photograph that comes with the package")
    parser.add_argument("--strength", type=float, default=1.0, help="0 leaves gray, 1 is the model's chroma (default)")
    parser.add_argument(
        "--style",
        choices=("safe", "vivid"),
        help="safe (default): the mean of what is possible; vivid: stronger colours; for models that have both",
    )
    parser.add_argument(
        "--hint",
        action="append",
        metavar="X,Y,COLOUR",
        help="the colour of a place, which spreads to what belongs to it, such as 320,210,#c03050 or 320,210,red; can "
        "be given several times; for one picture",
    )
    parser.add_argument("--hints", type=Path, metavar="FILE", help="hints from a JSON file: a list of x, y and colour")
    parser.add_argument(
        "--answers",
        type=at_least(1),
        metavar="N",
        help="up to N pictures of each, where the model thinks several likely",
    )
    parser.add_argument("--uncertainty", type=Path, metavar="FILE", help="also a map of where the model guesses, light")
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
    parser.add_argument(
        "--no-place",
        action="store_true",
        help="do not keep in results where a picture was taken (GPS and place names in EXIF, XMP and IPTC)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist (never originals)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    add_engine_option(parser)
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
    about_one = [flag for flag in ("hint", "hints", "uncertainty") if getattr(options, flag)]
    if about_one and (len(options.pictures) > 1 or any(path.is_dir() for path in options.pictures)):
        parser.error(f"--{about_one[0]} is about one picture; give one")
    if options.answers and (options.raw or options.hint or options.hints):
        parser.error("--answers makes hints of its own; leave out --raw, --hint and --hints")

    with imports_uncollected():
        from colorize_utils.checkpoints import DEFAULT
        from colorize_utils.errors import HintError
        from colorize_utils.inference import Colorizer, Hint, read_hints
        from colorize_utils.inference.batch import colorize_files
        from colorize_utils.machine import keep_freed_memory

        progress, model = not options.quiet, options.model or DEFAULT
        colorizer = Colorizer.from_checkpoint(  # imports its engine
            model, options.device, progress, engine=options.engine, precision=options.precision
        )
    if str(colorizer.device) == "cpu":
        keep_freed_memory()
    if options.style not in (None, *colorizer.styles):
        parser.error(f"{colorizer.name} has no style {options.style}: it names a single colour; --strength is for it")
    try:
        hints = [*(read_hints(options.hints) if options.hints else ()), *map(Hint.parse, options.hint or ())]
    except HintError as error:
        parser.error(str(error))
    if (hints or options.answers) and not colorizer.takes_hints:
        parser.error(f"{colorizer.name} takes no hints, and so has one answer; leave out --model")
    if options.uncertainty and not colorizer.has_distribution:
        parser.error(f"{colorizer.name} does not know where it guesses; leave out --model")
    pictures = options.pictures or [_sample()]
    report = colorize_files(
        colorizer,
        pictures,
        options.output,
        answers=options.answers,
        overwrite=options.overwrite,
        skip_colour=options.skip_colour,
        progress=progress,
        mark=not options.no_mark,
        place=not options.no_place,
        keep_luminance=not options.raw,
        strength=options.strength,
        style=options.style,
        hints=hints,
    )
    if options.uncertainty and not report.failed:
        _write_uncertainty(colorizer, pictures[0], hints, options.uncertainty)
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
    elif report.chosen:
        for path, (name, probability) in report.chosen.items():
            print(f"{path}: {name}, {probability:.0%}")
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


def _write_uncertainty(colorizer: "Colorizer", picture: Path, hints: list["Hint"], path: Path) -> None:
    """A gray picture, white where the model's belief is widest."""
    import numpy as np
    from PIL import Image

    from colorize_utils.data.pictures import open_upright, save_picture

    map_of_it = colorizer.uncertainty(open_upright(picture), hints)
    save_picture(Image.fromarray(np.rint(255 * map_of_it).astype(np.uint8)), path)
