"""Decoded pictures on disk: each picture is read and resized once, not in every epoch.

A cache entry is a folder named after what it was made from. It is built under a temporary name beside its final place
and renamed when it is complete, so that a killed process leaves nothing that looks finished. Of two processes that
build the same entry, the first to finish wins and the other uses that entry. The pictures are memory-mapped: opening
an entry reads only its index.

Where a source has changed, the new entry copies the unchanged pictures from the old one, and the old one is deleted.
The leftovers of killed builds are deleted, too. `entries` and `clear` serve the command that shows and clears a cache.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm.auto import tqdm

from colorize_utils.errors import DataError
from colorize_utils.machine import usable_cores

if sys.platform != "win32":  # on Windows, only its age tells that a build was abandoned
    import fcntl

FORMAT = 2  # part of every entry's name: raise it when the stored form changes
GRAY_CHROMA = 4.0  # mean of max(R, G, B) − min(R, G, B), in 8-bit steps, up to which a picture counts as gray
Read = Callable[[int], np.ndarray]  # index of a picture → (size, size, 3) uint8, RGB; raises DataError
_CHUNK = 64  # pictures decoded ahead of the one being written
_LOCK = "building"  # the file that a running build holds a lock on; it contains the name of the machine
_ABANDONED = 3600  # seconds without a write after which a build of another machine counts as killed


@dataclass(frozen=True)
class Source:
    """What pictures are decoded from; at each size, a source has one entry, that of its latest state.

    Attributes:
        kind: "flowers-102" or "folder".
        folder: The absolute path of the folder that holds the files.
        crop: Whether the pictures become squares by cropping; else they are squashed.
        part: The split of Flowers-102; empty for a folder.
    """

    kind: str
    folder: str
    crop: bool = False
    part: str = ""


@dataclass(frozen=True)
class DecodedPictures:
    """A selection of decoded pictures: picture i is `pictures[rows[i]]`, so that a split copies nothing.

    Attributes:
        pictures: (M, size, size, 3) uint8, RGB, memory-mapped where cached.
        rows: (N,) indices into `pictures`.
        names: N strings.
        gray: (N,) bool, true for pictures without colour.
        skipped: A line for each file that was left out, with the reason.
    """

    pictures: np.ndarray
    rows: np.ndarray
    names: list[str]
    gray: np.ndarray
    skipped: list[str]

    @classmethod
    def of(
        cls,
        pictures: np.ndarray,
        names: Sequence[str],
        gray: Sequence[bool] | np.ndarray | None = None,
        skipped: Sequence[str] = (),
    ) -> "DecodedPictures":
        """Selects all of `pictures`, in order.

        Args:
            pictures: (N, size, size, 3) uint8, RGB.
            names: N strings.
            gray: N flags, true for pictures without colour; None for none.
            skipped: A line for each file that was left out.

        Returns:
            The selection.
        """
        flags = np.zeros(len(names), bool) if gray is None else np.asarray(gray, bool)
        return cls(pictures, np.arange(len(names)), list(names), flags, list(skipped))

    def take(self, which: np.ndarray) -> "DecodedPictures":
        """The pictures at the places `which`, integers (K,), of this selection."""
        return replace(self, rows=self.rows[which], names=[self.names[i] for i in which], gray=self.gray[which])


def decode(
    names: Sequence[str],
    signatures: Sequence[str],
    read: Read,
    size: int,
    source: Source,
    folder: Path | str | None,
    progress: bool = True,
) -> DecodedPictures:
    """The pictures `read(0)` … `read(len(names) - 1)`, from the cache or decoded now and cached.

    Args:
        names: Of the pictures.
        signatures: A string for each picture, which changes when its file does. The entry of a source is used again
            where all names and signatures are equal, a single picture of it where its own are.
        read: Index → (size, size, 3) uint8, RGB; where it raises DataError, the picture is skipped.
        size: Pixels a side.
        source: What the pictures are decoded from.
        folder: Where the cache lies; None keeps the pictures in memory.
        progress: Shows a progress bar.

    Returns:
        The pictures that could be read, in the order of `names`, and a line for each that could not.

    Raises:
        DataError: The disk is too full (the message names the space that is needed), or the folder cannot be written.
    """
    if folder is None:
        store = np.empty((len(names), size, size, 3), np.uint8)
        rows, gray, skipped = _decode_all(names, read, lambda row, picture: store.__setitem__(row, picture), progress)
        return DecodedPictures.of(store, [names[row] for row in rows], gray, skipped)

    slot = f"{size}-{_digest([FORMAT, size, *asdict(source).values()])}-"
    entry = Path(folder) / "pictures" / f"{slot}{_digest([*names, *signatures])}"
    for _ in range(2):  # twice: a process that found other pictures in the source may delete this entry as out of date
        if entry.is_dir():
            try:
                return _open(entry, size)
            except (OSError, ValueError, KeyError):  # damaged, e.g. a short file, or an index that is not JSON
                shutil.rmtree(entry, ignore_errors=True)
        older = [path for path in entry.parent.glob(f"{slot}*") if path != entry]
        _build(entry, names, signatures, _reusing(older, names, signatures, read, size), size, source, progress)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)
    return _open(entry, size)


def _digest(values: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:20]


def _reusing(older: Sequence[Path], names: Sequence[str], signatures: Sequence[str], read: Read, size: int) -> Read:
    """A `read` that takes a picture from an older entry where that has it with the same name and signature."""
    known = {}
    for entry in older:
        try:
            pictures, index = _open(entry, size).pictures, _index(entry)
            for row, key in enumerate(zip(index["names"], index["signatures"], strict=True)):
                known[key] = pictures[row]
        except (OSError, ValueError, KeyError):  # damaged: decode anew
            continue
    return lambda index: known[key] if (key := (names[index], signatures[index])) in known else read(index)


def _decode_all(
    names: Sequence[str], read: Read, write: Callable[[int, np.ndarray], object], progress: bool
) -> tuple[list[int], list[bool], list[str]]:
    """Passes every picture that can be read to `write`, with its row.

    Returns the indices of these pictures, for each of them whether it is gray, and a line for each other picture.
    """
    rows: list[int] = []
    gray: list[bool] = []
    skipped: list[str] = []

    def attempt(index: int) -> np.ndarray | DataError:
        try:
            return read(index)
        except DataError as error:
            return error

    # As many as the executor's own default, which counts all cores of the machine before Python 3.13; some threads more
    # than cores, because a thread may wait for the disk or a mounted Drive.
    threads = min(32, usable_cores() + 4)
    bar = tqdm(total=len(names), desc="decoding", unit="pic", disable=not progress)
    with ThreadPoolExecutor(threads) as pool, bar:
        for start in range(0, len(names), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(names)))
            for index, picture in zip(indices, pool.map(attempt, indices), strict=True):
                bar.update()
                if isinstance(picture, DataError):
                    skipped.append(str(picture))
                    continue
                write(len(rows), picture)
                rows.append(index)
                chroma = picture.max(axis=-1).astype(np.int16) - picture.min(axis=-1)
                gray.append(bool(chroma.mean() <= GRAY_CHROMA))
    return rows, gray, skipped


def _build(
    entry: Path,
    names: Sequence[str],
    signatures: Sequence[str],
    read: Read,
    size: int,
    source: Source,
    progress: bool,
) -> None:
    need = len(names) * size * size * 3
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        for leftover in entry.parent.glob(".*"):
            if _is_abandoned(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(entry.parent).free
        if free < need:
            raise DataError(_full(entry.parent, need, free))
        with _building(entry) as building:
            # Plain writes raise an error when the disk is full; a write through a memory map would kill the process.
            with open(building / "pictures.bin", "wb") as file:
                rows, gray, skipped = _decode_all(
                    names, read, lambda _, picture: file.write(np.ascontiguousarray(picture, np.uint8).data), progress
                )
                file.flush()
                os.fsync(file.fileno())
            index = {
                "source": asdict(source),
                "names": [names[row] for row in rows],
                "signatures": [signatures[row] for row in rows],
                "gray": gray,
                "skipped": skipped,
            }
            with open(building / "index.json", "w", encoding="utf-8") as file:
                json.dump(index, file)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(_full(entry.parent, need, shutil.disk_usage(entry.parent).free)) from error
        raise DataError(
            f"cannot keep decoded pictures in {entry.parent}: {error.strerror or error}; "
            "set COLORIZE_CACHE to a folder that can be written"
        ) from error


@contextmanager
def _building(entry: Path) -> Iterator[Path]:
    """A new folder beside `entry` to build in; it is renamed to `entry` where the block succeeds, else deleted.

    While it builds, this process holds a lock on a file in the folder, by which others see that the build is not
    abandoned. The file names the machine from the moment that the lock is held until the build ends. A killed process
    leaves the name but not the lock.
    """
    folder = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}-"))
    try:
        with open(folder / _LOCK, "w", encoding="utf-8") as lock:
            if _try_lock(lock):
                lock.write(platform.node())
                lock.flush()
            yield folder
            lock.truncate(0)
        (folder / _LOCK).unlink()
        try:
            folder.rename(entry)
        except OSError:
            if not entry.is_dir():  # else another process has finished the same entry first
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: TextIO) -> bool:
    """Tries to lock a file; true where this process has the lock now, which ends with the file or the process."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or this disk has no locks
        return False
    return True


