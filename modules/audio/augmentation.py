"""Clips as a telephone or a poor room would have recorded them, so that what is trained on them stands such recordings.

The order is that of the sound: the voice, its room, what else is heard there, microphone and line, level, codec. Every
choice comes from the generator handed in; `modules/audio/effects.py` holds the effects.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modules.audio import effects
from modules.config import field

Voices = Callable[[np.random.Generator], Sequence[np.ndarray]]
"""Gives other clips at the same rate, for babble; called only when they are wanted."""

EFFECTS = tuple("faint_noise noise babble reverberation band codec level clipping formants pitch speed".split())
"""What can be left out, one by one."""


@dataclass(frozen=True)
class AugmentOptions:
    """How often what happens to a clip. `faint_noise`, `degraded` and `speed` are shares of all clips, the others of
    the degraded ones."""

    faint_noise: float = field(0.5, "share of all clips that get noise 15 to 55 dB below them", 0, 1)
    degraded: float = field(0.45, "share of all clips that go through the effects below", 0, 1)
    noise: float = field(0.4, "white, pink or brown noise, or mains hum", 0, 1)
    babble: float = field(0.12, "other voices in the background", 0, 1)
    reverberation: float = field(0.35, "a room's answer", 0, 1)
    band: float = field(0.35, "telephone, AM, dull or coloured microphone, or 8 kHz and back", 0, 1)
    codec: float = field(0.2, "mu-law, few bits, block-adaptive bits, or a transform codec", 0, 1)
    level: float = field(0.3, "played louder or softer, cut off at full scale", 0, 1)
    clipping: float = field(0.08, "cut off well below its peak", 0, 1)
    formants: float = field(0.1, "a longer or shorter vocal tract, the timing kept", 0, 1)
    pitch: float = field(0.1, "higher or lower by up to three semitones, the timing kept", 0, 1)
    speed: float = field(0.15, "share of all clips that are played at another rate: tempo, pitch, formants", 0, 1)
    lowest_snr_db: float = field(3.0, "loudest noise and babble, below the voice", -20, 80)
    highest_snr_db: float = field(30.0, "softest noise and babble, below the voice", -20, 80)
    least_rt60_seconds: float = field(0.15, "shortest reverberation", 0.01, 5)
    most_rt60_seconds: float = field(0.8, "longest reverberation", 0.01, 5)
    most_speed_change: float = field(0.08, "furthest from the speed that the clip has", 0, 0.5)

    def scaled(self, strength: float) -> "AugmentOptions":
        """The same with the shares of all clips times `strength`, 1 at most: 0 leaves every clip alone."""
        names = ("faint_noise", "degraded", "speed")
        return dataclasses.replace(self, **{n: min(1.0, strength * getattr(self, n)) for n in names})

    def without(self, names: Sequence[str]) -> "AugmentOptions":
        """The same with some of `EFFECTS` left out."""
        return dataclasses.replace(self, **dict.fromkeys(names, 0.0))

    @classmethod
    def of_references(cls, probability: float) -> "AugmentOptions":
        """What a recording may do to so many of the references of a voice, and nothing that changes the voice itself:
        its pitch, formants and tempo stay."""
        options = cls(degraded=probability, faint_noise=probability / 2)
        return options.without(("formants", "pitch", "speed"))


def augment(
    wav: np.ndarray,
    rate: int,
    options: AugmentOptions,
    rng: np.random.Generator,
    voices: Voices | None = None,
) -> np.ndarray:
    """A clip, perhaps degraded; its length and the times of its events stay.

    Args:
        wav: float32 [S] within -1..1.
        rate: Hz.
        options: how often what happens. `speed` is the caller's part (`playing_speed`), as it moves events.
        voices: other clips for babble; without it there is none.
    """
    wav = np.asarray(wav, dtype=np.float32)
    # A frame of the transforms is 64 ms: nothing sensible can be done to less.
    if len(wav) >= rate // 10 and wav.any():
        if rng.random() < options.degraded:
            wav = _degrade(wav, rate, options, rng, voices)
        if rng.random() < options.faint_noise:
            noise = effects.room_noise if rng.random() < 0.5 else effects.white_noise
            wav = effects.add_noise(wav, noise(len(wav), rng), rng.uniform(15, 55))
    return wav


def playing_speed(options: AugmentOptions, rng: np.random.Generator) -> float:
    """The factor at which to play a clip, 1 mostly; its events then come at their times divided by it."""
    if rng.random() < options.speed:
        return 1 + options.most_speed_change * rng.uniform(-1, 1)
    return 1.0


def _degrade(
    wav: np.ndarray, rate: int, options: AugmentOptions, rng: np.random.Generator, voices: Voices | None
) -> np.ndarray:
    if rng.random() < options.pitch:
        wav = effects.shift_pitch(wav, rate, 2 ** (rng.uniform(-3, 3) / 12))
    if rng.random() < options.formants:
        wav = effects.shift_formants(wav, rate, float(np.exp(rng.uniform(-0.15, 0.15))))
    if rng.random() < options.reverberation:
        seconds = rng.uniform(options.least_rt60_seconds, options.most_rt60_seconds)
        wav = effects.reverberate(wav, effects.impulse_response(rate, seconds, rng.uniform(0, 15), rng))
    if voices is not None and rng.random() < options.babble:
        others = effects.babble(len(wav), voices(rng), rng)
        # Words in the background are harder to tell from the voice than noise of the same level.
        wav = effects.add_noise(wav, others, _snr_db(options, rng) + 4)
    if rng.random() < options.noise:
        wav = effects.add_noise(wav, _noise(len(wav), rate, rng), _snr_db(options, rng))
    if rng.random() < options.band:
        wav = _through_microphone(wav, rate, rng)
    if rng.random() < options.clipping:
        wav = effects.overload(wav, rng.uniform(0.15, 0.6))
    if rng.random() < options.level:
        wav = np.clip(wav * np.float32(10 ** (rng.uniform(-30, 10) / 20)), -1, 1)
    if rng.random() < options.codec:
        wav = _through_codec(wav, rate, rng)
    return wav


def _snr_db(options: AugmentOptions, rng: np.random.Generator) -> float:
    return rng.uniform(options.lowest_snr_db, options.highest_snr_db)


def _noise(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(5)
    if kind == 0:
        return effects.white_noise(samples, rng)
    if kind == 1:
        return effects.mains_hum(samples, rate, rng)
    return effects.coloured_noise(samples, rng, rng.uniform(0.5, 2.0))


def _through_microphone(wav: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(5)
    if kind == 0:
        return effects.limit_band(wav, rate, 300, 3400, 8)
    if kind == 1:
        return effects.limit_band(wav, rate, rng.uniform(100, 250), rng.uniform(3500, 5000), 3)
    if kind == 2:
        return effects.limit_band(wav, rate, 0, rng.uniform(3000, 8000), int(rng.integers(2, 13)))
    if kind == 3:
        return effects.through_rate(wav, rate)
    return effects.limit_band(wav, rate, rng.uniform(0, 150), rate / 2, 2, rng.uniform(-8, 8, 7))


def _through_codec(wav: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(4)
    if kind == 0:
        return effects.mu_law(wav)
    if kind == 1:
        return effects.quantise(wav, int(rng.integers(5, 8)))
    if kind == 2:
        return effects.adaptive_quantise(wav, int(rng.integers(2, 5)))
    return effects.thin_out(wav, rate, rng.uniform(0.08, 0.3))
