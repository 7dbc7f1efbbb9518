"""Earlier outputs: listed from the sidecar files, played, and used again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from tools.webui.form import Form
from tools.webui.history import Entry, form_values, list_entries
from tools.webui.messages import guarded, inform
from tools.webui.options_panel import is_gone
from tools.webui.presets import BUILT_IN_PRESET
from tools.webui.references_panel import ReferenceRows
from tools.webui.services import Services
from tools.webui.settings import REMEMBERED, usable_settings
from tools.webui.speaking import REFERENCE_NAMES, REFERENCES
from tools.webui.weights import BUILT_IN

SHOWN = 50


@dataclass(frozen=True)
class HistoryPanel:
    """How to bring the list up to date after a new output."""

    refresh: Callable[..., dict]
    outputs: list


@dataclass(frozen=True)
class _Parts:
    """The components of the panel."""

    accordion: gr.Accordion
    hint: gr.Markdown
    table: Component
    player: gr.Audio
    reload: gr.Button
    refresh: gr.Button
    listed: gr.State
    chosen: gr.State


def build_history_panel(form: Form, services: Services, i18n: gr.I18n, rows: ReferenceRows) -> HistoryPanel:
    """A table of the newest outputs; a click plays one, a button puts its settings back."""
    parts = _build(form, i18n)
    refresh, outputs = _refresher(parts, services, i18n), [parts.listed, parts.table, parts.hint]
    targets = [*(form[name] for name in (*REMEMBERED, *REFERENCE_NAMES)), *rows.outputs]
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    parts.refresh.click(refresh, None, outputs, **quiet)
    parts.accordion.expand(refresh, None, outputs, **quiet)
    parts.table.select(_chooser(parts, services), parts.listed, [parts.chosen, parts.player, parts.reload], **quiet)
    # Queued, because a toast of an unqueued event never reaches the page.
    told = {**quiet, "queue": True, "concurrency_limit": None}
    parts.reload.click(_reloader(form, services, rows), parts.chosen, targets, **told)
    return HistoryPanel(refresh, outputs)


def _build(form: Form, i18n: gr.I18n) -> _Parts:
    with gr.Accordion(i18n("history.heading"), open=False, elem_id="history-accordion") as accordion:
        hint = gr.Markdown(i18n("history.empty"), elem_classes="quiet", elem_id="history-hint")
        table = form.add(
            "history",
            gr.Dataframe(
                headers=["", "", "", ""],
                datatype=["str", "str", "number", "str"],
                column_count=4,
                column_widths=["24%", "44%", "12%", "20%"],
                type="array",
                interactive=False,
                show_label=False,
                wrap=True,
                buttons=[],
                max_height=300,
                visible=False,
                elem_id="history",
            ),
        )
        player = gr.Audio(
            type="filepath",
            interactive=False,
            label=i18n("history.player"),
            buttons=["download"],
            visible=False,
            elem_id="history-player",
        )
        with gr.Row():
            reload = gr.Button(i18n("history.reload"), size="sm", visible=False, elem_id="history-reload")
            refresh = gr.Button(i18n("history.refresh"), size="sm", elem_id="history-refresh")
    return _Parts(accordion, hint, table, player, reload, refresh, gr.State([]), gr.State(None))


def _refresher(parts: _Parts, services: Services, i18n: gr.I18n) -> Callable[..., dict]:
    def refresh_history(request: gr.Request) -> dict:
        """Read the folder again."""
        say = services.messages.for_request(request)
        headers = [
            say("history.column_time"),
            say("history.column_text"),
            say("history.column_seconds"),
            say("history.column_seed"),
        ]
        entries = list_entries(services.output, SHOWN)
        return {
            parts.listed: entries,
            parts.table: gr.update(
                value={"headers": headers, "data": [e.row() for e in entries]}, visible=bool(entries)
            ),
            parts.hint: gr.update(value=i18n("history.pick") if entries else i18n("history.empty")),
        }

    return refresh_history


def _chooser(parts: _Parts, services: Services) -> Callable[..., dict]:
    @guarded(services.messages, services.log_file)
    def choose(entries: list[Entry], event: gr.SelectData) -> dict:
        """Play the row that was clicked."""
        row = event.index[0]
        if row >= len(entries):
            return {parts.chosen: None}
        entry = entries[row]
        return {
            parts.chosen: entry,
            parts.player: gr.update(value=str(entry.audio), visible=True),
            parts.reload: gr.update(visible=True),
        }

    return choose


def _reloader(form: Form, services: Services, rows: ReferenceRows) -> Callable[..., dict]:
    @guarded(services.messages, services.log_file)
    def reload_settings(entry: Entry | None, request: gr.Request) -> dict:
        """Put text, options, weights and the references that still exist back into the form."""
        if entry is None:
            return {}
        values = form_values(entry.settings, REFERENCES)
        fitting = {**usable_settings(form, values), **{name: values[name] for name in REFERENCE_NAMES}}
        say, preset = services.messages.for_request(request), fitting.get("preset")
        if is_gone(services, preset):  # its weights fit no other
            fitting |= {"preset": BUILT_IN_PRESET, "gpt_weights": BUILT_IN, "vits2_weights": BUILT_IN}
            inform(say, "options.preset_gone", preset=preset)
        used = sum(values[f"reference_{i}_audio"] is not None for i in range(1, REFERENCES + 1))
        inform(say, "message.settings_reloaded")
        return {**form.updates(fitting), **rows.show(used)}

    return reload_settings
