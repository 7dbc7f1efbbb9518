"""Checks of models: which presets can speak here or be trained, what they lack, and whether the hub can be reached."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modules.config import Preset, load_preset
from modules.doctor.findings import Finding, cause_of
from modules.doctor.system import size_text, sizes_text
from modules.errors import UserError
from modules.hub.catalogue import Entry, load_catalogue
from modules.hub.inventory import state_of
from modules.hub.judging import verify
from modules.hub.needs import needed_models

WEIGHTS = ("gpt.safetensors", "vits2.safetensors")
BUILT_IN = "nano"
_MOST_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
JUDGED = {
    "pinned": "the hashes of the catalogue",
    "hub": "the hashes that the hub stated",
    "format": "its format alone",
}


def check_presets(
    names: Sequence[str],
    models: Path,
    asked: str = "",
    catalogue: dict[str, Entry] | None = None,
    trained: Mapping[str, tuple[int, int]] | None = None,
) -> Iterator[Finding]:
    """Encoders and weights of each preset.

    What an optional preset lacks is no problem, unless it was asked for.

    Args:
        names: of presets.
        models: folder that holds presets and encoders.
        asked: the preset that must work.
        catalogue: of published models; that of the program when left out.
        trained: preset -> how many GPT and VITS2 weights were trained for it here (see `trained_weights`).
    """
    entries = load_catalogue() if catalogue is None else catalogue
    for name in names:
        try:
            yield check_preset(load_preset(name), models, name == asked, entries, (trained or {}).get(name, (0, 0)))
        except UserError as cause:
            yield Finding(f"Preset {name}", "problem", cause_of(cause), "Restore modules/presets from the repository.")


def check_preset(
    preset: Preset, models: Path, asked: bool, entries: dict[str, Entry], trained: tuple[int, int] = (0, 0)
) -> Finding:
    """Encoders and weights of one preset; `trained` are the GPT and VITS2 weights made for it here."""
    what, needed = f"Preset {preset.name}", needed_models(preset)
    states = {name: state_of(entries[name], models) for name in needed}
    get = f"Get them in the tab Models, or with: python -m tools.download --preset {preset.name}"
    broken = {name: state for name, state in states.items() if state.state == "damaged"}
    if broken:
        wrong = [f"{name}/{file}: {problem}" for name, state in broken.items() for file, problem in state.damaged]
        told = "; ".join(wrong)
        return Finding(what, "problem" if asked else "warning", f"Damaged: {told}.", get)
    lacking = {name: state.missing_bytes for name, state in states.items() if state.state != "present"}
    weights = _weights(models / preset.name)
    if lacking:
        told = f"Encoders missing: {sizes_text(lacking)}."
        return Finding(what, "problem" if asked else "ok", told, get if asked else f"Optional. {get}")
    there = f"encoders there: {', '.join(needed)}" if needed else "needs no further models"
    if weights == WEIGHTS:
        return Finding(what, "ok", f"installed; {there}")
    absent = ", ".join(sorted(set(WEIGHTS) - set(weights)))
    if preset.name == BUILT_IN:
        return Finding(
            what, "problem", f"{models / preset.name} lacks {absent}.",
            "Restore pretrained_models/nano from the repository.",
        )  # fmt: skip
    if all(trained):
        told = f"{there}; trained here: {trained[0]} GPT and {trained[1]} VITS2 weights"
        return Finding(what, "ok", told, "Choose one of each in the tab Speak." if asked else "")
    told = f"{there}; it has no weights of its own ({absent} in {models / preset.name})"
    if any(trained):
        told += f"; trained here: {trained[0]} GPT and {trained[1]} VITS2 weights, but both are needed"
    return Finding(what, "warning" if asked else "ok", told, "Train it in the tab Train; none are published.")


def trained_weights(gpt: Path, vits2: Path) -> dict[str, tuple[int, int]]:
    """Preset -> how many GPT and VITS2 weights in these two folders were trained for it, as their heads tell."""
    found: dict[str, list[int]] = {}
    for part, folder in enumerate((gpt, vits2)):
        for path in sorted(folder.glob("*.safetensors")):
            found.setdefault(_preset_of(path), [0, 0])[part] += 1
    return {name: (counts[0], counts[1]) for name, counts in found.items() if name}


def _preset_of(path: Path) -> str:
    """The preset that a weight file was trained for; empty where that cannot be read."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
        return str(json.loads(header["__metadata__"]["lineage"])["preset"])
    except (OSError, ValueError, TypeError, KeyError, struct.error):
        return ""


def check_weight_files(folder: Path) -> Iterator[Finding]:
    """Whether every weight file of a folder is whole, told from its header and its length."""
    from modules.hub.formats import complaint

    for path in sorted(folder.glob("*.safetensors")):
        problem = complaint(path)
        if problem:
            yield Finding(
                f"File {path.name}", "problem", f"{path}: {problem}.", "Restore the file, or delete it and train anew."
            )  # fmt: skip


def check_hashes(preset: Preset, models: Path, catalogue: dict[str, Entry] | None = None) -> Iterator[Finding]:
    """The content of every encoder that a preset needs and that is there; reads gigabytes.

    What is found is written down beside the files (see modules/hub/judging.py).
    """
    entries = load_catalogue() if catalogue is None else catalogue
    for name in needed_models(preset):
        if state_of(entries[name], models).state != "present":
            continue  # told by `check_preset`
        try:
            checks = verify(entries[name], models)
        except UserError as cause:  # a download goes on there, or its folder may not be written to
            yield Finding(f"Model {name}", "warning", f"It was not checked: {cause_of(cause)}",
                          "Run this again when that is over.")  # fmt: skip
            continue
        wrong = [f"{check.name}: {check.problem}" for check in checks if check.problem]
        if wrong:
            told, remedy = "; ".join(wrong), f"Download it anew: python -m tools.download {name}"
            yield Finding(f"Model {name}", "problem", told, remedy)
        else:
            size, by = size_text(sum(check.size_bytes for check in checks)), {check.checked for check in checks}
            yield Finding(f"Model {name}", "ok", f"{size}, judged by {', '.join(JUDGED[one] for one in sorted(by))}")


def _weights(folder: Path) -> tuple[str, ...]:
    return tuple(name for name in WEIGHTS if (folder / name).is_file())
