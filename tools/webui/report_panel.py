"""Step 6: what the dataset is like, in numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from modules.data.report import ReportOptions
from modules.errors import UserError
from tools.jobs import Job
from tools.webui.controls import build_controls, controls_of
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.messages import Translator, inform
from tools.webui.report_view import latest_report, report_html, report_key
from tools.webui.services import Services
from tools.webui.step_panel import QUIET, TOLD, Desk
from tools.webui.steps import REPORT, existing_lists, existing_path, option_flags, step_options

TEXTS = {
    "sample_clips": ("report.sample_clips", "report.sample_clips_hint"),
    "longest_seconds": ("report.longest_seconds", ""),
    "low_confidence": ("report.confidence", ""),
    "duplicates": ("report.look_for_duplicates", "report.look_for_duplicates_hint"),
}


class ReportPanel:
    """The panel, and how its view is brought up to date."""

    def __init__(self, desk: Desk, folders: DatasetFolders):
        form, i18n = desk.form, desk.i18n
        self.desk = desk
        gr.Markdown(i18n("report.about"), elem_classes="quiet")
        box = gr.Textbox(
            folders.boxes()["report_list"],
            label=i18n("edit.list"),
            info=i18n("report.list_hint"),
            max_lines=6,
            elem_id="report-list",
        )
        form.add("report_list", box)
        with gr.Accordion(i18n("dataset.options"), open=False), gr.Row(elem_classes="options"):
            names = build_controls(form, "report", controls_of(ReportOptions), TEXTS, i18n)
        start = gr.Button(i18n("report.start"), variant="primary", elem_id="report-start")
        self.view = gr.HTML("", elem_id="report-view")
        self.seen = gr.State("")
        self.inputs, self.outputs = [box, self.seen], [self.view, self.seen]
        inputs = {**form.only(["dataset_name", "report_list", "edit_audio_folder", *names]), "watched": desk.watched}
        start.click(self._starter(), inputs_kwargs=inputs, outputs=[desk.watched, desk.timer], **TOLD)
        box.change(desk.guard(self.refresh), self.inputs, self.outputs, **QUIET)

    def news(self, listed: str, seen: str, say: Translator) -> dict:
        """Updates that show the newest report of the list; empty if it is the one that is shown."""
        job = self._latest(listed)
        id = job.id if job is not None else ""
        if id == seen:
            return {}
        report = job.result() if job is not None else None
        return {self.view: report_html(report, say) if report else "", self.seen: id}

    def refresh(self, listed: str, seen: str, request: gr.Request) -> dict:
        """As an event: show the newest report of the list."""
        return self.news(listed, seen, self.desk.say(request)) or {self.seen: gr.skip()}

    def _latest(self, listed: str) -> Job | None:
        try:
            return latest_report(self.desk.services.jobs, existing_lists(listed))
        except UserError:
            return None

    def _starter(self) -> Callable[..., dict]:
        desk = self.desk

        @desk.guard
        def start(request: gr.Request, **values: Any) -> dict:
            """Check the list and the options, and start the report."""
            watched = values.pop("watched")
            say: Translator = desk.say(request)
            with desk.naming(say):
                job = start_report(desk.services, values, desk.folders(values).lists / "report.json")
            inform(say, "report.started")
            return {desk.watched: [*watched, job.id], desk.timer: gr.Timer(active=True)}

        return start


def start_report(services: Services, values: dict[str, Any], target: Path) -> Job:
    """Start the job; the audio folder is that of the editor.

    Raises UserError: path_empty, path_missing, config_out_of_bounds, job_twice.
    """
    lists = existing_lists(values["report_list"])
    arguments = ["--input", *map(str, lists), f"--json={target}", *option_flags(step_options(REPORT, values))]
    if str(folder := values.get("edit_audio_folder") or "").strip():
        arguments.append(f"--audio-folder={existing_path(folder)}")
    name = f"report {', '.join(path.name for path in lists)}"
    return services.jobs.start(name, REPORT.module, arguments, report_key(lists), REPORT.resources)
