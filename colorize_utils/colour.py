"""Gray, and how it is kept: the two definitions that decide whether a colorized picture is right; chroma.

**Gray** is Rec. 601 luma as Pillow computes it on 8-bit values, L = (19595 R + 38470 G + 7471 B + 32768) >> 16.
torchvision's grayscale of a tensor rounds differently on half of the pixels, so it is not used anywhere here.

**Luminance kept** means that the gray picture of the result equals the gray picture that was given, byte for byte.
Chroma, the part of a colour that is left when its luma is taken away, is added to the given gray; where the sum would
leave the RGB cube it is scaled towards gray, never clipped channel by channel, which would shift luma and hue.

What people's pictures are made with is NumPy's; tensors are for training. PyTorch is imported where it is used.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Planes = TypeVar("Planes", np.ndarray, "Tensor")

LUMA_WEIGHTS = (19595, 38470, 7471)  # of R, G, B, in 1/65536; they add up to exactly 65536
_ROUND = 32768  # half of 65536: rounds the shift to nearest


def unit(levels: "Tensor") -> "Tensor":
    """8-bit levels as numbers in [0, 1]: exactly level / 255, on every device.

    A division on the CPU; elsewhere a table, because some devices multiply by 1/255, which differs in the last bit.

    Args:
        levels: uint8, of any shape.

    Returns:
        float32 in [0, 1], the same shape, on the same device.
    """
    if levels.device.type == "cpu":
        return levels.float().div(255)
    return unit_table().to(levels.device)[levels.int()]


def levels_of(picture: "Tensor") -> np.ndarray:
    """The 8-bit levels of a picture, clamped and rounded.

    Args:
        picture: (C, H, W) in about [0, 1].

    Returns:
        (H, W, C) uint8.
    """
    return picture.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


def unit_table() -> "Tensor":
    """The number in [0, 1] for each 8-bit level: (256,) float32 on the CPU."""
    import torch

    return torch.arange(256, dtype=torch.float32).div(255)


def gray_levels(levels: "Tensor") -> "Tensor":
    """8-bit gray of 8-bit pictures, equal to Pillow's `Image.convert("L")`, byte for byte.

    Args:
        levels: (B, 3, H, W) uint8, RGB.

    Returns:
        (B, 1, H, W) uint8.
    """
    r, g, b = levels.int().unbind(dim=1)
    wr, wg, wb = LUMA_WEIGHTS
    return ((wr * r + wg * g + wb * b + _ROUND) >> 16).byte().unsqueeze(1)


def luma(colour: "Tensor") -> "Tensor":
    """Luma with the weights of `gray_levels`, but without rounding; differentiable.

    Args:
        colour: (B, 3, H, W), RGB in [0, 1].

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    red, green, blue = (weight / 65536 * plane for weight, plane in zip(LUMA_WEIGHTS, colour.split(1, 1), strict=True))
    return red + green + blue  # no matrix product: autocast would round that to 16 bits


def with_luminance(gray: "Tensor", colour: "Tensor") -> "Tensor":
    """The chroma of `colour` on the luminance of `gray`; differentiable.

    A training step uses it where luminance is kept rather than predicted.

    Args:
        gray: (B, 1, H, W) in [0, 1].
        colour: (B, 3, H, W), RGB.

    Returns:
        (B, 3, H, W), RGB, not confined to [0, 1].
    """
    return colour + (gray - luma(colour))


def chroma_of(colour: "Tensor") -> "Tensor":
    """Chroma, red and blue minus luma; differentiable.

    Args:
        colour: (B, 3, H, W), RGB in [0, 1].

    Returns:
        (B, 2, H, W).
    """
    return (colour - luma(colour))[:, ::2]


def with_chroma(gray: "Tensor", chroma: "Tensor") -> "Tensor":
    """Colour from gray and chroma; differentiable.

    Green minus luma follows from the other two, because the luma of chroma is 0.

    Args:
        gray: (B, 1, H, W) in [0, 1].
        chroma: (B, 2, H, W), red and blue minus luma.

    Returns:
        (B, 3, H, W), RGB, not confined to [0, 1].
    """
    import torch

    red, blue = chroma.unbind(dim=1)
    return gray + torch.stack([red, green_of(red, blue), blue], dim=1)


def green_of(red: Planes, blue: Planes) -> Planes:
    """Green minus luma of chroma, red and blue minus luma: arrays or tensors, of any shape."""
    wr, wg, wb = LUMA_WEIGHTS
    return -(wr * red + wb * blue) / wg


def merge(gray: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """8-bit colour whose luma is exactly `gray`, with the chroma asked for as far as the RGB cube allows.

    With c the chroma, Y the gray and t ∈ [0, 1] the largest factor for which Y + t·c stays in the cube, red, green and
    blue are Y + t·c, rounded. Rounding moves luma by half a step at most; a step of green moves it by 38470/65536, so
    that one such step restores Y where rounding has changed it. That step never leaves 0 … 255: at an end of the
    range, rounding can only have moved green inwards, and red and blue alone move luma by 0.21 at most.

    The code works in place wherever it can: most of the time that a large photograph takes is spent here.

    Args:
        gray: (...) uint8.
        chroma: (2, ...) float32, red and blue minus luma in 8-bit steps; green minus luma follows, because the luma of
            chroma is 0.

    Returns:
        (..., 3) uint8, RGB.
    """
    wr, wg, wb = LUMA_WEIGHTS
    tiny = np.float32(1e-6)  # instead of 0 / 0 where there is neither room nor chroma
    level = gray.astype(np.float32)
    red, blue = chroma
    green = red * np.float32(-wr / wg)
    green -= blue * np.float32(wb / wg)

    highest, lowest = np.maximum(red, blue), np.minimum(red, blue)
    np.maximum(highest, green, out=highest)
    np.minimum(lowest, green, out=lowest)
    t = _share_that_fits(np.maximum(255 - level, tiny), highest)
    t = np.minimum(t, _share_that_fits(np.maximum(level, tiny), np.negative(lowest, out=lowest)), out=t)

    red, green, blue = (_rounded(level, t, plane) for plane in (red, green, blue))
    weighted = wr * red
    weighted += wg * green
    weighted += wb * blue
    weighted += _ROUND
    weighted >>= 16  # luma of the rounded colour
    green += gray
    green -= weighted
    rgb = np.empty((*gray.shape, 3), np.uint8)
    for channel, plane in enumerate((red, green, blue)):
        np.copyto(rgb[..., channel], plane, casting="unsafe")
    return rgb


def _share_that_fits(room: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The quotient room / wanted where more is wanted than there is room, else 1; overwrites `wanted`."""
    np.maximum(wanted, room, out=wanted)
    return np.divide(room, wanted, out=wanted)


def _rounded(level: np.ndarray, t: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    value = t * chroma
    value += level
    return np.rint(value, out=value).astype(np.int32)