def _is_abandoned(building: Path) -> bool:
    """Whether the process that made a build's folder is gone.

    For a build of this machine the lock tells at once; for one of another machine (a cache on a shared disk), the build
    counts as abandoned when nothing has been written for an hour.
    """
    try:
        with open(building / _LOCK, encoding="utf-8") as lock:
            # In this order: a build empties the file before it lets the lock go.
            if _try_lock(lock) and lock.read() == platform.node():
                return True
    except OSError:
        pass  # a build of an earlier version, or one that has just begun
    try:
        written = max(os.stat(path).st_mtime for path in (building, *building.iterdir()))
    except OSError:  # the build has just finished
        return False
    return time.time() - written > _ABANDONED


def _full(folder: Path, need: int, free: int) -> str:
    return (
        f"{folder} has {free / 1e6:.0f} MB free, decoded pictures need {need / 1e6:.0f} MB; "
        "free some space, or set COLORIZE_CACHE to a folder on another disk"
    )


def _index(entry: Path) -> dict[str, Any]:
    return json.loads((entry / "index.json").read_text(encoding="utf-8"))


def _open(entry: Path, size: int) -> DecodedPictures:
    index = _index(entry)
    names = index["names"]
    shape = (len(names), size, size, 3)
    pictures = (
        np.memmap(entry / "pictures.bin", np.uint8, mode="r", shape=shape) if names else np.empty(shape, np.uint8)
    )
    return DecodedPictures.of(pictures, names, index["gray"], index["skipped"])


