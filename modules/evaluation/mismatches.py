"""Which clips of a corpus do not say what their text says: a recogniser listens to each of them.

No recogniser is right about all phones, and it is worse in some languages than in others. So a clip is compared with
the other clips of its language, and with what the recogniser makes of texts that are surely wrong: those of neighbours
in length. A language in which right and wrong cannot be told apart is left alone.

Words: the error of a clip is the share of its phones, without tones and pauses, that were not heard as written.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.resample import resample
from modules.config import field
from modules.corpus.phones import PAUSE
from modules.data.manifest import write_whole
from modules.data.store import FeatureStore
from modules.errors import Stopped
from modules.evaluation.alignment import count_edits, without_tones

RECORDED = "recorded"
_BATCH_SECONDS = 40.0
_WINDOW_CLIPS = 512
_MAD_TO_DEVIATION = 1.4826

Hear = Callable[[Sequence[np.ndarray]], list[list[str]]]
"""Phone labels of sounds float32 [S] at the recogniser's rate."""


@dataclass(frozen=True)
class MismatchOptions:
    """When a clip is dropped, and when a language is judged at all."""

    max_error: float = field(0.7, "clips with a larger error are dropped", 0, 2)
    spread: float = field(4.0, "so many deviations above the median of its language, a clip is dropped", 1, 100)
    wrong_pass: float = field(0.05, "share of wrong texts that may pass for right where they are hard to tell", 0, 0.5)
    least_error: float = field(0.3, "clips with a smaller error are never dropped", 0, 2)
    most_dropped: float = field(0.1, "languages that would lose a larger share are not judged", 0, 1)
    least_clips: int = field(20, "languages with fewer clips are not judged", 2, 10**6)


@dataclass(frozen=True)
class Judged:
    """A clip that was listened to. `wrong_error` is what it has against a text of another clip."""

    row: int
    heard: tuple[str, ...]
    error: float
    wrong_error: float = float("nan")


@dataclass(frozen=True)
class Limits:
    """Largest errors that a language's clips may have: of its own distribution, and of wrong texts."""

    own: float
    wrong: float
    ceiling: float

    @property
    def lowest(self) -> float:
        """The one that decides."""
        return min(self.own, self.wrong, self.ceiling)

    def reason(self, judged: Judged) -> str:
        """Why a clip above the lowest of them is dropped."""
        if not judged.heard:
            return "nothing was heard"
        if judged.error > self.ceiling:
            return "the error is above the ceiling"
        if judged.error > self.wrong:
            return "a wrong text fits as well"
        return "the error is far above that of its language"


