"""Judge a model folder with ears of its own, and train those ears.

    python -m tools.evaluate train-recognizer --corpus CORPUS --output logs/judge --max-minutes 20
    python -m tools.evaluate all --models pretrained_models/nano --corpus CORPUS --manifest MANIFEST.tsv \\
        --speech SPEECH --recognizer logs/judge/recognizer.safetensors --output logs/evaluation

The parts can be run alone; outputs that were made once are used again. Every part writes its numbers as JSON and a
table; report.md joins the tables.
"""

import argparse
import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from modules.errors import UserError
from modules.paths import PRETRAINED_MODELS

PARTS = ("intelligibility", "tokens", "voices", "sound", "fusion", "odd", "speed")
_PROGRESS_SECONDS = 5.0


class _Progress:
    """Prints a line now and then."""

    def __init__(self) -> None:
        self._last, self._what, self._started = 0.0, "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._last = what, now, 0.0
        if now - self._last >= _PROGRESS_SECONDS or done >= total:
            self._last = now
            print(f"{what}: {done}/{total}, {now - self._started:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Parse flags and run."""
    arguments = _parser().parse_args(argv)
    try:
        (train_recognizer if arguments.command == "train-recognizer" else evaluate)(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def train_recognizer(arguments: argparse.Namespace) -> None:
    """Train the judge's phone recogniser on the source audio of corpora."""
    from modules.corpus.phones import label_inventory
    from modules.data.batching import LengthBuckets, Loader
    from modules.data.store import FeatureStore
    from modules.evaluation import recognizer_training as training
    from modules.evaluation.recognizer import PhoneRecognizer, RecognizerConfig, load_recognizer
    from modules.runtime import pick_device, seed_everything, set_threads
    from modules.training.loop import LoopConfig, train

    set_threads(arguments.threads)
    seed_everything(arguments.seed)
    device = pick_device(arguments.device)
    stores = [FeatureStore(path) for path in arguments.corpus]
    if arguments.init:
        model = load_recognizer(arguments.init).train()
    else:
        model = PhoneRecognizer(RecognizerConfig(), label_inventory(stores))
    languages = tuple(arguments.language or training.LANGUAGE_TAGS)
    data = partial(training.LabelledSpeech, stores, model.labels, languages=languages)
    dataset = data("train", max_seconds=arguments.max_seconds)
    sampler = LengthBuckets(
        np.array(dataset.seconds),
        budget=arguments.batch_seconds,
        max_batch=96,
        seed=arguments.seed,
        weights=training.draw_weights(dataset, arguments.recorded_share) if len(dataset) else None,
    )
    held = training.held_out(data("dev", augment=False), arguments.held_out)
    stage = training.RecognizerStage(model, held, arguments.learning_rate)
    config = LoopConfig(
        max_steps=arguments.max_steps,
        max_minutes=arguments.max_minutes,
        learning_rate=arguments.learning_rate,
        warmup_steps=50,
        min_lr_ratio=0.02,
        ema_decay=0.99,
        validate_every_steps=arguments.validate_every,
        seed=arguments.seed,
    )
    hours = sum(dataset.seconds) / 3600
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{len(dataset)} clips, {hours:.1f} h, {len(model.labels)} labels, {size:.2f} M parameters", flush=True)
    result = train(
        stage, Loader(dataset, sampler, training.collate), config, arguments.output, resume=arguments.resume,
        device=device, run_config={"labels": list(model.labels), "batch_seconds": arguments.batch_seconds},
    )  # fmt: skip
    print(f"step {result.step}, stopped by {result.stopped_by}, {json.dumps(result.validation)}")
    if arguments.weights_out:
        arguments.weights_out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.output / training.FILE_NAME, arguments.weights_out)


def evaluate(arguments: argparse.Namespace) -> None:
    """Run one part or all, and write what was found."""
    from modules.evaluation.judging import JudgeOptions, heading, open_judge, run_part
    from modules.evaluation.results import write_finding, write_report
    from modules.runtime import set_threads

    set_threads(arguments.threads)
    judge = open_judge(
        JudgeOptions(
            models=arguments.models,
            corpus=tuple(arguments.corpus),
            manifest=arguments.manifest,
            speech=arguments.speech,
            recognizer=arguments.recognizer,
            whole=arguments.whole,
            count=arguments.count,
            voices=arguments.voices,
            seed=arguments.seed,
            device=arguments.device,
        ),
        arguments.output,
        _Progress(),
    )
    for part in PARTS if arguments.command == "all" else (arguments.command,):
        finding = run_part(part, judge)
        write_finding(arguments.output, finding)
        print("\n".join(table.markdown() for table in finding.tables), flush=True)
    print(write_report(arguments.output, PARTS, heading(judge)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    _training_flags(commands.add_parser("train-recognizer", help="train the judge's phone recogniser"))
    helps = {
        "intelligibility": "phone errors of outputs, and English words heard by pocketsphinx",
        "tokens": "decoder and language model apart: true tokens spoken, own tokens read",
        "voices": "speaker similarity and identification",
        "sound": "pitch, spectrum, lengths, repetitions and endings",
        "fusion": "whether blends move from one voice to the other",
        "odd": "odd references and texts",
        "speed": "real-time factors",
        "all": "all of these",
    }
    for name, text in helps.items():
        _judging_flags(commands.add_parser(name, help=text))
    return parser


def _training_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, action="append", required=True, help="corpus store; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--language", action="append", help="only these; default en, de, es, zh")
    parser.add_argument("--init", type=Path, help="start from these weights")
    parser.add_argument("--weights-out", type=Path, help="copy the final weights here")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--max-minutes", type=float, default=20.0, help="end, annealed, after so many minutes; 0 = off")
    parser.add_argument("--max-steps", type=int, default=20000)
    parser.add_argument("--batch-seconds", type=float, default=80.0)
    parser.add_argument("--max-seconds", type=float, default=8.0, help="longer clips are left out")
    parser.add_argument("--recorded-share", type=float, default=0.25, help="share of recordings among the drawn clips")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--held-out", type=int, default=32, help="validation clips a source and language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")


def _judging_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, default=PRETRAINED_MODELS / "nano", help="model folder")
    parser.add_argument("--corpus", type=Path, action="append", required=True, help="corpus store; may be repeated")
    parser.add_argument("--manifest", type=Path, help="manifest.tsv of recordings; its test split is used")
    parser.add_argument("--speech", type=Path, help="folder of further recordings with a manifest.tsv")
    parser.add_argument("--recognizer", type=Path, help="weights that train-recognizer wrote")
    parser.add_argument(
        "--whole", type=Path, help="folder that tools.ship --join wrote: copy-synthesis, phones of tokens"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100, help="sentences a language")
    parser.add_argument("--voices", type=int, default=48, help="most real speakers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")


if __name__ == "__main__":
    sys.exit(main())
