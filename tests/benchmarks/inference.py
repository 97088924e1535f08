"""One 256×256 picture through the full-width U-Net: the submission's cell beside `Colorizer`, warm and from the start.

    python tests/benchmarks/inference.py [--json FILE]

Weights are random, the same on all sides; how near int8 comes is measured with the bundled checkpoint on photographs.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import literal
import measure
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from colorize_utils.checkpoints import DEFAULT
from colorize_utils.colour import unit
from colorize_utils.data import sample_photograph
from colorize_utils.devices import keep_freed_memory
from colorize_utils.errors import DeviceError
from colorize_utils.inference import Colorizer
from colorize_utils.models import UNet


def networks(toy: bool) -> tuple[literal.UNet, UNet]:
    """The literal network and the package's, with the same weights and with statistics as of a trained one."""
    torch.manual_seed(0)
    theirs, ours = literal.UNet(4 if toy else 64), UNet(1 / 16 if toy else 1.0)
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.square(np.asarray(one, float) - np.asarray(other, float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def int8_psnr(toy: bool) -> float:
    """Mean dB between the int8 pictures of the bundled checkpoint and its exact ones, over crops of photographs."""
    exact = Colorizer.from_checkpoint(DEFAULT, "cpu")
    quick = Colorizer.from_checkpoint(DEFAULT, "cpu", int8=True)
    photographs = [Image.fromarray(colour).convert("L") for colour in load_sample_images().images]
    random = np.random.default_rng(1)  # other crops than those that it was calibrated with
    values = []
    for index in range(4 if toy else 100):
        photograph = photographs[index % 2]
        x, y = (random.integers(0, length - 200) for length in photograph.size)
        crop = photograph.crop((x, y, x + 200, y + 200))
        values.append(psnr(exact.colorize(crop), quick.colorize(crop)))
    return float(np.mean(values))


def literal_cell(toy: bool, path: Path, size: int, _) -> Callable[[], object]:
    network, _ = networks(toy)
    return lambda: literal.cell(network, path, size)


def colorizer(toy: bool, path: Path, size: int, how: dict) -> Callable[[], object]:
    keep_freed_memory()  # as the command line does
    ready = Colorizer(networks(toy)[1], size, device="cpu", **how)
    return lambda: ready.colorize(path)


def warm(options, folder: Path) -> dict:
    size = 64 if options.toy else 256
    path = folder / "picture.png"
    sample_photograph().resize((size, size)).save(path)
    levels = np.array(Image.open(path))
    gray = unit(torch.from_numpy(levels))[None, None]
    theirs, ours = networks(options.toy)
    with torch.inference_mode():
        expected = theirs(gray)

    ways = {"Colorizer": {}, "Colorizer(compiled=True)": {"compiled": True}, "Colorizer(int8=True)": {"int8": True}}
    if options.toy:  # a compiler takes its half minute whatever the size
        del ways["Colorizer(compiled=True)"]
    sides, differences = {"literal cell": (literal_cell, (options.toy, path, size, {}))}, {}
    for name, how in ways.items():
        try:
            ready = Colorizer(ours, size, device="cpu", **how)
        except DeviceError as error:
            print(error)
            continue
        differences[name] = (ready._predict(levels) - expected).abs().max().item()
        sides[name] = (colorizer, (options.toy, path, size, how))
    medians = measure.alternate(sides, options.rounds, options.toy)
    machine = measure.limits(toy=options.toy)
    results = {"machine": measure.describe(machine)}
    with torch.no_grad():
        operations, _ = measure.work(lambda: theirs(gray))
        medians["limit"] = measure.limit(lambda: theirs(gray), machine)
    rows = [
        (name, 1000 * value, medians["literal cell"] / value, differences.get(name, ""))
        for name, value in medians.items()
    ]
    title = f"One {size}×{size} picture, {operations / 1e9:.1f} GFLOP"
    measure.table(title, ("", "ms", "× literal", "largest difference"), rows)
    if "Colorizer(int8=True)" in sides:
        results["int8_psnr"] = int8_psnr(options.toy)
        print(
            f"\nint8, bundled checkpoint, crops of photographs: {results['int8_psnr']:.1f} dB from the exact pictures"
        )
    return results | {"seconds": medians, "differences": differences, "operations": operations}


def process(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, capture_output=True)


def from_the_start(options, folder: Path) -> dict:
    """Whole processes, imports and loading included."""
    theirs, _ = networks(toy=False)
    weights, picture = folder / "weights.pth", folder / "picture.png"
    torch.save(theirs.state_dict(), weights)
    cell = str(Path(__file__).with_name("literal.py"))
    package = [sys.executable, "-m", "colorize_utils"]
    colorize = [*package, str(picture), "--overwrite", "--device", "cpu"]
    commands = {
        "literal cell": [sys.executable, cell, str(weights), str(picture), str(folder / "colour.png")],
        "python -m colorize_utils": [*colorize, "--model", str(weights)],
        "python -m colorize_utils, bundled model": colorize,
        "python -m colorize_utils --help": [*package, "--help"],
    }
    sides = {name: (process, (command,)) for name, command in commands.items()}
    medians = measure.alternate(sides, min(5, options.rounds), options.toy)
    rows = [(name, value, medians["literal cell"] / value) for name, value in medians.items()]
    measure.table("From the start of a process, full width", ("", "seconds", "× literal"), rows)
    return medians


def main() -> None:
    options = measure.options(__doc__)
    with TemporaryDirectory() as folder:
        results = warm(options, Path(folder))
        results["from_the_start"] = from_the_start(options, Path(folder))
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
