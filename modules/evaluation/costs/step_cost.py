"""What a training step of each stage costs: seconds, memory and arithmetic, on a random batch of a realistic shape.

Letters: B items, T frames, U text units.
"""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from modules.config import Preset, field
from modules.data.batching import map_tensors
from modules.errors import Stopped
from modules.evaluation.costs.sizing import MIB
from modules.gpt.building import build_gpt_of_preset
from modules.gpt.sequence import Part, arrange
from modules.gpt.train import GPTStage, StageOptions, Validation
from modules.runtime import bf16_supported
from modules.speech.grouped import FrameVectors, GroupedQuantizer, stream_sizes
from modules.speech.prosody import F0_FRAME_RATE_HZ
from modules.training.memory import PeakMemory
from modules.training.stage import Stage
from modules.vits2.building import build_vits2
from modules.vits2.dataset import DecoderBatch
from modules.vits2.train import VITS2Stage, VITS2TrainConfig

MATMUL_SIZE = 8192
MATMUL_ROUNDS = 20
LEAST_SECONDS = 1e-9


@dataclass(frozen=True)
class BatchShape:
    """The batches that are tried. For the language model a row is a reference and a target of the same speaker."""

    gpt_rows: int = field(2, "rows of the language model's batch", 1, 4096)
    reference_seconds: float = field(5.0, "speech of the reference in a row", 0.2, 60)
    target_seconds: float = field(5.0, "speech of the target in a row", 0.2, 60)
    units_per_second: float = field(6.0, "text units a second of speech", 0.5, 50)
    vits2_items: int = field(4, "items of the decoder's batch", 1, 4096)
    window_seconds: float = field(2.0, "sound of an item", 0.2, 20)
    style_seconds: float = field(4.0, "speech that an item's style is taken from", 0.2, 20)


