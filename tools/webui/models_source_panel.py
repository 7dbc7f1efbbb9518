"""Where published models are downloaded from: the hub, a mirror or an address of one's own."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.hub.reaching import hub_reachable
from modules.hub.source import MIRRORS, HubSource, load_source, save_source, source_from
from tools.webui.messages import inform
from tools.webui.step_panel import QUIET, TOLD, Desk

OWN = "own"
"""The choice of an address that is typed."""


def build_source_panel(app: gr.Blocks, desk: Desk) -> list[Callable]:
    """Build the controls `models_source` and `models_endpoint`; returns the events after which links are others."""
    form, i18n = desk.form, desk.i18n
    labels = {
        "huggingface.co": "Hugging Face (huggingface.co)",
        "hf-mirror.com": "HF-Mirror (hf-mirror.com)",
        "modelscope.cn": "ModelScope (modelscope.cn)",
    }
    choices = [*((labels.get(name, name), name) for name in MIRRORS), (i18n("models.source_own"), OWN)]
    gr.Markdown(i18n("models.source_about"), elem_classes="quiet")
    source = gr.Radio(choices, value="huggingface.co", label=i18n("models.source"), elem_id="models-source")
    form.add("models_source", source)
    with gr.Row(equal_height=False):
        address = gr.Textbox(
            "",
            label=i18n("models.endpoint"),
            info=i18n("models.endpoint_hint"),
            placeholder="https://",
            visible=False,
            max_lines=1,
            scale=3,
            min_width=260,
            elem_id="models-endpoint",
        )
        form.add("models_endpoint", address)
    with gr.Row():
        check = gr.Button(i18n("models.check_connection"), min_width=180, elem_id="models-check-connection")
    answer = gr.Markdown("", elem_classes="quiet", elem_id="models-connection")
    named = {"models_source": source, "models_endpoint": address}
    app.load(desk.guard(_shower(desk)), None, [source, address], **QUIET)
    chosen = source.input(_keeper(desk), inputs_kwargs=named, outputs=[address, answer], **TOLD)
    typed = [event(_keeper(desk), inputs_kwargs=named, outputs=[address, answer], **TOLD)
             for event in (address.blur, address.submit)]  # fmt: skip
    check.click(_checker(desk), inputs_kwargs=named, outputs=answer, **TOLD)
    return [chosen.then, *(event.then for event in typed)]


def source_of(values: dict[str, Any]) -> HubSource:
    """The source that the controls name. Raises UserError hub_endpoint_invalid."""
    name = str(values.get("models_source") or "")
    return source_from(str(values.get("models_endpoint") or "") if name == OWN else name)


def known_source(desk: Desk) -> HubSource:
    """The source that is set; the hub itself where the setting cannot be read, which the next choice mends."""
    try:
        return load_source(desk.services.weights.models)
    except UserError:
        return HubSource()


def _shower(desk: Desk) -> Callable[..., tuple]:
    def show() -> tuple:
        """Put the setting into the controls."""
        source = known_source(desk)
        own = source.name not in MIRRORS
        return (OWN if own else source.name), gr.update(value=source.endpoint if own else "", visible=own)

    return show


def _keeper(desk: Desk) -> Callable[..., tuple]:
    @desk.guard
    def keep(request: gr.Request, **values: Any) -> tuple:
        """Save the choice; an address that is not typed yet is waited for."""
        own = values["models_source"] == OWN
        if own and not str(values.get("models_endpoint") or "").strip():
            return gr.update(visible=True), ""
        models, source = desk.services.weights.models, source_of(values)
        if source != known_source(desk):
            save_source(models, source)
            inform(desk.say(request), "models.source_saved", source=source.name)
        return gr.update(visible=own), ""

    return keep


def _checker(desk: Desk) -> Callable[..., str]:
    @desk.guard
    def check(request: gr.Request, **values: Any) -> str:
        """Knock at the source, which takes three seconds at most."""
        source, say = source_of(values), desk.say(request)
        reached = hub_reachable(endpoint=source.endpoint)
        return say("models.connected" if reached else "models.not_connected", source=source.endpoint)

    return check
