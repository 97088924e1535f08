"""What belongs to a picture file beside its pixels, and the mark that says whose colours they are.

`read_metadata` takes from an original what still holds of the result, `save_options` hands it to Pillow in the way of
each format, together with the `Mark`; `read_mark` finds that again. Nothing in here loses a picture: metadata that is
broken, or that the format has no room for, is left out.
"""

import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from colorize_utils import __version__

_DESCRIPTION, _ORIENTATION, _SOFTWARE = 0x010E, 0x0112, 0x0131
_RESOLUTION = X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
# What EXIF says of the scene and the camera, by tag: description, maker, model, resolution, software, date, artist,
# copyright, rating, Windows' title to subject; and the sub-directories of exposure and place. A TIFF file's own
# directory has the layout of its pixels besides, the orientation is applied, and a thumbnail would still be gray.
_EXIF_KEPT = (
    *(_DESCRIPTION, 0x010F, 0x0110, *_RESOLUTION, _SOFTWARE, 0x0132, 0x013B, 0x8298, 0x4746),
    *range(0x9C9B, 0x9CA0),
)
_EXIF_DIRECTORIES = (0x8769, 0x8825)
_TIFF_XMP, _TIFF_IPTC = 700, 33723  # TIFF's own tags for the two
_PHOTOSHOP_IPTC = 0x0404  # the resource of a JPEG's Photoshop segment that holds IPTC
_SEGMENT = 65_533  # bytes that one segment of a JPEG holds
_XMP_SEGMENT = _SEGMENT - len(b"http://ns.adobe.com/xap/1.0/\0")
_PROFILE_KIND = slice(16, 20)  # where an ICC profile names the colours that it is for
_DPI = range(1, 65_536)  # what a JPEG can hold; else it is nonsense anywhere

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
# https://iptc.org/std/photometadata/specification, 2025.1: where a picture comes from, and what made it.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_MARK_PROPERTIES = ("DigitalSourceType", "AISystemUsed", "AISystemVersionUsed")
# What XMP repeats of the gray file's own pixels, its thumbnail, and a pointer to segments that are not read.
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


@dataclass(frozen=True)
class Mark:
    """That a picture's colours are predicted: by which model, and in which style.

    checkpoint: the first twelve hexadecimal digits of the SHA-256 of the model's file; "" for a network of no file.
    """

    model: str
    checkpoint: str
    style: str
    version: str = __version__

    def __str__(self) -> str:
        return f"colorize_utils {self.version}: colours predicted by {self.system}, style {self.style}"

    @property
    def system(self) -> str:
        model = "".join(letter if letter.isprintable() else "?" for letter in self.model)  # it may be any file's name
        return f"{model} ({self.checkpoint})" if self.checkpoint else model

    def is_of_the_same(self, other: "Mark") -> bool:
        """Whether both are of one model and style, whatever the model's file is called and the package's version."""
        return (self.checkpoint or self.model, self.style) == (other.checkpoint or other.model, other.style)


_MARK = re.compile(r"colorize_utils (\S+): colours predicted by (.*?)(?: \(([0-9a-f]{12})\))?, style (\w+)\Z")


def read_mark(path: str | os.PathLike) -> Mark | None:
    """The mark of a result, from its head alone; None where there is none, or no picture."""
    try:
        with Image.open(path) as image:
            # Where there is no EXIF, a PNG would be decoded whole in search of it.
            exif = image.getexif() if image.format == "TIFF" or "exif" in image.info else {}
            found = _MARK.search(exif.get(_SOFTWARE, ""))
    except Exception:  # anything may lie there under a result's name; it is none of ours
        return None
    return Mark(found[2], found[3] or "", found[4], found[1]) if found else None


@dataclass(frozen=True)
class Metadata:
    """exif: tag → entry, sub-directories as dictionaries. icc: a profile for RGB. dpi: across, down.
    xmp, iptc: as they stood in the file. comment: a JPEG's or GIF's. text: a PNG's, by keyword."""

    exif: dict[int, object] = field(default_factory=dict)
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)


def read_metadata(path: str | os.PathLike) -> Metadata:
    """What a picture's file says beside its pixels and still holds once they are upright and in colour.

    EXIF comes without the orientation, which has been applied; an ICC profile only if it describes RGB, because a gray
    or CMYK one would make the colours wrong. Raises OSError where the file cannot be opened any more.
    """
    with Image.open(path) as image:
        try:
            exif = image.getexif()
            entries = {tag: exif[tag] for tag in _EXIF_KEPT if tag in exif}
            entries |= {tag: exif.get_ifd(tag) for tag in _EXIF_DIRECTORIES if tag in exif}
            turned = exif.get(_ORIENTATION) in (5, 6, 7, 8)
        except Exception:  # anything may stand in EXIF, and Pillow's parser raises as much: it cannot be kept
            entries, turned = {}, False
        info = image.info
        entries = {tag: entry for tag, entry in entries.items() if entry and _can_be_written(tag, entry)}
        dpi = _dpi(image, entries)
        if turned:  # what was down is across
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
    except Exception:  # an entry of another type than its tag's, say; Pillow raises TypeError, struct.error and more
        return False
    return True


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _dpi(image: Image.Image, exif: dict[int, object]) -> tuple[float, float] | None:
    """Dots per inch as the file's own head says, else as its EXIF does; None for what is no resolution."""
    try:
        found = image.info.get("dpi")
        if found is None or (image.format == "JPEG" and image.info.get("jfif_unit") not in (1, 2)):  # made up by Pillow
            per_inch = {2: 1.0, 3: 2.54}[exif.get(RESOLUTION_UNIT, 2)]
            found = tuple(float(exif[tag]) * per_inch for tag in (X_RESOLUTION, Y_RESOLUTION))
        across, down = (float(value) for value in found)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    plausible = all(math.isfinite(value) and round(value) in _DPI for value in (across, down))
    return (across, down) if plausible else None


