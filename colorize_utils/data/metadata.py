"""What a picture file holds beside its pixels, and the mark that says that its colours are predicted.

`read_metadata` reads of an original what is still true of the result. `save_options` makes of it, and of the `Mark`,
the arguments with which Pillow writes both into a file of each format. `read_mark` reads the mark of a result. Broken
metadata never costs a picture: what is broken, or has no room in the format, is left out.
"""

import html
import math
import os
import re
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from colorize_utils import __version__

_DESCRIPTION, _ORIENTATION, _SOFTWARE = 0x010E, 0x0112, 0x0131
_RESOLUTION = X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
# The EXIF tags that are kept, because they tell of the scene and the camera: description, maker, model, resolution,
# software, date, artist, copyright, rating, Windows' title to subject; and the sub-directories of exposure and place.
# Others are not kept: a TIFF file's own directory also has the layout of its pixels, the orientation is applied
# already, and a thumbnail would still be gray.
_EXIF_KEPT = (
    *(_DESCRIPTION, 0x010F, 0x0110, *_RESOLUTION, _SOFTWARE, 0x0132, 0x013B, 0x8298, 0x4746),
    *range(0x9C9B, 0x9CA0),
)
_PLACE = 0x8825
_EXIF_DIRECTORIES = (0x8769, _PLACE)
_TIFF_XMP, _TIFF_IPTC = 700, 33723  # TIFF's own tags for XMP and IPTC
_PHOTOSHOP_IPTC = 0x0404  # the resource of a JPEG's Photoshop segment that holds IPTC
_SEGMENT = 65_533  # bytes that a segment of a JPEG can hold
_XMP_SEGMENT = _SEGMENT - len(b"http://ns.adobe.com/xap/1.0/\0")
_PROFILE_KIND = slice(16, 20)  # the bytes in which an ICC profile names its colour space
_DPI = range(1, 65_536)  # what a JPEG can hold; in files of every format other numbers are nonsense

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
# Where a picture comes from and what made it, as in https://iptc.org/std/photometadata/specification, 2025.1.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_MARK_PROPERTIES = ("DigitalSourceType", "AISystemUsed", "AISystemVersionUsed")
# Properties of XMP, by namespace, that are no longer true: what describes the gray file's pixels, its thumbnail, and a
# pointer to further segments, which are not read.
_XMP_OUTDATED = {
    "http://ns.adobe.com/tiff/1.0/": (
        *("Orientation", "ImageWidth", "ImageLength", "BitsPerSample", "SamplesPerPixel", "Compression"),
        *("PhotometricInterpretation", "PlanarConfiguration", "YCbCrPositioning", "YCbCrSubSampling"),
    ),
    "http://ns.adobe.com/exif/1.0/": ("PixelXDimension", "PixelYDimension", "ColorSpace"),
    "http://ns.adobe.com/photoshop/1.0/": ("ColorMode", "ICCProfile"),
    "http://ns.adobe.com/xap/1.0/": ("Thumbnails",),
    "http://ns.adobe.com/xmp/note/": ("HasExtendedXMP",),
}


# Where a picture was taken, in XMP and in IPTC (record 2: the numbers of its data sets).
_XMP_PLACE = re.compile(
    r"exif:GPS\w+|photoshop:(?:City|State|Country)|Iptc4xmpCore:(?:Location|CountryCode)"
    r"|Iptc4xmpExt:(?:LocationCreated|LocationShown)"
)
_XMP_SPACES = {
    "exif": "http://ns.adobe.com/exif/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": _IPTC,
}
_IPTC_PLACE = {26, 27, 90, 92, 95, 100, 101}


@dataclass(frozen=True)
class Mark:
    """Says that a picture's colours are predicted: by which model, and in which style.

    Attributes:
        model: The model's name, or its file's.
        checkpoint: The first twelve hexadecimal digits of the SHA-256 of the model's file; "" for a network that is
            from no file.
        style: The style that the picture was colorized in, "safe" or "vivid".
        version: The version of colorize_utils.
    """

    model: str
    checkpoint: str
    style: str
    version: str = __version__

    def __str__(self) -> str:
        """The mark as it stands in a file; `read_mark` reads it."""
        return f"colorize_utils {self.version}: colours predicted by {self.system}, style {self.style}"

    @property
    def system(self) -> str:
        """The model's name and the digits of its checkpoint; letters that cannot be printed become question marks."""
        model = "".join(letter if letter.isprintable() else "?" for letter in self.model)  # a file may have any name
        return f"{model} ({self.checkpoint})" if self.checkpoint else model

    def is_of_the_same(self, other: "Mark") -> bool:
        """Whether both marks name the same model and style.

        Models are the same if their checkpoints are, whatever their files are called; the versions may differ.

        Args:
            other: The mark to compare with.

        Returns:
            True if model and style are the same.
        """
        return (self.checkpoint or self.model, self.style) == (other.checkpoint or other.model, other.style)


