"""`serve`: the web page, on this machine or for a class."""

import argparse
import sys

from colorize_utils.cli.options import add_engine_option, add_precision_option, imports_uncollected

DESCRIPTION = (
    "Start the web page: choose a photograph, see it in colour, tap what you know the colour of, download it. It is "
    "for this machine alone, unless --lan or --share says otherwise."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `serve` to its parser."""
    parser.add_argument("--model", help="a checkpoint's name, file or hf://OWNER/NAME (default: the bundled one)")
    parser.add_argument("--port", type=int, help="where it listens (default: the first free one from 7860 on)")
    parser.add_argument(
        "--lan",
        action="store_true",
        help="let others on this network in; prints address, QR code, and the code that they have to enter",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="ask Gradio's server for a public address: whoever has the link can reach it",
    )
    parser.add_argument("--code", help="the code to enter, in place of a random one")
    parser.add_argument("--no-code", action="store_true", help="let everybody in without a code")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    add_engine_option(parser)
    add_precision_option(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Starts the page, and waits for the interrupt that ends it; returns the exit status."""
    if options.code is not None and options.no_code:
        parser.error("--code and --no-code contradict each other")
    if options.code == "":
        parser.error("--code is empty; --no-code asks for none")
    with imports_uncollected():
        from colorize_utils.app.server import invitation, serving, wait
        from colorize_utils.checkpoints import DEFAULT
        from colorize_utils.inference import Colorizer
        from colorize_utils.machine import keep_freed_memory

    colorizer = Colorizer.from_checkpoint(
        options.model or DEFAULT, options.device, engine=options.engine, precision=options.precision
    )
    if str(colorizer.device) == "cpu":
        keep_freed_memory()
    if options.share:
        print("warning: --share makes a public address, through a server of Gradio's in the internet", file=sys.stderr)
    code = "" if options.no_code else options.code
    with serving(colorizer, port=options.port, lan=options.lan, code=code, share=options.share) as served:
        print(invitation(served), flush=True)
        wait()
    print("ended; what was uploaded is deleted")
    return 0
