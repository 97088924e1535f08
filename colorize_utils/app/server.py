"""Starts and ends the page: address, QR code, code to enter, limits, and a temporary folder that is emptied."""

import atexit
import mimetypes
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from colorize_utils.data.pictures import HEIF
from colorize_utils.errors import ColorizeError
from colorize_utils.inference.colorizer import Colorizer

PORT = 7860
THREADS = 40  # of which `page._NETWORK` lets a few colour at once
_CODE_DIGITS = 6
_INLINE_HEIGHT = 1000  # pixels, in a notebook
_HERE = ExitStack()  # the page that a notebook shows
atexit.register(_HERE.close)
# Gradio reads these when it is imported. Nothing is sent anywhere, nothing kept in the browser, no server beside this.
_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SSR_MODE": "False"}


class ServeError(ColorizeError):
    """The page cannot be started."""


@dataclass(frozen=True)
class Served:
    """A page that runs.

    Attributes:
        url: Its address on this machine.
        lan_url: Its address for others on the network; "" where it is for this machine alone.
        public_url: Its public address; "" where it has none.
        code: What others have to enter; "" where nothing.
        folder: The temporary folder in which everything lies.
    """

    url: str
    lan_url: str
    public_url: str
    code: str
    folder: Path


@contextmanager
def serving(
    colorizer: Colorizer,
    *,
    port: int | None = None,
    lan: bool = False,
    code: str | None = None,
    share: bool = False,
    inline: bool = False,
) -> Iterator[Served]:
    """Runs the page while the block runs, and deletes all that visitors uploaded when it ends.

    Args:
        colorizer: The model that is chosen at first.
        port: Where it listens; by default the first free one from `PORT` on.
        lan: Whether others on the network can reach it; else only this machine can.
        code: What others have to enter; by default a new one where `lan` or `share` is asked for, else none. "" is
            none.
        share: Asks Gradio's server for a public address, which whoever has the link can reach.
        inline: Shows the page beneath a notebook's cell.

    Yields:
        Where it is.

    Raises:
        ServeError: Gradio is not installed, the port is taken, or no public address is to be had.
    """
    if code is None:
        code = "".join(secrets.choice("0123456789") for _ in range(_CODE_DIGITS)) if lan or share else ""
    with (
        tempfile.TemporaryDirectory(prefix="colorize-", ignore_cleanup_errors=True) as temporary,
        ExitStack() as ended,
    ):
        folder = Path(temporary)
        _set_up(_SETTINGS | {"GRADIO_TEMP_DIR": str(folder / "uploads")}, ended)
        try:
            from starlette.middleware import Middleware

            from colorize_utils.app.guard import Guard
            from colorize_utils.app.page import CSS, Models, Page, theme
            from colorize_utils.app.picture import MOST_BYTES
            from colorize_utils.app.visits import Visits
        except ImportError as error:
            raise ServeError(f'the page needs Gradio ({error}): pip install ".[app]"') from error
        for suffix in sorted(HEIF):  # Python's own list lacks them, and Gradio asks it what is an image
            mimetypes.add_type("image/heif" if suffix == ".heif" else "image/heic", suffix)
        page = Page(Visits(folder / "visits"), Models(colorizer))
        try:
            _, url, public = page.blocks.launch(
                server_name="0.0.0.0" if lan else "127.0.0.1",
                server_port=port,
                share=share,
                quiet=True,
                inline=inline,
                height=_INLINE_HEIGHT,
                prevent_thread_lock=True,
                show_error=False,
                max_threads=THREADS,
                max_file_size=MOST_BYTES,
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                mcp_server=False,
                app_kwargs={"middleware": [Middleware(Guard, code=code)], "docs_url": None, "redoc_url": None},
                theme=theme(),
                css=CSS,
            )
        except OSError as error:
            where = f"port {port}" if port else f"every port from {PORT} on"
            raise ServeError(f"{where} is taken; choose another with --port") from error
        try:
            if share and not public:
                raise ServeError("no public address is to be had: is this machine on the internet?")
            lan_url = f"http://{lan_address()}:{page.blocks.server_port}/" if lan else ""
            yield Served(url.replace("0.0.0.0", "127.0.0.1"), lan_url, public or "", code, folder)
        finally:
            page.blocks.close(verbose=False)


def show_page(colorizer: Colorizer, share: bool = False) -> None:
    """Shows the page beneath a notebook's cell, in Colab, too, until it is called again or the kernel ends.

    Args:
        colorizer: The model that is chosen at first.
        share: Also makes a public address, and prints it and its code.

    Raises:
        ServeError: As `serving`.
    """
    _HERE.close()
    served = _HERE.enter_context(serving(colorizer, share=share, inline=True))
    if share:
        print(invitation(served))


def _set_up(settings: dict[str, str], ended: ExitStack) -> None:
    """Sets variables of the environment, until the end."""
    for name, value in settings.items():
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            ended.callback(os.environ.pop, name, None)
        else:
            ended.callback(os.environ.__setitem__, name, before)


def lan_address() -> str:
    """This machine's address on the network that it is in; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
        except OSError:  # no network at all
            return "127.0.0.1"


def qr_code(text: str) -> str:
    """A QR code for a terminal, of half blocks; "" where segno is not installed."""
    try:
        import io

        import segno
    except ImportError:
        return ""
    out = io.StringIO()
    segno.make(text, error="m").terminal(out, compact=True)
    return out.getvalue()


def invitation(served: Served) -> str:
    """What whoever started the page is told: addresses, QR code, code."""
    lines = [f"The page is at {served.url}"]
    other = served.public_url or served.lan_url
    if served.lan_url:
        lines.append(f"For everybody on this network: {served.lan_url}")
    if served.public_url:
        lines.append(f"PUBLIC, for everybody who has the link, for a week at most: {served.public_url}")
    if other:
        entry = f"{other.rstrip('/')}/code?code={served.code}" if served.code else other
        lines += [qr_code(entry)] if served.code else [qr_code(other)]
        lines.append(f"Code to enter: {served.code} (the QR code holds it)" if served.code else "No code is asked for.")
    lines.append("Pictures stay on this machine, in a temporary folder that is emptied at the end. Ctrl-C ends it.")
    return "\n".join(lines)


def wait() -> None:
    """Waits until somebody interrupts or ends this process; what `serving` has to tidy up is then still done."""
    ended = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: ended.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended.wait(0.5):  # on Windows, a signal is handled only after the wait
            pass
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
