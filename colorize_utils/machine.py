"""What the machine offers to every process, with PyTorch or without: cores, memory, packages."""

import ctypes
import functools
import os
import platform
from importlib.util import find_spec

from colorize_utils.errors import PackageError


def has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    return find_spec("torch") is not None


def require_torch(purpose: str) -> None:
    """Checks that PyTorch is installed, which the light installation lacks.

    Args:
        purpose: What needs it, for the error.

    Raises:
        PackageError: It is not.
    """
    if not has_torch():
        raise PackageError(f'{purpose} needs PyTorch: pip install "colorize_utils[train]", or ".[train]" in its folder')


def usable_cores() -> int:
    """Counts the cores for this process.

    Returns:
        The number of cores that it may use; in a container or a cluster's job often fewer than there are.
    """
    if hasattr(os, "process_cpu_count"):  # from Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine ran out of memory.

    Args:
        error: Any exception. PyTorch has a type of its own for CUDA alone; elsewhere its message tells,
            and ONNX Runtime's.

    Returns:
        True for an error of memory, False for any other.
    """
    # PyTorch's own type is known by its name, because PyTorch may not be there.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    phrases = ("out of memory", "can't allocate", "failed to allocate", "bad_alloc")
    return any(phrase in str(error).lower() for phrase in phrases)


@functools.cache
def keep_freed_memory() -> bool:
    """Makes the C library keep the memory that tensors free, and reuse it for the tensors to come.

    By default, glibc returns a large block to the kernel as soon as it is freed, and the kernel hands out zeroed pages
    for the next one: that made a GAN step at 128×128 take 1.6 times as long, and a U-Net's prediction at 256×256 1.2
    times (two cores, width 1). The setting holds for the whole process from then on, which therefore keeps as much
    memory as it has needed at its peak.

    Returns:
        Whether the setting was made; False where the C library is not glibc, or refuses it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    # One arena for all threads: with arenas of their own, each would keep the memory of its largest picture.
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, -1) and mallopt(m_arena_max, 1))
