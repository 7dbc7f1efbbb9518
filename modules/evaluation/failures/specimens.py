"""Source audio whose phones and their timing are certain: written sentences spoken by eSpeak NG, and corpus clips."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modules.corpus.espeak import SAMPLE_RATE, VoiceSettings
from modules.corpus.phones import PAUSE
from modules.data.store import FeatureStore
from modules.evaluation.clips import corpus_clips, in_order, sentences
from modules.evaluation.failures.calibration import Specimen
from modules.evaluation.sets.readings import PhoneReader
from modules.evaluation.sets.shipped import load_set

VOICES = (
    VoiceSettings("m4", 150, 42, 45),
    VoiceSettings("f5", 170, 60, 55),
    VoiceSettings("m8", 160, 30, 50),
    VoiceSettings("f1", 155, 68, 60),
)
VOICES_PER_SENTENCE = 2
LEAST_PHONES = 12


def spoken_specimens(reader: PhoneReader, languages: tuple[str, ...] = ()) -> Iterator[Specimen]:
    """The written sentences, each in two of `VOICES`."""
    for number, entry in enumerate(load_set("plain")):
        if languages and entry["language"] not in languages:
            continue
        for turn in range(VOICES_PER_SENTENCE):
            voice = VOICES[(number + turn * 2 + turn) % len(VOICES)]
            speech = reader.speak(entry.get("reading") or entry["text"], entry["language"], voice)
            if speech is not None and len(speech.samples):
                wav = speech.samples.astype(np.float32) / 32768
                found = _specimen(entry["language"], wav, SAMPLE_RATE, speech.phones, speech.phone_ends)
                yield from found


def corpus_specimens(folder: Path, count: int, seed: int, languages: tuple[str, ...] = ()) -> Iterator[Specimen]:
    """Up to `count` unseen synthetic sentences a language of a corpus store."""
    store, clips = FeatureStore(folder), [c for c in corpus_clips(folder) if c.source == "synthetic"]
    for language in in_order(clip.language for clip in clips):
        if languages and language not in languages:
            continue
        for clip in sentences(clips, language, seed)[:count]:
            item = store.row(clip.row, ("audio", "sample_rate", "phones", "phone_ends"))
            wav = np.asarray(item["audio"], np.float32) / 32768
            yield from _specimen(language, wav, int(item["sample_rate"]), item["phones"].split(), item["phone_ends"])


def _specimen(language: str, wav: np.ndarray, rate: int, labels: list[str], ends: np.ndarray) -> Iterator[Specimen]:
    """Nothing where the sentence is too short to plant anything in, or its timing is unknown."""
    kept = [number for number, label in enumerate(labels) if label != PAUSE]
    if len(kept) >= LEAST_PHONES and len(labels) == len(ends):
        yield Specimen(language, wav, rate, tuple(labels[n] for n in kept), np.asarray(ends)[kept])