_MARK = re.compile(r"colorize_utils (\S+): colours predicted by (.*?)(?: \(([0-9a-f]{12})\))?, style (\w+)\Z")


def read_mark(path: str | os.PathLike[str]) -> Mark | None:
    """Reads the mark of a result from the file's header, without decoding the picture.

    Args:
        path: The result's file.

    Returns:
        The mark; None where the file has none, or is no picture.
    """
    try:
        with Image.open(path) as image:
            # Pillow would decode a whole PNG in search of EXIF, so it is asked only where there is some.
            exif = image.getexif() if image.format == "TIFF" or "exif" in image.info else {}
            found = _MARK.search(exif.get(_SOFTWARE, ""))
    except Exception:  # anything may lie there under a result's name; what cannot be read has no mark
        return None
    return Mark(found[2], found[3] or "", found[4], found[1]) if found else None


@dataclass(frozen=True)
class Metadata:
    """What a picture file says beside its pixels; fields that are None or empty say nothing.

    Attributes:
        exif: Tag → entry; sub-directories are dictionaries.
        icc: A colour profile for RGB.
        dpi: Resolution in dots per inch, across and down.
        xmp: The XMP packet as it stands in the file.
        iptc: The IPTC records as they stand in the file.
        comment: The comment of a JPEG or GIF.
        text: The texts of a PNG, by keyword.
    """

    exif: dict[int, object] = field(default_factory=dict)
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)

    def without_place(self) -> "Metadata":
        """The same without where the picture was taken; descriptions and comments, which people wrote, stay."""
        exif = {tag: entry for tag, entry in self.exif.items() if tag != _PLACE}
        text = {key: value for key, value in self.text.items() if "gps" not in key.lower()}
        xmp, iptc = self.xmp and _xmp_without_place(self.xmp), self.iptc and _iptc_without_place(self.iptc)
        return replace(self, exif=exif, xmp=xmp, iptc=iptc, text=text)


def _xmp_without_place(packet: bytes) -> bytes | None:
    """The packet without properties of the place, by their usual prefixes; None where it is broken."""
    # Any prefix may stand for a namespace, so properties are found by their names and removed by both.
    names = set(re.findall(rb"(?<=:)\w+", packet))
    places = {
        f"{{{space}}}{name.decode()}"
        for prefix, space in _XMP_SPACES.items()
        for name in names
        if _XMP_PLACE.fullmatch(f"{prefix}:{name.decode()}")
    }
    try:
        if b"<!DOCTYPE" in packet:
            return None
        text = ET.canonicalize(packet.strip(b"\0 \r\n\t"), exclude_attrs=places, exclude_tags=places)
    except Exception:  # not well-formed, or in an unknown encoding
        return None
    return text.encode()


