"""The folder that extraction fills: many lines at once, damage, a full disk, and two that write."""

import errno
import gc
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from modules.config import AudioConfig
from modules.data import store as store_module
from modules.data.extraction import ExtractOptions, extract
from modules.data.features import STEPS, Line, LineStore, LineWriter, open_store
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import UserError
from modules.gpt.dataset import MixOptions, PromptDataset
from modules.vits2.dataset import DecoderDataset
from tests.data.test_extraction import ENCODERS, Counted, counts, run_extract

HASHES = dict.fromkeys(STEPS, "made by a test")


def line(number: int, audio: bool = True) -> Line:
    return Line(
        speaker=f"speaker {number % 5}",
        language="en" if number % 2 else "de",
        split="dev" if number % 10 == 3 else "train",
        text=f"text {number}",
        source="recorded",
        text_key=f"t{number % 7}",
        audio_key=f"a{number}" if audio else "",
        speech_key=f"s{number}",
    )


def fill(folder: Path, lines: list[Line], steps: tuple[str, ...] = STEPS, samples: int = 32000, **ranks: int) -> None:
    with LineWriter(folder, HASHES, steps, **ranks) as writer:
        writer.write_lines(lines)
        for number, item in enumerate(lines):
            if "text" in steps:
                ids = np.full(2 + number % 7, int(item.text_key[1:]), np.int32)
                writer.add("text", item.text_key, text_ids=ids)
            if "audio" in steps and item.audio_key:
                writer.add("audio", item.audio_key, audio=np.full(samples, number, np.int16))
            if "speech" in steps:
                codes, f0 = np.full(50, number % 100, np.int16), np.zeros(100, np.float32)
                writer.add("speech", item.speech_key, seconds=1.0, codes=codes, codebooks=2, f0=f0)


def test_a_row_is_put_together_from_all_steps(tmp_path: Path) -> None:
    fill(tmp_path, [line(n) for n in range(20)])
    store = open_store(tmp_path)
    names = "key speaker language split text source text_ids audio seconds codes codebooks f0"
    assert store.columns == tuple(names.split())
    for number in (0, 13, 19):
        row = store[number]
        assert list(row) == list(store.columns) and row["key"] == line(number).key == store.keys()[number]
        assert row["text_ids"][0] == number % 7 and row["audio"][0] == number and row["codes"][0] == number
        assert (row["speaker"], row["text"]) == (f"speaker {number % 5}", f"text {number}")
    assert (
        list(store.row(3, ("codes", "split"))) == ["codes", "split"] and store.row(-1, ("text",))["text"] == "text 19"
    )
    assert [int(ids[0]) for ids in store.column("text_ids")] == [n % 7 for n in range(20)]
    assert store.lengths("text_ids").tolist() == [len(ids) for ids in store.column("text_ids")]
    numbers, names = store.labels("speaker")
    assert names[numbers].tolist() == store.column("speaker") == [f"speaker {n % 5}" for n in range(20)]
    assert store.array("seconds").tolist() == [1.0] * 20 and store.index(line(4).key) == 4
    for outside in (20, -21):
        with pytest.raises(IndexError):
            store[outside]
    with pytest.raises(KeyError, match="speaker"):
        store.row(0, ("spaeker",))


def test_a_line_without_all_its_features_is_not_seen(tmp_path: Path) -> None:
    fill(tmp_path, [line(n) for n in range(4)], ("text", "audio"))
    fill(tmp_path, [line(n) for n in range(6)], ("text", "speech"))
    store = open_store(tmp_path)
    assert len(store) == 4 and store.lines == 6 and store.missing == {"audio": 2}
    assert (
        store.column("text") == [f"text {n}" for n in range(4)]
        and [len(a) for a in store.column("audio")] == [32000] * 4
    )
    fill(tmp_path, [line(n, audio=n < 2) for n in range(6)], ("text",))
    store = open_store(tmp_path)
    assert len(store) == 6 and not store.missing and store.lengths("audio").tolist() == [32000] * 2 + [0] * 4
    assert [len(audio) for audio in store.column("audio")] == [32000] * 2 + [0] * 4


