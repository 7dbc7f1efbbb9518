"""Several steps one after the other, each started when the one before it is done. Knows no components.

A chain is a JSON file: the page may be closed and the app started anew, the chain goes on.
"""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from modules.errors import UserError
from modules.progress import write_json
from modules.records import locked
from tools.jobs import Job, JobStore, Resources
from tools.webui.steps import Work, argument_in

LOCK_SECONDS = 10.0
LASTING_SECONDS = 60.0
"""A step that cannot be started for so long will not be: a full disk or a busy folder may be over before."""
Ended = Literal["", "done", "failed", "stopped"]
_STORED = ("created", "links", "ended", "reason")


@dataclass(frozen=True)
class Link:
    """A step of a chain: what `JobStore.start` needs, the id of its job once that was started, and how that ended,
    since somebody may remove the job."""

    name: str
    module: str
    arguments: tuple[str, ...]
    work_key: str
    resources: Resources
    job: str = ""
    state: str = ""


@dataclass(frozen=True)
class Chain:
    """A chain as its file has it; `ended` is empty while it goes on.

    `reason` tells why a step could not even be started: text, and code and fields of a UserError.
    """

    id: str
    created: float
    links: tuple[Link, ...]
    ended: Ended = ""
    reason: dict[str, Any] = field(default_factory=dict)

    @property
    def newest_job(self) -> str:
        """Id of the job that was started last."""
        return next((link.job for link in reversed(self.links) if link.job), "")

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
        self._failing: dict[str, float] = {}  # chain -> since when its next step cannot be started

    def start(self, works: Sequence[Work]) -> Chain:
        """Begin a chain; its first step is started at once.

        Raises:
            UserError: job_twice, chain_twice (one of the steps is being done already, or will be by another chain; no
                chain is kept), jobs_locked.
        """
        links = tuple(
            Link(work.name, work.step.module, work.arguments, work.work_key, work.step.resources) for work in works
        )
        with self._locked():
            self._refuse_twice(links)
            number, stem = 1, time.strftime("chain-%Y%m%d-%H%M%S")
            while (path := self.folder / f"{stem}-{number}.json").exists():
                number += 1
            job = works[0].start(self.jobs)
            chain = Chain(path.stem, time.time(), (replace(links[0], job=job.id), *links[1:]))
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

    def running(self, job: str) -> Chain | None:
        """The chain that a job belongs to and that goes on."""
        return next((chain for chain in self._active() if any(link.job == job for link in chain.links)), None)

    def stop(self, job: str) -> bool:
        """End the chain that a job belongs to, and what runs of it; False if there is none that goes on.

        Raises:
            UserError: jobs_locked, job_not_stopped.
        """
        with self._locked():
            chain = self.running(job)
            if chain is None:
                return False
            # First of all no other step may begin: the one that runs may be over before it is told.
            links = tuple(replace(link, state=self._ended_state(link)) for link in chain.links)
            self._write(replace(chain, links=links, ended="stopped"))
        for link in links:
            if link.job and not link.state:
                self.jobs.job(link.job).stop()
        return True

    def advance(self) -> None:
        """Start what may start now; cheap, to be called often. Raises UserError jobs_locked.

        A chain whose next step cannot be started holds up no other; after `LASTING_SECONDS` it ends as failed.
        """
        if not self._active():
            return
        with self._locked():
            for chain in self._active():
                try:
                    self._advance(chain)
                    self._failing.pop(chain.id, None)
                except (OSError, UserError, ValueError) as error:
                    self._give_up_later(chain, error)

    def watch(self, seconds: float = 1.0) -> None:
        """Advance in the background until `close()`."""
        threading.Thread(target=self._watch, args=(seconds,), daemon=True, name="chains").start()

    def close(self) -> None:
        """End the background thread; what was started goes on."""
        self._closed.set()

    def _active(self) -> list[Chain]:
        return [chain for chain in self.all() if not chain.ended]

    def _advance(self, chain: Chain) -> None:
        for place, link in enumerate(chain.links):
            if link.state == "done":
                continue
            if not link.job:
                job = self._start(link)
                if job is not None:
                    self._write(_with(chain, place, replace(link, job=job.id)))
                return
            state = self._ended_state(link)
            if not state:
                return
            chain = _with(chain, place, replace(link, state=state))
            self._write(chain if state == "done" else replace(chain, ended=state))
            if state != "done":
                return
        self._write(replace(chain, ended="done"))

    def _ended_state(self, link: Link) -> str:
        """How the job of a link ended; empty while it has not, or was not started."""
        if link.state or not link.job:
            return link.state
        try:
            state = self.jobs.job(link.job).state()
        except UserError:
            return "stopped"  # somebody removed the job before its end was noted down
        return "" if state in ("waiting", "running") else state

    def _start(self, link: Link) -> Job | None:
        """The job of a link; None while another job works at the same place."""
        try:
            return self.jobs.start(link.name, link.module, link.arguments, link.work_key, link.resources)
        except UserError as error:
            if error.code != "job_twice":
                raise
            running = next((job for job in self.jobs.jobs() if job.id == error.fields.get("job")), None)
        # Its own job, if the app was ended between the start of the job and the writing down of its id.
        whole = (link.module, *link.arguments, "--job")
        own = running is not None and running.config().argv[-len(whole) - 1 : -1] == whole
        return running if own else None

    def _refuse_twice(self, links: Sequence[Link]) -> None:
        """Raise UserError job_twice or chain_twice if somebody works, or will, where a new chain would."""
        for link in links:
            self.jobs.refuse_twice(link.work_key)
        keys = {link.work_key for link in links}
        for chain in self._active():
            for link in chain.links:
                if not link.job and link.work_key in keys:
                    raise UserError(
                        "chain_twice",
                        "A chain of steps that is under way (job {job}) will write to {output} too; wait for it or "
                        "stop it first.",
                        job=chain.newest_job,
                        output=argument_in(link.arguments, "output"),
                    )

    def _give_up_later(self, chain: Chain, error: Exception) -> None:
        since = self._failing.setdefault(chain.id, time.monotonic())
        if time.monotonic() - since < LASTING_SECONDS:
            return
        reason: dict[str, Any] = {"text": str(error) or type(error).__name__, "code": "", "fields": {}}
        if isinstance(error, UserError):
            reason |= {"code": error.code, "fields": {name: str(value) for name, value in error.fields.items()}}
        with contextlib.suppress(OSError):  # told at the next look
            self._write(replace(chain, ended="failed", reason=reason))
            self._failing.pop(chain.id, None)

    def _write(self, chain: Chain) -> None:
        values = dataclasses.asdict(chain)
        write_json(self.folder / f"{chain.id}.json", {name: values[name] for name in _STORED})

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder, self._lock)

    def _watch(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                self.advance()
            except (OSError, UserError):
                pass  # a full disk or a busy folder now says nothing about the next time


def _with(chain: Chain, place: int, link: Link) -> Chain:
    """The chain with another link at a place, from 0."""
    return replace(chain, links=(*chain.links[:place], link, *chain.links[place + 1 :]))


def _read(path: Path) -> Chain | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        links = tuple(Link(**{**link, "arguments": tuple(link["arguments"])}) for link in values["links"])
        return Chain(path.stem, float(values["created"]), links, values["ended"], values.get("reason") or {})
    except (OSError, ValueError, TypeError, KeyError):
        return None
