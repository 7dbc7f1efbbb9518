"""What can be chosen for separating voices and taking noise away; apart from the code, so that a page which shows the
choices need not load the libraries that carry them out."""

from dataclasses import dataclass
from typing import Literal

from modules.config import field


@dataclass(frozen=True)
class SeparationOptions:
    """How voices are separated, and what is written."""

    model: str = field("htdemucs", "htdemucs, htdemucs_ft (finer), mdx_extra (older, slower) or a .safetensors file")
    format: Literal["wav", "flac", "mp3", "m4a"] = field("flac", "format of the files that are written")
    device: str = field("auto", "auto, cpu, cuda, cuda:N or mps")
    overlap: float = field(0.25, "share in which neighbouring pieces overlap; more is slower and smoother", 0, 0.9)


@dataclass(frozen=True)
class DenoiseOptions:
    """How noise is taken away, and what is written."""

    method: Literal["stationary", "adaptive"] = field(
        "stationary", "stationary for a steady hiss or hum, adaptive for noise that comes and goes"
    )
    strength: float = field(
        0.8, "0 leaves all of the noise, 1 takes away all that is found (and may sound hollow)", 0, 1
    )
    threshold: float = field(
        1.3,
        "how far sound must stand out to be kept; more is stricter. stationary: standard deviations above the noise; "
        "adaptive: times the mean level around it",
        0,
        10,
    )
    format: Literal["wav", "flac", "mp3", "m4a"] = field("wav", "format of the files that are written")
