import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.colour import luma
from colorize_utils.data import degradation, generator_for
from colorize_utils.data.degradation import borders, degraded, with_old_prints
from colorize_utils.data.synthetic import synthetic_flowers

SHARES = ("BORDERED", "SOFT", "GRAINY", "PALE", "DUSTY", "JPEG")


@pytest.fixture
def only(monkeypatch):
    """A function of names: of all that happens to a print, these happen to every print, and nothing else."""

    def choose(*names):
        for share in SHARES:
            monkeypatch.setattr(degradation, share, float(share in names))

    return choose


def flowers(count=24, size=64):
    return torch.from_numpy(synthetic_flowers(count, size)).permute(0, 3, 1, 2) / 255


def spread(pictures):
    return pictures.flatten(1).std(dim=1)


def roughness(pictures):
    return (pictures[..., 1:] - pictures[..., :-1]).abs().mean(dim=(1, 2, 3))


def test_the_generator_decides_and_every_print_differs():
    gray = luma(flowers(1)).expand(24, -1, -1, -1)
    prints = degraded(gray, generator_for(0))
    assert prints.shape == gray.shape
    assert (prints.min() >= 0) and (prints.max() <= 1)
    assert torch.equal(prints, degraded(gray, generator_for(0)))
    assert not torch.equal(prints, degraded(gray, generator_for(1)))
    errors = (prints - gray).square().mean(dim=(1, 2, 3))
    assert len(errors.unique()) > 20
    assert errors.max() > 10 * errors.min()  # from hardly to badly


def test_nothing_happens_where_nothing_is_drawn(only):
    only()
    gray = luma(flowers())
    torch.testing.assert_close(degraded(gray, generator_for(0)), gray)


def test_blur_softens_and_keeps_the_mean(only):
    only("SOFT")
    gray = torch.rand(24, 1, 192, 192, generator=generator_for(0))
    soft = degraded(gray, generator_for(1))
    assert (roughness(soft) < roughness(gray)).all()
    assert roughness(soft).min() < 0.4 * roughness(soft).max()  # of different strengths
    torch.testing.assert_close(soft.mean(dim=(1, 2, 3)), gray.mean(dim=(1, 2, 3)), atol=0.005, rtol=0)


def test_a_blurred_dot_is_a_gaussian():
    dot = torch.zeros(2, 1, 41, 41)
    dot[:, :, 20, 20] = 1
    blurred = degradation._blurred(dot, torch.tensor([0.0, 2.0])[:, None, None, None])
    torch.testing.assert_close(blurred[0], dot[0])
    offsets = torch.arange(-20, 21).float()
    assert blurred[1].sum().item() == pytest.approx(1)
    for dim in (0, 1):
        variance = (blurred[1, 0].sum(dim=dim) * offsets.square()).sum().item()
        assert variance == pytest.approx(4, rel=0.1)  # cut off at 2.5 standard deviations


def test_grain_is_strongest_in_the_midtones(only):
    only("GRAINY")
    levels = torch.tensor([0.02, 0.5])[None, None, :, None].repeat_interleave(32, dim=2).expand(24, 1, 64, 64)
    noise = degraded(levels, generator_for(2)) - levels
    dark, middle = spread(noise[:, :, :30]), spread(noise[:, :, 34:])
    assert (dark < middle).all()
    assert 0.003 < middle.min() < 0.02 < middle.max() < 0.06


def test_contrast_falls_and_blacks_fade(only):
    only("PALE")
    ramp = torch.linspace(0, 1, 64).expand(24, 1, 64, 64)
    pale = degraded(ramp, generator_for(3))
    assert (pale[..., 1:] >= pale[..., :-1]).all()  # what was brighter stays brighter
    blacks, whites = pale[:, 0, 0, 0], pale[:, 0, 0, -1]
    assert 0 <= blacks.min() < 0.1 < 0.2 < blacks.max() <= 0.3
    assert 0.75 <= whites.min() < whites.max() <= 1


def test_a_border_is_paper_all_round_and_the_picture_within_it_is_untouched(only):
    only("BORDERED")
    gray = 0.5 * luma(flowers())
    inside = borders(len(gray), 64, 64, generator_for(4))
    bordered = degraded(gray, generator_for(5), inside)
    torch.testing.assert_close(bordered[inside], gray[inside])
    for print_, scene in zip(bordered, inside, strict=True):
        (level,) = print_[~scene].unique().tolist()
        assert level >= 0.85
        assert not (scene[0, 0].any() or scene[0, -1].any() or scene[0, :, 0].any() or scene[0, :, -1].any())
        rows, columns = scene[0].any(dim=1), scene[0].any(dim=0)
        assert torch.equal(scene[0], rows[:, None] & columns)
        assert scene.float().mean() > 0.6
    only()
    assert borders(24, 64, 64, generator_for(4)).all()


def test_dust_is_small_and_white_or_black(only):
    only("DUSTY")
    gray = torch.full((24, 1, 192, 192), 0.5)
    dusty = degraded(gray, generator_for(6)) - gray
    shares = (dusty != 0).float().mean(dim=(1, 2, 3))
    assert 0 < shares.max() < 0.03
    for print_ in dusty:
        assert len(print_[print_ != 0].sign().unique()) <= 1
    assert (dusty > 0).any() and (dusty < 0).any()


def test_jpeg_leaves_its_blocks(only):
    only("JPEG")
    gray = torch.rand(8, 1, 64, 64, generator=generator_for(7))
    kept = degraded(gray, generator_for(8))
    assert (kept != gray).flatten(1).any(dim=1).all()
    blocks = (kept - gray).unflatten(3, (8, 8)).unflatten(2, (8, 8)).mean(dim=(3, 5))  # a block's mean is kept best
    assert blocks.abs().max() < 0.1 * (kept - gray).abs().max()


def test_a_picture_of_any_kind_and_size_becomes_a_print():
    colour = Image.fromarray(synthetic_flowers(1, 48)[0]).resize((61, 40))
    old = degraded(colour, generator_for(0))
    assert (old.mode, old.size) == ("L", (61, 40))
    assert np.array_equal(old, degraded(colour.convert("L"), generator_for(0)))
    assert not np.array_equal(old, colour.convert("L"))
    for shape in ((1, 1), (3, 200), (2, 2)):
        assert degraded(torch.rand(1, 1, *shape), generator_for(1)).shape == (1, 1, *shape)


def test_a_share_of_training_pairs_becomes_old_and_colours_stay_but_under_the_border(monkeypatch):
    colour = 0.9 * flowers(200, 32)
    gray = luma(colour)
    kept = colour.clone(), gray.clone()
    colours, prints = with_old_prints(colour, gray, generator_for(9))
    assert torch.equal(colour, kept[0]) and torch.equal(gray, kept[1])  # what was given is not overwritten
    old = (prints != gray).flatten(1).any(dim=1)
    assert old.float().mean().item() == pytest.approx(degradation.OLD, abs=0.07)
    white = (colours == 1).all(dim=1)
    changed = (colours != colour).any(dim=1)
    assert torch.equal(changed, white)
    assert changed.any() and not changed[~old].any()
    assert prints[:, 0][white].mean() > 0.8
    monkeypatch.setattr(degradation, "OLD", 0.0)
    assert all(torch.equal(a, b) for a, b in zip(with_old_prints(colour, gray, generator_for(9)), kept, strict=True))
