import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from colorize_utils.errors import DeviceError
from colorize_utils.inference.engine import export_onnx
from colorize_utils.models import DistributionUNet, LuminanceKept, UNet, WGANUNet


@pytest.mark.slow
@pytest.mark.parametrize("network", [UNet(1 / 16), LuminanceKept(WGANUNet(1 / 16)), DistributionUNet(1 / 16)])
def test_the_engine_computes_what_the_network_does_at_any_size(network, tmp_path, capfd):
    export_onnx(network.eval(), tmp_path / "network.onnx")
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 32, 32), (3, 1, 64, 96)):
        gray = torch.rand(shape)
        with torch.no_grad():
            expected = network(gray)
        (output,) = session.run(["output"], {"gray": gray.numpy()})
        np.testing.assert_allclose(output, expected.numpy(), atol=2e-5, rtol=1e-4)


def test_without_its_packages_nothing_is_exported(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DeviceError, match="ONNX needs the package onnxscript; pip install onnx onnxruntime onnxscript"):
        export_onnx(nn.Conv2d(1, 3, 1), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())
