"""Texts and voices that come with the judge or are one's own, and the parts that have texts of their own."""

import json
import math
from argparse import Namespace
from collections import Counter
from dataclasses import make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from modules.corpus.cleaning import phrase_key
from modules.errors import UserError
from modules.evaluation import intelligibility
from modules.evaluation.clips import LANGUAGES
from modules.evaluation.ears.hearing import Ear
from modules.evaluation.failures.calibration import Calibration
from modules.evaluation.failures.rules import Verdict
from modules.evaluation.judging import Judge, JudgeOptions, Request, guard_option, open_judge, run_part
from modules.evaluation.results import Ledger
from modules.evaluation.sets import leak, melody, plausible, switching
from modules.evaluation.sets.references import folder_clips, listed_clips
from modules.evaluation.sets.robust_references import in_noise, telephone
from modules.evaluation.sets.shipped import load_set, plain_sentences, texts_in, written_clip
from modules.evaluation.shares import share_of
from modules.evaluation.speaking import Spoken
from modules.evaluation.voices import centroid
from tests.tiny import build_tiny_model_folder, synthetic_speech, write_wav
from tools import corpus as corpus_command


def test_twelve_sentences_of_twelve_languages_each_with_its_phones() -> None:
    clips = plain_sentences()
    assert {language: sum(c.language == language for c in clips) for language in LANGUAGES} == dict.fromkeys(
        LANGUAGES, 12
    )
    assert len({clip.key for clip in clips}) == 144
    assert all(len(clip.phones) >= 12 and not clip.has_sound and clip.seconds > 1 for clip in clips)


def test_the_other_sets_are_whole() -> None:
    assert len(load_set("melody")) == 50 and len({entry["language"] for entry in load_set("melody")}) == 4
    for entry in load_set("melody"):
        statement, question = entry["source_semitones"]
        clear = melody.SOURCE_SEMITONES
        assert question - statement >= clear and statement < clear and question > -clear, entry
    assert len({entry["pair"] for entry in load_set("switching")}) == 10
    assert all(part["phones"] for name in ("switching", "plausible") for part in texts_in(load_set(name)))
    kinds = [entry["kind"] for entry in load_set("plausible")]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("word", "letter", "digits", "abbreviation", "emoji", "unbroken"), 10
    )
    unbroken = [entry["text"] for entry in load_set("plausible") if entry["kind"] == "unbroken"]
    assert all(len(text) >= 300 and not set(text) & set(".!?。！？") for text in unbroken)


def test_no_corpus_takes_in_what_models_are_judged_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.txt"
    sentence = next(clip.text for clip in plain_sentences() if clip.language == "en")
    own.write_text(sentence + "\nA sentence that nobody is judged with.\n", encoding="utf-8")
    monkeypatch.setattr(corpus_command, "SHARE", tmp_path)
    arguments = Namespace(text_file=[f"en={own}"], manifest=[], share=[], seed=0, processes=1)
    texts = {phrase.text for phrase in corpus_command._texts(arguments, ["en"])["en"]}
    assert "A sentence that nobody is judged with." in texts and sentence not in texts
    judged = {phrase_key(entry[kind]) for entry in load_set("melody") for kind in melody.KINDS}
    assert not judged & {phrase_key(text) for text in texts}


def test_each_part_of_a_line_has_its_own_error() -> None:
    first, second = list("abcdefgh"), list("pqrstuvw")
    assert switching.part_errors([first, second], first + second) == [0.0, 0.0]
    wrong = switching.part_errors([first, second], first + list("xyxyxyxy"))
    assert wrong[0] == 0.0 and wrong[1] == 1.0
    assert switching.part_errors([first, second], [])[0] == 1.0
    assert switching.part_errors([first, second], [*"abcd", "z", *"efgh", *second]) == [1 / 8, 0.0]


