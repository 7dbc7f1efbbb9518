"""The controls of how the text is spoken and with which weights."""

from collections.abc import Callable

import gradio as gr

from modules.inference.options import SpeakOptions
from tools.webui.form import Form
from tools.webui.messages import guarded, inform
from tools.webui.presets import BUILT_IN_PRESET, speaking_presets
from tools.webui.services import Services
from tools.webui.weights import BUILT_IN

DEFAULTS = SpeakOptions()


def build_pace_controls(form: Form, i18n: gr.I18n) -> None:
    """What is changed most often: speed and the way of cutting."""
    with gr.Row():
        form.add(
            "speed", gr.Slider(0.6, 1.65, 1.0, step=0.05, label=i18n("options.speed"), min_width=160, elem_id="speed")
        )
        form.add(
            "cut",
            gr.Dropdown(
                [
                    (i18n("options.cut.auto"), "auto"),
                    (i18n("options.cut.cut0"), "cut0"),
                    (i18n("options.cut.cut1"), "cut1"),
                    (i18n("options.cut.cut2"), "cut2"),
                    (i18n("options.cut.cut3"), "cut3"),
                    (i18n("options.cut.cut4"), "cut4"),
                    (i18n("options.cut.cut5"), "cut5"),
                ],
                value="auto",
                label=i18n("options.cut"),
                filterable=False,
                min_width=200,
                elem_id="cut",
            ),
        )


def build_options_panel(form: Form, services: Services, i18n: gr.I18n) -> None:
    """Sampling, fusion, freeze and weights, in two closed accordions."""
    with gr.Accordion(i18n("options.advanced"), open=False, elem_id="advanced"):
        _build_sampling(form, i18n)
        _build_switches(form, i18n)
    with gr.Accordion(i18n("options.model"), open=False, elem_id="model"):
        _build_model(form, services, i18n)


