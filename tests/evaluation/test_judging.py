"""Laws of the judge: line-ups, pitch, spectrum, blends, held-out choices, and one whole small judgement."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.checkpoint import Lineage, load_weights, save_weights
from modules.corpus.phones import INVENTORY
from modules.corpus.recognition import Recognition, RecognitionOptions
from modules.data.store import StoreWriter
from modules.errors import UserError
from modules.evaluation import fusion, odd, speed, tokens
from modules.evaluation.clips import Clip, own_reference, real_clips, sentences, voice_tests
from modules.evaluation.ears import whisper
from modules.evaluation.ears.hearing import Ear
from modules.evaluation.failures import outputs
from modules.evaluation.failures.calibration import Calibration
from modules.evaluation.fusion import unlike_pairs
from modules.evaluation.judging import Judge, JudgeOptions, open_judge, run_part
from modules.evaluation.packages import need
from modules.evaluation.results import Finding, Ledger, Table, plain, write_finding, write_report
from modules.evaluation.sound import band_levels_db
from modules.evaluation.voices import centroid
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import load_tokenizer, save_tokenizer
from modules.vits2.model import VITS2, load_vits2, save_vits2
from tests.evaluation.vectors import unit_vectors
from tests.tiny import build_tiny_model_folder, synthetic_speech, tiny_preset, write_wav
from tools import evaluate


def _clip(number: int, speaker: str, seconds: float = 4.0, language: str = "en", gender: str = "") -> Clip:
    text = f"sentence {number}"
    return Clip(f"{number:032x}", speaker, language, text, seconds, "synthetic", gender, ("a", "b"))


def test_unlike_pairs_use_every_voice_once_the_least_alike_first() -> None:
    tests = voice_tests([_clip(i, f"s{i // 2}") for i in range(12)], 6, 0)
    embeddings = unit_vectors(np.random.default_rng(2), 6)
    pairs = unlike_pairs(tests, embeddings, 10)
    names = [name for pair in pairs for name in (pair.first.speaker, pair.second.speaker)]
    assert len(pairs) == 3 and len(set(names)) == 6
    scores = embeddings @ embeddings.T
    assert pairs[0].similarity == pytest.approx(scores.min())


def test_curves_are_summed_up_by_direction() -> None:
    good = [[0.9, 0.8, 0.7, 0.6, 0.5], [0.4, 0.5, 0.6, 0.7, 0.8]]
    bad = [[0.9, 0.5, 0.7, 0.6, 0.5], [0.4, 0.5, 0.6, 0.7, 0.8]]
    summary = fusion._summary(np.array([good, bad]))
    assert (summary["monotone_first"], summary["monotone_second"], summary["monotone_both"]) == (1, 2, 1)
    assert summary["right_steps"] == pytest.approx(15 / 16)


def test_references_are_other_clips_of_the_speaker_in_the_language() -> None:
    clips = [_clip(0, "s", 3.0), _clip(1, "s", 5.0), _clip(2, "s", 5.0, "de"), _clip(3, "t", 5.0), _clip(4, "u", 5.0)]
    assert own_reference(clips[0], clips).key == clips[1].key
    assert own_reference(clips[2], clips).key == clips[1].key
    assert own_reference(clips[4], clips) is None


def test_sentences_are_distinct_seeded_and_of_one_language() -> None:
    clips = [_clip(i, "s", language="en" if i % 2 else "de") for i in range(20)]
    chosen = sentences([*clips, *clips], "en", 3)
    assert len(chosen) == 10 and {clip.language for clip in chosen} == {"en"}
    assert chosen == sentences(clips[::-1], "en", 3) != sentences(clips, "en", 4)


def test_women_and_men_take_turns() -> None:
    clips = [_clip(i, f"s{i // 2}", gender="male" if i < 16 else "female") for i in range(20)]
    chosen = voice_tests(clips, 4, 0)
    assert sorted(test.gender for test in chosen) == ["female", "female", "male", "male"]
    assert all(test.reference.key not in {c.key for c in test.others} for test in chosen)


def _manifest(folder: Path) -> Path:
    header = "path split speaker language seconds transcript gender".split()
    rows = [
        [f"{speaker}_{n}.wav", split, speaker, "en", "3.0", f"Real words number {n}.", "male"]
        for speaker, split in (("anna", "test"), ("bert", "test"), ("carl", "train"), ("kerstin", "test"))
        for n in range(2)
    ]
    for number, row in enumerate(rows):
        write_wav(folder / row[0], synthetic_speech(3.0, f0_hz=110 + 25 * number, seed=number))
    with open(folder / "manifest.tsv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return folder / "manifest.tsv"


def test_real_speakers_of_training_are_left_out(tmp_path: Path) -> None:
    found = real_clips(_manifest(tmp_path), None)
    assert {clip.speaker for clip in found} == {"anna", "bert"}
    with pytest.raises(UserError) as caught:
        real_clips(tmp_path / "none.tsv", None)
    assert caught.value.code == "manifest_missing"


def test_a_ledger_survives_a_torn_line(tmp_path: Path) -> None:
    Ledger(tmp_path / "x.jsonl").put("a", {"value": 1})
    with open(tmp_path / "x.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": "b", "val')
    assert Ledger(tmp_path / "x.jsonl").get("a") == {"value": 1} and len(Ledger(tmp_path / "x.jsonl")) == 1


def test_findings_are_written_for_machines_and_people(tmp_path: Path) -> None:
    table = Table("Title", ("a", "b"), ((1, 0.5), ("x|y", math.nan)), "note")
    write_finding(tmp_path, Finding("odd", {"number": np.float32(0.5), "none": math.nan}, (table,)))
    assert '"none": null' in (tmp_path / "odd.json").read_text()
    report = write_report(tmp_path, ("odd", "speed"), "# Head").read_text()
    assert "| 1 | 0.500 |" in report and "x\\|y" in report and report.startswith("# Head")


def test_a_missing_package_names_the_remedy() -> None:
    with pytest.raises(UserError) as caught:
        need("no_such_package_of_the_judge")
    assert caught.value.code == "judge_package_missing" and "requirements-judge.txt" in str(caught.value)


COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "orange")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny system, a corpus of two voices and two real speakers; outputs are kept from test to test."""
    folder = tmp_path_factory.mktemp("judge")
    with StoreWriter(folder / "corpus") as writer:
        for number in range(8):
            wav = synthetic_speech(3.0, 22050, 120 + 60 * (number % 2), number)
            writer.add(
                f"{number:032x}", speaker=f"voice{number % 2}", language=("en", "de")[number // 4], split="test",
                text=f"quick {COLOURS[number]} fox", seconds=3.0, source="synthetic", licence="", sample_rate=22050,
                audio=(wav * 32767).astype(np.int16), phones="_ a b c _", phone_ends=np.zeros(0, np.int32),
            )  # fmt: skip
    (folder / "real").mkdir()
    _manifest(folder / "real")
    build_tiny_model_folder(folder / "models")
    preset = tiny_preset()
    shipped = load_vits2(folder / "models" / "vits2.safetensors")
    whole = VITS2(preset.vits2, preset.audio, shipped.codebook_sizes, shipped.text_vocab, shipped.token_rate)
    whole.load_state_dict(shipped.state_dict(), strict=False)
    save_vits2(folder / "whole" / "vits2.safetensors", whole, Lineage("tiny", "vits2", 0, 0), include_posterior=True)
    head = SemanticTokenizer(preset.tokenizer, ("a", "b", "c"))
    head.load_state_dict(load_tokenizer(folder / "models" / "s3.safetensors").state_dict(), strict=False)
    save_tokenizer(folder / "whole" / "s3.safetensors", head, Lineage("tiny", "tokenizer", 0, 0))
    return folder


@pytest.fixture
def judge(place: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge whose ear for voices looks at the spectrum."""
    options = JudgeOptions(
        place / "models", (place / "corpus",), place / "real" / "manifest.tsv",
        whole=place / "whole", count=1, voices=2, device="cpu",
    )  # fmt: skip
    judge = open_judge(options, place / "out")
    judge.__dict__["embedder"] = lambda wav: centroid([10 ** (band_levels_db(wav, 16000, range(0, 8000, 500)) / 20)])
    monkeypatch.setattr(fusion, "SENTENCES", 1)
    monkeypatch.setattr(fusion, "WEIGHTS", (1.0, 0.5, 0.0))
    monkeypatch.setattr(fusion, "MODES", {"both": {}})
    return judge


def test_a_request_is_answered_once_and_survives_a_new_judge(judge: Judge) -> None:
    first = judge.say_all("synthetic")
    assert len(first) == 2 and len(judge.requests["real"]) == 4
    assert {request.sentence.speaker for request, _ in first} == {request.reference.speaker for request, _ in first}
    again = open_judge(judge.options, judge.folder)
    again.speaker._speak = None  # would fail if anything had to be spoken
    assert [spoken for _, spoken in again.say_all("synthetic")] == [spoken for _, spoken in first]
    assert all(spoken.seconds > 0 and spoken.frames > 0 and spoken.text_units > 0 for _, spoken in first)


def test_a_small_judgement_runs_to_its_tables(judge: Judge) -> None:
    pytest.importorskip("pyworld")
    for part in ("sound", "fusion", "voices"):
        finding = run_part(part, judge)
        assert finding.part == part and all(table.rows for table in finding.tables)
        write_finding(judge.folder, finding)
        assert (judge.folder / f"{part}.md").is_file()
        if part == "sound":
            shape = plain(finding.values["real"])
            bands = zip(shape["band_difference_db"], shape["band_intervals_db"], strict=True)
            told = [low <= mean <= high for mean, (low, high) in bands if low is not None]
            assert len(shape["band_outputs"]) == 8 and told and all(told)
    assert "copy-synthesis" in finding.values["real"]
    ends = run_part("fusion", judge).values["ends"]
    assert ends["equal"] == ends["pairs"] == 1


def test_odd_texts_are_spoken_or_refused_and_speed_is_timed(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odd, "TEXTS", {"empty": "  ", "one word": "Hi", "emoji": "😀"})
    monkeypatch.setattr(speed, "ROUNDS", 1)
    monkeypatch.setattr(speed, "THREADS", (1,))
    found = run_part("odd", judge).values
    assert found["crashes"] == 0
    assert found["texts"][0]["result"].startswith("refused")
    values = run_part("speed", judge).values
    assert values["one reference, 1 threads"][0]["sound"] > 0


def test_the_tool_tells_a_mistake_in_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--corpus", str(place / "corpus"), "--output", str(tmp_path), "--device", "cpu"]
    assert evaluate.main(["odd", *flags, "--models", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_phones_are_judged_by_any_recogniser(judge: Judge) -> None:
    pytest.importorskip("pocketsphinx")

    class Deaf:
        sample_rate = 16000
        languages = ("en", "de")

        def hear(self, wavs: list[np.ndarray]) -> list[list[str]]:
            return [["a", "b"] for _ in wavs]

    judge.__dict__["recognizer"] = Deaf()
    values = run_part("intelligibility", judge).values
    assert values["synthetic"]["en"]["output"]["rate"] == pytest.approx(1 / 3)
    assert values["synthetic"]["de"]["floor"]["rate"] == pytest.approx(1 / 3)
    assert set("abc") <= set(INVENTORY)


def test_halves_are_judged_apart(judge: Judge) -> None:
    pytest.importorskip("pocketsphinx")
    finding = run_part("tokens", judge)
    assert set(finding.values["decoder"]) == {"source audio", "true tokens, own voice", "true tokens, another voice"}
    found = finding.values["language_model"]
    assert set(found) == {"true tokens", "no prompt", "synthetic voice", "recorded voice"}
    assert set(found["true tokens"]) == {"en", "de", "mean"}
    reader = judge.token_reader
    first = next(output for _, output in judge.say_all("synthetic")).content()[0]
    with torch.inference_mode():
        best = reader.label_logits(torch.from_numpy(first).long()[None])[0].argmax(-1)
    assert tokens._labels(reader, best.tolist()) == tokens._labels(reader, [0, *best.tolist(), 0])
    assert tokens._labels(reader, [0, 1, 1, 0, 1, 2, 0, 3, 3]) == ["a", "a", "b", "c"]


def test_without_a_recogniser_the_remedy_is_told(judge: Judge) -> None:
    with pytest.raises(UserError) as caught:
        _ = judge.recognizer
    assert caught.value.code == "judge_no_recognizer"


def _german(place: Path, **options: object) -> Judge:
    """A judge of the written sentences that knows no English one."""
    chosen = JudgeOptions(place / "models", count=1, languages=("de",), device="cpu", **options)
    judge = open_judge(chosen, place / "german")
    judge.__dict__["embedder"] = lambda wav: centroid([10 ** (band_levels_db(wav, 16000, range(0, 8000, 500)) / 20)])
    return judge


def test_parts_speak_a_language_that_is_judged(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SENTENCES", 1), ("WEIGHTS", (1.0, 0.0)), ("MODES", {"both": {}}), ("PAIRS", 1)):
        monkeypatch.setattr(fusion, name, value)
    for name, value in (("ROUNDS", 1), ("THREADS", (1,)), ("SENTENCES", 1)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(odd, "TEXTS", {})
    said = []
    monkeypatch.setattr(odd, "_try_reference", lambda judge, path, told, line: said.append(line) or {"result": ""})
    speech = place / "odd"
    speech.mkdir()
    (speech / "manifest.tsv").write_text("path\tkind\ttranscript\nx.wav\todd\t\n", encoding="utf-8")
    judge = _german(place, speech=speech)
    judge.__dict__["real_voices"] = []
    german = {clip.text for clip in judge.lines("de")}
    assert german and not judge.lines("en")
    assert run_part("fusion", judge).values["ends"]["pairs"] == 1
    assert run_part("speed", judge).values["one reference, 1 threads"][0]["sound"] > 0
    run_part("odd", judge)
    assert set(said) < german
    judge.__dict__.update(written=[], languages=[])
    for part in ("fusion", "speed", "odd"):
        with pytest.raises(UserError) as caught:
            run_part(part, judge)
        assert caught.value.code == "judge_no_sentence"


def test_a_blend_needs_two_voices(place: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "anna.wav", synthetic_speech(3.0))
    with pytest.raises(UserError) as caught:
        run_part("fusion", _german(place, references=tmp_path))
    assert caught.value.code == "judge_too_few_voices" and caught.value.fields["count"] == 1


def test_a_part_that_fails_leaves_the_others_their_report(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    broken = UserError("anything", "This part cannot be measured.")

    def one(part: str, judge: Judge) -> Finding:
        if part != "drift":
            raise broken
        return Finding("drift", {"items": [], "ratio": None}, (Table("Drift", ("a",), ((1,),)),))

    monkeypatch.setattr("modules.evaluation.judging.run_part", one)
    flags = ["--models", str(place / "models"), "--device", "cpu", "--language", "de", "--no-page"]
    flags += ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "out.json")]
    assert evaluate.main(flags) == 0
    assert "Drift" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert str(broken) in (tmp_path / "out.json").read_text(encoding="utf-8")
    assert evaluate.main(["failures", *flags]) == 2, "a part that was named must be there"
    monkeypatch.setattr("modules.evaluation.judging.run_part", lambda part, judge: one("all", judge))
    assert evaluate.main(flags) == 2, "nothing at all was measured"
    assert capsys.readouterr().err.splitlines()[-1] == str(broken)


def test_weights_of_another_training_are_told_before_anything_is_spoken(place: Path, tmp_path: Path) -> None:
    options = JudgeOptions(place / "models", languages=("de",), whole=tmp_path, device="cpu")

    def told() -> str:
        judge = open_judge(options, tmp_path / "out")
        judge.speaker._speak = None  # would fail if anything had to be spoken
        try:
            judge.check()
        except UserError as error:
            return f"{error.code} {Path(error.fields['file']).name}"
        return ""

    def store(name: str, change: str = "", add: float = 0.0, **lineage: object) -> None:
        weights = load_weights(place / "whole" / name)
        state = {key: value + add if key == change else value for key, value in weights.state.items()}
        save_weights(tmp_path / name, state, weights.config, replace(weights.lineage, **lineage), torch.float16)

    names = ("vits2.safetensors", "s3.safetensors")
    for name in names:
        store(name)
    assert told() == "", "a model is shipped in float16"
    for name in names:
        shared = load_weights(place / "models" / name).state
        change = next(key for key, value in shared.items() if value.is_floating_point() and value.ndim > 1)
        store(name, change, 0.1)
        assert told() == f"judge_whole_differs {name}", "two trainings can end at the same step"
        store(name, step=7)
        assert told() == f"judge_whole_differs {name}"
        store(name, parent_hash="another")
        assert told() == f"judge_whole_differs {name}"
        store(name)
    (tmp_path / "s3.safetensors").unlink()
    assert told() == "", "copy-synthesis needs the decoder alone"


def test_whisper_leaves_out_what_it_does_not_know(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recognizer:
        def __init__(self, model: Path, options: RecognitionOptions, load: object):
            self.identity = self.language = options.language

        def recognize(self, wavs: list[np.ndarray]) -> list[Recognition]:
            if self.language == "de":
                raise UserError("asr_language", "It knows {valid} alone.", valid="en")
            return [Recognition("quick fox", "en", 1.0, 1.0)]

    monkeypatch.setattr(whisper, "local_model", lambda: Path("tiny"))
    monkeypatch.setattr(whisper, "need", lambda name: None)
    monkeypatch.setattr(whisper, "Recognizer", Recognizer)
    values, table = whisper.whisper_errors(judge)
    assert values["en"]["characters"]["items"] > 0 and "de" not in values and "de" in values["unknown"]
    assert ("de", 0, "not measured", "-", "-") in table.rows


def test_a_changed_calibration_judges_source_audio_again(judge: Judge) -> None:
    class Silent:
        sample_rate = 16000

        def hear(self, wavs: list[np.ndarray]) -> list[list[str]]:
            return [[] for _ in wavs]

    request = judge.requests["synthetic"][0]
    tongue = request.sentence.language
    judge.__dict__["ear"] = Ear(Silent(), None, ("xx",), judge.ledger("heard"), "x")
    assert outputs._floor(judge, request)["lost"] is None
    judge.__dict__["ear"] = Ear(
        Silent(), Calibration("x", {tongue: {"error": {"rate": 0.1}}}), (), judge.ear.ledger, "x"
    )
    assert outputs._floor(judge, request)["lost"] is True
