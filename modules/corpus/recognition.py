"""What is said in a clip, by Whisper.

The language is found for every clip. A GPU is used where there is one that works; where its libraries are missing,
which shows only when something is computed, the CPU takes over and a note says so.

Shapes: S samples at 16 kHz.
"""

import bisect
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from modules.config import field
from modules.corpus.whisper_device import Attempt, load_whisper, machine_attempts
from modules.corpus.whisper_models import whisper_identity
from modules.errors import UserError

T = TypeVar("T")

RATE_HZ = 16000
_LONGEST_SECONDS = 30.0
"""What Whisper hears at once; longer clips are cut inside of the library."""
_LIST_CODES = {"jw": "JV"}
"""Codes of Whisper that are not those of ISO 639-1."""


@dataclass(frozen=True)
class RecognitionOptions:
    """How clips are recognised, and which results are good enough for a dataset."""

    model: str = field("large-v3-turbo", "size of the Whisper model, or a folder with one converted for CTranslate2")
    language: str = field("", "code of the only language that is spoken (en, zh, ...); empty = found for every clip")
    device: Literal["auto", "cpu", "cuda"] = field(
        "auto", "where to compute; auto takes a GPU that works, else the CPU"
    )
    precision: Literal["auto", "float16", "int8_float16", "int8", "float32"] = field(
        "auto", "number format; auto is float16 on a GPU (int8_float16 if memory is short) and int8 on a CPU"
    )
    batch_size: int = field(1, "clips recognised at once; more is faster on a GPU and needs more memory", 1, 256)
    beam_size: int = field(5, "alternatives that are followed; 1 is the fastest", 1, 20)
    min_confidence: float = field(0.3, "clips recognised with less confidence are left out", 0, 1)
    max_seconds_per_letter: float = field(
        1.5, "clips over 3 s with fewer letters than this tells are left out", 0.1, 60
    )
    find_speech: bool = field(
        True, "leave out clips without a voice before asking Whisper, which invents words for them"
    )
    threads: int = field(0, "CPU threads; 0 = the library's choice", 0, 256)


@dataclass(frozen=True)
class Recognition:
    """What was heard in a clip: text, Whisper's language code (lower case), confidence 0 to 1, length in seconds."""

    text: str
    language: str
    confidence: float
    seconds: float


def confidence(segments: Iterable[Any]) -> float:
    """How sure Whisper is of a clip, 0 to 1.

    For segments i with n_i tokens, mean log-probability l_i of a token and probability s_i of holding no speech:
    exp(sum(n_i l_i) / sum(n_i)) * (1 - sum(n_i s_i) / sum(n_i)), that is, the geometric mean of the tokens'
    probabilities times the probability that there is speech.
    """
    rows = [(max(1, len(one.tokens)), float(one.avg_logprob), float(one.no_speech_prob)) for one in segments]
    total = sum(count for count, _, _ in rows)
    if not total:
        return 0.0
    mean = sum(count * logprob for count, logprob, _ in rows) / total
    silent = sum(count * silence for count, _, silence in rows) / total
    if math.isnan(mean + silent):
        return 0.0
    return round(math.exp(min(0.0, mean)) * min(1.0, max(0.0, 1 - silent)), 4)


def list_language(code: str) -> str:
    """The tag of a language in a `.list` file: ZH, EN, JA, KO, YUE, otherwise the code in capitals."""
    return _LIST_CODES.get(code, code).upper()


