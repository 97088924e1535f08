import numpy as np
import pytest
import torch

from colorize_utils import palette
from colorize_utils.colour import chroma_of, luma, with_chroma
from colorize_utils.losses import distribution_loss


def cube(count=2000, seed=0):
    """Colours all over the RGB cube, its corners among them, as a batch of one picture (1, 3, 1, N)."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])])
    return torch.cat([corners, torch.rand(count, 3, generator=random)]).T[None, :, None]


def test_the_four_colours_around_a_chroma_give_it_back_exactly():
    chroma = chroma_of(cube())[0, :, 0].T  # (N, 2)
    indices, shares = palette.encode(chroma)
    assert indices.min() >= 0
    assert indices.max() < palette.COLOURS  # no colour of the cube lies outside the palette
    assert shares.min() >= 0
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(chroma)))
    colours = palette.chromas()[indices]  # (N, 4, 2)
    torch.testing.assert_close((shares[..., None] * colours).sum(dim=1), chroma, atol=1e-6, rtol=0)
    assert (colours - chroma[:, None]).abs().max() <= palette.STEP + 1e-6


def believes(*shares):
    """Probabilities (1, COLOURS, 1, N): at each of N places the shares {index of a colour: its probability}."""
    probabilities = torch.zeros(1, palette.COLOURS, 1, len(shares))
    for place, share in enumerate(shares):
        for index, probability in share.items():
            probabilities[0, index, 0, place] = probability
    return probabilities


def test_the_mean_is_the_mean():
    colours = palette.chromas()
    chroma = palette.mean(believes({5: 0.75, 40: 0.25}, {7: 1.0}))[0, :, 0].T
    torch.testing.assert_close(chroma, torch.stack([0.75 * colours[5] + 0.25 * colours[40], colours[7]]))


def test_safe_leans_to_what_is_probable():
    """With T the temperature, odds of 3 : 1 become odds of 3^(1/T) : 1; what is sure only gets stronger."""
    colours = palette.chromas()
    odds = 3 ** (1 / palette.TEMPERATURE)
    expected = palette.GAIN * (odds * colours[5] + colours[40]) / (odds + 1)
    chroma = palette.safe(believes({5: 0.75, 40: 0.25}, {7: 1.0}))[0, :, 0].T
    torch.testing.assert_close(chroma, torch.stack([expected, palette.GAIN * colours[7]]))
    assert palette.TEMPERATURE < 1 < odds / 3


def test_vivid_is_as_strong_as_what_is_believed():
    """Sure of a picture, it is the mean; torn between opposite hues, the mean is made up for, but not without end."""
    colours = palette.chromas()
    index = {tuple(colour): place for place, colour in enumerate(colours.tolist())}
    red, blue, anti_red = index[0.5, 0.0], index[0.0, 0.5], index[-0.5, 0.0]
    sure = believes({red: 1.0}, {blue: 1.0})
    torch.testing.assert_close(palette.vivid(sure), palette.EMPHASIS * palette.mean(sure))
    torn = believes({red: 0.5, blue: 0.5}, {red: 1.0})  # means of length 0.354 and 0.5, strengths of 0.5 both
    gain = palette.EMPHASIS * 1.0 / (0.5**0.5 / 2 + 0.5)
    torch.testing.assert_close(palette.vivid(torn), gain * palette.mean(torn))
    lost = believes({red: 0.52, anti_red: 0.48})
    torch.testing.assert_close(palette.vivid(lost), palette.MOST_GAIN / palette.GAIN * palette.safe(lost))
    both = torch.cat([sure, torn])  # each picture for itself
    torch.testing.assert_close(palette.vivid(both)[:1], palette.vivid(sure))
    gray = believes({index[0.0, 0.0]: 1.0})
    assert palette.vivid(gray).abs().max() == 0


def test_vivid_does_not_mistake_the_palettes_coding_for_doubt():
    """Sure of a chroma that lies between the palette's colours, a network still has to name four of them."""
    chroma = 0.3 * chroma_of(cube())  # (1, 2, 1, N), pale
    indices, shares = palette.encode(chroma[0, :, 0].T)
    probabilities = torch.zeros(1, palette.COLOURS, 1, len(indices))
    probabilities[0, :, 0] = torch.zeros(len(indices), palette.COLOURS).scatter(1, indices, shares).T
    torch.testing.assert_close(palette.mean(probabilities), chroma, atol=1e-5, rtol=0)
    annealed = palette.safe(probabilities) / palette.GAIN
    assert (annealed - chroma).abs().max() < palette.STEP / 5  # the nearest of the four gains a little
    torch.testing.assert_close(palette.vivid(probabilities), palette.EMPHASIS * annealed, atol=0.01, rtol=0.05)


def test_the_loss_is_the_cross_entropy_of_the_shared_out_colours():
    random = torch.Generator().manual_seed(1)
    real = torch.rand(2, 3, 8, 8, generator=random)
    logits = torch.randn(2, palette.COLOURS, 4, 4, generator=random)
    total = 0.0
    colours = palette.chromas().numpy()
    beliefs = logits.log_softmax(dim=1)
    for picture in range(2):
        for y in range(4):
            for x in range(4):
                pixel = real[picture, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(dim=(1, 2)).numpy()
                gray = pixel @ np.array([19595, 38470, 7471]) / 65536
                chroma = pixel[[0, 2]] - gray
                shares = np.clip(1 - np.abs(colours - chroma) / palette.STEP, 0, None).prod(axis=1)
                assert (shares > 0).sum() <= 4
                total -= (shares * beliefs[picture, :, y, x].numpy()).sum()
    assert distribution_loss(logits, real).item() == pytest.approx(total / 32, rel=1e-5)


def test_the_loss_is_least_where_the_belief_is_right():
    chroma = torch.tensor([[0.25, -0.125]])  # a colour of the palette
    real = with_chroma(torch.full((1, 1, 2, 2), 0.5), chroma[..., None, None].expand(1, 2, 2, 2))
    right = torch.zeros(1, palette.COLOURS, 1, 1)
    index = (palette.chromas() == chroma).all(dim=1).nonzero().item()
    right[0, index] = 20.0
    assert distribution_loss(right, real) < 1e-3
    assert distribution_loss(right.roll(1, dims=1), real) > 19


def test_chroma_on_gray_has_the_grays_luma():
    colour = cube()
    gray = torch.full((1, 1, 1, colour.shape[-1]), 0.4)
    painted = with_chroma(gray, chroma_of(colour))
    torch.testing.assert_close(luma(painted), gray)
    torch.testing.assert_close(chroma_of(painted), chroma_of(colour))
    torch.testing.assert_close(painted - gray, colour - luma(colour), atol=1e-6, rtol=0)
