"""Speech that leaves while it comes into being: the same speech, sooner."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.gpt.decode import Generated, Request
from modules.inference.finishing import CEILING_DB
from modules.inference.live_finishing import LiveFinisher, bend
from modules.inference.options import Chunk, Progress, SpeakOptions
from modules.inference.streaming import FIRST_SECONDS
from modules.inference.synthesizer import Synthesizer, next_batch
from modules.inference.voice import Reference, Voice
from tests.tiny import synthetic_speech

RATE = 32000
TEXT = "One line that is here.\nAnd another line.\nA third one.\nThe last of all these lines."
FREE = SpeakOptions(seed=3, guards=False, forced_seconds=2.4, pause_seconds=0.25)
Pair = tuple[Reference, Reference]


@pytest.fixture
def tiny(tiny_models: Path) -> Synthesizer:
    """Models of its own, for tests that plant things."""
    return Synthesizer.load(tiny_models, device="cpu")


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "language model"]


def test_a_stream_is_what_speaking_says(synthesizer: Synthesizer, references: Pair) -> None:
    voice = Voice(references)
    chunks = list(synthesizer.stream(voice, TEXT, FREE))
    segments = [chunk.segment for chunk in chunks if chunk.segment is not None]
    spoken = list(synthesizer.speak(voice, TEXT, FREE))
    assert [s.index for s in segments] == [0, 1, 2, 3] and {c.total for c in chunks} == {4}
    for ours, theirs in zip(segments, spoken, strict=True):
        assert torch.equal(ours.codes, theirs.codes) and ours.report() | {"seconds": 0} == theirs.report() | {
            "seconds": 0
        }
    joined = np.concatenate([chunk.wav for chunk in chunks])
    assert np.array_equal(joined, synthesizer.join(segments, FREE.pause_seconds))
    assert np.abs(joined).max() <= 10 ** (CEILING_DB / 20) + 1e-6 and not workers()


def test_the_first_chunk_leaves_while_the_sentence_is_being_said(synthesizer: Synthesizer, references: Pair) -> None:
    said: list[int] = []

    def slowly(progress: Progress) -> None:
        said.append(progress.frames)
        time.sleep(0.02)

    stream = synthesizer.stream(Voice(references[:1]), "One line that is here.", FREE, on_progress=slowly)
    first = next(chunk for chunk in stream if len(chunk.wav))
    assert first.segment is None and FIRST_SECONDS * 25 <= max(said) < 60
    rest = list(stream)
    assert rest[-1].segment is not None and max(said) == 60
    assert len(first.wav) + sum(len(chunk.wav) for chunk in rest) == len(rest[-1].segment.wav)


def test_a_stop_ends_the_stream_and_its_thread(synthesizer: Synthesizer, references: Pair) -> None:
    heard: list[Chunk] = []
    stream = synthesizer.stream(Voice(references[:1]), TEXT, FREE, should_stop=lambda: len(heard) > 1)
    for chunk in stream:
        heard.append(chunk)
    assert len([chunk for chunk in heard if chunk.segment is not None]) < 4 and not workers()


def test_who_stops_listening_ends_the_thread(synthesizer: Synthesizer, references: Pair) -> None:
    stream = synthesizer.stream(
        Voice(references[:1]), TEXT, FREE, on_progress=lambda _: time.sleep(0.01)
    )  # fmt: skip
    next(stream)
    assert workers()
    stream.close()
    assert not workers()


def test_what_fails_in_the_thread_reaches_who_listens(tiny: Synthesizer, references: Pair) -> None:
    def fail(*_: object, **__: object) -> list[Generated]:
        raise RuntimeError("the model broke")

    tiny._parts.gpt.generate_batch = fail
    with pytest.raises(RuntimeError, match="the model broke"):
        list(tiny.stream(Voice(references[:1]), TEXT, FREE))
    assert not workers()


def test_finished_sentences_arrive_before_a_failure(tiny: Synthesizer, references: Pair) -> None:
    free, calls = tiny._parts.gpt.generate_batch, []

    def fail_later(requests: list[Request], **more: object) -> list[Generated]:
        calls.append(len(requests))
        if len(calls) > 1:
            raise RuntimeError("the model broke")
        return free(requests, **more)

    tiny._parts.gpt.generate_batch, heard = fail_later, []
    with pytest.raises(RuntimeError, match="the model broke"):
        heard.extend(chunk.segment for chunk in _collect(tiny.stream(Voice(references[:1]), TEXT, FREE), heard))
    assert [segment.index for segment in heard] == [0]


def _collect(stream: Iterator[Chunk], heard: list) -> Iterator[Chunk]:
    """The chunks that end a sentence, kept one by one so that a failure loses none."""
    for chunk in stream:
        if chunk.segment is not None:
            heard.append(chunk.segment)
    yield from ()


def test_a_decoder_that_cannot_stream_gives_whole_sentences(
    tiny: Synthesizer, references: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.inference.synthesizer.can_stream", lambda model: False)
    voice = Voice(references[:1])
    chunks = list(tiny.stream(voice, TEXT, FREE))
    spoken = list(tiny.speak(voice, TEXT, FREE))
    assert [chunk.segment.report() for chunk in chunks] == [segment.report() for segment in spoken]
    assert np.array_equal(np.concatenate([c.wav for c in chunks]), tiny.join(spoken, FREE.pause_seconds))


def planted(tiny: Synthesizer, tries: Iterator[tuple[int, str]], pause: float = 0.0) -> list[int]:
    """Let the language model say so many frames and end so, one try after the other; the seeds it was asked with."""
    seeds: list[int] = []

    def generate_batch(requests: list[Request], **_: object) -> list[Generated]:
        (request,) = requests
        frames, stopped_by = next(tries)
        seeds.append(request.options.seed)
        codes = torch.arange(2 * frames).reshape(frames, 2) % 7 + 1
        for count, frame in enumerate(codes, 1):
            time.sleep(pause)
            request.on_frame(count, frame)
        generated = Generated(codes, stopped_by)
        request.on_end(generated)
        return [generated]

    tiny._parts.gpt.generate_batch = generate_batch
    return seeds


def test_a_sentence_that_went_wrong_is_spoken_again_unless_it_has_left(tiny: Synthesizer, references: Pair) -> None:
    voice, options = Voice(references[:1]), SpeakOptions(seed=7)
    seeds = planted(tiny, iter([(8, "guard"), (40, "eos")]))
    (segment,) = [c.segment for c in tiny.stream(voice, "A sentence to be spoken here.", options) if c.segment]
    assert segment.retries == 1 and len(segment.codes) == 40 and segment.seed == seeds[1] != seeds[0]
    seeds = planted(tiny, iter([(40, "guard")]), pause=0.02)
    (segment,) = [c.segment for c in tiny.stream(voice, "A sentence to be spoken here.", options) if c.segment]
    assert segment.retries == 0 and segment.stopped_by == "guard" and len(seeds) == 1


def test_nothing_at_all_becomes_a_short_silence(tiny: Synthesizer, references: Pair) -> None:
    planted(tiny, iter([(0, "eos")] * 3))
    (chunk,) = tiny.stream(Voice(references[:1]), "A sentence.", SpeakOptions(seed=1))
    assert chunk.segment.retries == 2 and 0 < len(chunk.wav) < RATE / 2 and not chunk.wav.any()


def test_batches_begin_with_one_sentence_and_grow() -> None:
    sizes = [1]
    for _ in range(4):
        sizes.append(next_batch(sizes[-1], 0.2))
    assert sizes == [1, 2, 4, 8, 8]
    assert next_batch(8, 9.0) == 2 and next_batch(4, 100.0) == 1, "a slow model loses little by a stop"


SOUNDS: dict[str, Callable[[], np.ndarray]] = {
    "speech": lambda: synthetic_speech(2.0),
    "with silence around it": lambda: np.pad(synthetic_speech(1.0), (RATE // 2, RATE)),
    "with a pause": lambda: np.concatenate([synthetic_speech(0.7), np.zeros(RATE), synthetic_speech(0.5)]),
    "loud": lambda: 6 * synthetic_speech(1.0),
    "not a number": lambda: np.where(np.arange(RATE) % 999 == 0, np.nan, synthetic_speech(1.0)),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_pieces_are_finished_as_the_whole_is(name: str) -> None:
    sound = SOUNDS[name]().astype(np.float32)
    whole = LiveFinisher(RATE, -23.0).push(sound, final=True)
    rng = np.random.default_rng(0)
    for _ in range(5):
        finisher, cuts = LiveFinisher(RATE, -23.0), np.sort(rng.integers(0, len(sound), 7))
        pieces = [finisher.push(piece) for piece in np.split(sound, cuts)]
        pieces.append(finisher.push(np.zeros(0, np.float32), final=True))
        joined = np.concatenate(pieces)
        # Frames of silence are counted from the start, so a cut moves an edge by a frame at most.
        assert abs(len(joined) - len(whole)) <= RATE // 100
        size = min(len(joined), len(whole)) - RATE // 100
        assert np.array_equal(joined[:size], whole[:size])
    assert np.isfinite(whole).all() and np.abs(whole).max() <= 10 ** (CEILING_DB / 20) + 1e-6
    assert whole[0] == 0 and whole[-1] == 0


def test_silence_at_the_edges_does_not_leave() -> None:
    finisher = LiveFinisher(RATE, -23.0)
    assert len(finisher.push(np.zeros(RATE, np.float32))) == 0
    spoken = np.concatenate([finisher.push(synthetic_speech(1.0)), finisher.push(np.zeros(2 * RATE, np.float32))])
    rest = finisher.push(np.zeros(RATE, np.float32), final=True)
    assert RATE <= len(spoken) + len(rest) <= 1.2 * RATE
    nothing = LiveFinisher(RATE, -23.0).push(np.zeros(RATE // 4, np.float32), final=True)
    assert len(nothing) == RATE // 4, "a sentence of silence alone is told as it is"


def test_peaks_bend_and_the_rest_stays() -> None:
    wave = np.linspace(-3, 3, 2001).astype(np.float32)
    bent = bend(wave)
    assert np.array_equal(bent[np.abs(wave) <= 0.6], wave[np.abs(wave) <= 0.6])
    assert (np.diff(bent) >= 0).all() and np.abs(bent).max() <= 10 ** (CEILING_DB / 20) + 1e-6


def test_a_slow_model_speaks_fewer_sentences_together(tiny: Synthesizer, references: Pair) -> None:
    sizes: list[int] = []
    free = tiny._parts.gpt.generate_batch

    def slowly(requests: list[Request], **more: object) -> list[Generated]:
        sizes.append(len(requests))
        if len(sizes) == 1:
            time.sleep(2.0)
        return free(requests, **more)

    tiny._parts.gpt.generate_batch = slowly
    options = dataclasses.replace(FREE, forced_seconds=1.0)
    list(tiny.stream(Voice(references[:1]), TEXT, options))
    assert sizes[:2] == [1, 1] and sum(sizes) == 4
