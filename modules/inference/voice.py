"""A voice: one or several reference recordings with weights.

Any file that ffmpeg can open is accepted. Silence is trimmed, long files are cut to their best stretch, the
level is normalised; what was done is told in notes, and what cannot be used is refused with the remedy.

Shapes: S samples.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.audio.io import read
from modules.audio.loudness import normalize
from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.config import AudioConfig
from modules.errors import UserError
from modules.inference.activity import RATE_HZ, Span, best_window, frame_levels_db, speech_spans
from modules.text.sentences import clean_text, is_speakable

SHORTEST_SPEECH_SECONDS = 0.5
SHORT_SPEECH_SECONDS = 2.0
"""Below this a note says that more speech makes a closer voice."""
LONGEST_SECONDS = 15.0
WINDOW_SECONDS = 12.0
SEARCHED_SECONDS = 900.0
"""Of a longer file only the beginning is searched: a quarter of an hour holds a good stretch, or the rest has none."""
LEAD_SECONDS = 0.1
TAIL_SECONDS = 0.3
"""Quiet kept behind words: without it the last sound leaks into the first word spoken."""
SILENT_TAIL_SECONDS = 0.2
"""So much of the last tail is made silence, because a recording may have been cut into its next word."""
GAP_SECONDS = 0.7
"""Longer pauses inside a reference are shortened to lead plus tail."""
_SILENCE_DB = -75.0
_CLIPPED_SPREAD = 1.2
"""Speech has few samples near its peak (99th over 95th percentile 1.35 and more); overdriven speech has many."""
_NOISY_DB = 15.0

Recognize = Callable[[Tensor, int], str]
"""Hook for references without a transcript: (wav [S], sample rate) -> text."""


@dataclass(frozen=True)
class Note:
    """Something the person should know about a reference; `code` is the page's key `note.<code>`."""

    code: str
    template: str
    fields: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.template.format(**self.fields)


