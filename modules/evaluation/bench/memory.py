"""Part "memory": whether memory grows with the number of requests."""

import gc
import sys
from typing import Any

import psutil

from modules.errors import Stopped
from modules.evaluation.bench.batching import TEXTS
from modules.evaluation.bench.measured import Measured, figure
from modules.evaluation.bench.speaking import speak, stream
from modules.evaluation.bench.workshop import Workshop
from modules.evaluation.results import Table
from modules.inference.options import SpeakOptions
from modules.inference.synthesizer import Synthesizer

MIB = 1 << 20


def measure_memory(workshop: Workshop) -> Measured:
    """Requests of nano, streamed and spoken by turns, of sixteen texts. It is the first part of a run, because the
    memory of others would hide what is looked for."""
    effort, voice = workshop.effort, workshop.voice()
    synthesizer = Synthesizer(workshop.nano("auto"))
    settled = 0
    for number in range(effort.memory_requests):
        if workshop.should_stop is not None and workshop.should_stop():
            raise Stopped
        if number == effort.settling:
            settled = _resident()
        ask = speak if number % 2 else stream
        ask(synthesizer, voice, TEXTS[number % len(TEXTS)], SpeakOptions(seed=workshop.seed + number))
    end, settled = _resident(), settled or _resident()
    growth = 100 * (end - settled) / settled
    values: dict[str, Any] = {
        "requests": effort.memory_requests, "settling_requests": effort.settling,
        "resident_mib_after_settling": settled / MIB, "resident_mib_at_end": end / MIB,
        "memory_growth_percent": growth, "peak_mib": peak_bytes() / MIB,
    }  # fmt: skip
    rows = (
        (
            effort.memory_requests, figure(values["resident_mib_after_settling"]),
            figure(values["resident_mib_at_end"]), f"{growth:+.1f} %", figure(values["peak_mib"]),
        ),
    )  # fmt: skip
    header = ("requests", f"MiB after {effort.settling}", "MiB at the end", "growth", "peak MiB of the process")
    table = Table("Memory of nano", header, rows, "Resident memory of the process that speaks, libraries included.")
    return Measured(values, (table,), {"memory_growth_percent": growth})


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
