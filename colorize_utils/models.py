"""The networks: the original submission's two U-Net generators, discriminator and critic; one generator beyond it.

Layer and attribute names are an interface, because the keys of a checkpoint follow from them: a state dict of the
submission's GAN-L1 loads strictly into `UNet()`. `width` scales every layer of a network; 1.0 is the original.

Pictures are float tensors: gray (B, 1, H, W) and colour (B, 3, H, W) in RGB, both in [0, 1].

Source:
    U-Net: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation".
    VGG blocks: Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition".
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from colorize_utils import palette
from colorize_utils.colour import with_chroma, with_luminance
from colorize_utils.generator_registry import ARCHITECTURES

BASE_CHANNELS = 64  # of the first layer at width 1.0; every other layer is a multiple of it
POOLINGS = 5  # halvings between a generator's input and its bottleneck: H and W must be multiples of 2**5


def base_channels(width: float) -> int:
    """Channels of the first layer at `width`; a checkpoint's width is read back from this number.

    Args:
        width: Scale of every layer, positive; 1.0 is the original network.

    Returns:
        The number of channels, at least 1.

    Raises:
        ValueError: `width` is not positive.
    """
    if width <= 0:
        raise ValueError(f"width must be positive, got {width}; 1.0 is the original network")
    return max(1, round(BASE_CHANNELS * width))


def _require_pictures(pictures: Tensor, channels: int, network: str) -> None:
    if pictures.ndim != 4 or pictures.shape[1] != channels:
        raise ValueError(f"{network} takes pictures of shape (B, {channels}, H, W), got {tuple(pictures.shape)}")


def require_poolable(gray: Tensor, network: str) -> None:
    """Raises a ValueError unless `gray` is (B, 1, H, W) with sides that are multiples of 32; `network` is its name."""
    _require_pictures(gray, 1, network)
    multiple = 2**POOLINGS
    height, width = gray.shape[-2:]
    if min(height, width) == 0 or height % multiple or width % multiple:
        raise ValueError(
            f"{network} halves the picture {POOLINGS} times: height and width must be multiples of {multiple}, "
            f"got {height}×{width}; resize or pad the picture first"
        )


class VGGBlock(nn.Module):
    """Two 3×3 convolutions, each followed by batch normalization and ReLU; dropout at the end if asked for.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of both convolutions' outputs.
        dropout_rate: Share of the output's numbers that training sets to 0, in [0, 1]; 0 adds no dropout layer.

    Source:
        The submission, "Generator - U-Net Architecture".
    """

    def __init__(self, in_channels: int, out_channels: int, dropout_rate: float = 0.0):
        super().__init__()
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        if dropout_rate > 0.0:
            layers.append(nn.Dropout(dropout_rate))
        self.conv = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W)."""
        return self.conv(features)


