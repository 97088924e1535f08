"""Colour pictures and their gray twins: the submission's data provider, its split and its loaders.

Three sources: Oxford Flowers-102 (Nilsback & Zisserman 2008, "Automated Flower Classification over a Large Number of
Classes") through torchvision, any folder of pictures, or small generated flowers. Each gives training, validation and
test pictures at one size; a pair is

    colour (3, size, size) and gray (1, size, size), float32 in [0, 1], RGB

equal to the bit to what the submission's two transforms give: `Resize`, `ToTensor`, and for the gray one `Grayscale`
between them. The pictures are decoded and resized once and cached (cache.py).
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

SYNTHETIC = "generated"  # the name, on the command line too, of the source that needs no files
SPLITS = ("train", "val", "test")
POOLED_SHARE = 0.9  # of pooled training and validation pictures, for training
FLOWERS_KEYS = {"train": "trnid", "val": "valid", "test": "tstid"}  # of Flowers-102's setid.mat
FOLDER_SHARES = (0.8, 0.1, 0.1)  # of a folder's pictures, in the order of SPLITS
FOLDER_RULE = 1  # how `split_place` and FOLDER_SHARES split a folder: raise it when either changes


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (colour, gray) from 8-bit pictures; the submission's data provider.

    pictures: (M, H, W, 3) uint8, RGB; an array, or a tensor on the device that the pairs shall be on. rows: the
    pictures that belong to the data set, all by default. names: where each of those came from.

    `dataset[3]` is a pair of (3, H, W) and (1, H, W); `dataset[:8]` and `dataset[[3, 1, 4]]` are batches of such pairs.
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
        """The same pairs, to the bit, with their 8-bit pictures on `device`: no batch has to travel there again."""
        return PairDataset(torch.from_numpy(self.pictures[self.rows]).to(device), names=self.names)

    def head(self, count: int) -> "PairDataset":
        """The first `count` pairs: for a quick look or a quick epoch."""
        return PairDataset(self.pictures, self.rows[:count], self.names[:count])

    def sample(self, count: int | None, seed: int = 0) -> "PairDataset":
        """`count` pairs (all for None, or where there are fewer) that a seed chooses, in the order that they have.

        Flowers-102 is sorted by species here and there, so that its first pictures stand for nothing.
        """
        if count is None or count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        return PairDataset(self.pictures, self.rows[chosen], [self.names[place] for place in chosen])


@dataclass(frozen=True)
class Splits:
    """Training, validation and test pairs; `skipped` has a line for each picture left out, and why; `crop` says how
    they became squares.

    record: what decided the split, as JSON values, for a checkpoint's metadata (`evaluation.provenance` reads it):
    source ("flowers-102", "folder" or "generated"), pool, crop, drop_gray, extra; number and digest of each part's
    names; of a folder the rule, and the `split_place` from which on its pictures were trained on (or, pooled, chosen
    by), of generated flowers seed and count. None where the splits are no work of `load_splits`.
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

    source: a folder that holds `flowers-102/` (torchvision's layout), any other folder of pictures, or "generated".
        None takes the environment variable `COLORIZE_DATA`, and where that is unset downloads Flowers-102.
    pool: training and validation split put together and dealt again by their names, nine parts to one: for the last
        run of a recipe whose settings the official split has decided.
    extra: a folder of more training pictures; of them, too, a validation and a test part stay out, those of the split
        that it would have as a source.
    drop_gray: leave pictures that are themselves without colour out of training.
    crop: keep the aspect, crop the middle; the default squashes every picture to a square, as the submission does.
    seed: of generated flowers and their split. Flowers-102 has its official split; a folder is split by a hash of each
        picture's name (`split_place`), so that a picture stays in its part when others are added or removed.
    count: how many generated flowers.
    cache: a folder; "default" is `cache_folder()`; None keeps everything in memory.

    Raises DataError where there are no pictures or fewer than three, or the cache cannot be written.
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
    """How many pictures, and a digest of their names in any order and either Unicode form."""
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
    # Under names of their own: a folder's validation pictures are all together by the hash that split it.
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
    """The names of pictures of the series that a seed draws."""
    return [f"generated-{seed}-{place}" for place in places]


def generated_parts(count: int, seed: int) -> list[np.ndarray]:
    """The places that each of SPLITS has in a series of `count` generated flowers."""
    order = np.random.default_rng(seed).permutation(count)
    ends = np.rint(np.cumsum(FOLDER_SHARES) * count).astype(int)
    return np.split(order, ends[:-1])


def _flowers102(
    root: str | Path | None, size: int, crop: bool, folder: Path | str | None, progress: bool
) -> list[DecodedPictures]:
    """The official splits. What torchvision reads and checks it reads once, and every picture has one `stat`."""
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
    """Size and time of change: another one as soon as the file was replaced. Empty where it is missing, or no file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else ""


def species_names(source: str | Path | None = None) -> dict[str, str]:
    """The species of every picture of Flowers-102 by its name in the splits; nothing for other sources, or where the
    data set is not there."""
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
    """The signature of every file under `root` that by its name is a picture, by its relative name in POSIX form: what
    `is_picture` says, with one `stat` a picture and none for anything else."""
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if path.suffix.lower() in READABLE and not name.startswith(".") and (signature := _signature(path)):
                found[path.relative_to(root).as_posix()] = signature
    return found


def squared(picture: Image.Image, size: int, crop: bool = False) -> np.ndarray:
    """A picture as a square, (size, size, 3) uint8, or (size, size) of a gray one: squashed to it as in the submission,
    `transforms.Resize((size, size))`, or its middle, `Resize(size)` and `CenterCrop(size)`."""
    from torchvision.transforms import functional

    if crop:
        picture = functional.center_crop(functional.resize(picture, size), size)
    else:
        picture = functional.resize(picture, (size, size))
    return np.asarray(picture)


def split_place(name: str) -> float:
    """Where a picture falls in [0, 1) by a hash of its name, relative to its folder and with `/` between folders: it
    decides the part that the picture belongs to, whatever else the folder holds. File systems differ in how they spell
    é (Unicode's forms C and D), the place does not."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _split_folder(part: DecodedPictures, root: str | Path) -> list[DecodedPictures]:
    """The lowest places are for testing, the next for validation, the others for training; one picture at least each.

    Parts are in the order of the places, which is no order of names: the first pictures are as good as any.
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
    `set_position(epoch, done)` chooses the epoch and how many of its batches to leave out at its start.
    """

    def __init__(self, count: int, batch_size: int, seed: int = 0):
        self.count, self.seed = count, seed
        self.starts = list(range(0, count, batch_size))
        if batch_size > 1 and len(self.starts) > 1 and count - self.starts[-1] == 1:
            self.starts.pop()
        self.epoch = self.done = 0

    def set_position(self, epoch: int, done: int = 0) -> None:
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count, generator=generator_for(self.seed, self.epoch)).tolist()
        for start, end in list(pairwise([*self.starts, self.count]))[self.done :]:
            yield order[start:end]


def generator_for(*numbers: int) -> torch.Generator:
    """A random generator whose stream follows from these whole numbers alone, apart from every other tuple's."""
    # With their count in front, because a seed sequence ignores zeros at its end.
    seed = int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator().manual_seed(seed)


def make_loader(
    dataset: PairDataset, batch_size: int, shuffle: bool = False, seed: int | None = None, num_workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader of (colour (B, 3, H, W), gray (B, 1, H, W)) batches; whole batches are indexed at once.

    num_workers: 0 is fastest here, since the pictures are decoded already.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None, num_workers=num_workers)


def sample_photograph() -> Image.Image:
    """A gray photograph of a flower (640×427, mode "L") to try things on: scikit-learn's `flower.jpg`, turned gray.

    CC BY 2.0, flickr.com/photos/vultilion/6056698931; scikit-learn carries the file and its licence.
    """
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg")).convert("L")
