"""How good is a colour picture? Metrics of error, similarity and colour for each picture; `validate`; the scoreboard.

Every metric takes colour pictures (B, 3, H, W), RGB in [0, 1], and returns one number for each picture, (B,). `fake`
are the predicted pictures, `real` the originals.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim as msssim_ssim
from torch import Tensor, nn

from colorize_utils.colour import luma

SSIM_WINDOW = 11  # pixels: the Gaussian window of Wang et al. 2004; no smaller picture can be scored
MAX_PSNR = 100.0  # dB, of identical pictures: the formula's infinity would make every mean infinite


def mse(fake: Tensor, real: Tensor) -> Tensor:
    """Mean squared error over pixels and channels, (B,)."""
    return (fake - real).square().mean(dim=(1, 2, 3))


def mae(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute error over pixels and channels, (B,)."""
    return (fake - real).abs().mean(dim=(1, 2, 3))


def psnr(fake: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10·log₁₀(1 / MSE) with peak 1.

    Args:
        fake: (B, 3, H, W), RGB in [0, 1].
        real: The same shape.

    Returns:
        (B,), in dB, at most `MAX_PSNR`.
    """
    return psnr_of(mse(fake, real))


def psnr_of(mean_squared_error: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors that are known already, of any shape; at most `MAX_PSNR`."""
    return -10 * mean_squared_error.clamp(min=10 ** (-MAX_PSNR / 10)).log10()


def ssim(fake: Tensor, real: Tensor) -> Tensor:
    """Structural similarity with an 11×11 Gaussian window and data range 1, the mean over channels.

    Args:
        fake: (B, 3, H, W), RGB in [0, 1].
        real: The same shape.

    Returns:
        (B,); 1 for identical pictures.

    Raises:
        ValueError: A side is under 11 pixels.

    Source:
        Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    if min(fake.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW}×{SSIM_WINDOW}, got {tuple(fake.shape[-2:])}")
    return msssim_ssim(fake, real, data_range=1.0, size_average=False, win_size=SSIM_WINDOW)


def colourfulness(colour: Tensor) -> Tensor:
    """Colourfulness on the scale of 8-bit values: 0 gray, about 15 slightly, 45 averagely, 110 extremely colourful.

    Args:
        colour: (B, 3, H, W), RGB in [0, 1].

    Returns:
        (B,), 0 or more.

    Source:
        Hasler & Süsstrunk 2003, "Measuring Colourfulness in Natural Images", equation 5.
    """
    r, g, b = (255 * colour).flatten(2).unbind(dim=1)  # (B, H·W) each
    red_green, yellow_blue = r - g, 0.5 * (r + g) - b
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    return spread + 0.3 * (red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()).sqrt()


def lab(colour: Tensor) -> Tensor:
    """CIE L*a*b* under D65 (2° observer) of sRGB pictures.

    Args:
        colour: (B, 3, H, W), sRGB (IEC 61966-2-1) in [0, 1].

    Returns:
        (B, 3, H, W): L* in [0, 100], a* and b*.
    """
    linear = torch.where(colour <= 0.04045, colour / 12.92, ((colour.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    to_xyz = colour.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = colour.new_tensor([0.95047, 1.0, 1.08883])
    xyz = torch.einsum("bchw,xc->bxhw", linear, to_xyz) / white[:, None, None]
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def ciede2000(fake: Tensor, real: Tensor) -> Tensor:
    """Mean colour difference ΔE₀₀ over pixels; about 1 is just noticeable.

    Args:
        fake: (B, 3, H, W), RGB in [0, 1].
        real: The same shape.

    Returns:
        (B,), 0 or more; computed in float64, returned in the type of `fake`.

    Source:
        Sharma, Wu & Dalal 2005, "The CIEDE2000 Color-Difference Formula", equations 2 to 22, with k_L = k_C = k_H = 1.
    """
    (l1, a1, b1), (l2, a2, b2) = (lab(colour.double()).unbind(dim=1) for colour in (fake, real))
    mean_chroma = 0.5 * (torch.hypot(a1, b1) + torch.hypot(a2, b2))
    g = 0.5 * (1 - _saturation(mean_chroma))  # equation 4
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * torch.pi), torch.atan2(b2, a2) % (2 * torch.pi)
    gray = c1 * c2 == 0  # hue is undefined there

    turn = h2 - h1  # equation 10: the shorter way round the circle
    turn = torch.where(turn > torch.pi, turn - 2 * torch.pi, turn)
    turn = torch.where(turn < -torch.pi, turn + 2 * torch.pi, turn)
    dl, dc = l2 - l1, c2 - c1
    dh = 2 * (c1 * c2).sqrt() * torch.sin(torch.where(gray, torch.zeros_like(turn), turn) / 2)

    mean_l, mean_c = 0.5 * (l1 + l2), 0.5 * (c1 + c2)
    mean_h = 0.5 * (h1 + h2)  # equation 14
    far = (h1 - h2).abs() > torch.pi
    mean_h = torch.where(far, torch.where(h1 + h2 < 2 * torch.pi, mean_h + torch.pi, mean_h - torch.pi), mean_h)
    mean_h = torch.where(gray, h1 + h2, mean_h)
    degree = torch.pi / 180
    t = (
        1
        - 0.17 * torch.cos(mean_h - 30 * degree)
        + 0.24 * torch.cos(2 * mean_h)
        + 0.32 * torch.cos(3 * mean_h + 6 * degree)
        - 0.20 * torch.cos(4 * mean_h - 63 * degree)
    )
    rotation = 30 * degree * torch.exp(-(((mean_h / degree - 275) / 25) ** 2))
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / (20 + (mean_l - 50) ** 2).sqrt()
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    r_t = -2 * _saturation(mean_c) * torch.sin(2 * rotation)
    dl, dc, dh = dl / s_l, dc / s_c, dh / s_h
    squared = dl**2 + dc**2 + dh**2 + r_t * dc * dh
    return squared.clamp(min=0).sqrt().mean(dim=(1, 2)).to(fake.dtype)


def _saturation(chroma: Tensor) -> Tensor:
    """√(C⁷ / (C⁷ + 25⁷)), which occurs twice in CIEDE2000."""
    return (chroma**7 / (chroma**7 + 25.0**7)).sqrt()


class Validation(NamedTuple):
    """The four numbers of `validate`.

    Attributes:
        loss: The criterion; training keeps the epoch where it is lowest as the best.
        psnr: In dB.
        ssim: At most 1.
        mae: Mean absolute error.
    """

    loss: float
    psnr: float
    ssim: float
    mae: float


@torch.no_grad()
def validate(
    generator: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    loader: Iterable[tuple[Tensor, Tensor]],
    per_picture: bool = False,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Validation:
    """Criterion, PSNR, SSIM and MAE of a generator in evaluation mode.

    As the submission defines it, each number is computed for a batch (PSNR from the batch's mean squared error) and
    then averaged over batches, so that the pictures of a short last batch count for more than the others.

    Args:
        generator: Gray (B, 1, H, W) → colour (B, 3, H, W); left in the mode, training or evaluation, that it was in.
        criterion: (fake, real) → scalar, such as `F.mse_loss`.
        loader: Batches (real (B, 3, H, W), gray (B, 1, H, W)) in [0, 1].
        per_picture: Weights each batch by the number of its pictures, and averages the pictures' own PSNRs.
        autocast: Makes the context that the generator runs in; the numbers are computed in float32 whatever it says.

    Returns:
        The four means.

    Raises:
        ValueError: The loader is empty.

    Source:
        The submission, "Validation & Testing".
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    rows, weights = [], []
    try:
        for real, gray in loader:
            real, gray = real.to(device), gray.to(device)
            with autocast():
                fake = generator(gray).float()
            errors = mse(fake, real)
            batch_psnr = psnr_of(errors).mean() if per_picture else psnr_of(errors.mean())
            numbers = [criterion(fake, real), batch_psnr, ssim(fake, real).mean(), F.l1_loss(fake, real)]
            rows.append(torch.stack(numbers))  # fetched at the end: reading them now would wait for the device
            weights.append(len(real) if per_picture else 1)
    finally:
        generator.train(was_training)
    if not rows:
        raise ValueError("the validation loader is empty: there is nothing to average")
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return Validation(*(shares @ torch.stack(rows).cpu().double()).tolist())


@dataclass(frozen=True)
class Score:
    """One line of the scoreboard: means over pictures.

    Attributes:
        name: Of the predictor.
        pictures: How many pictures were scored.
        psnr: In dB.
        ssim: At most 1.
        mae: Mean absolute error.
        mse: Mean squared error.
        ciede2000: Colour difference ΔE₀₀.
        colourfulness_ratio: The predictions' mean colourfulness divided by the originals'; nan where all are gray.
        milliseconds: The time of a prediction, a batch's divided by its pictures.
    """

    name: str
    pictures: int
    psnr: float
    ssim: float
    mae: float
    mse: float
    ciede2000: float
    colourfulness_ratio: float
    milliseconds: float


Predictor = Callable[[Tensor], Tensor]  # gray (B, 1, H, W) → colour (B, 3, H, W), both in [0, 1]


def gray_baseline(gray: Tensor) -> Tensor:
    """The trivial prediction: the gray picture (B, 1, H, W) itself, as (B, 3, H, W)."""
    return gray.expand(-1, 3, -1, -1)


def mean_chroma_baseline(loader: Iterable[tuple[Tensor, Tensor]]) -> Predictor:
    """A baseline that knows one colour: gray plus the mean chroma of the training pictures, the same at every pixel.

    Args:
        loader: Batches (colour (B, 3, H, W), gray (B, 1, H, W)) in [0, 1] of the training pictures; read once.

    Returns:
        A predictor gray (B, 1, H, W) → colour (B, 3, H, W), clamped to [0, 1].
    """
    total, pixels = torch.zeros(3, dtype=torch.float64), 0
    for colour, _ in loader:
        total += (colour - luma(colour)).sum(dim=(0, 2, 3)).double()
        pixels += colour[:, 0].numel()
    chroma = (total / pixels).float()[:, None, None]
    return lambda gray: (gray + chroma.to(gray.device)).clamp(0, 1)


@torch.no_grad()
def scoreboard(
    predictors: Mapping[str, Predictor], batches: Iterable[tuple[Tensor, Tensor]], progress: bool = False
) -> list[Score]:
    """Scores every predictor on the same pictures and averages over pictures.

    Args:
        predictors: Gray (B, 1, H, W) → colour (B, 3, H, W), by name; what they return is clamped to [0, 1].
        batches: (colour (B, 3, H, W), gray (B, 1, H, W)) in [0, 1], as a loader gives them; read once.
        progress: Shows a progress bar.

    Returns:
        One `Score` for each predictor, in the order given.

    Raises:
        ValueError: There are no pictures, or a side of one is under 11 pixels (`ssim`).
    """
    from tqdm.auto import tqdm

    sums = {name: torch.zeros(6, dtype=torch.float64) for name in predictors}
    seconds = dict.fromkeys(predictors, 0.0)
    pictures, original_colourfulness = 0, 0.0
    for real, gray in tqdm(batches, desc="scoring", unit="batch", disable=not progress):
        pictures += len(real)
        original_colourfulness += colourfulness(real).sum().item()
        for name, predict in predictors.items():
            start = time.perf_counter()
            fake = predict(gray).to(real.device)
            seconds[name] += time.perf_counter() - start
            fake = fake.clamp(0, 1)
            errors = mse(fake, real)
            numbers = [psnr_of(errors), ssim(fake, real), mae(fake, real), errors, ciede2000(fake, real)]
            sums[name] += torch.stack([*numbers, colourfulness(fake)]).double().sum(dim=1)
    if not pictures:
        raise ValueError("there are no pictures to score")
    scores = []
    for name, total in sums.items():
        *means, colour = (total / pictures).tolist()
        ratio = colour * pictures / original_colourfulness if original_colourfulness else float("nan")
        named = dict(zip(("psnr", "ssim", "mae", "mse", "ciede2000"), means, strict=True))
        milliseconds = 1000 * seconds[name] / pictures
        scores.append(Score(name, pictures, **named, colourfulness_ratio=ratio, milliseconds=milliseconds))
    return scores


def format_scores(scores: list[Score]) -> str:
    """The scoreboard as a Markdown table, one row for each score."""
    lines = [
        "| prediction | PSNR dB | SSIM | MAE | MSE | CIEDE2000 | colourfulness ratio | ms a picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        lines.append(
            f"| {s.name} | {s.psnr:.2f} | {s.ssim:.3f} | {s.mae:.4f} | {s.mse:.4f} | {s.ciede2000:.2f} "
            f"| {s.colourfulness_ratio:.2f} | {s.milliseconds:.1f} |"
        )
    return "\n".join(lines)