class UNet(nn.Module):
    """The generator of GAN-L1 and GAN-MSE: gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB.

    Six VGG blocks down, five up, a skip connection at each resolution; 38,464,771 parameters at width 1.0.
    The last layer is a bare 1×1 convolution, so the colour is near [0, 1] but not bounded by it, as in the submission.

    Args:
        width: Scale of every layer, positive; 1.0 is the original.
        dropout_rate: Share of features dropped at the end of each VGG block, in [0, 1].
        bounded: Ends in a sigmoid, which keeps the colour in [0, 1]; the keys of the state dict stay the same.

    Raises:
        ValueError: `width` is not positive.
    """

    def __init__(self, width: float = 1.0, dropout_rate: float = 0.0, bounded: bool = False):
        super().__init__()
        c = base_channels(width)
        self.bounded = bounded
        self.maxpool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

        self.encoder_block1 = VGGBlock(1, c, dropout_rate)
        self.encoder_block2 = VGGBlock(c, 2 * c, dropout_rate)
        self.encoder_block3 = VGGBlock(2 * c, 4 * c, dropout_rate)
        self.encoder_block4 = VGGBlock(4 * c, 8 * c, dropout_rate)
        self.encoder_block5 = VGGBlock(8 * c, 8 * c, dropout_rate)
        self.encoder_block6 = VGGBlock(8 * c, 16 * c, dropout_rate)

        self.decoder_block5 = VGGBlock(8 * c + 16 * c, 8 * c, dropout_rate)
        self.decoder_block4 = VGGBlock(8 * c + 8 * c, 4 * c, dropout_rate)
        self.decoder_block3 = VGGBlock(4 * c + 4 * c, 4 * c, dropout_rate)
        self.decoder_block2 = VGGBlock(2 * c + 4 * c, 2 * c, dropout_rate)
        self.decoder_block1 = VGGBlock(2 * c + c, c, dropout_rate)

        self.conv_last = nn.Conv2d(c, 3, kernel_size=1)

    def forward(self, gray: Tensor) -> Tensor:
        """Predicts colour pictures.

        Args:
            gray: (B, 1, H, W) in [0, 1]; H and W are multiples of 32.

        Returns:
            Colour (B, 3, H, W), RGB in about [0, 1]; exactly within it where the network is `bounded`.

        Raises:
            ValueError: The input has not one channel, or a side is not a multiple of 32.
        """
        require_poolable(gray, "UNet")
        skip1 = self.encoder_block1(gray)  # (B, c, H, W)
        skip2 = self.encoder_block2(self.maxpool(skip1))  # (B, 2c, H/2, W/2)
        skip3 = self.encoder_block3(self.maxpool(skip2))  # (B, 4c, H/4, W/4)
        skip4 = self.encoder_block4(self.maxpool(skip3))  # (B, 8c, H/8, W/8)
        skip5 = self.encoder_block5(self.maxpool(skip4))  # (B, 8c, H/16, W/16)
        features = self.encoder_block6(self.maxpool(skip5))  # (B, 16c, H/32, W/32)

        features = self.decoder_block5(self._join(features, skip5))  # (B, 8c, H/16, W/16)
        features = self.decoder_block4(self._join(features, skip4))  # (B, 4c, H/8, W/8)
        features = self.decoder_block3(self._join(features, skip3))  # (B, 4c, H/4, W/4)
        features = self.decoder_block2(self._join(features, skip2))  # (B, 2c, H/2, W/2)
        features = self.decoder_block1(self._join(features, skip1))  # (B, c, H, W)
        colour = self.conv_last(features)  # (B, 3, H, W)
        return torch.sigmoid(colour) if self.bounded else colour

    def _join(self, features: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([self.upsample(features), skip], dim=1)


class EncoderBlock(nn.Module):
    """Strided 4×4 convolution, batch normalization, ReLU; halves height and width.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H/2, W/2)."""
        return self.block(features)


class DecoderBlock(nn.Module):
    """Transposed 4×4 convolution, batch normalization, ReLU; doubles height and width.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bounded: A sigmoid in place of batch normalization and ReLU, for a last block, whose output is colour.
    """

    def __init__(self, in_channels: int, out_channels: int, bounded: bool = False):
        super().__init__()
        convolution = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)
        if bounded:
            self.block = nn.Sequential(convolution, nn.Sigmoid())
        else:
            self.block = nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, 2H, 2W)."""
        return self.block(features)


class WGANUNet(nn.Module):
    """The generator of WGAN: gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB.

    Five strided encoder blocks, five decoder blocks, four skip connections. The submission ends the last decoder block
    in batch normalization and ReLU like every other, so that the colour is ≥ 0 and its mean depends on the batch.

    Args:
        width: Scale of every layer, positive; 1.0 is the original.
        bounded: Ends in a sigmoid instead; the state dict has no keys `decoder5.block.1.*` then.

    Raises:
        ValueError: `width` is not positive.
    """

    def __init__(self, width: float = 1.0, bounded: bool = False):
        super().__init__()
        c = base_channels(width)
        self.encoder1 = EncoderBlock(1, c)
        self.encoder2 = EncoderBlock(c, 2 * c)
        self.encoder3 = EncoderBlock(2 * c, 4 * c)
        self.encoder4 = EncoderBlock(4 * c, 8 * c)
        self.encoder5 = EncoderBlock(8 * c, 16 * c)

        self.decoder1 = DecoderBlock(16 * c, 8 * c)
        self.decoder2 = DecoderBlock(8 * c + 8 * c, 4 * c)
        self.decoder3 = DecoderBlock(4 * c + 4 * c, 2 * c)
        self.decoder4 = DecoderBlock(2 * c + 2 * c, c)
        self.decoder5 = DecoderBlock(c + c, 3, bounded=bounded)

    def forward(self, gray: Tensor) -> Tensor:
        """Predicts colour pictures.

        Args:
            gray: (B, 1, H, W) in [0, 1]; H and W are multiples of 32.

        Returns:
            Colour (B, 3, H, W), RGB, ≥ 0; in [0, 1] where the network is `bounded`.

        Raises:
            ValueError: The input has not one channel, or a side is not a multiple of 32.
        """
        require_poolable(gray, "WGANUNet")
        skip1 = self.encoder1(gray)  # (B, c, H/2, W/2)
        skip2 = self.encoder2(skip1)  # (B, 2c, H/4, W/4)
        skip3 = self.encoder3(skip2)  # (B, 4c, H/8, W/8)
        skip4 = self.encoder4(skip3)  # (B, 8c, H/16, W/16)
        features = self.encoder5(skip4)  # (B, 16c, H/32, W/32)

        features = self.decoder1(features)  # (B, 8c, H/16, W/16)
        features = self.decoder2(torch.cat([features, skip4], dim=1))  # (B, 4c, H/8, W/8)
        features = self.decoder3(torch.cat([features, skip3], dim=1))  # (B, 2c, H/4, W/4)
        features = self.decoder4(torch.cat([features, skip2], dim=1))  # (B, c, H/2, W/2)
        return self.decoder5(torch.cat([features, skip1], dim=1))  # (B, 3, H, W)


class DistributionUNet(nn.Module):
    """The generator beyond the submission: gray pictures → logits, one for each colour of the palette (palette.py).

    The submission's U-Net with three changes:

    - It works at half the picture's size: 2×2 gray pixels become the four channels of one. It predicts chroma alone,
      which the eye sees no sharper than that, and a prediction takes a quarter of the time.
    - It predicts a distribution over colours for each pixel, in place of one colour.
    - The deep blocks, which decide what an object is and hold most of the weights, drop out features, because there
      are few pictures to learn from.

    Args:
        width: Scale of every layer, positive; 1.0 has as many channels as the submission's U-Net.
        dropout_rate: Share of features dropped at the end of each deep block, in [0, 1].
        in_channels: Channels of what `features_of` takes; the gray picture at half size has four.

    Raises:
        ValueError: `width` is not positive.
    """

    def __init__(self, width: float = 1.0, dropout_rate: float = 0.0, in_channels: int = 4):
        super().__init__()
        c = base_channels(width)
        self.halve = nn.PixelUnshuffle(2)
        self.maxpool = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)

        self.encoder1 = VGGBlock(in_channels, c)
        self.encoder2 = VGGBlock(c, 2 * c)
        self.encoder3 = VGGBlock(2 * c, 4 * c)
        self.encoder4 = VGGBlock(4 * c, 8 * c, dropout_rate)
        self.encoder5 = VGGBlock(8 * c, 8 * c, dropout_rate)

        self.decoder4 = VGGBlock(8 * c + 8 * c, 4 * c, dropout_rate)
        self.decoder3 = VGGBlock(4 * c + 4 * c, 4 * c, dropout_rate)
        self.decoder2 = VGGBlock(2 * c + 4 * c, 2 * c)
        self.decoder1 = VGGBlock(c + 2 * c, c)
        self.head = nn.Conv2d(c, palette.COLOURS, kernel_size=1)

    def forward(self, gray: Tensor) -> Tensor:
        """Predicts a distribution over the palette's colours for every 2×2 pixels.

        Args:
            gray: (B, 1, H, W) in [0, 1]; H and W are multiples of 32.

        Returns:
            Logits (B, COLOURS, H/2, W/2): a softmax over dimension 1 gives the probabilities.

        Raises:
            ValueError: The input has not one channel, or a side is not a multiple of 32.
        """
        return self.head(self.features(gray))

    def features(self, gray: Tensor) -> Tensor:
        """What the head makes a distribution of: gray as in `forward` → (B, c, H/2, W/2)."""
        require_poolable(gray, "DistributionUNet")
        return self.features_of(2 * self.halve(gray) - 1)

    def features_of(self, halved: Tensor) -> Tensor:
        """The U-Net proper: (B, in_channels, h, w), both sides 2 or more → features (B, c, h, w)."""
        skip1, skip2, skip3, skip4, features = self.encode(halved)
        features = self.decoder4(join(features, skip4))  # (B, 4c, h/8, w/8)
        features = self.decoder3(join(features, skip3))  # (B, 4c, h/4, w/4)
        features = self.decoder2(join(features, skip2))  # (B, 2c, h/2, w/2)
        return self.decoder1(join(features, skip1))  # (B, c, h, w)

    def encode(self, halved: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The encoder's features at each level of (B, in_channels, h, w): (B, c, h, w) … (B, 8c, h/16, w/16)."""
        skip1 = self.encoder1(halved)  # (B, c, h, w)
        skip2 = self.encoder2(self.maxpool(skip1))  # (B, 2c, h/2, w/2)
        skip3 = self.encoder3(self.maxpool(skip2))  # (B, 4c, h/4, w/4)
        skip4 = self.encoder4(self.maxpool(skip3))  # (B, 8c, h/8, w/8)
        deepest = self.encoder5(self.maxpool(skip4))  # (B, 8c, h/16, w/16)
        return skip1, skip2, skip3, skip4, deepest


