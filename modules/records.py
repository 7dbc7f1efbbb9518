"""What the folder of a job holds, written and read: the truth about a job is on disk, whoever asks.

`config.json` (what was started, when, as which process), `log.txt` (all that it said), `events.jsonl` and
`result.json` (see modules/progress.py) and, when somebody wants it to end, `stop`.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, Timeout

from modules.errors import UserError
from modules.failures import error_lines, log_tail
from modules.processes import ENDED_EXITS
from modules.progress import RESULT_NAME, STOP_NAME, STOPPED_EXIT, Progress, ProgressReader, write_json
from modules.training.events import EVENTS_NAME

Resources = Literal["light", "heavy"]

CONFIG_NAME = "config.json"
LOG_NAME = "log.txt"
_PATIENCE_SECONDS = 0.05


@dataclass(frozen=True)
class JobConfig:
    """What `config.json` holds. Times are Unix seconds; None is not (yet) known."""

    name: str
    argv: tuple[str, ...]
    work_key: str
    resources: Resources
    created: float
    pid: int | None = None
    process_created: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    launch_error: str = ""


class JobRecord:
    """The folder of one job. May be asked from several threads; who writes holds a lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._config: tuple[tuple[int, ...], JobConfig] | None = None
        self._reader = ProgressReader(folder / EVENTS_NAME)
        self._result: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The folder's name: by it a page or a command line names the job."""
        return self.folder.name

    def config(self) -> JobConfig:
        """What is known of its start and end. Raises UserError: job_missing."""
        path = self.folder / CONFIG_NAME
        try:
            stat = path.stat()
            key = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._config is None or self._config[0] != key:
                text = _patiently(lambda: path.read_text(encoding="utf-8"))
                known = {f.name for f in fields(JobConfig)}
                values = {name: value for name, value in json.loads(text).items() if name in known}
                self._config = key, JobConfig(**{**values, "argv": tuple(values["argv"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as cause:
            raise UserError("job_missing", "There is no job {job}; it may have been removed.", job=self.id) from cause
        return self._config[1]

    def write(self, config: JobConfig) -> None:
        """Replace what is known of its start and end."""
        _patiently(lambda: write_json(self.folder / CONFIG_NAME, asdict(config)))

    def result(self) -> dict[str, Any] | None:
        """What the tool made, once it is done."""
        if self._result is None:
            try:
                value = json.loads((self.folder / RESULT_NAME).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
            self._result = value if isinstance(value, dict) else None
        return self._result

    def progress(self) -> Progress:
        """How far it is, by its newest events."""
        return self._reader.read()

    def seconds(self) -> float:
        """How long it runs or ran; 0 while it waits."""
        config = self.config()
        if config.process_created is None:
            return 0.0
        return max(0.0, (config.ended or time.time()) - config.process_created)

    def ask_to_stop(self) -> None:
        """Tell the tool to come to an end."""
        (self.folder / STOP_NAME).touch()

    def stop_was_asked(self) -> bool:
        """Whether somebody wanted it to end; it may have ended for another reason before it heard of it."""
        return (self.folder / STOP_NAME).exists()

    def was_stopped(self, exit_code: int | None) -> bool:
        """Whether it ended without a result because somebody wanted it to, and not by itself just then.

        Args:
            exit_code: of its process; None if nobody saw its end.
        """
        progress = self.progress()
        if exit_code == STOPPED_EXIT or progress.stopped_by == "stop":
            return True
        if not self.stop_was_asked():
            return False
        unseen = exit_code is None and progress.error is None
        return self.config().pid is None or exit_code in ENDED_EXITS or unseen

    def log_tail(self, lines: int = 40) -> list[str]:
        """The last lines of its log; of a line that was drawn over (a progress bar) only the last form."""
        return log_tail(self.folder / LOG_NAME, lines)

    def error_lines(self, lines: int = 12) -> list[str]:
        """The end of the log from its last traceback on."""
        return error_lines(self.folder / LOG_NAME, lines)

    def last_sign(self) -> float:
        """When it last wrote something, in Unix seconds; the best guess of its end where nobody saw it."""
        paths = [self.folder / name for name in (CONFIG_NAME, LOG_NAME, EVENTS_NAME)]
        return max(path.stat().st_mtime for path in paths if path.exists())


@contextmanager
def locked(folder: Path, lock: BaseFileLock) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is missing. Raises UserError: jobs_locked."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock:
            yield
    except Timeout as cause:
        raise UserError(
            "jobs_locked",
            "Another process of this program is using {folder}; try again in a moment, and close its other windows "
            "if that does not help.",
            folder=folder,
        ) from cause


def _patiently(action: Callable[[], Any]) -> Any:
    """Windows refuses to replace a file while another process reads it, and the other way round: for a moment."""
    for _ in range(20):
        try:
            return action()
        except PermissionError:
            time.sleep(_PATIENCE_SECONDS)
    return action()
