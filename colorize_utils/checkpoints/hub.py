"""The registry of checkpoints, and how they are downloaded, verified, loaded and released.

`fetch` turns a name in the registry, a link or a path into a verified local file; `load_generator` builds the network
in it (state.py); `release` writes a run's checkpoint as a file that can be bundled or uploaded.
"""

import hashlib
import os
import re
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from colorize_utils import __version__
from colorize_utils.checkpoints import huggingface
from colorize_utils.checkpoints.kind import file_kind
from colorize_utils.errors import CheckpointError
from colorize_utils.files import atomic_write, cache_folder

if TYPE_CHECKING:
    from colorize_utils.checkpoints.state import LoadedGenerator

BUNDLED = Path(__file__).parent.parent / "weights"
TIMEOUT = 30  # seconds without a byte after which a download fails


@dataclass(frozen=True)
class RegistryEntry:
    """A checkpoint in the registry.

    Attributes:
        name: What `fetch` and `load_generator` know it by.
        sources: Tried in order; each is "bundled:FILE", "https://…", "drive:ID" (Google Drive) or "path:FILE".
        architecture: A name in `architectures.ARCHITECTURES`.
        width: The network's width, relative to the submission's.
        size: The working size that it was trained at, pixels a side.
        licence: The terms under which it may be used.
        note: What it is, in a line.
        length: The file's length in bytes; None where not known.
        sha256: The file's hash, in hexadecimal digits. None where not known: the hash of the first download is then
            pinned, and a later change is an error.
        suffix: The suffix that a download is kept under.
    """

    name: str
    sources: tuple[str, ...]
    architecture: str
    width: float
    size: int
    licence: str
    note: str
    length: int | None = None
    sha256: str | None = None
    suffix: str = ".safetensors"


