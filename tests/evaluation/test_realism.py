import pytest
import torch
from scipy.stats import binomtest

from colorize_utils.colour import luma
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.evaluation import realism
from colorize_utils.evaluation.realism import LEAST, SIZE, Gallery, two_sample_test, wilson_interval
from colorize_utils.metrics import gray_baseline, scoreboard


@pytest.fixture(scope="module")
def flowers():
    """240 drawn flowers, (240, 3, 64, 64) uint8."""
    return torch.from_numpy(synthetic_flowers(240, SIZE)).permute(0, 3, 1, 2)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(realism, "EPOCHS", 8)


def gray_of(pictures):
    return (255 * luma(pictures / 255)).round().byte().expand(-1, 3, -1, -1)


def test_pictures_cannot_be_told_from_themselves(flowers, short):
    """To the judgement: whatever is said of a picture, it is said of both, and one of them is wrong."""
    result = two_sample_test(flowers[:60], flowers[:60])
    assert result.accuracy == 0.5
    assert result.low < 0.5 < result.high
    assert result.judgements == 60


@pytest.mark.slow
def test_two_samples_of_one_kind_cannot_be_told_apart(flowers, short):
    result = two_sample_test(flowers[:120], flowers[120:])
    assert result.low < 0.5 < result.high
    assert 0.4 < result.accuracy < 0.6


@pytest.mark.slow
def test_gray_is_told_from_colour(flowers, short):
    result = two_sample_test(flowers, gray_of(flowers))
    assert result.accuracy > 0.95
    assert 0.9 < result.low < result.accuracy <= result.high <= 1


def test_the_seed_decides_and_what_others_draw_stays_what_it_was(flowers, monkeypatch):
    monkeypatch.setattr(realism, "EPOCHS", 2)
    painted = flowers.float().mul(0.9).byte()
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    one = two_sample_test(flowers, painted, seed=3)
    assert torch.equal(torch.rand(4), expected)
    assert two_sample_test(flowers, painted, seed=3) == one
    assert any(two_sample_test(flowers, painted, seed=seed) != one for seed in (4, 5))


def test_a_picture_and_its_painting_are_in_the_same_half(flowers, monkeypatch):
    """A classifier that only remembers what it has seen must not be right about anything else."""
    seen = []

    def trained(pairs):
        seen.append(pairs)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 1)).eval()

    judged = []
    monkeypatch.setattr(realism, "_trained", trained)
    logits = realism._logits
    monkeypatch.setattr(realism, "_logits", lambda network, pairs: judged.append(pairs) or logits(network, pairs))
    numbered = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 3, SIZE, SIZE)
    two_sample_test(numbered, numbered + 100)
    halves = [torch.cat(part)[:, :, 0, 0, 0] for part in (seen, judged)]
    for half in halves:
        assert len(half) == 25
        assert torch.equal(half[:, 1], half[:, 0] + 100)
    assert sorted(torch.cat(halves)[:, 0].tolist()) == list(range(50))


@pytest.mark.parametrize(("right", "judgements"), [(0, 10), (5, 10), (540, 600), (600, 600)])
def test_the_interval_is_wilsons(right, judgements):
    expected = binomtest(right, judgements).proportion_ci(method="wilson")
    assert wilson_interval(right, judgements) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_gallery_collects_what_is_scored(flowers, short):
    real = torch.nn.functional.interpolate(flowers[:LEAST] / 255, size=(96, 80), mode="bilinear").clamp(0, 1)
    gallery = Gallery()
    batches = [(part, luma(part)) for part in real.split(16)]
    painters = {"gray": gray_baseline, "odd": lambda gray: 1.5 * gray_baseline(gray)}
    scores = scoreboard(painters, batches, watch=gallery.add)
    assert scores[0].psnr == scoreboard({"gray": gray_baseline}, batches)[0].psnr
    assert [len(part) for part in gallery.real] == [16, 16, 8]
    shrunk = torch.cat(gallery.painted["gray"])
    assert shrunk.shape == (LEAST, 3, SIZE, SIZE)
    assert torch.equal(shrunk[:, 0], shrunk[:, 2])
    assert torch.cat(gallery.painted["odd"]).max() == 255
    result = gallery.realism("gray")
    assert result == two_sample_test(torch.cat(gallery.real), shrunk)
    assert str(result).endswith(")") and f"{100 * result.accuracy:.0f} %" in str(result)


def test_too_few_pictures_prove_nothing(flowers):
    gallery = Gallery()
    gallery.add("gray", flowers[: LEAST - 1] / 255, gray_of(flowers[: LEAST - 1]) / 255)
    assert gallery.realism("gray") is None
    with pytest.raises(ValueError, match=f"{LEAST} photographs or more and a painting of each, got 39 and 39"):
        two_sample_test(flowers[: LEAST - 1], flowers[: LEAST - 1])
    with pytest.raises(ValueError, match="a painting of each, got 60 and 50"):
        two_sample_test(flowers[:60], flowers[:50])
