"""A walk through the tab Models in a real Chromium, with the real tool and a small hub on this machine."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modules.hub.source import HubSource, load_source, save_source
from tests.hub.hub_server import Hub, running
from tests.webui.models_helpers import FILES, SPEECH, TEXT, entries, write_catalogue
from tools.jobs import JobStore
from tools.webui.messages import Messages
from tools.webui.services import Services
from tools.webui.weights import WeightFolders

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ENGLISH = Messages().tables["en"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with running(FILES) as hub:
        yield hub


@pytest.fixture
def services(services_in: Callable[..., Services], hub: Hub, tmp_path: Path) -> Services:
    """Services with the small hub's models, which are downloaded into a folder of their own."""
    catalogue = tmp_path / "catalogue.json"
    entries_there = write_catalogue(catalogue, entries())
    command = (sys.executable, "-m", "tests.webui.download_tool", str(tmp_path / "gate"), str(catalogue))
    own = services_in(tmp_path, JobStore(tmp_path / "logs" / "jobs", command))
    weights = WeightFolders(tmp_path / "models", own.weights.gpt, own.weights.vits2, own.weights.presets)
    save_source(weights.models, HubSource(hub.endpoint))
    return replace(own, weights=weights, entries=entries_there)


@pytest.fixture
def address(services: Services, served: Callable) -> Iterator[str]:
    """The page with the tabs Train and Models, while it is served."""
    from tools.webui.models_tab import build_models_tab
    from tools.webui.training_tab import build_training_tab

    with served(services, (("tab.training", build_training_tab), ("tab.models", build_models_tab))) as address:
        yield address


@pytest.fixture
def visit(visitor: Callable[..., "Page"], open_page: Callable[..., None], address: str) -> Callable[..., "Page"]:
    """`visit(page=None, **wishes)`: the tab Models, for a new visitor or in a page that is loaded again."""

    def come(page: "Page | None" = None, **wishes: object) -> "Page":
        page = page or visitor(**wishes)
        open_page(page, address)
        page.get_by_role("tab").nth(1).click()
        page.wait_for_selector("#models-overview .model")
        return page

    return come


def model(name: str, state: str) -> str:
    return f'#models-overview .model[data-model="{name}"][data-state="{state}"]'


def toast(page: "Page", words: str) -> None:
    page.wait_for_selector(f".toast-wrap:has-text('{words}')")


def test_a_preset_is_downloaded_over_a_refusal_a_stop_a_reload_and_damage(
    visit: Callable[..., "Page"], services: Services, hub: Hub, tmp_path: Path
) -> None:
    page, gate = visit(), tmp_path / "gate"
    page.wait_for_selector(model("bge-m3", "missing"))

    # The licence is asked for, and nothing is fetched before.
    page.wait_for_selector("#models-download:has-text('31 kB')")
    page.click("#models-download")
    toast(page, "may not be used commercially")
    assert services.jobs.jobs() == [] and hub.asked == []

    # A download is seen after a reload and in a second tab, and is stopped with what came.
    gate.touch()
    page.click("#models-accept input")
    page.click("#models-download")
    page.wait_for_selector("#models-job .job.running")
    visit(page)
    page.wait_for_selector("#models-job .job.running")
    other = visit(locale="zh-CN", width=390, scheme="dark")
    other.wait_for_selector("#models-job .job.running")
    assert other.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "models." not in other.inner_text("body") and "__i18n__" not in other.inner_text("body")
    page.click("#models-stop")
    page.wait_for_selector("#models-job .job.stopped")
    gate.unlink()

    # A file that came damaged is refused, told with a remedy in the reader's language, and can be fetched again.
    right, hub.files["speech.onnx"] = hub.files["speech.onnx"], SPEECH["speech.onnx"][:-1] + b"?"
    page.wait_for_selector("#models-download:not([disabled]):has-text('kB')")
    page.click("#models-accept input")
    page.click("#models-download")
    page.wait_for_selector("#models-job .job.failed:has-text('choose another source')")
    other.wait_for_selector("#models-job .job.failed:has-text('失败')")
    page.wait_for_selector(model("bge-m3", "present"))
    hub.files["speech.onnx"] = right
    page.wait_for_selector("#models-download:not([disabled])")
    # What was accepted stays accepted, until another selection is made.
    page.wait_for_selector("#models-accept input:checked")
    page.click("#models-download")
    page.wait_for_selector(model("mhubert-147", "present"))
    page.wait_for_selector(f"#models-download[disabled]:has-text('{ENGLISH['models.nothing_missing']}')")
    page.wait_for_selector("#models-job .job.done")
    assert (services.weights.models / "mhubert-147" / "speech.onnx").read_bytes() == SPEECH["speech.onnx"]

    # What is there can be verified; what was damaged since is told.
    page.wait_for_selector("#models-verify:not([disabled])")
    (services.weights.models / "bge-m3" / "text.onnx").write_bytes(TEXT["text.onnx"][:-1] + b"?")
    page.click("#models-verify")
    page.wait_for_selector("#models-job .job.failed:has-text('text.onnx')")
    page.wait_for_selector(model("bge-m3", "damaged"))


def test_another_selection_has_to_be_accepted_anew(visit: Callable[..., "Page"], services: Services) -> None:
    page = visit()
    page.click("#models-accept input")
    page.wait_for_selector("#models-accept input:checked")
    for preset in ("base-s3", "base"):
        page.click("#models-preset input")
        page.click(f"[role=option][aria-label='{preset}']")
        page.wait_for_function(
            "preset => document.querySelector('#models-preset input').value === preset", arg=preset
        )  # fmt: skip
    page.wait_for_selector("#models-accept input:not(:checked)")
    page.click("#models-download")
    toast(page, "may not be used commercially")
    assert services.jobs.jobs() == []


def test_the_source_is_chosen_tried_and_kept_and_files_are_named_for_the_hand(
    visit: Callable[..., "Page"], services: Services, hub: Hub
) -> None:
    page = visit()
    page.click("#models-source-panel > button")
    page.wait_for_function(
        "value => document.querySelector('#models-endpoint :is(input, textarea)')?.value === value", arg=hub.endpoint
    )
    page.click("#models-check-connection")
    page.wait_for_selector(f"#models-connection:has-text('{hub.endpoint} can be reached')")
    page.click("#models-hand-panel > button")
    page.wait_for_selector(f"#models-hand:has-text('{services.weights.models / 'bge-m3'}')")
    page.click("#models-source label:has-text('HF-Mirror')")
    toast(page, "downloaded from hf-mirror.com")
    assert load_source(services.weights.models).name == "hf-mirror.com"
    page.wait_for_function(
        "() => document.querySelector('#models-links textarea').value.startsWith('https://hf-mirror.com/people')"
    )
    visit(page)
    page.click("#models-source-panel > button")
    page.wait_for_selector("#models-source label.selected:has-text('HF-Mirror')")


def test_training_points_to_what_is_missing(visit: Callable[..., "Page"], services: Services) -> None:
    page = visit()
    page.get_by_role("tab").nth(0).click()
    page.click("#training-preset input")
    page.click("[role=option]:has-text('base (lacks')")
    page.wait_for_selector("#training-preset-remark:has-text('many hours of speech and a GPU')")
    page.wait_for_selector("#extract-codes")
    (services.logs / "ada").mkdir(parents=True)
    listed = services.logs / "ada.list"
    listed.write_text("", encoding="utf-8")
    page.fill("#extract-source textarea", str(listed))
    page.press("#extract-source textarea", "Tab")
    page.click("#extract-start")
    toast(page, "Download them in the tab Models")
    assert services.jobs.jobs() == []
