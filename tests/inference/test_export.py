"""`export`: a checkpoint becomes a file that ONNX Runtime computes alone, driven by the command line."""

import collections

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from colorize_utils import palette
from colorize_utils.checkpoints import DEFAULT, load_file, save
from colorize_utils.checkpoints import exported as exported_file
from colorize_utils.cli import main
from colorize_utils.data import sample_photograph
from colorize_utils.inference import Colorizer, Hint, export
from colorize_utils.inference.onnx_engine import OnnxEngine
from colorize_utils.models import DistributionUNet, UNet
from colorize_utils.multiscale import MultiscaleUNet, SizedBatchNorm

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
needs_new_torch = pytest.mark.skipif(OLD, reason="exporting whole networks was tried with torch 2.14")


def untrained(network):
    """Random weights, and batch norms with statistics that differ, as those of a trained network do."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, SizedBatchNorm | torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def multiscale():
    network = untrained(MultiscaleUNet(1 / 16, sizes=(32, 64)))
    network.head.bias.data = -10 * palette.chromas().norm(dim=1)
    network.strange_weight.uniform_(-5, 5)
    return network.half().float()  # as what is handed out: nothing is lost in 16 bits


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number, size in enumerate([(64, 64), (90, 41), (33, 120)]):
        sample_photograph().resize(size).rotate(5 * number).save(folder / f"{number}.png")
    return folder


def exported(folder, network, photographs, *options, size=64):
    checkpoint = save(folder / "net.safetensors", network, {"size": size})
    path = folder / "net.onnx"
    status = main(["export", str(checkpoint), "-o", str(path), "--pictures", str(photographs), *options])
    return checkpoint, path, status


@pytest.mark.slow
@needs_new_torch
def test_a_multiscale_network_keeps_all_it_can_in_a_file_of_16_bits(tmp_path, photographs, capsys):
    checkpoint, path, status = exported(tmp_path, multiscale(), photographs, "--licence", "CC0")
    assert status == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}: ") and "3 photographs differ from PyTorch's by at most " in printed
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == ["gray", "hints", "judged"]
    assert [value.name for value in model.graph.output] == ["probabilities", "safe", "vivid", "unfamiliarity"]
    loaded = load_file(checkpoint)
    about = OnnxEngine(path).about
    assert (about.name, about.size, about.judged_side, about.licence) == ("net.safetensors", 64, 32, "CC0")
    assert (about.source_sha256, about.styles) == (loaded.sha256, "safe vivid")
    assert about.palette.startswith("13×17 colours")
    assert str(tmp_path) not in str(model) and "site-packages" not in str(model)  # no traces of this machine

    ours, light = Colorizer(loaded.predictor, 64, device="cpu", precision="fp32"), Colorizer.from_checkpoint(path)
    gray = np.asarray(sample_photograph().resize((70, 44)))
    for style in ("safe", "vivid"):
        for hints in ((), [Hint(20, 30, "purple")]):
            one, two = (np.asarray(one.colorize(gray, style=style, hints=hints), int) for one in (ours, light))
            assert np.abs(one - two).max() <= 1
    assert light.unfamiliarity(gray) == pytest.approx(ours.unfamiliarity(gray), abs=1e-5)
    assert abs(light.unfamiliarity(gray) - 0.5) > 0.01

    # Weights in 16 bits, each of which lies there once, although the file computes them for two sizes and the judge.
    kinds = collections.Counter()
    for tensor in onnx.load(path).graph.initializer:
        kinds[tensor.data_type] += numpy_helper.to_array(tensor).size
    kernels = sum(value.numel() for value in loaded.network.parameters() if value.ndim == 4)
    assert kernels <= kinds[onnx.TensorProto.FLOAT16] <= 1.1 * kernels
    assert kinds[onnx.TensorProto.FLOAT] < 0.3 * kernels


@pytest.mark.slow
@needs_new_torch
@pytest.mark.parametrize(
    ("network", "outputs"),
    [(DistributionUNet, ["probabilities", "safe", "vivid"]), (UNet, ["colour", "safe"])],
    ids=["distribution", "colour"],
)
def test_the_other_networks_are_exported_too(network, outputs, tmp_path, photographs):
    checkpoint, path, status = exported(tmp_path, untrained(network(1 / 16)), photographs, "--exact")
    assert status == 0
    model = onnx.load(path)
    assert [value.name for value in model.graph.output] == outputs
    assert [value.name for value in model.graph.input] == ["gray"]
    ours, light = Colorizer.from_checkpoint(checkpoint, "cpu", precision="fp32"), Colorizer.from_checkpoint(path)
    assert (light.styles, light.takes_hints, light.judged_side) == (ours.styles, False, 0)
    gray = np.asarray(sample_photograph().resize((51, 80)))
    for keep in (True, False):
        one, two = (np.asarray(one.colorize(gray, keep), int) for one in (ours, light))
        assert np.abs(one - two).max() <= 1


def test_a_file_that_gives_other_pictures_is_an_error_and_not_left_behind(tmp_path, photographs, capsys, monkeypatch):
    """The bundled file, in the place of an untrained network's."""
    monkeypatch.setattr(
        export, "export", lambda loaded, path, *_, **__: path.write_bytes(exported_file(DEFAULT).read_bytes())
    )
    _, path, status = exported(tmp_path, untrained(UNet(1 / 16)), photographs)
    assert status == 1 and not path.exists()
    said = capsys.readouterr().err
    assert "net.onnx gives other pictures than net.safetensors" in said and "--exact" in said
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == ["net.safetensors"]


def test_an_exporter_that_cannot_is_a_line(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no symbolic\nsizes")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    assert main(["export", str(tiny_checkpoint), "-o", str(tmp_path / "x.onnx")]) == 1
    assert f"torch {torch.__version__} cannot export this network (no symbolic sizes)" in capsys.readouterr().err


def test_a_folder_without_pictures_is_told_before_the_work(tmp_path, tiny_checkpoint, capsys):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert main(["export", str(tiny_checkpoint), "-o", str(tmp_path / "x.onnx"), "--pictures", str(folder)]) == 1
    assert "empty holds no pictures" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_a_comparison_counts_levels_and_pixels(tiny_unet):
    """Against the same network with its red lifted by two levels where the photograph is bright."""

    class Lifted(UNet):
        def forward(self, gray):
            colour = super().forward(gray)
            return colour + (gray > 0.5) * torch.tensor([2 / 255, 0, 0])[:, None, None]

    other = Lifted(1 / 16)
    other.load_state_dict(tiny_unet.state_dict())
    gray = np.full((32, 32), 60, np.uint8)
    gray[:, 16:] = 180
    one, two = (Colorizer(network, 32, device="cpu", precision="fp32") for network in (tiny_unet.eval(), other.eval()))
    found = export.compare(one, two, [gray, np.asarray(Image.new("L", (32, 32), 40))])
    assert found.pictures == 2 and 1 <= found.levels <= 3 and 0.1 < found.moved < 0.4
    assert export.compare(one, one, [gray]).levels == 0
