"""Checkpoint files: their kind, the plain state dict in them, the network that fits it, and how they are written.

`read_weights` turns a file into a plain state dict without ever running code from it; `load_file` builds the network
that the state dict fits; `save` writes safetensors with metadata, such as how the network was trained.
"""

import hashlib
import json
import os
import re
import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file
from torch import Tensor, nn

from colorize_utils import __version__
from colorize_utils.checkpoints.kind import file_kind
from colorize_utils.errors import CheckpointError
from colorize_utils.files import atomic_write
from colorize_utils.generator_registry import ARCHITECTURES
from colorize_utils.models import BASE_CHANNELS, build_generator, predictor

MAX_SIZE = 4096  # pixels a side, the largest working size accepted: no network here was trained at a quarter of it
RESAVE = "torch.save(model.state_dict(), 'weights.pth')"


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Weights:
    """What a checkpoint file holds.

    Attributes:
        state: A plain state dict, on the CPU.
        metadata: What the file says about itself, as JSON values; empty for what torch.save wrote.
    """

    state: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | os.PathLike[str], name: str | None = None) -> Weights:
    """The state dict in a file: safetensors, or what torch.save wrote, bare or wrapped.

    Nothing in the file is executed. A state dict is also found inside a dict, under `state_dict`, `model_state_dict`,
    `generator_state_dict`, `generator` or `model`; the prefixes `module.` (DataParallel) and `_orig_mod.`
    (torch.compile) are taken off its keys.

    Args:
        path: The file.
        name: What messages call it, by default its own name.

    Returns:
        The state dict, and the file's metadata.

    Raises:
        CheckpointError: The file is damaged, or holds a pickled module or anything else than tensors.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    name = name or path.name
    kind = file_kind(path, name)
    if kind == "onnx":
        raise CheckpointError(f"{name} is an exported network, which only predicts; give the checkpoint it is made of")
    if kind == "safetensors":
        try:
            return Weights(_plain_state(load_safetensors(path), name), _read_metadata(path))
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{name} is damaged or cut short ({error}); download it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are refused anyway, with a message of our own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        if (what := _more_than_weights(str(error))) is not None:
            raise CheckpointError(
                f"{name} holds more than weights ({what}); loading it could run code, so it is refused. "
                f"Its owner can save the weights alone: {RESAVE}"
            ) from error
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(f"{name} is damaged or cut short ({reason}); download it again") from error
    return Weights(_plain_state(content, name))


def _more_than_weights(message: str) -> str | None:
    """What a file holds besides weights, read from the message of torch.load that refuses it; None if it is damaged."""
    if "TorchScript" in message:
        return "a TorchScript program"
    if found := re.search(r"GLOBAL (\S+)", message):
        return found.group(1)
    # The opcodes of protocol 4, with which plain pickles begin and name classes; torch.save writes protocol 2.
    return "a pickle that torch.save did not write" if re.search(r"Unsupported operand 14[79]\b", message) else None


WRAPPINGS = ("generator_state_dict", "generator", "model_state_dict", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def _plain_state(content: object, name: str) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{name} holds no weights ({type(content).__name__}); save them with {RESAVE}")
    foreign = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise CheckpointError(f"{name} is no plain state dict (it holds {foreign[0]!r}); save it with {RESAVE}")
    odd = [key for key, value in content.items() if not _is_plain(value)]
    if odd:
        raise CheckpointError(
            f"{name} holds {odd[0]!r} as a sparse, quantized, complex or meta tensor, which no network here takes; "
            f"save plain weights with {RESAVE}"
        )
    return {_without_prefixes(key): value for key, value in content.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has a real number in memory for each of its elements, so that a network's can be set to it."""
    dense = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
    return dense and not tensor.is_complex()


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _read_metadata(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        raw = file.metadata() or {}
    parsed = {}
    for key, value in raw.items():
        try:
            parsed[key] = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            parsed[key] = value
    return parsed


# ---------------------------------------------------------------- building

_DISCRIMINATOR_LAYER = "layer1."


def identify(state: Mapping[str, Tensor]) -> tuple[str, float, bool] | None:
    """The generator that a state dict fits, recognised by its keys and shapes.

    The key of the first layer names the architecture, and that layer's output channels the width.

    Args:
        state: A plain state dict.

    Returns:
        (architecture, width, bounded), or None where the state dict fits no generator. Whether it is bounded shows in
        the keys of the WGAN U-Net alone; for the U-Net the file's metadata must say, and False stands here.
    """
    for name, architecture in ARCHITECTURES.items():
        layer = state.get(architecture.first_layer)
        if layer is not None and layer.ndim == 4 and len(layer):
            bounded = architecture.unbounded_key is not None and architecture.unbounded_key not in state
            return name, len(layer) / BASE_CHANNELS, bounded
    return None


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator from a checkpoint, and what is known of it.

    Attributes:
        network: The generator, in evaluation mode.
        architecture: Its name in `architectures.ARCHITECTURES`.
        width: Its width, relative to the submission's.
        size: The working size, pixels a side.
        name: What tables and messages call it.
        metadata: What the file says about itself, as JSON values.
        sha256: The file's hash, in hexadecimal digits.
    """

    network: nn.Module
    architecture: str
    width: float
    size: int
    name: str
    metadata: dict[str, Any]
    sha256: str = ""

    @property
    def predictor(self) -> nn.Module:
        """The network from gray to colour pictures, as it was trained: luminance is kept where the recipe says so."""
        recipe = self.metadata.get("recipe")
        return predictor(self.network, isinstance(recipe, dict) and bool(recipe.get("keep_luminance", False)))


def load_file(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    size: int | None = None,
    name: str | None = None,
    otherwise: int = 256,
) -> LoadedGenerator:
    """The generator in a checkpoint file, its architecture and width recognised from the file's keys and shapes.

    Args:
        path: The file.
        architecture: The name in `architectures.ARCHITECTURES` that it must have; None takes the one that fits.
        size: Overrides the working size, in pixels a side, which comes from the file's metadata, else is `otherwise`.
        name: What tables and messages call the generator, by default the file's name.
        otherwise: The working size where neither `size` nor the metadata says one.

    Returns:
        The generator in evaluation mode on the CPU, and what is known of it.

    Raises:
        CheckpointError: The file cannot be read, holds weights that are not finite or a working size that is no size,
            or fits another network: the message names the first keys that differ, and the architecture that fits.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    weights = read_weights(path)
    found = identify(weights.state)
    wanted = architecture or (found[0] if found else "unet")
    if found is None or found[0] != wanted:
        raise CheckpointError(_misfit(path.name, weights.state, wanted, found))
    _, width, bounded = found
    if "bounded" in ARCHITECTURES[wanted].options:
        bounded = bounded or bool(weights.metadata.get("bounded", False))
    network = build_generator(wanted, width, bounded)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.state.items()}
    if expected != given:
        raise CheckpointError(f"{path.name} does not fit {wanted} at width {width:g}: {_difference(expected, given)}")
    network.load_state_dict(weights.state, strict=True)
    if not all(value.isfinite().all() for value in network.state_dict().values() if value.is_floating_point()):
        raise CheckpointError(f"{path.name} holds NaN or infinite weights: the run that wrote it diverged; use another")
    size = size or weights.metadata.get("size") or otherwise
    for one in (size, *getattr(network, "side_lengths", ())):
        if not isinstance(one, int) or not 0 < one <= MAX_SIZE:
            raise CheckpointError(
                f"{path.name} says that its working size is {reprlib.repr(one)}: its metadata is damaged"
            )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return LoadedGenerator(network.eval(), wanted, width, size, name or path.name, weights.metadata, digest)


