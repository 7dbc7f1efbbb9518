"""What there is to see of the edit panel: a list to open; once it is open, search, ten rows, changes, and saving."""

from typing import Any

import gradio as gr

from modules.editing.browsing import Filters
from tools.webui.controls import Control, build_controls
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.edit_rows import SHOWN_NAMES, build_rows
from tools.webui.step_panel import Desk

BOUNDS = (
    Control("confidence_below", Filters().confidence_below, 0, 1),
    Control("longest_seconds", Filters().longest_seconds),
    Control("shortest_seconds", Filters().shortest_seconds),
)
BOUND_TEXTS = {
    "confidence_below": ("edit.confidence_below", ""),
    "longest_seconds": ("edit.longest_seconds", ""),
    "shortest_seconds": ("edit.shortest_seconds", ""),
}


class EditLayout:
    """The components of the panel; those that have a value are in the form by name, too."""

    def __init__(self, desk: Desk, folders: DatasetFolders):
        self.desk = desk
        self.session: gr.State = gr.State(None)
        self._build_opening(folders)
        with gr.Column(visible=False, elem_id="edit-clips") as self.clips:
            self._build_finding()
            self._build_changing()
            with gr.Column(elem_id="edit-bar"):
                self.top = self._build_moving("top")
                self._build_selecting()
            self.rows = build_rows(desk.form, desk.i18n)
            self.bottom = self._build_moving("bottom")
            self._build_saving(folders)
        self.outputs = [
            *(desk.form[name] for name in (*SHOWN_NAMES, "edit_export")), *self.rows, self.clips, self.session,
            self.problems, self.retry,
        ]  # fmt: skip

    def _build_opening(self, folders: DatasetFolders) -> None:
        form, i18n = self.desk.form, self.desk.i18n
        gr.Markdown(i18n("edit.about"), elem_classes="quiet")
        with gr.Row():
            box = gr.Textbox(
                folders.boxes()["edit_list"], label=i18n("edit.list"), info=i18n("edit.list_hint"), scale=3,
                min_width=260, max_lines=6, elem_id="edit-list",
            )  # fmt: skip
            form.add("edit_list", box)
            folder = gr.Textbox(
                "", label=i18n("edit.audio_folder"), info=i18n("edit.audio_folder_hint"), scale=2, min_width=240
            )
            form.add("edit_audio_folder", folder)
        self.open = gr.Button(i18n("edit.open"), variant="primary", elem_id="edit-open")
        with gr.Row(visible=False, elem_id="edit-retry") as self.retry:
            self.keep_aside = gr.Button(i18n("edit.keep_aside"), elem_id="edit-keep-aside")
            self.start_over = gr.Button(i18n("edit.start_over"), variant="stop", elem_id="edit-start-over")
        form.add("edit_status", gr.Markdown("", elem_classes="status", elem_id="edit-status"))

    def _build_finding(self) -> None:
        form, i18n = self.desk.form, self.desk.i18n
        with gr.Accordion(i18n("edit.problems"), open=False, elem_id="edit-problems"):
            self.problems = gr.HTML("", elem_id="edit-problem-list")
        with gr.Accordion(i18n("edit.find"), open=False, elem_id="edit-find"):
            with gr.Row():
                form.add("edit_query", gr.Textbox("", label=i18n("edit.query"), scale=3, elem_id="edit-query"))
                marks = [
                    (i18n("edit.mark_empty"), "empty"),
                    (i18n("edit.mark_low_confidence"), "low_confidence"),
                    (i18n("edit.mark_too_long"), "too_long"),
                    (i18n("edit.mark_too_short"), "too_short"),
                    (i18n("edit.mark_clipped"), "clipped"),
                    (i18n("edit.mark_duplicate"), "duplicate"),
                    (i18n("edit.mark_missing"), "missing"),
                    (i18n("edit.mark_review"), "review"),
                ]
                boxes = gr.CheckboxGroup(marks, value=[], label=i18n("edit.marks"), elem_id="edit-marks")
                form.add("edit_marks", boxes)
            with gr.Row():
                build_controls(form, "edit", BOUNDS, BOUND_TEXTS, i18n)
            with gr.Row():
                self.find = gr.Button(i18n("edit.find_button"), elem_id="edit-find-button")
                self.show_all = gr.Button(i18n("edit.show_all"), elem_id="edit-show-all")

    def _build_moving(self, place: str) -> tuple[gr.Button, gr.Button, gr.Button, gr.Button]:
        i18n = self.desk.i18n
        with gr.Row(elem_classes="in-line"):
            back = gr.Button(i18n("edit.previous"), size="md", min_width=70, elem_id=f"edit-previous-{place}")
            forth = gr.Button(i18n("edit.next"), size="md", min_width=70, elem_id=f"edit-next-{place}")
            undo = gr.Button(i18n("edit.undo"), size="md", min_width=70, elem_id=f"edit-undo-{place}")
            redo = gr.Button(i18n("edit.redo"), size="md", min_width=70, elem_id=f"edit-redo-{place}")
        return back, forth, undo, redo

    def _build_selecting(self) -> None:
        i18n = self.desk.i18n
        with gr.Row():
            self.select_page = gr.Button(i18n("edit.select_page"), size="sm", min_width=110)
            self.select_all = gr.Button(i18n("edit.select_all"), size="sm", min_width=110, elem_id="edit-select-all")
            self.select_none = gr.Button(i18n("edit.select_none"), size="sm", min_width=110)
            self.invert = gr.Button(i18n("edit.invert"), size="sm", min_width=110)
            self.delete = gr.Button(
                i18n("edit.delete"), size="sm", variant="stop", min_width=110, elem_id="edit-delete"
            )

    def _build_changing(self) -> None:
        """Each button beside the boxes that it reads, also where the page is narrow."""
        form, i18n = self.desk.form, self.desk.i18n
        look: dict[str, Any] = {"size": "sm", "elem_classes": "beside", "min_width": 100}
        with gr.Row():
            with gr.Column(min_width=240), gr.Row():
                form.add("edit_jump", gr.Number(1, label=i18n("edit.jump"), precision=0, min_width=110))
                self.jump = gr.Button(i18n("edit.jump_button"), **look)
            with gr.Column(min_width=240), gr.Row():
                form.add("edit_gap", gr.Number(0.3, label=i18n("edit.gap"), min_width=110))
                self.merge = gr.Button(i18n("edit.merge"), elem_id="edit-merge", **look)
            with gr.Column(min_width=240), gr.Row():
                form.add("edit_split_at", gr.Number(1.0, label=i18n("edit.split_at"), min_width=110, elem_id="edit-at"))
                self.split = gr.Button(i18n("edit.split"), elem_id="edit-split", **look)
        with gr.Row():
            with gr.Column(scale=3, min_width=300), gr.Row():
                form.add("edit_old_speaker", gr.Textbox("", label=i18n("edit.old_speaker"), min_width=100))
                form.add("edit_new_speaker", gr.Textbox("", label=i18n("edit.new_speaker"), min_width=100))
                self.rename = gr.Button(i18n("edit.rename"), **look)
            with gr.Column(scale=2, min_width=240), gr.Row():
                form.add("edit_new_language", gr.Textbox("", label=i18n("edit.new_language"), min_width=110))
                self.set_language = gr.Button(i18n("edit.set_language"), **look)

    def _build_saving(self, folders: DatasetFolders) -> None:
        form, i18n = self.desk.form, self.desk.i18n
        with gr.Row():
            target = gr.Textbox(
                folders.boxes()["edit_export"], label=i18n("edit.export"), info=i18n("edit.export_hint"), scale=3,
                placeholder=i18n("edit.export_default"), elem_id="edit-export-path",
            )  # fmt: skip
            form.add("edit_export", target)
            self.export = gr.Button(
                i18n("edit.export_button"), variant="primary", elem_classes="beside", elem_id="edit-export"
            )
