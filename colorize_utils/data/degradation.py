"""Old prints: gray pictures made to look like scans of old paper, so that training shows what people have.

What people want colorized is seldom a clean photograph. `degraded` does to a picture what lens, film, paper, time and
scanner do, in that order: blur, film grain, less contrast and faded blacks, a white border, dust and hairs, JPEG.
Strengths and what happens at all are drawn anew for each picture.

The border is paper and no part of the scene: `borders` says where it lies, `with_old_prints` makes the colour picture
white there, too.
"""

import io
import math
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from colorize_utils.colour import unit

OLD = 0.15  # share of training pictures that become old prints: most pictures that people have are better

BORDERED = 0.4  # share of old prints with a white border
BORDER = (0.02, 0.08)  # its width, as a share of the shorter side
UNEVEN = 0.3  # by how much a side's border may be wider or narrower than that, relatively
PAPER = (0.85, 1.0)  # gray of the border

SOFT = 0.6  # share that is blurred
BLUR = (0.001, 0.006)  # standard deviation, as a share of the shorter side: 0.2 to 1.2 pixels of 192
GRAINY = 0.7
GRAIN = (0.005, 0.05)  # standard deviation in the midtones, where film's grain is strongest
PALE = 0.8  # share of less contrast
BLACK = (0.0, 0.3)  # what black has faded to
WHITE = (0.75, 1.0)  # what white has darkened to
GAMMA = 0.35  # logarithm, at most, up or down
DUSTY = 0.5
SPECKS = 24  # specks and hairs of a print, at most
JPEG = 0.5  # share that was kept as JPEG
QUALITY = (25, 85)

Picture = TypeVar("Picture", Tensor, Image.Image)


def degraded(picture: Picture, rng: torch.Generator, inside: Tensor | None = None) -> Picture:
    """Old prints of gray pictures.

    Args:
        picture: A batch of gray pictures (B, 1, H, W) in [0, 1], or a Pillow image, of which the gray version is taken.
        rng: A CPU generator, from which every random number is drawn.
        inside: (B, 1, H, W) bool, False where the white border lies, as `borders` draws it; drawn here if left out.

    Returns:
        The prints: a batch of the same shape on the same device, or a Pillow image in mode "L" of the same size.
    """
    if isinstance(picture, Image.Image):
        levels = np.array(picture.convert("L"))
        return Image.fromarray(_levels(degraded(unit(torch.from_numpy(levels))[None, None], rng, inside)[0, 0]))
    count, _, height, width = picture.shape
    if inside is None:
        inside = borders(count, height, width, rng)

    def between(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand(count, 1, 1, 1, generator=rng)

    def some(share: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1, generator=rng) < share).float()

    gray = picture.float().cpu()
    gray = _blurred(gray, min(height, width) * some(SOFT) * between(*BLUR))
    gray = gray + some(GRAINY) * between(*GRAIN) * _grain(gray, between(0, 1), rng)
    pale = some(PALE)
    black, white = pale * between(*BLACK), 1 - pale * (1 - between(*WHITE))
    gray = black + (white - black) * gray.clamp(0, 1) ** (pale * between(-GAMMA, GAMMA)).exp()
    gray = torch.where(inside.cpu(), gray, between(*PAPER))
    dust = some(DUSTY) * between(0.3, 1) * _dust(count, height, width, rng)
    gray = torch.lerp(gray, some(0.7), dust)  # most specks are white: they lay on the negative
    quality = (some(JPEG) * between(*QUALITY)).flatten().int().tolist()
    for index, share in enumerate(quality):
        if share:
            gray[index, 0] = _through_jpeg(gray[index, 0], share)
    return gray.clamp(0, 1).to(picture)


