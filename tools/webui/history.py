"""Outputs and the sidecar files beside them: written after a synthesis, read for the history. Knows no components."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from modules.inference.voice import Reference

PREVIEW_CHARACTERS = 80
REFERENCES_FOLDER = "references"
"""Inside the output folder: copies of the references, so that an output can be made again."""


@dataclass(frozen=True)
class Entry:
    """One output: the audio, when it was made, and the settings in its sidecar file."""

    audio: Path
    made: datetime
    settings: Mapping[str, Any]

    def row(self) -> list[Any]:
        """The entry as a row of the table: time, text, seconds, seed."""
        text = str(self.settings.get("text", ""))
        preview = text if len(text) <= PREVIEW_CHARACTERS else text[: PREVIEW_CHARACTERS - 1] + "…"
        seconds = self.settings.get("seconds")
        seed = self.settings.get("seed")
        return [
            self.made.strftime("%Y-%m-%d %H:%M:%S"),
            preview,
            round(float(seconds), 1) if isinstance(seconds, int | float) else None,
            "" if seed is None else str(seed),
        ]


def list_entries(folder: Path, limit: int) -> list[Entry]:
    """The newest outputs first; files that are no sidecar of an existing wav are passed over."""
    found = []
    for sidecar in Path(folder).glob("*.json"):
        audio = sidecar.with_suffix(".wav")
        try:
            modified = sidecar.stat().st_mtime
        except OSError:
            continue
        if audio.is_file():
            found.append((modified, sidecar, audio))
    entries = []
    for modified, sidecar, audio in sorted(found, reverse=True):
        if len(entries) == limit:
            break
        settings = _read(sidecar)
        if settings is not None:
            entries.append(Entry(audio, datetime.fromtimestamp(modified), settings))
    return entries


def save_output(folder: Path, wav: "np.ndarray", settings: Mapping[str, Any]) -> Path:
    """Write `<time>_<seed>.wav` and its settings; returns the wav's path. An older file is never overwritten."""
    import torch

    from modules.audio.io import write
    from modules.checkpoint import write_atomic

    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now():%Y%m%d-%H%M%S}_{settings['seed']}"
    path, number = folder / f"{stem}.wav", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.wav"
    write(path, torch.from_numpy(wav), settings["sample_rate"])
    write_atomic(path.with_suffix(".json"), json.dumps(settings, ensure_ascii=False, indent=2).encode("utf-8"))
    return path


def reference_record(
    folder: Path, audio: Path, text: str | None, weight: float, reference: "Reference"
) -> dict[str, Any]:
    """A reference as the sidecar keeps it, with a copy of its file: uploads are temporary."""
    copy = folder / REFERENCES_FOLDER / f"{reference.content_hash[:16]}{audio.suffix.lower()}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(audio, copy)
    return {
        "file": str(copy),
        "name": reference.name,
        "text": text,
        "weight": weight,
        "content_hash": reference.content_hash,
        "notes": [str(note) for note in reference.notes],
    }


def form_values(settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The settings of an output under the names of the form.

    Args:
        settings: a sidecar's content; missing or odd parts are passed over.
        rows: how many rows of references the form has; rows without a reference are emptied.
    """
    options, model = _mapping(settings.get("options")), _mapping(settings.get("model"))
    values: dict[str, Any] = {**options, "text": str(settings.get("text", ""))}
    values["random_seed"] = not isinstance(values.get("seed"), int)
    values["preset"] = model.get("preset", "nano")
    values["gpt_weights"], values["vits2_weights"] = model.get("gpt", ""), model.get("vits2", "")
    listed = settings.get("references")
    references = [_mapping(item) for item in listed] if isinstance(listed, list) else []
    for number in range(1, rows + 1):
        reference = references[number - 1] if number <= len(references) else {}
        path = Path(str(reference.get("file", "")))
        weight = reference.get("weight", 1.0)
        values[f"reference_{number}_audio"] = str(path) if path.is_file() else None
        values[f"reference_{number}_weight"] = min(max(weight, 0.0), 1.0) if isinstance(weight, int | float) else 1.0
        values[f"reference_{number}_text"] = str(reference.get("text") or "")
    return values


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _read(sidecar: Path) -> dict[str, Any] | None:
    try:
        settings = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) and "text" in settings else None
