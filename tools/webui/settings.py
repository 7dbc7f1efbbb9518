"""Settings that the browser remembers between visits, checked before they are put back."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.context import Context

from tools.webui.form import Form
from tools.webui.speaking import MODEL_NAMES, OPTION_NAMES

REMEMBERED = ("text", *OPTION_NAMES, "seed", "random_seed", "play_live", *MODEL_NAMES)
FILES = ("preset", "gpt_weights", "vits2_weights")
"""Choices that come and go while the page is served."""
STORAGE_KEY = "gpt-sovits2.inference"
STORAGE_SECRET = "settings-of-the-page"
"""Only keeps the stored value readable after a restart; it protects nothing and hides nothing."""


def usable_settings(form: Form, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of stored settings that fits the controls as they are now.

    Unknown names, choices that are gone, wrong types and numbers out of bounds are dropped. Files are taken as they
    are.
    """
    if not isinstance(stored, Mapping):
        return {}
    return {
        name: stored[name]
        for name in REMEMBERED
        if name in stored and (isinstance(stored[name], str) if name in FILES else fits(form[name], stored[name]))
    }


def fits(component: gr.components.Component, value: Any) -> bool:
    """Whether a stored value is one that the control can hold."""
    if isinstance(component, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(component, gr.Slider | gr.Number):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = component.minimum, component.maximum
        return (low is None or value >= low) and (high is None or value <= high)
    if isinstance(component, gr.Dropdown):
        return any(value == choice for _, choice in component.choices)
    return isinstance(value, str)


def browser_memory(app: gr.Blocks, key: str, secret: str) -> gr.BrowserState:
    """A value that the browser keeps, placed beside the tabs: in a tab that is not open nothing would read it.

    Args:
        app: the page.
        key: of the value in the browser.
        secret: keeps the value readable after a restart.
    """
    inner, Context.block = Context.block, app
    try:
        return gr.BrowserState(None, storage_key=key, secret=secret)
    finally:
        Context.block = inner


def remember(form: Form, app: gr.Blocks, files: Callable[[Mapping[str, Any]], dict]) -> None:
    """Store every change, and put the stored settings back when the page loads.

    Args:
        form: of the inference tab.
        app: the page.
        files: gives updates of the components of `FILES` from the stored settings.
    """
    state = browser_memory(app, STORAGE_KEY, STORAGE_SECRET)
    names = form.only(REMEMBERED)

    def restore(stored: Any) -> dict:
        values = usable_settings(form, stored)
        return {component: values.get(name, gr.skip()) for name, component in names.items()} | files(values)

    app.load(restore, state, list(names.values()), queue=False, show_progress="hidden", api_visibility="private")

    def store(**values: Any) -> dict[str, Any]:
        return values

    gr.on(
        [component.change for component in names.values()],
        store,
        inputs_kwargs=names,
        outputs=state,
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )
