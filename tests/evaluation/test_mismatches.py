"""Clips whose text is another's are found by what a recogniser hears, however well it knows their language."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from modules.data.dropping import read_dropped
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import Stopped, UserError
from modules.evaluation.mismatches import (
    Judged,
    MismatchOptions,
    decide,
    find_mismatches,
    save_report,
    with_wrong_texts,
)

PHONES = "a e i o u p t k b d ɡ m n s f l".split()
RATE = 16000


class Ears:
    """Hears what was said, which a clip's first sample is the number of, with some of the phones wrong."""

    def __init__(self, said: list[list[str]], wrong: list[float]):
        self.said, self.wrong, self.batches = said, wrong, 0

    def hear(self, wavs: Sequence[np.ndarray]) -> list[list[str]]:
        self.batches += 1
        return [self._one(round(float(wav[0]) * 32768)) for wav in wavs]

    def _one(self, number: int) -> list[str]:
        rng = np.random.default_rng(number)
        heard = [p if rng.random() > self.wrong[number] else str(rng.choice(PHONES)) for p in self.said[number]]
        return [p + "3" if p in "aeiou" and number % 2 else p for p in heard]


def build(folder: Path, languages: dict[str, tuple[int, float]], swapped: set[int]) -> tuple[FeatureStore, Ears]:
    """A store, and ears that mishear a share of the phones of each language; `swapped` clips say something else."""
    rng = np.random.default_rng(0)
    said, wrong, number = [], [], 0
    with StoreWriter(folder) as writer:
        for language, (count, share) in languages.items():
            for _ in range(count):
                length = int(rng.integers(12, 40))
                phones = [str(p) for p in rng.choice(PHONES, length)]
                said.append([str(p) for p in rng.choice(PHONES, length)] if number in swapped else phones)
                wrong.append(share)
                audio = np.zeros(int(RATE * length / 12), np.int16)
                audio[0] = number
                writer.add(
                    f"key{number}", speaker="s", language=language, split="train", text=" ".join(phones),
                    seconds=length / 12, source="recorded", sample_rate=RATE, audio=audio, phones=" ".join(phones),
                )  # fmt: skip
                number += 1
        writer.add(
            "spoken", speaker="s", language="en", split="train", text="a", seconds=1.0, source="synthetic",
            sample_rate=RATE, audio=np.zeros(RATE, np.int16), phones="s f l",
        )  # fmt: skip
        writer.add(
            "unread", speaker="s", language="xx", split="train", text="a", seconds=1.0, source="recorded",
            sample_rate=RATE, audio=np.zeros(RATE, np.int16), phones="",
        )  # fmt: skip
    return FeatureStore(folder), Ears(said, wrong)


def test_swapped_texts_are_dropped_and_others_kept(tmp_path: Path) -> None:
    swapped = {3, 17, 29, 64, 71}
    store, ears = build(tmp_path, {"en": (60, 0.1), "de": (60, 0.45)}, swapped)
    seen: list[tuple[int, int, str]] = []
    report = find_mismatches(
        store, ears.hear, RATE, MismatchOptions(max_error=0.8), on_progress=lambda *values: seen.append(values)
    )
    dropped = {row["key"]: row for row in report["dropped"]}
    assert {f"key{n}" for n in swapped} <= set(dropped) and len(dropped) <= len(swapped) + 2
    assert dropped["key3"]["language"] == "en" and dropped["key3"]["error"] > 0.7 and dropped["key3"]["reason"]
    assert "3" not in dropped["key3"]["heard"], "tones do not count"
    assert report["counts"] == {"clips": 121, "judged": 120, "dropped": len(dropped), "not_judged": 1}
    assert report["languages"]["de"]["median_error"] > 3 * report["languages"]["en"]["median_error"] > 0
    assert report["languages"]["xx"]["why"] and seen[-1][0] <= seen[-1][1] == 121


