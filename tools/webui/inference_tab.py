"""The inference tab: joins its panels and binds Speak and Stop."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from tools.webui.form import Form
from tools.webui.history_panel import HistoryPanel, build_history_panel
from tools.webui.messages import guarded, inform
from tools.webui.options_panel import build_options_panel, build_pace_controls, chosen_model
from tools.webui.output_panel import build_output_panel, build_text_panel
from tools.webui.references_panel import build_references_panel
from tools.webui.services import Services
from tools.webui.settings import remember
from tools.webui.speaking import FORM_NAMES, Speech

SYNTHESIS = "synthesis"
"""Everything that synthesises shares this queue: one run at a time, whoever asks."""

PREPARE_JS = "(wanted) => [window.liveSpeech?.prepare(wanted) ?? false]"
PLAY_JS = "(token) => { window.liveSpeech?.play(token); return []; }"
SILENCE_JS = "() => { window.liveSpeech?.stop(); return []; }"
"""What the page asks of the player in `assets/live.js`; where it cannot play, there is no live sound."""


def build_inference_tab(app: gr.Blocks, services: Services, i18n: gr.I18n) -> Form:
    """Build the tab inside the current `gr.Tab` and return its form."""
    form = Form()
    gr.Markdown(i18n("inference.about"), elem_classes="quiet")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            rows = build_references_panel(form, services, i18n)
        with gr.Column(scale=7, min_width=320):
            build_text_panel(form, i18n)
            build_output_panel(form, i18n)
            build_pace_controls(form, i18n)
            build_options_panel(form, services, i18n)
            history = build_history_panel(form, services, i18n, rows)
    _bind(form, services, history)
    remember(
        form,
        app,
        lambda stored: chosen_model(
            form, services, i18n, stored.get("preset"), stored.get("gpt_weights"), stored.get("vits2_weights")
        ),
    )
    return form


def _bind(form: Form, services: Services, history: HistoryPanel) -> None:
    speak, stop = form["speak"], form["stop"]
    results = [form[name] for name in ("player", "table", "status", "seed", "last_run")]
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    token = form["live_token"]
    armed = speak.click(_arm(services), form["play_live"], [speak, form["status"], token], js=PREPARE_JS, **quiet)
    armed.then(None, token, None, js=PLAY_JS, **quiet)
    spoken = armed.then(
        _speak(form, services),
        inputs_kwargs=form.only((*FORM_NAMES, "last_run")),
        outputs=results,
        concurrency_id=SYNTHESIS,
        concurrency_limit=1,
        api_name="speak",
        show_progress_on=form["player"],
    )
    for ended in (spoken.success, spoken.failure):
        ready = ended(_disarm(services), form["status"], [speak, form["status"]], **quiet)
        ready.then(history.refresh, None, history.outputs, **quiet)
    # Queued, because a toast of an unqueued event never reaches the page; without a limit it never waits.
    stop.click(
        _stop(services),
        None,
        None,
        js=SILENCE_JS,
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )


def _arm(services: Services) -> Callable[..., tuple]:
    def arm(play_live: bool, request: gr.Request) -> tuple:
        """Switch the button off until the run ends, and make its stop flag and, if it is to be heard, its sound."""
        session = request.session_hash or ""
        services.stops.arm(session)
        token = services.live.open(session) if play_live else ""
        return gr.update(interactive=False), services.messages.for_request(request)("message.waiting"), token

    return arm


def _disarm(services: Services) -> Callable[..., tuple]:
    def disarm(status: str, request: gr.Request) -> tuple:
        """The run is over, however it ended; one that failed early has left the status of waiting behind."""
        services.stops.done(request.session_hash or "")
        services.live.close(request.session_hash or "")
        say = services.messages.for_request(request)
        failed = status == say("message.waiting")
        return gr.update(interactive=True), say("message.failed") if failed else gr.skip()

    return disarm


def _stop(services: Services) -> Callable[..., None]:
    def stop(request: gr.Request) -> None:
        """Ask this tab's run to end after what it is doing."""
        say = services.messages.for_request(request)
        running = services.stops.stop(request.session_hash or "")
        inform(say, "message.stopping" if running else "message.nothing_to_stop")

    return stop


def _speak(form: Form, services: Services) -> Callable[..., Iterator[dict]]:
    @guarded(services.messages, services.log_file)
    def speak(request: gr.Request, progress: gr.Progress = gr.Progress(), **values: Any) -> Iterator[dict]:
        """Speak the text with the voice of the references; yields the page's updates sentence by sentence."""
        session = request.session_hash or ""
        flag, live = services.stops.arm(session), services.live.take(session)
        speech = Speech(
            services,
            values,
            values.pop("last_run", None),
            services.messages.for_request(request),
            lambda state, words: progress(state, desc=words),
            flag.is_set,
            live,
        )
        try:
            for update in speech.run():
                if "table" in update:
                    update["table"] = gr.update(value=update["table"], visible=True)
                yield form.updates(update)
        finally:
            services.stops.done(session)
            if live is not None:
                live.end()

    return speak
