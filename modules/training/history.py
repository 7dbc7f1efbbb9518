"""What a run has told so far: the events of its folder as curves, progress, samples and saved files.

A `HistoryReader` reads only what was appended since its last look and keeps a bounded number of points per curve, so
that it may be asked every few seconds however long the run is. Nothing here needs torch.
"""

import json
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.training.curves import Curve, Points
from modules.training.events import EVENTS_NAME

MOST_NOTES, MOST_SAVES, MOST_FILES = 50, 500, 500
_RATE_EVENTS = 10
_HEAD_BYTES = 256
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RunProgress:
    """How far a run is. `total` 0: not known; `seconds`: of training, over all resumes; None: not told yet."""

    step: int = 0
    total: int = 0
    epoch: int | None = None
    seconds: float | None = None
    eta_seconds: float | None = None
    seconds_per_step: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Sample:
    """A held-out line as a checkpoint speaks it; `truth` is the recording. Numbers that were not told are None."""

    file: str
    truth: str = ""
    text: str = ""
    seconds: float | None = None
    true_seconds: float | None = None
    f0_hz: float | None = None
    true_f0_hz: float | None = None


@dataclass(frozen=True)
class SavedSamples:
    """The samples of one save. `measures`: means over its lines, such as "length_ratio"."""

    step: int
    epoch: int
    time: float
    items: tuple[Sample, ...]
    measures: dict[str, float]


@dataclass(frozen=True)
class RunNote:
    """Something remarkable that the run told, such as that it made its batches smaller."""

    time: float
    code: str
    message: str


@dataclass(frozen=True)
class RunHistory:
    """All that is shown of a run.

    Args:
        revision: changes when anything does; empty for a run without events.
        training, validation: a curve for each loss. A leading "_" means that the loss is shown, not summed.
        learning_rate: over the run.
        progress: where it is.
        last_kind: of the newest event; "end" and "error" are the last ones of a run.
        error: why it failed last, empty if it went on or never did.
        time: of the newest event, Unix seconds.
        samples: of each save, newest first.
        weights: saved files, newest first.
        notes: oldest first.
    """

    revision: str
    training: dict[str, Curve]
    validation: dict[str, Curve]
    learning_rate: Curve
    progress: RunProgress
    last_kind: str
    error: str
    time: float
    samples: tuple[SavedSamples, ...]
    weights: tuple[str, ...]
    notes: tuple[RunNote, ...]