def join(features: Tensor, skip: Tensor) -> Tensor:
    """Features of a deeper level, enlarged bilinearly, with those of the encoder at the size of `skip`.

    Args:
        features: (B, C, h, w).
        skip: (B, D, H, W).

    Returns:
        (B, C + D, H, W).
    """
    enlarged = F.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=True)
    return torch.cat([enlarged, skip], dim=1)


class DiscriminatorBlock(nn.Module):
    """Two 3×3 convolutions, each followed by instance normalization and LeakyReLU(0.2).

    The submission names this block but does not print it. It has instance normalization because the submission's
    layer list says so, and because the gradient penalty needs a critic that treats each picture of a batch on its own.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of both convolutions' outputs.

    Source:
        Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", section 4, "No critic batch normalization".
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.InstanceNorm2d(out_channels),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.InstanceNorm2d(out_channels),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W)."""
        return self.conv(features)


class Discriminator(nn.Module):
    """Tells real pictures from generated ones: colour (B, 3, H, W) → a map of scores, each for one region.

    Six blocks, each followed by 2×2 max-pooling, then one convolution: 4×4 scores at 256×256, the original. Smaller
    pictures are pooled fewer times, so that the map never gets smaller than 4×4: instance normalization would have too
    few numbers to average.

    The submission ends in a sigmoid *and* trains with BCEWithLogits, which applies a second one: its logits are then
    confined to [0, 1], and the loss of even a perfect discriminator stays above 0.50 (the mean of 0.31 for the real
    pictures and 0.69 for the generated ones).

    Args:
        width: Scale of every layer, positive; 1.0 is the original.
        sigmoid: Ends in a sigmoid, as in the submission; False returns logits.

    Raises:
        ValueError: `width` is not positive.
    """

    MIN_SIZE = 32  # pixels: the smallest side of a picture
    MIN_MAP = 4  # the smallest side of the map of scores

    def __init__(self, width: float = 1.0, sigmoid: bool = True):
        super().__init__()
        c = base_channels(width)
        self.sigmoid = sigmoid
        self.layer1 = DiscriminatorBlock(3, c)
        self.layer2 = DiscriminatorBlock(c, 2 * c)
        self.layer3 = DiscriminatorBlock(2 * c, 4 * c)
        self.layer4 = DiscriminatorBlock(4 * c, 8 * c)
        self.layer5 = DiscriminatorBlock(8 * c, 16 * c)
        self.layer6 = DiscriminatorBlock(16 * c, 16 * c)
        self.final_conv = nn.Sequential(nn.Conv2d(16 * c, 1, kernel_size=3, stride=1, padding=1, bias=False))

    def forward(self, colour: Tensor) -> Tensor:
        """Scores each region of the pictures, higher where they look real.

        Args:
            colour: (B, 3, H, W), RGB in [0, 1]; H and W are 32 or more.

        Returns:
            (B, 1, h, w): in [0, 1] with the sigmoid, logits without it.

        Raises:
            ValueError: The input has not three channels, or a side is under 32.
        """
        scores = self.score_map(colour)
        return torch.sigmoid(scores) if self.sigmoid else scores

    def score_map(self, colour: Tensor) -> Tensor:
        """The scores before any sigmoid.

        Args:
            colour: (B, 3, H, W), RGB in [0, 1]; H and W are 32 or more.

        Returns:
            (B, 1, h, w), unbounded.

        Raises:
            ValueError: The input has not three channels, or a side is under 32.
        """
        self._require_large(colour)
        features = colour
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5, self.layer6):
            features = layer(features)
            if min(features.shape[-2:]) >= 2 * self.MIN_MAP:
                features = F.max_pool2d(features, kernel_size=2)
        return self.final_conv(features)

    def _require_large(self, colour: Tensor) -> None:
        name, least = type(self).__name__, self.MIN_SIZE
        _require_pictures(colour, 3, name)
        height, width = colour.shape[-2:]
        if min(height, width) < least:
            raise ValueError(f"{name} takes pictures from {least}×{least} up, got {height}×{width}")


