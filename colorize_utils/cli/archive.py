"""`archive`: colorizes a whole archive on Ray, on one machine or on a cluster."""

import argparse
import sys

from colorize_utils.cli.colorize import MOST_NAMED, not_read
from colorize_utils.cli.options import add_engine_option, add_precision_option, at_least, imports_uncollected

DESCRIPTION = (
    "Colorize an archive: a folder of any size, on all cores and GPUs of this machine or of a cluster. "
    "The same command goes on where it was stopped."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `archive` to its parser."""
    parser.add_argument("input", help="the folder of the pictures: a path, or an address like s3://bucket/photographs")
    parser.add_argument("output", help="the folder for the results, which get the same names; a path or an address")
    parser.add_argument("--address", help="of a Ray cluster to join: HOST:PORT, or auto (default: Ray starts here)")
    parser.add_argument(
        "--workers", type=at_least(1), help="networks at once (default: as many as there are GPUs, or else cores)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="try pictures again that failed before")
    parser.add_argument(
        "--model", help="a checkpoint's name (--list-models), file or hf://OWNER/NAME (default: the bundled one)"
    )
    parser.add_argument("--strength", type=float, default=1.0, help="0 leaves gray, 1 is the model's chroma (default)")
    parser.add_argument("--style", choices=("safe", "vivid"), help="as in colorize")
    parser.add_argument("--skip-colour", action="store_true", help="leave photographs that have colours of their own")
    parser.add_argument("--no-mark", action="store_true", help="do not write into results that colours are predicted")
    parser.add_argument("--device", help="cpu, cuda (default: the fastest that a worker has)")
    add_engine_option(parser)
    add_precision_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Colorizes an archive, and prints what became of it; returns the exit status."""
    if not 0 <= options.strength <= 4:
        parser.error(f"--strength must lie in 0 … 4, got {options.strength:g}")

    with imports_uncollected():
        from colorize_utils.checkpoints import DEFAULT
        from colorize_utils.inference.archive import STATE, Place, colorize_archive, require_ray

    require_ray()
    progress = not options.quiet
    output = Place.at(options.output)
    report = colorize_archive(
        Place.at(options.input),
        output,
        options.model or DEFAULT,
        cluster=options.address,
        workers=options.workers,
        device=options.device,
        engine=options.engine,
        precision=options.precision,
        style=options.style,
        strength=options.strength,
        skip_colour=options.skip_colour,
        mark=not options.no_mark,
        retry_failed=options.retry_failed,
        progress=progress,
    )
    for _, line in report.failed[:MOST_NAMED]:
        print(f"error: {line}", file=sys.stderr)
    table = (output / STATE / "report").address
    if len(report.failed) > MOST_NAMED:
        print(f"error: and {len(report.failed) - MOST_NAMED} more; all are in {table}", file=sys.stderr)
    if report.missing:
        print(f"error: {report.missing} are not in the report; run the same command again", file=sys.stderr)
    if report.listing:
        if report.listing.links:
            linked = ", ".join(map(str, report.listing.links))
            print(f"note: links to folders are not followed: {linked}", file=sys.stderr)
        for line in not_read(report.listing.unread):
            print(f"note: {line}", file=sys.stderr)
    counts = ", ".join(f"{report.outcomes[outcome]} {words}" for outcome, words in _WORDS.items())
    if not options.quiet:
        print(f"{counts}; {report.coloured} had colours of their own, {report.unfamiliar} are unfamiliar ({table})")
    return 1 if report.failed or report.missing else 0


_WORDS = {"written": "colorized", "skipped": "already there", "left": "left", "failed": "failed"}
