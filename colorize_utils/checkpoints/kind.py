"""What kind of checkpoint a file is, by its first bytes; PyTorch is not needed for that."""

import struct
from pathlib import Path

from colorize_utils.errors import CheckpointError


def file_kind(path: Path, name: str) -> str:
    """The kind of a checkpoint file, recognised by its content, not by its suffix.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        "safetensors", "zip" (torch.save), "pickle" (torch.save before 1.6) or "onnx" (`export`).

    Raises:
        CheckpointError: The file is empty, a web page, a Git LFS pointer, or no checkpoint.
        OSError: The file cannot be read.
    """
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
    # safetensors first: it begins with its header's length, whose first byte may be a pickle's 0x80.
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= path.stat().st_size - 8:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80":
        return "pickle"
    # A protocol buffer whose first field is the version of the format, and whose second is the producer's name, or the
    # graph itself.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a"):
        return "onnx"
    raise CheckpointError(f"{name} is not a checkpoint: neither safetensors nor written by torch.save, or cut short")
