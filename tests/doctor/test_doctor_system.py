"""Checks of the machine on machines that are broken in every way: each tells what is wrong and what to do."""

import importlib.metadata
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.doctor import devices, sound, system
from modules.doctor.findings import Finding, Look, cause_of, examine, worst
from modules.doctor.system import GIB, check_folder, check_memory, check_packages, check_port, check_python, size_text
from modules.errors import UserError


def test_a_check_that_crashes_is_a_finding_and_stops_nothing() -> None:
    def odd() -> Finding:
        raise ZeroDivisionError

    looks = [Look("odd", odd, "Do this."), Look("good", lambda: Finding("good", "ok", "fine"))]
    begun: list[str] = []
    first, second = examine(looks, begun.append)
    assert (first.state, first.remedy) == ("problem", "Do this.") and "ZeroDivisionError" in first.told
    assert second.state == "ok" and begun == ["odd", "good"]
    assert worst([second]) == "ok" and worst([second, first]) == "problem" and worst([]) == "ok"
    assert cause_of(UserError("x", "Told as it is.")) == "Told as it is." and cause_of(KeyError("a")) == "KeyError: 'a'"


def test_half_a_check_is_a_problem_too() -> None:
    def half() -> "list[Finding]":
        yield Finding("half", "ok", "so far")
        raise OSError("gone")

    assert [finding.state for finding in examine([Look("half", half)])] == ["ok", "problem"]


def test_python() -> None:
    assert check_python().state == "ok"
    assert check_python((3, 10, 1)).state == "problem" and check_python(bits=32).state == "problem"


@pytest.fixture
def wanted(tmp_path: Path) -> tuple[Path, Path]:
    requirements, constraints = tmp_path / "requirements.txt", tmp_path / "constraints.txt"
    requirements.write_text(
        "# a comment\ntorch>=2,<3\nnumpy>=2,<3\nodd; python_version < '3'\n-r other.txt\n", encoding="utf-8"
    )
    constraints.write_text("torch==2.11.0\nnumpy==2.1.0\nold==1 ; python_version < '3'\n", encoding="utf-8")
    return requirements, constraints


def test_packages_are_measured_by_both_lists(wanted: tuple[Path, Path]) -> None:
    def states(**versions: str) -> list[tuple[str, str]]:
        def version_of(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        return [(finding.state, finding.told) for finding in check_packages(*wanted, version_of)]

    assert [state for state, _ in states(torch="2.11.0+cu130", numpy="2.1.0")] == ["ok"]
    missing, *others = states(torch="2.10.0")
    assert missing == ("problem", "Missing: numpy.") and [state for state, _ in others] == ["warning"]
    assert "torch 2.10.0 (tested: 2.11.0)" in others[0][1]
    assert states(torch="3.0", numpy="2.1.0")[0] == ("problem", "Of a version that does not fit: torch 3.0.")
    assert states(torch="odd", numpy="2.1.0")[0][0] == "problem"


def test_onnxruntime_for_a_gpu_will_do_too(tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("onnxruntime>=1.20,<2\n", encoding="utf-8")
    (tmp_path / "pins.txt").write_text("onnxruntime==1.31.1\n", encoding="utf-8")

    def states(version: str) -> set[str]:
        def version_of(name: str) -> str:
            if name != "onnxruntime-gpu":
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        return {found.state for found in check_packages(tmp_path / "wanted.txt", tmp_path / "pins.txt", version_of)}

    assert states("1.31.1") == {"ok"} and states("1.30.0") == {"warning"} and "problem" in states("1.2")


def test_memory_and_sizes() -> None:
    assert [check_memory(free, 16 * GIB).state for free in (GIB // 2, 2 * GIB, 8 * GIB)] == ["problem", "warning", "ok"]
    assert check_memory().state in ("ok", "warning", "problem")
    assert [size_text(count) for count in (2.3e9, 378e6, 5e3, 250e9)] == ["2.3 GB", "378 MB", "5 kB", "250 GB"]


def test_folders_are_tried_and_left_as_they_were(tmp_path: Path) -> None:
    (found,) = check_folder("x", tmp_path)
    assert found.state in ("ok", "warning") and list(tmp_path.iterdir()) == []
    (found,) = check_folder("x", tmp_path / "to" / "be" / "made")
    assert found.state != "problem" and list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (found,) = check_folder("x", tmp_path / "file" / "inside")
    assert found.state == "problem" and "not a folder" in found.told


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(system.tempfile, "TemporaryFile", refuse)
    (found,) = check_folder("x", tmp_path)
    assert found.state == "problem" and "Permission denied" in found.told and "right to write" in found.remedy


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((GIB // 4, "problem"), (2 * GIB, "warning"), (50 * GIB, "ok")):
        monkeypatch.setattr(system.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert [finding.state for finding in check_folder("x", tmp_path)] == [state]


def test_a_busy_port_is_a_warning() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert check_port("127.0.0.1", port).state == "warning"
    assert check_port("127.0.0.1", port).state == "ok"


def torch_of(built: str | None, available: bool, count: int = 0) -> SimpleNamespace:
    import torch

    cuda = SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: count,
        get_device_properties=lambda index: SimpleNamespace(name="Card"),
        mem_get_info=lambda index: (6 * GIB, 8 * GIB),
    )
    values = {"__version__": "2.11.0", "version": SimpleNamespace(cuda=built), "cuda": cuda, "arange": torch.arange}
    return SimpleNamespace(backends=torch.backends, get_num_threads=lambda: 4, allclose=torch.allclose, **values)


def test_torch_is_measured_by_the_driver() -> None:
    def state(built: str | None, driver: tuple[int, int] | None, available: bool = False) -> tuple[str, str]:
        (found,) = devices.check_torch(torch_of(built, available), driver, ask_driver=False)
        return found.state, found.told

    assert state("13.0", None)[0] == "ok" and state(None, None)[0] == "ok"
    assert state("13.0", (13, 1), True)[0] == "ok"
    assert "too old" in state("13.0", (12, 2))[1] and "cannot be started" in state("12.8", (13, 0))[1]
    assert state(None, (13, 0)) == ("warning", state(None, (13, 0))[1]) and "not used" in state(None, (13, 0))[1]
    assert devices.driver_cuda() is None or devices.driver_cuda() > (8, 0)


def test_a_card_that_does_not_compute_is_a_problem() -> None:
    import torch

    *found, cpu = devices.check_devices(torch_of("13.0", True, 1))
    assert cpu.state == "ok" and (torch.cuda.is_available() or found[0].state == "problem")
    assert devices.check_number_formats().state == "ok"


def test_sound_goes_through_every_format() -> None:
    found = list(sound.check_sound())
    assert [(finding.name, finding.state) for finding in found] == [
        ("Sound wav", "ok"), ("Sound flac", "ok"), ("Loudness", "ok"),
    ]  # fmt: skip
    assert sound.check_ffmpeg().state == "ok"


def test_a_codec_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.audio import channels

    monkeypatch.setattr(channels, "write_channels", lambda *args: os.stat("/no/such/file"))
    assert [finding.state for finding in sound.check_sound()] == ["problem", "problem", "ok"]
