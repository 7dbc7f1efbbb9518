"""Separate voices from music and other accompaniment, for a file or a folder.

    python -m tools.separate --input RECORDINGS --output DIR
    python -m tools.separate --input song.mp3 --output DIR --model htdemucs_ft --format wav

Run it again to go on after an interruption: finished files are not done again.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.corpus.outputs import recordings_in
from modules.corpus.separation import SeparationOptions, Separator, separate_files
from modules.corpus.separation_models import load_separators
from modules.data.sources import clean_path
from modules.paths import PRETRAINED_MODELS
from modules.progress import StepProgress
from modules.runtime import pick_device, set_threads
from tools.flags import add_options, options_from
from tools.running import error_line, run_step, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    return run_step(functools.partial(_run, arguments), arguments.job, error_text=error_line)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    options = options_from(arguments, SeparationOptions)
    source, output = clean_path(arguments.input), clean_path(arguments.output)
    files = recordings_in(source, output)
    set_threads(arguments.threads)

    def tell(text: str) -> None:
        say(text)
        progress.update(0, message=text)

    device = pick_device(options.device)
    networks = load_separators(options.model, clean_path(arguments.models), tell)
    separator = Separator(networks, device, options.overlap, tell)
    report = separate_files(files, source, separator, output, options.format, progress, arguments.fresh)
    progress.finish(dataclasses.asdict(report))
    left_out = sum(report.rejected.values())
    say(f"{report.files} files separated, {report.already} were there already, {left_out} left out: {report.vocals}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.separate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="recording, or folder of recordings")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets the folders vocals and accompaniment")
    parser.add_argument(
        "--models",
        default=str(PRETRAINED_MODELS),
        metavar="DIR",
        help="folder that may hold demucs/<file of the model>",
    )
    parser.add_argument("--fresh", action="store_true", help="do finished files again")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = the library's choice")
    parser.add_argument("--job", type=Path, metavar="FOLDER", help="folder for progress and result of this run")
    add_options(parser.add_argument_group("separation"), SeparationOptions)
    return parser


if __name__ == "__main__":
    sys.exit(main())