@dataclass(frozen=True)
class Entry:
    """A folder of the cache, as people see it: an entry, a build, or an entry that this version cannot read.

    Attributes:
        path: The folder.
        length: Bytes on disk.
        pictures: How many pictures it holds; None where it is not an entry that this version can read.
        size: Pixels a side; None likewise.
        source: What the pictures were decoded from; None likewise.
        building: Whether it is a build, running or killed.
    """

    path: Path
    length: int
    pictures: int | None = None
    size: int | None = None
    source: Source | None = None
    building: bool = False


def entries(folder: Path) -> list[Entry]:
    """Everything in a cache of decoded pictures, builds included, the largest first.

    Args:
        folder: Where the cache lies, such as `cache_folder()`.

    Returns:
        One `Entry` for each folder.
    """
    root = Path(folder) / "pictures"
    found = [_described(path) for path in (root.iterdir() if root.is_dir() else ()) if path.is_dir()]
    return sorted(found, key=lambda entry: (-entry.length, entry.path))


def _described(path: Path) -> Entry:
    length = sum(_length(file) for file in path.iterdir())
    if path.name.startswith("."):
        return Entry(path, length, building=True)
    try:
        index = _index(path)
        return Entry(path, length, len(index["names"]), int(path.name.split("-")[0]), Source(**index["source"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(path, length)


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a running build has just renamed its folder
        return 0


def clear(folder: Path) -> list[Entry]:
    """Deletes every entry and every abandoned build of a cache.

    Args:
        folder: Where the cache lies.

    Returns:
        What was deleted, the largest first.
    """
    gone = [entry for entry in entries(folder) if not entry.building or _is_abandoned(entry.path)]
    for entry in gone:
        shutil.rmtree(entry.path)
    return gone
