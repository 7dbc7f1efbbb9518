"""Recognises, measures and ends the processes of a job that may have been started by another process, long ago.

The system gives process numbers out again, and who loses its parent is nobody's child; so a job's processes are
told by number and time of birth, by the session (POSIX) and by a mark in their environment.
"""

import functools
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

POSIX = os.name == "posix"
# Inherited by every process of a job, however far it goes from its parent; nothing reads it but `find_processes`.
MARK = "GPT_SOVITS2_JOB"
POLL_SECONDS = 0.05
LEFTOVER_SECONDS = 2.0  # what a job leaves behind may go by itself for so long
CLOCK_SECONDS = 1.0  # create times of one process differ by less, of two with the same pid by more

ENDED_EXITS = (-signal.SIGTERM, -getattr(signal, "SIGKILL", signal.SIGTERM), int(signal.SIGTERM))
"""Exit codes of processes that `end_processes` made end; the last is that of Windows."""


@dataclass(frozen=True)
class Started:
    """By what the processes of a job are known: its folder (the value of `MARK`, and part of its command line),
    and number and time of birth (Unix seconds) of the first process; None before it was started or noted down."""

    folder: Path
    pid: int | None
    created: float | None


@dataclass(frozen=True)
class JobUsage:
    """What all processes of a job use now. CPU: 100 = one core; GPU: None where it cannot be told."""

    processes: int
    cpu_percent: float
    memory_bytes: int
    gpu_percent: float | None
    gpu_memory_bytes: int | None


class UsageMeter:
    """Measures one job again and again. May be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, psutil.Process] = {}  # the share of a CPU is told since the last question

    def read(self, started: Started) -> JobUsage | None:
        """CPU, memory and GPU of the processes; None unless the job runs. The first answer tells 0 % CPU."""
        leader = find_leader(started)
        if leader is None:
            return None
        cpu, memory, pids = 0.0, 0, []
        with self._lock:
            for process in _family(leader):
                process = self._seen.setdefault(process.pid, process)
                try:
                    cpu += process.cpu_percent(None)
                    memory += process.memory_info().rss
                    pids.append(process.pid)
                except psutil.Error:
                    continue  # it ended while we looked
            self._seen = {pid: self._seen[pid] for pid in pids}
        return JobUsage(len(pids), cpu, memory, *_gpu_usage(set(pids)))


def create_time(pid: int) -> float:
    """When a process was born, in Unix seconds; now, if it is gone already."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()  # it ended at once, and this system forgets at once


def find_leader(started: Started) -> psutil.Process | None:
    """The process that was started for a job, while it lives."""
    process, ours = _holder(started)
    return process if process is not None and ours and not _is_zombie(process) else None


def find_processes(started: Started) -> list[psutil.Process]:
    """All live processes of a job: its family, its session, and those that carry its mark.

    Whose parent has died is nobody's child any more, but stays in the session (POSIX) and keeps its environment.
    """
    holder, ours = _holder(started)
    family = _family(holder) if holder is not None and ours else []
    # A number is not given out while a session of that number lives, so one in other hands means: no such session.
    session = started.pid if POSIX and (holder is None or ours) else None
    found = {process.pid: process for process in family}
    for process in psutil.process_iter():
        if process.pid not in found and _belongs(process, session, started):
            found[process.pid] = process
    found.pop(os.getpid(), None)
    return [process for process in found.values() if not _is_zombie(process)]


def end_processes(started: Started, patience_seconds: float) -> bool:
    """Wait for all processes of a job to end, then make them; False if some outlive even that."""
    until = time.monotonic() + patience_seconds
    while find_leader(started) is not None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    patience_seconds = min(LEFTOVER_SECONDS, until - time.monotonic())
    steps = ((None, patience_seconds), (psutil.Process.terminate, 1.0), (psutil.Process.kill, 5.0))
    for end, seconds in steps:
        told: set[psutil.Process] = set()
        until = time.monotonic() + seconds
        while left := find_processes(started):
            for process in left if end is not None else ():
                if process not in told:  # one that was born meanwhile is told as well
                    told.add(process)
                    try:
                        end(process)
                    except psutil.Error:
                        continue  # gone by itself
            if time.monotonic() >= until:
                break
            time.sleep(POLL_SECONDS)
        else:
            return True
    return False


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _holder(started: Started) -> tuple[psutil.Process | None, bool]:
    """Who has the job's pid now, and whether it is the job: the system gives numbers out again."""
    if started.pid is None:
        return None, False
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - (started.created or 0)) < CLOCK_SECONDS
        # Setting the clock moves create times; the command line names the job's own folder.
        return process, same or str(started.folder) in process.cmdline()
    except psutil.NoSuchProcess:
        return None, False
    except psutil.AccessDenied:
        return process, False


def _family(leader: psutil.Process) -> list[psutil.Process]:
    try:
        return [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return [leader]


def _belongs(process: psutil.Process, session: int | None, started: Started) -> bool:
    try:
        if session is not None and os.getsid(process.pid) == session:
            if process.create_time() >= (started.created or 0) - CLOCK_SECONDS:
                return True
        return process.environ().get(MARK) == str(started.folder)
    except (psutil.Error, OSError):
        return False  # gone, or of another user


@functools.cache
def _nvml() -> Any:
    """NVIDIA's library, started; None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, no device: the library's errors share no narrower class
        return None
    return pynvml


def _gpu_usage(pids: set[int]) -> tuple[float | None, int | None]:
    """Percent of the busiest GPU, and bytes that these processes hold on all."""
    nvml = _nvml()
    if nvml is None:
        return None, None
    percent, memory = 0.0, 0
    try:
        for number in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(number)
            percent = max(percent, float(nvml.nvmlDeviceGetUtilizationRates(device).gpu))
            users = nvml.nvmlDeviceGetComputeRunningProcesses(device)
            memory += sum(user.usedGpuMemory or 0 for user in users if user.pid in pids)
    except nvml.NVMLError:
        return None, None
    return percent, memory
