"""`python -m colorize_utils` is the command `colorize`; its subcommands are in cli/."""

import sys

from colorize_utils.cli import main

if __name__ == "__main__":
    sys.exit(main())