class Critic(Discriminator):
    """WGAN's critic: the discriminator without its sigmoid, one score a picture, the mean of its map.

    The score is unbounded and higher for real pictures.

    Args:
        width: Scale of every layer, positive; 1.0 is the original.

    Raises:
        ValueError: `width` is not positive.

    Source:
        Arjovsky et al. 2017, "Wasserstein GAN".
    """

    def __init__(self, width: float = 1.0):
        super().__init__(width, sigmoid=False)

    def forward(self, colour: Tensor) -> Tensor:
        """Scores each picture.

        Args:
            colour: (B, 3, H, W), RGB in [0, 1]; H and W are 32 or more.

        Returns:
            (B,), unbounded.

        Raises:
            ValueError: The input has not three channels, or a side is under 32.
        """
        return self.score_map(colour).mean(dim=(1, 2, 3))


class LuminanceKept(nn.Module):
    """Keeps the luminance of the given gray: takes from the generator's colour its chroma alone.

    Args:
        generator: Gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB.
    """

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(self, gray: Tensor) -> Tensor:
        """Gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB in about [0, 1]."""
        return with_luminance(gray, self.generator(gray))


class MeanColour(nn.Module):
    """Makes colour of a generator's distribution: its mean chroma on the luminance of the given gray.

    Args:
        generator: Gray (B, 1, H, W) in [0, 1] → logits (B, COLOURS, H/2, W/2), as of `DistributionUNet`.
    """

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(self, gray: Tensor) -> Tensor:
        """Gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB in about [0, 1]."""
        return self.colour(gray, self.generator(gray))

    @staticmethod
    def colour(gray: Tensor, logits: Tensor) -> Tensor:
        """The mean chroma of logits that are known already, resized bicubically, on the luminance of `gray`.

        Args:
            gray: (B, 1, H, W) in [0, 1].
            logits: (B, COLOURS, h, w).

        Returns:
            Colour (B, 3, H, W), RGB in about [0, 1].
        """
        chroma = F.interpolate(palette.mean(logits.float().softmax(dim=1)), size=gray.shape[-2:], mode="bicubic")
        return with_chroma(gray, chroma)


