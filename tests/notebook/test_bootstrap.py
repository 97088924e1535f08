import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from colorize_utils import __version__
from colorize_utils.notebook import bootstrap
from colorize_utils.notebook.bootstrap import MODULES, prepare

ROOT = Path(__file__).parent.parent.parent


def test_prepare_says_what_it_runs_on_and_installs_nothing_where_nothing_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    prepare()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"colorize_utils {__version__} from ")
    assert "torch" in second


def test_prepare_installs_what_is_missing_and_holds_the_rest(capsys, monkeypatch):
    seen = {}

    def pip(command, **_):
        seen["packages"] = command[command.index("-c") + 2 :]
        seen["held"] = Path(command[command.index("-c") + 1]).read_text().splitlines()
        return subprocess.CompletedProcess(command, seen.get("code", 0))

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setitem(bootstrap.MODULES, "pytorch-msssim", "a_module_that_nobody_has")
    prepare()
    assert seen["packages"] == ["pytorch-msssim"]
    assert f"torch=={torch.__version__.split('+')[0]}" in [line.split("+")[0] for line in seen["held"]]
    assert "missing" not in capsys.readouterr().out

    seen["code"] = 1
    prepare()
    assert "missing, and could not be installed: pytorch-msssim" in capsys.readouterr().out


def test_every_requirement_is_looked_for_but_the_test_runner_and_the_engine_for_those_without_torch():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert set(MODULES) == {Requirement(line).name for line in lines} - {"nbval", "onnxruntime"}


def test_preparing_needs_nothing_but_the_standard_library():
    """-S: no installed package can be imported; what is missing would then be installed."""
    script = "import colorize_utils.notebook.bootstrap as b; b._install = print; b.prepare()"
    result = subprocess.run([sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str([*MODULES]) in result.stdout
    assert "missing, and could not be installed: gdown, " in result.stdout
    assert result.stdout.endswith(", no torch\n")


def test_a_package_on_another_drive_is_told_by_its_whole_path(monkeypatch, capsys):
    def relpath(path):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    prepare()
    assert f"from {ROOT / 'colorize_utils'}\n" in capsys.readouterr().out
