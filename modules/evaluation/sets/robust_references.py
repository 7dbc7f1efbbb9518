"""What a poor recording of the reference costs: the same voices through a telephone, and in noise.

Shapes: S samples.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.io import write
from modules.audio.loudness import frame_power
from modules.audio.resample import resample
from modules.data.store import entry_key
from modules.evaluation.clips import Clip, VoiceTest
from modules.evaluation.judging import Judge, Request
from modules.evaluation.results import Finding, Table
from modules.evaluation.shares import mean_interval, shown_ends
from modules.evaluation.voices import SAMPLE_RATE, centroid

VOICES = 20
SENTENCES = 3
TELEPHONE_HZ = (300.0, 3400.0)
TELEPHONE_RATE = 8000
NOISE_DB = 15.0
VERSIONS = ("clean", "telephone", "noise")
_NOTE = (
    "Similarity of the mean embedding of {sentences} outputs to clean clips of the speaker. Telephone: 300 to 3400 Hz "
    "at 8 kHz; noise: white, 15 dB below the speech. Lost: against the clean reference, by voice."
)


def telephone(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """wav float32 [S] as a telephone passes it on, at the same rate."""
    narrow = resample(wav, sample_rate, TELEPHONE_RATE)
    spectrum = np.fft.rfft(narrow)
    hz = np.fft.rfftfreq(len(narrow), 1 / TELEPHONE_RATE)
    low, high = TELEPHONE_HZ
    gain = 1 / np.sqrt(1 + (low / np.maximum(hz, 1.0)) ** 8) / np.sqrt(1 + (hz / high) ** 24)
    passed = np.fft.irfft(spectrum * gain, len(narrow)).astype(np.float32)
    return resample(passed, TELEPHONE_RATE, sample_rate)


def in_noise(wav: np.ndarray, ratio_db: float = NOISE_DB) -> np.ndarray:
    """wav float32 [S] with white noise `ratio_db` below its speech (the loud half of its 20 ms frames)."""
    power = frame_power(wav, SAMPLE_RATE // 50)
    speech = float(power[power >= np.median(power)].mean()) if len(power) else float(np.square(wav).mean())
    noise = np.random.default_rng(0).standard_normal(len(wav)) * np.sqrt(speech * 10 ** (-ratio_db / 10))
    return (wav + noise).astype(np.float32)


def judge_robust_references(judge: Judge) -> Finding:
    """The same sentences from each version of each reference."""
    tests = judge.some_voices()[:VOICES]
    items = []
    for number, test in enumerate(tests):
        if judge.out_of_time():
            break
        item = _item(judge, test, number)
        items += [item] if item else []
        judge.progress("poor references", number + 1, len(tests))
    values: dict[str, Any] = {"items": items}
    rows = []
    for version in VERSIONS:
        likeness = mean_interval(item["similarity"][version] for item in items)
        lost = mean_interval(item["similarity"]["clean"] - item["similarity"][version] for item in items)
        values[version] = {"similarity": likeness, "lost": lost}
        told = version != "clean" and bool(items)
        shown = f"{lost['mean']:+.3f} ({shown_ends(lost)})" if told else "-"
        rows.append((version, len(items), likeness["mean"], shown))
    table = Table(
        "Poor recordings of the reference", ("reference", "voices", "similarity", "lost"), tuple(rows),
        _NOTE.format(sentences=SENTENCES),
    )  # fmt: skip
    return Finding("robust_references", values, (table,) if items else ())


def _item(judge: Judge, test: VoiceTest, number: int) -> dict[str, Any] | None:
    """None where no version of a reference was taken, or there is no sentence."""
    if not judge.takes("robust_references", test.reference):
        return None
    clips = test.others or (test.reference,)
    own = centroid([judge.embedder(judge.reader.wav(clip, SAMPLE_RATE)) for clip in clips])
    language = test.reference.language if judge.lines(test.reference.language) else judge.languages[0]
    lines = judge.lines(language)
    if not lines:
        return None
    chosen = [lines[(number + step) % len(lines)] for step in range(SENTENCES)]
    similarity, wavs = {}, {}
    for version in VERSIONS:
        reference = _version(judge, test.reference, version)
        said = [judge.attempt("robust_references", Request(line, reference)) for line in chosen]
        if None in said:
            return None
        similarity[version] = float(centroid([judge.embedder(output.wav(SAMPLE_RATE)) for output in said]) @ own)
        wavs[version] = [output.path.name for output in said]
    return {"voice": test.speaker, "language": language, "similarity": similarity, "wavs": wavs}


def _version(judge: Judge, clip: Clip, version: str) -> Clip:
    """The reference as it is, or a poor copy of it, stored beside the outputs."""
    if version == "clean":
        return clip
    key = entry_key(clip.key, version, str((TELEPHONE_HZ, TELEPHONE_RATE, NOISE_DB)))
    path = Path(judge.folder) / "references" / f"{key}.wav"
    if not path.is_file():
        wav = judge.reader.wav(clip, SAMPLE_RATE)
        made = telephone(wav, SAMPLE_RATE) if version == "telephone" else in_noise(wav)
        write(path, made * np.float32(0.9 / max(0.9, float(np.abs(made).max(initial=0.0)))), SAMPLE_RATE)
    return dataclasses.replace(clip, key=key, path=str(path), store=None, row=-1)
