"""The doctor as a command: its status, its words and its JSON, on a healthy and on a broken installation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.paths import PROJECT_ROOT
from tests.tiny import build_tiny_model_folder
from tools import doctor

PATCHED = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from tools.doctor import main
sys.exit(main(["--json", "--models", {models!r}, "--output", {models!r}, "--logs", {models!r}]))
"""


def flags(models: Path, *others: str) -> list[str]:
    return ["--models", str(models), "--output", str(models), "--logs", str(models), "--device", "cpu", *others]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model_folder(folder / "nano")
    # Nobody listens there, and nobody is asked.
    (folder / "hub.json").write_text('{"endpoint": "http://127.0.0.1:9"}', encoding="utf-8")
    return folder


def test_a_healthy_installation_speaks_and_passes(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = doctor.main(flags(models))
    told = capsys.readouterr().out
    assert status == 0, told
    assert "Preset nano speaks: loaded in" in told and "Everything that is needed works" in told
    assert "warning Downloads: http://127.0.0.1:9 cannot be reached" in told


def test_a_damaged_weight_file_is_a_problem(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nano"
    folder.mkdir()
    for path in (models / "nano").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "gpt.safetensors").write_bytes((folder / "gpt.safetensors").read_bytes()[:-9])
    (tmp_path / "hub.json").write_text('{"endpoint": "http://127.0.0.1:9"}', encoding="utf-8")
    assert doctor.main(flags(tmp_path, "--json")) == 1
    report = json.loads(capsys.readouterr().out)
    bad = {row["name"]: row for row in report["findings"] if row["state"] == "problem"}
    assert report["state"] == "problem" and {"File gpt.safetensors", "Preset nano speaks"} <= set(bad)
    assert all(row["remedy"] for row in bad.values())


def test_a_preset_that_cannot_speak_is_not_told_to_be_restored(models: Path, tmp_path: Path) -> None:
    """Only nano comes from the repository; a device that is not there is no matter of files at all."""
    (tmp_path / "base").mkdir()
    assert doctor._speak(tmp_path / "base", "cpu", "Train it.").remedy == "Train it."
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    finding = doctor._speak(models / "nano", absent, doctor.RESTORE)
    assert finding.state == "problem" and finding.remedy == doctor.OTHER_DEVICE


def test_a_console_that_does_not_know_a_letter_is_no_problem(models: Path) -> None:
    code = "import sys; from tools.doctor import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(models, "--preset", "\u58f0")],
        cwd=PROJECT_ROOT, capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert b"There is no preset \\u58f0" in done.stdout and b"Traceback" not in done.stderr


def test_an_unknown_preset_is_told(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(flags(models, "--preset", "nobody")) == 1
    assert "There is no preset nobody" in capsys.readouterr().out


def test_missing_packages_are_findings(models: Path) -> None:
    """Even those that nothing works without: the doctor itself never falls over them."""
    script = PATCHED.format(missing=["torch", "numpy", "soundfile", "imageio_ffmpeg", "httpx"], models=str(models))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 1, done.stderr
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)["findings"]}
    assert states["PyTorch"] == states["Sound"] == states["ffmpeg"] == states["Preset nano speaks"] == "problem"
    assert states["Python"] == "ok"
