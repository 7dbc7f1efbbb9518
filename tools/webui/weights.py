"""Which presets and weight files can be chosen on the page."""

import re
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError

BUILT_IN = ""
"""The choice that stands for the weights in the preset's own folder."""


@dataclass(frozen=True)
class ModelChoice:
    """A preset with, optionally, other GPT and VITS2 weights; names are file names in their folders."""

    preset: str = "nano"
    gpt: str = BUILT_IN
    vits2: str = BUILT_IN


@dataclass(frozen=True)
class WeightFolders:
    """Where models lie: `models/<preset>/` and the two folders of fine-tuned weights."""

    models: Path
    gpt: Path
    vits2: Path
    presets: Path

    def preset_names(self) -> list[str]:
        """Every preset there is a config for, nano first."""
        names = {path.stem for path in self.presets.glob("*.json")} | {"nano"}
        return sorted(names, key=lambda name: (name != "nano", natural_key(name)))

    def gpt_names(self) -> list[str]:
        """Fine-tuned GPT weights, in natural order."""
        return weight_names(self.gpt)

    def vits2_names(self) -> list[str]:
        """Fine-tuned VITS2 weights, in natural order."""
        return weight_names(self.vits2)

    def preset_folder(self, preset: str) -> Path:
        """The folder of a preset; whether its files are there is found out when they are loaded.

        Raises:
            UserError: preset_unknown; a name never leads out of the models' folder.
        """
        names = self.preset_names()
        if preset not in names:
            raise UserError(
                "preset_unknown",
                "There is no preset {name}; choose one of {valid}.",
                name=preset,
                valid=", ".join(names),
            )
        return self.models / preset

    def is_installed(self, preset: str) -> bool:
        """Whether the preset can speak as it is."""
        return is_installed(self.models / preset)

    def gpt_file(self, name: str) -> Path | None:
        """The GPT file of that name; None for the built-in weights."""
        return _file(self.gpt, name)

    def vits2_file(self, name: str) -> Path | None:
        """The VITS2 file of that name; None for the built-in weights."""
        return _file(self.vits2, name)


def is_installed(folder: Path) -> bool:
    """Whether a folder holds a complete model."""
    return all((folder / name).is_file() for name in ("preset.json", "gpt.safetensors", "vits2.safetensors"))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which `e10` follows `e9`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name) if part]


def weight_names(folder: Path) -> list[str]:
    """Names of the weight files in a folder, in natural order; an absent folder is empty."""
    return sorted((path.name for path in folder.glob("*.safetensors")), key=natural_key)


def _file(folder: Path, name: str) -> Path | None:
    if name == BUILT_IN:
        return None
    if name not in weight_names(folder):  # also keeps every path inside the folder
        raise UserError(
            "weights_not_listed",
            "{file} is not in {folder} any more; press the refresh button and choose again.",
            file=name,
            folder=str(folder),
        )
    return folder / name
