"""How often the rules are wrong, and how often they see a failure that was planted: measured on source audio.

The result lies beside the recogniser's weights and is bound to them by their hash; rates on source audio are the floor
that stands beside every rate of outputs.

Shapes: S samples, N phones.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modules.audio.resample import resample
from modules.checkpoint import write_atomic
from modules.evaluation.alignment import EditCounts, count_edits, pooled_rate, without_tones
from modules.evaluation.failures.rules import KINDS, judge_output, raw_sound, run_threshold, usual_seconds
from modules.evaluation.results import Progress, silent

PLANTS = (
    "lost", "lost, shortest", "lost, scattered", "repeated", "repeated, shortest", "runaway", "runaway, babble 0.3",
    "runaway, babble 1", "silent", "too short", "clipped",
)  # fmt: skip
"""What is planted; the part before the comma is the kind that must be told. "shortest": exactly as many phones as the
rule asks for, else a quarter of the sentence, at least eight phones. "scattered": five phones of every ten. "babble": a
tail of the sentence's own syllables in disorder, so many times as long as the sentence."""
EITHER = "lost_or_repeated"
_KIND_OF = {"too short": "silent"}
_WITHOUT_EAR = ("silent", "clipped")
_SCATTERED = 5
_SYLLABLE_SECONDS = 0.16
_EDGE = 2
"""Phones at both ends of a sentence that a plant leaves alone."""


@dataclass(frozen=True)
class Specimen:
    """Source audio: wav float32 [S], its N phones without pauses, and the sample after the last of each."""

    language: str
    wav: np.ndarray
    sample_rate: int
    phones: tuple[str, ...]
    ends: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """Rates by language: `error` and `toneless` (see `ErrorRate`), `false_alarms` and `hits` as [seen, of].

    Args:
        recognizer: hash of its weights.
        switching: of the mixed lines of each pair of languages, [both parts recognised, lines] on source audio.
        sentences: keys of the written sentences among what was measured; their error stands for no others.
    """

    recognizer: str
    languages: dict[str, dict[str, Any]] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    switching: dict[str, tuple[int, int]] = field(default_factory=dict)


class Hearing(Protocol):
    """What is needed of a recogniser."""

    sample_rate: int

    def hear(self, wavs: Sequence[np.ndarray]) -> list[list[str]]: ...


def calibration_path(recognizer: Path) -> Path:
    """Where the calibration of a recogniser lies."""
    return Path(recognizer).with_suffix(".json")


def read_calibration(recognizer: Path | None, identity: str) -> Calibration | None:
    """The calibration beside a recogniser; None where there is none, or it belongs to other weights."""
    path = calibration_path(recognizer) if recognizer else None
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        calibration = Calibration(
            found["recognizer"],
            found["languages"],
            tuple(found.get("sentences", ())),
            {pair: tuple(counts) for pair, counts in found.get("switching", {}).items()},
        )
    except (ValueError, KeyError, TypeError):
        return None
    return calibration if calibration.recognizer == identity else None


def write_calibration(recognizer: Path, calibration: Calibration) -> Path:
    """Store it beside the recogniser."""
    document = json.dumps(dataclasses.asdict(calibration), ensure_ascii=False, indent=1, sort_keys=True)
    return write_atomic(calibration_path(recognizer), (document + "\n").encode("utf-8"))


