"""A tiny language model and a tiny store for the tests of this folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.config import GPTConfig, TextConfig
from modules.data.store import StoreWriter
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import Part

TINY = GPTConfig(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48, max_positions=256, dropout=0.0)


@pytest.fixture
def make_gpt() -> Callable[..., SpeechGPT]:
    """`make_gpt(codebook_sizes=(64, 8), fsq_levels=(4, 4, 4), ...)`: an untrained model in eval mode."""

    def make(
        codebook_sizes: tuple[int, ...] = (64, 8),
        fsq_levels: tuple[int, ...] | None = (4, 4, 4),
        config: GPTConfig = TINY,
        text: TextConfig = TextConfig(),
        positions: str = "sequence",
        **options: object,
    ) -> SpeechGPT:
        config = replace(config, positions=positions)
        model = SpeechGPT(config, text, codebook_sizes, 64, fsq_levels=fsq_levels, **options).eval()
        if positions == "aligned":
            model.unit_frames.copy_(0.5 + 5 * torch.rand(64, generator=torch.Generator().manual_seed(0)))
        return model

    return make


@pytest.fixture
def make_part() -> Callable[..., Part]:
    """`make_part(units, frames, seed=0, streams=2)`: random text (ids 0..39) and codes (0..7)."""

    def make(units: int, frames: int, seed: int = 0, streams: int = 2) -> Part:
        rng = np.random.default_rng(seed)
        return Part(rng.integers(0, 40, units), rng.integers(0, 8, (frames, streams)))

    return make


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    """60 utterances, 6 speakers (one with a single utterance), 2 languages, a tenth recorded; every code of an
    utterance equals its speaker's number, its first text unit is its own number."""
    folder = tmp_path / "store"
    rng = np.random.default_rng(0)
    with StoreWriter(folder) as writer:
        for i in range(60):
            speaker = 5 if i == 59 else i % 5
            frames, units = int(rng.integers(5, 40)), int(rng.integers(2, 10))
            writer.add(
                f"key{i}",
                speaker=f"speaker{speaker}",
                language="en" if i % 3 else "de",
                split="dev" if i % 6 == 5 and i != 59 else "train",
                text="text",
                seconds=20.0 if i == 7 else frames / 25,
                source="recorded" if i % 10 == 0 else "synthetic",
                text_ids=np.concatenate([[i], rng.integers(0, 40, units - 1)]).astype(np.int32),
                codes=np.full(frames * 2, speaker, np.int16),
                codebooks=2,
            )
    return folder
