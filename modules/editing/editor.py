"""The dataset editor without a page: rows, edits that can be undone, and a journal that no kill can take away.

Audio is never changed: merging and splitting write new files into the work folder. Each edit is on disk before it
counts as made, and is made again when the dataset is next opened.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from modules.data.lines import Problem, SourceRow
from modules.data.manifest import Utterance
from modules.data.validation import Checked, check_list_name, list_chunks, write_rows
from modules.editing.browsing import PAGE_ROWS, ClipCache, Filters, Page, Shown, filtered, search
from modules.editing.exports import Exported, Exports
from modules.editing.journal import Journal
from modules.editing.recutting import merged_row, split_rows
from modules.editing.rows import Patch, Row, RowList
from modules.editing.sessions import IfChanged, begin
from modules.errors import UserError


class DatasetEditor:
    """One or several lists under edit; made by `DatasetEditor.open`.

    Every edit takes the revision that the person saw (`Page.revision`; None = the newest this editor knows). If the
    dataset was edited meanwhile, by this editor or by another one on the same work folder, the edit is refused with
    UserError edit_stale, and the editor has then read the other's edits. Edits that change nothing are not recorded.
    The selection belongs to this editor alone and is no edit.
    """

    def __init__(self, checked: Checked, exports: Exports, journal: Journal):
        self._checked, self._exports, self._journal = checked, exports, journal
        self._origins: dict[int, SourceRow] = {row.number: row for row in checked.rows}
        self._rows = RowList((Row(row.number, row.utterance) for row in checked.rows), journal.folder)
        self._undo: list[Patch] = []
        self._redo: list[Patch] = []
        self._selected: set[int] = set()
        self._cache = ClipCache()
        self._revision = 0

    @classmethod
    def open(
        cls,
        manifests: str | Path | Sequence[str | Path],
        work_folder: str | Path,
        audio_folder: str | Path | None = None,
        if_changed: IfChanged = "ask",
    ) -> Self:
        """Open lists, and make the edits of the work folder's journal again.

        Args:
            manifests: `.list`, `.txt`, `.jsonl` or `.tsv` files, one after the other.
            work_folder: keeps the journal, a copy of the lists and new clips; one for each dataset.
            audio_folder: when given, it is joined with the base name of each audio path.
            if_changed: what to do when a list was changed by somebody else since the edits, or when the journal is
                damaged: "ask" raises, "keep_aside" renames the journal and opens the list as it is now,
                "start_over" deletes the journal.

        Raises:
            UserError: source_changed, edits_damaged, edits_other_source (the folder belongs to other lists),
                edits_unwritable, manifest_missing, manifest_encoding.
        """
        paths = [Path(path) for path in ([manifests] if isinstance(manifests, str | Path) else manifests)]
        journal = Journal(Path(work_folder))
        with journal.locked():
            checked, records = begin(journal, paths, audio_folder, if_changed)
            editor = cls(checked, Exports(paths, records[0]), journal)
            try:
                editor._replay(records[1:])
            except UserError:
                if if_changed == "ask":
                    raise
                checked, records = begin(journal, paths, audio_folder, if_changed, anew=True)
                editor = cls(checked, Exports(paths, records[0]), journal)
        return editor

    # What is there.

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[Row]:
        """All rows in order."""
        return list(self._rows)

    @property
    def utterances(self) -> list[Utterance]:
        """All utterances in order, as they would be exported."""
        return [row.utterance for row in self._rows]

    @property
    def problems(self) -> list[Problem]:
        """What was wrong with the lists when they were first opened; lines that gave no row are the fatal ones."""
        return self._checked.problems

    @property
    def revision(self) -> int:
        """Grows with every edit, undo and redo."""
        return self._revision

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone edit to make again."""
        return bool(self._redo)

    def row(self, id: int) -> Row:
        """The row with that id. Raises UserError row_gone."""
        return self._rows.get(id)

    def page(self, index: int = 0, size: int = PAGE_ROWS, ids: Sequence[int] | None = None) -> Page:
        """`size` rows; an index beyond the ends gives the first or last page.

        Args:
            index: page, from 0.
            size: rows on it.
            ids: show these only, for instance what `find` gave; those deleted since are left out.
        """
        rows = self.rows if ids is None else [self._rows.get(id) for id in ids if id in self._rows]
        pages = max(1, -(-len(rows) // size))
        index = min(max(index, 0), pages - 1)
        shown = rows[index * size : (index + 1) * size]
        return Page(
            tuple(self._shown(index * size + place, row) for place, row in enumerate(shown, start=1)),
            index,
            pages,
            len(rows),
            self._revision,
        )

    def jump(self, number: int, size: int = PAGE_ROWS, ids: Sequence[int] | None = None) -> Page:
        """The page that has row `number`, counted from 1; a number beyond the ends gives the first or last page."""
        return self.page((number - 1) // size, size, ids)

    def find(
        self,
        query: str = "",
        filters: Filters = Filters(),
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[int]:
        """Ids of the rows that contain the query (text, speaker or file name) and have a chosen mark.

        Filters that need the sound read each clip once. Raises Stopped when should_stop says so.
        """
        marked = filtered(self.rows, filters, self._cache, on_progress, should_stop)
        return [row.id for row in search(marked, query)]

    # The selection.

    @property
    def selected(self) -> list[int]:
        """Ids of the selected rows, in the order of the list."""
        return [row.id for row in self._rows if row.id in self._selected]

    def select(self, ids: Iterable[int]) -> None:
        """Add rows to the selection."""
        self._selected.update(ids)

    def deselect(self, ids: Iterable[int] | None = None) -> None:
        """Take rows out of the selection; without ids, all."""
        self._selected.difference_update(list(self._selected) if ids is None else ids)

    def select_all(self, ids: Iterable[int] | None = None) -> None:
        """Select all rows, or all of `ids` and no others."""
        self._selected = {row.id for row in self._rows} if ids is None else set(ids)

    def invert(self, ids: Iterable[int] | None = None) -> None:
        """Select what is not selected and the other way round, among all rows or among `ids`."""
        self._selected ^= {row.id for row in self._rows} if ids is None else set(ids)

    # Edits.

    def set_text(self, id: int, text: str, revision: int | None = None) -> None:
        """Replace what is said; the row then needs no review, and its confidence is unknown."""
        self.set_texts({id: text}, revision)

    def set_texts(self, texts: Mapping[int, str], revision: int | None = None) -> None:
        """Replace several texts (id -> text) in one edit, for instance those of a page."""
        self._edit({"kind": "set", "field": "text", "ids": list(texts), "values": list(texts.values())}, revision)

    def set_speaker(self, ids: Iterable[int], speaker: str, revision: int | None = None) -> None:
        """Give rows a speaker. Raises UserError manifest_separator for a name with "|"."""
        self._edit({"kind": "set", "field": "speaker", "ids": list(ids), "values": [speaker]}, revision)

    def set_language(self, ids: Iterable[int], language: str, revision: int | None = None) -> None:
        """Give rows a LANG tag. Raises UserError manifest_separator for a tag with "|"."""
        self._edit({"kind": "set", "field": "language", "ids": list(ids), "values": [language]}, revision)

    def rename_speaker(self, old: str, new: str, revision: int | None = None) -> None:
        """Rename a speaker in all rows; an existing name joins the two."""
        self._edit({"kind": "rename", "old": old, "new": new}, revision)

    def set_review(self, ids: Iterable[int], review: bool, revision: int | None = None) -> None:
        """Mark rows for review, or as looked at."""
        self._edit({"kind": "review", "ids": list(ids), "value": review}, revision)

    def delete(self, ids: Iterable[int], revision: int | None = None) -> None:
        """Take rows out of the list; their audio stays where it is."""
        self._edit({"kind": "delete", "ids": list(ids)}, revision)

    def merge(self, ids: Iterable[int], gap_seconds: float = 0.0, revision: int | None = None) -> int:
        """Replace rows by one whose clip is theirs in the order of the list, with silence between them.

        Speaker, language and the rest are those of the first row; confidence is the lowest, or unknown if one is.

        Returns:
            Id of the new row.

        Raises:
            UserError: merge_too_few, merge_speakers, option_invalid (gap), row_gone, edit_stale, audio errors.
        """
        with self._journal.locked():
            self._check(revision)
            rows = self._rows.ordered(ids)
            new = merged_row(rows, self._rows.next_id, gap_seconds, self._journal.folder, self._revision + 1)
            self._replace("merge", rows, [new])
            return new.id

    def split(self, id: int, at_seconds: float, revision: int | None = None) -> tuple[int, int]:
        """Replace a row by two, cut at a time of its clip; the text is divided in proportion, for a person to review.

        Returns:
            Ids of the new rows.

        Raises:
            UserError: split_outside, row_gone, edit_stale, audio errors.
        """
        with self._journal.locked():
            self._check(revision)
            row = self._rows.get(id)
            new = split_rows(row, self._rows.next_id, at_seconds, self._journal.folder, self._revision + 1)
            self._replace("split", [row], new)
            return new[0].id, new[1].id

    def undo(self, revision: int | None = None) -> None:
        """Take the last edit back. Raises UserError undo_nothing, edit_stale."""
        self._step("undo", revision)

    def redo(self, revision: int | None = None) -> None:
        """Make the edit that was last undone again. Raises UserError redo_nothing, edit_stale."""
        self._step("redo", revision)

    def refresh(self) -> bool:
        """Read what other editors of the same work folder did; tells whether there was anything."""
        with self._journal.locked():
            return self._read_others()

    def export(self, path: str | Path, revision: int | None = None) -> Exported:
        """Write the dataset as `.list` or `.jsonl`; rows that were not edited keep their very bytes.

        The path may be one of the lists that were opened; undo works after that as before. A copy is kept of any
        other file that lies there, unless it is what this dataset's editors wrote. Lines that gave no row go to
        `{path}.rejected.txt`, see `modules.data.validation.write_rows`.

        Raises:
            UserError: list_format, manifest_separator, manifest_line_break, output_unwritable, edit_stale,
                edits_unwritable.
        """
        path = Path(path)
        with self._journal.locked():
            self._check(revision)
            rows = [(row.utterance, self._origins.get(row.id)) for row in self._rows]
            head, newline, opened = self._checked.head, self._checked.newline, self._exports.sources
            check_list_name(path, opened)
            record = self._exports.record(path, list_chunks(path, rows, head, newline))
            try:
                backup = self._exports.keep_other(path, record["sha256"])
                # Noted first: a kill in between must not make our own file look like somebody else's.
                self._journal.append(record)
                self._exports.note(record)
                rejected = write_rows(path, rows, self._checked.rejected, head, newline, opened=opened)
                return Exported(path, rejected, backup)
            except OSError as cause:
                raise UserError(
                    "output_unwritable", "{file} cannot be written; choose another place.", file=str(path)
                ) from cause

    def _shown(self, number: int, row: Row) -> Shown:
        missing = not os.path.isfile(row.utterance.audio)
        return Shown(number, row, self._cache.seconds(row.utterance), row.id in self._selected, missing)

    # How edits are made.

    def _edit(self, command: dict[str, Any], revision: int | None) -> None:
        with self._journal.locked():
            self._check(revision)
            self._record(command)

    def _record(self, command: dict[str, Any]) -> None:
        """Put a command on disk, then make it; an edit that changes nothing is none. Under the lock."""
        patch = self._rows.patch(command)
        if patch.before or patch.after:
            self._journal.append({**command, "revision": self._revision + 1})
            self._make(patch)

    def _replace(self, what: Literal["merge", "split"], rows: Sequence[Row], new: Sequence[Row]) -> None:
        encoded = [self._rows.encoded(row) for row in new]
        try:
            self._record({"kind": "replace", "what": what, "ids": [row.id for row in rows], "rows": encoded})
        except UserError:
            for row in new:
                Path(row.utterance.audio).unlink(missing_ok=True)
            raise

    def _make(self, patch: Patch) -> None:
        self._rows.apply(patch)
        self._undo.append(patch)
        self._redo.clear()
        self._revision += 1

    def _step(self, kind: Literal["undo", "redo"], revision: int | None) -> None:
        with self._journal.locked():
            self._check(revision)
            if kind == "undo" and not self._undo:
                raise UserError("undo_nothing", "There is nothing to undo.")
            if kind == "redo" and not self._redo:
                raise UserError("redo_nothing", "There is nothing to redo.")
            self._journal.append({"kind": kind, "revision": self._revision + 1})
            self._walk(kind)

    def _walk(self, kind: str) -> None:
        taken, given = (self._undo, self._redo) if kind == "undo" else (self._redo, self._undo)
        patch = taken.pop()
        self._rows.apply(patch.inverse if kind == "undo" else patch)
        given.append(patch)
        self._revision += 1

    def _check(self, revision: int | None) -> None:
        """Refuse an edit that was made without knowing the newest state. Under the lock."""
        seen = self._revision if revision is None else revision
        self._read_others()
        if seen != self._revision:
            raise UserError(
                "edit_stale",
                "The dataset was edited in another tab meanwhile, so this edit was not made; "
                "look at the list again and repeat it.",
            )

    def _read_others(self) -> bool:
        before = self._revision
        self._replay(self._journal.read_new())
        return self._revision != before

    def _replay(self, records: Sequence[dict[str, Any]]) -> None:
        """Make the edits that were just read from the journal."""
        for line, record in enumerate(records, start=self._journal.lines - len(records) + 1):
            try:
                if record["kind"] in ("undo", "redo"):
                    self._walk(record["kind"])
                elif record["kind"] == "export":
                    self._exports.note(record)
                else:
                    self._make(self._rows.patch(record))
            except (UserError, LookupError, TypeError, ValueError, AttributeError) as cause:
                raise self._journal.damaged(line) from cause
