"""A notebook's set-up, which its first cell calls: installs missing packages and prints what the notebook runs on.

Only the standard library is imported at the top, because nothing else may be installed yet.
"""

import os
import subprocess
import sys
import tempfile
from importlib import invalidate_caches, metadata
from importlib.util import find_spec
from pathlib import Path

from colorize_utils import __version__

# What notebooks need → the module by which it is imported. A test compares it with requirements.txt, of which they need
# neither the runner of tests nor ONNX Runtime.
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
    """Whether this process runs in Google Colab."""
    return "google.colab" in sys.modules


def prepare() -> None:
    """Installs missing packages, and prints the versions and the device that the notebook runs on.

    Packages that are installed keep their versions. If a package cannot be installed, its name is printed and the
    notebook goes on, because colorizing needs fewer packages than training. On a CPU, the process is set to keep freed
    memory, without which everything takes longer (devices.py).
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

    from colorize_utils.devices import choose_device
    from colorize_utils.machine import keep_freed_memory

    device = choose_device()
    if device.type == "cpu":
        keep_freed_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"torch {torch.__version__}, on {device.type} ({name})")


def _place() -> str:
    """The package's folder, relative to the working folder; absolute where it lies on another drive."""
    folder = Path(__file__).parent.parent
    try:
        return os.path.relpath(folder)
    except ValueError:
        return str(folder)


def _install(packages: list[str]) -> bool:
    """Installs packages by pip, with every installed distribution held at its version; False where that fails."""
    held = {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in held.items()), encoding="utf-8")
        # One retry alone: without a network, pip's usual number would take a minute.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        done = subprocess.run([*pip, "-c", str(constraints), *packages], stderr=subprocess.DEVNULL)
    invalidate_caches()
    return done.returncode == 0
