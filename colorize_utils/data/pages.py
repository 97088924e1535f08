"""Files that hold several pictures: a TIFF's pages, an animation's frames, read and written one at a time."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from colorize_utils.data.metadata import Mark, save_options
from colorize_utils.data.pictures import (
    MAX_PIXELS,
    SAVE_OPTIONS,
    WRITABLE,
    kept_metadata,
    open_file,
    open_image,
    reading,
    require_size,
)
from colorize_utils.errors import PictureError
from colorize_utils.files import atomic_write

# Formats in which several pictures are the frames of an animation. In a TIFF they are pages. In other formats the
# further pictures show what the first shows (in a telephone's JPEG or HEIC a preview, a depth map, the picture for the
# other eye), and are left out.
ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_ANIMATION = {"PNG", "WEBP"}  # those of `ANIMATED` that hold 24-bit colour and can be written
_SUBFILE, _OLD_SUBFILE = 254, 255  # the tags of a TIFF that tell pages from thumbnails and masks


class Pages:
    """The pictures of a file: a TIFF's pages, an animation's frames, or the single picture of other files.

    Each is decoded when an iteration reaches it, and is valid until the iteration goes on; `len` is how many there are.
    A page is not turned upright yet, and has its EXIF orientation: `to_gray` and `open_upright` turn it. Its `filename`
    is the file's name and the page's number, for errors. A TIFF's thumbnails and masks are not counted as pages.

    Args:
        image: The file's image, opened and not decoded; its file must stay open.
        name: How errors call the file.

    Attributes:
        animated: Whether the pictures are an animation's frames.
        pixels: How many pixels are in memory at once: the largest page's, or those of all frames together.

    Raises:
        PictureError: A page has no pixels, or `pixels` is over `MAX_PIXELS`; while iterating, a page is damaged.
    """

    def __init__(self, image: Image.Image, name: str):
        self._image: Any = image  # what it has beyond an Image depends on its format
        self._name = name
        frames_or_pages: int = getattr(image, "n_frames", 1)
        self.animated = image.format in ANIMATED and frames_or_pages > 1
        if self.animated:
            # An animated PNG may begin with a picture for viewers that show no animations; it is not a frame.
            self._numbers = list(range(int(bool(image.info.get("default_image"))), frames_or_pages))
        elif image.format == "TIFF":
            self._numbers = [number for number in range(frames_or_pages) if self._is_page(number)] or [0]
        else:
            self._numbers = [0]
        self.pixels = len(self) * image.width * image.height if self.animated else max(map(self._area, self._numbers))
        if self.pixels > MAX_PIXELS:
            frames = f"{len(self)} frames of {image.width}×{image.height}"
            raise PictureError(f"{name} has {frames} pixels, over {MAX_PIXELS // 10**6} million; make it smaller first")

    def _is_page(self, number: int) -> bool:
        self._image.seek(number)
        tags = self._image.tag_v2
        # Bit 0: a smaller copy of another page, bit 2: a mask of one.
        return not (int(tags.get(_SUBFILE, 0)) & 0b101 or tags.get(_OLD_SUBFILE) == 2)

    def _area(self, number: int) -> int:
        if len(self) > 1:
            self._image.seek(number)
        require_size(self._name, self._image.size)
        return self._image.width * self._image.height

    def __len__(self) -> int:
        """How many pages or frames there are."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Image.Image]:
        """Decodes one page or frame after the other."""
        for place, number in enumerate(self._numbers, start=1):
            name = self._name if len(self) == 1 else f"{self._name}, {'frame' if self.animated else 'page'} {place}"
            with reading(name):
                if len(self) > 1:
                    self._image.seek(number)
                self._image.filename = ""  # Pillow would look for a file of the name that is set below
                self._image.load()
            if self.animated and self._image.format == "GIF" and self._image.mode == "L":
                # After a frame of plain grays Pillow (13.0) loses the palette of a frame that has its own.
                self._image.im, self._image._mode = self._image.im.convert("RGB"), "RGB"
            self._image.filename = name
            yield self._image


