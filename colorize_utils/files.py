"""Atomic writes, and the cache folder: where everything lies that can be made or downloaded again."""

import functools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

MAX_NAME = 255  # bytes of a file's name, on every file system in common use
_ABANDONED = 3600  # seconds after which a temporary file that nobody writes to is deleted
_TEMPORARY = re.compile(r"\..*-part-[0-9a-f]{16}(\.[^.]*)?")


def cache_folder() -> Path:
    """Where the project keeps downloads and decoded pictures.

    Returns:
        The environment variable `COLORIZE_CACHE`, else the platform's own place for caches (~/.cache/colorize_utils on
        Linux). The folder need not exist yet.
    """
    return Path(os.environ.get("COLORIZE_CACHE") or platformdirs.user_cache_dir("colorize_utils", appauthor=False))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """An atomic write: readers see the old file or the new one, never a part of it, even after a power failure.

    The block writes to a temporary file in the same folder. When the block ends without an exception, that file is
    flushed to the disk and renamed to `path`; otherwise it is deleted, and `path` stays as it was. Any number of
    threads and processes may write at once, even to the same path: the last to finish wins. The file has the usual
    permissions of a new file, whatever the block gave it.

    Args:
        path: The file to write or replace. Its folder is made where it does not exist.

    Yields:
        The temporary file's path. It has the suffix of `path`, which some libraries take for the format.

    Raises:
        OSError: The folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(os.path.abspath(path.parent))
    temporary = _create(path)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        if temporary.stat().st_mode != mode:  # safetensors puts a private file (0o600) of its own in its place
            temporary.chmod(stat.S_IMODE(mode))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path) -> Path:
    """A new, empty, hidden file in the folder of `path`, with its suffix and the usual permissions of a new file."""
    while True:
        ending = f"-part-{secrets.token_hex(8)}{path.suffix}"
        temporary = path.with_name("." + shortened(path.stem, MAX_NAME - 1 - len(os.fsencode(ending))) + ending)
        with suppress(FileExistsError):
            # Not by tempfile: its files are private (0o600), and to correct that one would have to know the umask,
            # which can only be read by changing it for all threads.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


def shortened(text: str, most: int) -> str:
    """The longest beginning of a text that fits into so many bytes of a file's name.

    Args:
        text: A file's name, or a part of one.
        most: How many bytes there are, in the file system's encoding.

    Returns:
        `text` without as many of its last characters as are too many; no character is cut in two.
    """
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text


@functools.cache
def _clear_leftovers(folder: str) -> None:
    """Deletes the temporary files that killed processes left in a folder.

    Cached, so that each process looks into a folder only once: it takes long to list a large one.
    """
    for name in os.listdir(folder):
        if _TEMPORARY.fullmatch(name):
            with suppress(FileNotFoundError):  # another process has deleted the file, too, or finished and renamed it
                leftover = Path(folder, name)
                if time.time() - leftover.stat().st_mtime > _ABANDONED:
                    leftover.unlink()
