"""What belongs to one voice that somebody trains: its name, and where its files lie."""

import re
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from modules.paths import GPT_WEIGHTS, LOGS, SOVITS_WEIGHTS

LONGEST_NAME = 60
_TOLD_CHARACTERS = 40
"""A refused name may be a whole page of text; no more of it is told."""
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""Names that Windows takes for devices, whatever follows."""


@dataclass(frozen=True)
class Experiment:
    """The files of an experiment; weights carry the names that GPT-SoVITS gave them.

    Args:
        name: checked by `experiment_name`.
        logs: folder of all experiments; gpt_weights, vits2_weights: folders of finished weights.
    """

    name: str
    logs: Path = LOGS
    gpt_weights: Path = GPT_WEIGHTS
    vits2_weights: Path = SOVITS_WEIGHTS

    @property
    def folder(self) -> Path:
        """Manifest, features, runs."""
        return self.logs / self.name

    @property
    def features(self) -> Path:
        """Feature store."""
        return self.folder / "features"

    def run(self, stage: str) -> Path:
        """Run folder of a stage, "vits2" or "gpt": checkpoint, events, samples."""
        return self.folder / stage

    def gpt_file(self, step: int, epoch: int) -> Path:
        """Finished weights of the language model."""
        return self.gpt_weights / f"{self.name}-e{epoch}.safetensors"

    def vits2_file(self, step: int, epoch: int) -> Path:
        """Finished weights of the decoder."""
        return self.vits2_weights / f"{self.name}_e{epoch}_s{step}.safetensors"


def experiment_name(text: str) -> str:
    """A name that is safe as the name of a folder on every system, with spaces around it taken off.

    Raises:
        UserError: experiment_name.
    """
    name = str(text).strip()
    if not name or len(name) > LONGEST_NAME or name[0] == "." or name[-1] == "." or _FORBIDDEN.search(name):
        raise _refused(text)
    if _DEVICES.fullmatch(name):
        raise _refused(text)
    return name


def _refused(text: str) -> UserError:
    text = str(text)
    text = text if len(text) <= _TOLD_CHARACTERS else f"{text[: _TOLD_CHARACTERS - 1]}…"
    return UserError(
        "experiment_name",
        'The experiment cannot be called "{name}"; use letters, digits, spaces, - and _, at most {longest} characters.',
        name=text,
        longest=LONGEST_NAME,
    )
