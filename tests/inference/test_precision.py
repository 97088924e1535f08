import platform

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from colorize_utils.cli import options
from colorize_utils.devices import has_bf16
from colorize_utils.errors import DeviceError
from colorize_utils.inference import Colorizer, precision
from colorize_utils.inference.engines import PRECISIONS
from colorize_utils.inference.precision import choose_precision, convolve_in_bf16, moves_by
from colorize_utils.models import DistributionUNet, LuminanceKept, MeanColour, UNet, WGANUNet, fuse_batch_norms

CPU = torch.device("cpu")


def trained(network):
    """With batch norms as training leaves them: no mean is 0, no variance 1."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.3, 3)
    return network.eval()


def levels(colorizer, picture, **how):
    return np.asarray(colorizer.colorize(picture, **how)).astype(int)


# ---------------------------------------------------------------- which one


@pytest.fixture
def hardware(monkeypatch):
    """Pretends that the CPU has bf16, or has not."""
    return lambda there: monkeypatch.setattr(precision, "has_bf16", lambda: there)


@pytest.mark.parametrize(
    "network", [nn.Conv2d(1, 3, 3, padding=1, bias=False), LuminanceKept(nn.Conv2d(1, 3, 3, padding=1, bias=False))]
)
def test_auto_is_bf16_from_so_much_work_on(network, hardware, monkeypatch):
    """27 parameters at 10×10 pixels: on either side of the rule."""
    hardware(True)
    monkeypatch.setattr(precision, "LEAST_WORK", 2700)
    assert choose_precision(network, 10, CPU) == "bf16"
    monkeypatch.setattr(precision, "LEAST_WORK", 2701)
    assert choose_precision(network, 10, CPU) == "fp32"


def test_auto_is_fp32_without_the_hardware_and_on_gpus(hardware, monkeypatch):
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    hardware(True)
    for kind in ("cuda", "mps"):
        assert choose_precision(UNet(1 / 16), 256, torch.device(kind)) == "fp32"
    hardware(False)
    assert choose_precision(UNet(1 / 16), 256, CPU) == "fp32"


def test_auto_is_fp32_for_a_distribution_of_any_size(hardware, monkeypatch):
    hardware(True)
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    for network in (DistributionUNet(1 / 16), MeanColour(DistributionUNet(1 / 16))):
        assert Colorizer(network, 32, device="cpu").precision == "fp32"


def test_the_submissions_networks_gain_and_a_lessons_do_not(hardware, monkeypatch):
    hardware(True)
    monkeypatch.setattr(precision, "moves_by", lambda *_: 0.0)
    with torch.device("meta"):
        large, small = UNet(1.0), UNet(0.25)
    assert choose_precision(large, 256, CPU) == "bf16"
    assert choose_precision(small, 64, CPU) == "fp32"


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "aarch64"])
@pytest.mark.parametrize("there", [True, False])
def test_the_processor_is_asked(machine, there, monkeypatch):
    asked = "x86" if machine != "aarch64" else "arm"
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: asked == "x86" and there)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: asked == "arm" and there, raising=False)
    has_bf16.cache_clear()
    assert has_bf16() == there
    has_bf16.cache_clear()


@pytest.mark.parametrize(
    ("bound", "there"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("ALL", True)]
)
def test_a_bound_on_the_instructions_is_kept_to(bound, there, monkeypatch):
    """Otherwise bf16 would be emulated, several times slower than fp32."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", bound)
    has_bf16.cache_clear()
    assert has_bf16() == there
    has_bf16.cache_clear()


def test_the_command_line_has_every_precision():
    """Written out there, because that module is imported before torch."""
    assert options.PRECISIONS == PRECISIONS


def test_a_precision_that_is_none_and_a_device_that_cannot(tiny_unet):
    with pytest.raises(ValueError, match="precision must be one of auto, fp32, bf16, int8, got 'fp64'"):
        Colorizer(tiny_unet, 32, precision="fp64")
    with pytest.raises(DeviceError, match="int8 computes on cpu, not on meta; leave out one of the two"):
        Colorizer(tiny_unet, 32, device="meta", precision="int8")
    with pytest.raises(DeviceError, match="bf16 computes on cpu or cuda, not on meta"):
        Colorizer(tiny_unet, 32, device="meta", precision="bf16")
    assert Colorizer(tiny_unet, 32, device="meta").precision == "fp32"


