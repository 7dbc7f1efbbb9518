"""Columns of Arrow tables as Python and numpy values, and back; and what every table of rows can be asked.

A row is a dict of scalars, strings, bytes and 1-D arrays.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Value = str | int | float | bool | bytes | np.ndarray


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


class Rows(ABC):
    """What datasets ask of a store. A subclass gives `folder`, `len`, `columns`, `row`, `arrow` and `lengths`."""

    folder: Path
    _index: dict[str, int] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: str, int, float, bool and bytes as such, arrays as writable 1-D numpy copies."""
        return self.row(index)

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""

    @abstractmethod
    def row(self, index: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """Row `index`, only `columns` of it if given (leaving out the audio makes a read much cheaper)."""

    @abstractmethod
    def arrow(self, name: str) -> pa.Array:
        """A whole column; touches no other column."""

    @abstractmethod
    def lengths(self, name: str) -> np.ndarray:
        """Length of each row's array in column `name`, int64 [rows], read from the offsets alone."""

    def column(self, name: str) -> list[Any]:
        """A whole column as a list; of many rows, `array` and `labels` are much quicker."""
        return cells(self.arrow(name))

    def array(self, name: str) -> np.ndarray:
        """A column of numbers, [rows]."""
        return self.arrow(name).to_numpy(zero_copy_only=False)

    def labels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of strings that repeat themselves: which one each row has, int64 [rows], and the strings [n]."""
        column = self.arrow(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        numbers = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers, np.asarray(column.dictionary.to_pylist(), dtype=str)

    def keys(self) -> list[str]:
        """The keys of all rows, in order."""
        return self.column("key")

    def fingerprint(self, codes: bool = True) -> str:
        """Tells this set of rows from any other, in whatever order they came.

        Args:
            codes: whether codes that are made in a step of their own count; without, making them changes nothing.
        """
        return entry_key(*sorted(self.keys()))

    def index(self, key: str) -> int:
        """The row with this key. Raises KeyError when there is none."""
        if self._index is None:
            self._index = {key: row for row, key in enumerate(self.keys())}
        return self._index[key]


def places_of(keys: pa.Array, among: pa.Array) -> np.ndarray:
    """Where each of `keys` stands in `among`, int64 [keys]; -1 for one that is not there."""
    kind = pa.large_string()
    found = pc.index_in(keys.cast(kind), value_set=among.cast(kind))
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def joined(parts: list[pa.Array]) -> pa.Array:
    """Columns of several tables as one."""
    if not parts:
        return pa.array([], pa.large_string())
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)


def type_of(name: str, value: Value) -> pa.DataType:
    """The Arrow type of a value of column `name`. Raises ValueError for one that no column can hold."""
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


def check_same(expected: pa.Schema, found: pa.Schema) -> None:
    """Raise ValueError that names the columns in which two schemas differ; their order does not matter."""
    kinds, others = (dict(zip(s.names, s.types, strict=True)) for s in (expected, found))
    wrong = [
        f"{name} is {others.get(name, 'missing')} instead of {kinds.get(name, 'absent')}"
        for name in sorted(set(kinds) | set(others))
        if kinds.get(name) != others.get(name)
    ]
    if wrong:
        raise ValueError("the row does not fit the store: " + "; ".join(wrong))


def size_of(value: Value) -> int:
    """Bytes that a value takes, about."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, str | bytes | bytearray) else 8


def to_arrow(values: list[Value], kind: pa.DataType) -> pa.Array:
    """Values of one column as an Arrow array."""
    if not pa.types.is_large_list(kind):
        return pa.array(values, kind)
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int64)
    flat = np.concatenate(values)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat, kind.value_type), type=kind)


def cell(column: pa.Array, offset: int) -> Any:
    """One value of a column."""
    if not isinstance(column, pa.LargeListArray):
        return column[offset].as_py()
    return column[offset].values.to_numpy(zero_copy_only=False).copy()


def cells(column: pa.Array) -> list[Any]:
    """All values of a column."""
    if not isinstance(column, pa.LargeListArray):
        return column.to_pylist()
    return [cell(column, offset) for offset in range(len(column))]
