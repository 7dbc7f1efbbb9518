"""Progress of a long job as JSON lines: the job appends, the page reads."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

EVENTS_NAME = "events.jsonl"
FIELDS = ("step", "total", "epoch", "losses", "learning_rate", "seconds", "eta_seconds", "samples", "error")


class EventLog:
    """Appends events to `folder/events.jsonl`, one whole line at a time.

    Every line has `kind`, `time` (Unix seconds) and those of `FIELDS` that are known:
    step, total, epoch, losses {name: value}, learning_rate, seconds (elapsed over all runs), eta_seconds,
    samples (paths), error (text).

    Args:
        on_event: gets every event after it was written.
    """

    def __init__(self, folder: Path | str, on_event: Callable[[dict[str, Any]], None] | None = None):
        folder = Path(folder)
        self._on_event = on_event
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / EVENTS_NAME
        _end_last_line(self.path)
        self._file = open(  # noqa: SIM115 - closed by close()
            self.path, "a", encoding="utf-8", errors="backslashreplace", buffering=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, kind: str, **fields: Any) -> None:
        """Append an event. Numbers that are not finite become null: JSON knows no NaN, and browsers refuse it."""
        known = {name: value for name, value in fields.items() if value is not None}
        event = _finite({"kind": kind, "time": round(time.time(), 3), **known})
        self._file.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
        if self._on_event is not None:
            self._on_event(event)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


class NoLog:
    """The log of a process whose events nobody needs, as another one tells the same."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def write(self, kind: str, **fields: Any) -> None:
        """Tell nobody."""


def read_events(path: Path | str) -> list[dict[str, Any]]:
    """All events of a file (or of a folder's events.jsonl); a missing file is empty, a line cut short is skipped."""
    path = Path(path)
    path = path / EVENTS_NAME if path.is_dir() else path
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the writer is in the middle of this line, or was killed there
        if isinstance(event, dict):
            events.append(event)
    return events


def _end_last_line(path: Path) -> None:
    """End a line that a kill cut short, so that the next event does not get glued to it."""
    if path.is_file() and path.stat().st_size:
        with open(path, "rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
