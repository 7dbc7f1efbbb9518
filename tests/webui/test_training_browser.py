"""A walk through the training tab in a real Chromium, with the real tools on a tiny model and a synthetic voice."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.webui.training_helpers import dataset
from tools.jobs import JobStore
from tools.webui.history import list_entries
from tools.webui.messages import Messages
from tools.webui.services import Services

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ENGLISH = Messages().tables["en"]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While this file exists, trainings wait after the first steps that they tell of."""
    return tmp_path / "gate"


@pytest.fixture
def services(services_in: Callable[..., Services], models: Path, tmp_path: Path) -> Services:
    """Services with empty folders of their own, and jobs that train tiny models into them."""
    part = models / "nano-training" / "vits2.safetensors"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes((models / "nano" / "vits2.safetensors").read_bytes())
    command = (sys.executable, "-m", "tests.webui.training_tool", str(tmp_path))
    return services_in(tmp_path, JobStore(tmp_path / "logs" / "jobs", command))


@pytest.fixture
def address(services: Services, served: Callable) -> Iterator[str]:
    """The page with the training tab, while it is served."""
    from tools.webui.training_tab import build_training_tab

    with served(services, (("tab.training", build_training_tab),)) as address:
        yield address


@pytest.fixture
def visit(visitor: Callable[..., "Page"], open_page: Callable[..., None], address: str) -> Callable[..., "Page"]:
    """`visit(page=None)`: the training tab, for a new visitor or in a page that is loaded again."""

    def come(page: "Page | None" = None) -> "Page":
        page = page or visitor()
        open_page(page, address)
        page.get_by_role("tab", name=ENGLISH["tab.training"], exact=True).click()
        return page

    return come


def box(name: str) -> str:
    """The selector of a text box, however many lines it has."""
    return f":is(#{name} textarea, #{name} input:not([type=checkbox], [type=range]))"


def fill_to_stay(page: "Page", **values: str) -> None:
    """Fill boxes of a page that may still be drawn or restored, which puts the old values back."""
    names = {name.replace("_", "-"): value for name, value in values.items()}
    for _ in range(20):
        for name, value in names.items():
            if page.input_value(box(name)) != value:
                page.fill(box(name), value)
                page.press(box(name), "Tab")
        page.wait_for_timeout(1000)
        if all(page.input_value(box(name)) == value for name, value in names.items()):
            return
    pytest.fail(f"{names} were not taken")


def wait_for_value(page: "Page", name: str, value: str) -> None:
    page.wait_for_function(
        "([box, value]) => document.querySelector(box)?.value == value", arg=[box(name), value]
    )  # fmt: skip


def wait_for_job(page: "Page", step: str, state: str) -> None:
    page.wait_for_selector(f"#{step}-state .job.{state}")


def wait_for_beginning(page: "Page", stage: str, key: str) -> None:
    page.wait_for_selector(f'#{stage}-beginning label.selected:has-text("{ENGLISH[f"training.beginning_{key}"]}")')


def test_from_a_list_to_a_voice_over_a_stop_and_a_reload(
    visit: Callable[..., "Page"], services: Services, gate: Path, example: Path
) -> None:
    page = visit()
    # A name that would lead out of the folder of experiments is no name.
    fill_to_stay(page, training_experiment="../x")
    page.click("#extract-start")
    page.wait_for_selector('text=The experiment cannot be called "../x"')
    assert services.jobs.jobs() == [] and not (services.logs.parent / "x").exists()

    # A finished list is filled in by itself; one button formats it.
    dataset(services.logs / "ada")
    page.wait_for_function("box => document.querySelector(box)?.value.endsWith('ada.list')", arg=box("extract-source"))
    fill_to_stay(page, training_experiment="ada")
    page.click("#extract-start")
    page.wait_for_selector("#extract-state:has-text('6 of 6 lines')")
    page.wait_for_selector("#training-suggestion:has-text('Suggested for')")
    fill_to_stay(page, vits2_epochs="2", gpt_epochs="1", vits2_batch_seconds="3.2", vits2_save_every_epochs="1")
    page.wait_for_selector("#vits2-command:has-text('--epochs=2')")

    # A training is told again after a reload, is not started twice, and stops with a checkpoint.
    gate.touch()
    page.click("#vits2-start")
    wait_for_job(page, "vits2", "running")
    page.wait_for_selector("#vits2-state .job:has-text('10/')")
    page.click("#vits2-start")
    page.wait_for_selector("text=does this already")
    visit(page)
    wait_for_value(page, "vits2-epochs", "2")
    wait_for_value(page, "training-experiment", "ada")
    wait_for_job(page, "vits2", "running")
    page.click("#vits2-stop")
    wait_for_job(page, "vits2", "stopped")
    wait_for_beginning(page, "vits2", "resume")
    gate.unlink()

    # What was chosen wrongly is told before anything starts; then it goes on, and both parts are there.
    count = len(services.jobs.jobs())
    page.click(f'#vits2-beginning label:has-text("{ENGLISH["training.beginning_begin"]}")')
    page.click("#vits2-start")
    page.wait_for_selector("text=holds a training already")
    assert len(services.jobs.jobs()) == count
    page.click(f'#vits2-beginning label:has-text("{ENGLISH["training.beginning_resume"]}")')
    page.click("#vits2-start")
    page.click("#gpt-start")
    wait_for_job(page, "vits2", "done")
    page.wait_for_selector("#vits2-state:has-text('2 epochs, 32 steps')")
    wait_for_job(page, "gpt", "done")
    assert [path.name for path in services.weights.gpt.iterdir()] == ["ada-e1.safetensors"]
    argv = json.loads((services.jobs.jobs()[1].folder / "config.json").read_text(encoding="utf-8"))["argv"]
    assert "--resume" in argv and services.weights.vits2_names()[-1] == "ada_e2_s32.safetensors"

    # The inference tab offers them at once.
    page.get_by_role("tab", name=ENGLISH["tab.inference"], exact=True).click()
    page.click("#model > button")
    page.click(box("gpt-weights"))
    page.click("[role=option]:has-text('ada-e1.safetensors')")
    page.click(box("vits2-weights"))
    page.click("[role=option]:has-text('ada_e2_s32.safetensors')")
    page.set_input_files("#reference-1-audio input[type=file]", str(example))
    page.wait_for_selector("#reference-1-note:has-text('s are used')")
    page.fill("#text textarea", "A voice of my own.")
    page.click("#speak")
    page.wait_for_selector("#status:has-text('Saved as')")
    spoken = list_entries(services.output, 1)[0]
    assert page.wait_for_selector("#player a[download]").get_attribute("href").endswith(spoken.audio.name)
    models = json.dumps(spoken.settings)
    assert "ada-e1.safetensors" in models and "ada_e2_s32.safetensors" in models
    words = page.inner_text("body")
    assert "__i18n__" not in words and "training.about" not in words
