"""What a figure was measured on: processor, memory, versions, and how busy the machine was meanwhile."""

import importlib.metadata
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from modules.runtime import device_label

PACKAGES = ("transformers", "onnxruntime", "numpy", "gradio")
KINDS = ("bf16", "vnni", "int8", "i8mm", "dot", "amx", "sve", "avx2", "avx512_f", "neon", "asimd")
"""Parts of the names of abilities that decide how quick a step is."""
_CPU_NAMES, _L3_SIZE = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What does not change while a run goes on."""
    told = torch.cpu.get_capabilities()
    memory = psutil.virtual_memory()
    process = psutil.Process()
    usable = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count()
    facts = {
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": _processor(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable,
        "torch_threads": torch.get_num_threads(),
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "abilities": {name: value for name, value in sorted(told.items()) if _decides(name, value)},
        "l2_cache_bytes": told.get("l2_cache_size"),
        "l3_cache_bytes": _l3_cache(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "python": platform.python_version(),
        "versions": {"torch": str(torch.__version__)} | {name: _version(name) for name in PACKAGES},
        "device": str(device),
        "device_name": device_label(device),
    }
    return facts | (_card(device) if device.type == "cuda" else {})


class Busyness:
    """How busy the machine was from here on, and with what."""

    def __init__(self) -> None:
        self._load, self._begun = _load(), time.perf_counter()
        self._machine, self._own = psutil.cpu_times(), _own_seconds()

    def facts(self) -> dict[str, Any]:
        """Until now. `others_busy_cores`: cores that other programs kept busy, on average; `stolen_cores`: that a
        virtual machine was promised and did not get."""
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        then, now = self._machine._asdict(), psutil.cpu_times()._asdict()
        spent = {name: now[name] - then[name] for name in now}
        busy = sum(spent.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        return {
            "run_seconds": seconds,
            "load_average_at_start": self._load,
            "load_average_at_end": _load(),
            "others_busy_cores": max(0.0, busy - (_own_seconds() - self._own)) / seconds,
            "stolen_cores": spent.get("steal", 0.0) / seconds,
        }


def _own_seconds() -> float:
    """Processor seconds of this process and of those that it has started and that have ended."""
    times = psutil.Process().cpu_times()
    return times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def _load() -> float:
    """Of the last minute."""
    return psutil.getloadavg()[0]


def _decides(name: str, value: Any) -> bool:
    return isinstance(value, bool) and any(kind in name for kind in KINDS)


def _processor() -> str:
    try:
        names = [line for line in _CPU_NAMES.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _l3_cache() -> int | None:
    """Bytes of the last cache; None where the system does not tell."""
    try:
        told = _L3_SIZE.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(told[:-1]) * 1024 if told.endswith("K") and told[:-1].isdigit() else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _card(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "card_memory_bytes": properties.total_memory,
        "card_processors": properties.multi_processor_count,
        "card_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
