"""Whether a file is what its name says, told from its first bytes: quick, and without running anything in it."""

import json
import struct
from pathlib import Path, PurePosixPath

_HEAD_BYTES = 512
_MOST_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
_SMALL_JSON_BYTES = 256 * 1024
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_ONNX = b"\x08"  # the tag of the first field of a model, its format version


def complaint(path: Path, name: str | None = None) -> str | None:
    """What is wrong with a file, in a few words; None if it looks right. Big files are not read to their end.

    Args:
        name: tells its kind, when it lies there under another one.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as cause:
        return f"it cannot be read ({cause.strerror or cause})"
    return complaint_of_start(head) or _complaint_of_kind(path, name or path.name, head, size)


def complaint_of_start(head: bytes) -> str | None:
    """What the first bytes tell of a file that should hold a model or its settings, whatever its kind."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if not head:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is only a pointer that a version control system left in its place"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is a web page"
    return None


def _complaint_of_kind(path: Path, name: str, head: bytes, size: int) -> str | None:
    kind = PurePosixPath(name).suffix.lower()
    if kind == ".safetensors":
        return _complaint_of_safetensors(path, size)
    if kind == ".json":
        return _complaint_of_json(path, head, size)
    if kind == ".onnx" and not head.startswith(_ONNX):
        return "it does not begin like an ONNX model"
    if kind in (".bin", ".pt", ".pth") and not head.startswith((_ZIP, _PICKLE)):
        return "it does not begin like a checkpoint of PyTorch"
    return None


def _complaint_of_json(path: Path, head: bytes, size: int) -> str | None:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        return "it is not JSON"
    if size <= _SMALL_JSON_BYTES:
        try:
            json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as cause:
            return f"it is not valid JSON ({cause})"
    return None


def _complaint_of_safetensors(path: Path, size: int) -> str | None:
    """The header names where every tensor ends, so a file that was cut short is told without reading it."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MOST_HEADER_BYTES):
                return "its header does not fit into it"
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError, IndexError):
        return "its header cannot be read"
    if not header:
        return "there is no tensor in it"
    return None if end == size else f"it has {size} bytes, but its header tells {end}"