@dataclass(frozen=True)
class StepCost:
    """A step of one stage.

    Args:
        stage: its name; shape: of the batch, for people.
        seconds: median of the steps after the first, which is not timed.
        memory_mib: peak of weights, gradients, optimizer and activations; on CUDA what tensors took, else how far the
            process grew.
        gflop: multiplications and additions of matrix products, convolutions and attention in a whole step, also those
            of the optimizer (Muon).
        chip_share: of the measured rate of bf16 matrix products; None where that was not measured.
    """

    stage: str
    shape: str
    steps: int
    seconds: float
    memory_mib: float
    gflop: float
    chip_share: float | None

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def measure_steps(
    preset: Preset,
    shape: BatchShape,
    steps: int,
    device: torch.device,
    *,
    matmul_rate: float | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[StepCost]:
    """Train each stage for a few steps, one stage in memory at a time: GPT, VITS2 without and with discriminators.

    Args:
        steps: timed steps of each stage, after one that warms up.
        matmul_rate: multiplications and additions a second that the chip reached (see `measure_matmul_rate`).

    Raises:
        Stopped: `should_stop` answered true between two stages.
    """
    plan = (
        ("gpt", lambda: _gpt_case(preset, shape, device)),
        ("vits2", lambda: _vits2_case(preset, shape, VITS2TrainConfig())),
        ("vits2 with discriminators", lambda: _vits2_case(preset, shape, VITS2TrainConfig(adversarial_from=0))),
    )
    costs = []
    for number, (name, build) in enumerate(plan):
        if should_stop is not None and should_stop():
            raise Stopped
        if on_progress is not None:
            on_progress(number, len(plan), name)
        costs.append(_measure(name, build, steps, device, matmul_rate))
    return costs


def measure_matmul_rate(device: torch.device) -> float:
    """Multiplications and additions a second of large bf16 matrix products on a CUDA device."""
    a, b = (torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(MATMUL_ROUNDS):
        a @ b
    torch.cuda.synchronize(device)
    return MATMUL_ROUNDS * 2 * MATMUL_SIZE**3 / (time.perf_counter() - start)


def _measure(
    name: str,
    build: Callable[[], tuple[Stage, Any, str]],
    steps: int,
    device: torch.device,
    matmul_rate: float | None,
) -> StepCost:
    _give_back_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with PeakMemory() as peak:
        stage, batch, shape = build()
        batch = map_tensors(batch, lambda t: t.to(device))
        for module in stage.modules.values():
            module.to(device).train()
        with _Arithmetic() as arithmetic:
            _step(stage, batch, 0, device)
        seconds = [_timed(stage, batch, number + 1, device) for number in range(steps)]
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak.bytes
    median, flop = statistics.median(seconds), arithmetic.flop
    share = flop / max(median, LEAST_SECONDS) / matmul_rate if matmul_rate else None
    return StepCost(name, shape, steps, median, used / MIB, flop / 1e9, share)


class _Arithmetic(TorchDispatchMode):
    """Adds up what PyTorch's own counter says of each operation, without its looking into modules, which is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        self.flop += count(*args, **(kwargs or {}), out_val=found) if count is not None else 0
        return found


def _timed(stage: Stage, batch: Any, number: int, device: torch.device) -> float:
    start = time.perf_counter()
    _step(stage, batch, number, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _step(stage: Stage, batch: Any, number: int, device: torch.device) -> None:
    """What the loop does in a step, with the precision "auto", without its books."""
    for phase in stage.phases(number):
        optimizer = stage.optimizers[phase]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_supported(device)):
            losses = stage.losses(phase, batch)
        sum(stage.weights.get(n, 1.0) * loss for n, loss in losses.items() if not n.startswith("_")).backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def _gpt_case(preset: Preset, shape: BatchShape, device: torch.device) -> tuple[Stage, Any, str]:
    tokenizer, rng = preset.tokenizer, np.random.default_rng(0)
    model = build_gpt_of_preset(preset)
    if tokenizer.form == "grouped":
        model.set_vectors(FrameVectors(GroupedQuantizer(tokenizer).freeze().to(device)))
    features = None if preset.text.features == "embedding" else preset.text.feature_dim

    def part(seconds: float) -> Part:
        units, frames = _units(seconds, shape), max(1, round(seconds * tokenizer.frame_rate))
        codes = np.stack([rng.integers(0, size, frames) for size in stream_sizes(tokenizer)], 1)
        ids = rng.integers(0, preset.text.vocab_size, units)
        return Part(ids, codes, rng.standard_normal((units, features)).astype(np.float32) if features else None)

    rows = [[part(shape.reference_seconds), part(shape.target_seconds)] for _ in range(shape.gpt_rows)]
    batch = arrange(rows, model.pattern, pad_multiple=32)
    said = f"{shape.gpt_rows} rows of {shape.reference_seconds:g} + {shape.target_seconds:g} s of speech"
    stage = GPTStage(model, StageOptions(), Validation(), preset.name)
    return stage, batch, f"{said}, {batch.kinds.numel()} positions"


def _vits2_case(preset: Preset, shape: BatchShape, config: VITS2TrainConfig) -> tuple[Stage, Any, str]:
    tokenizer, audio, items = preset.tokenizer, preset.audio, shape.vits2_items
    tokens = max(2, round(shape.window_seconds * tokenizer.frame_rate))
    samples = tokens * round(audio.sample_rate / tokenizer.frame_rate)
    style, units = round(shape.style_seconds * audio.sample_rate), _units(shape.window_seconds, shape)
    codes = torch.stack([torch.randint(0, size, (items, tokens)) for size in stream_sizes(tokenizer)], -1)
    grouped = tokenizer.grouped
    features = tokens * grouped.feature_rate // tokenizer.frame_rate
    text_features = None
    if preset.text.features != "embedding":
        text_features = torch.randn(items, units, preset.text.feature_dim).half()
    batch = DecoderBatch(
        wav=0.1 * torch.randn(items, samples),
        frames=torch.full((items,), samples // audio.hop_length),
        codes=codes,
        f0=torch.full((items, tokens * F0_FRAME_RATE_HZ // tokenizer.frame_rate), 150.0),
        median_f0_hz=torch.full((items,), 150.0),
        text_ids=torch.randint(0, preset.text.vocab_size, (items, units)),
        text_lengths=torch.full((items,), units),
        style_wav=0.1 * torch.randn(items, style),
        style_samples=torch.full((items,), style),
        ssl=torch.randn(items, features, grouped.feature_dim).half() if tokenizer.form == "grouped" else None,
        text_features=text_features,
    )
    stage = VITS2Stage(build_vits2(preset, preset.text.vocab_size), config, [], preset.name)
    said = f"{items} items of {tokens / tokenizer.frame_rate:g} s, {shape.style_seconds:g} s of style each"
    return stage, batch, f"{said}, {items * samples // audio.hop_length} frames"


def _units(seconds: float, shape: BatchShape) -> int:
    return max(1, round(seconds * shape.units_per_second))


def _give_back_memory() -> None:
    """Let the system have what the stage before has left free, or the next one would seem to need less."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
