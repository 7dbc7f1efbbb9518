"""Source audio whose phones and their timing are certain: written sentences spoken by eSpeak NG, and corpus clips."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modules.checkpoint import file_hash
from modules.corpus.espeak import SAMPLE_RATE
from modules.corpus.phones import PAUSE
from modules.corpus.splits import FILE_NAME as SPLITS_FILE
from modules.corpus.voices import VoiceSet, make_voices
from modules.data.store import FeatureStore
from modules.errors import UserError
from modules.evaluation.clips import corpus_clips, in_order, sentences
from modules.evaluation.failures.calibration import Calibration, Specimen, calibrate
from modules.evaluation.results import Progress, silent
from modules.evaluation.sets.readings import PhoneReader
from modules.evaluation.sets.shipped import load_set, plain_sentences
from modules.evaluation.sets.switching import source_shares

VOICES_SEED = 1
"""Corpora are built from seed 0 by default; voices that another seed invents are in none of them."""
VOICES_PER_SENTENCE = 2
LEAST_PHONES = 12


def unseen_voices(corpora: Sequence[Path] = ()) -> VoiceSet:
    """Voices to calibrate with: held out of the voice set of `VOICES_SEED`, and not among the training voices of any of
    the corpora."""
    heard: set[str] = set()
    for folder in corpora:
        path = Path(folder) / SPLITS_FILE
        if path.is_file():
            heard |= set(json.loads(path.read_text(encoding="utf-8"))["speakers"].get("train", ()))
    found = make_voices(VOICES_SEED)
    stock = {name for name, split in _stock_splits(make_voices(0)).items() if split != "test"}
    kept = [
        speaker
        for speaker in found.of_split("test")
        if speaker.name not in heard and speaker.settings.variant not in stock
    ]
    used = {speaker.settings.variant for speaker in kept}
    return VoiceSet(tuple(kept), {name: text for name, text in found.variants.items() if name in used})


def _stock_splits(voices: VoiceSet) -> dict[str, str]:
    return {s.settings.variant: s.split for s in voices.speakers if s.settings.variant not in voices.variants}


def spoken_specimens(reader: PhoneReader, languages: tuple[str, ...], voices: VoiceSet) -> Iterator[Specimen]:
    """The written sentences, each in two of the voices."""
    speakers = voices.speakers
    for number, entry in enumerate(load_set("plain")):
        if languages and entry["language"] not in languages:
            continue
        for turn in range(VOICES_PER_SENTENCE):
            voice = speakers[(VOICES_PER_SENTENCE * number + turn) % len(speakers)].settings
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


@dataclass(frozen=True)
class Source:
    """What to measure a recogniser on besides the written sentences: `count` sentences a language of each corpus;
    `languages`: only these, none = all."""

    corpora: tuple[Path, ...] = ()
    count: int = 50
    seed: int = 0
    languages: tuple[str, ...] = ()


def measure(recognizer: Path, source: Source, progress: Progress = silent) -> tuple[Calibration, str]:
    """The calibration of a recogniser's weights, and why the written sentences are not in it ("" where they are).

    Raises:
        UserError: calibration_no_audio where there is nothing to measure on; what `load_recognizer` raises.
    """
    from modules.evaluation.recognizer import load_recognizer

    model, voices = load_recognizer(recognizer), unseen_voices(source.corpora)
    reader = PhoneReader(voices.variants)
    specimens = list(spoken_specimens(reader, source.languages, voices))
    spoken = {specimen.language for specimen in specimens}
    for folder in source.corpora:
        specimens += corpus_specimens(folder, source.count, source.seed, source.languages)
    if not specimens:
        raise UserError(
            "calibration_no_audio",
            "There is no source audio of {languages} to measure the recogniser on; install eSpeak NG (pip install "
            "espeakng_loader pypinyin), or give synthetic speech with --corpus.",
            languages=", ".join(source.languages) or "any language",
        )
    found = calibrate(model, specimens, file_hash(recognizer), progress)
    written = tuple(clip.key for clip in plain_sentences() if clip.language in spoken)
    return replace(found, sentences=written, switching=source_shares(model, reader, voices)), reader.reason


def merged(before: Calibration | None, found: Calibration) -> Calibration:
    """What was found, with what was measured before of other languages and other pairs of them; None = nothing was, or
    with other weights."""
    if before is None or before.recognizer != found.recognizer:
        return found
    again = {clip.key for clip in plain_sentences() if clip.language in found.languages}
    kept = tuple(key for key in before.sentences if key not in again)
    return replace(
        found,
        languages=before.languages | found.languages,
        sentences=(*kept, *found.sentences),
        switching=before.switching | found.switching,
    )
