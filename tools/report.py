"""Report what a dataset is like: how much of whom in which language, how it sounds, what is wrong with it.

python -m tools.report --input output/asr/manifest.jsonl
python -m tools.report --input a.list b.list --audio-folder wavs --json report.json
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from modules.data.report import ReportOptions, build_report
from modules.data.sources import clean_path
from modules.errors import UserError
from modules.progress import StepProgress
from tools.flags import add_options, options_from
from tools.running import run_step, write_found

LISTS_OF_A_FOLDER = ("manifest.jsonl", "clips.jsonl")
_BAR_WIDTH = 30
_MOST_NAMES = 20


def main(argv: list[str] | None = None) -> int:
    """Parse flags, build the report, print it; 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    # The report itself goes to the standard output, and nothing else does.
    say = functools.partial(print, file=sys.stderr, flush=True)
    return run_step(functools.partial(_run, arguments), arguments.job, stopped="stopped", say=say)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    options = options_from(arguments, ReportOptions)
    lists = [_list_of(clean_path(path)) for path in arguments.input]
    folder = clean_path(arguments.audio_folder) if arguments.audio_folder else None
    report = build_report(
        lists,
        folder,
        options,
        on_progress=lambda done, total, what: progress.update(done, total, what),
        should_stop=progress.should_stop,
    )
    if arguments.json:
        target = clean_path(arguments.json)
        write_found(target, report)
    print("\n".join(table(report)))
    progress.finish(report)


def table(report: dict[str, Any]) -> list[str]:
    """The report of `modules.data.report.build_report` as lines for people."""
    lengths, sound = report["lengths"], report["sound"]
    lines = [f"{', '.join(report['manifests'])}: {report['clips']} clips, {report['minutes']:.1f} min"]
    if report["clips"]:
        lines.append(f"length: {lengths['shortest']:.2f} to {lengths['longest']:.2f} s, mean {lengths['mean']:.2f} s")
        most = max(row["clips"] for row in lengths["histogram"])
        for row in lengths["histogram"]:
            upper = f"{row['to']:4.1f}" if row["to"] is not None else " ..."
            bar = "#" * -(-row["clips"] * _BAR_WIDTH // most)
            lines.append(f"  {row['from']:4.1f} to {upper} s {row['clips']:7d} {bar}".rstrip())
    for title, rows in (("speakers", report["speakers"]), ("languages", report["languages"])):
        lines.append(f"{title}: {len(rows)}")
        lines += [
            f"  {row['minutes']:8.1f} min {row['clips']:7d} clips  {row['name'] or '-'}" for row in rows[:_MOST_NAMES]
        ]
        if len(rows) > _MOST_NAMES:
            lines.append(f"  and {len(rows) - _MOST_NAMES} more")
    if sound["measured"]:
        level = "silence" if sound["loudness_lufs"] is None else f"{sound['loudness_lufs']:.1f} LUFS"
        spread = "" if sound["loudness_spread_db"] is None else f" (spread {sound['loudness_spread_db']:.1f} dB)"
        clipped, silent = 100 * sound["clipped_share"], 100 * (sound["silent_share"] or 0)
        lines.append(f"sound of {sound['measured']} clips: {level}{spread}")
        lines.append(f"  {clipped:.1f} % of them clipped, {silent:.1f} % of the time silent")
    return [*lines, *_defects(report)]


def _defects(report: dict[str, Any]) -> list[str]:
    titles = {
        "bad_lines": "lines that cannot be used",
        "missing": "audio files missing",
        "unreadable": "audio files unreadable",
        "no_text": "lines without text",
        "low_confidence": "unsure transcripts",
        "duplicates": "duplicates",
        "rejected": "left out by earlier steps",
    }
    lines = []
    for key, title in titles.items():
        found = report[key]
        lines.append(f"{title}: {found['count']}")
        for entry in found.get("reasons", []):
            lines.append(f"  {entry['count']:7d}  {entry['reason']}")
        if key == "bad_lines":
            lines += [f"  {e['file']}, line {e['line']}: {e['reason']}" for e in found["examples"]]
    return lines


def _list_of(path: Path) -> Path:
    """A list, or the list in the folder of an earlier step."""
    if path.is_dir():
        for name in LISTS_OF_A_FOLDER:
            if (path / name).is_file():
                return path / name
        raise UserError(
            "manifest_missing",
            "There is no dataset list {file}; check the path, or run the step that writes it.",
            file=str(path / LISTS_OF_A_FOLDER[0]),
        )
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.report", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="LIST", help=".list, .jsonl or .tsv, or a step's output folder"
    )
    parser.add_argument("--audio-folder", metavar="DIR", help="look for each audio file here, by its name")
    parser.add_argument("--json", metavar="PATH", help="write the report as JSON, too")
    parser.add_argument("--job", type=Path, metavar="FOLDER", help="folder for progress and result")
    add_options(parser, ReportOptions, show_defaults=False, metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
