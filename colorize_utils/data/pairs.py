"""Pairs of a colour picture and its gray version: the submission's data provider, its split and its loaders.

There are three sources: Oxford Flowers-102 through torchvision, any folder of pictures, and small synthetic flowers.
Each gives training, validation and test pictures at one size; a pair is

    colour (3, size, size), RGB, and gray (1, size, size), both float32 in [0, 1]

equal to the bit to what the submission's two transforms give: `Resize`, `ToTensor`, and for the gray one `Grayscale`
between them. The pictures are decoded and resized once and cached (cache.py).

Source:
    Nilsback & Zisserman 2008, "Automated Flower Classification over a Large Number of Classes".
"""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from colorize_utils.colour import gray_levels, unit
from colorize_utils.data.cache import DecodedPictures, Source, decode
from colorize_utils.data.pictures import READABLE, open_upright, to_gray
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import DataError, PictureError
from colorize_utils.files import cache_folder

SYNTHETIC = "generated"  # the source of synthetic flowers, which needs no files; its name on the command line, too
SPLITS = ("train", "val", "test")
POOLED_SHARE = 0.9  # share of the pooled training and validation pictures that is trained on
FLOWERS_KEYS = {"train": "trnid", "val": "valid", "test": "tstid"}  # split → its key in Flowers-102's setid.mat
FOLDER_SHARES = (0.8, 0.1, 0.1)  # shares of a folder's pictures, in the order of SPLITS
FOLDER_RULE = 1  # version of how `split_place` and FOLDER_SHARES split a folder: raise it when either changes


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (colour, gray) from 8-bit pictures; the submission's data provider.

    `dataset[3]` is a pair of (3, H, W) and (1, H, W), float32 in [0, 1]; `dataset[:8]` and `dataset[[3, 1, 4]]` are
    batches of such pairs.

    Args:
        pictures: (M, H, W, 3) uint8, RGB; an array, or a tensor on the device that the pairs shall be on.
        rows: (N,) indices of the pictures that belong to the data set; all by default.
        names: N strings that say where each of those came from; their indices by default.
    """

    def __init__(
        self, pictures: np.ndarray | Tensor, rows: np.ndarray | None = None, names: Sequence[str] | None = None
    ):
        self.pictures = pictures
        self.rows = np.arange(len(pictures)) if rows is None else np.asarray(rows)
        self.names = [str(row) for row in self.rows] if names is None else list(names)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int]) -> tuple[Tensor, Tensor]:
        if isinstance(index, (int, np.integer)):
            colour, gray = self[[index]]
            return colour[0], gray[0]
        rows = self.rows[index if isinstance(index, slice) else np.asarray(index)]
        if isinstance(self.pictures, Tensor):
            levels = self.pictures[torch.from_numpy(rows).to(self.pictures.device)]
        else:
            levels = torch.from_numpy(self.pictures[rows])
        levels = levels.permute(0, 3, 1, 2)  # (B, 3, H, W)
        return unit(levels).contiguous(), unit(gray_levels(levels))

    def to(self, device: torch.device) -> "PairDataset":
        """The same pairs, to the bit, with their 8-bit pictures on `device`, so that batches need no transfer."""
        return PairDataset(torch.from_numpy(self.pictures[self.rows]).to(device), names=self.names)

    def head(self, count: int) -> "PairDataset":
        """The first `count` pairs, for a quick look or a quick epoch."""
        return PairDataset(self.pictures, self.rows[:count], self.names[:count])

    def sample(self, count: int | None, seed: int = 0) -> "PairDataset":
        """Random pairs, in the order that they have in this data set.

        Flowers-102 is partly sorted by species, so that its first pictures are not representative.

        Args:
            count: How many; all for None, or where there are not more.
            seed: Chooses them.

        Returns:
            A data set of these pairs.
        """
        if count is None or count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        return PairDataset(self.pictures, self.rows[chosen], [self.names[place] for place in chosen])


@dataclass(frozen=True)
class Splits:
    """Training, validation and test pairs.

    Attributes:
        train: Training pairs.
        val: Validation pairs, which choose the best epoch.
        test: Test pairs.
        skipped: A line for each picture that was left out, with the reason.
        crop: Whether the pictures became squares by cropping; else they were squashed.
        record: What decided the split, as JSON values, for a checkpoint's metadata (`evaluation.provenance` reads it):
            source ("flowers-102", "folder" or "generated"), pool, crop, drop_gray, extra; the number and a digest of
            each part's names; for a folder the rule, and the lowest `split_place` of the pictures that were trained on
            (with pool: trained on, or used to choose the best epoch); for synthetic flowers seed and count. None where
            the splits were not made by `load_splits`.
    """

    train: PairDataset
    val: PairDataset
    test: PairDataset
    skipped: tuple[str, ...] = ()
    crop: bool = False
    record: dict[str, Any] | None = None


def load_splits(
    source: str | Path | None = None,
    size: int = 256,
    *,
    pool: bool = False,
    extra: str | Path | None = None,
    drop_gray: bool = False,
    crop: bool = False,
    seed: int = 0,
    count: int = 200,
    cache: Path | str | None = "default",
    progress: bool = True,
) -> Splits:
    """The three splits of a source, at `size`×`size`.

    Flowers-102 has its official split. A folder is split by a hash of each picture's name (`split_place`), so that a
    picture stays in its part when others are added or removed.

    Args:
        source: A folder that holds `flowers-102/` (torchvision's layout), any other folder of pictures, or "generated"
            for synthetic flowers. None takes the environment variable `COLORIZE_DATA`, and where that is unset
            downloads Flowers-102.
        size: Pixels a side.
        pool: Puts training and validation pictures together and divides them again by their names, nine to one: for
            the last run of a recipe whose settings were chosen on the official split.
        extra: A folder of more training pictures. It is split as if it were the source, and only its training part is
            added.
        drop_gray: Leaves pictures that are themselves without colour out of training.
        crop: Keeps the aspect ratio and crops the middle; the default squashes every picture to a square, as the
            submission does.
        seed: Of the synthetic flowers and their split; other sources do not use it.
        count: How many synthetic flowers.
        cache: A folder; "default" is `cache_folder()`; None keeps everything in memory.
        progress: Shows a progress bar where pictures are decoded.

    Returns:
        The splits, with the record of what decided them.

    Raises:
        DataError: There is no such folder, it has fewer than three pictures, Flowers-102 is incomplete, or the cache
            cannot be written.
    """
    folder = cache_folder() if cache == "default" else cache
    if source is None:
        source = os.environ.get("COLORIZE_DATA") or None
    how: dict[str, Any] = {"size": size, "crop": crop, "folder": folder, "progress": progress}
    record = {"source": "folder", "pool": pool, "crop": crop, "drop_gray": drop_gray, "extra": extra is not None}
    if source == SYNTHETIC:
        train, val, test = _synthetic(count, size, seed)
        record |= {"source": "generated", "seed": seed, "count": count}
    elif source is None or (Path(source) / "flowers-102").is_dir():
        train, val, test = _flowers102(source, **how)
        record |= {"source": "flowers-102"}
    else:
        train, val, test = _split_folder(_folder(Path(source), **how), source)
        seen = [*train.names, *val.names] if pool else train.names
        record |= {"rule": FOLDER_RULE, "train_from": min(map(split_place, seen))}
    if pool:
        train, val = _pooled(train, val)
    training = [train]
    if extra is not None:
        training.append(_split_folder(_folder(Path(extra), **how), extra)[0])
        record |= {"rule": FOLDER_RULE, "extra_from": min(map(split_place, training[1].names))}
    if drop_gray:
        training = [_without_gray(part) for part in training]
    skipped = [line for part in (*training, val, test) for line in part.skipped]
    if not all(len(part.names) for part in (*training, val, test)):
        raise DataError(f"{source}: too few pictures to split into training, validation and test")
    parts = {"train": _dataset(*training), "val": _dataset(val), "test": _dataset(test)}
    record["pictures"] = {name: _summary(part.names) for name, part in parts.items()}
    return Splits(**parts, skipped=tuple(dict.fromkeys(skipped)), crop=crop, record=record)


def _summary(names: Sequence[str]) -> dict[str, int | str]:
    """The number of names, and a digest that depends neither on their order nor on their Unicode form."""
    text = "\n".join(sorted(unicodedata.normalize("NFC", name) for name in names))
    return {"count": len(names), "digest": hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]}


def _dataset(*parts: DecodedPictures) -> PairDataset:
    if len(parts) == 1:
        return PairDataset(parts[0].pictures, parts[0].rows, parts[0].names)
    pictures = np.concatenate([part.pictures[part.rows] for part in parts])
    return PairDataset(pictures, names=[name for part in parts for name in part.names])


def _pooled(train: DecodedPictures, val: DecodedPictures) -> list[DecodedPictures]:
    both = DecodedPictures.of(
        np.concatenate([part.pictures[part.rows] for part in (train, val)]),
        [*train.names, *val.names],
        np.concatenate([train.gray, val.gray]),
        [*train.skipped, *val.skipped],
    )
    # The prefix gives another hash than the one that split a folder, by which its validation pictures lie together.
    order = np.argsort([split_place(f"pool/{name}") for name in both.names], kind="stable")
    held_back = max(1, len(order) - round(POOLED_SHARE * len(order)))
    return [both.take(order[held_back:]), both.take(order[:held_back])]


def _without_gray(part: DecodedPictures) -> DecodedPictures:
    left_out = [f"{part.names[index]}: without colour" for index in np.flatnonzero(part.gray)]
    return replace(part.take(np.flatnonzero(~part.gray)), skipped=part.skipped + left_out)


def _synthetic(count: int, size: int, seed: int) -> list[DecodedPictures]:
    part = DecodedPictures.of(synthetic_flowers(count, size, seed), generated_names(seed, range(count)))
    return [part.take(places) for places in generated_parts(count, seed)]


def generated_names(seed: int, places: Iterable[int]) -> list[str]:
    """The names of the synthetic flowers that a seed gives, for their places in the series."""
    return [f"generated-{seed}-{place}" for place in places]


def generated_parts(count: int, seed: int) -> list[np.ndarray]:
    """Splits a series of synthetic flowers at random.

    Args:
        count: Flowers in the series.
        seed: Decides the split.

    Returns:
        For each of `SPLITS`, the places of its pictures in the series.
    """
    order = np.random.default_rng(seed).permutation(count)
    ends = np.rint(np.cumsum(FOLDER_SHARES) * count).astype(int)
    return np.split(order, ends[:-1])


def _flowers102(
    root: str | Path | None, size: int, crop: bool, folder: Path | str | None, progress: bool
) -> list[DecodedPictures]:
    """The official splits.

    torchvision's data set is constructed once, because each construction reads and checks the same files again, and
    each picture's file is looked up with one `stat`.
    """
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102
    from torchvision.datasets.folder import default_loader

    try:
        if root is None:
            root = cache_folder()
            root.mkdir(parents=True, exist_ok=True)
            Flowers102(root, split=SPLITS[0], download=True)
        else:
            Flowers102(root, split=SPLITS[0], download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"Flowers-102 is not whole in {root}: {error}; download it on a machine with network, or set "
            "COLORIZE_DATA to a folder that holds flowers-102/ or pictures of your own"
        ) from error
    base = Path(root) / "flowers-102"
    where, ids = str(base.resolve()), loadmat(base / "setid.mat")

    def decoded(split: str, key: str) -> DecodedPictures:
        paths = [base / "jpg" / f"image_{number:05d}.jpg" for number in ids[key].ravel()]

        def read(index: int) -> np.ndarray:
            try:
                return squared(default_loader(paths[index]), size, crop)
            except OSError as error:
                raise DataError(f"{base}: picture {index} of the {split} split cannot be read ({error})") from error

        names = [f"{split}/{index}" for index in range(len(paths))]
        signatures = [f"{path.name} {_signature(path)}" for path in paths]
        return decode(names, signatures, read, size, Source("flowers-102", where, crop, split), folder, progress)

    return [decoded(split, key) for split, key in FLOWERS_KEYS.items()]


def _signature(path: Path) -> str:
    """A file's size and time of change, which differ once it is replaced; empty where it is missing, or no file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else ""


def species_names(source: str | Path | None = None) -> dict[str, str]:
    """The species of every picture of Flowers-102.

    Args:
        source: The folder that holds `flowers-102/`; None takes the environment variable `COLORIZE_DATA`, else the
            folder of downloads.

    Returns:
        Name of a picture in its split, such as "train/3" → species; empty where the source is not Flowers-102.
    """
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102

    root = Path(source or os.environ.get("COLORIZE_DATA") or cache_folder()) / "flowers-102"
    if not (root / "imagelabels.mat").is_file():
        return {}
    labels = loadmat(root / "imagelabels.mat")["labels"].ravel()
    ids = loadmat(root / "setid.mat")
    known = getattr(Flowers102, "classes", [f"species {number}" for number in range(1, 103)])
    return {
        f"{split}/{index}": known[labels[picture - 1] - 1]
        for split, key in FLOWERS_KEYS.items()
        for index, picture in enumerate(ids[key].ravel())
    }


def _folder(root: Path, size: int, crop: bool, folder: Path | str | None, progress: bool) -> DecodedPictures:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one that holds flowers-102/ or pictures")
    signatures = _pictures_in(root)
    if not signatures:
        raise DataError(f"{root} holds no pictures; give a folder of JPEG, PNG, TIFF or WebP files")
    names = sorted(signatures)

    def read(index: int) -> np.ndarray:
        try:
            picture = open_upright(root / names[index])
            if picture.mode.startswith(("I", "F")):  # wider than 8 bits: Pillow's own conversion would clip
                picture = Image.fromarray(to_gray(picture).gray)
            return squared(picture.convert("RGB"), size, crop)
        except PictureError as error:
            raise DataError(str(error)) from error

    source = Source("folder", str(root.resolve()), crop)
    return decode(names, [signatures[name] for name in names], read, size, source, folder, progress)


def _pictures_in(root: Path) -> dict[str, str]:
    """The signature of every file under `root` whose name is a picture's, by its path relative to `root`, with `/`.

    The same choice as `is_picture`, but with one `stat` for each picture, and none for other files.
    """
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if path.suffix.lower() in READABLE and not name.startswith(".") and (signature := _signature(path)):
                found[path.relative_to(root).as_posix()] = signature
    return found


def squared(picture: Image.Image, size: int, crop: bool = False) -> np.ndarray:
    """A picture as a square.

    Args:
        picture: A Pillow picture of mode "RGB" or "L".
        size: Pixels a side.
        crop: Keeps the aspect ratio and crops the middle, `Resize(size)` and `CenterCrop(size)`; the default squashes
            the picture as the submission does, `Resize((size, size))`.

    Returns:
        (size, size, 3) uint8, RGB, or (size, size) uint8 for a gray picture.
    """
    from torchvision.transforms import functional

    if crop:
        picture = functional.center_crop(functional.resize(picture, size), size)
    else:
        picture = functional.resize(picture, (size, size))
    return np.asarray(picture)


def split_place(name: str) -> float:
    """A number in [0, 1) by a hash of a picture's name, which decides the part of the split that it belongs to.

    It depends on nothing else that the folder holds. File systems store é in two ways (Unicode's forms C and D); the
    place is the same for both.

    Args:
        name: The path relative to the data set's folder, with `/` between folders.

    Returns:
        The place.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _split_folder(part: DecodedPictures, root: str | Path) -> list[DecodedPictures]:
    """Training, validation and test part: the lowest places are for testing, the next to validate, the rest to train.

    Each part gets at least one picture. A part is in the order of the places, which is random with respect to names, so
    that its first pictures are a random sample.
    """
    if len(part.names) < len(SPLITS):
        raise DataError(
            f"{root}: too few pictures to split into training, validation and test "
            f"({len(part.names)} that can be read); give three or more"
        )
    places = np.array([split_place(name) for name in part.names])
    order = np.argsort(places, kind="stable")
    _, val_share, test_share = FOLDER_SHARES
    test_end, val_end = np.searchsorted(places[order], [test_share, test_share + val_share])
    test_end = min(max(test_end, 1), len(order) - 2)
    val_end = min(max(val_end, test_end + 1), len(order) - 1)
    return [part.take(order[val_end:]), part.take(order[test_end:val_end]), part.take(order[:test_end])]


class EpochBatches(Sampler[list[int]]):
    """Batches of indices in an order that follows from (seed, epoch) alone, so that a resumed run sees the same ones.

    A last batch of a single picture joins the one before: batch normalization has nothing to average in it.

    Args:
        count: Pictures in the data set.
        batch_size: Pictures in a batch.
        seed: With the epoch, decides the order.
    """

    def __init__(self, count: int, batch_size: int, seed: int = 0):
        self.count, self.seed = count, seed
        self.starts = list(range(0, count, batch_size))
        if batch_size > 1 and len(self.starts) > 1 and count - self.starts[-1] == 1:
            self.starts.pop()
        self.epoch = self.done = 0

    def set_position(self, epoch: int, done: int = 0) -> None:
        """Chooses where the next iteration begins.

        Args:
            epoch: The epoch, counted from 0.
            done: How many of the epoch's batches to leave out at its start.
        """
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count, generator=generator_for(self.seed, self.epoch)).tolist()
        for start, end in list(pairwise([*self.starts, self.count]))[self.done :]:
            yield order[start:end]


def generator_for(*numbers: int) -> torch.Generator:
    """A CPU random generator seeded by whole numbers, such as (seed, epoch); other numbers give another stream."""
    # Their count comes first, because a seed sequence ignores zeros at its end.
    seed = int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator().manual_seed(seed)


def make_loader(
    dataset: PairDataset, batch_size: int, shuffle: bool = False, seed: int | None = None, num_workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader that takes each batch from the data set at once.

    Args:
        dataset: The pairs.
        batch_size: Pairs in a batch; the last one may be smaller.
        shuffle: In random order, anew in each epoch.
        seed: Of that order; None takes PyTorch's global generator.
        num_workers: Processes that load batches; 0 is fastest here, since the pictures are decoded already.

    Returns:
        A loader of batches (colour (B, 3, H, W), gray (B, 1, H, W)), float32 in [0, 1].
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None, num_workers=num_workers)
