"""One visitor at work on a list, ten clips a page: what is typed is kept whatever is pressed. Knows no components."""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from modules.editing.browsing import PAGE_ROWS, Filters, Page
from modules.editing.editor import DatasetEditor
from modules.editing.exports import Exported, edited_path
from modules.editing.rows import one_line
from modules.editing.sessions import IfChanged
from modules.errors import UserError
from tools.webui.edit_pages import KeptPage, Reshown, Slot, Typed, stale, typed_of

_KEPT_PAGES = 20
"""A page that was shown longer ago cannot be what somebody still types on."""


class EditSession:
    """Lists under edit as one, by one tab of a browser.

    Each page that was shown has a token; what is typed comes back with it. So a late answer of an older page changes
    the rows of that page and no others, and a row that somebody else changed meanwhile is not written over: not until
    a page was shown that has the other's change, however often the same answer comes back. What buttons do to the
    list is refused in the same way when somebody else edited it since the page was shown.

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
        self.export_path = edited_path(lists[0])
        self.index = 0
        self.found: list[int] | None = None
        self._lock = threading.RLock()
        self._pages: dict[str, KeptPage] = {}
        self._name = secrets.token_hex(4)  # a page of an earlier session of the same tab is none of this one's
        self._count = 0
        self._seen: int | None = None

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
            slots = [Slot(shown.row.id, typed_of(shown)) for shown in page.rows]
            return self._issue(KeptPage(slots, page.revision)), page

    def _issue(self, page: KeptPage) -> str:
        self._count += 1
        token = f"{self._name}-{self._count}"
        self._pages[token] = page
        for old in list(self._pages)[:-_KEPT_PAGES]:
            del self._pages[old]
        return token

    def reshow(self, token: str) -> Reshown | None:
        """After a refused `commit`: the refused rows as they are now, to be shown in place of what was typed.

        The rest of the page stays as it is, so nothing is lost that is being typed there.

        Returns:
            None where the whole page must be shown: it is not the current one, or has lost a row.
        """
        with self._lock:
            page = self._pages.get(token)
            last = self._pages[list(self._pages)[-1]] if self._pages else None
            if page is None or last is None or [slot.id for slot in page.slots] != [slot.id for slot in last.slots]:
                return None
            rows = {place: self._as_it_is(page.slots[place]) for place in page.refused}
            if None in rows.values():
                return None
            slots = [Slot(slot.id, rows.get(place, slot.typed)) for place, slot in enumerate(page.slots)]
            return Reshown(self._issue(KeptPage(slots, page.revision)), rows)

    def same_rows(self, token: str, other: str) -> set[int]:
        """The places, from 0, at which a page shows the row that the page just before it showed there.

        None if another page came between the two: the browser may then hold that one's rows, or is about to.
        """
        if list(self._pages)[-2:] != [token, other]:
            return set()
        pages = (self._pages[token].slots, self._pages[other].slots)
        return {place for place, (slot, twin) in enumerate(zip(*pages)) if slot.id == twin.id}

    def refused(self, token: str) -> list[Typed]:
        """What the last `commit` of a page did not save."""
        return list(self._pages[token].refused.values()) if token in self._pages else []

    @contextmanager
    def answering(self, token: str, typed: Sequence[Typed]) -> Iterator[None]:
        """Save what was typed on a page, then act on the list as the reader of that page knows it.

        Raises:
            UserError: as `commit` does; edit_stale when an act inside would change edits that the page does not show.
        """
        with self._lock:
            self.commit(token, typed)
            page = self._pages.get(token)
            self._seen = page.revision if page is not None else -1
            before = self.editor.revision
            try:
                yield
                self._advance(before)
            finally:
                self._seen = None

    @property
    def seen(self) -> int | None:
        """The revision that goes with every edit: what the page's reader knows; None outside of `answering`."""
        return self._seen

    def commit(self, token: str, typed: Sequence[Typed]) -> int:
        """Save what was typed on a page; returns how many rows changed. Ticks are taken over, too.

        Raises:
            UserError: edit_stale (another tab changed the row meanwhile; the other rows are saved, and this one can
                be once a page was shown that has the other's change), manifest_separator, edits_unwritable.
        """
        with self._lock:
            page = self._pages.get(token, KeptPage([], -1))
            slots = page.slots
            page.refused = {place: row for place, (slot, row) in enumerate(zip(slots, typed)) if row != slot.typed}
            self.editor.refresh()
            changed: set[int] = set()
            stale_ids: set[int] = set()
            refused: dict[int, Typed] = {}
            for name in ("text", "speaker", "language"):
                values: dict[int, str] = {}
                for slot, row in zip(slots, typed):
                    value, before = one_line(getattr(row, name), name), one_line(getattr(slot.typed, name), "text")
                    if value != before and not self._plan(slot.id, name, before, value, values):
                        stale_ids.add(slot.id)
                self._save(name, values)
                changed.update(values)
            for place, (slot, row) in enumerate(zip(slots, typed)):
                if row.selected != slot.typed.selected:
                    (self.editor.select if row.selected else self.editor.deselect)([slot.id])
                if slot.id not in stale_ids:
                    slot.typed = row
                else:  # what was typed counts again only after a page that shows the other's
                    slot.typed = replace(slot.typed, selected=row.selected)
                    refused[place] = row
            page.refused = refused
            if refused:
                raise stale()
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
        left = set(old)
        places = [place for place, id in enumerate(self.found) if id in left]
        kept = [id for id in self.found if id not in left]
        place = min(places, default=len(kept))
        self.found = list(dict.fromkeys([*kept[:place], *new, *kept[place:]]))

    def chosen(self) -> list[int]:
        """The selected rows. Raises UserError edit_none_selected when there are none."""
        selected = self.editor.selected
        if not selected:
            raise UserError("edit_none_selected", "No clip is selected; tick at least one.")
        return selected

    @property
    def hidden(self) -> set[int]:
        """The selected rows that a search keeps from sight."""
        return set() if self.found is None else set(self.editor.selected).difference(self.found)

    def merge(self, gap_seconds: float) -> None:
        """Join the selected rows. Raises UserError as `DatasetEditor.merge` does."""
        with self._lock:
            old = self.editor.selected
            new = self.editor.merge(old, gap_seconds, self.seen)
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
            new = self.editor.split(selected[0], at_seconds, self.seen)
            self.replace_in_found(selected, new)
            self.editor.deselect()

    def delete(self) -> int:
        """Take the selected rows that are shown out of the list; returns how many. Others stay, and stay selected.

        Raises:
            UserError: edit_none_selected, edit_selected_hidden, edit_stale.
        """
        with self._lock:
            selected = self.chosen()
            hidden = self.hidden
            shown = [id for id in selected if id not in hidden]
            if not shown:
                raise UserError(
                    "edit_selected_hidden",
                    "All {count} selected clips are hidden by the search; press Show all, look at them and try again.",
                    count=len(selected),
                )
            self.editor.delete(shown, self.seen)
            self.editor.deselect(shown)
            return len(shown)

    def undo(self) -> None:
        """Take the last edit back. Raises UserError as `DatasetEditor.undo` does."""
        with self._lock, self._following():
            self.editor.undo(self.seen)

    def redo(self) -> None:
        """Make what was undone again. Raises UserError as `DatasetEditor.redo` does."""
        with self._lock, self._following():
            self.editor.redo(self.seen)

    def export(self, path: Path | None = None) -> Exported:
        """Write the list; without a path, beside the list that is open. Raises UserError as `DatasetEditor.export`."""
        with self._lock:
            return self.editor.export(path or self.export_path, self.seen)

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Keep rows in sight that take the place of found ones."""
        before = [row.id for row in self.editor.rows]
        yield
        after = [row.id for row in self.editor.rows]
        gone, come = set(before).difference(after), set(after).difference(before)
        if gone.intersection(self.found or ()):
            self.replace_in_found(list(gone), [id for id in after if id in come])

    def _advance(self, before: int) -> None:
        """An edit of this tab is no news to it: pages that were up to date before still are."""
        for page in self._pages.values():
            if page.revision == before:
                page.revision = self.editor.revision

    def _plan(self, id: int, name: str, before: str, value: str, values: dict[int, str]) -> bool:
        """Note what is to be saved in a row; False if the row holds something that this tab has not seen."""
        try:
            now = getattr(self.editor.row(id).utterance, name)
        except UserError:
            return False  # deleted in another tab
        if now == before:
            values[id] = value
        return now in (before, value)

    def _as_it_is(self, slot: Slot) -> Typed | None:
        """What the controls of a row would hold now; None for a row that is gone."""
        try:
            utterance = self.editor.row(slot.id).utterance
        except UserError:
            return None
        return Typed(utterance.text, utterance.speaker, utterance.language, slot.typed.selected)

    def _save(self, name: str, values: dict[int, str]) -> None:
        before = self.editor.revision
        if name == "text" and values:
            self.editor.set_texts(values, before)
            self._advance(before)
        for value in dict.fromkeys(values.values()) if name != "text" else ():
            ids, before = [id for id, wanted in values.items() if wanted == value], self.editor.revision
            if name == "speaker":
                self.editor.set_speaker(ids, value, before)
            else:
                self.editor.set_language(ids, value, before)
            self._advance(before)
