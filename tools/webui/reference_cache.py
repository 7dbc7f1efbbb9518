"""References that were prepared before: the next Speak with the same recording does not listen to it again.

Preparing takes up to a second and more, of the time before the first sound. What is kept is small: a reference is at
most about 15 seconds long, whatever file it came from.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.config import AudioConfig

if TYPE_CHECKING:
    from modules.inference.voice import Reference

MOST_REFERENCES = 16
"""At about 2 MB each."""


@dataclass(frozen=True)
class _Key:
    """All that decides how a reference turns out, but for its weight, which is only written on it.

    The content stands for the file, not its path and times: one that was replaced and kept its times (`cp -p`,
    `rsync -t`), or written twice within a tick of the clock, must not give the old voice. Reading the file again
    takes a millisecond where preparing it takes a second.

    Args:
        content: sha256 of the file.
        name: the reference is called by it, and its ending tells the decoders about the format.
        text: the transcript as it was given.
        audio: rate and loudness wanted.
    """

    content: bytes
    name: str
    text: str | None
    audio: AudioConfig


class ReferenceCache:
    """The references used last, for all visitors and threads.

    Args:
        most: so many are kept; the one that was not used for longest goes first.
    """

    def __init__(self, most: int = MOST_REFERENCES):
        self._most = most
        self._kept: OrderedDict[_Key, Reference] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def load(self, path: Path, text: str | None, weight: float, audio: AudioConfig) -> "Reference":
        """What `load_reference` gives for the same arguments. Its sound is shared: nobody may write into it.

        Raises:
            UserError: what `load_reference` raises, every time anew: a refused file is not remembered.
        """
        content = _content(path)
        key = None if content is None else _Key(content, path.name, text, audio)
        reference = self._find(key)
        if reference is None:
            from modules.inference.voice import load_reference  # imports torch

            # Not under the lock: whoever needs another recording, or has theirs already, does not wait for this one.
            reference = load_reference(path, text, 1.0, audio)
            # A file that was written meanwhile may have been read before or after: it belongs to neither content.
            if key is not None and _content(path) == content:
                self._keep(key, reference)
        return replace(reference, weight=weight)

    def _find(self, key: _Key | None) -> "Reference | None":
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def _keep(self, key: _Key, reference: "Reference") -> None:
        with self._lock:
            self._kept[key] = reference
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def _content(path: Path) -> bytes | None:
    """sha256 of a file; None when it cannot be read, which `load_reference` tells in words."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
