import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
from collections import Counter, namedtuple

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import Flowers102

from colorize_utils.cli import main
from colorize_utils.colour import levels_of, unit, unit_table
from colorize_utils.data import (
    EpochBatches,
    PairDataset,
    cache,
    flip_some,
    generator_for,
    load_splits,
    make_loader,
    pairs,
    sample_photograph,
    species_names,
    split_place,
    squared,
)
from colorize_utils.data.pictures import open_upright
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import DataError


def write_folder(folder, count=20, seed=0, suffix="png"):
    """A folder of generated flowers, 50×40, with a subfolder."""
    (folder / "more").mkdir(parents=True)
    for index, picture in enumerate(synthetic_flowers(count, 50, seed)):
        name = folder / ("more" if index % 3 == 0 else "") / f"{index:03}.{suffix}"
        Image.fromarray(picture[:40]).save(name)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pictures")


@pytest.fixture
def flowers_root(tmp_path, monkeypatch):
    """Flowers-102's layout with 12 generated pictures; torchvision's check of the official checksums is left out."""
    base = tmp_path / "root" / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    for index, picture in enumerate(synthetic_flowers(12, 70), start=1):
        Image.fromarray(picture[:60]).save(base / "jpg" / f"image_{index:05}.jpg", quality=90)
    ids = {"trnid": [[1, 4, 7, 10, 11, 12]], "valid": [[2, 5]], "tstid": [[3, 6, 8, 9]]}
    scipy.io.savemat(base / "setid.mat", ids)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": [list(range(1, 13))]})
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    return base.parent


def submission_pair(picture, size):
    """The submission's two transforms, as it writes them."""
    colour = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    gray = transforms.Compose([transforms.Resize((size, size)), transforms.Grayscale(), transforms.ToTensor()])
    return colour(picture), gray(picture)


def test_pairs_equal_the_submissions_transforms_to_the_bit(flowers_root):
    splits = load_splits(flowers_root, 32, progress=False)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [6, 2, 4]
    for part, split in ((splits.train, "train"), (splits.val, "val"), (splits.test, "test")):
        for index, (picture, _) in enumerate(Flowers102(flowers_root, split=split)):
            for ours, theirs in zip(part[index], submission_pair(picture, 32), strict=True):
                assert ours.dtype == torch.float32
                assert torch.equal(ours, theirs)


def test_pairs_from_a_folder_equal_them_too(folder):
    splits = load_splits(folder, 64, progress=False)
    part = splits.train
    assert [len(splits.train), len(splits.val), len(splits.test)] == [18, 1, 1]  # what the names' hashes say
    for name, (colour, gray) in zip(part.names, (part[index] for index in range(len(part))), strict=True):
        expected = submission_pair(Image.open(folder / name), 64)
        assert torch.equal(colour, expected[0])
        assert torch.equal(gray, expected[1])


def test_crop_keeps_the_aspect(folder):
    splits = load_splits(folder, 32, crop=True, progress=False)
    picture = Image.open(folder / splits.test.names[0])
    expected = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()])(picture)
    assert torch.equal(splits.test[0][0], expected)


def test_a_batch_is_its_pairs(splits):
    colour, gray = splits.train[[3, 1, 2]]
    assert colour.shape == (3, 3, 32, 32)
    assert gray.shape == (3, 1, 32, 32)
    for row, index in enumerate((3, 1, 2)):
        assert torch.equal(colour[row], splits.train[index][0])
        assert torch.equal(gray[row], splits.train[index][1])


def test_pairs_on_a_device_are_the_same_to_the_bit(splits):
    part = splits.train.sample(5)
    moved = part.to(torch.device("cpu"))
    assert isinstance(moved.pictures, torch.Tensor) and moved.names == part.names
    for index in (2, slice(3), [4, 0, 1]):
        assert all(torch.equal(a, b) for a, b in zip(part[index], moved[index], strict=True))
    assert torch.equal(moved.head(2)[1][0], part[1][0])