def _build_sampling(form: Form, i18n: gr.I18n) -> None:
    with gr.Row():
        form.add(
            "seed", gr.Number(0, label=i18n("options.seed"), precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed")
        )
        form.add(
            "random_seed",
            gr.Checkbox(
                True, label=i18n("options.random_seed"), info=i18n("options.random_seed_hint"), elem_id="random-seed"
            ),
        )
    sliders = (
        ("pause_seconds", 0.0, 1.0, 0.01, i18n("options.pause_seconds")),
        ("top_k", 1, 100, 1, i18n("options.top_k")),
        ("top_p", 0.0, 1.0, 0.05, i18n("options.top_p")),
        ("temperature", 0.0, 1.0, 0.05, i18n("options.temperature")),
        ("repetition_penalty", 1.0, 2.0, 0.05, i18n("options.repetition_penalty")),
        ("guidance", 0.0, 3.0, 0.1, i18n("options.guidance")),
        ("noise_scale", 0.0, 1.0, 0.05, i18n("options.noise_scale")),
    )
    with gr.Row():
        for name, low, high, step, label in sliders:
            value = getattr(DEFAULTS, name)
            form.add(
                name, gr.Slider(low, high, value, step=step, label=label, min_width=200, elem_id=name.replace("_", "-"))
            )


def _build_switches(form: Form, i18n: gr.I18n) -> None:
    with gr.Row():
        form.add(
            "fuse_gpt",
            gr.Checkbox(True, label=i18n("options.fuse_gpt"), info=i18n("options.fuse_gpt_hint"), elem_id="fuse-gpt"),
        )
        form.add(
            "fuse_decoder",
            gr.Checkbox(
                True, label=i18n("options.fuse_decoder"), info=i18n("options.fuse_decoder_hint"), elem_id="fuse-decoder"
            ),
        )
    with gr.Row():
        form.add(
            "guards",
            gr.Checkbox(True, label=i18n("options.guards"), info=i18n("options.guards_hint"), elem_id="guards"),
        )
        form.add(
            "freeze",
            gr.Checkbox(False, label=i18n("options.freeze"), info=i18n("options.freeze_hint"), elem_id="freeze"),
        )


def _build_model(form: Form, services: Services, i18n: gr.I18n) -> None:
    weights = services.weights
    with gr.Row():
        preset = form.add(
            "preset",
            gr.Dropdown(
                speaking_presets(services),
                value=BUILT_IN_PRESET,
                label=i18n("options.preset"),
                info=i18n("options.preset_hint"),
                filterable=False,
                min_width=220,
                elem_id="preset",
            ),
        )
        form.add(
            "gpt_weights",
            gr.Dropdown(
                _choices(weights.gpt_names(), i18n),
                value=BUILT_IN,
                label=i18n("options.gpt"),
                min_width=220,
                elem_id="gpt-weights",
            ),
        )
        form.add(
            "vits2_weights",
            gr.Dropdown(
                _choices(weights.vits2_names(), i18n),
                value=BUILT_IN,
                label=i18n("options.vits2"),
                min_width=220,
                elem_id="vits2-weights",
            ),
        )
    refresh = gr.Button(i18n("options.refresh"), size="sm", elem_id="refresh-weights")
    remark = gr.Markdown("", visible=False, elem_classes="warned", elem_id="preset-remark")

    @guarded(services.messages, services.log_file)
    def explain_preset(name: str, gpt: str | None, vits2: str | None, request: gr.Request) -> dict:
        """Say at once what a preset without weights of its own needs."""
        enough = weights.is_installed(name) or (gpt and vits2)
        words = "" if enough else services.messages.for_request(request)("options.preset_choose_both", preset=name)
        return gr.update(value=words, visible=bool(words))

    refresh_weights(form, services, i18n, refresh.click)
    boxes = [preset, form["gpt_weights"], form["vits2_weights"]]
    for box in boxes:
        box.change(explain_preset, boxes, remark, queue=False, show_progress="hidden", api_visibility="private")


def refresh_weights(form: Form, services: Services, i18n: gr.I18n, *events: Callable) -> None:
    """Offer the weight files that are there at these events of Gradio, such as a tab's `select`."""
    boxes = [form["preset"], form["gpt_weights"], form["vits2_weights"]]

    @guarded(services.messages, services.log_file)
    def refresh(preset: str | None, gpt: str | None, vits2: str | None, request: gr.Request) -> dict:
        if is_gone(services, preset):
            inform(services.messages.for_request(request), "options.preset_gone", preset=preset)
        return chosen_model(form, services, i18n, preset, gpt, vits2)

    # Queued, because a toast of an unqueued event never reaches the page.
    for event in events:
        event(refresh, boxes, boxes, concurrency_limit=None, show_progress="hidden", api_visibility="private")


def is_gone(services: Services, preset: object) -> bool:
    """Whether a preset was chosen that cannot speak any more."""
    return bool(preset) and preset not in speaking_presets(services)


def chosen_model(
    form: Form, services: Services, i18n: gr.I18n, preset: object, gpt: str | None, vits2: str | None
) -> dict:
    """The presets and weights that can speak now, and the choice among them.

    A preset that cannot any more becomes the built-in one, and its weights, which fit no other, become built-in too.
    """
    if is_gone(services, preset):
        preset, gpt, vits2 = BUILT_IN_PRESET, BUILT_IN, BUILT_IN
    return chosen_preset(form, services, preset) | chosen_weights(form, services, i18n, gpt, vits2)


def chosen_preset(form: Form, services: Services, name: object) -> dict:
    """The presets that can speak now, and the choice among them; one that cannot any more becomes the built-in one."""
    names = speaking_presets(services)
    return {form["preset"]: gr.update(choices=names, value=name if name in names else BUILT_IN_PRESET)}


def chosen_weights(form: Form, services: Services, i18n: gr.I18n, gpt: str | None, vits2: str | None) -> dict:
    """The files that are there now, and the choice among them; one that is gone becomes the built-in weights."""
    updates = {}
    for box, names, name in (
        ("gpt_weights", services.weights.gpt_names(), gpt),
        ("vits2_weights", services.weights.vits2_names(), vits2),
    ):
        updates[form[box]] = gr.update(choices=_choices(names, i18n), value=name if name in names else BUILT_IN)
    return updates


def _choices(names: list[str], i18n: gr.I18n) -> list[tuple]:
    return [(i18n("options.built_in"), BUILT_IN), *((name, name) for name in names)]