def has_voice(wav: np.ndarray) -> bool:
    """Whether the voice detector (Silero, bundled with faster-whisper) hears speech in wav [S], at any level."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    peak = float(np.abs(wav).max(initial=0.0))
    if peak < 1e-4:
        return False
    # Lower than the usual threshold: a whisper or a song that is let through costs time, a lost clip costs data.
    options = VadOptions(threshold=0.3, min_silence_duration_ms=300, speech_pad_ms=100)
    return bool(get_speech_timestamps(np.asarray(wav / peak * 0.7, dtype=np.float32), options))


class Recognizer:
    """Turns clips into text. The model is loaded when the first clip is recognised.

    Args:
        folder: a checked model folder.
        options: see there; the thresholds are not applied here.
        say: told what a user should know, such as that the GPU cannot be used; kept in `notes` too.
        attempts: devices and formats in the order to try; None asks the machine.
        load: makes the model; tests hand in their own.
    """

    def __init__(
        self,
        folder: Path,
        options: RecognitionOptions,
        say: Callable[[str], None] | None = None,
        attempts: Sequence[Attempt] | None = None,
        load: Callable[[Path, Attempt, int], Any] = load_whisper,
    ):
        self.folder = folder
        self.options = options
        self.notes: list[str] = []
        self._say = say
        self._attempts = list(attempts) if attempts is not None else machine_attempts(options.device, options.precision)
        self._load = load
        self._model: Any = None
        language = options.language.strip().lower()
        self._language = "" if language == "auto" else language

    @property
    def attempt(self) -> Attempt:
        """The device and format in use, or to be tried next."""
        return self._attempts[0]

    @property
    def identity(self) -> str:
        """Hash of the model and of every choice that changes what it hears; the device counts as none."""
        options = self.options
        choices = [self._language, options.precision, options.beam_size, options.batch_size > 1, options.find_speech]
        return hashlib.sha256(f"{whisper_identity(self.folder)} {json.dumps(choices)}".encode()).hexdigest()

    def recognize(self, wavs: Sequence[np.ndarray]) -> list[Recognition]:
        """What is said in each wav float32 [S]. With a batch size of 1 they are taken one after another.

        Raises:
            UserError: asr_model_broken, asr_language.
        """
        if self.options.batch_size > 1:
            return self._with_fallback(lambda model: self._together(model, wavs))
        return [self._with_fallback(lambda model, wav=wav: self._alone(model, wav)) for wav in wavs]

    def _alone(self, model: Any, wav: np.ndarray) -> Recognition:
        # No sampling at a higher temperature when the result is poor: it would differ from run to run.
        segments, info = model.transcribe(
            wav,
            language=self._language or None,
            beam_size=self.options.beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return _recognition(list(segments), info.language, wav)

    def _together(self, model: Any, wavs: Sequence[np.ndarray]) -> list[Recognition]:
        """Clips of one language at a time, side by side in one long wav whose parts are decoded as a batch."""
        from faster_whisper import BatchedInferencePipeline

        pipeline = BatchedInferencePipeline(model)
        languages = [self._language] * len(wavs) if self._language else _languages(model, wavs)
        results: list[Recognition | None] = [None] * len(wavs)
        options = {"beam_size": self.options.beam_size, "batch_size": self.options.batch_size, "temperature": 0.0}
        for language in dict.fromkeys(languages):
            members = [i for i, one in enumerate(languages) if one == language]
            short = [i for i in members if len(wavs[i]) <= _LONGEST_SECONDS * RATE_HZ]
            for i in set(members) - set(short):
                segments, _ = pipeline.transcribe(wavs[i], language=language, **options)
                results[i] = _recognition(list(segments), language, wavs[i])
            if not short:
                continue
            ends = np.cumsum([len(wavs[i]) for i in short]) / RATE_HZ
            starts = [0.0, *map(float, ends[:-1])]
            spans = [{"start": a, "end": float(b)} for a, b in zip(starts, ends)]
            joined = np.concatenate([wavs[i] for i in short])
            heard: list[list[Any]] = [[] for _ in short]
            segments, _ = pipeline.transcribe(
                joined, language=language, vad_filter=False, clip_timestamps=spans, **options
            )
            for segment in segments:
                # Starts come back rounded to milliseconds.
                heard[max(0, bisect.bisect_right(starts, segment.start + 0.002) - 1)].append(segment)
            for i, parts in zip(short, heard):
                results[i] = _recognition(parts, language, wavs[i])
        return [result for result in results if result is not None]

    def _with_fallback(self, work: Callable[[Any], T]) -> T:
        """`work(model)`, again on the next device as long as a GPU fails at it."""
        while True:
            try:
                return work(self._loaded())
            except (RuntimeError, ValueError, OSError) as cause:
                if not self._step_down(cause):
                    raise

    def _step_down(self, cause: Exception) -> bool:
        """Go on to the next attempt after a failure of the GPU; False where there is none."""
        if self.attempt.device != "cuda":
            return False
        self._model = None
        failed = self._attempts.pop(0)
        if "out of memory" not in str(cause).lower():  # another format would not bring the missing library
            self._attempts = [one for one in self._attempts if one.device != "cuda"]
        self._tell(
            f"The GPU cannot be used with {failed.precision} ({' '.join(str(cause).split())[:200]}); "
            f"going on with {self.attempt.precision} on {self.attempt.device}."
            + (" Installing the package nvidia-cublas-cu12 brings the library." if "cublas" in str(cause) else "")
        )
        return True

    def _loaded(self) -> Any:
        if self._model is None:
            try:
                model = self._load(self.folder, self.attempt, self.options.threads)
            except (RuntimeError, ValueError, OSError) as cause:
                if self.attempt.device == "cuda":
                    raise
                raise UserError(
                    "asr_model_broken",
                    "The Whisper model in {folder} cannot be loaded ({cause}). Delete that folder and start again "
                    "to get the model anew, or choose another model.",
                    folder=str(self.folder),
                    cause=" ".join(str(cause).split())[:300],
                ) from cause
            self._check_language(model)
            self._model = model
        return self._model

    def _check_language(self, model: Any) -> None:
        if not self._language:
            return
        known = [
            one for one in model.supported_languages if one == "en" or model.hf_tokenizer.token_to_id(f"<|{one}|>")
        ]
        if self._language not in known:
            raise UserError(
                "asr_language",
                "The Whisper model does not know the language {language}; leave it empty, or choose one of {valid}.",
                language=self._language,
                valid=", ".join(known),
            )

    def _tell(self, text: str) -> None:
        self.notes.append(text)
        if self._say is not None:
            self._say(text)


def _languages(model: Any, wavs: Sequence[np.ndarray]) -> list[str]:
    """The language of each clip, from its first 30 s, all in one batch."""
    from faster_whisper.audio import pad_or_trim

    if not model.model.is_multilingual:
        return ["en"] * len(wavs)
    features = np.stack([pad_or_trim(model.feature_extractor(wav)[..., :-1]) for wav in wavs])
    return [found[0][0][2:-2] for found in model.model.detect_language(model.encode(features))]


def _recognition(segments: list[Any], language: str, wav: np.ndarray) -> Recognition:
    text = " ".join("".join(segment.text for segment in segments).split())
    return Recognition(text, language, confidence(segments), round(len(wav) / RATE_HZ, 3))
