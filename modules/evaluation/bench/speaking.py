"""Parts "nano" and "base": what somebody waits for who has a text spoken, from the call to the sound.

Shapes: S samples.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from modules.evaluation.bench.measured import Measured, figure, share
from modules.evaluation.bench.timing import Spread, percentile
from modules.evaluation.bench.workshop import TEXT, Workshop
from modules.evaluation.results import Table
from modules.gpt.engines import Precision
from modules.inference.options import SpeakOptions
from modules.inference.parts import Parts
from modules.inference.synthesizer import Synthesizer
from modules.inference.voice import Voice

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


@dataclass
class Shares:
    """Where the time of requests goes: parts under a stopwatch, and the seconds spent in each."""

    parts: Parts
    seconds: dict[str, float] = field(default_factory=lambda: {"language_model": 0.0, "decoder": 0.0})

    def watched(self) -> Parts:
        """The parts, with a stopwatch on what speaking whole sentences asks of them."""
        gpt = _Timed(self.parts.gpt, "generate_batch", lambda s: self._add("language_model", s))
        decoder = _Timed(self.parts.vits2, "infer_batch", lambda s: self._add("decoder", s))
        return replace(self.parts, gpt=gpt, vits2=decoder)

    def of(self, wall_seconds: float) -> dict[str, float]:
        """Shares of so many seconds in all."""
        told = {f"share_{name}": seconds / max(wall_seconds, 1e-9) for name, seconds in self.seconds.items()}
        return told | {"share_rest": max(0.0, 1.0 - sum(told.values()))}

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] += seconds


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
    values, ways = {"text_characters": len(TEXT)}, _Requests(workshop, SpeakOptions())
    for precision in _precisions(workshop):
        start = time.perf_counter()
        parts = workshop.nano(precision)
        values[precision] = {"weights": parts.gpt.weights, "load_seconds": time.perf_counter() - start}
        values[precision] |= ways.add(precision, parts)
    ways.measure(values)
    table = _table("Nano from end to end", values, _precisions(workshop))
    auto = values["auto"]
    headlines = {"nano_rtf": auto["stream_rtf"], "nano_first_sound_ms_p50": auto["first_sound_ms_p50"]}
    return Measured(values, (table,), headlines)


def measure_base(workshop: Workshop) -> Measured:
    """The preset of full size with random weights, which speak noise of a given length."""
    effort = workshop.effort
    workshop = replace(workshop, effort=replace(effort, requests=effort.base_requests))
    options = SpeakOptions(forced_seconds=effort.forced_seconds)
    start = time.perf_counter()
    parts = workshop.full_size()
    told = {"weights": parts.gpt.weights, "build_seconds": time.perf_counter() - start}
    encoder = parts.text.encoder if parts.text.has_features else None
    values = {
        "preset": workshop.base.name, "layers": workshop.base.gpt.layers, "random_weights": True,
        "forced_seconds": effort.forced_seconds, "text_precision": encoder.precision if encoder else None,
        "tokens_per_second_of_sound": parts.speech.frame_rate, "text_characters": len(TEXT), "auto": told,
    }  # fmt: skip
    ways = _Requests(workshop, options)
    told |= ways.add("auto", parts)
    ways.measure(values)
    table = _table(f"{workshop.base.name} from end to end, random weights", values, ["auto"])
    headlines = {"base_rtf": told["stream_rtf"], "base_first_sound_ms_p50": told["first_sound_ms_p50"]}
    return Measured(values, (table,), headlines)


class _Requests:
    """Requests of several systems in turns; every system streams and speaks."""

    def __init__(self, workshop: Workshop, options: SpeakOptions):
        self._workshop, self._options = workshop, options
        self._spoken: dict[str, list[Spoken]] = {}
        self._shares: dict[str, Shares] = {}
        self._turns: dict[str, Callable[[], float]] = {}

    def add(self, name: str, parts: Parts) -> dict[str, float]:
        """A system that takes part; its first request is made now, and told apart."""
        self._shares[name] = shares = Shares(parts)
        streams, speaks = Synthesizer(parts), Synthesizer(shares.watched())
        cold = self._turn(f"{name} stream", stream, streams)
        self._turn(f"{name} speak", speak, speaks)
        first = self._spoken[f"{name} stream"][0] if cold() else None
        return {"cold_first_sound_ms": _MS * first.first_seconds, "cold_seconds": first.wall_seconds}

    def _turn(self, way: str, ask: Callable[..., Spoken], synthesizer: Synthesizer) -> Callable[[], float]:
        seeds, voice = count(self._workshop.seed), self._workshop.voice()

        def turn() -> float:
            spoken = ask(synthesizer, voice, TEXT, replace(self._options, seed=next(seeds)))
            self._spoken.setdefault(way, []).append(spoken)
            return spoken.wall_seconds

        self._turns[way] = turn
        return turn

    def measure(self, values: dict[str, Any]) -> None:
        """All rounds; figures go to `values` by the names of the systems."""
        taken = self._workshop.effort.requests.run(self._turns, self._workshop.should_stop)
        for name, shares in self._shares.items():
            # Of every way the requests before the rounds are left out: the cold one and the warm-up.
            streamed, spoken = (
                self._spoken[f"{name} {way}"][-len(taken[f"{name} {way}"]) :] for way in ("stream", "speak")
            )
            first = [_MS * s.first_seconds for s in streamed]
            values[name] |= {
                "requests": len(streamed),
                "stream_rtf": Spread.of([s.rtf for s in streamed]).median,
                "speak_rtf": Spread.of([s.rtf for s in spoken]).median,
                "first_sound_ms_p50": percentile(first, 50),
                "first_sound_ms_p95": percentile(first, 95),
                "first_sentence_ms_p50": percentile([_MS * s.first_seconds for s in spoken], 50),
                "sound_seconds": Spread.of([s.sound_seconds for s in streamed]).median,
            } | shares.of(sum(s.wall_seconds for s in self._spoken[f"{name} speak"]))


def _precisions(workshop: Workshop) -> list[Precision]:
    return ["auto", "float32"]


def _table(title: str, values: dict[str, Any], names: list[str]) -> Table:
    header = (
        "weights", "stream, real-time factor", "first sound, ms", "95 of 100, ms", "cold, ms", "speak, real-time factor",
        "sentence, ms", "language model", "decoder", "rest",
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
