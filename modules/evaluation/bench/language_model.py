"""Parts "gpt" and "growth": tokens a second of a backbone beside the plain loop and beside what memory allows, and how
a step grows with the history.

A token here is a step of the backbone: at 25 tokens a second of speech, 25 steps a second are real time, before heads,
decoder and all else.
"""

import statistics
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modules.evaluation.bench.bandwidth import Memory, engine_bytes, plain_bytes
from modules.evaluation.bench.measured import Measured, figure, share, times
from modules.evaluation.bench.steps import OurSteps, PlainLoop, held_turn, quantised, step_turn
from modules.evaluation.bench.timing import Spread, Turn
from modules.evaluation.bench.workshop import Workshop
from modules.evaluation.results import Table
from modules.gpt.packing import WeightType
from modules.runtime import bf16_supported

HISTORY = 150
"""Positions before the first step: a reference of some seconds with its words, and a text."""
SHORT, LONG = 100, 4000
PLAIN, PLAIN_INT8 = "plain float32", "plain int8"
CARD_ROWS = (1, 16)
_NOTE = (
    "Median of {rounds} rounds in turns, {steps} steps a turn from a history of {history}. Limits: weights, scales "
    "and biases that a step reads, over the bandwidth of copying ({copy} GB/s, read and written) and of adding up "
    "({read} GB/s) a buffer of {buffer} MiB; of reading as many bytes: over adding up a buffer of that size again and "
    "again, which caches serve where it fits into them."
)


@dataclass
class _Ways:
    """Ways to step, the bytes that each reads a step, and what was left out and why."""

    turns: dict[str, Turn] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure_gpt(workshop: Workshop) -> Measured:
    """Base and nano, one row at a time; on a card also sixteen."""
    rows = CARD_ROWS if workshop.device.type == "cuda" else (1,)
    memory = Memory(workshop.clock)
    values, tables = {"chosen": workshop.chosen("base"), "history_tokens": HISTORY}, []
    for name in ("base", "nano"):
        for count in rows:
            found, table = _compare(workshop, name, count, memory)
            values[name if count == 1 else f"{name}_{count}_rows"] = found
            tables.append(table)
    chosen = values["base"]["ways"][f"ours {workshop.chosen('base')}"]
    headlines = {"base_gpt_speedup": chosen["speedup"], "base_gpt_bandwidth_share": chosen["share_of_copy_limit"]}
    return Measured(values, tuple(tables), headlines)


def measure_growth(workshop: Workshop) -> Measured:
    """Base at a short and at a long history, in the chosen type, in float32, and on a CPU in int8."""
    effort, clock = workshop.effort, workshop.clock
    chosen = workshop.chosen("base")
    types = dict.fromkeys((chosen, "int8", "float32") if workshop.device.type == "cpu" else (chosen, "float32"))
    hidden, memory = workshop.backbone("base").config.hidden_size, Memory(clock)
    steppers, turns = {}, {"read": memory.read}
    for weights in types:
        engine = workshop.engine("base", weights)
        if engine.capacity < SHORT + 2:
            raise ValueError(f"a model of {engine.capacity} positions is too short to grow")
        long = min(LONG, engine.capacity - 1)
        steppers[weights] = OurSteps(engine, long + 1)
        for history in (SHORT, long):
            turns[f"{weights} {history}"] = held_turn(steppers[weights], hidden, history, effort.cache_steps, clock)
    found = effort.rounds.run(turns, workshop.should_stop)
    rate = memory.read_rate(statistics.median(found["read"]))
    values: dict[str, Any] = {
        "chosen": chosen, "short_history_tokens": SHORT, "long_history_tokens": long,
        "rounds": len(found["read"]), "read_gb_per_second": rate / 1e9,
    }  # fmt: skip
    rows = []
    for weights, stepper in steppers.items():
        values[weights] = told = _growth(
            [Spread.of(found[f"{weights} {history}"]).median for history in (SHORT, long)],
            [stepper.read_bytes(history) / rate for history in (SHORT, long)],
        )
        rows.append((weights, *(figure(told[key]) for key in told)))
    header = (
        "weights", f"step at {SHORT}, ms", f"step at {long}, ms", f"cache at {SHORT}, ms", f"cache at {long}, ms",
        "growth",
    )  # fmt: skip
    note = (
        f"Median of {values['rounds']} rounds in turns. Cache: bytes of keys and values over the bandwidth of reading "
        f"({figure(rate / 1e9)} GB/s). Growth: step less cache at the long history, over the same at the short one."
    )
    table = Table("Growth of a step of base with its history", header, tuple(rows), note)
    return Measured(values, (table,), {"step_cost_growth": values[chosen]["growth"]})


def _growth(steps: list[float], reading: list[float]) -> dict[str, float]:
    """Seconds of a step and of reading its cache, at the short and at the long history, as milliseconds and growth."""
    (short, long), (short_read, long_read) = steps, reading
    return {
        "short_step_ms": 1e3 * short,
        "long_step_ms": 1e3 * long,
        "short_cache_reading_ms": 1e3 * short_read,
        "long_cache_reading_ms": 1e3 * long_read,
        "growth": (long - long_read) / max(short - short_read, 1e-9),
    }


