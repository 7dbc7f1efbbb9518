"""Train the decoder from feature stores.

    python -m tools.train_vits2 --store FEATURES --store FEATURES2 --output logs/decoder --max-minutes 60
    python -m tools.train_vits2 --store FEATURES --output logs/decoder-gan --init logs/decoder/vits2.safetensors \
        --adversarial-from 0 --learning-rate 3e-4 --max-minutes 30
"""

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.augmentation import AugmentOptions
from modules.checkpoint import file_hash, load_training_state
from modules.config import Preset, load_preset, to_dict
from modules.data.batching import BatchSampler, Loader
from modules.data.columns import Rows
from modules.data.features import open_store
from modules.data.fit import check_fit
from modules.errors import UserError
from modules.inference.samples import SampleMaker
from modules.progress import StepProgress
from modules.speech.building import S3_FILE
from modules.text.tokenizer import TextTokenizer
from modules.training.loop import LoopConfig
from modules.training.runs import CHECKPOINT_NAME, has_checkpoint
from modules.training.stage import Samples
from modules.vits2.building import build_vits2
from modules.vits2.content import load_content_distance
from modules.vits2.dataset import BalancedSampler, DecoderDataset
from modules.vits2.model import VITS2
from modules.vits2.speaker import load_speaker_encoder
from modules.vits2.train import WEIGHTS_NAME, VITS2Stage, VITS2TrainConfig, warm_start
from tools.flags import add_options, share
from tools.running import run_step
from tools.training import (
    add_beginning,
    add_keeping,
    add_machine,
    add_run_length,
    begin,
    fitting_loader,
    is_main,
    keeps_latest,
    published,
    run_length,
    run_training,
)


