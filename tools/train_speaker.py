"""Train the speaker encoder that holds the decoder to a voice.

python -m tools.train_speaker --store FEATURES --store FEATURES2 --output logs/speaker --max-minutes 20
python -m tools.train_vits2 ... --speaker logs/speaker/speaker.safetensors
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np

from modules.audio.augmentation import AugmentOptions
from modules.config import load_preset
from modules.data.batching import Loader
from modules.data.features import open_store
from modules.errors import Stopped, UserError
from modules.progress import StepProgress
from modules.runtime import pick_device, seed_everything, set_threads
from modules.training.loop import LoopConfig, train
from modules.vits2.speaker import SpeakerEncoder
from modules.vits2.speaker_training import DifferentSpeakers, SpeakerPairs, SpeakerStage
from tools.flags import add_small_training, share
from tools.running import run_step

VALIDATION_BATCHES, VALIDATION_SPEAKERS = 4, 20


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(_run, arguments)
    return run_step(work, arguments.job, stopped="stopped; run it again with --resume to go on", finishes=True)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    if arguments.threads:
        set_threads(arguments.threads)
    seed_everything(arguments.seed)
    preset = load_preset(arguments.preset)
    rate = preset.audio.sample_rate
    stores = [open_store(path) for path in arguments.store]
    poor = AugmentOptions.of_references(arguments.augment) if arguments.augment > 0 else None
    dataset = SpeakerPairs(stores, rate, "train", poor)
    sampler = DifferentSpeakers(len(dataset), arguments.speakers, arguments.seed)
    model = SpeakerEncoder(rate)
    stage = SpeakerStage(model, _validation(stores, rate), arguments.learning_rate, preset.name)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{len(dataset)} speakers, {sampler.batch_size} in a batch, {size:.2f} M parameters", flush=True)
    config = LoopConfig(
        max_steps=arguments.max_steps,
        max_minutes=arguments.max_minutes,
        learning_rate=arguments.learning_rate,
        warmup_steps=100,
        ema_decay=0.995,
        validate_every_steps=arguments.validate_every,
        seed=arguments.seed,
    )
    result = train(
        stage, Loader(dataset, sampler, dataset.collate), config, arguments.output, resume=arguments.resume,
        device=pick_device(arguments.device), should_stop=progress.should_stop, on_event=progress.pass_on,
        run_config={
            "speakers": arguments.speakers,
            "augment": arguments.augment,
            "learning_rate": arguments.learning_rate,
            "data": [store.fingerprint(codes=False) for store in stores],
        },
    )  # fmt: skip
    if result.stopped_by == "stop":
        raise Stopped
    progress.finish({"weights": result.weights, "validation": result.validation, "step": result.step})


def _validation(stores: list, rate: int) -> list:
    """Fixed batches of dev speakers; none when there are too few."""
    try:
        dataset = SpeakerPairs(stores, rate, "dev")
    except UserError:
        return []
    batches = []
    for number in range(VALIDATION_BATCHES):
        rng = np.random.default_rng(number)
        chosen = rng.permutation(len(dataset))[:VALIDATION_SPEAKERS]
        if len(chosen) > 1:
            batches.append(dataset.collate([dataset.get(int(i), rng) for i in chosen]))
    return batches


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.train_speaker", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, nargs="+", action="extend", required=True, help="feature stores")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--preset", default="nano", help="whose sample rate is used")
    parser.add_argument("--speakers", type=int, default=96, help="different speakers in a batch")
    parser.add_argument("--augment", type=share, default=0.5, help="share of pairs with one degraded side")
    add_small_training(parser, validate_every=250)
    return parser


if __name__ == "__main__":
    sys.exit(main())
