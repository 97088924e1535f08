import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils import training
from colorize_utils.colour import levels_of
from colorize_utils.errors import TrainingError
from colorize_utils.models import LuminanceKept
from colorize_utils.notebook import live
from colorize_utils.notebook.live import LiveFigure, runs_folder, show_source
from colorize_utils.recipes import GAN_L1

# ---------------------------------------------------------------- where runs live


def test_runs_lie_in_the_working_folder_where_there_is_no_drive(monkeypatch, tmp_path):
    monkeypatch.delenv("COLORIZE_RUNS", raising=False)
    monkeypatch.setattr(live, "DRIVE", tmp_path / "drive")
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
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
    monkeypatch.setattr(live, "DRIVE", tmp_path / "drive")
    google = type(sys)("google")
    google.colab = type(sys)("google.colab")
    google.colab.drive = Drive
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)
    assert str(runs_folder()) == "runs"
    on_drive = tmp_path / "drive" / "MyDrive" / "colorize-runs"
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


@pytest.mark.slow
def test_the_figure_grows_by_the_epoch_in_one_place(splits, tmp_path, shown):
    live = LiveFigure(tmp_path, splits.val[0])
    training.train(TINY, splits, tmp_path, device="cpu", progress=False, on_epoch=live)
    assert [how for _, how in shown] == ["new", "updated", "updated"]
    assert len({data for data, _ in shown}) == 3
    assert Image.open(io.BytesIO(shown[0][0])).width > 700
    assert sorted(live.snapshots) == [1, 2, 3]


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_of_many_snapshots_some_are_kept_first_and_last_among_them(splits, tmp_path, monkeypatch, tiny_unet):
    monkeypatch.setattr(LiveFigure, "show", lambda *_: None)  # a hundred figures would take a minute
    live = LiveFigure(tmp_path, splits.val[0])
    for epoch in range(1, 101):
        live(epoch, {"psnr": [20.0] * epoch}, tiny_unet)
        assert len(live.snapshots) <= 16
        assert {1, epoch} <= set(live.snapshots)
    assert sorted(LiveFigure(tmp_path, splits.val[0]).snapshots) == sorted(live.snapshots)


def test_a_full_disk_is_told(splits, tmp_path, shown, tiny_unet):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"cannot save .*snapshots\.npz"):
        LiveFigure(tmp_path / "file", splits.val[0])(1, {"psnr": [20.0]}, tiny_unet)


# ---------------------------------------------------------------- source


def test_the_source_of_a_method_is_shown_as_a_block_of_code():
    shown = show_source(training.Trainer.generate, LiveFigure).data
    assert shown.startswith("```python\ndef generate(self")
    assert "\nclass LiveFigure:" in shown
    assert shown.endswith("\n```")
