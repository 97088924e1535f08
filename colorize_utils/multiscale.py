"""The network for photographs of real size: it is trained at several sizes, asked at several, and averages the answers.

A small picture shows what a thing is, because the network's view takes in all of it; a large one shows where its edges
are. `MultiscaleUNet` learns both, and `AveragedDistribution` asks for both.

Gray pictures are (B, 1, H, W) in [0, 1]; a distribution is over the palette's colours (palette.py), for every 2×2
pixels. Hints, colours that somebody has given at places, are (B, 3, H, W): red and blue chroma and 1 where a pixel has
a hint, 0 where it has none; soft edges have all three multiplied by how much of the pixel is covered.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_utils import palette
from colorize_utils.generator_registry import HINT_CHANNELS
from colorize_utils.models import POOLINGS, DistributionUNet, VGGBlock, base_channels, join, require_poolable

SIZES = (128, 192)  # pixels a side of a square
# What hints are multiplied by before the first convolution. Chroma is small: unscaled, and with weights that began at
# 0, hints were learned to be ignored.
HINT_SCALE = (6.0, 6.0, 2.0)


class SizedBatchNorm(nn.BatchNorm2d):
    """Batch normalization with running statistics of its own for each working size; weights and biases are shared.

    What a layer sees has another mean and variance in a larger picture, where edges are softer and empty places wider.
    A network that was trained at 64×64 gained 0.9 dB at 128×128 from statistics that were measured there, its weights
    unchanged.

    Args:
        channels: Channels of the input.
        sizes: How many working sizes there are.

    Attributes:
        row: The working size in use, as an index; None where the pictures have none of the working sizes: in training
            they then set the statistics of all of them, which are a beginning for those that have not been seen.
        normalize: What normalizes: `F.batch_norm`, or what does the same over the pictures of several processes.
    """

    def __init__(self, channels: int, sizes: int):
        super().__init__(channels)
        self.register_buffer("running_mean", torch.zeros(sizes, channels))
        self.register_buffer("running_var", torch.ones(sizes, channels))
        self.row: int | None = None
        self.normalize: Callable[..., Tensor] = F.batch_norm

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), by the batch's statistics in training, else by those of the size in use."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        # Copies: what the backward pass needs must not change when the statistics of another size do.
        mean, variance = self.running_mean[self.row or 0].clone(), self.running_var[self.row or 0].clone()
        how = (self.weight, self.bias, self.training, self.momentum, self.eps)
        output = self.normalize(features, mean, variance, *how)
        if self.training:
            rows = slice(None) if self.row is None else self.row
            self.running_mean[rows], self.running_var[rows] = mean, variance
        return output

    def at(self, row: int) -> nn.BatchNorm2d:
        """A plain batch norm with the statistics of one working size, for prediction."""
        assert self.running_mean is not None and self.running_var is not None
        plain = nn.BatchNorm2d(self.num_features, self.eps)
        plain.load_state_dict(
            {
                "weight": self.weight,
                "bias": self.bias,
                "running_mean": self.running_mean[row],
                "running_var": self.running_var[row],
                "num_batches_tracked": torch.zeros((), dtype=torch.long),
            }
        )
        return plain.eval()


class MultiscaleUNet(nn.Module):
    """Gray pictures → logits, one for each colour of the palette: `DistributionUNet` with a finer level around it.

    The inner network sees the picture at a quarter of its size, so that a picture of 128×128 pixels looks to it as one
    of 64×64 does to `DistributionUNet`: the whole of it is in view. The finer level, half the picture's size, has half
    as many channels; it gives the inner network what it saw, and moves colours to the edges that it sees.

    Args:
        width: Scale of every layer, positive; 1.0 has as many channels as the submission's U-Net.
        dropout_rate: Share of features dropped at the end of each deep block, in [0, 1].
        sizes: Working sizes, in pixels a side of a square, the largest last.

    Attributes:
        sizes: The working sizes, (N,), whole numbers; part of the state dict.
        strange_weight, strange_bias: What `unfamiliarity` makes its number with, (16c,) and a scalar: they are no part
            of training, but fitted to a trained network (inference/familiarity.py), and 0 before.
        side_lengths: The same as plain numbers: reading a tensor would wait for a GPU.

    Raises:
        ValueError: `width` is not positive.
    """

    strange_weight: Tensor
    strange_bias: Tensor
    sizes: Tensor
    hint_scale: Tensor
    side_lengths: list[int]

    def __init__(self, width: float = 1.0, dropout_rate: float = 0.0, sizes: Sequence[int] = SIZES):
        super().__init__()
        c = base_channels(width)
        fine = max(1, c // 2)
        self.halve = nn.PixelUnshuffle(2)
        self.maxpool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.fine_encoder = VGGBlock(4 + HINT_CHANNELS, fine)
        self.coarse = DistributionUNet(width, dropout_rate, in_channels=4 + fine + HINT_CHANNELS)
        del self.coarse.head  # its features go on to the finer level
        self.fine_decoder = VGGBlock(c + fine, fine)
        self.head = nn.Conv2d(c + fine, palette.COLOURS, kernel_size=1)
        self.register_buffer("strange_weight", torch.zeros(16 * c))
        self.register_buffer("strange_bias", torch.zeros(()))
        self.register_buffer("sizes", torch.tensor(sizes))
        self.register_buffer("hint_scale", torch.tensor(HINT_SCALE)[:, None, None], persistent=False)
        self.register_load_state_dict_post_hook(_remember_sizes)
        self.side_lengths = list(sizes)
        for block in self.modules():
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.BatchNorm2d):
                    setattr(block, name, SizedBatchNorm(layer.num_features, len(sizes)))

    def forward(self, gray: Tensor, hints: Tensor | None = None) -> Tensor:
        """Predicts a distribution over the palette's colours for every 2×2 pixels.

        Batch norms use the statistics of the working size whose area is next to that of the pictures.

        Args:
            gray: (B, 1, H, W) in [0, 1]; H and W are multiples of 32.
            hints: (B, 3, H, W), as above; by default none.

        Returns:
            Logits (B, COLOURS, H/2, W/2): a softmax over dimension 1 gives the probabilities.

        Raises:
            ValueError: The input has not one channel, or a side is not a multiple of 32.
        """
        return self.head(self.features(gray, hints))

    def features(self, gray: Tensor, hints: Tensor | None = None) -> Tensor:
        """What the head makes a distribution of: gray and hints as in `forward` → (B, c + c/2, H/2, W/2)."""
        require_poolable(gray, "MultiscaleUNet")
        self._use_statistics_for(gray.shape[-2] * gray.shape[-1])
        fine, quartered = self._halved_twice(gray, hints)
        coarse = self.coarse.features_of(quartered)  # (B, c, H/4, W/4)
        joined = join(coarse, fine)  # (B, c + c/2, H/2, W/2)
        moved = self.fine_decoder(joined)  # (B, c/2, H/2, W/2)
        return torch.cat([joined[:, : coarse.shape[1]], moved], dim=1)

    def _halved_twice(self, gray: Tensor, hints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The finer level's features (B, c/2, H/2, W/2), and what the inner network sees, (B, 7 + c/2, H/4, W/4)."""
        halved = self.halve(2 * gray - 1)  # (B, 4, H/2, W/2)
        if hints is None:
            hints = gray.new_zeros(gray.shape[0], HINT_CHANNELS, *gray.shape[-2:])
        halved_hints = _halved(hints)
        fine = self.fine_encoder(torch.cat([halved, self.hint_scale * halved_hints], dim=1))
        small = self.halve(halved.mean(dim=1, keepdim=True))  # the picture at half its size, (B, 4, H/4, W/4)
        inner = [small, self.maxpool(fine), self.hint_scale * _halved(halved_hints)]
        return fine, torch.cat([planes.to(fine.dtype) for planes in inner], dim=1)

    def summary(self, gray: Tensor) -> Tensor:
        """What a picture as a whole looks like: mean and standard deviation of each of its deep features.

        Args:
            gray: As in `forward`.

        Returns:
            (B, 16c), from the encoder's last level but one, whose features are still many enough to average.

        Raises:
            ValueError: The input has not one channel, or a side is not a multiple of 32.
        """
        require_poolable(gray, "MultiscaleUNet")
        self._use_statistics_for(gray.shape[-2] * gray.shape[-1])
        deep = self.coarse.encode(self._halved_twice(gray)[1])[3].flatten(2)  # (B, 8c, places)
        return torch.cat([deep.mean(dim=2), deep.std(dim=2, correction=0)], dim=1)

    def unfamiliarity(self, gray: Tensor) -> Tensor:
        """How sure the network is that pictures are none of the kind that it was trained on.

        Args:
            gray: As in `forward`, of about the area of the smallest working size.

        Returns:
            (B,) in [0, 1], a logistic function of `summary`, above `UNFAMILIAR` where people should be warned; ½ for
            all where it was not fitted.

        Raises:
            ValueError: The input has not one channel, or a side is not a multiple of 32.
        """
        score = self.summary(gray).float() @ self.strange_weight.float()[:, None]  # (B, 1), for B = 0, too
        return torch.sigmoid(score[:, 0] + self.strange_bias)

    @property
    def knows_what_it_knows(self) -> bool:
        """Whether `unfamiliarity` was fitted."""
        return bool(self.strange_weight.any())

    def _use_statistics_for(self, area: int) -> None:
        norms = [layer for layer in self.modules() if isinstance(layer, SizedBatchNorm)]
        if not norms:  # the network is for one size: `at`
            return
        row: int | None = min(range(len(self.side_lengths)), key=lambda row: abs(self.side_lengths[row] - area**0.5))
        if self.training and area**0.5 not in self.side_lengths:
            row = None
        for norm in norms:
            norm.row = row

    def at(self, size: int) -> "MultiscaleUNet":
        """A copy for prediction at one working size alone, whose batch norms are plain ones.

        Args:
            size: One of `sizes`.

        Returns:
            The copy, in evaluation mode.

        Raises:
            ValueError: `size` is none of the working sizes.
        """
        if size not in self.side_lengths:
            raise ValueError(f"size must be one of {self.side_lengths}, got {size}")
        row = self.side_lengths.index(size)
        network = copy.deepcopy(self).eval()
        for block in list(network.modules()):
            for name, layer in list(block.named_children()):
                if isinstance(layer, SizedBatchNorm):
                    setattr(block, name, layer.at(row))
        return network


