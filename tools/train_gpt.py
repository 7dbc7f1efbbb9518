"""Train the language model on feature stores.

python -m tools.train_gpt --store logs/nano/store --output logs/nano/gpt --max-minutes 45 --threads 2
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from modules.checkpoint import file_hash, load_weights
from modules.config import Preset, load_preset
from modules.data.batching import BatchSampler, Loader
from modules.data.columns import Rows
from modules.data.features import open_store
from modules.data.fit import check_codes, check_codes_made_by, check_fit
from modules.errors import Stopped, UserError
from modules.gpt.batching import Collate, MixSampler, batches_of
from modules.gpt.building import build_gpt_of_preset
from modules.gpt.dataset import MixOptions, PromptDataset, validation_rows
from modules.gpt.decode import Decoder
from modules.gpt.lora import RANKS, add_lora
from modules.gpt.measuring import learn_alignment, measure_unit_frames, phone_names, quiet_codes
from modules.gpt.model import SpeechGPT, load_gpt
from modules.gpt.qwen import start_backbone
from modules.gpt.train import WEIGHTS_NAME, GPTStage, StageOptions, Validation
from modules.inference.labelling import Labeller
from modules.inference.samples import SampleMaker
from modules.paths import PRETRAINED_MODELS
from modules.progress import StepProgress
from modules.speech.grouped import FrameVectors, GroupedQuantizer, load_quantizer, quantizer_hash, stream_sizes
from modules.speech.hearing import load_reader
from modules.training.loop import LoopConfig
from modules.training.stage import Samples
from modules.training.suggestions import usual_learning_rate
from tools.flags import share
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

DECODER_NAME = "vits2.safetensors"


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(run, arguments)
    job = arguments.job if is_main() else None
    return run_step(work, job, stopped="stopped; run it again with --resume to go on", finishes=True)


def run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    """Build model, data and stage from the flags, and hand them to the loop. Raises Stopped, after saving."""
    preset = load_preset(arguments.preset)
    if arguments.learning_rate is None:
        arguments.learning_rate = usual_learning_rate(preset.gpt)
    team = begin(arguments)
    decoder, stores = arguments.decoder / DECODER_NAME, [open_store(store) for store in arguments.store]
    check_codes(stores, preset.name, str(decoder))
    model = _model(arguments, preset, stores)
    check_fit(stores, dataclasses.replace(preset, text=model.text_config))
    if model.vector_dim is not None:
        quantizer = _quantizer(arguments, preset, stores, model.statistics.get("quantizer")).to(team.device)
        model.set_vectors(FrameVectors(quantizer))
        model.statistics["quantizer"] = quantizer_hash(quantizer)
    features = model.text_config.features != "embedding"
    mix = MixOptions(
        pair_ratio=arguments.pair_ratio,
        max_references=arguments.max_references,
        foreign_prompts=arguments.foreign_prompts,
        share_recorded=arguments.share_recorded,
        language_exponent=arguments.language_exponent,
        max_seconds=arguments.max_seconds,
    )
    if model.pattern.phones and not arguments.init:
        model.statistics["phones"] = _phones(stores, model)
    phones = model.statistics.get("phones", ())
    dataset = PromptDataset(arguments.store, "train", mix, features, model.pattern, phones)
    find_places = _places_of(arguments, model.eval(), dataset, progress) if model.pattern.pointer else None
    if find_places is not None:
        find_places(dataset)
    measured = {"frames_per_unit": dataset.frames_per_unit, "quiet_codes": quiet_codes(dataset)}
    model.statistics |= {**measured, "max_length": mix.max_length}
    if model.config.positions == "aligned" and not arguments.init:
        model.unit_frames.copy_(torch.from_numpy(measure_unit_frames(dataset, model.text_vocab)))
    stage = _stage(arguments, preset, model, _validation(arguments, mix, model, find_places))
    model.train()

    def loader(budget: float) -> Loader:
        sampler = MixSampler(dataset, round(budget), arguments.seed)
        collate = Collate(model.pattern)
        return Loader(dataset, sampler, collate, workers=arguments.workers, rank=team.rank, world=team.world)

    batches, notes = fitting_loader(arguments, stage, loader, arguments.batch_frames, "positions", team)
    fingerprints = [store.fingerprint() for store in stores]
    config = _loop_config(arguments, batches.sampler, team.world, fingerprints)
    shape = model.description()
    del shape["statistics"]
    same = {"learning_rate": arguments.learning_rate, "lora_rank": arguments.lora_rank}
    if phones:
        same["phones"] = list(phones)
    if model.vector_dim is not None:
        same["quantizer"] = model.statistics["quantizer"]
    if team.rank == 0:
        count, waste = len(batches), f"{100 * batches.sampler.padding_waste:.1f} % of their positions padding"
        print(f"{len(dataset)} utterances, {count} batches an epoch, {waste}, {_millions(model)} parameters")
    run_training(
        arguments, stage, batches, config, team, progress, run_config={"model": shape, "train": same},
        fingerprints=fingerprints, weights_name=WEIGHTS_NAME, notes=notes,
    )  # fmt: skip


def _stage(arguments: argparse.Namespace, preset: Preset, model: SpeechGPT, validation: Validation) -> GPTStage:
    options = StageOptions(
        learning_rate=arguments.learning_rate, label_smoothing=arguments.label_smoothing, stream_weight=0.3
    )
    return GPTStage(
        model,
        options,
        validation,
        preset.name,
        file_hash(arguments.init) if arguments.init else "",
        published(arguments, "gpt"),
        arguments.save_small,
        _samples(arguments),
    )


def _samples(arguments: argparse.Namespace) -> Callable[[SpeechGPT, Path], Samples] | None:
    """Makes held-out lines heard through a finished decoder; None where that is not wished."""
    if arguments.samples <= 0:
        return None
    load_weights(arguments.decoder / DECODER_NAME)  # what is wrong with it is better told now than at the first save
    maker = SampleMaker([open_store(store) for store in arguments.store], arguments.samples, arguments.seed)
    return functools.partial(maker.from_text, arguments.decoder / DECODER_NAME)


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
        clip_norm=1.0,
        ema_decay=arguments.ema_decay,
        save_every_steps=arguments.save_every,
        validate_every_steps=arguments.validate_every,
        seed=arguments.seed,
        precision=arguments.precision,
    )


def _model(arguments: argparse.Namespace, preset: Preset, stores: Sequence[Rows]) -> SpeechGPT:
    """The model to be trained. Raises UserError: lora_needs_init, and those of `_streams` and the loaders."""
    if arguments.init:
        model = load_gpt(arguments.init).train()
        _streams(stores, preset.name, len(model.codebook_sizes), all_of_them=model.vector_dim is not None)
        return add_lora(model, arguments.lora_rank) if arguments.lora_rank else model
    if arguments.lora_rank:
        raise UserError("lora_needs_init", "LoRA adapts a finished model; name one with --init.")
    grouped = preset.tokenizer.form == "grouped"
    streams = _streams(stores, preset.name, len(stream_sizes(preset.tokenizer)), all_of_them=grouped)
    model = build_gpt_of_preset(preset, streams, share_tables=arguments.share_tables)
    begun = arguments.resume or arguments.data_added  # such a one has learned on from there
    if preset.gpt.backbone != "fresh" and not begun:
        start_backbone(model, arguments.encoders / preset.gpt.backbone)
    return model


def _streams(stores: Sequence[Rows], preset: str, expected: int, *, all_of_them: bool) -> int:
    """Code streams of the stores, at most the expected ones; tokens that are learned with the decoder are all needed.

    Raises:
        UserError: gpt_streams_differ.
    """
    held = [(store, int(store.row(0, ["codebooks"])["codebooks"])) for store in stores if len(store)]
    for store, found in held:
        if found > expected or (all_of_them and found != expected):
            raise UserError(
                "gpt_streams_differ",
                "{store} holds {found} code streams, preset {preset} has {expected}; extract again with this preset.",
                store=str(store.folder),
                found=found,
                preset=preset,
                expected=expected,
            )
    return held[0][1] if held else 1


def _quantizer(
    arguments: argparse.Namespace, preset: Preset, stores: Sequence[Rows], learned: str | None
) -> GroupedQuantizer:
    """The quantiser that made the codes, out of --decoder.

    Args:
        learned: hash of the one whose codes the model of --init has learned; None where that is not known.

    Raises:
        UserError: codes_streams_differ, gpt_of_another_decoder, and those of `check_codes_made_by` and
            `load_quantizer`.
    """
    decoder = arguments.decoder / DECODER_NAME
    quantizer = load_quantizer(decoder)
    found, expected = ((c.frame_rate, *stream_sizes(c)) for c in (quantizer.config, preset.tokenizer))
    if found != expected:
        raise UserError(
            "codes_streams_differ",
            "{file} makes {found_rate} speech tokens a second of the sizes {found}, those of the preset {preset} are "
            "{expected_rate} of the sizes {expected}. Choose a decoder of this preset.",
            file=str(decoder),
            preset=preset.name,
            found_rate=found[0],
            found=", ".join(map(str, found[1:])),
            expected_rate=expected[0],
            expected=", ".join(map(str, expected[1:])),
        )
    made_by = quantizer_hash(quantizer)
    if learned not in (None, made_by):
        raise UserError(
            "gpt_of_another_decoder",
            "{file} has learned the speech tokens of another decoder than {decoder}. Name its own with --decoder, or "
            "train without --init.",
            file=str(arguments.init),
            decoder=str(decoder),
        )
    check_codes_made_by(stores, made_by, preset.name, str(decoder))
    return quantizer


def _phones(stores: Sequence[Rows], model: SpeechGPT) -> list[str]:
    """Names of the phones that the stores tell of.

    Raises:
        UserError: gpt_phones_differ when there are more than the model can say, or none.
    """
    names = phone_names(stores)
    if not 0 < len(names) <= model.config.phones:
        raise UserError(
            "gpt_phones_differ",
            "The features hold {found} kinds of phones and gpt.phones of the preset is {room}. Extract from a corpus "
            "store, whose phones are known, or set gpt.phones to at least that number (0: learn without phones).",
            found=len(names),
            room=model.config.phones,
        )
    return names


def _places_of(
    arguments: argparse.Namespace, model: SpeechGPT, dataset: PromptDataset, progress: StepProgress
) -> Callable[[PromptDataset], None]:
    """Finds where the text of each utterance of a dataset is read: by aligning its phones, or where its stores tell of
    none by letting the model of --init label it. What is learned for that comes from `dataset`, the training's."""
    labeller: list[Labeller] = []
    unknown = dataset.unlabelled
    aligner = None if unknown.all() else learn_alignment(dataset, model.text_vocab, model.config.phones)

    def find(data: PromptDataset) -> None:
        if arguments.init and (missing := len(data.to_label)):
            if not labeller:
                tokenizer = load_reader(arguments.decoder, arguments.recognition_head)
                labeller.append(Labeller(Decoder(model), tokenizer))
            for done in data.label(labeller[0].label):
                progress.update(done, missing, "reading the recordings")
                if progress.should_stop():
                    raise Stopped
        if aligner is not None:
            data.align(aligner, model.text_vocab)
        print(f"places of reading of {len(data.reads)} of {len(data)} utterances found")

    return find


