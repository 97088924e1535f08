"""What the command line loads for one picture, and how."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from colorize_utils.cli import options

ONE_PICTURE = """
import gc, sys
from colorize_utils.cli import main
assert main([*sys.argv[1:], "--quiet"]) == 0
assert gc.isenabled() and gc.get_freeze_count() > len(gc.get_objects())  # what was imported is most of what there is
print(*sys.modules)
"""


HEAVY = {"torchvision", "scipy", "sklearn", "matplotlib", "pytorch_msssim", "IPython", "ipywidgets", "onnx", "sympy"}


def loaded(folder, *arguments):
    Image.new("L", (32, 32)).save(folder / "a.png")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", ONE_PICTURE, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["a.png", "--sample"])
def test_one_picture_loads_no_library_that_it_does_not_need(tmp_path, picture):
    """PyTorch is installed here, and not asked for."""
    found = loaded(tmp_path, picture)
    assert not (HEAVY | {"torch", "tqdm", "asyncio", "urllib.request"}) & found
    assert {"onnxruntime", "PIL.Image", "colorize_utils.inference.colorizer"} <= found


@pytest.mark.slow
def test_with_torch_one_picture_loads_no_other_engine_and_no_library_for_training(tmp_path):
    found = loaded(tmp_path, "a.png", "--device", "cpu", "--engine", "torch")
    more = {"onnxruntime", "torch._dynamo", "torch._inductor", "colorize_utils.inference.quantization"}
    assert not (HEAVY | more) & found
    assert {"torch", "PIL.Image", "colorize_utils.inference.colorizer"} <= found


def test_garbage_is_collected_again_after_imports_and_left_alone_where_torch_is_there(monkeypatch):
    frozen = []
    monkeypatch.setattr(options.gc, "freeze", lambda: frozen.append(options.gc.isenabled()))
    with options.imports_uncollected():
        assert options.gc.isenabled()
    assert frozen == []
    monkeypatch.delitem(sys.modules, "torch")
    with options.imports_uncollected():
        assert not options.gc.isenabled()
    assert frozen == [False] and options.gc.isenabled()
    with pytest.raises(ImportError), options.imports_uncollected():
        raise ImportError
    assert frozen == [False] and options.gc.isenabled()
