"""What a run needs from the machine it runs on: interrupts that wait for the end of a step, and a Drive's folder.

Neither depends on what is trained; training.py uses both.
"""

import hashlib
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from colorize_utils.files import atomic_write, cache_folder

DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
# A Drive keeps every replaced file in its trash, which counts towards the Drive's quota. A full-size GAN's state and
# two checkpoints are 1.2 GB together: copied every five minutes they made 11 GB an hour; at this rate they are copied
# every 40 minutes. The live figure's snapshots, written after each epoch, add at most 0.2 GB an hour.
DRIVE_BYTES_AN_HOUR = 1.8e9


class Interruption:
    """A block in which SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM set `requested` and do nothing else.

    The first signal puts the previous handlers back, so that a second one acts at once; so does the end of the block.
    No handler is set outside the main thread, where Python does not allow it, nor for a signal that is ignored
    (`nohup`) or handled by code other than Python's.

    Attributes:
        requested: Whether one of the signals has arrived.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._put_back()

    def _put_back(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)


def lies_on_drive(folder: Path) -> bool:
    """Whether a folder lies on a Google Drive that Colab has mounted.

    Args:
        folder: It need not exist; links in its path are followed.

    Returns:
        True where it lies under `DRIVE`.
    """
    return folder.resolve().is_relative_to(DRIVE)


class DriveFolder:
    """A run's folder on a Drive, and its twin on the local disk.

    The run lives in the twin, whose files are copied to the Drive no faster than `DRIVE_BYTES_AN_HOUR`. The state is
    the first file of the first copy, and the last file of every later one: so the run can always be resumed from the
    Drive, and the state there is never newer than the files beside it.

    Args:
        folder: The folder on the Drive.
        names: The names of the run's files.
        state: The one among them that a run is resumed from.

    Attributes:
        folder, names, state: As given.
        local: The twin, a folder in the cache.
    """

    def __init__(self, folder: Path, names: Sequence[str], state: str):
        self.folder, self.names, self.state = folder, names, state
        self.local = cache_folder() / "runs" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._stamps: dict[str, tuple[int, int]] = {}  # size and date of each local file as it was last copied
        self._free_at = time.monotonic()  # when the rate allows the next copy

    def open(self) -> None:
        """Makes the twin equal to the folder on the Drive, unless the twin is that same run, perhaps further on.

        It is the same run where the Drive's state is the one that this machine last copied there or back, or where
        nothing has arrived on the Drive yet.

        Raises:
            OSError: A file cannot be read or written.
        """
        on_drive = self.folder / self.state
        if self.nothing_arrived():
            return
        if on_drive.is_file() and (self.local / self.state).is_file() and self._origin() == _fingerprint(on_drive):
            return
        shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True)
        for name in self.names:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, self.local / name)
                self._stamps[name] = _stamp(self.local / name)
        if on_drive.is_file():
            self._note_origin()

    def nothing_arrived(self) -> bool:
        """Whether the twin holds a run whose first copy failed, because the Drive was full, so that it is only there.

        Of a run that was deleted on the Drive, the twin knows that its state has been there.
        """
        arrived = self._origin() or any((self.folder / name).exists() for name in self.names)
        return (self.local / self.state).is_file() and not arrived

    def copy(self, at_once: bool = False) -> bool:
        """Copies what has changed to the Drive, if the rate allows it or the Drive has no state yet.

        Args:
            at_once: Whether to copy whatever the rate says.

        Returns:
            Whether the Drive now has all that the twin has.

        Raises:
            OSError: A file cannot be read or written.
        """
        first = not (self.folder / self.state).is_file()
        changed = [name for name in self.names if (self.local / name).is_file() and self._is_news(name)]
        if changed and not (at_once or first or time.monotonic() >= self._free_at):
            return False
        for name in sorted(changed, key=lambda name: (name == self.state) != first):
            stamp = _stamp(self.local / name)
            with atomic_write(self.folder / name) as temporary:
                shutil.copyfile(self.local / name, temporary)
            self._stamps[name] = stamp
            if name == self.state:  # now: of a first copy, the files after it may not arrive
                self._note_origin()
            self._free_at = max(self._free_at, time.monotonic()) + stamp[0] / DRIVE_BYTES_AN_HOUR * 3600
        return True

    def _is_news(self, name: str) -> bool:
        return self._stamps.get(name) != _stamp(self.local / name)

    def _origin(self) -> str:
        note = self.local / "origin"
        return note.read_text(encoding="utf-8") if note.is_file() else ""

    def _note_origin(self) -> None:
        (self.local / "origin").write_text(_fingerprint(self.folder / self.state), encoding="utf-8")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _fingerprint(path: Path) -> str:
    """Size and a hash of the last MiB of a file that torch.save wrote, which holds a checksum of each of its tensors.

    A file's date would not do: dates on a Drive change by themselves.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 2**20))
        return f"{size} {hashlib.sha256(file.read()).hexdigest()}"
