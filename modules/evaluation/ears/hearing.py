"""What the judge's recogniser heard, remembered, and how far it can be believed in each language."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from modules.checkpoint import file_hash
from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.failures.calibration import Calibration, read_calibration
from modules.evaluation.judging import Judge
from modules.evaluation.recognizer import PhoneRecognizer
from modules.evaluation.results import Ledger

DEAF = 0.30
"""An ear that gets more than this share of the phones of source audio wrong does not know the language."""
SHOWN = 0.10
"""A language whose floor lies above this is measured, but its figure proves little."""

Load = Callable[[int], np.ndarray]
"""Sample rate -> wav float32 [S]."""


class Ear:
    """Hears phones; the same sound is heard once.

    Args:
        recognizer: the judge's, None where there is none.
        calibration: what is known of its mistakes, None where it was not measured.
        languages: those that it was trained on, as far as its file says.
        ledger: what was heard.
        identity: hash of the recogniser.
        reason: why there is none.
    """

    def __init__(
        self,
        recognizer: PhoneRecognizer | None,
        calibration: Calibration | None,
        languages: tuple[str, ...],
        ledger: Ledger,
        identity: str = "",
        reason: str = "",
    ):
        self.recognizer, self.calibration, self.languages = recognizer, calibration, languages
        self.ledger, self.identity, self.reason = ledger, identity, reason

    def hear(self, key: str, load: Load) -> list[str]:
        """Phones of the sound that `load` gives; it is known by `key`."""
        name = entry_key(self.identity, key)
        found = self.ledger.get(name)
        if found is None:
            wav = load(self.recognizer.sample_rate)
            found = self.ledger.put(name, {"phones": " ".join(self.recognizer.hear([wav])[0]) if len(wav) else ""})
        return found["phones"].split()

    def deaf(self, language: str) -> str:
        """Why nothing can be said about a language; empty where something can."""
        if self.recognizer is None:
            return self.reason
        if self.calibration is not None and language in self.calibration.languages:
            error = self.calibration.languages[language]["error"]["rate"]
            if error > DEAF:
                return f"the judge's recogniser gets {100 * error:.0f} % of source audio in {language} wrong"
            return ""
        if self.calibration is None and not self.languages:
            return "nobody measured which languages the judge's recogniser knows; run tools.evaluate calibrate"
        # A calibration may have been measured on some of the languages alone.
        return "" if language in self.languages else f"the judge's recogniser was not trained on {language}"

    def floor(self, language: str) -> dict | None:
        """Stored rates on source audio (see `Calibration`), None where not measured."""
        return self.calibration.languages.get(language) if self.calibration is not None else None

    def switching(self) -> dict[str, tuple[int, int]]:
        """Stored shares of mixed lines that it recognises in source audio, by pair of languages."""
        return self.calibration.switching if self.calibration is not None else {}

    def knows_sentences(self, keys: Collection[str]) -> bool:
        """Whether the stored error was measured on all of these sentences, so that it is their floor."""
        measured = set(self.calibration.sentences) if self.calibration is not None else set()
        return bool(keys) and measured.issuperset(keys)


def open_ear(judge: Judge) -> Ear:
    """The ear of a judge; where no recogniser is given or shipped, a deaf one that says so.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage for the one that is given.
    """
    ledger = judge.ledger("heard")
    try:
        recognizer = judge.recognizer
    except UserError as error:
        if error.code != "judge_no_recognizer":
            raise
        return Ear(None, None, (), ledger, reason=str(error))
    path: Path | None = judge.options.recognizer
    identity = file_hash(path) if path and path.is_file() else "given"
    return Ear(recognizer, read_calibration(path, identity), tuple(recognizer.languages), ledger, identity)