def _halved(hints: Tensor) -> Tensor:
    """Hints at half the size: (B, 3, H, W) → (B, 3, H/2, W/2); one hinted pixel of four is enough."""
    total = 4 * F.avg_pool2d(hints, kernel_size=2)
    return total / total[:, 2:].clamp(min=1)


def _remember_sizes(network: MultiscaleUNet, *_: object) -> None:
    network.side_lengths = network.sizes.tolist()


class AveragedDistribution(nn.Module):
    """A network that predicts a distribution, asked several times; the mean of its answers.

    It is asked for the picture and its mirror image, whose logits are averaged (a geometric mean of the distributions),
    and a `MultiscaleUNet` at each of its working sizes, whose probabilities are.

    Args:
        generator: A `DistributionUNet` or a `MultiscaleUNet`; it is copied.
        size: The working size of a generator that has no sizes of its own.
        prepare: Makes of a network, and the size that it will be asked at, what is asked in its place: a function of
            gray (B, 1, H, W), and of hints where the generator takes them, to logits. By default the network itself.

    Attributes:
        sizes: The working sizes, in pixels a side of a square, the largest last.
    """

    def __init__(
        self,
        generator: nn.Module,
        size: int,
        prepare: Callable[[nn.Module, int], nn.Module] = lambda network, size: network,
    ):
        super().__init__()
        if isinstance(generator, MultiscaleUNet):
            self.sizes = sorted(set(generator.side_lengths))
            networks: list[nn.Module] = [generator.at(size) for size in self.sizes]
        else:
            self.sizes, networks = [size], [copy.deepcopy(generator).eval()]
        self.networks = nn.ModuleList(
            prepare(network, size) for network, size in zip(networks, self.sizes, strict=True)
        )

    def forward(self, gray: Tensor, hints: Tensor | None = None) -> Tensor:
        """Predicts the probabilities of the palette's colours for every 2×2 pixels.

        Args:
            gray: (B, 1, H, W) in [0, 1], even sides; of about the area of a square of the largest working size.
            hints: (B, 3, H, W), as above; by default none. Only a `MultiscaleUNet` takes them.

        Returns:
            Probabilities (B, COLOURS, H/2, W/2), float32, whose sum over dimension 1 is 1.
        """
        grid = [side // 2 for side in gray.shape[-2:]]
        answers = []
        for size, logits in zip(self.sizes, self.answers(gray, hints), strict=True):
            probabilities = logits.float().softmax(dim=1)
            if size != self.sizes[-1]:
                probabilities = F.interpolate(probabilities, size=grid, mode="bilinear")
            answers.append(probabilities)
        return sum(answers[1:], answers[0]) / len(answers)

    def answers(self, gray: Tensor, hints: Tensor | None = None) -> Iterator[Tensor]:
        """The logits at each working size, the mirror image's averaged in.

        Args:
            gray: As in `forward`.
            hints: As in `forward`.

        Yields:
            (B, COLOURS, h, w), the smallest working size first.
        """
        largest = self.sizes[-1]
        for network, size in zip(self.networks, self.sizes, strict=True):
            # The nearest even side, at least 2, in whole numbers: an exported network computes sides, too.
            height, width = (2 * max(1, (side * size + largest) // (2 * largest)) for side in gray.shape[-2:])
            # As one batch: at 64×64 on two cores a third faster than one after the other, because PyTorch leaves the
            # small layers of a single picture to a slower convolution.
            both = [
                padded(torch.cat([small, small.flip(-1)]))
                for small in (
                    planes if size == largest else _resized(planes, height, width)
                    for planes in (gray, hints)
                    if planes is not None
                )
            ]
            logits, count = network(*both)[..., : height // 2, : width // 2], gray.shape[0]
            yield (logits[:count] + logits[count:].flip(-1)) / 2


def _resized(planes: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)


def padded(planes: Tensor) -> Tensor:
    """Planes (B, C, H, W) with their last row and column repeated, up to sides that are multiples of 32."""
    multiple = 2**POOLINGS
    # Not by a remainder: of this sum an exporter can tell that it is a multiple.
    height, width = (multiple * ((side + multiple - 1) // multiple) for side in planes.shape[-2:])
    return F.pad(planes, (0, width - planes.shape[-1], 0, height - planes.shape[-2]), mode="replicate")
