import math

import pytest
import torch

from colorize_utils.colour import chroma_of, luma
from colorize_utils.data import generator_for
from colorize_utils.data.hints import LARGEST, MOST, RECOLOURED, UNHINTED, drawn_places, with_hints


@pytest.fixture(scope="module")
def colour():
    return torch.rand(200, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_hints_are_true_and_recolouring_keeps_luma(colour):
    painted, hints = with_hints(colour, generator_for(0, 0, 0))
    assert painted.min() >= 0 and painted.max() <= 1
    torch.testing.assert_close(luma(painted), luma(colour), atol=1e-6, rtol=0)
    changed = (painted - colour).abs().amax(dim=(1, 2, 3)) > 1e-4
    hinted = hints[:, 2].amax(dim=(1, 2)) == 1
    assert abs(hinted.float().mean() - (1 - UNHINTED)) < 0.1
    assert abs(changed.float().mean() - (1 - UNHINTED) * RECOLOURED) < 0.1
    assert not (changed & ~hinted).any()
    assert not hints[~hinted].any() and set(hints[:, 2].unique().tolist()) == {0.0, 1.0}
    alone = hints[:, 2].sum(dim=(1, 2)) == 1  # a single pixel's hint is that pixel's colour
    assert alone.any()
    chroma = chroma_of(painted)
    for index in torch.nonzero(alone).flatten().tolist():
        there = hints[index, 2] == 1
        torch.testing.assert_close(hints[index, :2, there], chroma[index, :, there])


def test_numbers_of_hints_are_of_every_order(colour):
    _, hints = with_hints(colour, generator_for(0, 0, 1))
    pixels = hints[:, 2].sum(dim=(1, 2))
    assert (pixels[pixels > 0] <= 8).any() and (pixels > 60).any()
    assert pixels.max() <= MOST * math.ceil(1 + LARGEST * 64) ** 2


def test_what_has_the_places_colour_is_recoloured_and_nothing_else():
    """Half of each picture is red, half is green; a recoloured picture has one half changed, and the hint says so."""
    colour = torch.zeros(64, 3, 32, 32)
    colour[:, 0, :, :16], colour[:, 1, :, 16:] = 0.7, 0.4
    painted, hints = with_hints(colour, generator_for(0, 0, 2))
    moved = (chroma_of(painted) - chroma_of(colour)).norm(dim=1)  # (B, H, W)
    halves = torch.stack([moved[:, :, :16].amax(dim=(1, 2)), moved[:, :, 16:].amax(dim=(1, 2))])
    recoloured = halves.amax(dim=0) > 0.1
    assert recoloured.sum() > 5
    assert (halves.amin(dim=0)[recoloured] < 0.05).all()
    side = halves.argmax(dim=0)
    for index in torch.nonzero(recoloured).flatten().tolist():
        half = slice(0, 16) if side[index] == 0 else slice(16, 32)
        assert hints[index, 2, :, half].any()  # one hint at least lies in what was changed


def test_the_same_seed_draws_the_same(colour):
    first, second = (with_hints(colour[:8], generator_for(1, 2, 3)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_places_lie_around_the_middle_and_inside():
    places = drawn_places(20_000, generator_for(0))
    assert places.min() >= 0 and places.max() < 1
    assert abs(places.mean() - 0.5) < 0.01
    assert 0.2 < places.std() < 0.26
