"""A whole archive on Ray Data: on all cores and GPUs of one machine, or of a cluster.

    manifest → decode → network → encode → report

- The *manifest* is a Parquet table of all pictures, written once by the process that begins; workers list no folders.
- *decode* reads a picture and resizes it to what the network sees, some kilobytes.
- *network* predicts its chroma. The network lives in an actor, on a GPU where there is one.
- *encode* reads the picture again, puts the chroma on its own luminance, and writes the result.
- The *report* is a Parquet table with a row for every picture: what became of it, and why it has no result.

A picture is decoded twice, so that no photograph's pixels travel between processes or lie in Ray's memory: the rows
hold what the network sees, and a process has one picture in memory. The functions that read, colorize and write are
those of `colorize_files`, and so are the bytes of the results.

Ray keeps the paths of all rows that have reached the report (`ray.data.checkpoint`), and a second run leaves them out.
What had a result and was not kept yet is found by its result, which is never overwritten.
"""

import contextlib
import getpass
import io
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from colorize_utils.data.metadata import Mark
from colorize_utils.data.pages import open_pages, require_room
from colorize_utils.data.pictures import has_colours, is_pictures_name, to_gray, without_warnings
from colorize_utils.errors import ClusterError, PictureError
from colorize_utils.generator_registry import UNFAMILIAR
from colorize_utils.inference.batch import BatchReport, as_it_is, colour_name, pictures_below, reason, save_result
from colorize_utils.inference.colorizer import Colorizer, resized, with_chroma_of, working_size
from colorize_utils.machine import has_torch, keep_freed_memory, usable_cores

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.fs import FileSystem

STATE = "colorize-archive"  # the folder in that of the results that holds manifest, report and Ray's checkpoints
LARGE = 25_000_000  # pixels from which a picture is worked on alone on its machine, so that memory is bounded
BLOCK = 32  # pictures that a task works on
MOST_LOST = 1000  # blocks that Ray may give up; a further run tries them again
_TRANSFERRED = 1 << 20  # bytes copied at a time

Row = dict[str, Any]


# ---------------------------------------------------------------- where pictures lie


@dataclass(frozen=True)
class Place:
    """A folder of this machine, or of any filesystem that pyarrow or fsspec has an address for.

    Attributes:
        address: What messages call it.
        path: Its path within the filesystem, without a slash at the end.
        filesystem: The filesystem.
        local: Whether its files have paths of this machine.
    """

    address: str
    path: str
    filesystem: "FileSystem"
    local: bool

    @classmethod
    def at(cls, address: str) -> "Place":
        """The place of an address.

        Args:
            address: A path, or an address like s3://bucket/folder.

        Returns:
            The place; whether there is something is not looked up.

        Raises:
            ClusterError: Neither pyarrow nor fsspec knows such an address, or a package for it is missing.
        """
        import fsspec
        from pyarrow import ArrowException, fs

        if "://" not in address:
            return cls(os.path.abspath(address), os.path.abspath(address), fs.LocalFileSystem(), True)
        try:
            try:
                filesystem, path = fs.FileSystem.from_uri(address)
            except ArrowException:  # pyarrow does not know it
                known, path = fsspec.core.url_to_fs(address)
                filesystem = fs.PyFileSystem(fs.FSSpecHandler(known))
        except (ValueError, ImportError, OSError) as error:
            raise ClusterError(f"{address} cannot be reached: {error}") from error
        return cls(address.rstrip("/"), path.rstrip("/"), filesystem, isinstance(filesystem, fs.LocalFileSystem))

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.address}/{name}", f"{self.path}/{name}", self.filesystem, self.local)

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        from pyarrow.fs import FileType

        return bool(self.filesystem.get_file_info(self.path).type != FileType.NotFound)

    @contextlib.contextmanager
    def to_read(self) -> Iterator[Path]:
        """The file as one of this machine, within the block; from elsewhere it is fetched.

        Raises:
            OSError: It is not there, or cannot be fetched.
        """
        if self.local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="colorize-archive-") as folder:
            path = Path(folder, PurePosixPath(self.path).name)
            with self.filesystem.open_input_stream(self.path) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, _TRANSFERRED)
            with self._named(path):
                yield path

    @contextlib.contextmanager
    def to_write(self) -> Iterator[Path]:
        """A path of this machine to write the file to, within the block; elsewhere it is brought when the block ends.

        It appears under its name when it is whole.

        Raises:
            OSError: It cannot be written.
        """
        if self.local:  # what writes there is atomic by itself
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="colorize-archive-") as folder:
            path = Path(folder, PurePosixPath(self.path).name)
            with self._named(path):
                yield path
            with (
                self.replaced() as part,
                open(path, "rb") as source,
                self.filesystem.open_output_stream(part.path) as target,
            ):
                shutil.copyfileobj(source, target, _TRANSFERRED)

    @contextlib.contextmanager
    def _named(self, path: Path) -> Iterator[None]:
        """Errors within the block name the place, not the path of this machine that stands for it."""
        try:
            yield
        except PictureError as error:
            raise PictureError(str(error).replace(str(path), self.address)) from error

    @contextlib.contextmanager
    def replaced(self) -> Iterator["Place"]:
        """A place beside this one, which is moved to this one when the block ends without an exception."""
        folder, _, name = self.path.rpartition("/")
        self.filesystem.create_dir(folder, recursive=True)
        part = Place(self.address, f"{folder}/.{name}-part", self.filesystem, self.local)
        yield part
        self.filesystem.move(part.path, self.path)


