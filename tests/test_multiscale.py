import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from colorize_utils import palette
from colorize_utils.checkpoints import load_generator, save
from colorize_utils.errors import CheckpointError
from colorize_utils.models import DistributionUNet, build_generator, fuse_batch_norms
from colorize_utils.multiscale import AveragedDistribution, MultiscaleUNet, SizedBatchNorm


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    """A network whose statistics differ from size to size, as those of a trained one do."""
    torch.manual_seed(0)
    network = MultiscaleUNet(1 / 8, sizes=(64, 96))
    for layer in network.modules():
        if isinstance(layer, SizedBatchNorm):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def test_it_predicts_a_distribution_for_every_2x2_pixels(network):
    logits = network(random(2, 1, 96, 64))
    assert logits.shape == (2, palette.COLOURS, 48, 32)
    for wrong, message in (((1, 3, 64, 64), "shape"), ((1, 1, 64, 50), "multiples of 32")):
        with pytest.raises(ValueError, match=message):
            network(random(*wrong))


def test_the_inner_network_sees_a_picture_as_the_distributions_unet_sees_one_of_half_its_size():
    """With nothing from the finer level, its features are those of a `DistributionUNet` on the halved picture."""
    torch.manual_seed(1)
    outer, inner = MultiscaleUNet(1 / 8, sizes=(64,)).eval(), DistributionUNet(1 / 8).eval()
    state = {name: value for name, value in inner.state_dict().items() if not name.startswith("head")}
    first = outer.coarse.encoder1.conv[0].weight.data
    state["encoder1.conv.0.weight"] = F.pad(state["encoder1.conv.0.weight"], (0, 0, 0, 0, 0, first.shape[1] - 4))
    for name, value in outer.coarse.state_dict().items():
        value.copy_(state[name].expand_as(value))
    gray = random(1, 1, 64, 64)
    expected = inner.features(F.avg_pool2d(gray, kernel_size=2))
    enlarged = F.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=True)
    torch.testing.assert_close(outer.features(gray)[:, : expected.shape[1]], enlarged, atol=1e-5, rtol=1e-4)


def test_each_size_has_statistics_of_its_own(network):
    before = copy.deepcopy(network.state_dict())
    network.train()
    network(random(4, 1, 96, 96))
    after = network.state_dict()
    statistics = [key for key in after if key.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 44
    for key in statistics:
        assert torch.equal(after[key][0], before[key][0]), key  # of 64×64
        assert not torch.equal(after[key][1], before[key][1]), key
    network.eval()
    gray = random(1, 1, 64, 64)
    at_64 = network(gray)
    torch.testing.assert_close(network.at(64)(gray), at_64)
    assert (network.at(96)(gray) - at_64).abs().max() > 1e-3


def test_pictures_of_another_size_set_the_statistics_of_all_sizes(network):
    """So that a run which begins with small pictures can be validated at sizes that it has not seen yet."""
    network.train()
    for _ in range(200):
        logits = network(random(4, 1, 32, 32))
    logits.sum().backward()
    assert all(weights.grad is not None for weights in network.parameters())
    network.eval()
    gray = random(1, 1, 96, 96)
    torch.testing.assert_close(network.at(64)(gray), network.at(96)(gray), atol=1e-4, rtol=1e-3)


def test_pictures_use_the_statistics_of_the_size_that_is_next_to_theirs(network):
    for shape, size in (((64, 64), 64), ((32, 128), 64), ((32, 32), 64), ((96, 96), 96), ((64, 160), 96)):
        gray = random(1, 1, *shape)
        torch.testing.assert_close(network(gray), network.at(size)(gray))
    with pytest.raises(ValueError, match=r"one of \[64, 96\], got 80"):
        network.at(80)


def test_a_network_of_one_size_has_plain_batch_norms_that_can_be_fused(network):
    plain = network.at(96)
    assert not [layer for layer in plain.modules() if isinstance(layer, SizedBatchNorm)]
    fused = fuse_batch_norms(plain)
    assert not [layer for layer in fused.modules() if isinstance(layer, nn.BatchNorm2d)]
    gray = random(2, 1, 96, 96)
    torch.testing.assert_close(fused(gray), plain(gray), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_keeps_the_sizes(network, tmp_path):
    path = save(tmp_path / "network.safetensors", network, {"size": 96})
    loaded = load_generator(path)
    assert (loaded.architecture, loaded.width, loaded.size) == ("multiscale-unet", 1 / 8, 96)
    assert loaded.network.side_lengths == [64, 96]
    gray = random(1, 1, 64, 64)
    torch.testing.assert_close(loaded.network(gray), network(gray))


@pytest.mark.parametrize("sizes", [[0, 96], [-64, 96], [64, 10**9]])
def test_sizes_that_are_none_are_told(network, tmp_path, sizes):
    network.sizes.copy_(torch.tensor(sizes))
    with pytest.raises(CheckpointError, match="its metadata is damaged"):
        load_generator(save(tmp_path / "network.safetensors", network, {"size": 96}))


def test_the_average_is_of_all_sizes_and_of_the_mirror_image(network):
    average = AveragedDistribution(network, 96)
    gray = random(2, 1, 96, 96)
    with torch.no_grad():
        small = F.interpolate(gray, size=(64, 64), mode="bilinear", antialias=True)
        answers = []
        for size, picture in ((64, small), (96, gray)):
            one, other = network.at(size)(picture), network.at(size)(picture.flip(-1)).flip(-1)
            answers.append(((one + other) / 2).softmax(dim=1))
        expected = (F.interpolate(answers[0], size=(48, 48), mode="bilinear") + answers[1]) / 2
        torch.testing.assert_close(average(gray), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(average(gray.flip(-1)).flip(-1), average(gray), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(96, 96), (50, 182), (2, 384), (94, 98)])
def test_probabilities_are_probabilities_at_any_aspect(network, shape):
    with torch.no_grad():
        probabilities = AveragedDistribution(network, 96)(random(1, 1, *shape))
    assert probabilities.shape == (1, palette.COLOURS, shape[0] // 2, shape[1] // 2)
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(1, shape[0] // 2, shape[1] // 2))


def test_a_network_of_one_size_is_asked_at_its_working_size_alone():
    torch.manual_seed(2)
    network = build_generator("distribution-unet", 1 / 16).eval()
    average = AveragedDistribution(network, 32)
    assert average.sizes == [32]
    gray = random(1, 1, 32, 48)
    padded = F.pad(torch.cat([gray, gray.flip(-1)]), (0, 16, 0, 0), mode="replicate")
    with torch.no_grad():
        one, other = network(padded)[..., :24].chunk(2)
        torch.testing.assert_close(average(gray), ((one + other.flip(-1)) / 2).softmax(dim=1))
