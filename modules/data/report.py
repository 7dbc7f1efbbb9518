"""What a dataset is like, in numbers: how much of whom in which language, how it sounds, what is wrong with it."""

import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from modules.config import field
from modules.data.lines import ListFile, Problem, SourceRow
from modules.data.measures import CLIPPED_SHARE, ClipFacts, clip_seconds, measure_clip, same_content
from modules.data.validation import language_code, rejected_notes
from modules.errors import Stopped, UserError

LENGTH_EDGES_SECONDS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Lower edges of the histogram's bins; the last one has no upper edge."""
REJECTED_NAME = "rejected.jsonl"
_EXAMPLES = 50
_MOST_NAMES = 2000
_OTHER_NAMES = "(others)"


@dataclass(frozen=True)
class ReportOptions:
    """What the report looks at."""

    sample_clips: int = field(300, "clips whose sound is measured at most, drawn evenly from all; 0 = none", 0, 10**7)
    longest_seconds: float = field(300.0, "longer files are not measured, they would fill the memory", 1, 36000)
    low_confidence: float = field(0.5, "transcripts below this count as unsure, 0 to 1", 0, 1)
    duplicates: bool = field(True, "look for clips with the same bytes; reads clips of equal size")


@dataclass
class _Listed:
    """How many, and the first few of them."""

    count: int = 0
    examples: list[Any] = dataclass_field(default_factory=list)

    def add(self, example: Any) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


class _Tally:
    """Clips and seconds by name; beyond a bound, new names are counted as others."""

    def __init__(self) -> None:
        self.clips: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def add(self, name: str, seconds: float) -> None:
        if name not in self.clips and len(self.clips) >= _MOST_NAMES:
            name = _OTHER_NAMES
        self.clips[name] += 1
        self.seconds[name] += seconds

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "clips": self.clips[name], "minutes": round(seconds / 60, 3)}
            for name, seconds in self.seconds.most_common()
        ]


class _Counts:
    """What is gathered in one pass over the lists."""

    def __init__(self, options: ReportOptions) -> None:
        self.options = options
        self.lines = self.clips = self.unknown_confidence = 0
        self.seconds, self.shortest, self.longest = 0.0, math.inf, 0.0
        self.bins = [0] * len(LENGTH_EDGES_SECONDS)
        self.speakers, self.languages = _Tally(), _Tally()
        self.bad_lines, self.missing, self.unreadable = _Listed(), _Listed(), _Listed()
        self.no_text, self.unsure = _Listed(), _Listed()
        self.paths: dict[str, None] = {}  # all that grows with the dataset: one path for each clip
        self.repeated = _Listed()
        self.sample: list[str] = []
        self._random = random.Random(0)

    def add(self, item: SourceRow | Problem) -> None:
        """Count a line."""
        self.lines += 1
        place = {"file": item.file, "line": item.line}
        if isinstance(item, Problem):
            self.bad_lines.add({**place, "reason": str(item.reason)})
            return
        utterance, options = item.utterance, self.options
        place["audio"] = utterance.audio
        if not utterance.text.strip():
            self.no_text.add(place)
        if utterance.confidence < 0:
            self.unknown_confidence += 1
        elif utterance.confidence < options.low_confidence:
            self.unsure.add({**place, "confidence": utterance.confidence})
        if not os.path.isfile(utterance.audio):
            self.missing.add(place)
            return
        seconds = utterance.seconds or self._length(utterance.audio, place)
        if seconds <= 0:
            return
        self._add_clip(item, seconds, place)

    def _add_clip(self, item: SourceRow, seconds: float, place: dict[str, Any]) -> None:
        utterance = item.utterance
        self.clips += 1
        self.seconds += seconds
        self.shortest, self.longest = min(self.shortest, seconds), max(self.longest, seconds)
        self.bins[sum(seconds >= edge for edge in LENGTH_EDGES_SECONDS) - 1] += 1
        self.speakers.add(utterance.speaker, seconds)
        self.languages.add(language_code(utterance.language) or utterance.language, seconds)
        path = os.path.normcase(os.path.abspath(utterance.audio))
        if path in self.paths:
            self.repeated.add(place)
        else:
            self.paths[path] = None
            if seconds <= self.options.longest_seconds:
                self._draw(path)

    def _length(self, audio: str, place: dict[str, Any]) -> float:
        try:
            return clip_seconds(audio)
        except UserError as error:
            self.unreadable.add({**place, "reason": str(error)})
            return 0.0

    def _draw(self, path: str) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R): every clip has the same chance, however many follow."""
        size = self.options.sample_clips
        if len(self.sample) < size:
            self.sample.append(path)
            return
        place = self._random.randrange(len(self.paths))
        if place < size:
            self.sample[place] = path


def build_report(
    manifests: str | Path | Sequence[str | Path],
    audio_folder: str | Path | None = None,
    options: ReportOptions = ReportOptions(),
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The report of one or several lists, as JSON values.

    Memory grows by one path for each clip, whatever the audio; lists of examples hold at most 50.

    Args:
        manifests: `.list`, `.txt`, `.jsonl` or `.tsv` files.
        audio_folder: when given, it is joined with the base name of each audio path.
        options: what to look at.
        on_progress: gets (done, total or 0, what is being done).
        should_stop: asked often.

    Returns:
        manifests; lines; clips, minutes (of clips whose audio is there); lengths {shortest, longest, mean (seconds),
        histogram [{from, to (null = open), clips}]}; speakers and languages [{name, clips, minutes}], most first;
        sound {measured, loudness_lufs, loudness_spread_db, clipped_clips, clipped_share (of the measured clips),
        silent_share (of their time)}, numbers null where nothing was measured; and, each {count, examples}, bad_lines,
        missing, unreadable, no_text, low_confidence (and unknown), duplicates (the same file listed again or the same
        bytes), rejected (of `rejected.jsonl` beside a list or its clips and of `{list}.rejected.jsonl`, with
        reasons [{reason, count}]).

    Raises:
        UserError: manifest_missing, manifest_encoding.
        Stopped: should_stop said so.
    """
    paths = [Path(path) for path in ([manifests] if isinstance(manifests, str | Path) else manifests)]
    folder = None if audio_folder is None or not str(audio_folder) else Path(audio_folder)
    counts = _Counts(options)
    files = [ListFile(path, folder) for path in paths]
    for file in files:
        for item in file:
            if should_stop():
                raise Stopped
            counts.add(item)
            on_progress(counts.lines, 0, "lines")
    sound = _sound(counts, on_progress, should_stop)
    duplicates = _duplicates(counts, on_progress, should_stop) if options.duplicates else counts.repeated
    return {
        "manifests": [str(path) for path in paths],
        "lines": counts.lines,
        "clips": counts.clips,
        "minutes": round(counts.seconds / 60, 3),
        "lengths": _lengths(counts),
        "speakers": counts.speakers.rows(),
        "languages": counts.languages.rows(),
        "sound": sound,
        "bad_lines": vars(counts.bad_lines),
        "missing": vars(counts.missing),
        "unreadable": vars(counts.unreadable),
        "no_text": vars(counts.no_text),
        "low_confidence": {**vars(counts.unsure), "unknown": counts.unknown_confidence},
        "duplicates": vars(duplicates),
        "rejected": _rejected(paths, {Path(clip).parent for clip in counts.paths}),
    }


