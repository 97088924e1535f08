"""Hints, colours that somebody gives at places of a picture; beliefs, the colours that a network thinks likely there.

Places are pixels of the upright picture, x to the right and y down from the top left corner. Of a hint's colour the
chroma counts; how light a place is, the picture says.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from colorize_utils import palette
from colorize_utils.colour import LUMA_WEIGHTS, merge
from colorize_utils.errors import HintError
from colorize_utils.files import atomic_write
from colorize_utils.naming import colour_name, lab

RGB = tuple[int, int, int]
"""8-bit red, green and blue."""

LEAST_BELIEVED = 0.03  # probability from which a colour is one of those that are likely at a place


@dataclass(frozen=True)
class Hint:
    """The colour of a small square of a picture.

    Attributes:
        x, y: The square's middle, in pixels of the upright picture.
        colour: A name that CSS knows, "#rrggbb", or red, green and blue in 0 … 255.
        radius: Half of the square's side, in pixels, positive. Where the picture is larger than the network's working
            size, the square is at least one pixel there.

    Raises:
        HintError: The colour or a number is none; it is a ValueError.
    """

    x: float
    y: float
    colour: str | RGB
    radius: float = 3

    def __post_init__(self) -> None:
        for field in ("x", "y", "radius"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise HintError(f"a hint's {field} must be a number of pixels, got {value!r}")
        if self.radius <= 0:
            raise HintError(f"a hint's radius must be positive, got {self.radius:g}")
        _ = self.rgb
        if not isinstance(self.colour, str):
            object.__setattr__(self, "colour", self.rgb)

    @property
    def rgb(self) -> RGB:
        """The colour as 8-bit red, green and blue."""
        wrong = f"a hint's colour must be a name, #rrggbb or three levels in 0 … 255, got {self.colour!r}"
        if isinstance(self.colour, str):
            try:
                red, green, blue = ImageColor.getrgb(self.colour)[:3]
            except ValueError:
                raise HintError(wrong) from None
            return red, green, blue
        try:
            levels = tuple(self.colour)
        except TypeError:
            raise HintError(wrong) from None
        if len(levels) != 3 or not all(isinstance(level, int | np.integer) and 0 <= level <= 255 for level in levels):
            raise HintError(wrong)
        return int(levels[0]), int(levels[1]), int(levels[2])

    @classmethod
    def parse(cls, text: str) -> "Hint":
        """A hint from "x,y,colour" or "x,y,colour,radius", as the command line takes it.

        Args:
            text: Such as "320,210,#c03050".

        Returns:
            The hint.

        Raises:
            HintError: It is none; the message says what is missing.
        """
        parts = [part.strip() for part in text.split(",")]
        try:
            if len(parts) not in (3, 4):
                raise HintError("it has not three or four parts")
            return cls(float(parts[0]), float(parts[1]), parts[2], *(float(part) for part in parts[3:]))
        except ValueError as error:
            raise HintError(
                f"a hint is x,y,colour or x,y,colour,radius, such as 320,210,#c03050; {text!r}: {error}"
            ) from None


def read_hints(path: str | os.PathLike[str]) -> list[Hint]:
    """The hints in a file that `write_hints` wrote, or somebody by hand.

    Args:
        path: A JSON file: a list of objects with x, y and colour, and perhaps radius.

    Returns:
        The hints.

    Raises:
        HintError: The file cannot be read, or holds something else.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HintError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise HintError(f"{path} is no JSON ({error})") from error
    if not isinstance(entries, list):
        raise HintError(f"{path} holds no list of hints")
    hints = []
    for number, entry in enumerate(entries, 1):
        try:
            colour = entry["colour"]
            hints.append(Hint(**(entry | {"colour": colour if isinstance(colour, str) else tuple(colour)})))
        except (KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else "it needs x, y and colour, and may have radius"
            raise HintError(f"{path}: hint {number}: {reason}") from None
    return hints


def write_hints(path: str | os.PathLike[str], hints: Sequence[Hint]) -> None:
    """Writes hints to a file, from which a picture can be coloured so again.

    Args:
        path: The JSON file to write or replace.
        hints: The hints.
    """
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(json.dumps([asdict(hint) for hint in hints], indent=1), encoding="utf-8")


def hint_planes(hints: Sequence[Hint], gray: np.ndarray, height: int, width: int) -> np.ndarray:
    """Hints as the network takes them (multiscale.py), at its working size.

    A colour that is stronger than the luminance of its place allows is taken as strong as it can be there. Of hints
    that overlap the last one counts.

    Args:
        hints: The hints.
        gray: The picture, (H, W) uint8.
        height: Rows at working size.
        width: Columns there.

    Returns:
        (3, height, width) float32: red and blue chroma, and 1 where there is a hint.

    Raises:
        HintError: A hint lies off the picture.
    """
    planes = np.zeros((3, height, width), np.float32)
    for hint in hints:
        if not (0 <= hint.x < gray.shape[1] and 0 <= hint.y < gray.shape[0]):
            raise HintError(
                f"the hint at ({hint.x:g}, {hint.y:g}) lies off the picture, which is {gray.shape[1]} wide and "
                f"{gray.shape[0]} high"
            )
        red, blue = chroma_at(hint.rgb, _mean_level(gray, hint))
        rows = _span(hint.y, hint.radius, height / gray.shape[0], height)
        columns = _span(hint.x, hint.radius, width / gray.shape[1], width)
        planes[:, rows, columns] = np.array([red, blue, 1], np.float32)[:, None, None]
    return planes


def _span(middle: float, radius: float, scale: float, most: int) -> slice:
    """The pixels at working size that a hint covers along one axis, one at least."""
    first = min(max(0, round((middle - radius) * scale)), most - 1)
    last = max(first + 1, round((middle + radius) * scale))
    if last == first + 1:  # it lies within a pixel, or nearly
        first = min(int(middle * scale), most - 1)
        last = first + 1
    return slice(first, last)


def _mean_level(gray: np.ndarray, hint: Hint) -> float:
    reach = max(1, round(hint.radius))
    x, y = int(hint.x), int(hint.y)
    return float(gray[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].mean())


def chroma_at(colour: RGB, level: float) -> tuple[float, float]:
    """The chroma that a colour has at a luminance, as far as the RGB cube allows.

    Args:
        colour: The colour.
        level: The luminance of the place, in 0 … 255.

    Returns:
        Red and blue minus luma, in [−1, 1].
    """
    weights = np.array(LUMA_WEIGHTS) / 65536
    offsets = np.array(colour, float) - weights @ colour
    room = np.where(offsets > 0, 255 - level, level)
    share = min(1.0, *(room / np.maximum(np.abs(offsets), 1e-6)))
    return tuple(share * offsets[[0, 2]] / 255)


@dataclass(frozen=True)
class Belief:
    """A colour that the network thinks likely at a place.

    Attributes:
        colour: 8-bit red, green and blue, at the luminance of the place.
        name: What people call it.
        probability: Of all colours that are called so, in [0, 1].
    """

    colour: RGB
    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """One of several ways to colour a picture.

    Attributes:
        picture: In colour, as `Colorizer.colorize` gives it.
        hints: What makes `colorize` give this picture; none where the network has no doubt.
        probability: Of the colour that was chosen, in [0, 1].
        name: What people call that colour.
    """

    picture: Image.Image
    hints: tuple[Hint, ...]
    probability: float
    name: str


def beliefs(probabilities: np.ndarray, level: float) -> list[Belief]:
    """What a distribution believes, told apart by what people call the colours.

    Args:
        probabilities: (COLOURS,), of the palette's colours, with sum 1.
        level: The luminance of the place, in 0 … 255.

    Returns:
        One for each name whose colours have a probability of `LEAST_BELIEVED` together, the likeliest first.
    """
    chromas = palette.grid()
    names = np.array(_names(_coloured(chromas, level)))
    found = []
    for name in dict.fromkeys(names):
        own = names == name
        probability = float(probabilities[own].sum())
        if probability >= LEAST_BELIEVED:
            chroma = probabilities[own] @ chromas[own] / probability
            red, green, blue = _coloured(chroma[None], level)[0].tolist()
            found.append(Belief((red, green, blue), str(name), probability))
    return sorted(found, key=lambda belief: -belief.probability)


def _coloured(chromas: np.ndarray, level: float) -> np.ndarray:
    """8-bit colours (N, 3) of chromas (N, 2) at a luminance."""
    return merge(np.full(len(chromas), round(level), np.uint8), 255 * chromas.T.astype(np.float32))


def _names(colours: np.ndarray) -> list[str]:
    return [colour_name(a, b) for _, a, b in lab(colours).tolist()]
