"""Gray, and how it is kept: the two definitions that decide whether a colorized picture is right.

**Gray** is Rec. 601 luma as Pillow computes it on 8-bit values, L = (19595 R + 38470 G + 7471 B + 32768) >> 16.
torchvision's grayscale of a tensor rounds differently on half of the pixels, so it is not used anywhere here.

**Luminance kept** means that the gray picture of the result equals the gray picture that was given, byte for byte.
Chroma, the part of a colour that is left when its luma is taken away, is added to the given gray; where the sum would
leave the RGB cube it is scaled towards gray, never clipped channel by channel, which would shift luma and hue.
"""

import numpy as np
import torch
from torch import Tensor

LUMA_WEIGHTS = (19595, 38470, 7471)  # of R, G, B, in 1/65536; they add up to exactly 65536
_ROUND = 32768  # half of 65536: rounds the shift to nearest


def luma_bytes(rgb: np.ndarray) -> np.ndarray:
    """Gray (..., ) of 8-bit RGB (..., 3), both uint8: equal to `Image.convert("L")`, byte for byte."""
    r, g, b = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    wr, wg, wb = LUMA_WEIGHTS
    return ((wr * r + wg * g + wb * b + _ROUND) >> 16).astype(np.uint8)


def luma(colour: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of colour (B, 3, H, W), RGB in [0, 1]: the same weights without rounding, differentiable."""
    weights = colour.new_tensor(LUMA_WEIGHTS) / 65536
    return torch.einsum("bchw,c->bhw", colour, weights).unsqueeze(1)


def with_luminance(gray: Tensor, colour: Tensor) -> Tensor:
    """The chroma of `colour` (B, 3, H, W) on the luminance of `gray` (B, 1, H, W); differentiable, not confined to
    [0, 1]. What a training step uses when luminance is kept rather than predicted."""
    return colour + (gray - luma(colour))


def merge(gray: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """8-bit RGB (..., 3) whose luma is exactly `gray`, with the chroma asked for as far as the RGB cube allows.

    gray: (...,) uint8. chroma: (..., 3) float32 in units of 8-bit steps (R, G, B minus their luma); a common offset
    of the three is removed, so that it need not be exactly free of luma.

    With c the chroma, Y the gray and t ∈ [0, 1] the largest factor for which Y + t·c stays in the cube, red and blue
    are rounded from it and green is solved for: a step of green moves luma by 38470/65536 < 1, so some whole green
    always gives Y. Only on the cube's faces may it lie outside; chroma is then halved there, and at last given up.
    """
    wr, wg, wb = (weight / 65536 for weight in LUMA_WEIGHTS)
    chroma = chroma - (wr * chroma[..., 0] + wg * chroma[..., 1] + wb * chroma[..., 2])[..., None]
    rgb = _merge_once(gray, chroma)
    wrong = luma_bytes(rgb) != gray
    for factor in (0.5, 0.25, 0.0):
        if not wrong.any():
            break
        rgb[wrong] = _merge_once(gray[wrong], factor * chroma[wrong])
        wrong[wrong] = luma_bytes(rgb[wrong]) != gray[wrong]
    return rgb


def _merge_once(gray: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    level = gray.astype(np.float32)
    # Of the three limits, the cube's faces at 255 matter to the largest chroma, those at 0 to the smallest.
    highest, lowest = chroma.max(axis=-1), chroma.min(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.minimum(
            np.where(highest > 0, (255.0 - level) / highest, 1.0), np.where(lowest < 0, level / -lowest, 1.0)
        )
    ideal = level[..., None] + np.minimum(t, 1.0)[..., None].astype(np.float32) * chroma
    rgb = np.rint(ideal).clip(0, 255).astype(np.int32)
    wr, wg, wb = LUMA_WEIGHTS
    # Greens for which (wr·R + wg·G + wb·B + round) >> 16 == Y: wg·G lies in [rest, rest + 65535].
    rest = (gray.astype(np.int32) << 16) - _ROUND - wr * rgb[..., 0] - wb * rgb[..., 2]
    least, most = -(-rest // wg), (rest + 65535) // wg
    rgb[..., 1] = np.minimum(np.maximum(rgb[..., 1], least), most).clip(0, 255)
    return rgb.astype(np.uint8)