def _iptc_without_place(records: bytes) -> bytes | None:
    """The records without data sets of the place; None where they are of another form."""
    kept, start = b"", 0
    while start < len(records.rstrip(b"\0")):
        marker, record, number, length = struct.unpack_from(">BBBH", records.ljust(start + 5, b"\0"), start)
        end = start + 5 + length
        if marker != 0x1C or length > 0x7FFF or end > len(records):
            return None
        if not (record == 2 and number in _IPTC_PLACE):
            kept += records[start:end]
        start = end
    return kept or None


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Reads the metadata of a file that is still true of the picture once it is upright and in colour.

    EXIF comes without the orientation, which has been applied; an ICC profile only if it describes RGB, because a gray
    or CMYK one would make the colours wrong.

    Args:
        path: The original's file.

    Returns:
        Its metadata; without the parts that are broken.

    Raises:
        OSError: The file cannot be opened any more.
    """
    with Image.open(path) as image:
        try:
            exif = image.getexif()
            entries = {tag: exif[tag] for tag in _EXIF_KEPT if tag in exif}
            entries |= {tag: exif.get_ifd(tag) for tag in _EXIF_DIRECTORIES if tag in exif}
            turned = exif.get(_ORIENTATION) in (5, 6, 7, 8)
        except Exception:  # on broken EXIF Pillow's parser may raise anything; such EXIF cannot be kept
            entries, turned = {}, False
        info = image.info
        entries = {tag: entry for tag, entry in entries.items() if entry and _can_be_written(tag, entry)}
        dpi = _dpi(image, entries)
        if turned:  # by a quarter: rows and columns have changed places
            dpi = dpi and dpi[::-1]
            across, down = entries.get(X_RESOLUTION), entries.get(Y_RESOLUTION)
            if across and down:
                entries[X_RESOLUTION], entries[Y_RESOLUTION] = down, across
        icc = info.get("icc_profile")
        return Metadata(
            entries,
            icc if isinstance(icc, bytes) and icc[_PROFILE_KIND] == b"RGB " else None,
            dpi,
            _bytes(info.get("xmp")),
            _bytes(_iptc(image)),
            _bytes(info.get("comment")),
            _text(image),
        )


def _can_be_written(tag: int, entry: object) -> bool:
    alone = Image.Exif()
    alone[tag] = entry
    try:
        alone.tobytes()
    except Exception:  # for an entry of the wrong type, for instance, Pillow raises TypeError, struct.error and more
        return False
    return True


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _dpi(image: Image.Image, exif: dict[int, Any]) -> tuple[float, float] | None:
    """Dots per inch from the file's header, else from its EXIF; None where they are missing or implausible."""
    try:
        found = image.info.get("dpi")
        # Without a unit in a JPEG's header, Pillow makes up its dpi.
        if found is None or (image.format == "JPEG" and image.info.get("jfif_unit") not in (1, 2)):
            per_inch = {2: 1.0, 3: 2.54}[exif.get(RESOLUTION_UNIT, 2)]
            found = tuple(float(exif[tag]) * per_inch for tag in (X_RESOLUTION, Y_RESOLUTION))
        across, down = (float(value) for value in found)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    plausible = all(math.isfinite(value) and round(value) in _DPI for value in (across, down))
    return (across, down) if plausible else None


def _iptc(image: Image.Image) -> object:
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(_TIFF_IPTC)
    photoshop = image.info.get("photoshop")
    return photoshop.get(_PHOTOSHOP_IPTC) if isinstance(photoshop, dict) else None


def _text(image: Image.Image) -> dict[str, str]:
    if not isinstance(image, PngImageFile):
        return {}
    try:
        texts: dict[str, str] = dict(image.text)  # reads the file to its end
    except Exception:  # the part behind the pixels may be cut short
        texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    # XMP and EXIF are kept elsewhere; "raw profiles" are an old form of EXIF and IPTC, written as numbers.
    return {key: text for key, text in texts.items() if not key.startswith(("XML:", "Raw profile"))}


def save_options(format_name: str, metadata: Metadata, mark: Mark | None = None) -> dict[str, object]:
    """The arguments with which Pillow writes metadata and the mark into a file, as far as its format can hold them.

    JPEG holds EXIF, ICC, XMP, IPTC, resolution and comment; PNG holds EXIF, ICC, XMP, resolution, texts and comment;
    TIFF holds EXIF (and the resolution in it), ICC, XMP and IPTC; WebP holds EXIF, ICC and XMP; BMP holds the
    resolution, and no mark.

    Args:
        format_name: Pillow's name of the format: "JPEG", "PNG", "TIFF", "WEBP" or "BMP".
        metadata: What is kept of the original.
        mark: Says that the colours are predicted; goes into EXIF and XMP.

    Returns:
        Keyword arguments for `Image.save`.
    """
    if format_name == "BMP":
        return {"dpi": metadata.dpi} if metadata.dpi else {}
    options: dict[str, object] = {"icc_profile": metadata.icc} if metadata.icc else {}
    room = {"JPEG": _XMP_SEGMENT}.get(format_name, math.inf)
    xmp = _xmp(metadata.xmp, mark, room)
    if format_name == "TIFF":
        entries = {_TIFF_XMP: xmp, _TIFF_IPTC: metadata.iptc}
        options["exif"] = _exif(metadata, mark, {tag: entry for tag, entry in entries.items() if entry}, math.inf)
        return {name: value for name, value in options.items() if value}
    options["exif"] = _exif(metadata, mark, {}, {"JPEG": _SEGMENT}.get(format_name, math.inf))
    if format_name in ("JPEG", "PNG"):
        options["dpi"] = metadata.dpi
    if format_name == "PNG":
        options["pnginfo"] = _png_texts(metadata, xmp)
    else:
        options["xmp"] = xmp
    if format_name == "JPEG":
        comment = metadata.comment or metadata.text.get("Comment", "").encode()
        options["comment"] = comment if len(comment) <= _SEGMENT else b""
        options["extra"] = _photoshop_segment(metadata.iptc)
    return {name: value for name, value in options.items() if value}