def test_the_melody_at_the_end_has_a_direction() -> None:
    pytest.importorskip("pyworld")
    for rise in (4.0, -4.0):
        times = np.arange(16000) / 16000
        f0 = 140 * 2 ** (rise * np.clip((times - 0.8) / 0.2, 0, 1) / 12)
        phase = 2 * np.pi * np.cumsum(f0) / 16000
        wav = sum(np.sin(k * phase) / k for k in range(1, 10)).astype(np.float32) * 0.2
        assert melody.end_movement(wav) == pytest.approx(rise, abs=1.2)
    assert math.isnan(melody.end_movement(np.zeros(8000, np.float32)))
    assert melody.compare([-1.0, 2.0], [-2.0, 3.0]) == (True, True)
    assert melody.compare([1.0, 2.0], [-2.0, 3.0]) == (False, True)
    assert melody.compare([-1.0, math.nan], [-2.0, 3.0]) == (False, False)
    assert melody.compare([1.0, 1.0], [0.1, 0.2]) == (None, None)
    assert melody.compare([-0.1, 0.1], [-2.0, 3.0]) == (False, False)


def test_words_of_the_reference_are_found_and_own_words_are_not() -> None:
    text, reference = list("the cat sat on a mat"), list("every evening my neighbour")
    assert leak.leaked_run(text, text, reference) < leak.LEAKED_PHONES
    assert leak.leaked_run(text, list("neighbour") + text, reference) >= leak.LEAKED_PHONES
    assert leak.leaked_run(reference, reference, reference) == 0


