"""An archive beside the folder command: processor time a picture, pictures a second, memory.

    python tests/benchmarks/archive.py [--count N] [--json FILE]

Photographs of a megapixel and the bundled model, on this machine. Each way takes an album and one of a third of its
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


def main() -> None:
    options = measure.options(__doc__, count=150)
    count, side = (6, 100) if options.toy else (options.count, 1000)
    results = {}
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        album(here / "large", count, (side * 6 // 5, side * 5 // 6))
        album(here / "small", count // 3, (side * 6 // 5, side * 5 // 6))
        program = [sys.executable, "-m", "colorize_utils"]
        ways = {"folder": [], "archive, 1 worker": ["--workers", "1"], "archive, 2 workers": ["--workers", "2"]}
        for way, more in ways.items():
            measured = {}
            for size in ("small", "large"):
                output = str(here / f"{way}-{size}")
                if way == "folder":
                    command = [*program, str(here / size), "-o", output]
                else:
                    command = [*program, "archive", str(here / size), output, *more]
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
    rows = [(way, *result.values()) for way, result in results.items()]
    measure.table(f"{count} photographs of {side * 6 // 5}×{side * 5 // 6}", columns, rows)
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
