"""The scores of an experiment's checkpoints: read from its pick.json, told as tables. Knows no components."""

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.history import Sample
from tools.jobs import Job
from tools.webui.messages import Translator
from tools.webui.run_view import STAGES, saved_weights
from tools.webui.services import Services
from tools.webui.training_steps import pick_work

PICK_NAME = "pick.json"
_LARGEST_BYTES = 16 << 20

CSS = """
.run-table { border-collapse: collapse; width: 100%; margin-bottom: 0.8rem; }
.run-table, .run-table tr, .run-table thead, .run-table tbody { border: none !important; }
.run-table th, .run-table td { text-align: end; padding: 0.3rem 0.6rem; border: none !important;
                               border-bottom: 1px solid var(--border-color-primary) !important; }
.run-table th:first-child, .run-table td:first-child { text-align: start; overflow-wrap: anywhere; padding-left: 0; }
.run-table thead th { font-weight: 600; font-size: var(--text-sm); }
.run-table .best td { font-weight: 600; }
.run-table .mark { border: 1px solid var(--color-accent); border-radius: 999px; padding: 0.05rem 0.6rem;
                   font-size: var(--text-sm); margin-inline-start: 0.4rem; white-space: nowrap; }
.run-hint { color: var(--body-text-color-subdued); margin: 0.3rem 0; }
h4 { margin: 0.6rem 0 0.2rem; }
@media (max-width: 640px) {
  .run-table thead { display: none; }
  .run-table tr { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.2rem 0.6rem;
                  padding: 0.5rem 0; border-bottom: 1px solid var(--border-color-primary) !important; }
  .run-table td { text-align: start; border: none !important; padding: 0; }
  .run-table td:first-child { grid-column: 1 / -1; }
  .run-table td:not(:first-child)::before { content: attr(data-label); display: block; font-weight: 400;
                                            font-size: var(--text-xs); color: var(--body-text-color-subdued); }
}
"""
"""On a phone, each row becomes a small block."""


@dataclass(frozen=True)
class Scored:
    """A checkpoint and its scores; None where one is missing. `file` is empty for the weights of the preset."""

    stage: str
    file: str
    epoch: int
    step: int
    phone_error: float | None
    similarity: float | None
    failure_rate: float | None
    score: float | None
    samples: tuple[Sample, ...]

    @property
    def key(self) -> str:
        """Tells the rows of one pick apart."""
        return f"{self.stage}:{self.file}"


