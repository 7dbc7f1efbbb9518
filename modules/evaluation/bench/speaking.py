"""Parts "nano" and "base": what somebody waits for who has a text spoken, from the call to the sound.

Shapes: S samples.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from modules.evaluation.bench.measured import Measured, figure, share
from modules.evaluation.bench.timing import Rounds, Spread, percentile
from modules.evaluation.bench.workshop import TEXT, Workshop
from modules.evaluation.results import Table
from modules.gpt.engines import Precision
from modules.inference.options import SpeakOptions
from modules.inference.parts import Parts
from modules.inference.synthesizer import Synthesizer
from modules.inference.voice import Voice

PRECISIONS: tuple[Precision, ...] = ("auto", "float32")
_MS = 1e3
_NOTE = (
    "{requests} requests of every way in turns, one text of {characters} characters, one voice with its words, another "
    "seed for every request and the same for every way; medians. Real-time factor: seconds a second of sound. First "
    "sound: from the call to the first chunk that is not empty (speak: to the sentence). Cold: the very first request, "
    "which reads the voice as well."
)


@dataclass(frozen=True)
class Spoken:
    """One request: wall seconds, seconds until the first sound, seconds of sound."""

    wall_seconds: float
    first_seconds: float
    sound_seconds: float

    @property
    def rtf(self) -> float:
        """Seconds a second of sound."""
        return self.wall_seconds / max(self.sound_seconds, 1e-9)


def stream(synthesizer: Synthesizer, voice: Voice, text: str, options: SpeakOptions) -> Spoken:
    """A request that is answered in chunks."""
    start, first, samples = time.perf_counter(), 0.0, 0
    for chunk in synthesizer.stream(voice, text, options):
        if len(chunk.wav) and not first:
            first = time.perf_counter() - start
        samples += len(chunk.wav)
    return Spoken(time.perf_counter() - start, first, samples / synthesizer.sample_rate)


def speak(synthesizer: Synthesizer, voice: Voice, text: str, options: SpeakOptions) -> Spoken:
    """A request that is answered in whole sentences."""
    start, first, seconds = time.perf_counter(), 0.0, 0.0
    for segment in synthesizer.speak(voice, text, options):
        first = first or time.perf_counter() - start
        seconds += segment.seconds
    return Spoken(time.perf_counter() - start, first, seconds)


class Watch:
    """Where the time of a request goes: seconds in the language model and in the decoder, when whole sentences are
    spoken one part after the other."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def over(self, parts: Parts) -> Parts:
        """The same parts under this watch."""
        gpt = _Timed(parts.gpt, "generate_batch", lambda s: self._add("language_model", s))
        decoder = _Timed(parts.vits2, "infer_batch", lambda s: self._add("decoder", s))
        return replace(parts, gpt=gpt, vits2=decoder)

    def shares(self, wall_seconds: float) -> dict[str, float]:
        """Shares of a request of so many seconds, and begin anew."""
        spent, self._seconds = self._seconds, {}
        told = {f"share_{name}": spent.get(name, 0.0) / wall_seconds for name in ("language_model", "decoder")}
        return told | {"share_rest": max(0.0, 1.0 - sum(told.values()))}

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