@contextmanager
def open_pages(path: Path) -> Iterator[Pages]:
    """Opens a picture file, which stays open within the block, and gives its pages.

    Args:
        path: The file.

    Yields:
        Its pages or frames; one where the format holds a single picture.

    Raises:
        PictureError: The file is missing, empty, cut short, no picture, or too large.
    """
    name = os.fspath(path)
    with reading(name):
        file = open_file(path)
    with file:
        with reading(name):
            pages = Pages(open_image(file), name)
        yield pages


def require_room(path: Path, pages: Pages, original: Path) -> None:
    """Checks that the result's format can hold as many pictures as the original has.

    Args:
        path: The result's file, whose suffix names its format.
        pages: The original's pages or frames.
        original: The original's file, for the error.

    Raises:
        PictureError: The format holds a single picture, or pages where frames are needed, or the reverse.
    """
    format_name = WRITABLE.get(path.suffix.lower())
    if len(pages) == 1 or format_name == "TIFF" or (pages.animated and format_name in _ANIMATION):
        return
    what, suffix = ("frames", ".png") if pages.animated else ("pages", ".tif")
    raise PictureError(f"{path} holds a single picture, and {original} {len(pages)} {what}; choose a {suffix} name")


def save_pages(
    coloured: Iterable[tuple[Image.Image, Image.Image]],
    path: Path,
    original: Path,
    mark: Mark | None = None,
    *,
    place: bool = True,
) -> None:
    """Writes several colorized pages to one file, with an atomic write.

    A TIFF gets a page for each, written one after the other, so that no more than one is in memory. An animated PNG or
    WebP gets a frame for each, which is shown for as long as the original's.

    The first page gets the metadata that is kept of `original`, and the mark (metadata.py); a TIFF's further pages get
    their resolution.

    Args:
        coloured: Pairs of a page of the original and the same page in colour ("RGB" or "RGBA"), in order.
        path: The file to write: a TIFF, PNG or WebP.
        original: The file that the pages are from.
        mark: Says that the colours are predicted (`Colorizer.mark`).
        place: Whether the metadata that says where the picture was taken is kept, too.

    Raises:
        PictureError: The file cannot be written; besides, whatever iterating over `coloured` raises.
    """
    format_name = WRITABLE[path.suffix.lower()]
    options = SAVE_OPTIONS.get(format_name, {}) | save_options(format_name, kept_metadata(original, place), mark)
    try:
        with atomic_write(path) as temporary:
            if format_name == "TIFF":
                _write_tiff(coloured, temporary, options)
            else:
                _write_animation(coloured, temporary, format_name, options)
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_tiff(coloured: Iterable[tuple[Image.Image, Image.Image]], path: Path, options: dict[str, Any]) -> None:
    # Not by Image.save(save_all=True), which takes a list: all pages would be in memory. Later pages get no EXIF,
    # because Pillow's writer loses its sub-directories there.
    with AppendingTiffWriter(path, new=True) as file:
        for page, colour in coloured:
            dpi = page.info.get("dpi", (0, 0))
            resolution = {"dpi": dpi} if all(0 < side < 1e5 for side in dpi) else {}
            colour.save(file, format="TIFF", **(resolution | options))
            file.newFrame()
            options = SAVE_OPTIONS.get("TIFF", {})


def _write_animation(
    coloured: Iterable[tuple[Image.Image, Image.Image]], path: Path, format_name: str, options: dict[str, Any]
) -> None:
    frames: list[Image.Image] = []
    durations: list[float] = []
    loop = 0
    for page, colour in coloured:
        if not frames:
            loop = page.info.get("loop", 1 if page.format == "GIF" else 0)  # a GIF without a number plays once
        frames.append(colour)
        durations.append(page.info.get("duration", 100))  # ms
    if any(frame.mode == "RGBA" for frame in frames):
        frames = [frame.convert("RGBA") for frame in frames]
    timing = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": loop}
    frames[0].save(path, format=format_name, **timing, **options)
