import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils import notebook, training
from colorize_utils.data import levels_of
from colorize_utils.models import LuminanceKept
from colorize_utils.notebook import LiveFigure, prepare, runs_folder, show_source
from colorize_utils.recipes import GAN_L1

# ---------------------------------------------------------------- prepare


def test_prepare_says_what_it_runs_on_and_installs_nothing_where_nothing_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    prepare()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("colorize_utils 0.1.0 from ")
    assert "torch" in second


def test_prepare_installs_what_is_missing_and_holds_the_rest(capsys, monkeypatch):
    seen = {}

    def pip(command, **_):
        seen["packages"] = command[command.index("-c") + 2 :]
        seen["held"] = Path(command[command.index("-c") + 1]).read_text().splitlines()
        return subprocess.CompletedProcess(command, seen.get("code", 0))

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setitem(notebook.MODULES, "pytorch-msssim", "a_module_that_nobody_has")
    prepare()
    assert seen["packages"] == ["pytorch-msssim"]
    assert f"torch=={torch.__version__.split('+')[0]}" in [line.split("+")[0] for line in seen["held"]]
    assert "missing" not in capsys.readouterr().out

    seen["code"] = 1
    prepare()
    assert "missing, and could not be installed: pytorch-msssim" in capsys.readouterr().out


# ---------------------------------------------------------------- where runs live


def test_runs_lie_in_the_working_folder_where_there_is_no_drive(monkeypatch, tmp_path):
    monkeypatch.delenv("COLORIZE_RUNS", raising=False)
    monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive")
    assert str(runs_folder()) == "runs"
    assert str(runs_folder(mount_drive=True)) == "runs"  # this is not Colab
    monkeypatch.setenv("COLORIZE_RUNS", str(tmp_path / "elsewhere"))
    assert runs_folder() == tmp_path / "elsewhere"


def test_runs_lie_on_the_drive_where_it_is_mounted(monkeypatch, tmp_path):
    class Drive:
        @staticmethod
        def mount(mountpoint):
            assert mountpoint == str(tmp_path / "drive")
            (tmp_path / "drive" / "MyDrive").mkdir(parents=True)

    monkeypatch.delenv("COLORIZE_RUNS", raising=False)
    monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive")
    google = type(sys)("google")
    google.colab = type(sys)("google.colab")
    google.colab.drive = Drive
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)
    assert str(runs_folder()) == "runs"
    on_drive = tmp_path / "drive" / "MyDrive" / "colorize_utils" / "runs"
    assert runs_folder(mount_drive=True) == on_drive
    assert runs_folder() == on_drive


# ---------------------------------------------------------------- the live figure


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show: the PNG bytes, and whether they replace what stood there."""
    pictures = []

    class Handle:
        def update(self, image):
            pictures.append((image.data, "updated"))

    def display(image, display_id=None):
        assert display_id
        pictures.append((image.data, "new"))
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    return pictures


TINY = replace(GAN_L1, size=32, width=1 / 16, epochs=3, batch_size=8, learning_rate=1e-3)


def test_the_figure_grows_by_the_epoch_in_one_place(splits, tmp_path, shown):
    live = LiveFigure(tmp_path, splits.val[0])
    training.train(TINY, splits, tmp_path, device="cpu", progress=False, on_epoch=live)
    assert [how for _, how in shown] == ["new", "updated", "updated"]
    assert len({data for data, _ in shown}) == 3
    assert Image.open(io.BytesIO(shown[0][0])).width > 700
    assert sorted(live.snapshots) == [1, 2, 3]


def test_a_resumed_run_has_the_whole_figure(splits, tmp_path, shown):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    live = LiveFigure(whole, splits.val[0])
    training.train(TINY, splits, whole, device="cpu", progress=False, on_epoch=live)

    def stopped_after_two(epoch, history, predictor):
        first(epoch, history, predictor)
        if epoch == 2:
            raise KeyboardInterrupt

    first = LiveFigure(parted, splits.val[0])
    with pytest.raises(KeyboardInterrupt):
        training.train(TINY, splits, parted, device="cpu", progress=False, save_minutes=0, on_epoch=stopped_after_two)
    second = LiveFigure(parted, splits.val[0])
    assert sorted(second.snapshots) == [1, 2]
    training.train(TINY, splits, parted, resume=True, device="cpu", progress=False, on_epoch=second)
    assert sorted(second.snapshots) == [1, 2, 3]
    for epoch, picture in live.snapshots.items():
        np.testing.assert_array_equal(picture, second.snapshots[epoch])


def test_watching_a_run_does_not_change_it(splits, tmp_path, shown):
    watched = training.train(
        TINY, splits, tmp_path / "a", device="cpu", progress=False, on_epoch=LiveFigure(tmp_path / "a", splits.val[0])
    )
    alone = training.train(TINY, splits, tmp_path / "b", device="cpu", progress=False)
    for curve in ("generator_loss", "validation_loss"):
        assert watched[curve] == alone[curve]


def test_a_snapshot_is_what_the_generator_makes_in_evaluation_mode(splits, tmp_path, shown, tiny_unet):
    live = LiveFigure(tmp_path, splits.val[0])
    predictor = LuminanceKept(tiny_unet).train()
    live(1, {"psnr": [20.0]}, predictor)
    assert predictor.training
    with torch.no_grad():
        expected = predictor.eval()(splits.val[0][1][None])[0]
    np.testing.assert_array_equal(live.snapshots[1], levels_of(expected))


# ---------------------------------------------------------------- source


def test_the_source_of_a_method_is_shown_as_a_block_of_code():
    shown = show_source(training.Trainer.generate, LiveFigure).data
    assert shown.startswith("```python\ndef generate(self")
    assert "\nclass LiveFigure:" in shown
    assert shown.endswith("\n```")