def test_loader_gives_what_a_plain_dataloader_gives(splits):
    ours = list(make_loader(splits.train, 5))
    theirs = list(DataLoader(splits.train, batch_size=5))
    assert len(ours) == len(theirs) == 7
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_shuffling_follows_the_seed(splits):
    first, again, other = (
        torch.cat([gray for _, gray in make_loader(splits.train, 5, shuffle=True, seed=s)]) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sorted(picture.sum().item() for picture in first) == sorted(picture.sum().item() for picture in other)


def test_unit_and_its_table_give_what_to_tensor_gives():
    levels = torch.arange(256, dtype=torch.uint8)
    expected = transforms.functional.to_tensor(levels.numpy()[:, None, None]).flatten()
    assert torch.equal(unit(levels), expected)
    assert torch.equal(unit_table()[levels.int()], expected)
    assert unit(levels.to("meta")).dtype == torch.float32  # the table's path, as far as a machine without a GPU goes


def parts_of(splits):
    return {name: part for part in ("train", "val", "test") for name in getattr(splits, part).names}


def test_a_folders_split_is_complete_and_no_seeds(folder):
    first, other = (load_splits(folder, 32, seed=seed, progress=False) for seed in (0, 1))
    assert [first.train.names, first.val.names, first.test.names] == [
        other.train.names,
        other.val.names,
        other.test.names,
    ]
    assert sorted(parts_of(first)) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_a_picture_stays_in_its_part_when_others_come_and_go(tmp_path):
    folder = write_folder(tmp_path / "pictures", 120)
    before = parts_of(load_splits(folder, 32, progress=False))
    for index, picture in enumerate(synthetic_flowers(40, 50, seed=1)):
        Image.fromarray(picture).save(folder / f"new-{index}.png")
    for path in sorted(folder.glob("0*.png"))[::3]:
        path.unlink()
    after = parts_of(load_splits(folder, 32, progress=False))
    stayed = before.keys() & after.keys()
    assert 90 < len(stayed) < 120
    assert {name: before[name] for name in stayed} == {name: after[name] for name in stayed}
    shares = [list(after.values()).count(part) / len(after) for part in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


def test_a_picture_falls_where_the_hash_of_its_name_says():
    digest = hashlib.sha256("more/fleur-d'été.png".encode()).hexdigest()
    assert split_place("more/fleur-d'été.png") == pytest.approx(int(digest[:16], 16) / 2**64, abs=1e-12)
    decomposed = unicodedata.normalize("NFD", "more/fleur-d'été.png")  # as some file systems hand it out
    assert split_place(decomposed) == split_place("more/fleur-d'été.png")


@pytest.mark.parametrize("count", range(3, 10))
def test_however_small_a_folder_each_part_has_a_picture(tmp_path, count):
    splits = load_splits(write_folder(tmp_path / "few", count), 32, cache=None, progress=False)
    names = [splits.test.names, splits.val.names, splits.train.names]
    assert all(names) and len(parts_of(splits)) == count
    places = [split_place(name) for part in names for name in part]
    assert places == sorted(places)  # where the shares gave none, the smallest


def test_environment_variable_names_the_source(folder, monkeypatch):
    monkeypatch.setenv("COLORIZE_DATA", "")  # as good as unset
    monkeypatch.setattr(
        "colorize_utils.data.pairs._flowers102", lambda *_, **__: (_ for _ in ()).throw(DataError("downloads"))
    )
    with pytest.raises(DataError, match="downloads"):
        load_splits(size=32)
    monkeypatch.setenv("COLORIZE_DATA", str(folder))
    assert len(load_splits(size=32, progress=False).train) == 18


def test_pictures_without_colour_are_left_out_of_training(folder):
    for index in (1, 2, 4, 5):
        path = folder / f"{index:03}.png"
        Image.open(path).convert("L").save(path)
    Image.open(folder / "007.png").convert("L").convert("RGB").save(folder / "007.png")
    kept = load_splits(folder, 32, progress=False)
    dropped = load_splits(folder, 32, drop_gray=True, progress=False)
    gray = {"001.png", "002.png", "004.png", "005.png", "007.png"}
    assert set(kept.train.names) - set(dropped.train.names) == gray & set(kept.train.names)
    assert len(dropped.val) == len(kept.val)
    assert {line.split(":")[0] for line in dropped.skipped} == gray & set(kept.train.names)


def test_extra_pictures_go_to_training_alone(folder, tmp_path):
    """The part of them that does: as a source they would be split, and what is not for training there stays out."""
    extra = write_folder(tmp_path / "extra", 10, seed=9)
    alone = load_splits(extra, 32, progress=False)
    splits = load_splits(folder, 32, extra=extra, progress=False)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [18 + len(alone.train), 1, 1]
    assert 0 < len(alone.train) < 10
    assert splits.train.names[18:] == alone.train.names
    for index, name in enumerate(alone.train.names, start=18):
        assert torch.equal(splits.train[index][0], submission_pair(Image.open(extra / name), 32)[0])


def test_pooled_splits_are_dealt_again_nine_to_one(folder):
    plain = load_splits(folder, 32, progress=False)
    pooled = load_splits(folder, 32, pool=True, progress=False)
    both = {*plain.train.names, *plain.val.names}
    assert (len(pooled.train), len(pooled.val)) == (17, 2)
    assert {*pooled.train.names, *pooled.val.names} == both
    assert pooled.test.names == plain.test.names
    for part in (pooled.train, pooled.val):
        for (colour, _), name in zip(part, part.names, strict=True):
            assert torch.equal(colour, submission_pair(Image.open(folder / name), 32)[0])
    assert pooled.val.names != plain.val.names
    assert load_splits(folder, 32, pool=True, seed=1, progress=False).val.names == pooled.val.names


def test_pooled_pictures_without_colour_are_left_out_too(folder):
    gray = set(load_splits(folder, 32, progress=False).val.names)
    for name in gray:
        Image.open(folder / name).convert("L").save(folder / name)
    pooled = load_splits(folder, 32, pool=True, drop_gray=True, progress=False)
    assert not gray & set(pooled.train.names)
    assert {line.split(":")[0] for line in pooled.skipped} == gray - set(pooled.val.names)


def test_unreadable_pictures_are_reported_and_left_out(folder):
    (folder / "001.png").write_bytes(b"")
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    for _ in range(2):  # decoded, then from the cache
        splits = load_splits(folder, 32, progress=False)
        assert len(splits.train) + len(splits.val) + len(splits.test) == 18
        assert any("001.png is empty" in line for line in splits.skipped)
        assert any("002.png is damaged" in line for line in splits.skipped)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "is not a folder"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "holds no pictures"),
        (lambda folder: shutil.move(write_folder(folder / "a", 2), folder / "b"), r"b: too few pictures .*\(2 that"),
    ],
)
def test_no_pictures_is_an_error_that_names_the_folder(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        load_splits(make(tmp_path), 32, progress=False)


def test_a_damaged_flower_is_named_and_left_out(flowers_root):
    path = flowers_root / "flowers-102" / "jpg" / "image_00004.jpg"
    path.write_bytes(path.read_bytes()[:500])
    (flowers_root / "flowers-102" / "jpg" / "image_00003.jpg").unlink()
    splits = load_splits(flowers_root, 32, progress=False)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [5, 2, 3]
    assert "picture 1 of the train split cannot be read" in splits.skipped[0]
    assert "picture 0 of the test split cannot be read" in splits.skipped[1]


def test_species_are_those_that_torchvision_says(flowers_root, folder):
    names = species_names(flowers_root)
    for split in ("train", "val", "test"):
        flowers = Flowers102(flowers_root, split=split)
        expected = {f"{split}/{index}": Flowers102.classes[flowers[index][1]] for index in range(len(flowers))}
        assert expected.items() <= names.items()
    assert len(names) == 12
    assert species_names(folder) == {}


def test_wide_gray_pictures_keep_their_levels(folder):
    levels = np.tile(np.linspace(0, 65535, 50).astype(np.uint16), (40, 1))
    Image.fromarray(levels).save(folder / "001.png")
    splits = load_splits(folder, 32, progress=False)
    for part in (splits.train, splits.val, splits.test):
        if "001.png" in part.names:
            gray = part[part.names.index("001.png")][1]
            assert 0.45 < gray.mean() < 0.55


def test_flowers_that_are_not_whole_are_an_error(tmp_path):
    (tmp_path / "flowers-102").mkdir()
    with pytest.raises(DataError, match=r"not whole in .*COLORIZE_DATA"):
        load_splits(tmp_path, 32)


def test_without_a_source_flowers_are_downloaded(own_cache, monkeypatch):
    calls = []

    class Recorder:
        def __init__(self, root, split, download):
            calls.append((root, split, download))
            raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.Flowers102", Recorder)
    with pytest.raises(DataError, match="no network"):
        load_splits(size=32)
    assert calls == [(own_cache, "train", True)]


# ---------------------------------------------------------------- the cache


def entries(own_cache):
    return sorted(path.name for path in (own_cache / "pictures").iterdir())


def test_pictures_are_decoded_once(folder, own_cache, monkeypatch):
    first = load_splits(folder, 32, progress=False)
    monkeypatch.setattr("colorize_utils.data.pairs.open_upright", lambda *_: pytest.fail("decoded again"))
    again = load_splits(folder, 32, progress=False)
    assert isinstance(again.train.pictures, np.memmap)
    assert torch.equal(first.train[0][0], again.train[0][0])
    assert len(entries(own_cache)) == 1


def test_no_more_threads_decode_than_the_process_has_cores_for(folder, monkeypatch):
    """On a machine of 64 cores, of which a job has one: a few threads may wait for the disk, 20 would be in the way."""
    threads = set()

    def noted(path):
        threads.add(threading.get_ident())
        time.sleep(0.05)  # so that no thread is done before all have begun
        return open_upright(path)

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)
    monkeypatch.setattr(pairs, "open_upright", noted)
    load_splits(folder, 32, cache=None, progress=False)
    assert 1 <= len(threads) <= 8


