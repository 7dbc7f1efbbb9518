"""What `tools.extract` writes: a small index of the lines of a dataset, and one feature store for each step.

    features/lines-000.arrow            who speaks what in which language and split, and the keys of the line's features
    features/text/HASH/shard-*.arrow    text ids, and text features if there are any, by text and text encoder
    features/audio/HASH/shard-*.arrow   audio, by recording and audio settings
    features/speech/HASH/shard-*.arrow  speech tokens, f0 and length, by recording and speech encoder; instead of the
                                        tokens the features (ssl) that a decoder makes tokens of while it learns
    features/codes/HASH/shard-*.arrow   the tokens that a finished decoder makes of ssl, by recording and quantiser

HASH tells what made the features, so another encoder begins a folder of its own, and the way back costs nothing.
Shards only grow; the index is written anew by every run, one file for each process. A line whose features are not all
there is not seen, but for codes: they come last, and a decoder is trained without. Until the first are there, the store
has no such columns; a line that lacks its codes then has none and 0 codebooks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from modules.data.columns import Rows, places_of
from modules.data.line_index import (
    ALL_STEPS,
    CODES,
    DESCRIBED,
    HASHES,
    PLACES,
    STEPS,
    Described,
    descriptions_with_earlier,
    hashes_with_earlier,
    index_files,
    index_name,
    read_earlier,
    read_index,
)
from modules.data.manifest import write_whole
from modules.data.store import FeatureStore, StoreWriter, entry_key, telling_full_disk
from modules.errors import UserError

_REPEATED = ("speaker", "language", "split", "source")
_SHARDS = {
    "text": {"rows_per_shard": 4096},
    "audio": {"bytes_per_shard": 128 << 20},
    "speech": {"rows_per_shard": 1024, "bytes_per_shard": 128 << 20},
    CODES: {"rows_per_shard": 4096},
}
"""An hour of audio, or half an hour of ssl, is two shards; 1024 lines of speech tokens are what a kill may cost."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a dataset: what is known without its features, and the keys of these ("" = left out).

    `key` changes when anything about the line does, its features included, but not its codes: who learns without them
    has the same line before and after they are made.
    """

    speaker: str
    language: str
    split: str
    text: str
    source: str
    text_key: str
    audio_key: str
    speech_key: str
    codes_key: str = ""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        told = (getattr(self, name) for name in self.__slots__ if name not in ("codes_key", "key"))
        object.__setattr__(self, "key", entry_key(*told))

    def step_key(self, step: str) -> str:
        """Key of the features of a step."""
        return getattr(self, f"{step}_key")


class LineStore(Rows):
    """The lines whose features are all there, as rows with the columns of the index and of all steps.

    Features are looked up when it is opened: lines added or finished later are not seen until it is opened again, and a
    copy sent to another process sees the same rows. Audio that was left out is an empty array.

    Attributes:
        made: step -> hash of what made its features; described: step -> what that was, as names and values. What is
            not known is left out.

    Args:
        folder: where `LineWriter` put the features.

    Raises:
        UserError: store_unreadable.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        table, places, self.made, self.described = read_index(self.folder)
        self._stores: dict[str, FeatureStore] = {}
        self._rows: dict[str, np.ndarray] = {}
        self.missing: dict[str, int] = {}
        """Step -> lines that lack its features; steps that lack none are left out."""
        whole = np.ones(table.num_rows, bool)
        for step in ALL_STEPS:
            keys = table.column(f"{step}_key").combine_chunks()
            rows = np.full(table.num_rows, -1, np.int64)
            if step in places and (self.folder / places[step]).is_dir():
                self._stores[step] = FeatureStore(self.folder / places[step], everything=True)
                rows = places_of(keys, self._stores[step].arrow("key"))
            wanted = pc.not_equal(keys, pa.scalar("", keys.type)).to_numpy(zero_copy_only=False)
            if lacking := int(np.count_nonzero(wanted & (rows < 0))):
                self.missing[step] = lacking
            whole &= ~wanted | (rows >= 0) | (step == CODES)
            self._rows[step] = rows
        self.lines = table.num_rows
        """Lines of the dataset, those that are not seen included."""
        chosen = np.flatnonzero(whole)
        table = table.drop_columns([f"{step}_key" for step in ALL_STEPS])
        self._table = (table if whole.all() else table.take(pa.array(chosen))).combine_chunks()
        self._rows = {step: rows[chosen] for step, rows in self._rows.items()}
        if CODES in self._stores and not (self._rows[CODES] >= 0).any():
            del self._stores[CODES]  # those of other lines
        self._codes_made = places[CODES] if CODES in self._stores else ""
        self._step_of = {name: step for step, store in self._stores.items() for name in store.columns if name != "key"}
        self._step_of.setdefault("audio", "audio")  # also where no line has any

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (*self._table.column_names, *self._step_of)

    def row(self, index: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """Row `index`, only `columns` of it if given."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a store of {len(self)}")
        index %= len(self)
        names = self.columns if columns is None else tuple(columns)
        found: dict[str, Any] = {}
        for step in {self._step_of[name] for name in names if name in self._step_of}:
            inside = [name for name in names if self._step_of.get(name) == step]
            place = int(self._rows[step][index])
            found |= self._stores[step].row(place, inside) if place >= 0 else {name: _absent(name) for name in inside}
        return {name: found[name] if name in found else self._line(name, index) for name in names}

    def arrow(self, name: str) -> pa.Array:
        """A whole column; touches no other column."""
        if name not in self._step_of:
            return self._table.column(name).combine_chunks()
        step = self._step_of[name]
        rows = self._rows[step]
        column = self._stores[step].arrow(name) if step in self._stores else None
        if column is not None and (rows < 0).any() and pa.types.is_integer(column.type):
            return column.take(pa.array(rows, mask=rows < 0)).fill_null(0)
        if column is None or (rows < 0).any():
            return pa.array(self._values(name), pa.large_list(pa.int16()))
        in_order = len(rows) == len(column) and np.array_equal(rows, np.arange(len(rows)))
        return column if in_order else column.take(pa.array(rows))

    def lengths(self, name: str) -> np.ndarray:
        """Length of each row's array in column `name`, int64 [rows], read from the offsets alone."""
        step = self._step_of[name]
        rows = self._rows[step]
        if step not in self._stores or not len(self._stores[step]):
            return np.zeros(len(rows), np.int64)
        return np.where(rows >= 0, self._stores[step].lengths(name)[rows], 0)

    def fingerprint(self, codes: bool = True) -> str:
        """Tells this set of rows from any other; without `codes` it stays when their codes are made, or made anew."""
        made = [self._codes_made, str(np.count_nonzero(self._rows[CODES] >= 0))] if codes and self._codes_made else []
        return entry_key(*sorted(self.keys()), *made)

    def _line(self, name: str, index: int) -> Any:
        if name not in self._table.column_names:
            raise KeyError(f"there is no column {name}; there are {', '.join(self.columns)}")
        return self._table.column(name)[index].as_py()

    def _values(self, name: str) -> list[Any]:
        return [self.row(index, (name,))[name] for index in range(len(self))]

    def __getstate__(self) -> dict[str, Any]:
        # The view itself travels, since both the index and the steps may have changed on disk meanwhile.
        return {name: value for name, value in self.__dict__.items() if name != "_index"}


class LineWriter:
    """The writing side, a context manager: the features of each step, and the index of the lines.

    Features that are there already are kept for ever; only the unfinished shards are lost by a kill.

    Args:
        folder: created when absent.
        hashes: what makes the features of each step, audio "" where it is left out. None where that cannot be told (the
            step's encoder is not at hand): what an earlier run made for these lines then still counts. That of codes
            is the quantiser's; earlier ones count as long as the speech features that they were made of do.
        steps: those that features are added to.
        rank, world: number of this process, and of all processes, that extract into one folder at once.
        described: step -> what makes its features, for who learns from them (see modules/data/fit.py).

    Raises:
        UserError: extraction_busy when another process writes as the same rank, encoder_unknown when a step of `steps`
            has no hash: under an earlier one its features would be mixed with others.
    """

    def __init__(
        self,
        folder: Path | str,
        hashes: Mapping[str, str | None],
        steps: Sequence[str] = STEPS,
        rank: int = 0,
        world: int = 1,
        described: Described | None = None,
    ):
        self.folder, self.rank, self.world = Path(folder), rank, world
        _check_known(hashes, steps)
        earlier = read_earlier(self.folder)
        self.hashes = hashes_with_earlier(hashes, earlier)
        self.described = descriptions_with_earlier(described or {}, steps, self.hashes, earlier)
        self.steps = tuple(step for step in steps if self.hashes[step])
        self._places = {step: f"{step}/{made[:16]}" for step, made in self.hashes.items() if made}
        self._writers: dict[str, StoreWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._lock(stack)
            for step in self.steps:
                writer = StoreWriter(self.folder / self._places[step], rank=self.rank, **_SHARDS[step])
                self._writers[step] = stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def _lock(self, stack: ExitStack) -> None:
        try:
            stack.enter_context(FileLock(self.folder / f"writer-{self.rank:03d}.lock", timeout=0))
        except Timeout as cause:
            raise UserError(
                "extraction_busy",
                "Another extraction is writing to {folder}; wait for its end, or stop it, and start again.",
                folder=str(self.folder),
            ) from cause

    def has(self, step: str, key: str) -> bool:
        """Whether the features of a step are there, or left out."""
        return not key or self._writers[step].has(key)

    def add(self, step: str, key: str, **values: Any) -> None:
        """Append the features of a step; of a key that is there already, nothing."""
        if not self.has(step, key):
            self._writers[step].add(key, **values)

    def read(self, step: str) -> FeatureStore:
        """What is on disk of a step's features, in this run or before; `flush` it first."""
        folder = self.folder / self._places[step]
        folder.mkdir(parents=True, exist_ok=True)
        return FeatureStore(folder, everything=True)

    def flush(self, step: str) -> None:
        """Put what was added to a step on disk now, its unfinished shard included."""
        self._writers[step].flush()

    def write_lines(self, lines: Iterable[Line]) -> None:
        """Say which lines this process's share of the dataset holds; a line of an earlier run that is not among them
        is seen no more. Shares of an earlier run with more processes go away with rank 0."""
        lines = list(lines)
        names = ["key", *(name for name in Line.__slots__ if name != "key")]
        columns = [pa.array([getattr(line, name) for line in lines], pa.large_string()) for name in names]
        columns = [c.dictionary_encode() if n in _REPEATED else c for n, c in zip(names, columns, strict=True)]
        told = {PLACES: self._places, HASHES: self.hashes, DESCRIBED: self.described}
        told = {name: json.dumps(values).encode() for name, values in told.items()}
        table = pa.table(columns, names).replace_schema_metadata(told)
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        with telling_full_disk(self.folder):
            write_whole(self.folder / index_name(self.rank), [buffer.getvalue()])
        if self.rank == 0:
            for path in index_files(self.folder):
                if int(path.stem.split("-")[1]) >= self.world:
                    path.unlink(missing_ok=True)


def open_store(folder: Path | str) -> FeatureStore | LineStore:
    """A folder of features that can be trained on: of `tools.extract`, or a plain store.

    Raises:
        UserError: store_missing, store_unreadable, features_incomplete when no line has been through all steps.
    """
    if not index_files(Path(folder)):
        return FeatureStore(folder)
    store = LineStore(folder)
    if store.lines and not len(store):
        raise UserError(
            "features_incomplete",
            "None of the {count} lines in {folder} has all its features; missing: {steps}. "
            "Run the extraction without --only, or that step alone.",
            count=store.lines,
            folder=str(folder),
            steps=", ".join(store.missing),
        )
    return store


def _check_known(hashes: Mapping[str, str | None], steps: Sequence[str]) -> None:
    for step in steps:
        if hashes.get(step) is None:
            raise UserError(
                "encoder_unknown",
                "What makes the features of the step {step} cannot be told from others: a file of its encoder is "
                "missing. Get it in the tab Models, then start again.",
                step=step,
            )


def _absent(name: str) -> Any:
    """What a line has in a column of audio or codes that it lacks."""
    return 0 if name == "codebooks" else np.zeros(0, np.int16)
