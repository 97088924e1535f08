"""Augmentation: training pictures changed at random, so that none comes twice the same.

A thousand photographs are few, and a flower is the same flower wherever it stands. `augmented` turns, scales, shifts
and lights pictures otherwise. Their colours must stay right, because they are what is learned: one gamma for all three
channels changes them as another exposure would, and gray stays gray. `with_surroundings` shows that not everything is a
flower: what lies beside one may be a wall, and some pictures show nothing at all.

The gray picture is made from the changed colour picture, so that the two still belong together.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_utils.colour import luma

TURN = 0.4  # radians, at most, in either direction
SCALE = (-0.25, 0.75)  # logarithm of the enlargement, at least and at most: 0.8 to 2.1
ASPECT = 0.2  # logarithm of the stretch of width against height, at most: photographs are squashed to squares
SHIFT = 7 / 64  # share of a side, at most, in either direction; more where the picture is enlarged
EXPOSURE = 0.35  # logarithm of gamma, at most, up or down
SHARP = 0.25  # share of pictures that are only shifted by whole pixels: turning and scaling blur a little
BRIGHTER = 0.4  # share of pictures whose brightness and contrast change
SHADED = 0.3  # share of pictures over which a shade falls, from one side to the other

EMPTY = 0.03  # share of pictures in which there is nothing
WALL = 0.06  # share of pictures whose surroundings are gray
FOREIGN = 0.1  # share of pictures whose surroundings are another picture's
BLURRED = 0.13  # share of pictures that are out of focus
NOISY = 0.2  # share of pictures whose gray version has noise that the colours do not have


def augmented(colour: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of training pairs, turned, scaled, shifted and lit otherwise, from colour pictures.

    Beyond its edges a picture is continued by its mirror image.

    Args:
        colour: (B, 3, S, S), square pictures, RGB in [0, 1].
        rng: A CPU generator, from which every random number is drawn.

    Returns:
        Colour (B, 3, S, S), RGB, and gray (B, 1, S, S), both in [0, 1], on the device of `colour`.
    """
    count, size, device = len(colour), colour.shape[-1], colour.device

    def between(least: float, most: float, *shape: int) -> Tensor:
        return least + (most - least) * torch.rand(count, *shape, generator=rng)

    def some(share: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1, generator=rng) < share).float()

    resampled = (torch.rand(count, generator=rng) >= SHARP).float()
    turn = resampled * between(-TURN, TURN)
    scale = (-resampled * between(*SCALE)).exp()  # of the part that is seen
    aspect = (resampled * between(-ASPECT, ASPECT)).exp()
    reach = SHIFT + 0.4 * (1 - scale).clamp(min=0)  # an enlarged part comes from anywhere in the picture
    shift = 2 / size * torch.round(size * reach[:, None] * between(-1, 1, 2))  # in affine_grid's units: a side is 2
    cosine, sine = scale * turn.cos(), scale * turn.sin()
    rows = [
        torch.stack([cosine * aspect, -sine * aspect, shift[:, 0]], dim=1),
        torch.stack([sine / aspect, cosine / aspect, shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(device), list(colour.shape), align_corners=False)
    moved = F.grid_sample(colour, grid, padding_mode="reflection", align_corners=False).clamp(0, 1)

    lit = moved ** between(-EXPOSURE, EXPOSURE, 1, 1, 1).exp().to(device)
    brighter = some(BRIGHTER)
    contrast, brightness = (brighter * between(-0.2, 0.12, 1, 1, 1)).exp(), brighter * between(-0.04, 0.06, 1, 1, 1)
    ramp = torch.linspace(-1, 1, size)
    shade = 1 + 0.3 * some(SHADED) * (between(-1, 1, 1, 1, 1) * ramp + between(-1, 1, 1, 1, 1) * ramp[:, None])
    lit = ((lit * contrast.to(device) + brightness.to(device)).clamp(0, 1) * shade.to(device)).clamp(0, 1)
    return lit, luma(lit)


def with_surroundings(colour: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of training pairs, some of them with surroundings that are not the flower's own.

    A few pictures show nothing but a gray wall; in others the flower stands before a wall, or before a part of another
    picture of the batch; some are out of focus. Without them a network of flowers paints a studio's gray wall sky blue.

    Args:
        colour: (B, 3, S, S), square pictures, RGB in [0, 1].
        rng: A CPU generator, from which every random number is drawn.

    Returns:
        Colour (B, 3, S, S), RGB, and gray (B, 1, S, S), both in [0, 1], on the device of `colour`.
    """
    count, size, device = len(colour), colour.shape[-1], colour.device
    pictures = colour.clone()
    for index in torch.nonzero(torch.rand(count, generator=rng) < BLURRED).flatten().tolist():
        factor = (2, 2, 2, 4, 8)[int(torch.randint(5, (), generator=rng))]
        small = F.interpolate(pictures[index : index + 1], size=size // factor, mode="bilinear", antialias=True)
        pictures[index] = F.interpolate(small, size=size, mode="bilinear")[0]
    sharp = pictures.clone()
    kind = torch.rand(count, generator=rng)
    for index in torch.nonzero(kind < EMPTY + WALL + FOREIGN).flatten().tolist():
        wall = sharp[(index + 1) % count]
        if kind[index] < EMPTY + WALL:
            wall = _wall(size, rng).to(device).expand(3, -1, -1)
        share = torch.zeros(size, size) if kind[index] < EMPTY else _outline(size, rng)
        pictures[index] = torch.lerp(wall, pictures[index], share.to(device))
    gray = luma(pictures)
    strength = (torch.rand(count, 1, 1, 1, generator=rng) < NOISY) * 0.03 * torch.rand(count, 1, 1, 1, generator=rng)
    noise = strength * torch.randn(gray.shape, generator=rng)
    return pictures, (gray + noise.to(device)).clamp(0, 1)


def _wall(size: int, rng: torch.Generator) -> Tensor:
    """A gray picture of nothing, (1, size, size): a level, perhaps with a slope, a vignette, soft blobs and noise."""
    chance = torch.rand(11, generator=rng).tolist()
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    wall = torch.full((1, size, size), chance[0])
    if chance[1] < 0.6:
        wall = wall + 0.35 * ((2 * chance[2] - 1) * x + (2 * chance[3] - 1) * y)
    if chance[4] < 0.25:
        wall = wall - 0.3 * chance[5] * (x * x + y * y)
    if chance[6] < 0.35:
        blobs = torch.randn(1, 1, 3, 3, generator=rng)
        wall = wall + 0.25 * chance[7] * F.interpolate(blobs, size=(size, size), mode="bicubic")[0]
    if chance[8] < 0.6:
        wall = wall + 0.04 * chance[9] ** 2 * torch.randn(1, size, size, generator=rng)
    return wall.clamp(0, 1)


def _outline(size: int, rng: torch.Generator) -> Tensor:
    """A soft mask (size, size) in [0, 1], 1 where the flower is: inside a wavy outline, or on one side of a line."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    chance = torch.rand(9, generator=rng).tolist()
    if chance[0] < 0.7:
        left, top, radius = 0.4 * chance[1] - 0.2, 0.4 * chance[2] - 0.2, 0.4 + 0.5 * chance[3]
        waves = torch.cos((2 + int(6 * chance[4])) * torch.atan2(y - top, x - left) + 2 * math.pi * chance[5])
        inside = radius * (1 + 0.25 * chance[6] * waves) - torch.hypot(x - left, y - top)
    else:
        angle = 2 * math.pi * chance[1]
        inside = math.cos(angle) * x + math.sin(angle) * y + 0.5 * chance[2]
    softness = 0.004 + 0.08 * chance[8] ** 2
    return torch.sigmoid(inside / softness)


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