def find_mismatches(
    store: FeatureStore,
    hear: Hear,
    sample_rate: int,
    options: MismatchOptions,
    languages: Sequence[str] = (),
    on_progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Judge the recorded clips of a corpus.

    Args:
        store: with columns key, language, source, speaker, text, phones, seconds, audio, sample_rate.
        hear: the recogniser, at `sample_rate`.
        languages: judge only these; none = all that can be judged.
        on_progress: gets the clips heard, all that are, and the language.

    Returns:
        The report: "options"; "counts" of clips, judged, dropped and not judged; "languages", each with the same, its
        median error, its limits and, where it was not judged, why; and "dropped", a list of key, language, speaker,
        error, reason, text and heard.

    Raises:
        Stopped: `should_stop` answered true.
    """
    groups = _recorded_rows(store)
    total = sum(len(rows) for language, rows in groups.items() if not languages or language in languages)
    report: dict[str, Any] = {"options": asdict(options), "counts": {}, "languages": {}, "dropped": []}
    done = 0
    for language, rows in sorted(groups.items()):
        if languages and language not in languages:
            report["languages"][language] = _not_judged(len(rows), "it was not asked for")
            continue
        spoken = [row for row in rows if _truth(store, row)]
        judged: list[Judged] = []
        if len(spoken) >= options.least_clips:
            for part in _listen(store, spoken, hear, sample_rate):
                judged += part
                if should_stop is not None and should_stop():
                    raise Stopped
                if on_progress is not None:
                    on_progress(done + len(judged), total, language)
        done += len(rows)
        judged = with_wrong_texts(judged, [_truth(store, one.row) for one in judged])
        facts, dropped, limits = decide(judged, len(rows), options)
        report["languages"][language] = facts
        report["dropped"] += [_entry(store, language, one, limits) for one in dropped]
    for name in ("clips", "judged", "dropped", "not_judged"):
        report["counts"][name] = sum(facts[name] for facts in report["languages"].values())
    return report


def decide(
    judged: Sequence[Judged], clips: int, options: MismatchOptions
) -> tuple[dict[str, Any], list[Judged], Limits | None]:
    """What becomes of a language's clips: its part of the report, those to drop, and by which limits.

    Args:
        judged: its clips that were heard; `clips` is the number of all.
    """
    if len(judged) < options.least_clips:
        return _not_judged(clips, "too few of its clips have phones"), [], None
    errors = np.array([one.error for one in judged])
    median = float(np.median(errors))
    deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(errors - median)))
    limits = Limits(
        own=max(options.least_error, median + options.spread * deviation),
        wrong=max(options.least_error, _quantile([one.wrong_error for one in judged], options.wrong_pass)),
        ceiling=options.max_error,
    )
    dropped = [one for one in judged if one.error > limits.lowest or not one.heard]
    told = {
        "median_error": round(median, 4),
        "limits": {k: round(v, 4) for k, v in asdict(limits).items() if np.isfinite(v)},
    }
    if len(dropped) > options.most_dropped * len(judged):
        share = 100 * len(dropped) / len(judged)
        why = (
            f"{share:.1f} % of its clips would be dropped, more than --most-dropped allows "
            f"({100 * options.most_dropped:g} %): train the recogniser on this language, or raise --most-dropped"
        )
        return _not_judged(clips, why) | told, [], None
    counts = {"clips": clips, "judged": len(judged), "dropped": len(dropped), "not_judged": clips - len(judged)}
    return counts | told, dropped, limits


def with_wrong_texts(judged: Sequence[Judged], truths: Sequence[Sequence[str]]) -> list[Judged]:
    """The clips, each with its error against the phones of the next longer clip that says something else."""
    order = sorted(range(len(judged)), key=lambda i: (len(truths[i]), i))
    result = list(judged)
    for place, index in enumerate(order):
        others = (*order[place + 1 :][:8], *order[:place][::-1][:8])
        other = next((truths[i] for i in others if truths[i] != truths[index]), None)
        if other is not None:
            one = judged[index]
            result[index] = Judged(one.row, one.heard, one.error, _error(one.heard, other))
    return result


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write it as JSON; the file appears whole or not at all."""
    write_whole(path, [json.dumps(report, ensure_ascii=False, indent=1).encode(), b"\n"])


def _recorded_rows(store: FeatureStore) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, (language, source) in enumerate(zip(store.column("language"), store.column("source"), strict=True)):
        if source == RECORDED:
            groups[language].append(row)
    return groups


def _listen(store: FeatureStore, rows: Sequence[int], hear: Hear, rate: int) -> Iterator[list[Judged]]:
    """Neighbouring lengths together, within windows, so that reading stays local and memory bounded."""
    seconds = store.array("seconds")
    for start in range(0, len(rows), _WINDOW_CLIPS):
        window = sorted(rows[start : start + _WINDOW_CLIPS], key=lambda row: seconds[row])
        batch: list[int] = []
        for row in window:
            if batch and (len(batch) + 1) * seconds[row] > _BATCH_SECONDS:
                yield _judge(store, batch, hear, rate)
                batch = []
            batch.append(row)
        if batch:
            yield _judge(store, batch, hear, rate)


def _judge(store: FeatureStore, rows: Sequence[int], hear: Hear, rate: int) -> list[Judged]:
    heard = hear([_sound(store, row, rate) for row in rows])
    plain = [_plain(labels) for labels in heard]
    return [
        Judged(row, tuple(labels), _error(labels, _truth(store, row))) for row, labels in zip(rows, plain, strict=True)
    ]


def _sound(store: FeatureStore, row: int, rate: int) -> np.ndarray:
    values = store.row(row, ("audio", "sample_rate"))
    return resample(values["audio"].astype(np.float32) / 32768.0, int(values["sample_rate"]), rate)


def _truth(store: FeatureStore, row: int) -> list[str]:
    return _plain(store.row(row, ("phones",))["phones"].split())


def _plain(labels: Sequence[str]) -> list[str]:
    """Without tones, which a recogniser confuses first, and without pauses."""
    return without_tones(label for label in labels if label != PAUSE)


def _error(heard: Sequence[str], truth: Sequence[str]) -> float:
    return count_edits(list(heard), list(truth)).rate


def _quantile(errors: Sequence[float], share: float) -> float:
    """Of those that are known; infinite where all clips say the same, as nothing wrong could be tried."""
    known = [error for error in errors if np.isfinite(error)]
    return float(np.quantile(known, share)) if known else float("inf")


def _not_judged(clips: int, why: str) -> dict[str, Any]:
    return {"clips": clips, "judged": 0, "dropped": 0, "not_judged": clips, "why": why}


def _entry(store: FeatureStore, language: str, one: Judged, limits: Limits) -> dict[str, Any]:
    values = store.row(one.row, ("key", "speaker", "text"))
    return {
        "key": values["key"],
        "language": language,
        "speaker": values["speaker"],
        "error": round(one.error, 4),
        "reason": limits.reason(one),
        "text": values["text"],
        "heard": " ".join(one.heard),
    }
