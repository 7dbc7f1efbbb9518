"""A dataset list as a source of extraction: what is read, what is refused, and what counts as the same."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modules.data import recordings as recordings_module
from modules.data.extraction import ExtractReport
from modules.data.features import LineStore, open_store
from modules.data.file_memory import FileMemory
from modules.data.manifest import Utterance
from modules.data.recordings import Recordings
from modules.errors import UserError
from tests.data.test_extraction import counts, run_extract
from tests.tiny import synthetic_speech, write_wav


@pytest.fixture
def dataset(tmp_path: Path) -> list[Utterance]:
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", synthetic_speech(1.0 + number, 32000, 120, number), 32000)
    (tmp_path / "bad.wav").write_text("no sound")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    names = ["0.wav", "bad.wav", "1.wav", "gone.wav", "nan.wav", "2.wav"]
    return [Utterance(str(tmp_path / name), "ada", "en", f"text of {name}") for name in names]


def run(
    utterances: list[Utterance], folder: Path, memory: FileMemory | None = None
) -> tuple[dict[int, str], LineStore, ExtractReport]:
    rejected: dict[int, str] = {}
    report = run_extract(Recordings(utterances, memory), folder, on_reject=rejected.__setitem__)
    return rejected, open_store(folder), report


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []
    decode = recordings_module.decode
    monkeypatch.setattr(recordings_module, "decode", lambda path: names.append(path.name) or decode(path))
    return names


def test_what_cannot_be_read_is_named_and_the_rest_is_done(dataset: list[Utterance], tmp_path: Path) -> None:
    rejected, store, report = run(dataset, tmp_path / "out")
    assert report.done == len(store) == store.lines == 3 and set(rejected) == {1, 3, 4} and not store.missing
    assert all(Path(dataset[row].audio).name in reason for row, reason in rejected.items())
    assert "NaN" in rejected[4] and set(store.column("speaker")) == {"ada"}
    for row in range(3):
        item = store[row]
        assert len(item["audio"]) == pytest.approx(item["seconds"] * 32000, abs=2) and len(item["codes"]) > 0


def test_only_what_changed_is_done_again_and_what_left_is_not_seen(
    dataset: list[Utterance], tmp_path: Path, decoded: list[str]
) -> None:
    good, out = [dataset[row] for row in (0, 2, 5)], tmp_path / "out"
    _, before, _ = run(good, out)
    decoded.clear()
    _, same, report = run(good, out)
    assert report.done == 0 and decoded == [] and same.fingerprint() == before.fingerprint()

    edited = [replace(good[0], text="another text"), *good[1:]]
    _, store, report = run(edited, out)
    assert counts(report) == {"text": (1, 2), "audio": (0, 3), "speech": (0, 3)} and decoded == []
    assert store.column("text")[0] == "another text" and store.fingerprint() != before.fingerprint()
    assert np.array_equal(store[0]["codes"], before[0]["codes"])
    _, store, report = run([replace(good[0], speaker="eve"), *good[1:]], out)
    assert counts(report)["text"] == (0, 3) and decoded == [] and store.column("speaker")[0] == "eve"

    write_wav(Path(good[0].audio), synthetic_speech(1.5, 32000, 200, 9), 32000)
    _, store, report = run(good[:2], out)
    assert counts(report) == {"text": (0, 2), "audio": (1, 1), "speech": (1, 1)} and decoded == ["0.wav"]
    assert len(store) == 2 and [store.row(i, ("text",))["text"] for i in range(2)] == store.column("text")
    assert store.lengths("audio").tolist() == [len(store[i]["audio"]) for i in range(2)]
    assert store.column("seconds") == [1.5, 2.0]


def test_a_recording_under_two_texts_is_encoded_once(
    dataset: list[Utterance], tmp_path: Path, decoded: list[str]
) -> None:
    twice = [dataset[0], replace(dataset[0], text="other"), dataset[0]]
    _, store, report = run(twice, tmp_path / "out")
    assert len(store) == 2 and report.skipped == {"the same clip again": 1} and decoded == ["0.wav"]
    assert np.array_equal(store[0]["audio"], store[1]["audio"]) and store.keys()[0] != store.keys()[1]


def test_contents_differ_by_what_is_in_the_file(dataset: list[Utterance]) -> None:
    source = Recordings([dataset[0], replace(dataset[0], text="x"), dataset[2]])
    contents = [source.content(row) for row in range(3)]
    assert contents[0] == contents[1] != contents[2]
    with pytest.raises(UserError) as caught:
        Recordings(dataset).read(4)
    assert caught.value.code == "audio_not_finite"
    assert [Recordings(dataset).seconds(row) for row in range(6)] == [1.0, 0.0, 2.0, 0.0, 1.0, 3.0]


def test_a_recording_that_vanishes_or_changes_on_the_way_is_left_out(dataset: list[Utterance], tmp_path: Path) -> None:
    rejected: dict[int, str] = {}

    def meanwhile(done: int, total: int, what: str) -> None:
        if what == "look":
            Path(dataset[0].audio).unlink()
            write_wav(Path(dataset[2].audio), synthetic_speech(1.5, 32000, 200, 9), 32000)

    report = run_extract(Recordings(dataset), tmp_path / "out", on_progress=meanwhile, on_reject=rejected.__setitem__)
    assert report.skipped["audio_missing"] == 1 and report.skipped["audio_changed"] == 1
    assert "0.wav" in rejected[0] and "changed" in rejected[2] and len(open_store(tmp_path / "out")) == 1


def test_one_clip_of_one_speaker_is_a_dataset(dataset: list[Utterance], tmp_path: Path) -> None:
    _, store, _ = run(dataset[:1], tmp_path / "out")
    assert len(store) == 1 and store.labels("speaker")[1].tolist() == ["ada"]


class TestMemory:
    """A file is read again only when its size or one of its times changed."""

    @pytest.fixture
    def wav(self, tmp_path: Path) -> Path:
        file = write_wav(tmp_path / "a.wav", synthetic_speech(0.5, 16000), 16000)
        self.age(file)
        return file

    def age(self, file: Path, seconds: float = 100.0) -> None:
        os.utime(file, (file.stat().st_atime - seconds, file.stat().st_mtime - seconds))

    def learn(self, wav: Path, saved: Path) -> str:
        memory = FileMemory()
        content = memory.content(wav)
        memory.note_seconds(wav, 0.5)
        memory.save(saved)
        return content

    def test_a_settled_file_is_not_read_again(self, wav: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr("modules.data.file_memory.SETTLED_SECONDS", -1.0)
        content = self.learn(wav, tmp_path / "m.json")
        monkeypatch.setattr("modules.data.file_memory._look", lambda path: pytest.fail("read again"))
        memory = FileMemory([tmp_path / "m.json"])
        assert memory.content(wav) == content and memory.seconds(wav) == 0.5

    def test_a_file_that_changed_just_now_is_not_trusted(self, wav: Path, tmp_path: Path) -> None:
        self.learn(wav, tmp_path / "m.json")
        assert (tmp_path / "m.json").read_text() == "{}"

    def test_a_changed_file_of_the_same_size_and_age_is_seen(self, wav: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr("modules.data.file_memory.SETTLED_SECONDS", -1.0)
        content, status = self.learn(wav, tmp_path / "m.json"), wav.stat()
        data = bytearray(wav.read_bytes())
        data[-1] ^= 1
        wav.write_bytes(data)
        os.utime(wav, ns=(status.st_atime_ns, status.st_mtime_ns))
        if wav.stat().st_ctime_ns == status.st_ctime_ns:
            pytest.skip("this system keeps no time of the last change that a program cannot set")
        memory = FileMemory([tmp_path / "m.json"])
        assert memory.seconds(wav) is None and memory.content(wav) != content

    @pytest.mark.parametrize("content", ["", "[", "[1]", '{"a": 1}', '{"a": [1, 2, 3, 4, 5]}'])
    def test_a_damaged_memory_knows_nothing(self, wav: Path, tmp_path: Path, content: str) -> None:
        (tmp_path / "m.json").write_text(content)
        assert FileMemory([tmp_path / "m.json"]).content(wav) == FileMemory().content(wav)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="gone.wav") as caught:
            FileMemory().content(tmp_path / "gone.wav")
        assert caught.value.code == "file_unreadable" and FileMemory().seconds(tmp_path / "gone.wav") is None