def build_generator(
    architecture: str, width: float = 1.0, bounded: bool = False, dropout: float = 0.0, sizes: Sequence[int] = ()
) -> nn.Module:
    """A new generator by the name of its architecture.

    Args:
        architecture: A name in `ARCHITECTURES`: "unet" (GAN-L1, GAN-MSE), "wgan-unet" (WGAN), "distribution-unet" or
            "multiscale-unet".
        width: Scale of every layer, positive; 1.0 is the original.
        bounded: Ends in a sigmoid, which keeps the colour in [0, 1]; not for networks that predict a distribution.
        dropout: Share of features dropped at the end of the VGG blocks, in [0, 1]; not for "wgan-unet".
        sizes: The working sizes of a "multiscale-unet", where they are not its own; the others are built without.

    Returns:
        The network, with random weights from PyTorch's global generator.

    Raises:
        ValueError: There is no such architecture, it does not have the option, or `width` is not positive.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    entry = ARCHITECTURES[architecture]
    arguments: dict[str, Any] = {}
    for option, (argument, value) in {"bounded": ("bounded", bounded), "dropout": ("dropout_rate", dropout)}.items():
        if option in entry.options:
            arguments[argument] = value
        elif value:
            having = ", ".join(name for name, other in ARCHITECTURES.items() if option in other.options)
            raise ValueError(f"{architecture} cannot be built with {option}; the architectures that can: {having}")
    if entry.multiscale and sizes:
        arguments["sizes"] = tuple(sizes)
    return entry.network_class(width=width, **arguments)


def predicts_distribution(generator: nn.Module) -> bool:
    """Whether a generator returns logits of a distribution over the palette's colours in place of colour."""
    classes = [entry.network_class for entry in ARCHITECTURES.values() if entry.distribution]
    return isinstance(generator, tuple(classes))


