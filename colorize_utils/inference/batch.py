"""Many pictures at once: which file a result goes to, what is left alone, and a report of what was done."""

import hashlib
import inspect
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

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
from colorize_utils.errors import HintError, PictureError
from colorize_utils.files import MAX_NAME, shortened
from colorize_utils.generator_registry import UNFAMILIAR
from colorize_utils.inference.colorizer import Colorizer
from colorize_utils.machine import is_out_of_memory, usable_cores

ADDITION = "-colorized"

# Pictures in work at once: while one is in the network, others are read, merged and written. On two cores, two at once
# took little more than half of the time that one at a time took (bundled network, tests/benchmarks/folder.py), and more
# than two gained nothing.
AT_ONCE = max(2, min(8, usable_cores()))
# Their pixels together: two photographs of 24 megapixels, which take 1 GB of memory. Without this bound the memory
# would grow with the number of cores.
PIXELS_AT_ONCE = 50_000_000


@dataclass
class BatchReport:
    """What became of the pictures that `colorize_files` was given.

    Attributes:
        written: Results that were written.
        skipped: Results that existed already and were left as they are.
        failed: A line for each picture that has no result.
        others: Those of `skipped` whose mark names another model or style, each with that mark.
        coloured: Originals that were opened and have colours of their own (`has_colours`; of several pages, any).
        unfamiliar: Originals of which the network is sure that they are none of its kind, each with that number
            (`Colorizer.unfamiliarity`; of several pages, the highest).
        chosen: What distinguishes each answer, by its file: the name and the probability of the colour that was chosen.
        left: Originals that were left alone because they have colours of their own.
        unread: How many files of the folders cannot be read as pictures, by their suffix in lower case.
        links: Links to other folders in the given ones; they are not followed.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    others: list[tuple[Path, Mark]] = field(default_factory=list)
    coloured: list[Path] = field(default_factory=list)
    unfamiliar: list[tuple[Path, float]] = field(default_factory=list)
    chosen: dict[Path, tuple[str, float]] = field(default_factory=dict)
    left: list[Path] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    links: list[Path] = field(default_factory=list)


def colorize_files(
    colorizer: Colorizer,
    pictures: Sequence[Path],
    output: Path | None = None,
    *,
    overwrite: bool = False,
    skip_colour: bool = False,
    progress: bool = True,
    mark: bool = True,
    place: bool = True,
    answers: int | None = None,
    **how: Any,
) -> BatchReport:
    """Colorizes files and whole folders; if a picture fails, the others are still done.

    A result keeps its original's format where that can hold colour; otherwise it becomes a PNG (`scan.gif` →
    `scan.gif.png`, `IMG_1.heic` → `IMG_1.heic.png`), which keeps luminance exactly, as JPEG would not. All pages of a
    TIFF file are pages of the result, and the frames of an animation are frames (those of a GIF become an animated
    PNG). Results that exist are left as they are, so that a second run goes on where the first stopped; for a single
    file that is an error, since nothing would be done. An original is never replaced.

    Whatever goes wrong with one picture becomes a line of the report.

    Args:
        colorizer: What colorizes.
        pictures: Files or folders.
        output: For one file, the file to write, or the folder to write it to; otherwise the folder in which results
            have the originals' relative names. By default NAME-colorized beside each file or folder.
        overwrite: Replaces results that exist.
        skip_colour: Leaves pictures alone that have colours of their own (`has_colours`); of several pages, those that
            have keep their colours.
        progress: Shows a progress bar where there are several pictures.
        answers: Writes up to so many answers for each picture (`Colorizer.answers`) in place of one result: NAME-1.jpg,
            NAME-2.jpg … where the result would have been NAME.jpg. For files of one page.
        mark: Whether results say that their colours are predicted, by which model and in which style.
        place: Whether results keep the metadata that says where the picture was taken.
        **how: Goes to `Colorizer.colorize`.

    Returns:
        The report.

    Raises:
        TypeError: `how` has an argument that `Colorizer.colorize` does not take.
        ValueError: The model does not have the style.
    """
    inspect.signature(colorizer.colorize).bind(None, **how)  # raises here what would otherwise fail for every picture
    if how.get("style") not in (None, *colorizer.styles):
        raise ValueError(f"style must be one of {', '.join(colorizer.styles)}, got {how['style']!r}")
    report = BatchReport()
    own = colorizer.mark(how.get("style"))
    jobs = list(_jobs(pictures, output, report))
    single = len(pictures) == 1 and not pictures[0].is_dir()
    originals = {os.path.realpath(original) for original, _ in jobs}  # `resolve` raises where a link leads to itself
    claimed: dict[Path, Path] = {}  # result → the first picture that has it
    for original, target in jobs:
        claimed.setdefault(target, original)
    room = Room(PIXELS_AT_ONCE)

    def write_answers(page: Image.Image, original: Path, target: Path) -> None:
        kept = {name: value for name, value in how.items() if name in ("strength", "style")}
        for number, answer in enumerate(colorizer.answers(page, answers or 1, **kept), 1):
            path = _numbered(target, number)
            save_picture(answer.picture, path, original, own if mark else None, place=place)
            report.chosen[path] = (answer.name, answer.probability)

    def colorize(original: Path, target: Path) -> _Outcome:
        """Colorizes a picture."""
        if os.path.realpath(target) in originals:
            raise PictureError(f"{target} is an original; choose another output")
        if claimed[target] != original:
            raise PictureError(f"{original}: {target} is the result of {claimed[target]} already; rename one of them")
        first = target if answers is None else _numbered(target, 1)
        if first.exists() and not overwrite:
            if single:
                raise PictureError(f"{first} exists already; --overwrite replaces it, -o chooses another name")
            return "skipped", False, 0.0
        with open_pages(original) as pages, room.taken(pages.pixels):
            if skip_colour and all(has_colours(page) for page in pages):
                return "left", True, 0.0
            require_room(target, pages, original)
            if answers is not None:
                if len(pages) > 1:
                    raise PictureError(
                        f"{original} has {len(pages)} pages; several answers are for one: split it first"
                    )
                (page,) = pages
                write_answers(page, original, target)
                return "written", has_colours(page), colorizer.unfamiliarity(page) or 0.0
            own_colours, strange = [], [0.0]

            def coloured() -> Iterator[tuple[Image.Image, Image.Image]]:
                for page in pages:
                    own_colours.append(has_colours(page))
                    keep = skip_colour and own_colours[-1]
                    if not keep:
                        strange.append(colorizer.unfamiliarity(page) or 0.0)
                    yield page, as_it_is(page) if keep else colorizer.colorize(page, **how)

            save_result(coloured(), len(pages), target, original, own if mark else None, place)
            return "written", any(own_colours), max(strange)

    workers = max(1, min(AT_ONCE, len(jobs)))
    # Warnings are silenced around all threads, because their filters are the whole process's.
    with without_warnings(), colorizer.shared_by(workers), ThreadPoolExecutor(workers) as pool:
        try:
            running = [pool.submit(colorize, *job) for job in jobs]
            bar = _with_progress(running) if progress and len(jobs) > 1 else running
            for (original, target), result in zip(jobs, bar, strict=True):
                try:
                    outcome, coloured, strange = result.result()
                except Exception as error:
                    report.failed.append(reason(original, error))
                    continue
                made = target if answers is None else _numbered(target, 1)
                getattr(report, outcome).append(original if outcome == "left" else made)
                if coloured:
                    report.coloured.append(original)
                if strange > UNFAMILIAR:
                    report.unfamiliar.append((original, strange))
        except BaseException:  # usually an interrupt: pictures in work are finished, the others are not begun
            pool.shutdown(cancel_futures=True)
            raise
        # Every result's mark is read, because an album may have been colorized by several models, one after the other.
        # It is quick: reading a header takes a fraction of a millisecond.
        found = ((path, read_mark(path)) for path in report.skipped)
        report.others = [(path, other) for path, other in found if other and not other.is_of_the_same(own)]
    return report


def _with_progress(running: "list[Future[_Outcome]]") -> "Iterable[Future[_Outcome]]":
    from tqdm.auto import tqdm  # a twentieth of a second that a single picture is spared

    return tqdm(running, desc="colorizing", unit="pic")


_Outcome = tuple[str, bool, float]
"""The report's list that a picture belongs to, whether it has colours of its own, and its unfamiliarity."""