# ---------------------------------------------------------------- the list of pictures


def listed(source: Place, output: Place, report: BatchReport) -> Iterator[Row]:
    """Lists an archive.

    Args:
        source: The folder of the originals.
        output: The folder of the results, which is left out where it lies in the other.
        report: Counts what is no picture.

    Yields:
        Rows of the manifest: `path` and `output`, relative names of an original and its result, and `reason`, which is
        empty but where the picture cannot get a result.
    """
    if source.local:
        found: Iterator[PurePath] = pictures_below(Path(source.path), os.path.realpath(output.path), report)
    else:
        found = _pictures_elsewhere(source, output, report)
    folder: PurePath | None = None
    claimed: dict[str, PurePath] = {}  # the results of the folder at hand, each with its original
    for path in found:
        if path.parent != folder:
            folder, claimed = path.parent, {}
        name = path.relative_to(source.path).as_posix()
        result = colour_name(Path(name)).as_posix()
        why = ""
        if result in claimed:
            why = f"{path}: {result} is the result of {claimed[result]} already; rename one of them"
        claimed.setdefault(result, path)
        if not _is_utf8(name):
            name, result = (text.encode(errors="backslashreplace").decode() for text in (name, result))
            why = f"{name} has a name that is not UTF-8; rename it"
        yield {"path": name, "output": result, "reason": why}
    for number, line in enumerate(report.failed, start=1):  # folders that cannot be listed, links that lead nowhere
        line = line.encode(errors="backslashreplace").decode()
        yield {"path": f"({number}) {line}", "output": "", "reason": line}


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pictures_elsewhere(source: Place, output: Place, report: BatchReport) -> Iterator[PurePath]:
    """What `pictures_below` is on this machine."""
    from pyarrow.fs import FileSelector, FileType

    folders = [source.path]
    while folders:
        for entry in sorted(source.filesystem.get_file_info(FileSelector(folders.pop())), key=lambda entry: entry.path):
            path = PurePosixPath(entry.path)
            if entry.type == FileType.Directory:
                if (entry.path, source.filesystem) != (output.path, output.filesystem):
                    folders.append(entry.path)
            elif is_pictures_name(path):
                yield path
            elif not path.name.startswith("."):
                report.unread[path.suffix.lower()] += 1


