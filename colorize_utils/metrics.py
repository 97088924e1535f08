"""How good is a colour picture? Metrics of error, similarity and colour for each picture; `validate`; the scoreboard.

Every metric takes colour pictures (B, 3, H, W), RGB in [0, 1], and returns one number for each picture, (B,). `fake`
are the predicted pictures, `real` the originals.
"""

import cmath
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim as msssim_ssim
from torch import Tensor, nn

from colorize_utils.colour import luma
from colorize_utils.naming import TO_XYZ

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
        raise ValueError(_too_small(fake))
    return msssim_ssim(fake, real, data_range=1.0, size_average=False, win_size=SSIM_WINDOW)


def _too_small(pictures: Tensor) -> str:
    return f"SSIM needs pictures of at least {SSIM_WINDOW}×{SSIM_WINDOW}, got {tuple(pictures.shape[-2:])}"


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
    # Near black both curves are straight lines. `where` would be the slowest operation of all: instead, each branch
    # stays at the boundary while the other one moves.
    power = colour.clamp(min=0.04045).add_(0.055).div_(1.055).log2_().mul_(2.4).exp2_()  # twice as fast as `**`
    linear = power.add_(colour.clamp(max=0.04045).sub_(0.04045), alpha=1 / 12.92)
    xyz = (_TO_XYZ.to(colour) @ linear.flatten(2)).unflatten(2, colour.shape[2:])
    boundary, slope = (6 / 29) ** 3, (29 / 6) ** 2 / 3
    root = xyz.clamp(min=boundary).log2_().div_(3).exp2_()
    f = root.add_(xyz.clamp_(max=boundary).sub_(boundary), alpha=slope)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


_TO_XYZ = torch.from_numpy(TO_XYZ)


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
    return ciede2000_of_pixels(fake, real).mean(dim=(1, 2))


def ciede2000_of_pixels(fake: Tensor, real: Tensor) -> Tensor:
    """The colour difference ΔE₀₀ of each pixel: (B, 3, H, W) each, as in `ciede2000` → (B, H, W)."""
    return _ciede2000(lab(fake.double()), lab(real.double())).to(fake.dtype)


def _ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """ΔE₀₀ of each pixel, (B, H, W), of L*a*b* pictures (B, 3, H, W), computed in their type.

    Hues stay vectors (a, b), their mean and difference sums and products of these: nothing wraps round the circle, no
    branch is taken, and of the angle's functions two are left. In float32 a mean is right to five digits. Most steps
    overwrite what is no longer needed, because new tensors would push each other out of the processor's cache.
    """
    (l1, a1, b1), (l2, a2, b2) = first.unbind(dim=1), second.unbind(dim=1)
    g = 0.5 - 0.5 * _saturation(0.5 * (_length(a1, b1) + _length(a2, b2)))  # equation 4
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = _length(a1, b1), _length(a2, b2)
    mean_l, mean_c, product = 0.5 * (l1 + l2), 0.5 * (c1 + c2), c1 * c2

    # The mean hue (equation 14) is where the hues' unit vectors add up to. Where one colour is gray there is no hue,
    # and none is needed: ΔH, the one thing that hue weighs, is 0.
    x, y = (a1 * c2).addcmul_(a2, c1), (b1 * c2).addcmul_(b2, c1)
    degrees = torch.atan2(-y, -x).mul_(180 / math.pi).add_(180)  # in [0, 360]
    length = _length(x, y).clamp_(min=1e-20)
    cos, sin = x.div_(length), y.div_(length)
    # Equation 15's cosines of multiples of the hue h: the real part of a polynomial in exp(i·h), by Horner's rule.
    re, im = torch.zeros_like(cos), torch.zeros_like(sin)
    for amplitude, phase in ((-0.20, -63), (0.32, 6), (0.24, 0), (-0.17, -30)):
        shift = amplitude * cmath.exp(1j * math.radians(phase))
        re, im = re.add_(shift.real), im.add_(shift.imag)
        re, im = (re * cos).addcmul_(im, sin, value=-1), (re * sin).addcmul_(im, cos)
    t = re.add_(1)

    # Equations 10 and 11: 2·√(C₁·C₂)·sin(Δh / 2), by the chord between the hues' unit vectors; it is signed as sin Δh.
    chord = _length(a2 * c1 - a1 * c2, b2 * c1 - b1 * c2)
    dh = chord.div_(product.sqrt_().clamp_(min=1e-20)).copysign_(a1 * b2 - b1 * a2)
    offset = mean_l.sub_(50).square_()
    dl = (l2 - l1).div_((20 + offset).rsqrt_().mul_(offset).mul_(0.015).add_(1))
    dc = (c2 - c1).div_((0.045 * mean_c).add_(1))
    dh.div_(t.mul_(mean_c).mul_(0.015).add_(1))
    rotation = degrees.sub_(275).div_(25).square_().neg_().exp_()
    r_t = rotation.mul_(math.pi / 3).sin_().mul_(-2).mul_(_saturation(mean_c))
    squared = r_t.mul_(dc).mul_(dh).addcmul_(dl, dl).addcmul_(dc, dc).addcmul_(dh, dh)
    return squared.clamp_(min=0).sqrt_()


