"""Augmentation: training pictures turned, scaled, shifted and exposed differently, so that none comes twice the same.

A thousand photographs are few, and a flower is the same flower wherever it stands. Its colours must stay right, because
they are what is learned: one gamma for all three channels changes them as another exposure would, and gray stays gray.
The gray picture is made from the augmented colour picture, so that the two still belong together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_utils.colour import luma

TURN = 0.35  # radians, at most, in either direction
SCALE = 0.22  # logarithm of the scale, at most, up or down: 0.8 to 1.25
SHIFT = 7 / 64  # share of a side, at most, in either direction
EXPOSURE = 0.25  # logarithm of gamma, at most, up or down
SHARP = 0.4  # share of pictures that are only shifted by whole pixels: turning and scaling blur a little


def augmented(colour: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of augmented training pairs from colour pictures.

    Beyond its edges a picture is continued by its mirror image.

    Args:
        colour: (B, 3, S, S), square pictures, RGB in [0, 1].
        rng: A CPU generator, from which every random number is drawn.

    Returns:
        Colour (B, 3, S, S), RGB, and gray (B, 1, S, S), both in [0, 1], on the device of `colour`.
    """
    count, size = len(colour), colour.shape[-1]

    def around(width: float, *shape: int) -> Tensor:
        return width * (2 * torch.rand(count, *shape, generator=rng) - 1)

    resampled = (torch.rand(count, generator=rng) >= SHARP).float()
    turn, scale = resampled * around(TURN), (resampled * around(SCALE)).exp()
    shift = 2 / size * torch.round(size * around(SHIFT, 2))  # in affine_grid's units: a side is 2
    cosine, sine = scale * turn.cos(), scale * turn.sin()
    rows = [torch.stack([cosine, -sine, shift[:, 0]], dim=1), torch.stack([sine, cosine, shift[:, 1]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(colour.device), list(colour.shape), align_corners=False)
    moved = F.grid_sample(colour, grid, padding_mode="reflection", align_corners=False).clamp(0, 1)
    lit = moved ** around(EXPOSURE, 1, 1, 1).exp().to(colour.device)
    return lit, luma(lit)


def flip_some(colour: Tensor, gray: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors about half of the pairs of a batch left to right, both pictures of a pair alike.

    Args:
        colour: (B, 3, H, W).
        gray: (B, 1, H, W).
        rng: A CPU generator, which chooses the pairs.

    Returns:
        Colour and gray, of the same shapes.
    """
    chosen = torch.rand(len(colour), 1, 1, 1, generator=rng).to(colour.device) < 0.5
    return torch.where(chosen, colour.flip(-1), colour), torch.where(chosen, gray.flip(-1), gray)
