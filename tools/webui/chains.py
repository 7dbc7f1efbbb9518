"""Several steps one after the other, each started when the one before it is done. Knows no components.

A chain is a JSON file: the page may be closed and the app started anew, the chain goes on.
"""

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from modules.errors import UserError
from modules.progress import write_json
from tools.jobs import Job, JobStore, Resources
from tools.webui.steps import Work

LOCK_SECONDS = 10.0
Ended = Literal["", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Link:
    """A step of a chain: what `JobStore.start` needs, and the id of its job once that was started."""

    name: str
    module: str
    arguments: tuple[str, ...]
    work_key: str
    resources: Resources
    job: str = ""


@dataclass(frozen=True)
class Chain:
    """A chain as its file has it; `ended` is empty while it goes on."""

    id: str
    created: float
    links: tuple[Link, ...]
    ended: Ended = ""

    @property
    def position(self) -> int:
        """Number of the link that is being worked on, from 1; that of the last started one when it has ended."""
        return max(1, sum(bool(link.job) for link in self.links))


class Chains:
    """The chains of a folder. Several threads and several app processes may use one folder.

    Args:
        folder: holds one file for each chain.
        jobs: where their steps are started.
    """

    def __init__(self, folder: Path, jobs: JobStore):
        self.folder, self.jobs = Path(folder), jobs
        self._lock = FileLock(self.folder / ".lock", timeout=LOCK_SECONDS)
        self._closed = threading.Event()

    def start(self, works: Sequence[Work]) -> Chain:
        """Begin a chain; its first step is started at once.

        Raises:
            UserError: job_twice (the first step is being done already; no chain is kept), jobs_locked.
        """
        links = tuple(
            Link(work.name, work.step.module, work.arguments, work.work_key, work.step.resources) for work in works
        )
        with self._locked():
            number, stem = 1, time.strftime("chain-%Y%m%d-%H%M%S")
            while (path := self.folder / f"{stem}-{number}.json").exists():
                number += 1
            job = works[0].start(self.jobs)
            chain = Chain(path.stem, time.time(), (dataclasses.replace(links[0], job=job.id), *links[1:]))
            self._write(chain)
        return chain

    def find(self, id: str) -> Chain | None:
        """The chain of that id, if there is one."""
        return next((chain for chain in self.all() if chain.id == id), None)

    def all(self) -> list[Chain]:
        """All chains, newest first; a file that is none is passed over."""
        found = [chain for path in self.folder.glob("chain-*.json") if (chain := _read(path)) is not None]
        return sorted(found, key=lambda chain: (chain.created, chain.id), reverse=True)

    def of_job(self, id: str) -> Chain | None:
        """The chain that a job belongs to."""
        return next((chain for chain in self.all() if any(link.job == id for link in chain.links)), None)

    def advance(self) -> None:
        """Start what may start now; cheap, to be called often. Raises UserError jobs_locked."""
        if not any(not chain.ended for chain in self.all()):
            return
        with self._locked():
            for chain in self.all():
                if not chain.ended:
                    self._advance(chain)

    def watch(self, seconds: float = 1.0) -> None:
        """Advance in the background until `close()`."""
        threading.Thread(target=self._watch, args=(seconds,), daemon=True, name="chains").start()

    def close(self) -> None:
        """End the background thread; what was started goes on."""
        self._closed.set()

    def _advance(self, chain: Chain) -> None:
        for place, link in enumerate(chain.links):
            if not link.job:
                started = dataclasses.replace(link, job=self._start(link).id)
                self._write(
                    dataclasses.replace(chain, links=(*chain.links[:place], started, *chain.links[place + 1 :]))
                )
                return
            try:
                state = self.jobs.job(link.job).state()
            except UserError:
                state = "stopped"  # somebody removed the job
            if state in ("waiting", "running"):
                return
            if state != "done":
                self._write(dataclasses.replace(chain, ended=state))
                return
        self._write(dataclasses.replace(chain, ended="done"))

    def _start(self, link: Link) -> Job:
        try:
            return self.jobs.start(link.name, link.module, link.arguments, link.work_key, link.resources)
        except UserError as error:
            # The app was ended between the start of the job and the writing down of its id.
            running = next((job for job in self.jobs.jobs() if job.id == error.fields.get("job")), None)
            if error.code != "job_twice" or running is None:
                raise
            return running

    def _write(self, chain: Chain) -> None:
        values = dataclasses.asdict(chain)
        write_json(self.folder / f"{chain.id}.json", {name: values[name] for name in ("created", "links", "ended")})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock:
                yield
        except Timeout as cause:
            raise UserError(
                "jobs_locked",
                "Another process of this program is using {folder}; try again in a moment, and close its other windows "
                "if that does not help.",
                folder=self.folder,
            ) from cause

    def _watch(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                self.advance()
            except (OSError, UserError):
                pass  # a full disk or a busy folder now says nothing about the next time


def _read(path: Path) -> Chain | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        links = tuple(Link(**{**link, "arguments": tuple(link["arguments"])}) for link in values["links"])
        return Chain(path.stem, float(values["created"]), links, values["ended"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
