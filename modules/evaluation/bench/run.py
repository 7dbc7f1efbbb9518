"""A run of the benchmark: its parts one after the other, and the document that they make.

A part that fails does not take the others with it: its error stands where its figures would.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from modules.errors import Stopped
from modules.evaluation.bench.batching import measure_batches
from modules.evaluation.bench.decoders import measure_decoders
from modules.evaluation.bench.language_model import measure_gpt, measure_growth
from modules.evaluation.bench.machine import Busyness, machine_facts
from modules.evaluation.bench.measured import Measured, rounded
from modules.evaluation.bench.memory import measure_memory
from modules.evaluation.bench.speaking import measure_base, measure_nano
from modules.evaluation.bench.workshop import Workshop

Part = Callable[[Workshop], Measured]

MEASURES: dict[str, Part] = {
    "memory": measure_memory,
    "nano": measure_nano,
    "decoder": measure_decoders,
    "base": measure_base,
    "batch": measure_batches,
    "gpt": measure_gpt,
    "growth": measure_growth,
}
"""The parts of the library in the order of a run: memory before anything else has been in it, and base before what may
use its language model."""
HEADLINES = (
    "nano_rtf", "nano_first_sound_ms_p50", "base_gpt_speedup", "base_gpt_bandwidth_share", "base_rtf",
    "base_first_sound_ms_p50", "decoder_speedup", "batch8_speedup", "base_batch8_speedup", "step_cost_growth",
    "memory_growth_percent", "page_start_seconds",
)  # fmt: skip
"""Figures that stand at the top of the document; null where their part was not run or failed."""


class Run:
    """Parts that are measured, and what they gave so far.

    Args:
        parts: by name, in the order in which they are run.
    """

    def __init__(self, workshop: Workshop, parts: Mapping[str, Part], *, quick: bool):
        self.workshop, self.parts, self.quick = workshop, parts, quick
        self.measured: dict[str, Measured] = {}
        self.errors: dict[str, str] = {}
        self.traces: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._busyness = Busyness()

    def parts_in_turn(self) -> Iterator[str]:
        """Measures a part after its name has been given out.

        Raises:
            Stopped: somebody asked for it.
        """
        for name, part in self.parts.items():
            yield name
            begun = time.perf_counter()
            try:
                self.measured[name] = part(self.workshop)
            except Stopped:
                raise
            except Exception as error:
                self.errors[name] = f"{type(error).__name__}: {error}"
                self.traces[name] = traceback.format_exc()
            self.seconds[name] = time.perf_counter() - begun

    def document(self) -> dict[str, Any]:
        """All figures as JSON values, with what they were measured on."""
        heads = {key: value for part in self.measured.values() for key, value in part.headlines.items()}
        return rounded({
            **{name: heads.get(name) for name in HEADLINES},
            "quick": self.quick,
            "seed": self.workshop.seed,
            "base_preset": self.workshop.base.name,
            "effort": asdict(self.workshop.effort),
            "machine": machine_facts(self.workshop.device) | self._busyness.facts(),
            "part_seconds": self.seconds,
            "parts": {name: part.values for name, part in self.measured.items()},
            "errors": self.errors,
            "traces": self.traces,
        })  # fmt: skip


def ordered(names: Sequence[str], known: Mapping[str, Part]) -> dict[str, Part]:
    """The named parts of the known ones, in the order of those."""
    return {name: part for name, part in known.items() if name in names}
