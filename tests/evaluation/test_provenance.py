"""Whether `evaluate` knows on which pictures a checkpoint was trained."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from colorize_utils.checkpoints import load_generator, save
from colorize_utils.cli import main
from colorize_utils.data import load_splits, make_loader
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.evaluation.provenance import read_record
from colorize_utils.metrics import gray_baseline, scoreboard

TINY = ["--size", "32", "--width", "0.0625", "--epochs", "1", "--device", "cpu", "--quiet"]
SCORED = ["--size", "32", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def pictures(tmp_path):
    """60 flowers in a folder, the first half of them darker than the others, half as high as wide."""
    (tmp_path / "pictures").mkdir()
    for index, flower in enumerate(synthetic_flowers(60, 64)):
        Image.fromarray(flower[:32] // (2 if index < 30 else 1)).save(tmp_path / "pictures" / f"{index:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def checkpoint(tmp_path, tiny_unet):
    """Writes a checkpoint with the record that training on these splits would have left."""
    return lambda splits: save(tmp_path / "model.safetensors", tiny_unet, {"size": 32, "split": splits.record})


def evaluated(capsys, *arguments):
    """The scoreboard's notes, and how many pictures it says it has."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), *SCORED]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix("note: ") for line in lines if line.startswith("note: ")], int(lines[0].split()[0])


