"""The precision of prediction: which one a network is computed in, and how a network is made ready for bf16.

bf16 keeps float32's range and 8 bits of its precision. Processors that have it multiply twice as many numbers at a
time, and half as many bytes are moved.
"""

import torch
from torch import Tensor, nn

from colorize_utils.devices import has_bf16
from colorize_utils.models import count_parameters, predicts_distribution

PRECISIONS = ("auto", "fp32", "bf16", "int8")
# Parameters times pixels from which `auto` takes bf16. A U-Net of an eighth of the width at 256×256, or of half the
# width at 64×64, lies just above it; in bf16 it is 1.5 times as fast (one core with AVX-512 BF16). Far below it layers
# are so small that bf16 gains nothing. tests/benchmarks/precision.py prints the table.
LEAST_WORK = 3e10


def choose_precision(network: nn.Module, size: int, device: torch.device) -> str:
    """The precision that `auto` stands for: bf16 where it is faster and no picture shows it, else fp32.

    It is faster on a CPU that has it in hardware, for a network of at least `LEAST_WORK` parameters times pixels. It
    does not show in a predicted colour, which moves by one level of 255 at most. A predicted distribution passes
    through an exponential: the bundled network's colours moved by up to three levels, so that distributions stay in
    fp32. On GPUs it is fp32, too.

    Args:
        network: The generator, gray (B, 1, H, W) → colour or a distribution over colours.
        size: Its working size, pixels a side of a square.
        device: Where it is computed.

    Returns:
        "fp32" or "bf16".
    """
    is_large = count_parameters(network) * size**2 >= LEAST_WORK
    gains = device.type == "cpu" and is_large and has_bf16()
    return "bf16" if gains and not predicts_distribution(network) else "fp32"


def convolve_in_bf16(network: nn.Module) -> nn.Module:
    """Makes a network compute in bf16, all but its last convolution, whose result is the colour.

    The weights are rounded once, here. A convolution takes its input in the type of its weights, and what lies between
    two convolutions is computed in the type that comes to it. Input and output stay float32.

    Args:
        network: The generator, its batch norms fused; it is changed.

    Returns:
        The same network.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for layer in layers[:-1]:
        layer.to(torch.bfloat16)
    for layer in layers:
        layer.register_forward_pre_hook(_in_type_of_weights)
    return network


def _in_type_of_weights(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = next(layer.parameters()).dtype
    return tuple(features.to(dtype) for features in inputs)
