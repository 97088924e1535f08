"""`archive` on Ray: a cluster of two nodes, a worker and a driver that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.inference import Colorizer
from colorize_utils.inference.archive import STATE
from colorize_utils.inference.batch import colorize_files

PICTURES = 300


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of two cores on this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")  # on a machine that is busy otherwise
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[cluster]"')
    from ray.cluster_utils import Cluster

    # Without the processes that scale a cluster and collect its logs, the others start sooner.
    node = {"num_cpus": 2, "object_store_memory": 200_000_000, "no_monitor": True, "include_log_monitor": False}

    def add(tries=4, **more):
        try:
            return cluster.add_node(**node, **more)
        except Exception:  # Ray gives a node 30 seconds to start, which a busy machine may need for itself
            if tries == 1:
                raise
            return add(tries - 1, **more)

    cluster = Cluster()
    try:
        add(include_dashboard=False)
        add()
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    for number, picture in enumerate(synthetic_flowers(PICTURES, 32)):
        path = folder / f"box-{number % 7}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 10 == 3:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(picture).convert("L").save(path)
    return folder


def pictures(folder):
    return {path.relative_to(folder).as_posix() for path in folder.glob("box-*/[!.]*.png")}


def wait(condition, process, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it has ended too soon"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def test_after_kills_every_good_picture_is_there_once_and_every_bad_one_in_the_report(
    album, tmp_path, tiny_checkpoint, cluster
):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "colorize_utils", "archive", str(album), str(output)]
    command += ["--address", cluster.address, "--model", str(tiny_checkpoint), "--device", "cpu", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    log = subprocess.DEVNULL

    driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    wait(lambda: len(pictures(output)) > PICTURES // 5, driver)
    workers = [
        process
        for node in cluster.list_all_nodes()
        for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
        if "Network" in " ".join(process.cmdline())
    ]
    assert workers
    workers[0].kill()
    wait(lambda: len(pictures(output)) > PICTURES // 2, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # its tasks end
    before = {name: ((output / name).stat().st_mtime_ns, (output / name).read_bytes()) for name in pictures(output)}
    assert len(before) > PICTURES // 2

    again = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.PIPE, text=True)
    bad = {path for path in pictures(album) if (album / path).read_bytes() == b"no picture"}
    assert again.returncode == 1
    assert len(bad) == PICTURES // 10
    assert f"error: and {len(bad) - 10} more; all are in {output}/{STATE}/report" in again.stderr
    assert pictures(output) == pictures(album) - bad
    assert all((output / name).stat().st_mtime_ns == was for name, (was, _) in before.items())

    from pyarrow import parquet

    report = parquet.read_table(output / STATE / "report").to_pylist()
    assert sorted(row["path"] for row in report) == sorted(pictures(album))
    assert {row["path"] for row in report if row["outcome"] == "failed"} == bad
    assert all("is not a picture that can be read" in row["reason"] for row in report if row["path"] in bad)
    assert {row["outcome"] for row in report} <= {"written", "skipped", "failed"}

    colorize_files(Colorizer.from_checkpoint(tiny_checkpoint, "cpu"), [album], tmp_path / "plain", progress=False)
    for name in pictures(output):
        assert (output / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name

    third = subprocess.run([*command[:-1]], env=environment, capture_output=True, text=True)
    assert third.returncode == 1 and f"{len(bad)} failed" in third.stdout
    assert parquet.read_table(output / STATE / "report").num_rows == PICTURES
