"""One 256×256 picture through the full-width U-Net: the submission's cell beside `Colorizer`, warm and from the start.

    python tests/benchmarks/inference.py [--model CHECKPOINT] [--json FILE]

Weights are random, the same on all sides, and so paint weak colours; how near bf16 and int8 come to fp32 is measured
with a checkpoint, too, by default the bundled one.
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
from colorize_utils.errors import DeviceError
from colorize_utils.inference import Colorizer
from colorize_utils.inference.engines import PRECISIONS
from colorize_utils.machine import keep_freed_memory
from colorize_utils.models import UNet

FAR = 8  # levels of 255
SHARE = f"share beyond {FAR}"


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


def crops(count: int, side: int) -> list[Image.Image]:
    """Gray crops of photographs, other ones than those that int8 is calibrated with."""
    photographs = [Image.fromarray(colour).convert("L") for colour in load_sample_images().images]
    rng, found = np.random.default_rng(1), []
    for index in range(count):
        photograph = photographs[index % 2]
        x, y = (int(rng.integers(0, length - side)) for length in photograph.size)
        found.append(photograph.crop((x, y, x + side, y + side)))
    return found


def nearness(exact: Colorizer, quick: Colorizer, pictures: list[Image.Image]) -> dict[str, float]:
    """How near the pictures of two colorizers are: mean dB, and by how many levels of 255 pixels differ."""
    pairs = [(exact.colorize(picture), quick.colorize(picture)) for picture in pictures]
    levels = [np.abs(np.asarray(one, int) - np.asarray(other, int)).max(axis=2) for one, other in pairs]
    return {
        "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
        "levels": max(int(one.max()) for one in levels),
        "far": float(np.mean([(one > FAR).mean() for one in levels])),
    }


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

    exact = Colorizer(ours, size, device="cpu", precision="fp32")
    sides, found = {"literal cell": (literal_cell, (options.toy, path, size, {}))}, {}
    for precision in PRECISIONS:
        name, how = f"Colorizer, {precision}", {"precision": precision}
        try:
            ready = Colorizer(ours, size, device="cpu", **how)
        except DeviceError as error:
            print(error)
            continue
        difference = float(np.abs(ready._predict("colour", levels) - expected.numpy()).max())
        near = nearness(exact, ready, crops(2 if options.toy else 10, size))
        found[name] = {"computed": ready.precision, "difference": difference, **near}
        sides[name] = (colorizer, (options.toy, path, size, how))
    medians = measure.alternate(sides, options.rounds, options.toy)
    machine = measure.limits(toy=options.toy)
    results = {"machine": measure.describe(machine)}
    with torch.no_grad():
        operations, _ = measure.work(lambda: theirs(gray))
        medians["limit in fp32"] = measure.limit(lambda: theirs(gray), machine)
    rows = []
    for name, value in medians.items():
        near = found.get(name, dict.fromkeys(("computed", "difference", "psnr", "levels", "far"), ""))
        rows.append((name, 1000 * value, medians["literal cell"] / value, *near.values()))
    title = f"One {size}×{size} picture, full width, {operations / 1e9:.1f} GFLOP"
    columns = ("", "ms", "× literal", "computed in", "output differs by", "dB from fp32", "levels", SHARE)
    measure.table(title, columns, rows)
    return results | {"seconds": medians, "precisions": found, "operations": operations}


def checkpoints_colorizer(path: Path, model: str, how: dict) -> Callable[[], object]:
    keep_freed_memory()
    ready = Colorizer.from_checkpoint(model, "cpu", **how)
    return lambda: ready.colorize(path)


def checkpoint(options, folder: Path) -> dict:
    """The bundled network, which is small and predicts a distribution, or another; a photograph of 256×256 pixels."""
    path = folder / "small.png"
    sample_photograph().resize((256, 256)).save(path)
    exact = Colorizer.from_checkpoint(options.model, "cpu", precision="fp32")
    sides, found = {}, {}
    for precision in PRECISIONS:
        try:
            ready = Colorizer.from_checkpoint(options.model, "cpu", precision=precision)
        except DeviceError:
            continue
        found[precision] = {
            "computed": ready.precision,
            **nearness(exact, ready, crops(4 if options.toy else 100, 200)),
        }
        sides[precision] = (checkpoints_colorizer, (path, options.model, {"precision": precision}))
    medians = measure.alternate(sides, options.rounds, options.toy)
    rows = [(name, 1000 * value, medians["fp32"] / value, *found[name].values()) for name, value in medians.items()]
    columns = ("precision", "ms", "× fp32", "computed in", "dB from fp32", "levels", SHARE)
    measure.table(f"{exact.name}, one picture", columns, rows)
    return {"seconds": medians, "precisions": found}


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
    options = measure.options(__doc__, model=DEFAULT)
    with TemporaryDirectory() as folder:
        results = warm(options, Path(folder))
        results["checkpoint"] = checkpoint(options, Path(folder))
        results["from_the_start"] = from_the_start(options, Path(folder))
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
