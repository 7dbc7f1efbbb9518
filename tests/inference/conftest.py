"""Tiny models and voices for the tests of inference."""

from pathlib import Path

import pytest
import torch

from modules.inference.synthesizer import Synthesizer
from modules.inference.voice import Reference, prepare_reference
from tests.tiny import build_tiny_model_folder, synthetic_speech


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random tiny weights."""
    return build_tiny_model_folder(tmp_path_factory.mktemp("tiny") / "nano")


@pytest.fixture(scope="session")
def synthesizer(tiny_models: Path) -> Synthesizer:
    """The tiny models, loaded."""
    return Synthesizer.load(tiny_models, device="cpu")


@pytest.fixture(scope="session")
def references() -> tuple[Reference, Reference]:
    """Two prepared synthetic voices, a low one with text and a high one with another text."""
    low = prepare_reference(torch.from_numpy(synthetic_speech(1.5, f0_hz=110)), "low", "the lazy dog", use_vad=False)
    high = prepare_reference(
        torch.from_numpy(synthetic_speech(1.2, f0_hz=240, seed=3)), "high", "a brown fox", use_vad=False
    )
    return low, high
