"""Picture files of any kind: opened upright, converted to 8-bit gray, saved with the original's metadata.

What metadata a result keeps is decided in metadata.py; files that hold several pictures are read by pages.py.
"""

import io
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from colorize_utils.data.metadata import Mark, Metadata, read_metadata, save_options
from colorize_utils.errors import PictureError
from colorize_utils.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

# Whatever `to_gray` and `Colorizer.colorize` take.
PictureLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"

# Suffix → Pillow's name of the format, for the formats that can hold 24-bit colour: results are written in these.
WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
READABLE = {*WRITABLE, ".gif", ".pgm", ".pbm", ".ppm", ".pnm", ".jp2", ".avif"}
HEIF = {".heic", ".heif", ".hif"}  # telephones' photographs; readable where pillow-heif is installed
RAW = {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
# Suffix → what to do with a picture of a kind that cannot be read as it is.
NOT_READ = {
    **dict.fromkeys(sorted(HEIF), "pip install pillow-heif"),
    **dict.fromkeys(sorted(RAW), "develop to TIFF or JPEG first, for instance with darktable"),
    ".pdf": "take the pictures out first, with pdfimages -all (poppler-utils)",
    ".djvu": "turn into TIFF first, with ddjvu -format=tiff (djvulibre)",
    ".jxl": "turn into PNG first, with djxl (libjxl)",
    **dict.fromkeys((".psd", ".xcf", ".svg"), "export as TIFF or PNG first"),
}
# Format → Pillow's options for saving.
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},  # chroma is the point here: keep it at full resolution
    # Lossless, because a lossy quality of 95 would move luminance by up to 12 of 255. `exact` keeps the colours of
    # transparent pixels. In lossless files `quality` is effort: 40 takes two thirds of the default's time and makes
    # files 1 % larger.
    "WEBP": {"lossless": True, "exact": True, "quality": 40},
}  # TIFF stays uncompressed: compressed, Pillow cannot write EXIF into it
HOLDS_ALPHA = {"PNG", "TIFF", "WEBP"}
MAX_PIXELS = 178_956_970  # Pillow's own bound against decompression bombs: 0.5 GB of RGB
_REDUCED_SIDE = 64  # `has_colours` looks at a picture whose longer side is reduced to this many pixels
_OFF_HUE, _OFF_LUMA = 1.6, 5.2  # the thresholds of `has_colours`, in 8-bit steps of chroma
_ORIENTATION = 0x0112  # the EXIF tag
# Value of the orientation → the transposition that turns the picture upright. (Anything may stand in EXIF.)
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def reads_heif() -> bool:
    """Registers pillow-heif with Pillow where it is installed, and tells whether HEIC pictures can be read.

    pillow-heif turns pictures upright by the rotation in the file's container, as other programs do, and resets the
    EXIF orientation, so that they are not turned twice.
    """
    # Asked anew as long as it is missing: a notebook goes on after installing it.
    if "HEIF" in Image.OPEN:
        return True
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def is_picture(path: Path) -> bool:
    """Whether `path` is a file, not a hidden one, whose suffix says that it is a picture that can be read."""
    return is_pictures_name(path) and path.is_file()


