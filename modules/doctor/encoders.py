"""Checks of a preset's encoders at work: each is loaded and given something small. Takes gigabytes of memory."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.config import Preset
from modules.doctor.findings import Finding, cause_of

WORDS = "Hello."
_REMEDY = "Check its files: python -m tools.download --verify --preset {preset}"


def check_encoders(preset: Preset, models: Path, device: Any) -> Iterator[Finding]:
    """The text front end reads a word; the speech encoder hears a second of noise.

    Args:
        preset: one whose encoders are there.
        models: folder that holds presets and encoders.
        device: torch.device to compute on.
    """
    yield _told("Text encoder", preset, lambda: _read(preset, models, device))
    yield _told("Speech encoder", preset, lambda: _hear(preset, models, device))


def _told(name: str, preset: Preset, work: Any) -> Finding:
    started = time.monotonic()
    try:
        told = work()
    except Exception as cause:  # libraries fail in many ways, memory among them
        return Finding(name, "problem", f"It does not work: {cause_of(cause)}", _REMEDY.format(preset=preset.name))
    return Finding(name, "ok", f"{told}, {time.monotonic() - started:.1f} s")


def _read(preset: Preset, models: Path, device: Any) -> str:
    from modules.text.building import load_text

    text = load_text(preset.text, models / preset.name, models, device)
    ids = text.encode(WORDS)
    features = text.features([WORDS]) if text.has_features else None
    shape = f", features {'x'.join(map(str, features[0].shape))}" if features else ""
    return f'"{WORDS}" has {len(ids)} units{shape}'


def _hear(preset: Preset, models: Path, device: Any) -> str:
    import torch

    from modules.speech.building import load_features, load_speech

    rate = preset.tokenizer.sample_rate
    noise = 0.1 * torch.randn(1, rate, generator=torch.Generator().manual_seed(0))
    if preset.tokenizer.form == "grouped":  # its quantiser comes only with a trained decoder
        encoder = load_features(preset.tokenizer, models, device)
        features = encoder.features(noise.to(device), None)
        return f"a second gives features {'x'.join(map(str, features.shape[1:]))}"
    codes = load_speech(preset.tokenizer, models / preset.name, models, device).encode(noise.to(device))
    return f"a second gives {codes.shape[1]} tokens"
