"""On what device, and in which number format, Whisper runs here."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.errors import UserError


class Attempt(NamedTuple):
    """A device and a number format to try."""

    device: str
    precision: str


def plan_attempts(
    device: str, precision: str, gpus: int, gpu_types: Iterable[str], cpu_types: Iterable[str]
) -> list[Attempt]:
    """What to try in which order; the last one is always the CPU.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "auto" or a format of CTranslate2.
        gpus: how many there are.
        gpu_types, cpu_types: formats that they compute in.

    Raises:
        UserError: device_missing, asr_precision.
    """
    if device == "cuda" and not gpus:
        raise UserError(
            "device_missing",
            "This machine has no device {device}; choose one of {available}.",
            device=device,
            available="auto, cpu",
        )
    gpu_types, cpu_types = list(gpu_types), list(cpu_types)
    gpu = [one for one in ("float16", "int8_float16", "float32") if precision == "auto"] or [precision]
    attempts = [Attempt("cuda", one) for one in gpu if one in gpu_types] if gpus and device != "cpu" else []
    on_cpu = precision if precision in cpu_types else "int8" if "int8" in cpu_types else "float32"
    unknown = precision not in ("auto", on_cpu)
    if unknown and not attempts:
        raise UserError(
            "asr_precision",
            "{precision} cannot be computed on {device} here; choose auto or one of {available}.",
            precision=precision,
            device="cuda" if device == "cuda" else "cpu",
            available=", ".join(sorted(gpu_types if device == "cuda" else cpu_types)),
        )
    return [*attempts, Attempt("cpu", on_cpu)]


def machine_attempts(device: str, precision: str) -> list[Attempt]:
    """What this machine can try, in order; see `plan_attempts`."""
    import ctranslate2

    gpus = ctranslate2.get_cuda_device_count()
    gpu_types = ctranslate2.get_supported_compute_types("cuda") if gpus else ()
    cpu_types = ctranslate2.get_supported_compute_types("cpu")
    return plan_attempts(device, precision, gpus, gpu_types, cpu_types)


def load_whisper(folder: Path, attempt: Attempt, threads: int) -> Any:
    """A `faster_whisper.WhisperModel` from a folder, tried out on a device so that missing libraries show now."""
    import ctranslate2
    from faster_whisper import WhisperModel
    from faster_whisper.feature_extractor import FeatureExtractor

    if attempt.device == "cuda":
        _preload_cublas()
    model = WhisperModel(
        str(folder),
        device=attempt.device,
        compute_type=attempt.precision,
        cpu_threads=threads,
        local_files_only=True,
    )
    bands = int(model.model.n_mels)
    if model.feature_extractor.mel_filters.shape[0] != bands:  # a folder without preprocessor_config.json
        model.feature_extractor = FeatureExtractor(feature_size=bands)
    if attempt.device == "cuda":
        silence = np.zeros((1, bands, model.feature_extractor.nb_max_frames), dtype=np.float32)
        model.model.encode(ctranslate2.StorageView.from_array(silence), to_cpu=True)
    return model


def _preload_cublas() -> None:
    """Load the cuBLAS 12 of the package nvidia-cublas-cu12, if it is installed.

    CTranslate2 asks the system for it by name, which does not look into Python's packages.
    """
    import ctypes

    spec = importlib.util.find_spec("nvidia")
    if spec is None or sys.platform != "linux":
        return
    for place in spec.submodule_search_locations or ():
        for name in ("libcublasLt.so.12", "libcublas.so.12"):
            library = Path(place) / "cublas" / "lib" / name
            if library.is_file():
                try:
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                except OSError:
                    return  # what is missing will show, and be told, at the first computation
