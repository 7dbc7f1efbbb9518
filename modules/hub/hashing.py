"""Hashes of files of any size, in pieces, so that somebody can stop it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from modules.errors import Stopped

_CHUNK_BYTES = 4 << 20


def hash_file(
    path: Path, should_stop: Callable[[], bool] = lambda: False, on_bytes: Callable[[int], None] = lambda done: None
) -> tuple[str, str]:
    """sha256 of the content, and the sha1 that git knows the same content by. Raises Stopped."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    done = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if should_stop():
                raise Stopped
            sha256.update(chunk)
            blob.update(chunk)
            done += len(chunk)
            on_bytes(done)
    return sha256.hexdigest(), blob.hexdigest()