def is_pictures_name(path: PurePath) -> bool:
    """Whether a file of this name is taken for a picture: its suffix says so, and it is not hidden."""
    suffix = path.suffix.lower()
    readable = suffix in READABLE or (suffix in HEIF and reads_heif())
    return readable and not path.name.startswith(".")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silences warnings within the block: Pillow warns of every large picture and of all odd metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_upright(picture: str | os.PathLike[str] | bytes | Image.Image) -> Image.Image:
    """Decodes a picture and turns it upright, as its EXIF orientation says.

    Args:
        picture: A path, the content of a file, or a Pillow image. Of several frames or pages the first is taken
            (`pages.open_pages` reads all).

    Returns:
        The picture, decoded, in the mode that it is stored in.

    Raises:
        PictureError: The picture is missing, empty, cut short, no picture, or larger than `MAX_PIXELS`.
    """
    name = _name(picture)
    with reading(name):
        if isinstance(picture, Image.Image):
            return _decoded(picture, name)
        if isinstance(picture, (bytes, bytearray, memoryview)):
            _require_content(name, len(picture))
            return _decoded(open_image(io.BytesIO(picture)), name)
        with open_file(picture) as file:
            return _decoded(open_image(file), name)


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a picture's file for reading; to be called within `reading`.

    Args:
        path: The file.

    Returns:
        The open file.

    Raises:
        PictureError: The file is empty, or is a camera's raw file: most of these are TIFF files, and Pillow would
            open the thumbnail in them as if it were the picture.
        OSError: The file cannot be opened; `reading` makes a PictureError of it.
    """
    _require_content(os.fspath(path), os.stat(path).st_size)
    suffix = Path(path).suffix.lower()
    if suffix in RAW:
        raise PictureError(f"{os.fspath(path)} is a camera's raw file; {NOT_READ[suffix]}")
    return open(path, "rb")


def open_image(file: IO[bytes]) -> Image.Image:
    """Opens an image with Pillow, without decoding it yet.

    It takes an open file and no path, because Pillow maps an uncompressed gray file into memory when it is given its
    path, and then (13.0) confuses width and height in TIFF files whose orientation lies on its side.

    Args:
        file: The file, open for reading; it must stay open until the image is decoded.

    Returns:
        The image, whose pixels are read at its first use.
    """
    reads_heif()
    return Image.open(file)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises within the block into a PictureError; silences its warnings.

    Args:
        name: How the errors call the picture, usually its path.

    Raises:
        PictureError: The picture cannot be read; the message says why, and what to do.
    """
    try:
        with without_warnings():
            yield
    except UnidentifiedImageError as error:
        suffix, advice = Path(name).suffix.lower(), "give a JPEG, PNG, TIFF or WebP file"
        if not (suffix in HEIF and reads_heif()):  # where pillow-heif is installed, it is no remedy
            advice = NOT_READ.get(suffix, advice)
        raise PictureError(f"{name} is not a picture that can be read; {advice}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels; make it smaller") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureError(f"{name} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise PictureError(f"{name} is a folder, not a picture") from error
    except PermissionError as error:
        raise PictureError(f"{name} may not be read; check its permissions") from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, RuntimeError, struct.error) as error:
        # All of these are raised by decoders on broken files.
        raise PictureError(f"{name} is damaged or cut short ({error}); get a fresh copy") from error


def _decoded(image: Image.Image, name: str) -> Image.Image:
    require_size(name, image.size)
    image.load()
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # on broken EXIF Pillow's parser may raise anything; the picture itself is whole
        orientation = None
    method = _TURNS.get(orientation)
    return image if method is None else image.transpose(method)


def _name(picture: object) -> str:
    """How errors call a picture: its path, the path that an image was opened from, or "the picture"."""
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    return str(getattr(picture, "filename", "") or "the picture")


def _require_content(name: str, length: int) -> None:
    if length == 0:
        raise PictureError(f"{name} is empty (0 bytes); get a fresh copy")


def require_size(name: str, size: tuple[int, int]) -> None:
    """Checks that a picture has pixels, and no more than `MAX_PIXELS`.

    Args:
        name: How the error calls the picture.
        size: Width and height in pixels.

    Raises:
        PictureError: It has none, or too many.
    """
    width, height = size
    if width == 0 or height == 0:
        raise PictureError(f"{name} has no pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{name} has {width}×{height} pixels, over {MAX_PIXELS // 10**6} million; make it smaller first"
        )


@dataclass(frozen=True)
class GrayPicture:
    """A picture in gray, and its transparency.

    Attributes:
        gray: (H, W) uint8, the picture's luma.
        alpha: (H, W) uint8, or None where the picture is opaque.
    """

    gray: np.ndarray
    alpha: np.ndarray | None = None


