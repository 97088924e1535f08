"""Picture files of any kind: opened upright, reduced to 8-bit gray, written back with what belongs to them
(metadata.py)."""

import functools
import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from colorize_utils.data.metadata import Mark, Metadata, read_metadata, save_options
from colorize_utils.errors import PictureError
from colorize_utils.files import atomic_write

# Suffix → format, for what can hold 24-bit colour, and how each is saved.
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
HEIF = {".heic", ".heif", ".hif"}  # what telephones write; readable where pillow-heif is installed
RAW = {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
# Suffix → what makes pictures of a kind readable that are not read as they are.
NOT_READ = {
    **dict.fromkeys(sorted(HEIF), "pip install pillow-heif"),
    **dict.fromkeys(sorted(RAW), "develop to TIFF or JPEG first, for instance with darktable"),
    ".pdf": "take the pictures out first, with pdfimages -all (poppler-utils)",
    ".djvu": "turn into TIFF first, with ddjvu -format=tiff (djvulibre)",
    ".jxl": "turn into PNG first, with djxl (libjxl)",
    **dict.fromkeys((".psd", ".xcf", ".svg"), "export as TIFF or PNG first"),
}
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},  # chroma is the point here: keep it at full resolution
    # 95 of 100 would move luminance by up to 12 of 255; exact: keeps colours where they are transparent, too. For
    # lossless files quality is effort: 40 takes two thirds of the default's time for 1 % larger files.
    "WEBP": {"lossless": True, "exact": True, "quality": 40},
}  # TIFF stays uncompressed: compressed, Pillow cannot write EXIF into it
HOLDS_ALPHA = {"PNG", "TIFF", "WEBP"}
MAX_PIXELS = 178_956_970  # Pillow's own bound against decompression bombs: 0.5 GB of RGB
_JUDGED_AT = 64  # pixels of the longer side at which `has_colours` looks at a picture
_OFF_HUE, _OFF_LUMA = 1.6, 5.2  # its thresholds, in 8-bit steps of chroma
_ORIENTATION = 0x0112  # the EXIF tag; what undoes each of its values:
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def reads_heif() -> bool:
    """Whether HEIC pictures can be read: hands pillow-heif to Pillow, where it is installed.

    It turns pictures upright by the file's own rotation, by which all programs go, and says in EXIF that it did.
    """
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def is_picture(path: Path) -> bool:
    """Whether this is a file that by its name is a picture that can be read; hidden files are not."""
    suffix = path.suffix.lower()
    readable = suffix in READABLE or (suffix in HEIF and reads_heif())
    return readable and not path.name.startswith(".") and path.is_file()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Within the block nothing is said of large pictures and odd metadata, of which Pillow warns on every one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_upright(picture: str | os.PathLike | bytes | Image.Image) -> Image.Image:
    """A picture decoded and turned as its EXIF orientation says. Of several frames, the first (`pages` has all).

    Raises PictureError where it is missing, empty, cut short, no picture, or larger than `MAX_PIXELS`.
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


def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """A picture's file, open to read; within `reading`. Raises PictureError where it is empty or of a kind that Pillow
    would take for another: in a camera's raw file, a TIFF, it finds the thumbnail."""
    _require_content(os.fspath(path), os.stat(path).st_size)
    suffix = Path(path).suffix.lower()
    if suffix in RAW:
        raise PictureError(f"{os.fspath(path)} is a camera's raw file; {NOT_READ[suffix]}")
    return open(path, "rb")


def open_image(file: io.BufferedIOBase) -> Image.Image:
    """What Pillow makes of an open file, not yet decoded. Not of a path: it maps uncompressed gray files into memory
    then, and (13.0) takes width for height in TIFF files that lie on their side."""
    reads_heif()
    return Image.open(file)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Within the block, whatever Pillow raises about the picture of this name becomes a PictureError."""
    try:
        with without_warnings():
            yield
    except UnidentifiedImageError as error:
        advice = NOT_READ.get(Path(name).suffix.lower(), "give a JPEG, PNG, TIFF or WebP file")
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
        # what decoders raise on broken files
        raise PictureError(f"{name} is damaged or cut short ({error}); get a fresh copy") from error


def _decoded(image: Image.Image, name: str) -> Image.Image:
    require_size(name, image.size)
    image.load()
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # anything may stand in EXIF, and Pillow's parser raises as much; the picture itself is whole
        orientation = None
    method = _TURNS.get(orientation)
    return image if method is None else image.transpose(method)


def _name(picture: object) -> str:
    """For errors: the path, that of an opened image, or that there is none."""
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    return str(getattr(picture, "filename", "") or "the picture")


def _require_content(name: str, length: int) -> None:
    if length == 0:
        raise PictureError(f"{name} is empty (0 bytes); get a fresh copy")


def require_size(name: str, size: tuple[int, int]) -> None:
    """Raises PictureError where a picture has no pixels, or more than `MAX_PIXELS`."""
    width, height = size
    if width == 0 or height == 0:
        raise PictureError(f"{name} has no pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{name} has {width}×{height} pixels, over {MAX_PIXELS // 10**6} million; make it smaller first"
        )


@dataclass(frozen=True)
class GrayPicture:
    """gray: (H, W) uint8, the picture's luma. alpha: (H, W) uint8, or None where the picture is opaque."""

    gray: np.ndarray
    alpha: np.ndarray | None = None


