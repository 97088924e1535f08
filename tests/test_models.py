import pytest
import torch
import torch.nn.functional as F
from torch import nn

from colorize_utils.models import (
    Critic,
    DecoderBlock,
    Discriminator,
    DistributionUNet,
    EncoderBlock,
    LuminanceKept,
    UNet,
    VGGBlock,
    WGANUNet,
    build_generator,
    count_parameters,
)

UNET_BLOCKS = {  # the submission's table: block → (input, output) channels
    "encoder_block1": (1, 64),
    "encoder_block2": (64, 128),
    "encoder_block3": (128, 256),
    "encoder_block4": (256, 512),
    "encoder_block5": (512, 512),
    "encoder_block6": (512, 1024),
    "decoder_block5": (512 + 1024, 512),
    "decoder_block4": (512 + 512, 256),
    "decoder_block3": (256 + 256, 256),
    "decoder_block2": (128 + 256, 128),
    "decoder_block1": (128 + 64, 64),
}
WGAN_BLOCKS = {
    "encoder1": (1, 64),
    "encoder2": (64, 128),
    "encoder3": (128, 256),
    "encoder4": (256, 512),
    "encoder5": (512, 1024),
    "decoder1": (1024, 512),
    "decoder2": (512 + 512, 256),
    "decoder3": (256 + 256, 128),
    "decoder4": (128 + 128, 64),
    "decoder5": (64 + 64, 3),
}
DISCRIMINATOR_BLOCKS = {
    "layer1": (3, 64),
    "layer2": (64, 128),
    "layer3": (128, 256),
    "layer4": (256, 512),
    "layer5": (512, 1024),
    "layer6": (1024, 1024),
}


def batch_norm(prefix, channels):
    statistics = {f"{prefix}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return statistics | {f"{prefix}.num_batches_tracked": ()}


def unet_keys():
    keys = {}
    for block, (inputs, outputs) in UNET_BLOCKS.items():
        keys[f"{block}.conv.0.weight"] = (outputs, inputs, 3, 3)
        keys |= batch_norm(f"{block}.conv.1", outputs)
        keys[f"{block}.conv.3.weight"] = (outputs, outputs, 3, 3)
        keys |= batch_norm(f"{block}.conv.4", outputs)
    return keys | {"conv_last.weight": (3, 64, 1, 1), "conv_last.bias": (3,)}


def wgan_keys():
    keys = {}
    for block, (inputs, outputs) in WGAN_BLOCKS.items():
        kernel = (outputs, inputs, 4, 4) if block.startswith("encoder") else (inputs, outputs, 4, 4)
        keys |= {f"{block}.block.0.weight": kernel, f"{block}.block.0.bias": (outputs,)}
        keys |= batch_norm(f"{block}.block.1", outputs)
    return keys


def discriminator_keys():
    keys = {}
    for block, (inputs, outputs) in DISCRIMINATOR_BLOCKS.items():
        keys |= {f"{block}.conv.0.weight": (outputs, inputs, 3, 3), f"{block}.conv.3.weight": (outputs, outputs, 3, 3)}
    return keys | {"final_conv.0.weight": (1, 1024, 3, 3)}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (UNet, unet_keys()),
        (WGANUNet, wgan_keys()),
        (Discriminator, discriminator_keys()),
        (Critic, discriminator_keys()),
    ],
)
def test_state_dict_keys_and_shapes_are_the_submissions(network, expected):
    with torch.device("meta"):
        state = network().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def test_parameter_count_is_the_submissions():
    with torch.device("meta"):
        assert count_parameters(UNet()) == 38_464_771


def literal_unet(state, gray):
    """The submission's forward pass, written with functions alone."""

    def block(name, x):
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, state[f"{name}.conv.{conv}.weight"], padding=1)
            statistics = (
                state[f"{name}.conv.{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.relu(F.batch_norm(x, *statistics))
        return x

    def up(x, skip):
        return torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), skip], dim=1)

    skips = [block("encoder_block1", gray)]
    for level in range(2, 7):
        skips.append(block(f"encoder_block{level}", F.max_pool2d(skips[-1], 2)))
    x = skips.pop()
    for level in range(5, 0, -1):
        x = block(f"decoder_block{level}", up(x, skips.pop()))
    return F.conv2d(x, state["conv_last.weight"], state["conv_last.bias"])