def to_gray(picture: PictureLike) -> GrayPicture:
    """Converts any picture to upright 8-bit gray, Rec. 601 luma as Pillow computes it, and its alpha.

    Args:
        picture: A path, the content of a file, a Pillow image, an array or a tensor.
            Files and Pillow images may have every mode: 1-bit, 8-bit, 16-bit (v / 257, rounded), 32-bit integers,
            float, palette, alpha, CMYK, YCbCr, LAB, HSV. The range of a float or 32-bit image is taken to be the
            smallest of [0, 1] (floats only), [0, 255] and [0, 65535] that holds all of its values.
            Arrays are (H, W), or (H, W, C) with 1, 2 (gray, alpha), 3 or 4 channels; bool, uint8, uint16, or float in
            [0, 1]. Tensors are (H, W) or (C, H, W), with the same types and channels.

    Returns:
        The gray picture, upright, with its alpha.

    Raises:
        PictureError: The picture cannot be read.
        ValueError: An array's shape, type or range does not fit.
    """
    if "torch" in sys.modules:  # else there are no tensors
        picture = _from_tensor(picture)
    if isinstance(picture, np.ndarray):
        return _array_to_gray(picture)
    image, name = open_upright(cast("str | bytes | Image.Image", picture)), _name(picture)
    try:
        alpha = _alpha(image)
        if image.mode.startswith(("I", "F")):
            values, sixteen = np.asarray(image), image.mode[:2] == "I;" or image.format == "PPM"
            return GrayPicture(_levels(values, name, floats=image.mode == "F", sixteen=sixteen), alpha)
        return GrayPicture(np.asarray(_to_l(image)), alpha)
    except (ValueError, OSError) as error:  # Pillow cannot convert the mode
        raise PictureError(f"{name} cannot be turned gray ({error}); save it as an 8-bit PNG first") from error


def _from_tensor(picture: PictureLike) -> PictureLike:
    """The array (H, W) or (H, W, C) of a tensor (H, W) or (C, H, W); whatever else is given, as it is."""
    import torch

    if not isinstance(picture, torch.Tensor):
        return picture
    picture = picture.detach().cpu()
    picture = picture.float() if picture.dtype in (torch.float16, torch.bfloat16) else picture
    return (picture if picture.ndim != 3 else picture.permute(1, 2, 0)).numpy()


def _alpha(image: Image.Image) -> np.ndarray | None:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return np.asarray(image.getchannel(image.mode[-1]))
    if image.mode.startswith("I") and "transparency" in image.info:  # 16-bit gray, one level of which is transparent
        return np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
    if not image.has_transparency_data:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _to_l(image: Image.Image) -> Image.Image:
    return _plain(image).convert("L")