def borders(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Draws where prints have a white border: all round, not quite even, and many have none.

    Args:
        count: How many prints.
        height: Of a print, in pixels.
        width: The same.
        rng: A CPU generator.

    Returns:
        (count, 1, height, width) bool, True inside the border.
    """
    share = BORDER[0] + (BORDER[1] - BORDER[0]) * torch.rand(count, 1, generator=rng)
    share = share * (torch.rand(count, 1, generator=rng) < BORDERED)
    uneven = 1 + UNEVEN * (2 * torch.rand(count, 4, generator=rng) - 1)
    top, bottom, left, right = (min(height, width) * share * uneven).round()[..., None].unbind(dim=1)  # (count, 1)
    y, x = torch.arange(height), torch.arange(width)
    rows, columns = (y >= top) & (y < height - bottom), (x >= left) & (x < width - right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def with_old_prints(colour: Tensor, gray: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of training pairs, some of whose gray pictures become old prints.

    Colours stay as they are, but for those under a white border, which become white.

    Args:
        colour: (B, 3, H, W), RGB in [0, 1].
        gray: (B, 1, H, W) in [0, 1].
        rng: A CPU generator, from which every random number is drawn.

    Returns:
        Colour and gray, of the same shapes.
    """
    old = torch.nonzero(torch.rand(len(gray), generator=rng) < OLD).flatten()
    if not len(old):
        return colour, gray
    inside = borders(len(old), gray.shape[-2], gray.shape[-1], rng)
    old = old.to(gray.device)
    colour, gray = colour.clone(), gray.clone()
    gray[old] = degraded(gray[old], rng, inside)
    colour[old] = torch.where(inside.to(colour.device), colour[old], 1.0)
    return colour, gray


def _blurred(gray: Tensor, sigma: Tensor) -> Tensor:
    """Each picture of (B, 1, H, W) under a Gaussian of its own standard deviation (B, 1, 1, 1) in pixels; 0: none."""
    reach = min(math.ceil(2.5 * sigma.max().item()), min(gray.shape[-2:]) - 1)
    if not reach:
        return gray
    offsets = torch.arange(-reach, reach + 1).float()
    weights = torch.exp(-offsets.square() / (2 * sigma.flatten()[:, None].clamp(min=0.05) ** 2))  # 0.05: no neighbour
    weights = weights / weights.sum(dim=1, keepdim=True)  # (B, taps)
    for dim in (2, 3):  # sums of shifted pictures: several times as fast as a grouped convolution
        pads = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        padded = F.pad(gray, pads, mode="replicate")
        gray = torch.zeros_like(gray)
        for place in range(2 * reach + 1):
            gray.addcmul_(padded.narrow(dim, place, gray.shape[dim]), weights[:, place, None, None, None])
    return gray


def _grain(gray: Tensor, coarse: Tensor, rng: torch.Generator) -> Tensor:
    """Noise (B, 1, H, W) of a standard deviation of about 1 in the midtones, partly in clumps of two pixels."""
    count, _, height, width = gray.shape
    fine = torch.randn(gray.shape, generator=rng)
    clumps = torch.randn(count, 1, math.ceil(height / 2), math.ceil(width / 2), generator=rng)
    clumps = clumps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[..., :height, :width]
    noise = torch.lerp(fine, clumps, coarse)
    return noise * (0.4 + 2.4 * gray * (1 - gray))


def _dust(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Specks and hairs: (count, 1, height, width) in [0, 1], 1 where one lies.

    Each is the path of a point that walks half a pixel at a step and turns at random; a speck's goes nowhere, a hair's
    is long and bends little.
    """
    steps = max(8, min(height, width) // 3)
    hair = torch.rand(count, SPECKS, 1, generator=rng) < 0.1
    length = torch.where(hair, steps, 6) * torch.rand(count, SPECKS, 1, generator=rng)
    turn = torch.where(hair, 0.15, 2.0) * torch.randn(count, SPECKS, steps, generator=rng)
    angle = 2 * math.pi * torch.rand(count, SPECKS, 1, generator=rng) + turn.cumsum(dim=2)
    start = torch.rand(2, count, SPECKS, 1, generator=rng)
    y = (height * start[0] + 0.5 * angle.sin().cumsum(dim=2)).long()
    x = (width * start[1] + 0.5 * angle.cos().cumsum(dim=2)).long()
    there = torch.rand(count, SPECKS, 1, generator=rng) < torch.rand(count, 1, 1, generator=rng)
    seen = there & (torch.arange(steps) <= length) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    dust = torch.zeros(count, 1, height, width)
    picture = torch.arange(count)[:, None, None].expand_as(seen)
    dust[picture[seen], 0, y[seen], x[seen]] = 1
    return dust


def _through_jpeg(gray: Tensor, quality: int) -> Tensor:
    """A gray picture (H, W) in [0, 1], after it was kept as JPEG."""
    file = io.BytesIO()
    Image.fromarray(_levels(gray)).save(file, "JPEG", quality=quality)
    return unit(torch.from_numpy(np.array(Image.open(file))))


def _levels(gray: Tensor) -> np.ndarray:
    return gray.clamp(0, 1).mul(255).round().byte().numpy()
