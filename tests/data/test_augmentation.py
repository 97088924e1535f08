import torch

from colorize_utils.colour import chroma_of, luma
from colorize_utils.data import generator_for
from colorize_utils.data.augmentation import augmented
from colorize_utils.data.synthetic import synthetic_flowers


def flowers(count=24):
    return torch.from_numpy(synthetic_flowers(count, 32)).permute(0, 3, 1, 2) / 255


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


def test_gray_stays_gray_and_hues_stay_about_what_they_are():
    gray = flowers().mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    assert chroma_of(augmented(gray, generator_for(2))[0]).abs().max() < 1e-6
    orange = torch.tensor([0.9, 0.5, 0.1])[None, :, None, None].expand(16, 3, 32, 32)
    red, green, blue = augmented(orange, generator_for(3))[0].unbind(dim=1)
    assert (red > green + 0.1).all()
    assert (green > blue + 0.1).all()


def test_some_pictures_are_not_resampled():
    """Shifted by whole pixels alone, they stay as sharp as those that the network is used on."""
    stripes = (torch.arange(32) % 2).float().expand(40, 3, 32, 32)
    colour, _ = augmented(stripes, generator_for(4))
    sharp = sum(set(picture.flatten().tolist()) <= {0.0, 1.0} for picture in colour.round(decimals=4))
    assert 8 <= sharp <= 24