class _Timed:
    """Stands for a part; one method is timed, all else goes to the part itself."""

    def __init__(self, inner: Any, method: str, tell: Callable[[float], None]):
        self._inner, self._method, self._tell = inner, method, tell

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._timed(found) if name == self._method else found

    def _timed(self, method: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._tell(time.perf_counter() - start)

        return call


def measure_nano(workshop: Workshop) -> Measured:
    """The shipped nano in the type of weights that the program takes, and in float32."""
    values: dict[str, Any] = {"text_characters": len(TEXT)}
    ways = _Requests(workshop, workshop.effort.requests, SpeakOptions())
    for precision in PRECISIONS:
        start = time.perf_counter()
        parts = workshop.nano(precision)
        values[precision] = {"weights": parts.gpt.weights, "load_seconds": time.perf_counter() - start}
        values[precision] |= ways.add(precision, parts)
    ways.measure(values)
    table = _table("Nano from end to end", values, PRECISIONS)
    auto = values["auto"]
    headlines = {"nano_rtf": auto["stream_rtf"], "nano_first_sound_ms_p50": auto["first_sound_ms_p50"]}
    return Measured(values, (table,), headlines)


def measure_base(workshop: Workshop) -> Measured:
    """The preset of full size with random weights, which speak noise of a given length."""
    effort = workshop.effort
    start = time.perf_counter()
    parts = workshop.full_size()
    told = {"weights": parts.gpt.weights, "build_seconds": time.perf_counter() - start}
    encoder = parts.text.encoder if parts.text.has_features else None
    values = {
        "preset": workshop.base.name, "layers": workshop.base.gpt.layers, "random_weights": True,
        "forced_seconds": effort.forced_seconds, "text_precision": encoder.precision if encoder else None,
        "tokens_per_second_of_sound": parts.speech.frame_rate, "text_characters": len(TEXT), "auto": told,
    }  # fmt: skip
    ways = _Requests(workshop, effort.base_requests, SpeakOptions(forced_seconds=effort.forced_seconds))
    told |= ways.add("auto", parts)
    ways.measure(values)
    table = _table(f"{workshop.base.name} from end to end, random weights", values, ["auto"])
    headlines = {"base_rtf": told["stream_rtf"], "base_first_sound_ms_p50": told["first_sound_ms_p50"]}
    return Measured(values, (table,), headlines)


class _Requests:
    """Requests of several systems in turns; every system streams and speaks."""

    def __init__(self, workshop: Workshop, rounds: Rounds, options: SpeakOptions):
        self._workshop, self._rounds, self._options = workshop, rounds, options
        self._spoken: dict[str, list[Spoken]] = {}
        self._shares: dict[str, list[dict[str, float]]] = {}
        self._turns: dict[str, Callable[[], float]] = {}

    def add(self, name: str, parts: Parts) -> dict[str, float]:
        """A system that takes part; its first request is made now, and told apart."""
        watch, voice = Watch(), self._workshop.voice()
        synthesizer = Synthesizer(watch.over(parts))
        spoken = self._spoken
        for way, ask in (("stream", stream), ("speak", speak)):
            key, seeds = f"{name} {way}", count(self._workshop.seed)
            spoken[key], self._shares[key] = [], []

            def turn(key: str = key, ask: Callable = ask, seeds: Iterator[int] = seeds) -> float:
                one = ask(synthesizer, voice, TEXT, replace(self._options, seed=next(seeds)))
                spoken[key].append(one)
                self._shares[key].append(watch.shares(one.wall_seconds))
                return one.wall_seconds

            self._turns[key] = turn
        self._turns[f"{name} stream"]()
        cold = spoken[f"{name} stream"][0]
        return {"cold_first_sound_ms": _MS * cold.first_seconds, "cold_seconds": cold.wall_seconds}

    def measure(self, values: dict[str, Any]) -> None:
        """All rounds; figures go to `values` by the names of the systems."""
        taken = self._rounds.run(self._turns, self._workshop.should_stop)
        for name in {key.split()[0]: None for key in self._turns}:
            counted = len(taken[f"{name} stream"])  # neither the cold one nor the warm-up
            streamed, spoken = (self._spoken[f"{name} {way}"][-counted:] for way in ("stream", "speak"))
            shares = self._shares[f"{name} speak"][-counted:]
            first = [_MS * s.first_seconds for s in streamed]
            values[name] |= {
                "requests": counted,
                "stream_rtf": Spread.of([s.rtf for s in streamed]).median,
                "speak_rtf": Spread.of([s.rtf for s in spoken]).median,
                "first_sound_ms_p50": percentile(first, 50),
                "first_sound_ms_p95": percentile(first, 95),
                "first_sentence_ms_p50": percentile([_MS * s.first_seconds for s in spoken], 50),
                "sound_seconds": Spread.of([s.sound_seconds for s in streamed]).median,
            } | {part: Spread.of([one[part] for one in shares]).median for part in shares[0]}


def _table(title: str, values: dict[str, Any], names: Sequence[str]) -> Table:
    header = (
        "weights", "stream, real-time factor", "first sound, ms", "95 of 100, ms", "cold, ms",
        "speak, real-time factor", "sentence, ms", "language model", "decoder", "rest",
    )  # fmt: skip
    rows = []
    for name in names:
        told = values[name]
        numbers = ("stream_rtf", "first_sound_ms_p50", "first_sound_ms_p95", "cold_first_sound_ms", "speak_rtf")
        shares = ("share_language_model", "share_decoder", "share_rest")
        rows.append((
            f"{told['weights']} ({name})", *(figure(told[key]) for key in numbers),
            figure(told["first_sentence_ms_p50"]), *(share(told[key]) for key in shares),
        ))  # fmt: skip
    note = _NOTE.format(requests=values[names[0]]["requests"], characters=values["text_characters"])
    return Table(title, header, tuple(rows), f"{note} Shares are of the way that speaks whole sentences.")
