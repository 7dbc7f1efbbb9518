"""Judge a model with ears of its own, and train those ears.

    python -m tools.evaluate --preset nano                       the sentences and voices that come with the program
    python -m tools.evaluate --preset nano --quick --json FILE   a minute's worth of it
    python -m tools.evaluate --gpt FILE --vits2 FILE --texts FILE --references DIR
    python -m tools.evaluate all --corpus CORPUS --manifest MANIFEST.tsv --speech SPEECH
    python -m tools.evaluate train-recognizer --corpus CORPUS --output logs/judge --max-minutes 20
    python -m tools.evaluate calibrate --recognizer logs/judge/recognizer.safetensors
    python -m tools.evaluate read-sentences

Without a part named, all that need no corpus are run; outputs that were made once are used again. Every part writes its
numbers as JSON and a table; report.md joins the tables, page/report.html lets one listen. See docs/evaluation.md.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modules.errors import UserError
from modules.paths import LOGS, PRETRAINED_MODELS
from modules.precision import PRECISIONS
from tools.flags import factor

if TYPE_CHECKING:
    from modules.evaluation.judging import Judge, JudgeOptions
    from modules.evaluation.results import Finding

STANDARD = (
    "intelligibility", "failures", "voices", "sound", "drift", "copies", "plausible", "switching", "melody", "leak",
    "robust_references",
)  # fmt: skip
QUICK = ("intelligibility", "failures", "sound", "voices", "drift", "leak", "copies")
QUICK_SECONDS = 18.0
"""For speaking; reading the weights and listening take the rest of the minute."""
LAST_START_SECONDS = 34.0
"""Parts of a quick judgement that would begin later are left out."""
PARTS = (*STANDARD, "tokens", "fusion", "odd", "speed")
HELPS = {
    "intelligibility": "phone errors of outputs, and words heard by pocketsphinx and Whisper",
    "failures": "sentences that lose or repeat words, do not end, are silent or clip",
    "voices": "speaker similarity and identification",
    "sound": "pitch, spectrum, lengths, repetitions and endings",
    "drift": "tokens of a text against the model's own statistics",
    "copies": "spectral distance in copy-synthesis",
    "plausible": "one word, one letter, digits, abbreviations, emoji, no full stop",
    "switching": "lines that change the language",
    "melody": "statements and questions in the same words",
    "leak": "words of the reference in the output",
    "robust_references": "references through a telephone and in noise",
    "tokens": "decoder and language model apart: true tokens spoken, own tokens read",
    "fusion": "whether blends move from one voice to the other",
    "odd": "odd references and texts",
    "speed": "real-time factors",
}
RECOGNIZER = PRETRAINED_MODELS / "judge" / "recognizer.safetensors"
_SAME_NAMES = (
    "manifest", "speech", "whole", "voices", "seed", "device", "precision", "gpt", "vits2", "texts", "references",
    "reference_list", "count", "per_voice",
)  # fmt: skip
"""Flags that are called as the option is."""
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
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parse(argv)
    try:
        arguments.work(arguments)
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
    from modules.evaluation.clips import in_order
    from modules.evaluation.recognizer import PhoneRecognizer, RecognizerConfig, load_recognizer, relabel
    from modules.runtime import pick_device, seed_everything, set_threads
    from modules.training.loop import LoopConfig, train

    set_threads(arguments.threads)
    seed_everything(arguments.seed)
    device = pick_device(arguments.device)
    stores = [FeatureStore(path) for path in arguments.corpus]
    if arguments.init:
        model = relabel(load_recognizer(arguments.init), label_inventory(stores)).train()
    else:
        model = PhoneRecognizer(RecognizerConfig(), label_inventory(stores))
    languages = tuple(arguments.language or training.LANGUAGE_TAGS)
    data = partial(training.LabelledSpeech, stores, model.labels, languages=languages)
    dataset = data("train", max_seconds=arguments.max_seconds)
    model.languages = tuple(in_order({language for _, language in dataset.groups}))
    weights = None
    if len(dataset):
        weights = training.draw_weights(dataset, arguments.recorded_share, dict(arguments.favour))
    sampler = LengthBuckets(
        np.array(dataset.seconds),
        budget=arguments.batch_seconds,
        max_batch=96,
        seed=arguments.seed,
        weights=weights,
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


def calibrate(arguments: argparse.Namespace) -> None:
    """Measure the judge's own mistakes on source audio, and store them beside its weights."""
    from modules.checkpoint import file_hash
    from modules.evaluation.failures.calibration import read_calibration, write_calibration
    from modules.evaluation.failures.specimens import Source, measure, merged
    from modules.runtime import set_threads

    set_threads(arguments.threads)
    languages = tuple(arguments.language or ())
    source = Source(tuple(arguments.corpus), arguments.count, arguments.seed, languages)
    found, reason = measure(arguments.recognizer, source, _Progress())
    if reason:
        print(f"the written sentences are left out: {reason}", file=sys.stderr)
    for language, values in found.languages.items():
        told = {kind: f"{seen}/{of}" for kind, (seen, of) in {**values["hits"]}.items()}
        wrong = {kind: f"{seen}/{of}" for kind, (seen, of) in values["false_alarms"].items()}
        print(f"{language}: error {values['error']['rate']:.3f}, false alarms {wrong}, planted failures seen {told}")
    before = read_calibration(arguments.recognizer, file_hash(arguments.recognizer))
    print(write_calibration(arguments.recognizer, merged(before, found)))


