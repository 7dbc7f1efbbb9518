"""Held-out clips to judge with: sentences and voices that no training has met.

Synthetic ones come from the test split of a corpus store, real ones from the test split of a manifest and from a
folder of other recordings. All choices follow from a seed.

Shapes: S samples.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.audio.io import read
from modules.audio.resample import resample
from modules.corpus.phones import PAUSE
from modules.data.store import FeatureStore, entry_key
from modules.errors import UserError

LANGUAGES = ("en", "zh", "ja", "ko", "de", "fr", "es", "it", "pt", "ru", "nl", "pl")
"""In the order in which they are told; any others follow by name."""
_TAG_LANGUAGE = {"cmn": "zh", "jp": "ja", "kr": "ko"}
ALSO_IN_TRAINING = frozenset(("kerstin", "rdh", "flemishguy"))
"""Speakers of the folder of recordings who are in the training set under the same or another name."""
REFERENCE_SECONDS = (2.5, 12.0)
SENTENCE_SECONDS = (1.2, 9.0)


@dataclass(frozen=True)
class Clip:
    """One recording with what is known of it; `phones` hold no pauses and are empty when unknown."""

    key: str
    speaker: str
    language: str
    text: str
    seconds: float
    source: str
    gender: str = ""
    phones: tuple[str, ...] = ()
    path: str = ""
    store: Path | None = None
    row: int = -1

    @property
    def has_sound(self) -> bool:
        """Whether somebody said it; a sentence that was only written has no source audio."""
        return self.store is not None or bool(self.path)


_GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female"}
"""Of a manifest's word up to a "_": some corpora write "male_masculine"."""


def base_language(tag: str) -> str:
    """The language of a tag in any case, without script or region: "zh-CN" and "ZH" are "zh"."""
    first = tag.strip().lower().replace("_", "-").split("-")[0]
    return _TAG_LANGUAGE.get(first, first)


def in_order(languages: Iterable[str]) -> list[str]:
    """Distinct languages in the order of `LANGUAGES`, then by name."""
    place = {language: number for number, language in enumerate(LANGUAGES)}
    return sorted(set(languages), key=lambda language: (place.get(language, len(place)), language))


class ClipReader:
    """Reads the sound of clips; stores are opened once."""

    def __init__(self) -> None:
        self._stores: dict[Path, FeatureStore] = {}

    def wav(self, clip: Clip, sample_rate: int) -> np.ndarray:
        """float32 [S] at `sample_rate`."""
        if clip.store is None:
            return read(clip.path, sample_rate).numpy()
        if clip.store not in self._stores:
            self._stores[clip.store] = FeatureStore(clip.store)
        item = self._stores[clip.store].row(clip.row, ("audio", "sample_rate"))
        return resample(np.asarray(item["audio"], np.float32) / 32768, int(item["sample_rate"]), sample_rate)


def corpus_clips(folder: Path, split: str = "test", languages: Iterable[str] | None = None) -> list[Clip]:
    """The clips of one split of a corpus store, in its order; of all languages, or of those named. Clips that mix
    languages ("en+zh") are left out."""
    store = FeatureStore(folder)
    names = ("key", "speaker", "language", "text", "seconds", "source", "phones", "split")
    wanted = None if languages is None else set(languages)
    clips = []
    for row, values in enumerate(zip(*(store.column(name) for name in names), strict=True)):
        key, speaker, tag, text, seconds, source, phones, part = values
        language = base_language(tag)
        if part == split and "+" not in tag and (wanted is None or language in wanted):
            labels = tuple(label for label in phones.split() if label != PAUSE)
            clips.append(
                Clip(key, speaker, language, text, seconds, source, phones=labels, store=Path(folder), row=row)
            )
    return clips


def real_clips(manifest: Path | None, speech: Path | None) -> list[Clip]:
    """Clips of speakers that training has not heard, each with at least two clips.

    Args:
        manifest: tab-separated, with path, split, speaker, language, seconds, transcript and gender; the test split
            is taken.
        speech: folder with such a manifest.tsv whose rows of kind "clip" are all held out, but for `ALSO_IN_TRAINING`.
    """
    rows = _table(manifest) if manifest else []
    trained = {row["speaker"] for row in rows if row.get("split") != "test"} | ALSO_IN_TRAINING
    found = [_from_row(row, manifest) for row in rows if row.get("split") == "test"]
    if speech:
        others = _table(speech / "manifest.tsv")
        found += [_from_row(row, speech / "manifest.tsv") for row in others if row.get("kind") == "clip"]
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in found:
        if clip.speaker not in trained and clip.text:
            by_speaker[clip.speaker].append(clip)
    return [clip for clips in by_speaker.values() if len(clips) >= 2 for clip in clips]


def _table(path: Path) -> list[dict[str, str]]:
    if not Path(path).is_file():
        raise UserError(
            "manifest_missing",
            "There is no dataset list {file}; check the path, or run the step that writes it.",
            file=str(path),
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _from_row(row: dict[str, str], manifest: Path) -> Clip:
    path = Path(manifest).parent / row["path"]
    changed = str(path.stat().st_mtime_ns) if path.is_file() else ""
    return Clip(
        entry_key(str(path.resolve()), row["speaker"], row["transcript"], changed),
        row["speaker"],
        base_language(row["language"]),
        row["transcript"],
        float(row["seconds"]),
        "recorded",
        _GENDERS.get((row.get("gender") or "").lower().partition("_")[0], ""),
        path=str(path),
    )


@dataclass(frozen=True)
class VoiceTest:
    """One speaker to be cloned: the reference, and other clips of the same speaker to compare with."""

    speaker: str
    reference: Clip
    others: tuple[Clip, ...]

    @property
    def gender(self) -> str:
        """As the manifest says, or "" if it does not."""
        return self.reference.gender


def voice_tests(clips: Sequence[Clip], count: int, seed: int, most_others: int = 5) -> list[VoiceTest]:
    """Up to `count` speakers, women and men in turn where the gender is known.

    The reference is the longest clip of a handy length; speakers without one are left out.
    """
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    tests: dict[str, list[VoiceTest]] = defaultdict(list)
    rng = np.random.default_rng([seed, 1])
    names = sorted(by_speaker)
    for index in rng.permutation(len(names)):
        members = sorted(by_speaker[names[index]], key=lambda c: c.key)
        handy = [c for c in members if REFERENCE_SECONDS[0] <= c.seconds <= REFERENCE_SECONDS[1] and c.text]
        if not handy or len(members) < 2:
            continue
        reference = max(handy, key=lambda c: min(c.seconds, 8.0))
        others = sorted((c for c in members if c.key != reference.key), key=lambda c: -c.seconds)[:most_others]
        tests[reference.gender].append(VoiceTest(reference.speaker, reference, tuple(others)))
    chosen: list[VoiceTest] = []
    queues = [tests[gender] for gender in sorted(tests, reverse=True)]
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


def sentences(clips: Sequence[Clip], language: str, seed: int) -> list[Clip]:
    """Every distinct sentence of a language with known phones and a handy length, in a seeded order."""
    fitting = [
        clip
        for clip in clips
        if clip.language == language and clip.phones and SENTENCE_SECONDS[0] <= clip.seconds <= SENTENCE_SECONDS[1]
    ]
    distinct = {clip.text: clip for clip in sorted(fitting, key=lambda c: c.key, reverse=True)}
    ordered = sorted(distinct.values(), key=lambda c: c.key)
    return [ordered[i] for i in np.random.default_rng([seed, 2]).permutation(len(ordered))]


def own_reference(clip: Clip, clips: Sequence[Clip]) -> Clip | None:
    """The longest handy other clip of the same speaker, in the same language where there is one.

    A speaker has at most two references a language, so that others remain to compare with.
    """
    low, high = REFERENCE_SECONDS
    same = [c for c in clips if c.speaker == clip.speaker and c.text != clip.text and low <= c.seconds <= high]
    same = [c for c in same if c.language == clip.language] or same
    return max(same, key=lambda c: (min(c.seconds, 8.0), c.key), default=None)
