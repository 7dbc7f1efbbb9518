"""Starts, follows and stops the long tools, each as a process of its own in a folder of its own.

Nothing is remembered but what stands in the folders (modules/records.py reads and writes them): another app process,
or the same one after a restart, sees the same jobs.

Only here are processes started; modules/processes.py finds, measures and ends them, and modules/failures.py tells
why one failed. A job and the queue are one file, since neither is right without the other's rules.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from modules.errors import UserError
from modules.failures import Remains, explain_failure
from modules.paths import LOGS, PROJECT_ROOT
from modules.processes import (
    LEFTOVER_SECONDS,
    MARK,
    POSIX,
    JobUsage,
    Started,
    UsageMeter,
    create_time,
    end_processes,
    find_leader,
    find_processes,
)
from modules.records import CONFIG_NAME, LOG_NAME, JobConfig, JobRecord, Resources, locked

JobState = Literal["waiting", "running", "done", "failed", "stopped"]
LOCK_SECONDS = 30.0


class Job(JobRecord):
    """One started or waiting tool; made by `JobStore`. May be asked from several threads."""

    def __init__(self, store: "JobStore", folder: Path):
        super().__init__(folder)
        self.store = store
        self._usage = UsageMeter()

    def state(self) -> JobState:
        """What the disk and the system's processes say now."""
        config = self.config()
        if config.ended is None:
            if config.pid is None:
                return "waiting"
            if find_leader(self._started()) is not None:
                return "running"
        if self.result() is not None:
            return "done"
        return "stopped" if self.was_stopped(self.exit_code()) else "failed"

    def exit_code(self) -> int | None:
        """The exit code of a process that is gone; None where it was another app's child."""
        code = self.config().exit_code
        return code if code is not None else self.store._exit_code(self)

    def waits_for(self) -> tuple["Job", ...]:
        """The jobs that must end before this one starts, in the order of the queue; empty when it does not wait."""
        mine = self.config()
        if mine.resources == "light" or self.state() != "waiting":
            return ()
        heavy = [(job, job.state()) for job in reversed(self.store.jobs()) if job.config().resources == "heavy"]
        before = [job for job, state in heavy if state == "waiting" and _order(job) < _order(self)]
        return (*(job for job, state in heavy if state == "running"), *before)

    def failure(self) -> UserError | None:
        """Why it failed and what to do, to be shown (not raised); None unless it failed."""
        if self.state() != "failed":
            return None
        config = self.config()
        return explain_failure(
            Remains(
                config.name,
                self.folder / LOG_NAME,
                self.exit_code(),
                self.error_lines(),
                self.progress().error or {},
                config.launch_error,
            )
        )

    def usage(self) -> JobUsage | None:
        """CPU, memory and GPU of its processes; None unless it runs. CPU is that since the last call (first: 0)."""
        return self._usage.read(self._started())

    def stop(self, grace_seconds: float = 3.0) -> None:
        """Ask it to end, and end it with all its processes if it has not after `grace_seconds`.

        A waiting job leaves the queue. A job that has ended is left as it is. Afterwards the next job starts.

        Raises:
            UserError: job_missing, job_not_stopped (a process that even the system cannot end).
        """
        with self.store._locked():
            config = self.config()
            if config.ended is not None:
                return
            # Who has died already did not hear of it, and must not look as if it had.
            if config.pid is None or find_leader(self._started()) is not None:
                self.ask_to_stop()
            if config.pid is None:
                self.write(replace(config, ended=time.time()))
        if not end_processes(self._started(), grace_seconds):
            raise UserError(
                "job_not_stopped",
                "{name} cannot be ended (process {pid}): it waits for the disk or a driver. Restart the computer.",
                name=config.name,
                pid=config.pid,
            )
        self.store._settle(self)
        self.store.pump()

    def _started(self) -> Started:
        config = self.config()
        return Started(self.folder, config.pid, config.process_created)


