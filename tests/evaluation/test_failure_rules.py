"""Each rule sees its failure and leaves sound speech alone; the calibration counts both."""

import json
import shutil

import numpy as np
import pytest

from modules.checkpoint import Lineage
from modules.errors import UserError
from modules.evaluation.failures import specimens
from modules.evaluation.failures.calibration import (
    PLANTS,
    Calibration,
    Specimen,
    calibrate,
    calibration_path,
    kind_of,
    planted,
    read_calibration,
    write_calibration,
)
from modules.evaluation.failures.paths import JUMP_COST, walk
from modules.evaluation.failures.rules import (
    RawSound,
    is_clipped,
    is_repeated,
    is_runaway,
    is_silent,
    judge_output,
    lost_run,
    raw_sound,
    run_threshold,
    said_again,
    usual_seconds,
    words_gone_wrong,
)
from modules.evaluation.failures.specimens import merged, unseen_voices
from modules.evaluation.recognizer import PhoneRecognizer, RecognizerConfig, save_recognizer
from modules.evaluation.sets import shipped
from modules.evaluation.sets.melody import measure_source
from modules.evaluation.sets.readings import PhoneReader
from modules.evaluation.sets.shipped import plain_sentences
from modules.inference.finishing import raw_levels
from tools import evaluate

PHONES = tuple("pbtdkɡmnfvszʃʒhlrjwieæɑɔuoaʌə")
RATE = 16000


def _sentence(seed: int, length: int = 40) -> list[str]:
    return [PHONES[i] for i in np.random.default_rng(seed).integers(0, len(PHONES), length)]


def _misheard(phones: list[str], seed: int, share: float = 0.1) -> list[str]:
    """A tenth wrong: substituted, left out or with another phone in front."""
    rng, heard = np.random.default_rng(seed), []
    for phone in phones:
        draw, other = rng.random(), PHONES[rng.integers(len(PHONES))]
        heard += [phone] if draw >= share else [[other], [], [other, phone]][int(3 * draw / share)]
    return heard


def test_a_walk_without_jumps_matches_what_is_equal() -> None:
    path = walk("abcdef", "abxdf")
    assert path.visits == ((0, 0), (1, 1), (2, 2), (3, 3), (5, 4)) and path.matched == (True, True, False, True, True)
    assert path.jumps == ()
    assert walk("", "ab").visits == () and walk("ab", "").visits == ()


def test_a_way_back_is_taken_where_a_stretch_is_said_again() -> None:
    text = "abcdefghijkl"
    path = walk(text, text[:9] + text[3:], JUMP_COST)
    assert path.jumps == ((9, 3),) and said_again(path) == 6
    assert walk(text, text, JUMP_COST).jumps == ()
    assert len(walk(text, text[:9] + text[3:9] + text[3:], JUMP_COST).jumps) == 2


