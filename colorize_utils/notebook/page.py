"""Starts the page of `serve` from a notebook, and first installs Gradio where it is missing or too old."""

import subprocess
import sys
from importlib import invalidate_caches, metadata
from typing import TYPE_CHECKING

from colorize_utils.errors import ColorizeError

if TYPE_CHECKING:
    from colorize_utils.inference import Colorizer

# Of the extra `app`. Colab comes with a Gradio that is older; what lies between loses the connection there.
NEEDED = {"gradio": "6.27", "segno": "1.6"}


def start_page(colorizer: "Colorizer", share: bool = False) -> None:
    """Shows the page beneath the cell until the cell is run again or the kernel ends.

    What is missing is installed by pip, the one thing that this package ever upgrades.

    Args:
        colorizer: The model that is chosen at first.
        share: Also asks a server of Gradio's for a public address, and prints it with its code: whoever has both can
            reach the page.

    Raises:
        ColorizeError: Gradio cannot be installed, or an older one is in use by this kernel; `ServeError` where the page
            cannot be started.
    """
    if missing := [f"{name}>={least}" for name, least in NEEDED.items() if not _is_there(name, least)]:
        print(f"installing {', '.join(missing)} …")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        if subprocess.run([*pip, *missing], stderr=subprocess.DEVNULL).returncode != 0:
            raise ColorizeError(
                f"the page needs {', '.join(missing)}, which could not be installed: is there a network? The last cell "
                "does without"
            )
        invalidate_caches()
        if "gradio" in sys.modules:
            raise ColorizeError(
                "Gradio was upgraded while an older one is in use: restart the runtime, then run this cell"
            )
    from colorize_utils.app.server import show_page

    show_page(colorizer, share)


def _is_there(name: str, least: str) -> bool:
    """Whether a distribution is installed, at least of that version."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return [int(part) for part in version.split(".")[:2]] >= [int(part) for part in least.split(".")]
