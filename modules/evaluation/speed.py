"""How fast it is: real-time factors, the ways of running side by side, in turn, as medians over rounds.

A shared machine drifts, so variants take turns within a round and processor time stands beside wall time.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch

from modules.evaluation.clips import Clip
from modules.evaluation.judging import Judge
from modules.evaluation.results import Finding, Table
from modules.inference.options import SpeakOptions
from modules.inference.voice import Voice
from modules.runtime import device_label, set_threads

ROUNDS = 5
SENTENCES = 4
THREADS = (1, 2)
_NOTE = (
    "Median of {rounds} rounds (lowest-highest); seconds of work a second of sound. First sentence: wait until the "
    "first sentence is there."
)


@dataclass(frozen=True)
class Timing:
    """One passage: wall and processor seconds, seconds until the first segment, of the decoder alone, of sound."""

    wall: float
    cpu: float
    first: float
    decoder: float
    sound: float


def judge_speed(judge: Judge) -> Finding:
    """Threads side by side with one and with three references.

    Raises:
        UserError: judge_no_sentence, judge_too_few_voices.
    """
    voices = dict(_voices(judge))
    lines = [clip.text for clip in judge.some_lines("speed")[:SENTENCES]]
    text = " ".join(line if line[-1:] in ".!?。！？" else f"{line}." for line in lines)
    before = torch.get_num_threads()
    counts = [n for n in THREADS if n <= (psutil.cpu_count() or 1)]
    timings: dict[tuple[str, int], list[Timing]] = defaultdict(list)
    try:
        for number in range(ROUNDS + 1):  # the first round only warms up
            for name, voice in voices.items():
                for threads in counts:
                    set_threads(threads)
                    timing = _time(judge, voice, text)
                    if number:
                        timings[name, threads].append(timing)
            judge.progress("timing", number + 1, ROUNDS + 1)
    finally:
        set_threads(before)
    values, rows = {"device": device_label(judge.speaker.synthesizer.device)}, []
    for (name, threads), found in timings.items():
        row = [_spread([t.wall / t.sound for t in found]), _spread([t.cpu / t.sound for t in found])]
        row += [_spread([t.decoder / t.sound for t in found]), _spread([t.first for t in found])]
        rows.append((name, threads, *row))
        values[f"{name}, {threads} threads"] = [vars(t) for t in found]
    header = ("voice", "threads", "real-time factor", "processor time", "decoder alone", "first sentence, s")
    title = f"Speed on {values['device']}, {psutil.cpu_count()} logical processors"
    return Finding("speed", values, (Table(title, header, tuple(rows), _NOTE.format(rounds=ROUNDS)),))


def _voices(judge: Judge) -> Iterator[tuple[str, Voice]]:
    clips: list[Clip] = [test.reference for test in judge.taken_voices("speed", 3)]
    yield "one reference", Voice((judge.speaker.reference(clips[0]),))
    if len(clips) == 3:
        yield "three references", Voice(tuple(judge.speaker.reference(clip, 1 / 3) for clip in clips))


def _time(judge: Judge, voice: Voice, text: str) -> Timing:
    synthesizer, options = judge.speaker.synthesizer, SpeakOptions(seed=judge.options.seed)
    started, cpu, first, segments = time.perf_counter(), time.process_time(), 0.0, []
    for segment in synthesizer.speak(voice, text, options):
        segments.append(segment)
        first = first or time.perf_counter() - started
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    again = time.perf_counter()
    list(synthesizer.render(voice, segments, options))
    decoder = time.perf_counter() - again
    return Timing(wall, cpu, first, decoder, sum(segment.seconds for segment in segments))


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"
