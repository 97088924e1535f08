"""How the benchmarks measure: sides that take turns, medians, the machine's own limits, a table and a JSON file."""

import argparse
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from colorize_utils.machine import usable_cores


def options(description: str, **more) -> argparse.Namespace:
    """The command line that all benchmarks share: --toy, --rounds, --json; `more` are further options' defaults."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny networks and few pictures: shows that it runs")
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each side (default: 9)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


Side = tuple[Callable[..., Callable[[], object]], tuple]
"""A function of a module and its arguments; what it returns is what is timed."""


def alternate(sides: Mapping[str, Side], rounds: int, toy: bool = False) -> dict[str, float]:
    """Median seconds of each side. In every round each has its turn: one call to warm up, then one that counts.

    Each side lives in a process of its own, idle while others have their turn, because the C library's allocator, which
    the package adjusts, is the whole process's. toy: one call each, in this process, which shows that it runs.
    """
    if toy:
        return {name: seconds(build(*arguments)) for name, (build, arguments) in sides.items()}
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name, side in sides.items():
        here, there = context.Pipe()
        worker = context.Process(target=_serve, args=(there, *side), daemon=True)
        worker.start()
        workers[name] = worker, here
    for _, connection in workers.values():
        connection.recv()  # ready
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (_, connection) in workers.items():
            connection.send(True)
            times[name].append(connection.recv())
    for worker, connection in workers.values():
        connection.send(False)
        worker.join()
    return {name: statistics.median(values) for name, values in times.items()}


def _serve(connection: Connection, build: Callable[..., Callable[[], object]], arguments: tuple) -> None:
    function = build(*arguments)
    connection.send("ready")
    while connection.recv():
        function()
        connection.send(seconds(function))


class _Counted(TorchDispatchMode):
    """Floating-point operations, and the bytes that convolutions must read and write: all else could be fused."""

    def __init__(self):
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def work(function: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations of one call, and the bytes that its convolutions and products read and write."""
    with _Counted() as counted:
        function()
    return counted.operations, counted.bytes


def limits(device: str = "cpu", dtype: torch.dtype = torch.float32, toy: bool = False) -> dict[str, float]:
    """What this machine reaches: FLOP/s of a large matrix product and of a large convolution, bytes/s of a copy.

    Both, because on some processors the library of matrix products is slower than that of convolutions.
    """
    n = 256 if toy else 8192 if device == "cuda" else 3072
    a = torch.rand(n, n, device=device, dtype=dtype)
    picture = torch.rand(16 if device == "cuda" else 1, 256, n // 24, n // 24, device=device, dtype=dtype)
    kernel = torch.rand(256, 256, 3, 3, device=device, dtype=dtype)
    picture, kernel = (x.to(memory_format=torch.channels_last) for x in (picture, kernel))
    source = torch.rand((1 << 20) if toy else 1 << (30 if device == "cuda" else 26), device=device)
    target = torch.empty_like(source)

    def best(function: Callable[[], object]) -> float:
        function()
        return min(seconds(function) for _ in range(5))

    with torch.no_grad():
        convolution = lambda: torch.nn.functional.conv2d(picture, kernel, padding=1)  # noqa: E731
        return {
            "matrix_product": 2 * n**3 / best(lambda: a @ a),
            "convolution": work(convolution)[0] / best(convolution),
            "copy": 2 * source.numel() * 4 / best(lambda: target.copy_(source)),
        }


def limit(function: Callable[[], object], machine: Mapping[str, float]) -> float:
    """The least seconds that `function`'s work can take on a machine of these limits."""
    flops, moved = work(function)
    return max(flops / max(machine["matrix_product"], machine["convolution"]), moved / machine["copy"])


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def instruction_sets() -> list[str]:
    """What speeds up networks on this CPU, as Linux names it; elsewhere what PyTorch names."""
    known = r"avx2|avx512f|avx512_vnni|avx512_bf16|avx512_fp16|avx_vnni|amx_tile|amx_int8|amx_bf16|asimd|i8mm|bf16|sve"
    try:
        flags = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    found = [] if flags is None else [flag for flag in flags[2].split() if re.fullmatch(known, flag)]
    return found or [torch.backends.cpu.get_cpu_capability()]


def describe(machine: Mapping[str, float], device: str = "cpu") -> dict[str, object]:
    cores = f"{usable_cores()} CPU cores ({' '.join(instruction_sets())}; PyTorch uses "
    cores += f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
    name = torch.cuda.get_device_name() if device == "cuda" else cores
    print(
        f"{name}, torch {torch.__version__}: matrix product {machine['matrix_product'] / 1e9:,.0f} GFLOP/s, "
        f"convolution {machine['convolution'] / 1e9:,.0f} GFLOP/s, copy {machine['copy'] / 1e9:,.0f} GB/s"
    )
    return {"device": name, "torch": torch.__version__, **machine}


def save(path: Path | None, results: Mapping[str, object]) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=2), encoding="utf-8")