def test_a_language_that_the_recogniser_does_not_know_is_left_alone(tmp_path: Path) -> None:
    store, ears = build(tmp_path, {"en": (40, 0.1), "fr": (40, 0.97), "it": (5, 0.1)}, {1, 80})
    report = find_mismatches(store, ears.hear, RATE, MismatchOptions())
    assert {row["language"] for row in report["dropped"]} == {"en"}
    why = report["languages"]["fr"]["why"]
    assert report["languages"]["fr"]["not_judged"] == 40 and "100.0 %" in why and "(10 %)" in why
    assert "--most-dropped" in why and "train" in why, "what was measured, and what can be done"
    assert report["languages"]["it"]["not_judged"] == 5 and "few" in report["languages"]["it"]["why"]


def test_only_languages_asked_for_are_heard(tmp_path: Path) -> None:
    store, ears = build(tmp_path, {"en": (30, 0.1), "de": (30, 0.1)}, {2, 40})
    report = find_mismatches(store, ears.hear, RATE, MismatchOptions(), languages=["de"])
    assert [row["key"] for row in report["dropped"]] == ["key40"]
    assert report["languages"]["en"] == {
        "clips": 30, "judged": 0, "dropped": 0, "not_judged": 30, "why": "it was not asked for"
    }  # fmt: skip


def test_a_stop_ends_it(tmp_path: Path) -> None:
    store, ears = build(tmp_path, {"en": (60, 0.1)}, set())
    with pytest.raises(Stopped):
        find_mismatches(store, ears.hear, RATE, MismatchOptions(), should_stop=lambda: True)
    assert ears.batches == 1


def _judged(errors: list[float], wrong: float = 0.9) -> list[Judged]:
    return [Judged(row, ("a",), error, wrong) for row, error in enumerate(errors)]


@pytest.mark.parametrize(
    ("odd", "wrong", "options", "reason"),
    [
        (0.75, 0.9, MismatchOptions(spread=100), "ceiling"),
        (0.65, 0.6, MismatchOptions(spread=100), "wrong text"),
        (0.5, 0.9, MismatchOptions(), "its language"),
    ],
)
def test_each_limit_has_its_reason(odd: float, wrong: float, options: MismatchOptions, reason: str) -> None:
    errors = [0.2 + 0.002 * n for n in range(30)]
    facts, dropped, limits = decide(_judged([*errors, odd], wrong), 31, options)
    assert [one.error for one in dropped] == [odd] and reason in limits.reason(dropped[0])
    assert (facts["judged"], facts["dropped"]) == (31, 1)


def test_small_errors_are_never_dropped_and_silence_always() -> None:
    few = [0.01] * 30
    judged = [*_judged([*few, 0.25]), Judged(31, (), 0.1)]
    _, dropped, limits = decide(judged, 32, MismatchOptions())
    assert [one.row for one in dropped] == [31] and "nothing" in limits.reason(dropped[0])


def test_wrong_texts_are_those_of_others_of_about_the_same_length() -> None:
    truths = [list("pt"), list("pt"), list("kbdm"), list("kbdn")]
    judged = with_wrong_texts([Judged(n, tuple(t), 0.0) for n, t in enumerate(truths)], truths)
    assert [round(one.wrong_error, 2) for one in judged] == [1.0, 1.0, 0.25, 0.25]


def test_without_wrong_texts_only_the_other_limits_count() -> None:
    facts, dropped, _ = decide(_judged([0.4] * 30 + [0.75], float("nan")), 31, MismatchOptions())
    assert [one.error for one in dropped] == [0.75] and "wrong" not in facts["limits"]


def test_a_report_can_be_read_again(tmp_path: Path) -> None:
    save_report({"dropped": [{"key": "b", "text": "ü"}, {"key": "a"}]}, tmp_path / "report.json")
    assert read_dropped(tmp_path / "report.json") == {"a", "b"}
    for wrong in ("no json", json.dumps([1]), json.dumps({"dropped": [{}]})):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(UserError, match=r"wrong\.json"):
            read_dropped(tmp_path / "wrong.json")
    with pytest.raises(UserError):
        read_dropped(tmp_path / "gone.json")
