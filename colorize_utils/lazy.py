"""Packages that hand on the names of their rooms, each imported when its first name is used.

So a package may have rooms that need PyTorch beside rooms that do not.
"""

from collections.abc import Callable, Mapping
from importlib import import_module


def from_rooms(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Makes a package's `__getattr__` (PEP 562).

    Args:
        package: The package's name.
        homes: Name → the room, relative to the package, that it is from.

    Returns:
        A function that finds a name, and raises an AttributeError for one that the package does not have.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
