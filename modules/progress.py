"""How a step reports, to the terminal and to the folder of the job that it runs in, and how a report is read."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modules.errors import Stopped, UserError
from modules.training.events import EventLog

RESULT_NAME = "result.json"
STOP_NAME = "stop"
REFUSED_EXIT, STOPPED_EXIT = 2, 3  # exit codes of a tool
EVENT_SECONDS = 0.25
SAY_SECONDS = 2.0
TRAINING_SAY_SECONDS = 15.0
MOST_FILES = 1000  # newest result files and left out files that a reader keeps; it counts all


class StepProgress:
    """Tells how far a step is, which files it left out, and how it ended.

    Events in `folder/events.jsonl`: "start" (total), "step" (step, total, eta_seconds, samples = new files,
    message), "rejected" (file, reason), those of a training loop (see `pass_on`), and one of "end" (stopped_by
    "done" or "stop") and "error" (error, and code and fields of a UserError). `folder/result.json` exists if and
    only if the step was finished. May be called from several threads.

    Args:
        folder: the job's folder, made if missing; None reports to `say` only.
        total: how much there is to do, in any unit; 0 = not known yet.
        say: gets a line for people every few seconds, for instance `print`.
    """

    def __init__(self, folder: Path | None, total: int = 0, say: Callable[[str], None] | None = None):
        self.folder = Path(folder) if folder is not None else None
        self.total = total
        self._say = say
        self._lock = threading.RLock()
        self._log: EventLog | None = None
        self._timer: threading.Timer | None = None
        self._pending: tuple[int, str] | None = None  # done and message of the newest update not written yet
        self._files: list[str] = []
        self._written_at = self._said_at = float("-inf")
        self._first: tuple[int, float] | None = None  # done and time from which the speed is measured
        self._finished = False
        self._asked = False

    def __enter__(self) -> Self:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A result of an earlier run in the same folder must not be taken for this run's.
            (self.folder / RESULT_NAME).unlink(missing_ok=True)
            _forget_old_stop(self.folder / STOP_NAME)
            self._log = EventLog(self.folder)
            self._event("start", total=self.total)
        return self

    def update(self, done: int, total: int | None = None, message: str = "", files: Sequence[Path | str] = ()) -> None:
        """Tell how much is done.

        Args:
            done: in the unit of `total`.
            total: replaces the total, when given.
            message: what is being worked on.
            files: made since the last update; the page may show or play them.
        """
        with self._lock:
            if total is not None:
                self.total = total
            now = time.monotonic()
            if self._first is None or done < self._first[0]:
                self._first = (done, now)
            self._pending = (done, message)
            self._files.extend(_text(file) for file in files)
            wait = self._written_at + EVENT_SECONDS - now
            if wait <= 0:
                self._flush()
            elif self._timer is None:
                # The next update may be minutes away, so a held back one is written without waiting for it.
                self._timer = threading.Timer(wait, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def reject(self, file: Path | str, reason: str) -> None:
        """Tell that a file is left out, and why; the step goes on."""
        with self._lock:
            self._event("rejected", file=_text(file), reason=_text(reason))
            if self._say is not None:
                self._say(f"left out {_text(file)}: {_text(reason)}")

    def pass_on(self, event: Mapping[str, Any]) -> None:
        """Tell what a training loop told (see modules/training/events.py).

        Its "step", "validation", "weights" and "samples" events are written as they are. How a run starts and ends is
        told by this step itself, which may do more than train.
        """
        if event["kind"] not in ("step", "validation", "weights", "samples"):
            return
        with self._lock:
            self._event(**{name: value for name, value in event.items() if name != "time"})
            now = time.monotonic()
            too_soon = event["kind"] == "step" and now - self._said_at < TRAINING_SAY_SECONDS
            if self._say is not None and event["kind"] in ("step", "validation") and not too_soon:
                self._said_at = now
                self._say(_line(event["step"], event["total"], event.get("eta_seconds"), _measures(event)))

    def ask_to_stop(self) -> None:
        """Ask this step for a clean stop, from within its own process."""
        self._asked = True

    def should_stop(self) -> bool:
        """Whether somebody asked for a clean stop; the step then raises `Stopped`."""
        return self._asked or (self.folder is not None and (self.folder / STOP_NAME).exists())

    def finish(self, result: dict[str, Any]) -> None:
        """Tell that all is done. `result` is what the step made: JSON values and paths."""
        with self._lock:
            self._flush()
            if self.folder is not None:
                write_json(self.folder / RESULT_NAME, result)
            self._finished = True
            self._event("end", stopped_by="done")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            try:
                self._flush()
                if error is not None and not self._finished:
                    self._tell_end(error)
            except OSError:
                # A full disk may be why the step ends; that error is the one to hear of, not this second one.
                if error is None:
                    raise
            finally:
                if self._log is not None:
                    self._log.close()
                self._log = None

    def _tell_end(self, error: BaseException) -> None:
        if isinstance(error, Stopped | KeyboardInterrupt):
            self._event("end", stopped_by="stop")
        elif isinstance(error, UserError):
            fields = {name: _text(value) for name, value in error.fields.items()}
            self._event("error", error=_text(error), code=error.code, fields=fields)
        else:
            self._event("error", error=_text(error) or type(error).__name__)

    def _flush(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._pending is None:
                return
            (done, message), self._pending = self._pending, None
            files, self._files = self._files, []
            now = self._written_at = time.monotonic()
            left = self._seconds_left(done, now)
            self._event(
                "step", step=done, total=self.total, eta_seconds=left, samples=files or None, message=_text(message)
            )
            if self._say is not None and (now - self._said_at >= SAY_SECONDS or done == self.total):
                self._said_at = now
                self._say(_line(done, self.total, left, _text(message)))

    def _seconds_left(self, done: int, now: float) -> float | None:
        first, since = self._first or (0, now)
        if self.total <= 0 or done <= first:
            return 0.0 if 0 < self.total <= done else None
        return round(max(0, self.total - done) * (now - since) / (done - first), 1)

    def _event(self, kind: str, **fields: Any) -> None:
        if self._log is not None:
            self._log.write(kind, **fields)


@dataclass(frozen=True)
class Progress:
    """How far a step is, as its events tell."""

    percent: float | None  # 0 to 100; None while the total is not known
    done: int
    total: int
    eta_seconds: float | None  # counted down from when the step told it
    message: str
    losses: dict[str, float]  # of the training, at the newest step
    files: tuple[str, ...]  # made so far, the newest MOST_FILES
    file_count: int
    rejected: tuple[tuple[str, str], ...]  # file and reason, the newest MOST_FILES
    rejected_count: int
    stopped_by: str  # "done" or "stop"; empty before the end, and after an error
    error: dict[str, Any] | None  # the event: error, and code and fields of a UserError


class ProgressReader:
    """Reads an events file as it grows, each line once. May be called from several threads."""

    def __init__(self, path: Path):
        self._path, self._offset, self._seen = path, 0, _Seen()
        self._lock = threading.Lock()

    def read(self) -> Progress:
        """What all whole lines tell so far; a missing file tells nothing."""
        with self._lock:
            try:
                with open(self._path, "rb") as file:
                    file.seek(self._offset)
                    new = file.read()
            except OSError:
                return self._seen.progress()
            new = new[: new.rfind(b"\n") + 1]
            self._offset += len(new)
            for line in new.splitlines():
                try:
                    event = json.loads(line)
                    if event["kind"] == "start":
                        self._seen = _Seen()
                    self._seen.take(event)
                except (ValueError, TypeError, KeyError):
                    continue  # cut short by a kill, or not an event
            return self._seen.progress()


@dataclass
class _Seen:
    """What events add up to."""

    done: int = 0
    total: int = 0
    eta_seconds: float | None = None
    eta_at: float = 0.0
    message: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    files: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_FILES))
    file_count: int = 0
    rejected: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=MOST_FILES))
    rejected_count: int = 0
    stopped_by: str = ""
    error: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        self.done, self.total = int(event.get("step", self.done)), int(event.get("total", self.total))
        files = [str(file) for file in event.get("samples") or ()]
        self.files.extend(files)
        self.file_count += len(files)
        if kind == "step":
            self.message = str(event.get("message", ""))
            losses = {name: value for name, value in (event.get("losses") or {}).items() if value is not None}
            self.losses = losses or self.losses
            self.eta_seconds, self.eta_at = event.get("eta_seconds"), float(event["time"])
        elif kind == "rejected":
            self.rejected.append((str(event["file"]), str(event["reason"])))
            self.rejected_count += 1
        elif kind == "end":
            self.stopped_by = str(event.get("stopped_by", ""))
        elif kind == "error":
            self.error = event

    def progress(self) -> Progress:
        percent = min(100.0, 100 * self.done / self.total) if self.total > 0 else None
        left = self.eta_seconds
        return Progress(
            percent=100.0 if self.stopped_by == "done" else percent,
            done=self.done,
            total=self.total,
            eta_seconds=max(0.0, left - (time.time() - self.eta_at)) if left is not None else None,
            message=self.message,
            losses=dict(self.losses),
            files=tuple(self.files),
            file_count=self.file_count,
            rejected=tuple(self.rejected),
            rejected_count=self.rejected_count,
            stopped_by=self.stopped_by,
            error=self.error,
        )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all; paths become text, and names that are not valid UTF-8 read back."""
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n"
    # Inside a JSON string, what backslashreplace makes of a lone surrogate is its JSON escape: it reads back.
    temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    os.replace(temporary, path)


def _forget_old_stop(path: Path) -> None:
    """Remove a wish to stop that is older than this process: it was meant for an earlier run in the same folder.

    A younger one stays, since it may have come while this process was still loading its libraries.
    """
    if path.exists():
        from modules.processes import CLOCK_SECONDS, create_time

        if path.stat().st_mtime < create_time(os.getpid()) - CLOCK_SECONDS:
            path.unlink(missing_ok=True)


def _line(done: int, total: int, left: float | None, message: str) -> str:
    parts = [f"{done}/{total}" if total > 0 else str(done)]
    if message:
        parts.append(message)
    if left:
        parts.append(f"{left:.0f} s left")
    return ", ".join(parts)


def _measures(event: Mapping[str, Any]) -> str:
    known = {name: value for name, value in event.get("losses", {}).items() if value is not None}
    numbers = [f"{name.lstrip('_')} {value:.4g}" for name, value in known.items()]
    return ", ".join(numbers if event["kind"] == "step" else [event["kind"], *numbers])


def _text(value: object) -> str:
    """Text that UTF-8 can hold: a file name that is not valid UTF-8 comes from the system with lone surrogates."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
