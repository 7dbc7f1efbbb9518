"""A tiny preset and a store of buzzing clips that both trainings can learn from."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from modules.config import to_dict
from modules.data.store import StoreWriter
from tests.tiny import build_tiny_model_folder, synthetic_speech, tiny_preset


class TrainingData(NamedTuple):
    """A preset's file and a feature store."""

    preset: Path
    store: Path


def write_store(folder: Path, clips: int, speakers: int = 2, dev: int = 2) -> Path:
    """`clips` clips to train on and `dev` held out, of about a second, with codes that fit the tiny preset."""
    rng = np.random.default_rng(0)
    with StoreWriter(folder) as writer:
        for number in range(clips + dev):
            tokens = int(rng.integers(20, 40))
            wav = synthetic_speech(tokens / 25, seed=number)[: tokens * 1280]
            codes = np.stack([rng.integers(0, 16, tokens), rng.integers(1, 64, tokens)], 1)
            writer.add(
                f"clip{number}", speaker=f"s{number % speakers}", language="en", text="x",
                split="train" if number < clips else "dev", seconds=len(wav) / 32000, source="recorded",
                text_ids=rng.integers(1, 200, int(rng.integers(4, 12))).astype(np.int32), codebooks=2,
                codes=codes.reshape(-1).astype(np.int16), audio=(wav * 32767).astype(np.int16),
                f0=np.full(tokens * 4, 140.0, np.float32),
            )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """12 clips of 2 speakers, and 2 held out."""
    root = tmp_path_factory.mktemp("training")
    (root / "tiny.json").write_text(json.dumps(to_dict(tiny_preset())))
    return TrainingData(root / "tiny.json", write_store(root / "store", 12))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete tiny model folder with random weights."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model_folder(folder)
    return folder