def _compare(workshop: Workshop, name: str, rows: int, memory: Memory) -> tuple[dict[str, Any], Table]:
    """All ways to run one backbone, with memory measured between them."""
    effort, ways = workshop.effort, _ways(workshop, name, rows)
    turns = {"copy": memory.copy, "read": memory.read} | ways.turns
    turns |= {f"reading {way}": memory.reading(count, effort.steps) for way, count in ways.bytes.items()}
    found = {way: Spread.of(taken) for way, taken in effort.rounds.run(turns, workshop.should_stop).items()}
    copy, read = memory.copy_rate(found["copy"].median), memory.read_rate(found["read"].median)
    config = workshop.backbone(name).config
    values = {
        "hidden": config.hidden_size, "layers": config.num_hidden_layers, "rows": rows,
        "steps_per_turn": effort.steps, "rounds": found["copy"].rounds, "buffer_bytes": memory.bytes,
        "copy_gb_per_second": copy / 1e9, "read_gb_per_second": read / 1e9,
        "ways": {
            way: _way(found[way], found[PLAIN], found[f"reading {way}"], count, copy, read, rows)
            for way, count in ways.bytes.items()
        },
        "skipped": ways.skipped,
    }  # fmt: skip
    header = (
        "way", "tokens/s", "step, ms", "weights, MB", "over the plain loop", "of the copy limit", "of the read limit",
        "of reading as many bytes",
    )  # fmt: skip
    lines = [
        (
            way, figure(told["tokens_per_second"]),
            f"{figure(told['step_ms'])} ({figure(told['step_ms_low'])}-{figure(told['step_ms_high'])})",
            figure(told["weight_bytes"] / 1e6), times(told["speedup"]), share(told["share_of_copy_limit"]),
            share(told["share_of_read_limit"]), share(told["share_of_reading_as_many_bytes"]),
        )
        for way, told in values["ways"].items()
    ]  # fmt: skip
    lines += [(way, f"left out: {reason}", *[""] * 6) for way, reason in ways.skipped.items()]
    note = _NOTE.format(
        rounds=values["rounds"], steps=effort.steps, history=HISTORY, copy=figure(copy / 1e9),
        read=figure(read / 1e9), buffer=memory.bytes >> 20,
    )  # fmt: skip
    several = f", {rows} rows" if rows > 1 else ""
    title = f"Language model of {name} ({values['layers']} layers, {values['hidden']} wide){several}"
    return values, Table(title, header, tuple(lines), note)


def _way(taken: Spread, plain: Spread, reading: Spread, count: int, copy: float, read: float, rows: int) -> dict:
    """Figures of one way that reads `count` bytes a step."""
    return {
        "tokens_per_second": rows / taken.median,
        "step_ms": 1e3 * taken.median,
        "step_ms_low": 1e3 * taken.low,
        "step_ms_high": 1e3 * taken.high,
        "weight_bytes": count,
        "speedup": plain.median / taken.median,
        "copy_limit_tokens_per_second": rows * copy / count,
        "share_of_copy_limit": count / copy / taken.median,
        "share_of_read_limit": count / read / taken.median,
        "share_of_reading_as_many_bytes": reading.median / taken.median,
    }


def _ways(workshop: Workshop, name: str, rows: int) -> _Ways:
    backbone, ways = workshop.backbone(name), _Ways()
    _add_plain(ways, workshop, backbone, rows)
    for weights in _types(workshop, ways):
        if weights != workshop.chosen(name) and _left_out(ways, f"ours {weights}", workshop):
            continue
        engine = workshop.engine(name, weights)
        steps = OurSteps(engine, HISTORY + workshop.effort.steps, rows)
        _add(ways, f"ours {weights}", steps, engine_bytes(backbone, engine, weights), workshop, backbone, rows)
    return ways


def _add_plain(ways: _Ways, workshop: Workshop, backbone: nn.Module, rows: int) -> None:
    """The loops of the library: float32, and the quickest that a person gets without us."""
    config = backbone.config
    _add(ways, PLAIN, PlainLoop(backbone, rows), plain_bytes(config, 4, 4), workshop, backbone, rows)
    if workshop.device.type == "cuda":
        half = deepcopy(backbone).to(torch.bfloat16)
        _add(ways, "plain bf16", PlainLoop(half, rows), plain_bytes(config, 2, 2), workshop, backbone, rows)
        return
    if _left_out(ways, PLAIN_INT8, workshop):
        return
    try:
        loop = PlainLoop(quantised(backbone), rows)
        with torch.inference_mode():  # some builds have the function and not the kernels
            loop.begin(1)
            loop.step(torch.zeros(rows, 1, config.hidden_size))
    except (RuntimeError, NotImplementedError) as cause:
        ways.skipped[PLAIN_INT8] = str(cause).splitlines()[0]
        return
    # One scale for a whole matrix: nothing to read beside the bytes.
    _add(ways, PLAIN_INT8, loop, plain_bytes(config, 1, 4), workshop, backbone, rows)


def _left_out(ways: _Ways, way: str, workshop: Workshop) -> bool:
    """Whether the way is not measured in a run of this effort."""
    out = way in workshop.effort.left_out
    if out:
        ways.skipped[way] = "not part of a quick look"
    return out


def _types(workshop: Workshop, ways: _Ways) -> tuple[WeightType, ...]:
    """The types that are quick on the device."""
    kinds: list[WeightType] = ["float32"]
    if bf16_supported(workshop.device):
        kinds.append("bf16")
    else:
        ways.skipped["ours bf16"] = "the device does not compute in bf16"
    return (*kinds, "int8", "int4") if workshop.device.type == "cpu" else tuple(kinds)


def _add(ways: _Ways, way: str, stepper: object, count: int, workshop: Workshop, backbone: nn.Module, rows: int):
    hidden = backbone.config.hidden_size
    ways.turns[way] = step_turn(stepper, hidden, HISTORY, workshop.effort.steps, workshop.clock, rows)
    ways.bytes[way] = count