class HistoryReader:
    """Reads the events of one run folder, each of them once. May be asked from several threads.

    Args:
        folder: of the run; it need not be there yet. A folder that was set aside for a new run is read anew.
    """

    def __init__(self, folder: Path | str):
        self._path = Path(folder) / EVENTS_NAME
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._offset, self._head = 0, b""
        self._state = _State()
        self._known = self._state.history("")

    def read(self) -> RunHistory:
        """Everything up to the last whole line; the same object as before if nothing was appended."""
        with self._lock:
            try:
                size = self._path.stat().st_size
                if size != self._offset or not self._offset:
                    self._read_on(size)
            except FileNotFoundError:
                self._forget()
            except OSError:
                pass  # the disk is busy, or the folder is being renamed; the next look will tell
            return self._known

    def _read_on(self, size: int) -> None:
        with open(self._path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            if size < self._offset or not head.startswith(self._head):
                self._forget()
            begun = self._offset
            file.seek(begun)
            for line in self._whole_lines(file):
                self._state.take(line)
        self._head = max(self._head, head[: self._offset], key=len)
        if self._offset != begun:
            # The time keeps two runs apart that happen to have told the same number of bytes.
            self._known = self._state.history(f"{self._state.first_time}:{self._offset}")

    def _whole_lines(self, file: Any) -> Iterator[bytes]:
        """Lines that are ended; `_offset` moves behind the last of them."""
        rest = b""
        while chunk := file.read(_CHUNK_BYTES):
            whole, newline, after = chunk.rpartition(b"\n")
            if not newline:
                rest += chunk
                continue
            text = rest + whole + newline
            rest = after
            self._offset += len(text)
            yield from text.splitlines()


def read_run(folder: Path | str) -> RunHistory:
    """The history of a run folder; one without events is empty."""
    return HistoryReader(folder).read()


class _State:
    """What the events so far amount to."""

    def __init__(self) -> None:
        self.first_time = 0.0
        self.training: dict[str, Points] = {}
        self.validation: dict[str, Points] = {}
        self.learning_rate = Points()
        self.samples: deque[SavedSamples] = deque(maxlen=MOST_SAVES)
        self.weights: deque[tuple[int, str]] = deque(maxlen=MOST_FILES)
        self.notes: deque[RunNote] = deque(maxlen=MOST_NOTES)
        self.rates: deque[tuple[int, float]] = deque(maxlen=_RATE_EVENTS)
        self.last: dict[str, Any] = {}
        self.kind = self.error = ""
        self.time = 0.0

    def take(self, line: bytes) -> None:
        """One line; one that was cut short by a kill is left out."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict) or not isinstance(kind := event.get("kind"), str):
            return
        self.kind, self.time = kind, finite_number(event.get("time")) or self.time
        self.first_time = self.first_time or self.time
        if kind == "error" and (_whole(event.get("step")) or 0) < self.last.get("step", 0):
            # It failed before its first step, of which it knows nothing: what was trained before is still there.
            event = {name: value for name, value in event.items() if name not in ("step", "total", "epoch")}
        step = _whole(event.get("step"))
        if kind in ("start", "resume"):
            self._go_back(step or 0)
            if not step:
                self.rates.append((0, 0.0))
        if step is not None:
            self.last["step"] = step
            self._take_step(kind, step, event)
        for name in ("total", "epoch", "skipped"):
            if (value := _whole(event.get(name))) is not None:
                self.last[name] = value
        for name in ("seconds", "eta_seconds"):
            if kind != "samples" and (value := finite_number(event.get(name))) is not None:
                self.last[name] = max(value, 0.0)
        if kind == "note":
            self.notes.append(RunNote(self.time, str(event.get("code", "")), str(event.get("message", ""))))
        if kind == "error":
            self.error = str(event.get("error", "")) or "?"

    def _go_back(self, step: int) -> None:
        """A killed run resumes at its last checkpoint: what it did after that is done again."""
        for points in (*self.training.values(), *self.validation.values(), self.learning_rate):
            points.cut(step)
        while self.samples and self.samples[-1].step > step:
            self.samples.pop()
        while self.weights and self.weights[-1][0] > step:
            self.weights.pop()
        self.rates.clear()
        self.last.pop("eta_seconds", None)
        self.error = ""

    def _take_step(self, kind: str, step: int, event: Mapping[str, Any]) -> None:
        if kind == "step":
            _add_all(self.training, step, event.get("losses"))
            if (rate := finite_number(event.get("learning_rate"))) is not None:
                self.learning_rate.add(step, rate)
            if (seconds := finite_number(event.get("seconds"))) is not None:
                while self.rates and self.rates[-1][0] >= step:
                    self.rates.pop()
                self.rates.append((step, seconds))
        elif kind == "validation":
            _add_all(self.validation, step, event.get("losses"))
        elif kind == "weights":
            files = event.get("files")
            for file in files if isinstance(files, list) else []:
                known = (step, str(file))
                self.weights = deque((old for old in self.weights if old[1] != known[1]), maxlen=MOST_FILES)
                self.weights.append(known)
        elif kind == "samples":
            while self.samples and self.samples[-1].step >= step:
                self.samples.pop()
            self.samples.append(_saved(step, event, self.time))

    def history(self, revision: str) -> RunHistory:
        """A picture of it that does not change any more."""
        last = self.last
        return RunHistory(
            revision,
            _curves(self.training),
            _curves(self.validation),
            self.learning_rate.curve(),
            RunProgress(
                last.get("step", 0),
                max(last.get("total", 0), 0),
                last.get("epoch"),
                last.get("seconds"),
                last.get("eta_seconds"),
                self._seconds_per_step(),
                last.get("skipped", 0),
            ),
            self.kind,
            self.error,
            self.time,
            tuple(reversed(self.samples)),
            tuple(file for _, file in reversed(self.weights)),
            tuple(self.notes),
        )

    def _seconds_per_step(self) -> float | None:
        if len(self.rates) < 2:
            return None
        (first, begun), (last, ended) = self.rates[0], self.rates[-1]
        return max(ended - begun, 0.0) / (last - first)


def _curves(points: Mapping[str, Points]) -> dict[str, Curve]:
    return {name: curve for name, held in points.items() if (curve := held.curve()).steps}


def _add_all(curves: dict[str, Points], step: int, losses: object) -> None:
    for name, value in losses.items() if isinstance(losses, dict) else ():
        if (number := finite_number(value)) is not None:
            curves.setdefault(name, Points()).add(step, number)


def _saved(step: int, event: Mapping[str, Any], time: float) -> SavedSamples:
    items, measures = event.get("items"), event.get("measures")
    if not isinstance(items, list):  # a plain list of files is all that an older run tells
        files = event.get("samples")
        items = [{"file": file} for file in files] if isinstance(files, list) else []
    named = measures.items() if isinstance(measures, dict) else ()
    return SavedSamples(
        step,
        _whole(event.get("epoch")) or 0,
        time,
        tuple(_sample(item) for item in items if isinstance(item, dict) and item.get("file")),
        {name: number for name, value in named if (number := finite_number(value)) is not None},
    )


def _sample(item: Mapping[str, Any]) -> Sample:
    words = (str(item.get(name) or "") for name in ("file", "truth", "text"))
    return Sample(
        *words, *(finite_number(item.get(name)) for name in ("seconds", "true_seconds", "f0_hz", "true_f0_hz"))
    )


def finite_number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _whole(value: object) -> int | None:
    number = finite_number(value)
    return int(number) if number is not None else None
