"""Weights: where they come from, whether they are what they should be, and how they are read and written.

Three steps, each usable alone: `fetch` turns a name of the catalogue or a path into a verified local file;
`read_weights` turns a file into a plain state dict without ever running code from it; `load_generator` builds the
network that the state dict fits. What the project writes is safetensors with its history in the metadata (`save`).
"""

import hashlib
import http.client
import json
import os
import re
import struct
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata as package_metadata
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from colorize_utils import __version__
from colorize_utils.cache import cache_folder
from colorize_utils.errors import CheckpointError
from colorize_utils.files import written_whole
from colorize_utils.models import BASE_CHANNELS, GENERATORS, build_generator, predictor

BUNDLED = Path(__file__).parent / "weights"
TIMEOUT = 30  # seconds without a byte before a server counts as gone
RESAVE = "torch.save(model.state_dict(), 'weights.pth')"


@dataclass(frozen=True)
class CatalogueEntry:
    """A checkpoint that has a name.

    sources: tried in order; each is "bundled:FILE", "https://…", "drive:ID" (Google Drive) or "path:FILE".
    size: the working size it was trained at, pixels a side. bytes, sha256: None where not known; the hash of the first
    download is then pinned, and a later change reported.
    """

    name: str
    sources: tuple[str, ...]
    architecture: str
    width: float
    size: int
    licence: str
    note: str
    bytes: int | None = None
    sha256: str | None = None
    suffix: str = ".safetensors"


DEFAULT = "flowers-64"
CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="flowers-64",
            sources=("bundled:flowers-64.safetensors",),
            architecture="distribution-unet",
            width=0.5,
            size=64,
            licence="MIT",
            note="a distribution over colours, trained at 64×64 on Flowers-102 and flower_photos",
            bytes=7473618,
            sha256="458a4d427be6805954ef66bcbd531d3e55f24191473130b478018f3fcb9b5996",
        ),
        CatalogueEntry(
            name="original-gan-l1",
            sources=("drive:1aHGpMI5VdSlpQUcmUJnsR8ONWL2k_MOr",),
            architecture="unet",
            width=1.0,
            size=256,
            licence="not stated by its authors",
            note="the original submission's GAN-L1, 350 epochs at 256×256, about 154 MB from Google Drive",
            suffix=".pth",
        ),
    )
}


# ---------------------------------------------------------------- fetching


def fetch(name_or_path: str | os.PathLike, cache: Path | None = None, progress: bool = True) -> Path:
    """A local, verified file for a name of the catalogue, a link (https://…, Google Drive's among them), or a path
    (returned as it is if it exists).

    Downloads go to `cache` (default: `cache_folder()/checkpoints`), whole or not at all, and are verified at every use;
    a file that is a web page, cut short or altered is deleted and the next source tried.

    Raises CheckpointError with a line for each source that failed, and what to do about it.
    """
    entry = CATALOGUE.get(os.fspath(name_or_path)) or _linked(os.fspath(name_or_path))
    if entry is None:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        if path.exists():
            raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
        raise CheckpointError(
            f"{name_or_path} is neither a file nor a known checkpoint; known are {', '.join(CATALOGUE)}"
        )
    cache = cache or cache_folder() / "checkpoints"
    failures = []
    for source in entry.sources:
        kind, _, where = source.partition(":")
        try:
            if kind in ("bundled", "path"):
                path = BUNDLED / where if kind == "bundled" else Path(where).expanduser()
                if not path.is_file():
                    raise CheckpointError(f"{path} does not exist")
                verify(path, entry)
                return path
            return _downloaded(entry, source, cache, progress)
        except CheckpointError as error:
            failures.append(f"{source}: {error}")
    raise CheckpointError(
        f"{entry.name} cannot be had. "
        + "; ".join(failures)
        + ". Get the file on another machine or in a browser, and pass its path (on Colab, upload it to your Drive and "
        "pass /content/drive/MyDrive/FILE) as model_path"
    )


def _linked(link: str) -> CatalogueEntry | None:
    """An entry made up for a link that somebody pasted; None for what is no link."""
    if not link.startswith(("https://", "http://")):
        return None
    url = urllib.parse.urlsplit(link)
    suffix = Path(url.path).suffix if Path(url.path).suffix in (".safetensors", ".pth", ".pt") else ".pth"
    name, source = f"link-{hashlib.sha256(link.encode()).hexdigest()[:12]}", link
    if url.hostname == "drive.google.com":
        found = re.search(r"/d/([\w-]+)", url.path) or re.search(r"(?:^|&)id=([\w-]+)", url.query)
        if found is None:
            raise CheckpointError(f"{link} names no file on Google Drive; share the file itself and copy its link")
        source = f"drive:{found.group(1)}"
    return CatalogueEntry(name, (source,), "unknown", 1.0, 256, "unknown", link, suffix=suffix)


