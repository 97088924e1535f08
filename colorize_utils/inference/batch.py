"""Pictures by the folder: what goes where, what is left alone, and a report of it all."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from colorize_utils.data.metadata import Mark, read_mark
from colorize_utils.data.pictures import WRITABLE, is_picture, save_picture, without_warnings
from colorize_utils.devices import is_out_of_memory
from colorize_utils.errors import PictureError
from colorize_utils.inference.colorizer import Colorizer

ADDITION = "-colorized"
# While one picture is in the network, others are read, merged and written: on two cores, two at once took little more
# than half of the time that one at a time took (bundled network, tests/benchmarks/folder.py), and more gained nothing.
AT_ONCE = max(2, min(8, os.cpu_count() or 2))


@dataclass
class BatchReport:
    """written, skipped: result files, new and found finished; failed: a line for each picture that has none.
    others: those of the skipped whose mark names another model or style, and that mark."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    others: list[tuple[Path, Mark]] = field(default_factory=list)


def colorize_files(
    colorizer: Colorizer,
    pictures: Sequence[Path],
    output: Path | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
    mark: bool = True,
    **how,
) -> BatchReport:
    """Colorizes files and whole folders, and goes on where one fails.

    pictures: files or folders. output: for one file, the file to write or the folder to write it to; otherwise the
    folder that gets the same relative names. By default NAME-colorized beside each file or folder. `how` goes to
    `Colorizer.colorize`. mark: whether results say that their colours are predicted, by which model and in which style.

    A result keeps its original's format where that can hold colour, else it becomes PNG (`scan.gif` → `scan.gif.png`).
    Results that exist are left as they are, so that a second run goes on where the first stopped; for a single file
    that is an error, since nothing would be done. `overwrite` replaces them; an original is never replaced.
    """
    report = BatchReport()
    own = colorizer.mark(how.get("style"))
    jobs = list(_jobs(pictures, output, report))
    single = len(pictures) == 1 and not pictures[0].is_dir()
    originals = {original.resolve() for original, _ in jobs}
    claimed: dict[Path, Path] = {}  # result → the first picture that has it
    for original, target in jobs:
        claimed.setdefault(target, original)

    def colorize(original: Path, target: Path) -> bool:
        """Whether it was written; False where it was there."""
        if target.resolve() in originals:
            raise PictureError(f"{target} is an original; choose another output")
        if claimed[target] != original:
            raise PictureError(f"{original}: {target} is the result of {claimed[target]} already; rename one of them")
        if target.exists() and not overwrite:
            if single:
                raise PictureError(f"{target} exists already; --overwrite replaces it, -o chooses another name")
            return False
        save_picture(colorizer.colorize(original, **how), target, original, own if mark else None)
        return True

    workers = max(1, min(AT_ONCE, len(jobs)))
    # Around all threads, because what one of them does to the filters of warnings, it does to all.
    with without_warnings(), colorizer.shared_by(workers), ThreadPoolExecutor(workers) as pool:
        try:
            running = [pool.submit(colorize, *job) for job in jobs]
            bar = tqdm(running, desc="colorizing", unit="pic", disable=not progress or len(jobs) < 2)
            for (original, target), result in zip(jobs, bar, strict=True):
                try:
                    (report.written if result.result() else report.skipped).append(target)
                except PictureError as error:
                    report.failed.append(str(error))
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    report.failed.append(f"{original} needs more memory than there is; make it smaller")
        except BaseException:  # an interrupt, above all: what has begun is finished, the rest is left
            pool.shutdown(cancel_futures=True)
            raise
        # All of them, since an album may have been begun, gone on with and ended with three models: a head takes a
        # fraction of a millisecond to read, and a picture many to colorize.
        found = ((path, read_mark(path)) for path in report.skipped)
        report.others = [(path, other) for path, other in found if other and not other.is_of_the_same(own)]
    return report


def _jobs(pictures: Iterable[Path], output: Path | None, report: BatchReport) -> Iterable[tuple[Path, Path]]:
    """(original, target) pairs; folders that cannot be used become failures."""
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
        found = [path for path in sorted(given.rglob("*")) if is_picture(path)]
        if given.resolve() in folder.resolve().parents:  # results among the originals are no originals
            found = [path for path in found if folder.resolve() not in path.resolve().parents]
        if not found:
            report.failed.append(f"{given} holds no pictures; give a folder of JPEG, PNG, TIFF or WebP files")
        for path in found:
            yield path, folder / _colour_name(path.relative_to(given))


def _file_target(original: Path, output: Path | None, several: bool) -> Path:
    if output is None:
        name = _colour_name(original)
        return name.with_name(original.stem + ADDITION + name.suffix)
    if several or output.is_dir():
        return output / _colour_name(original).name
    return output


def _colour_name(path: Path) -> Path:
    """The path itself where its format can hold colour, else with .png added."""
    return path if path.suffix.lower() in WRITABLE else path.with_name(path.name + ".png")
