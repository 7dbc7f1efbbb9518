"""What is wrong with a sentence is noticed, and it is spoken again, as long as that helps and never endlessly."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.loudness import integrated_lufs
from modules.gpt.decode import DecodeOptions, Generated, Request
from modules.inference.attempts import RETRIES, active_seconds, code_alarms, sound_alarms
from modules.inference.lengths import LONGEST_SECONDS, Lengths, expect_lengths
from modules.inference.options import Progress, Segment, SpeakOptions
from modules.inference.sentences import make_sentence
from modules.inference.synthesizer import Synthesizer
from modules.inference.voice import SILENT_TAIL_SECONDS, Reference, Voice, prepare_reference
from tests.tiny import synthetic_speech

RATE = 32000
TEXT = "A sentence to be spoken here."
OPTIONS = SpeakOptions(seed=7)
LENGTHS = Lengths(expected=40.0, low=24, high=70, least=20, most=90)
Pair = tuple[Reference, Reference]


@pytest.fixture
def tiny(tiny_models: Path) -> Synthesizer:
    """Models of its own, for tests that plant things."""
    return Synthesizer.load(tiny_models, device="cpu")


def codes(frames: int) -> torch.Tensor:
    return torch.arange(2 * frames).reshape(frames, 2) % 7 + 1


def plant(synthesizer: Synthesizer, *tries: Generated) -> list[DecodeOptions]:
    """Let the language model say these one after the other, the last again and again; what it was asked for."""
    asked: list[DecodeOptions] = []

    def generate_batch(requests: list[Request], **_: object) -> list[Generated]:
        (request,) = requests
        said = tries[min(len(asked), len(tries) - 1)]
        asked.append(request.options)
        if request.on_frame is not None:
            request.on_frame(len(said.codes), codes(1)[0])
        return [said]

    synthesizer._parts.gpt.generate_batch = generate_batch
    return asked


def loud(synthesizer: Synthesizer, sound: Callable[[int], np.ndarray] | None = None) -> None:
    """Let the decoder make plausible sound of everything, or the sound that is given."""
    make = sound or (lambda samples: synthetic_speech(samples / RATE))

    def infer_batch(
        said: torch.Tensor, *_: object, speed: float = 1.0, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wav = torch.from_numpy(make(int(said.shape[1] * RATE / 25 / speed)))
        return wav[None], torch.tensor([len(wav)])

    synthesizer._parts.vits2.infer_batch = infer_batch


def speak(synthesizer: Synthesizer, voice: Voice, options: SpeakOptions = OPTIONS, **more: object) -> Segment:
    (segment,) = synthesizer.speak(voice, TEXT, options, **more)
    return segment


def usual(synthesizer: Synthesizer, voice: Voice) -> Lengths:
    """Lengths of the text in that voice."""
    return make_sentence(synthesizer._parts, TEXT, synthesizer._prompt_references(voice, OPTIONS), OPTIONS).lengths


FAILURES = {
    "guard": lambda n: Generated(codes(n), "guard"),
    "limit": lambda n: Generated(codes(n), "limit"),
    "too long": lambda n: Generated(codes(4 * n), "eos"),
    "too short": lambda n: Generated(codes(2), "eos"),
    "nothing": lambda n: Generated(codes(0), "eos"),
    "silence": lambda n: Generated(codes(n), "eos", quiet=0.95),
    "whisper": lambda n: Generated(codes(n) * torch.tensor([1, 0]), "eos"),
    "text left over": lambda n: Generated(codes(n), "eos", finished=False),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_went_wrong_is_spoken_again_with_another_seed(tiny: Synthesizer, references: Pair, failure: str) -> None:
    voice = Voice(references[:1])
    frames = round(usual(tiny, voice).expected)
    failed, good = FAILURES[failure](frames), Generated(codes(frames), "eos")
    loud(tiny)
    asked = plant(tiny, failed, good)
    segment = speak(tiny, voice)
    assert segment.retries == 1 and torch.equal(segment.codes, good.codes) and segment.stopped_by == "eos"
    assert len({options.seed for options in asked}) == 2 and segment.seed == asked[1].seed
    assert segment.report()["retries"] == 1 and segment.report()["seed"] == asked[1].seed
    unguarded = plant(tiny, failed, good)
    segment = speak(tiny, voice, dataclasses.replace(OPTIONS, guards=False))
    assert len(unguarded) == 1 and segment.retries == 0 and torch.equal(segment.codes, failed.codes)


@pytest.mark.parametrize("wrong", ["silent", "clipped", "not a number"])
def test_a_sound_that_is_none_is_spoken_again(tiny: Synthesizer, references: Pair, wrong: str) -> None:
    voice = Voice(references[:1])
    asked = plant(tiny, Generated(codes(round(usual(tiny, voice).expected)), "eos"))

    def sound(samples: int) -> np.ndarray:
        speech = synthetic_speech(samples / RATE)
        if len(asked) > 1:
            return speech
        return {"silent": speech * 1e-4, "clipped": np.clip(speech, -0.02, 0.02)}.get(wrong, speech * np.nan)

    loud(tiny, sound)
    segment = speak(tiny, voice)
    assert segment.retries == 1 and np.isfinite(segment.wav).all() and np.abs(segment.wav).max() > 0.1


def test_the_best_of_what_never_went_well_is_kept(tiny: Synthesizer, references: Pair) -> None:
    voice = Voice(references[:1])
    frames = round(usual(tiny, voice).expected)
    tries = [Generated(codes(5 * frames), "limit"), Generated(codes(4 * frames), "eos"), Generated(codes(1), "guard")]
    loud(tiny)
    asked = plant(tiny, *tries)
    segment = speak(tiny, voice)
    assert len(asked) == RETRIES + 1 and segment.retries == RETRIES
    assert len(segment.codes) == 4 * frames and segment.seed == asked[1].seed


def test_what_was_kept_is_the_same_for_the_same_seed_and_is_rendered_again(tiny: Synthesizer, references: Pair) -> None:
    """With the random models, which fail all the time."""
    voice = Voice(references[:1])
    first, again = speak(tiny, voice), speak(tiny, voice)
    assert np.array_equal(first.wav, again.wav) and (first.seed, first.retries) == (again.seed, again.retries)
    (frozen,) = tiny.render(voice, [first], OPTIONS)
    assert np.array_equal(frozen.wav, first.wav) and frozen.report() == first.report()


def test_guards_that_do_not_fire_change_no_sample(tiny: Synthesizer, references: Pair) -> None:
    voice = Voice(references[:1])
    loud(tiny)
    asked = plant(tiny, Generated(codes(round(usual(tiny, voice).expected)), "eos"))
    watched, free = (speak(tiny, voice, dataclasses.replace(OPTIONS, guards=on)) for on in (True, False))
    assert np.array_equal(watched.wav, free.wav) and watched.report() == free.report()
    assert asked[0].seed == asked[1].seed and watched.retries == 0


def test_switched_off_nothing_is_bounded(tiny: Synthesizer, references: Pair) -> None:
    voice = Voice(references[:1])
    asked = plant(tiny, Generated(codes(30), "eos"))
    for guards in (True, False):
        speak(tiny, voice, dataclasses.replace(OPTIONS, guards=guards))
    on, off = asked[0], asked[-1]
    assert on.guard and on.ras_window and on.tail_frames and on.pause_frames and on.usual_frames
    assert 1 < on.min_frames < on.usual_frames < on.max_frames < 3 * on.usual_frames + 25
    assert not (off.guard or off.ras_window or off.tail_frames or off.pause_frames)
    assert off.min_frames == 1 and off.max_frames == LONGEST_SECONDS * 25


def test_progress_and_stop_work_while_it_is_spoken_again(tiny: Synthesizer, references: Pair) -> None:
    voice, heard = Voice(references[:1]), list[Progress]()
    plant(tiny, Generated(codes(30), "limit"))
    speak(tiny, voice, on_progress=heard.append)
    assert [p.frames for p in heard] == [0, 30, 30, 30]
    asked = plant(tiny, Generated(codes(30), "limit"))
    assert list(tiny.speak(voice, TEXT, OPTIONS, should_stop=lambda: len(asked) == 2)) == []
    assert len(asked) == 2


def test_pictures_are_shown_and_not_spoken(tiny: Synthesizer, references: Pair) -> None:
    voice, texts = Voice(references[:1]), list[str]()
    encode = tiny._parts.text.encode
    tiny._parts.text.encode = lambda text: texts.append(text) or encode(text)
    (segment,) = tiny.speak(voice, "Good 🙂 morning", OPTIONS)
    assert segment.text == "Good 🙂 morning" and {"Good morning."} == set(texts) - {references[0].text + "."}


def test_alarms_leave_plausible_speech_alone() -> None:
    good = Generated(codes(40), "eos")
    assert code_alarms(good, LENGTHS, pitched=True) == ()
    assert sound_alarms(synthetic_speech(1.6), RATE, 1.0) == ()
    assert sound_alarms(0.1 * synthetic_speech(1.6), RATE, 1.0) == (), "quiet models are brought to level afterwards"
    assert sound_alarms(np.zeros(0, np.float32), RATE, 1.0) == ("silent",)
    click = np.zeros(2 * RATE, np.float32)
    click[RATE : RATE + 600] = 0.5
    assert "silent" in sound_alarms(click, RATE, 1.0)
    assert active_seconds(np.concatenate([synthetic_speech(1.0), np.zeros(RATE, np.float32)]), RATE) < 1.1


def test_the_text_bounds_the_length(tiny: Synthesizer) -> None:
    def lengths(text: str, *spoken: tuple[str, list[int], int, float]) -> Lengths:
        return expect_lengths(text, encode(text), spoken, tiny._parts.gpt.model, 25.0)

    encode = tiny._parts.text.encode
    for text in ("A.", "Hi.", "7.", "1234567.", "NASA.", "你好。", TEXT, "გამარჯობა, როგორ ხარ?", "word " * 40):
        bounds = lengths(text)
        assert 3 <= bounds.least <= bounds.low < bounds.expected < bounds.high < bounds.most <= 1000
    assert lengths("Hi.").most < 40, "no room to babble"
    assert lengths("1234567.").high - lengths("abcdefg.").high > 50, "long numbers take long"
    assert lengths("BBC.").high > lengths("bbc.").high + 15
    quick, slow = (lengths(TEXT, (TEXT, encode(TEXT), frames, 1.0)) for frames in (30, 60))
    assert slow.expected == pytest.approx(2 * quick.expected, rel=0.1) and slow.least > quick.least
    wrong = lengths(TEXT, ("Yes.", encode("Yes."), 500, 1.0))
    assert wrong.expected < 2 * lengths(TEXT).expected, "a transcript may be wrong"


def test_a_reference_ends_in_silence_and_keeps_its_loudness() -> None:
    speech = np.concatenate([synthetic_speech(2.0), 0.05 * synthetic_speech(1.0, seed=5)])
    prepared = prepare_reference(torch.from_numpy(speech), "cut into the next word", "a text", use_vad=False)
    tail = prepared.wav[-int(0.95 * SILENT_TAIL_SECONDS * RATE) :]
    assert tail.abs().max() < 1e-4
    assert prepared.wav[: -len(tail)][-RATE // 5 :].abs().max() > 1e-3
    assert integrated_lufs(prepared.wav, RATE) == pytest.approx(-23.0, abs=0.3)