def _plain(image: Image.Image) -> Image.Image:
    """The image in a mode from which Pillow's `convert` gives right results."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    elif image.mode in ("P", "CMYK", "HSV"):
        image = image.convert("RGB")
    return image


def has_colours(image: Image.Image) -> bool:
    """Whether a picture has colours of its own, other than a toned print's.

    A toned print (sepia, cyanotype), a yellowed one and a gray picture with a JPEG's colour noise have none.

    In a toned print chroma is a function of luma, and what time and scanner add varies along one line of hue. The
    picture is therefore reduced to a long side of 64 pixels, which averages noise away, and chroma (Cb, Cr) is fitted
    by a cubic polynomial in luma. The picture has colours if the residuals spread far across their principal axis
    (several hues), or are larger altogether than toning explains.

    Of 858 photographs of flowers (others than the thresholds were chosen by) 24 were taken for prints: 10 are black and
    white, the rest show white flowers before black, or a single hue. Of the photographs' copies made sepia, cyanotype,
    selenium, split-toned, stained, noisy, or gray JPEGs, one in 8,580 was taken for a colour picture. Of the
    photographs faded to 35 % of their chroma, 24 % were taken for prints.

    Args:
        image: A picture of any mode.

    Returns:
        True where it has colours of its own.
    """
    if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")):
        return False
    scale = _REDUCED_SIDE / max(image.size)
    size = [max(1, round(scale * side)) for side in image.size] if scale < 1 else image.size
    rgb = image if image.mode == "RGB" else _plain(image).convert("RGB")
    small = rgb.resize(size, Image.Resampling.BOX, reducing_gap=2)
    levels = np.asarray(small.convert("YCbCr"), np.float64).reshape(-1, 3)
    luma, chroma = levels[:, 0], levels[:, 1:]  # (h·w,), (h·w, 2)
    powers = np.vander((luma - luma.mean()) / (luma.std() + 1e-6), 4)
    rest = chroma - powers @ np.linalg.lstsq(powers, chroma, rcond=None)[0]
    off_line, on_line = np.linalg.eigvalsh(rest.T @ rest / len(rest)).clip(0)
    return bool(off_line**0.5 > _OFF_HUE or (off_line + on_line) ** 0.5 > _OFF_LUMA)


def _levels(values: np.ndarray, name: str, floats: bool, sixteen: bool) -> np.ndarray:
    """8-bit levels (H, W) of 16-bit, 32-bit or float values, scaled from the range that they are in.

    floats: whether [0, 1] is a possible range. sixteen: whether the range is known to be [0, 65535].
    """
    values = values.astype(np.float64)
    lowest, highest = values.min(), values.max()  # NaN if any value is, which fails the comparison below
    if not (lowest >= 0 and highest <= 65535):
        raise PictureError(f"{name} has values in {lowest:g} … {highest:g}; scale them to 0 … 1, 0 … 255 or 0 … 65535")
    if sixteen or highest > 255:
        values = values / 257
    elif floats and highest <= 1.001:  # a little over 1, because resampling may overshoot
        values = values.clip(0, 1) * 255
    return np.rint(values).astype(np.uint8)


def _array_to_gray(array: np.ndarray) -> GrayPicture:
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(
            "an array must have shape (H, W) or (H, W, C), a tensor (H, W) or (C, H, W), with 1 to 4 channels and "
            f"at least one pixel; got {array.shape}"
        )
    require_size("the array", array.shape[1::-1])
    levels = _array_levels(array)
    if levels.ndim == 2:
        return GrayPicture(levels)
    channels = levels.shape[2]
    alpha = np.ascontiguousarray(levels[..., -1]) if channels in (2, 4) else None
    if channels <= 2:
        return GrayPicture(np.ascontiguousarray(levels[..., 0]), alpha)
    return GrayPicture(np.asarray(Image.fromarray(np.ascontiguousarray(levels[..., :3])).convert("L")), alpha)


def _array_levels(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.rint(array / 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"floats must lie in [0, 1], got {array.min():g} … {array.max():g}; divide by the largest")
        return np.rint(array * 255).astype(np.uint8)
    raise ValueError(f"an array or tensor must be bool, uint8, uint16 or float, got {array.dtype}")


def save_picture(
    image: Image.Image,
    path: str | os.PathLike[str],
    original: str | os.PathLike[str] | None = None,
    mark: Mark | None = None,
    *,
    place: bool = True,
) -> None:
    """Saves a picture in the format that the path's suffix names, with an atomic write.

    Args:
        image: The picture, in a mode that the format can hold; "RGBA" only where the format holds transparency.
        path: The file to write, whose suffix is one of `WRITABLE`.
        original: The file whose metadata is kept, as far as it is still true of the result and the format has room for
            it: EXIF, ICC, XMP, IPTC, resolution, comment (`metadata.save_options` says which format holds what).
        mark: Says in EXIF and XMP that the colours are predicted (`Colorizer.mark`); a BMP file has no room for it.
        place: Whether the metadata that says where the picture was taken is kept, too.

    Raises:
        PictureError: The format cannot hold the picture, the original is gone, or the file cannot be written.
    """
    path = Path(path)
    format_name = WRITABLE.get(path.suffix.lower())
    if format_name is None:
        raise PictureError(f"{path} cannot be written: choose a name that ends in {', '.join(WRITABLE)}")
    if image.mode == "RGBA" and format_name not in HOLDS_ALPHA:
        raise PictureError(f"{path} cannot hold the picture's transparency; choose a name that ends in .png")
    options = SAVE_OPTIONS.get(format_name, {}) | save_options(format_name, kept_metadata(original, place), mark)
    try:
        with atomic_write(path) as temporary:
            image.save(temporary, format=format_name, **options)
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}") from error
    except (ValueError, TypeError, RuntimeError, struct.error) as error:  # from encoders, about metadata or sizes
        raise PictureError(f"{path} cannot be written: {error}; choose another format") from error


def kept_metadata(original: str | os.PathLike[str] | None, place: bool = True) -> Metadata:
    """Reads the metadata that a result keeps of its original.

    Args:
        original: The original's file; None gives no metadata.
        place: Whether where the picture was taken is kept, too.

    Returns:
        The metadata that is still true of a result in colour.

    Raises:
        PictureError: The file is gone, or is no picture any more.
    """
    if original is None:
        return Metadata()
    try:
        with without_warnings():
            metadata = read_metadata(original)
        return metadata if place else metadata.without_place()
    except OSError as error:
        raise PictureError(f"{original} is gone or has changed meanwhile ({error}); try again") from error
