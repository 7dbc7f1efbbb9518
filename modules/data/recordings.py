"""The utterances of a dataset list as rows that extraction reads: sound on demand, keyed by what is in the file.

Shapes: S samples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.io import decode, empty, probe, to_mono
from modules.data.manifest import Utterance
from modules.data.store import entry_key
from modules.errors import UserError

SHORTEST_SECONDS = 0.1


class Recordings:
    """Rows of a dataset list, in its order.

    What `extract` asks of a corpus: `len`, `column`, and rows by number. A row's key changes when a byte of the file
    or its text, speaker, language or split changes.

    Args:
        utterances: see `read_manifest`.
    """

    def __init__(self, utterances: Sequence[Utterance]):
        self.utterances = list(utterances)
        self._seconds: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.utterances)

    def column(self, name: str) -> list[Any]:
        """`seconds` (probed where the list does not tell; 0 where the file cannot be read), or a field's values."""
        if name == "seconds":
            return [self.seconds(row) for row in range(len(self))]
        return [getattr(utterance, name) for utterance in self.utterances]

    def seconds(self, row: int) -> float:
        """Length of a recording; 0 for one that cannot be read."""
        told = self.utterances[row].seconds
        if told > 0:
            return told
        if row not in self._seconds:
            try:
                self._seconds[row] = probe(self.utterances[row].audio).seconds
            except UserError:
                self._seconds[row] = 0.0
        return self._seconds[row]

    def name(self, row: int) -> str:
        """The file, for messages."""
        return self.utterances[row].audio

    def __getitem__(self, row: int) -> dict[str, Any]:
        """`key`, `audio` float32 [S] mono, `sample_rate`, `seconds`, and the fields of the utterance.

        Raises:
            UserError: audio_missing, audio_unreadable, audio_empty, audio_not_finite.
        """
        utterance = self.utterances[row]
        path = Path(utterance.audio)
        decoded = decode(path)
        if len(decoded.samples) < SHORTEST_SECONDS * decoded.sample_rate:
            raise empty(path)
        if not np.isfinite(decoded.samples).all():
            raise UserError(
                "audio_not_finite",
                "{file} holds samples that are not numbers (NaN or infinite); export it again.",
                file=str(path),
            )
        fields = (utterance.speaker, utterance.language, utterance.split, utterance.text)
        return {
            "key": entry_key(path.read_bytes(), *fields),
            "audio": to_mono(decoded.samples),
            "sample_rate": decoded.sample_rate,
            "seconds": decoded.seconds,
            "speaker": utterance.speaker,
            "language": utterance.language,
            "split": utterance.split,
            "text": utterance.text,
            "source": "recorded",
        }
