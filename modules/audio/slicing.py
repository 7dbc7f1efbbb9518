"""Where to cut a long recording: at its silences, or around its voices, with a longest piece.

The functions here look for places only; they write nothing and change no sample.

Shapes: S samples, T frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modules.audio.resample import resample
from modules.config import field
from modules.errors import UserError

_CHUNK_SAMPLES = 1 << 20
"""Energies are summed in float64 a chunk at a time, so that an hour needs no copy of itself."""
_SILENCE_DB = -80.0
"""A recording whose loudest frame is below this holds nothing but the converter's own noise."""
_QUIET_SPEECH_DYNAMIC_DB = 15.0
_USUAL_LOUDEST_DB = -12.0

_VAD_HZ = 16000
_VAD_BLOCK_SECONDS = 300
_VAD_SEAM_SECONDS = 20
_VAD_SHORTEST_MS = 60

_BLOCK_HZ = 100
"""Places to split at are looked for in blocks of 10 ms."""
_PAUSE_BLOCKS = 9
"""Any pause of 100 ms covers at least nine whole blocks."""
_LONG_PAUSE_BLOCKS = 31
_PAUSE_DB = -30.0
"""Below speech by this much, a block counts as fully silent."""
_CELL_BLOCKS = 20
# What a split costs: inside a word far more than a short piece, a short piece more than uneven lengths.
_WORD_COST, _SHORT_COST, _BREATH_COST, _UNEVEN_COST = 20.0, 6.0, 2.0, 2.0


@dataclass(frozen=True)
class Cut:
    """A piece of a recording: samples start up to, but without, end."""

    start: int
    end: int


@dataclass(frozen=True)
class SliceOptions:
    """How a recording is cut into clips. The first seven numbers carry the names and defaults known from GPT-SoVITS."""

    method: Literal["silence", "voice"] = field("silence", "cut at silences, or around voices found by Silero VAD")
    threshold: float = field(-34.0, "frames quieter than this are silent, dB of full scale", -100, 0)
    min_length: int = field(4000, "silence method: shortest piece before a cut, ms", 1, 600000)
    min_interval: int = field(300, "shortest silence that is cut at, ms", 1, 60000)
    hop_size: int = field(10, "silence method: step between measured frames, ms", 1, 1000)
    max_sil_kept: int = field(500, "longest silence kept at each side of a clip, ms", 1, 60000)
    max: float = field(0.9, "without loudness normalising: peak of the levelled share of a clip", 0, 1)
    alpha: float = field(0.25, "without loudness normalising: levelled share of a clip; 0 keeps its own level", 0, 1)
    normalize: bool = field(True, "bring every clip to -23 LUFS; off: level by max and alpha instead")
    speech_pad_ms: int = field(100, "voice method: sound kept before and after a voice, ms", 0, 5000)
    max_seconds: float = field(12.0, "longer pieces are split at their quietest places, s; 0 = no limit", 0, 3600)
    min_seconds: float = field(1.0, "shorter pieces join a close neighbour, s; 0 = never", 0, 60)


def check(options: SliceOptions) -> None:
    """Raise UserError slice_option_order, naming the field, unless the lengths fit each other."""
    rules = (
        ("min_length", options.min_length, "min_interval", options.min_interval),
        ("min_interval", options.min_interval, "hop_size", options.hop_size),
        ("max_sil_kept", options.max_sil_kept, "hop_size", options.hop_size),
        ("max_seconds", options.max_seconds or np.inf, "min_seconds", options.min_seconds),
        ("max_seconds", options.max_seconds or np.inf, "one second", 1.0),
    )
    for name, value, other, limit in rules:
        if value < limit:
            raise UserError(
                "slice_option_order",
                "{field} is {value} but must be at least {other}, which is {limit}; raise the first or lower "
                "the second.",
                field=name,
                value=value,
                other=other,
                limit=limit,
            )


def find_cuts(wav: np.ndarray, sample_rate: int, options: SliceOptions) -> list[Cut]:
    """The pieces of wav float32 [S] by the chosen method, none longer than max_seconds; none for silence.

    Raises UserError slice_option_order.
    """
    method = voice_cuts if options.method == "voice" else silence_cuts
    return limit_cuts(wav, sample_rate, method(wav, sample_rate, options), options)