def _misfit(name: str, state: Mapping[str, Tensor], wanted: str, found: tuple[str, float, bool] | None) -> str:
    expected = {key: tuple(value.shape) for key, value in build_generator(wanted).state_dict().items()}
    difference = _difference(expected, {key: tuple(value.shape) for key, value in state.items()})
    if found:
        fits = f"it fits {found[0]} at width {found[1]:g}"
    elif any(key.startswith(_DISCRIMINATOR_LAYER) for key in state):
        fits = "it is a discriminator or critic; give the generator's checkpoint"
    else:
        fits = f"it fits none of {', '.join(ARCHITECTURES)}"
    return f"{name} is not a checkpoint of {wanted}: {difference}; {fits}"


def _difference(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], most: int = 3) -> str:
    """Which keys are missing, unexpected or of another shape: the first `most` of each."""

    def some(keys: list[str]) -> str:
        return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")

    missing = [key for key in expected if key not in given]
    surplus = [key for key in given if key not in expected]
    shaped = [
        f"{key} {given[key]} not {expected[key]}" for key in expected if key in given and given[key] != expected[key]
    ]
    parts = {"missing": missing, "unexpected": surplus, "of another shape": shaped}
    return "; ".join(f"{what} {some(keys)}" for what, keys in parts.items() if keys)


# ---------------------------------------------------------------- writing


def versions() -> dict[str, str]:
    """The versions of this package and of the libraries that influence training, by name.

    They are written into a checkpoint's metadata and shown at the top of a notebook.
    """
    names = ("torch", "torchvision", "numpy", "pillow")
    return {"colorize_utils": __version__} | {name: package_metadata.version(name) for name in names}


def save(path: str | os.PathLike[str], network: nn.Module, metadata: Mapping[str, object], half: bool = False) -> Path:
    """Writes a network's state dict as safetensors, atomically.

    Args:
        path: The file.
        network: The network, on any device.
        metadata: JSON values; `load_generator` reads `size` and `bounded` from them. The versions in use are added,
            unless it has those of its training.
        half: Whether floats are stored in 16 bits, which halves the file.

    Returns:
        `path`.

    Raises:
        OSError, SafetensorError: The file cannot be written.
    """
    path = Path(path)
    state = {}
    for key, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        state[key] = value.half() if half and value.is_floating_point() else value
    header = {key: json.dumps(value) for key, value in {"versions": versions(), **metadata}.items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata=header)
    return path
