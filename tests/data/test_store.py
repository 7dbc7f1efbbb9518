"""The feature store: append, resume after a kill, random access."""

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from modules.data import store as store_module
from modules.data.store import FeatureStore, StoreWriter, entry_key
from modules.errors import UserError
from modules.paths import PROJECT_ROOT


def row(i: int) -> dict:
    rng = np.random.default_rng(i)
    return {
        "speaker": f"s{i % 3}",
        "text": "ünï 文 " * (i % 4),
        "seconds": i / 7,
        "codebooks": i,
        "audio": rng.integers(-32768, 32767, i * 13 % 500, dtype=np.int16),
        "f0": rng.standard_normal(i % 5).astype(np.float32),
        "half": rng.standard_normal(3).astype(np.float16),
        "ids": np.arange(i, dtype=np.int32),
        "raw": bytes([i % 256]) * (i % 3),
        "clean": i % 2 == 0,
    }


def same(found: dict, i: int) -> bool:
    wanted = {"key": f"k{i}", **row(i)}
    return list(found) == list(wanted) and all(
        found[n].dtype == v.dtype and np.array_equal(found[n], v) if isinstance(v, np.ndarray) else found[n] == v
        for n, v in wanted.items()
    )


def write(folder, numbers, **options) -> None:
    with StoreWriter(folder, **options) as writer:
        for i in numbers:
            writer.add(f"k{i}", **row(i))


def test_rows_come_back_in_any_order(tmp_path):
    write(tmp_path, range(50), rows_per_shard=8)
    store = FeatureStore(tmp_path)
    assert len(store) == 50 and len(list(tmp_path.iterdir())) == 7
    for i in np.random.default_rng(0).permutation(50):
        assert same(store[int(i)], int(i))
    assert same(store[-1], 49)
    for outside in (50, -51):
        with pytest.raises(IndexError):
            store[outside]


def test_columns_lengths_and_keys(tmp_path):
    write(tmp_path, range(20), rows_per_shard=6)
    store = FeatureStore(tmp_path)
    assert store.keys() == [f"k{i}" for i in range(20)]
    assert store.column("seconds") == [i / 7 for i in range(20)]
    assert store.column("text") == [row(i)["text"] for i in range(20)]
    assert [list(a) for a in store.column("ids")] == [list(range(i)) for i in range(20)]
    assert store.lengths("audio").tolist() == [len(row(i)["audio"]) for i in range(20)]
    assert store.columns == ("key", *row(0))
    assert store.row(7, columns=("ids", "speaker")).keys() == {"ids", "speaker"}
    assert store.index("k13") == 13
    with pytest.raises(KeyError):
        store.index("k99")


def test_arrays_are_writable_copies(tmp_path):
    write(tmp_path, range(10))
    store = FeatureStore(tmp_path)
    store[9]["ids"][:] = -1
    assert same(store[9], 9)


def test_a_reused_buffer_is_not_mixed_up(tmp_path):
    buffer = np.zeros(4, np.int16)
    with StoreWriter(tmp_path) as writer:
        for i in range(3):
            buffer[:] = i
            writer.add(str(i), audio=buffer)
    assert [a[0] for a in FeatureStore(tmp_path).column("audio")] == [0, 1, 2]


def test_appending_goes_on_where_it_stopped(tmp_path):
    write(tmp_path, range(10), rows_per_shard=4)
    with StoreWriter(tmp_path, rows_per_shard=4) as writer:
        assert writer.has("k9") and not writer.has("k10") and len(writer) == 10
        with pytest.raises(ValueError, match="k9"):
            writer.add("k9", **row(9))
        for i in range(10, 15):
            writer.add(f"k{i}", **row(i))
    store = FeatureStore(tmp_path)
    assert len(store) == 15 and all(same(store[i], i) for i in range(15))


def test_bytes_bound_the_shards(tmp_path):
    with StoreWriter(tmp_path, bytes_per_shard=10_000) as writer:
        for i in range(10):
            writer.add(str(i), audio=np.zeros(2500, np.int16))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_row_that_does_not_fit_is_refused_and_named(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.add("a", text="x", f0=np.zeros(2, np.float32))
        for wrong, name in (({"text": "x"}, "f0"), ({"text": 1, "f0": np.zeros(2, np.float32)}, "text"),
                            ({"text": "x", "f0": np.zeros(2)}, "f0"), ({"text": "x", "f0": np.zeros((2, 2))}, "f0"),
                            ({"text": None, "f0": np.zeros(2, np.float32)}, "text")):  # fmt: skip
            with pytest.raises(ValueError, match=name):
                writer.add("b", **wrong)
        writer.add("b", f0=np.ones(1, np.float32), text="order does not matter")
    assert FeatureStore(tmp_path)[1]["text"] == "order does not matter"


def test_an_exception_keeps_the_rows_before_it(tmp_path):
    with pytest.raises(RuntimeError), StoreWriter(tmp_path) as writer:
        writer.add("a", n=1)
        raise RuntimeError
    assert FeatureStore(tmp_path).keys() == ["a"]


@pytest.mark.parametrize("crash_at", ["fsync", "replace"])
def test_a_crash_while_writing_a_shard_leaves_the_earlier_ones(tmp_path, monkeypatch, crash_at):
    write(tmp_path, range(4))
    writer = StoreWriter(tmp_path)
    writer.add("k4", **row(4))
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, crash_at, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            writer.flush()
    assert len(FeatureStore(tmp_path)) == 4
    write(tmp_path, [4])
    assert all(same(FeatureStore(tmp_path)[i], i) for i in range(5))


WRITE_FOREVER = """
import sys
import numpy as np
from modules.data.store import StoreWriter
with StoreWriter(sys.argv[1], rows_per_shard=16) as writer:
    for i in range(10**7):
        writer.add(str(i), n=i, audio=np.full(2000, i % 1000, np.int16))
"""


def test_a_killed_writer_loses_the_unfinished_shard_only(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], cwd=PROJECT_ROOT)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.arrow"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    store = FeatureStore(tmp_path)
    count = len(store)
    assert count >= 48 and count % 16 == 0
    assert store.keys() == [str(i) for i in range(count)]
    assert all((store[i]["audio"] == i % 1000).all() for i in range(0, count, 7))
    with StoreWriter(tmp_path) as writer:
        assert not list(tmp_path.glob("*.tmp"))
        assert writer.has(str(count - 1)) and not writer.has(str(count))
        writer.add(str(count), n=count, audio=np.zeros(1, np.int16))
    assert len(FeatureStore(tmp_path)) == count + 1