class Room:
    """Bounds the pixels in memory at once: a picture waits until there is room for it.

    A picture that is larger than the bound waits until no other is in memory.
    """

    def __init__(self, pixels: int):
        self._all = self._free = pixels
        self._door = threading.Lock()  # one picture waits for room at a time: small ones cannot overtake a large one
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """A block in which so many pixels are in memory; waits until there is room for them.

        Args:
            pixels: How many.
        """
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


def save_result(
    coloured: Iterable[tuple[Image.Image, Image.Image]],
    pages: int,
    target: Path,
    original: Path,
    mark: Mark | None,
    place: bool = True,
) -> None:
    """Writes a file's pages in colour, with an atomic write.

    Args:
        coloured: Pairs of a page of the original and the same page in colour, in order.
        pages: How many there are.
        target: The file to write.
        original: The file that the pages are from.
        mark: Says that the colours are predicted; None writes no mark.
        place: Whether the metadata that says where the picture was taken is kept, too.

    Raises:
        PictureError: The file cannot be written; besides, whatever iterating over `coloured` raises.
    """
    if pages == 1:
        ((_, colour),) = coloured
        save_picture(colour, target, original, mark, place=place)
    else:
        save_pages(coloured, target, original, mark, place=place)


def as_it_is(page: Image.Image) -> Image.Image:
    """A page with its own colours, upright, in a mode that every format of `WRITABLE` that holds pages can hold."""
    return open_upright(page).convert("RGBA" if page.has_transparency_data else "RGB")


