"""The jobs of all tabs: how far they are, what they say, what they made, and the button that stops them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from modules.errors import UserError
from tools.jobs import Job
from tools.webui.jobs_view import JobsView, jobs_view
from tools.webui.messages import Translator, guarded, inform
from tools.webui.services import Services
from tools.webui.serving import served_result

POLL_SECONDS = 2.0
NEWEST = ""
"""The choice that follows whatever runs."""


def build_jobs_panel(app: gr.Blocks, services: Services, i18n: gr.I18n) -> None:
    """An accordion below the tabs, which opens when a job begins.

    Everything in it is read from the disk, so a reload or a restart changes nothing.
    """
    with gr.Accordion(i18n("jobs.heading"), open=False, elem_id="jobs") as panel:
        gr.Markdown(i18n("jobs.about"), elem_classes="quiet")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                overview = gr.HTML("", elem_id="jobs-overview")
            with gr.Column(scale=7, min_width=320):
                chosen = gr.Dropdown(
                    [(i18n("jobs.newest"), NEWEST)],
                    value=NEWEST,
                    label=i18n("jobs.choose"),
                    filterable=False,
                    elem_id="jobs-choose",
                )
                details = gr.HTML("", elem_id="jobs-details")
                log = gr.Textbox(
                    "", label=i18n("jobs.log"), lines=8, max_lines=16, interactive=False, elem_id="jobs-log"
                )
                files = gr.File(
                    label=i18n("jobs.fetch"), file_count="multiple", interactive=False, visible=False,
                    elem_id="jobs-files",
                )  # fmt: skip
                with gr.Row():
                    stop = gr.Button(i18n("jobs.stop"), variant="stop", interactive=False, elem_id="jobs-stop")
                    remove = gr.Button(i18n("jobs.remove"), interactive=False, elem_id="jobs-remove")
    seen: gr.State = gr.State({})
    parts = {
        "active": panel,
        "overview": overview,
        "choices": chosen,
        "details": details,
        "log": log,
        "files": files,
        "can_stop": stop,
        "can_remove": remove,
    }
    poll = _poll(services, i18n, parts, seen)
    outputs = [*parts.values(), seen]
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    gr.Timer(POLL_SECONDS).tick(poll, [chosen, seen], outputs, **quiet)
    app.load(poll, [chosen, seen], outputs, **quiet)
    chosen.input(poll, [chosen, seen], outputs, **quiet)
    told = {**quiet, "queue": True, "concurrency_limit": None}
    for button, act in ((stop, _stop(services)), (remove, _remove(services))):
        button.click(act, [chosen, seen], None, **told).then(poll, [chosen, seen], outputs, **quiet)


def changes(view: JobsView, seen: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a view that differ from what a visitor's page shows."""
    values = {spec.name: getattr(view, spec.name) for spec in dataclasses.fields(view)}
    return {name: value for name, value in values.items() if name not in seen or seen[name] != value}


def _poll(services: Services, i18n: gr.I18n, parts: dict[str, Any], seen_state: gr.State) -> Callable[..., dict]:
    @guarded(services.messages, services.log_file)
    def poll(chosen: str | None, seen: dict[str, Any], request: gr.Request) -> dict:
        """Send what has changed since the last look, and nothing else."""
        say: Translator = services.messages.for_request(request)
        try:
            changed = changes(jobs_view(services.jobs, services.chains, chosen or NEWEST, say), seen)
        except UserError:
            changed = {}  # a job was removed while we looked; the next look will not find it
        if not changed:
            return {seen_state: gr.skip()}
        shown = {name: value for name, value in changed.items() if name in ("overview", "details", "log")}
        updates: dict[Any, Any] = {parts[name]: value for name, value in shown.items()}
        if "active" in changed:
            count, begun = len(changed["active"]), set(changed["active"]) - set(seen.get("active", ()))
            heading = say("jobs.heading_active", count=count) if count else say("jobs.heading")
            updates[parts["active"]] = gr.update(label=heading, **({"open": True} if begun else {}))
        if "choices" in changed:
            choices = [(i18n("jobs.newest"), NEWEST), *changed["choices"]]
            gone = chosen and chosen not in dict(map(reversed, changed["choices"]))
            updates[parts["choices"]] = gr.update(choices=choices, **({"value": NEWEST} if gone else {}))
        if "files" in changed:
            copies = [copy for file in changed["files"] if (copy := served_result(file)) is not None]
            updates[parts["files"]] = gr.update(value=copies, visible=bool(copies))
        for name in ("can_stop", "can_remove"):
            if name in changed:
                updates[parts[name]] = gr.update(interactive=changed[name])
        return {**updates, seen_state: {**seen, **changed}}

    return poll


def shown_job(services: Services, chosen: str | None, seen: Mapping[str, Any]) -> Job | None:
    """The job that the visitor sees: the chosen one, or else that which was last sent for "newest".

    Which one is the newest by now does not matter: nobody stops or removes what was never shown.
    """
    id = chosen or str(seen.get("current", ""))
    return services.jobs.job(id) if id else None


def _stop(services: Services) -> Callable[..., None]:
    @guarded(services.messages, services.log_file)
    def stop(chosen: str | None, seen: dict[str, Any], request: gr.Request) -> None:
        """End the job that is shown, and all its processes; with it the chain that it belongs to."""
        say = services.messages.for_request(request)
        job = shown_job(services, chosen, seen)
        if job is not None and services.chains.stop(job.id):
            inform(say, "jobs.chain_stopped")
        elif job is not None and job.state() in ("running", "waiting"):
            job.stop()
            inform(say, "jobs.stopped")
        else:
            inform(say, "message.nothing_to_stop")

    return stop


def _remove(services: Services) -> Callable[..., None]:
    @guarded(services.messages, services.log_file)
    def remove(chosen: str | None, seen: dict[str, Any], request: gr.Request) -> None:
        """Delete the folder of the job that is shown; what it made stays."""
        job = shown_job(services, chosen, seen)
        if job is not None:
            services.chains.advance()  # its chain notes down how it ended
            services.jobs.remove(job)

    return remove
