"""Turn a dataset list, or a corpus store, into features: text, 32 kHz audio, speech tokens with f0.

    python -m tools.extract --input logs/me/manifest.jsonl --experiment me
    python -m tools.extract --input logs/me/manifest.jsonl --experiment me --only text
    python -m tools.extract --input CORPUS --output FEATURES --models pretrained_models/nano --no-audio
    torchrun --nproc-per-node 4 -m tools.extract --input LIST --output FEATURES

A preset whose speech tokens are learned with the decoder takes two goes: the first makes the features that they are
learned from, the second, after tools.train_vits2, the tokens for tools.train_gpt:

    python -m tools.extract --input LIST --experiment me --preset base --models pretrained_models/base
    python -m tools.extract --input LIST --experiment me --preset base --models pretrained_models/base --only codes \
        --decoder SoVITS_weights/me_e8_s800.safetensors

Run it again after a stop, or when lines, recordings or encoders changed: each step does only what is missing.
"""

import argparse
import contextlib
import functools
import os
import sys
import time
import typing
from collections.abc import Callable, Container, Sequence
from pathlib import Path

import torch

from modules.checkpoint import file_hash
from modules.config import Preset, load_preset
from modules.corpus.outputs import REJECTED_NAME, write_rejected
from modules.data.dropping import read_dropped
from modules.data.encoders import Encoders
from modules.data.extraction import ExtractOptions, ExtractReport, extract
from modules.data.features import ALL_STEPS, CODES, STEPS, LineStore, LineWriter
from modules.data.file_memory import FileMemory
from modules.data.fit import describe
from modules.data.held_out import hold_out
from modules.data.line_index import read_earlier
from modules.data.recordings import CorpusRows, Recordings, Source
from modules.data.sources import clean_path
from modules.data.store import FeatureStore, entry_key, telling_full_disk
from modules.data.validation import check_manifest
from modules.errors import UserError
from modules.experiment import Experiment, experiment_name
from modules.progress import StepProgress
from modules.runtime import pick_device, set_threads
from modules.speech.building import S3_FILE, load_features, load_speech
from modules.speech.contract import SpeechTokens
from modules.speech.encoder_files import FILES
from modules.speech.grouped import GroupedQuantizer, load_quantizer, quantizer_hash
from modules.speech.phone_frames import name_frames
from modules.speech.published_s3 import graph_file
from modules.speech.s3 import SemanticTokenizer
from modules.speech.self_supervised import HOP, SelfSupervised
from modules.speech.train import load_tokenizer
from modules.text.building import load_text, text_identity
from modules.text.encoder import Precision
from modules.text.spoken import SPOKEN, spoken_text
from tools.running import run_step

SPLITS_NAME = "splits.json"
MEMORY_NAME = "recordings-{rank:03d}.json"
DOING = {
    "look": "looking at the recordings",
    "text": "reading the texts",
    "sound": "encoding the recordings",
    CODES: "making speech tokens",
}


