import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
import torch
from skimage import color
from skimage import metrics as reference
from torch import nn

from colorize_utils import metrics
from colorize_utils.data import PairDataset, make_loader
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.metrics import gray_baseline, mean_chroma_baseline, scoreboard, validate


@pytest.fixture(scope="module")
def pictures():
    """(fake, real), (4, 3, 40, 40): generated flowers and a noisy version."""
    real = torch.from_numpy(synthetic_flowers(4, 40, seed=5)).permute(0, 3, 1, 2) / 255
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    strength = torch.tensor([0.01, 0.05, 0.1, 0.3])[:, None, None, None]
    return (real + strength * noise).clamp(0, 1), real


def as_array(picture):
    return picture.permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.mse, lambda f, r: reference.mean_squared_error(r, f)),
        (metrics.mae, lambda f, r: np.abs(r - f).mean()),
        (metrics.psnr, lambda f, r: reference.peak_signal_noise_ratio(r, f, data_range=1)),
        (
            metrics.ssim,
            lambda f, r: reference.structural_similarity(
                r, f, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            ),
        ),
        (metrics.ciede2000, lambda f, r: color.deltaE_ciede2000(color.rgb2lab(r), color.rgb2lab(f)).mean()),
    ],
)
def test_metrics_agree_with_scikit_image(pictures, ours, theirs):
    fake, real = pictures
    expected = [theirs(as_array(f), as_array(r)) for f, r in zip(fake, real, strict=True)]
    assert ours(fake, real).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ciede2000_agrees_on_colours_from_all_of_the_cube():
    levels = torch.linspace(0, 1, 7)
    grid = torch.cartesian_prod(levels, levels, levels)  # (343, 3)
    first = grid.repeat(len(grid), 1).T.reshape(1, 3, 343, 343)
    second = grid.repeat_interleave(len(grid), 0).T.reshape(1, 3, 343, 343)
    expected = color.deltaE_ciede2000(color.rgb2lab(as_array(first[0])), color.rgb2lab(as_array(second[0]))).mean()
    assert metrics.ciede2000(first, second).item() == pytest.approx(expected, rel=1e-4)
    assert metrics.ciede2000(first, first).item() == 0


def test_colourfulness_is_hasler_and_suesstrunks(pictures):
    for picture in pictures[1]:
        r, g, b = 255 * as_array(picture).transpose(2, 0, 1)
        red_green, yellow_blue = r - g, (r + g) / 2 - b
        expected = math.hypot(red_green.std(), yellow_blue.std()) + 0.3 * math.hypot(
            red_green.mean(), yellow_blue.mean()
        )
        assert metrics.colourfulness(picture[None]).item() == pytest.approx(expected, rel=1e-4)
    assert metrics.colourfulness(torch.full((1, 3, 8, 8), 0.4)).item() == 0


def test_identical_pictures_score_a_hundred_decibels(pictures):
    assert metrics.psnr(pictures[1], pictures[1]).tolist() == [100.0] * 4


def test_ssim_says_how_small_is_too_small():
    with pytest.raises(ValueError, match="at least 11×11, got \\(10, 40\\)"):
        metrics.ssim(torch.rand(1, 3, 10, 40), torch.rand(1, 3, 10, 40))


