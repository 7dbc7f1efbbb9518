"""A page with a tiny model of random weights, served once for all tests of this room, and a browser with visitors."""

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from modules import paths
from modules.audio.io import write
from modules.data.manifest import Utterance, write_list
from tests.tiny import build_tiny_model_folder
from tools.jobs import JobStore
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.messages import Messages
from tools.webui.services import Engine, Services
from tools.webui.weights import WeightFolders

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 180_000
"""Only a limit: on a busy machine with one core to spare, a step that takes a second may take a minute."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models in which nano is tiny and base is missing."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model_folder(folder / "nano")
    return folder


@pytest.fixture(scope="session")
def services_in(models: Path) -> Callable[..., Services]:
    """`services_in(folder, jobs=None)`: services over the tiny model, with folders of their own."""

    def make(folder: Path, jobs: JobStore | None = None) -> Services:
        weights = WeightFolders(models, folder / "GPT_weights", folder / "SoVITS_weights", paths.PRESETS)
        for name in (weights.gpt, weights.vits2):
            name.mkdir()
        return Services(
            messages=Messages(),
            weights=weights,
            engine=Engine(weights, "cpu"),
            output=folder / "output",
            log_file=folder / "webui.log",
            logs=folder / "logs",
            jobs=jobs or JobStore(folder / "logs" / "jobs"),
        )

    return make


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[str]]:
    """`with served(services, tabs=()) as address`: the page while it is served. Its jobs end with it."""

    @contextmanager
    def serve(services: Services, tabs: tuple = ()) -> Iterator[str]:
        from tools.webui.app import build_app, launch

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        app = build_app(services, tabs)
        try:
            yield launch(app, services, port=port)
        finally:
            app.close()
            services.chains.close()
            services.jobs.close()
            for job in services.jobs.jobs():
                job.stop()

    return serve


@pytest.fixture(scope="session")
def services(services_in: Callable[..., Services], tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The services of the page that all tests share."""
    return services_in(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="session")
def address(services: Services, served: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """The shared page's address while it is served."""
    with served(services) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A headless Chromium, the system's or Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        system = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
        if system is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("needs Chromium")
        started = driver.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visitor(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """`visitor(locale="en-US", width=1440, scheme="light")`: a fresh visitor's empty page. Scripts must not fail."""
    contexts, failures = [], []

    def come(locale: str = "en-US", width: int = 1440, scheme: str = "light") -> "Page":
        context = browser.new_context(locale=locale, viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        return page

    yield come
    for context in contexts:
        context.close()
    assert not [failure for failure in failures if "decode" not in failure], failures


@pytest.fixture(scope="session")
def open_page() -> Callable[["Page", str], None]:
    """`open_page(page, address)`: load the page, and wait until its start-up events are over."""

    def load(page: "Page", address: str) -> None:
        page.goto(address)
        page.wait_for_selector("#device:has-text('CPU')")

    return load


@pytest.fixture(scope="session")
def example() -> Path:
    """A bundled reference recording."""
    return paths.EXAMPLES / "ada.wav"


@pytest.fixture
def folders(tmp_path: Path) -> DatasetFolders:
    return DatasetFolders("mine", tmp_path / "output", tmp_path / "logs")


@pytest.fixture
def recording(folders: DatasetFolders) -> Path:
    """Two tones with silence between them, kept as an upload."""
    rate = 32000
    tone = 0.4 * torch.sin(torch.arange(2 * rate) * 0.08)
    path = folders.recordings / "two, tones.wav"
    write(path, torch.cat([tone, torch.zeros(rate), tone]), rate)
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of 12 clips that share one short sound, the last two without text."""
    sound = tmp_path / "clip.wav"
    write(sound, 0.1 * torch.sin(torch.arange(8000) * 0.1), 16000)
    path = tmp_path / "mine.list"
    texts = [f"text {number}" for number in range(10)] + ["", ""]
    write_list(path, [Utterance(str(sound), "ada", "EN", text) for text in texts])
    return path
