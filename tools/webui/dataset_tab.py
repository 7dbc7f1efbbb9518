"""The tab "Fetch dataset": from recordings to a labelled list. Joins its panels; each step is a job."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from modules.errors import UserError
from tools.webui.chain_panel import bind_chain, build_chain_controls
from tools.webui.dataset_folders import DEFAULT_NAME, DatasetFolders, dataset_name, newly_finished, own_outputs
from tools.webui.denoise_panel import build_denoise_panel
from tools.webui.edit_panel import EditPanel, build_edit_panel
from tools.webui.form import Form
from tools.webui.report_panel import ReportPanel
from tools.webui.separate_panel import build_separate_panel
from tools.webui.services import Services
from tools.webui.settings import browser_memory
from tools.webui.slice_panel import build_slice_panel
from tools.webui.step_panel import QUIET, TOLD, Desk
from tools.webui.transcribe_panel import build_transcribe_panel

POLL_SECONDS = 2.0
STORAGE_KEY = "gpt-sovits2.dataset"
STORAGE_SECRET = "paths-of-the-page"
"""Only keeps the stored value readable after a restart; it protects nothing and hides nothing."""
KEPT = ("dataset_name", "edit_audio_folder", "slice_speaker", "transcribe_speaker")
"""Boxes that the browser remembers, besides those of `DatasetFolders.boxes`."""


def build_dataset_tab(app: gr.Blocks, services: Services, i18n: gr.I18n) -> Form:
    """Build the tab inside the current `gr.Tab` and return its form."""
    form = Form()
    folders = DatasetFolders(DEFAULT_NAME, services.output, services.logs)
    gr.Markdown(i18n("dataset.about"), elem_classes="quiet")
    name = gr.Textbox(
        DEFAULT_NAME, label=i18n("dataset.name"), info=i18n("dataset.name_hint"), max_lines=1, elem_id="dataset-name"
    )
    form.add("dataset_name", name)
    desk = Desk(form, services, i18n, gr.State([]), gr.Timer(POLL_SECONDS, active=False))
    with gr.Tabs(elem_id="dataset-steps"):
        with gr.Tab(i18n("chain.tab"), id="chain"):
            button = build_chain_controls(desk, folders)
        options: list[str] = []
        with gr.Tab(i18n("separate.tab"), id="separate"):
            options += build_separate_panel(desk, folders)
        with gr.Tab(i18n("denoise.tab"), id="denoise"):
            options += build_denoise_panel(desk, folders)
        with gr.Tab(i18n("slice.tab"), id="slice"):
            options += build_slice_panel(desk, folders)
        with gr.Tab(i18n("transcribe.tab"), id="transcribe"):
            options += build_transcribe_panel(desk, folders)
        with gr.Tab(i18n("edit.tab"), id="edit"):
            edit = build_edit_panel(desk, folders)
        with gr.Tab(i18n("report.tab"), id="report"):
            report = ReportPanel(desk, folders)
    bind_chain(desk, button, options)
    boxes = list(folders.boxes())
    outputs = [box for box in boxes if box.endswith("_output")]
    desk.timer.tick(
        _poll(desk, report, outputs),
        [desk.watched, *report.inputs, form["dataset_name"], *(form[box] for box in outputs)],
        [*(form[box] for box in boxes), *report.outputs, desk.watched, desk.timer],
        **QUIET,
    )
    named = gr.State(DEFAULT_NAME)
    for event in (name.blur, name.submit):
        event(_rename(desk, named), [name, named], [*(form[box] for box in boxes), named], **TOLD)
    _remember(app, desk, edit, report, named)
    return form


def _poll(desk: Desk, report: ReportPanel, outputs: list[str]) -> Callable[..., dict]:
    @desk.guard
    def poll(watched: list[str], listed: str, seen: str, name: str, request: gr.Request, *written: str) -> dict:
        """Fill what finished steps made into the boxes of the next ones, and show a finished report."""
        try:
            own = own_outputs(dict(zip(outputs, written)), desk.folders({"dataset_name": name}))
        except UserError:
            return {desk.watched: gr.skip()}  # half a name; when it is whole, this goes on
        boxes, left = newly_finished(desk.services.jobs, desk.services.chains, watched, own)
        if not boxes and left == watched:
            return {desk.watched: gr.skip()}
        shown = report.news(listed, seen, desk.say(request))
        return {**desk.form.updates(boxes), **shown, desk.watched: left, desk.timer: gr.Timer(active=bool(left))}

    return poll


def _rename(desk: Desk, named_state: gr.State) -> Callable[..., dict]:
    @desk.guard
    def rename(name: str, named: str) -> dict:
        """Another dataset: its own folders in all boxes."""
        name = dataset_name(name)
        if name == named:
            return {named_state: gr.skip()}
        folders = DatasetFolders(name, desk.services.output, desk.services.logs)
        return {**desk.form.updates(folders.boxes()), named_state: name}

    return rename


def restored(stored: object, services: Services) -> dict[str, str]:
    """What the boxes hold when the page loads: what the browser remembers, or else what lies on the disk."""
    kept: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    try:
        name = dataset_name(kept.get("dataset_name", DEFAULT_NAME))
    except UserError:
        name = DEFAULT_NAME
    boxes = DatasetFolders(name, services.output, services.logs).boxes()
    wanted = [*KEPT, *boxes]
    remembered = {key: kept[key] for key in wanted if isinstance(kept.get(key), str) and kept[key].strip()}
    return {**boxes, **remembered, "dataset_name": name}


def active(services: Services) -> list[str]:
    """Ids of the jobs and chains that have not ended, whoever started them."""
    jobs = [job.id for job in services.jobs.jobs() if job.state() in ("waiting", "running")]
    return [*jobs, *(chain.id for chain in services.chains.all() if not chain.ended)]


def _remember(app: gr.Blocks, desk: Desk, edit: EditPanel, report: ReportPanel, named: gr.State) -> None:
    """Store the path boxes; put them back when the page loads, with the list that was under edit."""
    form, services = desk.form, desk.services
    state = browser_memory(app, STORAGE_KEY, STORAGE_SECRET)
    wanted = list(restored(None, services)) + [name for name in KEPT if name != "dataset_name"]
    components = form.only(dict.fromkeys(wanted))

    def restore(stored: Any) -> dict:
        values = restored(stored, services)
        known = stored.get("watched") if isinstance(stored, Mapping) else None
        before = [id for id in known if isinstance(id, str)] if isinstance(known, list) else []
        watched = list(dict.fromkeys([*before, *active(services)]))  # one may have ended while the page was closed
        return {
            **form.updates(values),
            named: values["dataset_name"],
            desk.watched: watched,
            desk.timer: gr.Timer(active=bool(watched)),
        }

    def reopen(listed: str, audio_folder: str, request: gr.Request) -> dict:
        values = {"edit_list": listed, "edit_audio_folder": audio_folder}
        return edit.open_if_edited(values, desk.say(request)) or {edit.session: gr.skip()}

    def store(**values: Any) -> dict[str, Any]:
        return values

    loaded = app.load(restore, state, [*components.values(), named, desk.watched, desk.timer], **QUIET)
    loaded.then(reopen, [form["edit_list"], form["edit_audio_folder"]], edit.outputs, **QUIET)
    loaded.then(desk.guard(report.refresh), report.inputs, report.outputs, **QUIET)
    gr.on(
        [component.change for component in (*components.values(), desk.watched)],
        store,
        inputs_kwargs={**components, "watched": desk.watched},
        outputs=state,
        trigger_mode="always_last",
        **QUIET,
    )
