"""A distribution over colours in place of one colour: the palette, and two ways from a distribution to chroma.

A gray petal may be pink or yellow. A network that must predict one colour, and is scored by its distance from the true
one, predicts a colour between them, which is paler than either; and it cannot say how much paler. A network that gives
each colour of a palette a probability can: the mean of its distribution is the safest prediction, and comparing it
with the strength of the colours that are probable tells how much strength the mean has lost.

Chroma is (…, 2): red minus luma and blue minus luma, in units of the full range of RGB; green minus luma follows from
them (colour.py). The palette's colours are the points of a square grid over chroma, so that any chroma is described by
the four points around it.

The grid and the width of a belief are NumPy's, and all else is PyTorch's, which is imported where it is used: who looks
at a belief need not have it.

Source:
    Zhang, Isola & Efros 2016, "Colorful Image Colorization".
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

STEP = 1 / 8  # between two colours of the palette: 32 of 256 levels
_REACH = (6, 8)  # steps from gray to the last colour: red and blue minus luma reach ±0.70 and ±0.89 in the RGB cube
_ROWS, _COLUMNS = (2 * reach + 1 for reach in _REACH)
COLOURS = _ROWS * _COLUMNS  # in the palette
DESCRIPTION = f"{_ROWS}×{_COLUMNS} colours, red by blue minus luma, in steps of {STEP:g} around 0"
TEMPERATURE = 0.7  # T of the annealed mean
GAIN = 1.1  # of the annealed mean's chroma, which is paler than the colours that are left
EMPHASIS = 1.15  # `vivid`'s factor: gives held-out pictures about 0.9 of their originals' colourfulness
MOST_GAIN = 1.75  # keeps `vivid` from exaggerating what the network does not know, such as a picture without a flower


def grid() -> np.ndarray:
    """The chroma of every colour of the palette, (COLOURS, 2) float32."""
    red, blue = (np.float32(STEP) * np.arange(-reach, reach + 1, dtype=np.float32) for reach in _REACH)
    return np.stack(np.meshgrid(red, blue, indexing="ij"), axis=-1).reshape(-1, 2)


def chromas() -> "Tensor":
    """The same as a tensor."""
    import torch

    return torch.from_numpy(grid())


def encode(chroma: "Tensor") -> "tuple[Tensor, Tensor]":
    """The four colours of the palette around each chroma, and their shares.

    The shares are bilinear, and the mean of the four colours with these weights is the chroma, exactly. (Zhang et al.,
    section 2.1, weight the five nearest colours by a Gaussian, whose mean is not.)

    Args:
        chroma: (N, 2), red and blue minus luma.

    Returns:
        Indices into the palette (N, 4), and shares (N, 4), ≥ 0 with sum 1.
    """
    import torch

    place = chroma / STEP + chroma.new_tensor(_REACH)  # in steps from the palette's first colour
    corner = place.floor()
    rest = place - corner
    row, column = corner.long().unbind(dim=1)
    indices, shares = [], []
    for down in (0, 1):
        for right in (0, 1):
            indices.append((row + down) * _COLUMNS + column + right)
            share = (rest[:, 0] if down else 1 - rest[:, 0]) * (rest[:, 1] if right else 1 - rest[:, 1])
            shares.append(share)
    return torch.stack(indices, dim=1), torch.stack(shares, dim=1)


def mean(probabilities: "Tensor") -> "Tensor":
    """The mean chroma of a distribution, which has the least expected squared error.

    Args:
        probabilities: (B, COLOURS, H, W), float32, the softmax of a network's logits.

    Returns:
        Chroma (B, 2, H, W), float32.
    """
    return _expected(probabilities, chromas())


def safe(probabilities: "Tensor") -> "Tensor":
    """The annealed mean: the mean of the distribution with its larger probabilities made larger still, p ∝ p^(1/T).

    A mean of everything that is possible is pale and a little brown. Annealed, it leans to what is probable, as a
    picture's score in decibels does, a logarithm of its error: that gains more where the guess is right than it loses
    elsewhere.

    Args:
        probabilities: (B, COLOURS, H, W), float32, the softmax of a network's logits.

    Returns:
        Chroma (B, 2, H, W), float32, `GAIN` times the annealed mean.

    Source:
        Zhang et al. 2016, section 2.3, equation 5.
    """
    return GAIN * mean(_annealed(probabilities))


def _annealed(probabilities: "Tensor") -> "Tensor":
    import torch

    logarithms = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
    return (logarithms / TEMPERATURE).softmax(dim=1)


def vivid(probabilities: "Tensor") -> "Tensor":
    """The annealed mean, made as strong as the colours that the network believes possible.

    With c the chroma, each picture's annealed mean E c is multiplied by `EMPHASIS` · Σ E‖c‖ / Σ ‖E c‖, the sums over
    its pixels, and by `MOST_GAIN` at most. The quotient is 1 where the network is sure, and larger where it believes in
    several colours, whose mean is paler than each of them; E‖c‖ is not annealed. ‖E c‖ itself is replaced by the mean
    strength of the four colours that `encode` describes E c by: to describe a chroma by four colours makes E‖c‖ larger
    by itself, and this way it does so in both sums.

    Args:
        probabilities: (B, COLOURS, H, W), float32, the softmax of a network's logits.

    Returns:
        Chroma (B, 2, H, W), float32.
    """
    chroma = mean(_annealed(probabilities))
    strengths = chromas().to(probabilities.device).norm(dim=1, keepdim=True)  # (COLOURS, 1)
    believed = _expected(probabilities, strengths).mean(dim=(1, 2, 3))  # (B,)
    indices, shares = encode(chroma.permute(0, 2, 3, 1).reshape(-1, 2))
    # Within the palette: of what is NaN, and beyond the last colour, whose share there is 0.
    described = (shares * strengths[indices.clamp(0, COLOURS - 1), 0]).sum(dim=1)  # (B·H·W,)
    kept = described.reshape(chroma.shape[0], chroma.shape[2] * chroma.shape[3]).mean(dim=1)  # (B,), for B = 0, too
    gain = (EMPHASIS * believed / kept.clamp(min=1e-6)).clamp(max=MOST_GAIN)
    return gain[:, None, None, None] * chroma


def variance(probabilities: np.ndarray) -> np.ndarray:
    """The variance of chroma, of red and blue together: how wide a belief is.

    Args:
        probabilities: (COLOURS, H, W), float32.

    Returns:
        (H, W), 0 or more.
    """
    colours = grid()
    moments = np.concatenate([colours, (colours**2).sum(axis=1, keepdims=True)], axis=1)  # (COLOURS, 3)
    red, blue, square = np.tensordot(moments, probabilities, axes=(0, 0))  # (H, W) each
    return np.maximum(square - red**2 - blue**2, 0)


def _expected(probabilities: "Tensor", values: "Tensor") -> "Tensor":
    """The expectation of `values` (COLOURS, N) under probabilities (B, COLOURS, H, W): (B, N, H, W)."""
    import torch

    with torch.autocast(probabilities.device.type, enabled=False):  # autocast would round the product to 16 bits
        return torch.einsum("bqhw,qn->bnhw", probabilities, values.to(probabilities.device))
