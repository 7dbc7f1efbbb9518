"""Speech that leaves while the language model still speaks.

The language model works in a thread of its own, one sentence at first and then several together, and writes frames;
who asks for chunks decodes them meanwhile. The first chunk is decoded as soon as there are frames enough for it,
because somebody waits. Every further one only when a listener would soon have nothing left to hear: every chunk costs
some context that is decoded again, and a sentence that is decoded at its end costs least.

A sentence that went wrong is spoken again as long as nothing of it has left.

Shapes: S samples, T frames of speech tokens, K codebooks.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modules.errors import Stopped
from modules.gpt.decode import Generated, Request
from modules.inference import finishing
from modules.inference.attempts import RETRIES, code_alarms, retry_seed
from modules.inference.lengths import SHORTEST_SECONDS
from modules.inference.live_finishing import LiveFinisher
from modules.inference.options import Chunk, Segment, SpeakOptions
from modules.inference.parts import Parts
from modules.inference.sentences import Features, Sentence, Timbre, decode_options, make_sentence, write
from modules.inference.sounding import MOST_TOGETHER
from modules.inference.telling import Told
from modules.runtime import full_threads, threads_within
from modules.vits2.streaming import SoundStream

FIRST_SECONDS = 0.48
"""New speech that is worth a chunk."""
JOIN_SECONDS = 1.0
"""So long is waited for the language model when nobody listens any more; it ends by itself."""
RESERVE_SECONDS = 0.25
"""Sound that a listener should always have in front of him, besides what it takes to decode a chunk."""
BUSY = 0.4
"""Share of the time that the language model may take of a batch: a slow one speaks fewer sentences together."""


@dataclass
class _Line:
    """A sentence under way: its codes so far, and how it ended once that is certain."""

    index: int
    seed: int
    codes: list[Tensor] = field(default_factory=list)
    ended: Generated | None = None
    has_left: bool = False
    retries: int = 0


class LiveSpeech:
    """One text that is spoken as a stream.

    Args:
        texts: its sentences.
        references: whose words are known, with weights.
        seeds: of the sentences.
        told: progress and stop.
    """

    def __init__(
        self,
        parts: Parts,
        texts: Sequence[str],
        references: Sequence[tuple[Features, float]],
        timbre: Timbre,
        options: SpeakOptions,
        seeds: Sequence[int],
        told: Told,
    ):
        self._parts, self._texts, self._references = parts, texts, references
        self._timbre, self._options, self._told = timbre, options, told
        self._lines = [_Line(index, seed) for index, seed in enumerate(seeds)]
        self._changed = threading.Condition()
        self._cancelled = self._done = False
        self._awaited = 0
        self._failure: BaseException | None = None
        self._rate = parts.speech.frame_rate
        self._sample_rate = parts.vits2.audio.sample_rate

    def chunks(self) -> Iterator[Chunk]:
        """The sound, piece by piece; ends early when it should stop."""
        # In the caller's context, which knows whom progress is told.
        run = contextvars.copy_context().run
        worker = threading.Thread(target=run, args=(self._speak,), name="language model", daemon=True)
        worker.start()
        clock = _Clock(self._sample_rate)
        try:
            for line in self._lines:
                yield from self._line_chunks(line, clock)
        except Stopped:
            return
        finally:
            self._cancelled = True
            worker.join(JOIN_SECONDS)
            self._failure = None  # its traceback would hold on to everything in here

    def _line_chunks(self, line: _Line, clock: "_Clock") -> Iterator[Chunk]:
        """The chunks of one sentence. Raises Stopped."""
        finisher = LiveFinisher(self._sample_rate, self._parts.vits2.audio.loudness_lufs)
        pause = np.zeros(round(self._options.pause_seconds * self._sample_rate) if line.index else 0, np.float32)
        sound: SoundStream | None = None
        raws: list[np.ndarray] = []
        left: list[np.ndarray] = []
        taken, final = 0, False
        while not final:
            codes, final = self._take(line, taken, clock)
            taken += len(codes)
            sound = sound or self._sound(line)
            with clock.decoding():
                raws.append(self._decode(sound, codes, final))
            wav = finisher.push(raws[-1], final)
            if final and not taken:  # nothing was said: as much silence as `speak` gives
                wav = np.zeros(round(SHORTEST_SECONDS * self._sample_rate), np.float32)
            left.append(wav)
            if not len(wav) and not final:
                continue
            wav, pause = np.concatenate([pause, wav]), pause[:0]
            clock.add(wav)
            yield Chunk(line.index, len(self._texts), wav, self._segment(line, raws, left) if final else None)

    def _take(self, line: _Line, taken: int, clock: "_Clock") -> tuple[Tensor, bool]:
        """The frames [T, K] after the first `taken`, when they are needed or no more will come; and whether no more
        will come. Raises Stopped, and what the language model raised."""
        enough = max(1, round(FIRST_SECONDS * self._rate))
        with self._changed:
            self._awaited = taken + enough
            while True:
                if self._failure is not None and line.ended is None:
                    raise self._failure
                if line.ended is not None or (len(line.codes) - taken >= enough and clock.is_short):
                    break
                self._changed.wait(0.02)
            line.has_left = True
            return _stack(line.codes[taken:], len(self._parts.speech.codebook_sizes)), line.ended is not None

    def _decode(self, sound: SoundStream, codes: Tensor, final: bool) -> np.ndarray:
        """New frames [T, K] -> the raw samples float32 [S] that are settled now."""
        with torch.inference_mode(), self._left_threads():
            if len(codes):
                sound.push(codes)
            return sound.read(final=final).numpy()

    def _sound(self, line: _Line) -> SoundStream:
        written = write(self._parts, self._texts[line.index])
        features = None if written.features is None else torch.from_numpy(written.features)[None]
        with self._left_threads():
            return SoundStream(
                self._parts.vits2,
                torch.tensor([written.ids], device=self._parts.device),
                self._timbre.style,
                self._timbre.median_hz,
                noise_scale=self._options.noise_scale,
                speed=self._options.speed,
                seed=line.seed,
                text_features=None if features is None else features.to(self._parts.device),
            )

    def _left_threads(self) -> AbstractContextManager[None]:
        """Threads of torch on the cores that the language model leaves: one too many would keep all others waiting."""
        taken = 0 if self._done else self._parts.gpt.engine.own_threads
        return threads_within(max(1, full_threads() - taken), full_threads())

    def _segment(self, line: _Line, raws: Sequence[np.ndarray], left: Sequence[np.ndarray]) -> Segment:
        wav, codes = np.concatenate(left), _stack(line.codes, len(self._parts.speech.codebook_sizes))
        seconds, levels = len(wav) / self._sample_rate, finishing.raw_levels(np.concatenate(raws))
        stopped_by, text = line.ended.stopped_by, self._texts[line.index]
        segment = Segment(
            line.index, len(self._texts), text, wav, seconds, stopped_by, codes, line.seed, line.retries, **levels
        )
        self._told.add(segment)
        return segment

    def _speak(self) -> None:
        """What the thread of the language model does."""
        try:
            done, size, most = 0, 1, MOST_TOGETHER
            while done < len(self._lines):
                batch = self._lines[done : done + size]
                self._told.begin(batch[0].index)
                started = time.perf_counter()
                self._speak_batch(batch)
                done += len(batch)
                frames = sum(len(line.codes) for line in batch)
                busy = (time.perf_counter() - started) * self._rate / max(frames, 1)
                size = max(1, min(2 * size, most, int(BUSY / busy) if busy > 0 else most))
            self._done = True
        except BaseException as failure:  # who asks for chunks has to know
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _speak_batch(self, lines: Sequence[_Line]) -> None:
        """Speak these sentences; those that went wrong once more, as long as nothing of them has left."""
        sentences = {
            line.index: make_sentence(self._parts, self._texts[line.index], self._references, self._options)
            for line in lines
        }
        guarded = self._options.guards and not self._options.forced_seconds
        pending, pitched = list(lines), bool(self._parts.vits2.prosody_levels) and self._timbre.is_pitched
        for number in range(RETRIES + 1):
            again: list[_Line] = []

            def end(line: _Line, generated: Generated, again: list[_Line] = again, number: int = number) -> None:
                alarms = code_alarms(generated, sentences[line.index].lengths, pitched) if guarded else ()
                with self._changed:
                    if alarms and number < RETRIES and not line.has_left:
                        line.codes.clear()
                        again.append(line)
                    else:
                        if not line.has_left:  # a loop at its end may have been cut off
                            line.codes = list(generated.codes)
                        line.ended = generated
                    self._changed.notify_all()

            requests = [self._request(line, sentences[line.index], end, told=line is lines[0]) for line in pending]
            self._parts.gpt.generate_batch(requests, should_stop=self._should_stop)
            for line in again:
                line.seed, line.retries = retry_seed(line.seed, 1), line.retries + 1
            if not again:
                return
            pending = again

    def _request(
        self, line: _Line, sentence: Sentence, end: Callable[[_Line, Generated], None], told: bool
    ) -> Request:  # fmt: skip
        tell = self._told.frames_of(line.index) if told else None

        def add(frames: int, codes: Tensor) -> None:
            with self._changed:
                line.codes.append(codes)
                if len(line.codes) == self._awaited:  # who waits for time to pass wakes up by himself
                    self._changed.notify_all()
            if tell is not None:
                tell(frames, codes)

        options = decode_options(self._options, sentence.lengths, line.seed, self._rate)
        return Request(sentence.prompts, options, add, lambda generated: end(line, generated))

    def _should_stop(self) -> bool:
        return self._cancelled or (self._told.should_stop is not None and self._told.should_stop())


class _Clock:
    """How much sound has left that nobody can have heard yet; whether it lasts until the next chunk is decoded."""

    def __init__(self, sample_rate: int):
        self._sample_rate, self._seconds, self._since = sample_rate, 0.0, 0.0
        self._decoding_seconds = 0.0

    def add(self, wav: np.ndarray) -> None:
        """This has left."""
        now = time.monotonic()
        if not self._seconds or now - self._since > self._seconds:  # the first, or the listener had to wait
            self._since = now - self._seconds
        self._seconds += len(wav) / self._sample_rate

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Take the time that a chunk takes; the next may take twice as long."""
        start = time.monotonic()
        yield
        self._decoding_seconds = time.monotonic() - start

    @property
    def is_short(self) -> bool:
        """Whether a listener who plays everything at once would soon have nothing left."""
        if not self._seconds:
            return True
        ahead = self._seconds - (time.monotonic() - self._since)
        return ahead < RESERVE_SECONDS + 2 * self._decoding_seconds


def _stack(codes: Sequence[Tensor], codebooks: int) -> Tensor:
    return torch.stack(list(codes)) if len(codes) else torch.zeros(0, codebooks, dtype=torch.int64)
