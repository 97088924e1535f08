"""What a network knows: fits the number by which it tells a picture that is none of its kind.

A network of flowers answers for everything, for a face as for a rose. How sure it is does not tell: its distribution
over colours was about as wide on a motorcycle as on a flower. What its deep features look like does, once it has been
shown pictures of both kinds. `fit` sets `MultiscaleUNet.unfamiliarity` accordingly, a logistic regression on the
features' means and standard deviations, whose zero lies where few of the pictures that were held back are warned of.

Source:
    Hendrycks, Mazeika & Dietterich 2019, "Deep Anomaly Detection with Outlier Exposure", whose idea it is to learn
    this from pictures of another kind.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from colorize_utils.colour import unit
from colorize_utils.data.pairs import PairDataset
from colorize_utils.data.pictures import is_picture, to_gray
from colorize_utils.errors import DataError, PictureError
from colorize_utils.generator_registry import UNFAMILIAR
from colorize_utils.multiscale import MultiscaleUNet

WARNED = 0.05  # share of the pictures held back that are warned of, at most
CROPS = 7  # squares cut from each unknown picture at random, beside the whole
_MARGIN = 0.01  # puts the picture at the border on the side of the known, rounding included
_REGULARIZATION = 0.003  # inverse strength: features are twice as many as pictures of things that one can collect


@dataclass(frozen=True)
class Familiarity:
    """How well a network tells what it knows.

    Attributes:
        auc: The probability that a picture of the unknown has a higher number than one of the known: the area under
            the ROC curve.
        known_warned: Share of the known pictures that are warned of.
        unknown_warned: Share of the unknown ones.
    """

    auc: float
    known_warned: float
    unknown_warned: float


def square(gray: np.ndarray, size: int) -> np.ndarray:
    """A gray picture (H, W) uint8 squashed to (size, size), as the training pictures were."""
    return np.array(Image.fromarray(gray).resize((size, size), Image.Resampling.BILINEAR))


def grays(pairs: PairDataset, size: int) -> Iterator[np.ndarray]:
    """The gray pictures of a data set, each (size, size) uint8."""
    for index in range(len(pairs)):
        _, gray = pairs[index]
        yield square((255 * gray[0]).round().byte().cpu().numpy(), size)


def unknown_pictures(folder: str | Path, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Pictures of other things: every picture below a folder, and random squares cut from it.

    Files that cannot be read are left out.

    Args:
        folder: The folder.
        size: Pixels a side of what is given.
        seed: Decides the squares.

    Yields:
        Gray (size, size) uint8: of each picture the whole, then `CROPS` squares.

    Raises:
        DataError: The folder has no pictures.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if is_picture(path))
    if not paths:
        raise DataError(f"{folder} holds no pictures; give a folder of pictures of other things")
    rng = np.random.default_rng(seed)
    for path in paths:
        try:
            gray = to_gray(path).gray
        except PictureError:
            continue
        yield square(gray, size)
        height, width = gray.shape
        for _ in range(CROPS):
            side = max(1, int(min(height, width) * rng.uniform(0.35, 0.9)))
            top, left = (int(rng.integers(0, length - side, endpoint=True)) for length in (height, width))
            yield square(gray[top : top + side, left : left + side], size)


def fit(
    network: MultiscaleUNet,
    known: Iterable[np.ndarray],
    held_back: Iterable[np.ndarray],
    unknown: Iterable[np.ndarray],
) -> None:
    """Sets a network's `unfamiliarity`.

    Args:
        network: A trained network, in evaluation mode; its `strange_weight` and `strange_bias` are set.
        known: Gray (S, S) uint8, pictures that it was trained on; S is its smallest working size.
        held_back: The same, of pictures of that kind that it was not trained on: `WARNED` of them are above
            `UNFAMILIAR`.
        unknown: The same, of other things.
    """
    from sklearn.linear_model import LogisticRegression

    ours, others = _summaries(network, known), _summaries(network, unknown)
    mean, deviation = ours.mean(axis=0), ours.std(axis=0) + 1e-6
    features = (np.concatenate([ours, others]) - mean) / deviation
    labels = np.repeat([0, 1], [len(ours), len(others)])
    model = LogisticRegression(C=_REGULARIZATION, class_weight="balanced", max_iter=1000).fit(features, labels)
    weight = model.coef_[0] / deviation
    network.strange_weight.copy_(torch.from_numpy(weight))
    # The same weights in the 16 bits in which a checkpoint is handed out, so that the share of warnings stays.
    network.strange_weight.copy_(network.strange_weight.half())
    scores = _summaries(network, held_back) @ network.strange_weight.double().numpy()
    border = float(np.quantile(scores, 1 - WARNED, method="higher"))
    network.strange_bias.fill_(-border - _MARGIN)


def check(network: MultiscaleUNet, known: Iterable[np.ndarray], unknown: Iterable[np.ndarray]) -> Familiarity:
    """Measures how well a network tells two sets of pictures apart.

    Args:
        network: A network whose `unfamiliarity` is fitted.
        known: Gray (S, S) uint8, pictures of its kind; S is its smallest working size.
        unknown: The same, of other things.

    Returns:
        The measurements.
    """
    from sklearn.metrics import roc_auc_score

    ours, others = (_numbers(network, pictures) for pictures in (known, unknown))
    auc = roc_auc_score(np.repeat([0, 1], [len(ours), len(others)]), np.concatenate([ours, others]))
    return Familiarity(float(auc), float((ours > UNFAMILIAR).mean()), float((others > UNFAMILIAR).mean()))


def _summaries(network: MultiscaleUNet, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """`summary` of gray pictures, (N, 16c), float64."""
    one_size = network.at(min(network.side_lengths))
    with torch.inference_mode():
        rows = [one_size.summary(unit(torch.from_numpy(gray))[None, None])[0] for gray in pictures]
    return torch.stack(rows).double().numpy()


def _numbers(network: MultiscaleUNet, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """`unfamiliarity` of gray pictures, (N,)."""
    one_size = network.at(min(network.side_lengths))
    with torch.inference_mode():
        return np.array([one_size.unfamiliarity(unit(torch.from_numpy(gray))[None, None]).item() for gray in pictures])
