"""An ear from outside for English: pocketsphinx with its own acoustic model, trained on people.

It fails on exact digital silence, hence the dither.
"""

from collections.abc import Sequence

import numpy as np

from modules.evaluation.alignment import nearest, plain_words
from modules.evaluation.packages import need

SAMPLE_RATE = 16000
DITHER = 2e-3
_OPEN, _CLOSED = "_default", "sentences"


class EnglishListener:
    """Hears English words.

    Raises:
        UserError: judge_package_missing.
    """

    def __init__(self) -> None:
        self._decoder = need("pocketsphinx").Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
        self._sentences: list[list[str]] = []

    def knows(self, text: str) -> bool:
        """Whether its dictionary holds every word, and the text is plain words."""
        words = plain_words(text)
        plain = all(word.isascii() and word.isalpha() for word in words)
        return bool(words) and plain and all(self._decoder.lookup_word(word) is not None for word in words)

    def expect(self, texts: Sequence[str]) -> None:
        """Set the closed set that `which` chooses from; every text must be known."""
        self._sentences = [plain_words(text) for text in texts]
        rules = " | ".join(" ".join(words) for words in self._sentences)
        self._decoder.add_jsgf_string(_CLOSED, f"#JSGF V1.0; grammar {_CLOSED}; public <sentence> = {rules} ;")

    def words(self, wav: np.ndarray) -> list[str]:
        """What is heard with the general language model in wav float32 [S] at 16 kHz."""
        return self._decode(wav, _OPEN)

    def which(self, wav: np.ndarray) -> int:
        """Index of the expected sentence that wav fits best; -1 when nothing is heard.

        The grammar decides; where its hypothesis stops half way, the sentence nearest to it counts.
        """
        heard = self._decode(wav, _CLOSED)
        return nearest(heard, self._sentences) if heard else -1

    def _decode(self, wav: np.ndarray, search: str) -> list[str]:
        self._decoder.activate_search(search)
        noisy = wav + DITHER * np.random.default_rng(0).standard_normal(len(wav))
        pcm = (np.clip(noisy, -1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        # Alternative pronunciations carry a number: "read(2)".
        return [word.split("(")[0] for word in hypothesis.hypstr.split()] if hypothesis is not None else []