def read_sentences(arguments: argparse.Namespace) -> None:
    """Compute phones and melodies of the written sentences with eSpeak NG, and store them."""
    from modules.evaluation.sets.melody import measure_source
    from modules.evaluation.sets.readings import PhoneReader
    from modules.evaluation.sets.shipped import read_again

    reader = PhoneReader()
    print(json.dumps({**read_again(reader), "melody": measure_source(reader)}))
    if reader.reason:
        print(reader.reason, file=sys.stderr)


def evaluate(arguments: argparse.Namespace) -> None:
    """Run the parts asked for, and write what was found."""
    from modules.evaluation.judging import open_judge
    from modules.evaluation.report.document import build, write_document
    from modules.evaluation.report.page import write_page
    from modules.evaluation.results import write_report
    from modules.evaluation.weights import folder_name, heading
    from modules.runtime import set_threads

    set_threads(arguments.threads)
    options = _judge_options(arguments)
    folder = arguments.output or LOGS / "evaluation" / folder_name(options)
    judge = open_judge(options, folder, _Progress())
    judge.check()
    parts = arguments.parts or list(QUICK if arguments.quick else STANDARD)
    parts = list(PARTS) if "all" in parts else parts
    findings, reasons = _run(judge, parts, strict=bool(arguments.parts) and "all" not in arguments.parts)
    for told in judge.refused.values():
        what = f"not spoken: {told['language']} {told['text'][:40]!r}, " if told["text"] else "left out: "
        print(f"{what}{told['voice']}: {told['reason']}", flush=True)
    print(write_report(folder, list(findings), heading(judge)))
    document = build(judge, {part: finding.values for part, finding in findings.items()}, reasons)
    if arguments.json:
        print(write_document(arguments.json, document))
    if arguments.page:
        print(write_page(folder / "page", document, list(findings.values()), folder / "wavs", _Progress()))


def _run(judge: "Judge", parts: list[str], strict: bool) -> tuple[dict[str, "Finding"], dict[str, str]]:
    """Findings by part, and why other parts have none; `strict`: a part that cannot run ends the command. So does it
    otherwise where no part could run."""
    from modules.evaluation.judging import run_part
    from modules.evaluation.results import write_finding

    findings: dict[str, Finding] = {}
    first: UserError | None = None
    reasons = {part: "this part was not asked for" for part in PARTS if part not in parts}
    for part in parts:
        if judge.options.deadline_seconds and time.monotonic() - judge.started > LAST_START_SECONDS:
            reasons[part] = "there was no time for it"
            continue
        try:
            finding = run_part(part, judge)
        except UserError as error:
            if strict:
                raise
            first, reasons[part] = first or error, str(error)
            print(f"{part}: not measured. {error}", flush=True)
            continue
        findings[part] = finding
        write_finding(judge.folder, finding)
        print("\n".join(table.markdown() for table in finding.tables), flush=True)
    if first is not None and not findings:
        raise first
    return findings, reasons


def _judge_options(arguments: argparse.Namespace) -> "JudgeOptions":
    from modules.evaluation.clips import base_language
    from modules.evaluation.judging import JudgeOptions

    recognizer = arguments.recognizer or (RECOGNIZER if RECOGNIZER.is_file() else None)
    options = JudgeOptions(
        models=arguments.models or PRETRAINED_MODELS / arguments.preset,
        corpus=tuple(arguments.corpus),
        recognizer=recognizer,
        languages=tuple(dict.fromkeys(base_language(tag) for tag in arguments.language)),
        guards=arguments.guards or "",
        **{name: getattr(arguments, name) for name in _SAME_NAMES},
    )
    if arguments.quick:
        return replace(options, count=min(options.count, 2), deadline_seconds=QUICK_SECONDS)
    return options


