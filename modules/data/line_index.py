"""The index files of extracted features: which lines there are, and for each step where its features lie, the hash of
what made them, and what that was in words."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from modules.data.store import entry_key
from modules.errors import UserError

STEPS = ("text", "audio", "speech")
CODES = "codes"
ALL_STEPS = (*STEPS, CODES)
PLACES, HASHES, DESCRIBED = b"places", b"hashes", b"described"
Described = Mapping[str, Mapping[str, Any]]
"""Step -> what makes its features, as names and values."""


class Index(NamedTuple):
    """The lines of all processes; step -> folder of its features, hash of what made them, and what that was."""

    table: pa.Table
    places: dict[str, str]
    made: dict[str, str]
    described: dict[str, dict[str, Any]]


def index_name(rank: int) -> str:
    """The index file of a process."""
    return f"lines-{rank:03d}.arrow"


def index_files(folder: Path) -> list[Path]:
    """The index files of all processes; none where nothing was extracted."""
    return sorted(folder.glob("lines-[0-9][0-9][0-9].arrow"))


def read_index(folder: Path) -> Index:
    """All index files together.

    Raises:
        UserError: store_missing, store_unreadable.
    """
    tables, told = [], []
    for path in index_files(folder):
        try:
            # Not mapped: Windows would not let the next extraction replace it while a training is running.
            table = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()
            metadata = table.schema.metadata
            places = json.loads(metadata[PLACES])
            told.append((places, *(json.loads(metadata.get(name, b"{}")) for name in (HASHES, DESCRIBED))))
            tables.append(_with_codes_key(table.replace_schema_metadata(None)))
        except (pa.ArrowException, OSError, EOFError, TypeError, KeyError, ValueError) as cause:
            raise UserError(
                "store_unreadable",
                "{file} is damaged ({cause}); delete it and extract again, only its rows are redone.",
                file=path,
                cause=cause,
            ) from cause
    if not tables:
        raise UserError(
            "store_missing",
            'There is no feature store at {folder}; format the dataset first ("1A Format" in the tab "Train", or '
            "tools.extract).",
            folder=folder,
        )
    # Between two processes that begin with other encoders they may differ: then the features of one are missing yet.
    return Index(pa.concat_tables(tables).unify_dictionaries(), *told[0])


def read_earlier(folder: Path) -> Index | None:
    """The index of an earlier run; None without one, or with a damaged one: then nothing is known."""
    with suppress(UserError):
        return read_index(folder)
    return None


def codes_hash(quantizer: str, speech: str) -> str:
    """What makes codes: the quantiser's hash, and that of the speech features that it reads."""
    return entry_key(quantizer, speech)


def hashes_with_earlier(hashes: Mapping[str, str | None], earlier: Index | None) -> dict[str, str]:
    """The hashes of all steps, those that are not known from an earlier run; codes' with what they are made of."""
    known = earlier.made if earlier else {}
    found = {step: hashes.get(step) for step in ALL_STEPS}
    for step in STEPS:
        if found[step] is None:
            found[step] = known.get(step, entry_key("not at hand", step))
    if found[CODES]:
        found[CODES] = codes_hash(found[CODES], found["speech"])
    elif found[CODES] is None:
        found[CODES] = known.get(CODES, "") if found["speech"] == known.get("speech") else ""
    return found


def descriptions_with_earlier(
    described: Described, steps: Sequence[str], hashes: Mapping[str, str], earlier: Index | None
) -> dict[str, dict[str, Any]]:
    """What is known of each step: of those that run now, and of others whose hash was not known before, what is said
    now; of the rest what an earlier run said, if anything."""
    found = {}
    for step in STEPS:
        kept = earlier is not None and step not in steps and earlier.made.get(step) == hashes[step]
        told = earlier.described.get(step) if kept else described.get(step)
        if told:
            found[step] = dict(told)
    return found


def _with_codes_key(table: pa.Table) -> pa.Table:
    """An index that was written before there was a step of codes gets its column."""
    if f"{CODES}_key" in table.column_names:
        return table
    return table.append_column(f"{CODES}_key", pa.array([""] * table.num_rows, pa.large_string()))
