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

# Formats whose further pictures are frames of an animation. A TIFF's are pages; those of other formats (a telephone's
# JPEG or HEIC with a preview, a map of depths, a second eye) show what the first shows, and are left.
ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_ANIMATION = {"PNG", "WEBP"}  # of those, the ones that hold 24-bit colour and can be written
_SUBFILE, _OLD_SUBFILE = 254, 255  # a TIFF's tags that tell pages from thumbnails and masks


class Pages:
    """The pictures of a file, decoded as they are iterated over, each once a turn; `len` is how many there are.

    A page is valid until the next one. It lies as it was stored, with its EXIF orientation: `to_gray` and
    `open_upright` turn it. Its `filename` is the file's and the page's number, for errors. A TIFF's thumbnails and
    masks are no pages.

    animated: whether they are an animation's frames. pixels: how many are in memory at once, one page's or all frames'.
    """

    def __init__(self, image: Image.Image, name: str):
        self._image: Any = image  # what it has beyond an Image depends on its format
        self._name = name
        frames_or_pages: int = getattr(image, "n_frames", 1)
        self.animated = image.format in ANIMATED and frames_or_pages > 1
        if self.animated:
            # A picture for viewers that show no animations is not part of one.
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
        return len(self._numbers)

    def __iter__(self) -> Iterator[Image.Image]:
        for place, number in enumerate(self._numbers, start=1):
            name = self._name if len(self) == 1 else f"{self._name}, {'frame' if self.animated else 'page'} {place}"
            with reading(name):
                if len(self) > 1:
                    self._image.seek(number)
                self._image.filename = ""  # by a name that is none, Pillow would look for a file
                self._image.load()
            if self.animated and self._image.format == "GIF" and self._image.mode == "L":
                # Pillow (13.0) loses the palette of a frame that has one of its own after a frame of plain grays.
                self._image.im, self._image._mode = self._image.im.convert("RGB"), "RGB"
            self._image.filename = name
            yield self._image


@contextmanager
def open_pages(path: Path) -> Iterator[Pages]:
    """The pages of a picture file, which stays open within the block. Raises PictureError like `open_upright`."""
    name = os.fspath(path)
    with reading(name):
        file = open_file(path)
    with file:
        with reading(name):
            pages = Pages(open_image(file), name)
        yield pages


def require_room(path: Path, pages: Pages, original: Path) -> None:
    """Raises PictureError where the format that `path` names cannot hold as many pictures."""
    format_name = WRITABLE.get(path.suffix.lower())
    if len(pages) == 1 or format_name == "TIFF" or (pages.animated and format_name in _ANIMATION):
        return
    what, suffix = ("frames", ".png") if pages.animated else ("pages", ".tif")
    raise PictureError(f"{path} holds a single picture, and {original} {len(pages)} {what}; choose a {suffix} name")


def save_pages(
    coloured: Iterable[tuple[Image.Image, Image.Image]], path: Path, original: Path, mark: Mark | None = None
) -> None:
    """Writes (page of the original, its colours) pairs to one file: a TIFF with a page each, one after the other, so
    that no more than one is in memory, or an animated PNG or WebP with the original's times. Whole or not at all.

    The first page gets what is kept of `original`'s metadata, and the mark (metadata.py); a TIFF's further ones get
    their resolution.

    Raises PictureError where the file cannot be written, and what the pairs' making raises.
    """
    format_name = WRITABLE[path.suffix.lower()]
    options = SAVE_OPTIONS.get(format_name, {}) | save_options(format_name, kept_metadata(original), mark)
    try:
        with atomic_write(path) as temporary:
            if format_name == "TIFF":
                _write_tiff(coloured, temporary, options)
            else:
                _write_animation(coloured, temporary, format_name, options)
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_tiff(coloured: Iterable[tuple[Image.Image, Image.Image]], path: Path, options: dict[str, Any]) -> None:
    # Image.save(save_all=True) would take a list. Directories of EXIF on later pages do not survive in Pillow's writer.
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
            loop = page.info.get("loop", 1 if page.format == "GIF" else 0)  # a GIF that says nothing plays once
        frames.append(colour)
        durations.append(page.info.get("duration", 100))  # ms
    if any(frame.mode == "RGBA" for frame in frames):
        frames = [frame.convert("RGBA") for frame in frames]
    timing = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": loop}
    frames[0].save(path, format=format_name, **timing, **options)
