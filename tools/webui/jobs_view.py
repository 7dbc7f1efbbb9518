"""Jobs in words: what a reader is told about them, as HTML. Knows no components; asks only the disk and the system."""

import html
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from modules.errors import UserError, retold
from modules.progress import Progress
from modules.training.events import EVENTS_NAME
from tools.jobs import Job, JobStore
from tools.webui.chains import Chain, Chains
from tools.webui.messages import Translator
from tools.webui.retelling import retell, retell_error
from tools.webui.sizes import part_words, size_words

SHOWN_JOBS = 12
_SHOWN_FILES, _SHOWN_REJECTED = 10, 100
_LARGEST_DOWNLOAD_BYTES = 64 << 20
_STALLED_SECONDS = 2.0  # without a word, after which a speed would be one of the past

STATES = {
    "waiting": "jobs.state_waiting",
    "running": "jobs.state_running",
    "done": "jobs.state_done",
    "failed": "jobs.state_failed",
    "stopped": "jobs.state_stopped",
}
TOOLS = {
    "tools.separate": "jobs.tool_separate",
    "tools.denoise": "jobs.tool_denoise",
    "tools.slice": "jobs.tool_slice",
    "tools.transcribe": "jobs.tool_transcribe",
    "tools.report": "jobs.tool_report",
    "tools.extract": "jobs.tool_extract",
    "tools.train_vits2": "jobs.tool_vits2",
    "tools.train_gpt": "jobs.tool_gpt",
    "tools.pick": "jobs.tool_pick",
    "tools.download": "jobs.tool_download",
}
VERIFY = ("tools.download", "--verify")
"""Words of a command line that checks what was downloaded."""
RESULTS = {
    "files": "jobs.result_files",
    "clips": "jobs.result_clips",
    "clip_seconds": "jobs.result_seconds",
    "seconds": "jobs.result_seconds",
    "already": "jobs.result_already",
    "files_already_done": "jobs.result_already",
}
"""Numbers of results that people care about."""


@dataclass(frozen=True)
class JobsView:
    """What the panel shows.

    Args:
        active: ids of those that run or wait.
        overview: all newest jobs.
        choices: (text, id) of each of them.
        details: of the chosen job.
        log: the end of its log.
        files: lists that it made, to be fetched.
        can_stop: whether it runs or waits, or the chain that it belongs to goes on.
        can_remove: whether it has ended.
        current: id of the chosen job, or of the one that is shown for none.
    """

    active: tuple[str, ...]
    overview: str
    choices: tuple[tuple[str, str], ...]
    details: str
    log: str
    files: tuple[str, ...]
    can_stop: bool
    can_remove: bool
    current: str = ""


def jobs_view(jobs: JobStore, chains: Chains, chosen: str, say: Translator) -> JobsView:
    """All active jobs and the newest ended ones, and one of them in full: the chosen one, or else the newest that runs,
    or the newest."""
    shown, states = _shown(jobs)
    current = next((job for job in shown if job.id == chosen), None)
    if current is None:
        current = next((job for job in shown if states[job.id] == "running"), shown[0] if shown else None)
    stuck = {chain.newest_job: chain for chain in chains.all() if chain.reason}
    cards = "".join(card(job, states[job.id], stuck.get(job.id), say) for job in shown)
    overview = cards or f"<p>{safe(say('jobs.none'))}</p>"
    choices = tuple((f"{title(job, say)} · {_begun(job)}", job.id) for job in shown)
    active = tuple(id for id, state in states.items() if state in ("waiting", "running"))
    if current is None:
        return JobsView(active, overview, choices, "", "", (), False, False)
    return JobsView(
        active,
        overview,
        choices,
        details(current, chains, say),
        "\n".join(current.log_tail(60)),
        tuple(result_files(current)),
        current.id in active or chains.running(current.id) is not None,
        current.id not in active,
        current.id,
    )


