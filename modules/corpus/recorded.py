"""A manifest of recordings into a corpus store: 32 kHz audio, the transcript's phones where eSpeak NG knows the language.

Clips that would teach nonsense are left out, each with a reason: no speech, a transcript that cannot fit the duration.
"""

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.audio.io import read
from modules.corpus.espeak import Espeak
from modules.corpus.phones import PAUSE
from modules.corpus.synthetic import Report
from modules.data.manifest import Utterance
from modules.data.store import StoreWriter, entry_key
from modules.errors import Stopped, UserError

SAMPLE_RATE = 32000
_FRAME = SAMPLE_RATE // 50
_MARGIN_SECONDS = 0.2  # kept before and after the speech
_FLOOR_DB, _BELOW_PEAK_DB = -60.0, 35.0
MIN_ACTIVE_SECONDS = 0.3
MAX_SECONDS = 30.0
PHONES_PER_SECOND = (2.0, 30.0)
LETTERS_PER_SECOND = (0.8, 40.0)


@dataclass(frozen=True)
class Clip:
    """One recording ready for the store, or why it is left out (`reason`)."""

    samples: np.ndarray
    phones: tuple[str, ...]
    reason: str = ""


def speech_bounds(samples: np.ndarray) -> tuple[int, int, float]:
    """First and last sample of what is loud enough to be speech, with a margin, and the active seconds between them.

    `samples` is float [S] at `SAMPLE_RATE`. Silence gives (0, 0, 0.0).
    """
    count = len(samples) // _FRAME
    if count == 0:
        return 0, 0, 0.0
    frames = samples[: count * _FRAME].reshape(count, _FRAME)
    level = 10 * np.log10((frames - frames.mean(1, keepdims=True)).astype(np.float64).var(1) + 1e-12)
    threshold = max(_FLOOR_DB, float(np.percentile(level, 95)) - _BELOW_PEAK_DB)
    active = np.flatnonzero(level > threshold)
    if not len(active):
        return 0, 0, 0.0
    margin = int(_MARGIN_SECONDS * SAMPLE_RATE)
    start = max(0, int(active[0]) * _FRAME - margin)
    stop = min(len(samples), (int(active[-1]) + 1) * _FRAME + margin)
    return start, stop, len(active) * _FRAME / SAMPLE_RATE


def unfit_reason(text: str, phones: Sequence[str], active_seconds: float, seconds: float) -> str:
    """Why a clip cannot be used, or ""."""
    if active_seconds < MIN_ACTIVE_SECONDS:
        return "no speech"
    if seconds > MAX_SECONDS:
        return "too long"
    if not text:
        return ""
    spoken = sum(label != PAUSE for label in phones)
    count, (low, high) = (spoken, PHONES_PER_SECOND) if spoken else (sum(map(str.isalnum, text)), LETTERS_PER_SECOND)
    if count > high * active_seconds:
        return "transcript too long for the audio"
    if count < low * active_seconds:
        return "transcript too short for the audio"
    return ""


def load_clip(utterance: Utterance, engine: Espeak) -> Clip:
    """Read, trim, label and judge one recording."""
    try:
        wav = read(Path(utterance.audio), SAMPLE_RATE).numpy()
    except UserError as error:
        return Clip(np.zeros(0, np.int16), (), f"unreadable ({error.code})")
    start, stop, active = speech_bounds(wav)
    phones = tuple(engine.phonemes(utterance.text, utterance.language)) if utterance.text else ()
    reason = unfit_reason(utterance.text, phones, active, (stop - start) / SAMPLE_RATE)
    samples = np.clip(np.rint(wav[start:stop] * 32767), -32768, 32767).astype(np.int16)
    return Clip(samples, phones, reason)


def build_recorded(
    folder: Path,
    utterances: Sequence[Utterance],
    *,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Report:
    """Build or continue the corpus store of recordings in `folder`.

    Raises:
        Stopped: `should_stop` said so; what was read is kept.
    """
    report = Report()
    with StoreWriter(folder) as writer:
        keyed = [(_key(utterance), utterance) for utterance in utterances]
        missing = [(key, utterance) for key, utterance in dict(keyed).items() if not writer.has(key)]
        report.present = len(writer)
        report.skipped["listed twice"] += len(utterances) - len(dict(keyed))
        for done, ((key, utterance), clip) in enumerate(
            _load_all(missing, processes), len(utterances) - len(missing) + 1
        ):
            if clip.reason:
                report.skipped[clip.reason] += 1
            else:
                _store(writer, key, utterance, clip)
                report.count(utterance.language, utterance.split, utterance.speaker, len(clip.samples) / SAMPLE_RATE)
            if on_progress:
                on_progress(done, len(utterances))
            if should_stop and should_stop():
                raise Stopped
    return report


def _key(utterance: Utterance) -> str:
    path = Path(utterance.audio)
    stamp = str(path.stat().st_size) if path.is_file() else ""
    return entry_key("recorded", utterance.audio, stamp, utterance.speaker, utterance.text)


def _store(writer: StoreWriter, key: str, utterance: Utterance, clip: Clip) -> None:
    writer.add(
        key,
        speaker=utterance.speaker,
        language=utterance.language,
        split=utterance.split,
        text=utterance.text,
        seconds=len(clip.samples) / SAMPLE_RATE,
        source="recorded",
        licence=utterance.licence,
        sample_rate=SAMPLE_RATE,
        audio=clip.samples,
        phones=" ".join(clip.phones),
        phone_ends=np.zeros(0, np.int32),
    )


@functools.cache
def _engine() -> Espeak:
    return Espeak()


def _load(utterance: Utterance) -> Clip:
    return load_clip(utterance, _engine())


def _load_all(missing: list[tuple[str, Utterance]], processes: int) -> Iterator[tuple[tuple[str, Utterance], Clip]]:
    if not missing:
        return
    with multiprocessing.get_context("spawn").Pool(max(1, processes)) as pool:
        clips = pool.imap(_load, [utterance for _, utterance in missing], chunksize=16)
        yield from zip(missing, clips, strict=True)
