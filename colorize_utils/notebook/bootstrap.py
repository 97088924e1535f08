"""The first thing that a notebook calls: what is missing is installed, and what there is is told.

Only the standard library is imported here, since nothing else may be there yet.
"""

import os
import subprocess
import sys
import tempfile
from importlib import invalidate_caches, metadata
from importlib.util import find_spec
from pathlib import Path

from colorize_utils import __version__

# Of each requirement the module that it brings. A test compares them with requirements.txt.
MODULES = {
    "gdown": "gdown",
    "ipywidgets": "ipywidgets",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pillow": "PIL",
    "platformdirs": "platformdirs",
    "pytorch-msssim": "pytorch_msssim",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "torch": "torch",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
}


def on_colab() -> bool:
    """Whether this is a runtime of Google Colab."""
    return "google.colab" in sys.modules


def prepare() -> None:
    """Installs the packages that are missing, moves none that is there, and prints what the notebook runs on. On a CPU,
    has the process keep freed memory, without which everything takes longer (devices.py).

    Where a package cannot be had, says which and goes on: colorizing needs fewer than training.
    """
    missing = [package for package, module in MODULES.items() if find_spec(module) is None]
    if missing and not _install(missing):
        print(f"missing, and could not be installed: {', '.join(missing)}; what needs them will say so")
    print(f"colorize_utils {__version__} from {_place()}")
    print(f"Python {sys.version.split()[0]}, ", end="")
    if find_spec("torch") is None:
        print("no torch")
        return
    import torch

    from colorize_utils.devices import choose_device, keep_freed_memory

    device = choose_device()
    if device.type == "cpu":
        keep_freed_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"torch {torch.__version__}, on {device.type} ({name})")


def _place() -> str:
    """The package's folder, as seen from the working folder where that is possible: on one drive."""
    folder = Path(__file__).parent.parent
    try:
        return os.path.relpath(folder)
    except ValueError:
        return str(folder)


def _install(packages: list[str]) -> bool:
    """Whether pip could install `packages` with every distribution that is there held at its version."""
    held = {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in held.items()), encoding="utf-8")
        # One retry: without network the answer would otherwise take a minute.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        done = subprocess.run([*pip, "-c", str(constraints), *packages], stderr=subprocess.DEVNULL)
    invalidate_caches()
    return done.returncode == 0
