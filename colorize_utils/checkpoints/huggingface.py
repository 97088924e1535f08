"""Checkpoints in repositories of the Hugging Face Hub: hf://OWNER/NAME, fetched through its library.

`huggingface_hub` is an extra (`.[hub]`), and is imported where it is needed. What it downloads lies in a cache of its
own, which other programs share: ~/.cache/huggingface/hub, or where `HF_HOME` or `HF_HUB_CACHE` say. Whoever has to log
in does it by its means, too: `hf auth login`, or the environment variable `HF_TOKEN`.
"""

import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from colorize_utils import __version__
from colorize_utils.errors import CheckpointError
from colorize_utils.machine import has_torch

if TYPE_CHECKING:  # with it httpx
    from huggingface_hub import HfApi

SCHEME = "hf://"
SUFFIXES = (".safetensors", ".onnx")  # of a repository's checkpoint where none is named
TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"
_ADDRESS = re.compile(r"hf://(?:models/)?([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)(?:@([^/@]+))?(?:/(.+))?")
_MOST = 8  # files that a message lists


@dataclass(frozen=True)
class Address:
    """What an address names.

    Attributes:
        repository: OWNER/NAME.
        revision: A branch, a tag or a commit; None is the main branch.
        file: A file's path in the repository; None is its only checkpoint.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `hf://OWNER/NAME`, `hf://OWNER/NAME/FILE`, either with `@REVISION` after the name.

        The grammar is the library's own; a slash in a revision is written %2F.

        Raises:
            CheckpointError: It is no such address.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise CheckpointError(
                f"{text} is no address of a checkpoint; write hf://OWNER/NAME or hf://OWNER/NAME/FILE"
            )
        repository, revision, file = found.groups()
        return cls(repository, urllib.parse.unquote(revision) if revision else None, file)

    def choose(self, files: Sequence[str]) -> str:
        """The checkpoint among a repository's files: the one that is named, else the only one.

        A repository may hold the same network as safetensors and as ONNX: the first counts where PyTorch is installed,
        the second, which does without, where it is not.

        Raises:
            CheckpointError: There is none, or there are several; the message lists them.
        """
        if self.file is not None:
            if self.file in files:
                return self.file
            raise CheckpointError(f"{SCHEME}{self.repository} has no file {self.file}; {_listed(files)}")
        for suffix in SUFFIXES if has_torch() else SUFFIXES[::-1]:
            found = [file for file in files if file.endswith(suffix)]
            if len(found) == 1:
                return found[0]
            if found:
                raise CheckpointError(
                    f"{SCHEME}{self.repository} has several checkpoints; name one, as {SCHEME}{self.repository}/FILE: "
                    f"{_listed(found)}"
                )
        raise CheckpointError(
            f"{SCHEME}{self.repository} has no {' or '.join(SUFFIXES)}; name another checkpoint, as "
            f"{SCHEME}{self.repository}/FILE: {_listed(files)}"
        )


def _listed(files: Sequence[str]) -> str:
    more = f" and {len(files) - _MOST} more" if len(files) > _MOST else ""
    return f"there are {', '.join(sorted(files)[:_MOST])}{more}" if files else "it is empty"


@dataclass(frozen=True)
class Download:
    """A file of a repository, on this machine.

    Attributes:
        path: Where it lies, in the library's cache.
        length: How many bytes the Hub says that it has; None where it was not asked, as without network.
        sha256: The hash that the Hub says that it has; None where it says none, or was not asked.
    """

    path: Path
    length: int | None = None
    sha256: str | None = None

    def is_whole(self) -> bool:
        """Whether the file has the length and the hash that the Hub says."""
        if self.length is not None and self.path.stat().st_size != self.length:
            return False
        if self.sha256 is None:
            return True
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def download(text: str, cache: Path | None = None, progress: bool = True) -> Download:
    """Fetches a checkpoint from the Hub, or from the library's cache where it is there already.

    The Hub is asked at every use, for a branch may have moved on; a commit as the revision pins it. A file in the cache
    that is not what the Hub lists is fetched again. Without network, what the cache holds is used.

    Args:
        text: The address (`Address.parse`). `HF_ENDPOINT` names another server than huggingface.co.
        cache: The folder of the cache, by default the library's own.
        progress: Whether a download shows a progress bar.

    Returns:
        The file, which nobody has looked into yet.

    Raises:
        CheckpointError: The library is missing; there is no such repository, revision or file, or it is closed to this
            user; there is no network and no copy; the file was cut short, or cannot be written.
    """
    address = Address.parse(text)
    api = _api()
    where: dict[str, Any] = {"repo_id": address.repository, "revision": address.revision}
    try:
        with _told(api, address):
            files = {one.rfilename: one for one in api.model_info(**where, files_metadata=True).siblings or ()}
    except CheckpointError:
        raise
    except Exception as error:  # of the HTTP library's own types, which differ between versions of huggingface_hub
        return _cached(api, address, cache, error)
    listed = files[address.choose([*files])]
    where |= {"filename": listed.rfilename, "cache_dir": cache, "tqdm_class": _bars(progress)}
    try:
        with _told(api, address):
            for again in (False, True):
                path = api.hf_hub_download(**where, force_download=again)
                found = Download(Path(path), listed.size, listed.lfs.sha256 if listed.lfs else None)
                if found.is_whole():
                    break
    except CheckpointError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise CheckpointError(
                f"cannot write to the cache of huggingface_hub ({error.filename or cache}): {error.strerror}; free "
                "some space, or set HF_HOME to a folder elsewhere"
            ) from error
        raise CheckpointError(f"{text} was cut short or is not to be had ({_reason(error)}); try again") from error
    return found


def library(purpose: str) -> ModuleType:
    """Imports `huggingface_hub`, which then sends no statistics unless somebody chose so.

    By default it tells the server which version of PyTorch there is and which program runs it, and its part for large
    files how each download went. The environment variable stays set, since that part reads it when it starts; a value
    that is there already, even one that allows statistics, is left.

    Args:
        purpose: What needs it, for the message where it is missing.

    Returns:
        The module.

    Raises:
        CheckpointError: It is not installed.
    """
    chosen = os.environ.setdefault(TELEMETRY, "1")
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as error:
        raise CheckpointError(
            f'{purpose} needs the package huggingface_hub ({error}): pip install "huggingface_hub>=1.16", or '
            '".[hub]" here'
        ) from error
    if chosen.upper() in constants.ENV_VARS_TRUE_VALUES:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # another package, such as Gradio, may have imported it before
    return huggingface_hub


def _api() -> "HfApi":
    """The library's client. It reads `HF_ENDPOINT` once, when it is imported; here it counts at each call."""
    endpoint = os.environ.get("HF_ENDPOINT")
    return library(f"an {SCHEME} address").HfApi(endpoint, library_name="colorize_utils", library_version=__version__)


