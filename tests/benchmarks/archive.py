"""An archive beside the folder command: processor time a picture, pictures a second, memory.

    python tests/benchmarks/archive.py [--count N] [--ways folder,1,2] [--json FILE]

Photographs of a megapixel and the bundled model, on this machine; `--ways` names the folder command and numbers of
workers. Each way takes an album and one of a third of its
size, so that the difference is the pictures' own time, without what Ray and PyTorch take to start. The processor's
time is that of all processes together, which says the same on a machine that has other work.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import psutil
from folder import album

from colorize_utils.checkpoints import DEFAULT
from colorize_utils.inference import Colorizer
from colorize_utils.inference.archive import Network, Place, Stages, listed
from colorize_utils.inference.batch import BatchReport
from colorize_utils.machine import keep_freed_memory


def of_all_processes(command: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and the most megabytes, of a command and all processes that it starts."""
    used: dict[tuple[int, float], float] = {}
    most = 0.0
    ended = threading.Event()

    def watch(root: psutil.Process) -> None:
        nonlocal most
        while not ended.wait(0.5):
            memory = 0.0
            for process in [root, *root.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                    used[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_full_info().pss / 1e6
                except psutil.NoSuchProcess:
                    continue
            most = max(most, memory)

    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid),))
    watcher.start()
    try:
        if process.wait():
            raise RuntimeError(f"status {process.returncode}: {' '.join(command)}")
    finally:
        took = time.perf_counter() - began
        ended.set()
        watcher.join()
    return took, sum(used.values()), most


def stages_alone(photographs: Path, output: Path) -> dict[str, float]:
    """Milliseconds of the processor a picture in each stage, in this process; bytes a picture of files and rows."""
    colorizer = Colorizer.from_checkpoint(DEFAULT, "cpu", precision="fp32")
    places = Place.at(str(photographs)), Place.at(str(output))
    stages = Stages(*places, colorizer.size, colorizer.judged_side, colorizer.mark())
    network = Network(DEFAULT, colorizer.checkpoint, "cpu", "fp32", None)
    rows = list(listed(*places, BatchReport()))
    network.predict(stages.decode(rows[0]))
    results = {}
    for name, work in (("decode", stages.decode), ("network", network.predict), ("encode", stages.encode)):
        began = time.process_time()
        rows = [work(row) for row in rows]
        results[name] = 1000 * (time.process_time() - began) / len(rows)
        if name != "encode":
            results[f"bytes after {name}"] = sum(
                len(page) for row in rows for page in row["seen" if name == "decode" else "chroma"]
            ) / len(rows)
    for name, place in zip(("original", "result"), places, strict=True):
        sizes = [path.stat().st_size for path in Path(place.path).glob("*.jpg")]
        results[f"{name} bytes"] = sum(sizes) / len(sizes)
    return results


def main() -> None:
    keep_freed_memory()  # as the command line does
    options = measure.options(__doc__, count=150, ways="folder,1,2")
    count, side = (6, 100) if options.toy else (options.count, 1000)
    results = {}
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        album(here / "large", count, (side * 6 // 5, side * 5 // 6))
        album(here / "small", count // 3, (side * 6 // 5, side * 5 // 6))
        results["stages"] = stages_alone(here / "small", here / "stages")
        measure.table("The stages alone", ("", "ms of the processor, or bytes"), list(results["stages"].items()))
        program = [sys.executable, "-m", "colorize_utils"]
        for way in filter(None, options.ways.split(",")):
            measured = {}
            for size in ("small", "large"):
                output = str(here / f"{way}-{size}")
                if way == "folder":
                    command = [*program, str(here / size), "-o", output]
                else:
                    command = [*program, "archive", str(here / size), output, "--workers", way]
                measured[size] = of_all_processes([*command, "--device", "cpu", "--quiet"])
            pictures = count - count // 3
            seconds, processor = (
                (large - small) / pictures for small, large in list(zip(*measured.values(), strict=True))[:2]
            )
            results[way] = {
                "milliseconds": 1000 * seconds,
                "processor": 1000 * processor,
                "start": measured["small"][1] - processor * (count // 3),
                "megabytes": measured["large"][2],
            }
    columns = ("", "ms a picture", "processor ms a picture", "processor s to start", "peak MB")
    rows = [(way, *result.values()) for way, result in results.items() if way != "stages"]
    measure.table(f"{count} photographs of {side * 6 // 5}×{side * 5 // 6}", columns, rows)
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
