"""Part "memory": whether memory grows with the number of requests."""

import gc
import sys
from typing import Any

import psutil

from modules.errors import Stopped
from modules.evaluation.bench.batching import TEXTS, first_words
from modules.evaluation.bench.measured import Measured, figure
from modules.evaluation.bench.speaking import speak, stream
from modules.evaluation.bench.workshop import Workshop
from modules.evaluation.results import Table
from modules.inference.options import SpeakOptions
from modules.inference.synthesizer import Synthesizer

MIB = 1 << 20
STRIDE = 20
"""Requests between two looks."""
SHORT_TEXTS = tuple(first_words(text, 3) for text in TEXTS)


def measure_memory(workshop: Workshop) -> Measured:
    """Requests of nano, streamed and spoken by turns, of sixteen short texts. A part for the beginning of a run: the
    memory of others would hide what is looked for."""
    effort, voice = workshop.effort, workshop.voice()
    synthesizer = Synthesizer(workshop.nano("auto"))
    marks = {effort.settling, effort.memory_requests // 2, effort.memory_requests}
    resident: dict[int, int] = {}
    for number in range(1, effort.memory_requests + 1):
        if workshop.should_stop is not None and workshop.should_stop():
            raise Stopped
        ask = speak if number % 2 else stream
        ask(synthesizer, voice, SHORT_TEXTS[number % len(SHORT_TEXTS)], SpeakOptions(seed=workshop.seed + number))
        if number in marks or number % STRIDE == 0:
            resident[number] = _resident()
    settled, end = resident[effort.settling], resident[effort.memory_requests]
    half = resident[effort.memory_requests // 2]
    values: dict[str, Any] = {
        "requests": effort.memory_requests, "settling_requests": effort.settling,
        "resident_mib_by_requests": {str(number): count / MIB for number, count in resident.items()},
        "resident_mib_after_settling": settled / MIB, "resident_mib_at_end": end / MIB,
        "memory_growth_percent": 100 * (end - settled) / settled,
        "memory_growth_second_half_percent": 100 * (end - half) / half, "peak_mib": peak_bytes() / MIB,
    }  # fmt: skip
    rows = (
        (
            effort.memory_requests, figure(values["resident_mib_after_settling"]),
            figure(values["resident_mib_at_end"]), f"{values['memory_growth_percent']:+.1f} %",
            f"{values['memory_growth_second_half_percent']:+.1f} %", figure(values["peak_mib"]),
        ),
    )  # fmt: skip
    header = (
        "requests", f"MiB after {effort.settling}", "MiB at the end", "growth", "in the second half",
        "peak MiB of the process",
    )  # fmt: skip
    table = Table("Memory of nano", header, rows, "Resident memory of the process that speaks, libraries included.")
    return Measured(values, (table,), {"memory_growth_percent": values["memory_growth_percent"]})


def _resident() -> int:
    """Bytes, after Python has let go of what nobody holds any more."""
    gc.collect()
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """Most resident memory that this process ever had, bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