def calibrate(
    recognizer: Hearing, specimens: Iterable[Specimen], identity: str, progress: Progress = silent
) -> Calibration:
    """Measure the rules on source audio as it is and with planted failures."""
    errors: dict[str, list[EditCounts]] = defaultdict(list)
    plain: dict[str, list[EditCounts]] = defaultdict(list)
    alarms: dict[str, dict[str, list[int]]] = defaultdict(lambda: {kind: [0, 0] for kind in (*KINDS, EITHER)})
    hits: dict[str, dict[str, list[int]]] = defaultdict(lambda: {name: [0, 0] for name in PLANTS})
    specimens = list(specimens)
    for number, specimen in enumerate(specimens):
        language = specimen.language
        heard, told = _hear(recognizer, specimen, specimen.wav), {}
        errors[language].append(count_edits(heard, specimen.phones))
        plain[language].append(count_edits(without_tones(heard), without_tones(specimen.phones)))
        for kind in KINDS:
            told[kind] = _told(specimen, specimen.wav, heard, kind)
            _count(alarms[language][kind], told[kind])
        _count(alarms[language][EITHER], told["lost"] or told["repeated"])
        for name, wav in planted(specimen, number).items():
            kind = kind_of(name)
            heard = None if kind in _WITHOUT_EAR else _hear(recognizer, specimen, wav)
            _count(hits[language][name], _told(specimen, wav, heard, kind))
        progress("calibrating", number + 1, len(specimens))
    return Calibration(
        identity,
        {
            language: {
                "error": _plain(vars(pooled_rate(errors[language]))),
                "toneless": _plain(vars(pooled_rate(plain[language]))),
                "false_alarms": alarms[language],
                "hits": hits[language],
            }
            for language in errors
        },
    )


def kind_of(plant: str) -> str:
    """The kind of failure that a plant of `PLANTS` is."""
    return _KIND_OF.get(plant, plant.partition(",")[0])


def planted(specimen: Specimen, seed: int) -> dict[str, np.ndarray]:
    """The specimen with each failure of `PLANTS` that fits into it."""
    rng = np.random.default_rng([seed, 7])
    wav, count = specimen.wav, len(specimen.phones)
    found = {}
    for name, length in (("", max(8, math.ceil(count / 4))), (", shortest", run_threshold(count))):
        if length + 2 * _EDGE <= count:
            start, end = _stretch(specimen, length, rng)
            found["lost" + name] = np.concatenate([wav[:start], wav[end:]])
            found["repeated" + name] = np.concatenate([wav[:end], wav[start:]])
    loud = float(np.abs(wav).max(initial=1e-6))
    if count >= 4 * _SCATTERED:
        ends = [0, *specimen.ends.tolist()]
        kept = [wav[ends[i] : ends[i + 1]] for i in range(count) if i % (2 * _SCATTERED) < _SCATTERED]
        found["lost, scattered"] = np.concatenate(kept)
    for share in (0.3, 1.0):
        found[f"runaway, babble {share:g}"] = np.concatenate([wav, _babble(specimen, share, rng)])
    noise = 0.1 * loud * rng.standard_normal(2 * len(wav) + 2 * specimen.sample_rate).astype(np.float32)
    found["runaway"] = np.concatenate([wav, noise])
    found["silent"] = wav * np.float32(1e-4 / loud)
    found["too short"] = wav[: len(wav) // 5]
    found["clipped"] = np.clip(wav * np.float32(1.5 / loud), -1, 1)
    return found


def _babble(specimen: Specimen, share: float, rng: np.random.Generator) -> np.ndarray:
    """Pieces of the sentence backwards and in disorder, `share` times as long as it."""
    size = max(1, round(_SYLLABLE_SECONDS * specimen.sample_rate))
    pieces = [specimen.wav[start : start + size][::-1] for start in range(0, len(specimen.wav), size)]
    mixed = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
    return mixed[: round(share * len(specimen.wav))]


def _stretch(specimen: Specimen, length: int, rng: np.random.Generator) -> tuple[int, int]:
    first = int(rng.integers(_EDGE, len(specimen.phones) - length - _EDGE + 1))
    return int(specimen.ends[first - 1]), int(specimen.ends[first + length - 1])


def _hear(recognizer: Hearing, specimen: Specimen, wav: np.ndarray) -> list[str]:
    return recognizer.hear([resample(wav, specimen.sample_rate, recognizer.sample_rate)])[0]


def _told(specimen: Specimen, wav: np.ndarray, heard: list[str] | None, kind: str) -> bool:
    usual = usual_seconds(specimen.phones)
    verdict = judge_output(wav, specimen.sample_rate, usual, (), specimen.phones, heard, raw_sound(wav))
    return bool(getattr(verdict, kind))


def _count(pair: list[int], told: bool) -> None:
    pair[0] += told
    pair[1] += 1


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(float(value), 5) if isinstance(value, float) else int(value) for name, value in values.items()}
