"""`Colorizer`: any picture in, the same size in colour out.

The network sees the picture at its working size, for example 64 or 256 pixels a side, and only its chroma is used,
which the eye resolves poorly. Luminance, which carries the sharpness, is the given picture's, kept exactly at every
pixel (colour.py), whatever the size. The submission instead squashes a picture to a square and shows the network's own
output; `keep_luminance=False` gives that, clamped and scaled back up.

The network itself is an engine's (engines.py): PyTorch's or ONNX Runtime's. Everything here is NumPy and Pillow, for
both.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from colorize_utils import palette
from colorize_utils.checkpoints.hub import DEFAULT, EXPORTED, REGISTRY, exported, fetch, load_generator
from colorize_utils.colour import green_of, merge, unit
from colorize_utils.data.metadata import Mark
from colorize_utils.data.pictures import GrayPicture, PictureLike, to_gray
from colorize_utils.errors import CheckpointError, HintError
from colorize_utils.generator_registry import COLOUR, PROBABILITIES, STYLES
from colorize_utils.inference.engines import Engine, choose_engine
from colorize_utils.inference.hints import Answer, Belief, Hint, beliefs, hint_planes
from colorize_utils.inference.onnx_engine import OnnxEngine
from colorize_utils.machine import require_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MAX_ASPECT = 4  # the longer side at working size is at most this many times the working size
# The calmer style suits people and things, which the bundled network was not trained on; on flowers it is a matter of
# taste.
DEFAULT_STYLE = "safe"
_MOST = 1e6  # largest magnitude of an output that merging in float32 can take
_AROUND = 1  # places of the distribution in each direction that are averaged for the belief at a place
# Side of the window that smooths the width of belief, before its widest place is sought: a petal, not a pixel.
_WINDOW = 15
_SURE = 0.4  # standard deviation of chroma, red and blue together, that counts as no belief at all
_BAND = 1 << 16  # pixels merged at a time: bounds the memory that a large photograph takes, and fits the CPU's cache


class Colorizer:
    """A generator, prepared to colorize pictures of any kind and size.

    Several threads may colorize at once: the network takes one picture at a time, on all cores, while other pictures
    are read, merged and written. `shared_by` is quicker for many pictures on a CPU.

    Args:
        network: Gray (B, 1, H, W) → colour (B, 3, H, W), both in [0, 1], or a distribution over colours (palette.py);
            PyTorch computes it, and it is copied to `device`, its batch norms fused. Or an `Engine` that is ready.
        size: Its working size, pixels a side of a square; pictures of other aspects get the same area.
        name: How tables, errors and marks call it.
        device: Where it computes; by default the fastest device there is, for int8 the CPU.
        precision: "fp32" is exact. "bf16" is faster on CPUs that have it in hardware (on others it is emulated, slowly)
            and on CUDA; its colours differ from the exact ones by a level of 255 or, depending on the weights, several.
            "int8" computes in 8-bit integers, on the CPU: several times faster, nearly the same pictures. "auto" takes
            bf16 where that is faster and a trial does not show it, else fp32 (`precision.choose_precision`).
        checkpoint: The SHA-256 of the file that the network is from, for `mark`; "" where it is from none.

    Attributes:
        engine: What computes the network.
        has_distribution: Whether the network predicts a distribution over colours.
        takes_hints: Whether it can be given the colours of places.
        device: Where it computes; `str` makes "cpu", "cuda" … of it.
        precision: The precision in use: "fp32", "bf16" or "int8".

    Raises:
        ValueError: `precision` is none of `engines.PRECISIONS`.
        DeviceError: The device is not there, or the precision cannot be used on it.
    """

    def __init__(
        self,
        network: "nn.Module | Engine",
        size: int,
        name: str = "colorizer",
        device: "str | torch.device | None" = None,
        *,
        precision: str = "auto",
        checkpoint: str = "",
    ):
        self.engine: Engine
        if isinstance(network, Engine):
            self.engine = network
        else:
            from colorize_utils.inference.torch_engine import TorchEngine  # and with it PyTorch

            self.engine = TorchEngine(network, size, device, precision)
        self.has_distribution = self.engine.has_distribution
        self.takes_hints = self.engine.takes_hints
        self.device = self.engine.device
        self.precision = self.engine.precision
        self.size = size
        self.name = name
        self.checkpoint = checkpoint
        self._turn = threading.Lock()
        self._sharing = 0  # blocks of `shared_by` that are open

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT,
        device: "str | torch.device | None" = None,
        progress: bool = True,
        *,
        engine: str = "auto",
        precision: str = "auto",
    ) -> "Colorizer":
        """Makes a colorizer from a checkpoint; architecture and width are recognised from its file.

        Args:
            name_or_path: A name of the registry (checkpoints/hub.py), a link, a repository of the Hugging Face Hub
                (hf://OWNER/NAME) or a file; by default the bundled checkpoint. A file may be a checkpoint, or what
                `export` made of one.
            device: Where it computes; by default the fastest device there is, for int8 and ONNX Runtime the CPU.
            progress: Shows the progress of a download.
            engine: "torch" is PyTorch; "onnx" is ONNX Runtime, for what was exported; "auto" takes ONNX Runtime where
                that can do what is asked for and PyTorch is not loaded in this process (engines.py).
            precision: As in `Colorizer`.

        Returns:
            The colorizer, with the checkpoint's working size and name.

        Raises:
            ValueError: `engine` or `precision` is none.
            CheckpointError: The checkpoint cannot be fetched or read, or is not for the engine.
            DeviceError: The device is not there, or the precision cannot be used on it.
            PackageError: PyTorch is needed, and not installed.
        """
        is_both = os.fspath(name_or_path) in EXPORTED  # a checkpoint, and the file that was made of it
        light = None if is_both and engine == "torch" else exported(name_or_path, progress)
        chosen = choose_engine(engine, light is not None, device, precision)
        if light is not None and not is_both:  # nothing else can compute it
            chosen = choose_engine("onnx", True, device, precision)
            if engine == "torch":
                raise CheckpointError(f"{light.name} is for the engine onnx alone; give the checkpoint it was made of")
        if chosen == "onnx":
            if light is None:
                raise CheckpointError(
                    f"{os.fspath(name_or_path)} is no exported file; make one: python -m colorize_utils export"
                )
            ready = OnnxEngine(light)
            return cls(ready, ready.size, ready.about.name, checkpoint=ready.about.source_sha256)
        require_torch(_purpose(name_or_path, engine, light is not None, device, precision))
        loaded = load_generator(name_or_path, progress=progress)
        return cls(loaded.predictor, loaded.size, loaded.name, device, checkpoint=loaded.sha256, precision=precision)

    @contextlib.contextmanager
    def shared_by(self, workers: int) -> Iterator[None]:
        """Gives each of several threads that colorize within the block its share of the CPU's cores.

        The threads then do not wait for one another. On a GPU and in int8 they take turns as usual.

        A folder takes about a sixth less time, with the bundled network as with a U-Net of full width at 256×256 (two
        cores), because cores do not wait for each other at the end of each layer. As many pictures are in memory at
        once. PyTorch's number of threads is the whole process's; when all blocks have ended, it is what it was.

        Args:
            workers: How many threads colorize.
        """
        if not self.engine.can_be_shared:
            yield
            return
        self.engine.share(workers)
        with self._turn:  # a picture that was begun on all cores is finished first
            self._sharing += 1
        try:
            yield
        finally:
            with self._turn:
                self._sharing -= 1
            self.engine.unshare(workers)

    @property
    def judged_side(self) -> int:
        """The side of the square to which `unfamiliarity` resizes a picture; 0 where the network cannot tell it."""
        return self.engine.judged_side

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that the network has: all, where it predicts a distribution over colours, else "safe" alone."""
        return STYLES if self.has_distribution else STYLES[:1]

    @property
    def default_style(self) -> str:
        """The style of results where none is asked for: `DEFAULT_STYLE`, where the network has it."""
        return DEFAULT_STYLE if DEFAULT_STYLE in self.styles else self.styles[0]

    def mark(self, style: str | None = None) -> Mark:
        """Makes the mark for a result's file: that its colours are predicted, by which model and in which style.

        `save_picture(image, path, mark=colorizer.mark())` writes it.

        Args:
            style: The style that the picture was colorized in; by default `default_style`.

        Returns:
            The mark.

        Raises:
            ValueError: The network does not have the style.
        """
        return Mark(self.name, self.checkpoint[:12], self._known(style))

    def colorize(
        self,
        picture: PictureLike,
        keep_luminance: bool = True,
        strength: float = 1.0,
        style: str | None = None,
        hints: Sequence[Hint] = (),
    ) -> Image.Image:
        """Colorizes a picture.

        Args:
            picture: A path, bytes, a PIL image of any mode, an array or a tensor (`pictures.to_gray` says which). A
                colour picture is converted to gray first.
            keep_luminance: True puts the network's chroma on the picture's own luminance, so that `convert("L")` of the
                result equals an 8-bit gray picture exactly. False gives the submission's result, the network's own
                output.
            strength: Multiplies the chroma; 0 leaves gray. It has no effect on the submission's result.
            style: "safe" is the annealed mean of the predicted distribution over colours; "vivid" has the strength of
                the colours in it, which the mean of different colours lacks (palette.py). By default `default_style`.
                A network that predicts a single colour has "safe" alone.
            hints: The colours of places, which the network spreads to what belongs to them.

        Returns:
            The picture in colour, of exactly its upright size: 8-bit RGB, or RGBA where it has alpha.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: An array does not fit, the network does not have the style or takes no hints, or a hint lies off
                the picture.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        style = self._known(style)
        source = to_gray(picture)
        if keep_luminance:
            (chroma,) = self._chroma(source.gray, style, [hints])  # (2, h, w)
            return with_chroma_of(source, chroma, strength)
        return _image(_in_bands(self._raw(source.gray, style, hints), source.gray, _clamped), source.alpha)

    def answers(
        self,
        picture: PictureLike,
        count: int = 4,
        strength: float = 1.0,
        style: str | None = None,
        hints: Sequence[Hint] = (),
    ) -> list[Answer]:
        """Several ways to colour a picture, which differ in the colour of what the network is least sure of.

        Where its belief is widest, each colour that it thinks likely is given as a hint, and spread to what belongs
        there. So every answer is coherent, as colours that are drawn pixel by pixel are not. Colours are told apart by
        what people call them.

        Args:
            picture: As in `colorize`.
            count: How many at most; fewer where it thinks fewer colours likely.
            strength: As in `colorize`.
            style: As in `colorize`.
            hints: What is known already; each answer has these and its own.

        Returns:
            The answers, the likeliest first; one at least.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: An array does not fit, `count` is not positive, the network does not have the style, or takes no
                hints.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        if count < 1:
            raise ValueError(f"count must be positive, got {count}")
        style = self._known(style)
        self._require_hints()
        source = to_gray(picture)
        probabilities = self._distribution(source.gray, hints)  # (COLOURS, h, w)
        grid, radius = probabilities.shape[1:], 1.5 * self._pixels_a_place(source.gray)
        row, column = _peak(palette.variance(probabilities))
        x, y = _pixel((row, column), grid, source.gray)
        found = _believed_at(probabilities, row, column, source.gray, x, y)[:count]
        chosen = [(*hints, Hint(x, y, belief.colour, radius)) for belief in found]
        pictures = self.colorize_each(picture, chosen, strength, style)
        return [
            Answer(answer, given, belief.probability, belief.name)
            for answer, given, belief in zip(pictures, chosen, found, strict=True)
        ]

    def colorize_each(
        self, picture: PictureLike, several: Sequence[Sequence[Hint]], strength: float = 1.0, style: str | None = None
    ) -> list[Image.Image]:
        """Colorizes a picture once for each of several sets of hints, which is quicker than one after the other.

        Args:
            picture: As in `colorize`.
            several: The sets; one may be empty.
            strength: As in `colorize`.
            style: As in `colorize`.

        Returns:
            A picture for each set, as `colorize` gives it, but for the rounding of a sum in another order.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: As in `colorize`.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        style = self._known(style)
        source = to_gray(picture)
        chromas = self._chroma(source.gray, style, several)
        return [with_chroma_of(source, chroma, strength) for chroma in chromas]

    def palette_at(self, picture: PictureLike, x: float, y: float, hints: Sequence[Hint] = ()) -> list[Belief]:
        """The colours that the network thinks likely at a place: what an interface offers there.

        Args:
            picture: As in `colorize`.
            x: The place's column, in pixels of the upright picture.
            y: Its row.
            hints: As in `colorize`.

        Returns:
            One colour for each name that people would give it, the likeliest first.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: An array does not fit, the place or a hint lies off the picture, or the network predicts no
                distribution.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        return self.palettes_at(picture, [(x, y)], hints)[0]

    def palettes_at(
        self, picture: PictureLike, places: Sequence[tuple[float, float]], hints: Sequence[Hint] = ()
    ) -> list[list[Belief]]:
        """The same as `palette_at` for several places, of one look at the picture.

        Args:
            picture: As in `colorize`.
            places: Column and row of each, in pixels of the upright picture.
            hints: As in `colorize`.

        Returns:
            For each place what `palette_at` returns for it.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: As in `palette_at`.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        gray = to_gray(picture).gray
        height, width = gray.shape
        for x, y in places:
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"({x:g}, {y:g}) lies off the picture, which is {width} wide and {height} high")
        probabilities = self._distribution(gray, hints)
        rows, columns = probabilities.shape[1:]
        return [
            _believed_at(probabilities, int(y * rows / height), int(x * columns / width), gray, x, y) for x, y in places
        ]

    def uncertainty(self, picture: PictureLike, hints: Sequence[Hint] = ()) -> np.ndarray:
        """Where the network guesses: the width of its belief.

        Args:
            picture: As in `colorize`.
            hints: As in `colorize`.

        Returns:
            (H, W) float32 in [0, 1], of the picture's upright size: the standard deviation of chroma, as a share of the
            one that counts as no belief at all.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: An array does not fit, a hint lies off the picture, or the network predicts no distribution.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        gray = to_gray(picture).gray
        width_of_belief = np.sqrt(palette.variance(self._distribution(gray, hints))) / _SURE
        return resized(width_of_belief.clip(0, 1), *gray.shape)

    def chroma(self, small: np.ndarray, style: str | None = None) -> np.ndarray:
        """Predicts the chroma of a gray picture at working size: the network's part of `colorize`.

        `working_size` makes its argument, and `with_chroma_of` takes its result, so that the three may be computed in
        different processes.

        Args:
            small: (h, w) uint8, of even sides.
            style: As in `colorize`.

        Returns:
            Red and blue minus luma, (2, h, w) float32 in [−1, 1]; half as high and wide where the network predicts
            a distribution.

        Raises:
            ValueError: The network does not have the style.
            CheckpointError: The network's output is NaN or out of all bounds.
        """
        chroma: np.ndarray = self._predict(self._known(style), small)[0]
        return chroma

    def unfamiliarity(self, picture: PictureLike) -> float | None:
        """How sure the network is that a picture is none of the kind that it was trained on.

        Args:
            picture: As in `colorize`.

        Returns:
            A number in [0, 1]; above `generator_registry.UNFAMILIAR` expect colours that are far off. None where the
            network was not taught to tell.

        Raises:
            PictureError: The picture cannot be read.
            ValueError: An array does not fit.
        """
        if not self.judged_side:
            return None
        levels = resized(to_gray(picture).gray, self.judged_side, self.judged_side)
        return self.engine.unfamiliarity(_unit(levels)[None, None])

    def predictor(self, keep_luminance: bool = True, style: str | None = None) -> "Callable[[Tensor], Tensor]":
        """Makes a function that colorizes batches, for the scoreboard.

        It scores the 8-bit pictures that people get, because it calls `colorize` for each picture of a batch.

        Args:
            keep_luminance: As in `colorize`.
            style: As in `colorize`.

        Returns:
            A function of gray (B, 1, H, W) to colour (B, 3, H, W), both in [0, 1].
        """
        import torch

        def predict(gray: "Tensor") -> "Tensor":
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

    def _require_hints(self) -> None:
        if not self.takes_hints:
            raise HintError(f"{self.name} takes no hints; use the bundled checkpoint")

    def _pixels_a_place(self, gray: np.ndarray) -> float:
        """How many pixels of a picture (H, W) a side of a place of the distribution is."""
        return float(max(1.0, 2 * (gray.size**0.5) / self.size))

    def _distribution(self, gray: np.ndarray, hints: Sequence[Hint] = ()) -> np.ndarray:
        """The probabilities of the palette's colours, (COLOURS, h, w), for a gray picture (H, W)."""
        if not self.has_distribution:
            raise ValueError(f"{self.name} names a single colour for each place, and does not know how sure it is")
        probabilities: np.ndarray = self._predict(PROBABILITIES, *self._asked(gray, [hints]))[0]
        return probabilities

    def _asked(self, gray: np.ndarray, several: Sequence[Sequence[Hint]]) -> tuple[np.ndarray, np.ndarray | None]:
        """What the network is asked for a gray picture (H, W): the picture at working size, and sets of hints there."""
        small = working_size(gray, self.size)
        if len(several) == 1 and not several[0]:
            return small, None
        self._require_hints()
        return small, np.stack([hint_planes(hints, gray, *small.shape) for hints in several])

    def _chroma(self, gray: np.ndarray, style: str, several: Sequence[Sequence[Hint]]) -> np.ndarray:
        """The network's chroma of a gray picture (H, W), for each set of hints: (N, 2, h, w) in [−1, 1].

        It is red and blue minus luma. h and w are the sides at working size, or half of them where the network predicts
        a distribution.
        """
        return self._predict(style, *self._asked(gray, several))

    def _raw(self, gray: np.ndarray, style: str, hints: Sequence[Hint]) -> np.ndarray:
        """The network's colour (3, size, size) of a gray picture squashed to a square."""
        side = 2 * max(1, self.size // 2)
        small = resized(gray, side, side)
        told = None
        if hints:
            self._require_hints()
            told = hint_planes(hints, gray, side, side)[None]
        if not self.has_distribution:
            colour: np.ndarray = self._predict(COLOUR, small, told)[0]
            return colour
        chroma = self._predict(style, small, told)[0]
        red, blue = (resized(plane, side, side, Image.Resampling.BICUBIC) for plane in chroma)
        return _unit(small) + np.stack([red, green_of(red, blue), blue])

    def _predict(self, wanted: str, levels: np.ndarray, hints: np.ndarray | None = None) -> np.ndarray:
        """What is wanted (prediction.py) of 8-bit gray (h, w) of even sides.

        There is one answer for each set of hints (N, 3, h, w), or a single one where there are none.
        """
        gray = _unit(levels)[None, None]
        if hints is not None:
            gray = gray.repeat(len(hints), axis=0)
        with contextlib.nullcontext() if self._sharing else self._turn:
            (output,) = self.engine.predict([wanted], gray, hints)
        if not np.abs(output).max() < _MOST:  # true of NaN, too; finite weights may have products that are not finite
            raise CheckpointError(
                f"{self.name} answers NaN or numbers beyond all bounds; its weights are damaged, use another"
            )
        return output


def _purpose(name_or_path: str | os.PathLike[str], engine: str, light: bool, device: object, precision: str) -> str:
    """What PyTorch is needed for, in words for an error."""
    if engine == "torch":
        return "the engine torch"
    if not light:
        if os.fspath(name_or_path) not in REGISTRY and "://" not in os.fspath(name_or_path):
            fetch(name_or_path)  # raises where there is no such file: PyTorch would not help
        return f"{os.fspath(name_or_path)}, a checkpoint that is not exported,"
    if precision not in ("auto", "fp32"):
        return f"precision {precision}"
    return f"device {device}"


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The means (h, w) of values (h, w) in windows of `_WINDOW` places a side, 0 beyond the edge."""
    sums = np.pad(values.astype(np.float64), _WINDOW // 2)
    for axis in (0, 1):  # a window's sum is the difference of two running sums
        running = np.cumsum(np.insert(sums, 0, 0, axis=axis), axis=axis)
        sums = np.take(running, np.arange(_WINDOW, running.shape[axis]), axis=axis)
        sums -= np.take(running, np.arange(running.shape[axis] - _WINDOW), axis=axis)
    return (sums / _WINDOW**2).astype(np.float32)


def _peak(values: np.ndarray) -> tuple[int, int]:
    """Row and column of the highest of values (h, w), smoothed."""
    row, column = np.unravel_index(_smoothed(values).argmax(), values.shape)
    return int(row), int(column)


def _pixel(place: tuple[int, int], grid: Sequence[int], gray: np.ndarray) -> tuple[float, float]:
    """X and y, in a picture (H, W), of the middle of a place of a grid (h, w)."""
    (row, column), (h, w) = place, grid
    return (column + 0.5) * gray.shape[1] / w, (row + 0.5) * gray.shape[0] / h


def _believed_at(
    probabilities: np.ndarray, row: int, column: int, gray: np.ndarray, x: float, y: float
) -> list[Belief]:
    """What a distribution (COLOURS, h, w) believes around a place of it, which is the pixel (x, y) of the picture."""
    around = probabilities[
        :, max(0, row - _AROUND) : row + _AROUND + 1, max(0, column - _AROUND) : column + _AROUND + 1
    ]
    return beliefs(around.mean(axis=(1, 2)), float(gray[int(y), int(x)]))


def _unit(levels: np.ndarray) -> np.ndarray:
    """8-bit levels as numbers in [0, 1], as `colour.unit` makes them of tensors."""
    return levels.astype(np.float32) / np.float32(255)


def working_size(gray: np.ndarray, size: int) -> np.ndarray:
    """Resizes a gray picture to the area of a working-size square, at about its own aspect.

    Args:
        gray: (H, W) uint8.
        size: The working size, pixels a side of a square.

    Returns:
        (h, w) uint8, of even sides.
    """
    height, width = gray.shape
    scale = size / (height * width) ** 0.5
    h, w = (2 * max(1, min(round(scale * side / 2), MAX_ASPECT * size // 2)) for side in (height, width))
    return resized(gray, h, w)


def resized(
    plane: np.ndarray,
    height: int,
    width: int,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resizes a plane by Pillow, antialiased.

    Args:
        plane: (H, W) uint8 or float32.
        height: The height to give it.
        width: The width to give it.
        resampling: The filter; the training pictures were resized bilinearly.
        box: Left, top, right and bottom of the part to resize; by default all of it.

    Returns:
        (height, width), of the same type.
    """
    return np.array(Image.fromarray(plane).resize((width, height), resampling, box))


def with_chroma_of(source: GrayPicture, chroma: np.ndarray, strength: float = 1.0) -> Image.Image:
    """Puts predicted chroma on a picture's own luminance: the last part of `Colorizer.colorize`.

    Args:
        source: The picture in gray, and its alpha.
        chroma: What `Colorizer.chroma` predicts for it, (2, h, w).
        strength: Multiplies the chroma.

    Returns:
        The picture in colour: 8-bit RGB, or RGBA where it has alpha.
    """
    return _image(_in_bands(255 * strength * chroma, source.gray, merge), source.alpha)


def _image(rgb: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    return Image.fromarray(rgb if alpha is None else np.dstack([rgb, alpha]))


def _in_bands(
    small: np.ndarray, gray: np.ndarray, finish: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Enlarges `small` (C, h, w) to the size of `gray` (H, W) and makes pixels of both, band by band: (H, W, 3) uint8.

    finish: makes pixels (b, W, 3) uint8 of a band of b rows, from its gray (b, W) and its enlarged planes (C, b, W).
    """
    height, width = gray.shape
    rows = small.shape[1]
    columns = [resized(plane, rows, width, Image.Resampling.BICUBIC) for plane in small]  # (h, W) each
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, _BAND // width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        box = (0, start * rows / height, width, stop * rows / height)  # it reads beyond the box where the filter does
        planes = [resized(column, stop - start, width, Image.Resampling.BICUBIC, box) for column in columns]
        result[start:stop] = finish(gray[start:stop], np.stack(planes))
    return result


def _clamped(_: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.rint(255 * colour.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