def main(argv: list[str] | None = None) -> int:
    """Parse flags, build, train; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(_run, arguments)
    job = arguments.job if is_main() else None
    return run_step(work, job, stopped="stopped; run it again with --resume to go on", finishes=True)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    team = begin(arguments)
    if arguments.shard:
        raise UserError(
            "shard_unsupported",
            "A training of {modules} cannot be shared out over processes by --shard; leave it out, and each "
            "process holds the whole model.",
            modules="vits2",
        )
    preset = load_preset(arguments.preset)
    stores = [open_store(path) for path in arguments.store]
    check_fit(stores, preset)
    tokens = {
        "token_rate": float(preset.tokenizer.frame_rate),
        "tokenizer": preset.tokenizer,
        "text": preset.text,
    }
    poor = AugmentOptions.of_references(arguments.augment_references) if arguments.augment_references > 0 else None
    dataset = DecoderDataset(stores, preset.audio, "train", arguments.window_seconds, **tokens, degrade_style=poor)
    model = build_vits2(preset, _text_vocab(arguments, preset), arguments.codebook_sizes or ())
    if arguments.init:
        missing, differing = warm_start(model, *arguments.init)
        names = ", ".join(map(str, arguments.init))
        if len(missing) + len(differing) == len(model.state_dict()):
            raise UserError(
                "weights_wrong_stage",
                "{file} does not hold {stage} weights; choose a file written by its training.",
                file=names,
                stage="VITS2",
            )
        print(f"started from {names}: {len(missing)} tensors missing there, {len(differing)} of other shape")
    stage = _stage(arguments, preset, model, _validation(stores, preset, arguments, tokens), stores)
    fixed = _fixed_or_not(arguments, model)
    if arguments.init_discriminators:
        stage.load_discriminators(arguments.init_discriminators)

    def loader(seconds: float) -> Loader:
        items = max(2, round(seconds / arguments.window_seconds))
        sampler = BalancedSampler(dataset, items, arguments.synthetic_share, arguments.seed)
        return Loader(dataset, sampler, dataset.collate, workers=arguments.workers, rank=team.rank, world=team.world)

    latest_phases = max(0, stage.config.adversarial_from)
    batches, notes = fitting_loader(arguments, stage, loader, arguments.batch_seconds, "seconds", team, latest_phases)
    if team.rank == 0:
        inference = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("posterior."))
        print(
            f"{len(dataset)} clips of {len(dataset.by_speaker)} speakers, {inference / 1e6:.2f} M inference parameters"
        )
    fingerprints = [store.fingerprint(codes=False) for store in stores]  # what the decoder does not read
    same = {"vits2": preset.vits2, "audio": preset.audio, "tokenizer": preset.tokenizer, "train": stage.config}
    run_training(
        arguments, stage, batches, _loop_config(arguments, batches.sampler, team.world, fingerprints), team, progress,
        run_config={name: to_dict(config) for name, config in same.items()} | fixed | {"ears": _ears(arguments)},
        fingerprints=fingerprints, weights_name=WEIGHTS_NAME, notes=notes,
    )  # fmt: skip


def _stage(
    arguments: argparse.Namespace, preset: Preset, model: VITS2, validation: list, stores: list[Rows]
) -> VITS2Stage:
    return VITS2Stage(
        model,
        VITS2TrainConfig(**{f.name: getattr(arguments, f.name) for f in fields(VITS2TrainConfig)}),
        validation,
        preset.name,
        include_posterior=arguments.include_posterior,
        parent_hash=file_hash(arguments.init[0]) if arguments.init else "",
        published=published(arguments, "vits2"),
        publish_each=arguments.save_small,
        samples=_samples(arguments, stores),
        speaker=load_speaker_encoder(arguments.speaker) if arguments.speaker else None,
        content=load_content_distance(arguments.content, preset.audio.sample_rate) if arguments.content else None,
    )


def _fixed_or_not(arguments: argparse.Namespace, model: VITS2) -> dict[str, bool]:
    """What a run keeps of whether its codebooks stay as they are, which the flags alone do not decide: weights to start
    from may bring learned ones. Empty for other tokens, and where a run that is resumed does not know.

    Raises:
        UserError: resume_quantizer_differs.
    """
    if model.quantizer is None:
        return {}
    fixed = {"quantizer_fixed": model.quantizer.frozen}
    if not ((arguments.resume or arguments.data_added) and has_checkpoint(arguments.output)):
        return fixed
    saved = load_training_state(arguments.output / f"{CHECKPOINT_NAME}.safetensors")["run_config"] or {}
    if "quantizer_fixed" not in saved:
        return {}
    if saved["quantizer_fixed"] != model.quantizer.frozen:
        raise UserError(
            "resume_quantizer_differs",
            "The training in {folder} began with other codebooks than these flags give it; repeat the --init and "
            "--quantizer that it was started with.",
            folder=str(arguments.output),
        )
    return fixed


def _ears(arguments: argparse.Namespace) -> dict[str, str]:
    """Hashes of what judges the sound beside the spectra; "" for none."""
    return {name: file_hash(path) if path else "" for name, path in _ear_files(arguments).items()}


def _ear_files(arguments: argparse.Namespace) -> dict[str, Path | None]:
    content = arguments.content
    return {"speaker": arguments.speaker, "content": content / S3_FILE if content and content.is_dir() else content}


def _samples(arguments: argparse.Namespace, stores: list[Rows]) -> Callable[[VITS2, Path], Samples] | None:
    """Makes held-out lines heard; None where that is not wished."""
    return SampleMaker(stores, arguments.samples, arguments.seed).from_tokens if arguments.samples > 0 else None


def _text_vocab(arguments: argparse.Namespace, preset: Preset) -> int:
    return TextTokenizer.load(arguments.text_tokenizer).size if arguments.text_tokenizer else preset.text.vocab_size


def _validation(stores: list[Rows], preset: Preset, arguments: argparse.Namespace, tokens: dict[str, Any]) -> list:
    """Two fixed batches of held-out clips, one per kind of source; none when there is no dev split."""
    try:
        dataset = DecoderDataset(stores, preset.audio, "dev", arguments.window_seconds, **tokens)
    except UserError:
        return []
    order = np.random.default_rng(0).permutation(len(dataset))
    batches = []
    for synthetic in (False, True):
        rows = [int(i) for i in order if dataset.synthetic[i] == synthetic][:12]
        if rows:
            batches.append(dataset.collate([dataset.get(i, np.random.default_rng(i)) for i in rows]))
    return batches


def _loop_config(
    arguments: argparse.Namespace, sampler: BatchSampler, world: int, fingerprints: list[str]
) -> LoopConfig:
    max_steps, save_at = run_length(arguments, sampler, world, fingerprints)
    return LoopConfig(
        max_steps=max_steps,
        save_at_steps=save_at,
        keep_latest=keeps_latest(arguments),
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.train_vits2", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, nargs="+", action="extend", required=True, help="feature stores")
    parser.add_argument("--output", type=Path, required=True, help="run folder: checkpoint, events, weights")
    parser.add_argument("--preset", default="nano")
    parser.add_argument(
        "--init", type=Path, nargs="+", help="start from these decoder weights; several files hold its parts"
    )
    parser.add_argument("--init-discriminators", type=Path, help="start the discriminators from these weights")
    parser.add_argument(
        "--include-posterior", action=argparse.BooleanOptionalAction, default=True,
        help="keep the posterior encoder in the weights; needed to go on training from them",
    )  # fmt: skip
    parser.add_argument("--text-tokenizer", type=Path, help="tokenizer.json, when its size is not the preset's")
    parser.add_argument("--codebook-sizes", type=int, nargs="+", help="when they are not the preset's")
    add_beginning(parser)
    add_run_length(parser)
    add_keeping(parser)
    add_machine(parser)
    parser.add_argument("--max-steps", type=int, default=0, help="0 = off")
    parser.add_argument("--batch-seconds", type=float, default=24.0, help="seconds of target audio in a batch")
    parser.add_argument("--window-seconds", type=float, default=2.0, help="longest piece of a clip")
    parser.add_argument("--synthetic-share", type=float, default=0.3, help="share of synthetic clips; -1 = as they are")
    parser.add_argument(
        "--augment-references", type=share, default=0.0,
        help="share of style references that are made poor recordings, 0 to 1: the decoder learns to speak clean all "
        "the same",
    )  # fmt: skip
    parser.add_argument("--speaker", type=Path, help="speaker encoder (tools.train_speaker) that judges the voice")
    parser.add_argument(
        "--content", type=Path, metavar="S3",
        help="speech tokenizer with its recognition head, a file or a model folder, that judges what is said",
    )  # fmt: skip
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--save-every", type=int, default=0, help="steps between saved weights; 0 = at the end only")
    parser.add_argument("--validate-every", type=int, default=250)
    add_options(parser.add_argument_group("training of the decoder"), VITS2TrainConfig, show_defaults=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