class Half(nn.Module):
    """A 'generator' that returns half of the gray level, and remembers the mode it ran in."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, gray):
        self.ran_in_training_mode = self.training
        return (self.scale * gray).expand(-1, 3, -1, -1)


def test_validate_averages_over_batches_as_the_submission_does():
    loader = make_loader(PairDataset(synthetic_flowers(5, 32)), batch_size=4)  # batches of 4 and 1
    generator = Half().train()
    loss, psnr, ssim, mae = validate(generator, nn.functional.mse_loss, loader)
    assert not generator.ran_in_training_mode
    assert generator.training
    expected = np.zeros(4)
    for real, gray in loader:
        real, fake = real.double().numpy(), (0.5 * gray).expand(-1, 3, -1, -1).double().numpy()
        squared = ((real - fake) ** 2).mean()
        similar = [
            reference.structural_similarity(
                r, f, data_range=1, channel_axis=0, gaussian_weights=True, use_sample_covariance=False
            )
            for r, f in zip(real, fake, strict=True)
        ]
        expected += [squared, -10 * np.log10(squared), np.mean(similar), np.abs(real - fake).mean()]
    assert [loss, psnr, ssim, mae] == pytest.approx(expected / 2, rel=1e-4)


def test_validate_per_picture_does_not_depend_on_the_batch_size():
    dataset = PairDataset(synthetic_flowers(5, 32))
    results = [
        validate(Half(), nn.functional.mse_loss, make_loader(dataset, size), per_picture=True) for size in (1, 4, 5)
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0] == pytest.approx(results[2], rel=1e-5)
    # ... where the submission's way does.
    by_batch = [validate(Half(), nn.functional.mse_loss, make_loader(dataset, size)).loss for size in (4, 5)]
    assert by_batch[0] != pytest.approx(by_batch[1], rel=1e-5)


def test_validate_takes_its_numbers_outside_autocast():
    class Inside(Half):
        def forward(self, gray):
            assert torch.is_autocast_enabled("cpu")
            return super().forward(gray)

    def criterion(fake, real):
        assert not torch.is_autocast_enabled("cpu")
        assert fake.dtype == torch.float32
        return nn.functional.mse_loss(fake, real)

    loader = make_loader(PairDataset(synthetic_flowers(3, 32)), 2)
    result = validate(Inside(), criterion, loader, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert result == pytest.approx(validate(Half(), nn.functional.mse_loss, loader), rel=1e-2)


def test_validate_of_nothing_is_an_error():
    loader = make_loader(PairDataset(synthetic_flowers(2, 32)).head(0), 1)
    with pytest.raises(ValueError, match="validation loader is empty"):
        validate(Half(), nn.functional.mse_loss, loader)


def test_scoreboard_puts_everyone_through_the_same_pictures():
    dataset = PairDataset(synthetic_flowers(7, 32, seed=2))
    real, gray = dataset[list(range(7))]
    truth = {key.numpy().tobytes(): colour for key, colour in zip(gray, real, strict=True)}
    predictors = {
        "perfect": lambda batch: torch.stack([truth[picture.numpy().tobytes()] for picture in batch]),
        "gray": gray_baseline,
        "mean": mean_chroma_baseline(make_loader(dataset, 3)),
    }
    scores = {score.name: score for score in scoreboard(predictors, make_loader(dataset, 3))}
    assert list(scores) == ["perfect", "gray", "mean"]
    perfect, baseline = scores["perfect"], scores["gray"]
    assert (perfect.pictures, perfect.psnr, perfect.mae, perfect.ciede2000) == (7, 100, 0, 0)
    assert perfect.colourfulness_ratio == pytest.approx(1, rel=1e-6)
    assert baseline.colourfulness_ratio == 0
    assert baseline.psnr == pytest.approx(metrics.psnr(gray.expand(-1, 3, -1, -1), real).mean().item(), rel=1e-5)
    assert baseline.mse > scores["mean"].mse > 0
    table = metrics.format_scores(list(scores.values()))
    assert table.count("\n") == 4
    assert "| perfect | 100.00 | 1.000 |" in table


def test_scoreboard_clamps_what_leaves_the_unit_range():
    dataset = PairDataset(np.full((2, 16, 16, 3), 255, np.uint8))
    (score,) = scoreboard({"glaring": lambda gray: 5 * gray.expand(-1, 3, -1, -1)}, make_loader(dataset, 2))
    assert score.mse == 0


def test_scoreboard_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no pictures to score"):
        scoreboard({"gray": gray_baseline}, [])


def numbers(score):
    """Without the time."""
    return {field: value for field, value in asdict(score).items() if field not in ("name", "milliseconds")}


def test_scoreboard_agrees_with_the_metrics_one_by_one():
    """Also on black, white and gray pictures and where a prediction is a view that repeats one channel."""
    flat = torch.tensor([0.0, 1.0, 0.5, 0.04])[:, None, None, None].expand(-1, 3, 48, 40)
    flowers = torch.from_numpy(synthetic_flowers(6, 48, seed=3)).permute(0, 3, 1, 2)[..., :40] / 255
    real = torch.cat([flat, flowers])
    predictors = {
        "gray": gray_baseline,
        "noisy": lambda gray: (
            gray + 0.3 * torch.randn(len(gray), 3, 48, 40, generator=torch.Generator().manual_seed(0))
        ),
        "turning": lambda gray: torch.cat([gray, gray.flip(3), gray.flip(2)], dim=1),
    }
    batches = [(some, some.mean(dim=1, keepdim=True)) for some in real.split(4)]
    for score in scoreboard(predictors, batches):
        fake = torch.cat([predictors[score.name](gray).clamp(0, 1) for _, gray in batches])
        for name in ("psnr", "ssim", "mae", "mse", "ciede2000"):
            expected = getattr(metrics, name)(fake.double(), real.double()).mean().item()
            assert getattr(score, name) == pytest.approx(expected, rel=1e-5, abs=2e-6), name
        ratio = metrics.colourfulness(fake).mean() / metrics.colourfulness(real).mean()
        assert score.colourfulness_ratio == pytest.approx(ratio.item(), rel=1e-5)


def test_scoreboard_agrees_with_scikit_image_on_colours_from_all_of_the_cube():
    levels = torch.linspace(0, 1, 6)
    grid = torch.cartesian_prod(levels, levels, levels)  # (216, 3); gray ones, and hues that lie opposite, among them
    fake = grid.repeat(len(grid), 1).T.reshape(1, 3, 216, 216)
    real = grid.repeat_interleave(len(grid), 0).T.reshape(1, 3, 216, 216)
    (score,) = scoreboard({"cube": lambda gray: fake}, [(real, real[:, :1])])
    expected = color.deltaE_ciede2000(color.rgb2lab(as_array(fake[0])), color.rgb2lab(as_array(real[0]))).mean()
    assert score.ciede2000 == pytest.approx(expected, rel=1e-5)


def test_scoreboard_is_the_same_with_any_number_of_threads_and_leaves_it_alone():
    real, gray = PairDataset(synthetic_flowers(5, 256, seed=4))[list(range(5))]
    before = torch.get_num_threads()
    try:
        scores = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            scores += scoreboard({"gray": gray_baseline}, [(real, gray)])
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert numbers(scores[0]) == numbers(scores[1])


def test_scoreboard_shows_how_long_it_still_takes(capsys):
    loader = make_loader(PairDataset(synthetic_flowers(4, 32)), 2)
    predictors = {"gray": gray_baseline, "half": lambda gray: gray_baseline(0.5 * gray)}
    scoreboard(predictors, loader, progress=True)
    assert re.search(r"4/4 .*\d\d:\d\d<\d\d:\d\d", capsys.readouterr().err)  # a step for each predictor and batch


def test_scoreboard_says_how_small_is_too_small():
    with pytest.raises(ValueError, match="at least 11×11, got \\(10, 40\\)"):
        scoreboard({"gray": gray_baseline}, [(torch.rand(2, 3, 10, 40), torch.rand(2, 1, 10, 40))])
