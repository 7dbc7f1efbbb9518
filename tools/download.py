"""Download the published models that presets need, check what is there, or list it.

    python -m tools.download --list
    python -m tools.download --preset base --accept-licence
    python -m tools.download bge-m3 --endpoint hf-mirror.com
    python -m tools.download bge-m3 --verify

Run it again to go on after a stop. Files that were put into pretrained_models/NAME by hand are checked and taken; what
is whole needs no network.
"""

import argparse
import functools
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modules.config import load_preset
from modules.data.sources import clean_path
from modules.errors import UserError
from modules.hub.catalogue import Entry, find_entry, load_catalogue
from modules.hub.downloading import DownloadReport, check_licence, download
from modules.hub.inventory import EntryState, entry_folder, state_of
from modules.hub.judging import verify
from modules.hub.needs import needed_models
from modules.hub.source import MIRRORS, HubSource, load_source, save_source, source_from
from modules.paths import PRETRAINED_MODELS
from modules.progress import StepProgress
from tools.running import error_line, run_step, say

Say = Callable[[str], None]
FIRST_BYTES = 1_000_000
CHECKED = {
    "pinned": "hashes of the catalogue",
    "hub": "hashes that the hub stated",
    "format": "format only",
    "nothing": "not checked yet",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 2 a mistake or something damaged, 3 stopped."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (arguments.models_named or arguments.preset or arguments.list or arguments.remember):
        parser.error("name a model, or give --preset or --list")
    if arguments.remember and not arguments.endpoint:
        parser.error("--remember keeps what --endpoint tells; give both")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console or a file that does not know every letter
            stream.reconfigure(errors="backslashreplace")
    tell = functools.partial(print, flush=True, file=sys.stderr) if arguments.json else say
    work = functools.partial(_run, arguments, tell)
    # The numbers of the progress are bytes, and its message tells them in MB.
    return run_step(
        work,
        arguments.job,
        stopped="stopped; run the same command again to go on",
        say=lambda line: tell(line.split(", ", 1)[-1]),
        error_text=error_line,
    )


def _run(arguments: argparse.Namespace, tell: Say, progress: StepProgress) -> None:
    models = clean_path(arguments.folder)
    source = source_from(arguments.endpoint) if arguments.endpoint else None
    if arguments.remember and source is not None:
        tell(f"kept for later downloads: {save_source(models, source)}")
    entries = _entries(arguments)
    if arguments.list:
        listed = entries or list(load_catalogue().values())
        states = {entry.name: state_of(entry, models) for entry in listed}
        result = [_row(entry, states[entry.name]) for entry in listed]
        place = source or _known_source(models, False)
        for entry, row in zip(listed, result, strict=True):
            _list(row, tell)
            _list_missing(entry, states[entry.name], models, place, tell)
    elif arguments.verify:
        result = _verify(entries, models, tell, progress)
    elif not entries and arguments.preset:
        tell(f"{arguments.preset} needs no published model")
        result = []
    else:
        source = source or _known_source(models, any(state_of(entry, models).missing for entry in entries))
        result = _download(entries, models, source, arguments.accept_licence, tell, progress)
    if arguments.json:
        print(json.dumps({"models": result}, ensure_ascii=False, default=str))
    progress.finish({"folder": models, "source": source.endpoint if source else "", "models": result})


def _known_source(models: Path, needed: bool) -> HubSource:
    """The source that is set; a setting that cannot be read is no matter where nothing has to be downloaded."""
    try:
        return load_source(models)
    except UserError:
        if needed:
            raise
        return HubSource()


def _entries(arguments: argparse.Namespace) -> list[Entry]:
    """The named models and those of the preset, each once."""
    names = list(arguments.models_named)
    if arguments.preset:
        names += needed_models(load_preset(arguments.preset))
    return [find_entry(name) for name in dict.fromkeys(names)]


def _row(entry: Entry, state: EntryState) -> dict[str, Any]:
    return {
        "name": entry.name,
        "purpose": entry.purpose,
        "state": state.state,
        "bytes": state.bytes_total,
        "bytes_there": state.bytes_there,
        "missing": [file.name for file in state.missing],
        "missing_bytes": state.missing_bytes,
        "damaged": dict(state.damaged),
        "unconverted": list(state.unconverted),
        "checked": state.checked,
        "hashes": {file.name: "pinned" if file.sha256 else "hub" for file in entry.files},
        "repository": entry.repository,
        "revision": entry.revision,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "non_commercial": entry.non_commercial,
    }


def _list(row: dict[str, Any], tell: Say) -> None:
    licence = row["licence"] + (", not for commercial use" if row["non_commercial"] else "")
    there = f" ({CHECKED[row['checked']]})" if row["bytes_there"] else ""
    tell(f"{row['name']:16} {_megabytes(row['bytes']):>8}  {row['state']}{there}")
    tell(f"{'':16} {row['purpose']}; {licence}")
    trusted = [name for name, kind in row["hashes"].items() if kind == "hub"]
    if trusted:
        tell(f"{'':16} hash by the hub's word: {', '.join(trusted)}; of all others: pinned here")
    for name, problem in row["damaged"].items():
        tell(f"{'':16} damaged: {name}: {problem}")
    if row["unconverted"]:
        tell(f"{'':16} {_waits(row['name'], row['unconverted'])}")


def _list_missing(entry: Entry, state: EntryState, models: Path, source: HubSource, tell: Say) -> None:
    """What somebody has to fetch who does it by hand, from where, and where it belongs."""
    if state.missing:
        tell(f"{'':16} missing in {entry_folder(entry, models).absolute()}:")
    for file in state.missing:
        tell(f"{'':18} {file.name} ({_megabytes(file.size_bytes)}) {source.url(entry, file.name)}")


def _waits(name: str, pickles: Sequence[str]) -> str:
    return f"waits to be converted: {', '.join(pickles)}; python -m tools.download {name} does it, without a network"


def _verify(entries: list[Entry], models: Path, tell: Say, progress: StepProgress) -> list[dict[str, Any]]:
    result, bad = [], []
    for entry in entries:
        checks = verify(entry, models, _teller(progress, entry), progress.should_stop)
        for check in checks:
            tell(f"{entry.name}/{check.name}: {check.problem or 'good, by ' + CHECKED[check.checked]}")
        bad += [f"{entry.name}/{check.name}" for check in checks if check.problem]
        state = state_of(entry, models)
        for file in state.missing if not any(check.problem for check in checks) else ():
            tell(f"{entry.name}/{file.name}: missing")
        if state.unconverted:
            tell(f"{entry.name}: {_waits(entry.name, state.unconverted)}")
        result.append({**_row(entry, state), "files": [asdict(check) for check in checks]})
    if bad:
        raise UserError(
            "model_damaged",
            "{files} are damaged or not what they should be. Download them again: python -m tools.download {models}",
            files=", ".join(bad),
            models=" ".join(dict.fromkeys(name.split("/")[0] for name in bad)),
        )
    return result


def _download(
    entries: list[Entry],
    models: Path,
    source: HubSource,
    accept_licence: bool,
    tell: Say,
    progress: StepProgress,
) -> list[dict[str, Any]]:
    states = {entry.name: state_of(entry, models) for entry in entries}
    wanted = [entry for entry in entries if states[entry.name].missing]
    for entry in wanted:
        tell(f"{entry.name}: {_megabytes(states[entry.name].missing_bytes)} of {entry.repository}, {entry.purpose}")
        tell(f"  licence {entry.licence} ({entry.licence_url}): {entry.terms}")
    if wanted:
        left = sum(state.missing_bytes for state in states.values())
        tell(f"to download from {source.name}: {_megabytes(left)}")
        if source.is_modelscope and not all(entry.pinned for entry in wanted):
            tell("modelscope.cn numbers its revisions differently: its newest files are taken; pinned hashes decide")
    for entry in wanted:  # before the first byte of any
        check_licence(entry, accept_licence)
    result = []
    for entry in entries:
        report = download(entry, models, source, _teller(progress, entry), progress.should_stop, accept_licence)
        _tell_report(entry, report, tell)
        row = _row(entry, state_of(entry, models))
        result.append({**row, **{name: value for name, value in asdict(report).items() if name != "folder"}})
    return result


def _tell_report(entry: Entry, report: DownloadReport, tell: Say) -> None:
    for what, names in (
        ("found there, and good", report.taken),
        ("replaced", report.replaced),
        ("downloaded", report.fetched),
        ("converted", report.converted),
    ):
        if names:
            tell(f"{entry.name}: {what}: {', '.join(names)}")
    tell(f"{entry.name}: whole, in {report.folder}")


def _teller(progress: StepProgress, entry: Entry) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, file: str) -> None:
        if 0 < done < FIRST_BYTES <= total:
            return  # the speed of a small first file would foretell years
        progress.update(done, total, f"{entry.name}/{file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return tell


def _megabytes(count: int) -> str:
    return f"{-(-count // 1_000_000)} MB" if count else "size unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models_named", nargs="*", metavar="NAME", help="model of the catalogue; see --list")
    parser.add_argument("--preset", default="", help="all models that a preset needs")
    parser.add_argument(
        "--endpoint", default="", metavar="URL", help=f"download from there: {', '.join(MIRRORS)}, or a web address"
    )
    parser.add_argument("--remember", action="store_true", help="keep --endpoint for later downloads")
    parser.add_argument("--list", action="store_true", help="tell what there is, and download nothing")
    parser.add_argument("--verify", action="store_true", help="hash what is there, and download nothing")
    parser.add_argument(
        "--accept-licence", action="store_true", help="yes to licences that forbid commercial use; read them before"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON; all else goes to the error output"
    )
    parser.add_argument(
        "--models", dest="folder", default=str(PRETRAINED_MODELS), metavar="DIR", help="folder of all models"
    )
    parser.add_argument("--job", type=Path, metavar="FOLDER", help="folder for progress and result of this run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
