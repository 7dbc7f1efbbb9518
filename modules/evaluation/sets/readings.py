"""Phones of texts by eSpeak NG, where it is installed; where not, the reason is kept and nothing is guessed."""

import re

from modules.corpus.espeak import Espeak, Speech, VoiceSettings
from modules.corpus.phones import PAUSE
from modules.errors import UserError

_KANA = re.compile(r"[\u3040-\u30ff\s、。？！]+")


class PhoneReader:
    """Reads texts. eSpeak NG is started when the first text is asked for; a process may hold one reader alone.

    Args:
        variants: voices that eSpeak has not of itself, see `modules.corpus.voices`.

    Attributes:
        reason: why nothing can be read, empty as long as all goes well.
    """

    def __init__(self, variants: dict[str, str] | None = None) -> None:
        self.reason = ""
        self._variants = variants
        self._engine: Espeak | None = None

    @property
    def engine(self) -> Espeak | None:
        """eSpeak NG, None where it is missing."""
        if self._engine is None and not self.reason:
            try:
                self._engine = Espeak(self._variants)
            except (UserError, OSError) as cause:
                self.reason = str(cause)
        return self._engine

    def phones(self, text: str, language: str) -> tuple[str, ...] | None:
        """Labels of `text` without pauses; None where no voice reads it."""
        engine = self.engine
        if engine is None:
            return None
        try:
            labels = engine.phonemes(text, _tag(engine, text, language))
        except (UserError, ImportError):
            return None  # no package for the readings of this script
        return tuple(label for label in labels if label != PAUSE) or None

    def speak(self, text: str, language: str, settings: VoiceSettings | None = None) -> Speech | None:
        """The text spoken, with the end of each phone; None where no voice speaks it."""
        engine = self.engine
        if engine is None:
            return None
        try:
            return engine.speak(text, _tag(engine, text, language), settings)
        except (UserError, ImportError):
            return None


def _tag(engine: Espeak, text: str, language: str) -> str:
    """The tag to ask for. Corpora leave Japanese to whoever has readings; kana alone its voice reads as they stand,
    and answers to the tag in capitals."""
    kana = language == "ja" and _KANA.fullmatch(text) is not None
    return language.upper() if kana and not engine.has_voice(language) else language
