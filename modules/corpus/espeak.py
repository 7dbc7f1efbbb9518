"""eSpeak NG through ctypes: speech together with the phoneme labels and where each of them ends.

The shared library comes from the `espeakng_loader` wheel, else from the system. It keeps one global state per
process, so a process owns at most one `Espeak` and parallel work means worker processes. eSpeak NG is a tool for
building corpora, never a runtime dependency.

The events follow `espeak_EVENT` of the public header `speak_lib.h` (eSpeak NG 1.51/1.52).
"""

import ctypes
import ctypes.util
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.corpus.phones import PAUSE, normalise_label, split_ipa
from modules.corpus.pinyin import hanzi_syllables
from modules.corpus.readings import CHINESE_VOICE, Reading, read, voice_name
from modules.errors import UserError

SAMPLE_RATE = 22050
_RETRIEVAL = 1
_PHONEME_EVENTS, _IPA = 1, 2
_UTF8 = 1
_WORD, _PHONEME = 1, 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_VOLUME_PERCENT = 55  # at 100 many variants clip
_BUFFER_MS = 500


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class VoiceSettings:
    """How one voice speaks: an eSpeak variant ("" = none), words per minute, base pitch and pitch range (0-100)."""

    variant: str = ""
    rate: int = 165
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True)
class Speech:
    """One spoken text.

    Attributes:
        samples: int16[S] at `SAMPLE_RATE`.
        phones: P labels of `modules.corpus.phones.INVENTORY`.
        phone_ends: int32[P] sample after the last of each phone; the last one is S.
    """

    samples: np.ndarray
    phones: list[str]
    phone_ends: np.ndarray


@dataclass(frozen=True)
class _RawEvent:
    kind: int
    position: int
    sample: int
    label: str


class Espeak:
    """The library with its global state: at most one per process.

    Args:
        variants: extra voice variants, name -> text of the variant file, beside the stock ones. Each file is written
            when it is first spoken with: eSpeak lists 349 files at most when it starts, and finds none beyond.

    Raises:
        UserError: eSpeak NG is not installed or does not start.
    """

    def __init__(self, variants: dict[str, str] | None = None):
        library, data = _locate()
        self._variants = dict(variants or {})
        self._folder = _linked_data(data) if variants else None
        if self._folder is not None:
            data = Path(self._folder.name)
        self._library = library
        _declare(library)
        options = _PHONEME_EVENTS | _IPA
        if library.espeak_Initialize(2, _BUFFER_MS, str(data).encode() if data else None, options) != SAMPLE_RATE:
            raise UserError("espeak_failed", "eSpeak NG did not start with the data in {folder}.", folder=str(data))
        self._files = _voice_files(data)
        self._chunks: list[np.ndarray] = []
        self._events: list[_RawEvent] = []
        self._voice: str | None = None
        self._callback = _Callback(self._receive)  # kept: the library holds a bare pointer to it
        library.espeak_SetSynthCallback(self._callback)

    def has_voice(self, language: str) -> bool:
        """Whether a voice reads this language."""
        name = voice_name(language)
        return bool(name) and self._set_voice(name)

    def speak(self, text: str, language: str, voice: VoiceSettings | None = None) -> Speech:
        """Speak `text`.

        Raises:
            UserError: there is no such voice.
        """
        return self.speak_reading(read(text, language), voice)

    def speak_reading(self, reading: Reading, voice: VoiceSettings | None = None) -> Speech:
        """Speak what `modules.corpus.readings.read` made of a text.

        Raises:
            UserError: there is no such voice.
        """
        voice = voice or VoiceSettings()
        base = reading.voice
        name = f"{base}+{voice.variant}" if voice.variant else base
        if not base or not self._set_voice(name):
            raise UserError("espeak_no_voice", "eSpeak NG has no voice {voice}.", voice=name)
        parameters = (
            (_RATE, voice.rate),
            (_VOLUME, _VOLUME_PERCENT),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        )
        for parameter, value in parameters:
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks, self._events = [], []
        data = reading.text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None)
        samples = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)
        phones, ends = _timed_phones(self._events, len(samples), dict(reading.tones), base)
        return Speech(samples, phones, ends)

    def phonemes(self, text: str, language: str) -> list[str]:
        """Phone labels of `text` without speaking it, pauses between clauses; empty where no voice reads the language."""
        base = voice_name(language)
        if not base or not self._set_voice(base):
            return []
        if base == CHINESE_VOICE:
            return self._chinese_phonemes(text)
        labels: list[str] = []
        for clause in self._clauses(read(text, language).text):
            part = [symbol for label in split_ipa(clause) for symbol in normalise_label(label, voice=base)]
            if part:
                labels += [PAUSE, *part] if labels else part
        return labels

    def _chinese_phonemes(self, text: str) -> list[str]:
        labels: list[str] = []
        for syllable in hanzi_syllables(text):
            labels += _syllable_labels(self, syllable.spelling, syllable.tone)
            if syllable.pause:
                labels.append(PAUSE)
        return labels[:-1] if labels and labels[-1] == PAUSE else labels

    def _clauses(self, text: str) -> list[str]:
        pointer = ctypes.c_char_p(text.encode())
        clauses = []
        while pointer.value is not None:
            clause = self._library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, _IPA | (ord("_") << 8))
            clauses.append((clause or b"").decode("utf-8", "ignore"))
        return clauses

    def _set_voice(self, name: str) -> bool:
        if name != self._voice:
            # A path loads at once; a bare name makes eSpeak scan all voice files, of which it lists 349 at most.
            language, plus, variant = name.partition("+")
            path = self._files.get(language, language) + plus + variant
            self._write_variant(variant)
            found = self._library.espeak_SetVoiceByName(path.encode()) == 0
            self._voice = name if found else None
        return self._voice is not None

    def _write_variant(self, name: str) -> None:
        text = self._variants.pop(name, None)
        if text is not None and self._folder is not None:
            (Path(self._folder.name) / "voices" / "!v" / name).write_text(text, encoding="utf-8")

    def _receive(self, wave, count: int, events) -> int:
        if count > 0 and wave:
            self._chunks.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
        index = 0
        while events[index].type != 0:
            event = events[index]
            if event.type in (_WORD, _PHONEME):
                label = ""
                if event.type == _PHONEME:
                    # a cut-off character at the end of the eight bytes is dropped
                    label = bytes(event.id.string).split(b"\0")[0].decode("utf-8", "ignore")
                self._events.append(_RawEvent(event.type, event.text_position, event.sample, label))
            index += 1
        return 0


