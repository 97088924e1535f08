"""The campaigns run, a few files of each: in full they are started by hand."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from colorize_utils import checkpoints
from colorize_utils.multiscale import MultiscaleUNet


@pytest.fixture(scope="module")
def mutate():
    spec = importlib.util.spec_from_file_location("mutate", Path(__file__).parent / "campaigns" / "mutate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["picture", "checkpoint"])
def test_mutated_files_end_in_a_picture_or_a_line(mutate, kind, tmp_path):
    outcomes = [mutate.outcome(kind, number, 0, tmp_path) for number in range(24)]
    assert set(outcomes) == {"picture", "line"}


def test_the_same_seed_makes_the_same_files(mutate):
    assert mutate.mutation("picture", 5, 0) == mutate.mutation("picture", 5, 0) != mutate.mutation("picture", 5, 1)


def test_a_fault_is_found(mutate, monkeypatch, tmp_path):
    monkeypatch.setattr(mutate, "open_upright", lambda _: 1 / 0)
    monkeypatch.setattr(mutate.pictures, "MAX_PIXELS", mutate.pictures.MAX_PIXELS)  # a block changes its own process
    monkeypatch.setattr(mutate.torch, "set_num_threads", lambda _: None)
    counted, faults = mutate.block("picture", range(1, 12), 0, tmp_path / "number")
    assert counted["fault"] == len(faults) > 0
    assert all("ZeroDivisionError" in line for line in faults)


@pytest.mark.slow
def test_two_visitors_at_once_get_their_own_pictures_back(tmp_path):
    pytest.importorskip("gradio")
    torch.manual_seed(0)
    model = checkpoints.save(tmp_path / "tiny.safetensors", MultiscaleUNet(width=1 / 16), {"size": 64})
    script = Path(__file__).parent / "campaigns" / "class.py"
    command = [sys.executable, script, "--clients", "2", "--pictures", "1", "--model", model]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0 and "nothing lost, nothing mixed up" in run.stdout, run.stdout + run.stderr
