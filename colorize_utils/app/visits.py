"""Visits: which pictures a visitor has, and when they are deleted. Nothing here knows of the page.

A visit has a folder of its own, with a name that cannot be guessed.
"""

import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from colorize_utils.app.picture import How, Picture, coloured_file, keep
from colorize_utils.errors import ColorizeError
from colorize_utils.inference.hints import Answer

MOST_PICTURES = 20  # side by side on the page
MOST_FILES = 200  # in a batch
IDLE = 3600.0  # seconds after which a visit's pictures are deleted, once another visit begins
KEPT_BYTES = 4_000_000_000  # of all visits together; above, those that were idle for longest are deleted


@dataclass
class Batch:
    """What became of many files.

    Attributes:
        done: How many have a result.
        total: How many there were.
        failed: A line for each that has none.
        archive: The ZIP file with all results; None until it is whole, or where there are none.
    """

    done: int
    total: int
    failed: list[str]
    archive: Path | None = None


class Visit:
    """One visitor's pictures.

    Args:
        folder: Where they are kept; made here.

    Attributes:
        folder: As given.
        pictures: The visitor's pictures.
        current: Which of them is shown.
        answers: The answers that are shown for it.
        view: Which side of it is shown.
        used: When the visit was last used, in seconds of a clock.
        turn: Held by whoever works on the visit: steps of one visitor come one after the other.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder = folder
        self.pictures: list[Picture] = []
        self.current = 0
        self.answers: list[Answer] = []
        self.view = ""
        self.used = time.monotonic()
        self.turn = threading.RLock()
        self._count = 0

    @property
    def picture(self) -> Picture | None:
        """The picture that is shown; None where there is none."""
        return self.pictures[self.current] if self.pictures else None

    def take_in(self, files: Sequence[Path]) -> list[str]:
        """Takes uploaded files in, and shows the first of those that can be read.

        Args:
            files: The files.

        Returns:
            A line for each that cannot be read.
        """
        failures = []
        first = len(self.pictures)
        for file in files:
            if len(self.pictures) == MOST_PICTURES:
                failures.append(
                    f"{file.name} and what follows: more than {MOST_PICTURES} pictures; use “Many pictures”"
                )
                break
            try:
                self.pictures.append(Picture.taken_in(file, file.name, self._new_folder()))
            except ColorizeError as error:
                failures.append(str(error))
        if len(self.pictures) > first:
            self.current = first
        return failures

    def labels(self) -> list[str]:
        """A name for each picture; of several with one name, the later have a number."""
        names: list[str] = []
        for picture in self.pictures:
            same = sum(other.name == picture.name for other in self.pictures[: len(names)])
            names.append(f"{picture.name} ({same + 1})" if same else picture.name)
        return names

    def colour_all(self, files: Sequence[Path], how: How, place: bool = False) -> Iterator[Batch]:
        """Colours many files, and packs them into one ZIP file.

        Args:
            files: The files.
            how: How.
            place: Whether results keep where the pictures were taken.

        Yields:
            What has been done so far, after each file.
        """
        folder = self._new_folder()
        failed, taken = [], set()
        total = len(files)
        if total > MOST_FILES:
            failed.append(f"{total - MOST_FILES} files were left out: {MOST_FILES} at most; upload them apart")
        archive = folder / "colorized.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for number, file in enumerate(files[:MOST_FILES], 1):
                here = folder / str(number)
                here.mkdir()
                original = here / ("original" + file.suffix.lower())
                try:
                    keep(file, original)
                    result = coloured_file(original, file.name, here / "result", how, place)
                    name = result.name
                    for count in range(2, total + 2):
                        if name not in taken:
                            break
                        name = f"{result.stem}-{count}{result.suffix}"
                    taken.add(name)
                    packed.write(result, name)
                except (ColorizeError, OSError) as error:
                    failed.append(str(error).replace(str(original), file.name))
                shutil.rmtree(here)
                self.used = time.monotonic()
                yield Batch(len(taken), total, list(failed))
        yield Batch(len(taken), total, failed, archive if taken else None)

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        return folder


class Visits:
    """All visits of a server.

    Args:
        folder: Where their folders are made. Whoever made it deletes it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, key: str) -> Visit:
        """The visit with a key, a new one where there is none; a browser's page is the only one to know its key.

        Args:
            key: The key.

        Returns:
            The visit. Before a new one is made, those that have been idle for too long are deleted.
        """
        with self._lock:
            if key not in self._visits:
                self._clear()
                # The key is no name for a folder: the browser chose it.
                self._visits[key] = Visit(self._folder / secrets.token_urlsafe(16))
            visit = self._visits[key]
            visit.used = time.monotonic()
            return visit

    def __len__(self) -> int:
        return len(self._visits)

    def _clear(self) -> None:
        now = time.monotonic()
        longest_idle_first = sorted(self._visits.items(), key=lambda item: item[1].used)
        sizes = {key: _size(visit.folder) for key, visit in longest_idle_first}
        total = sum(sizes.values())
        for key, visit in longest_idle_first:
            if now - visit.used > IDLE or total > KEPT_BYTES:
                total -= sizes[key]
                del self._visits[key]
                shutil.rmtree(visit.folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
