"""`Colorizer`: any picture in, the same size in colour out.

The network sees the picture at its working size, some 64 or 256 pixels a side; what it is asked for is the chroma,
which the eye resolves poorly. Luminance, which carries the sharpness, is the one that was given: kept to the pixel
(colour.py), whatever the size. The submission instead squashes a picture to a square and shows the network's own
output; `keep_luminance=False` gives that, clamped and scaled back up.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from colorize_utils import palette
from colorize_utils.checkpoints import DEFAULT, load_generator
from colorize_utils.colour import chroma_of, merge, unit, with_chroma
from colorize_utils.data.pictures import to_gray
from colorize_utils.devices import choose_device, keep_freed_memory
from colorize_utils.errors import DeviceError
from colorize_utils.inference.quantization import Int8Network
from colorize_utils.models import POOLINGS, MeanColour, fuse_batch_norms, predicts_distribution

MAX_ASPECT = 4  # the longer side at working size is at most this many times the working size
_STYLES = {"safe": palette.mean, "vivid": palette.vivid}  # of a network that predicts a distribution
STYLES = tuple(_STYLES)
# The calmer one on people and things, of which the bundled network knows nothing; on flowers a matter of taste.
DEFAULT_STYLE = "safe"
_BAND = 1 << 16  # pixels merged at a time: bounds the memory of a large photograph, and stays in the cache


class Colorizer:
    """A generator made ready for people's own pictures.

    network: gray (B, 1, H, W) → colour (B, 3, H, W), both in [0, 1]; a copy of it is made ready on `device`.
    size: its working size, pixels a side of a square; other aspects get the same area. name: for tables.
    int8: computes in 8-bit integers, on the CPU: several times faster, nearly the same pictures.
    compiled: compiles the network at its first pictures, which takes half a minute or more.

    Several threads may colorize at once: the network takes one picture at a time and all of the machine for it, while
    other pictures are read, merged and written. `shared_by` is quicker for many pictures on a CPU.

    Raises DeviceError where the device is not there, or int8 cannot be had.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        name: str = "colorizer",
        device: str | torch.device | None = None,
        *,
        int8: bool = False,
        compiled: bool = False,
    ):
        self.device = torch.device("cpu") if int8 and device is None else choose_device(device)
        if int8 and self.device.type != "cpu":
            raise DeviceError(f"int8 computes on the CPU, not on {self.device}; leave out one of the two")
        if self.device.type == "cpu":
            keep_freed_memory()
        if isinstance(network, MeanColour):
            network = network.generator  # the mean is one of its styles
        self.has_distribution = predicts_distribution(network)
        if int8:
            self.network = Int8Network(network, size)
        else:
            # Channels-last spares the U-Net 17 % of its time (256×256, width 1, two cores); on MPS it was not tried.
            layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last
            self.network = fuse_batch_norms(network).to(self.device, memory_format=layout)
        if compiled and not int8:
            # Frozen: the compiler may then lay the weights out once and for all.
            options = {"freezing": True} if self.device.type == "cpu" else None
            self.network = torch.compile(self.network, options=options)
        self.size = size
        self.name = name
        self._turn = threading.Lock()
        # ONNX Runtime has threads of its own; what is compiled anew for each number of threads is no gain.
        self._can_be_shared = self.device.type == "cpu" and not (int8 or compiled)

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | os.PathLike = DEFAULT,
        device: str | torch.device | None = None,
        progress: bool = True,
        **how,
    ) -> "Colorizer":
        """A colorizer from a checkpoint of the registry, by default the bundled one, or from a file.

        Architecture and width are recognised from the file; `how` goes to `Colorizer`. Raises CheckpointError
        (checkpoints.py), and what `Colorizer` raises.
        """
        loaded = load_generator(name_or_path, progress=progress)
        return cls(loaded.predictor, loaded.size, loaded.name, device, **how)

    @contextlib.contextmanager
    def shared_by(self, workers: int) -> Iterator[None]:
        """Within the block, the threads that colorize on a CPU do not wait for one another: each of the `workers` has
        its share of the cores. On a GPU, in int8 and compiled they take turns as ever.

        A folder then takes about a sixth less time, with the bundled network as with a U-Net of full width at 256×256
        (two cores), because cores do not wait for each other at the end of each layer. It takes the memory of as many
        pictures. The number of threads is the whole process's and is put back afterwards.
        """
        if not self._can_be_shared:
            yield
            return
        turn, threads = self._turn, torch.get_num_threads()
        self._turn = contextlib.nullcontext()
        torch.set_num_threads(max(1, threads // workers))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            self._turn = turn

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that the network has: all, where it predicts a distribution over colours, else "safe" alone."""
        return STYLES if self.has_distribution else STYLES[:1]

    @property
    def default_style(self) -> str:
        return DEFAULT_STYLE if DEFAULT_STYLE in self.styles else self.styles[0]

    def colorize(
        self, picture, keep_luminance: bool = True, strength: float = 1.0, style: str | None = None
    ) -> Image.Image:
        """The picture in colour: 8-bit RGB, or RGBA where it has alpha, of exactly its upright size.

        picture: a path, bytes, a PIL image of any mode, an array or a tensor (`pictures.to_gray` says which). A colour
        picture is turned gray first.
        keep_luminance: True gives the network's chroma on the picture's own luminance, so that `convert("L")` of the
        result equals an 8-bit gray picture exactly; False the submission's result.
        strength: multiplies the chroma; 0 leaves gray. It has no effect on the submission's result.
        style: "safe" is the mean of what the network believes possible, "vivid" as strong as what it believes;
        default: `default_style`. A network that names a single colour has "safe" alone.

        Raises PictureError where a picture cannot be read, ValueError where an array does not fit, or the network does
        not have the style.
        """
        style = self._known(style)
        source = to_gray(picture)
        if keep_luminance:
            chroma = 255 * strength * self._chroma(source.gray, style)  # (2, h, w)
            rgb = _in_bands(chroma, source.gray, merge)
        else:
            rgb = _in_bands(self._raw(source.gray, style), source.gray, _clamped)
        if source.alpha is None:
            return Image.fromarray(rgb)
        return Image.fromarray(np.dstack([rgb, source.alpha]))

    def predictor(self, keep_luminance: bool = True, style: str | None = None) -> Callable[[Tensor], Tensor]:
        """`colorize` on batches, gray (B, 1, H, W) → colour (B, 3, H, W) in [0, 1], for the scoreboard: by way of the
        8-bit pictures that people get."""

        def predict(gray: Tensor) -> Tensor:
            levels = (255 * gray).round().byte().squeeze(1).cpu().numpy()  # (B, H, W)
            pictures = [np.asarray(self.colorize(picture, keep_luminance, style=style)) for picture in levels]
            return unit(torch.from_numpy(np.stack(pictures))).permute(0, 3, 1, 2).to(gray.device)

        return predict

    def _known(self, style: str | None) -> str:
        if style is None:
            style = self.default_style
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
        if style not in self.styles:
            raise ValueError(
                f"{self.name} names a single colour for each place and has no style {style!r}; try strength"
            )
        return style

    def _working_size(self, gray: np.ndarray) -> np.ndarray:
        """A gray picture (H, W) at about its own aspect and the area of a square of the working size; even sides."""
        height, width = gray.shape
        scale = self.size / (height * width) ** 0.5
        h, w = (2 * max(1, min(round(scale * side / 2), MAX_ASPECT * self.size // 2)) for side in (height, width))
        return _resize(gray, h, w)

    def _chroma(self, gray: np.ndarray, style: str) -> Tensor:
        """The network's chroma of a gray picture (H, W), red and blue minus luma, (2, h, w) in [−1, 1], at working size
        or half of it."""
        small = self._working_size(gray)
        if self.has_distribution:
            return _STYLES[style](self._logits(small))[0]
        return chroma_of(self._predict(small))[0]

    def _raw(self, gray: np.ndarray, style: str) -> Tensor:
        """The network's colour (3, size, size) of a gray picture squashed to a square."""
        side = 2 * max(1, self.size // 2)
        small = _resize(gray, side, side)
        if self.has_distribution:
            chroma = _STYLES[style](self._logits(small))
            return with_chroma(_unit(small[None]), _enlarge(chroma, side, side))[0]
        return self._predict(small)[0]

    def _logits(self, levels: np.ndarray) -> Tensor:
        """A network's distribution for 8-bit gray (h, w) of even sides, (1, COLOURS, h/2, w/2): the (geometric) mean of
        what it believes of the picture and of its mirror image."""
        # As one batch: at 64×64 on two cores a third faster than one after the other, because PyTorch leaves the small
        # layers of a single picture to a slower convolution.
        one, other = self._predict(levels, levels[:, ::-1]).split(1)
        return (one + other.flip(-1)) / 2

    @torch.inference_mode()
    def _predict(self, *levels: np.ndarray) -> Tensor:
        """The network's output (B, C, …) on the CPU for 8-bit gray pictures, B of one shape (h, w); padded for the
        poolings by repeating the edge."""
        gray = _unit(np.stack(levels))
        h, w = gray.shape[-2:]
        multiple = 2**POOLINGS
        padded = F.pad(gray, (0, -w % multiple, 0, -h % multiple), mode="replicate")
        with self._turn:
            output = self.network(padded.to(self.device))
        share = padded.shape[-1] // output.shape[-1]  # 2, where the network answers at half its working size
        return output[..., : h // share, : w // share].float().cpu()


def _unit(levels: np.ndarray) -> Tensor:
    return unit(torch.from_numpy(levels))[:, None]  # (B, h, w) → (B, 1, h, w)


def _resize(gray: np.ndarray, height: int, width: int) -> np.ndarray:
    """As the training pictures were resized: Pillow's antialiased bilinear filter."""
    return np.array(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def _in_bands(small: Tensor, gray: np.ndarray, finish: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8: `small` (C, h, w) enlarged to `gray`'s (H, W) smoothly, finished in bands of rows.

    finish(gray_band (b, W), planes (C, b, W)) → (b, W, 3) uint8. Bicubic interpolation is separable: the columns are
    enlarged once, the rows band by band, as a product with the rows of the interpolation matrix. Tall pictures are
    taken on their side, so that the matrix, which has a row for each of the picture's, stays small.
    """
    height, width = gray.shape
    if height > width:
        return _in_bands(small.mT, np.ascontiguousarray(gray.T), finish).transpose(1, 0, 2)
    columns = _enlarge(small[None], small.shape[1], width)[0]  # (C, h, W)
    rows = _enlarge(torch.eye(small.shape[1])[None, None], height, small.shape[1])[0, 0]  # (H, h)
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, _BAND // width)
    for start in range(0, height, step):
        part = slice(start, start + step)
        result[part] = finish(gray[part], (rows[part] @ columns).numpy())
    return result


def _enlarge(planes: Tensor, height: int, width: int) -> Tensor:
    """Bicubic, and antialiased where a side becomes shorter; (B, C, h, w) → (B, C, height, width)."""
    return F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)


def _clamped(_: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.rint(255 * colour.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