@contextmanager
def _told(api: "HfApi", address: Address) -> Iterator[None]:
    """Makes sentences of the Hub's refusals. What is no answer at all, or a broken server's, passes through."""
    from huggingface_hub import errors

    page = f"{api.endpoint}/{address.repository}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{page} is gated: ask for access on that page, and {log_in}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{page} does not exist, or is private: check its owner and name; if it is private, {log_in}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{page} has no revision {address.revision!r}; give one of its branches, tags or commits"
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise
        reason = error.server_message or error.response.reason_phrase
        raise CheckpointError(
            f"{page}: the server answered {error.response.status_code} ({reason}); if it wants to know you, {log_in}"
        ) from error


def _cached(api: "HfApi", address: Address, cache: Path | None, error: Exception) -> Download:
    """What the cache holds of a repository, where the Hub did not answer."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError, CheckpointError):
        folder = Path(
            api.snapshot_download(
                address.repository,
                revision=address.revision,
                cache_dir=cache,
                local_files_only=True,
                allow_patterns=address.file or [f"*{suffix}" for suffix in SUFFIXES],
            )
        )
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return Download(folder / address.choose(files))
    raise CheckpointError(
        f"no answer from {api.endpoint} ({_reason(error)}), and no copy of {SCHEME}{address.repository} in the cache; "
        "try again with a network, or get the file on another machine and pass its path"
    ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _bars(shown: bool) -> type:
    """The class of progress bars, or of bars that show nothing."""
    from tqdm.auto import tqdm  # a twentieth of a second that a single picture is spared

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **(options | {"disable": True}))

    return tqdm if shown else Silent