@functools.lru_cache(maxsize=4096)
def _syllable_labels(engine: Espeak, spelling: str, tone: int) -> list[str]:
    raw = [label for clause in engine._clauses(f"{spelling}{tone}") for label in split_ipa(clause)]
    return [symbol for label in raw for symbol in normalise_label(label.rstrip("0123456789ɜ"), tone)]


def _timed_phones(
    events: list[_RawEvent], length: int, tones: dict[int, int], voice: str
) -> tuple[list[str], np.ndarray]:
    """Labels and end samples from the start samples of eSpeak's events; the labels cover the audio without gaps."""
    spans: list[tuple[str, int, int]] = []
    tone = 0
    for event in events:
        if event.kind == _WORD:
            tone = tones.get(event.position, 0)
        else:
            spans.append((event.label, tone, min(max(event.sample, 0), length)))
    phones: list[str] = []
    ends: list[int] = []
    shortest_pause = SAMPLE_RATE * 6 // 100  # shorter gaps are the closures of stops
    for index, (label, tone, start) in enumerate(spans):
        stop = spans[index + 1][2] if index + 1 < len(spans) else length
        symbols = normalise_label(label, tone, voice)
        if not symbols and stop - start >= shortest_pause:
            symbols = [PAUSE]
        if symbols == [PAUSE] and phones and phones[-1] == PAUSE:
            symbols = []
        if symbols:
            phones += symbols
            ends += [start + (stop - start) * (part + 1) // len(symbols) for part in range(len(symbols))]
        elif ends:
            ends[-1] = max(ends[-1], stop)
    if ends:
        ends[-1] = length
    return phones, np.maximum.accumulate(np.array(ends, np.int32)) if ends else np.zeros(0, np.int32)


def _locate() -> tuple[ctypes.CDLL, Path | None]:
    try:
        import espeakng_loader  # a tool for building corpora, absent at run time

        return ctypes.CDLL(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
    except (ImportError, OSError):
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise UserError(
                "espeak_missing",
                "eSpeak NG was not found; install it with: pip install {package}",
                package="espeakng_loader",
            ) from None
        return ctypes.CDLL(name), None


def _voice_files(data: Path | None) -> dict[str, str]:
    """Voice name (lower case) -> path below `lang/`, for the languages of eSpeak's data folder."""
    root = data / "lang" if data else None
    if root is None or not root.is_dir():
        return {}
    return {file.name.lower(): file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if file.is_file()}


def _declare(library: ctypes.CDLL) -> None:
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
        ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]


def _linked_data(data: Path | None) -> tempfile.TemporaryDirectory | None:
    """A folder that links to eSpeak's data and takes further variants; kept as long as the object lives."""
    if data is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="espeak-")
    root = Path(folder.name)
    for entry in data.iterdir():
        if entry.name != "voices":
            (root / entry.name).symlink_to(entry.resolve())
    target = root / "voices" / "!v"
    target.mkdir(parents=True)
    for entry in (data / "voices" / "!v").iterdir():
        (target / entry.name).symlink_to(entry.resolve())
    return folder
