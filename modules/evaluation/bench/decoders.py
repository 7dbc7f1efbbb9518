"""Part "decoder": what a second of sound costs in the heads of base size, and in whole decoders.

Shapes: D latent channels, T decoder frames, U text units, K codebooks, S samples.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modules.config import Preset
from modules.evaluation.bench.measured import Measured, figure, times
from modules.evaluation.bench.timing import Spread, Turn
from modules.evaluation.bench.workshop import Workshop
from modules.evaluation.results import Table
from modules.vits2.building import build_vits2
from modules.vits2.generator import SourceFilterHead
from modules.vits2.hifigan import HifiGanHead
from modules.vits2.model import VITS2

PITCH_HZ = 180.0
UNITS_PER_SECOND = 6
_LABELS = {"istft": "base head, iSTFT", "hifigan": "base head, HiFi-GAN"}


@torch.inference_mode()
def measure_decoders(workshop: Workshop) -> Measured:
    """Heads on the same latents, and whole decoders on random codes."""
    seconds, clock = workshop.effort.sound_seconds, workshop.clock
    torch.manual_seed(workshop.seed)
    head_works = _heads(workshop.base, seconds, workshop.device)
    works = {_LABELS[name]: work for name, work in head_works.items()}
    works |= {
        "nano decoder": _whole(workshop.nano("auto").vits2, seconds, workshop.device),
        "base decoder": _whole(_fresh(workshop.base).to(workshop.device), seconds, workshop.device),
    }
    turns: dict[str, Turn] = {
        name: (lambda work=work: clock.seconds(work) / seconds) for name, work in works.items()
    }  # fmt: skip
    found = {name: Spread.of(taken) for name, taken in workshop.effort.rounds.run(turns, workshop.should_stop).items()}
    istft, hifigan = (found[_LABELS[name]] for name in ("istft", "hifigan"))
    values: dict[str, Any] = {
        "sound_seconds_per_turn": seconds,
        "rounds": istft.rounds,
        "seconds_per_second_of_sound": {
            name: {"median": taken.median, "low": taken.low, "high": taken.high} for name, taken in found.items()
        },
        "decoder_speedup": hifigan.median / istft.median,
    }
    rows = tuple((name, figure(s.median), f"{figure(s.low)}-{figure(s.high)}") for name, s in found.items())
    note = (
        f"Median of {istft.rounds} rounds in turns of {figure(seconds)} s of sound. Heads of base size on the same "
        f"latents, weight norms folded: iSTFT is {times(values['decoder_speedup'])} as quick as HiFi-GAN."
    )
    table = Table("Decoders", ("part", "seconds a second of sound", "lowest-highest"), rows, note)
    return Measured(values, (table,), {"decoder_speedup": values["decoder_speedup"]})


def _heads(preset: Preset, seconds: float, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Both heads of the preset's size over the same input."""
    config, audio = preset.vits2, preset.audio
    frames = max(1, round(seconds * audio.frame_rate))
    z, style = torch.randn(1, config.latent, frames, device=device), torch.randn(1, config.style_dim, device=device)
    f0 = torch.full((1, 2 * frames), PITCH_HZ, device=device)
    noise, before = torch.randn(1, frames * audio.hop_length, device=device), f0[:, 0]
    works = {}
    for name, kind in (("istft", SourceFilterHead), ("hifigan", HifiGanHead)):
        head = folded(kind(replace(config, head=name), audio)).to(device).eval()

        def work(head: nn.Module = head) -> Tensor:
            return head(z, f0, style, None, noise, before_hz=before)[0]

        works[name] = work
    return works


def folded(module: nn.Module) -> nn.Module:
    """A module whose parts have computed in advance what depends on weights alone, as `VITS2.fold` does."""
    for part in list(module.modules()):
        if hasattr(part, "fold"):
            part.fold()
    return module


def _fresh(preset: Preset) -> VITS2:
    """A decoder of a preset with random weights, ready to speak."""
    decoder = build_vits2(preset, preset.text.vocab_size, posterior=False)
    if decoder.quantizer is not None and not decoder.quantizer.ready:
        decoder.quantizer.randomise_()
    return decoder.fold().eval()


def _whole(decoder: VITS2, seconds: float, device: torch.device) -> Callable[[], Any]:
    """A sentence of random codes through a whole decoder."""
    tokens, units = max(1, round(seconds * decoder.token_rate)), max(1, round(seconds * UNITS_PER_SECOND))
    codes = torch.stack([torch.randint(0, size, (1, tokens)) for size in decoder.codebook_sizes], -1).to(device)
    ids = torch.randint(0, min(decoder.text_vocab, 256), (1, units), device=device)
    style = torch.randn(1, decoder.config.style_dim, device=device)
    features = None
    if decoder.reads_text_features:
        features = torch.randn(1, units, decoder.text_config.feature_dim, device=device)
    return lambda: decoder.infer(
        codes, ids, style, PITCH_HZ, generator=torch.Generator().manual_seed(0), text_features=features
    )