def _shown(jobs: JobStore) -> tuple[list[Job], dict[str, str]]:
    """What can be chosen, newest first, with the state of each: a job that runs is there however old it is."""
    shown, states, ended = [], {}, 0
    for job in jobs.jobs():
        state = job.state()
        ended += state not in ("waiting", "running")
        if state in ("waiting", "running") or ended <= SHOWN_JOBS:
            shown.append(job)
            states[job.id] = state
    return shown, states


def title(job: Job, say: Translator) -> str:
    """What a job does, and with what, in the reader's language."""
    config = job.config()
    key = next((TOOLS[item] for item in config.argv if item in TOOLS), None)
    if key is None:
        return config.name
    if set(VERIFY) <= set(config.argv):
        key = "jobs.tool_verify"
    return f"{say(key)}: {config.name.partition(' ')[2] or config.name}"


def name_job(error: UserError, jobs: JobStore, say: Translator) -> UserError:
    """An error that names a job, with the title by which the reader knows that job."""
    try:
        job = jobs.job(str(error.fields.get("job", "")))
    except UserError:
        return error
    return retold(error.code, str(error), {**error.fields, "name": title(job, say)})


def failure_words(job: Job, say: Translator, called: str = "") -> str:
    """Why a job failed and what to do, in the reader's language; empty unless it failed.

    `called` stands for the job where its title can be read already.
    """
    failure = job.failure()
    if failure is None:
        return ""
    named = retold(
        failure.code,
        str(failure),
        {**failure.fields, **({"name": called or title(job, say)} if "name" in failure.fields else {})},
    )
    return say.error(retell_error(named, say))


def chain_words(chain: Chain, say: Translator) -> str:
    """Why the next step of a chain could not be started, in the reader's language; empty if it could."""
    if not chain.reason:
        return ""
    cause, code = str(chain.reason.get("text", "")), str(chain.reason.get("code", ""))
    if code:
        cause = say.error(retell_error(retold(code, cause, dict(chain.reason.get("fields") or {})), say))
    return say("jobs.chain_failed", cause=cause)


def details(job: Job, chains: Chains, say: Translator) -> str:
    """Everything about one job but its log."""
    state, progress = job.state(), job.progress()
    rows = [(say("jobs.job"), title(job, say)), (say("jobs.state"), say(STATES[state]))]
    rows.append((say("jobs.cause"), failure_words(job, say)))
    chain = chains.of_job(job.id)
    if chain is not None and len(chain.links) > 1:
        words = say("jobs.chain_step", number=chain.position, total=len(chain.links))
        rows.append((say("jobs.chain"), f"{words}. {chain_words(chain, say)}" if chain.reason else words))
    if before := job.waits_for():
        rows.append((say("jobs.waits_for"), ", ".join(title(other, say) for other in before)))
    rows += [
        (say("jobs.progress"), _progress_words(job, progress, state, say)),
        (say("jobs.time"), span(job.seconds())),
    ]
    rows += _usage(job, say)
    rows += _result(job.result() or {}, say)
    rows.append((say("jobs.folder"), str(job.folder)))
    made = "".join(f"<li><code>{safe(file)}</code></li>" for file in progress.files[-_SHOWN_FILES:])
    parts = [facts(rows)]
    if made:
        parts.append(f"<p>{safe(say('jobs.files', count=progress.file_count))}</p><ul>{made}</ul>")
    return "".join([*parts, rejected_table(progress.rejected, progress.rejected_count, say)])


