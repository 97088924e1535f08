"""Pictures by the folder: what goes where, what is left alone, and a report of it all."""

import hashlib
import inspect
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from colorize_utils.data.metadata import Mark, read_mark
from colorize_utils.data.pages import open_pages, require_room, save_pages
from colorize_utils.data.pictures import (
    WRITABLE,
    has_colours,
    is_picture,
    open_upright,
    save_picture,
    without_warnings,
)
from colorize_utils.devices import is_out_of_memory
from colorize_utils.errors import PictureError
from colorize_utils.files import MAX_NAME, shortened
from colorize_utils.inference.colorizer import Colorizer

ADDITION = "-colorized"


def _usable_cores() -> int:
    """The cores that this process may use, which a container or a cluster's job often has fewer of than there are."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# While one picture is in the network, others are read, merged and written: on two cores, two at once took little more
# than half of the time that one at a time took (bundled network, tests/benchmarks/folder.py), and more gained nothing.
AT_ONCE = max(2, min(8, _usable_cores()))
# … but no more pixels than two photographs of 24 megapixels, whose memory (1 GB) would otherwise grow with the cores.
PIXELS_AT_ONCE = 50_000_000


@dataclass
class BatchReport:
    """written, skipped: result files, new and found finished; failed: a line for each picture that has none.

    coloured: originals that were opened and have colours of their own (`has_colours`; of several pages, any); left:
    those of them that were left alone for it. unread: how many files of a folder are no pictures that are read, by
    their suffix in lower case. others: those of the skipped whose mark names another model or style, and that mark.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    others: list[tuple[Path, Mark]] = field(default_factory=list)
    coloured: list[Path] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)


def colorize_files(
    colorizer: Colorizer,
    pictures: Sequence[Path],
    output: Path | None = None,
    *,
    overwrite: bool = False,
    skip_colour: bool = False,
    progress: bool = True,
    mark: bool = True,
    **how: Any,
) -> BatchReport:
    """Colorizes files and whole folders, and goes on where one fails.

    pictures: files or folders. output: for one file, the file to write or the folder to write it to; otherwise the
    folder that gets the same relative names. By default NAME-colorized beside each file or folder. `how` goes to
    `Colorizer.colorize`. skip_colour: leaves pictures that have colours of their own, and such pages as they are. mark:
    whether results say that their colours are predicted, by which model and in which style.

    A result keeps its original's format where that can hold colour, else it becomes PNG (`scan.gif` → `scan.gif.png`,
    `IMG_1.heic` → `IMG_1.heic.png`), which keeps luminance as JPEG would not. All pages of a TIFF file are pages of the
    result, and an animation's frames are frames (a GIF's of an animated PNG). Results that exist are left as they are,
    so that a second run goes on where the first stopped; for a single file that is an error, since nothing would be
    done. `overwrite` replaces them; an original is never replaced.

    Whatever goes wrong with one picture is a line of the report. Raises TypeError and ValueError where `how` does not
    fit.
    """
    inspect.signature(colorizer.colorize).bind(None, **how)  # what is wrong with all of them is no picture's fault
    if how.get("style") not in (None, *colorizer.styles):
        raise ValueError(f"style must be one of {', '.join(colorizer.styles)}, got {how['style']!r}")
    report = BatchReport()
    own = colorizer.mark(how.get("style"))
    jobs = list(_jobs(pictures, output, report))
    single = len(pictures) == 1 and not pictures[0].is_dir()
    originals = {original.resolve() for original, _ in jobs}
    claimed: dict[Path, Path] = {}  # result → the first picture that has it
    for original, target in jobs:
        claimed.setdefault(target, original)
    room = _Room(PIXELS_AT_ONCE)

    def colorize(original: Path, target: Path) -> tuple[str, bool]:
        """The report's list that it belongs to, and whether it has colours of its own."""
        if target.resolve() in originals:
            raise PictureError(f"{target} is an original; choose another output")
        if claimed[target] != original:
            raise PictureError(f"{original}: {target} is the result of {claimed[target]} already; rename one of them")
        if target.exists() and not overwrite:
            if single:
                raise PictureError(f"{target} exists already; --overwrite replaces it, -o chooses another name")
            return "skipped", False
        with open_pages(original) as pages, room.taken(pages.pixels):
            if skip_colour and all(has_colours(page) for page in pages):
                return "left", True
            require_room(target, pages, original)
            own_colours = []

            def coloured() -> Iterator[tuple[Image.Image, Image.Image]]:
                for page in pages:
                    own_colours.append(has_colours(page))
                    keep = skip_colour and own_colours[-1]
                    yield page, _as_it_is(page) if keep else colorizer.colorize(page, **how)

            if len(pages) == 1:
                ((_, colour),) = coloured()
                save_picture(colour, target, original, own if mark else None)
            else:
                save_pages(coloured(), target, original, own if mark else None)
            return "written", any(own_colours)

    workers = max(1, min(AT_ONCE, len(jobs)))
    # Around all threads, because what one of them does to the filters of warnings, it does to all.
    with without_warnings(), colorizer.shared_by(workers), ThreadPoolExecutor(workers) as pool:
        try:
            running = [pool.submit(colorize, *job) for job in jobs]
            bar = tqdm(running, desc="colorizing", unit="pic", disable=not progress or len(jobs) < 2)
            for (original, target), result in zip(jobs, bar, strict=True):
                try:
                    outcome, coloured = result.result()
                except Exception as error:
                    report.failed.append(_line(original, error))
                    continue
                getattr(report, outcome).append(original if outcome == "left" else target)
                if coloured:
                    report.coloured.append(original)
        except BaseException:  # an interrupt, above all: what has begun is finished, the rest is left
            pool.shutdown(cancel_futures=True)
            raise
        # All of them, since an album may have been begun, gone on with and ended with three models: a head takes a
        # fraction of a millisecond to read, and a picture many to colorize.
        found = ((path, read_mark(path)) for path in report.skipped)
        report.others = [(path, other) for path, other in found if other and not other.is_of_the_same(own)]
    return report


