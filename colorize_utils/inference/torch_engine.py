"""PyTorch as an engine: any network, on any device, in any precision."""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from colorize_utils.devices import choose_device
from colorize_utils.errors import DeviceError
from colorize_utils.inference.engines import PRECISIONS
from colorize_utils.inference.precision import choose_precision, convolve_in_bf16
from colorize_utils.inference.prediction import Prediction
from colorize_utils.models import MeanColour, fuse_batch_norms

_DEVICES = {"int8": ("cpu",), "bf16": ("cpu", "cuda")}  # that can compute in it; fp32 all can


class _Shares:
    """Shares the cores among the threads that colorize, by setting the number of PyTorch's own threads.

    That number is the whole process's, so the workers of all blocks of `Colorizer.shared_by` are counted together,
    whichever colorizer they belong to and however they overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers = 0
        self._threads = 0  # PyTorch's number of threads before the first block began

    def enter(self, workers: int) -> None:
        with self._lock:
            if not self._workers:
                self._threads = torch.get_num_threads()
            self._workers += workers
            torch.set_num_threads(max(1, self._threads // self._workers))

    def leave(self, workers: int) -> None:
        with self._lock:
            self._workers -= workers
            # At the end of every block, not only of the last: PyTorch also keeps a number for each thread, so this
            # thread gets the old one back, while threads that colorize in other blocks keep their share.
            torch.set_num_threads(self._threads)


_SHARES = _Shares()


class TorchEngine:
    """A network, copied and made ready; `engines.Engine` says what it offers.

    Args:
        network: Gray (B, 1, H, W) → colour (B, 3, H, W), both in [0, 1], or a distribution over colours (palette.py);
            it is copied to `device`, its batch norms fused.
        size: Its working size, pixels a side of a square.
        device: Where it computes; by default the fastest device there is, for int8 the CPU.
        precision: As in `Colorizer`.

    Attributes:
        network: What is asked: an `AveragedDistribution`, or the network that is ready.

    Raises:
        ValueError: `precision` is none of `PRECISIONS`.
        DeviceError: The device is not there, or the precision cannot be used on it.
    """

    def __init__(
        self, network: nn.Module, size: int, device: str | torch.device | None = None, precision: str = "auto"
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.device = torch.device("cpu") if precision == "int8" and device is None else choose_device(device)
        if self.device.type not in _DEVICES.get(precision, (self.device.type,)):
            able = " or ".join(_DEVICES[precision])
            raise DeviceError(f"{precision} computes on {able}, not on {self.device}; leave out one of the two")
        bare = network.generator if isinstance(network, MeanColour) else network
        assert isinstance(bare, nn.Module)
        self.precision = choose_precision(bare, size, self.device) if precision == "auto" else precision
        # Channels-last saves the U-Net 17 % of its time (256×256, width 1, two cores); on MPS it was not tried.
        layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last

        def prepare(network: nn.Module, size: int) -> nn.Module:
            if self.precision == "int8":
                from colorize_utils.inference.quantization import Int8Network  # and with it what it calibrates with

                return Int8Network(network, size)
            ready = fuse_batch_norms(network)
            if self.precision == "bf16":
                ready = convolve_in_bf16(ready)
            return ready.to(self.device).to(memory_format=layout)

        self._prediction = Prediction(bare, size, prepare)
        if self._prediction.judge is not None:
            self._prediction.judge.to(self.device)
        self.network = self._prediction.network
        self.size = size
        self.has_distribution = self._prediction.has_distribution
        self.takes_hints = self._prediction.takes_hints
        self.judged_side = self._prediction.judged_side
        self.can_be_shared = self.device.type == "cpu" and self.precision != "int8"  # whose engine has its own threads

    @torch.inference_mode()
    def predict(self, wanted: Sequence[str], gray: np.ndarray, hints: np.ndarray | None = None) -> list[np.ndarray]:
        """As `Engine.predict`."""
        asked = [torch.from_numpy(planes).to(self.device) for planes in (gray, hints) if planes is not None]
        found = self._prediction(asked[0], asked[1] if len(asked) > 1 else None, wanted=wanted)
        return [output.cpu().numpy() for output in found]

    @torch.inference_mode()
    def unfamiliarity(self, judged: np.ndarray) -> float:
        """As `Engine.unfamiliarity`."""
        return float(self._prediction.unfamiliarity(torch.from_numpy(judged).to(self.device)))

    def share(self, workers: int) -> None:
        """As `Engine.share`; PyTorch's number of threads is the whole process's."""
        _SHARES.enter(workers)

    def unshare(self, workers: int) -> None:
        """As `Engine.unshare`; when all have left, PyTorch's number of threads is what it was."""
        _SHARES.leave(workers)
