"""One visitor at work on a list, ten clips a page: what is typed is kept whatever is pressed. Knows no components."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modules.editing.browsing import PAGE_ROWS, Filters, Page, Shown
from modules.editing.editor import DatasetEditor
from modules.editing.rows import one_line
from modules.editing.sessions import IfChanged
from modules.errors import UserError

_KEPT_PAGES = 20
"""A page that was shown longer ago cannot be what somebody still types on."""


@dataclass(frozen=True)
class Typed:
    """What a row of the page holds now."""

    text: str
    speaker: str
    language: str
    selected: bool


@dataclass
class _Slot:
    """A row as the page last showed or saved it."""

    id: int
    typed: Typed


class EditSession:
    """Lists under edit as one, by one tab of a browser.

    Each page that was shown has a token; what is typed comes back with it. So a late answer of an older page changes
    the rows of that page and no others, and a row that somebody else changed meanwhile is not written over.

    Args:
        lists: one after the other.
        folder: keeps the edits.
        audio_folder: where the sound lies, if not where the lists say.
        if_changed: see `DatasetEditor.open`.

    Raises:
        UserError: as `DatasetEditor.open` does.
    """

    def __init__(
        self, lists: Sequence[Path], folder: Path, audio_folder: Path | None = None, if_changed: IfChanged = "ask"
    ) -> None:
        self.editor = DatasetEditor.open(list(lists), folder, audio_folder, if_changed)
        self.index = 0
        self.found: list[int] | None = None
        self._lock = threading.RLock()
        self._pages: dict[str, list[_Slot]] = {}
        self._count = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Callbacks of one tab come in several threads."""
        with self._lock:
            yield

    def page(self) -> tuple[str, Page]:
        """The current page with a new token."""
        with self._lock:
            page = self.editor.page(self.index, PAGE_ROWS, self.found)
            self.index = page.index
            self._count += 1
            token = str(self._count)
            self._pages[token] = [_Slot(shown.row.id, typed_of(shown)) for shown in page.rows]
            for old in list(self._pages)[:-_KEPT_PAGES]:
                del self._pages[old]
            return token, page

    def commit(self, token: str, typed: Sequence[Typed]) -> int:
        """Save what was typed on a page; returns how many rows changed. Ticks are taken over, too.

        Raises:
            UserError: edit_stale (another tab changed the row meanwhile; the other rows are saved, and the same
                call once more saves this one too), manifest_separator, edits_unwritable.
        """
        with self._lock:
            slots = self._pages.get(token, [])
            self.editor.refresh()
            changed: set[int] = set()
            stale: set[int] = set()
            for field in ("text", "speaker", "language"):
                values: dict[int, str] = {}
                for slot, row in zip(slots, typed):
                    value, before = one_line(getattr(row, field), field), one_line(getattr(slot.typed, field), "text")
                    if value != before and not self._plan(slot.id, field, before, value, values):
                        stale.add(slot.id)
                self._save(field, values)
                changed.update(values)
            for slot, row in zip(slots, typed):
                if row.selected != slot.typed.selected:
                    (self.editor.select if row.selected else self.editor.deselect)([slot.id])
                # Who was told of the other's text and repeats the edit means it.
                slot.typed = self._as_it_is(slot.id, row) if slot.id in stale else row
            if stale:
                raise _stale()
            return len(changed)

    def go(self, pages: int) -> None:
        """Turn pages; beyond the ends nothing happens."""
        self.index = max(0, self.index + pages)

    def jump(self, number: int) -> None:
        """Go to the page of clip `number`, from 1, of those that are shown."""
        self.index = self.editor.jump(max(1, number), PAGE_ROWS, self.found).index

    def find(
        self, query: str, filters: Filters, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> int | None:
        """Show only the rows that match; returns how many, or None for a search that leaves all."""
        with self._lock:
            if not query.strip() and not filters.any:
                self.found = None
            else:
                self.found = self.editor.find(query, filters, on_progress)
            self.index = 0
            return None if self.found is None else len(self.found)

    def replace_in_found(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Keep new rows in sight where they took the place of found ones."""
        if self.found is None:
            return
        places = [place for place, id in enumerate(self.found) if id in old]
        kept = [id for id in self.found if id not in old]
        place = min(places, default=len(kept))
        self.found = [*kept[:place], *new, *kept[place:]]

    def chosen(self) -> list[int]:
        """The selected rows. Raises UserError edit_none_selected when there are none."""
        selected = self.editor.selected
        if not selected:
            raise UserError("edit_none_selected", "No clip is selected; tick at least one.")
        return selected

    def merge(self, gap_seconds: float) -> None:
        """Join the selected rows. Raises UserError as `DatasetEditor.merge` does."""
        with self._lock:
            old = self.editor.selected
            new = self.editor.merge(old, gap_seconds)
            self.replace_in_found(old, [new])
            self.editor.deselect()

    def split(self, at_seconds: float) -> None:
        """Cut the selected row in two. Raises UserError: edit_select_one, as `DatasetEditor.split` does."""
        with self._lock:
            selected = self.editor.selected
            if len(selected) != 1:
                raise UserError(
                    "edit_select_one", "{count} clips are selected; tick exactly the one to split.", count=len(selected)
                )
            new = self.editor.split(selected[0], at_seconds)
            self.replace_in_found(selected, new)
            self.editor.deselect()

    def delete(self) -> int:
        """Take the selected rows out of the list; returns how many."""
        with self._lock:
            selected = self.chosen()
            self.editor.delete(selected)
            self.editor.deselect()
            return len(selected)

    def _plan(self, id: int, field: str, before: str, value: str, values: dict[int, str]) -> bool:
        """Note what is to be saved in a row; False if the row holds something that this tab has not seen."""
        try:
            now = getattr(self.editor.row(id).utterance, field)
        except UserError:
            return False  # deleted in another tab
        if now == before:
            values[id] = value
        return now in (before, value)

    def _as_it_is(self, id: int, row: Typed) -> Typed:
        """What the controls of a row would hold now; a row that is gone keeps what was typed, and is not saved."""
        try:
            utterance = self.editor.row(id).utterance
        except UserError:
            return row
        return Typed(utterance.text, utterance.speaker, utterance.language, row.selected)

    def _save(self, field: str, values: dict[int, str]) -> None:
        if field == "text" and values:
            self.editor.set_texts(values)
        for value in dict.fromkeys(values.values()) if field != "text" else ():
            ids = [id for id, wanted in values.items() if wanted == value]
            if field == "speaker":
                self.editor.set_speaker(ids, value)
            else:
                self.editor.set_language(ids, value)


def typed_of(shown: Shown) -> Typed:
    """What the controls of a row hold when it is shown."""
    utterance = shown.row.utterance
    return Typed(utterance.text, utterance.speaker, utterance.language, shown.selected)


def _stale() -> UserError:
    return UserError(
        "edit_stale",
        "The dataset was edited in another tab meanwhile, so this edit was not made; "
        "look at the list again and repeat it.",
    )
