"""What presets need, lack and can do on this machine. Knows no components; looks at names, sizes and first bytes."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.config import Preset, load_preset
from modules.errors import UserError
from modules.hub.catalogue import Entry
from modules.hub.needs import Missing, missing_models, needed_models
from tools.webui.services import Services
from tools.webui.sizes import size_words
from tools.webui.weights import WeightFolders

BUILT_IN_PRESET = "nano"
"""Comes with the program and needs nothing else."""


@functools.lru_cache(64)
def preset_config(name: str) -> Preset:
    """The preset of that name. Raises UserError preset_unknown."""
    return load_preset(name)


def quantises(name: str) -> bool:
    """Whether its tokens are learned with its decoder, so that they are made between the two trainings.

    False for a preset that there is no config for; its start tells that.
    """
    try:
        return preset_config(name).tokenizer.form == "grouped"
    except UserError:
        return False


def needs(name: str) -> tuple[str, ...]:
    """Names of the published models that a preset needs; none for a preset that there is no config for."""
    try:
        return tuple(needed_models(preset_config(name)))
    except UserError:
        return ()


def missing_of(name: str, services: Services) -> list[Missing]:
    """The published models of a preset that are not whole on this machine."""
    if not needs(name):
        return []
    return missing_models(preset_config(name), services.weights.models, dict(services.catalogue))


def missing_bytes(missing: list[Missing]) -> int:
    """To be downloaded, as far as it is known."""
    return sum(item.bytes for item in missing)


def missing_words(missing: list[Missing]) -> str:
    """Names with their sizes, where something has to be downloaded: "bge-m3 (2.3 GB), mhubert-147 (378 MB)"."""
    return ", ".join(f"{item.entry.name} ({size_words(item.bytes)})" if item.files else item.entry.name
                     for item in missing)  # fmt: skip


def only_waits(missing: Sequence[Missing]) -> bool:
    """Whether everything is there, and only has to be converted."""
    return bool(missing) and not any(item.files for item in missing)


def check_models(name: str, services: Services) -> None:
    """Refuse work with a preset that lacks models, before anything runs.

    Raises:
        UserError: preset_models_missing, preset_models_wait.
    """
    missing = missing_of(name, services)
    if only_waits(missing):
        raise UserError(
            "preset_models_wait",
            "The models {models} of the preset {preset} are on this machine, but wait to be converted. Do that in the "
            "tab Models, then start this again.",
            preset=name,
            models=missing_words(missing),
        )
    if missing:
        raise UserError(
            "preset_models_missing",
            "The preset {preset} needs {models}, which are not on this machine. Download them in the tab Models "
            "({size}), then start this again.",
            preset=name,
            models=missing_words(missing),
            size=size_words(missing_bytes(missing)),
        )


@dataclass(frozen=True)
class OwnWeights:
    """How many finished weights of a preset there are of each part."""

    gpt: int = 0
    vits2: int = 0


def own_weights(weights: WeightFolders) -> Mapping[str, OwnWeights]:
    """Preset -> weights that were trained for it here."""
    found: dict[str, OwnWeights] = {}
    for part, folder in (("gpt", weights.gpt), ("vits2", weights.vits2)):
        for path in folder.glob("*.safetensors"):
            name = preset_of(path)
            known = found.get(name, OwnWeights())
            found[name] = OwnWeights(known.gpt + (part == "gpt"), known.vits2 + (part == "vits2"))
    return found


def speaking_presets(services: Services) -> list[str]:
    """Presets that can be spoken with here: nano, those with weights, and those that both parts were trained for.

    One that is there but lacks models is left out, since nothing could be heard of it.
    """
    weights, own = services.weights, own_weights(services.weights)
    names = []
    for name in weights.preset_names():
        trained = own.get(name, OwnWeights())
        able = weights.is_installed(name) or (trained.gpt and trained.vits2)
        if name == BUILT_IN_PRESET or (able and not missing_of(name, services)):
            names.append(name)
    return names


def needing(entry: Entry, services: Services) -> list[str]:
    """The presets that need a model."""
    return [name for name in services.weights.preset_names() if entry.name in needs(name)]


def preset_of(path: Path) -> str:
    """The preset that a weight file was trained for, from its head alone; empty where that cannot be read."""
    try:
        return _lineage_preset(path, path.stat().st_mtime_ns)
    except OSError:
        return ""


@functools.lru_cache(1024)
def _lineage_preset(path: Path, mark: int) -> str:
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return str(json.loads((file.metadata() or {})["lineage"])["preset"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return ""