@dataclass(frozen=True)
class Reference:
    """One recording of a voice.

    Args:
        name: what the page shows.
        wav: [S] float32 at the decoder's rate, trimmed and loudness-normalised.
        text: what is said in it, None when unknown; only a reference with text takes part in the GPT's prompt.
        weight: share in the voice, any non-negative number.
        notes: what was done to the file or is wrong with it.
    """

    name: str
    wav: Tensor
    text: str | None = None
    weight: float = 1.0
    notes: tuple[Note, ...] = ()

    @property
    def content_hash(self) -> str:
        """sha256 hex of samples and text: the key under which features are cached, never a path."""
        digest = hashlib.sha256(self.wav.contiguous().numpy().tobytes())
        digest.update((self.text or "").encode("utf-8", "replace"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Voice:
    """References whose weights sum to one, lightest first, so that the heaviest stands next to the target.

    References of weight zero are dropped: a voice (1, 0) is exactly the voice of the first alone. The order
    in which references are given does not matter.

    Raises:
        UserError: voice_empty, weight_invalid, weights_all_zero.
    """

    references: tuple[Reference, ...]

    def __post_init__(self) -> None:
        if not self.references:
            raise UserError("voice_empty", "A voice needs at least one reference recording; add one.")
        for reference in self.references:
            if not math.isfinite(reference.weight) or reference.weight < 0:
                raise UserError(
                    "weight_invalid",
                    "The weight of {name} is {weight}; use a number from 0 upward.",
                    name=reference.name,
                    weight=reference.weight,
                )
        total = sum(sorted(r.weight for r in self.references))
        if total <= 0:
            raise UserError("weights_all_zero", "All reference weights are 0; give at least one a weight above 0.")
        kept = [replace(r, weight=r.weight / total) for r in self.references if r.weight > 0]
        kept.sort(key=lambda r: (r.weight, r.content_hash))
        object.__setattr__(self, "references", tuple(kept))

    @property
    def heaviest(self) -> Reference:
        """The reference with the largest weight."""
        return self.references[-1]

    def alone(self) -> "Voice":
        """The voice of the heaviest reference alone."""
        return Voice((replace(self.heaviest, weight=1.0),))


def load_reference(
    path: Path | str,
    text: str | None = None,
    weight: float = 1.0,
    audio: AudioConfig = AudioConfig(),
    *,
    recognize: Recognize | None = None,
    use_vad: bool = True,
) -> Reference:
    """Read, check and prepare a reference recording.

    Args:
        path: any audio or video file with sound.
        text: its transcript; empty means unknown.
        weight: its share in a voice.
        audio: rate and loudness wanted.
        recognize: asked for the transcript when there is none.
        use_vad: False finds speech by energy alone.

    Raises:
        UserError: audio_missing, audio_unreadable, audio_empty (from reading), reference_silent,
            reference_no_speech, reference_too_short.
    """
    path = Path(path)
    wav = read(path, audio.sample_rate)
    return prepare_reference(wav, path.name, text, weight, audio, recognize=recognize, use_vad=use_vad)


def prepare_reference(
    wav: Tensor,
    name: str,
    text: str | None = None,
    weight: float = 1.0,
    audio: AudioConfig = AudioConfig(),
    *,
    recognize: Recognize | None = None,
    use_vad: bool = True,
) -> Reference:
    """`load_reference` for sound in memory: wav [S] at `audio.sample_rate`."""
    samples = wav.detach().to("cpu", torch.float32).numpy()
    samples = samples[: int(SEARCHED_SECONDS * audio.sample_rate)]
    samples = samples - (samples.mean() if len(samples) else 0.0)
    level_db = 10 * math.log10(float(np.mean(samples.astype(np.float64) ** 2)) + 1e-12) if len(samples) else -120.0
    if level_db < _SILENCE_DB:
        raise UserError(
            "reference_silent", "{name} is silent; check the microphone or choose another recording.", name=name
        )
    narrow = resample(samples, audio.sample_rate, RATE_HZ)
    spans, unsure = _find_speech(narrow, use_vad)
    _check_amount(narrow, spans, name)
    kept, text, notes = _choose(narrow, spans, text)
    spoken = np.concatenate([narrow[a:b] for a, b in kept])
    _check_voiced(spoken, name, 0.5 if unsure else 0.08)
    notes += unsure + _judge(narrow, kept, spoken)
    cut = _assemble(samples, kept, audio.sample_rate)
    prepared = normalize(torch.from_numpy(cut), audio.sample_rate, audio.loudness_lufs, audio.true_peak_db)
    text = clean_text(text or "").replace("\n", " ").strip() or None
    if text is None and recognize is not None:
        text = clean_text(recognize(prepared, audio.sample_rate)).replace("\n", " ").strip() or None
    if text is not None and not is_speakable(text):
        text = None
    return Reference(name, prepared, text, weight, tuple(notes))


def _find_speech(narrow: np.ndarray, use_vad: bool) -> tuple[list[Span], list[Note]]:
    """Speech by the VAD; where it hears none, by energy and with a doubt (a child, a robot, a song)."""
    spans = speech_spans(narrow, use_vad=use_vad)
    if spans or not use_vad:
        return spans, []
    doubt = Note("reference_unsure", "This hardly sounds like speech; a clear recording of one person works better.")
    return speech_spans(narrow, use_vad=False), [doubt]


def _check_amount(narrow: np.ndarray, spans: list[Span], name: str) -> None:
    speech_seconds = sum(b - a for a, b in spans) / RATE_HZ
    if speech_seconds >= SHORTEST_SPEECH_SECONDS:
        return
    if spans or len(narrow) < SHORTEST_SPEECH_SECONDS * RATE_HZ:
        raise UserError(
            "reference_too_short",
            "{name} holds {seconds:.1f} s of speech; record at least {least} s, better 3 to 10 s.",
            name=name,
            seconds=speech_seconds,
            least=SHORTEST_SPEECH_SECONDS,
        )
    raise UserError(
        "reference_no_speech",
        "No speech was found in {name}, only noise or music; choose a recording of one person speaking.",
        name=name,
    )


def _check_voiced(spoken: np.ndarray, name: str, least_share: float) -> None:
    f0 = track_f0(torch.from_numpy(spoken).unsqueeze(0), RATE_HZ, 100.0)[0]
    voiced = int((f0 > 0).sum())
    if voiced < 15 or voiced < least_share * len(f0):
        raise UserError(
            "reference_no_speech",
            "No speech was found in {name}, only noise or music; choose a recording of one person speaking.",
            name=name,
        )


def _choose(narrow: np.ndarray, spans: list[Span], text: str | None) -> tuple[list[Span], str | None, list[Note]]:
    """Spans to keep, the transcript if it still fits, and notes about both."""
    joined_seconds = sum(b - a for a, b in _merged(spans)) / RATE_HZ
    if joined_seconds <= LONGEST_SECONDS:
        return spans, text, []
    kept = best_window(spans, narrow, int(WINDOW_SECONDS * RATE_HZ))
    notes = [
        Note(
            "reference_window",
            "Only the best {seconds:.1f} s are used, from {start:.1f} s on.",
            {"seconds": (kept[-1][1] - kept[0][0]) / RATE_HZ, "start": kept[0][0] / RATE_HZ},
        )
    ]
    if text and text.strip():
        notes.append(
            Note("reference_text_dropped", "Its transcript no longer fits the shortened recording and is not used.")
        )
    return kept, None, notes


def _judge(narrow: np.ndarray, kept: list[Span], spoken: np.ndarray) -> list[Note]:
    """Warnings about a usable recording."""
    notes = []
    high, top = np.percentile(np.abs(spoken), (95, 99))
    if top < _CLIPPED_SPREAD * high:
        notes.append(Note("reference_clipped", "The recording is overdriven (clipped); the voice may sound harsh."))
    levels = frame_levels_db(narrow[max(0, kept[0][0] - RATE_HZ) : kept[-1][1] + RATE_HZ])
    range_db = float(np.percentile(frame_levels_db(spoken), 80) - np.percentile(levels, 3))
    if range_db < _NOISY_DB:
        notes.append(Note("reference_noisy", "The recording is noisy; a quieter one gives a clearer voice."))
    seconds = len(spoken) / RATE_HZ
    if seconds < SHORT_SPEECH_SECONDS:
        notes.append(
            Note(
                "reference_short",
                "Only {seconds:.1f} s of speech; 3 to 10 s give a closer voice.",
                {"seconds": seconds},
            )
        )
    return notes


def _merged(spans: list[Span]) -> list[Span]:
    """Spans widened by lead and tail; what then nearly touches becomes one."""
    merged: list[Span] = []
    for start, end in spans:
        start, end = start - int(LEAD_SECONDS * RATE_HZ), end + int(TAIL_SECONDS * RATE_HZ)
        if merged and start - merged[-1][1] < int((GAP_SECONDS - LEAD_SECONDS - TAIL_SECONDS) * RATE_HZ):
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _assemble(samples: np.ndarray, kept: list[Span], sample_rate: int) -> np.ndarray:
    """The kept spans of samples [S], joined, with faded edges and a tail that ends in silence."""
    spans, silence = _merged(kept), int(SILENT_TAIL_SECONDS * sample_rate)
    spans[-1] = (spans[-1][0], spans[-1][1] - int(SILENT_TAIL_SECONDS * RATE_HZ))
    scale = sample_rate / RATE_HZ
    fade = np.linspace(0, 1, int(0.01 * sample_rate), dtype=np.float32)
    parts = []
    for start, end in spans:
        first, last = max(0, int(start * scale)), int(end * scale)
        part = samples[first:last].copy()
        size = min(len(fade), len(part))
        part[:size] *= fade[:size]
        part[len(part) - size :] *= fade[:size][::-1]
        missing = last - max(first, min(last, len(samples)))
        parts.append(np.pad(part, (0, missing)))
    return np.concatenate([*parts, np.zeros(silence, np.float32)])