def rejected_table(rejected: Sequence[tuple[str, str]], count: int, say: Translator) -> str:
    """The files that were left out, with their reasons; empty for none."""
    if not count:
        return ""
    rows = [(Path(file).name, retell(reason, say)) for file, reason in rejected[-_SHOWN_REJECTED:]]
    return f'<p class="rejected">{safe(say("jobs.rejected", count=count))}</p>{facts(rows)}'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs as a table."""
    cells = (f"<tr><th>{safe(name)}</th><td>{safe(value)}</td></tr>" for name, value in rows if value)
    return f'<table class="facts">{"".join(cells)}</table>'


def result_files(job: Job) -> list[str]:
    """Lists and reports that the result of a job names, if they are not too large to be fetched."""
    values = (job.result() or {}).values()
    files = [Path(value) for value in values if isinstance(value, str) and value.endswith((".jsonl", ".list", ".json"))]
    return [str(file) for file in files if file.is_file() and file.stat().st_size <= _LARGEST_DOWNLOAD_BYTES]


def card(job: Job, state: str, stuck: Chain | None, say: Translator) -> str:
    """One job in short: its name, how far it is, or why it ended; `stuck` is its chain if that cannot go on."""
    progress = job.progress()
    words = say(STATES[state])
    if state in ("running", "waiting"):
        words = f"{words} {_progress_words(job, progress, state, say)}".strip()
    elif cause := failure_words(job, say, say("jobs.this_job")):
        words = f"{words}: {cause}"
    if stuck is not None:
        words = f"{words}. {chain_words(stuck, say)}"
    percent = progress.percent if state != "done" else 100.0
    bar = f'<div class="bar"><div style="width:{percent or 0:.0f}%"></div></div>' if state == "running" else ""
    name = f"{title(job, say)} · {_begun(job)}"
    return f'<div class="job {state}" data-job="{safe(job.id)}"><b>{safe(name)}</b><br>{safe(words)}{bar}</div>'


def _progress_words(job: Job, progress: Progress, state: str, say: Translator) -> str:
    words = []
    bytes_counted = VERIFY[0] in job.config().argv
    if progress.percent is not None and (state == "done" or progress.done or progress.total):
        words.append(f"{progress.percent:.0f} %")
    if progress.total and bytes_counted:
        words.append(part_words(progress.done, progress.total))
        age = _event_age_seconds(job)
        if state == "running" and progress.eta_seconds and age <= _STALLED_SECONDS:
            speed = (progress.total - progress.done) / (progress.eta_seconds + age)  # as it was told, not counted down
            words.append(say("jobs.speed", size=size_words(speed)))
    elif progress.total:
        words.append(f"{progress.done}/{progress.total}")
    if state == "running" and progress.eta_seconds is not None:
        words.append(say("jobs.eta", time=span(progress.eta_seconds)))
    if state == "running" and progress.message:
        # What follows the file's name tells the bytes once more, in English.
        words.append(progress.message.partition(": ")[0] if bytes_counted else retell(progress.message, say))
    return ", ".join(words)


def _event_age_seconds(job: Job) -> float:
    """How long ago the job told something."""
    try:
        return max(0.0, time.time() - (job.folder / EVENTS_NAME).stat().st_mtime)
    except OSError:
        return math.inf


def _usage(job: Job, say: Translator) -> list[tuple[str, str]]:
    usage = job.usage()
    if usage is None:
        return []
    rows = [(say("jobs.cpu"), f"{usage.cpu_percent:.0f} %"), (say("jobs.memory"), _bytes(usage.memory_bytes))]
    if usage.gpu_percent is not None:
        rows.append((say("jobs.gpu"), f"{usage.gpu_percent:.0f} %, {_bytes(usage.gpu_memory_bytes or 0)}"))
    return rows


def _result(result: dict[str, Any], say: Translator) -> list[tuple[str, str]]:
    rows = {say(key): f"{result[name]:g}" for name, key in RESULTS.items() if isinstance(result.get(name), int | float)}
    notes = result.get("notes")
    if isinstance(notes, list) and notes:
        rows[say("jobs.notes")] = " ".join(retell(str(note), say) for note in notes)
    return list(rows.items())


def _begun(job: Job) -> str:
    try:
        return clock(job.config().created, "%m-%d %H:%M:%S")
    except UserError:
        return "-"


def clock(seconds: float, form: str = "%H:%M:%S") -> str:
    """A Unix time as a clock shows it here."""
    try:
        return datetime.fromtimestamp(seconds).strftime(form)
    except (OSError, ValueError, OverflowError):
        return "-"


def span(seconds: float) -> str:
    """A time such as "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bytes(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def safe(text: object) -> str:
    """Text for HTML, also inside attributes."""
    return html.escape(str(text), quote=True)
