"""Write down what is said in recordings, the language found for each, as a dataset for training.

    python -m tools.transcribe --input CLIPS --output DIR
    python -m tools.transcribe --input CLIPS/clips.jsonl --output DIR --model small --min-confidence 0.5

Run it again to go on after an interruption, or to judge by other thresholds: nothing is recognised twice.
"""

import argparse
import dataclasses
import functools
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from modules.config import from_dict
from modules.corpus.outputs import without_results
from modules.corpus.recognition import RecognitionOptions, Recognizer
from modules.corpus.transcribing import TranscribeReport, clips_of, transcribe_clips
from modules.corpus.whisper_models import find_whisper_model
from modules.data.manifest import Utterance, read_manifest
from modules.data.sources import clean_path, list_audio
from modules.errors import Stopped, UserError
from modules.paths import PRETRAINED_MODELS
from modules.progress import StepProgress

EXIT_USER_ERROR = 2
EXIT_STOPPED = 3
_LISTS = {".jsonl", ".list", ".tsv", ".txt"}
_CLIPS_NAME = "clips.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    say = functools.partial(print, flush=True)
    try:
        with StepProgress(arguments.job, say=say) as progress:
            report = _run(arguments, progress)
            progress.finish(dataclasses.asdict(report))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except (Stopped, KeyboardInterrupt):
        print("stopped; run it again to go on", file=sys.stderr)
        return EXIT_STOPPED
    languages = ", ".join(f"{name} {count}" for name, count in report.languages.items())
    say(f"{report.clips} clips, {report.seconds:.0f} s ({languages or 'no language'}): {report.list}")
    for reason, count in report.rejected.items():
        say(f"left out for {reason}: {count}")
    return 0


def _run(arguments: argparse.Namespace, progress: StepProgress) -> TranscribeReport:
    values = {spec.name: getattr(arguments, spec.name) for spec in dataclasses.fields(RecognitionOptions)}
    options = from_dict(RecognitionOptions, values)
    source, output = clean_path(arguments.input), clean_path(arguments.output)
    items, name = _clips(source, output, arguments.speaker)
    progress.update(0, len(items))

    def tell(text: str) -> None:
        print(text, flush=True)
        progress.update(0, message=text)

    folder = find_whisper_model(options.model, clean_path(arguments.models), tell)
    recognizer = Recognizer(folder, options, tell)
    return transcribe_clips(items, recognizer, options, output, arguments.name or name, progress, arguments.fresh)


def _clips(source: Path, output: Path, speaker: str) -> tuple[list[Utterance], str]:
    """The clips of a list, a folder or a file, and the name of the list to be written."""
    if source.is_file() and source.suffix.lower() in _LISTS:
        rows = read_manifest(source)
        folder = source.absolute().parent
        items = [dataclasses.replace(row, speaker=speaker or row.speaker or folder.name) for row in rows]
        name = source.stem if source.suffix.lower() == ".list" else folder.name
    else:
        files = without_results(list_audio(source), source, output)
        folder = source.absolute() if source.is_dir() else source.absolute().with_suffix("")
        told = source / _CLIPS_NAME
        items = clips_of(folder, files, read_manifest(told) if told.is_file() else [], speaker)
        name = folder.name
    if not items:
        raise UserError("no_recordings", "There are no recordings in {path}; check the path.", path=str(source))
    return items, name or "clips"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.transcribe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="folder of clips, one file, or a list of clips")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for manifest, .list and rejected.jsonl")
    parser.add_argument("--name", default="", help="name of the .list file; default: the name of the input folder")
    parser.add_argument("--speaker", default="", help="name of the voice; default: that of the list or of the folder")
    parser.add_argument(
        "--models", default=str(PRETRAINED_MODELS), metavar="DIR", help="folder that may hold whisper/<size>"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run heard")
    parser.add_argument("--job", type=Path, metavar="FOLDER", help="folder for progress and result of this run")
    _add_options(parser.add_argument_group("recognition"), RecognitionOptions)
    return parser


def _add_options(group: argparse._ArgumentGroup, cls: type) -> None:
    """A flag for every field of an options class, with its default, help and choices."""
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        flag, text = "--" + spec.name.replace("_", "-"), f"{spec.metadata['help']} (default {spec.default!r})"
        text = text.replace("%", "%%")
        if hints[spec.name] is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=spec.default, help=text)
        elif typing.get_origin(hints[spec.name]) is typing.Literal:
            group.add_argument(flag, choices=typing.get_args(hints[spec.name]), default=spec.default, help=text)
        else:
            group.add_argument(flag, type=type(spec.default), default=spec.default, help=text)


if __name__ == "__main__":
    sys.exit(main())
