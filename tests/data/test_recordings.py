"""A dataset list as a source of extraction: what is read, what is refused, and what counts as the same."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from modules.config import AudioConfig
from modules.data.extraction import ExtractOptions, extract
from modules.data.manifest import Utterance
from modules.data.recordings import Recordings
from modules.data.store import FeatureStore, StoreWriter, write_current
from modules.errors import UserError
from tests.data.test_extraction import ENCODERS
from tests.tiny import synthetic_speech, write_wav


@pytest.fixture
def dataset(tmp_path: Path) -> list[Utterance]:
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", synthetic_speech(1.0 + number, 32000, 120, number), 32000)
    (tmp_path / "bad.wav").write_text("no sound")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    names = ["0.wav", "bad.wav", "1.wav", "gone.wav", "nan.wav", "2.wav"]
    return [Utterance(str(tmp_path / name), "ada", "en", f"text of {name}") for name in names]


def run(utterances: list[Utterance], folder: Path) -> tuple[dict[int, str], FeatureStore, int]:
    rejected: dict[int, str] = {}
    with StoreWriter(folder) as writer:
        report = extract(
            Recordings(utterances), writer, ENCODERS, AudioConfig(), ExtractOptions(), on_reject=rejected.__setitem__
        )
    write_current(folder, report.keys)
    return rejected, FeatureStore(folder), report.done


def test_what_cannot_be_read_is_named_and_the_rest_is_done(dataset: list[Utterance], tmp_path: Path) -> None:
    rejected, store, done = run(dataset, tmp_path / "out")
    assert done == len(store) == 3 and set(rejected) == {1, 3, 4}
    assert all(Path(dataset[row].audio).name in reason for row, reason in rejected.items())
    assert "NaN" in rejected[4] and set(store.column("speaker")) == {"ada"}
    for row in range(3):
        item = store[row]
        assert len(item["audio"]) == pytest.approx(item["seconds"] * 32000, abs=2) and len(item["codes"]) > 0


def test_only_what_changed_is_done_again_and_what_left_is_not_seen(dataset: list[Utterance], tmp_path: Path) -> None:
    _, before, _ = run(dataset, tmp_path / "out")
    texts = dict(zip(before.column("text"), before.keys(), strict=True))
    write_wav(Path(dataset[0].audio), synthetic_speech(1.5, 32000, 200, 9), 32000)
    _, after, done = run(dataset[:3], tmp_path / "out")
    assert done == 1 and len(after) == 2 and len(FeatureStore(tmp_path / "out", everything=True)) == 4
    now = dict(zip(after.column("text"), after.keys(), strict=True))
    assert now["text of 1.wav"] == texts["text of 1.wav"] and now["text of 0.wav"] != texts["text of 0.wav"]
    assert [after.row(i, ("text",))["text"] for i in range(2)] == after.column("text")
    assert after.lengths("audio").tolist() == [len(after[i]["audio"]) for i in range(2)]
    assert after.index(after.keys()[1]) == 1
    _, _, done = run(dataset, tmp_path / "out")
    assert done == 0


def test_rows_differ_by_sound_text_and_speaker(dataset: list[Utterance]) -> None:
    from dataclasses import replace

    one = dataset[0]
    keys = {Recordings([u])[0]["key"] for u in (one, replace(one, text="x"), replace(one, speaker="x"), dataset[2])}
    assert len(keys) == 4 and Recordings([one])[0]["key"] in keys
    with pytest.raises(UserError) as caught:
        Recordings(dataset)[4]
    assert caught.value.code == "audio_not_finite"
    assert Recordings(dataset).column("seconds") == [1.0, 0.0, 2.0, 0.0, 1.0, 3.0]