def test_cache_is_keyed_by_what_it_was_made_from(folder, own_cache):
    load_splits(folder, 32, progress=False)
    load_splits(folder, 64, progress=False)
    load_splits(folder, 32, crop=True, progress=False)
    assert len(entries(own_cache)) == 3
    path = folder / "001.png"
    Image.fromarray(np.full((40, 50, 3), (255, 0, 0), np.uint8)).save(path)
    changed = load_splits(folder, 32, progress=False)
    assert len(entries(own_cache)) == 3  # in place of the old one
    red = [
        part[part.names.index("001.png")][0]
        for part in (changed.train, changed.val, changed.test)
        if "001.png" in part.names
    ]
    assert red[0][:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("file", "content"), [("pictures.bin", b"short"), ("index.json", b""), ("index.json", b"{}")])
def test_a_damaged_entry_is_built_anew(folder, own_cache, file, content):
    whole = load_splits(folder, 32, progress=False)
    (entry,) = (own_cache / "pictures").iterdir()
    (entry / file).unlink()
    (entry / file).write_bytes(content)
    again = load_splits(folder, 32, progress=False)
    assert torch.equal(whole.train[3][0], again.train[3][0])


def test_memory_alone_serves_too(folder, own_cache):
    in_memory = load_splits(folder, 32, cache=None, progress=False)
    assert not own_cache.exists()
    assert torch.equal(in_memory.train[1][0], load_splits(folder, 32, progress=False).train[1][0])