def _length(x: Tensor, y: Tensor) -> Tensor:
    """√(x² + y²); `torch.hypot`, which also guards against overflow, takes longer."""
    return (x * x).addcmul_(y, y).sqrt_()


def _saturation(chroma: Tensor) -> Tensor:
    """√(C⁷ / (C⁷ + 25⁷)), which occurs twice in CIEDE2000."""
    cube = chroma * chroma * chroma
    seventh = cube * cube * chroma
    return (seventh / (seventh + 25.0**7)).sqrt_()


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


@dataclass(frozen=True)
class _Originals:
    """A few original pictures, and what every prediction of them is compared with: computed once for all predictors.

    Attributes:
        real: (B, 3, H, W), RGB in [0, 1], so few that a metric's intermediate results stay in the processor's cache.
        lab: (B, 3, H, W), L*a*b*.
        mean: (B, 3, H − 10, W − 10), the mean in SSIM's window.
    """

    real: Tensor
    lab: Tensor
    mean: Tensor

    @classmethod
    @torch.no_grad()  # which holds in the calling thread alone
    def of(cls, real: Tensor) -> "_Originals":
        return cls(real, lab(real), _window_mean(real))


_CHUNK = 1 << 16  # pixels of the pictures that are scored together: 256 kB a channel

_METRICS = ("psnr", "ssim", "mae", "mse", "ciede2000")


@torch.no_grad()
def _numbers(fake: Tensor, originals: _Originals) -> Tensor:
    """The metrics in the order of `_METRICS`, and colourfulness, of predictions (B, 3, H, W): (6, B)."""
    fake, real = fake.clamp(0, 1), originals.real
    errors = mse(fake, real)
    similarity, difference = _ssim(fake, originals), _ciede2000(lab(fake), originals.lab).mean(dim=(1, 2))
    return torch.stack([psnr_of(errors), similarity, mae(fake, real), errors, difference, colourfulness(fake)])


def _ssim(fake: Tensor, originals: _Originals) -> Tensor:
    """`ssim`, with the originals' means known and as few means to take as the formula needs."""
    real, real_mean = originals.real, originals.mean
    moments = torch.cat([fake, fake * fake + real * real, fake * real], dim=1)
    fake_mean, squares, products = _window_mean(moments).chunk(3, dim=1)
    covariance = products.addcmul_(fake_mean, real_mean, value=-1)
    mean_squares = (fake_mean * fake_mean).addcmul_(real_mean, real_mean)
    variances = squares.sub_(mean_squares)
    luminance = (2 * fake_mean).mul_(real_mean).add_(0.01**2).div_(mean_squares.add_(0.01**2))
    structure = covariance.mul_(2).add_(0.03**2).div_(variances.add_(0.03**2))
    return luminance.mul_(structure).mean(dim=(1, 2, 3))


