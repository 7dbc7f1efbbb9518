"""What a worker process does: speak one chunk of the plan. Imports little, because every chunk starts a process."""

from dataclasses import dataclass

import numpy as np

from modules.corpus.espeak import Espeak, Speech, VoiceSettings


@dataclass(frozen=True)
class Planned:
    """One utterance to be spoken."""

    key: str
    text: str
    language: str
    split: str
    source: str
    speaker: str
    settings: VoiceSettings


def speak_chunk(task: tuple[list[Planned], dict[str, str], float | None]) -> list[Speech]:
    """Speak one chunk in this process, which must not have spoken before."""
    plan, variants, noise_db = task
    engine = Espeak(variants)
    spoken = []
    for planned in plan:
        speech = engine.speak(planned.text, planned.language, planned.settings)
        samples = speech.samples if noise_db is None else _with_noise(speech.samples, noise_db, planned.key)
        spoken.append(Speech(samples, speech.phones, speech.phone_ends))
    return spoken


def _with_noise(samples: np.ndarray, level_db: float, key: str) -> np.ndarray:
    rng = np.random.default_rng(int(key[:16], 16))
    noise = rng.standard_normal(len(samples), np.float32) * np.float32(32768 * 10 ** (level_db / 20))
    return np.clip(np.rint(samples + noise), -32768, 32767).astype(np.int16)
