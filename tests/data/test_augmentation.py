import torch

from colorize_utils.colour import chroma_of, luma
from colorize_utils.data import augmentation, generator_for
from colorize_utils.data.augmentation import augmented, with_surroundings
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
    assert (red > green).all()
    assert (green > blue).all()


def test_some_pictures_are_not_resampled(monkeypatch):
    """Shifted by whole pixels alone, they stay as sharp as those that the network is used on."""
    stripes = (torch.arange(32) % 2).float().expand(40, 3, 32, 32)
    for light in ("BRIGHTER", "SHADED"):
        monkeypatch.setattr(augmentation, light, 0.0)
    colour, _ = augmented(stripes, generator_for(4))
    sharp = sum(set(picture.flatten().tolist()) <= {0.0, 1.0} for picture in colour.round(decimals=4))
    assert 4 <= sharp <= 16


def test_surroundings_are_gray_or_anothers_or_there_is_nothing(monkeypatch):
    real = torch.stack([torch.full((64, 64), level) for level in (0.8, 0.4, 0.1)]).expand(8, 3, 64, 64)
    real = torch.cat([real, real.roll(1, dims=1)]).roll(4, dims=0)  # two colours, so that most neighbours are alike
    plain = {"EMPTY": 0.0, "WALL": 0.0, "FOREIGN": 0.0, "BLURRED": 0.0, "NOISY": 0.0}

    def changed(**shares):
        for name, share in (plain | shares).items():
            monkeypatch.setattr(augmentation, name, share)
        colour, gray = with_surroundings(real, generator_for(5))
        assert colour.min() >= 0 and colour.max() <= 1 and gray.min() >= 0 and gray.max() <= 1
        return colour, gray

    colour, gray = changed()
    assert torch.equal(colour, real)
    torch.testing.assert_close(gray, luma(real))
    empty = changed(EMPTY=1.0)[0]
    assert chroma_of(empty).abs().max() < 1e-6
    assert len({round(level, 2) for level in empty.mean(dim=(1, 2, 3)).tolist()}) > 8  # not one wall for all
    walled = chroma_of(changed(WALL=1.0)[0]).norm(dim=1)
    own = chroma_of(real).norm(dim=1)
    assert (walled <= own + 1e-6).all()
    shares = (walled > own / 2).float().mean(dim=(1, 2))  # of what is left of the flower
    assert shares.min() < 0.5 < shares.max()
    foreign = changed(FOREIGN=1.0)[0]
    strangers = [(a - b).abs().max() > 0.1 for a, b in zip(foreign, real, strict=True)]
    assert 1 <= sum(strangers) <= 4  # those whose neighbour has the other colour
    _, noisy = changed(NOISY=1.0)
    assert 1e-4 < (noisy - luma(real)).std() < 0.03


def test_some_pictures_are_out_of_focus(monkeypatch):
    stripes = (torch.arange(64) % 2).float().expand(40, 3, 64, 64)
    for share in ("EMPTY", "WALL", "FOREIGN", "NOISY"):
        monkeypatch.setattr(augmentation, share, 0.0)
    monkeypatch.setattr(augmentation, "BLURRED", 0.5)
    blurred, gray = with_surroundings(stripes, generator_for(6))
    soft = (blurred - stripes).abs().amax(dim=(1, 2, 3)) > 0.1
    assert 10 <= soft.sum() <= 30
    torch.testing.assert_close(gray, luma(blurred))
