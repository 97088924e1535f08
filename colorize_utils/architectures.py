"""The registry of the generators' architectures: what recipes, models and checkpoints must know of one, in one entry.

It lies below the three that read it, and names each network by the place of its class, because a recipe is checked
(and `--help` answered) before torch is loaded.
"""

from dataclasses import dataclass
from pkgutil import resolve_name


@dataclass(frozen=True)
class Architecture:
    """A generator: gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB in about [0, 1]; H and W multiples of 32.

    network: its class, or the place of it, "package.module:Class". It is called with `width` and with the options.
    first_layer: the key of its first convolution's weight, which no other architecture has: a state dict is recognised
        by it, and its output channels, `models.base_channels(width)`, say the width.
    options: what a recipe may ask of it: "bounded" (the argument `bounded`) and "dropout" (`dropout_rate`).
    distribution: it answers with logits over the palette's colours, (B, palette.COLOURS, H/2, W/2), in place of colour.
    unbounded_key: a key that its state dict lacks where it is bounded; None where only the file's metadata say so.
    """

    network: str | type
    first_layer: str
    options: tuple[str, ...] = ()
    distribution: bool = False
    unbounded_key: str | None = None

    @property
    def network_class(self) -> type:
        return resolve_name(self.network) if isinstance(self.network, str) else self.network

    @property
    def recipe_options(self) -> tuple[str, ...]:
        """The fields of a recipe that have an effect with this architecture, and not with every one."""
        return (*self.options, "lambda_dist") if self.distribution else self.options


ARCHITECTURES = {
    "unet": Architecture(
        "colorize_utils.models:UNet", first_layer="encoder_block1.conv.0.weight", options=("bounded", "dropout")
    ),
    "wgan-unet": Architecture(
        "colorize_utils.models:WGANUNet",
        first_layer="encoder1.block.0.weight",
        options=("bounded",),
        unbounded_key="decoder5.block.1.weight",
    ),
    "distribution-unet": Architecture(
        "colorize_utils.models:DistributionUNet",
        first_layer="encoder1.conv.0.weight",
        options=("dropout",),
        distribution=True,
    ),
}
