"""Tiny seeded parts for tests: a whole model folder in well under two seconds, and a synthetic voice."""

import json
import math
import wave
from pathlib import Path

import numpy as np
import torch

from modules.checkpoint import Lineage
from modules.config import (
    AudioConfig,
    GPTConfig,
    Preset,
    SpeechTokenizerConfig,
    TextConfig,
    VITS2Config,
    to_dict,
)
from modules.gpt.model import SpeechGPT, save_gpt
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import save_tokenizer
from modules.text.tokenizer import TextTokenizer
from modules.vits2.model import VITS2, save_vits2


def synthetic_speech(seconds: float = 2.0, sample_rate: int = 32000, f0_hz: float = 140.0, seed: int = 0) -> np.ndarray:
    """float32 [S] that passes for speech: a gliding harmonic tone in syllables of changing vowel, some noise."""
    rng = np.random.default_rng(seed)
    count = int(seconds * sample_rate)
    times = np.arange(count) / sample_rate
    f0 = f0_hz * 2 ** (0.2 * np.sin(2 * math.pi * 0.7 * times))
    phase = 2 * math.pi * np.cumsum(f0) / sample_rate
    vowel = 500 + 300 * np.sin(2 * math.pi * 1.3 * times + seed)
    wav = np.zeros(count)
    for harmonic in range(1, 24):
        hz = harmonic * f0
        gain = np.exp(-(((hz - vowel) / 250) ** 2)) + 0.4 * np.exp(-(((hz - 1600) / 400) ** 2)) + 0.02
        wav += gain * np.sin(harmonic * phase)
    syllables = np.clip(1.3 * np.abs(np.sin(2 * math.pi * 2.0 * times)), 0.0, 1.0) ** 2
    wav = wav * syllables + 0.003 * rng.standard_normal(count)
    return (0.4 * wav / np.abs(wav).max()).astype(np.float32)


def tiny_preset() -> Preset:
    """The shape of nano at the smallest sizes that still run."""
    return Preset(
        name="tiny",
        audio=AudioConfig(n_mels=20, n_fft=1024),
        text=TextConfig(vocab_size=300),
        tokenizer=SpeechTokenizerConfig(
            n_mels=20, hidden=16, heads=2, encoder_layers=1, decoder_layers=0, levels=(4, 4), dropout=0.0
        ),
        gpt=GPTConfig(hidden=16, layers=1, heads=2, kv_heads=1, intermediate=32, max_positions=2048, dropout=0.0),
        vits2=VITS2Config(
            hidden=16,
            heads=2,
            filter=32,
            encoder_layers=1,
            text_layers=1,
            posterior_layers=1,
            flow_couplings=2,
            flow_layers=1,
            style_dim=16,
            latent=8,
            head_hidden=16,
            head_layers=1,
            dropout=0.0,
        ),
    )


def build_tiny_model_folder(folder: Path, seed: int = 0) -> Path:
    """A model folder with random weights, written by the real save functions; it speaks noise, quickly.

    Its codebook is so small that the language model ends a sentence by itself every now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preset = tiny_preset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        texts = ["the quick brown fox jumps over the lazy dog", "我们今天去公园散步", "今日はいい天気ですね"]
        text = TextTokenizer.train(texts, preset.text.vocab_size)
        speech = SemanticTokenizer(preset.tokenizer)
        gpt = SpeechGPT(preset.gpt, preset.text, speech.codebook_sizes, text.size, fsq_levels=preset.tokenizer.levels)
        vits2 = VITS2(preset.vits2, preset.audio, speech.codebook_sizes, text.size, speech.frame_rate, posterior=False)
    (folder / "preset.json").write_text(json.dumps(to_dict(preset)), encoding="utf-8")
    text.save(folder / "tokenizer.json")
    save_tokenizer(folder / "s3.safetensors", speech, Lineage("tiny", "tokenizer", 0, 0))
    save_gpt(folder / "gpt.safetensors", gpt, Lineage("tiny", "gpt", 0, 0))
    save_vits2(folder / "vits2.safetensors", vits2, Lineage("tiny", "vits2", 0, 0), include_posterior=False)
    return folder


def write_wav(path: Path, wav: np.ndarray, sample_rate: int = 32000) -> Path:
    """A 16-bit wav by the standard library alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(wav, -1, 1) * 32767).astype("<i2").tobytes())
    return path
