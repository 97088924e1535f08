"""What `Colorizer` asks of an engine, whichever it is: PyTorch (torch_engine.py) or ONNX Runtime (onnx_engine.py).

Which one a checkpoint gets (`choose_engine`):

- ONNX Runtime, where the checkpoint exists as an exported file, is to be computed in fp32 on the CPU, and PyTorch is
  not loaded in this process. So the command line, folders and the page do without PyTorch.
- PyTorch otherwise. So in notebooks, in training and in scores there is one engine.

The two agree to one level of 255.
"""

import sys
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from colorize_utils.errors import DeviceError
from colorize_utils.machine import has_torch

ENGINES = ("auto", "onnx", "torch")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


@runtime_checkable
class Engine(Protocol):
    """A network that is ready to predict; arrays in, arrays out.

    Several threads may call `predict` at once within a block of `share` and `unshare`.

    Attributes:
        size: The working size, pixels a side of a square.
        has_distribution: Whether the network predicts a distribution over colours.
        takes_hints: Whether it can be given the colours of places.
        judged_side: The side of the square that "unfamiliarity" is meant for; 0 where it cannot be told.
        device: Where it computes; `str` makes "cpu", "cuda" … of it.
        precision: "fp32", "bf16" or "int8".
        can_be_shared: Whether `share` has an effect.
    """

    size: int
    has_distribution: bool
    takes_hints: bool
    judged_side: int
    device: Any
    precision: str
    can_be_shared: bool

    def predict(self, wanted: Sequence[str], gray: np.ndarray, hints: np.ndarray | None = None) -> list[np.ndarray]:
        """Predicts what is wanted.

        Args:
            wanted: Names of outputs (inference/prediction.py).
            gray: (B, 1, h, w) float32 in [0, 1], even sides.
            hints: (B, 3, h, w) float32; by default none.

        Returns:
            What is wanted, in that order, float32.
        """
        ...

    def unfamiliarity(self, judged: np.ndarray) -> float:
        """How strange a picture is to the network.

        Args:
            judged: (1, 1, S, S) float32 in [0, 1], the picture squashed to a square of `judged_side`, which is not 0.

        Returns:
            A number in [0, 1].
        """
        ...

    def share(self, workers: int) -> None:
        """Gives each of so many more threads its share of the cores."""
        ...

    def unshare(self, workers: int) -> None:
        """Takes `share` back."""
        ...


def choose_engine(engine: str, exported: bool, device: object = None, precision: str = "auto") -> str:
    """The engine for a checkpoint.

    Args:
        engine: One of `ENGINES`; "auto" follows the rule above.
        exported: Whether the checkpoint exists as an exported file.
        device: The device asked for; None where none is.
        precision: The precision asked for.

    Returns:
        "onnx" or "torch".

    Raises:
        ValueError: `engine` or `precision` is none.
        DeviceError: ONNX Runtime is asked for what it does not do here.
    """
    for name, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    beyond = [precision] * (precision not in ("auto", "fp32")) + [str(device)] * (device is not None)
    beyond = [one for one in beyond if one != "cpu"]
    if engine == "onnx" and beyond:
        raise DeviceError(f"the engine onnx computes in fp32 on the CPU, not in {beyond[0]}; leave out one of the two")
    if engine != "auto":
        return engine
    return "onnx" if exported and not beyond and not ("torch" in sys.modules and has_torch()) else "torch"
