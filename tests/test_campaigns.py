"""The campaigns run, a few files of each: in full they are started by hand."""

import importlib.util
from pathlib import Path

import pytest


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
