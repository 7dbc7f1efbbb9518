"""What a worker process does: speak one chunk of the plan. Imports little, because every chunk starts a process."""

from dataclasses import dataclass

import numpy as np

from modules.corpus.espeak import SAMPLE_RATE, Espeak, Speech, VoiceSettings
from modules.corpus.phones import PAUSE

_SENTENCE_MARKS = ".?!。？！"
_GAP_SAMPLES = SAMPLE_RATE // 20  # silence that is left where the language changes inside of a sentence

_PAUSE_SAMPLES = SAMPLE_RATE // 4  # between two sentences
_SILENCE = Speech(np.zeros(_PAUSE_SAMPLES, np.int16), [PAUSE], np.array([_PAUSE_SAMPLES], np.int32))


@dataclass(frozen=True)
class Planned:
    """One utterance to be spoken.

    Attributes:
        parts: (text, language) of what is spoken one after another, where the languages change; else empty.
    """

    key: str
    text: str
    language: str
    split: str
    source: str
    speaker: str
    settings: VoiceSettings
    parts: tuple[tuple[str, str], ...] = ()


def speak_chunk(task: tuple[list[Planned], dict[str, str], float | None]) -> list[Speech]:
    """Speak one chunk in this process, which must not have spoken before."""
    plan, variants, noise_db = task
    engine = Espeak(variants)
    spoken = []
    for planned in plan:
        speech = speak_planned(engine, planned)
        samples = speech.samples if noise_db is None else _with_noise(speech.samples, noise_db, planned.key)
        spoken.append(Speech(samples, speech.phones, speech.phone_ends))
    return spoken


def speak_planned(engine: Espeak, planned: Planned) -> Speech:
    """One utterance; its parts, if it has any, by the same variant in their own languages, joined."""
    if not planned.parts:
        return engine.speak(planned.text, planned.language, planned.settings)
    spoken = []
    for index, (text, language) in enumerate(planned.parts):
        speech = engine.speak(text, language, planned.settings)
        last = index == len(planned.parts) - 1
        ends_here = text.rstrip()[-1:] in _SENTENCE_MARKS
        spoken.append(speech if ends_here or last else _without_tail(speech))
        if ends_here and not last:
            spoken.append(_SILENCE)
    return join_speech(spoken)


def join_speech(parts: list[Speech]) -> Speech:
    """Several utterances as one; two pauses that meet become one."""
    phones: list[str] = []
    ends: list[int] = []
    start = 0
    for part in parts:
        for phone, end in zip(part.phones, part.phone_ends.tolist(), strict=True):
            if phone == PAUSE and phones and phones[-1] == PAUSE:
                ends[-1] = start + end
            else:
                phones.append(phone)
                ends.append(start + end)
        start += len(part.samples)
    return Speech(np.concatenate([part.samples for part in parts]), phones, np.array(ends, np.int32))


def _without_tail(speech: Speech) -> Speech:
    """`speech` with a short gap in place of the silence at its end."""
    if len(speech.phones) < 2 or speech.phones[-1] != PAUSE:
        return speech
    stop = min(int(speech.phone_ends[-2]) + _GAP_SAMPLES, len(speech.samples))
    ends = speech.phone_ends.copy()
    ends[-1] = stop
    return Speech(speech.samples[:stop], speech.phones, ends)


def _with_noise(samples: np.ndarray, level_db: float, key: str) -> np.ndarray:
    rng = np.random.default_rng(int(key[:16], 16))
    noise = rng.standard_normal(len(samples), np.float32) * np.float32(32768 * 10 ** (level_db / 20))
    return np.clip(np.rint(samples + noise), -32768, 32767).astype(np.int16)
