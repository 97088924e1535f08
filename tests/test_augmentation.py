import torch

from colorize_utils.augmentation import augmented
from colorize_utils.data import generator_for
from colorize_utils.generated import generate_flowers
from colorize_utils.luminance import chroma_of, luma


def flowers(count=24):
    return torch.from_numpy(generate_flowers(count, 32)).permute(0, 3, 1, 2) / 255


def test_a_pair_stays_a_pair():
    colour, gray = augmented(flowers(), generator_for(0))
    assert colour.shape == (24, 3, 32, 32)
    assert (colour.min() >= 0) and (colour.max() <= 1)
    torch.testing.assert_close(gray, luma(colour))


def test_the_generator_decides_and_pictures_differ():
    plain = flowers()
    one, other = augmented(plain, generator_for(0))[0], augmented(plain, generator_for(0))[0]
    assert torch.equal(one, other)
    assert not torch.equal(one, augmented(plain, generator_for(1))[0])
    moved = (one - plain).abs().mean(dim=(1, 2, 3))
    assert (moved > 0).all()
    assert len(moved.unique()) == len(moved)


def test_colours_are_kept():
    """Turned and lit otherwise, a flower has the chroma it had: hues do not wander."""
    plain = flowers()
    colour, _ = augmented(plain, generator_for(2))
    before, after = (chroma_of(pictures).mean(dim=(0, 2, 3)) for pictures in (plain, colour))
    assert (before - after).abs().max() < 0.03
    pure = torch.zeros(4, 3, 32, 32)
    pure[:, 0] = 0.7
    assert (augmented(pure, generator_for(3))[0][:, 1:] == 0).all()


def test_some_pictures_are_not_resampled():
    """Shifted by whole pixels alone, they stay as sharp as those that the network is used on."""
    stripes = (torch.arange(32) % 2).float().expand(40, 3, 32, 32)
    colour, _ = augmented(stripes, generator_for(4))
    sharp = sum(set(picture.flatten().tolist()) <= {0.0, 1.0} for picture in colour.round(decimals=4))
    assert 8 <= sharp <= 24
