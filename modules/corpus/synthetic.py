"""Build a corpus store of synthetic speech: plan every utterance from the seed, speak in worker processes, append.

eSpeak NG's global state leaks from one utterance into the next, so a chunk of the plan is always spoken from its
beginning by a fresh process: the same seed gives the same samples, also after an interrupted build. The breath of
breathy voices is the exception: eSpeak starts it from memory that it does not clear.
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modules.corpus import texts as texts_module
from modules.corpus.composed import composed_phrases
from modules.corpus.espeak import SAMPLE_RATE, Speech, VoiceSettings
from modules.corpus.speaking import Planned, speak_chunk
from modules.corpus.splits import held_count, text_split, write_splits
from modules.corpus.texts import Phrase, distinct
from modules.corpus.voices import SPLITS, VoiceSet, make_voices
from modules.data.store import StoreWriter, entry_key
from modules.errors import Stopped, UserError

LICENCE = "synthetic speech (eSpeak NG); text: {source}"
MIN_SECONDS, MAX_SECONDS = 0.25, 15.0
_RATE_JITTER = 0.05
# How likely a phrase of a source is taken: help pages repeat themselves, fortunes and transcripts are plain language.
SOURCE_WEIGHTS = {
    "fortunes": 1.0,
    "handbook": 0.3,
    "help": 0.15,
    "phrasebook": 0.8,
    "transcript": 3.0,
    "file": 3.0,
    "composed": 0.6,
}
_CHINESE_WEIGHTS = {"fortunes": 0.15, "handbook": 0.6, "help": 0.2}  # the Chinese fortunes are half classical verse


@dataclass(frozen=True)
class SyntheticConfig:
    """What to build.

    Attributes:
        utterances: number per language.
        seed: decides voices, choice of texts and pairing.
        noise_db: level of the added noise against full scale; silence must not be exact zeros. None adds none.
        chunk: utterances spoken by one process life.
    """

    utterances: dict[str, int]
    seed: int = 0
    noise_db: float | None = -66.0
    chunk: int = 256


@dataclass
class Report:
    """What a build did."""

    utterances: Counter = field(default_factory=Counter)
    seconds: Counter = field(default_factory=Counter)
    speakers: dict[str, set[str]] = field(default_factory=dict)
    skipped: Counter = field(default_factory=Counter)
    present: int = 0

    def count(self, language: str, split: str, speaker: str, seconds: float) -> None:
        """Count one stored utterance."""
        self.utterances[f"{language}/{split}"] += 1
        self.seconds[f"{language}/{split}"] += seconds
        self.speakers.setdefault(split, set()).add(speaker)


def gather_texts(
    language: str,
    files: Sequence[Path] = (),
    transcripts: Sequence[str] = (),
    seed: int = 0,
    share: Path = texts_module.SHARE,
) -> list[Phrase]:
    """All distinct phrases for a language, the more natural sources first."""
    found: list[Phrase] = list(texts_module.book_phrases(language))
    for path in files:
        found += texts_module.file_phrases(path, language)
    found += [
        Phrase(phrase, language, "transcript")
        for text in transcripts
        for phrase in texts_module.clean_phrases(text, language)
    ]
    found += texts_module.installed_phrases(language, share)
    if language == "zh":
        found += composed_phrases(seed)
    return distinct(found)


def choose_texts(phrases: Sequence[Phrase], count: int, rng: np.random.Generator) -> list[Phrase]:
    """`count` phrases by source weight, without repetition while there are enough (Efraimidis and Spirakis, 2006)."""
    if not phrases:
        return []
    weights = np.array([_weight(phrase) for phrase in phrases])
    order: list[int] = []
    while len(order) < count:
        keys = np.log(rng.random(len(phrases))) / weights
        order += np.argsort(-keys)[: count - len(order)].tolist()
    return [phrases[index] for index in order]


def _weight(phrase: Phrase) -> float:
    special = _CHINESE_WEIGHTS if phrase.language == "zh" else {}
    return special.get(phrase.source, SOURCE_WEIGHTS.get(phrase.source, 1.0))


def make_plan(config: SyntheticConfig, texts: dict[str, list[Phrase]], voices: VoiceSet) -> list[Planned]:
    """Every utterance of the corpus, in a fixed shuffled order.

    Raises:
        UserError: there are no texts for a language.
    """
    plan: list[Planned] = []
    for number, (language, count) in enumerate(sorted(config.utterances.items())):
        rng = np.random.default_rng([config.seed, number, len(language)])
        held = held_count(count)
        for split, wanted in (("train", count - 2 * held), ("dev", held), ("test", held)):
            pool = [phrase for phrase in texts.get(language, []) if phrase_split(phrase) == split]
            if wanted and not pool:
                raise UserError(
                    "corpus_no_texts",
                    "There are no {split} texts for language {language}; give some with --text-file {language}=PATH.",
                    split=split,
                    language=language,
                )
            speakers = voices.of_split(split)
            for index, phrase in enumerate(choose_texts(pool, wanted, rng)):
                speaker = speakers[int(rng.integers(len(speakers)))]
                rate = round(speaker.settings.rate * (1 + rng.uniform(-_RATE_JITTER, _RATE_JITTER)))
                settings = VoiceSettings(
                    speaker.settings.variant, rate, speaker.settings.pitch, speaker.settings.pitch_range
                )
                key = entry_key("synthetic", str(config.seed), str(index), split, language, phrase.text, repr(settings))
                plan.append(Planned(key, phrase.text, language, split, phrase.source, speaker.name, settings))
    order = np.random.default_rng([config.seed, 0x0DE2]).permutation(len(plan))
    return [plan[index] for index in order]


def phrase_split(phrase: Phrase) -> str:
    """The split of a phrase. Transcripts of training recordings are heard in training, so they stay there."""
    return "train" if phrase.source == "transcript" else text_split(phrase.text)


def build_synthetic(
    folder: Path,
    config: SyntheticConfig,
    texts: dict[str, list[Phrase]],
    *,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Report:
    """Build or continue the corpus store in `folder`.

    Raises:
        Stopped: `should_stop` said so; what was spoken is kept.
    """
    voices = make_voices(config.seed)
    plan = make_plan(config, texts, voices)
    report = Report()
    chunks = [plan[start : start + config.chunk] for start in range(0, len(plan), config.chunk)]
    with StoreWriter(folder) as writer:
        missing = [chunk for chunk in chunks if not all(writer.has(planned.key) for planned in chunk)]
        report.present = len(writer)
        write_splits(folder, _speaker_names(voices), _split_texts(plan))
        done = len(plan) - sum(map(len, missing))
        for chunk, spoken in _speak_all(missing, voices.variants, config.noise_db, processes):
            for planned, speech in zip(chunk, spoken, strict=True):
                _store(writer, planned, speech, report)
            done += len(chunk)
            if on_progress:
                on_progress(done, len(plan))
            if should_stop and should_stop():
                raise Stopped
    return report


def _speak_all(
    chunks: list[list[Planned]], variants: dict[str, str], noise_db: float | None, processes: int
) -> Iterator[tuple[list[Planned], list[Speech]]]:
    if not chunks:
        return
    tasks = [(chunk, {name: variants[name] for name in _used(chunk, variants)}, noise_db) for chunk in chunks]
    context = multiprocessing.get_context("spawn")
    with context.Pool(max(1, processes), maxtasksperchild=1) as pool:
        yield from zip(chunks, pool.imap(speak_chunk, tasks, chunksize=1), strict=True)


def _used(chunk: list[Planned], variants: dict[str, str]) -> set[str]:
    return {planned.settings.variant for planned in chunk} & set(variants)


def _store(writer: StoreWriter, planned: Planned, speech: Speech, report: Report) -> None:
    seconds = len(speech.samples) / SAMPLE_RATE
    if writer.has(planned.key):
        return
    if not any(label != "_" for label in speech.phones):
        report.skipped["nothing was spoken"] += 1
        return
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        report.skipped["too short or too long"] += 1
        return
    writer.add(
        planned.key,
        speaker=planned.speaker,
        language=planned.language,
        split=planned.split,
        text=planned.text,
        seconds=seconds,
        source="synthetic",
        licence=LICENCE.format(source=planned.source),
        sample_rate=SAMPLE_RATE,
        audio=speech.samples,
        phones=" ".join(speech.phones),
        phone_ends=speech.phone_ends.astype(np.int32),
    )
    report.count(planned.language, planned.split, planned.speaker, seconds)


def _speaker_names(voices: VoiceSet) -> dict[str, list[str]]:
    return {split: [speaker.name for speaker in voices.of_split(split)] for split in SPLITS}


def _split_texts(plan: list[Planned]) -> dict[str, list[str]]:
    return {split: [planned.text for planned in plan if planned.split == split] for split in SPLITS}
