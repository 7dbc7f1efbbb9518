"""Feature store: rows of scalars, strings and 1-D arrays in append-only Arrow IPC shards.

A million utterances are a few thousand files. A shard is complete or absent (temporary file, then rename), so
a kill costs the unfinished shard at most. The row count stands in the file name, hence `len` opens nothing.
Reading is random access through memory maps: only the pages of the asked row and columns are touched.

Shards only grow. Where a dataset changed since, or was extracted by other encoders, `write_current` says which rows
belong to it now, and the others are not seen.
"""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from modules.data.manifest import write_whole
from modules.errors import UserError

Value = str | int | float | bool | bytes | np.ndarray
SHARD_NAME = re.compile(r"shard-(\d{3})-(\d{6})-(\d+)\.arrow")
CURRENT_NAME = "current-{rank:03d}.txt"
OPEN_SHARDS = 256


def entry_key(*parts: bytes | str) -> str:
    """The key of an entry: 32 hex digits that change when any part (audio bytes, encoder hash) changes.

    Each part is hashed with its length and kind, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else bytes(part)
        digest.update(f"{'s' if isinstance(part, str) else 'b'}{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:32]


class FeatureStore:
    """The reading side. Rows keep the order in which their shards were written; rows written after opening are
    not seen until it is opened again.

    Args:
        folder: where `StoreWriter` put the shards.
        everything: also the rows that `write_current` left out.

    Raises:
        UserError: store_missing when the folder does not exist, store_unreadable when a shard is damaged.
    """

    def __init__(self, folder: Path | str, *, everything: bool = False):
        self.folder, self._everything = Path(folder), everything
        if not self.folder.is_dir():
            raise UserError(
                "store_missing", "There is no feature store at {folder}; extract features first.", folder=self.folder
            )
        self._shards = _list_shards(self.folder)
        rows = [int(SHARD_NAME.fullmatch(path.name)[3]) for path in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._open: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._lock = threading.Lock()
        self._index: dict[str, int] | None = None
        self._chosen: np.ndarray | None = None
        current = None if everything else _read_current(self.folder)
        if current is not None:
            self._chosen = np.flatnonzero([key in current for key in self._all("key")])

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: str, int, float, bool and bytes as such, arrays as writable 1-D numpy copies."""
        return self.row(index)

    def row(self, index: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """Row `index`, only `columns` of it if given (leaving out the audio makes a read much cheaper)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a store of {len(self)}")
        index %= len(self)
        index = index if self._chosen is None else int(self._chosen[index])
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch, offset = self._batch(shard), index - int(self._starts[shard])
        names = batch.schema.names if columns is None else columns
        return {name: _cell(batch.column(name), offset) for name in names}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; empty for an empty store."""
        return tuple(self._batch(0).schema.names) if self._shards else ()

    def column(self, name: str) -> list[Any]:
        """A whole column as a list; touches no other column."""
        values = self._all(name)
        return values if self._chosen is None else [values[row] for row in self._chosen]

    def lengths(self, name: str) -> np.ndarray:
        """Length of each row's array in column `name`, int64 [rows], read from the offsets alone."""
        parts = [np.diff(self._batch(shard).column(name).offsets.to_numpy()) for shard in range(len(self._shards))]
        lengths = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        return lengths if self._chosen is None else lengths[self._chosen]

    def keys(self) -> list[str]:
        """The keys of all rows, in order."""
        return self.column("key")

    def fingerprint(self) -> str:
        """Tells this set of rows from any other, in whatever order they came."""
        return entry_key(*sorted(self.keys()))

    def index(self, key: str) -> int:
        """The row with this key. Raises KeyError when there is none."""
        if self._index is None:
            self._index = {key: row for row, key in enumerate(self.keys())}
        return self._index[key]

    def _all(self, name: str) -> list[Any]:
        return [value for shard in range(len(self._shards)) for value in _cells(self._batch(shard).column(name))]

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
        return {"folder": self.folder, "everything": self._everything}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], everything=state["everything"])


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
        schema = pa.schema([(name, _type_of(name, value)) for name, value in row.items()])
        if self._schema is None:
            self._schema = schema
        elif not self._schema.equals(schema):
            _check_same(self._schema, schema)
        # Arrays are copied: the caller may reuse its buffer before the shard is written.
        self._rows.append({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in row.items()})
        self._keys.add(key)
        self._bytes += sum(_size_of(value) for value in row.values())
        if len(self._rows) >= self.rows_per_shard or self._bytes >= self.bytes_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows as one shard; returns when it is safely on disk."""
        if not self._rows:
            return
        columns = [_to_arrow([row[f.name] for row in self._rows], f.type) for f in self._schema]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        temporary = self.folder / f"shard-{self.rank:03d}-{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            with pa.ipc.new_file(file, self._schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._next_path(len(self._rows)))
        self._rows, self._bytes = [], 0

    def _next_path(self, rows: int) -> Path:
        numbers = [
            int(match[2])
            for path in _list_shards(self.folder)
            if (match := SHARD_NAME.fullmatch(path.name)) and int(match[1]) == self.rank
        ]
        return self.folder / f"shard-{self.rank:03d}-{max(numbers, default=-1) + 1:06d}-{rows}.arrow"


def write_current(folder: Path | str, keys: Iterable[str], *, rank: int = 0, world: int = 1) -> None:
    """Say which rows of a store belong to its dataset now; each of `world` processes tells its own share.

    Shares of an earlier run with more processes go away with rank 0.
    """
    folder = Path(folder)
    write_whole(folder / CURRENT_NAME.format(rank=rank), (f"{key}\n".encode() for key in sorted(set(keys))))
    if rank == 0:
        for path in _current_files(folder):
            if int(path.stem.split("-")[1]) >= world:
                path.unlink(missing_ok=True)


def _current_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(CURRENT_NAME.format(rank=0).replace("000", "[0-9][0-9][0-9]")))


def _read_current(folder: Path) -> frozenset[str] | None:
    """Keys of the rows that count; None where nobody said."""
    files = _current_files(folder)
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


def _type_of(name: str, value: Value) -> pa.DataType:
    if isinstance(value, np.ndarray):
        if value.ndim != 1:
            raise ValueError(f"column {name} must be a 1-D array, not {value.ndim}-D; flatten it")
        return pa.large_list(pa.from_numpy_dtype(value.dtype))
    if isinstance(value, bool | np.bool_):
        return pa.bool_()
    if isinstance(value, int | np.integer):
        return pa.int64()
    if isinstance(value, float | np.floating):
        return pa.float64()
    if isinstance(value, str):
        return pa.large_string()
    if isinstance(value, bytes | bytearray):
        return pa.large_binary()
    raise ValueError(f"column {name} cannot hold a {type(value).__name__}")


def _check_same(expected: pa.Schema, found: pa.Schema) -> None:
    kinds, others = (dict(zip(s.names, s.types, strict=True)) for s in (expected, found))
    wrong = [
        f"{name} is {others.get(name, 'missing')} instead of {kinds.get(name, 'absent')}"
        for name in sorted(set(kinds) | set(others))
        if kinds.get(name) != others.get(name)
    ]
    if wrong:
        raise ValueError("the row does not fit the store: " + "; ".join(wrong))


def _size_of(value: Value) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, str | bytes | bytearray) else 8


def _to_arrow(values: list[Value], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_large_list(kind):
        return pa.array(values, kind)
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int64)
    flat = np.concatenate(values)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat, kind.value_type), type=kind)


def _cell(column: pa.Array, offset: int) -> Any:
    if not isinstance(column, pa.LargeListArray):
        return column[offset].as_py()
    return column[offset].values.to_numpy(zero_copy_only=False).copy()


def _cells(column: pa.Array) -> Iterable[Any]:
    if not isinstance(column, pa.LargeListArray):
        return column.to_pylist()
    return (_cell(column, offset) for offset in range(len(column)))