def test_the_errors_of_a_training_name_what_is_missing(tmp_path: Path) -> None:
    lines = [line(n, audio=False) for n in range(30)]
    fill(tmp_path, lines, ("text",))
    with pytest.raises(UserError, match="30 lines.*missing: speech") as caught:
        PromptDataset([tmp_path], "train", MixOptions())
    assert caught.value.code == "features_incomplete"
    fill(tmp_path, lines, ("speech",))
    assert len(PromptDataset([tmp_path], "train", MixOptions())) == 27
    with pytest.raises(UserError, match="audio") as caught:
        DecoderDataset([open_store(tmp_path)], AudioConfig())
    assert caught.value.code == "no_audio_rows"
    with pytest.raises(UserError) as caught:
        open_store(tmp_path / "nowhere")
    assert caught.value.code == "store_missing"


def test_one_clip_can_be_trained_on(tmp_path: Path) -> None:
    fill(tmp_path, [line(0)])
    assert len(PromptDataset([tmp_path], "train", MixOptions()).get(0, np.random.default_rng(0)).parts) == 1
    example = DecoderDataset([open_store(tmp_path)], AudioConfig()).get(0, np.random.default_rng(0))
    assert len(example.wav) > 0 and len(example.style_wav) > 0


def test_a_copy_in_another_process_sees_the_same_rows(tmp_path: Path) -> None:
    fill(tmp_path, [line(n) for n in range(10, 16)], rank=1, world=2)
    store = LineStore(tmp_path)
    sent = pickle.dumps(store)
    fill(tmp_path, [line(n) for n in range(4)], rank=0, world=2)  # its rows and shards sort before the others
    copy = pickle.loads(sent)
    assert copy.keys() == store.keys() and [copy[i]["text"] for i in range(6)] == [f"text {n}" for n in range(10, 16)]
    assert all(copy[i]["codes"][0] == store[i]["codes"][0] == i for i in range(6))
    assert LineStore(tmp_path).column("text")[:4] == [f"text {n}" for n in range(4)]


def test_a_plain_store_is_opened_as_it_is(tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as writer:
        writer.add("a", text="x")
    assert isinstance(open_store(tmp_path), FeatureStore) and open_store(tmp_path)[0]["text"] == "x"
    fill(tmp_path, [line(n) for n in range(3)])
    assert len(open_store(tmp_path)) == 3, "extracted anew, the folder is what the new extraction says"


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [line(n) for n in range(3)])
    (index,) = tmp_path.glob("lines-*")
    for content in (b"", b"junk" * 100, index.read_bytes()[:300]):
        index.write_bytes(content)
        with pytest.raises(UserError, match="lines-000") as caught:
            open_store(tmp_path)
        assert caught.value.code == "store_unreadable"
    fill(tmp_path, [line(n) for n in range(3)])
    assert len(open_store(tmp_path)) == 3


def test_a_shard_that_was_deleted_is_made_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.data.features._SHARDS", {step: {"rows_per_shard": 4} for step in STEPS})
    run_extract(Counted(12), tmp_path)
    shards = sorted(tmp_path.glob("speech/*/shard-*"))
    shards[1].write_bytes(b"damaged")
    with pytest.raises(UserError, match=shards[1].name):
        run_extract(Counted(12), tmp_path)
    shards[1].unlink()
    assert len(open_store(tmp_path)) == 8 and open_store(tmp_path).missing == {"speech": 4}
    assert counts(run_extract(Counted(12), tmp_path)) == {"text": (0, 12), "audio": (0, 12), "speech": (4, 8)}
    assert len(open_store(tmp_path)) == 12


def test_two_processes_cannot_write_as_the_same_rank(tmp_path: Path) -> None:
    with LineWriter(tmp_path, HASHES, rank=0), LineWriter(tmp_path, HASHES, rank=1):
        with pytest.raises(UserError, match="Another extraction") as caught, LineWriter(tmp_path, HASHES, rank=1):
            pass
        assert caught.value.code == "extraction_busy" and str(tmp_path) in str(caught.value)
    with LineWriter(tmp_path, HASHES, rank=1):
        pass