def silence_cuts(wav: np.ndarray, sample_rate: int, options: SliceOptions) -> list[Cut]:
    """The pieces between the silences of wav [S], of any length.

    The method of openvpi's audio-slicer: a stretch of frames below the threshold is cut when it lasts min_interval
    and the piece up to its end min_length. A piece ends at the quietest frame among the first max_sil_kept of the
    stretch, the next begins at the quietest among the last max_sil_kept. Silence at the start is cut if longer than
    max_sil_kept, at the end if it lasts min_interval.

    A recording with no frame above the threshold is silence, unless its level goes up and down as only speech does:
    then it was recorded too quietly, and the threshold is lowered with it.
    """
    check(options)
    hop = max(1, round(sample_rate * options.hop_size / 1000))
    rms = frame_rms(wav, hop)
    threshold = _threshold(rms, options.threshold)
    if threshold is None:
        return []
    interval, length, kept = (
        max(1, round(milliseconds / options.hop_size))
        for milliseconds in (options.min_interval, options.min_length, options.max_sil_kept)
    )
    pieces: list[Cut] = []
    begin = 0
    for start, end in _runs(rms < threshold):
        quietest_first = start + int(rms[start : min(start + kept + 1, end)].argmin())
        last = max(start, end - kept)
        quietest_last = last + int(rms[last:end].argmin())
        if start == 0:
            begin = quietest_last if end > kept else 0
        elif end == len(rms):
            if end - start >= interval:
                return [*pieces, Cut(begin * hop, quietest_first * hop)]
        elif end - start >= interval and end - begin >= length:
            pieces.append(Cut(begin * hop, quietest_first * hop))
            begin = quietest_last
    return [*pieces, Cut(begin * hop, len(wav))]