def test_unet_computes_what_the_submission_writes(tiny_unet):
    gray = torch.rand(2, 1, 64, 96)
    tiny_unet(gray)  # moves the running statistics away from their start
    tiny_unet.eval()
    torch.testing.assert_close(tiny_unet(gray), literal_unet(tiny_unet.state_dict(), gray))


def distribution_keys():
    plan = {"encoder1": (4, 64), "encoder2": (64, 128), "encoder3": (128, 256), "encoder4": (256, 512)}
    plan |= {"encoder5": (512, 512), "decoder4": (1024, 256), "decoder3": (512, 256), "decoder2": (384, 128)}
    keys = {}
    for block, (inputs, outputs) in (plan | {"decoder1": (192, 64)}).items():
        keys[f"{block}.conv.0.weight"] = (outputs, inputs, 3, 3)
        keys |= batch_norm(f"{block}.conv.1", outputs)
        keys[f"{block}.conv.3.weight"] = (outputs, outputs, 3, 3)
        keys |= batch_norm(f"{block}.conv.4", outputs)
    return keys | {"head.weight": (221, 64, 1, 1), "head.bias": (221,)}


def test_the_distributions_keys_and_shapes_are_those_of_the_checkpoints_handed_out():
    with torch.device("meta"):
        state = DistributionUNet().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == distribution_keys()


def test_the_distributions_unet_is_the_submissions_at_half_the_size():
    """Its forward pass by the submission's, written out, with the keys renamed: four gray pixels are one of four
    channels in [−1, 1], and a level of the U-Net is missing."""
    torch.manual_seed(0)
    network = DistributionUNet(1 / 16)
    gray = torch.rand(2, 1, 64, 96)
    network(gray)  # moves the running statistics away from their start
    state = network.eval().state_dict()
    quads = 2 * F.pixel_unshuffle(gray, 2) - 1

    def block(name, x):
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, state[f"{name}.conv.{conv}.weight"], padding=1)
            kinds = ("running_mean", "running_var", "weight", "bias")
            x = F.relu(F.batch_norm(x, *(state[f"{name}.conv.{norm}.{kind}"] for kind in kinds)))
        return x

    skips = [block("encoder1", quads)]
    for level in range(2, 6):
        skips.append(block(f"encoder{level}", F.max_pool2d(skips[-1], 2)))
    x = skips.pop()
    for level in range(4, 0, -1):
        up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = block(f"decoder{level}", torch.cat([up, skips.pop()], dim=1))
    expected = F.conv2d(x, state["head.weight"], state["head.bias"])
    assert expected.shape == (2, 221, 32, 48)
    torch.testing.assert_close(network(gray), expected)


def test_the_deep_blocks_of_the_distributions_unet_drop_out():
    with torch.device("meta"):
        network = DistributionUNet(1 / 16, dropout_rate=0.3)
    dropping = {
        name for name, block in network.named_children() if any(isinstance(m, nn.Dropout) for m in block.modules())
    }
    assert dropping == {"encoder4", "encoder5", "decoder4", "decoder3"}