def reason(original: Path | str, error: Exception) -> str:
    """Says in a line why a picture has no result, and what to do.

    Args:
        original: The picture.
        error: What went wrong with it.

    Returns:
        The line.
    """
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, HintError):
        return f"{original}: {error}"
    if is_out_of_memory(error):
        return f"{original} needs more memory than there is; make it smaller"
    if isinstance(error, OSError):  # for instance, it vanished after it was opened
        return f"{original} cannot be colorized: {error.strerror or error}; check that it is there, and try again"
    return f"{original} cannot be colorized ({type(error).__name__}: {error}); save it anew as a PNG, and try that"


def _jobs(pictures: Iterable[Path], output: Path | None, report: BatchReport) -> Iterable[tuple[Path, Path]]:
    """(original, target) pairs; folders that cannot be used are reported as failures, other files are counted."""
    pictures = list(pictures)
    for given in pictures:
        if not given.is_dir():
            yield given, _file_target(given, output, several=len(pictures) > 1)
            continue
        absolute = Path(os.path.abspath(given))  # names what "." and ".." stand for; a link keeps its own name
        if output is not None:
            folder = output / absolute.name if len(pictures) > 1 else output
        else:
            folder = (given if given.name == absolute.name else absolute).with_name(absolute.name + ADDITION)
        if folder.is_file():
            report.failed.append(f"{folder} is a file; give a folder for the results of {given}")
            continue
        found = sorted(pictures_below(given, os.path.realpath(folder), report))
        if not found:
            report.failed.append(f"{given} holds no pictures; give a folder of JPEG, PNG, TIFF or WebP files")
        for path in found:
            yield path, colour_name(folder / path.relative_to(given))


def pictures_below(folder: Path, results: str, report: BatchReport) -> Iterator[Path]:
    """Finds a folder's pictures, except those in the folder `results`, which may lie below it.

    Args:
        folder: The folder.
        results: The folder of the results, as `os.path.realpath` names it.
        report: Gets what cannot be used: its fields `failed`, `unread` and `links`.

    Yields:
        The pictures, folder by folder.
    """

    def cannot_be_listed(error: OSError) -> None:
        report.failed.append(f"{error.filename} cannot be listed: {error.strerror}; check its permissions")

    for here, folders, names in os.walk(folder, onerror=cannot_be_listed):
        folders[:] = [name for name in folders if os.path.realpath(Path(here, name)) != results]
        report.links += [path for path in (Path(here, name) for name in folders) if path.is_symlink()]
        for path in (Path(here, name) for name in names):
            if is_picture(path):
                yield path
            elif path.is_symlink() and not path.exists():
                report.failed.append(f"{path} is a link that leads nowhere; check what it stands for")
            elif not path.name.startswith("."):
                report.unread[path.suffix.lower()] += 1


def _file_target(original: Path, output: Path | None, several: bool) -> Path:
    if output is None:
        return colour_name(original, ADDITION)
    if several or output.is_dir():
        return colour_name(output / original.name)
    return output


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{shortened(path.stem, MAX_NAME - len(path.suffix) - 4)}-{number}{path.suffix}")


def colour_name(path: Path, addition: str = "") -> Path:
    """The name of a result.

    Args:
        path: The original's name, in the folder of the results.
        addition: Comes before the suffix.

    Returns:
        `path` where its format can hold colour, else with .png added; the name is no longer than a file's may be.
    """
    if path.suffix.lower() in WRITABLE:
        stem, suffix = path.stem + addition, path.suffix
    elif addition:
        stem, suffix = path.stem + addition, ".png"
    else:
        stem, suffix = path.name, ".png"
    name = stem + suffix
    if len(os.fsencode(name)) > MAX_NAME:  # the digest keeps names apart that differ only in what is cut off
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        name = f"{shortened(stem, MAX_NAME - len(os.fsencode(suffix)) - 1 - len(digest))}-{digest}{suffix}"
    return path.with_name(name)
