"""A quick start leaves everything as it was, and what is loaded in advance is in nobody's way."""

import gc
import inspect
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from modules.paths import PROJECT_ROOT
from tools.webui.quick_start import quick_start
from tools.webui.services import Engine, Services
from tools.webui.weights import ModelChoice


def test_a_quick_start_leaves_nothing_behind() -> None:
    finders, signature = list(sys.meta_path), inspect.signature
    with pytest.raises(KeyError), quick_start():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() and sys.meta_path == finders and inspect.signature is signature


def test_functions_still_tell_what_they_take() -> None:
    def one(a: int, *, b: str = "x") -> None: ...

    class Called:
        def __call__(self, c: float) -> None: ...

    with quick_start():
        told = [inspect.signature(what) for what in (one, one, Called(), Called, one.__get__(1))]
    assert told == [inspect.signature(what) for what in (one, one, Called(), Called, one.__get__(1))]


def test_gradio_writes_no_stubs_and_is_whole() -> None:
    script = (
        "from tools.webui.quick_start import quick_start\n"
        "with quick_start():\n"
        "    import gradio, gradio.component_meta as meta\n"
        "assert meta.create_or_modify_pyi(1, 2, 3) is None\n"
        "with gradio.Blocks() as page:\n"
        "    gradio.Button('x').click(lambda: None)\n"
        "assert len(page.fns) == 1"
    )
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, check=True, timeout=120)


def test_a_page_has_one_application_and_others_keep_theirs() -> None:
    script = (
        "import gradio\n"
        "from tools.webui.quick_start import without_application\n"
        "with without_application(), gradio.Blocks() as page:\n"
        "    gradio.Button('x').click(lambda: None)\n"
        "assert page.app is None\n"
        "with gradio.Blocks() as other:\n"
        "    pass\n"
        "assert other.app is not None\n"
        "page.launch(prevent_thread_lock=True, quiet=True)\n"
        "assert page.app is not None and page.app.blocks is page"
    )
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, check=True, timeout=120, env=environment)


def warmed(engine: Engine, choice: ModelChoice) -> None:
    """Warm up, and wait until that is over."""
    before = set(threading.enumerate())
    engine.warm_up(choice)
    for thread in set(threading.enumerate()) - before:
        if thread.name == "warm-up":
            thread.join(120)


def test_the_first_speak_finds_its_model_loaded(services: Services) -> None:
    engine, choice = Engine(services.weights, "cpu"), ModelChoice("nano")
    warmed(engine, choice)
    assert engine.is_loaded(choice)


def test_a_model_that_somebody_uses_stays(services: Services) -> None:
    engine, used = Engine(services.weights, "cpu"), ModelChoice("nano")
    mine = engine.synthesizer(used)
    warmed(engine, ModelChoice("base"))
    assert engine.synthesizer(used) is mine


def test_what_fails_in_advance_is_silent(services: Services, capfd: pytest.CaptureFixture[str]) -> None:
    engine = Engine(services.weights, "cpu")
    warmed(engine, ModelChoice("base"))
    assert not engine.is_loaded(ModelChoice("base"))
    broken = Engine(SimpleNamespace(preset_folder=lambda name: 1 / 0), "cpu")
    warmed(broken, ModelChoice("nano"))
    assert capfd.readouterr() == ("", "")
