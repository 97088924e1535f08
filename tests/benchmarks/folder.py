"""A folder of photographs of a megapixel, and one photograph of 24 megapixels: beside the network's own time.

    python tests/benchmarks/folder.py [--engine onnx] [--json FILE]

The bundled model, by the engine asked for, and a full-width U-Net at 256×256 (random weights) by PyTorch; memory is the
peak of a process that does nothing else.
"""

import functools
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from colorize_utils.checkpoints import DEFAULT, load_generator, save
from colorize_utils.inference import Colorizer, batch
from colorize_utils.inference.colorizer import working_size
from colorize_utils.machine import keep_freed_memory
from colorize_utils.models import UNet


def album(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Gray JPEG photographs, each turned another way."""
    photographs = [Image.fromarray(colour).convert("L").resize(size) for colour in load_sample_images().images]
    folder.mkdir()
    for index in range(count):
        photographs[index % 2].rotate(index, Image.Resampling.BILINEAR).save(folder / f"{index:03}.jpg", quality=90)
    return sorted(folder.iterdir())


PROCESS = """
import re, sys
from pathlib import Path
from colorize_utils.cli import main
status = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
sys.exit(status)
"""


def process(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of `python -m colorize_utils`, in a process of its own (on Linux)."""
    output = []
    command = [sys.executable, "-c", PROCESS, *arguments]
    took = measure.seconds(lambda: output.append(subprocess.run(command, check=True, capture_output=True, text=True)))
    return took, int(output[0].stdout.split()[-1]) / 1024


def colorize_album(colorizer: Colorizer, photographs: list[Path], output: Path, at_once: int) -> float:
    batch.AT_ONCE, before = at_once, batch.AT_ONCE
    try:
        return measure.seconds(
            lambda: batch.colorize_files(colorizer, photographs, output, overwrite=True, progress=False)
        )
    finally:
        batch.AT_ONCE = before


def network_alone(colorizer: Colorizer, photograph: Path, times: int) -> float:
    """Seconds of the network, its mirror image and its style included, for as many pictures as the folder holds."""
    small = working_size(np.asarray(Image.open(photograph)), colorizer.size)
    chroma = functools.partial(colorizer.chroma, small, colorizer.default_style)
    chroma()
    return measure.seconds(lambda: [chroma() for _ in range(times)])


def main() -> None:
    options = measure.options(__doc__, count=200, engine="torch")
    keep_freed_memory()  # as the command line does
    count, side = (6, 200) if options.toy else (options.count, 1000)
    results = {"albums": {}}
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        photographs = album(here / "album", count, (side * 6 // 5, side * 5 // 6))
        torch.manual_seed(0)
        wide = save(
            here / "wide.safetensors", UNet(1 / 16 if options.toy else 1.0), {"size": 64 if options.toy else 256}
        )
        for model, some in ((DEFAULT, photographs), (wide, photographs[: max(4, count // 5)])):
            engine = options.engine if model == DEFAULT else "torch"
            colorizer = Colorizer.from_checkpoint(model, "cpu", progress=False, engine=engine)
            colorize_album(colorizer, some[:4], here / "warm", 2)
            ways = {
                "network alone": lambda c=colorizer, s=some: network_alone(c, s[0], len(s)),
                "one at a time": lambda c=colorizer, s=some: colorize_album(c, s, here / "out", 1),
                "as it comes": lambda c=colorizer, s=some: colorize_album(c, s, here / "out", batch.AT_ONCE),
            }
            rounds = [{name: way() for name, way in ways.items()} for _ in range(min(3, options.rounds))]
            times = {name: statistics.median(turn[name] for turn in rounds) for name in ways}
            rows = [(name, 1000 * value / len(some), value / times["network alone"]) for name, value in times.items()]
            name = f"{load_generator(model, progress=False).name}, {engine}"
            measure.table(f"{len(some)} photographs, {name}", ("", "ms a picture", "× network"), rows)
            results["albums"][name] = times

        arguments = ["--overwrite", "--quiet", "--device", "cpu", "--engine", options.engine]
        rows = []
        for number in (count,) if options.toy else (count // 4, count):
            some = [str(path) for path in photographs[:number]]
            rows.append((number, *process([*arguments, *some, "-o", str(here / "out")])))
        measure.table("Memory of a whole process", ("pictures", "seconds", "peak MB"), rows)
        results["memory"] = {number: peak for number, _, peak in rows}

        size = (600, 400) if options.toy else (6000, 4000)
        (large,) = album(here / "large", 1, size)
        small = here / "small.jpg"
        Image.open(large).resize((96, 64)).save(small)
        rows = [
            (name, *process([*arguments, str(path)]))
            for name, path in (("96×64", small), (f"{size[0]}×{size[1]}", large))
        ]
        measure.table("One photograph, a process each", ("size", "seconds", "peak MB"), rows)
        results["large"] = {name: {"seconds": took, "megabytes": peak} for name, took, peak in rows}
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
