"""Files that are either whole or not there, and the folder for what can be made or fetched again."""

import functools
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

MAX_NAME = 255  # bytes of a file's name, on every file system in common use
_ABANDONED = 3600  # seconds after which a temporary file that nobody writes to is taken away
_TEMPORARY = re.compile(r"\..*-part-[0-9a-f]{16}(\.[^.]*)?")


def cache_folder() -> Path:
    """Where the project keeps downloads and decoded pictures: `COLORIZE_CACHE`, else the platform's own place for
    caches (~/.cache/colorize_utils on Linux)."""
    return Path(os.environ.get("COLORIZE_CACHE") or platformdirs.user_cache_dir("colorize_utils", appauthor=False))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes `path`'s place when the block ends well, and is deleted
    when it does not. Readers see the old file or the new one, never a part; so does whoever pulls the plug.

    Any number of threads and processes may write at once, also to one path: the last to finish wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(os.path.abspath(path.parent))
    temporary = _create(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path) -> Path:
    """A new, empty file beside `path`, hidden, with the same suffix and with the permissions of any new file."""
    while True:
        ending = f"-part-{secrets.token_hex(8)}{path.suffix}"
        temporary = path.with_name("." + shortened(path.stem, MAX_NAME - 1 - len(os.fsencode(ending))) + ending)
        with suppress(FileExistsError):
            # tempfile's are private (0o600), and the umask can only be asked for by changing it for all threads.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


def shortened(text: str, most: int) -> str:
    """The longest beginning of `text` that a file's name holds in `most` bytes; characters stay whole."""
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text


@functools.cache
def _clear_leftovers(folder: str) -> None:
    """Takes away what killed processes left in a folder, once a process: a listing of a large folder takes its time."""
    for name in os.listdir(folder):
        if _TEMPORARY.fullmatch(name):
            with suppress(FileNotFoundError):  # another process clears, too, or has finished the file
                leftover = Path(folder, name)
                if time.time() - leftover.stat().st_mtime > _ABANDONED:
                    leftover.unlink()