def test_a_text_that_repeats_itself_is_no_failure() -> None:
    text = list("nonononononono")
    assert words_gone_wrong(text, text) == (0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_mishearing_alone_is_no_failure_and_planted_ones_are_seen(seed: int) -> None:
    phones = _sentence(seed)
    need = run_threshold(len(phones))
    lost, again = words_gone_wrong(phones, _misheard(phones, seed))
    assert lost < need and not is_repeated(again, len(phones))
    start, length = 5 + seed, 12
    cut = _misheard(phones[:start] + phones[start + length :], seed)
    assert words_gone_wrong(phones, cut)[0] >= need
    doubled = _misheard(phones[: start + length] + phones[start:], seed)
    assert is_repeated(words_gone_wrong(phones, doubled)[1], len(phones))
    assert words_gone_wrong(phones, doubled)[0] < need


def test_tones_do_not_count_as_lost() -> None:
    text = "m a1 x u2 n i3 l a4 s ə5 t i1".split()
    assert words_gone_wrong(text, [label.rstrip("12345") for label in text]) == (0, 0)


def test_a_chance_match_does_not_split_what_is_lost() -> None:
    text = list("abcdefghijklmnop")
    assert lost_run(text, walk(text, [*"ab", "x", "x", "e", "x", "x", "x", *"mnop"])) >= 8
    assert lost_run(text, walk(text, text)) == 0
    assert lost_run(text, walk(text, [])) == len(text)


def _voice(seconds: float, level: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (level * rng.standard_normal(int(seconds * RATE)).clip(-2.5, 2.5) / 2.5).astype(np.float32)


def test_no_end_no_speech_and_full_scale() -> None:
    assert not is_runaway(2.0, 2.0, ("eos",)) and is_runaway(5.1, 2.0, ("eos",))
    assert is_runaway(2.0, 2.0, ("eos", "limit")) and is_runaway(2.0, 2.0, ("guard",))
    assert not is_silent(_voice(2.0), RATE, 2.0)
    assert is_silent(_voice(0.5), RATE, 2.0) and is_silent(1e-4 * _voice(2.0), RATE, 2.0)
    assert is_silent(np.zeros(0, np.float32), RATE, 2.0)
    click = np.zeros(2 * RATE, np.float32)
    click[RATE : RATE + 40] = 0.5
    assert is_silent(click, RATE, 2.0)
    assert is_clipped(np.array([0.1, -1.0], np.float32)) and not is_clipped(_voice(1.0))
    assert usual_seconds("h a l o".split()) < usual_seconds("m a l o".split())


def test_of_a_short_text_all_and_of_a_long_one_a_clause_is_lost() -> None:
    short = list("ptk")
    assert judge_output(_voice(1.0), RATE, 1.0, (), short, ["m", "n"]).lost
    assert not judge_output(_voice(1.0), RATE, 1.0, (), short, ["p", "n"]).lost
    assert judge_output(_voice(1.0), RATE, 1.0, (), short, short * 2).repeated
    assert not judge_output(_voice(1.0), RATE, 1.0, (), ["a"], ["a"]).lost
    long = _sentence(3, 260)
    assert run_threshold(260) == 12 and words_gone_wrong(long, long) == (0, 0)
    assert judge_output(_voice(1.0), RATE, 1.0, (), long, long[:100] + long[150:]).lost
    assert judge_output(_voice(1.0), RATE, 1.0, (), long, long[:145] + long[100:]).repeated


@pytest.mark.parametrize("seed", range(4))
def test_swallowed_everywhere_and_babble_behind_are_failures(seed: int) -> None:
    phones = _sentence(seed)
    swallowed = [phone for i, phone in enumerate(phones) if i % 10 < 5]
    assert judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, swallowed).lost
    assert judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, _sentence(seed + 50)).lost
    babble = _sentence(seed + 90, 80)
    for tail in (12, 40, 80):
        heard = _misheard(phones, seed, 0.05) + babble[:tail]
        assert judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, heard).runaway, tail
    assert not judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, _misheard(phones, seed)).runaway


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("length", [8, 9])
def test_a_phrase_said_again_in_a_long_text_is_no_babble(seed: int, length: int) -> None:
    phones = _sentence(seed, 70)
    assert not is_repeated(length, len(phones)), "it is no clause of a text as long as this"
    again = phones[: 20 + length] + phones[20:]
    verdict = judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, again)
    assert verdict.repeated and not verdict.runaway and not verdict.lost
    babble = judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, phones + _sentence(seed + 50, length + 4))
    assert babble.runaway and not babble.repeated
    plain = judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, _misheard(phones, seed))
    assert not plain.repeated and not plain.runaway
    shorter = judge_output(_voice(3.0), RATE, 3.0, ("eos",), phones, phones[:26] + phones[20:])
    assert not shorter.repeated and not shorter.runaway


def test_what_levelling_hides_is_told_by_the_raw_sound() -> None:
    wav = _voice(2.0)
    assert is_silent(wav, RATE, 2.0, RawSound(0.0005, 0.0)) and not is_silent(wav, RATE, 2.0, RawSound(0.1, 0.0))
    assert is_clipped(wav, RawSound(0.1, 0.01)) and not is_clipped(wav, RawSound(0.1, 0.0001))
    # Nothing limits the decoder to full scale, and levelling brings down what is above it.
    loud = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert not is_clipped(wav, raw_sound(loud)) and is_clipped(wav, raw_sound(loud.clip(-1, 1)))
    flat = raw_levels(np.clip(3 * wav, -0.5, 0.5))
    assert flat["raw_peak"] == pytest.approx(0.5) and flat["raw_flat_share"] > 0.1
    assert raw_levels(np.zeros(0, np.float32)) == {"raw_peak": 0.0, "raw_rms": 0.0, "raw_flat_share": 0.0}


def test_without_an_ear_words_are_not_judged() -> None:
    verdict = judge_output(_voice(2.0), RATE, 2.0, ("eos",), _sentence(0), None)
    assert verdict.lost is None and verdict.repeated is None and not (verdict.runaway or verdict.silent)


