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


def gray_levels(levels: Tensor) -> Tensor:
    """8-bit gray (B, 1, H, W) of 8-bit RGB (B, 3, H, W): equal to `Image.convert("L")`, byte for byte."""
    r, g, b = levels.to(torch.int32).unbind(dim=1)
    wr, wg, wb = LUMA_WEIGHTS
    return ((wr * r + wg * g + wb * b + _ROUND) >> 16).to(torch.uint8).unsqueeze(1)


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

    gray: (...) uint8. chroma: (3, ...) float32 in 8-bit steps: R, G and B minus their luma; whatever luma it still has
    is taken off.

    With c the chroma, Y the gray and t ∈ [0, 1] the largest factor for which Y + t·c stays in the cube, red and blue
    are rounded from it and green is solved for: a step of green moves luma by 38470/65536 < 1, so some whole green
    always gives Y. Next to the cube's faces it may lie outside; chroma is then halved there, and at last given up.
    """
    wr, wg, wb = (np.float32(weight / 65536) for weight in LUMA_WEIGHTS)
    chroma = chroma - (wr * chroma[0] + wg * chroma[1] + wb * chroma[2])
    rgb, outside = _merge_once(gray, chroma)
    for factor in (0.5, 0.25, 0.0):
        if not outside.any():
            break
        rgb[outside], still = _merge_once(gray[outside], np.float32(factor) * chroma[:, outside])
        outside[outside] = still
    return rgb


def _merge_once(gray: np.ndarray, chroma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, outside): outside, (...) bool, is true where the green that gives the right luma is no 8-bit value."""
    level = gray.astype(np.float32)
    room_above, room_below = 255 - level, level
    tiny = np.float32(1e-6)  # no room and no chroma: 0 / tiny
    highest, lowest = chroma.max(axis=0), chroma.min(axis=0)
    t = room_above / np.maximum(np.maximum(highest, room_above), tiny)
    t = np.minimum(t, room_below / np.maximum(np.maximum(-lowest, room_below), tiny))
    red, green, blue = (np.rint(level + t * plane).astype(np.int32) for plane in chroma)
    # Greens for which (wr·R + wg·G + wb·B + round) >> 16 == Y: wg·G lies in [rest, rest + 65535].
    wr, wg, wb = LUMA_WEIGHTS
    rest = (gray.astype(np.int32) << 16) - _ROUND - wr * red - wb * blue
    least, most = -(-rest // wg), (rest + 65535) // wg
    green = np.minimum(np.maximum(green, least), most)
    outside = (green < 0) | (green > 255)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8), outside