def refused(capsys, *arguments):
    """The line that `evaluate` refuses with, before anything is scored."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), *SCORED, "--json", "refused.json"]) == 1
    assert not Path("refused.json").exists()
    captured = capsys.readouterr()
    assert not captured.out
    (line,) = captured.err.splitlines()
    return line


def test_whatever_the_seed_a_folders_test_pictures_stay_out_of_training(pictures, capsys):
    assert main(["train", "gan-l1", "--data", str(pictures), "--seed", "3", "-o", "run", *TINY]) == 0
    record = load_generator("run/best.safetensors").metadata["split"]
    for seed in (0, 3):
        scored = load_splits(pictures, 32, seed=seed, progress=False)
        assert record == scored.record
        assert record["pictures"]["train"]["count"] == len(scored.train)
        assert not set(scored.train.names) & set(scored.test.names)
        notes, count = evaluated(capsys, "run/best.safetensors", "--data", pictures, "--seed", seed)
        assert (notes, count) == ([], len(scored.test))
    with Image.open(pictures / "00.png") as flower:
        for index in range(20):
            flower.save(pictures / f"new-{index}.png")
    notes, count = evaluated(capsys, "run/best.safetensors", "--data", pictures)
    assert notes == [] and count > len(scored.test)


def test_pooled_validation_pictures_are_no_measure(capsys):
    drawn = ["--data", "generated", "--count", "40"]
    assert main(["train", "gan-l1", *drawn, "--pool", "-o", "run", *TINY]) == 0
    line = refused(capsys, "run/best.safetensors", *drawn, "--split", "val")
    assert "run/best.safetensors" in line and "4 of the 4" in line and "--split test" in line
    refused(capsys, "flowers-192", "run/best.safetensors", *drawn, "--split", "val", "--limit", "1", "--crop")
    assert evaluated(capsys, "run/best.safetensors", *drawn)[0] == []
    assert evaluated(capsys, "run/best.safetensors", *drawn, "--seed", "1", "--split", "val")[0] == []


def test_pooled_validation_pictures_of_a_folder_are_none_either(pictures, checkpoint, capsys):
    pooled = load_splits(pictures, 32, pool=True, progress=False)
    count = len(load_splits(pictures, 32, progress=False).val)
    line = refused(capsys, checkpoint(pooled), "--data", pictures, "--split", "val")
    assert f"{count} of the {count}" in line and "--split test" in line
    assert evaluated(capsys, checkpoint(pooled), "--data", pictures)[0] == []
    (pictures / load_splits(pictures, 32, progress=False).test.names[0]).unlink()  # it may be another folder now
    assert len(evaluated(capsys, checkpoint(pooled), "--data", pictures, "--split", "val")[0]) == 1


def test_a_shorter_series_of_drawn_flowers_has_been_seen(checkpoint, capsys):
    """The first pictures of a series are the same however long it is, their parts are not."""
    trained, scored = (load_splits("generated", 32, count=count, cache=None) for count in (60, 20))
    seen = len(set(trained.train.names) & set(scored.test.names))
    assert seen > 0
    line = refused(capsys, checkpoint(trained), "--data", "generated", "--count", "20")
    assert f"{seen} of the {len(scored.test)}" in line and "--count 60" in line
    assert evaluated(capsys, checkpoint(trained), "--data", "generated", "--count", "60")[0] == []


def test_in_what_is_left_of_a_folder_training_pictures_are_noticed(pictures, checkpoint, capsys):
    """A test part never stays empty: where all of its pictures are gone, it takes one that was trained on."""
    splits = load_splits(pictures, 32, progress=False)
    for name in (*splits.test.names, *splits.val.names):
        (pictures / name).unlink()
    (note,), count = evaluated(capsys, checkpoint(splits), "--data", pictures)
    assert count == 1 and "1 of these 1" in note


def test_extra_pictures_are_noticed_too(pictures, checkpoint, tmp_path, capsys):
    splits = load_splits("generated", 32, count=20, extra=pictures, cache=None)
    assert evaluated(capsys, checkpoint(splits), "--data", pictures)[0] == []
    kept = splits.train.names[-3:]
    (tmp_path / "left").mkdir()
    for name in kept:
        shutil.copy(pictures / name, tmp_path / "left" / name)
    assert "1 of these 1" in evaluated(capsys, checkpoint(splits), "--data", tmp_path / "left")[0][0]


def test_a_split_by_another_rule_is_noticed(pictures, checkpoint, capsys):
    splits = load_splits(pictures, 32, progress=False)
    splits.record["rule"] = 0
    assert len(evaluated(capsys, checkpoint(splits), "--data", pictures)[0]) == 1
    assert evaluated(capsys, checkpoint(splits), "--data", "generated", "--count", "20")[0] == []


def test_a_checkpoint_without_a_record_is_scored_and_named(tiny_checkpoint, checkpoint, tmp_path, capsys):
    drawn = ["--data", "generated", "--count", "20"]
    own = checkpoint(load_splits("generated", 32, count=20, cache=None))
    notes, count = evaluated(capsys, tiny_checkpoint, own, "flowers-192", *drawn)
    assert count == 2 and len(notes) == 1
    assert str(tiny_checkpoint) in notes[0] and "flowers-192" not in notes[0] and "model.safetensors" not in notes[0]
    (tmp_path / "page").mkdir()
    assert len(evaluated(capsys, tiny_checkpoint, *drawn, "--report", tmp_path / "page")[0]) == 1
    assert notes[0].split(":")[0] in (tmp_path / "page" / "report.md").read_text()


def test_a_record_that_makes_no_sense_is_none(tiny_unet, tmp_path):
    for record in ("folder", 7, {}, {"pictures": 3}, None):
        assert read_record(save(tmp_path / "odd.safetensors", tiny_unet, {"size": 32, "split": record})) is None


def test_cropped_pictures_are_scored_where_that_is_asked_for(pictures, checkpoint, capsys):
    how = {"progress": False, "crop": True}
    path = checkpoint(load_splits(pictures, 32, **how))
    assert evaluated(capsys, path, "--data", pictures, "--crop", "--json", "crop.json")[0] == []
    assert len(evaluated(capsys, path, "--data", pictures, "--json", "squash.json")[0]) == 1
    for name, crop in (("crop.json", True), ("squash.json", False)):
        test = load_splits(pictures, 32, progress=False, crop=crop).test
        (expected,) = scoreboard({"gray": gray_baseline}, make_loader(test, 64))
        with open(name) as file:
            assert json.load(file)[0]["psnr"] == pytest.approx(expected.psnr)


def test_limit_takes_a_sample_and_not_the_first(checkpoint, capsys):
    splits = load_splits("generated", 32, count=100, cache=None)
    for seed in (0, 1):
        drawn = load_splits("generated", 32, count=100, seed=seed, cache=None)
        arguments = ["--data", "generated", "--count", "100", "--limit", "4", "--seed", seed, "--json", "scores.json"]
        _, count = evaluated(capsys, checkpoint(splits), *arguments)
        assert count == 4
        (sampled,) = scoreboard({"gray": gray_baseline}, make_loader(drawn.test.sample(4, seed), 64))
        (first,) = scoreboard({"gray": gray_baseline}, make_loader(drawn.test.head(4), 64))
        with open("scores.json") as file:
            psnr = json.load(file)[0]["psnr"]
        assert psnr == pytest.approx(sampled.psnr) and psnr != pytest.approx(first.psnr)


def test_compare_refuses_runs_on_other_pictures(capsys):
    """Runs that are there already count only if they were trained beside the same pictures."""
    arguments = ["compare", "gan-l1", "--data", "generated", "--seeds", "1", *TINY]
    assert main([*arguments, "--count", "20"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--count", "30"]) == 1
    assert "gan-l1-0 holds another run (pictures was" in capsys.readouterr().err
