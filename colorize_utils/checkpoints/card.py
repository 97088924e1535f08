"""A folder to publish on the Hugging Face Hub: a checkpoint, and its model card with the Hub's front matter.

The Hub reads YAML at the top of a repository's README.md: licence, tags, and `model-index`, the scores
(https://huggingface.co/docs/hub/model-cards). A model card of this project states what no table can say in a comment,

    <!-- front matter
    license: mit
    …
    evaluated_on: {type: oxford_flowers102, name: Oxford Flowers-102, split: test}
    -->

and the scores are read from its tables whose heading begins with `at 256×256`, one result for each number in the rows
of the checkpoint: `| flowers-192, safe | 20.78 | …`.
"""

import os
import posixpath
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from colorize_utils.checkpoints import huggingface
from colorize_utils.checkpoints.hub import BUNDLED, DEFAULT, exported, fetch
from colorize_utils.checkpoints.kind import file_kind
from colorize_utils.checkpoints.state import load_file
from colorize_utils.errors import CheckpointError
from colorize_utils.files import atomic_write

CARD = BUNDLED / "README.md"
ROOT = BUNDLED.parent.parent  # the repository, where the package lies in one
REQUIRED = ("license", "library_name", "pipeline_tag", "datasets", "evaluated_on")
_COMMENT = re.compile(r"<!-- front matter\n(.*?)\n-->\n*", re.DOTALL)
_TABLE = re.compile(r"^\| at (\d+)×\1 \|(.+)\|\n\|[-|]+\|\n((?:\|.+\|\n?)+)", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_PLACE = "colorize_utils/weights"  # of the bundled card in the repository


def prepare(
    folder: str | os.PathLike[str], checkpoint: str | os.PathLike[str] = DEFAULT, card: Path | None = None
) -> list[Path]:
    """Writes a checkpoint, its card and its licence into a folder, as `hf upload` takes it.

    Of the bundled checkpoint, what `export` made of it lies beside it, for readers without PyTorch.

    Args:
        folder: Where they are written. It may hold what an earlier call wrote, and nothing else: all of it would be
            published.
        checkpoint: As for `fetch`.
        card: The checkpoint's model card; by default the bundled one. The project's licence goes with that one alone.

    Returns:
        The files: the checkpoint (twice, where it is the bundled one), README.md, and LICENSE.

    Raises:
        CheckpointError: The library is missing; the checkpoint cannot be had, is no safetensors file, or is not the one
            that the card is about; the card has no front matter or no scores; the folder holds something else.
        OSError: The card cannot be read, or a file not be written.
    """
    folder, source = Path(folder), fetch(checkpoint)
    if file_kind(source, source.name) != "safetensors":
        raise CheckpointError(f"{source.name} is no safetensors file; `release` makes one of a run's checkpoint")
    contents = {"README.md": card_text(source, card)} | ({} if card else {"LICENSE": _licence()})
    copied = [source, *([beside] if (beside := exported(checkpoint)) else [])]
    written = [folder / name for name in (*(file.name for file in copied), *contents)]
    others = {path.name for path in folder.glob("*")} - {path.name for path in written}
    if others:
        listed = ", ".join(sorted(others))
        raise CheckpointError(f"{folder} holds {listed}, which would be published, too; give an empty folder")
    for file in copied:
        with atomic_write(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)
    for name, content in contents.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return written


def card_text(checkpoint: Path, card: Path | None = None) -> str:
    """A model card as the Hub reads it.

    Args:
        checkpoint: The checkpoint's file. Its name without the suffix is what the card's tables call it.
        card: The card; by default the bundled one.

    Returns:
        The card's text below its front matter. Links into the repository are absolute where the repository has an
        address, else only their words are left, as they would lead nowhere.

    Raises:
        CheckpointError, OSError: As for `prepare`.
    """
    library = huggingface.library("a card for the Hugging Face Hub")
    path, name, loaded = card or CARD, checkpoint.stem, load_file(checkpoint)
    text = path.read_text(encoding="utf-8")
    if loaded.sha256 not in text:
        raise CheckpointError(f"{path} is not about {checkpoint.name}: it does not state its SHA-256, {loaded.sha256}")
    address = _address()
    body = _led_elsewhere(_COMMENT.sub("", text), address, None if card else _PLACE)
    title, _, rest = body.partition("\n")
    code = f"[colorize_utils]({address})" if address else "colorize_utils"
    use = f"To use it: `python -m colorize_utils photo.jpg --model hf://OWNER/NAME`, with this page's name, of {code}."
    made = library.ModelCard(f"---\n{_front_matter(path, text)}\n---\n\n{title}\n\n{use}\n{rest}")
    dataset = {f"dataset_{key}": value for key, value in made.data.pop("evaluated_on").items()}
    task = {"task_type": made.data.pipeline_tag, "task_name": "Colorization"}
    scores = _scores(path, text, name)
    made.data.metrics = list(dict.fromkeys(score["metric_type"] for score in scores))
    made.data.model_name = name
    made.data.eval_results = [library.EvalResult(**task, **dataset, **score) for score in scores]
    made.data["checkpoint"] = {
        "file": checkpoint.name,
        "sha256": loaded.sha256,
        "architecture": loaded.architecture,
        "width": loaded.width,
        "size": loaded.size,
    }
    return str(made)


def _front_matter(path: Path, card: str) -> str:
    """The YAML in a card's comment, which holds all that it has to."""
    library = huggingface.library("a card for the Hugging Face Hub")
    if (found := _COMMENT.search(card)) is None:
        raise CheckpointError(f"{path} has no comment that begins with `<!-- front matter`, as {CARD} has")
    try:
        data = library.ModelCard(f"---\n{found.group(1)}\n---\n").data
    except Exception as error:  # of YAML's own types, or a ValueError
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the front matter of {path} is damaged ({reason})") from error
    if missing := [key for key in REQUIRED if not data.get(key)]:
        raise CheckpointError(f"the front matter of {path} lacks {', '.join(missing)}")
    if not (isinstance(data.evaluated_on, dict) and data.evaluated_on.keys() == {"type", "name", "split"}):
        raise CheckpointError(f"evaluated_on, in the front matter of {path}, has to have type, name and split")
    return found.group(1)


def _scores(path: Path, card: str, name: str) -> list[dict[str, Any]]:
    """Every number in the rows of a checkpoint, as a part of the Hub's `EvalResult`."""
    scores = []
    for size, heading, rows in _TABLE.findall(card):
        metrics = _cells(heading)
        for row in rows.splitlines():
            first, *values = _cells(row)
            subject, _, style = first.partition(", ")
            if subject == name:
                if len(values) != len(metrics) or not all(map(_NUMBER.fullmatch, values)):
                    raise CheckpointError(f"{path}: a column of {row!r} has no number")
                scores += [
                    {
                        "dataset_config": f"{size}x{size}",
                        "metric_type": metric.removesuffix(" dB").lower().replace(" ", "_"),
                        "metric_name": f"{metric}, {style}" if style else metric,
                        "metric_value": float(value),
                    }
                    for metric, value in zip(metrics, values, strict=True)
                ]
    if not scores:
        raise CheckpointError(f"{path} has no table of scores (`| at 256×256 | PSNR dB | …`) with a row of {name}")
    return scores


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _led_elsewhere(text: str, address: str | None, place: str | None) -> str:
    """A card without relative links: they lead into the repository at `address`, or are left out.

    The licence is the exception: it lies beside the bundled card when that is published.
    """

    def led(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link.group()
        inside = posixpath.normpath(posixpath.join(place, target)) if place else None
        if inside == "LICENSE":
            return f"{picture}[{words}](LICENSE)"
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({address}/{kind}/main/{inside})" if address and inside else words

    return _LINK.sub(led, text)


def _licence() -> str:
    """The project's licence: the repository's, else as it was installed with the package."""
    if (ROOT / "pyproject.toml").is_file():
        return (ROOT / "LICENSE").read_text(encoding="utf-8")
    for distribution in metadata.distributions(name="colorize_utils"):
        if text := distribution.read_text("licenses/LICENSE"):
            return text
    raise CheckpointError("the licence of colorize_utils was not installed with it; install colorize_utils again")


def _address() -> str | None:
    """The repository's address, from the installed package; None where nobody has written it in yet."""
    links = metadata.metadata("colorize_utils").get_all("Project-URL") or []
    found = next((link.partition(", ")[2] for link in links if link.startswith("Repository, ")), "")
    return found if found and "<" not in found else None
