"""Build a corpus store, from eSpeak NG or from recordings.

    python -m tools.corpus synthetic --output DIR --language en=16000 --language de=6000 --language en+de=300
    python -m tools.corpus recorded --manifest MANIFEST --output DIR
    python -m tools.corpus clean --corpus DIR --recognizer FILE --output REPORT.json
    python -m tools.corpus texts --language en=0        (only count what text there is)

Run it again to continue after an interruption.
"""

import argparse
import functools
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.corpus.cleaning import clean_phrases, phrase_key
from modules.corpus.sources import SHARE
from modules.corpus.splits import text_split
from modules.corpus.switching import languages_of
from modules.corpus.synthetic import Report, SyntheticConfig, build_synthetic
from modules.corpus.texts import Phrase, gather_all
from modules.data.manifest import Utterance, read_manifest
from modules.data.store import FeatureStore
from modules.errors import Stopped, UserError
from modules.evaluation.mismatches import MismatchOptions, find_mismatches, save_report
from modules.evaluation.sets.held_out import held_out_keys
from modules.progress import REFUSED_EXIT, STOPPED_EXIT, StepProgress
from tools.flags import add_options, options_from


def main(argv: list[str] | None = None) -> int:
    """Parse flags, build, report; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    try:
        with StepProgress(arguments.job, say=functools.partial(print, flush=True)) as progress:
            if arguments.command == "texts":
                progress.finish({"phrases": _count_texts(arguments)})
                return 0
            if arguments.command == "clean":
                progress.finish(_clean(arguments, progress))
                return 0
            started = time.monotonic()
            build = _synthetic if arguments.command == "synthetic" else _recorded
            report = build(arguments, progress)
            _print_report(report, time.monotonic() - started)
            progress.finish({"folder": arguments.output, **_facts(report)})
    except UserError as error:
        print(error, file=sys.stderr)
        return REFUSED_EXIT
    except (Stopped, KeyboardInterrupt):
        print("stopped; run the same command again to continue", file=sys.stderr)
        return STOPPED_EXIT
    return 0


def _synthetic(arguments: argparse.Namespace, progress: StepProgress) -> Report:
    counts = {language: _number(count) for language, count in map(_pair, arguments.language)}
    texts = _texts(arguments, list(dict.fromkeys(tag for name in counts for tag in languages_of(name))))
    config = SyntheticConfig(
        counts, arguments.seed, None if arguments.no_noise else arguments.noise_db, arguments.chunk
    )
    return build_synthetic(
        arguments.output,
        config,
        texts,
        processes=arguments.processes,
        on_progress=progress.update,
        should_stop=_stop_wish(arguments.output, progress),
    )


def _recorded(arguments: argparse.Namespace, progress: StepProgress) -> Report:
    from modules.corpus.recorded import build_recorded  # loads torch, which synthetic speech does not need

    utterances = read_manifest(arguments.manifest)
    return build_recorded(
        arguments.output,
        utterances,
        processes=arguments.processes,
        on_progress=progress.update,
        should_stop=_stop_wish(arguments.output, progress),
    )


def _texts(arguments: argparse.Namespace, languages: list[str]) -> dict[str, list[Phrase]]:
    files: dict[str, list[Path]] = {}
    for language, path in map(_pair, arguments.text_file):
        files.setdefault(language, []).append(Path(path))
    recorded = [utterance for path in arguments.manifest for utterance in read_manifest(path)]
    shares, held_out = [SHARE, *arguments.share], held_out_keys()
    spoken = {language: _transcripts(recorded, language) for language in languages}
    requests = [(tag, files.get(tag, ()), spoken[tag][0], arguments.seed, shares, held_out) for tag in languages]
    found = {}
    for language, phrases in zip(languages, gather_all(requests, arguments.processes), strict=True):
        found[language] = [phrase for phrase in phrases if phrase_key(phrase.text) not in spoken[language][1]]
        sources = Counter(phrase.source for phrase in found[language])
        splits = Counter(text_split(phrase.text) for phrase in found[language])
        print(f"{language}: {len(found[language])} phrases, {dict(sources)}, {dict(splits)}", flush=True)
    return found


def _transcripts(recorded: list[Utterance], language: str) -> tuple[list[str], set[str]]:
    """Transcripts of training clips, and the keys of what dev and test clips say (nobody may learn to read those)."""
    tags = {"zh": ("zh", "zh-CN")}.get(language, (language,))
    spoken = [utterance for utterance in recorded if utterance.language in tags]
    held = [utterance.text for utterance in spoken if utterance.split != "train"]
    keys = {phrase_key(piece) for text in held for piece in (text, *clean_phrases(text, language))}
    return [utterance.text for utterance in spoken if utterance.split == "train"], keys


def _count_texts(arguments: argparse.Namespace) -> dict[str, int]:
    found = _texts(arguments, [_pair(value)[0] if "=" in value else value for value in arguments.language])
    return {language: len(phrases) for language, phrases in found.items()}


def _clean(arguments: argparse.Namespace, progress: StepProgress) -> dict[str, Any]:
    """List the recorded clips that do not say what their text says."""
    # These load torch, which synthetic speech does not need.
    from modules.checkpoint import file_hash
    from modules.evaluation.recognizer import load_recognizer
    from modules.runtime import pick_device, set_threads

    device = pick_device(arguments.device)
    if arguments.threads:
        set_threads(arguments.threads)
    model = load_recognizer(arguments.recognizer).to(device)
    options, languages = options_from(arguments, MismatchOptions), arguments.language or ()
    found = find_mismatches(
        FeatureStore(arguments.corpus), model.hear, model.sample_rate, options, languages,
        progress.update, progress.should_stop,
    )  # fmt: skip
    files = {"corpus": str(arguments.corpus), "recognizer": str(arguments.recognizer)}
    save_report(files | {"recognizer_hash": file_hash(arguments.recognizer)} | found, arguments.output)
    for language, facts in found["languages"].items():
        if languages and language not in languages:
            continue
        limit = min(facts["limits"].values()) if "limits" in facts else float("nan")
        print(
            f"{language:<8}{facts['clips']:>7} clips, {facts['dropped']:>5} dropped, "
            f"{facts['not_judged']:>6} not judged, median error {facts.get('median_error', float('nan')):.2f}, "
            f"limit {limit:.2f}  "
            f"{facts.get('why', '')}"
        )
    return {"file": arguments.output, **found["counts"]}


def _facts(report: Report) -> dict[str, Any]:
    return {
        "utterances": dict(report.utterances),
        "seconds": dict(report.seconds),
        "skipped": dict(report.skipped),
        "present": report.present,
    }


def _print_report(report: Report, elapsed: float) -> None:
    print(f"{'part':<16}{'utterances':>12}{'hours':>9}")
    for part in sorted(report.utterances):
        print(f"{part:<16}{report.utterances[part]:>12}{report.seconds[part] / 3600:>9.2f}")
    total = sum(report.seconds.values())
    print(f"{'new in all':<16}{sum(report.utterances.values()):>12}{total / 3600:>9.2f}")
    print(f"there before: {report.present}")
    for split, names in sorted(report.speakers.items()):
        print(f"speakers {split}: {len(names)}")
    for reason, count in sorted(report.skipped.items()):
        if count:
            print(f"skipped, {reason}: {count}")
    print(f"{elapsed:.0f} s, {total / max(elapsed, 1e-9):.0f} times real time")


def _stop_wish(folder: Path, progress: StepProgress) -> Callable[[], bool]:
    """Whether a stop is asked of the job, or by a file `stop` in the corpus, where an old one does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    stop = folder / "stop"
    stop.unlink(missing_ok=True)
    return lambda: stop.exists() or progress.should_stop()