class _Ear:
    """Reads phones that were written into the samples: one phone is 80 ms of one level."""

    sample_rate = RATE
    step = RATE * 8 // 100

    def hear(self, wavs: list[np.ndarray]) -> list[list[str]]:
        return [
            [PHONES[round(level * 100) - 10] for level in wav[: len(wav) // self.step * self.step : self.step].tolist()
             if 0.095 < level < 0.1 + len(PHONES) / 100 and round(level * 100) - 10 < len(PHONES)]
            for wav in wavs
        ]  # fmt: skip


def _specimen(seed: int) -> Specimen:
    phones = _sentence(seed, 30)
    levels = [(PHONES.index(phone) + 10) / 100 for phone in phones]
    # Each phone fades a little: a sound that is flat at its peak would be a clipped one.
    wav = np.outer(np.array(levels, np.float32), np.linspace(1, 0.9, _Ear.step, dtype=np.float32)).reshape(-1)
    return Specimen("en", wav, RATE, tuple(phones), np.arange(1, 31) * _Ear.step)


def test_calibration_speaks_in_voices_that_no_training_has_heard(tmp_path) -> None:
    voices = unseen_voices()
    assert len(voices.speakers) >= 20 and {speaker.split for speaker in voices.speakers} == {"test"}
    heard = {"speakers": {"train": [speaker.name for speaker in voices.speakers[:5]]}}
    (tmp_path / "splits.json").write_text(json.dumps(heard), encoding="utf-8")
    left = {speaker.name for speaker in unseen_voices([tmp_path]).speakers}
    assert len(left) == len(voices.speakers) - 5 and not left & set(heard["speakers"]["train"])


def test_every_plant_is_planted_and_counted(tmp_path) -> None:
    assert {kind_of(name) for name in PLANTS} == {"lost", "repeated", "runaway", "silent", "clipped"}
    assert set(planted(_specimen(0), 0)) == set(PLANTS)
    found = calibrate(_Ear(), [_specimen(seed) for seed in range(4)], "hash")
    values = found.languages["en"]
    assert values["error"]["rate"] == 0.0
    assert all(seen == 0 and of == 4 for seen, of in values["false_alarms"].values())
    assert all(seen == of == 4 for seen, of in values["hits"].values()), values["hits"]
    weights = tmp_path / "recognizer.safetensors"
    write_calibration(weights, found)
    assert read_calibration(weights, "hash") == found
    assert read_calibration(weights, "other weights") is None and read_calibration(None, "hash") is None
    calibration_path(weights).write_text("{", encoding="utf-8")
    assert read_calibration(weights, "hash") is None
    assert Calibration("x").languages == {}


def test_a_calibration_of_one_language_leaves_the_others() -> None:
    keys = {clip.language: clip.key for clip in plain_sentences()}
    before = Calibration("hash", {"en": {"error": 1}, "de": {"error": 2}}, (keys["en"], keys["de"]), {"de-en": (1, 2)})
    found = Calibration("hash", {"en": {"error": 3}})
    both = merged(before, found)
    assert both.languages == {"en": {"error": 3}, "de": {"error": 2}} and both.switching == {"de-en": (1, 2)}
    # Its error is no longer that of its written sentences.
    assert both.sentences == (keys["de"],)
    assert merged(before, Calibration("other", {"en": {}})) == Calibration("other", {"en": {}})
    assert merged(None, found) == found


class _Mute(PhoneReader):
    """As where eSpeak NG is missing."""

    engine = None


def test_without_source_audio_nothing_is_calibrated(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "recognizer.safetensors"
    save_recognizer(weights, PhoneRecognizer(RecognizerConfig(), ("a", "b")), Lineage("tiny", "recognizer", 0, 0))
    monkeypatch.setattr(specimens, "PhoneReader", _Mute)
    with pytest.raises(UserError) as caught:
        specimens.measure(weights, specimens.Source())
    assert caught.value.code == "calibration_no_audio"
    calibration_path(weights).write_text("kept", encoding="utf-8")
    assert evaluate.main(["calibrate", "--recognizer", str(weights)]) == 2
    assert calibration_path(weights).read_text(encoding="utf-8") == "kept"


def test_texts_that_cannot_be_read_keep_their_phones(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in shipped.NAMES:
        shutil.copyfile(shipped.FOLDER / f"{name}.json", tmp_path / f"{name}.json")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    before = {name: (tmp_path / f"{name}.json").read_bytes() for name in shipped.NAMES}
    with pytest.raises(UserError) as caught:
        shipped.read_again(_Mute())
    assert caught.value.code == "judge_sentences_unread"
    measure_source(_Mute())
    assert {name: (tmp_path / f"{name}.json").read_bytes() for name in shipped.NAMES} == before

    class English(_Mute):
        def phones(self, text: str, language: str) -> tuple[str, ...] | None:
            return ("a", "b") if language == "en" else None

    assert shipped.read_again(English())["plain"] == 12
    read = shipped.texts_in(shipped.load_set("plain"))
    assert {part["phones"] for part in read if part["language"] == "en"} == {"a b"}
    assert all(len(part["phones"].split()) >= 12 for part in read if part["language"] != "en")
