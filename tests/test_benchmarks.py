"""The benchmarks run, and both sides of each compute the same. How fast, they say only when they are asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def run(tmp_path):
    def run(name):
        result = tmp_path / "result.json"
        script = str(BENCHMARKS / f"{name}.py")
        command = [sys.executable, "-W", "ignore", script, "--toy", "--rounds", "1", "--json", str(result)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(result.read_text())

    return run


def test_inference(run):
    results = run("inference")
    assert results["differences"]["Colorizer"] < 1e-4
    assert results["int8_psnr"] > 40
    assert set(results["seconds"]) == {"literal cell", "Colorizer", "Colorizer(int8=True)", "floor"}
    assert len(results["from_the_start"]) == 4


def test_training(run):
    results = run("training")
    for recipe in ("gan-l1", "wgan"):
        assert results[recipe]["losses"] < 1e-4
        assert results[recipe]["gradients"] < 1e-3
        assert results[recipe]["seconds"]["floor"] < results[recipe]["seconds"]["Trainer.step"]


def test_data(run):
    assert [result["identical"] for result in run("data").values()] == [True, True]


def test_folder(run):
    results = run("folder")
    assert set(results["albums"]) == {"flowers-64", "wide.safetensors"}
    assert set(results["large"]) == {"96×64", "600×400"}


def test_gpu_goes_its_way_on_a_cpu(run):
    results = run("gpu")
    assert set(results["precision"]) == {"fp32", "bf16"}
    assert len(results["minutes"]) == 3
