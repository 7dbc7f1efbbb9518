"""The page of a judgement: a folder with report.html, sounds and spectrograms, and nothing from elsewhere."""

import html
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from modules.audio.io import read
from modules.checkpoint import write_atomic
from modules.evaluation.clips import in_order
from modules.evaluation.failures.rules import KINDS
from modules.evaluation.report.spectrogram import RATE, spectrogram_png
from modules.evaluation.results import Finding, Progress, Table, cell, silent

TEMPLATE = Path(__file__).with_name("page.html")
MOST_OUTPUTS = 240
"""The worst ones; a page with thousands of players opens nowhere."""
_CARDS = (
    ("similarity", "similarity to the voice", "{:.2f}"),
    ("similarity_same", "two clips of one speaker", "{:.2f}"),
    ("similarity_different", "two speakers", "{:.2f}"),
    ("identified", "right voice", "{:.0%}"),
    ("f0_correlation", "pitch follows the voice", "{:.2f}"),
    ("lost_rate", "lost words", "{:.1%}"),
    ("repeated_rate", "repeated words", "{:.1%}"),
    ("lost_or_repeated_rate", "lost or repeated", "{:.1%}"),
    ("runaway_rate", "did not end", "{:.1%}"),
    ("silent_rate", "silent", "{:.1%}"),
    ("clipped_rate", "clipped", "{:.1%}"),
    ("plausible_rate", "odd texts spoken", "{:.0%}"),
    ("melody_rate", "melody of questions", "{:.0%}"),
    ("leak_rate", "leaked words", "{:.1%}"),
    ("token_ratio", "tokens against usual", "{:.2f}"),
    ("copy_distance", "copy, nepers", "{:.2f}"),
    ("real_time_factor", "real-time factor", "{:.2f}"),
)


def write_page(
    folder: Path,
    document: Mapping[str, Any],
    findings: Sequence[Finding],
    wavs: Path,
    progress: Progress = silent,
) -> Path:
    """Write `report.html` with `wavs/` and `spectrograms/` into a folder; all text is escaped.

    Args:
        document: see `report.document`.
        findings: of the parts, whose items have outputs and whose tables are shown.
        wavs: folder of the outputs.
    """
    folder = Path(folder)
    for name in ("wavs", "spectrograms"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    items = outputs_of(findings, document["settings"]["guards"])[:MOST_OUTPUTS]
    kept = {item["wav"] for item in items}
    for name in ("wavs", "spectrograms"):
        for old in (folder / name).iterdir():
            if old.stem + ".wav" not in kept:
                old.unlink()
    for number, item in enumerate(items):
        _copy(folder, wavs / item["wav"])
        progress("writing the page", number + 1, len(items))
    languages = in_order({str(item["language"]) for item in items})
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_escape(f"{document['model']['folder']}: what was measured"),
        lead=_lead(document),
        cards="".join(_card(document, *card) for card in _CARDS),
        languages=_languages(document),
        choices="".join(f'<option value="{_escape(one)}">{_escape(one)}</option>' for one in languages),
        outputs="".join(_output(item) for item in items),
        tables="".join(_table(table) for finding in findings for table in finding.tables),
    )
    return write_atomic(folder / "report.html", text.encode("utf-8"))


def outputs_of(findings: Sequence[Finding], guards: str = "") -> list[dict[str, Any]]:
    """Every output once, failures first, then by error: what any part found about it, under the name of its wav.

    Args:
        guards: as they were asked for; where they were off, they were so for every part.
    """
    found: dict[str, dict[str, Any]] = {}
    for finding in findings:
        for place, values in (("", finding.values), *finding.values.items()):
            if isinstance(values, Mapping) and isinstance(values.get("items"), list):
                off = guards == "off" or (finding.part == "failures" and place == "off")
                for item in values["items"]:
                    for wav in _wavs_of(item):
                        known = found.setdefault(wav, {"part": finding.part, "guards": ""})
                        # A part that came before knows the output already, and not how it was spoken.
                        known["guards"] = "off" if off else known["guards"]
                        told = {
                            k: v
                            for k, v in item.items()
                            if v is not None and not (k == "floor" and isinstance(v, Mapping))
                        }
                        known |= {**told, "wav": wav}
    for item in found.values():
        # Some parts note no words; what another part told of the same output stands.
        item.setdefault("text", item.get("voice", ""))
        item["tags"] = [kind for kind in KINDS if item.get(kind) is True]
        item["tags"] += [item["why"]] if item.get("why") else []
        item.setdefault("language", item.get("pair", "-"))
        if "error" not in item and isinstance(item.get("errors"), Mapping):
            item["error"] = max(item["errors"].values())
    return sorted(found.values(), key=lambda item: (-len(item["tags"]), -item.get("error", -1.0), item["wav"]))