def main(argv: list[str] | None = None) -> int:
    """Parse flags, load the encoders, run; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.only == "audio" and arguments.no_audio:
        parser.error("--only audio asks for what --no-audio leaves out")
    if arguments.only == CODES and not arguments.decoder:
        parser.error("--only codes needs --decoder, the file of a trained decoder")
    if arguments.drop and not clean_path(arguments.input).is_dir():
        parser.error("--drop names clips of a corpus store, and --input is none")
    work = functools.partial(_run, arguments)
    job = arguments.job if arguments.rank == 0 else None
    return run_step(work, job, stopped="stopped; run the same command again to go on")


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    if arguments.threads:
        set_threads(arguments.threads)
    if arguments.experiment:
        output = Experiment(experiment_name(arguments.experiment)).features
    else:
        output = clean_path(arguments.output)
    preset = load_preset(arguments.preset)
    steps = (arguments.only,) if arguments.only else (*STEPS, CODES) if arguments.decoder else STEPS
    # A step alone leaves the others as they are: their encoders may be told apart by flags that are not given now.
    earlier = read_earlier(output) if arguments.only else None
    kept = {step for step in STEPS if earlier and step in earlier.made and step not in steps}
    encoders = _encoders(arguments, preset, steps, kept)
    audio = preset.audio
    options = ExtractOptions(
        limit=arguments.limit, max_seconds=arguments.max_seconds, rank=arguments.rank, world=arguments.world,
        drop=frozenset().union(*map(read_dropped, arguments.drop)),
    )  # fmt: skip
    started = time.monotonic()
    rejected: list[dict[str, str]] = []
    first = options.rank == 0

    def reject(file: str, reason: str) -> None:
        rejected.append({"file": file, "reason": reason})
        progress.reject(file, reason)

    with telling_full_disk(output):
        hashes = encoders.hashes(audio, keep_audio=not arguments.no_audio)
        if "audio" in kept and not arguments.no_audio:
            hashes["audio"] = None
        with LineWriter(output, hashes, steps, options.rank, options.world, describe(preset)) as writer:
            memory = FileMemory(sorted(output.glob(MEMORY_NAME.format(rank=0).replace("000", "*"))))
            source, name = _source(arguments, output, memory, reject if first else lambda file, reason: None)
            try:
                report = extract(
                    source, writer, encoders, audio, options,
                    lambda done, total, what: progress.update(done, total, DOING[what]), progress.should_stop,
                    lambda row, reason: reject(name(row), reason),
                )  # fmt: skip
            finally:
                _remember(memory, output, options)
        write_rejected(output / (REJECTED_NAME if first else f"rejected-{options.rank:03d}.jsonl"), rejected)
        print(
            f"{report.done} clips, {report.seconds / 3600:.2f} h, {report.already} already there, "
            f"skipped: {dict(report.skipped) or 'none'}, {time.monotonic() - started:.0f} s"
        )
        # With several processes, another one may have had the good clips.
        if not report.done + report.already and options.world == 1:
            raise UserError(
                "nothing_extracted",
                "None of the {count} clips of {list} could be used; {rejected} tells why for each.",
                count=len(source),
                list=str(arguments.input),
                rejected=str(output / REJECTED_NAME),
            )
        progress.finish(_result(output, report, len(rejected)))


def _encoders(arguments: argparse.Namespace, preset: Preset, steps: Sequence[str], kept: Container[str]) -> Encoders:
    """The encoders of the steps; of the others only what they are told by, of those `kept` not even that: it may mean
    reading gigabytes.

    Raises:
        UserError: codes_not_learned, and those of `load_text`, `load_speech`, `load_features` and `load_quantizer`.
    """
    device = _device(arguments)
    shared = arguments.encoders or arguments.models.parent
    text, precision = preset.text, arguments.text_precision
    front = None
    if "text" in steps:
        front = load_text(text, arguments.models, shared, device, precision, arguments.text_tokenizer)
    speech = _speech(arguments, preset, shared, device) if "speech" in steps else None
    grouped = preset.tokenizer.form == "grouped"
    quantizer = _quantizer(arguments, preset, device) if CODES in steps else None
    text_hash = front.identity if front else ""
    if not front and "text" not in kept:
        text_hash = text_identity(text, arguments.models, shared, precision, arguments.text_tokenizer)
    return Encoders(
        text=(lambda text: front.encode(spoken_text(text))) if front else None,
        text_features=(lambda texts: front.features([spoken_text(text) for text in texts]))
        if front and front.has_features
        else None,
        text_hash=entry_key(text_hash, SPOKEN) if text_hash else "",
        speech=_on(device, speech.encode) if speech and not grouped else None,
        ssl=speech.features if speech and grouped else None,
        feature_dim=preset.tokenizer.grouped.feature_dim if grouped else 0,
        sample_rate=speech.sample_rate if speech else 0,
        samples_per_token=0 if not speech else HOP if grouped else speech.samples_per_token,
        speech_hash="" if "speech" in kept else _speech_hash(arguments, preset, shared),
        codes=_on(device, quantizer.codes) if quantizer else None,
        codes_hash=quantizer_hash(quantizer) if quantizer else "",
        phones=functools.partial(name_frames, speech) if isinstance(speech, SemanticTokenizer) else None,
    )


def _speech(
    arguments: argparse.Namespace, preset: Preset, shared: Path, device: torch.device
) -> SpeechTokens | SelfSupervised:
    """What hears: of the form "grouped" the encoder alone, whose tokens come later."""
    config = preset.tokenizer
    if config.form == "grouped":
        return load_features(config, shared, device)
    if config.encoder == "own":
        return load_tokenizer(_own_speech(arguments), with_recogniser=None).to(device)
    return load_speech(config, arguments.models, shared, device)


def _own_speech(arguments: argparse.Namespace) -> Path:
    return arguments.speech_tokenizer or arguments.models / S3_FILE


def _speech_hash(arguments: argparse.Namespace, preset: Preset, shared: Path) -> str:
    """What makes the features of the speech step, without loading it; "" where a file is missing."""
    config = preset.tokenizer
    if config.form == "grouped":
        told, files = [config.grouped.layer], [shared / config.grouped.encoder / name for name in FILES]
    elif config.encoder == "own":
        told, files = [], [_own_speech(arguments)]
    else:
        told, files = [config.encoder, config.prosody_levels], []
        with contextlib.suppress(UserError):
            files = [graph_file(config.encoder, shared / config.encoder)]
    if not files or not all(file.is_file() for file in files):
        return ""
    hashes = [file_hash(file) for file in files]
    return entry_key(*map(str, told), *hashes) if told else hashes[0]


def _quantizer(arguments: argparse.Namespace, preset: Preset, device: torch.device) -> GroupedQuantizer:
    """The quantiser of --decoder.

    Raises:
        UserError: codes_not_learned where the preset's tokens are finished, codes_of_another_preset where the decoder
            learned from other features, and those of `load_quantizer`.
    """
    if preset.tokenizer.form != "grouped":
        raise UserError(
            "codes_not_learned",
            "The speech tokens of the preset {preset} are not learned with a decoder; leave --decoder out.",
            preset=preset.name,
        )
    path = clean_path(arguments.decoder)
    quantizer = load_quantizer(path)
    ours, theirs = preset.tokenizer, quantizer.config
    differing = [
        f"{name} {getattr(theirs.grouped, name)} (the preset: {getattr(ours.grouped, name)})"
        for name in ("encoder", "layer", "feature_dim", "feature_rate")
        if getattr(theirs.grouped, name) != getattr(ours.grouped, name)
    ]
    if differing:
        raise UserError(
            "codes_of_another_preset",
            "{file} was trained on other features than those of the preset {preset}: {differing}. Choose a decoder of "
            "this preset.",
            file=str(path),
            preset=preset.name,
            differing=", ".join(differing),
        )
    return quantizer.to(device)


def _on(device: torch.device, encode: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """An encoder that is given tensors of the CPU, and gives such."""
    return lambda *tensors: encode(*(tensor.to(device) for tensor in tensors)).cpu()


def _device(arguments: argparse.Namespace) -> torch.device:
    """Several processes share the GPUs out among themselves."""
    device = pick_device(arguments.device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", arguments.rank % torch.cuda.device_count())
    return device


def _remember(memory: FileMemory, output: Path, options: ExtractOptions) -> None:
    """Keep what is known of the recordings; shares of an earlier run with more processes go away with rank 0."""
    memory.save(output / MEMORY_NAME.format(rank=options.rank))
    for rank in range(options.world, 1000) if options.rank == 0 else ():
        (output / MEMORY_NAME.format(rank=rank)).unlink(missing_ok=True)


def _result(output: Path, report: ExtractReport, rejected: int) -> dict[str, object]:
    """What the page and the terminal are told of the steps, of this run and of the folder as a whole."""
    store = LineStore(output)
    steps = {step: {"done": count.done, "already": count.already} for step, count in report.steps.items()}
    print("; ".join(f"{step}: {count.done} done, {count.already} already" for step, count in report.steps.items()))
    missing = {step: lines for step, lines in store.missing.items() if step not in steps}
    if missing:
        there = " and ".join(f"{step} done for {sum(count.values())} lines" for step, count in steps.items())
        print(f"{there}; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return {
        "folder": output,
        "clips": report.done,
        "already": report.already,
        "seconds": report.seconds,
        "skipped": dict(report.skipped),
        "rejected": rejected,
        "steps": steps,
        "missing": missing,
        "lines": store.lines,
        "complete": len(store),
    }


def _source(
    arguments: argparse.Namespace, output: Path, memory: FileMemory, reject: Callable[[str, str], None]
) -> tuple[Source, Callable[[int], str]]:
    """What is extracted, and what its rows are called. Raises UserError: manifest_missing, store_missing."""
    path = clean_path(arguments.input)
    if path.is_dir():
        return CorpusRows(FeatureStore(path)), lambda row: f"{path}, row {row}"
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
    recordings = Recordings(hold_out(utterances, output / SPLITS_NAME), memory)
    return recordings, recordings.name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.extract", description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="dataset list, or corpus store of tools.corpus")
    parser.add_argument("--audio-folder", type=Path, help="look for each recording of the list here, by its name")
    # torchrun tells each of its processes who it is by these two.
    parser.add_argument("--rank", type=int, default=int(os.environ.get("RANK", 0)), help="number of this process")
    parser.add_argument("--world", type=int, default=int(os.environ.get("WORLD_SIZE", 1)), help="number of processes")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--output", type=Path, help="folder of the features; appended to")
    place.add_argument("--experiment", help="name of the voice: the features go to logs/NAME/features")
    parser.add_argument(
        "--only", choices=ALL_STEPS, help="do this step alone; without it, all, codes if there is a --decoder"
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--models", type=Path, default=Path("pretrained_models/nano"), help="folder of the preset")
    parser.add_argument(
        "--encoders", type=Path, help="folder of the encoders that presets share (default: the parent of --models)"
    )
    parser.add_argument("--text-tokenizer", type=Path, help="tokenizer.json, if not in --models")
    parser.add_argument("--speech-tokenizer", type=Path, help="s3.safetensors, if not in --models")
    parser.add_argument(
        "--decoder", type=Path, metavar="FILE", help="decoder weights whose tokens are made of the features"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    parser.add_argument(
        "--text-precision",
        choices=typing.get_args(Precision),
        default="float32",
        help="of the text encoder: float32, bf16 (half the memory), int8 (on a CPU alone; quicker, less exact)",
    )
    parser.add_argument("--no-audio", action="store_true", help="leave the audio out (enough for the GPT)")
    parser.add_argument("--limit", type=int, default=0, help="at most so many clips per language and split; 0 = all")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="longer clips are skipped")
    parser.add_argument(
        "--drop", type=Path, action="append", default=[], metavar="REPORT",
        help="leave out the clips that this report of tools.corpus clean lists; may be repeated",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
