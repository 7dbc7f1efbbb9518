"""Build a corpus store of synthetic speech: plan every utterance from the seed, speak in worker processes, append.

eSpeak NG's global state leaks from one utterance into the next, so a chunk of the plan is always spoken from its
beginning by a fresh process: the same seed gives the same samples, also after an interrupted build. The breath of
breathy voices is the exception: eSpeak starts it from memory that it does not clear.
"""

import multiprocessing
import multiprocessing.context
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modules.corpus.espeak import SAMPLE_RATE, Speech, VoiceSettings
from modules.corpus.speaking import Planned, speak_chunk
from modules.corpus.splits import held_count, write_splits
from modules.corpus.switching import languages_of, switched_lines
from modules.corpus.texts import Phrase, choose_texts, phrase_split
from modules.corpus.voices import SPLITS, SyntheticSpeaker, VoiceSet, make_voices
from modules.data.store import StoreWriter, entry_key
from modules.errors import Stopped, UserError

LICENCE = "synthetic speech (eSpeak NG); text: {source}"
MIN_SECONDS, MAX_SECONDS = 0.25, 15.0
_RATE_JITTER = 0.05
# What a server process loads once, so that the process of a chunk starts in milliseconds.
_PRELOADED = ["modules.corpus.synthetic", "modules.corpus.speaking", "modules.progress", "pypinyin", "fugashi"]


@dataclass(frozen=True)
class SyntheticConfig:
    """What to build.

    Attributes:
        utterances: number per language, or pair of languages such as "en+de".
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


def make_plan(config: SyntheticConfig, texts: dict[str, list[Phrase]], voices: VoiceSet) -> list[Planned]:
    """Every utterance of the corpus, in a fixed shuffled order.

    Raises:
        UserError: there are no texts for a language.
    """
    plan: list[Planned] = []
    for language, count in sorted(config.utterances.items()):
        rng = np.random.default_rng([config.seed, *language.encode()])
        held = held_count(count)
        for split, wanted in (("train", count - 2 * held), ("dev", held), ("test", held)):
            lines = _lines(language, split, wanted, texts, rng) if wanted else []
            speakers = voices.of_split(split)
            for index, (text, source, parts) in enumerate(lines):
                speaker = speakers[int(rng.integers(len(speakers)))]
                settings = _settings(speaker, rng)
                key = entry_key("synthetic", str(config.seed), str(index), split, language, text, repr(settings))
                plan.append(Planned(key, text, language, split, source, speaker.name, settings, parts))
    order = np.random.default_rng([config.seed, 0x0DE2]).permutation(len(plan))
    return [plan[index] for index in order]


def _lines(
    language: str, split: str, wanted: int, texts: dict[str, list[Phrase]], rng: np.random.Generator
) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    """(text, source, parts) of the utterances of one language, or of a pair of languages."""
    tags = languages_of(language)
    if len(tags) == 2:
        switched = switched_lines((tags[0], tags[1]), texts, split, wanted, rng)
        lines = [(line.text, "switch", line.parts) for line in switched]
    else:
        pool = [phrase for phrase in texts.get(language, []) if phrase_split(phrase) == split]
        lines = [(phrase.text, phrase.source, ()) for phrase in choose_texts(pool, wanted, rng)]
    if not lines:
        raise UserError(
            "corpus_no_texts",
            "There are no {split} texts for language {language}; give some with --text-file {language}=PATH.",
            split=split,
            language=language,
        )
    return lines


def _settings(speaker: SyntheticSpeaker, rng: np.random.Generator) -> VoiceSettings:
    given = speaker.settings
    rate = round(given.rate * (1 + rng.uniform(-_RATE_JITTER, _RATE_JITTER)))
    return VoiceSettings(given.variant, rate, given.pitch, given.pitch_range)


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
    context = _context()
    with context.Pool(max(1, processes), maxtasksperchild=1) as pool:
        yield from zip(chunks, pool.imap(speak_chunk, tasks, chunksize=1), strict=True)


def _context() -> multiprocessing.context.BaseContext:
    """Where it exists a server that forks: the process of a chunk then starts clean and without loading anything."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


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
