"""`train` from the command line: every recipe, stopped and resumed; signals to a real process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from colorize_utils.checkpoints import load_generator
from colorize_utils.cli import main
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.recipes import RECIPES
from colorize_utils.training import Trainer

pytestmark = pytest.mark.slow
TINY = ["--data", "generated", "--count", "20", "--size", "32", "--width", "0.0625", "--batch-size", "8"]
TINY += ["--device", "cpu", "--quiet"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_stops_resumes_and_is_drawn(tmp_path, monkeypatch, capsys, name):
    folder = tmp_path / "run"
    critic = ["--critic-batch-size", "8"] if RECIPES[name].adversary == "critic" else []
    command = ["train", name, *TINY, "--epochs", "3", *critic, "-o", str(folder)]
    with monkeypatch.context() as patched:
        step, steps = Trainer.step, []

        def stopped(self, *arguments):
            steps.append(self.epoch)
            if steps == [0, 0, 1]:  # two steps an epoch
                signal.raise_signal(signal.SIGINT)
            return step(self, *arguments)

        patched.setattr(Trainer, "step", stopped)
        assert main(command) == 130
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    for part in (folder / "state.pt", folder / "best.safetensors", "--resume"):
        assert str(part) in line
    assert [text.split()[1] for text in captured.out.splitlines() if text.startswith("epoch ")] == ["1/3"]
    state = torch.load(folder / "state.pt", weights_only=True)
    assert (state["epoch"], len(state["step_losses"])) == (1, 1)

    assert main([*command, "--resume"]) == 0
    out = capsys.readouterr().out
    assert [text.split()[1] for text in out.splitlines() if text.startswith("epoch ")] == ["2/3", "3/3"]
    assert load_generator(folder / "last.safetensors").metadata["epoch"] == 3
    curves = Image.open(folder / "curves.png").convert("RGB")
    assert len(curves.getcolors(2**24)) > 100


@pytest.mark.parametrize("name", RECIPES)
def test_a_single_training_picture_of_size_32_is_refused_in_a_line(tmp_path, capsys, name):
    """Of three pictures one is for training: batch normalization has nothing to average at 1×1, but at 2×2 it has."""
    (tmp_path / "three").mkdir()
    for index, flower in enumerate(synthetic_flowers(3, 64)):
        Image.fromarray(flower).save(tmp_path / "three" / f"{index}.png")
    command = ["train", name, *TINY, "--data", str(tmp_path / "three"), "--epochs", "1", "-o", str(tmp_path / "run")]
    assert main(command) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    if name == "multiscale":  # it halves pictures once more
        assert main([*command, "--size", "64"]) == 1
        assert (
            main([*command, "--size", "64", "--epochs", "2"]) == 1
        )  # of which the first has pictures of half the size
        assert len(capsys.readouterr().err.splitlines()) == 2
    assert main([*command, "--size", "192" if name == "multiscale" else "64"]) == 0


def test_a_terminated_process_has_saved_its_run(tmp_path):
    command = [sys.executable, "-m", "colorize_utils", "train", "gan-l1", *TINY, "--epochs", "100000"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert any(line.startswith("epoch 3/") for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert str(Path(tmp_path / "run" / "state.pt")) in errors
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["epoch"] >= 3


def test_a_warning_is_one_line_on_stderr(tmp_path):
    command = [sys.executable, "-m", "colorize_utils", "train", "gan-l1", *TINY, "-o", str(tmp_path / "run")]
    assert main([*command[3:], "--epochs", "1"]) == 0
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    state["machine"]["threads"] += 1
    torch.save(state, tmp_path / "run" / "state.pt")
    resumed = subprocess.run([*command, "--epochs", "1", "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0
    (line,) = resumed.stderr.splitlines()
    assert line.startswith("warning: ") and "threads" in line
