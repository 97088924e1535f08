"""A bare network as a file for ONNX Runtime, from which int8 is made; export.py writes the whole of prediction."""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from colorize_utils.errors import DeviceError
from colorize_utils.files import atomic_write
from colorize_utils.generator_registry import HINT_CHANNELS
from colorize_utils.models import POOLINGS, fuse_batch_norms
from colorize_utils.multiscale import MultiscaleUNet

INPUTS = ("gray", "hints")  # of an exported network, the second where it takes hints
MOST_PICTURES = 1024  # in a batch
MOST_POOLED = 1024  # pixels a side after all poolings


def export_onnx(network: nn.Module, path: Path) -> None:
    """Writes a generator as an ONNX file, in fp32, its batch norms fused.

    Its input is called `gray`: (B, 1, H, W) in [0, 1], float32, B ≤ `MOST_PICTURES`, H and W multiples of 32. That of a
    `MultiscaleUNet` has `hints` beside it, (B, 3, H, W). Its output is called `output`: the generator's, colour or a
    distribution's logits.

    Args:
        network: The generator; it stays as it is.
        path: The file to write or replace.

    Raises:
        DeviceError: A package is not installed that exporting needs.
    """
    require_packages("ONNX", "onnx", "onnxscript")
    multiple = 2**POOLINGS
    shape = {0: torch.export.Dim("pictures", max=MOST_PICTURES)}
    shape |= {axis: multiple * torch.export.Dim(name, max=MOST_POOLED) for axis, name in ((2, "rows"), (3, "columns"))}
    names = INPUTS[: 1 + isinstance(network, MultiscaleUNet)]
    example = [torch.rand(2, channels, 2 * multiple, 3 * multiple) for channels in (1, HINT_CHANNELS)[: len(names)]]
    with atomic_write(path) as temporary, silence():
        torch.onnx.export(
            fuse_batch_norms(network).cpu(),
            tuple(example),
            temporary,
            input_names=list(names),
            output_names=["output"],
            dynamic_shapes=[shape] * len(names),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def require_packages(purpose: str, *packages: str) -> None:
    """Checks that packages of the extra `int8` are installed.

    Args:
        purpose: What needs them, for the error.
        *packages: Their names.

    Raises:
        DeviceError: One is not installed; the message names it.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DeviceError(
                f"{purpose} needs the package {error.name}; pip install onnx onnxruntime onnxscript, "
                f"or go on without {purpose}"
            ) from error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Silences the exporter and the quantizer within the block: they print, warn and log about their own workings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
