"""Colour pictures and their gray twins: the submission's data provider, its split and its loaders.

Three sources: Oxford Flowers-102 (Nilsback & Zisserman 2008, "Automated Flower Classification over a Large Number of
Classes") through torchvision, any folder of pictures, or small generated flowers. Each gives training, validation and
test pictures at one size; a pair is

    colour (3, size, size) and gray (1, size, size), float32 in [0, 1], RGB

equal to the bit to what the submission's two transforms give: `Resize`, `ToTensor`, and for the gray one `Grayscale`
between them. The pictures are decoded and resized once and cached (cache.py).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from colorize_utils.colour import gray_levels, unit
from colorize_utils.data.cache import DecodedPictures, decode, fingerprint
from colorize_utils.data.pictures import is_picture, open_upright, to_gray
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import DataError, PictureError
from colorize_utils.files import cache_folder

SYNTHETIC = "generated"  # the name, on the command line too, of the source that needs no files
SPLITS = ("train", "val", "test")
POOLED_SHARE = 0.9  # of pooled training and validation pictures, for training
FOLDER_SHARES = (0.8, 0.1, 0.1)  # of a folder's pictures, in the order of SPLITS


class PairDataset(Dataset):
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
    they became squares."""

    train: PairDataset
    val: PairDataset
    test: PairDataset
    skipped: tuple[str, ...] = ()
    crop: bool = False


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
    pool: training and validation split put together and dealt again, nine parts to one: for the last run of a recipe
        whose settings the official split has decided.
    extra: a folder of more training pictures; of them, too, a validation and a test part stay out, those of the split
        that it would have as a source.
    drop_gray: leave pictures that are themselves without colour out of training.
    crop: keep the aspect, crop the middle; the default squashes every picture to a square, as the submission does.
    seed: of a folder's random split and of generated flowers; Flowers-102 has its official split.
    count: how many generated flowers.
    cache: a folder; "default" is `cache_folder()`; None keeps everything in memory.

    Raises DataError where there are no pictures, or the cache cannot be written.
    """
    folder = cache_folder() if cache == "default" else cache
    if source is None:
        source = os.environ.get("COLORIZE_DATA") or None
    how = {"size": size, "crop": crop, "folder": folder, "progress": progress}
    if source == SYNTHETIC:
        parts = _synthetic(count, size, seed)
    elif source is None or (Path(source) / "flowers-102").is_dir():
        parts = [_flowers102(source, split, **how) for split in SPLITS]
    else:
        parts = _split_folder(_folder(Path(source), **how), seed)
    train, val, test = parts
    if pool:
        train, val = _pooled(train, val, seed)
    training = [train] if extra is None else [train, _split_folder(_folder(Path(extra), **how), seed)[0]]
    if drop_gray:
        training = [_without_gray(part) for part in training]
    skipped = [line for part in (*training, val, test) for line in part.skipped]
    if not all(len(part.names) for part in (*training, val, test)):
        raise DataError(f"{source}: too few pictures to split into training, validation and test")
    return Splits(_dataset(*training), _dataset(val), _dataset(test), tuple(dict.fromkeys(skipped)), crop)


def _dataset(*parts: DecodedPictures) -> PairDataset:
    if len(parts) == 1:
        return PairDataset(parts[0].pictures, parts[0].rows, parts[0].names)
    pictures = np.concatenate([part.pictures[part.rows] for part in parts])
    return PairDataset(pictures, names=[name for part in parts for name in part.names])


def _pooled(train: DecodedPictures, val: DecodedPictures, seed: int) -> list[DecodedPictures]:
    both = DecodedPictures.of(
        np.concatenate([part.pictures[part.rows] for part in (train, val)]),
        [*train.names, *val.names],
        np.concatenate([train.gray, val.gray]),
        [*train.skipped, *val.skipped],
    )
    order = np.random.default_rng(seed).permutation(len(both.names))
    return [both.take(places) for places in np.split(order, [round(POOLED_SHARE * len(order))])]


def _without_gray(part: DecodedPictures) -> DecodedPictures:
    left_out = [f"{part.names[index]}: without colour" for index in np.flatnonzero(part.gray)]
    return replace(part.take(np.flatnonzero(~part.gray)), skipped=part.skipped + left_out)


def _synthetic(count: int, size: int, seed: int) -> list[DecodedPictures]:
    names = [f"generated-{seed}-{index}" for index in range(count)]
    return _split_folder(DecodedPictures.of(synthetic_flowers(count, size, seed), names), seed)


def _flowers102(root: str | Path | None, split: str, size: int, crop: bool, folder, progress) -> DecodedPictures:
    from torchvision.datasets import Flowers102

    try:
        if root is None:
            root = cache_folder()
            root.mkdir(parents=True, exist_ok=True)
            flowers = Flowers102(root, split=split, download=True)
        else:
            flowers = Flowers102(root, split=split, download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"Flowers-102 is not whole in {root}: {error}; download it on a machine with network, or set "
            "COLORIZE_DATA to a folder that holds flowers-102/ or pictures of your own"
        ) from error
    base = Path(root) / "flowers-102"
    made_from = [base / "setid.mat", *sorted((base / "jpg").glob("*.jpg"))]

    def read(index: int) -> np.ndarray:
        try:
            return squared(flowers[index][0], size, crop)
        except OSError as error:
            raise DataError(f"{base}: picture {index} of the {split} split cannot be read ({error})") from error

    names = [f"{split}/{index}" for index in range(len(flowers))]
    key = ["flowers-102", str(base.resolve()), split, str(crop), fingerprint(made_from)]
    return decode(names, read, size, key, folder, progress)


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
        for split, key in zip(SPLITS, ("trnid", "valid", "tstid"), strict=True)
        for index, picture in enumerate(ids[key].ravel())
    }


def _folder(root: Path, size: int, crop: bool, folder, progress) -> DecodedPictures:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one that holds flowers-102/ or pictures")
    paths = sorted(path for path in root.rglob("*") if is_picture(path))
    if not paths:
        raise DataError(f"{root} holds no pictures; give a folder of JPEG, PNG, TIFF or WebP files")

    def read(index: int) -> np.ndarray:
        try:
            picture = open_upright(paths[index])
            if picture.mode.startswith(("I", "F")):  # wider than 8 bits: Pillow's own conversion would clip
                picture = Image.fromarray(to_gray(picture).gray)
            return squared(picture.convert("RGB"), size, crop)
        except PictureError as error:
            raise DataError(str(error)) from error

    key = ["folder", str(root.resolve()), str(crop), fingerprint(paths)]
    return decode([path.relative_to(root).as_posix() for path in paths], read, size, key, folder, progress)


def squared(picture: Image.Image, size: int, crop: bool = False) -> np.ndarray:
    """A picture as a square, (size, size, 3) uint8, or (size, size) of a gray one: squashed to it as in the submission,
    `transforms.Resize((size, size))`, or its middle, `Resize(size)` and `CenterCrop(size)`."""
    from torchvision.transforms import functional

    if crop:
        picture = functional.center_crop(functional.resize(picture, size), size)
    else:
        picture = functional.resize(picture, (size, size))
    return np.asarray(picture)


def _split_folder(part: DecodedPictures, seed: int) -> list[DecodedPictures]:
    order = np.random.default_rng(seed).permutation(len(part.names))
    ends = np.rint(np.cumsum(FOLDER_SHARES) * len(order)).astype(int)
    return [part.take(places) for places in np.split(order, ends[:-1])]


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
) -> DataLoader:
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
