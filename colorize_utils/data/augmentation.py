"""Training pictures that are never the same twice: turned, scaled, shifted, lit otherwise.

A thousand photographs are few; what a flower is does not depend on where it stands. Its colours are what is learned: a
gamma that is the same for all three channels moves them as another exposure would, and gray stays gray. The gray twin
is made afterwards, so that the pair still fits together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_utils.colour import luma

TURN = 0.35  # radians, either way
SCALE = 0.22  # the logarithm of it, either way: 0.8 to 1.25
SHIFT = 7 / 64  # of a side, either way
EXPOSURE = 0.25  # the logarithm of gamma, either way
SHARP = 0.4  # share of the pictures that are shifted by whole pixels alone: what is resampled is a little blurred


def augmented(colour: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of training pairs, colour (B, 3, H, W) and gray (B, 1, H, W), made of colour pictures in [0, 1].

    rng: a CPU generator. Beyond an edge a picture is continued by its mirror image.
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


def flip_some(colour: Tensor, gray: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors about half of the pairs of a batch left to right, both pictures of a pair alike."""
    chosen = torch.rand(len(colour), 1, 1, 1, generator=generator).to(colour.device) < 0.5
    return torch.where(chosen, colour.flip(-1), colour), torch.where(chosen, gray.flip(-1), gray)
