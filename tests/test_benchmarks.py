"""The benchmarks run, and both sides of each compute the same. How fast, they say only when they are asked."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import measure  # noqa: E402 (lies beside the benchmarks, in no package)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark at toy size in this process, as a program; returns what it wrote."""

    def run(name, *options):
        result = tmp_path / "result.json"
        script = str(BENCHMARKS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, "--toy", "--rounds", "1", "--json", str(result), *options])
        runpy.run_path(script, run_name="__main__")
        return json.loads(result.read_text())

    return run


@pytest.mark.slow
def test_inference(run):
    results = run("inference")
    assert results["precisions"]["Colorizer, fp32"]["difference"] < 1e-4
    assert results["precisions"]["Colorizer, bf16"]["levels"] <= 1
    colorizers = {f"Colorizer, {name}" for name in ("auto", "fp32", "bf16", "int8")}
    assert set(results["seconds"]) == {"literal cell", *colorizers, "limit in fp32"}
    bundled = results["checkpoint"]["precisions"]
    assert bundled["auto"]["computed"] == "fp32" and bundled["auto"]["levels"] == 0
    assert bundled["int8"]["psnr"] > 40
    assert len(results["from_the_start"]) == 4


@pytest.mark.slow
def test_training(run):
    results = run("training")
    for recipe in ("gan-l1", "wgan"):
        assert results[recipe]["losses"] < 1e-4
        assert results[recipe]["gradients"] < 1e-3
        assert set(results[recipe]["seconds"]) == {
            "literal step",
            "Trainer.step, fp32",
            "Trainer.step, bf16",
            "limit in fp32",
        }


@pytest.mark.slow
def test_precision(run):
    results = run("precision")
    assert len(results["rows"]) == 2
    assert all(row["fp32"] > 0 and row["bf16"] > 0 for row in results["rows"])


@pytest.mark.slow
def test_data(run):
    assert [result["identical"] for result in run("data").values()] == [True, True]


@pytest.mark.slow
def test_folder(run):
    results = run("folder")
    assert set(results["albums"]) == {"flowers-192, torch", "wide.safetensors, torch"}
    assert set(results["large"]) == {"96×64", "600×400"}


@pytest.mark.slow
def test_archive(run):
    """Without Ray: what it measures a process by."""
    archive = runpy.run_path(str(BENCHMARKS / "archive.py"))
    took, processor, megabytes = archive["of_all_processes"]([sys.executable, "-c", "import time; time.sleep(1.2)"])
    assert took >= 1.2 and processor < took and 1 < megabytes < 200


@pytest.mark.slow
def test_scoreboard(run):
    results = run("scoreboard")
    assert results["identical"]
    assert set(results["seconds"]) == {"literal scoreboard", "scoreboard"}


@pytest.mark.slow
def test_gpu_goes_its_way_on_a_cpu(run):
    results = run("gpu")
    assert set(results["precision"]) == {"fp32", "bf16"}
    assert len(results["minutes"]) == 3


@pytest.mark.slow
def test_several_processes_in_two(tmp_path):
    """As a program: its processes import it."""
    result = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--ranks", "2", "--json", str(result)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    rows = json.loads(result.read_text())["ranks"]
    assert [(row["processes"], row["batch"]) for row in rows] == [(1, 8), (2, 8), (2, 16)]
    assert all(row["equal weights"] for row in rows)


# ---------------------------------------------------------------- how they measure


def calls_noted(name, file):
    def note():
        with open(file, "a") as notes:
            notes.write(f"{name} {os.getpid()}\n")

    return note


@pytest.mark.slow
def test_sides_take_turns_each_in_a_process_of_its_own(tmp_path):
    """In every round each side warms up once and is timed once."""
    file = tmp_path / "calls.txt"
    medians = measure.alternate({name: (calls_noted, (name, file)) for name in ("one", "other")}, rounds=2)
    assert set(medians) == {"one", "other"}
    calls = [line.split() for line in file.read_text().splitlines()]
    assert [name for name, _ in calls] == ["one", "one", "other", "other"] * 2
    assert len({(name, process) for name, process in calls}) == 2
    assert len({process for _, process in calls} | {str(os.getpid())}) == 3


