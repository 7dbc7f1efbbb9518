"""The Whisper models that can be asked for by size, and where they lie on this machine.

A model is a folder as CTranslate2 writes it. It is looked for in `<models>/whisper/<size>`, then in the hub's local
cache, and is downloaded only if neither has it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from modules.hub.reaching import hub_reachable
from modules.hub.snapshots import cached_snapshot, download_snapshot
from modules.hub.source import load_source

_FILES = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")
_SMALLEST_MODEL_BYTES = 1024
"""A smaller model.bin is a pointer that a version control system left in its place."""
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class WhisperSize:
    """A published model: its repository on the hub and the approximate size of its files, MB."""

    repository: str
    megabytes: int


WHISPER_SIZES = {
    "tiny": WhisperSize("Systran/faster-whisper-tiny", 80),
    "tiny.en": WhisperSize("Systran/faster-whisper-tiny.en", 80),
    "base": WhisperSize("Systran/faster-whisper-base", 150),
    "base.en": WhisperSize("Systran/faster-whisper-base.en", 150),
    "small": WhisperSize("Systran/faster-whisper-small", 490),
    "small.en": WhisperSize("Systran/faster-whisper-small.en", 490),
    "medium": WhisperSize("Systran/faster-whisper-medium", 1530),
    "medium.en": WhisperSize("Systran/faster-whisper-medium.en", 1530),
    "large-v1": WhisperSize("Systran/faster-whisper-large-v1", 3090),
    "large-v2": WhisperSize("Systran/faster-whisper-large-v2", 3090),
    "large-v3": WhisperSize("Systran/faster-whisper-large-v3", 3090),
    "large": WhisperSize("Systran/faster-whisper-large-v3", 3090),
    "large-v3-turbo": WhisperSize("mobiuslabsgmbh/faster-whisper-large-v3-turbo", 1620),
    "turbo": WhisperSize("mobiuslabsgmbh/faster-whisper-large-v3-turbo", 1620),
    "distil-small.en": WhisperSize("Systran/faster-distil-whisper-small.en", 340),
    "distil-medium.en": WhisperSize("Systran/faster-distil-whisper-medium.en", 790),
    "distil-large-v2": WhisperSize("Systran/faster-distil-whisper-large-v2", 1520),
    "distil-large-v3": WhisperSize("Systran/faster-distil-whisper-large-v3", 1520),
    "distil-large-v3.5": WhisperSize("distil-whisper/distil-large-v3.5-ct2", 1520),
}


def find_whisper_model(
    model: str,
    models: Path,
    say: Callable[[str], None] | None = None,
    *,
    cache: Path | None = None,
    reachable: Callable[[], bool] | None = None,
) -> Path:
    """The folder of a model, checked.

    Args:
        model: a size of `WHISPER_SIZES`, or a folder.
        models: folder that may hold `whisper/<size>`, and the setting of where to download from.
        say: told before a download begins.
        cache: the hub's cache; None is its usual place.
        reachable: asked only when the model is nowhere on this machine; None knocks at the source of downloads.

    Raises:
        UserError: asr_model_unknown, asr_model_incomplete (naming the missing files), asr_model_missing (not here, and
            the hub cannot be reached), hub_download, hub_setting_broken, hub_endpoint_invalid.
    """
    size = WHISPER_SIZES.get(model)
    if size is None:
        if not Path(model).is_dir():
            raise UserError(
                "asr_model_unknown",
                "There is no Whisper model {model}; choose one of {valid}, or give a folder with a model that was "
                "converted for CTranslate2.",
                model=model,
                valid=", ".join(WHISPER_SIZES),
            )
        return check_whisper_folder(Path(model))
    by_hand = models / "whisper" / model
    for folder in (by_hand, models / "whisper" / size.repository.split("/")[1]):
        if folder.is_dir() and any(folder.iterdir()):
            return check_whisper_folder(folder)
    cached = cached_snapshot(size.repository, _FILES, cache)
    if cached is not None and not missing_files(cached):
        return cached
    endpoint = load_source(models).snapshots_endpoint
    if not (reachable() if reachable else hub_reachable(endpoint=endpoint)):
        raise UserError(
            "asr_model_missing",
            "The Whisper model {model} is not on this machine, and the model hub cannot be reached from it. Connect "
            "to the internet and start again to download it, or get the files of https://huggingface.co/{repository} "
            "(about {megabytes} MB) elsewhere and put them into {folder}.",
            model=model,
            repository=size.repository,
            megabytes=size.megabytes,
            folder=str(by_hand),
        )
    if say is not None:
        say(f"Downloading {size.repository}, about {size.megabytes} MB ...")
    return check_whisper_folder(download_snapshot(size.repository, _FILES, by_hand, cache, endpoint))


def missing_files(folder: Path) -> list[str]:
    """What a model folder lacks; empty for a whole one."""
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if "model.bin" not in missing and (folder / "model.bin").stat().st_size < _SMALLEST_MODEL_BYTES:
        missing.append("model.bin (what is there is only a pointer to it)")
    if not any((folder / name).is_file() for name in ("vocabulary.json", "vocabulary.txt")):
        missing.append("vocabulary.json")
    return missing


def check_whisper_folder(folder: Path) -> Path:
    """The folder itself if it holds a whole model; else UserError asr_model_incomplete."""
    missing = missing_files(folder)
    if missing:
        raise UserError(
            "asr_model_incomplete",
            "The model folder {folder} lacks {missing}. A Whisper model for CTranslate2 has model.bin, config.json, "
            "tokenizer.json and vocabulary.json (or vocabulary.txt); copy it there as a whole.",
            folder=str(folder),
            missing=", ".join(missing),
        )
    return folder


def whisper_identity(folder: Path) -> str:
    """Hash that tells models apart, from the small files and the two ends of model.bin (gigabytes take too long)."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("vocabulary.txt")):
        digest.update(path.name.encode() + path.read_bytes())
    with open(folder / "model.bin", "rb") as file:
        size = file.seek(0, 2)
        digest.update(str(size).encode())
        for start in (0, max(0, size - _SAMPLE_BYTES)):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
