"""Turn a corpus store into features: text ids, speech tokens, f0, 32 kHz audio.

python -m tools.extract --input CORPUS --output FEATURES --models pretrained_models/nano [--no-audio]
"""

import argparse
import functools
import sys
import time
from pathlib import Path

from modules.checkpoint import file_hash
from modules.config import load_preset
from modules.data.extraction import Encoders, ExtractOptions, extract
from modules.data.store import FeatureStore, StoreWriter
from modules.progress import StepProgress
from modules.runtime import set_threads
from modules.speech.train import load_tokenizer
from modules.text.tokenizer import TextTokenizer
from tools.running import run_step


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
        keep_audio=not arguments.no_audio, limit=arguments.limit, max_seconds=arguments.max_seconds
    )
    started = time.monotonic()
    corpus = FeatureStore(arguments.input)
    with StoreWriter(arguments.output) as writer:
        audio = load_preset(arguments.preset).audio
        report = extract(corpus, writer, encoders, audio, options, progress.update, progress.should_stop)
    print(
        f"{report.done} clips, {report.seconds / 3600:.2f} h, {report.already} already there, "
        f"skipped: {dict(report.skipped) or 'none'}, {time.monotonic() - started:.0f} s"
    )
    progress.finish(
        {
            "folder": arguments.output,
            "clips": report.done,
            "already": report.already,
            "seconds": report.seconds,
            "skipped": dict(report.skipped),
        }
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.extract", description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="corpus store written by tools.corpus")
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
