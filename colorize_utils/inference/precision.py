"""The precision of prediction: which one a network is computed in, and how a network is made ready for bf16.

bf16 keeps float32's range and 8 bits of its precision. Processors that have it multiply twice as many numbers at a
time, and half as many bytes are moved.
"""

import copy
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from colorize_utils.colour import unit
from colorize_utils.data import sample_photograph
from colorize_utils.devices import has_bf16
from colorize_utils.models import count_parameters, fuse_batch_norms, predicts_distribution

# Parameters times pixels from which `auto` takes bf16. A U-Net of an eighth of the width at 256×256, or of half the
# width at 64×64, lies just above it; in bf16 it is 1.5 times as fast (one core with AVX-512 BF16). Far below it layers
# are so small that bf16 gains nothing. tests/benchmarks/precision.py prints the table.
LEAST_WORK = 3e10
MOST_MOVED = 0.5  # levels that bf16 may move a colour by: an 8-bit one then moves by one at most


def choose_precision(network: nn.Module, size: int, device: torch.device) -> str:
    """The precision that `auto` stands for: bf16 where it is faster and does not show, else fp32.

    It is faster on a CPU that has it in hardware, for a network of at least `LEAST_WORK` parameters times pixels; on
    GPUs `auto` is fp32. Whether it shows depends on the weights, and is tried (`moves_by`): rounding moves the colours
    of one network by a tenth of a level, and those of another, whose layers subtract large numbers from each other, by
    ten. A predicted distribution passes through an exponential, too: the bundled network's colours moved by up to three
    levels. Distributions therefore stay in fp32.

    Args:
        network: The generator, gray (B, 1, H, W) → colour or a distribution over colours.
        size: Its working size, pixels a side of a square.
        device: Where it is computed.

    Returns:
        "fp32" or "bf16".
    """
    is_large = count_parameters(network) * size**2 >= LEAST_WORK
    if device.type != "cpu" or predicts_distribution(network) or not (is_large and has_bf16()):
        return "fp32"
    return "bf16" if moves_by(network, size) <= MOST_MOVED else "fp32"


@torch.inference_mode()
def moves_by(network: nn.Module, size: int) -> float:
    """By how many levels of 255 bf16 moves a network's colours at most, on the sample photograph.

    Args:
        network: The generator, gray (B, 1, H, W) → colour; it stays as it is.
        size: Its working size; the photograph is no larger than 128×128, to be quick.

    Returns:
        The largest difference from fp32; infinite where an output is NaN.
    """
    side = 64 if size < 128 else 128
    photograph = sample_photograph().resize((side, side), Image.Resampling.BILINEAR)
    gray = unit(torch.from_numpy(np.array(photograph)))[None, None]
    exact = fuse_batch_norms(network).cpu().to(memory_format=torch.channels_last)
    difference = exact(gray) - convolve_in_bf16(copy.deepcopy(exact))(gray)
    moved = 255 * difference.abs().max().item()
    return moved if math.isfinite(moved) else math.inf


def convolve_in_bf16(network: nn.Module) -> nn.Module:
    """Makes a network compute in bf16, all but its first convolution and its last.

    The first takes gray, whose 256 levels bf16 does not tell apart; what the last gives is the colour. They take little
    time, and in fp32 they bring the pictures of trained networks 1 to 3 dB nearer.

    The weights are rounded once, here. A convolution takes its input in the type of its weights, and what lies between
    two convolutions is computed in the type that comes to it. Input and output stay float32.

    Args:
        network: The generator, its batch norms fused; it is changed.

    Returns:
        The same network.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for layer in layers[1:-1]:
        layer.to(torch.bfloat16)
    for layer in layers:
        layer.register_forward_pre_hook(_in_type_of_weights)
    return network


def _in_type_of_weights(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = next(layer.parameters()).dtype
    return tuple(features.to(dtype) for features in inputs)