def test_poor_references_are_narrow_and_noisy() -> None:
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(32000)).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(telephone(wav, 16000))))
    hz = np.fft.rfftfreq(32000, 1 / 16000)
    inside = power[(hz > 500) & (hz < 3000)].mean()
    assert power[hz > 4200].mean() < 1e-3 * inside and power[hz < 100].mean() < 1e-2 * inside
    noise = in_noise(wav, 15.0) - wav
    assert 10 * np.log10(np.mean(wav**2) / np.mean(noise**2)) == pytest.approx(15, abs=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    build_tiny_model_folder(place / "models")
    return place


class _Ear:
    sample_rate = 16000

    def hear(self, wavs: list[np.ndarray]) -> list[list[str]]:
        return [["a", "b"] for _ in wavs]


@pytest.fixture
def judge(folder: Path) -> Judge:
    """Without any corpus: two languages, one of which the ear knows."""
    options = JudgeOptions(folder / "models", count=1, languages=("en", "de"), device="cpu")
    judge = open_judge(options, folder / "out")
    known = {"error": {"rate": 0.1}, "toneless": {"rate": 0.1}, "false_alarms": {"lost": [1, 10]}}
    deaf = {**known, "error": {"rate": 0.8}}
    calibration = Calibration("x", {"en": known, "de": deaf}, tuple(clip.key for clip in plain_sentences()))
    judge.__dict__["ear"] = Ear(_Ear(), calibration, ("en",), judge.ledger("heard"), "x")
    judge.__dict__["embedder"] = lambda wav: centroid([np.abs(np.fft.rfft(wav[:4000], 4000))[:200] + 1e-3])
    return judge


def test_sentences_and_voices_take_turns_or_meet_each_other(folder: Path) -> None:
    def requests(**options: int) -> list:
        chosen = JudgeOptions(folder / "models", languages=("en", "de"), **options)
        return open_judge(chosen, folder / "turns").requests["given"]

    turns = requests(count=4)
    assert [request.sentence.language for request in turns[:4]] == ["en", "de", "en", "de"]
    assert len(turns) == 8 and len({request.reference.key for request in turns}) == 4
    each = requests(per_voice=3)
    assert len(each) == 4 * 2 * 3 and len({(r.sentence.key, r.reference.key) for r in each}) == len(each)


def test_without_a_corpus_the_written_sentences_are_spoken(judge: Judge) -> None:
    pytest.importorskip("pocketsphinx")
    values = run_part("intelligibility", judge).values["given"]
    assert values["en"]["output"]["items"] == 1 and values["en"]["floor"]["rate"] == 0.1
    assert values["en"]["chance"] is None and values["en"]["output"]["low"] is None
    assert values["de"]["output"] is None and "80 %" in values["de"]["reason"]
    failures = run_part("failures", judge).values
    assert failures["default"]["lost"]["of"] == 1 and failures["default"]["lost"]["floor"] == 0.1
    assert failures["default"]["runaway"]["of"] == 2 and failures["default"]["languages"]["de"]["lost"]["rate"] is None
    assert set(failures["deaf"]) == {"de"}


def test_the_parts_with_texts_of_their_own(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: load_set(name)[:2] for name in ("plausible", "melody", "switching")}
    for module in (plausible, melody):
        monkeypatch.setattr(module, "load_set", few.__getitem__)
    spoken = run_part("plausible", judge).values
    assert spoken["all"]["of"] == 2 and all("why" in item for item in spoken["items"])
    assert run_part("leak", judge).values["leaked"]["of"] == 1
    assert run_part("switching", judge).values["pairs"]["de-en"]["reason"]
    drift = run_part("drift", judge).values
    assert drift["ratio"] is None or drift["ratio"]["count"] == 2
    pytest.importorskip("pyworld")
    assert len(run_part("melody", judge).values["items"]) == 2


def test_poor_references_are_spoken_from(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.evaluation.sets import robust_references

    monkeypatch.setattr(robust_references, "SENTENCES", 1)
    monkeypatch.setattr(robust_references, "VOICES", 1)
    found = run_part("robust_references", judge)
    assert found.values["clean"]["lost"]["mean"] == 0.0 and found.values["telephone"]["similarity"]["count"] == 1
    assert found.tables[0].rows[1][3].endswith("(-)")


def test_copies_have_a_distance(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.evaluation import copies

    monkeypatch.setattr(copies, "RECORDINGS", 1)
    found = run_part("copies", judge).values
    assert found["from tokens"]["mean"] > 0 and found["from the posterior"]["reason"]


def test_guards_that_cannot_be_chosen_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.inference import options

    assert guard_option("") == {}
    monkeypatch.setattr(options, "SpeakOptions", make_dataclass("Plain", ["seed"]))
    with pytest.raises(UserError) as caught:
        guard_option("both")
    assert caught.value.code == "judge_no_guards"
    monkeypatch.setattr(options, "SpeakOptions", make_dataclass("Guarded", ["seed", "guards"]))
    assert guard_option("both") == guard_option("on") == {"guards": True} and guard_option("off") == {"guards": False}


def test_with_and_without_guards_stand_beside_each_other(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.evaluation import judging
    from modules.evaluation.failures import outputs
    from modules.evaluation.report.document import build

    pauses, paused, say, verdict_of = {"on": 0.2, "off": 0.4}, {}, judge.speaker.say, outputs.verdict_of

    def note(*wanted, pause_seconds: float) -> Spoken:
        output = say(*wanted, pause_seconds=pause_seconds)
        paused[output.key] = pause_seconds
        return output

    def fail_without(judge: Judge, request: Request, output: Spoken) -> Verdict:
        return replace(verdict_of(judge, request, output), runaway=paused[output.key] == pauses["off"])

    monkeypatch.setattr(judging, "guard_option", lambda guards: {"pause_seconds": pauses[guards]})
    monkeypatch.setattr(judge.speaker, "say", note)
    monkeypatch.setattr(outputs, "verdict_of", fail_without)
    judge.options = replace(judge.options, guards="both")
    finding = run_part("failures", judge)
    assert [table.title for table in finding.tables] == ["Failures, guards on", "Failures, guards off"]
    wavs = [{item["wav"] for item in finding.values[name]["items"]} for name in ("on", "off")]
    assert all(wavs) and not wavs[0] & wavs[1] and len(paused) == 4
    document = build(judge, {"failures": finding.values}, {})
    assert document["runaway_rate"] == 0.0 and document["without_guards"]["runaway_rate"] == 1.0
    assert document["settings"]["guards"] == "both" and document["floors"]["lost_rate"] == 0.1


def test_one_refusal_ends_nothing(folder: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "voices" / "mute.wav", np.zeros(48000, np.float32))
    write_wav(tmp_path / "voices" / "anna.wav", synthetic_speech(3.0))
    (tmp_path / "texts.txt").write_text("EN|!!!\nen-GB|a word\nen|another word\n", encoding="utf-8")
    options = JudgeOptions(
        folder / "models", languages=("en",), texts=tmp_path / "texts.txt", references=tmp_path / "voices", per_voice=3,
        device="cpu", guards="both",
    )  # fmt: skip
    judge = open_judge(options, folder / "refused")
    judge.check()
    spoken = judge.say_all("given", "on")
    assert {request.reference.speaker for request, _ in spoken} == {"anna"} and len(spoken) == 2
    assert {told["code"] for told in judge.refused.values()} >= {"text_unspeakable"} and len(judge.refused) == 4
    # Who asks without naming the guards gets those of the first of the two passes.
    assert judge.say_all("given") is spoken and judge.spoken_count("given") == 2


def test_recordings_that_cannot_be_read_are_left_out(folder: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "anna.wav", synthetic_speech(3.0))
    (tmp_path / "empty.wav").touch()
    (tmp_path / "torn.mp3").write_bytes(b"no sound at all" * 20)
    (tmp_path / "._anna.wav").write_bytes(b"\0\5\x16\7" * 20)
    judge = open_judge(JudgeOptions(folder / "models", references=tmp_path, device="cpu"), folder / "left")
    assert [voice.speaker for voice in judge.given_voices] == ["anna"]
    assert {told["voice"]: told["code"] for told in judge.refused.values()} == {
        "empty.wav": "audio_empty", "torn.mp3": "audio_unreadable",
    }  # fmt: skip
    (tmp_path / "my.list").write_text("empty.wav|E|EN|a\nanna.wav|A|EN|b\n", encoding="utf-8")
    assert [clip.speaker for clip in listed_clips(tmp_path / "my.list")] == ["A"]
    (tmp_path / "anna.wav").unlink()
    with pytest.raises(UserError) as caught:
        folder_clips(tmp_path)
    assert caught.value.code == "audio_empty"


def test_a_silent_voice_is_refused_and_not_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav(tmp_path / "anna.wav", synthetic_speech(3.0))
    write_wav(tmp_path / "mute.wav", np.zeros(96000, np.float32))
    options = JudgeOptions(folder / "models", languages=("en",), references=tmp_path, device="cpu")
    judge = open_judge(options, folder / "silent")
    few = load_set("plausible")[:2]
    monkeypatch.setattr(plausible, "load_set", lambda name: [{**entry, "language": "en"} for entry in few])
    values = run_part("plausible", judge).values
    assert [item["voice"] for item in values["items"]] == ["anna", "anna"] and values["all"]["of"] == 2
    assert [told["voice"] for told in judge.refused.values()] == ["mute"]
    copied = run_part("copies", judge).values["from tokens"]["items"]
    assert [item["voice"] for item in copied] == ["anna"] and math.isfinite(copied[0]["nepers"])


def test_nothing_to_judge_is_told(folder: Path, tmp_path: Path) -> None:
    for code, options in (
        ("judge_nothing", JudgeOptions(folder / "models", languages=("xx",))),
        ("judge_recordings_need_corpus", JudgeOptions(folder / "models", manifest=tmp_path / "m.tsv")),
    ):
        with pytest.raises(UserError) as caught:
            open_judge(options, folder / "none").check()
        assert caught.value.code == code
    (tmp_path / "voices").mkdir()
    write_wav(tmp_path / "voices" / "a.wav", synthetic_speech(1.0))
    (tmp_path / "voices" / "a.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(UserError) as caught:
        folder_clips(tmp_path / "voices")
    assert caught.value.code == "words_unreadable"


def test_floors_are_those_of_the_sentences_judged(judge: Judge) -> None:
    judge.ear.calibration = replace(judge.ear.calibration, sentences=())
    failures = run_part("failures", judge).values["default"]
    assert failures["lost"]["floor"] is None and failures["runaway"]["floor"] is None
    assert failures["lost_or_repeated"]["of"] == failures["lost"]["of"] == 1


def test_an_ear_knows_what_its_weights_or_its_calibration_say(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "heard.jsonl")
    assert "calibrate" in Ear(_Ear(), None, (), ledger).deaf("en")
    assert Ear(_Ear(), None, ("en",), ledger).deaf("en") == "" and Ear(_Ear(), None, ("en",), ledger).deaf("fr")
    # A calibration of one language says nothing of the others that the weights were trained on.
    one = Ear(_Ear(), Calibration("x", {"en": {"error": {"rate": 0.1}}}), ("en", "de"), ledger)
    assert one.deaf("en") == one.deaf("de") == "" and "trained" in one.deaf("fr")


def test_leaks_are_looked_for_in_all_groups_and_languages(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(number: int, language: str) -> Request:
        clip = written_clip(f"{language} {number}", language, ("a", "b"))
        return Request(clip, replace(clip, key=f"voice{number}", speaker=f"v{number}"))

    wanted = {group: [request(i, tag) for tag in ("en", "it") for i in range(200)] for group in ("synthetic", "real")}
    output = make_dataclass("Output", ["key"])("x")
    monkeypatch.setattr(judge, "say_all", lambda group: [(asked, output) for asked in wanted.get(group, [])])
    known = judge.ear.calibration.languages["en"]
    judge.ear.calibration = replace(judge.ear.calibration, languages={"en": known, "it": known})
    asked = leak._asked(judge)
    counts = Counter((group, request.sentence.language) for group, request, _ in asked)
    assert len(asked) == 100 and set(counts.values()) == {25} and len(counts) == 4


def test_chance_draws_of_one_voice_are_no_independent_tries(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five draws look at each output."""
    runs = [leak.LEAKED_PHONES if number < 4 else 0 for number in range(20)]
    items = [
        {"voice": f"v{number // 4}", "language": "en", "group": "given", "leaked": False, "chance_runs": [run] * 5}
        for number, run in enumerate(runs)
    ]
    monkeypatch.setattr(leak, "_asked", lambda judge: [(item,) for item in items])
    monkeypatch.setattr(leak, "_item", lambda judge, item: item)
    finding = leak.judge_leak(judge)
    chance, alone = finding.values["chance"], share_of([run > 0 for run in runs for _ in range(5)]).values()
    assert (chance["rate"], chance["count"], chance["of"]) == (0.2, 20, 100)
    assert chance["low"] < alone["low"] - 0.05 and chance["high"] > alone["high"] + 0.1
    assert f"{100 * chance['high']:.1f}" in finding.tables[0].rows[1][1]


def test_chance_needs_another_sentence() -> None:
    def spoken(*texts: str) -> list:
        return [(Request(written_clip(text, "en", tuple(text)), None), None) for text in texts]

    assert intelligibility._another(spoken("ab", "cd"), 0).text == "cd"
    assert intelligibility._another(spoken("ab", "ab"), 0) is None


def test_a_missing_ear_says_so(folder: Path) -> None:
    judge = open_judge(JudgeOptions(folder / "models", languages=("en",), count=1, device="cpu"), folder / "deaf")
    assert "--recognizer" in judge.ear.deaf("en")
    assert json.dumps(run_part("failures", judge).values["default"]["lost"]["rate"]) == "null"


def test_a_text_that_is_refused_is_no_plausible_speech(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plausible, "load_set", lambda name: load_set(name)[:2])
    monkeypatch.setattr(judge, "attempt", lambda group, request: None)
    values = run_part("plausible", judge).values
    assert values["all"]["of"] == 2 and values["all"]["count"] == 0
    assert {item["why"] for item in values["items"]} == {"refused"}
