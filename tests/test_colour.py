import numpy as np
import torch
from PIL import Image

from colorize_utils.colour import LUMA_WEIGHTS, gray_levels, luma, merge

GRAY = np.arange(256, dtype=np.uint8)


def pillow_gray(rgb):
    return np.asarray(Image.fromarray(rgb).convert("L"))


def test_gray_is_pillows_for_every_colour():
    """All 16.7 million of them."""
    plane = np.stack(np.meshgrid(GRAY, GRAY, indexing="ij"), axis=-1)  # (256, 256, 2)
    for red in range(256):
        rgb = np.dstack([np.full((256, 256), red, np.uint8), plane])
        levels = gray_levels(torch.from_numpy(rgb).permute(2, 0, 1)[None])
        np.testing.assert_array_equal(levels[0, 0].numpy(), pillow_gray(rgb))


def test_float_luma_agrees_to_rounding():
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    colour = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
    assert (255 * luma(colour)[0, 0].numpy() - pillow_gray(rgb)).__abs__().max() <= 0.51


def test_merge_keeps_every_level_under_any_chroma():
    rng = np.random.default_rng(1)
    gray = np.repeat(GRAY[:, None], 4000, axis=1)
    for spread in (0.5, 1, 3, 10, 60, 400, 1e6):
        chroma = rng.normal(0, spread, (2, *gray.shape)).astype(np.float32)
        np.testing.assert_array_equal(pillow_gray(merge(gray, chroma)), gray)


def test_merge_of_no_chroma_is_gray():
    rgb = merge(GRAY[None], np.zeros((2, 1, 256), np.float32))
    np.testing.assert_array_equal(rgb, np.repeat(GRAY[None, :, None], 3, axis=2))


def test_merge_of_a_pictures_own_chroma_gives_the_picture_back():
    rgb = np.random.default_rng(2).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    gray = pillow_gray(rgb)
    luminance = rgb @ np.array(LUMA_WEIGHTS) / 65536
    chroma = (rgb - luminance[..., None]).astype(np.float32).transpose(2, 0, 1)[::2]
    difference = np.abs(merge(gray, chroma).astype(int) - rgb)
    assert difference.max() <= 4  # next to the cube's faces, where luma's own rounding takes a step of chroma away
    assert (difference > 1).mean() < 1e-3


def test_chroma_outside_the_cube_is_scaled_not_clipped():
    """The hue of what comes out is the hue asked for: its chroma is parallel to the one that went in."""
    rng = np.random.default_rng(3)
    gray = rng.integers(60, 196, (100, 100), dtype=np.uint8)
    chroma = rng.normal(0, 300, (3, 100, 100)).astype(np.float32)
    chroma -= np.einsum("c,chw->hw", np.array([19595, 38470, 7471]) / 65536, chroma)
    full = merge(gray, chroma[::2])
    result = full.astype(np.float32).transpose(2, 0, 1) - gray
    cosine = (result * chroma).sum(0) / np.linalg.norm(result, axis=0) / np.linalg.norm(chroma, axis=0)
    assert np.quantile(cosine, 0.01) > 0.999
    clipped = np.clip(gray + chroma, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    assert np.abs(pillow_gray(clipped).astype(int) - gray).max() > 40  # what the definition guards against
    # As much as the cube allows: where chroma had to be scaled, one channel reaches a face.
    wanted = gray + chroma
    scaled = (wanted.max(axis=0) > 255) | (wanted.min(axis=0) < 0)
    assert scaled.mean() > 0.8
    assert ((full.max(axis=-1) >= 254) | (full.min(axis=-1) <= 1))[scaled].all()
