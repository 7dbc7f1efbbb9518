"""Voices, and building stores that survive an interruption."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("pypinyin")

from modules.corpus.cleaning import phrase_key
from modules.corpus.phrasebook import phrases
from modules.corpus.recorded import speech_bounds, unfit_reason
from modules.corpus.splits import FILE_NAME
from modules.corpus.synthetic import SyntheticConfig, build_synthetic, make_plan
from modules.corpus.texts import Phrase, phrase_split
from modules.corpus.voices import make_voices
from modules.data.store import FeatureStore
from modules.errors import Stopped, UserError

WORDS = "red blue green old new tall small quick".split()
TEXTS = {"en": [Phrase(f"The {a} dog and the {b} cat.", "en", "file") for a in WORDS for b in WORDS]}
CONFIG = SyntheticConfig({"en": 20}, seed=3, chunk=10)


def has_breath(speaker: str) -> bool:
    """Whether this speaker's variant file asks for breath."""
    import espeakng_loader

    voices = make_voices(CONFIG.seed)
    variant = next(s.settings.variant for s in voices.speakers if s.name == speaker)
    file = Path(espeakng_loader.get_data_path()) / "voices" / "!v" / variant
    return "breath" in (voices.variants.get(variant) or file.read_text(errors="ignore"))


def test_voices_follow_from_the_seed_and_splits_share_no_variant() -> None:
    voices = make_voices(5)
    assert voices == make_voices(5) and voices != make_voices(6)
    names = [speaker.name for speaker in voices.speakers]
    assert len(names) == len(set(names))
    variants = {split: {s.settings.variant for s in voices.of_split(split)} for split in ("train", "dev", "test")}
    assert not variants["train"] & variants["dev"]
    assert not variants["train"] & variants["test"]
    assert not variants["dev"] & variants["test"]
    assert len(voices.of_split("train")) >= 850
    assert len(voices.of_split("dev")) == len(voices.of_split("test")) == 40


def test_plans_keep_texts_and_voices_of_the_splits_apart() -> None:
    plan = make_plan(SyntheticConfig({"en": 60}, seed=1), TEXTS, make_voices(1))
    assert len(plan) == 60 and len({p.key for p in plan}) == 60
    for quality in (lambda p: phrase_key(p.text), lambda p: p.speaker):
        held = {quality(p) for p in plan if p.split != "train"}
        assert held and not held & {quality(p) for p in plan if p.split == "train"}
    assert plan == make_plan(SyntheticConfig({"en": 60}, seed=1), TEXTS, make_voices(1))


def test_plans_of_a_language_do_not_depend_on_the_others() -> None:
    texts = TEXTS | {"de": [Phrase(f"Der {a} Hund und {b}.", "de", "file") for a in WORDS for b in WORDS]}
    alone = make_plan(SyntheticConfig({"en": 60}, seed=1), texts, make_voices(1))
    both = make_plan(SyntheticConfig({"en": 60, "de": 10}, seed=1), texts, make_voices(1))
    assert {p.key for p in alone} == {p.key for p in both if p.language == "en"}


def test_pairs_of_languages_are_planned_in_parts() -> None:
    texts = {tag: [Phrase(text, tag, "phrasebook") for text in phrases(tag)] for tag in ("en", "ja")}
    plan = make_plan(SyntheticConfig({"en+ja": 40}, seed=1), texts, make_voices(1))
    assert len(plan) == 40 and {p.language for p in plan} == {"en+ja"} and {p.source for p in plan} == {"switch"}
    assert all({tag for _, tag in p.parts} == {"en", "ja"} for p in plan)


def test_transcripts_of_training_recordings_stay_in_training() -> None:
    assert {phrase_split(Phrase(p.text, "en", "transcript")) for p in TEXTS["en"]} == {"train"}
    assert {phrase_split(p) for p in TEXTS["en"]} != {"train"}


def test_a_language_without_texts_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        make_plan(SyntheticConfig({"fr": 10}), TEXTS, make_voices(0))
    assert caught.value.code == "corpus_no_texts"


def test_an_interrupted_build_goes_on_and_gives_the_same_samples(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        build_synthetic(tmp_path / "a", CONFIG, TEXTS, should_stop=lambda: True)
    assert len(FeatureStore(tmp_path / "a")) == 10
    build_synthetic(tmp_path / "a", CONFIG, TEXTS)
    build_synthetic(tmp_path / "b", CONFIG, TEXTS, processes=2)
    first, second = FeatureStore(tmp_path / "a"), FeatureStore(tmp_path / "b")
    assert first.keys() == second.keys() and len(first) == 20
    for index in range(20):
        left, right = first[index], second[index]
        assert left["phones"] == right["phones"] and np.array_equal(left["phone_ends"], right["phone_ends"])
        assert left["phone_ends"][-1] == len(left["audio"]) == len(right["audio"])
        # The breath of breathy voices starts from memory that eSpeak does not clear; all the rest is exact.
        difference = left["audio"].astype(float) - right["audio"]
        assert difference.std() < (0.3 * left["audio"].std() if has_breath(left["speaker"]) else 1e-9)
    assert build_synthetic(tmp_path / "a", CONFIG, TEXTS).utterances.total() == 0
    splits = json.loads((tmp_path / "a" / FILE_NAME).read_text(encoding="utf-8"))
    assert set(first.column("speaker")) <= {name for names in splits["speakers"].values() for name in names}
    silent = first[0]["audio"][-200:]
    assert np.any(silent != 0)  # never exact digital silence


def test_speech_bounds_find_the_loud_part() -> None:
    wav = np.zeros(96000, np.float32)
    wav[32000:64000] = 0.3 * np.sin(np.arange(32000) * 0.05)
    start, stop, active = speech_bounds(wav)
    assert 24000 <= start <= 26000 and 70000 <= stop <= 72000
    assert active == pytest.approx(1.0, abs=0.05)
    assert speech_bounds(np.zeros(32000, np.float32))[2] == 0.0
    assert speech_bounds(np.zeros(3, np.float32)) == (0, 0, 0.0)


def test_absurd_clips_are_named() -> None:
    assert unfit_reason("hello there", ["h"] * 9, 1.0, 1.2) == ""
    assert unfit_reason("", [], 1.0, 1.2) == ""
    assert unfit_reason("hello", ["h"] * 5, 0.1, 1.0) == "no speech"
    assert unfit_reason("hello", ["h"] * 50, 1.0, 1.0) == "transcript too long for the audio"
    assert unfit_reason("hi", ["h"] * 2, 9.0, 9.0) == "transcript too short for the audio"
    assert unfit_reason("hi", ["h"], 40.0, 40.0) == "too long"
