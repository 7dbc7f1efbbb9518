"""The set-up: what is installed when, what a person is told, and that the start scripts pass their flags on.

Nothing is installed here: small stand-ins take the place of Python, pip and the page.
"""

import importlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import setup_environment as setup

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["go-webui.sh", "go-tests.sh", "tools/set_up.sh", "tools/setup_environment.py"]

needs_bash = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("bash"), reason="the shell scripts are for Linux and macOS"
)

# Stands in for .venv/bin/python: runs the set-up with the real Python; writes down everything else.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
    "tools/setup_environment.py"*|"-c "*) exec -a "$0" {python} "$@" ;;
    "-m pip"*) echo "pip $*" >> calls.txt; exit {pip_status} ;;
    *) printf '<%s>' "$@" >> calls.txt; exit {page_status} ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the scripts in a path with spaces, with a small requirement file and no `.venv`."""
    folder = tmp_path / "a folder with spaces"
    (folder / "tools").mkdir(parents=True)
    for script in SCRIPTS:
        shutil.copy(ROOT / script, folder / script)
    (folder / "requirements.txt").write_text("one>=1\n")
    (folder / "requirements-dev.txt").write_text("-r requirements.txt\ntwo>=1\n")
    (folder / "constraints.txt").write_text("one==1.0\n")
    return folder


def fake_venv(project: Path, pip_status: int = 0, page_status: int = 0) -> None:
    python = setup.venv_python(project)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(FAKE_PYTHON.format(python=sys.executable, pip_status=pip_status, page_status=page_status))
    python.chmod(0o755)


def start(
    project: Path, *flags: str, script: str = "go-webui.sh", path: str | None = None
) -> subprocess.CompletedProcess:
    environment = {"PATH": path} if path else None
    command = [shutil.which("bash"), str(project / script), *flags]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)


def calls(project: Path) -> list[str]:
    log = project / "calls.txt"
    return log.read_text().splitlines() if log.exists() else []


@needs_bash
def test_first_start_installs_and_opens_the_page_with_all_flags(project: Path) -> None:
    fake_venv(project)
    result = start(project, "--no-browser", "--port", "9999", "--password", "two words")
    assert result.returncode == 0, result.stderr
    installed, opened = calls(project)
    assert "-r requirements.txt -c constraints.txt" in installed
    assert opened == "<webui.py><--no-browser><--port><9999><--password><two words>"


@needs_bash
def test_second_start_installs_nothing(project: Path) -> None:
    fake_venv(project)
    start(project)
    (project / "calls.txt").unlink()
    assert start(project).returncode == 0
    assert calls(project) == ["<webui.py>"]


@needs_bash
@pytest.mark.parametrize("changed", ["requirements.txt", "constraints.txt"])
def test_a_changed_list_is_installed_again(project: Path, changed: str) -> None:
    fake_venv(project)
    start(project)
    (project / "calls.txt").unlink()
    with (project / changed).open("a") as file:
        file.write("three==3\n")
    start(project)
    assert calls(project)[0].startswith("pip ")


@needs_bash
def test_a_failed_installation_says_so_and_is_taken_up_again(project: Path) -> None:
    fake_venv(project, pip_status=1)
    result = start(project)
    assert result.returncode == 1
    assert "could not be set up" in result.stderr and "connection" in result.stderr
    assert len(calls(project)) == 1, "the page must not open"
    assert not setup.stamp_path(project, "requirements.txt").exists()
    fake_venv(project)
    assert start(project).returncode == 0
    assert calls(project)[-1] == "<webui.py>"


@needs_bash
def test_the_exit_status_of_the_page_is_kept(project: Path) -> None:
    fake_venv(project, page_status=3)
    assert start(project).returncode == 3


@needs_bash
def test_without_python_it_says_how_to_get_one(project: Path, tmp_path: Path) -> None:
    """Old Pythons and shims that only print an error count as none."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "uname", "cat"):
        (programs / name).symlink_to(shutil.which(name))
    for name in ("python3", "python3.12"):
        (programs / name).write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
        (programs / name).chmod(0o755)
    result = start(project, path=str(programs))
    assert result.returncode == 1
    assert "Python 3.11 or newer" in result.stderr and "python.org" in result.stderr
    assert not (project / ".venv").exists()