def _lengths(counts: _Counts) -> dict[str, Any]:
    uppers = [*LENGTH_EDGES_SECONDS[1:], None]
    return {
        "shortest": round(counts.shortest, 3) if counts.clips else None,
        "longest": round(counts.longest, 3) if counts.clips else None,
        "mean": round(counts.seconds / counts.clips, 3) if counts.clips else None,
        "histogram": [
            {"from": low, "to": high, "clips": clips}
            for low, high, clips in zip(LENGTH_EDGES_SECONDS, uppers, counts.bins, strict=True)
        ],
    }


def _sound(
    counts: _Counts, on_progress: Callable[[int, int, str], None], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Measure the drawn clips, one after the other."""
    facts: list[ClipFacts] = []
    for done, path in enumerate(counts.sample):
        if should_stop():
            raise Stopped
        on_progress(done, len(counts.sample), "sound")
        try:
            facts.append(measure_clip(path))
        except UserError as error:
            counts.unreadable.add({"audio": path, "reason": str(error)})
    loudness = [fact.loudness_lufs for fact in facts if math.isfinite(fact.loudness_lufs)]
    mean = sum(loudness) / len(loudness) if loudness else None
    spread = None if mean is None else math.sqrt(sum((level - mean) ** 2 for level in loudness) / len(loudness))
    clipped = sum(fact.clipped_share > CLIPPED_SHARE for fact in facts)
    seconds = sum(fact.seconds for fact in facts)
    silent = sum(fact.silent_share * fact.seconds for fact in facts)
    return {
        "measured": len(facts),
        "loudness_lufs": None if mean is None else round(mean, 2),
        "loudness_spread_db": None if spread is None else round(spread, 2),
        "clipped_clips": clipped,
        "clipped_share": round(clipped / len(facts), 4) if facts else None,
        "silent_share": round(silent / seconds, 4) if seconds else None,
    }


def _duplicates(
    counts: _Counts, on_progress: Callable[[int, int, str], None], should_stop: Callable[[], bool]
) -> _Listed:
    paths = list(counts.paths)
    on_progress(0, len(paths), "duplicates")
    for later, earlier in sorted(same_content(paths, should_stop).items()):
        counts.repeated.add({"audio": paths[later], "same_as": paths[earlier]})
    return counts.repeated


def _rejected(paths: Sequence[Path], folders: Iterable[Path]) -> dict[str, Any]:
    """What earlier steps and the editor left out, as they noted it beside the lists and in the folders of the clips."""
    listed = _Listed()
    reasons: Counter[str] = Counter()
    notes = {place for path in paths for place in (path.parent / REJECTED_NAME, rejected_notes(path))}
    notes |= {folder / REJECTED_NAME for folder in folders}
    for entry in (entry for place in sorted(notes) for entry in _entries(place)):
        reason = str(entry.get("reason", ""))
        if reason in reasons or len(reasons) < _MOST_NAMES:
            reasons[reason] += 1
        listed.add({"file": str(entry.get("file", "")), "reason": reason})
    return {**vars(listed), "reasons": [{"reason": name, "count": count} for name, count in reasons.most_common()]}


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a line that a kill cut short
            if isinstance(entry, dict):
                yield entry
