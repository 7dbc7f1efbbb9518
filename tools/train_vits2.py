"""Train the decoder from feature stores.

    python -m tools.train_vits2 --store FEATURES --store FEATURES2 --output logs/decoder --max-minutes 60
    python -m tools.train_vits2 --store FEATURES --output logs/decoder-gan --init logs/decoder/vits2.safetensors \
        --adversarial-from 0 --learning-rate 3e-4 --max-minutes 30
"""

import argparse
import functools
import shutil
import sys
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from modules.checkpoint import file_hash
from modules.config import load_preset, to_dict
from modules.data.batching import BatchSampler, Loader
from modules.data.store import FeatureStore, entry_key
from modules.errors import Stopped, UserError
from modules.experiment import Experiment, experiment_name
from modules.progress import StepProgress
from modules.runtime import pick_device, seed_everything, set_threads
from modules.text.tokenizer import TextTokenizer
from modules.training.loop import LoopConfig, train
from modules.training.runs import set_aside
from modules.vits2.dataset import BalancedSampler, DecoderDataset
from modules.vits2.model import VITS2
from modules.vits2.train import VITS2Stage, VITS2TrainConfig, warm_start
from tools.flags import add_beginning, add_options, add_run_length, run_length
from tools.running import run_step


def main(argv: list[str] | None = None) -> int:
    """Parse flags, build, train; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(_run, arguments)
    return run_step(work, arguments.job, stopped="stopped; run it again with --resume to go on")


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    if arguments.threads:
        set_threads(arguments.threads)
    if arguments.start_over and (kept := set_aside(arguments.output)):
        print(f"the earlier run is kept as {kept}")
    seed_everything(arguments.seed)
    device = pick_device(arguments.device)
    preset = load_preset(arguments.preset)
    stores = [FeatureStore(path) for path in arguments.store]
    token_rate = float(preset.tokenizer.frame_rate)
    dataset = DecoderDataset(stores, preset.audio, "train", arguments.window_seconds, token_rate=token_rate)
    batch_size = max(2, round(arguments.batch_seconds / arguments.window_seconds))
    sampler = BalancedSampler(dataset, batch_size, arguments.synthetic_share, arguments.seed)
    loader = Loader(dataset, sampler, dataset.collate, workers=arguments.workers)
    sizes = _codebook_sizes(arguments, preset)
    levels = preset.tokenizer.levels if preset.tokenizer.quantizer == "fsq" else ()
    model = VITS2(
        preset.vits2,
        preset.audio,
        sizes,
        _text_vocab(arguments, preset),
        token_rate,
        fsq_levels=levels if levels and int(np.prod(levels)) == sizes[0] else None,
    )
    if arguments.init:
        missing, differing = warm_start(model, *arguments.init)
        names = ", ".join(map(str, arguments.init))
        print(f"started from {names}: {len(missing)} tensors missing there, {len(differing)} of other shape")
    config = VITS2TrainConfig(**{f.name: getattr(arguments, f.name) for f in fields(VITS2TrainConfig)})
    stage = VITS2Stage(
        model,
        config,
        _validation(stores, preset, arguments, token_rate),
        preset.name,
        include_posterior=arguments.include_posterior,
        parent_hash=file_hash(arguments.init[0]) if arguments.init else "",
        published=Experiment(experiment_name(arguments.experiment)).vits2_file if arguments.experiment else None,
    )
    if arguments.init_discriminators:
        stage.load_discriminators(arguments.init_discriminators)
    inference = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("posterior."))
    print(f"{len(dataset)} clips of {len(dataset.by_speaker)} speakers, {inference / 1e6:.2f} M inference parameters")
    result = train(
        stage, loader, _loop_config(arguments, sampler), arguments.output,
        resume=arguments.resume or arguments.data_added, data=entry_key(*(s.fingerprint() for s in stores)),
        data_added=arguments.data_added, device=device, should_stop=progress.should_stop, on_event=progress.pass_on,
        run_config={"vits2": to_dict(preset.vits2), "audio": to_dict(preset.audio), "train": to_dict(config)},
    )  # fmt: skip
    skipped = f", skipped {result.skipped}" if result.skipped else ""
    print(f"step {result.step}, stopped by {result.stopped_by}{skipped}, {_numbers(result.validation)}")
    weights = list(result.weights)
    if arguments.weights_out:
        arguments.weights_out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.output / "vits2.safetensors", arguments.weights_out)
        weights.append(arguments.weights_out)
    if result.stopped_by == "stop":
        raise Stopped
    progress.finish({**asdict(result), "weights": weights})


def _codebook_sizes(arguments: argparse.Namespace, preset) -> list[int]:
    if arguments.codebook_sizes:
        return arguments.codebook_sizes
    tokenizer = preset.tokenizer
    content = int(np.prod(tokenizer.levels)) if tokenizer.quantizer == "fsq" else tokenizer.codebook_size
    return [content, tokenizer.prosody_levels] if tokenizer.prosody_levels else [content]


def _text_vocab(arguments: argparse.Namespace, preset) -> int:
    return TextTokenizer.load(arguments.text_tokenizer).size if arguments.text_tokenizer else preset.text.vocab_size


def _validation(stores: list[FeatureStore], preset, arguments: argparse.Namespace, token_rate: float) -> list:
    """Two fixed batches of held-out clips, one per kind of source; none when there is no dev split."""
    try:
        dataset = DecoderDataset(stores, preset.audio, "dev", arguments.window_seconds, token_rate=token_rate)
    except UserError:
        return []
    order = np.random.default_rng(0).permutation(len(dataset))
    batches = []
    for synthetic in (False, True):
        rows = [int(i) for i in order if dataset.synthetic[i] == synthetic][:12]
        if rows:
            batches.append(dataset.collate([dataset.get(i, np.random.default_rng(i)) for i in rows]))
    return batches


def _loop_config(arguments: argparse.Namespace, sampler: BatchSampler) -> LoopConfig:
    max_steps, save_at = run_length(arguments, sampler)
    return LoopConfig(
        max_steps=max_steps,
        save_at_steps=save_at,
        keep_latest=not arguments.experiment,
        max_minutes=arguments.max_minutes,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
        accumulate=arguments.accumulate,
        ema_decay=arguments.ema_decay,
        save_every_steps=arguments.save_every,
        validate_every_steps=arguments.validate_every,
        seed=arguments.seed,
        precision=arguments.precision,
    )


def _numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name.lstrip('_')} {value:.4g}" for name, value in values.items() if value is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.train_vits2", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, action="append", required=True, help="feature store; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="run folder: checkpoint, events, weights")
    parser.add_argument("--preset", default="nano")
    parser.add_argument(
        "--init", type=Path, nargs="+", help="start from these decoder weights; several files hold its parts"
    )
    parser.add_argument("--init-discriminators", type=Path, help="start the discriminators from these weights")
    parser.add_argument("--weights-out", type=Path, help="copy the final weights here")
    parser.add_argument(
        "--include-posterior", action=argparse.BooleanOptionalAction, default=True,
        help="keep the posterior encoder in the weights; needed to go on training from them",
    )  # fmt: skip
    parser.add_argument("--text-tokenizer", type=Path, help="tokenizer.json, when its size is not the preset's")
    parser.add_argument("--codebook-sizes", type=int, nargs="+", help="when they are not the preset's")
    add_beginning(parser)
    add_run_length(parser)
    parser.add_argument("--max-steps", type=int, default=100000)
    parser.add_argument("--max-minutes", type=float, default=0.0, help="end, annealed, after so many minutes; 0 = off")
    parser.add_argument("--batch-seconds", type=float, default=24.0, help="seconds of target audio in a batch")
    parser.add_argument("--window-seconds", type=float, default=2.0, help="longest piece of a clip")
    parser.add_argument("--synthetic-share", type=float, default=0.3, help="share of synthetic clips; -1 = as they are")
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--save-every", type=int, default=0, help="steps between saved weights; 0 = at the end only")
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches; 0 = one thread")
    parser.add_argument("--precision", choices=("float32", "bf16", "auto"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )
    add_options(parser.add_argument_group("training of the decoder"), VITS2TrainConfig, show_defaults=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
