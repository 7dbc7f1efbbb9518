"""The options of the tests. A plugin of its own (`addopts` in pyproject.toml), because pytest must know them before it
looks for a conftest: it would take the folder after `--speech` for one of tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--speech", metavar="DIR", help="folder of real recordings, for the tests that need some")
    parser.addoption("--require-browser", action="store_true", help="a browser test that is skipped counts as failed")