class JobStore:
    """The jobs of a folder and their queue. Several threads and several app processes may use one folder.

    Heavy jobs (a GPU or all cores) run one at a time in the order of their start; light ones start at once.

    Args:
        folder: gets one folder per job.
        command: begins the argv of each job; the tool's module and arguments follow.
        working_directory: of the jobs; relative arguments are seen from there.
    """

    def __init__(
        self,
        folder: Path = LOGS / "jobs",
        command: Sequence[str] = (sys.executable, "-m"),
        working_directory: Path = PROJECT_ROOT,
    ):
        self.folder = Path(folder).absolute()
        self.command, self.working_directory = tuple(command), Path(working_directory)
        # The system frees this lock when its owner dies, so that no dead owner has to be found out.
        self._file_lock = FileLock(self.folder / ".lock", timeout=LOCK_SECONDS)
        self._jobs: dict[str, Job] = {}
        self._children: dict[str, subprocess.Popen] = {}
        self._closed = threading.Event()

    def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        work_key: str,
        resources: Resources = "heavy",
    ) -> Job:
        """Put a tool into the queue; it starts at once when nothing stands before it.

        Args:
            name: for people, and part of the folder's name.
            module: such as "tools.slice".
            arguments: of the tool; reach it unchanged, whatever is in them. `--job FOLDER` is added.
            work_key: names the work; the same work is not started twice at a time.

        Raises:
            UserError: job_twice, jobs_locked.
        """
        with self._locked():
            self.refuse_twice(work_key)
            folder = self._new_folder(name)
            argv = (*self.command, module, *map(str, arguments), "--job", str(folder))
            job = self._jobs[folder.name] = Job(self, folder)
            job.write(JobConfig(name, argv, work_key, resources, time.time()))
        self.pump()
        return job

    def refuse_twice(self, work_key: str) -> None:
        """Raise UserError job_twice, naming the job, if one that waits or runs does this work."""
        for job in self.jobs():
            if job.config().work_key == work_key and job.state() in ("waiting", "running"):
                raise UserError(
                    "job_twice",
                    "{name} does this already (job {job}); wait for it or stop it first.",
                    name=job.config().name,
                    job=job.id,
                )

    def jobs(self) -> list[Job]:
        """All jobs, newest first. A folder without a readable config.json is none."""
        found = []
        for path in self.folder.glob(f"*/{CONFIG_NAME}"):
            job = self._jobs.get(path.parent.name) or self._jobs.setdefault(path.parent.name, Job(self, path.parent))
            try:
                job.config()
            except UserError:
                continue
            found.append(job)
        return sorted(found, key=_order, reverse=True)

    def job(self, id: str) -> Job:
        """The job of that id. Raises UserError: job_missing."""
        for job in self.jobs():
            if job.id == id:
                return job
        raise UserError("job_missing", "There is no job {job}; it may have been removed.", job=id)

    def pump(self) -> list[Job]:
        """Tidy up after jobs that ended, start what may start; returns the started. Cheap, to be called often."""
        for job in self.jobs():
            self._settle(job)
        started = []
        with self._locked():
            jobs = [(job, job.config()) for job in reversed(self.jobs())]
            # Not settled counts as busy: a dead job's children may still hold the GPU.
            busy = any(c.resources == "heavy" and c.pid is not None and c.ended is None for _, c in jobs)
            for job, config in jobs:
                if job.state() == "waiting" and not (busy and config.resources == "heavy"):
                    if self._launch(job):
                        started.append(job)
                        busy = busy or config.resources == "heavy"
        return started

    def watch(self, seconds: float = 2.0) -> None:
        """Pump in the background until `close()`: takes up what an earlier app process left waiting."""
        threading.Thread(target=self._watch, args=(seconds,), daemon=True, name="jobs").start()

    def close(self) -> None:
        """End the background thread. Jobs go on."""
        self._closed.set()

    def remove(self, job: Job) -> None:
        """Delete the folder of a job that has ended. Raises UserError: job_missing, job_still_active."""
        with self._locked():
            job = self.job(job.id)
            self._settle(job)
            if job.config().ended is None:
                raise UserError(
                    "job_still_active", "{name} has not ended; stop it first.", name=job.config().name, job=job.id
                )
            shutil.rmtree(job.folder)
            self._jobs.pop(job.id, None)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder, self._file_lock)

    def _new_folder(self, name: str) -> Path:
        stem = time.strftime("%Y%m%d-%H%M%S-") + (re.sub(r"[^\w-]+", "_", name)[:60] or "job")
        for number in range(1, 10000):
            folder = self.folder / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
        raise FileExistsError(stem)

    def _launch(self, job: Job) -> bool:
        """Start the process of a waiting job; the lock is held."""
        config = job.config()
        child = None
        try:
            # An app that was killed right after starting it had no time to write the pid down.
            running = sorted(find_processes(job._started()), key=lambda process: process.pid)
            if not running:
                child = self._spawn(job, config)
            pid = child.pid if child is not None else running[0].pid
        except (OSError, ValueError) as error:
            job.write(replace(config, ended=time.time(), launch_error=str(error)))
            return False
        job.write(replace(config, pid=pid, process_created=create_time(pid)))
        if child is not None:
            self._children[job.id] = child
            threading.Thread(target=self._reap, args=(job, child), daemon=True, name=job.id).start()
        return True

    def _spawn(self, job: Job, config: JobConfig) -> subprocess.Popen:
        # Its output is a file: UTF-8 on every system, and written as it comes.
        environment = {**os.environ, MARK: str(job.folder), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
        flags = 0 if POSIX else subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        with open(job.folder / LOG_NAME, "ab") as log:
            return subprocess.Popen(
                list(config.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.working_directory,
                env=environment,
                start_new_session=POSIX,
                creationflags=flags,
            )

    def _reap(self, job: Job, child: subprocess.Popen) -> None:
        """Wait for a child, so that it leaves no zombie; then start the next job."""
        child.wait()
        try:
            self._settle(job)
            self.pump()
        except (OSError, UserError):
            pass  # the folder was removed, or the disk is full: whoever looks next does this again

    def _settle(self, job: Job) -> None:
        """Once a job's process is gone: end what it left behind, write down when and how it ended."""
        config = job.config()
        code = self._exit_code(job) if config.ended is not None else None
        if config.pid is None or (config.ended is not None and (code is None or config.exit_code is not None)):
            return
        if find_leader(job._started()) is not None:
            return
        if config.ended is None:
            end_processes(job._started(), LEFTOVER_SECONDS)
            code = self._exit_code(job)
        with self._locked():
            config = job.config()
            ended = config.ended or (time.time() if code is not None else job.last_sign())
            job.write(replace(config, ended=ended, exit_code=config.exit_code if code is None else code))
        self._children.pop(job.id, None)

    def _exit_code(self, job: Job) -> int | None:
        """Of a child of this process that is gone; None for another's."""
        child = self._children.get(job.id)
        try:
            return child.wait(LEFTOVER_SECONDS) if child is not None else None
        except subprocess.TimeoutExpired:
            return None

    def _watch(self, seconds: float) -> None:
        while True:
            try:
                self.pump()
            except (OSError, UserError):
                pass  # a full disk or a busy folder now says nothing about the next time
            if self._closed.wait(seconds):
                return


def _order(job: Job) -> tuple[float, str]:
    return job.config().created, job.id
