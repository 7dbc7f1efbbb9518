"""A dataset's report in words, tables and a drawing. Knows no components."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.jobs import Job, JobStore
from tools.webui.drawings import histogram_svg
from tools.webui.jobs_view import facts
from tools.webui.messages import Translator
from tools.webui.retelling import kind_of, retell
from tools.webui.steps import place_of

DEFECTS = {
    "bad_lines": "report.bad_lines",
    "missing": "report.missing",
    "unreadable": "report.unreadable",
    "no_text": "report.no_text",
    "low_confidence": "report.low_confidence",
    "duplicates": "report.duplicates",
    "rejected": "report.rejected",
}
_MOST_NAMES, _MOST_EXAMPLES = 20, 20


def report_key(lists: Sequence[Path]) -> str:
    """Names the work of reporting on lists."""
    return "\n".join(["report", *map(place_of, lists)])


def latest_report(jobs: JobStore, lists: Sequence[Path]) -> Job | None:
    """The newest finished report of lists."""
    key = report_key(lists)
    return next((job for job in jobs.jobs() if job.config().work_key == key and job.state() == "done"), None)


def report_html(report: Mapping[str, Any], say: Translator) -> str:
    """The report of `modules.data.report.build_report`."""
    lengths, sound = report["lengths"], report["sound"]
    rows = [
        (say("report.list"), ", ".join(map(str, report["manifests"]))),
        (say("report.clips"), str(report["clips"])),
        (say("report.minutes"), f"{report['minutes']:.1f}"),
    ]
    if report["clips"]:
        words = say(
            "report.length_line",
            shortest=f"{lengths['shortest']:.2f}",
            longest=f"{lengths['longest']:.2f}",
            mean=f"{lengths['mean']:.2f}",
        )
        rows.append((say("report.length"), words))
    rows += _sound(sound, say)
    parts = [facts(rows)]
    if report["clips"]:
        parts.append(f"<h4>{html.escape(say('report.lengths'))}</h4>")
        drawing = histogram_svg(lengths["histogram"], say("report.lengths"))
        parts.append(f'<div class="drawing-box">{drawing}</div>')
    parts += [
        _names(say("report.speakers"), report["speakers"], say),
        _names(say("report.languages"), report["languages"], say),
    ]
    return "".join([*parts, f"<h4>{html.escape(say('report.defects'))}</h4>", _defects(report, say)])


def _sound(sound: Mapping[str, Any], say: Translator) -> list[tuple[str, str]]:
    if not sound["measured"]:
        return []
    rows = [(say("report.measured"), str(sound["measured"]))]
    if sound["loudness_lufs"] is not None:
        spread = f" ± {sound['loudness_spread_db']:.1f} dB" if sound["loudness_spread_db"] is not None else ""
        rows.append((say("report.loudness"), f"{sound['loudness_lufs']:.1f} LUFS{spread}"))
    rows.append((say("report.clipped"), f"{100 * sound['clipped_share']:.1f} %"))
    rows.append((say("report.silent"), f"{100 * (sound['silent_share'] or 0):.1f} %"))
    return rows


def _names(heading: str, rows: list[Mapping[str, Any]], say: Translator) -> str:
    lines = [
        (row["name"] or "–", say("report.share", clips=row["clips"], minutes=f"{row['minutes']:.1f}"))
        for row in rows[:_MOST_NAMES]
    ]
    if len(rows) > _MOST_NAMES:
        lines.append(("…", str(len(rows) - _MOST_NAMES)))
    return f"<h4>{html.escape(heading)}</h4>{facts(lines)}"


def _defects(report: Mapping[str, Any], say: Translator) -> str:
    parts = []
    for name, key in DEFECTS.items():
        found = report[name]
        parts.append(f"<details><summary>{html.escape(say(key))}: {found['count']}</summary>")
        if found.get("reasons"):
            lines = _reasons(found["reasons"], say)[:_MOST_EXAMPLES]
        else:
            lines = [_example(entry, say) for entry in found["examples"][:_MOST_EXAMPLES]]
        parts.append(f"{facts(lines)}</details>")
    return "".join(parts)


def _reasons(reasons: Sequence[Mapping[str, Any]], say: Translator) -> list[tuple[str, str]]:
    """How often, and why: reasons that differ in a name or a number only are one, told by the most frequent."""
    counts: Counter[str] = Counter()
    told: dict[str, str] = {}
    for entry in reasons:
        kind = kind_of(str(entry["reason"]))
        counts[kind] += int(entry["count"])
        told.setdefault(kind, retell(str(entry["reason"]), say))
    return [(str(count), told[kind]) for kind, count in counts.most_common()]


def _example(entry: Mapping[str, Any], say: Translator) -> tuple[str, str]:
    """Where a defect is: a line of the list if it has one, else the file."""
    place = say("edit.line", line=entry["line"]) if "line" in entry else Path(str(entry.get("file", ""))).name or "–"
    words = [str(entry[name]) for name in ("audio", "same_as", "confidence") if entry.get(name) is not None]
    words += [retell(str(entry["reason"]), say)] if entry.get("reason") else []
    return place, " · ".join(words)
