"""Take steady noise out of recordings, for a file or a folder.

    python -m tools.denoise --input RECORDINGS --output DIR
    python -m tools.denoise --input street.m4a --output DIR --method adaptive --strength 0.6

Run it again to go on after an interruption: finished files are not done again.
"""

import argparse
import dataclasses
import functools
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from modules.config import from_dict
from modules.corpus.denoising import DenoiseOptions, DenoiseReport, denoise_files
from modules.corpus.outputs import without_results
from modules.data.sources import clean_path, list_audio
from modules.errors import Stopped, UserError
from modules.progress import StepProgress

EXIT_USER_ERROR = 2
EXIT_STOPPED = 3


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
    say(f"{report.files} files cleaned, {report.already} were there already: {report.folder}")
    return 0


def _run(arguments: argparse.Namespace, progress: StepProgress) -> DenoiseReport:
    values = {spec.name: getattr(arguments, spec.name) for spec in dataclasses.fields(DenoiseOptions)}
    options = from_dict(DenoiseOptions, values)
    source, output = clean_path(arguments.input), clean_path(arguments.output)
    files = without_results(list_audio(source), source, output)
    if not files:
        raise UserError("no_recordings", "There are no recordings in {path}; check the path.", path=str(source))
    return denoise_files(files, source, options, output, progress, arguments.fresh)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.denoise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="recording, or folder of recordings")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets the cleaned files, under the same names")
    parser.add_argument("--fresh", action="store_true", help="do finished files again")
    parser.add_argument("--job", type=Path, metavar="FOLDER", help="folder for progress and result of this run")
    _add_options(parser.add_argument_group("noise reduction"), DenoiseOptions)
    return parser


def _add_options(group: argparse._ArgumentGroup, cls: type) -> None:
    """A flag for every field of an options class, with its default, help and choices."""
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        flag, text = "--" + spec.name.replace("_", "-"), f"{spec.metadata['help']} (default {spec.default!r})"
        text = text.replace("%", "%%")
        if typing.get_origin(hints[spec.name]) is typing.Literal:
            group.add_argument(flag, choices=typing.get_args(hints[spec.name]), default=spec.default, help=text)
        else:
            group.add_argument(flag, type=type(spec.default), default=spec.default, help=text)


if __name__ == "__main__":
    sys.exit(main())
