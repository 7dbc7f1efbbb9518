"""Feature store: rows of scalars, strings and 1-D arrays in append-only Arrow IPC shards.

A million utterances are a few thousand files. A shard is complete or absent (temporary file, then rename), so
a kill costs the unfinished shard at most. The row count stands in the file name, hence `len` opens nothing.
Reading is random access through memory maps: only the pages of the asked row and columns are touched.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from modules.data.columns import (
    Rows,
    Value,
    cell,
    check_same,
    joined,
    places_of,
    size_of,
    to_arrow,
    type_of,
)
from modules.data.columns import entry_key as entry_key
from modules.disk import is_full
from modules.errors import UserError

SHARD_NAME = re.compile(r"shard-(\d{3})-(\d{6})-(\d+)\.arrow")
CURRENT_PATTERN = "current-[0-9][0-9][0-9].txt"
"""Files by which an earlier extraction told which rows belong to its dataset; read, and written no more."""
OPEN_SHARDS = 256


@contextmanager
def telling_full_disk(folder: Path) -> Iterator[None]:
    """Turn the failure to write for want of space into an error that names the folder. Raises UserError: store_full."""
    try:
        yield
    except OSError as cause:
        if is_full(cause):
            raise UserError(
                "store_full",
                "The disk is full, so {folder} could not be completed. Free some space and run this step again; "
                "what was written before is kept.",
                folder=str(folder),
            ) from cause
        raise


class FeatureStore(Rows):
    """The reading side. Rows keep the order in which their shards were written; rows written after opening are
    not seen until it is opened again, and a copy sent to another process sees the same rows.

    Args:
        folder: where `StoreWriter` put the shards.
        everything: also the rows that an earlier extraction no longer counted among its dataset.

    Raises:
        UserError: store_missing when the folder does not exist, store_unreadable when a shard is damaged.
    """

    def __init__(self, folder: Path | str, *, everything: bool = False):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(
                "store_missing",
                'There is no feature store at {folder}; format the dataset first ("1A Format" in the tab "Train", or '
                "tools.extract).",
                folder=self.folder,
            )
        self._begin(_list_shards(self.folder), None)
        current = None if everything else _read_current(self.folder)
        if current is not None:
            self._chosen = np.flatnonzero(
                places_of(self._whole("key"), pa.array(sorted(current), pa.large_string())) >= 0
            )

    def _begin(self, shards: list[Path], chosen: np.ndarray | None) -> None:
        self._shards, self._chosen = shards, chosen
        rows = [int(SHARD_NAME.fullmatch(path.name)[3]) for path in shards]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._open: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._chosen is None else len(self._chosen)

    def row(self, index: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """Row `index`, only `columns` of it if given (leaving out the audio makes a read much cheaper)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a store of {len(self)}")
        index %= len(self)
        index = index if self._chosen is None else int(self._chosen[index])
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch, offset = self._batch(shard), index - int(self._starts[shard])
        names = batch.schema.names if columns is None else columns
        return {name: cell(batch.column(name), offset) for name in names}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; empty for an empty store."""
        return tuple(self._batch(0).schema.names) if self._shards else ()

    def arrow(self, name: str) -> pa.Array:
        """A whole column; touches no other column."""
        whole = self._whole(name)
        return whole if self._chosen is None else whole.take(pa.array(self._chosen))

    def lengths(self, name: str) -> np.ndarray:
        """Length of each row's array in column `name`, int64 [rows], read from the offsets alone."""
        parts = [np.diff(self._batch(shard).column(name).offsets.to_numpy()) for shard in range(len(self._shards))]
        lengths = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        return lengths if self._chosen is None else lengths[self._chosen]

    def _whole(self, name: str) -> pa.Array:
        return joined([self._batch(shard).column(name) for shard in range(len(self._shards))])

    def _batch(self, shard: int) -> pa.RecordBatch:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
            batch = self._open[shard] = _read_shard(self._shards[shard])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return batch

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "shards": [path.name for path in self._shards], "chosen": self._chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The folder is not listed again: a shard written meanwhile would shift the rows of those that sort after it.
        self.folder = state["folder"]
        self._begin([self.folder / name for name in state["shards"]], state["chosen"])


