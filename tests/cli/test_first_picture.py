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
assert main([sys.argv[1], "--device", "cpu", "--quiet"]) == 0
assert gc.isenabled() and gc.get_freeze_count()
print(*sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["a.png", "--sample"])
def test_one_picture_loads_no_library_that_it_does_not_need(tmp_path, picture):
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", ONE_PICTURE, picture]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    heavy = {"torchvision", "scipy", "sklearn", "matplotlib", "pytorch_msssim", "IPython", "ipywidgets", "onnxruntime"}
    heavy |= {"onnx", "torch._dynamo", "torch._inductor", "sympy", "colorize_utils.inference.quantization"}
    assert not heavy & loaded
    assert {"torch", "PIL.Image", "colorize_utils.inference.colorizer"} <= loaded


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
