"""Pictures to learn from: pairs, splits and loaders (pairs.py) over picture files, cache and synthetic flowers."""

from colorize_utils.data.augmentation import augmented, flip_some
from colorize_utils.data.pairs import (
    SPLITS,
    SYNTHETIC,
    EpochBatches,
    PairDataset,
    Splits,
    generator_for,
    load_splits,
    make_loader,
    sample_photograph,
    species_names,
    split_place,
    squared,
)

__all__ = [
    "SPLITS",
    "SYNTHETIC",
    "EpochBatches",
    "PairDataset",
    "Splits",
    "augmented",
    "flip_some",
    "generator_for",
    "load_splits",
    "make_loader",
    "sample_photograph",
    "species_names",
    "split_place",
    "squared",
]
