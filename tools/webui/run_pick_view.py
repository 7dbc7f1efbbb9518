"""The scores of an experiment's weights as tables, with what they mean. Knows no components."""

from collections.abc import Sequence

from modules.evaluation.picking.choice import DISTANCE_WEIGHTS
from tools.webui.jobs_view import facts, safe
from tools.webui.messages import Translator
from tools.webui.retelling import retell
from tools.webui.run_pick import Pick, Scored
from tools.webui.run_view import STAGES, hint

DISTANCE_COLUMNS = {"vits2": "run.column_mel", "gpt": "run.column_token_loss"}
FAILURES = {
    "silent": "run.failure_silent",
    "not finite": "run.failure_not_finite",
    "no speech": "run.failure_no_speech",
    "too short": "run.failure_too_short",
    "too long": "run.failure_too_long",
    "did not end": "run.failure_did_not_end",
    "given up": "run.failure_given_up",
}
"""Why an output is no usable speech, as the scoring calls it."""
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
.run-note { font-weight: 400; font-size: var(--text-sm); color: var(--body-text-color-subdued);
            overflow-wrap: anywhere; }
.run-columns { margin: 0.3rem 0 0.6rem; }
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


def pick_html(pick: Pick | None, unscored: int, outdated: bool, say: Translator) -> str:
    """A table for each stage, the best marked by a word.

    Args:
        pick: without scores of files that are others now.
        unscored: how many files have no score.
        outdated: what was the best is not there any more.
        say: the reader's language.
    """
    if pick is None or not pick.rows:
        return hint(say("run.no_pick"))
    lines = say("run.pick_lines" if pick.held_out else "run.pick_lines_trained", lines=pick.lines)
    parts = [hint(lines)]
    if outdated:
        parts.append(hint(say("run.best_outdated")))
    if unscored:
        parts.append(hint(say("run.unscored", count=unscored)))
    for stage, key in STAGES.items():
        rows = [row for row in pick.rows if row.stage == stage]
        if rows:
            parts.append(f"<h4>{safe(say(key))}</h4>{_simpler(rows, pick, say)}{_table(rows, pick, say)}")
    return "".join([*parts, _columns(say)])


def _simpler(rows: Sequence[Scored], pick: Pick, say: Translator) -> str:
    """Why the best is not the one with the highest score, where it is not."""
    best = next((row for row in rows if pick.is_best(row) and row.score is not None), None)
    top = max((row for row in rows if row.score is not None), key=lambda row: row.score, default=None)
    if best is None or top is None or top.score <= best.score:
        return ""
    return hint(say("run.best_simpler", top=row_name(top, say), best=row_name(best, say)))


def _table(rows: Sequence[Scored], pick: Pick, say: Translator) -> str:
    heads = [
        say("run.column_weights"),
        say("run.column_epoch"),
        say("run.column_step"),
        say("run.column_phone_error"),
        say("run.column_similarity"),
        say(DISTANCE_COLUMNS[rows[0].stage]),
        say("run.column_failures"),
        say("run.column_score"),
    ]
    head = "".join(f'<th scope="col">{safe(words)}</th>' for words in heads)
    lines = []
    for row in rows:
        best = pick.is_best(row)
        mark = f' <span class="mark">{safe(say("run.best"))}</span>' if best else ""
        error = _note(retell(row.error, say)) if row.error else ""
        trained = (str(row.epoch), str(row.step)) if row.file else ("–", "–")
        cells = [safe(cell) for cell in (*trained, _percent(row.phone_error), _plain(row.similarity))]
        cells += [safe(_plain(row.distance)), _failures(row, say), safe(_plain(row.score))]
        told = "".join(f'<td data-label="{safe(name)}">{cell}</td>' for name, cell in zip(heads[1:], cells))
        lines.append(f"<tr{' class=best' if best else ''}><td>{safe(row_name(row, say))}{mark}{error}</td>{told}</tr>")
    return f'<table class="run-table"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _failures(row: Scored, say: Translator) -> str:
    if row.error:
        return safe("–")  # it was not heard at all
    causes = (f"{count} × {say(FAILURES[name]) if name in FAILURES else name}" for name, count in row.failures)
    causes_told = "; ".join(causes)
    return safe(_percent(row.failure_rate)) + (_note(causes_told) if causes_told else "")


def _columns(say: Translator) -> str:
    """What the columns mean."""
    weights = {stage: f"{weight:g}" for stage, weight in DISTANCE_WEIGHTS.items()}
    rows = [
        (say("run.column_phone_error"), say("run.about_phone_error")),
        (say("run.column_similarity"), say("run.about_similarity")),
        (say("run.column_mel"), say("run.about_mel")),
        (say("run.column_token_loss"), say("run.about_token_loss")),
        (say("run.column_failures"), say("run.about_failures")),
        (say("run.column_score"), say("run.about_score", **weights)),
    ]
    return f'<details class="run-columns"><summary>{safe(say("run.columns"))}</summary>{facts(rows)}</details>'


def row_name(row: Scored, say: Translator) -> str:
    """What weights are called: their file, or that they are the preset's own."""
    return row.file.removesuffix(".safetensors") or say("run.built_in")


def row_choices(pick: Pick | None, say: Translator) -> list[tuple[str, str]]:
    """Rows with samples as (words, value) for a dropdown, the best first."""
    rows = [row for row in pick.rows if row.samples] if pick is not None else []
    choices = []
    for row in sorted(rows, key=lambda row: not pick.is_best(row)):
        words = f"{say(STAGES[row.stage])} · {row_name(row, say)}"
        choices.append((say("run.choice_best", name=words) if pick.is_best(row) else words, row.key))
    return choices


def _note(words: str) -> str:
    return f'<div class="run-note">{safe(words)}</div>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