@needs_bash
def test_the_tests_install_their_own_list_and_report_any_failure(project: Path) -> None:
    fake_venv(project)
    assert start(project, "--speech", "some where", script="go-tests.sh").returncode == 0
    assert "requirements-dev.txt" in calls(project)[0]
    several = "<-n><logical><--maxprocesses><4><--dist><loadfile>"
    assert calls(project)[1].endswith(f"<-m><pytest><-c><pyproject.toml><-q><-rs>{several}<--speech><some where>")
    fake_venv(project, page_status=1)
    assert start(project, script="go-tests.sh").returncode == 1


def test_the_fingerprint_follows_included_files(project: Path) -> None:
    before = setup.fingerprint(project, "requirements-dev.txt")
    (project / "requirements.txt").write_text("one>=2\n")
    assert setup.fingerprint(project, "requirements-dev.txt") != before


def test_an_environment_that_does_not_start_is_not_taken_for_a_good_one(project: Path) -> None:
    python = setup.venv_python(project)
    assert not setup.works(python)
    python.parent.mkdir(parents=True)
    python.write_text("not a program")
    assert not setup.works(python)
    assert setup.works(Path(sys.executable))


@pytest.mark.parametrize(
    ("system", "machine", "python", "bits", "word"),
    [
        ("Linux", "x86_64", (3, 11), 64, ""),
        ("Linux", "aarch64", (3, 14), 64, ""),
        ("Windows", "AMD64", (3, 13), 64, ""),
        ("Darwin", "arm64", (3, 12), 64, ""),
        ("Darwin", "x86_64", (3, 12), 64, "Intel"),
        ("Windows", "x86", (3, 12), 32, "64-bit"),
        ("Linux", "x86_64", (3, 10), 64, "3.11"),
    ],
)
def test_computers_that_cannot_run_it_are_told_why(
    system: str, machine: str, python: tuple[int, int], bits: int, word: str
) -> None:
    problem = setup.unsupported(system, machine, python, bits)
    assert bool(problem) == bool(word) and word in problem


def requirements() -> list[Requirement]:
    lines = [line for path in ROOT.glob("requirements*.txt") for line in path.read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    return [requirement for requirement in found if requirement.name != "setuptools"]  # each Python brings its own


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in pairs}


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_to_a_version_it_allows(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_the_pins_hold_on_every_system() -> None:
    """Packages of one system only would break the others; torch pins those itself."""
    assert not [name for name in pins() if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert version("torch").split("+")[0] == pins()["torch"]


def test_the_windows_script_has_windows_line_ends_in_a_checkout() -> None:
    assert "*.bat text eol=crlf" in (ROOT / ".gitattributes").read_text(encoding="utf-8")
    script = (ROOT / "go-webui.bat").read_text(encoding="utf-8")
    assert "setup_environment.py" in script and "webui.py %*" in script


def test_the_readme_names_only_flags_and_files_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme)
    assert [link for link in links if not (ROOT / link).exists()] == []
    known = "".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("webui.py", "tools/synthesize.py", "tools/setup_environment.py", "tests/conftest.py")
    )
    for name in set(re.findall(r"-m tools\.([a-z_]+[0-9]?)", readme)):
        with pytest.raises(SystemExit):
            importlib.import_module(f"tools.{name}").main(["--help"])
        known += "".join(f'"{flag}"' for flag in re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme)) - {"--help", "--index-url", "--force-reinstall"}
    assert [flag for flag in sorted(flags) if f'"{flag}"' not in known] == []
