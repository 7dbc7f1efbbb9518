"""All steps with one button, with the options of their own panels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from tools.webui.dataset_folders import DatasetFolders
from tools.webui.messages import inform
from tools.webui.model_check import check_model
from tools.webui.slice_panel import slice_flags
from tools.webui.step_panel import TOLD, Desk, build_source
from tools.webui.steps import DENOISE, SEPARATE, SLICE, TRANSCRIBE, Work, existing_path, prepare
from tools.webui.transcribe_panel import transcribe_flags


def build_chain_controls(desk: Desk, folders: DatasetFolders) -> gr.Button:
    """The source, the choice of steps and the button; `bind_chain` gives it its work once all panels are there."""
    form, i18n = desk.form, desk.i18n
    gr.Markdown(i18n("chain.about"), elem_classes="quiet")
    build_source(desk, "chain", i18n("dataset.recordings"), folders.boxes()["chain_source"])
    with gr.Row():
        separate = gr.Checkbox(False, label=i18n("chain.separate"), info=i18n("chain.separate_hint"))
        form.add("chain_separate", separate)
        denoise = gr.Checkbox(False, label=i18n("chain.denoise"), info=i18n("chain.denoise_hint"))
        form.add("chain_denoise", denoise)
    return gr.Button(i18n("chain.start"), variant="primary", elem_id="chain-start")


def bind_chain(desk: Desk, button: gr.Button, options: Sequence[str]) -> None:
    """Let the button start the chain with the options of all panels."""
    outputs = [f"{step.name}_output" for step in (SEPARATE, DENOISE, SLICE, TRANSCRIBE)]
    names = ["dataset_name", "chain_source", "chain_separate", "chain_denoise", *outputs, *options]

    @desk.guard
    def start(request: gr.Request, **values: Any) -> dict:
        """Check everything of every step before the first one starts."""
        say, watched = desk.say(request), values.pop("watched")
        folders = desk.folders(values)
        works = chain_works(values, folders, lambda: transcribe_flags(desk, values, folders), _models(desk))
        for work in works:
            check_model(work, desk.services.weights.models)
        with desk.naming(say):
            chain = desk.services.chains.start(works)
        inform(say, "chain.started", count=len(works), output=works[-1].output)
        return {desk.watched: [*watched, chain.id], desk.timer: gr.Timer(active=True)}

    inputs = {**desk.form.only(names), "watched": desk.watched}
    button.click(start, inputs_kwargs=inputs, outputs=[desk.watched, desk.timer], **TOLD)


def chain_works(
    values: Mapping[str, Any],
    folders: DatasetFolders,
    transcription: Callable[[], dict[str, str]],
    models: Mapping[str, str],
) -> list[Work]:
    """The steps of a chain, each reading what the one before it writes.

    Args:
        values: of all controls of the tab.
        folders: of the dataset.
        transcription: gives further flags for transcribing.
        models: further flags for separating.

    Raises:
        UserError: as `prepare` does, of any of the steps.
    """
    source = existing_path(values["chain_source"])
    works = []
    if values.get("chain_separate"):
        works.append(prepare(SEPARATE, values, models, source=source))
        source = works[-1].output / "vocals"
    if values.get("chain_denoise"):
        works.append(prepare(DENOISE, values, source=source))
        source = works[-1].output
    works.append(prepare(SLICE, values, slice_flags(values, folders), source=source))
    works.append(prepare(TRANSCRIBE, values, transcription(), source=works[-1].output))
    return works


def _models(desk: Desk) -> dict[str, str]:
    return {"models": str(desk.services.weights.models)}
