import math
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from colorize_utils.errors import DeviceError
from colorize_utils.inference import Colorizer, quantization
from colorize_utils.inference.batch import colorize_files
from colorize_utils.inference.quantization import Int8Network, fuse_batch_norms
from colorize_utils.models import DistributionUNet, LuminanceKept, UNet, WGANUNet

torch.manual_seed(0)  # for the networks of `parametrize`: of four channels all may be dead


def trained(network):
    """With batch norms as training leaves them: no mean is 0, no variance 1."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.3, 3)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
    return network.eval()


@pytest.mark.parametrize(
    "network",
    [
        UNet(1 / 16),
        UNet(1 / 16, bounded=True),
        WGANUNet(1 / 16),
        WGANUNet(1 / 16, bounded=True),
        LuminanceKept(UNet(1 / 16, dropout_rate=0.5)),
        DistributionUNet(1 / 16, dropout_rate=0.5),
    ],
)
@torch.no_grad()
def test_fusing_batch_norms_changes_nothing_but_rounding(network):
    gray = torch.rand(2, 1, 64, 32)
    expected = trained(network)(gray)
    ready = fuse_batch_norms(network)
    torch.testing.assert_close(ready(gray), expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in ready.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())  # the network itself is as it was
    assert torch.equal(network(gray), expected)


class Meeting(nn.Module):
    """A network that notes how many pictures are in it at once, and how many threads each has.

    patience: seconds that a picture waits in it for a second one to come.
    """

    def __init__(self, patience):
        super().__init__()
        self.patience = patience
        self.changed = threading.Condition()
        self.inside = self.most = 0
        self.threads = set()

    def __deepcopy__(self, memo):  # so that the colorizer's is the one that is looked at
        return self

    def forward(self, gray):
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.threads.add(torch.get_num_threads())
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most > 1, self.patience)
            self.inside -= 1
        return gray.expand(-1, 3, -1, -1)


def colorize_in_threads(colorizer, count):
    threads = [threading.Thread(target=colorizer.colorize, args=(np.zeros((32, 32), np.uint8),)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_network_takes_one_picture_at_a_time_while_others_are_read():
    network = Meeting(patience=0.05)
    colorize_in_threads(Colorizer(network, 32, device="cpu"), 6)
    assert network.most == 1
    assert network.threads == {torch.get_num_threads()}


def test_a_shared_network_takes_a_picture_on_each_share_of_the_cores():
    network, threads = Meeting(patience=60), torch.get_num_threads()
    colorizer = Colorizer(network, 32, device="cpu")
    with pytest.raises(KeyError), colorizer.shared_by(2):
        colorize_in_threads(colorizer, 2)
        raise KeyError
    assert network.most == 2
    assert network.threads == {max(1, threads // 2)}

    network.most, network.patience = 0, 0.05
    assert torch.get_num_threads() == threads
    colorize_in_threads(colorizer, 3)
    assert network.most == 1


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("same", [True, False])
def test_folders_that_overlap_leave_the_number_of_threads_as_it_was(four_threads, same):
    """The first begins first and ends first; the threads are the process's, whichever colorizers share them."""
    one = Colorizer(Meeting(patience=60), 32, device="cpu")
    two = one if same else Colorizer(Meeting(patience=60), 32, device="cpu")
    entered, begun, ended, within, after = threading.Event(), threading.Event(), threading.Event(), [], []

    def first():
        with one.shared_by(2):
            within.append(torch.get_num_threads())
            entered.set()
            begun.wait(30)
        after.append(torch.get_num_threads())
        ended.set()

    def second():
        with two.shared_by(2):
            within.append(torch.get_num_threads())
            begun.set()
            ended.wait(30)
            colorize_in_threads(two, 2)  # goes on sharing while the first is done
        after.append(torch.get_num_threads())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert entered.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert within == [2, 1]
    assert two.engine.network.most == 2
    reader = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    reader.start()
    reader.join()
    assert [*after, torch.get_num_threads()] == [4, 4, 4, 4]
    for colorizer in {one, two}:
        colorizer.engine.network.most, colorizer.engine.network.patience = 0, 0.05
        colorize_in_threads(colorizer, 3)
        assert colorizer.engine.network.most == 1  # in turn again


def test_a_folder_is_shared_and_a_single_picture_has_all_cores(tmp_path):
    network, threads = Meeting(patience=0.05), torch.get_num_threads()
    colorizer = Colorizer(network, 32, device="cpu")
    for name in ("a", "b", "c", "d"):
        Image.new("L", (32, 32)).save(tmp_path / f"{name}.png")
    colorize_files(colorizer, [tmp_path / "a.png"], progress=False)
    assert network.threads == {threads}
    network.patience = 60
    report = colorize_files(colorizer, [tmp_path], progress=False)
    assert len(report.written) == 5  # the single one's result is a picture of the folder, too
    assert network.most >= 2
    assert torch.get_num_threads() == threads


# ---------------------------------------------------------------- int8


