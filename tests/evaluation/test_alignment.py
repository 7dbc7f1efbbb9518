"""Laws of edit counts, choices and curves."""

import numpy as np
import pytest

from modules.evaluation.alignment import (
    EditCounts,
    count_edits,
    is_rising,
    nearest,
    plain_words,
    pooled_rate,
    rising_steps,
    without_tones,
)


def test_equal_sequences_need_no_edit() -> None:
    assert count_edits("abc", "abc") == EditCounts(0, 0, 0, 3)
    assert count_edits("", "") == EditCounts(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("hypothesis", "truth", "expected"),
    [
        ("axc", "abc", (1, 0, 0)),
        ("abbc", "abc", (0, 1, 0)),
        ("ac", "abc", (0, 0, 1)),
        ("", "abc", (0, 0, 3)),
        ("abc", "", (0, 3, 0)),
        ("sitting", "kitten", (2, 1, 0)),
    ],
)
def test_kinds_of_edits(hypothesis: str, truth: str, expected: tuple[int, int, int]) -> None:
    found = count_edits(list(hypothesis), list(truth))
    assert (found.substitutions, found.insertions, found.deletions) == expected


def test_the_distance_is_a_metric_and_length_follows_from_the_edits() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(0, 3, size).tolist() for size in (9, 12, 7))
    forth, back = count_edits(a, b), count_edits(b, a)
    assert forth.edits == back.edits
    assert (forth.insertions, forth.deletions) == (back.deletions, back.insertions)
    assert count_edits(a, c).edits <= forth.edits + count_edits(b, c).edits
    assert len(a) == forth.length + forth.insertions - forth.deletions


def test_pooling_weighs_by_length_and_the_interval_holds_the_rate() -> None:
    counts = [EditCounts(1, 0, 0, 10), EditCounts(0, 0, 9, 30), EditCounts(0, 2, 0, 10)]
    pooled = pooled_rate(counts)
    assert pooled.rate == pytest.approx(12 / 50) and pooled.items == 3
    assert pooled.low <= pooled.rate <= pooled.high
    assert pooled.insertions + pooled.deletions + pooled.substitutions == pytest.approx(pooled.rate)
    assert pooled_rate([]).rate == 0
    many = [count for count in counts for _ in range(10)]
    told = pooled_rate(many, clusters=[i // 10 for i in range(30)])
    assert told.rate == pytest.approx(pooled.rate) and (told.low, told.high) == pytest.approx((pooled.low, pooled.high))
    assert pooled_rate(many).high < told.high


def test_the_nearest_of_a_closed_set() -> None:
    choices = [text.split() for text in ("the cat sat", "the dog ran away", "a bird")]
    assert nearest("the dog ran".split(), choices) == 1
    assert nearest("bird".split(), choices) == 2
    assert nearest("the cat sat".split(), choices) == 0


def test_words_without_punctuation_and_labels_without_tones() -> None:
    assert plain_words("Don’t 'stop', Mr. O'Neil!") == ["don't", "stop", "mr", "o'neil"]
    assert plain_words("हिन्दी, नमस्ते।") == ["हिन्दी", "नमस्ते"]
    assert without_tones(["a1", "n", "tʂʰ", "i5"]) == ["a", "n", "tʂʰ", "i"]


def test_curves_that_rise() -> None:
    assert is_rising([0.1, 0.2, 0.2, 0.9])
    assert not is_rising([0.1, 0.3, 0.28, 0.9])
    assert is_rising([0.1, 0.3, 0.28, 0.9], tolerance=0.03)
    assert rising_steps([0.0, 1.0, 0.5, 0.6]) == 2
