"""The archive without Ray: the list of pictures, the stages one after the other, the report. With it: tests/cluster."""

import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorize_utils.checkpoints import load_generator
from colorize_utils.cli import main
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import ClusterError
from colorize_utils.inference import Colorizer, archive
from colorize_utils.inference.batch import BatchReport, colorize_files

pytest.importorskip("pyarrow", reason='needs pyarrow, which Ray brings: pip install -e ".[cluster]"')
import fsspec
import pyarrow
from pyarrow import parquet


def test_without_ray_the_command_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert main(["archive", str(tmp_path), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        'error: archive needs ray: pip install "ray[data]>=2.55", or ".[cluster]" here\n'
    )


@pytest.fixture
def album(tmp_path):
    """Pictures of every kind that is treated in a way of its own, and one that cannot be read."""
    folder = tmp_path / "album"
    (folder / "aunts").mkdir(parents=True)
    colour = Image.fromarray(synthetic_flowers(1, 48)[0])
    gray = colour.convert("L")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "on its side"
    gray.crop((0, 0, 48, 20)).save(folder / "lying.jpg", exif=exif)
    gray.save(folder / "scan.tif", save_all=True, append_images=[colour, gray.resize((30, 70))])
    gray.save(folder / "aunts" / "moving.gif", save_all=True, append_images=[gray.rotate(90)], duration=70)
    colour.save(folder / "aunts" / "colour.png")
    gray.convert("LA").save(folder / "alpha.webp")
    (folder / "broken.png").write_bytes(gray.tobytes()[:99])
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture
def elsewhere(album):
    """The address of a filesystem that pyarrow does not know, with the album in it."""
    memory = fsspec.filesystem("memory")
    memory.put(str(album), "/archive-test/album", recursive=True)
    yield "memory://archive-test"
    memory.rm("/archive-test", recursive=True)


def contents(folder):
    folder = Path(folder)
    pictures = (path for path in folder.rglob("*") if path.is_file() and archive.STATE not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in pictures}


def stages(source, output, checkpoint, **how):
    colorizer = Colorizer.from_checkpoint(checkpoint, "cpu")
    places = archive.Place.at(str(source)), archive.Place.at(str(output))
    return archive.Stages(*places, colorizer.size, colorizer.judged_side, colorizer.mark(), **how)


def actor(checkpoint):
    return archive.Network(str(checkpoint), load_generator(checkpoint).sha256, "cpu", "fp32", None)


def through(stages, checkpoint, rows=None):
    """The report's rows of an archive whose stages run in this process, one after the other."""
    if rows is None:
        rows = archive.listed(stages.source, stages.output, BatchReport())
    network = actor(checkpoint)
    return [stages.encode(network.predict(stages.decode(row))) for row in rows]


def outcomes(rows):
    return {row["path"]: row["outcome"] for row in rows}


@pytest.mark.parametrize("skip_colour", [False, True])
@pytest.mark.parametrize("bundled", [False, True], ids=["tiny", "bundled"])
def test_the_bytes_are_those_of_the_folder_command(album, tmp_path, tiny_checkpoint, skip_colour, bundled):
    checkpoint = "flowers-192" if bundled else tiny_checkpoint
    one, other = tmp_path / "one", tmp_path / "other"
    report = colorize_files(Colorizer.from_checkpoint(checkpoint, "cpu"), [album], one, skip_colour=skip_colour)
    rows = through(stages(album, other, checkpoint, skip_colour=skip_colour), checkpoint)
    assert contents(one) == contents(other)
    assert len(contents(one)) == 5 - skip_colour
    assert [row["reason"] for row in rows if row["outcome"] == "failed"] == report.failed
    assert {other / row["output"] for row in rows if row["outcome"] == "written"} == {
        other / path.relative_to(one) for path in report.written
    }
    assert [album / row["path"] for row in rows if row["outcome"] == "left"] == report.left
    assert {row["path"] for row in rows if row["coloured"]} >= {"aunts/colour.png"}


def test_an_address_of_another_filesystem_gives_the_same(album, tmp_path, tiny_checkpoint, elsewhere):
    """What lies elsewhere is fetched, and brought there; its errors name it by its address."""
    here = stages(album, tmp_path / "here", tiny_checkpoint)
    there = stages(f"{elsewhere}/album", f"{elsewhere}/out", tiny_checkpoint)
    expected, rows = through(here, tiny_checkpoint), through(there, tiny_checkpoint)
    assert outcomes(rows) == outcomes(expected)
    for row in rows:
        if row["outcome"] == "written":
            with there.output.filesystem.open_input_file((there.output / row["output"]).path) as file:
                assert file.read() == (tmp_path / "here" / row["output"]).read_bytes()
    (failed,) = (row for row in rows if row["outcome"] == "failed")
    why = "is not a picture that can be read; give a JPEG, PNG, TIFF or WebP file"
    assert failed["reason"] == f"{elsewhere}/album/broken.png {why}"
    assert set(outcomes(through(there, tiny_checkpoint)).values()) == {"skipped", "failed"}


def test_a_file_address_is_a_path(tmp_path):
    assert archive.Place.at(f"file://{tmp_path}").local


def test_what_is_there_is_left_and_what_a_dead_process_wrote_counts(album, tmp_path, tiny_checkpoint):
    steps = stages(album, tmp_path / "out", tiny_checkpoint)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lying.jpg").write_bytes(b"somebody's own")
    rows = through(steps, tiny_checkpoint)
    assert outcomes(rows)["lying.jpg"] == "skipped"
    assert (tmp_path / "out" / "lying.jpg").read_bytes() == b"somebody's own"
    assert set(outcomes(through(steps, tiny_checkpoint)).values()) == {"skipped", "failed"}

    row = {"path": "alpha.webp", "output": "again.webp", "reason": ""}
    network = actor(tiny_checkpoint)
    predicted = network.predict(steps.decode(row))
    assert steps.encode(predicted)["outcome"] == "written"
    os.utime(tmp_path / "out" / "again.webp", (0, 0))
    assert steps.encode(predicted)["outcome"] == "written"
    assert (tmp_path / "out" / "again.webp").stat().st_mtime == 0


def test_a_picture_that_vanishes_or_changes_between_the_stages_is_a_row(album, tmp_path, tiny_checkpoint):
    steps = stages(album, tmp_path / "out", tiny_checkpoint)
    network = actor(tiny_checkpoint)
    rows = [{"path": name, "output": name, "reason": ""} for name in ("alpha.webp", "lying.jpg", "scan.tif")]
    gone, flat, damaged = (network.predict(steps.decode(row)) for row in rows)
    (album / "alpha.webp").unlink()
    assert steps.encode(gone)["reason"] == f"{album}/alpha.webp does not exist; check the path"
    damaged["chroma"].pop()
    assert "scan.tif cannot be colorized (ValueError" in steps.encode(damaged)["reason"]
    (tmp_path / "out").rmdir()
    (tmp_path / "out").touch()
    assert "cannot be written" in steps.encode(flat)["reason"]
    assert not contents(tmp_path / "out")


def test_a_networks_own_failure_is_a_row(album, tmp_path, tiny_checkpoint, monkeypatch):
    network = actor(tiny_checkpoint)
    monkeypatch.setattr(network._colorizer, "chroma", lambda *_: 1 / 0)
    row = {"path": "alpha.webp", "output": "alpha.webp", "reason": ""}
    row = network.predict(stages(album, tmp_path / "out", tiny_checkpoint).decode(row))
    assert row["outcome"] == "failed" and row["reason"].startswith("alpha.webp cannot be colorized (ZeroDivisionError")


def test_a_machine_with_another_checkpoint_of_that_name_is_told(tiny_checkpoint):
    with pytest.raises(ClusterError, match="is another checkpoint on"):
        archive.Network(str(tiny_checkpoint), "0" * 64, "cpu", "fp32", None)


def test_large_pictures_of_a_machine_take_turns(album, tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(archive, "LARGE", 100)
    assert "written" in outcomes(through(stages(album, tmp_path / "out", tiny_checkpoint), tiny_checkpoint)).values()


# ---------------------------------------------------------------- the list


def listing(source, output, report=None):
    places = archive.Place.at(str(source)), archive.Place.at(str(output))
    return {row["path"]: row for row in archive.listed(*places, report or BatchReport())}


@pytest.mark.parametrize("there", [False, True], ids=["here", "elsewhere"])
def test_the_list_has_every_picture_but_the_results(tmp_path, elsewhere, there):
    for name in ("b/1.png", "b/1.gif", "b/1.gif.png", ".hidden.png", "colour/b/1.png", "2.tif", "x.txt"):
        path = tmp_path / "list" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = str(tmp_path / "list")
    if there:
        fsspec.filesystem("memory").put(folder, "/archive-test/list", recursive=True)
        folder = f"{elsewhere}/list"
    report = BatchReport()
    rows = listing(folder, f"{folder}/colour", report)
    assert {name: row["output"] for name, row in rows.items()} == {
        "2.tif": "2.tif",
        "b/1.png": "b/1.png",
        "b/1.gif": "b/1.gif.png",
        "b/1.gif.png": "b/1.gif.png",
    }
    (taken,) = (row for row in rows.values() if row["reason"])
    assert "b/1.gif.png is the result of" in taken["reason"] and taken["reason"].endswith("rename one of them")
    assert report.unread == {".txt": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_no_table_can_hold_and_links_to_nowhere_are_rows(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"\xe4.png")).touch()
    (tmp_path / "gone.png").symlink_to("nowhere")
    rows = list(listing(tmp_path, tmp_path / "out").values())
    assert [row["reason"] for row in rows] == [
        r"b\udce4.png has a name that is not UTF-8; rename it",
        f"{tmp_path}/gone.png is a link that leads nowhere; check what it stands for",
    ]
    place = archive.Place.at(str(tmp_path / "manifest.parquet"))
    assert archive.write_manifest(place, iter(rows), {}) == 2


def test_the_manifest_is_written_whole_or_not_at_all_and_keeps_the_settings(tmp_path):
    place = archive.Place.at(str(tmp_path / "state" / "manifest.parquet"))

    def rows(count, fault=False):
        for number in range(count):
            yield {"path": f"{number}.png", "output": f"{number}.png", "reason": ""}
        if fault:
            raise OSError("the folder vanished")

    with pytest.raises(OSError, match="vanished"):
        archive.write_manifest(place, rows(20_000, fault=True), {})
    assert not place.exists()
    assert archive.write_manifest(place, rows(25_000), {"style": "safe"}) == 25_000
    assert archive.read_settings(place) == (25_000, {"style": "safe"})
    assert parquet.read_table(place.path)["path"].to_pylist() == [f"{number}.png" for number in range(25_000)]


def test_an_address_that_nobody_knows_is_a_line():
    with pytest.raises(ClusterError, match=r"^nowhere://x cannot be reached: Protocol not known: nowhere"):
        archive.Place.at("nowhere://x")


# ---------------------------------------------------------------- the report


@pytest.fixture
def begun(album, tmp_path, tiny_checkpoint):
    """An archive as a first run leaves it, and a function that writes rows to its report."""
    steps = stages(album, tmp_path / "out", tiny_checkpoint)
    state = steps.output / archive.STATE
    archive.write_manifest(state / "manifest.parquet", archive.listed(steps.source, steps.output, BatchReport()), {})

    def write(name, rows):
        for folder, names in (("report", archive._SCHEMAS["encode"]), ("done", ["path"])):
            schema = archive._schema(*names)
            table = pyarrow.Table.from_pylist([{key: row[key] for key in names} for row in rows], schema=schema)
            Path(state.path, folder).mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, Path(state.path, folder, name))

    return steps, write


def test_the_report_is_summed_up_and_what_failed_can_be_tried_again(begun, album, tiny_checkpoint):
    steps, write = begun
    rows = through(steps, tiny_checkpoint)
    write("first.parquet", rows)
    report = archive.read_report(steps.output)
    assert report.outcomes == {"written": 5, "failed": 1} and report.missing == 0 and report.coloured == 2
    assert [path for path, _ in report.failed] == ["broken.png"]

    archive.forget_failed(steps.output)
    (done,) = Path(steps.output.path, archive.STATE, "done").iterdir()
    assert set(parquet.read_table(done)["path"].to_pylist()) == {row["path"] for row in rows} - {"broken.png"}

    Image.new("L", (20, 20), 90).save(album / "broken.png")
    time.sleep(0.01)
    row = {"path": "broken.png", "output": "broken.png", "reason": ""}
    write("second.parquet", through(steps, tiny_checkpoint, [row]))
    report = archive.read_report(steps.output)
    assert report.outcomes == {"written": 6} and not report.failed


def test_what_is_not_in_the_report_is_missing(begun, tiny_checkpoint):
    steps, write = begun
    write("first.parquet", through(steps, tiny_checkpoint)[:4])
    assert archive.read_report(steps.output).missing == 2


def test_rows_travel_as_tables(album, tmp_path, tiny_checkpoint):
    """With the schema of their stage, also where nothing is in them; and no row holds a photograph's pixels."""
    steps = stages(album, tmp_path / "out", tiny_checkpoint)
    Image.new("L", (3000, 2000), 90).save(album / "large.png")
    table = pyarrow.Table.from_pylist(list(archive.listed(steps.source, steps.output, BatchReport())))
    network = actor(tiny_checkpoint)
    decoded = archive._decoded(table, steps)
    assert decoded.nbytes < 100_000
    report = archive._encoded(network(decoded), steps)
    assert sorted(report["outcome"].to_pylist()) == ["failed"] + 6 * ["written"]
    empty = archive._encoded(network(archive._decoded(table[:0], steps)), steps)
    assert empty.schema == report.schema and empty.num_rows == 0


# ---------------------------------------------------------------- the command, as far as it goes without Ray


@pytest.fixture
def no_cluster(monkeypatch):
    """The stages in this process in place of Ray's; what they are given."""
    monkeypatch.setattr(archive, "require_ray", lambda: None)
    monkeypatch.setattr(archive, "_ray", contextlib.nullcontext)

    def run(steps, network, state, workers, progress):
        rows = parquet.read_table((state / "manifest.parquet").path).to_pylist()
        done = {}
        for path in Path(state.path, "done").glob("*.parquet"):
            done |= dict.fromkeys(parquet.read_table(path)["path"].to_pylist())
        predict = archive.Network(*network).predict
        rows = [steps.encode(predict(steps.decode(row))) for row in rows if row["path"] not in done]
        for folder, names in (("report", archive._SCHEMAS["encode"]), ("done", ["path"])):
            table = pyarrow.Table.from_pylist(
                [{name: row[name] for name in names} for row in rows], schema=archive._schema(*names)
            )
            Path(state.path, folder).mkdir(exist_ok=True)
            parquet.write_table(table, Path(state.path, folder, f"{time.time_ns()}.parquet"))

    monkeypatch.setattr(archive, "_run", run)


def test_a_run_says_what_became_of_the_archive_and_a_second_goes_on(
    album, tmp_path, tiny_checkpoint, no_cluster, capsys
):
    command = ["archive", str(album), str(tmp_path / "out"), "--model", str(tiny_checkpoint), "--device", "cpu"]
    table = f"{tmp_path}/out/{archive.STATE}/report"
    assert main(command) == 1
    out, errors = capsys.readouterr()
    assert (
        out
        == f"5 colorized, 0 already there, 0 left, 1 failed; 2 had colours of their own, 0 are unfamiliar ({table})\n"
    )
    assert errors.splitlines() == [
        f"error: {album}/broken.png is not a picture that can be read; give a JPEG, PNG, TIFF or WebP file",
        "note: not read, no pictures by their names: 1 .txt",
    ]
    Image.new("L", (20, 20), 90).save(album / "broken.png")
    before = contents(tmp_path / "out")
    assert main(command) == 1  # what failed stays in the report until it is asked for
    assert main([*command, "--retry-failed"]) == 0
    assert capsys.readouterr().out.endswith(
        f"6 colorized, 0 already there, 0 left, 0 failed; 2 had colours of their own, 0 are unfamiliar ({table})\n"
    )
    assert contents(tmp_path / "out").items() > before.items()

    assert main([*command, "--strength", "0.5"]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/out was begun with strength 1.0, not 0.5; give the same, or another output\n"
    )


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "does not exist; check the address"), ("empty", "holds no pictures")]
)
def test_an_input_without_pictures_is_a_line_and_begins_nothing(
    tmp_path, tiny_checkpoint, no_cluster, capsys, name, message
):
    (tmp_path / "empty").mkdir()
    command = ["archive", str(tmp_path / name), str(tmp_path / "out"), "--model", str(tiny_checkpoint)]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / archive.STATE / "manifest.parquet").exists()


def test_packed_arrays_are_the_same_to_the_bit():
    array = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(archive._unpacked(archive._packed(array)), array)
