"""Pitch, spectrum, length, repetitions and endings of outputs.

Pitch is tracked by WORLD's Harvest (Morise 2017), which no training here has used.

Shapes: S samples, T frames.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from modules.audio.loudness import frame_power
from modules.data.store import entry_key
from modules.evaluation.clips import Clip
from modules.evaluation.failures.rules import FULL_SCALE, is_clipped
from modules.evaluation.judging import GROUPS, Judge, Request
from modules.evaluation.packages import need
from modules.evaluation.results import Finding, Table, percent
from modules.evaluation.shares import mean_interval
from modules.evaluation.speaking import Spoken
from modules.inference.finishing import trim

PITCH_RATE = 16000
SPECTRUM_RATE = 32000
BANDS_HZ = (80, 250, 500, 1000, 2000, 4000, 6000, 8000, 11000)
"""Edges of eight bands; synthetic source audio holds nothing above the last."""
LEAST_BAND_DB = -50.0
"""A band of a recording that is this far below all of them lies beyond what was recorded."""
LOW_VOICE_HZ = 165.0
OUTPUTS_PER_SPEAKER = 4
LOOPED_TIMES = 3
STUCK_FRAMES = 25
_SILENT_DB = -40.0


def median_f0_hz(wav: np.ndarray) -> float:
    """Median pitch of the voiced frames of float32 [S] at 16 kHz by Harvest; 0 if nothing is voiced."""
    f0 = pitch_contour(wav)
    voiced = f0[f0 > 0]
    return float(np.median(voiced)) if len(voiced) else 0.0


def pitch_contour(wav: np.ndarray) -> np.ndarray:
    """Pitch of every 10 ms of float32 [S] at 16 kHz by Harvest, Hz; 0 where nothing is voiced."""
    samples = wav.astype(np.float64)
    return need("pyworld").harvest(samples, PITCH_RATE, f0_floor=60.0, f0_ceil=500.0, frame_period=10.0)[0]


def band_levels_db(wav: np.ndarray, sample_rate: int, edges_hz: Sequence[float] = BANDS_HZ) -> np.ndarray:
    """Energy of each band in dB relative to all bands together, [len(edges) - 1]; does not depend on the level."""
    size = 2048
    count = max(1, len(wav) // (size // 2) - 1)
    padded = np.pad(wav.astype(np.float64), (0, max(0, size - len(wav))))
    frames = np.stack([padded[i * size // 2 : i * size // 2 + size] for i in range(count)]) * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames))).sum(0)
    hz = np.fft.rfftfreq(size, 1 / sample_rate)
    energy = np.array([power[(hz >= low) & (hz < high)].sum() for low, high in zip(edges_hz, edges_hz[1:])])
    return 10 * np.log10((energy + 1e-12) / (energy.sum() + 1e-11))


def clipped_share(wav: np.ndarray) -> float:
    """Share of samples at full scale."""
    return float(np.mean(np.abs(wav) >= FULL_SCALE)) if len(wav) else 0.0


def silent_share(wav: np.ndarray, sample_rate: int) -> float:
    """Share of 20 ms frames 40 dB or more below the loudest one."""
    power = frame_power(wav, sample_rate // 50)
    if not len(power):
        return 0.0
    return float(np.mean(power <= power.max() * 10 ** (_SILENT_DB / 10)))


def pitch_agreement(reference_hz: Sequence[float], output_hz: Sequence[float]) -> dict[str, float]:
    """Correlation of log pitch, median distance in semitones and share within two of them; unvoiced pairs left out."""
    pairs = [(a, b) for a, b in zip(reference_hz, output_hz, strict=True) if a > 0 and b > 0]
    if len(pairs) < 3:
        none = dict.fromkeys(("correlation", "low", "high", "semitones", "within_two"), math.nan)
        return {**none, "speakers": len(pairs)}
    reference, output = np.log2(np.array(pairs)).T
    distance = 12 * np.abs(output - reference)
    spread = reference.std() * output.std()
    correlation = float(np.mean((reference - reference.mean()) * (output - output.mean())) / spread) if spread else 0.0
    low, high = _correlation_interval(reference, output)
    return {
        "correlation": correlation,
        "low": low,
        "high": high,
        "semitones": float(np.median(distance)),
        "within_two": float(np.mean(distance <= 2)),
        "speakers": len(pairs),
    }


def _correlation_interval(reference: np.ndarray, output: np.ndarray, resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap over speakers [N], seeded."""
    drawn = np.random.default_rng(0).integers(len(reference), size=(resamples, len(reference)))
    a, b = (values[drawn] - values[drawn].mean(1, keepdims=True) for values in (reference, output))
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found = (a * b).sum(1)[spread > 1e-12] / spread[spread > 1e-12]
    return tuple(np.percentile(found, (2.5, 97.5)).tolist()) if len(found) else (math.nan, math.nan)


