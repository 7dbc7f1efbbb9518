"""Synthetic speakers: eSpeak variants, stock or invented, each with a pitch, a range and a rate of its own.

A speaker speaks every language. Whole variants are held out for dev and test, so that a held-out voice never shares
its vocal tract with a training voice. Everything follows from the seed.
"""

import math
from dataclasses import dataclass

import numpy as np

from modules.corpus.espeak import VoiceSettings

SPLITS = ("train", "dev", "test")

# Stock variants with a clear voice, by their median f0 at pitch 50. Whispers, monsters and buzzing robots are left out.
LOW_VARIANTS = tuple(
    "Alex Andy AnxiousAndy Denis Diogo Gene Gene2 Henrique Hugo Lee Marco Mario Michael Mike Nguyen Reed RicishayMax "
    "RicishayMax2 RicishayMax3 Storm Tweaky adam antonio benjamin boris croak david ed edward edward2 grandpa gustave "
    "ian iven iven2 iven3 iven4 john kaukovalta klatt3 klatt4 klatt5 klatt6 m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel "
    "miguel mike2 norbert pablo paul pedro quincy rob robert sandro travis victor".split()
)
HIGH_VARIANTS = tuple(
    "Alicia Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda shelby steph steph2 steph3".split()
)
_HELD_LOW, _HELD_HIGH = 5, 2  # whole stock variants held out per split
_INVENTED = {"train": 762, "dev": 26, "test": 26}
_STOCK_SETTINGS = 2
F0_BOUNDS_HZ = (78.0, 285.0)


@dataclass(frozen=True)
class SyntheticSpeaker:
    """One speaker: a name for manifests, its split and how eSpeak makes it."""

    name: str
    split: str
    settings: VoiceSettings


@dataclass(frozen=True)
class VoiceSet:
    """All speakers of a corpus and the variant files that eSpeak needs besides its own."""

    speakers: tuple[SyntheticSpeaker, ...]
    variants: dict[str, str]

    def of_split(self, split: str) -> list[SyntheticSpeaker]:
        """The speakers of one split."""
        return [speaker for speaker in self.speakers if speaker.split == split]


def make_voices(seed: int = 0) -> VoiceSet:
    """The voice set of a seed: about 900 training speakers, and 40 held out for dev and for test each."""
    rng = np.random.default_rng([seed, 0x701CE])
    speakers: list[SyntheticSpeaker] = []
    for variant, split, high in _split_stock(rng):
        for number in range(_STOCK_SETTINGS):
            settings = VoiceSettings(
                variant=variant,
                rate=int(rng.integers(145, 186)),
                pitch=int(rng.integers(12, 52) if high else rng.integers(28, 88)),
                pitch_range=int(rng.integers(30, 75)),
            )
            speakers.append(SyntheticSpeaker(f"espeak-{variant}-{number}", split, settings))
    variants: dict[str, str] = {}
    for split, count in _INVENTED.items():
        for number in range(count):
            name = f"x{split}{number:03d}"
            variants[name] = invent_variant(name, rng)
            settings = VoiceSettings(name, int(rng.integers(145, 186)), 50, int(rng.integers(30, 75)))
            speakers.append(SyntheticSpeaker(f"espeak-{name}", split, settings))
    return VoiceSet(tuple(speakers), variants)


def _split_stock(rng: np.random.Generator) -> list[tuple[str, str, bool]]:
    found = []
    for names, held, high in ((LOW_VARIANTS, _HELD_LOW, False), (HIGH_VARIANTS, _HELD_HIGH, True)):
        order = [names[index] for index in rng.permutation(len(names))]
        for index, name in enumerate(order):
            split = "dev" if index < held else "test" if index < 2 * held else "train"
            found.append((name, split, high))
    return sorted(found)


def invent_variant(name: str, rng: np.random.Generator) -> str:
    """The text of a variant file with a random voice: f0, vocal tract length, formant shape, breath and tilt."""
    low, high = (math.log(f) for f in F0_BOUNDS_HZ)
    f0 = math.exp(rng.uniform(low, high))
    # Higher voices have shorter tracts on average, with a wide spread.
    tract = 100 * (0.95 + 0.22 * (math.log(f0) - low) / (high - low)) * math.exp(rng.normal(0, 0.045))
    lines = ["language variant", f"name {name}", f"gender {'female' if f0 > 165 else 'male'}"]
    lines.append(f"pitch {round(f0 * 0.78)} {round(f0 * rng.uniform(1.2, 1.45))}")
    lines.append(f"flutter {int(rng.integers(0, 7))}")
    lines.append(f"roughness {int(rng.integers(0, 4))}")
    lines.append(f"voicing {int(rng.integers(70, 131))}")
    lines.append(f"consonants {int(rng.integers(70, 121))} {int(rng.integers(70, 121))}")
    for formant in range(9):
        frequency = round(tract * math.exp(rng.normal(0, 0.03))) if formant else 100
        lines.append(f"formant {formant} {frequency} {int(rng.integers(75, 126))} {int(rng.integers(80, 141))}")
    if rng.random() < 0.25:
        lines.append("breath 0 " + " ".join(str(int(rng.integers(1, 5))) for _ in range(7)))
    if rng.random() < 0.3:
        levels = [int(rng.integers(170, 256)), int(rng.integers(90, 200)), int(rng.integers(50, 160))]
        lines.append(f"tone 100 {levels[0]} 600 {levels[1]} 1800 {levels[2]} 3000 {levels[2] // 2}")
    if rng.random() < 0.15:
        lines.append(f"klatt {int(rng.choice([4, 5, 6]))}")
    return "\n".join(lines) + "\n"
