"""Tests of an environment without PyTorch: `make light-test` makes one, and runs them there alone."""

from importlib.util import find_spec

import pytest

# Where PyTorch is, other tests drive the same code; there, this one's first test could not hold.
collect_ignore_glob = [] if find_spec("torch") is None else ["test_*.py"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
