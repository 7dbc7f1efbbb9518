"""The ten rows of the edit panel: their controls, and what a page fills into them."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from modules.data.lines import Problem
from modules.editing.browsing import PAGE_ROWS, Page, Shown
from tools.webui.edit_pages import Reshown, Typed
from tools.webui.edit_session import EditSession
from tools.webui.form import Form
from tools.webui.messages import Translator
from tools.webui.serving import served

FIELDS = ("selected", "text", "speaker", "language")
TYPED_NAMES = tuple(f"edit_{number}_{field}" for number in range(1, PAGE_ROWS + 1) for field in FIELDS)
SHOWN_NAMES = (
    *TYPED_NAMES,
    *(f"edit_{number}_{part}" for number in range(1, PAGE_ROWS + 1) for part in ("sound", "note")),
    "edit_token",
    "edit_status",
)
_MOST_PROBLEMS = 200


def build_rows(form: Form, i18n: gr.I18n) -> list[gr.Row]:
    """Add the controls; returns the rows, which are hidden at first."""
    form.add("edit_token", gr.Textbox("", visible=False))
    rows = []
    for number in range(1, PAGE_ROWS + 1):
        with gr.Row(visible=False, equal_height=False, elem_classes="clip-row", elem_id=f"clip-{number}") as row:
            with gr.Column(scale=1, min_width=110):
                tick = gr.Checkbox(False, label=i18n("edit.selected"), elem_id=f"clip-{number}-selected")
                note = gr.HTML("", elem_classes="quiet", elem_id=f"clip-{number}-note")
            with gr.Column(scale=4, min_width=230):
                sound = gr.Audio(
                    type="filepath",
                    interactive=False,
                    show_label=False,
                    buttons=[],
                    elem_id=f"clip-{number}-sound",
                )
            with gr.Column(scale=6, min_width=260):
                text = gr.Textbox("", label=i18n("edit.text"), lines=4, max_lines=6, elem_id=f"clip-{number}-text")
            with gr.Column(scale=2, min_width=130):
                speaker = gr.Textbox("", label=i18n("edit.speaker"), min_width=100, elem_id=f"clip-{number}-speaker")
                language = gr.Textbox("", label=i18n("edit.language"), min_width=80, elem_id=f"clip-{number}-language")
        parts = {"selected": tick, "note": note, "sound": sound, "text": text, "speaker": speaker, "language": language}
        for name, component in parts.items():
            form.add(f"edit_{number}_{name}", component)
        rows.append(row)
    return rows


def typed_rows(values: Mapping[str, Any]) -> list[Typed]:
    """What the controls of all rows hold."""
    return [
        Typed(
            str(values[f"edit_{number}_text"] or ""),
            str(values[f"edit_{number}_speaker"] or ""),
            str(values[f"edit_{number}_language"] or ""),
            bool(values[f"edit_{number}_selected"]),
        )
        for number in range(1, PAGE_ROWS + 1)
    ]


def page_values(session: EditSession, say: Translator) -> tuple[dict[str, Any], int]:
    """A new page as values by name, and how many rows of it are used."""
    token, page = session.page()
    values: dict[str, Any] = {"edit_token": token, "edit_status": status_line(session, page, say)}
    for number in range(1, PAGE_ROWS + 1):
        shown = page.rows[number - 1] if number <= len(page.rows) else None
        utterance = shown.row.utterance if shown else None
        values |= {
            f"edit_{number}_selected": bool(shown and shown.selected),
            f"edit_{number}_text": utterance.text if utterance else "",
            f"edit_{number}_speaker": utterance.speaker if utterance else "",
            f"edit_{number}_language": utterance.language if utterance else "",
            f"edit_{number}_sound": served(utterance.audio) if utterance else None,
            f"edit_{number}_note": note_html(shown, say) if shown else "",
        }
    return values, len(page.rows)


def news(session: EditSession, values: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """A new page without what the browser holds already, so that typing which goes on in such a box is not undone.

    Args:
        session: knows which rows both pages show.
        values: the new page by name.
        sent: what the browser sent, by name.
    """
    rows = session.same_rows(sent["edit_token"], values["edit_token"])
    held = {f"edit_{place + 1}_{name}" for place in rows for name in FIELDS}
    return {name: value for name, value in values.items() if name not in held or sent[name] != value}


def reshown_values(again: Reshown) -> dict[str, Any]:
    """The rows that another tab changed, and the page's new token, as values by name."""
    values: dict[str, Any] = {"edit_token": again.token}
    for place, typed in again.rows.items():
        row = f"edit_{place + 1}"
        values |= {f"{row}_text": typed.text, f"{row}_speaker": typed.speaker, f"{row}_language": typed.language}
    return values


def status_line(session: EditSession, page: Page, say: Translator) -> str:
    """Where the reader is, and that everything is saved."""
    if not len(session.editor):
        return say("edit.empty")
    words = [
        say("edit.page", page=page.index + 1, pages=page.pages, clips=page.total, all=len(session.editor)),
        say("edit.selected_count", count=len(session.editor.selected)),
        say("edit.saved"),
    ]
    return " · ".join(words)


def note_html(shown: Shown, say: Translator) -> str:
    """Number, length and what is remarkable about a row."""
    utterance = shown.row.utterance
    words = [f"<b>{shown.number}</b>", f"{shown.seconds:.1f} s"]
    if utterance.confidence >= 0:
        words.append(html.escape(say("edit.confidence", percent=f"{100 * utterance.confidence:.0f}")))
    if shown.row.review:
        words.append(html.escape(say("edit.review")))
    if shown.missing:
        words.append(html.escape(say("edit.missing")))
    name = html.escape(utterance.audio.replace("\\", "/").rsplit("/", 1)[-1])
    return f"{' · '.join(words)}<br>{name}"


def problems_html(problems: Sequence[Problem], say: Translator) -> str:
    """What is wrong with the list, by line number."""
    if not problems:
        return f"<p>{html.escape(say('edit.no_problems'))}</p>"
    lines = [
        f"<tr><th>{html.escape(say('edit.line', line=problem.line))}</th><td>{html.escape(say.error(problem.reason))}"
        f"{' <b>' + html.escape(say('edit.left_out')) + '</b>' if problem.fatal else ''}</td></tr>"
        for problem in problems[:_MOST_PROBLEMS]
    ]
    more = len(problems) - _MOST_PROBLEMS
    tail = f"<p>{html.escape(say('edit.more_problems', count=more))}</p>" if more > 0 else ""
    return f'<table class="facts">{"".join(lines)}</table>{tail}'
