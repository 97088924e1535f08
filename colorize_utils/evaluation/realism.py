"""Do the paintings look real? A classifier two-sample test: can a small network tell paintings from photographs?

    accuracy = 1/n Σ 1[(f(zᵢ) > 0) = lᵢ]    zᵢ a photograph (lᵢ = 0) or a painting of one (lᵢ = 1)

f is trained on one half of the pictures and judges the other; a photograph and its painting are in the same half, so
that no scene is known before. 50 % is perfect: the network can but guess. What pixel scores cannot say, because several
colours are right and the mean of them scores best, shows here: pale, even or smeared colours give a painting away.

Pictures are judged at 64×64: the network sees which colours are where, and not the grain of a JPEG file.

Source:
    Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests", section 3.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_utils.colour import chroma_of, luma, unit

SIZE = 64  # pixels a side of the pictures that are judged
LEAST = 40  # pictures: with fewer, half of them teach nothing and the other half proves nothing
WIDTHS = (3, 24, 48, 64, 96)  # channels
CHROMA = 4.0  # what chroma is multiplied by: it is small beside luma, and all that differs
BATCH = 32  # photographs in a step, with as many paintings
EPOCHS = 30
MOST_STEPS = 600  # which many pictures take in fewer epochs: about a minute of one core
LEARNING_RATE = 2e-3
Z = 1.96  # of the normal distribution: 95 % lie within


@dataclass(frozen=True)
class Realism:
    """How well a classifier told paintings from photographs.

    Attributes:
        accuracy: Share of its judgements that are right, in [0, 1]; 0.5 is perfect for the painter.
        low, high: The accuracy's 95 % confidence interval (Wilson's, of a binomial distribution).
        judgements: How many: a photograph and its painting are two.
    """

    accuracy: float
    low: float
    high: float
    judgements: int

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.0f} % ({100 * self.low:.0f}–{100 * self.high:.0f})"


class Gallery:
    """Photographs and paintings of them, collected batch by batch and kept small.

    Its `add` can be given to `metrics.scoreboard` as `watch`.

    Attributes:
        real: Batches (B, 3, SIZE, SIZE) uint8.
        painted: By painter's name, batches as of `real`, in the same order.
    """

    def __init__(self) -> None:
        self.real: list[Tensor] = []
        self.painted: dict[str, list[Tensor]] = {}

    def add(self, name: str, real: Tensor, fake: Tensor) -> None:
        """Takes a batch of a painter; every painter has to be given the same photographs.

        Args:
            name: The painter's.
            real: (B, 3, H, W), RGB in [0, 1]: the photographs.
            fake: (B, 3, H, W), RGB, clamped to [0, 1]: the paintings.
        """
        batches = self.painted.setdefault(name, [])
        batches.append(_small(fake))
        if len(self.real) < len(batches):
            self.real.append(_small(real))

    def realism(self, name: str, seed: int = 0) -> Realism | None:
        """How well a painter's paintings can be told from the photographs.

        Args:
            name: The painter's.
            seed: As of `two_sample_test`.

        Returns:
            The result; None for fewer than `LEAST` photographs, which prove nothing.
        """
        if sum(map(len, self.real)) < LEAST:
            return None
        return two_sample_test(torch.cat(self.real), torch.cat(self.painted[name]), seed)


def _small(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in about [0, 1] as (B, 3, SIZE, SIZE) uint8 on the CPU."""
    if pictures.shape[-2:] != (SIZE, SIZE):
        pictures = F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return (255 * pictures.clamp(0, 1)).round().byte().cpu()


def two_sample_test(real: Tensor, painted: Tensor, seed: int = 0) -> Realism:
    """Trains a classifier on one half of the pictures and counts on the other how often it is right.

    Args:
        real: (N, 3, SIZE, SIZE) uint8, RGB: photographs.
        painted: The same shape: their paintings, in the same order.
        seed: Chooses the halves, and everything random in the training.

    Returns:
        The accuracy, with its confidence interval.

    Raises:
        ValueError: There are fewer than `LEAST` photographs, or not as many paintings.
    """
    if len(real) < LEAST or real.shape != painted.shape:
        raise ValueError(
            f"a two-sample test needs {LEAST} photographs or more and a painting of each, got {len(real)} and "
            f"{len(painted)}"
        )
    pairs = torch.stack([real, painted], dim=1)  # (N, 2, 3, SIZE, SIZE)
    with torch.random.fork_rng(devices=[]):  # what others draw stays what it was
        torch.manual_seed(seed)
        order = torch.randperm(len(pairs))
        known, unknown = pairs[order[: len(order) // 2]], pairs[order[len(order) // 2 :]]
        classifier = _trained(known)
    with torch.no_grad():
        right = sum(int((_logits(classifier, some) > 0).eq(_labels(len(some))).sum()) for some in unknown.split(128))
    judgements = 2 * len(unknown)
    return Realism(right / judgements, *wilson_interval(right, judgements), judgements)


def wilson_interval(right: int, judgements: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, by Wilson's score.

    Args:
        right: How many are.
        judgements: Of how many, 1 or more.

    Returns:
        The least and the largest share, in [0, 1].

    Source:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    share, weight = right / judgements, Z * Z / judgements
    middle = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _classifier() -> nn.Sequential:
    """A network from luma and chroma (B, 3, SIZE, SIZE) to the logit of being a painting, (B, 1)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(WIDTHS[-1], 1))


def _trained(pairs: Tensor) -> nn.Module:
    """A classifier trained on pairs (N, 2, 3, SIZE, SIZE) uint8, in evaluation mode; draws from the global generator.

    A photograph and its painting are in the same batch, mirrored and shifted alike: their difference is what counts.
    """
    classifier = _classifier()
    steps = min(MOST_STEPS, EPOCHS * math.ceil(len(pairs) / BATCH))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    waiting = torch.randperm(0)
    for _ in range(steps):
        if len(waiting) < min(BATCH, len(pairs)):
            waiting = torch.randperm(len(pairs))
        chosen, waiting = waiting[:BATCH], waiting[BATCH:]
        batch = pairs[chosen]
        if torch.rand(()) < 0.5:
            batch = batch.flip(-1)
        top, left = torch.randint(-4, 5, (2,)).tolist()
        loss = F.binary_cross_entropy_with_logits(
            _logits(classifier, batch.roll((top, left), dims=(-2, -1))), _labels(len(batch))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def _logits(classifier: nn.Module, pairs: Tensor) -> Tensor:
    """Logits (2·B,) of pairs (B, 2, 3, SIZE, SIZE) uint8, each photograph's before its painting's."""
    colour = unit(pairs.flatten(0, 1))
    return classifier(torch.cat([luma(colour) - 0.5, CHROMA * chroma_of(colour)], dim=1))[:, 0]


def _labels(count: int) -> Tensor:
    """The labels of `count` pairs, (2·count,): 0 a photograph, 1 a painting."""
    return torch.tensor([0.0, 1.0]).repeat(count)