DEFAULT = "flowers-192"
REGISTRY = {
    entry.name: entry
    for entry in (
        RegistryEntry(
            name="flowers-192",
            sources=("bundled:flowers-192.safetensors",),
            architecture="multiscale-unet",
            width=0.5,
            size=192,
            licence="MIT",
            note="a distribution over colours at 128×128 and 192×192, trained on Flowers-102 and flower_photos",
            length=7531020,
            sha256="33e5fc3632a1a1c12d8df43ea4887f83f4c546a3bfb8f48aeaf398b4bd731cd1",
        ),
        RegistryEntry(
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
# Name in the registry → the same network as a file for ONNX Runtime, which lies beside it; where it does not, as in the
# wheel inside Colab's notebooks, PyTorch computes the network.
EXPORTED = {
    entry.name: entry
    for entry in (
        RegistryEntry(
            name="flowers-192",
            sources=("bundled:flowers-192.onnx",),
            architecture="multiscale-unet",
            width=0.5,
            size=192,
            licence="MIT",
            note="what `export` makes of the checkpoint of this name",
            length=7636705,
            sha256="730a2077f1289d522139a458e451643c42b060303b92bd57b8a43b122ff3603f",
            suffix=".onnx",
        ),
    )
}


# ---------------------------------------------------------------- fetching


def fetch(name_or_path: str | os.PathLike[str], cache: Path | None = None, progress: bool = True) -> Path:
    """A local, verified file for a checkpoint's name in the registry, a link, or a path.

    A download is written atomically, and verified at every use. A file that is a web page, cut short or altered is
    deleted, and the next source is tried.

    Args:
        name_or_path: A name in the registry; a link (https://…), also to a file shared on Google Drive; a repository of
            the Hugging Face Hub (hf://OWNER/NAME, huggingface.py); or the path of a file, which is returned as it is.
        cache: The folder for downloads, by default `cache_folder()/checkpoints`, and for the Hub its library's own.
        progress: Whether a download shows a progress bar.

    Returns:
        The file's path.

    Raises:
        CheckpointError: There is no such file or name, or every source failed; the message gives the reason of each,
            and what to do about it.
    """
    if os.fspath(name_or_path).startswith(huggingface.SCHEME):
        return _from_hugging_face(os.fspath(name_or_path), cache, progress)
    entry = REGISTRY.get(os.fspath(name_or_path)) or _linked(os.fspath(name_or_path))
    if entry is None:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        if path.exists():
            raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
        raise CheckpointError(
            f"{name_or_path} is neither a file nor a known checkpoint; known are {', '.join(REGISTRY)}"
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


def _from_hugging_face(address: str, cache: Path | None, progress: bool) -> Path:
    found = huggingface.download(address, cache, progress)
    entry = RegistryEntry(address, (address,), "unknown", 1.0, 256, "unknown", address, found.length, found.sha256)
    verify(found.path, entry, name=f"{found.path.name} of {address}")
    return found.path


def exported(name_or_path: str | os.PathLike[str], progress: bool = True) -> Path | None:
    """A local, verified file for ONNX Runtime (inference/onnx_engine.py).

    Args:
        name_or_path: As for `fetch`.
        progress: Whether a download shows a progress bar.

    Returns:
        The bundled file of a name in the registry; the file that a path or a link with the suffix .onnx names, or an
        address at the Hugging Face Hub; None for everything else, which is a checkpoint for PyTorch.

    Raises:
        CheckpointError: As `fetch` raises.
    """
    text = os.fspath(name_or_path)
    if text.startswith(huggingface.SCHEME):
        path = fetch(text, progress=progress)
        return path if path.suffix.lower() == ".onnx" else None
    if text in EXPORTED:
        path = BUNDLED / EXPORTED[text].sources[0].removeprefix("bundled:")
        if not path.is_file():
            return None
        verify(path, EXPORTED[text])
        return path
    suffix = Path(urllib.parse.urlsplit(text).path if "://" in text else text).suffix.lower()
    return fetch(name_or_path, progress=progress) if suffix == ".onnx" else None


def _linked(link: str) -> RegistryEntry | None:
    """A temporary registry entry for a link that somebody gave; None for what is no link."""
    if not link.startswith(("https://", "http://")):
        return None
    url = urllib.parse.urlsplit(link)
    suffix = Path(url.path).suffix if Path(url.path).suffix in (".safetensors", ".pth", ".pt", ".onnx") else ".pth"
    name, source = f"link-{hashlib.sha256(link.encode()).hexdigest()[:12]}", link
    if url.hostname == "drive.google.com":
        found = re.search(r"/d/([\w-]+)", url.path) or re.search(r"(?:^|&)id=([\w-]+)", url.query)
        if found is None:
            raise CheckpointError(f"{link} names no file on Google Drive; share the file itself and copy its link")
        source = f"drive:{found.group(1)}"
    return RegistryEntry(name, (source,), "unknown", 1.0, 256, "unknown", link, suffix=suffix)


def _downloaded(entry: RegistryEntry, source: str, cache: Path, progress: bool) -> Path:
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
                path.unlink()  # altered since it was downloaded: download it again
        with atomic_write(path) as temporary:
            download = _download_drive if source.startswith("drive:") else _download_http
            download(source, temporary, path.name, progress)
            digest = verify(temporary, entry, _pinned(pin), path.name)
            if entry.sha256 is None:
                _require_whole(temporary, path.name)
        _write_pin(pin, digest, path.name)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {cache}: {error.strerror or error}; free some space, or set COLORIZE_CACHE to a folder "
            "elsewhere"
        ) from error
    return path


def _require_whole(path: Path, name: str) -> None:
    """Reads a download of unknown length: nothing else tells a whole file from one that was cut short."""
    if file_kind(path, name) != "onnx":
        from colorize_utils.checkpoints.state import read_weights

        read_weights(path, name)
        return
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of ONNX Runtime's own types
        raise CheckpointError(f"{name} is damaged or cut short ({str(error)[:160]}); download it again") from error


def _pinned(pin: Path) -> str | None:
    """The hash of the first download, from a file that `sha256sum -c` can read, too."""
    words = pin.read_text(encoding="utf-8").split() if pin.is_file() else []
    return words[0] if words else None


def _write_pin(pin: Path, digest: str, name: str) -> None:
    with atomic_write(pin) as temporary:
        temporary.write_text(f"{digest}  {name}\n", encoding="utf-8")


def _download_http(url: str, target: Path, name: str, progress: bool) -> None:
    import http.client  # these take as long as a picture: who downloads nothing is spared
    import urllib.error
    import urllib.request

    from tqdm.auto import tqdm

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
    try:
        import gdown
    except ImportError as error:
        raise CheckpointError(f"{name} lies on Google Drive, which needs gdown: pip install gdown") from error

    # In a folder of its own, since gdown leaves parts of a broken download beside its output.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / name
        try:
            gdown.download(id=source.removeprefix("drive:"), output=str(output), quiet=not progress)
            output.replace(target)
        except Exception as error:  # of gdown's own types, of requests' and of Python's; all mean that there is no file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(f"Google Drive did not hand over {name} ({reason})") from error


def verify(path: Path, entry: RegistryEntry, pinned: str | None = None, name: str | None = None) -> str:
    """Checks that a file is the checkpoint that its registry entry describes.

    Args:
        path: The file.
        entry: What the file should be. Where it has no hash, `pinned` counts.
        pinned: The hash of the first download, in hexadecimal digits; None where there was none.
        name: What messages call the file, by default its own name.

    Returns:
        The file's SHA-256, in hexadecimal digits.

    Raises:
        CheckpointError: The file is a web page, a Git LFS pointer, no checkpoint at all, or has another length or
            another hash.
    """
    name = name or path.name
    file_kind(path, name)
    length = path.stat().st_size
    if entry.length is not None and length != entry.length:
        raise CheckpointError(
            f"{name} has {length:,} bytes, {entry.length:,} were expected: it is cut short or altered"
        )
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


# ---------------------------------------------------------------- loading and releasing


def load_generator(
    name_or_path: str | os.PathLike[str] = DEFAULT,
    architecture: str | None = None,
    size: int | None = None,
    progress: bool = True,
) -> "LoadedGenerator":
    """The generator of a checkpoint by its name in the registry, a link, hf://OWNER/NAME, or a file's path.

    Args:
        name_or_path: As for `fetch`.
        architecture: The name in `architectures.ARCHITECTURES` that it must have, by default what the registry or the
            file says.
        size: Overrides the working size, in pixels a side, which comes from the file's metadata, else from the
            registry, else is 256.
        progress: Whether a download shows a progress bar.

    Returns:
        The generator in evaluation mode on the CPU, and what is known of it.

    Raises:
        CheckpointError: The file cannot be found, downloaded or read, or fits another network (`state.load_file`).
    """
    from colorize_utils.checkpoints.state import load_file  # and with it PyTorch

    path = fetch(name_or_path, progress=progress)
    entry = REGISTRY.get(os.fspath(name_or_path))
    if entry is None:
        return load_file(path, architecture, size)
    return load_file(path, architecture or entry.architecture, size, entry.name, otherwise=entry.size)


def release(
    checkpoint: str | os.PathLike[str], name: str, folder: str | os.PathLike[str], half: bool = True
) -> RegistryEntry:
    """Writes a run's checkpoint as `folder`/`name`.safetensors, ready to be bundled or uploaded.

    Args:
        checkpoint: The run's checkpoint: a file's path, or whatever else `load_generator` takes.
        name: Its name in the registry, and the file's.
        folder: Where the file is written.
        half: Whether the weights are stored in 16 bits, which halves the file.

    Returns:
        The entry that the registry needs for it; its source and licence are still to be filled in.

    Raises:
        CheckpointError: The checkpoint cannot be read, does not say which recipe it was trained with, or `name` is no
            file's name.
    """
    from colorize_utils.checkpoints.state import save

    if Path(name).name != name:
        raise CheckpointError(f"{name!r} is no name for a checkpoint: it must be one for a file, without a folder")
    loaded = load_generator(checkpoint, progress=False)
    recipe = loaded.metadata.get("recipe")
    if not (isinstance(recipe, dict) and "name" in recipe):
        raise CheckpointError(f"{os.fspath(checkpoint)} does not say how it was trained; release a run's checkpoint")
    path = save(Path(folder) / f"{name}.safetensors", loaded.network, loaded.metadata, half)
    load_generator(path)  # fails where a weight was too large for 16 bits
    note = f"recipe {recipe['name']}, epoch {loaded.metadata.get('epoch')} of {recipe.get('epochs')}"
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    sources = (f"https://…/{path.name}",)
    return RegistryEntry(name, sources, loaded.architecture, loaded.width, loaded.size, "…", note, size, digest)
