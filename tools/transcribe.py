"""Write down what is said in recordings, the language found for each, as a dataset for training.

    python -m tools.transcribe --input CLIPS --output DIR
    python -m tools.transcribe --input CLIPS/clips.jsonl --output DIR --model small --min-confidence 0.5

Run it again to go on after an interruption, or to judge by other thresholds: nothing is recognised twice.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.corpus.journal import refuse_other_step
from modules.corpus.outputs import no_recordings, without_results
from modules.corpus.recognition import RecognitionOptions, Recognizer
from modules.corpus.transcribing import check_targets, clips_of, transcribe_clips
from modules.corpus.whisper_models import find_whisper_model
from modules.data.manifest import Utterance, read_manifest
from modules.data.sources import clean_path, list_audio
from modules.paths import PRETRAINED_MODELS
from modules.progress import StepProgress
from tools.flags import add_options, options_from
from tools.running import error_line, run_step, say

_LISTS = {".jsonl", ".list", ".tsv", ".txt"}
_CLIPS_NAME = "clips.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    return run_step(functools.partial(_run, arguments), arguments.job, error_text=error_line)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    options = options_from(arguments, RecognitionOptions)
    source, output = clean_path(arguments.input), clean_path(arguments.output)
    items, name = _clips(source, output, arguments.speaker)
    name = arguments.name or name
    check_targets(source, output, name)
    refuse_other_step("transcribe", output)
    progress.update(0, len(items))

    def tell(text: str) -> None:
        say(text)
        progress.update(0, message=text)

    folder = find_whisper_model(options.model, clean_path(arguments.models), tell)
    recognizer = Recognizer(folder, options, tell)
    report = transcribe_clips(items, recognizer, options, output, name, progress, arguments.fresh)
    progress.finish(dataclasses.asdict(report))
    languages = ", ".join(f"{name} {count}" for name, count in report.languages.items())
    say(f"{report.clips} clips, {report.seconds:.0f} s ({languages or 'no language'}): {report.list}")
    for reason, count in report.rejected.items():
        say(f"left out for {reason}: {count}")
    for path in report.kept:
        say(f"edited since the last run, kept: {path}")


def _clips(source: Path, output: Path, speaker: str) -> tuple[list[Utterance], str]:
    """The clips of a list, a folder or a file, and the name of the list to be written.

    Of a folder of the slicer's, only the clips that its list names are taken, not those of earlier cuts.
    """
    told = source / _CLIPS_NAME
    if source.is_file() and source.suffix.lower() in _LISTS:
        rows = read_manifest(source)
        folder = source.absolute().parent
        items = [dataclasses.replace(row, speaker=speaker or row.speaker or folder.name) for row in rows]
        name = source.stem if source.suffix.lower() == ".list" else folder.name
    elif told.is_file():
        rows = read_manifest(told)
        folder, name = source.absolute(), source.absolute().name
        without_results([], source, output)
        items = clips_of(folder, [Path(row.audio) for row in rows], rows, speaker)
    else:
        files = without_results(list_audio(source), source, output)
        folder = source.absolute() if source.is_dir() else source.absolute().with_suffix("")
        items = clips_of(folder, files, [], speaker)
        name = folder.name
    if not items:
        raise no_recordings(source)
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
    add_options(parser.add_argument_group("recognition"), RecognitionOptions)
    return parser


if __name__ == "__main__":
    sys.exit(main())