def predictor(generator: nn.Module, keep_luminance: bool = False) -> nn.Module:
    """Wraps a generator so that it turns gray pictures into colour, whatever it returns itself.

    Args:
        generator: A network from `build_generator`.
        keep_luminance: Combine the generator's chroma with the given gray; a distribution's mean always is.

    Returns:
        A network gray (B, 1, H, W) → colour (B, 3, H, W): `MeanColour` where the generator predicts a distribution,
        else `LuminanceKept` where that is asked for, else the generator itself.
    """
    if predicts_distribution(generator):
        return MeanColour(generator)
    return LuminanceKept(generator) if keep_luminance else generator


def fuse_batch_norms(network: nn.Module) -> nn.Module:
    """A copy for prediction, in which each batch norm is fused into the convolution before it.

    In evaluation mode a batch norm is an affine map of each channel, γ (x − μ) / √(σ² + ε) + β, which a convolution's
    weights and bias can take in. This saves the U-Net 6 % of its time (256×256, width 1, two cores, channels-last).

    Args:
        network: A network whose batch norms follow their convolutions in an `nn.Sequential`; it stays as it is.

    Returns:
        The copy, in evaluation mode, with an `nn.Identity` where each fused batch norm was.
    """
    network = copy.deepcopy(network).eval()
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for (name, layer), (norm_name, norm) in pairwise(list(block.named_children())):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                setattr(block, name, fuse_conv_bn_eval(layer, norm, transpose=transposed))
                setattr(block, norm_name, nn.Identity())
    return network


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters of a network, each weight counted."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