def judge_sound(judge: Judge) -> Finding:
    """All of it for both groups of voices."""
    values: dict = {}
    pitch_rows, other_rows, band_rows = [], [], []
    for group in GROUPS:
        spoken = judge.say_all(group)
        if not spoken:
            continue
        values[group] = {"pitch": _pitch(judge, group, spoken), **_shape(judge, group, spoken)}
        for name, found in values[group]["pitch"].items():
            row = (found["speakers"], found["correlation"], found["semitones"], percent(found["within_two"]))
            pitch_rows.append((f"{group}, {name}", *row))
        bands = values[group]["band_difference_db"]
        band_rows.append(
            (
                group,
                *(f"{value:+.1f}" if math.isfinite(value) else "-" for value in bands),
                values[group]["band_distance_db"],
            )
        )
        other_rows += [(group, name, value) for name, value in _shown(values[group])]
    pitch_header = ("voices", "speakers", "correlation", "median distance, semitones", "within two semitones")
    names = [f"{low}-{high}" for low, high in zip(BANDS_HZ, BANDS_HZ[1:])]
    tables = (
        Table("Median pitch of outputs against the reference's", pitch_header, tuple(pitch_rows), "Pitch by Harvest."),
        Table(
            "Band energy of outputs against recordings, dB",
            ("voices", *names, "mean distance"),
            tuple(band_rows),
            "Bands in Hz. Synthetic: the same sentence by the same voice; others: clips of the speaker.",
        ),
        Table("Shape and endings", ("voices", "measure", "value"), tuple(other_rows)),
    )
    return Finding("sound", values, tables)


def _pitch(judge: Judge, group: str, spoken: list[tuple[Request, Spoken]]) -> dict[str, dict[str, float]]:
    """Agreement over speakers: all of them, low and high voices, and by gender where it is known."""
    ledger = judge.ledger("pitch")

    def pitch(key: str, load) -> float:
        name = entry_key("harvest", key)
        found = ledger.get(name) or ledger.put(name, {"hz": median_f0_hz(load(PITCH_RATE))})
        return found["hz"]

    outputs: dict[str, list[float]] = defaultdict(list)
    references: dict[str, list[float]] = defaultdict(list)
    genders: dict[str, str] = {}
    for number, (request, output) in enumerate(spoken):
        clip = request.reference
        genders[clip.speaker] = clip.gender
        if len(outputs[clip.speaker]) < OUTPUTS_PER_SPEAKER:
            outputs[clip.speaker].append(pitch(output.key, output.wav))
            references[clip.speaker].append(pitch(clip.key, lambda rate, clip=clip: judge.reader.wav(clip, rate)))
        judge.progress(f"tracking pitch, {group} voices", number + 1, len(spoken))
    speakers = sorted(outputs)
    wanted = {s: float(np.median(references[s])) for s in speakers}
    got = {s: float(np.median([hz for hz in outputs[s] if hz > 0] or [0.0])) for s in speakers}
    parts = {
        "all": speakers,
        f"below {LOW_VOICE_HZ:.0f} Hz": [s for s in speakers if wanted[s] < LOW_VOICE_HZ],
        f"above {LOW_VOICE_HZ:.0f} Hz": [s for s in speakers if wanted[s] >= LOW_VOICE_HZ],
    }
    for gender in ("female", "male"):
        parts[gender] = [s for s in speakers if genders[s] == gender]
    return {
        name: pitch_agreement([wanted[s] for s in members], [got[s] for s in members])
        for name, members in parts.items()
        if members
    }


