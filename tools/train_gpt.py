"""Train the language model on feature stores.

python -m tools.train_gpt --store logs/nano/store --output logs/nano/gpt --max-minutes 45 --threads 2
"""

import argparse
import functools
import json
import math
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from modules.checkpoint import file_hash
from modules.config import Preset, load_preset
from modules.data.batching import Loader
from modules.data.store import FeatureStore, entry_key
from modules.errors import Stopped, UserError
from modules.experiment import Experiment, experiment_name
from modules.gpt.dataset import (
    Collate,
    MixOptions,
    MixSampler,
    PromptDataset,
    batches_of,
    measure_unit_frames,
    quiet_codes,
    validation_rows,
)
from modules.gpt.lora import RANKS, add_lora
from modules.gpt.model import SpeechGPT, load_gpt
from modules.gpt.train import WEIGHTS_NAME, GPTStage, StageOptions, Validation
from modules.progress import StepProgress
from modules.runtime import pick_device, seed_everything, set_threads
from modules.training.loop import LoopConfig, train
from modules.training.runs import set_aside
from tools.flags import add_beginning, add_run_length, run_length
from tools.running import run_step

NO_STEP_LIMIT = 1_000_000


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(run, arguments)
    return run_step(work, arguments.job, stopped="stopped; run it again with --resume to go on")


def run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    """Build model, data and stage from the flags, and hand them to the loop. Raises Stopped, after saving."""
    if arguments.threads:
        set_threads(arguments.threads)
    if arguments.start_over and (kept := set_aside(arguments.output)):
        print(f"the earlier run is kept as {kept}")
    seed_everything(arguments.seed)
    device = pick_device(arguments.device)
    preset = load_preset(arguments.preset)
    model = _model(arguments, preset)
    features = model.text_config.features != "embedding"
    mix = MixOptions(
        pair_ratio=arguments.pair_ratio,
        max_references=arguments.max_references,
        share_recorded=arguments.share_recorded,
        language_exponent=arguments.language_exponent,
        max_seconds=arguments.max_seconds,
    )
    dataset = PromptDataset(arguments.store, "train", mix, features)
    model.statistics |= {"frames_per_unit": dataset.frames_per_unit, "quiet_codes": quiet_codes(dataset)}
    if model.config.positions == "aligned" and not arguments.init:
        model.unit_frames.copy_(torch.from_numpy(measure_unit_frames(dataset, model.text_vocab)))
    sampler = MixSampler(dataset, arguments.batch_frames, arguments.seed)
    loader = Loader(dataset, sampler, Collate(model.end_code), workers=arguments.workers)
    options = StageOptions(
        learning_rate=arguments.learning_rate, label_smoothing=arguments.label_smoothing, stream_weight=0.3
    )
    parent = file_hash(arguments.init) if arguments.init else ""
    validation = _validation(arguments, mix, features, model.end_code)
    published = Experiment(experiment_name(arguments.experiment)).gpt_file if arguments.experiment else None
    stage = GPTStage(model, options, validation, preset.name, parent, published)
    max_steps, save_at = run_length(arguments, sampler)
    config = LoopConfig(
        max_steps=max_steps or NO_STEP_LIMIT,
        save_at_steps=save_at,
        keep_latest=not arguments.experiment,
        max_minutes=arguments.max_minutes,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
        clip_norm=1.0,
        ema_decay=arguments.ema_decay,
        save_every_steps=arguments.validate_every,
        validate_every_steps=arguments.validate_every,
        seed=arguments.seed,
        precision="auto",
    )
    shape = model.description()
    del shape["statistics"]
    count = len(sampler.batches(0))
    waste = f"{100 * sampler.padding_waste:.1f} % of their positions padding"
    print(f"{len(dataset)} utterances, {count} batches an epoch, {waste}, {_millions(model)} parameters")
    result = train(
        stage, loader, config, arguments.output, resume=arguments.resume or arguments.data_added, device=device,
        data=entry_key(*(FeatureStore(s).fingerprint() for s in arguments.store)), data_added=arguments.data_added,
        should_stop=progress.should_stop, run_config={"model": shape}, on_event=progress.pass_on,
    )  # fmt: skip
    print(f"step {result.step}, stopped by {result.stopped_by}, {json.dumps(result.validation)}")
    weights = list(result.weights)
    if arguments.weights_out:
        arguments.weights_out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.output / WEIGHTS_NAME, arguments.weights_out)
        weights.append(arguments.weights_out)
    if result.stopped_by == "stop":
        raise Stopped
    progress.finish({**asdict(result), "weights": weights})