class StoreWriter:
    """The writing side: a context manager that appends rows, shard by shard.

    Re-opened after a kill it goes on after the last complete shard: ask `has(key)` and redo what is missing.
    All rows have the same columns and types; the first row (of the store's life) decides them.

    Args:
        folder: created when absent.
        rows_per_shard, bytes_per_shard: a shard is written when either is reached.
        rank: number of this process when several extract into one folder at once.
    """

    def __init__(
        self, folder: Path | str, rows_per_shard: int = 2048, bytes_per_shard: int = 64 << 20, *, rank: int = 0
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows_per_shard, self.bytes_per_shard, self.rank = rows_per_shard, bytes_per_shard, rank
        for stale in self.folder.glob(f"shard-{rank:03d}-*.tmp"):
            stale.unlink()
        store = FeatureStore(self.folder, everything=True)
        self._keys = set(store.keys())
        self._schema = store._batch(0).schema if len(store) else None
        self._rows: list[dict[str, Value]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an exception: the rows added so far are whole and worth keeping.
        self.flush()

    def __len__(self) -> int:
        """Rows in the store, those not yet flushed included."""
        return len(self._keys)

    def has(self, key: str) -> bool:
        """Whether a row with this key was added, in this run or an earlier one."""
        return key in self._keys

    def add(self, key: str, **values: Value) -> None:
        """Append one row.

        Args:
            key: unique; see `entry_key`.
            values: str, int, float, bool, bytes or a 1-D numpy array.

        Raises:
            ValueError: the key is there already, or columns or types differ from the rows before.
        """
        if key in self._keys:
            raise ValueError(f"key {key} is in the store already; ask has() before add()")
        row: dict[str, Value] = {"key": key, **values}
        schema = pa.schema([(name, type_of(name, value)) for name, value in row.items()])
        if self._schema is None:
            self._schema = schema
        elif not self._schema.equals(schema):
            check_same(self._schema, schema)
        # Arrays are copied: the caller may reuse its buffer before the shard is written.
        self._rows.append({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in row.items()})
        self._keys.add(key)
        self._bytes += sum(size_of(value) for value in row.values())
        if len(self._rows) >= self.rows_per_shard or self._bytes >= self.bytes_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows as one shard; returns when it is safely on disk."""
        if not self._rows:
            return
        columns = [to_arrow([row[f.name] for row in self._rows], f.type) for f in self._schema]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        temporary = self.folder / f"shard-{self.rank:03d}-{os.getpid()}.tmp"
        try:
            with telling_full_disk(self.folder), open(temporary, "wb") as file:
                with pa.ipc.new_file(file, self._schema) as writer:
                    writer.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._next_path(len(self._rows)))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._rows, self._bytes = [], 0

    def _next_path(self, rows: int) -> Path:
        numbers = [
            int(match[2])
            for path in _list_shards(self.folder)
            if (match := SHARD_NAME.fullmatch(path.name)) and int(match[1]) == self.rank
        ]
        return self.folder / f"shard-{self.rank:03d}-{max(numbers, default=-1) + 1:06d}-{rows}.arrow"


def _read_current(folder: Path) -> frozenset[str] | None:
    """Keys of the rows that count; None where nobody said."""
    files = sorted(folder.glob(CURRENT_PATTERN))
    return frozenset(key for path in files for key in path.read_text().split()) if files else None


def _list_shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name))


def _read_shard(path: Path) -> pa.RecordBatch:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (pa.ArrowException, OSError, EOFError) as cause:
        raise UserError(
            "store_unreadable",
            "{file} is damaged ({cause}); delete it and extract again, only its rows are redone.",
            file=path,
            cause=cause,
        ) from cause
