"""Decoded pictures on disk: each is read and resized once, not every epoch.

A cache entry is a folder named after what it was made from. It is built beside its place under a temporary name and
renamed when complete, so that a killed process leaves nothing that looks finished, and of two processes that build the
same entry the first one wins and the second uses it. The pictures are memory-mapped: opening an entry reads nothing.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from colorize_utils.errors import DataError

FORMAT = 1  # part of every key: raise it when what is stored changes
GRAY_CHROMA = 4.0  # mean of max(R, G, B) − min(R, G, B), in 8-bit steps, up to which a picture counts as gray
_CHUNK = 64  # pictures decoded ahead of the one being written


def fingerprint(paths: Iterable[Path]) -> str:
    """A digest of files by name, size and time of change: different as soon as one was added, removed or replaced."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class DecodedPictures:
    """A selection of decoded pictures: picture i is `pictures[rows[i]]`, so that a split copies nothing.

    pictures: (M, size, size, 3) uint8 RGB, memory-mapped where cached. rows: (N,) indices into it. names: N strings.
    gray: (N,) bool, true for pictures without colour. skipped: a line for each file that is left out, and why.
    """

    pictures: np.ndarray
    rows: np.ndarray
    names: list[str]
    gray: np.ndarray
    skipped: list[str]

    @classmethod
    def of(cls, pictures: np.ndarray, names: Sequence[str], gray=None, skipped: Sequence[str] = ()):
        """All of `pictures`, in order."""
        gray = np.zeros(len(names), bool) if gray is None else np.asarray(gray, bool)
        return cls(pictures, np.arange(len(names)), list(names), gray, list(skipped))

    def take(self, which: np.ndarray) -> "DecodedPictures":
        """The pictures at these places of the selection."""
        return replace(self, rows=self.rows[which], names=[self.names[i] for i in which], gray=self.gray[which])


def decode(
    names: Sequence[str],
    read: Callable[[int], np.ndarray],
    size: int,
    key: Sequence[str],
    folder: Path | None,
    progress: bool = True,
) -> DecodedPictures:
    """The pictures `read(0)` … `read(len(names) - 1)`, from the cache or decoded now and cached.

    read: gives (size, size, 3) uint8; a DataError that it raises puts that picture among the skipped.
    key: what the pictures were made from; equal keys share an entry.
    folder: where the cache lies; None keeps the pictures in memory.

    Raises DataError where the disk is too full or the folder cannot be written, naming the space that is needed.
    """
    if folder is None:
        store = np.empty((len(names), size, size, 3), np.uint8)
        kept, gray, skipped = _decode_all(names, read, lambda row, picture: store.__setitem__(row, picture), progress)
        return DecodedPictures.of(store, kept, gray, skipped)

    digest = hashlib.sha256(json.dumps([FORMAT, size, *key, *names]).encode()).hexdigest()[:20]
    entry = Path(folder) / "pictures" / f"{size}-{digest}"
    if entry.is_dir():
        try:
            return _open(entry, size)
        except (OSError, ValueError, KeyError):  # damaged: a short file, an index that is no JSON
            shutil.rmtree(entry, ignore_errors=True)
    _build(entry, names, read, size, progress)
    return _open(entry, size)


def _decode_all(names, read, write, progress):
    kept, gray, skipped = [], [], []

    def attempt(index):
        try:
            return read(index)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool, tqdm(total=len(names), desc="decoding", unit="pic", disable=not progress) as bar:
        for start in range(0, len(names), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(names)))
            for index, picture in zip(indices, pool.map(attempt, indices), strict=True):
                bar.update()
                if isinstance(picture, DataError):
                    skipped.append(str(picture))
                    continue
                write(len(kept), picture)
                kept.append(names[index])
                chroma = picture.max(axis=-1).astype(np.int16) - picture.min(axis=-1)
                gray.append(bool(chroma.mean() <= GRAY_CHROMA))
    return kept, gray, skipped


def _build(entry: Path, names, read, size: int, progress: bool) -> None:
    need = len(names) * size * size * 3
    building = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(entry.parent).free
        if free < need:
            raise DataError(_full(entry.parent, need, free))
        building = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}-"))
        # Plain writes: a full disk is then an error, where a write through a memory map would kill the process.
        with open(building / "pictures.bin", "wb") as file:
            kept, gray, skipped = _decode_all(
                names, read, lambda _, picture: file.write(np.ascontiguousarray(picture, np.uint8)), progress
            )
            file.flush()
            os.fsync(file.fileno())
        index = {"names": kept, "gray": gray, "skipped": skipped}
        with open(building / "index.json", "w", encoding="utf-8") as file:
            json.dump(index, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            building.rename(entry)
        except OSError:
            if not entry.is_dir():  # else another process was first, with the same pictures
                raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(_full(entry.parent, need, shutil.disk_usage(entry.parent).free)) from error
        raise DataError(
            f"cannot keep decoded pictures in {entry.parent}: {error.strerror or error}; "
            "set COLORIZE_CACHE to a folder that can be written"
        ) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def _full(folder: Path, need: int, free: int) -> str:
    return (
        f"{folder} has {free / 1e6:.0f} MB free, decoded pictures need {need / 1e6:.0f} MB; "
        "free some space, or set COLORIZE_CACHE to a folder on another disk"
    )


def _open(entry: Path, size: int) -> DecodedPictures:
    index = json.loads((entry / "index.json").read_text(encoding="utf-8"))
    names = index["names"]
    shape = (len(names), size, size, 3)
    pictures = (
        np.memmap(entry / "pictures.bin", np.uint8, mode="r", shape=shape) if names else np.empty(shape, np.uint8)
    )
    return DecodedPictures.of(pictures, names, index["gray"], index["skipped"])