def _pair(value: str) -> tuple[str, str]:
    name, found, rest = value.partition("=")
    if not found or not name or not rest:
        raise UserError("corpus_bad_pair", "{value} is not NAME=VALUE, for example en=1000.", value=value)
    return name, rest


def _number(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise UserError("corpus_bad_count", "{value} is not a number of utterances.", value=value)
    return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.corpus", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    synthetic = commands.add_parser("synthetic", help="speak installed texts with eSpeak NG")
    texts = commands.add_parser("texts", help="count the texts that are there")
    for command in (synthetic, texts):
        command.add_argument("--language", action="append", required=True, metavar="LANG=UTTERANCES")
        command.add_argument("--text-file", action="append", default=[], metavar="LANG=PATH", help="your own text")
        command.add_argument("--manifest", action="append", type=Path, default=[], help="also speak its transcripts")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument(
            "--share", action="append", type=Path, default=[], metavar="FOLDER",
            help="a further share folder, of packages unpacked with dpkg -x",
        )  # fmt: skip
    synthetic.add_argument("--noise-db", type=float, default=-66.0, help="level of the added noise, dBFS")
    synthetic.add_argument("--no-noise", action="store_true")
    synthetic.add_argument("--chunk", type=int, default=256, help="utterances per worker life")
    recorded = commands.add_parser("recorded", help="store the recordings of a manifest")
    recorded.add_argument("--manifest", type=Path, required=True)
    cleaning = commands.add_parser("clean", help="list the recorded clips that do not say what their text says")
    cleaning.add_argument("--corpus", type=Path, required=True, help="corpus store")
    cleaning.add_argument("--recognizer", type=Path, required=True, help="recogniser made by tools.evaluate")
    cleaning.add_argument("--output", type=Path, required=True, help="the report; tools.extract --drop reads it")
    cleaning.add_argument("--language", action="append", help="judge only this one; may be repeated")
    cleaning.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    cleaning.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    add_options(cleaning.add_argument_group("what is dropped"), MismatchOptions)
    for command in (synthetic, texts, recorded, cleaning):
        command.add_argument(
            "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
        )
    for command in (synthetic, texts, recorded):
        command.add_argument("--processes", type=int, default=2)
    for command in (synthetic, recorded):
        command.add_argument("--output", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
