"""The registry of the generators' architectures: one entry holds what recipes, models and checkpoints must know of one.

These three modules import it. It gives each network's class by its import path, because recipes are checked, and
`--help` is answered, before torch is loaded.
"""

from dataclasses import dataclass
from pkgutil import resolve_name

HINT_CHANNELS = 3  # of the hints that a network may take beside a gray picture (multiscale.py)
UNFAMILIAR = 0.5  # a network's number for how strange a picture is to it, above which people are warned
# What a prediction consists of (inference/prediction.py), by name: a distribution or a colour, chroma in the styles,
# and how strange the picture is.
PROBABILITIES, COLOUR, UNFAMILIARITY = "probabilities", "colour", "unfamiliarity"
STYLES = ("safe", "vivid")


@dataclass(frozen=True)
class Architecture:
    """A generator: gray (B, 1, H, W) in [0, 1] → colour (B, 3, H, W), RGB in about [0, 1]; H and W multiples of 32.

    Attributes:
        network: Its class, or the import path of it, "package.module:Class". It is called with `width` and the options.
        first_layer: The key of its first convolution's weight, which no other architecture has: it identifies a state
            dict, and the number of output channels, `models.base_channels(width)`, tells the width.
        options: What a recipe may set: "bounded" (the network's argument `bounded`) and "dropout" (`dropout_rate`).
        distribution: It returns logits over the palette's colours, (B, palette.COLOURS, H/2, W/2), in place of colour.
        unbounded_key: A key that its state dict lacks where it is bounded; None where only the file's metadata tell.
        multiscale: It is trained at several sizes and predicts at several, `multiscale.MultiscaleUNet.sizes`.
    """

    network: str | type
    first_layer: str
    options: tuple[str, ...] = ()
    distribution: bool = False
    unbounded_key: str | None = None
    multiscale: bool = False

    @property
    def network_class(self) -> type:
        """The network's class, imported now where `network` is a path."""
        return resolve_name(self.network) if isinstance(self.network, str) else self.network

    @property
    def recipe_options(self) -> tuple[str, ...]:
        """The fields of a recipe that have an effect with this architecture, but not with every architecture."""
        options = (*self.options, "lambda_dist", "places") if self.distribution else self.options
        return (*options, "hints") if self.multiscale else options


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
    "multiscale-unet": Architecture(
        "colorize_utils.multiscale:MultiscaleUNet",
        first_layer="coarse.encoder1.conv.0.weight",
        options=("dropout",),
        distribution=True,
        multiscale=True,
    ),
}