@pytest.mark.parametrize(("moved", "expected"), [(0.5, "bf16"), (0.51, "fp32"), (float("inf"), "fp32")])
def test_auto_is_bf16_where_a_trial_does_not_show_it(hardware, monkeypatch, tiny_unet, moved, expected):
    hardware(True)
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    monkeypatch.setattr(precision, "moves_by", lambda network, size: moved)
    assert choose_precision(tiny_unet, 64, CPU) == expected


class Scaled(nn.Module):
    """Three 1×1 convolutions, of which the second is computed in bf16: 1 times a weight that 8 bits may not hold."""

    def __init__(self, weight):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False) for _ in range(3)))
        for layer, value in zip(self.layers, (1.0, weight, 1.0), strict=True):
            nn.init.constant_(layer.weight, value)

    def forward(self, gray):
        return self.layers(torch.ones_like(gray))


@pytest.mark.parametrize("size", [64, 256])
def test_the_trial_measures_in_levels(size):
    """In bf16 1 + 2⁻⁹ is 1: the difference is 255/512 of a level. NaN counts as any difference."""
    assert moves_by(Scaled(1 + 2**-9), size) == pytest.approx(255 / 512)
    assert moves_by(Scaled(1.0), size) == 0
    assert moves_by(Scaled(float("nan")), size) == float("inf")


# ---------------------------------------------------------------- what comes of it


@torch.inference_mode()
def test_fp32_is_the_networks_own_arithmetic_to_the_bit(tiny_unet):
    colorizer = Colorizer(trained(tiny_unet), 32, device="cpu", precision="fp32")
    gray = np.random.default_rng(0).integers(0, 256, (32, 64), dtype=np.uint8)
    ready = fuse_batch_norms(tiny_unet).to(memory_format=torch.channels_last)
    expected = ready(torch.from_numpy(gray / np.float32(255))[None, None])
    np.testing.assert_array_equal(colorizer._predict("colour", gray), expected.numpy())


@pytest.mark.parametrize(
    "network",
    [UNet(1 / 16), UNet(1 / 16, bounded=True), WGANUNet(1 / 16), LuminanceKept(WGANUNet(1 / 16, bounded=True))],
)
@torch.inference_mode()
def test_bf16_convolves_in_it_and_answers_in_float32(network):
    gray = torch.rand(2, 1, 64, 32)
    exact = fuse_batch_norms(trained(network))
    expected = exact(gray)
    ready = convolve_in_bf16(fuse_batch_norms(network))
    output = ready(gray)
    assert output.dtype == torch.float32
    error = (output - expected).abs().max()
    assert 0 < error < 0.02 * (expected.max() - expected.min()) + 0.02
    weights = [layer.weight.dtype for layer in ready.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert set(weights[1:-1]) == {torch.bfloat16} and weights[0] == weights[-1] == torch.float32
    assert all(value.dtype == torch.float32 for value in network.parameters())  # the network itself is as it was
    assert torch.equal(exact(gray), expected)


def test_bf16_keeps_luminance(tiny_unet):
    gray = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    picture = Colorizer(tiny_unet, 32, device="cpu", precision="bf16").colorize(gray)
    np.testing.assert_array_equal(np.asarray(picture.convert("L")), gray)


@pytest.mark.slow
def test_bf16_of_the_full_width_moves_no_pixel_by_more_than_one_level():
    """Of a network that `auto` takes bf16 for, with random weights; its last layer is scaled until chroma spreads."""
    torch.manual_seed(0)
    network = trained(UNet(1.0))
    photographs = [Image.fromarray(colour).convert("L") for colour in load_sample_images().images]
    with torch.inference_mode():
        network.conv_last.bias.fill_(0.5)
        small = np.array(photographs[0].resize((64, 64))) / np.float32(255)
        output = network(torch.from_numpy(small)[None, None])
        network.conv_last.weight *= 0.1 / (output - output.mean(dim=1, keepdim=True)).std()
    exact, quick = (Colorizer(network, 256, device="cpu", precision=name) for name in ("fp32", "bf16"))
    assert moves_by(network, 256) <= precision.MOST_MOVED
    for photograph in photographs:
        error = np.abs(levels(exact, photograph) - levels(quick, photograph))
        assert 0 < error.max() <= 1
        assert 10 * np.log10(255**2 / np.square(error).mean()) >= 60