def test_a_full_disk_loses_nothing_and_the_next_run_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, written = store_module.os.fsync, []

    def full(file: int) -> None:
        written.append(file)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr("modules.data.features._SHARDS", {step: {"rows_per_shard": 4} for step in STEPS})
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        with pytest.raises(UserError, match=str(tmp_path.name)) as caught:
            run_extract(Counted(12), tmp_path / "out")
    assert caught.value.code == "store_full" and LineStore(tmp_path / "out").missing
    report = run_extract(Counted(12), tmp_path / "out")
    assert sum(already for _, already in counts(report).values()) >= 8 and len(open_store(tmp_path / "out")) == 12


def test_a_kill_costs_the_unfinished_shards_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if what == "sound" and done >= 10:
            raise Killed

    monkeypatch.setattr("modules.data.features._SHARDS", {step: {"rows_per_shard": 4} for step in STEPS})
    # Nothing closes the writer, as nothing does when a process is killed; its lock goes with it.
    writer = LineWriter(tmp_path, ENCODERS.hashes(AudioConfig())).__enter__()
    with pytest.raises(Killed):
        extract(Counted(12), writer, ENCODERS, AudioConfig(), ExtractOptions(batch_seconds=2.0), on_progress=kill)
    del writer
    gc.collect()
    assert len(open_store(tmp_path)) == 8, "two shards are there, and can be trained on"
    assert counts(run_extract(Counted(12), tmp_path)) == {"text": (0, 12), "audio": (4, 8), "speech": (4, 8)}
    assert len(open_store(tmp_path)) == 12


def test_many_lines_open_quickly_and_make_few_files(tmp_path: Path) -> None:
    count = 5_000
    lines = [line(n) for n in range(count)]
    fill(tmp_path, lines, samples=0)
    assert len(list(tmp_path.rglob("*.*"))) < count / 100
    started = time.process_time()
    store = open_store(tmp_path)
    assert len(store) == count and len(store.labels("split")[0]) == count == len(store.array("seconds"))
    assert len(PromptDataset([tmp_path], "train", MixOptions())) == 0.9 * count
    assert time.process_time() - started < 0.5
    rows = np.random.default_rng(0).integers(0, count, 200)
    started = time.process_time()
    assert all(store.row(int(row), ("codes", "speaker", "text_ids"))["codes"][0] == row % 100 for row in rows)
    assert time.process_time() - started < 0.001 * len(rows)


def test_a_step_whose_encoder_nobody_can_tell_is_not_run(tmp_path: Path) -> None:
    fill(tmp_path, [line(0)])
    with pytest.raises(UserError, match="speech") as caught:
        LineWriter(tmp_path, HASHES | {"speech": None}, ("text", "speech"))
    assert caught.value.code == "encoder_unknown"
    kept = LineWriter(tmp_path, HASHES | {"speech": None, "audio": None}, ("text",))
    assert kept.hashes["speech"] == kept.hashes["audio"] == HASHES["speech"]


def test_what_made_the_features_is_told_and_kept(tmp_path: Path) -> None:
    first = {"text": {"tokenizer": "bpe"}, "speech": {"encoder": "own"}}
    second = {"text": {"tokenizer": "xlm-r"}, "speech": {"encoder": "other"}}
    fill(tmp_path, [line(0)])
    assert LineStore(tmp_path).described == {} and LineStore(tmp_path).made["text"] == HASHES["text"]
    for steps, told, expected in (
        (STEPS, first, first),
        (("text",), second, {"text": second["text"], "speech": first["speech"]}),
    ):
        with LineWriter(tmp_path, HASHES, steps, described=told) as writer:
            writer.write_lines([line(0)])
        assert LineStore(tmp_path).described == expected
    with LineWriter(tmp_path, HASHES | {"speech": "another"}, ("text",), described=second) as writer:
        writer.write_lines([line(0)])
    assert LineStore(tmp_path).described == second, "it is of these features no more"
