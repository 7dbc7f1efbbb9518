"""A page with a tiny model of random weights, served once for all tests of this room, and a browser."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modules import paths
from tests.tiny import build_tiny_model_folder
from tools.webui.messages import Messages
from tools.webui.services import Engine, Services
from tools.webui.weights import WeightFolders

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models in which nano is tiny and base is missing."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model_folder(folder / "nano")
    return folder


@pytest.fixture(scope="session")
def services(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Services over the tiny model, with folders of their own."""
    folder = tmp_path_factory.mktemp("page")
    weights = WeightFolders(models, folder / "GPT_weights", folder / "SoVITS_weights", paths.PRESETS)
    for name in (weights.gpt, weights.vits2):
        name.mkdir()
    return Services(
        messages=Messages(),
        weights=weights,
        engine=Engine(weights, "cpu"),
        output=folder / "output",
        log_file=folder / "webui.log",
    )


@pytest.fixture(scope="session")
def address(services: Services) -> Iterator[str]:
    """The page's address while it is served."""
    from tools.webui.app import build_app, launch

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = build_app(services)
    yield launch(app, services, port=port, block=False)
    app.close()


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


@pytest.fixture(scope="session")
def example() -> Path:
    """A bundled reference recording."""
    return paths.EXAMPLES / "ada.wav"