def _shape(judge: Judge, group: str, spoken: list[tuple[Request, Spoken]]) -> dict:
    bands, voices, clipped, silent, paces = [], [], [], [], []
    lengths: list[float] = [math.nan]  # stays nan where no sentence has source audio
    profiles: dict[str, np.ndarray] = {}
    for number, (request, output) in enumerate(spoken):
        wav = output.wav(SPECTRUM_RATE)
        has_source = request.sentence.has_sound
        source = judge.reader.wav(request.sentence, SPECTRUM_RATE) if has_source else np.zeros(0, np.float32)
        own = recorded_bands(_own_profile(judge, group, request, source, profiles))
        bands.append(band_levels_db(wav, SPECTRUM_RATE) - own)
        voices.append(request.reference.speaker)
        clipped.append(is_clipped(wav, output.raw))
        silent.append(silent_share(wav, SPECTRUM_RATE))
        if has_source:
            lengths.append(len(wav) / max(1, len(trim(source, SPECTRUM_RATE))))
        paces.append(output.frames / max(1, output.text_units))
        judge.progress(f"measuring sound, {group} voices", number + 1, len(spoken))
    outputs = [output for _, output in spoken]
    endings = Counter(ending for output in outputs for ending in output.stopped_by)
    difference = [mean_interval(column, clusters=voices) for column in np.array(bands).T]
    lengths = lengths[1:] or lengths
    return {
        "outputs": len(outputs),
        "band_difference_db": [math.nan if band["mean"] is None else band["mean"] for band in difference],
        "band_intervals_db": [[band["low"], band["high"]] for band in difference],
        "band_outputs": [band["count"] for band in difference],
        "band_distance_db": _mean(np.abs(bands)),
        "outputs_with_clipping": float(np.mean(clipped)),
        "silent_share": float(np.mean(silent)),
        "length_ratio": float(np.mean(lengths)),
        "length_ratio_deviation": float(np.std(lengths)),
        "length_ratio_extremes": [float(min(lengths)), float(max(lengths))],
        "tokens_per_text_unit": float(np.mean(paces)),
        "tokens_per_text_unit_deviation": float(np.std(paces)),
        "stopped_by": dict(endings),
        "eos_share": endings["eos"] / max(1, sum(endings.values())),
        "stuck_share": float(np.mean([output.longest_run >= STUCK_FRAMES for output in outputs])),
        "looped_share": float(np.mean([output.longest_loop >= LOOPED_TIMES for output in outputs])),
    }


def recorded_bands(levels_db: np.ndarray) -> np.ndarray:
    """Band levels of a recording, nan where the band lies beyond what was recorded (a telephone's, or 16 kHz)."""
    return np.where(levels_db < LEAST_BAND_DB, np.nan, levels_db)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _own_profile(
    judge: Judge, group: str, request: Request, source: np.ndarray, profiles: dict[str, np.ndarray]
) -> np.ndarray:
    """Band levels that the output should have."""
    if group == "synthetic" and len(source):
        return band_levels_db(source, SPECTRUM_RATE)
    speaker = request.reference.speaker
    if speaker not in profiles:
        clips: list[Clip] = [request.reference]
        clips += next((list(t.others) for t in judge.voice_tests[group] if t.speaker == speaker), [])
        profiles[speaker] = np.mean(
            [band_levels_db(judge.reader.wav(clip, SPECTRUM_RATE), SPECTRUM_RATE) for clip in clips[:4]], axis=0
        )
    return profiles[speaker]


def _shown(found: dict) -> list[tuple[str, str]]:
    low, high = found["length_ratio_extremes"]
    length = f"{found['length_ratio']:.2f} ± {found['length_ratio_deviation']:.2f} ({low:.2f}-{high:.2f})"
    return [
        ("outputs", str(found["outputs"])),
        ("ended by itself", percent(found["eos_share"])),
        ("stopped by", ", ".join(f"{name} {count}" for name, count in sorted(found["stopped_by"].items()))),
        *([("length against the source", length)] if math.isfinite(low) else []),
        ("tokens a text unit", f"{found['tokens_per_text_unit']:.2f} ± {found['tokens_per_text_unit_deviation']:.2f}"),
        (f"one code for {STUCK_FRAMES} frames", percent(found["stuck_share"])),
        (f"a phrase {LOOPED_TIMES} times in a row", percent(found["looped_share"])),
        ("silent frames", percent(found["silent_share"])),
        ("outputs with clipped samples", percent(found["outputs_with_clipping"])),
    ]
