"""Walks through the dataset tab in a real Chromium: from an upload to a report, over reloads, failures and stops."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from modules.audio.io import write
from modules.data.manifest import Utterance, read_manifest, write_manifest
from tests.tiny import synthetic_speech
from tools.jobs import JobStore
from tools.webui.services import Services

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

TYPED, RENAMED = "What was really said.", "bruno"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While this file exists, jobs wait in the middle of their work."""
    return tmp_path / "gate"


@pytest.fixture
def services(services_in: Callable[..., Services], gate: Path, tmp_path: Path) -> Services:
    """Services with empty folders of their own, so that the page begins without jobs."""
    command = (sys.executable, "-m", "tests.webui.held_tool", str(gate))
    return services_in(tmp_path, JobStore(tmp_path / "logs" / "jobs", command))


@pytest.fixture
def address(services: Services, served: Callable) -> Iterator[str]:
    """The page with the dataset tab, while it is served."""
    from tools.webui.dataset_tab import build_dataset_tab

    with served(services, (("tab.dataset", build_dataset_tab),)) as address:
        yield address


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Two recordings of three voices each, with silence between them and names that need care."""
    paths = [tmp_path / "my recordings" / name for name in ("it's one.wav", "两, 二.wav")]
    for seed, path in enumerate(paths):
        voices = [torch.from_numpy(synthetic_speech(5, 16000, 120 + 30 * n, 3 * seed + n)) for n in range(3)]
        silence = torch.zeros(16000)
        write(path, torch.cat([voices[0], silence, voices[1], silence, voices[2]]), 16000)
    return paths


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    """A Whisper of random weights that writes letters only, so that its words are taken for some."""
    pytest.importorskip("ctranslate2", reason="needs ctranslate2")
    from tests.corpus.tiny_whisper import build_tiny_whisper

    folder = build_tiny_whisper(tmp_path / "whisper")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    only_letters = {"type": "Replace", "pattern": {"Regex": "[^A-Za-z]"}, "content": "e"}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [only_letters, tokenizer["decoder"]]}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture
def visit(visitor: Callable[..., "Page"], open_page: Callable[..., None], address: str) -> Callable[..., "Page"]:
    """`visit(page=None)`: the dataset tab, for a new visitor or in a page that is loaded again."""

    def come(page: "Page | None" = None) -> "Page":
        page = page or visitor()
        open_page(page, address)
        go_to(page, "tab.dataset")
        return page

    return come


def go_to(page: "Page", key: str) -> None:
    """Open a tab by the key of its name."""
    from tools.webui.messages import Messages

    page.get_by_role("tab", name=Messages().tables["en"][key], exact=True).click()


def box(name: str) -> str:
    """The selector of a text box, however many lines it has."""
    return f":is(#{name} textarea, #{name} input:not([type=checkbox], [type=range]))"


def wait_for_value(page: "Page", name: str, ending: str) -> str:
    page.wait_for_function(
        "([box, ending]) => document.querySelector(box)?.value.endsWith(ending)", arg=[box(name), ending]
    )
    return page.input_value(box(name))


def wait_for_job(page: "Page", state: str, words: str = "") -> None:
    page.wait_for_selector(f'#jobs-overview .job.{state}:has-text("{words}")')


def fill_to_stay(page: "Page", name: str, value: str) -> None:
    """Fill a box of a page that may still be drawn or restored, which puts the old value back."""
    for _ in range(20):
        page.fill(box(name), value)
        page.press(box(name), "Tab")
        page.wait_for_timeout(1500)
        if page.input_value(box(name)) == value:
            return
    pytest.fail(f"{name} does not take {value}")


def choose_model(page: "Page", model: Path) -> None:
    """Let the transcription use a model whose words no filter would let pass."""
    go_to(page, "transcribe.tab")
    page.fill(box("transcribe-model"), str(model))
    page.press(box("transcribe-model"), "Tab")
    page.click("#transcribe-options > button")
    for name, value in (("min-confidence", "0"), ("max-seconds-per-letter", "60")):
        fill_to_stay(page, f"transcribe-{name}", value)
    page.uncheck("#transcribe-find-speech input")


def wait_until_kept(page: "Page", edits: Path, *words: str) -> None:
    """Wait until the journal of a list under edit holds all the words."""
    for _ in range(600):
        if any(all(word in path.read_text(encoding="utf-8") for word in words) for path in edits.glob("*/edits.jsonl")):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"{words} were not kept")


def test_from_an_upload_to_a_list_over_a_reload(
    visit: Callable[..., "Page"], services: Services, recordings: list[Path], whisper: Path, gate: Path
) -> None:
    page = visit()
    # A path that is not there never becomes a job.
    fill_to_stay(page, "chain-source", "/no/such/folder")
    page.click("#chain-start")
    page.wait_for_selector("text=There is no file or folder /no/such/folder")
    assert services.jobs.jobs() == []

    # The recordings are uploaded, and looked at before anything is written.
    go_to(page, "slice.tab")
    page.set_input_files("#slice-upload input[type=file]", [str(path) for path in recordings])
    folder = wait_for_value(page, "slice-source", "recordings")
    page.click("#slice-look")
    page.wait_for_selector("#slice-preview svg rect.cut")
    assert page.locator("#slice-preview svg rect.cut").count() == 3
    assert not (services.output / "dataset" / "clips").exists()

    # All steps at once; the page is loaded again in the middle of the first one.
    choose_model(page, whisper)
    go_to(page, "chain.tab")
    page.fill(box("chain-source"), f'  "{folder}/" ')
    gate.touch()
    page.click("#chain-start")
    wait_for_job(page, "running", "1/2")
    visit(page)
    wait_for_job(page, "running", "1/2")
    page.wait_for_selector("#jobs-details:has-text('step 1 of 2')")
    gate.unlink()
    wait_for_job(page, "done", "Transcribe")
    go_to(page, "edit.tab")
    wait_for_value(page, "edit-list", "manifest.jsonl")
    assert len(read_manifest(services.logs / "dataset" / "manifest.jsonl")) == 6


def test_from_a_list_to_a_report_over_a_reload(
    visit: Callable[..., "Page"], services: Services, recordings: list[Path]
) -> None:
    lists = services.logs / "dataset"
    lists.mkdir(parents=True)
    write_manifest(lists / "manifest.jsonl", [Utterance(str(path), "ada", "en", path.stem) for path in recordings])
    page = visit()

    # What is typed is kept at once, although the page is turned right after it.
    go_to(page, "edit.tab")
    wait_for_value(page, "edit-list", "manifest.jsonl")
    page.click("#edit-open")
    page.wait_for_selector(box("clip-1-text"))
    page.fill(box("clip-1-text"), TYPED)
    page.click("#edit-next-top")
    page.fill(box("clip-2-speaker"), RENAMED)
    page.press(box("clip-2-speaker"), "Tab")
    wait_until_kept(page, services.logs / "edits", TYPED, RENAMED)

    # After a reload the list is there again, with the edits; it is saved, and the source stays as it was.
    visit(page)
    go_to(page, "edit.tab")
    wait_for_value(page, "clip-1-text", TYPED)
    wait_for_value(page, "clip-2-speaker", RENAMED)
    page.click("#edit-export")
    page.wait_for_selector("text=The list was written to")
    assert f"|{RENAMED}|" in (lists / "manifest.edited.list").read_text(encoding="utf-8")
    assert TYPED not in (lists / "manifest.jsonl").read_text(encoding="utf-8")

    # The report of the saved list.
    go_to(page, "report.tab")
    page.fill(box("report-list"), str(lists / "manifest.edited.list"))
    page.click("#report-start")
    page.wait_for_selector("#report-view svg")
    assert RENAMED in page.inner_text("#report-view")
    wait_for_job(page, "done", "Report")
    words = page.inner_text("body")
    assert "__i18n__" not in words and "report.about" not in words


def test_jobs_are_refused_twice_and_told_as_failed_and_stopped(
    visit: Callable[..., "Page"], services: Services, recordings: list[Path], gate: Path
) -> None:
    page = visit()
    gate.touch()
    go_to(page, "slice.tab")
    fill_to_stay(page, "slice-source", str(recordings[0].parent))
    page.click("#slice-start")
    wait_for_job(page, "running", "1/2")
    page.click("#slice-start")
    page.wait_for_selector(f"text=does this already (job {services.jobs.jobs()[0].id})")
    assert len(services.jobs.jobs()) == 1

    os.kill(services.jobs.jobs()[0].config().pid, signal.SIGKILL)
    wait_for_job(page, "failed", "was killed")
    assert "finished" not in page.inner_text("#jobs-overview")
    page.wait_for_selector("#jobs-details:has-text('memory')")

    page.click("#slice-start")
    wait_for_job(page, "running", "1/2")
    page.click("#jobs-stop")
    wait_for_job(page, "stopped")
    visit(page)
    page.click("#jobs > button")  # closed, because nothing runs
    wait_for_job(page, "stopped")
    wait_for_job(page, "failed", "was killed")