def write_manifest(manifest: Place, rows: Iterator[Row], settings: Row) -> int:
    """Writes the list of pictures: all of it, or nothing.

    Args:
        manifest: The file to write.
        rows: What it lists (`listed`).
        settings: Is kept in it: what every run on this archive must be told alike.

    Returns:
        How many rows it has.
    """
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("path", "output", "reason")])
    schema = schema.with_metadata({"colorize_utils": json.dumps(settings)})
    count = 0
    with manifest.replaced() as part, ParquetWriter(part.path, schema, filesystem=part.filesystem) as writer:
        while some := [row for _, row in zip(range(10_000), rows, strict=False)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def read_settings(manifest: Place) -> tuple[int, Row]:
    """How many pictures a manifest lists, and the settings in it."""
    from pyarrow.parquet import ParquetFile

    with manifest.filesystem.open_input_file(manifest.path) as file, ParquetFile(file) as table:
        return table.metadata.num_rows, json.loads(table.schema_arrow.metadata[b"colorize_utils"])


# ---------------------------------------------------------------- the stages


def _packed(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _unpacked(content: bytes) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array


@dataclass(frozen=True)
class Stages:
    """What is done to the manifest's rows: `decode` and `encode` in any process, between them a `Network`.

    A row gets its `outcome` ("written", "skipped", "left", "failed", as in `BatchReport`) where that is decided, and
    further stages pass it on. Whatever goes wrong with one picture becomes the `reason` of its row.

    Attributes:
        source: The folder of the originals.
        output: The folder of the results.
        size: The network's working size.
        judged_side: `Colorizer.judged_side`.
        mark: Goes into the results; None writes no mark.
        strength: Multiplies the chroma.
        skip_colour: Leaves pictures alone that have colours of their own.
    """

    source: Place
    output: Place
    size: int
    judged_side: int
    mark: Mark | None
    strength: float = 1.0
    skip_colour: bool = False

    def decode(self, row: Row) -> Row:
        """Reads a picture of the manifest.

        Args:
            row: `path`, `output` and `reason`.

        Returns:
            The row, with `seen`: each page at working size, or nothing where it keeps its own colours; `judged`: what
            `Colorizer.unfamiliarity` looks at; and `coloured`: whether a page has colours of its own.
        """
        row = {**row, "outcome": "failed" if row["reason"] else "", "coloured": False, "seen": [], "judged": []}
        if not row["reason"]:
            _picture_by_picture(self.source / row["path"], row, self._decode)
        return row

    def _decode(self, row: Row, place: Place) -> None:
        target = self.output / row["output"]
        if target.exists():
            row["outcome"] = "skipped"
            return
        with place.to_read() as original, open_pages(original) as pages, _alone_if_large(pages.pixels):
            if self.skip_colour and all(has_colours(page) for page in pages):
                row["outcome"], row["coloured"] = "left", True
                return
            require_room(Path(target.address), pages, original)
            for page in pages:
                own = has_colours(page)
                row["coloured"] |= own
                keep = own and self.skip_colour
                gray = to_gray(page).gray
                row["seen"].append(b"" if keep else _packed(working_size(gray, self.size)))
                if self.judged_side and not keep:
                    row["judged"].append(_packed(resized(gray, self.judged_side, self.judged_side)))

    def encode(self, row: Row) -> Row:
        """Writes a picture's result, where its row is not decided yet.

        Args:
            row: As a `Network` gives it, with the `chroma` of each page.

        Returns:
            The report's row.
        """
        row = dict(row)
        if not row["outcome"]:
            _picture_by_picture(self.source / row["path"], row, self._encode)
        return {**row, "time": time.time()}

    def _encode(self, row: Row, place: Place) -> None:
        def coloured() -> Iterator[tuple[Image.Image, Image.Image]]:
            for page, chroma in zip(pages, row["chroma"], strict=True):
                if not chroma:
                    yield page, as_it_is(page)
                    continue
                yield page, with_chroma_of(to_gray(page), _unpacked(chroma), self.strength)

        target = self.output / row["output"]
        if not target.exists():  # else it was written by a process that died before it could say so
            with (
                place.to_read() as original,
                open_pages(original) as pages,
                _alone_if_large(pages.pixels),
                target.to_write() as path,
            ):
                save_result(coloured(), len(pages), path, original, self.mark)
        row["outcome"] = "written"


def _picture_by_picture(place: Place, row: Row, work: Callable[[Row, Place], None]) -> None:
    """Works on a picture; if that fails, its row says why: Ray would drop the whole block."""
    try:
        with without_warnings():
            work(row, place)
    except Exception as error:
        row |= {"outcome": "failed", "reason": reason(place.address, error), "seen": [], "judged": []}


@contextlib.contextmanager
def _alone_if_large(pixels: int) -> Iterator[None]:
    """Bounds the pixels in memory: the processes of a machine work on their large pictures one after the other."""
    if pixels < LARGE:
        yield
        return
    from filelock import FileLock  # is released when its process dies

    with FileLock(Path(tempfile.gettempdir(), f"colorize-archive-{getpass.getuser()}.lock")):
        yield


class Network:
    """The stage between: predicts chroma. An actor that holds the network.

    Args:
        model: A checkpoint's name or file, which every machine has.
        checkpoint: The SHA-256 that it must have.
        device: As in `Colorizer`.
        precision: As in `Colorizer`.
        style: As in `Colorizer.colorize`.
        engine: As in `Colorizer.from_checkpoint`.
    """

    def __init__(
        self,
        model: str,
        checkpoint: str,
        device: str | None,
        precision: str,
        style: str | None,
        engine: str = "auto",
    ):
        _use_one_core()
        self._colorizer = Colorizer.from_checkpoint(model, device, progress=False, engine=engine, precision=precision)
        if self._colorizer.checkpoint != checkpoint:
            raise ClusterError(f"{model} is another checkpoint on {platform.node()} than where the run was begun")
        self._style = style

    def predict(self, row: Row) -> Row:
        """Predicts a picture's chroma, where its row is not decided yet.

        Args:
            row: As `Stages.decode` gives it.

        Returns:
            The row with `chroma` and `unfamiliarity` in place of `seen` and `judged`.
        """
        row = {**row, "chroma": [], "unfamiliarity": 0.0}
        seen, judged = row.pop("seen"), row.pop("judged")
        if row["outcome"]:
            return row
        try:
            row["unfamiliarity"] = max(
                (self._colorizer.unfamiliarity(_unpacked(page)) or 0.0 for page in judged), default=0.0
            )
            row["chroma"] = [
                _packed(self._colorizer.chroma(_unpacked(page), self._style)) if page else b"" for page in seen
            ]
        except Exception as error:
            row |= {"outcome": "failed", "reason": reason(row["path"], error), "chroma": []}
        return row

    def __call__(self, table: "pyarrow.Table") -> "pyarrow.Table":
        """The same for a batch of Ray's."""
        return _mapped(table, self.predict)


def _use_one_core() -> None:
    """Ray starts a process for every share of a core."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    keep_freed_memory()


def _schema(*names: str) -> "pyarrow.Schema":
    import pyarrow

    texts, pictures = pyarrow.string(), pyarrow.list_(pyarrow.large_binary())
    types = {
        "coloured": pyarrow.bool_(),
        "unfamiliarity": pyarrow.float64(),
        "time": pyarrow.float64(),
        **dict.fromkeys(("seen", "judged", "chroma"), pictures),
    }
    return pyarrow.schema([(name, types.get(name, texts)) for name in names])


_DECIDED = ("path", "output", "outcome", "reason", "coloured")
_SCHEMAS: dict[str, Sequence[str]] = {
    "decode": (*_DECIDED, "seen", "judged"),
    "predict": (*_DECIDED, "unfamiliarity", "chroma"),
    "encode": (*_DECIDED, "unfamiliarity", "time"),
}


def _mapped(table: "pyarrow.Table", work: Callable[[Row], Row]) -> "pyarrow.Table":
    """A table whose rows are `work`'s of a table's rows; its schema is that of the stage, whatever the rows hold."""
    import pyarrow

    _use_one_core()
    return pyarrow.Table.from_pylist([work(row) for row in table.to_pylist()], schema=_schema(*_SCHEMAS[work.__name__]))


def _decoded(table: "pyarrow.Table", stages: Stages) -> "pyarrow.Table":
    return _mapped(table, stages.decode)


def _encoded(table: "pyarrow.Table", stages: Stages) -> "pyarrow.Table":
    return _mapped(table, stages.encode)


# ---------------------------------------------------------------- the whole


@dataclass
class ArchiveReport:
    """What became of an archive, over all runs.

    Attributes:
        outcomes: How many pictures were written, skipped (their result existed already), left and failed.
        failed: (path, reason) of each that has no result.
        coloured: How many have colours of their own.
        unfamiliar: How many the network is sure of that they are none of its kind.
        missing: How many are not in the report, because Ray gave up their block; a further run tries them.
        listing: What the listing met; None where the manifest was there already.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    coloured: int = 0
    unfamiliar: int = 0
    missing: int = 0
    listing: BatchReport | None = None


def read_report(output: Place) -> ArchiveReport:
    """Sums up manifest and report.

    Args:
        output: The folder of the results.

    Returns:
        The sums. Of a picture that was tried again the last row counts.
    """
    import pyarrow.compute
    import pyarrow.dataset

    state = output / STATE
    pictures, _ = read_settings(state / "manifest.parquet")
    if not (state / "report").exists():
        return ArchiveReport(missing=pictures)
    names = ["outcome", "reason", "coloured", "unfamiliarity"]
    table = pyarrow.dataset.dataset(
        (state / "report").path, schema=_schema(*_SCHEMAS["encode"]), filesystem=output.filesystem, format="parquet"
    ).to_table(columns=["path", "time", *names])
    rows = table.sort_by("time").group_by("path", use_threads=False).aggregate([(name, "last") for name in names])
    counts = rows.group_by("outcome_last").aggregate([([], "count_all")]).to_pydict()
    failed = rows.filter(pyarrow.compute.field("outcome_last") == "failed").sort_by("path")
    return ArchiveReport(
        outcomes=Counter(dict(zip(counts["outcome_last"], counts["count_all"], strict=True))),
        failed=list(zip(failed["path"].to_pylist(), failed["reason_last"].to_pylist(), strict=True)),
        coloured=pyarrow.compute.sum(rows["coloured_last"]).as_py() or 0,
        unfamiliar=rows.filter(pyarrow.compute.field("unfamiliarity_last") > UNFAMILIAR).num_rows,
        missing=max(0, pictures - rows.num_rows),  # of a manifest that was written anew some may be gone
    )


def forget_failed(output: Place) -> None:
    """Makes the next run try all pictures again that failed: takes them out of Ray's checkpoints.

    Args:
        output: The folder of the results.
    """
    import pyarrow.dataset
    import pyarrow.parquet
    from pyarrow.fs import FileSelector

    done = output / STATE / "done"
    if not done.exists():
        return
    failed = [path for path, _ in read_report(output).failed]
    entries = done.filesystem.get_file_info(FileSelector(done.path))
    old = [entry.path for entry in entries if not entry.path.endswith(".pending.parquet")]
    ids = pyarrow.dataset.dataset(old, filesystem=done.filesystem, format="parquet").to_table(columns=["path"])
    kept = ids.filter(~pyarrow.compute.field("path").isin(failed))
    with (done / f"kept-{time.time_ns()}.parquet").replaced() as part:
        pyarrow.parquet.write_table(kept, part.path, filesystem=part.filesystem)
    for path in old:  # the new file names those that are done before the old ones are gone
        done.filesystem.delete_file(path)


def colorize_archive(
    source: Place,
    output: Place,
    model: str,
    *,
    cluster: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    style: str | None = None,
    strength: float = 1.0,
    skip_colour: bool = False,
    mark: bool = True,
    retry_failed: bool = False,
    progress: bool = True,
) -> ArchiveReport:
    """Colorizes an archive, or goes on with one.

    Args:
        source: The folder of the originals.
        output: The folder of the results, which have the originals' relative names (`batch.colour_name`).
        model: A checkpoint's name or file, which every machine of a cluster must have.
        cluster: The address of a Ray cluster to join; by default Ray starts on this machine alone.
        workers: How many networks work at once; by default as many as there are GPUs, or else cores.
        device: Where they compute; by default the fastest device that a worker has.
        engine: As in `Colorizer.from_checkpoint`, but that "auto" is PyTorch where this process could load it: GPUs are
            the point of an archive, and all workers have the same engine.
        precision: As in `Colorizer`.
        style: As in `Colorizer.colorize`.
        strength: As in `Colorizer.colorize`.
        skip_colour: Leaves pictures alone that have colours of their own.
        mark: Whether results say that their colours are predicted.
        retry_failed: Tries pictures again that failed in an earlier run.
        progress: Shows progress.

    Returns:
        The report, over all runs.

    Raises:
        ClusterError: Ray is not installed, the cluster or a place is not there, or the archive was begun otherwise.
        ValueError: The model does not have the style.
    """
    require_ray()
    if engine == "auto" and has_torch():
        engine = "torch"
    colorizer = Colorizer.from_checkpoint(model, "cpu", progress, engine=engine)
    own = colorizer.mark(style)
    stages = Stages(source, output, colorizer.size, colorizer.judged_side, own if mark else None, strength, skip_colour)
    state = output / STATE
    listing = _begin(stages, own)
    if retry_failed:
        forget_failed(output)
    if os.path.exists(model):  # workers have other working folders
        model = os.path.abspath(model)
    network = (model, colorizer.checkpoint, device, precision, own.style, engine)
    with _ray(cluster):
        _run(stages, network, state, workers, progress)
    report = read_report(output)
    report.listing = listing
    return report


def require_ray() -> None:
    """Checks that Ray is installed.

    Raises:
        ClusterError: It is not.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ClusterError('archive needs ray: pip install "ray[data]>=2.55", or ".[cluster]" here') from error


def _begin(stages: Stages, mark: Mark) -> BatchReport | None:
    """Writes the manifest, where there is none yet; otherwise checks that it is the same archive's."""
    manifest = stages.output / STATE / "manifest.parquet"
    settings = {
        "input": stages.source.address,
        "model": mark.system,
        "style": mark.style,
        "strength": stages.strength,
        "skip_colour": stages.skip_colour,
        "mark": stages.mark is not None,
    }
    if manifest.exists():
        _, begun = read_settings(manifest)
        for name, value in settings.items():
            if begun[name] != value:
                raise ClusterError(
                    f"{stages.output.address} was begun with {name} {begun[name]}, not {value}; "
                    f"give the same, or another output"
                )
        return None
    if not stages.source.exists():
        raise ClusterError(f"{stages.source.address} does not exist; check the address")
    report = BatchReport()
    if not write_manifest(manifest, listed(stages.source, stages.output, report), settings):
        manifest.filesystem.delete_file(manifest.path)
        raise ClusterError(f"{stages.source.address} holds no pictures; give a folder of JPEG, PNG, TIFF or WebP files")
    return report


@contextlib.contextmanager
def _ray(cluster: str | None) -> Iterator[None]:
    """Ray, joined or started, within the block.

    Raises:
        ClusterError: It cannot be had, or gave up.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would send statistics of use
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of its plan and its means
    how: dict[str, Any] = {"address": cluster} if cluster else {"address": "local", "num_cpus": usable_cores()}
    try:
        ray.init(**how, include_dashboard=None if cluster else False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of many kinds, some of them plain `Exception`
        raise ClusterError(f"Ray cannot be reached or started: {str(error).splitlines()[0]}") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise ClusterError(f"Ray gave up ({type(error).__name__}: {last}); run the same command to go on") from error
    finally:
        ray.shutdown()


def _run(stages: Stages, network: tuple[Any, ...], state: Place, workers: int | None, progress: bool) -> None:
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    there = ray.cluster_resources()
    cores, gpus = int(there.get("CPU", 1)), 0 if network[2] == "cpu" else int(there.get("GPU", 0))
    # A network takes two thirds of a picture's time on a CPU. Counted as half a core each, as many as there are cores
    # leave room for the other stages, which must have a core at least, or Ray would wait for ever.
    workers = workers or gpus or cores
    share = min(0.5, (cores - 1) / workers)
    pictures, _ = read_settings(state / "manifest.parquet")
    block = max(1, min(BLOCK, pictures // (4 * cores)))

    context = DataContext.get_current()
    before = context.checkpoint_config, context.enable_progress_bars, context.max_errored_blocks
    context.checkpoint_config = CheckpointConfig(
        "path", (state / "done").path, delete_checkpoint_on_success=False, override_filesystem=state.filesystem
    )
    context.enable_progress_bars = progress
    context.max_errored_blocks = MOST_LOST
    context.use_datasource_v2 = False  # which would start two more processes, to list the one file that is read
    try:
        rows = ray.data.read_parquet(
            (state / "manifest.parquet").path, filesystem=state.filesystem, partitioning=None
        ).repartition(target_num_rows_per_block=block)
        rows = rows.map_batches(_decoded, fn_args=(stages,), batch_format="pyarrow", batch_size=None)
        rows = rows.map_batches(
            Network,
            fn_constructor_args=network,
            batch_format="pyarrow",
            batch_size=block,
            compute=ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=share,  # differs from the other stages', or Ray would put decoding into this one
            num_gpus=min(1.0, gpus / workers),
        )
        rows = rows.map_batches(_encoded, fn_args=(stages,), batch_format="pyarrow", batch_size=None)
        rows.write_parquet(
            (state / "report").path,
            filesystem=state.filesystem,
            min_rows_per_file=max(block, min(4096, pictures // 100)),
        )
    finally:
        context.checkpoint_config, context.enable_progress_bars, context.max_errored_blocks = before
