"""Events of a training as TensorBoard curves and sounds."""

from pathlib import Path
from typing import Any

from modules.audio.io import read

FOLDER = "tensorboard"
SAMPLE_RATE = 32000


class Board:
    """Writes what it hears of a training (see `modules.training.events`) to `folder/tensorboard`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter  # heavy: only when somebody wants it

        self._writer = SummaryWriter(str(Path(folder) / FOLDER))

    def __call__(self, event: dict[str, Any]) -> None:
        """One event; those that are no figures and no sounds are passed over."""
        kind, step = event["kind"], event.get("step", 0)
        if kind in ("step", "validation"):
            group = "train" if kind == "step" else "validation"
            for name, value in event["losses"].items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name.lstrip('_')}", value, step)
        if kind == "step":
            self._writer.add_scalar("learning_rate", event["learning_rate"], step)
        if kind == "samples":
            for name, value in event["measures"].items():
                self._writer.add_scalar(f"samples/{name}", value, step)
            for number, item in enumerate(event["items"], 1):
                self._sound(f"samples/{number}", item["file"], step)
                self._sound(f"recordings/{number}", item["truth"], step)
        if kind in ("validation", "end"):
            self._writer.flush()

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()

    def _sound(self, name: str, file: str, step: int) -> None:
        self._writer.add_audio(name, read(file, SAMPLE_RATE)[None], step, SAMPLE_RATE)