def _validation(
    arguments: argparse.Namespace,
    mix: MixOptions,
    model: SpeechGPT,
    find_places: Callable[[PromptDataset], None] | None,
) -> Validation:
    """Held-out rows of split dev; without any, nothing is validated."""
    features, pattern = model.text_config.features != "embedding", model.pattern
    try:
        dataset = PromptDataset(arguments.store, "dev", mix, features, pattern, model.statistics.get("phones", ()))
    except UserError as error:
        print(f"no validation: {error}", file=sys.stderr)
        return Validation()
    if find_places is not None:
        find_places(dataset)
    rows = validation_rows(dataset, arguments.validate_targets)
    collate = Collate(pattern, last_only=True)
    batches = [collate(batch) for batch in batches_of(rows, arguments.batch_frames, pattern)]
    return Validation(batches, rows, dataset.group_name)


def _millions(model: SpeechGPT) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.train_gpt", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, nargs="+", action="extend", required=True, help="feature stores")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--init", type=Path, help="start from these weights")
    add_beginning(parser)
    add_run_length(parser)
    add_keeping(parser)
    add_machine(parser)
    parser.add_argument(
        "--decoder",
        type=Path,
        default=PRETRAINED_MODELS / "nano",
        metavar="FOLDER",
        help="model or run folder whose decoder speaks --samples, and whose codes are learned where it has its own",
    )
    parser.add_argument(
        "--encoders",
        type=Path,
        default=PRETRAINED_MODELS,
        metavar="FOLDER",
        help="holds the published models, of which a preset may start from one",
    )
    parser.add_argument(
        "--recognition-head",
        type=Path,
        metavar="FILE",
        help="reads phones in the speech tokens of --decoder, for models that learn them and data that lacks them "
        "(default: that of --decoder, or of the folder beside it whose name ends in -training)",
    )
    parser.add_argument(
        "--lora-rank",
        type=int,
        choices=(0, *RANKS),
        default=0,
        help="train adapters of this rank alone; 0 = all weights",
    )
    parser.add_argument("--max-steps", type=int, default=0, help="0 = off")
    parser.add_argument("--batch-frames", type=int, default=4096, help="padded positions in a batch")
    parser.add_argument(
        "--learning-rate", type=float, help="peak rate; default by the preset: 3e-3 for nano, 1e-4 from Qwen2"
    )
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--ema-decay", type=float, default=0.995)
    parser.add_argument("--pair-ratio", type=float, default=0.75, help="share of targets with prompts")
    parser.add_argument("--max-references", type=int, default=2)
    parser.add_argument(
        "--foreign-prompts", type=share, default=0.0,
        help="share of the prompted synthetic targets that follow recordings by anybody, of like pace",
    )  # fmt: skip
    parser.add_argument("--share-recorded", type=float, help="share of recorded speech; default: as in the stores")
    parser.add_argument("--language-exponent", type=float, default=1.0, help="1 = as in the stores, 0 = even")
    parser.add_argument("--max-seconds", type=float, default=12.0, help="longer utterances are left out")
    parser.add_argument("--share-tables", action="store_true", help="one table for speech codes in and out")
    parser.add_argument("--save-every", type=int, default=500, help="steps between saved weights; 0 = off")
    parser.add_argument("--validate-every", type=int, default=500, help="steps between validations; 0 = at saves only")
    parser.add_argument("--validate-targets", type=int, default=40, help="held-out targets of each language")
    return parser


if __name__ == "__main__":
    sys.exit(main())