def test_two_ranks_write_side_by_side(tmp_path):
    with StoreWriter(tmp_path, rank=0) as one, StoreWriter(tmp_path, rank=1) as two:
        one.add("a", n=1)
        two.add("b", n=2)
    assert sorted(FeatureStore(tmp_path).keys()) == ["a", "b"]


def test_a_store_can_be_sent_to_a_worker(tmp_path):
    write(tmp_path, range(5))
    store = FeatureStore(tmp_path)
    assert same(store[1], 1)
    assert same(pickle.loads(pickle.dumps(store))[3], 3)  # as a data loader sends it


def test_a_sent_store_keeps_its_rows_while_another_process_writes(tmp_path):
    write(tmp_path, range(3), rank=1)
    store = FeatureStore(tmp_path)
    sent = pickle.dumps(store)
    write(tmp_path, range(3, 6), rank=0)  # its shard sorts before the other
    assert [pickle.loads(sent)[i]["key"] for i in range(3)] == ["k0", "k1", "k2"] == store.keys()
    assert FeatureStore(tmp_path).keys()[:3] == ["k3", "k4", "k5"]


def test_numbers_and_labels_come_as_arrays(tmp_path):
    write(tmp_path, range(20), rows_per_shard=6)
    store = FeatureStore(tmp_path)
    assert store.array("seconds").tolist() == store.column("seconds") and store.array("codebooks").dtype == np.int64
    numbers, names = store.labels("speaker")
    assert sorted(names) == ["s0", "s1", "s2"] and names[numbers].tolist() == store.column("speaker")
    numbers, names = FeatureStore(tmp_path).labels("text")
    assert names[numbers].tolist() == store.column("text")
    (tmp_path / "empty").mkdir()
    assert [len(part) for part in FeatureStore(tmp_path / "empty").labels("speaker")] == [0, 0]


def test_what_an_earlier_extraction_no_longer_counted_is_not_seen(tmp_path):
    write(tmp_path, range(9), rows_per_shard=4)
    (tmp_path / "current-000.txt").write_text("k7\nk2\n")
    (tmp_path / "current-001.txt").write_text("k4\nforeign\n")
    store = FeatureStore(tmp_path)
    assert store.keys() == ["k2", "k4", "k7"] and len(FeatureStore(tmp_path, everything=True)) == 9
    assert same(store[1], 4) and store.index("k7") == 2
    assert store.lengths("ids").tolist() == [2, 4, 7] and [len(ids) for ids in store.column("ids")] == [2, 4, 7]
    assert store.array("codebooks").tolist() == [2, 4, 7] and pickle.loads(pickle.dumps(store)).keys() == store.keys()


@pytest.mark.parametrize("broken", ["fsync", "write"])
def test_a_full_disk_is_told_with_its_folder_and_loses_no_earlier_shard(tmp_path, monkeypatch, broken):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path, range(4))
    with monkeypatch.context() as patch:
        if broken == "fsync":
            patch.setattr(store_module.os, "fsync", full)
        else:
            patch.setattr(store_module.pa.ipc, "new_file", full)
        with pytest.raises(UserError, match=re.escape(str(tmp_path))) as caught:
            write(tmp_path, range(4, 9), rows_per_shard=2)
    assert caught.value.code == "store_full" and not list(tmp_path.glob("*.tmp"))
    assert len(FeatureStore(tmp_path)) == 4
    write(tmp_path, range(4, 9))
    assert all(same(FeatureStore(tmp_path)[i], i) for i in range(9))


def test_missing_damaged_and_empty_stores(tmp_path):
    with pytest.raises(UserError) as missing:
        FeatureStore(tmp_path / "nowhere")
    assert missing.value.code == "store_missing"
    assert len(FeatureStore(tmp_path)) == 0
    assert FeatureStore(tmp_path).keys() == [] and FeatureStore(tmp_path).lengths("audio").size == 0
    write(tmp_path, range(3))
    (shard,) = tmp_path.iterdir()
    content = shard.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"junk" * 100):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=shard.name) as unreadable:
            FeatureStore(tmp_path)[0]
        assert unreadable.value.code == "store_unreadable"


def test_keys_depend_on_every_part_and_its_place():
    keys = {entry_key(*p) for p in (("a", "b"), ("ab",), ("b", "a"), (b"a", "b"), ("a", "b", ""), ())}
    assert len(keys) == 6
    assert entry_key("a", b"b") == entry_key("a", bytearray(b"b"))