def _window_mean(pictures: Tensor) -> Tensor:
    """SSIM's Gaussian mean (σ = 1.5) round every pixel whose window lies within the picture (B, C, H, W)."""
    if min(pictures.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(_too_small(pictures))
    offsets = torch.arange(SSIM_WINDOW, dtype=pictures.dtype, device=pictures.device) - SSIM_WINDOW // 2
    weights = torch.softmax(-offsets.square() / (2 * 1.5**2), dim=0).repeat(pictures.shape[1], 1, 1, 1)
    pictures = pictures.contiguous(memory_format=torch.channels_last)  # the convolutions then take half of the time
    horizontal = F.conv2d(pictures, weights, groups=len(weights))
    return F.conv2d(horizontal, weights.mT.contiguous(), groups=len(weights)).contiguous()


@contextmanager
def _workers() -> Iterator[Executor]:
    """As many threads as PyTorch uses, each of which computes alone.

    Operations this short gain little from being split among threads that wait for each other after each one, and are
    many times slower where another program wants the processor, too.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # threads that start from now on take the number that was set last, anywhere


@torch.no_grad()
def scoreboard(
    predictors: Mapping[str, Predictor],
    batches: Iterable[tuple[Tensor, Tensor]],
    progress: bool = False,
    watch: Callable[[str, Tensor, Tensor], object] | None = None,
) -> list[Score]:
    """Scores every predictor on the same pictures and averages over pictures.

    The numbers are computed in float32, a few pictures at a time; means agree with those of `ssim` and `ciede2000` to
    more digits than `format_scores` prints.

    Args:
        predictors: Gray (B, 1, H, W) → colour (B, 3, H, W), by name; what they return is clamped to [0, 1].
        batches: (colour (B, 3, H, W), gray (B, 1, H, W)) in [0, 1], as a loader gives them; read once.
        progress: Shows a progress bar, with the time that remains where `batches` has a length.
        watch: Is shown every batch: a predictor's name, the originals, and what it predicted of them, not clamped.

    Returns:
        One `Score` for each predictor, in the order given.

    Raises:
        ValueError: There are no pictures, or a side of one is under 11 pixels (`ssim`).
    """
    from tqdm.auto import tqdm

    sums = {name: torch.zeros(len(_METRICS) + 1, dtype=torch.float64) for name in predictors}
    seconds = dict.fromkeys(predictors, 0.0)
    pictures, original_colourfulness = 0, 0.0
    # One step for each predictor of each batch: at 256×256 a batch takes seconds, and the first estimate comes sooner.
    steps = len(batches) * len(predictors) if isinstance(batches, Sized) else None
    bar = tqdm(total=steps, desc="scoring", unit="batch", smoothing=0, disable=not progress)
    with bar, _workers() as pool:
        for real, gray in batches:
            pictures += len(real)
            some = max(1, _CHUNK // real[0, 0].numel()) if real.device.type == "cpu" else len(real)
            originals = list(pool.map(_Originals.of, real.split(some)))
            original_colourfulness += sum(colourfulness(chunk.real).sum().item() for chunk in originals)
            for name, predict in predictors.items():
                start = time.perf_counter()
                fake = predict(gray).to(real.device)
                seconds[name] += time.perf_counter() - start
                pairs = zip(fake.split(some), originals, strict=True)
                for numbers in pool.map(lambda pair: _numbers(*pair), pairs):
                    sums[name] += numbers.double().sum(dim=1).cpu()
                if watch is not None:
                    watch(name, real, fake)
                bar.update()
    if not pictures:
        raise ValueError("there are no pictures to score")
    scores = []
    for name, total in sums.items():
        *means, colour = (total / pictures).tolist()
        ratio = colour * pictures / original_colourfulness if original_colourfulness else float("nan")
        named = dict(zip(_METRICS, means, strict=True))
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