def test_wgan_unet_computes_what_the_submission_writes():
    network = WGANUNet(width=1 / 16).eval()
    state, gray = network.state_dict(), torch.rand(2, 1, 64, 32)

    def block(name, x, convolution):
        x = convolution(x, state[f"{name}.block.0.weight"], state[f"{name}.block.0.bias"], stride=2, padding=1)
        statistics = (state[f"{name}.block.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *statistics))

    skips = []
    x = gray
    for level in range(1, 6):
        x = block(f"encoder{level}", x, F.conv2d)
        skips.append(x)
    y = block("decoder1", skips.pop(), F.conv_transpose2d)
    for level in range(2, 6):
        y = block(f"decoder{level}", torch.cat([y, skips.pop()], dim=1), F.conv_transpose2d)
    torch.testing.assert_close(network(gray), y)
    assert network(gray).min() >= 0  # the submission's last ReLU


def test_blocks_change_shape_as_they_say():
    features = torch.rand(2, 4, 8, 8)
    assert EncoderBlock(4, 6)(features).shape == (2, 6, 4, 4)
    assert DecoderBlock(4, 6)(features).shape == (2, 6, 16, 16)
    assert VGGBlock(4, 6)(features).shape == (2, 6, 8, 8)


def test_dropout_rate_adds_a_last_layer_without_keys():
    plain, dropping = VGGBlock(1, 2), VGGBlock(1, 2, dropout_rate=0.3)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    assert dropping.conv[-1].p == 0.3
    assert UNet(1 / 64, dropout_rate=0.3).encoder_block6.conv[-1].p == 0.3


@pytest.mark.parametrize("network", [UNet, WGANUNet])
def test_bounded_generators_stay_in_the_unit_range(network):
    with torch.no_grad():
        bounded = network(width=1 / 16, bounded=True)
        for parameter in bounded.parameters():
            parameter.mul_(20)
        colour = bounded(torch.rand(2, 1, 32, 32))
    assert colour.min() >= 0
    assert colour.max() <= 1


@pytest.mark.parametrize("architecture", ["unet", "wgan-unet"])
def test_generators_take_any_size_that_the_poolings_allow(architecture):
    network = build_generator(architecture, 1 / 64).eval()
    assert network(torch.rand(1, 1, 96, 160)).shape == (1, 3, 96, 160)
    with pytest.raises(ValueError, match=r"multiples of 32, got 100×96"):
        network(torch.rand(1, 1, 100, 96))
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got \(1, 3, 64, 64\)"):
        network(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got \(64, 64\)"):
        network(torch.rand(64, 64))
    with pytest.raises(ValueError, match="got 0×32"):
        network(torch.rand(1, 1, 0, 32))


@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 4), (128, 4), (256, 4), (512, 8)])
def test_discriminator_pools_less_on_small_pictures(size, side):
    scores = Discriminator(1 / 64)(torch.rand(1, 3, size, size))
    assert scores.shape == (1, 1, side, side)
    assert ((scores > 0) & (scores < 1)).all()


def test_discriminator_at_256_is_six_blocks_each_pooled():
    network = Discriminator(1 / 32)
    colour = torch.rand(2, 3, 256, 256)
    x = colour
    for level in range(1, 7):
        x = F.max_pool2d(getattr(network, f"layer{level}")(x), 2)
    torch.testing.assert_close(network(colour), torch.sigmoid(network.final_conv(x)))
    torch.testing.assert_close(Critic.forward(network, colour), network.final_conv(x).mean(dim=(1, 2, 3)))


def test_discriminator_without_sigmoid_returns_logits():
    network, colour = Discriminator(1 / 64), torch.rand(1, 3, 32, 32)
    with_sigmoid = network(colour)
    network.sigmoid = False
    torch.testing.assert_close(torch.logit(with_sigmoid), network(colour), atol=1e-4, rtol=1e-4)


def test_discriminator_says_what_it_expected():
    with pytest.raises(ValueError, match=r"from 32×32 up, got 31×64"):
        Discriminator(1 / 64)(torch.rand(1, 3, 31, 64))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 32, 32\)"):
        Critic(1 / 64)(torch.rand(1, 1, 32, 32))


def test_critic_scores_each_picture_on_its_own():
    critic, colour = Critic(1 / 16), torch.rand(3, 3, 64, 64)
    alone = torch.cat([critic(picture[None]) for picture in colour])
    torch.testing.assert_close(critic(colour), alone)


def test_width_and_architecture_are_checked():
    with pytest.raises(ValueError, match="width must be positive"):
        UNet(width=0)
    with pytest.raises(ValueError, match="no architecture 'vgg'; there are unet, wgan-unet"):
        build_generator("vgg")


def test_luminance_kept_adds_chroma_alone(tiny_unet):
    from colorize_utils.colour import luma

    gray = torch.rand(2, 1, 32, 32)
    colour = LuminanceKept(tiny_unet.eval())(gray)
    torch.testing.assert_close(luma(colour), gray)
    raw = tiny_unet(gray)
    torch.testing.assert_close(colour - gray, raw - luma(raw))
