"""What the machine offers: the device, and the precision that is fast and safe on it."""

import ctypes
import functools
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from colorize_utils.errors import DeviceError

BF16_CAPABILITY = 8  # compute capability from which bf16 is real: a T4 (7.5) claims it and emulates it slowly
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else CUDA, else Apple's MPS, else the CPU.

    Raises DeviceError where the one asked for is not there.
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


def choose_precision(device: torch.device) -> str:
    """bf16 from compute capability 8, fp16 below, fp32 where there is no CUDA."""
    if device.type != "cuda":
        return "fp32"
    major, _ = torch.cuda.get_device_capability(device)
    return "bf16" if major >= BF16_CAPABILITY else "fp16"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device or of the machine did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(phrase in str(error).lower() for phrase in ("out of memory", "can't allocate"))  # MPS, CPU


@functools.cache
def keep_freed_memory() -> bool:
    """Has the C library keep the memory that tensors free for the tensors to come; False where it cannot be told.

    glibc returns large blocks to the kernel at once and has it hand out zeroed pages for the next ones: with that, a
    GAN step at 128×128 took 1.6 times as long, and a U-Net's prediction at 256×256 1.2 times (two cores, width 1). It
    holds for the whole process from then on, which therefore keeps what it has needed at its peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    # One store for all threads: of their own they would each keep the memory of the largest picture that they had.
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, -1) and mallopt(m_arena_max, 1))


def has_room_for(count: int, device: torch.device) -> bool:
    """Whether `count` bytes are less than a quarter of what a CUDA device has free; False elsewhere."""
    return device.type == "cuda" and count < torch.cuda.mem_get_info(device)[0] / 4


class Precision:
    """Mixed precision behind two names: `autocast()` around the forward passes, `step` in place of backward and step.

    fp16 needs its loss scaled up, lest small gradients vanish; where scaling overflows, that one step is left out and
    the scale lowered, which is part of the method and no divergence. Each optimizer has a scaler of its own, because
    their losses differ in size.
    """

    def __init__(self, device: torch.device, precision: str = "auto"):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        self.device = device
        self.name = choose_precision(device) if precision == "auto" else precision
        self._scalers: dict[str, torch.amp.GradScaler] = {}

    def autocast(self) -> AbstractContextManager[object]:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self, name: str) -> torch.amp.GradScaler:
        if name not in self._scalers:
            self._scalers[name] = torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
        return self._scalers[name]

    def backward(self, loss: Tensor, name: str) -> None:
        self.scaler(name).scale(loss).backward()

    def step(self, optimizer: Optimizer, name: str) -> None:
        scaler = self.scaler(name)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        return {name: scaler.state_dict() for name, scaler in self._scalers.items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        for name, scaler_state in state.items():
            if scaler_state:  # empty where scaling is off
                self.scaler(name).load_state_dict(scaler_state)


class frozen:
    """Within the block a network passes gradients on but gathers none of its own, which spares half of its backward."""

    def __init__(self, network: nn.Module | None):
        parameters = () if network is None else network.parameters()
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)
