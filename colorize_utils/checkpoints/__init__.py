"""Weights: where they come from (hub.py, huggingface.py), and how they are read, recognised and written (state.py)."""

from colorize_utils.checkpoints.hub import (
    BUNDLED,
    DEFAULT,
    REGISTRY,
    RegistryEntry,
    fetch,
    load_generator,
    release,
    verify,
)
from colorize_utils.checkpoints.state import (
    LoadedGenerator,
    Weights,
    file_kind,
    identify,
    load_file,
    read_weights,
    save,
    versions,
)

__all__ = [
    "BUNDLED",
    "DEFAULT",
    "REGISTRY",
    "LoadedGenerator",
    "RegistryEntry",
    "Weights",
    "fetch",
    "file_kind",
    "identify",
    "load_file",
    "load_generator",
    "read_weights",
    "release",
    "save",
    "verify",
    "versions",
]
