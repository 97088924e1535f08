"""A run on a mounted Drive, played by a folder, with a clock that each step moves on."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from colorize_utils import runs, training
from colorize_utils.checkpoints import load_generator
from colorize_utils.errors import TrainingError
from colorize_utils.files import cache_folder
from colorize_utils.metrics import Validation
from colorize_utils.notebook import live
from colorize_utils.notebook.live import LiveFigure, runs_folder
from colorize_utils.notebook.profiles import choose_profile
from colorize_utils.recipes import GAN_L1
from colorize_utils.training import Trainer, train

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "GAN-L1.ipynb"
RECIPE = replace(GAN_L1, size=32, width=1 / 16, batch_size=8, epochs=6)  # of four steps each
FILES = ["best.safetensors", "history.json", "last.safetensors", "state.pt"]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that `minutes_a_step` adds to; the real time does not count."""
    clock = SimpleNamespace(now=0.0, minutes_a_step=5.0)
    for module in (runs, training):
        times = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now)
        monkeypatch.setattr(module, "time", times)
    step = Trainer.step

    def slow(self, *arguments):
        clock.now += 60 * clock.minutes_a_step
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", slow)
    return clock


@pytest.fixture
def folder(monkeypatch, tmp_path, clock):
    """A run's folder on a Drive that takes a full copy of the run an hour; without a rate, it would get one a step."""
    monkeypatch.setattr(runs, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr(live, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr(runs, "DRIVE_BYTES_AN_HOUR", 4.5e6)
    return tmp_path / "drive" / "MyDrive" / "colorize-runs" / "one"


def run(splits, folder, recipe=RECIPE, **options):
    return train(recipe, splits, folder, **({"device": "cpu", "progress": False, "save_minutes": 5.0} | options))


def steps_done(trainer_epoch, losses):
    return 4 * trainer_epoch + len(losses)


def position(folder):
    """How many steps the run in a folder has done."""
    state = torch.load(folder / "state.pt", weights_only=True)
    return steps_done(state["epoch"], state["step_losses"])


def twin():
    (folder,) = (cache_folder() / "runs").iterdir()
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same_run(one, other):
    """Whether two runs ended in the same weights and the same best, to the bit."""
    return all(
        torch.equal(value, load_file(other / name)[key])
        for name in ("best.safetensors", "last.safetensors")
        for key, value in load_file(one / name).items()
    )


class Stop(BaseException):
    """The machine is taken away: nothing is saved any more."""


def taken_away_after(epochs):
    def stop(epoch, *_):
        if epoch == epochs:
            raise Stop

    return stop


def test_a_drive_is_written_no_faster_than_its_rate_and_the_local_disk_as_ever(splits, folder, clock, monkeypatch):
    written, seen, behind = [], {}, []
    step = Trainer.step

    def watch():
        for path in folder.glob("*"):
            stamp = path.stat().st_ino, path.stat().st_mtime_ns
            if seen.get(path) != stamp:
                written.append(path.stat().st_size)
            seen[path] = stamp

    def watched(self, *arguments):
        if len(self.step_losses) == 3 and self.epoch % 4 == 3:
            behind.append(position(twin()) > position(folder))
            assert position(twin()) == steps_done(self.epoch, self.step_losses)  # every five minutes, a step
        watch()
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    run(splits, folder, replace(RECIPE, epochs=10))
    before_the_last = sum(written)
    watch()
    copy = sum(path.stat().st_size for path in folder.iterdir())
    hours = clock.now / 3600
    assert hours == pytest.approx(40 * 5 / 60)
    assert 2 * copy < before_the_last < hours * runs.DRIVE_BYTES_AN_HOUR + copy
    assert any(behind)
    assert names(folder) == FILES
    assert position(folder) == 40
    assert same_run(folder, twin())


def test_the_bests_own_state_is_kept_on_the_local_disk(splits, folder):
    run(splits, folder)
    own = torch.load(twin() / "best-state.pt", weights_only=True)
    best = load_generator(folder / "best.safetensors")
    assert (own["epoch"], own["step_losses"]) == (best.metadata["epoch"], [])
    assert all(torch.equal(value, own["generator"][key]) for key, value in best.network.state_dict().items())


@pytest.mark.parametrize("machine", ["the same", "a new one"])
def test_a_run_goes_on_from_the_local_disk_or_else_from_the_drive(splits, folder, tmp_path, monkeypatch, machine):
    with pytest.raises(Stop):
        run(splits, folder, on_epoch=taken_away_after(5))
    on_drive, on_disk = position(folder), position(twin())
    assert 0 < on_drive < on_disk == 20
    if machine == "a new one":
        shutil.rmtree(cache_folder())
    began = []
    step = Trainer.step

    def watched(self, *arguments):
        began.append(steps_done(self.epoch, self.step_losses))
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    run(splits, folder, resume=True)
    assert began[0] == (on_disk if machine == "the same" else on_drive)
    run(splits, tmp_path / "straight")
    assert same_run(folder, tmp_path / "straight")


def test_a_run_that_another_machine_went_on_with_is_not_turned_back(splits, folder, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        run(splits, folder, on_epoch=taken_away_after(5))
    here = cache_folder()
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "elsewhere"))
    finished = run(splits, folder, resume=True)
    monkeypatch.setenv("COLORIZE_CACHE", str(here))
    assert run(splits, folder, resume=True)["psnr"] == finished["psnr"]
    assert position(twin()) == 24


def test_a_run_that_was_deleted_on_the_drive_begins_anew(splits, folder):
    run(splits, folder)
    shutil.rmtree(folder)
    other = replace(RECIPE, reconstruction="mse", epochs=1)
    assert len(run(splits, folder, other, resume=True)["psnr"]) == 1
    assert names(folder) == FILES
    assert names(twin()) == sorted([*FILES, "best-state.pt", "origin"])


def test_a_failure_leaves_all_on_the_drive_and_says_so(splits, folder, monkeypatch):
    def fails(epoch, *_):
        if epoch == 5:
            monkeypatch.setattr(Trainer, "step", lambda *_: torch.full((5,), float("nan")))

    with pytest.raises(TrainingError) as error:
        run(splits, folder, on_epoch=fails)
    for kept in (folder / "state.pt", folder / "best.safetensors", twin() / "best-state.pt"):
        assert str(kept) in str(error.value)
    assert position(folder) == position(twin()) == 20


def test_a_full_drive_is_told_and_the_run_goes_on_from_the_local_disk(splits, folder, monkeypatch):
    with pytest.raises(Stop):
        run(splits, folder, on_epoch=taken_away_after(3))
    with monkeypatch.context() as patched:
        filled(patched, folder)
        with pytest.raises(TrainingError, match=r"cannot save the run in .*colorize-runs.*: free some space, then res"):
            run(splits, folder, resume=True)
    assert position(twin()) > position(folder)
    assert len(run(splits, folder, resume=True)["psnr"]) == 6


def filled(patched, folder, but=()):
    """Makes a Drive full, but for files of these names."""
    copyfile = shutil.copyfile

    def full(source, target, **how):
        if folder in Path(target).parents and Path(source).name not in but:
            raise OSError(28, "No space left on device")
        return copyfile(source, target, **how)

    patched.setattr(shutil, "copyfile", full)


def test_a_run_of_which_nothing_has_arrived_on_a_full_drive_can_be_resumed(splits, folder, tmp_path, monkeypatch):
    for done in (1, 2):
        with monkeypatch.context() as patched:
            filled(patched, folder)
            with pytest.raises(TrainingError, match="free some space, then resume") as error:
                run(splits, folder, resume=True)
        assert str(twin() / "state.pt") in str(error.value)
        assert (position(twin()), list(folder.iterdir())) == (done, [])
    with pytest.raises(TrainingError, match="holds a run already"):
        run(splits, folder)
    with pytest.raises(TrainingError, match="holds another run"):
        run(splits, folder, replace(RECIPE, reconstruction="mse"), resume=True)
    assert position(twin()) == 2
    run(splits, folder, resume=True)
    assert names(folder) == FILES
    run(splits, tmp_path / "straight")
    assert same_run(folder, tmp_path / "straight")


def test_the_best_is_kept_where_the_state_alone_fits_on_a_drive(splits, folder, monkeypatch):
    losses = iter([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])  # the first epoch is the best
    monkeypatch.setattr(training, "validate", lambda *_, **__: Validation(next(losses), 20.0, 0.5, 0.1))
    for fits, minutes in (((), 60), (("state.pt",), 5)):  # at the end of the first epoch, in the second
        with monkeypatch.context() as patched:
            filled(patched, folder, fits)
            with pytest.raises(TrainingError, match="free some space, then resume"):
                run(splits, folder, resume=True, save_minutes=minutes)
    assert names(folder) == ["state.pt"]
    run(splits, folder, resume=True)
    assert names(folder) == FILES
    assert load_generator(folder / "best.safetensors").metadata["epoch"] == 1


def test_a_notebooks_run_lives_on_the_drive_by_that_way(splits, folder, tmp_path, monkeypatch):
    """The cell that trains, with `USE_DRIVE` and the profile `full`, of a recipe that is small all the same."""

    class Drive:
        @staticmethod
        def mount(mountpoint):
            (Path(mountpoint) / "MyDrive").mkdir(parents=True)

    monkeypatch.delenv("COLORIZE_RUNS", raising=False)
    monkeypatch.delenv("COLORIZE_PROFILE", raising=False)
    google = type(sys)("google")
    google.colab = SimpleNamespace(drive=Drive)
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: SimpleNamespace(update=lambda _: None))
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]]
    (cell,) = [cell for cell in cells if "training.train(" in cell]
    profile = choose_profile("full", replace(RECIPE, epochs=2))
    there = {"profile": profile, "recipe": profile.recipe, "splits": splits, "source": None, "quiet": True}
    there |= {"USE_DRIVE": True, "training": training, "Path": Path, "runs_folder": runs_folder}
    exec(cell, there | {"LiveFigure": LiveFigure})
    (on_drive,) = (tmp_path / "drive" / "MyDrive" / "colorize-runs").rglob("state.pt")
    assert position(on_drive.parent) == position(twin()) == 8
    assert names(on_drive.parent) == sorted([*FILES, "snapshots.npz"])


def test_elsewhere_nothing_is_copied(splits, folder, tmp_path):
    run(splits, tmp_path / "here")
    assert names(tmp_path / "here") == FILES
    assert not (cache_folder() / "runs").exists()
