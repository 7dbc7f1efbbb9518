"""A job's processes are recognised by more than their number, and all of them are ended."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modules.processes import MARK, Started, UsageMeter, create_time, end_processes, find_leader, find_processes

SLEEP = [sys.executable, "-S", "-c", "import time; print('awake', flush=True); time.sleep(600)"]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process as a job's is started. It runs: one that only just takes the place of its parent's copy has no
    environment for a moment."""
    child = subprocess.Popen(
        SLEEP, env={**os.environ, MARK: str(tmp_path)}, start_new_session=os.name == "posix", stdout=subprocess.PIPE
    )  # fmt: skip
    with child:
        assert child.stdout.readline().strip() == b"awake"
        yield child
        child.kill()


def test_a_leader_is_known_by_its_birth_and_not_by_its_number(child: subprocess.Popen, tmp_path: Path) -> None:
    started = Started(tmp_path, child.pid, create_time(child.pid))
    leader = find_leader(started)
    assert leader is not None and leader.pid == child.pid
    assert find_leader(replace(started, created=create_time(child.pid) - 900)) is None
    assert find_leader(Started(tmp_path, None, None)) is None


def test_a_process_whose_number_nobody_noted_is_found_by_its_mark(child: subprocess.Popen, tmp_path: Path) -> None:
    assert [process.pid for process in find_processes(Started(tmp_path, None, None))] == [child.pid]
    assert find_processes(Started(tmp_path / "other", None, None)) == []


def test_all_are_ended_and_a_second_time_there_is_nothing_to_do(child: subprocess.Popen, tmp_path: Path) -> None:
    started = Started(tmp_path, child.pid, create_time(child.pid))
    meter = UsageMeter()
    usage = meter.read(started)
    assert usage is not None and usage.processes == 1 and usage.memory_bytes > 0
    assert end_processes(started, 0.0)
    assert child.wait(10) != 0
    assert find_processes(started) == [] and meter.read(started) is None
    assert end_processes(started, 0.0)
