"""An epoch's pictures: decoded and transformed anew, as the submission does, beside the cached ones.

    python tests/benchmarks/data.py [--data FOLDER] [--json FILE]

By default drawn flowers of 320×320 in JPEG files; FOLDER is one of pictures of your own.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import literal
import measure
import torch
from PIL import Image
from torch.utils.data import DataLoader

from colorize_utils.data import EpochBatches, PairDataset, load_splits
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.machine import keep_freed_memory

BATCH = 8


def decoded_anew(folder: Path, names: list[str], size: int, _) -> Callable[[], object]:
    flowers = literal.Flowers([folder / name for name in names], size)
    loader = DataLoader(flowers, batch_size=BATCH, shuffle=True)
    return lambda: [None for _ in loader]


def from_the_cache(folder: Path, names: list[str], size: int, cache: Path) -> Callable[[], object]:
    keep_freed_memory()  # as `train` does
    pictures = load_splits(folder, size, cache=cache, progress=False).train
    return lambda: [None for indices in EpochBatches(len(names), BATCH) if pictures[indices]]


def identical(ours: PairDataset, theirs: literal.Flowers) -> bool:
    pairs = ((ours[index], theirs[index]) for index in range(len(ours)))
    return all(torch.equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def main() -> None:
    options = measure.options(__doc__, data="", count=200)
    results = {}
    with TemporaryDirectory() as temporary:
        folder, cache = Path(options.data or temporary), Path(temporary) / "cache"
        if not options.data:
            for index, picture in enumerate(synthetic_flowers(20 if options.toy else options.count, 320)):
                Image.fromarray(picture).save(folder / f"{index:04}.jpg", quality=90)
        for size in (64, 256):
            ours = load_splits(folder, size, cache=cache, progress=False).train
            same = identical(ours, literal.Flowers([folder / name for name in ours.names], size))
            arguments = (folder, ours.names, size, cache)
            sides = {"decoded anew": (decoded_anew, arguments), "from the cache": (from_the_cache, arguments)}
            medians = measure.alternate(sides, min(options.rounds, 5), options.toy)
            rows = [
                (name, 1000 * value / len(ours), medians["decoded anew"] / value) for name, value in medians.items()
            ]
            title = f"{len(ours)} pictures to {size}×{size}; identical bits: {'yes' if same else 'NO'}"
            measure.table(title, ("", "ms a picture", "× literal"), rows)
            results[str(size)] = {"seconds": medians, "identical": same}
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
