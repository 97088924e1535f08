"""What a run needs of the place it runs in: interrupts that wait for a step's end, and a folder on a mounted Drive.

Neither knows what is trained; training.py uses both.
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
# A Drive keeps every file that is replaced in its trash, which counts. A full-size GAN's state and two checkpoints are
# 1.2 GB together: every five minutes that made 11 GB an hour, at this rate they are copied every 40 minutes. A live
# figure's snapshots, written by the epoch, come on top: at most 0.2 GB an hour.
DRIVE_BYTES_AN_HOUR = 1.8e9


class Interruption:
    """Within the block, SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM set `requested` instead of striking.

    The first of them puts the previous handlers back, so that a second one acts at once; so does the end of the block.
    Nothing is set outside the main thread, which alone may, nor over a signal that is ignored (`nohup`) or handled by
    code other than Python's.
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
    """Whether a folder lies on a Google Drive that Colab has mounted."""
    return folder.resolve().is_relative_to(DRIVE)


class DriveFolder:
    """A run's folder on a Drive, and its twin on the local disk: the run lives in the twin, whose files are copied to
    the Drive no faster than `DRIVE_BYTES_AN_HOUR`.

    folder: on the Drive. names: the run's files. state: the one of them that a run goes on from; it is the first that
    ever arrives on the Drive and afterwards the last of each copy, so that what lies there can always be gone on from
    and is never newer than the files beside it.
    """

    def __init__(self, folder: Path, names: Sequence[str], state: str):
        self.folder, self.names, self.state = folder, names, state
        self.local = cache_folder() / "runs" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._stamps: dict[str, tuple[int, int]] = {}  # of the local files that the Drive has
        self._free_at = time.monotonic()  # when what was copied has been paid for

    def open(self) -> None:
        """Makes the twin what the Drive has, unless it is what this machine went on with from there."""
        on_drive = self.folder / self.state
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

    def copy(self, at_once: bool = False) -> bool:
        """Copies what has changed to the Drive, if its rate allows it, `at_once` is set, or there is no state yet.

        Returns whether the Drive now has all that the twin has. Raises OSError.
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
            self._free_at = max(self._free_at, time.monotonic()) + stamp[0] / DRIVE_BYTES_AN_HOUR * 3600
        if self.state in changed:
            self._note_origin()
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
    """Of a file that torch.save wrote: its last bytes hold a checksum of each tensor in it. A Drive's dates wander."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 2**20))
        return f"{size} {hashlib.sha256(file.read()).hexdigest()}"
