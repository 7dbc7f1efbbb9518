"""What the panels of all steps have in common: a source with an upload, an output folder, and a start as a job."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modules.data.sources import AUDIO_SUFFIXES
from modules.errors import UserError
from tools.webui.dataset_folders import DatasetFolders, dataset_name, keep_uploads
from tools.webui.form import Form
from tools.webui.jobs_view import name_job
from tools.webui.messages import Translator, guarded, inform
from tools.webui.model_check import check_model
from tools.webui.services import Services
from tools.webui.steps import Step, prepare

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""For events that cannot fail."""
TOLD: dict[str, Any] = {**QUIET, "queue": True, "concurrency_limit": None}
"""For events that may show a toast: that of an unqueued event never reaches the page."""

Flags = Callable[[Mapping[str, Any], DatasetFolders], dict[str, str]]


@dataclass(frozen=True)
class Desk:
    """What the panels of the tab are built on.

    Args:
        form: all controls of the tab by name.
        services, i18n: of the page.
        watched: ids of the jobs and chains that were started here and have not ended.
        timer: ticks while there are some.
    """

    form: Form
    services: Services
    i18n: gr.I18n
    watched: gr.State
    timer: gr.Timer

    def guard(self, function: Callable) -> Callable:
        """A callback whose failures become toasts."""
        return guarded(self.services.messages, self.services.log_file)(function)

    def folders(self, values: Mapping[str, Any]) -> DatasetFolders:
        """Those of the dataset that the page names. Raises UserError dataset_name."""
        return DatasetFolders(dataset_name(values["dataset_name"]), self.services.output, self.services.logs)

    @contextmanager
    def naming(self, say: Translator) -> Iterator[None]:
        """What is started inside may be running already: it is then called as the job panel calls it."""
        try:
            yield
        except UserError as error:
            raise name_job(error, self.services.jobs, say) from error

    def say(self, request: gr.Request) -> Translator:
        """Words in the reader's language."""
        return self.services.messages.for_request(request)


def build_source(desk: Desk, step: str, label: str, value: str = "") -> None:
    """A box for a file or folder as `{step}_source`, and beside it an upload that fills it."""
    form, i18n = desk.form, desk.i18n
    with gr.Row(equal_height=False):
        form.add(
            f"{step}_source",
            gr.Textbox(
                value,
                label=label,
                info=i18n("dataset.source_hint"),
                scale=3,
                min_width=260,
                elem_id=f"{step}-source",
            ),
        )
        upload = form.add(
            f"{step}_upload",
            gr.File(
                label=i18n("dataset.upload"),
                file_count="multiple",
                file_types=sorted(AUDIO_SUFFIXES),
                height=120,
                scale=2,
                min_width=220,
                elem_id=f"{step}-upload",
            ),
        )

    @desk.guard
    def keep(files: list[str] | None, name: str, request: gr.Request) -> tuple:
        """Copy what was uploaded to where the dataset's recordings lie, and name that folder."""
        folders = desk.folders({"dataset_name": name})
        target = folders.sound / "uploaded_clips" if step == "transcribe" else folders.recordings
        folder = keep_uploads(files or [], target)
        inform(desk.say(request), "dataset.uploaded", count=len(files or []), folder=folder)
        return str(folder), None

    upload.upload(keep, [upload, form["dataset_name"]], [form[f"{step}_source"], upload], **TOLD)


def build_output(desk: Desk, step: str, value: str, hint: str) -> None:
    """A box for the output folder as `{step}_output`."""
    box = gr.Textbox(value, label=desk.i18n("dataset.output"), info=hint, elem_id=f"{step}-output")
    desk.form.add(f"{step}_output", box)


def build_start(desk: Desk, step: Step, names: Sequence[str], flags: Flags = lambda values, folders: {}) -> gr.Button:
    """The button that starts the step as a job.

    Args:
        desk: of the tab.
        step: what is started.
        names: controls of its options and flags.
        flags: further flags of the tool, from the values of those controls.
    """
    button = gr.Button(desk.i18n("dataset.start"), variant="primary", elem_id=f"{step.name}-start")
    wanted = ["dataset_name", f"{step.name}_source", f"{step.name}_output", *names]

    @desk.guard
    def start(request: gr.Request, **values: Any) -> dict:
        """Check everything, and put the step into the queue."""
        watched = values.pop("watched")
        work = prepare(step, values, flags(values, desk.folders(values)))
        check_model(work, desk.services.weights.models)
        say = desk.say(request)
        with desk.naming(say):
            job = work.start(desk.services.jobs)
        inform(say, "dataset.started", output=work.output)
        return {desk.watched: [*watched, job.id], desk.timer: gr.Timer(active=True)}

    inputs = {**desk.form.only(wanted), "watched": desk.watched}
    button.click(start, inputs_kwargs=inputs, outputs=[desk.watched, desk.timer], **TOLD)
    return button


def sample_of(source: object, number: object) -> Path:
    """Recording `number` (from 1) of a file or folder; numbers beyond the ends give the first or last.

    Raises:
        UserError: path_empty, path_missing, no_recordings.
    """
    from modules.data.sources import list_audio
    from tools.webui.steps import existing_path

    path = existing_path(source)
    files = list_audio(path)
    if not files:
        raise UserError("no_recordings", "There are no recordings in {path}; check the path.", path=str(path))
    place = int(number) if isinstance(number, int | float) else 1
    return files[min(max(place, 1), len(files)) - 1]
