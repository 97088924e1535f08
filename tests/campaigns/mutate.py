"""Broken files by the thousand: each mutated picture or checkpoint ends in a picture, or in one line of the package's.

    python tests/campaigns/mutate.py                       # 10,000 pictures, 2,000 checkpoints: ten minutes of a core
    python tests/campaigns/mutate.py --only picture:4711  # one of them again, with its trace

The same seed makes the same files. They go through `colorize_files`, `Colorizer.colorize` and
`Colorizer.from_checkpoint`, in a process that may crash or hang without ending the campaign. Exit status: 0 where
nothing but pictures and lines came of it. So that a head that lies about its size costs no minutes, pictures may have
four million pixels here.
"""

import argparse
import collections
import functools
import io
import json
import multiprocessing
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save as safetensors_bytes

from colorize_utils.checkpoints import save
from colorize_utils.data import pictures
from colorize_utils.data.pictures import WRITABLE, open_upright
from colorize_utils.errors import CheckpointError, PictureError
from colorize_utils.inference import Colorizer, colorize_files
from colorize_utils.models import build_generator

BLOCK = 200  # files that one task of the process takes
SECONDS = 120  # after which one file counts as a hang
PIXELS = 4_000_000
KINDS = ("picture", "checkpoint")

# ---------------------------------------------------------------- what is mutated

XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6">'
    b'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">my aunt</rdf:li></rdf:Alt></dc:description>'
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def whole_pictures() -> list[tuple[str, bytes]]:
    """(suffix, content): small pictures of every format, mode and compression, with all the metadata that they take."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (19, 26), np.uint8)
    gray = Image.fromarray(levels)
    colour = Image.fromarray(rng.integers(0, 256, (19, 26, 3), np.uint8))
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    alpha = Image.merge("LA", (gray, gray))
    exif = Image.Exif()
    exif.update({0x010E: "my aunt", 0x0112: 6, 0x0131: "a scanner", 0x011A: 300.0, 0x011B: 200.0, 0x0128: 2})
    exif.get_ifd(0x8769).update({0x9003: "1931:05:01 12:00:00", 0x927C: b"maker's own notes"})
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0)})
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    told = {"exif": exif.tobytes(), "icc_profile": icc}
    iptc = b"\x1c\x02\x78\x00\x07my aunt"
    resource = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc
    photoshop = b"\xff\xed" + struct.pack(">H", len(resource) + 2) + resource
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    texts.add_text("Description", "my aunt")
    layout = TiffImagePlugin.ImageFileDirectory_v2()
    layout.update({700: XMP, 33723: iptc, 282: 300.0, 283: 300.0, 296: 2, 270: "my aunt"})

    def encoded(image: Image.Image, suffix: str, **options) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[suffix], **options)
        return suffix, buffer.getvalue()

    jpeg = {**told, "xmp": XMP, "comment": b"my aunt", "extra": photoshop, "dpi": (300, 200)}
    whole = [
        *(encoded(image, ".jpg", **jpeg) for image in (gray, colour, colour.convert("CMYK"))),
        encoded(colour, ".jpg", progressive=True),
        *(encoded(image, ".png", pnginfo=texts, dpi=(300, 200), **told) for image in (gray, colour, deep, alpha)),
        encoded(colour.quantize(16), ".png", transparency=0),
        encoded(gray.convert("1"), ".png"),
        *(encoded(image, ".tif", tiffinfo=layout, icc_profile=icc) for image in (gray, colour, deep, alpha)),
        *(encoded(gray, ".tif", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        encoded(gray.convert("1"), ".tif", compression="group4"),
        encoded(Image.fromarray(levels.astype(np.float32)), ".tif"),
        encoded(gray, ".tif", save_all=True, append_images=[colour]),
        encoded(gray, ".webp", xmp=XMP, **told),
        encoded(alpha.convert("RGBA"), ".webp", lossless=True),
        *(encoded(image, ".bmp", dpi=(300, 300)) for image in (gray, colour, gray.convert("1"))),
        encoded(gray, ".gif", comment=b"my aunt"),
        encoded(gray, ".gif", save_all=True, append_images=[colour.quantize(8)]),
        *(encoded(image, suffix) for image, suffix in ((gray, ".pgm"), (gray.convert("1"), ".pbm"), (colour, ".ppm"))),
        encoded(deep, ".pgm"),
    ]
    for suffix in (".jp2", ".avif"):  # Pillow is not always built with them
        try:
            whole.append(encoded(gray, suffix))
        except (KeyError, OSError):
            print(f"without {suffix}, which this Pillow does not write")
    return whole


def whole_checkpoints() -> list[tuple[str, bytes]]:
    """(suffix, content): of every architecture, as the package and as torch.save writes them, bare and wrapped."""
    torch.manual_seed(0)
    whole = []
    for architecture in ("unet", "wgan-unet", "distribution-unet"):
        network = build_generator(architecture, 1 / 32)
        with tempfile.TemporaryDirectory() as folder:
            recipe = {"name": "gan-l1", "keep_luminance": architecture == "unet"}
            path = save(Path(folder) / "a.safetensors", network, {"size": 32, "bounded": False, "recipe": recipe})
            whole.append((".safetensors", path.read_bytes()))
        for content, how in (
            (network.state_dict(), {}),
            ({"state_dict": network.state_dict(), "epoch": 3}, {}),
            (network.state_dict(), {"_use_new_zipfile_serialization": False}),
        ):
            buffer = io.BytesIO()
            torch.save(content, buffer, **how)
            whole.append((".pth", buffer.getvalue()))
    return whole


# ---------------------------------------------------------------- how

Random = np.random.Generator
EDGES = (b"\0", b"\xff", b"\x7f\xff", b"\x80\0", b"\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff")


def _place(random: Random, content: bytes) -> int:
    """Half of the time in the head, where what matters stands."""
    return int(random.integers(0, max(1, min(len(content), 600) if random.random() < 0.5 else len(content))))


def cut_short(random: Random, content: bytes, _) -> bytes:
    return content[: _place(random, content)]


def flipped(random: Random, content: bytes, _) -> bytes:
    changed = bytearray(content)
    for _number in range(int(random.integers(1, 12))):
        changed[_place(random, content)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwritten(random: Random, content: bytes, _) -> bytes:
    at, edge = _place(random, content), EDGES[int(random.integers(len(EDGES)))]
    return content[:at] + edge + content[at + len(edge) :]


def scrambled(random: Random, content: bytes, _) -> bytes:
    at, length = _place(random, content), int(random.integers(1, 64))
    return content[:at] + random.bytes(length) + content[at + length :]


def grown(random: Random, content: bytes, _) -> bytes:
    at = _place(random, content)
    return content[:at] + random.bytes(int(random.integers(1, 32))) + content[at:]


def shrunk(random: Random, content: bytes, _) -> bytes:
    at = _place(random, content)
    return content[:at] + content[at + int(random.integers(1, 32)) :]


def repeated(random: Random, content: bytes, _) -> bytes:
    at, length = _place(random, content), int(random.integers(1, 400))
    return content[: at + length] + content[at:]


def crossed(random: Random, content: bytes, others: list[bytes]) -> bytes:
    """The beginning of one file and the end of another."""
    other = others[int(random.integers(len(others)))]
    return content[: _place(random, content)] + other[_place(random, other) :]


BYTEWISE = (cut_short, flipped, flipped, overwritten, overwritten, scrambled, grown, shrunk, repeated, crossed)

NONSENSE = (0, -1, 1, 3, 10**6, 10**9, 2**63, 1e308, True, None, "", "abc", [], [1], {}, "nan", "[" * 2000, [[0, 1]])


def json_header_changed(random: Random, content: bytes, _) -> bytes:
    """A safetensors file whose header is whole JSON, and says something else."""
    if content[8:9] != b"{":
        return flipped(random, content, _)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    names = [*header]
    for _number in range(int(random.integers(1, 3))):
        name = "__metadata__" if random.random() < 0.4 else names[int(random.integers(len(names)))]
        nonsense = NONSENSE[int(random.integers(len(NONSENSE)))]
        entry = header.get(name)
        if not isinstance(entry, dict) or not entry or random.random() < 0.1:
            header.pop(name, None)
            continue
        key = [*entry][int(random.integers(len(entry)))]
        if name == "__metadata__":  # text by the format's rules, JSON by the package's
            entry[key] = nonsense if isinstance(nonsense, str) else json.dumps(nonsense)
        elif key == "dtype":
            entry[key] = ("F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64")[int(random.integers(8))]
        elif isinstance(entry[key], list) and entry[key]:
            entry[key][int(random.integers(len(entry[key])))] = nonsense
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


def typed_anew(random: Random, content: bytes, _) -> bytes:
    """A state dict with whole tensors of other values, types, shapes or names."""
    buffer = io.BytesIO(content)
    try:
        state = torch.load(buffer, weights_only=True)
    except Exception:  # safetensors
        return json_header_changed(random, content, _)
    state = state.get("state_dict", state)
    keys = [*state]
    key = keys[int(random.integers(len(keys)))]
    value = state[key]
    changes = (
        lambda: value.to(torch.float64),
        lambda: value.to(torch.int64),
        lambda: value.to(torch.complex64),
        lambda: value.to_sparse() if value.ndim else value,
        lambda: value.half() * float("nan"),
        lambda: value * 1e30,
        lambda: value.unsqueeze(0),
        lambda: value.flatten()[:0],
        lambda: value.to("meta"),
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: value.to(torch.bool),
        lambda: 3,
        lambda: [value],
    )
    state = dict(state)
    state[key] = changes[int(random.integers(len(changes)))]()
    changed = io.BytesIO()
    if random.random() < 0.5 and all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        try:
            return safetensors_bytes({name: tensor.contiguous() for name, tensor in state.items()})
        except Exception:  # of a type that safetensors does not have
            pass
    torch.save(state, changed)
    return changed.getvalue()


def zipped_anew(random: Random, content: bytes, others: list[bytes]) -> bytes:
    """A file of torch.save with one member mutated and every checksum right."""
    if content[:2] != b"PK":
        return json_header_changed(random, content, others)
    mutate = BYTEWISE[int(random.integers(len(BYTEWISE) - 1))]
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        names = old.namelist()
        chosen = next(name for name in names if name.endswith("data.pkl"))
        chosen = chosen if random.random() < 0.7 else names[int(random.integers(len(names)))]
        for name in names:
            member = old.read(name)
            new.writestr(name, mutate(random, member, others) if name == chosen and member else member)
    return changed.getvalue()


def mutation(kind: str, number: int, seed: int) -> tuple[str, bytes, str]:
    """(suffix, content, what was done) of the numbered file."""
    random = np.random.default_rng((seed, KINDS.index(kind), number))
    whole = _whole(kind)
    suffix, content = whole[int(random.integers(len(whole)))]
    ways = BYTEWISE if kind == "picture" else (*BYTEWISE, *[json_header_changed, zipped_anew, typed_anew] * 4)
    way = ways[int(random.integers(len(ways)))]
    return suffix, way(random, content, [other for _, other in whole]), way.__name__


@functools.cache
def _whole(kind: str) -> list[tuple[str, bytes]]:
    return whole_pictures() if kind == "picture" else whole_checkpoints()


# ---------------------------------------------------------------- what comes of it


class Fault(Exception):
    """Neither a picture nor one line."""


@functools.cache
def _colorizer() -> Colorizer:
    torch.manual_seed(0)
    return Colorizer(build_generator("unet", 1 / 32), 32, device="cpu")


def _require_a_line(text: str) -> None:
    if not text.strip() or "\n" in text:
        raise Fault(f"not one line: {text!r}")


def picture_outcome(path: Path, number: int) -> str:
    if number % 4 == 0:  # as a library
        try:
            image = _colorizer().colorize(path.read_bytes())
        except PictureError as error:
            _require_a_line(str(error))
            return "line"
        if image.mode not in ("RGB", "RGBA"):
            raise Fault(f"the result is {image.mode}")
        return "picture"
    suffix = (*WRITABLE, path.suffix)[number % (len(WRITABLE) + 1)]
    output = path.with_name(f"out{suffix if suffix in WRITABLE else '.png'}")
    report = colorize_files(_colorizer(), [path], output, overwrite=True, progress=False)
    if report.failed:
        _require_a_line(report.failed[0])
        return "line"
    (written,) = report.written
    open_upright(written)
    return "picture"


def checkpoint_outcome(path: Path, _) -> str:
    levels = np.arange(19 * 26, dtype=np.uint8).reshape(19, 26)
    try:
        image = Colorizer.from_checkpoint(path, "cpu", progress=False).colorize(levels)
    except CheckpointError as error:
        _require_a_line(str(error))
        return "line"
    if not np.array_equal(np.asarray(image.convert("L")), levels):
        raise Fault("the result has not the luminance that was given")
    return "picture"


OUTCOMES: dict[str, Callable[[Path, int], str]] = {"picture": picture_outcome, "checkpoint": checkpoint_outcome}


def outcome(kind: str, number: int, seed: int, folder: Path) -> str:
    suffix, content, _ = mutation(kind, number, seed)
    path = folder / f"mutated{suffix}"
    path.write_bytes(content)
    signal.alarm(SECONDS)  # which ends the process: a hang in a library written in C cannot be interrupted
    try:
        return OUTCOMES[kind](path, number)
    finally:
        signal.alarm(0)


def block(kind: str, numbers: range, seed: int, at: Path) -> tuple[dict[str, int], list[str]]:
    """(outcomes counted, a line for each fault). Before each file its number is written to `at`, for the last words."""
    pictures.MAX_PIXELS = PIXELS
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counted: collections.Counter[str] = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            at.write_text(str(number))
            try:
                counted[outcome(kind, number, seed, Path(folder))] += 1
            except Exception as error:  # whatever it is, that is what the campaign looks for
                counted["fault"] += 1
                what = traceback.extract_tb(error.__traceback__)[-1]
                text = str(error).splitlines()[0] if str(error) else ""
                _, _, way = mutation(kind, number, seed)
                faults.append(
                    f"{kind}:{number} ({way}): {type(error).__name__}: {text} [{what.filename}:{what.lineno}]"
                )
    return counted, faults


def campaign(kind: str, count: int, seed: int) -> int:
    """Runs the mutations 0 … count − 1, prints faults as they come and the sum, and returns the number of faults."""
    start, total, context = time.perf_counter(), collections.Counter(), multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "number"
        first = 0
        pool = ProcessPoolExecutor(1, mp_context=context)
        while first < count:
            numbers = range(first, min(first + BLOCK, count))
            try:
                counted, faults = pool.submit(block, kind, numbers, seed, at).result()
                first = numbers.stop
            except BrokenProcessPool:
                # What the block had counted before is lost with the process: it is done again up to the crash.
                crashed = int(at.read_text())
                pool = ProcessPoolExecutor(1, mp_context=context)
                counted, faults = pool.submit(block, kind, range(first, crashed), seed, at).result()
                counted["fault"] += 1
                faults = [*faults, f"{kind}:{crashed}: the process died, or took over {SECONDS} s"]
                first = crashed + 1
            total.update(counted)
            for line in faults:
                print(line, flush=True)
        pool.shutdown()
    done = f"{total['picture']} ended in a picture, {total['line']} in one line, {total['fault']} in a fault"
    print(f"{count} mutated {kind}s, seed {seed}: {done}; {time.perf_counter() - start:.0f} s", flush=True)
    return total["fault"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of all mutations (default: 0)")
    parser.add_argument("--pictures", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--checkpoints", type=int, default=2_000, help="default: 2000")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one of them, in this process")
    options = parser.parse_args()
    if options.only:
        kind, _, number = options.only.partition(":")
        pictures.MAX_PIXELS = PIXELS
        with tempfile.TemporaryDirectory() as folder:
            print(outcome(kind, int(number), options.seed, Path(folder)))
        return 0
    counts = zip(KINDS, (options.pictures, options.checkpoints), strict=True)
    return 1 if sum(campaign(kind, count, options.seed) for kind, count in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
