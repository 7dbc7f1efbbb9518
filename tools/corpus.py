"""Build a corpus store, from eSpeak NG or from recordings.

    python -m tools.corpus synthetic --output DIR --language en=16000 --language de=6000 [--text-file en=PATH]
    python -m tools.corpus recorded --manifest MANIFEST --output DIR
    python -m tools.corpus texts --language en=0        (only count what text there is)

Run it again to continue after an interruption.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from modules.corpus.recorded import build_recorded
from modules.corpus.splits import text_split
from modules.corpus.synthetic import Report, SyntheticConfig, build_synthetic, gather_texts
from modules.corpus.texts import Phrase, clean_phrases, phrase_key
from modules.data.manifest import Utterance, read_manifest
from modules.errors import Stopped, UserError

_PROGRESS_SECONDS = 10.0


class _Progress:
    """Prints a line now and then."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._last < _PROGRESS_SECONDS and done < total:
            return
        self._last = now
        rate = max(done - self._first, 1) / max(now - self._started, 1e-9)
        print(f"{done}/{total} utterances, {rate:.0f}/s, {(total - done) / rate:.0f} s left", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Parse flags, build, report."""
    arguments = _parser().parse_args(argv)
    started = time.monotonic()
    try:
        if arguments.command == "texts":
            _count_texts(arguments)
            return 0
        report = _synthetic(arguments) if arguments.command == "synthetic" else _recorded(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 3
    _print_report(report, time.monotonic() - started)
    return 0


def _synthetic(arguments: argparse.Namespace) -> Report:
    counts = {language: _number(count) for language, count in map(_pair, arguments.language)}
    texts = _texts(arguments, list(counts))
    config = SyntheticConfig(
        counts, arguments.seed, None if arguments.no_noise else arguments.noise_db, arguments.chunk
    )
    stop = _stop_file(arguments.output)
    return build_synthetic(
        arguments.output, config, texts, processes=arguments.processes, on_progress=_Progress(), should_stop=stop.exists
    )


def _recorded(arguments: argparse.Namespace) -> Report:
    utterances = read_manifest(arguments.manifest)
    stop = _stop_file(arguments.output)
    return build_recorded(
        arguments.output, utterances, processes=arguments.processes, on_progress=_Progress(), should_stop=stop.exists
    )


def _texts(arguments: argparse.Namespace, languages: list[str]) -> dict[str, list[Phrase]]:
    files: dict[str, list[Path]] = {}
    for language, path in map(_pair, arguments.text_file):
        files.setdefault(language, []).append(Path(path))
    recorded = [utterance for path in arguments.manifest for utterance in read_manifest(path)]
    found = {}
    for language in languages:
        train, held = _transcripts(recorded, language)
        phrases = gather_texts(language, files.get(language, ()), train, arguments.seed)
        found[language] = [phrase for phrase in phrases if phrase_key(phrase.text) not in held]
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


def _count_texts(arguments: argparse.Namespace) -> None:
    _texts(arguments, [_pair(value)[0] if "=" in value else value for value in arguments.language])


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


def _stop_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stop = folder / "stop"
    stop.unlink(missing_ok=True)
    return stop


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
    synthetic.add_argument("--noise-db", type=float, default=-66.0, help="level of the added noise, dBFS")
    synthetic.add_argument("--no-noise", action="store_true")
    synthetic.add_argument("--chunk", type=int, default=256, help="utterances per worker life")
    recorded = commands.add_parser("recorded", help="store the recordings of a manifest")
    recorded.add_argument("--manifest", type=Path, required=True)
    for command in (synthetic, recorded):
        command.add_argument("--output", type=Path, required=True)
        command.add_argument("--processes", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
