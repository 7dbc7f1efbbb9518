"""Which published models a preset needs beside its own weights, and which of them are missing."""

from dataclasses import dataclass
from pathlib import Path

from modules.config import Preset
from modules.hub.catalogue import CatalogueFile, Entry, load_catalogue
from modules.hub.inventory import state_of


@dataclass(frozen=True)
class Missing:
    """What is left to be downloaded of an entry, and how many bytes that is (as far as they are known)."""

    entry: Entry
    files: tuple[CatalogueFile, ...]
    bytes: int


def needed_models(preset: Preset) -> list[str]:
    """Names of catalogue entries in the order text, language model, speech; empty for a preset that has its own."""
    needed = []
    if preset.text.tokenizer == "xlm-r" or preset.text.features != "embedding":
        needed.append("bge-m3")
    if preset.text.tokenizer == "qwen2" or preset.gpt.backbone == "qwen2-0.5b":
        needed.append("qwen2-0.5b")
    if preset.tokenizer.form == "grouped":
        needed.append(preset.tokenizer.grouped.encoder)
    elif preset.tokenizer.encoder != "own":
        needed.append(preset.tokenizer.encoder)
    return needed


def missing_models(preset: Preset, models: Path, catalogue: dict[str, Entry] | None = None) -> list[Missing]:
    """The needed entries that are not whole in `models`; looks at sizes only, so it is quick."""
    entries = load_catalogue() if catalogue is None else catalogue
    found = []
    for name in needed_models(preset):
        state = state_of(entries[name], models)
        if state.state != "present":
            found.append(Missing(entries[name], state.missing, state.missing_bytes))
    return found
