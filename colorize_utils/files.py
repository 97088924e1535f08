"""Files that are either whole or not there, and the folder for what can be made or fetched again."""

import glob
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_ABANDONED = 3600  # seconds after which a temporary file that nobody writes to is taken away


def cache_folder() -> Path:
    """Where the project keeps downloads and decoded pictures: `COLORIZE_CACHE`, else the platform's own place for
    caches (~/.cache/colorize_utils on Linux)."""
    return Path(os.environ.get("COLORIZE_CACHE") or platformdirs.user_cache_dir("colorize_utils", appauthor=False))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes `path`'s place when the block ends well, and is deleted
    when it does not. Readers see the old file or the new one, never a part; so does whoever pulls the plug."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.stem[:40]}-part-"  # names have at most 255 bytes
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{path.suffix}"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED:  # by a process that was killed
            leftover.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    temporary = Path(name)
    os.close(handle)
    try:
        yield temporary
        # mkstemp makes private files; a result gets the permissions that a plain open() would have given it.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