class _Room:
    """As many pixels as may be in memory at once; a picture of more than that has it for itself."""

    def __init__(self, pixels: int):
        self._all = self._free = pixels
        self._door = threading.Lock()  # one picture at a time waits for room, so that none passes a large one for ever
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self._all)
        with self._door, self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def _as_it_is(page: Image.Image) -> Image.Image:
    """A page with its own colours, upright, in a mode that every format of `WRITABLE` that holds pages can hold."""
    return open_upright(page).convert("RGBA" if page.has_transparency_data else "RGB")


def _line(original: Path, error: Exception) -> str:
    if isinstance(error, PictureError):
        return str(error)
    if is_out_of_memory(error):
        return f"{original} needs more memory than there is; make it smaller"
    if isinstance(error, OSError):  # it vanished, say, after it was opened
        return f"{original} cannot be colorized: {error.strerror or error}; check that it is there, and try again"
    return f"{original} cannot be colorized ({type(error).__name__}: {error}); save it anew as a PNG, and try that"


def _jobs(pictures: Iterable[Path], output: Path | None, report: BatchReport) -> Iterable[tuple[Path, Path]]:
    """(original, target) pairs; folders that cannot be used become failures, other files are counted."""
    pictures = list(pictures)
    for given in pictures:
        if not given.is_dir():
            yield given, _file_target(given, output, several=len(pictures) > 1)
            continue
        absolute = Path(os.path.abspath(given))  # gives "." and ".." their names, and leaves a link its own
        if output is not None:
            folder = output / absolute.name if len(pictures) > 1 else output
        else:
            folder = (given if given.name == absolute.name else absolute).with_name(absolute.name + ADDITION)
        if folder.is_file():
            report.failed.append(f"{folder} is a file; give a folder for the results of {given}")
            continue
        found = sorted(_pictures_below(given, folder.resolve(), report))
        if not found:
            report.failed.append(f"{given} holds no pictures; give a folder of JPEG, PNG, TIFF or WebP files")
        for path in found:
            yield path, _colour_name(folder / path.relative_to(given))


def _pictures_below(folder: Path, results: Path, report: BatchReport) -> Iterator[Path]:
    """A folder's pictures, but not those in the folder of `results`: results among the originals are no originals."""

    def cannot_be_listed(error: OSError) -> None:
        report.failed.append(f"{error.filename} cannot be listed: {error.strerror}; check its permissions")

    for here, folders, names in os.walk(folder, onerror=cannot_be_listed):
        folders[:] = [name for name in folders if Path(here, name).resolve() != results]
        for path in (Path(here, name) for name in names):
            if is_picture(path):
                yield path
            elif not path.name.startswith("."):
                report.unread[path.suffix.lower()] += 1


def _file_target(original: Path, output: Path | None, several: bool) -> Path:
    if output is None:
        return _colour_name(original, ADDITION)
    if several or output.is_dir():
        return _colour_name(output / original.name)
    return output


def _colour_name(path: Path, addition: str = "") -> Path:
    """The path itself where its format can hold colour, else with .png added; `addition` comes before the suffix."""
    if path.suffix.lower() in WRITABLE:
        stem, suffix = path.stem + addition, path.suffix
    elif addition:
        stem, suffix = path.stem + addition, ".png"
    else:
        stem, suffix = path.name, ".png"
    name = stem + suffix
    if len(os.fsencode(name)) > MAX_NAME:  # what is cut off lives on in the digest, so that no two become one
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        name = f"{shortened(stem, MAX_NAME - len(os.fsencode(suffix)) - 1 - len(digest))}-{digest}{suffix}"
    return path.with_name(name)
