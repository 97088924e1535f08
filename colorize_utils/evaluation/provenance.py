"""Whether a checkpoint is scored on pictures that it has seen, by the record of the split that it was trained on.

`train` writes `Splits.record` into a checkpoint's metadata; `load_splits` makes the same record for the pictures that
are scored. In most cases no test picture can have been trained on: Flowers-102 has its official test split, and of a
folder the pictures of the lowest places (`data.split_place`) are for testing, whatever was added to it since. The cases
that remain, and that are refused or remarked on: pooled validation pictures, synthetic flowers of a series of another
length, folders too small for the rule, and checkpoints without a record.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from colorize_utils.checkpoints import fetch, file_kind
from colorize_utils.data import Splits, split_place
from colorize_utils.data.pairs import FOLDER_RULE, generated_names, generated_parts
from colorize_utils.errors import DataError


def read_record(model: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What decided the split that a checkpoint was trained on.

    Args:
        model: A name in the registry, a link, or a file's path.

    Returns:
        `Splits.record`; None where the checkpoint has none.

    Raises:
        CheckpointError: The file cannot be found or downloaded.
    """
    from safetensors import safe_open

    path = fetch(model, progress=False)
    if file_kind(path, path.name) != "safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("split", "null")
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("pictures"), dict) else None


def require_unseen(records: Mapping[str, dict[str, Any] | None], splits: Splits, part: str) -> None:
    """Refuses pictures that a checkpoint was trained on or chosen by, where its record says so for certain.

    What is not certain, such as a folder that may be another one, is left to `remarks`.

    Args:
        records: From `read_record`, by the checkpoints' names.
        splits: The splits from `load_splits` that would be scored.
        part: Which of them would be scored, "val" or "test".

    Raises:
        DataError: A checkpoint has seen some of the pictures.
    """
    scored = splits.record or {}
    names = getattr(splits, part).names
    for name, record in records.items():
        if record is None or _another_rule(record, scored) or not _same_pictures(record, scored):
            continue
        if seen := _seen(record, scored, part, names):
            if part != "test" and not _seen(record, scored, "test", splits.test.names):
                remedy = "score those that it has not seen: --split test"
            elif scored["source"] == "folder":
                remedy = "score a folder that it has not seen"
            else:
                remedy = f"score other flowers: --count {record['count']}, as in its training, or another --seed"
            raise DataError(
                f"{name} was trained on, or chosen by, {seen} of the {len(names)} pictures of this {part} split, "
                f"so that its scores would be too high; {remedy}"
            )


def remarks(records: Mapping[str, dict[str, Any] | None], splits: Splits, part: str) -> list[str]:
    """What a reader of the scores should know about the pictures that they were measured on.

    Args:
        records: From `read_record`, by the checkpoints' names.
        splits: The splits from `load_splits` that are scored.
        part: Which of them is scored, "val" or "test".

    Returns:
        A line for each remark; empty where there is nothing to say. `require_unseen` says what is certainly known.
    """
    lines = []
    if unknown := [name for name, record in records.items() if record is None]:
        lines.append(f"no record of the training pictures: {', '.join(unknown)}")
    scored = splits.record or {}
    names = getattr(splits, part).names
    for name, record in records.items():
        if record is None:
            continue
        if scored.get("crop", False) != record.get("crop", False):
            ways = ("cropped", "squashed") if record.get("crop") else ("squashed", "cropped")
            lines.append(f"{name}: trained on {ways[0]} pictures, scored on {ways[1]} ones (--crop)")
        if _another_rule(record, scored):
            lines.append(f"{name}: folders were split by another rule when it was trained; it may have seen these")
        elif not _same_pictures(record, scored) and (seen := _seen(record, scored, part, names)):
            lines.append(
                f"{name}: trained on, or chosen by, {seen} of these {len(names)} pictures, if they are of the folder "
                "that it was trained on"
            )
    return lines


def _another_rule(record: dict[str, Any], scored: dict[str, Any]) -> bool:
    return scored.get("source") == "folder" and record.get("rule", FOLDER_RULE) != FOLDER_RULE


def _same_pictures(record: dict[str, Any], scored: dict[str, Any]) -> bool:
    """Whether pictures that bear the same names are certainly the same: those of any folder may bear any name."""
    return scored.get("source") != "folder" or _same_folder(record, scored)


def _same_folder(record: dict[str, Any], scored: dict[str, Any]) -> bool:
    return record.get("source") == "folder" and record["pictures"].get("test") == scored["pictures"]["test"]


def _seen(record: dict[str, Any], scored: dict[str, Any], part: str, names: list[str]) -> int:
    """How many of the pictures named were trained on, or chose the best epoch of a pooled run, by the record.

    For a folder, the record has the lowest place of those pictures: pictures at that place or above may be known.
    """
    kind, pool = record.get("source"), record.get("pool", False)
    if scored.get("source") == "folder":
        keys = ("train_from",) if _same_folder(record, scored) else ("train_from", "extra_from")
        starts = [record[key] for key in keys if isinstance(record.get(key), float)]
        return sum(split_place(name) >= min(starts) for name in names) if starts else 0
    if kind != scored.get("source"):
        return 0
    if kind == "flowers-102":
        return len(names) if pool and part == "val" else 0
    count, seed = record.get("count"), record.get("seed")
    if not (isinstance(count, int) and isinstance(seed, int)):
        return 0
    train, val, _ = generated_parts(count, seed)
    known = {*generated_names(seed, train), *(generated_names(seed, val) if pool else ())}
    return len(known.intersection(names))