@dataclass(frozen=True)
class Pick:
    """All scores of an experiment. `best`: stage -> file name, of the stages that were scored."""

    lines: int
    rows: tuple[Scored, ...]
    best: dict[str, str]

    def is_best(self, row: Scored) -> bool:
        """Whether a row is the best of its stage."""
        return self.best.get(row.stage) == row.file


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Changes when a file does; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def read_pick(path: Path) -> Pick | None:
    """The scores that a file holds; None where there is no such file, or it is none of scores."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        return None
    rows = tuple(_scored(row) for row in content["rows"] if isinstance(row, dict) and row.get("stage") in STAGES)
    best = content.get("best") if isinstance(content.get("best"), dict) else {}
    scored = {row.stage for row in rows}
    named = {stage: name for stage, name in best.items() if stage in scored and isinstance(name, str)}
    return Pick(int(_number(content.get("lines")) or 0), rows, named)


def _scored(row: Mapping[str, Any]) -> Scored:
    samples = row.get("samples")
    return Scored(
        row["stage"],
        str(row.get("file") or ""),
        int(_number(row.get("epoch")) or 0),
        int(_number(row.get("step")) or 0),
        *(_number(row.get(name)) for name in ("phone_error", "similarity", "failure_rate", "score")),
        tuple(
            Sample(*(str(sample.get(name) or "") for name in ("file", "truth", "text")))
            for sample in (samples if isinstance(samples, list) else [])
            if isinstance(sample, dict)
        ),
    )


def pick_html(pick: Pick | None, unscored: int, say: Translator) -> str:
    """A table for each stage, the best marked by a word; `unscored`: how many files have no score yet."""
    if pick is None or not pick.rows:
        return f'<p class="run-hint">{_safe(say("run.no_pick"))}</p>'
    parts = [f'<p class="run-hint">{_safe(say("run.pick_hint", lines=pick.lines))}</p>']
    if unscored:
        parts.append(f'<p class="run-hint">{_safe(say("run.unscored", count=unscored))}</p>')
    for stage, key in STAGES.items():
        rows = [row for row in pick.rows if row.stage == stage]
        if rows:
            parts.append(f"<h4>{_safe(say(key))}</h4>{_table(rows, pick, say)}")
    return "".join(parts)


def _table(rows: list[Scored], pick: Pick, say: Translator) -> str:
    heads = [
        say("run.column_checkpoint"),
        say("run.column_epoch"),
        say("run.column_step"),
        say("run.column_phone_error"),
        say("run.column_similarity"),
        say("run.column_failures"),
        say("run.column_score"),
    ]
    head = "".join(f'<th scope="col">{_safe(words)}</th>' for words in heads)
    lines = []
    for row in rows:
        best = pick.is_best(row)
        mark = f' <span class="mark">{_safe(say("run.best"))}</span>' if best else ""
        trained = (str(row.epoch), str(row.step)) if row.file else ("–", "–")
        cells = [*trained, _percent(row.phone_error), _plain(row.similarity), _percent(row.failure_rate)]
        cells.append(_plain(row.score))
        told = "".join(f'<td data-label="{_safe(name)}">{_safe(cell)}</td>' for name, cell in zip(heads[1:], cells))
        lines.append(f"<tr{' class=best' if best else ''}><td>{_safe(row_name(row, say))}{mark}</td>{told}</tr>")
    return f'<table class="run-table"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def row_name(row: Scored, say: Translator) -> str:
    """What a checkpoint is called: its file, or that it is the preset's own."""
    return row.file.removesuffix(".safetensors") or say("run.built_in")


def row_choices(pick: Pick | None, say: Translator) -> list[tuple[str, str]]:
    """Rows with samples as (words, value) for a dropdown, the best first."""
    rows = [row for row in pick.rows if row.samples] if pick is not None else []
    choices = []
    for row in sorted(rows, key=lambda row: not pick.is_best(row)):
        words = f"{row.stage.upper()} · {row_name(row, say)}"
        choices.append((say("run.choice_best", name=words) if pick.is_best(row) else words, row.key))
    return choices


def unscored(pick: Pick | None, experiment: Experiment) -> int:
    """How many weight files of the experiment have no score."""
    known = {(row.stage, row.file) for row in pick.rows} if pick is not None else set()
    return sum((stage, name) not in known for stage, names in saved_weights(experiment).items() for name in names)


def start_pick(services: Services, experiment: Experiment) -> Job:
    """Put the scoring of all checkpoints into the queue.

    Raises UserError: nothing_to_pick, job_twice, jobs_locked.
    """
    if not any(saved_weights(experiment).values()):
        raise UserError(
            "nothing_to_pick",
            "There are no weights of {name} yet; train it until it has saved some.",
            name=experiment.name,
        )
    return pick_work(experiment).start(services.jobs)


def best_weights(services: Services, pick: Pick | None) -> tuple[str, str]:
    """File names of the best VITS2 and GPT weights; empty for those of the preset.

    Raises UserError: pick_missing, weights_not_listed.
    """
    if pick is None or not pick.best:
        raise UserError("pick_missing", "The checkpoints have no scores yet; score them first.")
    vits2, gpt = pick.best.get("vits2", ""), pick.best.get("gpt", "")
    services.weights.vits2_file(vits2)
    services.weights.gpt_file(gpt)
    return vits2, gpt


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _safe(text: object) -> str:
    return html.escape(str(text), quote=True)
