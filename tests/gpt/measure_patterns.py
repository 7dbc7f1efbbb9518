"""What each way of laying frames out costs: CPU seconds for a second of audio, trained and spoken, ways in turn.

python -m tests.gpt.measure_patterns --preset nano

The weights are random: a step costs the same whatever they are. Not a test; its figures stand in docs/variants.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from modules.config import Preset, load_preset
from modules.gpt.building import build_gpt_of_preset
from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import Part, arrange
from modules.gpt.train import GPTStage, StageOptions, Validation
from modules.speech.grouped import FrameVectors, GroupedQuantizer

WAYS = ((1, "chain"), (1, "parallel"), (1, "delay"), (2, "chain"), (2, "parallel"), (4, "chain"), (4, "parallel"))
UNITS_PER_SECOND, REFERENCE_SECONDS, TARGET_SECONDS, ROWS = 7, 3, 6, 4


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset = load_preset(arguments.preset)
    rate = preset.tokenizer.frame_rate
    ways = [way for way in WAYS if way[1] != "delay" or preset.tokenizer.form == "s3"]
    work: dict[tuple[int, str], tuple[Callable[[], None], Callable[[], None], float, float]] = {}
    for size, codebooks in ways:
        config = replace(preset.gpt, group_size=size, codebooks=codebooks)
        model = _model(replace(preset, gpt=config))
        frames = TARGET_SECONDS * rate
        steps = model.pattern.steps(frames) / TARGET_SECONDS
        positions = arrange(_rows(model, rate), model.pattern).lengths.float().mean()
        per_second = float(positions) / (REFERENCE_SECONDS + TARGET_SECONDS)
        work[size, codebooks] = (_training(model, rate), _speaking(model, rate), steps, per_second)
    seconds: dict[tuple[int, str], tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
    for _ in range(arguments.rounds + 1):
        for way, (train, speak, _, _) in work.items():
            seconds[way][0].append(_timed(train) / (ROWS * (REFERENCE_SECONDS + TARGET_SECONDS)))
            seconds[way][1].append(_timed(speak) / TARGET_SECONDS)
    print("| group | codebooks | steps a second | positions a second | training, ms | speaking, ms |")
    for (size, codebooks), (trained, spoken) in seconds.items():
        _, _, steps, positions = work[size, codebooks]
        times = " | ".join(f"{1000 * statistics.median(x[1:]):.1f}" for x in (trained, spoken))  # the first warms up
        print(f"| {size} | {codebooks} | {steps:.1f} | {positions:.1f} | {times} |")


def _model(preset: Preset) -> SpeechGPT:
    torch.manual_seed(0)
    model = build_gpt_of_preset(preset)
    if model.vector_dim is not None:
        model.set_vectors(FrameVectors(GroupedQuantizer(preset.tokenizer).freeze()))
    return model


def _part(model: SpeechGPT, seconds: int, rate: int, seed: int) -> Part:
    rng, frames = np.random.default_rng(seed), seconds * rate
    codes = np.stack([rng.integers(0, size, frames) for size in model.codebook_sizes], 1)
    ids, text = rng.integers(0, model.text_vocab, UNITS_PER_SECOND * seconds), model.text_config
    features = rng.standard_normal((len(ids), text.feature_dim)).astype(np.float32)
    return Part(ids, codes, None if text.features == "embedding" else features)


def _rows(model: SpeechGPT, rate: int) -> list[list[Part]]:
    return [
        [_part(model, REFERENCE_SECONDS, rate, 2 * row), _part(model, TARGET_SECONDS, rate, 2 * row + 1)]
        for row in range(ROWS)
    ]


def _training(model: SpeechGPT, rate: int) -> Callable[[], None]:
    stage, batch = GPTStage(model, StageOptions(), Validation(), "measured"), arrange(_rows(model, rate), model.pattern)

    def step() -> None:
        model.train()
        stage.optimizers["gpt"].zero_grad(set_to_none=True)
        losses = stage.losses("gpt", batch)
        sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
        stage.optimizers["gpt"].step()

    return step


def _speaking(model: SpeechGPT, rate: int) -> Callable[[], None]:
    said, target = (_part(model, seconds, rate, 1) for seconds in (REFERENCE_SECONDS, TARGET_SECONDS))
    prompts = build_prompts(
        [PromptReference(said.text_ids, said.codes, 1.0, said.text_features)],
        target.text_ids,
        said.codes.shape[1],
        text_features=target.text_features,
    )
    frames = TARGET_SECONDS * rate
    options = DecodeOptions(min_frames=frames, max_frames=frames, guard=False, seed=0)
    decoder = Decoder(model.eval())

    def speak() -> None:
        model.eval()
        decoder.generate(prompts, options=options)

    return speak


def _timed(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
