"""Options, fixtures and the closing line that every test shares."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Before anything that reads them is imported: tests use neither the network nor telemetry.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

# Several tests may run at once on few cores; one thread each also makes sums come out the same every time.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--speech")
    if folder and not Path(folder).is_dir():
        raise pytest.UsageError(f"--speech {folder}: there is no such folder (looked in {Path.cwd()}).")


@pytest.fixture(scope="session")
def speech_dir(pytestconfig: pytest.Config) -> Path | None:
    """The folder given by `--speech`, or None: then skip with the reason "needs --speech"."""
    folder = pytestconfig.getoption("--speech")
    return Path(folder).resolve() if folder else None


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state, whichever ran before it."""
    torch.manual_seed(0)
    yield


@pytest.fixture
def tone() -> Callable[..., torch.Tensor]:
    """`tone(frequency_hz=220, seconds=1, sample_rate=16000, harmonics=1) -> wav [S]`, peak 0.5."""

    def make(
        frequency_hz: float = 220.0, seconds: float = 1.0, sample_rate: int = 16000, harmonics: int = 1
    ) -> torch.Tensor:
        times = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
        wav = sum(torch.sin(2 * math.pi * frequency_hz * n * times) / n for n in range(1, harmonics + 1))
        return (0.5 * wav / wav.abs().max()).float()

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    must_run = item.config.getoption("--require-browser") and item.get_closest_marker("browser")
    if must_run and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but --require-browser is given: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """A whole file of browser tests can be skipped before its tests exist; this counts as well."""
    report = yield
    if collector.config.getoption("--require-browser") and report.skipped and isinstance(collector, pytest.File):
        if "mark.browser" in collector.path.read_text(encoding="utf-8"):
            reason = _reason(report)
            report.outcome = "failed"
            report.longrepr = f"{collector.nodeid} was skipped, but --require-browser is given: {reason}"
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """The very last line: how many tests were skipped, and why."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or config.option.collectonly:
        return
    reasons = Counter(_reason(report) for report in terminal.stats.get("skipped", []))
    detail = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    terminal.write_line(f"Skipped tests: {reasons.total()}" + (f" ({detail})" if detail else ""))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").strip()