def _downloaded(entry: CatalogueEntry, source: str, cache: Path, progress: bool) -> Path:
    path = cache / f"{entry.name}{entry.suffix}"
    pin = path.with_name(path.name + ".sha256")
    try:
        if path.is_file():
            try:
                digest = verify(path, entry, _pinned(pin))
                if _pinned(pin) != digest:
                    _write_pin(pin, digest, path.name)
                return path
            except CheckpointError:
                path.unlink()  # altered since it was fetched: get it anew
        with written_whole(path) as temporary:
            download = _download_drive if source.startswith("drive:") else _download_http
            download(source, temporary, path.name, progress)
            digest = verify(temporary, entry, _pinned(pin), path.name)
            if entry.sha256 is None:
                read_weights(temporary, path.name)  # nothing else tells a whole file from one that was cut short
        _write_pin(pin, digest, path.name)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {cache}: {error.strerror or error}; free some space, or set COLORIZE_CACHE to a folder "
            "elsewhere"
        ) from error
    return path


def _pinned(pin: Path) -> str | None:
    """The hash that the first download had, from a file that `sha256sum -c` can read, too."""
    words = pin.read_text(encoding="utf-8").split() if pin.is_file() else []
    return words[0] if words else None


def _write_pin(pin: Path, digest: str, name: str) -> None:
    with written_whole(pin) as temporary:
        temporary.write_text(f"{digest}  {name}\n", encoding="utf-8")


def _download_http(url: str, target: Path, name: str, progress: bool) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": f"colorize_utils/{__version__}"})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # no network, no such host, refused, timed out
        raise CheckpointError(f"no answer ({getattr(error, 'reason', None) or error})") from error
    with response, open(target, "wb") as file:
        length = response.headers.get("Content-Length")
        expected = int(length) if length and length.isdigit() else None
        received = 0
        with tqdm(total=expected, desc=name, unit="B", unit_scale=True, disable=not progress) as bar:
            while True:
                try:
                    chunk = response.read(1 << 20)
                except (OSError, http.client.HTTPException) as error:
                    raise CheckpointError(f"the connection broke after {received:,} bytes ({error})") from error
                if not chunk:
                    break
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if expected is not None and received != expected:
        raise CheckpointError(f"cut short: {received:,} of {expected:,} bytes arrived")


def _download_drive(source: str, target: Path, name: str, progress: bool) -> None:
    import gdown

    # In a folder of its own, since gdown leaves parts of a broken download beside its output.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / name
        try:
            gdown.download(id=source.removeprefix("drive:"), output=str(output), quiet=not progress)
            output.replace(target)
        except Exception as error:  # gdown raises its own types, requests' and plain ones; all mean: no file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(f"Google Drive did not hand over {name} ({reason})") from error


def verify(path: Path, entry: CatalogueEntry, pinned: str | None = None, name: str | None = None) -> str:
    """SHA-256 of a file that is a checkpoint and the one that the catalogue, or the first download, says.

    Raises CheckpointError where it is a web page, a Git LFS pointer, of another length or of another hash.
    """
    name = name or path.name
    _file_kind(path, name)
    length = path.stat().st_size
    if entry.bytes is not None and length != entry.bytes:
        raise CheckpointError(f"{name} has {length:,} bytes, {entry.bytes:,} were expected: it is cut short or altered")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if entry.sha256 is not None and digest != entry.sha256:
        raise CheckpointError(f"{name} was altered: its SHA-256 is {digest}, {entry.sha256} was expected")
    if entry.sha256 is None and pinned is not None and digest != pinned:
        raise CheckpointError(
            f"{name} is not the file it was: its SHA-256 is {digest}, at first use it was {pinned}; if its owner "
            f"replaced it and you trust the new one, delete {entry.name}{entry.suffix}.sha256 in the cache"
        )
    return digest


