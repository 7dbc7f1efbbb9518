"""Statement and question in the same words: does the pitch end as it does in the source language?

The directions to compare with are those of source audio by eSpeak NG, measured once by the same rule and stored.

Shapes: S samples.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from modules.audio.resample import resample
from modules.corpus.espeak import SAMPLE_RATE as ESPEAK_RATE
from modules.corpus.espeak import VoiceSettings
from modules.evaluation.clips import Clip
from modules.evaluation.judging import Judge, Request
from modules.evaluation.results import Finding, Table
from modules.evaluation.sets.readings import PhoneReader
from modules.evaluation.sets.shipped import load_set, save_set, written_clip
from modules.evaluation.shares import share_of
from modules.evaluation.sound import PITCH_RATE, pitch_contour

END_SECONDS = 0.2
"""Voiced time before the end in which the melody is decided."""
FRAME_SECONDS = 0.01
CLEAR_SEMITONES = 0.4
"""Smaller movements of an output have no direction."""
SOURCE_SEMITONES = 0.8
"""Of source audio: a direction that is not as clear as this is asked of no output."""
KINDS = ("statement", "question")
_SOURCE_VOICES = (VoiceSettings("", 155, 45, 55), VoiceSettings("f2", 155, 60, 55))
_NOTE = (
    "Ends: movement of the pitch over the last {seconds} s of voice. Right: both sentences of a pair end in the "
    "direction of the source language, as far as that has one. Contrast: the question ends higher against the "
    "statement, or lower, as in the source language."
)


def end_movement(wav: np.ndarray) -> float:
    """Semitones by which the pitch of wav float32 [S] at 16 kHz moves at its end; nan without enough voice."""
    contour = pitch_contour(wav)
    voiced = 12 * np.log2(contour[contour > 0][-round(END_SECONDS / FRAME_SECONDS) :])
    if len(voiced) < 8:
        return float("nan")
    kept = voiced[np.abs(voiced - np.median(voiced)) < 10]  # a tracker's slip to another octave is no melody
    slope = np.polyfit(np.arange(len(kept)), kept, 1)[0] if len(kept) > 2 else float("nan")
    return float(slope * (END_SECONDS / FRAME_SECONDS))


def measure_source(reader: PhoneReader) -> int:
    """Measure and store the directions of source audio; returns the number of pairs that were measured. A pair that
    cannot be spoken keeps what it has."""
    entries, measured = load_set("melody"), 0
    for entry in entries:
        movements = []
        for kind in KINDS:
            spoken = [reader.speak(entry[kind], entry["language"], voice) for voice in _SOURCE_VOICES]
            wavs = [resample(s.samples.astype(np.float32) / 32768, ESPEAK_RATE, PITCH_RATE) for s in spoken if s]
            movements.append(round(float(np.mean([end_movement(wav) for wav in wavs])), 2) if wavs else None)
        if None not in movements:
            entry["source_semitones"] = movements
            measured += 1
    save_set("melody", entries)
    return measured


def judge_melody(judge: Judge) -> Finding:
    """Every pair in one voice, the voices in turn."""
    wanted = judge.options.languages
    entries = [entry for entry in load_set("melody") if not wanted or entry["language"] in wanted]
    voices, items = judge.some_voices(), []
    for number, entry in enumerate(entries):
        if judge.out_of_time():
            break
        item = _item(judge, entry, voices[number % len(voices)].reference)
        items += [item] if item else []
        judge.progress("statements and questions", number + 1, len(entries))
    by_language: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        by_language[item["language"]].append(item)
    values: dict[str, Any] = {"items": items, "languages": {}}
    rows = []
    for name, members in {"all": items, **by_language}.items():
        right, contrast = (share_of(item[key] for item in members) for key in ("right", "contrast"))
        found = {"right": right.values(), "contrast": contrast.values()}
        (values if name == "all" else values["languages"].setdefault(name, {})).update(found)
        rows.append((name, len(members), str(right), str(contrast)))
    note = _NOTE.format(seconds=END_SECONDS)
    header = ("language", "pairs", "right", "contrast")
    table = Table("Statements and questions in the same words", header, tuple(rows), note)
    return Finding("melody", values, (table,) if items else ())


def _item(judge: Judge, entry: dict[str, Any], reference: Clip) -> dict[str, Any] | None:
    """None where a sentence of the pair was refused."""
    movements, names = [], []
    for kind in KINDS:
        output = judge.attempt("melody", Request(written_clip(entry[kind], entry["language"], ()), reference))
        if output is None:
            return None
        movements.append(end_movement(output.wav(PITCH_RATE)))
        names.append(output.path.name)
    source = entry.get("source_semitones") or [None, None]
    right, contrast = compare(movements, source)
    return {
        "language": entry["language"],
        "text": entry["question"],
        "voice": reference.speaker,
        "wavs": names,
        "semitones": movements,
        "source_semitones": source,
        "right": right,
        "contrast": contrast,
    }


def compare(output: list[float], source: list[float | None]) -> tuple[bool | None, bool | None]:
    """(both ends go the way of the source, the difference between them does); None where the source has no direction.

    An end without enough voice to tell, or one that hardly moves, is wrong.
    """
    if None in source:
        return None, None
    told = [_goes(ours, theirs) for ours, theirs in zip(output, source, strict=True) if abs(theirs) >= SOURCE_SEMITONES]
    right = all(told) if told else None
    wanted = source[1] - source[0]
    if abs(wanted) < SOURCE_SEMITONES:
        return right, None
    return right, _goes(output[1] - output[0], wanted)


def _goes(ours: float, theirs: float) -> bool:
    """Whether a movement is clear and has the direction of the other."""
    return bool(np.isfinite(ours) and abs(ours) >= CLEAR_SEMITONES and np.sign(ours) == np.sign(theirs))
