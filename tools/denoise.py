"""Take steady noise out of recordings, for a file or a folder.

    python -m tools.denoise --input RECORDINGS --output DIR
    python -m tools.denoise --input street.m4a --output DIR --method adaptive --strength 0.6

Run it again to go on after an interruption: finished files are not done again.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.corpus.denoising import DenoiseOptions, denoise_files
from modules.corpus.outputs import recordings_in
from modules.data.sources import clean_path
from modules.progress import StepProgress
from tools.flags import add_options, options_from
from tools.running import error_line, run_step, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    return run_step(functools.partial(_run, arguments), arguments.job, error_text=error_line)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    options = options_from(arguments, DenoiseOptions)
    source, output = clean_path(arguments.input), clean_path(arguments.output)
    files = recordings_in(source, output)
    report = denoise_files(files, source, options, output, progress, arguments.fresh)
    progress.finish(dataclasses.asdict(report))
    left_out = sum(report.rejected.values())
    say(f"{report.files} files cleaned, {report.already} were there already, {left_out} left out: {report.folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.denoise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="recording, or folder of recordings")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets the cleaned files, under the same names")
    parser.add_argument("--fresh", action="store_true", help="do finished files again")
    parser.add_argument("--job", type=Path, metavar="FOLDER", help="folder for progress and result of this run")
    add_options(parser.add_argument_group("noise reduction"), DenoiseOptions)
    return parser


if __name__ == "__main__":
    sys.exit(main())