def _iptc(image: Image.Image) -> object:
    if image.format == "TIFF":
        return image.tag_v2.get(_TIFF_IPTC)
    photoshop = image.info.get("photoshop")
    return photoshop.get(_PHOTOSHOP_IPTC) if isinstance(photoshop, dict) else None


def _text(image: Image.Image) -> dict[str, str]:
    if image.format != "PNG":
        return {}
    try:
        texts = image.text  # which reads the file to its end
    except Exception:  # what stands behind the pixels may be cut short
        texts = {key: value for key, value in image.info.items() if isinstance(value, str)}
    # XMP and EXIF have places of their own; "raw profiles" are EXIF and IPTC of old, written as numbers.
    return {key: text for key, text in texts.items() if not key.startswith(("XML:", "Raw profile"))}


def save_options(format_name: str, metadata: Metadata, mark: Mark | None = None) -> dict[str, object]:
    """Pillow's arguments that write `metadata`, and the mark, into a file of this format, as far as it can hold them.

    JPEG: EXIF, ICC, XMP, IPTC, density, comment. PNG: EXIF, ICC, XMP, density, texts, comment. TIFF: EXIF, ICC, XMP,
    IPTC. WebP: EXIF, ICC, XMP. BMP: density, and no mark.
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
    # What makes it too long is a maker's own notes, in the directory of the exposure.
    for kept in (entries, {tag: entry for tag, entry in entries.items() if tag not in _EXIF_DIRECTORIES}):
        exif = Image.Exif()
        exif.update(kept)
        content = exif.tobytes() if kept else b""
        if len(content) <= room:
            return content
    return _exif(Metadata(), mark, {}, room) if mark else b""


def _software(before: object, mark: Mark) -> str:
    """The mark behind what the original was made with; in place of an earlier one."""
    before = _MARK.sub("", before.rstrip("\0 ")).rstrip("; ") if isinstance(before, str) else ""
    return f"{before}; {mark}" if before else str(mark)


def _photoshop_segment(iptc: bytes | None) -> bytes:
    """A JPEG's APP13 segment with IPTC in it; nothing, where there is none or it is too long."""
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
    """A comment, of which neither JPEG nor GIF says the encoding."""
    try:
        return comment.decode().rstrip("\0")
    except UnicodeDecodeError:
        return comment.decode("latin-1").rstrip("\0")


def _xmp(original: bytes | None, mark: Mark | None, room: float) -> bytes | None:
    """The original's XMP without what no longer holds, and with the mark; where it is broken or too long, the mark."""
    packets = (_merged(original, mark) if original else None, _merged(_EMPTY, mark) if mark else None)
    return next((packet for packet in packets if packet and len(packet) <= room), None)


_EMPTY = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta>'.encode()


def _merged(packet: bytes, mark: Mark | None) -> bytes | None:
    """A packet of XMP (canonical XML keeps its prefixes and every character) with the mark as its last description."""
    outdated = {f"{{{space}}}{name}" for space, names in _XMP_OUTDATED.items() for name in names}
    if mark:
        outdated |= {f"{{{_IPTC}}}{name}" for name in _MARK_PROPERTIES}
    try:
        if b"<!DOCTYPE" in packet:
            return None  # entities have no business in XMP, and may grow without bound
        text = ET.canonicalize(packet.strip(b"\0 \r\n\t"), exclude_attrs=outdated, exclude_tags=outdated)
    except Exception:  # not well-formed, or of an encoding that there is not
        return None
    text = re.sub(r"<\?xpacket.*?\?>\s*", "", text, flags=re.DOTALL)
    ends = [found.start() for found in re.finditer(r"</(?:[\w.-]+:)?RDF>", text)]
    if not ends or _RDF not in text:
        return None
    if mark:
        about = re.search(r'\babout="([^"]*)"', text)  # all descriptions in a packet are about the same
        text = text[: ends[-1]] + _description(mark, about[1] if about else "") + text[ends[-1] :]
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{text}\n<?xpacket end="w"?>'.encode()


def _description(mark: Mark, about: str) -> str:
    values = (DIGITAL_SOURCE_TYPE, f"colorize_utils, {mark.system}", f"{mark.version}, style {mark.style}")
    properties = "".join(
        f"<Iptc4xmpExt:{name}>{escape(value)}</Iptc4xmpExt:{name}>"
        for name, value in zip(_MARK_PROPERTIES, values, strict=True)
    )
    spaces = f"xmlns:rdf={quoteattr(_RDF)} xmlns:Iptc4xmpExt={quoteattr(_IPTC)}"
    return f'<rdf:Description {spaces} rdf:about="{about}">{properties}</rdf:Description>'
