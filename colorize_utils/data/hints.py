"""Hints for training: the colours of some places of each picture, as somebody would give them.

A hint says what a thing's colour is. Most pictures keep their colours, so that what the network learns of flowers stays
right. In some, everything of about one place's colour gets another one, and the hint there says which: so the network
learns that a hint is to be believed against all that it knows, and that it spreads to what looks like its place and
ends there.

Sources:
    Zhang et al. 2017, "Real-Time User-Guided Image Colorization with Learned Deep Priors", section 3.2: where hints
    lie, and how large they are. Their number is drawn otherwise, because ten hints a picture teach little about fifty.
"""

import math

import numpy as np
import torch
from torch import Tensor

from colorize_utils.colour import chroma_of, luma, with_chroma

UNHINTED = 0.3  # share of pictures without a hint
MOST = 100  # hints in a picture; their number's logarithm is uniform
LARGEST = 1 / 24  # side of a hint, as a share of the picture's, at most
SPREAD = 1 / 4  # standard deviation of a hint's place around the middle, as a share of the side
RECOLOURED = 0.35  # share of the pictures with hints in which one thing gets another colour
ALIKE = (0.05, 0.15)  # chroma's distance, at least and at most, at which a recoloured thing ends
ALIKE_LUMA = 0.35  # luma's: a petal has shadows, but white is not black


def with_hints(colour: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of training pictures with hints; some are recoloured, without a change of their luma.

    Args:
        colour: (B, 3, S, S), square pictures, RGB in [0, 1].
        rng: A CPU generator, from which every random number is drawn.

    Returns:
        Colour (B, 3, S, S), RGB in [0, 1], and hints (B, 3, S, S), as `MultiscaleUNet` takes them, on the device of
        `colour`.
    """
    count, size = len(colour), colour.shape[-1]
    hinted = torch.rand(count, generator=rng) >= UNHINTED
    number = (torch.rand(count, generator=rng) * math.log(MOST + 1)).exp().long() * hinted
    recoloured = torch.nonzero(hinted & (torch.rand(count, generator=rng) < RECOLOURED)).flatten()
    places = drawn_places(int(number.sum()), rng)  # (N, 2), in sides
    side = 1 + (torch.rand(len(places), generator=rng) * max(1.0, LARGEST * size)).long()
    top_left = (places * size - side[:, None] / 2).round().long().clamp(min=0)
    corners = torch.cat([top_left, (top_left + side[:, None]).clamp(max=size)], dim=1)
    first = number.cumsum(0) - number  # of each picture's hints
    if len(recoloured):
        colour = colour.clone()
        centres = (corners[first[recoloured], :2] + corners[first[recoloured], 2:]) // 2
        colour[recoloured] = _recoloured(colour[recoloured], centres, rng)
    chroma = chroma_of(colour).cpu().numpy()
    hints = np.zeros((count, 3, size, size), np.float32)
    owner = torch.repeat_interleave(torch.arange(count), number)
    for picture, (top, left, bottom, right) in zip(owner.tolist(), corners.tolist(), strict=True):
        patch = chroma[picture, :, top:bottom, left:right]
        hints[picture, :2, top:bottom, left:right] = patch.mean(axis=(1, 2), keepdims=True)
        hints[picture, 2, top:bottom, left:right] = 1
    return colour, torch.from_numpy(hints).to(colour.device)


def drawn_places(count: int, rng: torch.Generator) -> Tensor:
    """Random places for hints: normally distributed around the middle, those beyond an edge drawn again, uniformly.

    Args:
        count: How many.
        rng: A CPU generator.

    Returns:
        (count, 2), row and column as shares of the picture's height and width, in [0, 1).
    """
    places = 0.5 + SPREAD * torch.randn(count, 2, generator=rng)
    elsewhere = torch.rand(count, 2, generator=rng)
    return torch.where((places < 0) | (places >= 1), elsewhere, places)


def _recoloured(colour: Tensor, centres: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (N, 3, S, S) in which what has about the colour of a place, (N, 2), has another, at the same luma."""
    count = len(colour)
    gray, chroma = luma(colour), chroma_of(colour)
    rows, columns = centres.to(colour.device).unbind(dim=1)
    planes = torch.cat([chroma, gray], dim=1)
    there = planes[torch.arange(count, device=colour.device), :, rows, columns][:, :, None, None]
    reach = ALIKE[0] + (ALIKE[1] - ALIKE[0]) * torch.rand(count, 1, 1, 1, generator=rng)
    scale = torch.cat([reach, reach, torch.full_like(reach, ALIKE_LUMA)], dim=1).to(colour.device)
    share = (-0.5 * ((planes - there) / scale).square().sum(dim=1, keepdim=True)).exp()
    wanted = chroma_of(torch.rand(count, 3, 1, 1, generator=rng)).to(colour.device)
    return _in_cube(gray, chroma + share * (wanted - there[:, :2]))


def _in_cube(gray: Tensor, chroma: Tensor) -> Tensor:
    """Colour (N, 3, H, W) of luma `gray`, with chroma that is scaled towards gray where it would leave the RGB cube."""
    offsets = with_chroma(torch.zeros_like(gray), chroma)
    room = torch.where(offsets > 0, 1 - gray, gray).clamp(min=0)
    fits = (room / offsets.abs().clamp(min=1e-6)).clamp(max=1).amin(dim=1, keepdim=True)
    return (gray + fits * offsets).clamp(0, 1)
