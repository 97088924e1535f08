"""Weights: where they come from (hub.py, huggingface.py), of what kind (kind.py), how they are read (state.py)."""

from typing import TYPE_CHECKING

from colorize_utils.lazy import from_rooms

if TYPE_CHECKING:
    from colorize_utils.checkpoints.hub import (
        BUNDLED,
        DEFAULT,
        REGISTRY,
        RegistryEntry,
        exported,
        fetch,
        load_generator,
        release,
        verify,
    )
    from colorize_utils.checkpoints.kind import file_kind
    from colorize_utils.checkpoints.state import (
        LoadedGenerator,
        Weights,
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
    "exported",
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

__getattr__ = from_rooms(
    __name__,
    {
        "BUNDLED": "hub",
        "DEFAULT": "hub",
        "REGISTRY": "hub",
        "LoadedGenerator": "state",
        "RegistryEntry": "hub",
        "Weights": "state",
        "exported": "hub",
        "fetch": "hub",
        "file_kind": "kind",
        "identify": "state",
        "load_file": "state",
        "load_generator": "hub",
        "read_weights": "state",
        "release": "hub",
        "save": "state",
        "verify": "hub",
        "versions": "state",
    },
)
