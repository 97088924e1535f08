"""What the machine offers: the device, and the precision that is fast and safe on it."""

import functools
import os
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from colorize_utils.errors import DeviceError

BF16_CAPABILITY = 8  # compute capability from which bf16 is real: a T4 (7.5) claims it and emulates it slowly
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# Parts of the names of those values of ONEDNN_MAX_CPU_ISA that leave bf16 in.
_WITH_BF16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else CUDA, else Apple's MPS, else the CPU.

    Args:
        device: The device asked for, by name or as an object; None chooses the fastest kind that is there.

    Returns:
        A device that exists on this machine.

    Raises:
        DeviceError: The device asked for does not exist here.
    """
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"there is no device {str(device)!r} here; leave it out, or take cpu") from error
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@functools.cache
def has_bf16() -> bool:
    """Whether this machine's CPU has bf16 in hardware; elsewhere it is emulated, slower than fp32.

    Returns:
        True on x86 with AVX-512 BF16, which processors with AMX have, too, and on ARM with BF16; False where
        ONEDNN_MAX_CPU_ISA keeps oneDNN, which convolves, from using it.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        bound = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
        return torch.cpu._is_avx512_bf16_supported() and any(name in bound for name in _WITH_BF16)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # on ARM asks for the instructions


def choose_precision(device: torch.device, has_discriminator: bool = False) -> str:
    """The precision that is fast and safe to train in on a device.

    On CUDA that is bf16 from compute capability 8, fp16 below. On a CPU with bf16 in hardware it is bf16 beside a
    discriminator: a GAN-L1 step was 1.4 times (64×64, a quarter of the width) to 2.2 times (128×128, full width) as
    fast, and short runs came out as good (docs/speed.md). A critic's step gains less, because most of it is the
    gradient penalty, which is computed in fp32; how other recipes come out was not tried. Elsewhere it is fp32.

    Args:
        device: Where the networks are.
        has_discriminator: Whether a discriminator is trained, too; a critic is none.

    Returns:
        "fp32", "bf16" or "fp16".
    """
    if device.type == "cpu" and has_discriminator and has_bf16():
        return "bf16"
    if device.type != "cuda":
        return "fp32"
    major, _ = torch.cuda.get_device_capability(device)
    return "bf16" if major >= BF16_CAPABILITY else "fp16"


def has_room_for(count: int, device: torch.device) -> bool:
    """Whether data may be kept on a device: it takes less than a quarter of the free memory of a CUDA device.

    Args:
        count: The size of the data in bytes.
        device: Where the data would be kept.

    Returns:
        True where there is room; always False on a device other than CUDA.
    """
    return device.type == "cuda" and count < torch.cuda.mem_get_info(device)[0] / 4


class Precision:
    """Mixed precision: `autocast` around the forward passes, `backward` and `step` in place of PyTorch's own.

    In fp16 a loss must be scaled up, because small gradients would underflow to zero. Where the scaled gradients
    overflow, that one step is skipped and the scale is lowered: this is part of the method, not a divergence. Each
    optimizer has a gradient scaler of its own, under a name, because their losses differ in size. In fp32 and bf16 all
    methods work, and nothing is scaled.

    Args:
        device: Where the networks are.
        precision: One of `PRECISIONS`; "auto" takes `choose_precision`.
        has_discriminator: Whether a discriminator is trained, for "auto".

    Attributes:
        device: As given.
        name: The precision in use: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: `precision` is none of `PRECISIONS`.
    """

    def __init__(self, device: torch.device, precision: str = "auto", has_discriminator: bool = False):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        self.device = device
        self.name = choose_precision(device, has_discriminator) if precision == "auto" else precision
        self._scalers: dict[str, torch.amp.GradScaler] = {}

    def autocast(self) -> AbstractContextManager[object]:
        """A block in which forward passes and losses are computed in this precision."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self, name: str) -> torch.amp.GradScaler:
        """The gradient scaler of the optimizer called `name`, made at its first use; it is off except in fp16."""
        if name not in self._scalers:
            self._scalers[name] = torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
        return self._scalers[name]

    def backward(self, loss: Tensor, name: str) -> None:
        """Adds a loss's gradients, scaled where that is needed, to those that the parameters have.

        Args:
            loss: A scalar, differentiable in the network's weights.
            name: The optimizer that will make the step with these gradients.
        """
        self.scaler(name).scale(loss).backward()

    def step(self, optimizer: Optimizer, name: str) -> None:
        """One step with the gradients that `backward` gathered, which are cleared; skipped where they overflowed.

        Args:
            optimizer: What makes the step.
            name: Its name, as given to `backward`.
        """
        scaler = self.scaler(name)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The state of each gradient scaler by its optimizer's name."""
        return {name: scaler.state_dict() for name, scaler in self._scalers.items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Puts the gradient scalers where `state_dict` found them.

        Args:
            state: What `state_dict` gave.
        """
        for name, scaler_state in state.items():
            if scaler_state:  # empty where scaling is off
                self.scaler(name).load_state_dict(scaler_state)


class frozen:
    """A block in which a network passes gradients on to its input but computes none for its own weights.

    That spares half of the network's backward pass.

    Args:
        network: What is frozen; None freezes nothing.

    Attributes:
        parameters: What is switched off, and switched on again at the block's end: the trainable parameters.
    """

    def __init__(self, network: nn.Module | None):
        parameters = () if network is None else network.parameters()
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)