def test_the_floor_is_the_operations_at_the_machines_rate():
    """A 3×3 convolution of c channels into d, h×w pixels, is 2·9·c·d·h·w operations; what it touches moves once."""
    picture, kernel = torch.rand(2, 3, 8, 5), torch.rand(4, 3, 3, 3)

    def convolve():
        torch.nn.functional.conv2d(picture, kernel, padding=1).relu()  # an activation could be fused, and is free

    operations, moved = 2 * 9 * 3 * 4 * (2 * 8 * 5), 4 * (picture.numel() + kernel.numel() + 2 * 4 * 8 * 5)
    assert measure.work(convolve) == (operations, moved)
    machine = {"matrix_product": 10.0, "convolution": 20.0, "copy": 1e9}
    assert measure.limit(convolve, machine) == operations / 20
    assert measure.limit(convolve, machine | {"copy": 0.5}) == moved / 0.5


def test_the_machines_limits_are_rates():
    limits = measure.limits(toy=True)
    assert set(limits) == {"matrix_product", "convolution", "copy"}
    assert min(limits.values()) > 0


@pytest.mark.slow
def test_sharpness(tmp_path, tiny_checkpoint, monkeypatch):
    """Colour that is the original's own bleeds nowhere; a network that has learned nothing has an error everywhere."""
    Image.fromarray(load_sample_image("flower.jpg")).resize((320, 214)).save(tmp_path / "flower.png")
    result = tmp_path / "result.json"
    script = str(BENCHMARKS / "sharpness.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path), str(tiny_checkpoint), "--json", str(result)])
    runpy.run_path(script, run_name="__main__")
    (measured,) = json.loads(result.read_text()).values()
    assert measured["photographs"] == 1
    assert measured["near"] > 10 and measured["excess"] == pytest.approx(measured["near"] - measured["far"])

    names = runpy.run_path(script)
    square = np.zeros((100, 100, 3), np.uint8)
    square[:, 50:] = (200, 40, 40)
    distance = names["distances"](names["chroma"](square))
    assert distance[:, 47:53].max() == 0 and distance[50, 10] > 30 and distance[50, 90] > 30
    assert np.isinf(names["distances"](np.zeros((2, 20, 20)))).all()


def test_spread():
    """A colorizer that paints what is hinted and nothing else, and one that paints everything."""
    names = runpy.run_path(str(BENCHMARKS / "spread.py"))
    gray = np.full((256, 256), 120, np.uint8)
    outline = [[64, 64], [192, 64], [192, 192], [64, 192]]
    mask = np.zeros((256, 256), bool)
    mask[64:193, 64:193] = True

    class Painter:
        def __init__(self, where):
            self.where = where

        def colorize(self, gray, hints):
            colour = np.repeat(gray[..., None], 3, axis=2)
            for hint in hints:
                red, blue = np.multiply(255, names["chroma_at"](hint.rgb, 120))
                colour[self.where] = np.rint([120 + red, 120 - (0.299 * red + 0.114 * blue) / 0.587, 120 + blue])
            return Image.fromarray(colour)

    hint = names["Hint"](128, 128, "#c82828")
    near, far = names["spread"](Painter(mask), gray, outline, hint)
    assert near < 1 and far == 0
    near, far = names["spread"](Painter(slice(None)), gray, outline, hint)
    assert near < 1 and far == 1
    near, _ = names["spread"](Painter(~mask), gray, outline, hint)
    assert near > 20


def test_every_outline_holds_its_hint():
    for flower in json.loads((BENCHMARKS / "outlines.json").read_text()):
        mask = Image.new("1", (256, 256))
        ImageDraw.Draw(mask).polygon([tuple(point) for point in flower["outline"]], fill=1)
        assert mask.getpixel(tuple(flower["hint"])) and 0.05 < np.asarray(mask).mean() < 0.6
