"""Laws of the dataset report: its numbers are those of the files, and its memory does not grow with the audio."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from modules.data.manifest import Utterance, write_manifest
from modules.data.measures import clipped_share, measure_clip, same_content, silent_share
from modules.data.report import ReportOptions, build_report
from modules.errors import Stopped, UserError
from tests.tiny import write_wav

RATE_HZ = 16000


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-level, level, round(seconds * RATE_HZ))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Five clips of two speakers, one of them repeated; a missing file, a broken one and a bad line."""
    wavs = [noise(0.75, seed=1), noise(1.5, seed=2), noise(2.5, seed=3)]
    wavs += [np.clip(noise(4, 3.0, 4), -1, 1), np.concatenate([noise(1, seed=5), np.zeros(RATE_HZ)])]
    for number, wav in enumerate(wavs):
        write_wav(tmp_path / f"{number}.wav", wav, RATE_HZ)
    (tmp_path / "twin.wav").write_bytes((tmp_path / "1.wav").read_bytes())
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    rows = [
        Utterance("0.wav", "Ann", "ZH", "one", confidence=0.9),
        Utterance("1.wav", "Ann", "zh", "", confidence=0.2),
        Utterance("2.wav", "Bob", "JP", "three"),
        Utterance("3.wav", "Bob", "xx", "four"),
        Utterance("4.wav", "Bob", "", "five"),
        Utterance("4.wav", "Bob", "", "again"),
        Utterance("twin.wav", "Ann", "zh", "six"),
        Utterance("gone.wav", "Ann", "zh", "seven"),
        Utterance("broken.wav", "Ann", "zh", "eight"),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    with open(tmp_path / "m.jsonl", "a", encoding="utf-8") as file:
        file.write("not json\n")
    notes = [{"file": "x.wav", "reason": "too short"}, {"file": "y.wav", "reason": "silent"}] * 2
    (tmp_path / "rejected.jsonl").write_text("\n".join(map(json.dumps, notes[:3])) + '\n{"fi')
    return tmp_path / "m.jsonl"


def test_numbers_are_those_of_the_files(dataset: Path) -> None:
    report = build_report(dataset)
    json.dumps(report, allow_nan=False)
    seconds = [0.75, 1.5, 2.5, 4, 2, 2, 1.5]
    assert (report["lines"], report["clips"], report["minutes"]) == (10, 7, round(sum(seconds) / 60, 3))
    lengths = report["lengths"]
    assert (lengths["shortest"], lengths["longest"], lengths["mean"]) == (0.75, 4, round(sum(seconds) / 7, 3))
    assert [row["clips"] for row in lengths["histogram"]] == [0, 1, 2, 3, 1, *[0] * 7]
    assert report["speakers"] == [
        {"name": "Bob", "clips": 4, "minutes": 0.175},
        {"name": "Ann", "clips": 3, "minutes": 0.062},
    ]
    assert {row["name"]: row["clips"] for row in report["languages"]} == {"zh": 3, "ja": 1, "xx": 1, "": 2}
    counts = {key: report[key]["count"] for key in report if isinstance(report[key], dict) and "count" in report[key]}
    assert counts == {
        "bad_lines": 1,
        "missing": 1,
        "unreadable": 1,
        "no_text": 1,
        "low_confidence": 1,
        "duplicates": 2,
        "rejected": 3,
    }
    assert report["low_confidence"]["unknown"] == 7
    assert report["bad_lines"]["examples"][0]["line"] == 10
    assert report["rejected"]["reasons"] == [{"reason": "too short", "count": 2}, {"reason": "silent", "count": 1}]
    assert [Path(e["audio"]).name for e in report["duplicates"]["examples"]] == ["4.wav", "twin.wav"]


def test_sound_is_measured(dataset: Path) -> None:
    sound = build_report(dataset)["sound"]
    assert (sound["measured"], sound["clipped_clips"]) == (6, 1)
    assert sound["silent_share"] == pytest.approx(1 / 12.25, abs=0.01)
    levels = [measure_clip(dataset.parent / f"{name}.wav").loudness_lufs for name in (0, 1, 2, 3, 4, "twin")]
    assert sound["loudness_lufs"] == pytest.approx(np.mean(levels), abs=0.01)
    assert sound["loudness_spread_db"] == pytest.approx(np.std(levels), abs=0.01)


def test_the_sample_is_bounded_and_repeatable(dataset: Path) -> None:
    options = ReportOptions(sample_clips=2, duplicates=False)
    report = build_report(dataset, options=options)
    assert report["sound"]["measured"] == 2 and report["duplicates"]["count"] == 1
    assert build_report(dataset, options=options) == report
    nothing = build_report(dataset, options=ReportOptions(sample_clips=0))
    assert nothing["sound"]["measured"] == 0 and nothing["sound"]["loudness_lufs"] is None
    short = build_report(dataset, options=ReportOptions(longest_seconds=1))
    assert short["sound"]["measured"] == 1, "long files are not read whole"


def test_lists_of_examples_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text("".join(f"{n}.wav|s{n}|en|\n" for n in range(500)))
    report = build_report(tmp_path / "a.list")
    assert report["missing"]["count"] == report["no_text"]["count"] == 500
    assert len(report["missing"]["examples"]) == 50 and report["clips"] == 0
    assert report["lengths"]["shortest"] is None and report["sound"]["measured"] == 0


def test_progress_and_stop(dataset: Path) -> None:
    seen: list[str] = []
    build_report(dataset, on_progress=lambda done, total, what: seen.append(what))
    assert list(dict.fromkeys(seen)) == ["lines", "sound", "duplicates"]
    for after in (0, 12):
        answers = iter([False] * after + [True] * 10**4)
        with pytest.raises(Stopped):
            build_report(dataset, should_stop=lambda answers=answers: next(answers))
    with pytest.raises(UserError) as caught:
        build_report(dataset.parent / "none.list")
    assert caught.value.code == "manifest_missing"


def test_measures_know_their_extremes() -> None:
    tone = np.sin(np.arange(RATE_HZ) / 9)
    assert clipped_share(tone) == 0, "a peak that only touches full scale is not clipped"
    assert clipped_share(np.clip(tone * 2, -1, 1)) > 0.3
    assert clipped_share(np.zeros(0)) == 0 and silent_share(np.zeros(5), RATE_HZ) == 1
    assert silent_share(np.zeros(RATE_HZ), RATE_HZ) == 1 and silent_share(tone, RATE_HZ) == 0
    half = np.concatenate([tone, tone * 1e-4])
    assert silent_share(half, RATE_HZ) == pytest.approx(0.5, abs=0.02)


def test_silence_has_no_loudness(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    assert measure_clip(tmp_path / "a.wav").loudness_lufs == -math.inf
    (tmp_path / "a.list").write_text("a.wav|s|en|t\n")
    sound = build_report(tmp_path / "a.list")["sound"]
    assert sound["loudness_lufs"] is None and sound["silent_share"] == 1


def test_what_the_slicer_left_out_beside_the_clips_is_told(tmp_path: Path) -> None:
    write_wav(tmp_path / "clips" / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    for folder, name in (("clips", "noise.wav"), (".", "mumble.wav")):
        (tmp_path / folder / "rejected.jsonl").write_text(json.dumps({"file": name, "reason": name[:3]}) + "\n")
    (tmp_path / "a.list").write_text("clips/a.wav|s|en|t\n")
    rejected = build_report(tmp_path / "a.list")["rejected"]
    assert {entry["file"] for entry in rejected["examples"]} == {"noise.wav", "mumble.wav"} and rejected["count"] == 2


def test_equal_files_are_found_by_content_alone(tmp_path: Path) -> None:
    big = bytes(range(256)) * 400
    contents = [b"a", big + b"1", b"a", big + b"2", big + b"1", b"", b""]
    paths = []
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
        paths.append(str(tmp_path / str(number)))
    assert same_content([*paths, str(tmp_path / "gone")]) == {2: 0, 4: 1, 6: 5}


def test_real_clips(speech_dir: Path | None) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    report = build_report(speech_dir / "manifest.tsv", options=ReportOptions(sample_clips=10))
    assert report["clips"] > 0 and report["sound"]["measured"] == 10 and report["missing"]["count"] == 0
    assert -60 < report["sound"]["loudness_lufs"] < 0