def _exif(metadata: Metadata, mark: Mark | None, more: dict[int, object], room: float) -> bytes:
    entries = {**metadata.exif, **more}
    if metadata.dpi and X_RESOLUTION not in entries:
        entries |= {X_RESOLUTION: metadata.dpi[0], Y_RESOLUTION: metadata.dpi[1], RESOLUTION_UNIT: 2}  # inches
    if mark:
        entries[_SOFTWARE] = _software(entries.get(_SOFTWARE), mark)
    # If EXIF is too long, a camera maker's own notes are the cause; they are in the sub-directory of the exposure.
    for kept in (entries, {tag: entry for tag, entry in entries.items() if tag not in _EXIF_DIRECTORIES}):
        exif = Image.Exif()
        exif.update(kept)
        content = exif.tobytes() if kept else b""
        if len(content) <= room:
            return content
    return _exif(Metadata(), mark, {}, room) if mark else b""


def _software(before: object, mark: Mark) -> str:
    """The entry of the software: the program that made the original, then the mark, which replaces an earlier one."""
    before = _MARK.sub("", before.rstrip("\0 ")).rstrip("; ") if isinstance(before, str) else ""
    return f"{before}; {mark}" if before else str(mark)


def _photoshop_segment(iptc: bytes | None) -> bytes:
    """A JPEG's APP13 segment with IPTC in it; empty where there is no IPTC or it is too long."""
    if not iptc:
        return b""
    resource = b"8BIM" + _PHOTOSHOP_IPTC.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big") + iptc
    segment = b"Photoshop 3.0\0" + resource + b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment if len(segment) <= _SEGMENT else b""


def _png_texts(metadata: Metadata, xmp: bytes | None) -> PngInfo:
    texts = PngInfo()
    if xmp:
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
    found = {"Comment": _decoded(metadata.comment)} if metadata.comment else {}
    for key, text in (found | metadata.text).items():
        if 0 < len(key) < 80 and key.isascii() and "\0" not in key:
            texts.add_text(key, text)
    return texts


def _decoded(comment: bytes) -> str:
    """A comment as text: UTF-8, else Latin-1, because neither JPEG nor GIF says the encoding."""
    try:
        return comment.decode().rstrip("\0")
    except UnicodeDecodeError:
        return comment.decode("latin-1").rstrip("\0")


def _xmp(original: bytes | None, mark: Mark | None, room: float) -> bytes | None:
    """The original's XMP without what is no longer true, and with the mark; if it is broken or too long, the mark."""
    packets = (_merged(original, mark) if original else None, _merged(_EMPTY, mark) if mark else None)
    return next((packet for packet in packets if packet and len(packet) <= room), None)


_EMPTY = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta>'.encode()


def _merged(packet: bytes, mark: Mark | None) -> bytes | None:
    """An XMP packet without what is no longer true, with the mark as its last description; None if it is broken.

    The packet is rewritten as canonical XML, which keeps its prefixes and every character.
    """
    outdated = {f"{{{space}}}{name}" for space, names in _XMP_OUTDATED.items() for name in names}
    if mark:
        outdated |= {f"{{{_IPTC}}}{name}" for name in _MARK_PROPERTIES}
    try:
        if b"<!DOCTYPE" in packet:
            return None  # XMP needs no entities, and they may expand without bound
        text = ET.canonicalize(packet.strip(b"\0 \r\n\t"), exclude_attrs=outdated, exclude_tags=outdated)
    except Exception:  # not well-formed, or in an unknown encoding
        return None
    text = re.sub(r"<\?xpacket.*?\?>\s*", "", text, flags=re.DOTALL)
    ends = [found.start() for found in re.finditer(r"</(?:[\w.-]+:)?RDF>", text)]
    if not ends or _RDF not in text:
        return None
    if mark:
        about = re.search(r'\babout="([^"]*)"', text)  # all descriptions in a packet have the same subject
        text = text[: ends[-1]] + _description(mark, about[1] if about else "") + text[ends[-1] :]
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{text}\n<?xpacket end="w"?>'.encode()


def _description(mark: Mark, about: str) -> str:
    values = (DIGITAL_SOURCE_TYPE, f"colorize_utils, {mark.system}", f"{mark.version}, style {mark.style}")
    properties = "".join(
        f"<Iptc4xmpExt:{name}>{html.escape(value, quote=False)}</Iptc4xmpExt:{name}>"
        for name, value in zip(_MARK_PROPERTIES, values, strict=True)
    )
    spaces = f'xmlns:rdf="{_RDF}" xmlns:Iptc4xmpExt="{_IPTC}"'
    return f'<rdf:Description {spaces} rdf:about="{about}">{properties}</rdf:Description>'
