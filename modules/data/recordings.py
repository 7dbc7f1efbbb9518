"""What extraction reads: the utterances of a dataset list, or the rows of a corpus store; sound on demand.

Shapes: S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from modules.audio.io import decode, empty, probe, to_mono
from modules.data.columns import Rows
from modules.data.file_memory import FileMemory, stamp
from modules.data.manifest import Utterance
from modules.errors import UserError

SHORTEST_SECONDS = 0.1


@dataclass(frozen=True)
class Sound:
    """What was heard of a row: wav float32 [S] mono, -1 to 1."""

    wav: np.ndarray
    sample_rate: int
    seconds: float


@dataclass(frozen=True)
class Spelled:
    """Phones of a row by their names, in order, and where each ends, float64 [P] seconds, if that is known."""

    phones: tuple[str, ...]
    ends_seconds: np.ndarray | None = None


class Source(Protocol):
    """What is extracted. `content` tells one sound from another without decoding it; `content` and `read` may raise a
    UserError that names the file."""

    def __len__(self) -> int: ...
    def column(self, name: str) -> list[str]: ...
    def seconds(self, row: int) -> float: ...
    def content(self, row: int) -> str: ...
    def read(self, row: int) -> Sound: ...
    def phones(self, row: int) -> Spelled | None: ...


class Recordings:
    """Rows of a dataset list, in its order.

    Args:
        utterances: see `read_manifest`.
        memory: what is known of the files; None reads each.
    """

    def __init__(self, utterances: Sequence[Utterance], memory: FileMemory | None = None):
        self.utterances = list(utterances)
        self._memory = memory or FileMemory()
        self._seconds: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.utterances)

    def column(self, name: str) -> list[str]:
        """A field's values: speaker, language, split, text; source is "recorded" for all."""
        if name == "source":
            return ["recorded"] * len(self)
        return [getattr(utterance, name) for utterance in self.utterances]

    def seconds(self, row: int) -> float:
        """Length of a recording, probed where neither the list nor the memory tells; 0 for one that cannot be read."""
        utterance = self.utterances[row]
        if utterance.seconds > 0:
            return utterance.seconds
        if row not in self._seconds:
            known = self._memory.seconds(utterance.audio)
            self._seconds[row] = _probed(utterance.audio) if known is None else known
        return self._seconds[row]

    def content(self, row: int) -> str:
        """Changes when a byte of the file does; the file is read once, and not decoded. Raises UserError:
        file_unreadable."""
        audio = self.utterances[row].audio
        content = self._memory.content(audio)
        if self._seconds.get(row, 0.0) > 0:
            self._memory.note_seconds(audio, self._seconds[row])
        return content

    def name(self, row: int) -> str:
        """The file, for messages."""
        return self.utterances[row].audio

    def read(self, row: int) -> Sound:
        """Decode a recording.

        Raises:
            UserError: audio_missing, audio_unreadable, audio_empty, audio_not_finite, audio_changed (since `content`).
        """
        path = Path(self.utterances[row].audio)
        decoded = decode(path)
        if stamp(path) != self._memory.stamp(path):
            raise UserError(
                "audio_changed",
                "{file} was changed while its features were extracted; run the extraction again.",
                file=str(path),
            )
        if len(decoded.samples) < SHORTEST_SECONDS * decoded.sample_rate:
            raise empty(path)
        if not np.isfinite(decoded.samples).all():
            raise UserError(
                "audio_not_finite",
                "{file} holds samples that are not numbers (NaN or infinite); export it again.",
                file=str(path),
            )
        return Sound(to_mono(decoded.samples), decoded.sample_rate, decoded.seconds)

    def phones(self, row: int) -> Spelled | None:
        """None: a dataset list tells nothing of phones."""
        return None


class CorpusRows:
    """Rows of a corpus store (tools.corpus), in its order."""

    def __init__(self, store: Rows):
        self._store = store
        self._keys, self._seconds = store.keys(), store.array("seconds") if len(store) else np.zeros(0)

    def __len__(self) -> int:
        return len(self._store)

    def column(self, name: str) -> list[str]:
        """A field's values: speaker, language, split, text, source."""
        return self._store.column(name)

    def seconds(self, row: int) -> float:
        """Length of a clip."""
        return float(self._seconds[row])

    def content(self, row: int) -> str:
        """The key of the row, which its corpus made of all that makes the sound."""
        return self._keys[row]

    def read(self, row: int) -> Sound:
        """The sound of a row."""
        values = self._store.row(row, ("audio", "sample_rate", "seconds"))
        audio = values["audio"]
        wav = audio.astype(np.float32) / 32768.0 if audio.dtype == np.int16 else audio.astype(np.float32)
        return Sound(wav, int(values["sample_rate"]), float(values["seconds"]))

    def phones(self, row: int) -> Spelled | None:
        """The phones that the corpus was made of, or found in the text; None where it has none."""
        values = self._store.row(row, ("phones", "phone_ends", "sample_rate"))
        names = tuple(values["phones"].split())
        if not names:
            return None
        ends = values["phone_ends"]
        return Spelled(names, ends / float(values["sample_rate"]) if len(ends) == len(names) else None)


def _probed(path: str) -> float:
    try:
        return probe(path).seconds
    except UserError:
        return 0.0