def _file_kind(path: Path, name: str) -> str:
    """One of "safetensors", "zip" (torch.save) and "pickle" (torch.save before 1.6), told by content, not by suffix."""
    with open(path, "rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise CheckpointError(f"{name} is empty (0 bytes); download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{name} is a web page, not a checkpoint (most likely Google Drive's download limit); try again tomorrow, "
            "or download it in a browser and pass its path as model_path"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{name} is a Git LFS pointer, not the file itself; run `git lfs pull`")
    # safetensors first: its header's length may begin with any byte, a pickle's 0x80 among them.
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= path.stat().st_size - 8:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80":
        return "pickle"
    raise CheckpointError(f"{name} is not a checkpoint: neither safetensors nor written by torch.save, or cut short")


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Weights:
    """A plain state dict on the CPU, and what the file says about itself (empty for a bare `.pth`)."""

    state: dict[str, Tensor]
    metadata: dict = field(default_factory=dict)


def read_weights(path: str | os.PathLike, name: str | None = None) -> Weights:
    """The state dict in a file: safetensors, or what torch.save wrote, bare or wrapped.

    Wrappings that are looked into: `state_dict`, `model_state_dict`, `generator_state_dict`, `generator`, `model`; the
    prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile) are taken off. name: for messages.

    Nothing in the file is executed. Raises CheckpointError where it is damaged, holds a pickled module or anything else
    than tensors.
    """
    path = Path(path)
    name = name or path.name
    if _file_kind(path, name) == "safetensors":
        try:
            return Weights(_plain_state(load_file(path), name), _read_metadata(path))
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{name} is damaged or cut short ({error}); download it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on formats that are refused anyway, in a line of our own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        if (what := _more_than_weights(str(error))) is not None:
            raise CheckpointError(
                f"{name} holds more than weights ({what}); loading it could run code, so it is refused. "
                f"Its owner can save the weights alone: {RESAVE}"
            ) from error
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(f"{name} is damaged or cut short ({reason}); download it again") from error
    return Weights(_plain_state(content, name))


def _more_than_weights(message: str) -> str | None:
    """What a file holds that torch.load refuses under `weights_only`, read from its message; None if it is damaged."""
    if "TorchScript" in message:
        return "a TorchScript program"
    if found := re.search(r"GLOBAL (\S+)", message):
        return found.group(1)
    # The opcodes of protocol 4, with which plain pickles begin and name classes; torch.save writes protocol 2.
    return "a pickle that torch.save did not write" if re.search(r"Unsupported operand 14[79]\b", message) else None


WRAPPINGS = ("generator_state_dict", "generator", "model_state_dict", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def _plain_state(content: object, name: str) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{name} holds no weights ({type(content).__name__}); save them with {RESAVE}")
    foreign = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise CheckpointError(f"{name} is no plain state dict (it holds {foreign[0]!r}); save it with {RESAVE}")
    return {_without_prefixes(key): value for key, value in content.items()}


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _read_metadata(path: Path) -> dict:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        raw = file.metadata() or {}
    parsed = {}
    for key, value in raw.items():
        try:
            parsed[key] = json.loads(value)
        except json.JSONDecodeError:
            parsed[key] = value
    return parsed


# ---------------------------------------------------------------- building

# The first layer's key names an architecture, its output channels the width.
_FIRST_LAYERS = {
    "unet": "encoder_block1.conv.0.weight",
    "wgan-unet": "encoder1.block.0.weight",
    "distribution-unet": "encoder1.conv.0.weight",
}
_DISCRIMINATOR_LAYER = "layer1."


def identify(state: Mapping[str, Tensor]) -> tuple[str, float, bool] | None:
    """(architecture, width, bounded) of the generator that a state dict fits by its keys and shapes, or None.

    `bounded` shows in the keys of the WGAN U-Net alone; for the U-Net the file's metadata must say.
    """
    for architecture, key in _FIRST_LAYERS.items():
        if key in state and state[key].ndim == 4 and state[key].shape[0]:
            bounded = architecture == "wgan-unet" and "decoder5.block.1.weight" not in state
            return architecture, state[key].shape[0] / BASE_CHANNELS, bounded
    return None


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator in evaluation mode, and what is known of it. size: the working size, pixels a side."""

    network: nn.Module
    architecture: str
    width: float
    size: int
    name: str
    metadata: dict

    @property
    def predictor(self) -> nn.Module:
        """What makes colour of gray, as it was trained: on the given luminance, where its recipe kept that."""
        recipe = self.metadata.get("recipe")
        return predictor(self.network, isinstance(recipe, dict) and bool(recipe.get("keep_luminance", False)))


def load_generator(
    name_or_path: str | os.PathLike = DEFAULT,
    architecture: str | None = None,
    size: int | None = None,
    progress: bool = True,
) -> LoadedGenerator:
    """The generator of a checkpoint, its architecture and width recognised from the file's keys and shapes.

    architecture: what it must be, where that is not left open. size: overrides the working size, which comes from the
    catalogue or the file's metadata, else is 256.

    Raises CheckpointError where the file cannot be had or read, or fits another network: the first keys that differ
    are named, and the architecture that the file fits.
    """
    path = fetch(name_or_path, progress=progress)
    weights = read_weights(path)
    entry = CATALOGUE.get(os.fspath(name_or_path))
    found = identify(weights.state)
    wanted = architecture or (entry.architecture if entry else None) or (found[0] if found else "unet")
    if found is None or found[0] != wanted:
        raise CheckpointError(_misfit(path.name, weights.state, wanted, found))
    _, width, bounded = found
    network = build_generator(wanted, width, bounded or bool(weights.metadata.get("bounded", False)))
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.state.items()}
    if expected != given:
        raise CheckpointError(f"{path.name} does not fit {wanted} at width {width:g}: {_difference(expected, given)}")
    network.load_state_dict(weights.state, strict=True)
    if not all(value.isfinite().all() for value in network.state_dict().values() if value.is_floating_point()):
        raise CheckpointError(f"{path.name} holds NaN or infinite weights: the run that wrote it diverged; use another")
    size = size or weights.metadata.get("size") or (entry.size if entry else 256)
    if not isinstance(size, int) or size <= 0:
        raise CheckpointError(f"{path.name} says that its working size is {size!r}: its metadata is damaged")
    name = entry.name if entry else path.name
    return LoadedGenerator(network.eval(), wanted, width, size, name, weights.metadata)


def _misfit(name: str, state: Mapping[str, Tensor], wanted: str, found: tuple | None) -> str:
    expected = {key: tuple(value.shape) for key, value in build_generator(wanted).state_dict().items()}
    difference = _difference(expected, {key: tuple(value.shape) for key, value in state.items()})
    if found:
        fits = f"it fits {found[0]} at width {found[1]:g}"
    elif any(key.startswith(_DISCRIMINATOR_LAYER) for key in state):
        fits = "it is a discriminator or critic; give the generator's checkpoint"
    else:
        fits = f"it fits none of {', '.join(GENERATORS)}"
    return f"{name} is not a checkpoint of {wanted}: {difference}; {fits}"


def _difference(expected: Mapping[str, tuple], given: Mapping[str, tuple], most: int = 3) -> str:
    def some(keys: list[str]) -> str:
        return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")

    missing = [key for key in expected if key not in given]
    surplus = [key for key in given if key not in expected]
    shaped = [
        f"{key} {given[key]} not {expected[key]}" for key in expected if key in given and given[key] != expected[key]
    ]
    parts = {"missing": missing, "unexpected": surplus, "of another shape": shaped}
    return "; ".join(f"{what} {some(keys)}" for what, keys in parts.items() if keys)


# ---------------------------------------------------------------- writing


def versions() -> dict[str, str]:
    """The versions that shaped a checkpoint, for its metadata and the top of a notebook."""
    names = ("torch", "torchvision", "numpy", "pillow")
    return {"colorize_utils": __version__} | {name: package_metadata.version(name) for name in names}


def save(path: str | os.PathLike, network: nn.Module, metadata: Mapping[str, object], half: bool = False) -> Path:
    """Writes a network's state dict as safetensors, whole or not at all.

    metadata: JSON values; `load_generator` reads `size` and `bounded` from it. half: floats are stored in 16 bits,
    which halves the file. The versions in use are added, unless it has those of its training.
    """
    path = Path(path)
    state = {}
    for key, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        state[key] = value.half() if half and value.is_floating_point() else value
    header = {key: json.dumps(value) for key, value in {"versions": versions(), **metadata}.items()}
    with written_whole(path) as temporary:
        save_file(state, temporary, metadata=header)
    return path


def release(checkpoint: str | os.PathLike, name: str, folder: str | os.PathLike, half: bool = True) -> CatalogueEntry:
    """Writes a run's checkpoint as `folder`/`name`.safetensors, ready to be bundled or uploaded, and returns the line
    that the catalogue needs for it; its source and licence are still to be filled in.

    half: weights in 16 bits, half the file. Raises CheckpointError where the checkpoint cannot be read, or says nothing
    of the recipe that made it.
    """
    if Path(name).name != name:
        raise CheckpointError(f"{name!r} is no name for a checkpoint: it must be one for a file, without a folder")
    loaded = load_generator(checkpoint, progress=False)
    recipe = loaded.metadata.get("recipe")
    if not (isinstance(recipe, dict) and "name" in recipe):
        raise CheckpointError(f"{os.fspath(checkpoint)} does not say how it was trained; release a run's checkpoint")
    path = save(Path(folder) / f"{name}.safetensors", loaded.network, loaded.metadata, half)
    load_generator(path)  # 16 bits may not hold what 32 did
    note = f"recipe {recipe['name']}, epoch {loaded.metadata.get('epoch')} of {recipe.get('epochs')}"
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    sources = (f"https://…/{path.name}",)
    return CatalogueEntry(name, sources, loaded.architecture, loaded.width, loaded.size, "…", note, size, digest)
