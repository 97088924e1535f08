"""The whole of prediction as one network: what PyTorch's engine computes, and what `export` writes for ONNX Runtime.

From a gray picture at working size to what pictures are made of. Sizes and mirror images are averaged inside, and
chroma is read from the distribution inside, so that whoever runs it, with whatever engine, needs nothing else.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from colorize_utils import palette
from colorize_utils.colour import chroma_of
from colorize_utils.generator_registry import COLOUR, PROBABILITIES, STYLES, UNFAMILIARITY
from colorize_utils.models import MeanColour, predicts_distribution
from colorize_utils.multiscale import AveragedDistribution, MultiscaleUNet, padded

_STYLES = {"safe": palette.safe, "vivid": palette.vivid}  # how chroma is read from a predicted distribution


class Prediction(nn.Module):
    """Gray pictures, hints, and pictures to judge → what is wanted of `outputs`.

    - "probabilities": of the palette's colours (palette.py), (B, COLOURS, H/2, W/2), where the network predicts a
      distribution
    - "colour": RGB in about [0, 1], (B, 3, H, W), where it names a single one
    - "safe", "vivid": chroma in that style, red and blue minus luma, (B, 2, h, w) in [−1, 1], of the size of the one or
      the other; of a single colour there is "safe" alone
    - "unfamiliarity": `MultiscaleUNet.unfamiliarity` of pictures of their own, (N,), where that was fitted

    Args:
        network: Gray (B, 1, H, W) → colour (B, 3, H, W) or a distribution's logits; it is copied.
        size: Its working size, pixels a side of a square.
        prepare: As in `AveragedDistribution`; what tells the unfamiliarity stays as it is.

    Attributes:
        outputs: The names of what it can give, in the order of an exported file.
        size: As given.
        has_distribution: Whether the network predicts a distribution over colours.
        takes_hints: Whether it can be given the colours of places.
        judged_side: The side of the square that "unfamiliarity" is meant for; 0 where there is none.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        prepare: Callable[[nn.Module, int], nn.Module] = lambda network, size: network,
    ):
        super().__init__()
        if isinstance(network, MeanColour):
            network = network.generator  # its distribution; the mean colour is the style "safe"
        self.size = size
        self.has_distribution = predicts_distribution(network)
        self.takes_hints = isinstance(network, MultiscaleUNet)
        self.network = AveragedDistribution(network, size, prepare) if self.has_distribution else prepare(network, size)
        self.judge: MultiscaleUNet | None = None
        self.judged_side = 0
        if isinstance(network, MultiscaleUNet) and network.knows_what_it_knows:
            self.judged_side = min(network.side_lengths)
            self.judge = network.at(self.judged_side)
        first = (PROBABILITIES, *STYLES) if self.has_distribution else (COLOUR, STYLES[0])
        self.outputs = (*first, UNFAMILIARITY) if self.judge else first

    def forward(
        self,
        gray: Tensor,
        hints: Tensor | None = None,
        judged: Tensor | None = None,
        wanted: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """Predicts what is wanted.

        Args:
            gray: (B, 1, H, W) in [0, 1], even sides; of about the area of a square of the working size.
            hints: (B, 3, H, W), as in multiscale.py; by default none. Only a `MultiscaleUNet` takes them.
            judged: (N, 1, S, S) in [0, 1], pictures squashed to squares of `judged_side`, whose unfamiliarity is told.
            wanted: Some of `outputs`; by default all.

        Returns:
            What is wanted, in that order, float32.
        """
        found: dict[str, Tensor] = {}
        if self.has_distribution:
            found[PROBABILITIES] = self.network(gray) if hints is None else self.network(gray, hints)
            for style in STYLES if wanted is None else {*STYLES} & {*wanted}:
                found[style] = _STYLES[style](found[PROBABILITIES])
        else:
            colour = self.network(padded(gray))[..., : gray.shape[-2], : gray.shape[-1]].float()
            found |= {COLOUR: colour, STYLES[0]: chroma_of(colour)}
        if judged is not None:
            found[UNFAMILIARITY] = self.unfamiliarity(judged)
        return [found[name] for name in ([one for one in self.outputs if one in found] if wanted is None else wanted)]

    def unfamiliarity(self, judged: Tensor) -> Tensor:
        """How strange pictures are to the network: `judged` as in `forward` → (N,) in [0, 1]."""
        assert self.judge is not None
        return self.judge.unfamiliarity(judged)