def to_gray(picture: str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor) -> GrayPicture:
    """Any picture as upright 8-bit gray, Rec. 601 luma as Pillow computes it, and its alpha.

    Pillow images of every mode: 1-bit, 8-bit, 16-bit (v / 257, rounded), 32-bit integers, float, palette, alpha, CMYK,
    YCbCr, LAB, HSV. A float or 32-bit image is taken in the smallest of the ranges [0, 1] (floats), [0, 255] and
    [0, 65535] that holds it.

    Arrays: (H, W), or (H, W, C) with 1, 2 (gray, alpha), 3 or 4 channels; bool, uint8, uint16, or float in [0, 1].
    Tensors: (H, W) or (C, H, W), with the same types and channels.

    Raises PictureError where the picture cannot be read, ValueError where an array's shape, type or range does not fit.
    """
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()
        picture = picture.float() if picture.dtype in (torch.float16, torch.bfloat16) else picture
        picture = (picture if picture.ndim != 3 else picture.permute(1, 2, 0)).numpy()
    if isinstance(picture, np.ndarray):
        return _array_to_gray(picture)
    image, name = open_upright(picture), _name(picture)
    try:
        alpha = _alpha(image)
        if image.mode.startswith(("I", "F")):
            values, sixteen = np.asarray(image), image.mode[:2] == "I;" or image.format == "PPM"
            return GrayPicture(_levels(values, name, floats=image.mode == "F", sixteen=sixteen), alpha)
        return GrayPicture(np.asarray(_to_l(image)), alpha)
    except (ValueError, OSError) as error:  # a mode that Pillow cannot convert
        raise PictureError(f"{name} cannot be turned gray ({error}); save it as an 8-bit PNG first") from error


def _alpha(image: Image.Image) -> np.ndarray | None:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return np.asarray(image.getchannel(image.mode[-1]))
    if image.mode.startswith("I") and "transparency" in image.info:  # 16-bit gray, of which one level is transparent
        return np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
    if not image.has_transparency_data:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _to_l(image: Image.Image) -> Image.Image:
    return _plain(image).convert("L")


def _plain(image: Image.Image) -> Image.Image:
    """In a mode that Pillow converts rightly to others."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    elif image.mode in ("P", "CMYK", "HSV"):
        image = image.convert("RGB")
    return image


def has_colours(image: Image.Image) -> bool:
    """Whether a decoded picture has colours of its own; a toned print (sepia, cyanotype), a yellowed one and the noise
    of a gray picture's JPEG have not.

    In a toned print chroma follows from luma, and what time and scanner add lies on one line of hue. So of chroma
    (Cb, Cr) at a long side of 64 pixels, which averages noise away, a cubic in luma is taken off; colours are what is
    left off the line of most variance, or is so much that no toning explains it.

    Of 858 photographs of flowers (others than the thresholds were chosen by) 24 were taken for prints: 10 are black and
    white, the rest white flowers before black and pictures of one hue. Of their copies made sepia, cyanotype, selenium,
    split-toned, stained, noisy, or gray JPEGs, one in 8,580 was taken for colour. Of the photographs faded to 35 % of
    their chroma, 24 % were taken for prints.
    """
    if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")):
        return False
    scale = _JUDGED_AT / max(image.size)
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
    """(H, W) uint8 of wide values, by the range that they are in."""
    values = values.astype(np.float64)
    lowest, highest = values.min(), values.max()  # NaN, if there is one
    if not (lowest >= 0 and highest <= 65535):
        raise PictureError(f"{name} has values in {lowest:g} … {highest:g}; scale them to 0 … 1, 0 … 255 or 0 … 65535")
    if sixteen or highest > 255:
        values = values / 257
    elif floats and highest <= 1.001:  # resampling may have overshot a little
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
    image: Image.Image, path: str | os.PathLike, original: str | os.PathLike | None = None, mark: Mark | None = None
) -> None:
    """Writes `image` in the format that `path`'s suffix names, whole or not at all.

    original: the file whose metadata is kept, as far as it still holds and the format has room for it: EXIF, ICC, XMP,
    IPTC, resolution, comment (`metadata.save_options` says which format holds what).
    mark: says in EXIF and XMP that the colours are predicted (`Colorizer.mark`); a BMP file cannot say it.

    Raises PictureError where the format cannot hold the picture, the original is gone, or the file cannot be written.
    """
    path = Path(path)
    format_name = WRITABLE.get(path.suffix.lower())
    if format_name is None:
        raise PictureError(f"{path} cannot be written: choose a name that ends in {', '.join(WRITABLE)}")
    if image.mode == "RGBA" and format_name not in HOLDS_ALPHA:
        raise PictureError(f"{path} cannot hold the picture's transparency; choose a name that ends in .png")
    options = SAVE_OPTIONS.get(format_name, {}) | save_options(format_name, kept_metadata(original), mark)
    try:
        with atomic_write(path) as temporary:
            image.save(temporary, format=format_name, **options)
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}") from error
    except (ValueError, TypeError, RuntimeError, struct.error) as error:  # Pillow's encoders, on metadata or sizes
        raise PictureError(f"{path} cannot be written: {error}; choose another format") from error


def kept_metadata(original: str | os.PathLike | None) -> Metadata:
    """What of `original`'s metadata its result keeps. Raises PictureError where the file is gone."""
    if original is None:
        return Metadata()
    try:
        with without_warnings():
            return read_metadata(original)
    except OSError as error:
        raise PictureError(f"{original} is gone or has changed meanwhile ({error}); try again") from error
