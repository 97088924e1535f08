"""A distribution over colours instead of one: what a gray pixel may be, and how much each colour is believed.

One gray petal may be pink or yellow. A network that must name one colour, and is scored by its distance, names what
lies between, which is paler than either; and it cannot say how much paler. A network that gives each colour of a
palette a probability can (Zhang, Isola & Efros 2016, "Colorful Image Colorization"): the mean of its distribution is
the safest picture, and how strong the colours are that it believes possible tells how much the mean has lost.

Chroma is (…, 2): red and blue minus luma, in units of the full range of RGB; green's follows (colour.py). The
palette's colours are the points of a square grid over it, so that a chroma is described by the four around it.
"""

import torch
from torch import Tensor

STEP = 1 / 8  # between two colours of the palette: 32 of 256 levels
_REACH = (6, 8)  # steps from gray to the last colour: red and blue minus luma reach ±0.70 and ±0.89 in the RGB cube
_ROWS, _COLUMNS = (2 * reach + 1 for reach in _REACH)
COLOURS = _ROWS * _COLUMNS
EMPHASIS = 1.05  # of vivid: brings pictures that were held back to about 0.9 of their originals' colourfulness
MOST_GAIN = 1.5  # a picture of which the network knows nothing, such as one without a flower, stays calm


def chromas() -> Tensor:
    """The chroma of every colour of the palette, (COLOURS, 2)."""
    red, blue = (STEP * torch.arange(-reach, reach + 1) for reach in _REACH)
    return torch.cartesian_prod(red, blue)


def encode(chroma: Tensor) -> tuple[Tensor, Tensor]:
    """The four colours around each chroma (N, 2), as indices into the palette (N, 4), and their shares (N, 4).

    The shares are bilinear, ≥ 0 with sum 1, and the colours so weighted give the chroma back exactly. (Zhang et al.,
    section 2.1, weigh the five nearest by a Gaussian, which does not.)
    """
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


def mean(logits: Tensor) -> Tensor:
    """Logits (B, COLOURS, H, W) → the mean chroma of the distribution, (B, 2, H, W): the least squared error."""
    return _expected(logits, chromas())


def vivid(logits: Tensor) -> Tensor:
    """Logits (B, COLOURS, H, W) → chroma (B, 2, H, W): the mean, as strong as the colours that are believed possible.

    With c the chroma, each picture's mean is multiplied by `EMPHASIS` · Σ E‖c‖ / Σ ‖E c‖ over its pixels, at most
    `MOST_GAIN`. The quotient is 1 where the network is sure, and larger where the mean of several colours is paler than
    each. ‖E c‖ is taken as `encode` would spread it over the palette, since that alone makes E‖c‖ larger.
    """
    chroma = mean(logits)
    strengths = chromas().to(logits.device).norm(dim=1, keepdim=True)  # (COLOURS, 1)
    believed = _expected(logits, strengths).mean(dim=(1, 2, 3))  # (B,)
    indices, shares = encode(chroma.permute(0, 2, 3, 1).reshape(-1, 2))
    kept = (shares * strengths[indices, 0]).sum(dim=1).reshape(len(chroma), -1).mean(dim=1)  # (B,)
    gain = (EMPHASIS * believed / kept.clamp(min=1e-6)).clamp(max=MOST_GAIN)
    return gain[:, None, None, None] * chroma


def _expected(logits: Tensor, values: Tensor) -> Tensor:
    """The expectation of `values` (COLOURS, N) under logits (B, COLOURS, H, W): (B, N, H, W)."""
    with torch.autocast(logits.device.type, enabled=False):  # which would round the product to 16 bits
        return torch.einsum("bqhw,qn->bnhw", logits.float().softmax(dim=1), values.to(logits.device))
