"""Turn a dataset list, or a corpus store, into features: text ids, speech tokens, f0, 32 kHz audio.

    python -m tools.extract --input logs/me/manifest.jsonl --output logs/me/features
    python -m tools.extract --input CORPUS --output FEATURES --models pretrained_models/nano --no-audio
    torchrun --nproc-per-node 4 -m tools.extract --input LIST --output FEATURES

Run it again after a stop or when lines were added or changed: only what is missing is done.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from modules.checkpoint import file_hash
from modules.config import load_preset
from modules.corpus.outputs import REJECTED_NAME, write_rejected
from modules.data.extraction import Encoders, ExtractOptions, Source, extract
from modules.data.held_out import hold_out
from modules.data.recordings import Recordings
from modules.data.sources import clean_path
from modules.data.store import FeatureStore, StoreWriter, write_current
from modules.data.validation import check_manifest
from modules.errors import UserError
from modules.progress import StepProgress
from modules.runtime import set_threads
from modules.speech.train import load_tokenizer
from modules.text.tokenizer import TextTokenizer
from tools.running import run_step

SPLITS_NAME = "splits.json"


def main(argv: list[str] | None = None) -> int:
    """Parse flags, load the encoders, run; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(_run, arguments)
    return run_step(work, arguments.job, stopped="stopped; run the same command again to go on")


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    if arguments.threads:
        set_threads(arguments.threads)
    text_path = arguments.text_tokenizer or arguments.models / "tokenizer.json"
    speech_path = arguments.speech_tokenizer or arguments.models / "s3.safetensors"
    text = TextTokenizer.load(text_path)
    speech = load_tokenizer(speech_path)
    encoders = Encoders(
        text=text.encode,
        speech=speech.encode,
        sample_rate=speech.sample_rate,
        samples_per_token=speech.samples_per_token,
        hash=file_hash(text_path) + file_hash(speech_path),
    )
    options = ExtractOptions(
        keep_audio=not arguments.no_audio,
        limit=arguments.limit,
        max_seconds=arguments.max_seconds,
        rank=arguments.rank,
        world=arguments.world,
    )
    started = time.monotonic()
    rejected: list[dict[str, str]] = []

    def reject(file: str, reason: str) -> None:
        rejected.append({"file": file, "reason": reason})
        progress.reject(file, reason)

    output, first = clean_path(arguments.output), options.rank == 0
    source, name = _source(arguments, output, reject if first else lambda file, reason: None)
    with StoreWriter(output, rank=options.rank) as writer:
        audio = load_preset(arguments.preset).audio
        report = extract(
            source, writer, encoders, audio, options, progress.update, progress.should_stop,
            lambda row, reason: reject(name(row), reason),
        )  # fmt: skip
    write_current(output, report.keys, rank=options.rank, world=options.world)
    write_rejected(output / (REJECTED_NAME if first else f"rejected-{options.rank:03d}.jsonl"), rejected)
    print(
        f"{report.done} clips, {report.seconds / 3600:.2f} h, {report.already} already there, "
        f"skipped: {dict(report.skipped) or 'none'}, {time.monotonic() - started:.0f} s"
    )
    if not report.keys and first:
        raise UserError(
            "nothing_extracted",
            "None of the {count} clips of {list} could be used; {rejected} tells why for each.",
            count=len(source),
            list=str(arguments.input),
            rejected=str(output / REJECTED_NAME),
        )
    progress.finish(
        {
            "folder": output,
            "clips": report.done,
            "already": report.already,
            "seconds": report.seconds,
            "skipped": dict(report.skipped),
            "rejected": len(rejected),
        }
    )


def _source(
    arguments: argparse.Namespace, output: Path, reject: Callable[[str, str], None]
) -> tuple[Source, Callable[[int], str]]:
    """What is extracted, and what its rows are called. Raises UserError: manifest_missing, store_missing."""
    path = clean_path(arguments.input)
    if path.is_dir():
        corpus = FeatureStore(path)
        return corpus, lambda row: f"{path}, row {row}"
    checked = check_manifest(path, arguments.audio_folder)
    for problem in checked.problems:
        if problem.fatal:
            reject(f"{problem.file}, line {problem.line}", str(problem.reason))
    utterances = []
    for row in checked.rows:
        if row.utterance.text.strip():
            utterances.append(row.utterance)
        else:
            reject(row.utterance.audio, "It has no text; nothing can be learned from it.")
    recordings = Recordings(hold_out(utterances, output / SPLITS_NAME))
    return recordings, recordings.name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.extract", description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="dataset list, or corpus store of tools.corpus")
    parser.add_argument("--audio-folder", type=Path, help="look for each recording of the list here, by its name")
    # torchrun tells each of its processes who it is by these two.
    parser.add_argument("--rank", type=int, default=int(os.environ.get("RANK", 0)), help="number of this process")
    parser.add_argument("--world", type=int, default=int(os.environ.get("WORLD_SIZE", 1)), help="number of processes")
    parser.add_argument("--output", type=Path, required=True, help="folder of the feature store; appended to")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--models", type=Path, default=Path("pretrained_models/nano"), help="folder of the tokenizers")
    parser.add_argument("--text-tokenizer", type=Path, help="tokenizer.json, if not in --models")
    parser.add_argument("--speech-tokenizer", type=Path, help="s3.safetensors, if not in --models")
    parser.add_argument("--no-audio", action="store_true", help="leave the audio out (enough for the GPT)")
    parser.add_argument("--limit", type=int, default=0, help="at most so many clips per language and split; 0 = all")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="longer clips are skipped")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
