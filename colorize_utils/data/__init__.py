"""Pictures to learn from.

- pairs.py: pairs of colour and gray, splits and loaders
- pictures.py: reads and writes picture files of any kind; metadata.py: what a result keeps beside its pixels
- cache.py: decoded pictures on disk
- synthetic.py: synthetic flowers, where no data set can be had
- augmentation.py: training pictures transformed at random; degradation.py: gray pictures made to look like old prints
"""

from typing import TYPE_CHECKING

from colorize_utils.lazy import from_rooms

if TYPE_CHECKING:
    from colorize_utils.data.augmentation import augmented, flip_some
    from colorize_utils.data.degradation import degraded
    from colorize_utils.data.pairs import (
        SPLITS,
        SYNTHETIC,
        EpochBatches,
        PairDataset,
        Splits,
        generator_for,
        load_splits,
        make_loader,
        species_names,
        split_place,
        squared,
    )
    from colorize_utils.data.sample import sample_photograph

__all__ = [
    "SPLITS",
    "SYNTHETIC",
    "EpochBatches",
    "PairDataset",
    "Splits",
    "augmented",
    "degraded",
    "flip_some",
    "generator_for",
    "load_splits",
    "make_loader",
    "sample_photograph",
    "species_names",
    "split_place",
    "squared",
]

__getattr__ = from_rooms(
    __name__,
    {
        "SPLITS": "pairs",
        "SYNTHETIC": "pairs",
        "EpochBatches": "pairs",
        "PairDataset": "pairs",
        "Splits": "pairs",
        "augmented": "augmentation",
        "degraded": "degradation",
        "flip_some": "augmentation",
        "generator_for": "pairs",
        "load_splits": "pairs",
        "make_loader": "pairs",
        "sample_photograph": "sample",
        "species_names": "pairs",
        "split_place": "pairs",
        "squared": "pairs",
    },
)