def _wavs_of(item: Mapping[str, Any]) -> list[str]:
    """The outputs of an item: one, the two of a pair, or some of each version of a reference."""
    several = item.get("wavs") or ()
    lists = several.values() if isinstance(several, Mapping) else [several]
    return [item["wav"]] if item.get("wav") else [wav for wavs in lists for wav in wavs]


def _copy(folder: Path, wav: Path) -> None:
    copied, image = folder / "wavs" / wav.name, folder / "spectrograms" / f"{wav.stem}.png"
    if wav.is_file() and not copied.is_file():
        shutil.copyfile(wav, copied)
    if wav.is_file() and not image.is_file():
        write_atomic(image, spectrogram_png(read(wav, RATE).numpy()))


def _lead(document: Mapping[str, Any]) -> str:
    files = ", ".join(f"{name} step {file['step']}" for name, file in document["model"]["files"].items())
    outputs = ", ".join(f"{count} in {group} voices" for group, count in document["settings"]["outputs"].items())
    guards = document["settings"]["guards"]
    return _escape(f"{files}. Outputs: {outputs}. Guards: {guards}. Nobody listened: every figure is a machine's.")


def _card(document: Mapping[str, Any], key: str, name: str, form: str) -> str:
    value = document.get(key)
    if value is None:
        reason = _escape(document["not_measured"].get(key, ""))
        return (
            f'<div class="card none"><div class="name">{name}</div><div class="value">not measured</div>'
            f'<div class="more">{reason}</div></div>'
        )
    more = []
    if key in document["intervals"]:
        low, high = (form.format(end) for end in document["intervals"][key])
        more.append(f"{low} to {high}")
    elif key in document["counts"]:
        more.append("-")
    if key in document["floors"]:
        more.append(f"floor {form.format(document['floors'][key])}")
    if key == "identified":
        more.append(f"of {document['identified_of']}")
    return (
        f'<div class="card"><div class="name">{name}</div><div class="value">{form.format(value)}</div>'
        f'<div class="more">{_escape("; ".join(more))}</div></div>'
    )


def _languages(document: Mapping[str, Any]) -> str:
    rows = []
    for language, found in document["languages"].items():
        if found["error"] is None:
            cells = f'<td colspan="4">not measured: {_escape(found.get("reason", ""))}</td>'
        else:
            floor = found["floor"]
            mark = f'<b style="left:{min(100, 100 * floor):.1f}%"></b>' if floor is not None else ""
            interval = "-" if found["low"] is None else f"{found['low']:.1%} to {found['high']:.1%}"
            cells = (
                f'<td class="number">{found["error"]:.1%}</td><td class="number">{interval}</td>'
                f'<td class="number">{"unknown" if floor is None else f"{floor:.1%}"}</td>'
                f'<td><div class="bar"><i style="width:{min(100, 100 * found["error"]):.1f}%"></i>{mark}</div></td>'
            )
        rows.append(f'<tr><td>{_escape(language)}</td><td class="number">{found["count"]}</td>{cells}</tr>')
    head = (
        '<tr><th>language</th><th class="number">sentences</th><th class="number">phone error</th>'
        '<th class="number">95 %</th><th class="number">floor</th><th>error, and the floor as a line</th></tr>'
    )
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _output(item: Mapping[str, Any]) -> str:
    error, seconds = item.get("error"), item.get("seconds")
    facts = [str(item["language"]), str(item.get("voice", "")), str(item.get("group", item["part"]))]
    facts += [f"{seconds:.1f} s"] if seconds is not None else []
    facts += [f"floor {item['floor']:.0%}"] if isinstance(item.get("floor"), float) else []
    facts += ["guards off"] if item["guards"] == "off" else []
    tags = "".join(f'<span class="tag">{_escape(tag)}</span>' for tag in item["tags"])
    name, stem = _escape(item["wav"]), _escape(Path(item["wav"]).stem)
    told = f'<span class="error">{error:.0%} phones wrong</span>' if error is not None else "not heard"
    return (
        f'<article class="output" data-error="{-1 if error is None else error:.4f}" '
        f'data-failures="{len(item["tags"])}" data-seconds="{seconds or 0:.2f}" '
        f'data-language="{_escape(item["language"])}" data-voice="{_escape(item.get("voice", ""))}">'
        f'<div class="text" dir="auto">{_escape(item["text"])}</div>'
        f'<div class="facts">{told} · {_escape(" · ".join(filter(None, facts)))}</div><div>{tags}</div>'
        f'<div class="sound"><img loading="lazy" src="spectrograms/{stem}.png" alt="spectrogram">'
        f'<audio controls preload="none" src="wavs/{name}"></audio></div></article>\n'
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_escape(name)}</th>" for name in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_escape(cell(value))}</td>" for value in row) + "</tr>" for row in table.rows
    )
    note = f'<p class="note">{_escape(table.note)}</p>' if table.note else ""
    return (
        f"<details><summary>{_escape(table.title)}</summary>"
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{note}</details>'
    )


def _escape(value: object) -> str:
    return html.escape(str(value), quote=True)