@pytest.mark.slow
def test_int8_paints_nearly_the_same(tmp_path):
    """The bundled model, on crops of a photograph."""
    exact, quick = Colorizer.from_checkpoint(device="cpu"), Colorizer.from_checkpoint(precision="int8")
    photograph = load_sample_image("china.jpg")
    errors = []
    for x, y in ((0, 0), (100, 150), (300, 200), (440, 227)):
        pair = [np.asarray(c.colorize(photograph[y : y + 200, x : x + 200]), float) for c in (exact, quick)]
        errors.append(np.square(pair[0] - pair[1]).mean())
    assert 0 < np.mean(errors) < 255**2 / 10**4  # 40 dB


def without_last_bias(network):
    nn.init.zeros_(network.conv_last.bias)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [UNet(1 / 16), without_last_bias(UNet(1 / 16)), LuminanceKept(WGANUNet(1 / 16)), DistributionUNet(1 / 16)],
)
def test_int8_of_every_architecture_and_any_size(network):
    quick = Int8Network(trained(network), 64)
    for height, width in ((32, 32), (64, 96), (96, 32)):
        gray = torch.rand(2, 1, height, width)
        with torch.no_grad():
            expected = network(gray)
        assert quick(gray).shape == expected.shape
        assert (quick(gray) - expected).square().mean() < 0.02 * expected.var()


@pytest.mark.slow
def test_the_last_layers_are_exact_where_int8_would_show(tmp_path, monkeypatch):
    network, gray = trained(UNet(1 / 16)), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = network(gray)
    quantized, errors = [], []
    for least in (0.0, math.inf):
        monkeypatch.setattr(quantization, "LEAST_PSNR", least)
        monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / str(least)))
        errors.append((Int8Network(network, 64)(gray) - expected).square().mean())
        (path,) = (tmp_path / str(least) / "int8").iterdir()
        graph = onnx.load(path).graph
        kinds = {node.output[0]: node.op_type for node in graph.node}
        weights = [node.input[1] for node in graph.node if node.op_type == "Conv"]
        quantized.append(sum(kinds.get(name) == "DequantizeLinear" for name in weights))
    assert quantized == [22, 20]  # of 23
    assert errors[1] < errors[0] / 2


@pytest.mark.slow
def test_an_int8_network_is_made_once(tiny_unet, own_cache, monkeypatch, capfd):
    monkeypatch.setattr(quantization, "CALIBRATION", 1)  # as few pictures as there can be: what it paints is no matter
    Int8Network(trained(tiny_unet), 32)
    assert capfd.readouterr().out == ""
    assert len(list((own_cache / "int8").iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(quantization, "_quantize", None)
        Int8Network(tiny_unet, 32)
    with torch.no_grad():
        tiny_unet.conv_last.bias.add_(0.1)
    Int8Network(tiny_unet, 32)
    assert len(list((own_cache / "int8").iterdir())) == 2


@pytest.mark.slow
def test_an_int8_network_computes_little_beside_its_convolutions(tiny_unet, own_cache, monkeypatch):
    """What is concatenated has one scale, so that it is copied; the last layer takes channels as they lie."""
    monkeypatch.setattr(quantization, "CALIBRATION", 1)
    Int8Network(trained(tiny_unet), 32)
    (path,) = (own_cache / "int8").iterdir()
    graph = onnx.load(path).graph
    before = {output: node for node in graph.node for output in node.output}
    after = {name: node for node in graph.node for name in node.input}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    joints = [node for node in graph.node if node.op_type == "Concat"]
    assert len(joints) == 5
    for joint in joints:
        ends = [before[name] for name in joint.input] + [after[joint.output[0]]]
        assert {end.op_type for end in ends} == {"DequantizeLinear", "QuantizeLinear"}
        assert len({float(values[end.input[1]]) for end in ends}) == 1
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 22  # of 23
    assert all(before[name].op_type == "DequantizeLinear" for node in convolutions for name in node.input)
    assert [node.op_type for node in graph.node].count("MatMul") == 1


@pytest.mark.slow
def test_every_session_has_as_many_threads_as_torch(tiny_unet, monkeypatch):
    """Those that it is calibrated with, too: more would spin on cores that others work on."""
    session, threads = onnxruntime.InferenceSession, []

    def noted(*arguments, **options):
        (given,) = [one for one in (*arguments, *options.values()) if isinstance(one, onnxruntime.SessionOptions)]
        threads.append(given.intra_op_num_threads)
        return session(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(quantization, "CALIBRATION", 1)
    Int8Network(tiny_unet, 32)
    assert len(threads) >= 2
    assert set(threads) == {3}


def test_int8_without_its_packages_or_its_place(tiny_unet, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(DeviceError, match=r"int8 needs the package onnxruntime; pip install onnx onnxruntime"):
            Colorizer(tiny_unet, 32, precision="int8")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match=r"cannot keep the int8 network in .*set COLORIZE_CACHE"):
        Colorizer(tiny_unet, 32, precision="int8")
