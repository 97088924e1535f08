"""The command line: colorize pictures and archives, serve the page, train, score and hand out networks.

    python -m colorize_utils photo.jpg            → photo-colorized.jpg
    python -m colorize_utils photos/ -o colour/   → the same names in colour/
    python -m colorize_utils serve                → the web page
    python -m colorize_utils archive INPUT OUTPUT --address HOST:PORT
    python -m colorize_utils train gan-l1 …
    python -m colorize_utils evaluate …
    python -m colorize_utils compare …
    python -m colorize_utils calibrate CHECKPOINT --unknown FOLDER
    python -m colorize_utils release NAME CHECKPOINT
    python -m colorize_utils card -o FOLDER       → the bundled checkpoint and its card, for the Hugging Face Hub
    python -m colorize_utils export MODEL -o MODEL.onnx
    python -m colorize_utils cache --clear

Each command is a module of this package with `DESCRIPTION`, `add_arguments` and `run`. Results go to standard output,
errors to standard error, one line each. The exit status is 0 where all was done, 1 where something failed, 2 where the
command line was not understood, and 130 after an interrupt. Heavy libraries are imported where they are first needed,
so that `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence

from colorize_utils import __version__
from colorize_utils.cli import (
    archive,
    cache,
    calibrate,
    card,
    colorize,
    compare,
    evaluate,
    export,
    release,
    serve,
    train,
)
from colorize_utils.errors import ColorizeError
from colorize_utils.machine import require_torch

PROGRAM = "python -m colorize_utils"
COMMANDS = {
    "colorize": colorize,
    "archive": archive,
    "serve": serve,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "calibrate": calibrate,
    "release": release,
    "card": card,
    "export": export,
    "cache": cache,
}
DEFAULT = "colorize"
TRAINING = ("train", "evaluate", "compare", "calibrate", "release", "export")  # need PyTorch, whatever the options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: The arguments without the program's name; by default those of this process.

    Returns:
        The exit status: 0 where all was done, 1 where something failed, 130 after an interrupt.

    Raises:
        SystemExit: The arguments were not understood (status 2), or asked for help or the version (0).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in (*COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, DEFAULT)
    options = _parser().parse_args(arguments)
    try:
        if options.command in TRAINING:
            require_torch(options.command)
        return COMMANDS[options.command].run(options, options.parser)
    except ColorizeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [{DEFAULT}] PICTURE … [options]\n       {PROGRAM} COMMAND … [options]",
        description="Gray pictures in, colour pictures out. Without a command, the pictures or folders given are "
        "colorized; for a picture that has a command's name, write ./NAME.",
        epilog=f"The options of each: {PROGRAM} COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"colorize_utils {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        first, _, _ = module.DESCRIPTION.partition(". ")
        command = commands.add_parser(name, help=first.rstrip("."), description=module.DESCRIPTION)
        module.add_arguments(command)
        command.set_defaults(parser=command)
    return parser