def _model(arguments: argparse.Namespace, preset: Preset) -> SpeechGPT:
    if arguments.init:
        model = load_gpt(arguments.init).train()
        return add_lora(model, arguments.lora_rank) if arguments.lora_rank else model
    if arguments.lora_rank:
        raise UserError("lora_needs_init", "LoRA adapts a finished model; name one with --init.")
    tokenizer = preset.tokenizer
    levels = tokenizer.levels if tokenizer.quantizer == "fsq" else None
    sizes = [math.prod(levels) if levels else tokenizer.codebook_size]
    sizes += [tokenizer.prosody_levels] if tokenizer.prosody_levels else []
    streams = next((int(s.row(0, ["codebooks"])["codebooks"]) for s in map(FeatureStore, arguments.store) if len(s)), 1)
    if streams > len(sizes):
        raise UserError(
            "gpt_streams_differ",
            "{store} holds {found} code streams, preset {preset} has {expected}; extract again with this preset.",
            store=arguments.store[0],
            found=streams,
            preset=preset.name,
            expected=len(sizes),
        )
    return SpeechGPT(
        preset.gpt,
        preset.text,
        sizes[:streams],
        preset.text.vocab_size,
        fsq_levels=levels,
        share_tables=arguments.share_tables,
    )


def _validation(arguments: argparse.Namespace, mix: MixOptions, features: bool, end_code: int) -> Validation:
    """Held-out rows of split dev; without any, nothing is validated."""
    try:
        dataset = PromptDataset(arguments.store, "dev", mix, features)
    except UserError as error:
        print(f"no validation: {error}", file=sys.stderr)
        return Validation()
    rows = validation_rows(dataset, arguments.validate_targets)
    collate = Collate(end_code, last_only=True)
    batches = [collate(batch) for batch in batches_of(rows, arguments.batch_frames)]
    return Validation(batches, rows, dataset.group_name)


def _millions(model: SpeechGPT) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.train_gpt", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, nargs="+", action="extend", required=True, help="feature stores")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--init", type=Path, help="start from these weights")
    parser.add_argument("--weights-out", type=Path, help="copy the final weights here")
    add_beginning(parser)
    add_run_length(parser)
    parser.add_argument(
        "--lora-rank",
        type=int,
        choices=(0, *RANKS),
        default=0,
        help="train adapters of this rank alone; 0 = all weights",
    )
    parser.add_argument("--max-steps", type=int, default=0, help="0 = off")
    parser.add_argument("--max-minutes", type=float, default=0.0, help="end, annealed, after so many minutes; 0 = off")
    parser.add_argument("--batch-frames", type=int, default=4096, help="padded positions in a batch")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--ema-decay", type=float, default=0.995)
    parser.add_argument("--pair-ratio", type=float, default=0.75, help="share of targets with prompts")
    parser.add_argument("--max-references", type=int, default=2)
    parser.add_argument("--share-recorded", type=float, help="share of recorded speech; default: as in the stores")
    parser.add_argument("--language-exponent", type=float, default=1.0, help="1 = as in the stores, 0 = even")
    parser.add_argument("--max-seconds", type=float, default=12.0, help="longer utterances are left out")
    parser.add_argument("--share-tables", action="store_true", help="one table for speech codes in and out")
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--validate-targets", type=int, default=40, help="held-out targets of each language")
    parser.add_argument("--workers", type=int, default=0, help="processes that read data; 0 = a thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
