"""A visitor's picture: its hints, what is shown of it, its file. Plain functions; nothing here knows of the page.

It is kept as it was uploaded, and as a gray picture that fits a screen. All that is shown is made from the small one;
only a download takes the large one. Places of hints are pixels of the large one.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from colorize_utils.data.pages import open_pages
from colorize_utils.data.pictures import WRITABLE, to_gray
from colorize_utils.errors import HintError, PictureError
from colorize_utils.files import MAX_NAME, shortened
from colorize_utils.generator_registry import UNFAMILIAR
from colorize_utils.inference.batch import Room, colorize_files
from colorize_utils.inference.colorizer import Colorizer
from colorize_utils.inference.hints import RGB, Answer, Belief, Hint, read_hints, write_hints

MOST_BYTES = 60_000_000  # of an uploaded file
MOST_PIXELS = 64_000_000  # of a picture: a telephone's largest; of an animation, all frames together
SHOWN_SIDE = 1024  # the longer side of the pictures that are shown
ANSWERS = 4
_FINGER = 0.04  # of the longer side: how near to a hint a tap means that hint
_DOT = 0.014  # of the longer side: the radius of a hint's dot
_HINT = 1.5  # half of the side of a hint's square, in pixels at the network's working size, as in `answers`
_GUESS = (255, 120, 0)  # the colour that covers places of which the network is unsure


@dataclass(frozen=True)
class How:
    """How a picture is to be coloured.

    Attributes:
        colorizer: The model.
        style: A style that it has.
        strength: Multiplies the chroma.
    """

    colorizer: Colorizer
    style: str | None = None
    strength: float = 1.0


@dataclass
class Picture:
    """A visitor's picture, and the hints that it has been given.

    Attributes:
        name: What its file was called.
        original: The file as it was uploaded.
        gray: The small gray picture's file.
        size: Width and height of the upright original.
        hints: The hints in use.
        past: What `hints` were before each change, the last one last.
        place: Where the visitor looks for a colour, in pixels of the original; None where nowhere.
        chosen: Which hint is there; None where it is a new place.
    """

    name: str
    original: Path
    gray: Path
    size: tuple[int, int]
    hints: list[Hint] = field(default_factory=list)
    past: list[list[Hint]] = field(default_factory=list)
    place: tuple[float, float] | None = None
    chosen: int | None = None
    _painted: object = None  # what the file that was painted last was made of
    _believed: tuple[object, list[Belief]] | None = None  # the beliefs that were asked for last, after what they are of

    @classmethod
    def taken_in(cls, file: Path, name: str, folder: Path) -> "Picture":
        """Keeps an uploaded file in a folder, and makes its small gray picture.

        Args:
            file: The file.
            name: What it was called.
            folder: An empty folder.

        Returns:
            The picture.

        Raises:
            PictureError: It cannot be read, or is larger than the page takes; the folder is deleted then.
        """
        original = folder / ("original" + Path(name).suffix.lower())
        keep(file, original)
        try:
            with named(original, name), _ROOM.taken(require_limits(original)):
                levels = to_gray(original).gray
        except PictureError:
            shutil.rmtree(folder)
            raise
        height, width = levels.shape
        small = Image.fromarray(levels)
        small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
        small.save(folder / "gray.png", compress_level=1)
        return cls(name, original, folder / "gray.png", (width, height))

    @property
    def levels(self) -> np.ndarray:
        """The small gray picture, (h, w) uint8."""
        return np.asarray(Image.open(self.gray))

    # ------------------------------------------------------------ hints

    def look_at(self, x: float, y: float) -> None:
        """Looks at a place, or at the hint there.

        Args:
            x: Its column as a share of the width, in [0, 1].
            y: Its row as a share of the height.
        """
        width, height = self.size
        x, y = min(max(0.0, x * width), width - 1.0), min(max(0.0, y * height), height - 1.0)
        distances = [np.hypot(hint.x - x, hint.y - y) for hint in self.hints]
        nearest = int(np.argmin(distances)) if distances else None
        if nearest is not None and distances[nearest] <= _FINGER * max(self.size):
            self.chosen, self.place = nearest, (self.hints[nearest].x, self.hints[nearest].y)
        else:
            self.chosen, self.place = None, (x, y)

    def colour_it(self, colour: str | RGB, working_size: int) -> None:
        """Gives the place that is looked at a colour: changes its hint, or makes a new one.

        Args:
            colour: As `Hint` takes it.
            working_size: The network's, which says how large a hint is.

        Raises:
            HintError: It is no colour, or no place is looked at.
        """
        if self.place is None:
            raise HintError("first tap the place that has this colour")
        width, height = self.size
        radius = max(1.0, _HINT * (width * height) ** 0.5 / working_size)
        if self.chosen is None:
            hint = Hint(*self.place, colour, radius)
            self._change([*self.hints, hint])
            self.chosen = len(self.hints) - 1
        else:
            changed = list(self.hints)
            changed[self.chosen] = replace(changed[self.chosen], colour=colour)
            self._change(changed)

    def remove(self) -> None:
        """Removes the hint that is looked at, if it is one."""
        if self.chosen is not None:
            self._change([hint for number, hint in enumerate(self.hints) if number != self.chosen])
            self.chosen = self.place = None

    def undo(self) -> None:
        """Takes the last change of the hints back."""
        if self.past:
            self.hints, self.chosen, self.place = self.past.pop(), None, None

    def take_up(self, hints: Iterable[Hint]) -> None:
        """Replaces the hints, by an answer's or a file's.

        Args:
            hints: The new ones.

        Raises:
            HintError: One lies off the picture.
        """
        hints = list(hints)
        for hint in hints:
            if not (0 <= hint.x < self.size[0] and 0 <= hint.y < self.size[1]):
                raise HintError(
                    f"the hint at ({hint.x:g}, {hint.y:g}) lies off {self.name}; are they another picture's?"
                )
        self._change(hints)
        self.chosen = self.place = None

    def _change(self, hints: list[Hint]) -> None:
        self.past.append(self.hints)
        self.hints = hints

    def _small(self, hints: Sequence[Hint]) -> list[Hint]:
        """Hints in pixels of the small picture."""
        return [self._scaled(hint, *Image.open(self.gray).size, *self.size) for hint in hints]

    @staticmethod
    def _scaled(hint: Hint, width: int, height: int, old_width: int, old_height: int) -> Hint:
        x, y = hint.x * width / old_width, hint.y * height / old_height
        x, y = min(x, width - 0.5), min(y, height - 0.5)
        return replace(hint, x=x, y=y, radius=max(0.5, hint.radius * width / old_width))

    # ------------------------------------------------------------ what is shown, all of the small size

    def painted(self, how: How, path: Path) -> Image.Image:
        """The small picture in colour.

        Args:
            how: How.
            path: A JPEG file that keeps it; what it holds is read again where nothing has changed.
        """
        made_of = how, tuple(self.hints)
        if self._painted != made_of:
            hints = self._small(self.hints)
            colour = how.colorizer.colorize(self.levels, strength=how.strength, style=how.style, hints=hints)
            colour.save(path, quality=90, subsampling=0)
            self._painted = made_of
        return Image.open(path).convert("RGB")

    def dotted(self, colour: Image.Image) -> Image.Image:
        """The small picture in colour with a dot for each hint, and a ring where the visitor looks."""
        marks = [(hint, hint.rgb) for hint in self._small(self.hints)]
        shown = colour.copy()
        for number, (hint, rgb) in enumerate(marks):
            _dot(shown, hint.x, hint.y, rgb, number == self.chosen)
        if self.place is not None and self.chosen is None:
            (x, y), (width, height) = self.place, self.size
            _dot(shown, x * shown.width / width, y * shown.height / height, None, True)
        return shown

    def believed(self, how: How) -> list[Belief]:
        """The colours that the network thinks likely at the place that is looked at; none where none is."""
        if self.place is None or not how.colorizer.has_distribution:
            return []
        others = [hint for number, hint in enumerate(self.hints) if number != self.chosen]
        made_of = how.colorizer, self.place, tuple(others)
        if self._believed is None or self._believed[0] != made_of:
            (place,) = self._small([Hint(*self.place, "gray")])
            self._believed = made_of, how.colorizer.palette_at(self.levels, place.x, place.y, self._small(others))
        return self._believed[1]

    def answers(self, how: How) -> list[Answer]:
        """Several ways to colour the picture; their hints are in pixels of the original.

        Raises:
            HintError: The model takes no hints.
        """
        levels = self.levels
        found = how.colorizer.answers(levels, ANSWERS, how.strength, how.style, self._small(self.hints))
        answers = []
        for answer in found:
            hint = answer.hints[-1]
            shown = answer.picture.convert("RGB")
            _dot(shown, hint.x, hint.y, None, False)
            own = self._scaled(hint, *self.size, levels.shape[1], levels.shape[0])
            answers.append(Answer(shown, (*self.hints, own), answer.probability, answer.name))
        return answers

    def guessed(self, how: How) -> Image.Image:
        """The small gray picture, covered with orange where the network is unsure.

        Raises:
            ValueError: The model does not know how sure it is.
        """
        width = how.colorizer.uncertainty(self.levels, self._small(self.hints))[..., None]
        gray = np.repeat(self.levels[..., None], 3, axis=2).astype(np.float32)
        cover = np.clip(1.6 * width - 0.3, 0, 0.8)  # so that the eye tells the sure from the unsure
        return Image.fromarray(np.rint(gray * (1 - cover) + np.array(_GUESS, np.float32) * cover).astype(np.uint8))

    def warning(self, how: How) -> str:
        """A line where the picture is none of the kind that the model knows; else empty."""
        number = how.colorizer.unfamiliarity(self.levels)
        if number is None or number <= UNFAMILIAR:
            return ""
        return f"{how.colorizer.name} knows nothing like {self.name}: expect colours that are far off."

    # ------------------------------------------------------------ files

    def coloured_file(self, how: How, place: bool = False) -> Path:
        """Colours the original, at its full size.

        Args:
            how: How.
            place: Whether the file keeps where the picture was taken.

        Returns:
            The file, in the original's format if that can hold colour, in a folder of its own.

        Raises:
            PictureError: It cannot be read or written.
        """
        folder = self.gray.parent / "result"
        shutil.rmtree(folder, ignore_errors=True)
        return coloured_file(self.original, self.name, folder, how, place, self.hints)

    def hints_file(self) -> Path:
        """Writes the hints to a file, from which `read_hints` and the command line make the same picture."""
        path = self.gray.parent / f"{shortened(Path(self.name).stem, MAX_NAME - 20)}-hints.json"
        write_hints(path, self.hints)
        return path

    def load_hints(self, path: Path) -> None:
        """Takes up the hints in a file.

        Raises:
            HintError: The file holds something else, or hints that lie off the picture.
        """
        try:
            hints = read_hints(path)
        except HintError as error:
            raise HintError(str(error).replace(str(path), path.name)) from None
        self.take_up(hints)


def _dot(image: Image.Image, x: float, y: float, colour: RGB | None, large: bool) -> None:
    """Draws a dot, or a ring where it has no colour, that can be seen on light and dark."""
    radius = max(4.0, _DOT * max(image.size)) * (1.5 if large else 1)
    draw = ImageDraw.Draw(image)
    line = max(2, round(radius / 4))
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=colour, outline="black", width=2 * line)
    draw.ellipse(
        [side + line / 2 * sign for side, sign in zip(box, (1, 1, -1, -1), strict=True)], outline="white", width=line
    )


def keep(file: Path, path: Path) -> None:
    """Keeps a file under another path, too. It is not moved: where others upload the same, it is theirs as well.

    Args:
        file: The file.
        path: The other path.
    """
    try:
        os.link(file, path)
    except OSError:  # a file system without links
        shutil.copyfile(file, path)


def require_limits(path: Path) -> int:
    """Checks that an uploaded file is no larger than the page takes, before its pixels are decoded.

    Args:
        path: The file.

    Returns:
        How many pixels of it are in memory at once.

    Raises:
        PictureError: It is larger, or no picture.
    """
    if path.stat().st_size > MOST_BYTES:
        raise PictureError(f"{path} has over {MOST_BYTES // 10**6} MB; make it smaller, or use the command line")
    with open_pages(path) as pages:
        if pages.pixels * (1 if pages.animated else len(pages)) > MOST_PIXELS:
            raise PictureError(
                f"{path} has over {MOST_PIXELS // 10**6} million pixels; make it smaller, or use the command line"
            )
        return pages.pixels


_ROOM = Room(MOST_PIXELS)  # what is decoded at full size at once, whoever asks: bounds the memory


def coloured_file(original: Path, name: str, folder: Path, how: How, place: bool, hints: Sequence[Hint] = ()) -> Path:
    """Colours a file.

    Args:
        original: The file.
        name: What its visitor calls it.
        folder: Where the result is written, called after `name`; made here.
        how: How.
        place: Whether the result keeps where the picture was taken.
        hints: The colours of places.

    Returns:
        The result.

    Raises:
        PictureError: It cannot be read or written; the line calls it by its name.
    """
    suffix = original.suffix if original.suffix in WRITABLE else ".png"
    path = folder / f"{shortened(Path(name).stem, MAX_NAME - 20)}-colorized{suffix}"
    folder.mkdir()
    with named(original, name):
        with _ROOM.taken(require_limits(original)):
            report = colorize_files(
                how.colorizer,
                [original],
                path,
                progress=False,
                place=place,
                strength=how.strength,
                style=how.style,
                hints=hints,
            )
        if report.failed:
            raise PictureError(report.failed[0])
    return path


@contextmanager
def named(path: Path, name: str) -> Iterator[None]:
    """A block whose errors call a file as its visitor does, and not where it lies on this machine.

    Args:
        path: The file.
        name: What its visitor calls it.

    Raises:
        PictureError: As the block does.
    """
    try:
        yield
    except PictureError as error:
        told = str(error).replace(str(path), name).replace(f"{path.parent}{os.sep}", "")
        raise PictureError(told) from error