def voice_cuts(wav: np.ndarray, sample_rate: int, options: SliceOptions) -> list[Cut]:
    """The stretches of wav [S] in which somebody speaks, of any length, with speech_pad_ms around them.

    Silero VAD decides, whatever the level; min_interval is the shortest silence between two pieces. Long recordings
    are judged in blocks of five minutes that meet at a quiet place.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    check(options)
    peak = max(float(wav.max(initial=0.0)), -float(wav.min(initial=0.0)))
    if peak < 10 ** (_SILENCE_DB / 20):
        return []
    vad_options = VadOptions(
        min_speech_duration_ms=_VAD_SHORTEST_MS,
        min_silence_duration_ms=options.min_interval,
        speech_pad_ms=options.speech_pad_ms,
    )
    smallest_gap = max(1, (options.min_interval - 2 * options.speech_pad_ms) * sample_rate // 1000)
    pieces: list[Cut] = []
    for first, last in _blocks(wav, sample_rate):
        block = resample(wav[first:last], sample_rate, _VAD_HZ) * (0.7 / peak)
        for number, span in enumerate(get_speech_timestamps(block, vad_options)):
            start = first + span["start"] * sample_rate // _VAD_HZ
            end = min(last, first + span["end"] * sample_rate // _VAD_HZ)
            if number == 0 and pieces and start - pieces[-1].end < smallest_gap:
                start = pieces.pop().start  # one voice on both sides of a seam
            pieces.append(Cut(start, end))
    return pieces


def limit_cuts(wav: np.ndarray, sample_rate: int, cuts: Sequence[Cut], options: SliceOptions) -> list[Cut]:
    """Split the pieces of wav [S] that last longer than max_seconds, then join those shorter than min_seconds.

    A split falls into a pause of 100 ms wherever the pauses allow pieces of that length, and else at the quietest
    place that leaves pieces of even length; at most max_sil_kept of silence stays at each side of it. A short piece
    joins its closer neighbour if no more than max_sil_kept lies between them and max_seconds allows.
    """
    check(options)
    longest = int(options.max_seconds * sample_rate) or len(wav)
    pieces = [
        part
        for cut in cuts
        for part in ([cut] if cut.end - cut.start <= longest else _split(wav, sample_rate, cut, longest, options))
    ]
    return _join_short(pieces, int(options.min_seconds * sample_rate), longest, _kept_samples(sample_rate, options))


def blend_peak(clip: np.ndarray, peak: float, alpha: float) -> np.ndarray:
    """clip [S] mixed with itself at the given peak: alpha of the levelled clip and 1 - alpha of the original.

    A clip beyond full scale is brought back to it first; a silent one is returned unchanged.
    """
    highest = float(np.abs(clip).max(initial=0.0))
    if highest == 0.0:
        return clip
    gain = peak * alpha / highest + (1 - alpha) / max(1.0, highest)
    return (clip * np.float32(gain)).astype(np.float32, copy=False)


def frame_rms(wav: np.ndarray, hop: int) -> np.ndarray:
    """Root mean square of frames of 4 hops centred on every multiple of `hop`, wav [S] -> [S // hop + 1] float64.

    Outside of wav is silence.
    """
    frames = len(wav) // hop + 1
    padded = np.zeros(frames + 3)
    energies = _block_energies(wav, hop)
    padded[2 : 2 + len(energies)] = energies
    summed = padded[:frames] + padded[1 : frames + 1] + padded[2 : frames + 2] + padded[3 : frames + 3]
    return np.sqrt(summed / (4 * hop))


def _block_energies(wav: np.ndarray, hop: int) -> np.ndarray:
    """Sum of squares of each `hop` samples, the incomplete last block included -> [ceil(S / hop)] float64."""
    whole = len(wav) // hop
    energies = np.zeros(-(-len(wav) // hop))
    step = max(1, _CHUNK_SAMPLES // hop)
    for first in range(0, whole, step):
        last = min(whole, first + step)
        block = wav[first * hop : last * hop].astype(np.float64).reshape(-1, hop)
        energies[first:last] = np.einsum("ij,ij->i", block, block)
    if whole < len(energies):
        energies[whole] = float(np.square(wav[whole * hop :].astype(np.float64)).sum())
    return energies


def _threshold(rms: np.ndarray, threshold_db: float) -> float | None:
    """The RMS below which a frame is silent; None where the whole recording is."""
    threshold = 10 ** (threshold_db / 20)
    if rms.max() >= threshold:
        return threshold
    levels_db = 20 * np.log10(rms + 1e-9)
    loudest_db = float(levels_db.max())
    low_db, high_db = np.percentile(levels_db, (10, 95))
    if loudest_db < _SILENCE_DB or high_db - low_db < _QUIET_SPEECH_DYNAMIC_DB:
        return None
    return 10 ** ((loudest_db + min(threshold_db - _USUAL_LOUDEST_DB, -1.0)) / 20)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of each run of True in flags [T]."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _blocks(wav: np.ndarray, sample_rate: int) -> Iterator[tuple[int, int]]:
    """(start, end) of consecutive blocks of about five minutes that meet at the quietest 200 ms of a while."""
    seam = sample_rate // 5
    search = _VAD_SEAM_SECONDS * sample_rate
    start = 0
    while len(wav) - start > (_VAD_BLOCK_SECONDS + _VAD_SEAM_SECONDS) * sample_rate:
        earliest = start + _VAD_BLOCK_SECONDS * sample_rate - search
        quietest = int(_block_energies(wav[earliest : earliest + search], seam)[: search // seam].argmin())
        end = earliest + quietest * seam + seam // 2
        yield start, end
        start = end
    yield start, len(wav)


def _kept_samples(sample_rate: int, options: SliceOptions) -> int:
    return options.max_sil_kept * sample_rate // 1000


def _split(wav: np.ndarray, sample_rate: int, cut: Cut, longest: int, options: SliceOptions) -> list[Cut]:
    """Parts of one piece, each at most `longest` samples; parts without any sound are left out."""
    hop = max(1, sample_rate // _BLOCK_HZ)
    energies = _block_energies(wav[cut.start : cut.end], hop)
    levels_db = 10 * np.log10(energies / hop + 1e-10)
    levels_db -= np.percentile(levels_db, 90)  # from here on relative to speech
    silent = levels_db < _PAUSE_DB
    kept = _kept_samples(sample_rate, options)
    parts, begin = [], 0
    for block in [*_split_blocks(levels_db, longest / hop, options.min_seconds * sample_rate / hop), None]:
        end = resume = cut.end - cut.start if block is None else block * hop + hop // 2
        if block is not None and silent[block]:
            sounds = np.flatnonzero(~silent)
            after = int(np.searchsorted(sounds, block))
            silence_start = int(sounds[after - 1] + 1) * hop if after else 0
            silence_end = int(sounds[after]) * hop if after < len(sounds) else cut.end - cut.start
            if silence_end - silence_start > 2 * kept:
                end, resume = silence_start + kept, silence_end - kept
        if not silent[begin // hop : -(-end // hop)].all():
            parts.append(Cut(cut.start + begin, cut.start + end))
        begin = resume
    return parts


def _split_blocks(levels_db: np.ndarray, longest: float, shortest: float) -> list[int]:
    """The blocks of levels_db [T] (relative to speech) to split at, so that no part has more than `longest` blocks.

    The cheapest way through all candidates, one per 200 ms, found by dynamic programming. A place costs by the
    loudest block within 90 ms (a pause costs nothing, a word most) and by the level around it (a long pause is better
    than a stop within a phrase); a part costs by its distance from the even length.
    """
    near = _sliding(levels_db, _PAUSE_BLOCKS).max(axis=1)
    around = _sliding(levels_db, _LONG_PAUSE_BLOCKS).mean(axis=1)
    cells = -(-len(levels_db) // _CELL_BLOCKS)
    rank = np.full(cells * _CELL_BLOCKS, np.inf)
    rank[: len(levels_db)] = near + 0.1 * around
    candidates = rank.reshape(cells, _CELL_BLOCKS).argmin(axis=1) + np.arange(cells) * _CELL_BLOCKS
    costs = _WORD_COST * np.clip(1 - near / _PAUSE_DB, 0, 1) ** 2 + _BREATH_COST * np.clip(1 - around / _PAUSE_DB, 0, 1)
    # One block less than allowed: a split lies half a block beyond its block's start.
    longest -= 1
    places = np.concatenate(([0], candidates[(candidates > 0) & (candidates < len(levels_db) - 1)], [len(levels_db)]))
    even = len(levels_db) / np.ceil(len(levels_db) / longest)
    best = np.zeros(len(places))
    came_from = np.zeros(len(places), dtype=np.int64)
    for index in range(1, len(places)):
        first = int(np.searchsorted(places, places[index] - longest))
        lengths = places[index] - places[first:index]
        totals = best[first:index] + _UNEVEN_COST * (lengths / even - 1) ** 2 + _SHORT_COST * (lengths < shortest)
        came_from[index] = first + int(totals.argmin())
        best[index] = totals.min() + (costs[places[index]] if index < len(places) - 1 else 0.0)
    chosen: list[int] = []
    index = int(came_from[-1])
    while index:
        chosen.append(int(places[index]))
        index = int(came_from[index])
    return chosen[::-1]


def _sliding(values: np.ndarray, width: int) -> np.ndarray:
    """Windows of odd `width` centred on each of values [T] -> [T, width]; the ends are repeated outwards."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, width // 2, mode="edge"), width)


def _join_short(pieces: Sequence[Cut], shortest: int, longest: int, gap: int) -> list[Cut]:
    joined: list[Cut] = []
    waiting = list(reversed(pieces))
    while waiting:
        piece = waiting.pop()
        if piece.end - piece.start >= shortest:
            joined.append(piece)
            continue
        choices = []
        if joined and piece.end - joined[-1].start <= longest:
            choices.append((piece.start - joined[-1].end, "before"))
        if waiting and waiting[-1].end - piece.start <= longest:
            choices.append((waiting[-1].start - piece.end, "after"))
        distance, side = min(choices, default=(gap + 1, ""))
        if distance > gap:
            joined.append(piece)
        elif side == "before":
            joined.append(Cut(joined.pop().start, piece.end))
        else:
            waiting.append(Cut(piece.start, waiting.pop().end))
    return joined