def _load_sum(folder, barrier, results):
    barrier.wait()
    splits = load_splits(folder, 32, progress=False)
    results.put(int(np.asarray(splits.train.pictures).astype(np.int64).sum()))


@pytest.mark.slow
def test_two_processes_that_start_at_once_both_get_it_whole(folder, own_cache):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_load_sum, args=(folder, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sums[0] == sums[1] > 0
    assert len(entries(own_cache)) == 1


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_looks_finished(folder, own_cache):
    script = textwrap.dedent("""
        import itertools, sys
        import colorize_utils.data.pairs as data
        read, pictures = data.squared, itertools.count()
        def until_the_fourth(*arguments):
            if next(pictures) == 3:
                print("three are read", flush=True)
                sys.stdin.read()  # until killed
            return read(*arguments)
        data.squared = until_the_fourth
        data.load_splits(sys.argv[1], 32, progress=False)
    """)
    command = [sys.executable, "-c", script, folder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "three are read\n"
    assert entries(own_cache)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(name.startswith(".") for name in entries(own_cache))
    assert len(load_splits(folder, 32, progress=False).train) == 18
    assert [name.startswith(".") for name in entries(own_cache)] == [False]  # and what it left has gone


def test_a_full_disk_is_told_before_and_while_writing(folder, own_cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(DataError, match=r"MB free, decoded pictures need .* COLORIZE_CACHE"):
        load_splits(folder, 32, progress=False)

    free = iter([10**9, 1000])  # enough when it starts, none when a write fails
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage(10, 10, next(free)))
    monkeypatch.setattr(cache.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="MB free, decoded pictures need"):
        load_splits(folder, 32, progress=False)
    assert entries(own_cache) == []


def test_a_cache_that_cannot_be_written_is_told(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot keep decoded pictures in .*set COLORIZE_CACHE"):
        load_splits(folder, 32, progress=False)


def test_one_more_picture_decodes_that_one_and_replaces_the_entry(folder, own_cache, monkeypatch):
    before = load_splits(folder, 32, progress=False)
    (old,) = entries(own_cache)
    Image.fromarray(synthetic_flowers(1, 50, seed=5)[0]).save(folder / "new.png")
    (folder / "005.png").unlink()
    opened = []
    monkeypatch.setattr(
        "colorize_utils.data.pairs.open_upright", lambda path: opened.append(path.name) or open_upright(path)
    )
    after = load_splits(folder, 32, progress=False)
    assert opened == ["new.png"]
    assert len(entries(own_cache)) == 1 and entries(own_cache) != [old]
    everything = [name for part in (after.train, after.val, after.test) for name in part.names]
    assert "new.png" in everything and "005.png" not in everything
    monkeypatch.undo()
    fresh = load_splits(folder, 32, cache=None, progress=False)
    for one, other in ((after.train, fresh.train), (after.val, fresh.val), (after.test, fresh.test)):
        assert one.names == other.names
        assert all(torch.equal(a, b) for a, b in zip(one[:], other[:], strict=True))
    assert torch.equal(before.train[0][0], before.train[0][0])  # whoever still has the old one open may go on


def test_other_sources_and_sizes_keep_their_entries(folder, flowers_root, own_cache):
    load_splits(folder, 32, progress=False)
    load_splits(folder, 64, progress=False)
    load_splits(flowers_root, 32, progress=False)
    before = set(entries(own_cache))
    assert len(before) == 5
    Image.fromarray(synthetic_flowers(1, 50, seed=5)[0]).save(folder / "new.png")
    load_splits(folder, 32, progress=False)
    assert len(before & set(entries(own_cache))) == 4
    assert len(entries(own_cache)) == 5


BUILD_FOREVER = """
import sys, time
import colorize_utils.data.pairs as data
def slow(*arguments):
    print("reading", flush=True)
    time.sleep(600)
data.squared = slow
data.load_splits(sys.argv[1], 32, progress=False)
"""


@pytest.mark.slow
def test_a_build_that_runs_elsewhere_is_left_alone_and_a_killed_one_is_not(folder, tmp_path, own_cache, capsys):
    other = write_folder(tmp_path / "other", 5)
    process = subprocess.Popen([sys.executable, "-c", BUILD_FOREVER, other], stdout=subprocess.PIPE)
    process.stdout.readline()
    load_splits(folder, 32, progress=False)
    (running,) = (name for name in entries(own_cache) if name.startswith("."))
    assert main(["cache", "--clear"]) == 0
    assert entries(own_cache) == [running]
    process.send_signal(signal.SIGKILL)
    process.wait()
    load_splits(folder, 32, progress=False)
    assert running not in entries(own_cache)
    assert len(entries(own_cache)) == 1


def test_a_build_of_another_machine_is_abandoned_after_an_hour(folder, own_cache):
    """Its lock says nothing here: a cache may lie on a disk that several machines share."""
    load_splits(folder, 32, progress=False)
    young, old = (own_cache / "pictures" / f".32-{name}" for name in ("young", "old"))
    for building in (young, old):
        building.mkdir()
        (building / "building").write_text("another-machine")
        (building / "pictures.bin").write_bytes(b"half")
    for path in (old / "building", old / "pictures.bin", old):
        os.utime(path, (time.time() - 7200,) * 2)
    load_splits(folder, 64, progress=False)
    assert (young.exists(), old.exists()) == (True, False)


def test_the_cache_is_shown_and_cleared(folder, flowers_root, own_cache, capsys):
    load_splits(folder, 32, progress=False)
    load_splits(flowers_root, 64, crop=True, progress=False)
    (own_cache / "pictures" / "64-0123456789").mkdir()  # of an earlier version
    (own_cache / "checkpoints").mkdir()
    held = sum(path.stat().st_size for path in own_cache.rglob("*") if path.is_file())
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    assert f"20 pictures, 32×32: {folder}" in out
    assert f"4 pictures, 64×64, cropped, test split: {flowers_root / 'flowers-102'}" in out
    assert "64-0123456789" in out
    assert f"{held / 1e6:.1f} MB  5 entries in" in out
    assert len(entries(own_cache)) == 5
    assert main(["cache", "--clear"]) == 0
    assert entries(own_cache) == []
    assert (own_cache / "checkpoints").is_dir() and len(list(folder.rglob("*.png"))) == 20
    assert main(["cache"]) == 0
    assert len(load_splits(folder, 32, progress=False).train) == 18


@pytest.fixture
def looks(monkeypatch):
    """How often each file's status was asked for, by name: by `os.stat`, `os.lstat`, or an entry of `os.scandir`."""
    counts = Counter()

    class Entry:
        def __init__(self, entry):
            self.entry, self.name, self.path = entry, entry.name, entry.path

        def __getattr__(self, name):
            return getattr(self.entry, name)

        def __fspath__(self):
            return self.path

        def stat(self, **how):
            counts[self.name] += 1
            return self.entry.stat(**how)

    class Scan:
        def __init__(self, *path):
            self.scan = os_scandir(*path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.scan.close()

        def __iter__(self):
            return self

        def __next__(self):
            return Entry(next(self.scan))

        def close(self):
            self.scan.close()

    def counting(function):
        def counted(path, *arguments, **how):
            if not isinstance(path, int):
                counts[os.path.basename(os.fspath(path))] += 1
            return function(path, *arguments, **how)

        return counted

    os_scandir = os.scandir
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    monkeypatch.setattr(os, "scandir", Scan)
    return counts


def test_a_picture_is_looked_at_once(flowers_root, folder, looks):
    """A `stat` is a journey where pictures lie on a mounted Drive."""
    for root, pattern, first in ((flowers_root, "image_*.jpg", {1}), (folder, "*.png", {1, 2})):
        names = [path.name for path in root.rglob(pattern)]
        assert len(names) >= 12
        looks.clear()
        load_splits(root, 32, progress=False)
        assert {looks[name] for name in names} <= first  # whoever decodes a file may look at it himself
        looks.clear()
        load_splits(root, 32, progress=False)
        assert {looks[name] for name in names} == {1}


def test_flowers_are_checked_and_read_once(flowers_root, monkeypatch):
    read = []
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: read.append("checked") or True)
    loadmat = scipy.io.loadmat
    monkeypatch.setattr("scipy.io.loadmat", lambda path, **how: read.append(path.name) or loadmat(path, **how))
    load_splits(flowers_root, 32, progress=False)
    assert sorted(read) == ["checked", "imagelabels.mat", "setid.mat", "setid.mat"]  # torchvision's own, and the splits


def test_the_index_is_plain_json(folder, own_cache):
    load_splits(folder, 32, progress=False)
    (entry,) = (own_cache / "pictures").iterdir()
    index = json.loads((entry / "index.json").read_text())
    assert len(index["names"]) == 20
    assert os.path.getsize(entry / "pictures.bin") == 20 * 32 * 32 * 3


# ---------------------------------------------------------------- order and flips


def test_epoch_batches_follow_from_seed_and_epoch_alone():
    batches = EpochBatches(10, 4, seed=3)
    first = list(batches)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(index for batch in first for index in batch) == list(range(10))
    batches.set_position(1)
    second = list(batches)
    assert second != first
    batches.set_position(1, done=2)
    assert list(batches) == second[2:]
    assert len(batches) == 3


def test_a_last_batch_of_one_joins_the_one_before():
    assert [len(batch) for batch in EpochBatches(9, 4)] == [4, 5]
    assert len(EpochBatches(9, 4)) == 2
    assert [len(batch) for batch in EpochBatches(1, 4)] == [1]
    assert [len(batch) for batch in EpochBatches(3, 1)] == [1, 1, 1]


def test_generators_of_different_numbers_differ():
    streams = {
        tuple(torch.rand(2, generator=generator_for(*numbers)).tolist())
        for numbers in [(0,), (1,), (0, 0), (0, 1), (1, 0)]
    }
    assert len(streams) == 5


def test_flips_are_the_same_for_both_pictures_of_a_pair(splits):
    colour, gray = splits.train[list(range(32))]
    flipped, flipped_gray = flip_some(colour, gray, generator_for(0))
    turned = [not torch.equal(a, b) for a, b in zip(colour, flipped, strict=True)]
    assert 4 < sum(turned) < 28
    for index, yes in enumerate(turned):
        assert torch.equal(flipped[index], colour[index].flip(-1) if yes else colour[index])
        assert torch.equal(flipped_gray[index], gray[index].flip(-1) if yes else gray[index])


def test_head_takes_the_first(splits):
    head = splits.train.head(3)
    assert len(head) == 3
    assert head.names == splits.train.names[:3]
    assert torch.equal(head[2][0], splits.train[2][0])
    assert PairDataset(synthetic_flowers(2, 32)).names == ["0", "1"]


def test_sample_photograph_is_gray():
    photograph = sample_photograph()
    assert (photograph.mode, photograph.size) == ("L", (640, 427))


@pytest.mark.skipif("COLORIZE_TEST_FLOWERS" not in os.environ, reason="set COLORIZE_TEST_FLOWERS to a Flowers-102 root")
def test_the_real_flowers_have_the_official_split():
    splits = load_splits(os.environ["COLORIZE_TEST_FLOWERS"], 64, progress=False)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [1020, 1020, 6149]


# ---------------------------------------------------------------- samples and squares


def test_a_sample_is_chosen_by_its_seed_and_keeps_the_order(splits):
    names = splits.train.names
    sample = splits.train.sample(10, seed=1)
    assert sample.names == [name for name in names if name in set(sample.names)]
    assert sample.names == splits.train.sample(10, seed=1).names != splits.train.sample(10, seed=2).names
    for place, name in enumerate(sample.names):
        assert torch.equal(sample[place][0], splits.train[names.index(name)][0])


def test_a_slice_is_a_batch(splits):
    for given, expected in zip(splits.val[1:3], splits.val[[1, 2]], strict=True):
        assert torch.equal(given, expected)
    assert len(splits.val[:100][0]) == len(splits.val)


@pytest.mark.parametrize("count", [None, 32, 1000])
def test_a_sample_of_all_is_all(splits, count):
    assert splits.train.sample(count).names == splits.train.names


def test_a_picture_is_squashed_or_cropped_to_a_square():
    picture = Image.fromarray(np.repeat([[0] * 32 + [255] * 64 + [0] * 32], 64, axis=0).astype(np.uint8))  # 128×64
    assert squared(picture, 64).mean() == pytest.approx(127.5, abs=1)  # the dark sides are still there
    assert squared(picture, 64, crop=True).min() == 255


def test_levels_of_a_picture_are_clamped_and_rounded():
    picture = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2]).reshape(1, 1, 5)
    assert levels_of(picture).flatten().tolist() == [0, 0, 128, 255, 255]
