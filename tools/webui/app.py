"""The page: a head, the tabs, and how it is served."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import gradio as gr

from tools.webui.form import Form
from tools.webui.inference_tab import build_inference_tab
from tools.webui.jobs_panel import build_jobs_panel
from tools.webui.live import player_script, serve_live
from tools.webui.messages import guarded
from tools.webui.options_panel import refresh_weights
from tools.webui.quick_start import without_application
from tools.webui.services import Services
from tools.webui.theme import CSS, theme

TEMPORARY_FILES_SECONDS = (3600, 24 * 3600)
"""How often temporary copies of audio are looked through, and the age at which they go."""

LARGEST_UPLOAD = "1gb"
"""Enough for hours of uncompressed speech, too little to fill a disk with one request."""

MOST_WAITING = 32
"""Events in the queue; who comes later is told so."""

Tab = Callable[[gr.Blocks, Services, gr.I18n], object]


@runtime_checkable
class UsesInference(Protocol):
    """A tab that hands something to the inference tab."""

    def bind_inference(self, inference: Form) -> None:
        """Called once all tabs are there."""


def build_app(
    services: Services, tabs: Sequence[tuple[str, Tab]] = (), after: Sequence[tuple[str, Tab]] = ()
) -> gr.Blocks:
    """The page with further tabs and the inference tab, which is open first, and the jobs of all of them below.

    Args:
        services: shared by all tabs.
        tabs: pairs of the key of the tab's name and a builder called inside the tab.
        after: the same, for tabs that stand behind the inference tab.
    """
    i18n = services.messages.frontend()
    named = {"title": "GPT-SoVITS2", "delete_cache": TEMPORARY_FILES_SECONDS, "analytics_enabled": False}
    with without_application(), gr.Blocks(**named) as app:
        app.queue(max_size=MOST_WAITING)
        gr.Markdown(i18n("page.head"), elem_classes="page-head")
        device = gr.Markdown(i18n("page.device_unknown"), elem_classes="quiet", elem_id="device")
        # In the order of the work; a newcomer begins with what needs no work before it.
        with gr.Tabs(selected="inference"):
            built = []
            for name, build in tabs:
                with gr.Tab(i18n(name), id=name):
                    built.append(build(app, services, i18n))
            with gr.Tab(i18n("tab.inference"), id="inference") as inference_tab:
                inference = build_inference_tab(app, services, i18n)
            for name, build in after:
                with gr.Tab(i18n(name), id=name):
                    built.append(build(app, services, i18n))
        refresh_weights(inference, services, i18n, inference_tab.select)
        for tab in built:
            if isinstance(tab, UsesInference):
                tab.bind_inference(inference)
        build_jobs_panel(app, services, i18n)
        gr.Markdown(i18n("page.consent"), elem_classes="quiet", elem_id="consent")

        @guarded(services.messages, services.log_file)
        def show_device(request: gr.Request) -> str:
            """Looked up after the page is there, because it imports torch."""
            say = services.messages.for_request(request)
            name = services.engine.device_name()
            services.warm_up()
            return say("page.device", device=name)

        app.load(show_device, None, device, queue=False, show_progress="hidden", api_visibility="private")
    return app


def launch(
    app: gr.Blocks,
    services: Services,
    *,
    host: str = "127.0.0.1",
    port: int | None = 9874,
    auth: tuple[str, str] | None = None,
    open_browser: bool = False,
) -> str:
    """Serve the page in threads of its own, and keep its jobs going; returns its address at once.

    Raises:
        OSError: the port is taken.
    """
    services.output.mkdir(parents=True, exist_ok=True)
    services.jobs.watch()
    services.chains.watch()
    server, address, _ = app.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        ssl_verify=False,  # Gradio asks its own plain http address; reading all certificates for that takes a while
        run_history=False,
        max_file_size=LARGEST_UPLOAD,
        footer_links=["api", "settings"],
        allowed_paths=[str(services.output), str(Path(services.examples).resolve())],
        i18n=services.messages.frontend(),
        theme=theme(),
        css=CSS,
        js=player_script(),
    )
    serve_live(server, services.live)
    return address
