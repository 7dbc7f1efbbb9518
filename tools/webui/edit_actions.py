"""What the buttons of the edit panel do to the list. They know values by name, no components."""

from typing import Any

from modules.editing.browsing import PAGE_ROWS, Filters
from modules.errors import UserError
from tools.webui.edit_pages import stale
from tools.webui.edit_session import EditSession
from tools.webui.messages import Translator, inform, warn
from tools.webui.steps import whole_path


def needed(session: EditSession | None) -> EditSession:
    """The open session. Raises UserError edit_not_open."""
    if session is None:
        raise UserError("edit_not_open", "No list is open; press Open first.")
    return session


def select_page(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Tick all rows of the page."""
    page = session.editor.page(session.index, PAGE_ROWS, session.found)
    session.editor.select([shown.row.id for shown in page.rows])


def rename(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Rename a speaker everywhere, or that of the ticked rows when no old name is given."""
    old, new = str(values["edit_old_speaker"] or "").strip(), str(values["edit_new_speaker"] or "").strip()
    if old:
        session.editor.rename_speaker(old, new, session.seen)
    else:
        session.editor.set_speaker(session.chosen(), new, session.seen)


def set_language(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Give the ticked rows a language tag."""
    session.editor.set_language(session.chosen(), str(values["edit_new_language"] or "").strip(), session.seen)


def find(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Show the rows that match."""
    bounds = {
        name: float(values[f"edit_{name}"])
        for name in ("confidence_below", "longest_seconds", "shortest_seconds")
        if values[f"edit_{name}"] is not None
    }
    marks = dict.fromkeys(values["edit_marks"] or [], True)
    count = session.find(str(values["edit_query"] or ""), Filters(**marks, **bounds))
    if count is not None:
        inform(say, "edit.found", count=count)


def delete(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Take the ticked rows out of the list, but none that cannot be seen."""
    inform(say, "edit.deleted", count=session.delete())
    if session.hidden:
        warn(say, say("edit.hidden_kept", count=len(session.hidden)))


def show_all(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Show all rows again."""
    session.find("", Filters())


def export(session: EditSession, values: dict[str, Any], say: Translator) -> None:
    """Write the list, and tell where the lines are that could not be used."""
    named = str(values["edit_export"] or "").strip()
    done = session.export(whole_path(named) if named else None)
    inform(say, "edit.exported", file=done.file)
    if done.backup is not None:
        warn(say, say("edit.exported_backup", file=done.file, backup=done.backup))
    if done.rejected is not None:
        warn(say, say("edit.exported_rejected", file=done.rejected))


def tell_refused(session: EditSession, token: str, say: Translator) -> None:
    """Say that the list is another one now, and repeat what was typed in vain, since the page shows it no more."""
    lines = [say.error(stale())]
    for typed in session.refused(token):
        lines.append(say("edit.refused", typed=" | ".join(filter(None, (typed.text, typed.speaker, typed.language)))))
    warn(say, " ".join(lines))