def _parse(argv: list[str]) -> argparse.Namespace:
    """The flags; a command of its own is told by the first word."""
    commands = {
        "train-recognizer": (train_recognizer, _training_flags, "train the judge's phone recogniser"),
        "calibrate": (calibrate, _calibrating_flags, "measure the judge's own mistakes on source audio"),
        "read-sentences": (read_sentences, lambda parser: None, "compute the phones of the written sentences again"),
    }
    if argv and argv[0] in commands:
        work, flags, description = commands[argv[0]]
        parser = argparse.ArgumentParser(prog=f"python -m tools.evaluate {argv[0]}", description=description)
        flags(parser)
        parser.set_defaults(work=work)
        return parser.parse_args(argv[1:])
    lines = [f"  {name:18} {text}" for name, text in {**HELPS, "all": "all of these"}.items()]
    lines += ["", "commands of their own, each with --help:", *(f"  {n:18} {c[2]}" for n, c in commands.items())]
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate",
        description=__doc__.split("\n")[0],
        epilog="parts:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure; without any, what needs no corpus")
    _judging_flags(parser)
    parser.set_defaults(work=evaluate)
    arguments = parser.parse_intermixed_args(argv)
    unknown = [part for part in arguments.parts if part not in {*PARTS, "all"}]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; choose among {', '.join(PARTS)}, all")
    return arguments


def _training_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, action="append", required=True, help="corpus store; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--language", action="append", help="only these; default all that corpora hold of the twelve")
    parser.add_argument("--init", type=Path, help="start from these weights")
    parser.add_argument("--weights-out", type=Path, help="copy the final weights here")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--max-minutes", type=float, default=20.0, help="end, annealed, after so many minutes; 0 = off")
    parser.add_argument("--max-steps", type=int, default=20000)
    parser.add_argument("--batch-seconds", type=float, default=80.0)
    parser.add_argument("--max-seconds", type=float, default=8.0, help="longer clips are left out")
    parser.add_argument("--recorded-share", type=float, default=0.25, help="share of recordings among the drawn clips")
    parser.add_argument(
        "--favour", type=factor, action="append", default=[], metavar="LANGUAGE=FACTOR",
        help="draw a language so many times as often; may be repeated",
    )  # fmt: skip
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--held-out", type=int, default=32, help="validation clips a source and language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")


def _calibrating_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recognizer", type=Path, default=RECOGNIZER, help="weights that train-recognizer wrote")
    parser.add_argument("--corpus", type=Path, action="append", default=[], help="synthetic store; more source audio")
    parser.add_argument("--count", type=int, default=50, help="sentences a language of each corpus")
    parser.add_argument("--language", action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)


def _number(low: int, high: int = 2**31 - 2) -> Callable[[str], int]:
    """A flag that is a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not text.lstrip("-").isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {low} to {high}")
        return int(text)

    return read


def _judging_flags(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is judged")
    what.add_argument("--preset", default="nano", help="model folder in pretrained_models/ (default nano)")
    what.add_argument("--models", type=Path, metavar="DIR", help="another model folder")
    what.add_argument("--gpt", type=Path, metavar="FILE", help="weights of the language model instead of the folder's")
    what.add_argument("--vits2", type=Path, metavar="FILE", help="weights of the decoder instead of the folder's")
    what.add_argument("--guards", choices=("on", "off", "both"), help="speak with guards, without, or compare the two")
    what.add_argument(
        "--whole", type=Path, help="folder that tools.ship --join wrote: copy-synthesis, phones of tokens"
    )
    said = parser.add_argument_group("what is said, in which voices")
    said.add_argument("--texts", type=Path, metavar="FILE", help="lines language|text, or JSON lines")
    said.add_argument(
        "--references", type=Path, metavar="DIR", help="recordings, each with its words in a .txt beside it"
    )
    said.add_argument("--reference-list", type=Path, metavar="FILE", help="dataset list of recordings")
    said.add_argument("--corpus", type=Path, action="append", default=[], help="corpus store; may be repeated")
    said.add_argument("--manifest", type=Path, help="manifest.tsv of recordings; its test split is used")
    said.add_argument("--speech", type=Path, help="folder of further recordings with a manifest.tsv")
    said.add_argument("--language", action="append", default=[], help="only this one; may be repeated")
    said.add_argument(
        "--count", type=_number(0), default=100, help="most sentences a language (default 100); 0 = real speakers alone"
    )
    said.add_argument("--voices", type=_number(1), default=48, help="most real speakers (default 48)")
    said.add_argument(
        "--per-voice", type=_number(0), default=0, help="sentences of each language that every voice says"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--recognizer", type=Path, help="the judge's ear (default pretrained_models/judge/recognizer.safetensors)"
    )
    how.add_argument("--quick", action="store_true", help="a few sentences, within a minute")
    how.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    how.add_argument("--page", action=argparse.BooleanOptionalAction, default=True, help="write page/report.html")
    how.add_argument("--output", type=Path, help="folder for outputs and reports (default logs/evaluation/MODEL)")
    how.add_argument("--seed", type=_number(0), default=0)
    how.add_argument("--threads", type=_number(1, 1024), default=1)
    how.add_argument("--device", default="auto")
    how.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="of the language model's weights (default float32)"
    )


if __name__ == "__main__":
    sys.exit(main())
