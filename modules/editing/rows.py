"""The rows of a dataset under edit, and edits as data: a command gives a patch, a patch has an inverse."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.data.manifest import Utterance, relative_audio, resolve_audio
from modules.errors import UserError

FIELDS = ("text", "speaker", "language")
"""What an edit may set; the audio is only ever replaced by new files."""


@dataclass(frozen=True, slots=True)
class Row:
    """An utterance under a number that stays the same whatever is edited around it.

    Args:
        id: never given to another row, not even after an undo.
        utterance: as edited.
        review: the program changed the text by guessing; a person should look at it.
    """

    id: int
    utterance: Utterance
    review: bool = False


@dataclass(frozen=True)
class Patch:
    """Rows that leave, by their place in the old list, and rows that come, by their place in the new one."""

    before: tuple[tuple[int, Row], ...]
    after: tuple[tuple[int, Row], ...]

    @property
    def inverse(self) -> "Patch":
        """What undoes this."""
        return Patch(self.after, self.before)


class RowList:
    """Rows in order, found by their id.

    Args:
        rows: in order, with different ids.
        folder: new audio is named relative to it in commands, so that the folder can be moved.
    """

    def __init__(self, rows: Iterable[Row], folder: Path):
        self._rows = list(rows)
        self._folder = folder
        self._places: dict[int, int] | None = None
        self.next_id = max((row.id for row in self._rows), default=-1) + 1

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows))

    def __contains__(self, id: int) -> bool:
        return id in self._index()

    def place(self, id: int) -> int:
        """Where in the list a row stands, from 0. Raises UserError row_gone."""
        place = self._index().get(id)
        if place is None:
            raise UserError("row_gone", "Row {id} is not in the list any more; reload the list.", id=id)
        return place

    def get(self, id: int) -> Row:
        """The row with that id. Raises UserError row_gone."""
        return self._rows[self.place(id)]

    def ordered(self, ids: Iterable[int]) -> list[Row]:
        """The rows with these ids, each once, in the order of the list. Raises UserError row_gone."""
        return [self._rows[place] for place in sorted({self.place(id) for id in ids})]

    def apply(self, patch: Patch) -> None:
        """Change the list."""
        leaving, coming = dict(patch.before), dict(patch.after)
        self.next_id = max(self.next_id, *(row.id + 1 for _, row in patch.after), 0)
        if leaving.keys() == coming.keys() and all(leaving[place].id == coming[place].id for place in leaving):
            for place, row in coming.items():
                self._rows[place] = row
            return
        staying = (row for place, row in enumerate(self._rows) if place not in leaving)
        total = len(self._rows) - len(leaving) + len(coming)
        self._rows = [coming[place] if place in coming else next(staying) for place in range(total)]
        self._places = None

    def patch(self, command: dict[str, Any]) -> Patch:
        """What a command would change; nothing is changed yet.

        Commands: {kind "set", field, ids, values (one for all, or one for each)}, {kind "review", ids, value},
        {kind "rename", old, new}, {kind "delete", ids}, {kind "replace", ids, rows}.

        Raises:
            UserError: row_gone, manifest_separator.
            KeyError, TypeError, ValueError: this is no command.
        """
        kind = command["kind"]
        if kind == "set":
            values = command["values"] * (len(command["ids"]) if len(command["values"]) == 1 else 1)
            pairs = zip(command["ids"], values, strict=True)
            return self._changed([self._with(id, command["field"], value) for id, value in pairs])
        if kind == "review":
            wanted = bool(command["value"])
            return self._changed([dataclasses.replace(self.get(id), review=wanted) for id in command["ids"]])
        if kind == "rename":
            ids = [row.id for row in self._rows if row.utterance.speaker == command["old"]]
            return self._changed([self._with(id, "speaker", command["new"]) for id in ids])
        if kind == "delete":
            return Patch(tuple((self.place(row.id), row) for row in self.ordered(command["ids"])), ())
        if kind == "replace":
            before = tuple((self.place(row.id), row) for row in self.ordered(command["ids"]))
            new = [self.decoded(values) for values in command["rows"]]
            return Patch(before, tuple((before[0][0] + step, row) for step, row in enumerate(new)))
        raise ValueError(f"unknown command {kind}")

    def encoded(self, row: Row) -> dict[str, Any]:
        """A row as JSON values."""
        audio = relative_audio(row.utterance.audio, self._folder.absolute())
        return {"id": row.id, "review": row.review, **dataclasses.asdict(row.utterance), "audio": audio}

    def decoded(self, values: dict[str, Any]) -> Row:
        """The row that `encoded` made JSON of."""
        fields = {field.name: values[field.name] for field in dataclasses.fields(Utterance)}
        fields["audio"] = resolve_audio(fields["audio"], self._folder)
        return Row(int(values["id"]), Utterance(**fields), bool(values["review"]))

    def _changed(self, rows: Sequence[Row]) -> Patch:
        pairs = [(place, row) for row in rows if self._rows[place := self.place(row.id)] != row]
        return Patch(tuple((place, self._rows[place]) for place, _ in pairs), tuple(pairs))

    def _with(self, id: int, field: str, value: str) -> Row:
        if field not in FIELDS:
            raise ValueError(f"no field {field}")
        row, value = self.get(id), one_line(value, field)
        utterance = dataclasses.replace(row.utterance, **{field: value})
        if field == "text" and value != row.utterance.text:
            utterance = dataclasses.replace(utterance, confidence=-1.0)  # the transcriber judged another text
        return dataclasses.replace(row, utterance=utterance, review=row.review and field != "text")

    def _index(self) -> dict[int, int]:
        if self._places is None:
            self._places = {row.id: place for place, row in enumerate(self._rows)}
        return self._places


def one_line(value: str, field: str) -> str:
    """A field as a list can hold it: UTF-8 in one line. Raises UserError manifest_separator for a "|"."""
    value = value.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    value = " ".join(re.split(r"[\r\n]+", value)).strip()
    if field != "text" and "|" in value:
        raise UserError(
            "manifest_separator",
            'A .list file cannot hold "{value}" because "|" separates its fields; rename it.',
            value=value,
        )
    return value
