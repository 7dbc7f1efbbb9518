"""What the tests of the training tab share: a small dataset, and features and runs as the tools leave them."""

from pathlib import Path

import numpy as np
import torch

from modules.checkpoint import save_training_state
from modules.data.manifest import Utterance, write_list
from modules.data.store import FeatureStore, StoreWriter, entry_key
from modules.experiment import Experiment
from tests.tiny import synthetic_speech, write_wav

RATE = 16000


def dataset(folder: Path, clips: int = 6) -> Path:
    """A list of clips of one synthetic voice in `folder`, named like it."""
    lines = []
    for number in range(clips):
        wav = synthetic_speech(1.0 + 0.2 * (number % 3), RATE, 150 + 5 * number, number)
        path = write_wav(folder / "clips" / f"{number}.wav", wav, RATE)
        lines.append(Utterance(str(path), "ada", "en", f"the quick brown fox {number}"))
    write_list(folder / f"{folder.name}.list", lines)
    return folder / f"{folder.name}.list"


def features(experiment: Experiment, clips: int = 10, held_out: int = 2, seconds: float = 6.0) -> str:
    """Features of some clips; returns their fingerprint as a training keeps it."""
    with StoreWriter(experiment.features) as writer:
        for number in range(clips):
            if not writer.has(f"{number:032x}"):
                split = "dev" if number < held_out else "train"
                writer.add(f"{number:032x}", split=split, seconds=seconds, codes=np.arange(4, dtype=np.int16))
    return entry_key(FeatureStore(experiment.features).fingerprint())


def run(
    experiment: Experiment,
    stage: str,
    *,
    epoch: int = 3,
    seconds: float = 60.0,
    data: str = "",
    rate: float | None = None,
    rank: int = 32,
) -> None:
    """A run folder whose checkpoint tells this."""
    rate = rate or {"vits2": 4e-4, "gpt": 2e-4}[stage]
    trained: dict = {"learning_rate": rate}
    trained |= {"text_rate": 1.0, "mel_weight": 1.0} if stage == "vits2" else {"lora_rank": rank}
    state = {
        "step": 16 * epoch,
        "seconds": seconds,
        "data": data,
        "run_config": {"train": trained, **({"model": {}} if stage == "gpt" else {})},
        "loader": {"epoch": epoch, "position": 0, "seed": 0},
        "rng": {"python": list(range(600))},
        "modules": {"vits2": {"weight": torch.zeros(3)}},
    }
    save_training_state(experiment.run(stage), "checkpoint", state)
