"""Laws of references and voices: what is accepted, what is refused, and that order and zero weights do not matter."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.config import AudioConfig
from modules.errors import UserError
from modules.inference.voice import WINDOW_SECONDS, Reference, Voice, load_reference, prepare_reference
from tests.tiny import synthetic_speech

RATE = AudioConfig().sample_rate


def prepare(wav: np.ndarray, text: str | None = None, use_vad: bool = False) -> Reference:
    return prepare_reference(torch.from_numpy(wav.astype(np.float32)), "clip.wav", text, use_vad=use_vad)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def codes_of(reference: Reference) -> set[str]:
    return {note.code for note in reference.notes}


def test_silence_around_speech_is_trimmed_and_the_level_is_normalised() -> None:
    speech = synthetic_speech(2.0)
    plain = prepare(speech)
    padded = prepare(np.concatenate([silence(3), 0.01 * speech, silence(5)]))
    assert 1.5 < len(padded.wav) / RATE < 3.0
    assert abs(len(padded.wav) - len(plain.wav)) < 0.2 * RATE
    assert padded.wav.square().mean().sqrt().item() == pytest.approx(plain.wav.square().mean().sqrt().item(), rel=0.15)


def test_it_ends_quietly_so_that_nothing_leaks() -> None:
    wav = prepare(synthetic_speech(2.0)).wav
    assert wav[-RATE // 10 :].abs().max() < 1e-3


def test_long_pauses_inside_are_shortened() -> None:
    speech = synthetic_speech(2.0)
    reference = prepare(np.concatenate([speech, silence(6), speech]))
    assert 3.5 < len(reference.wav) / RATE < 5.5


def test_a_long_file_gives_its_best_window_with_a_note_and_without_its_text() -> None:
    speech = synthetic_speech(2.0)
    long = np.concatenate([np.concatenate([speech, silence(0.5)]) for _ in range(12)])
    reference = prepare(long, text="far too long to fit any more")
    assert len(reference.wav) / RATE <= WINDOW_SECONDS + 1
    assert codes_of(reference) >= {"reference_window", "reference_text_dropped"}
    assert reference.text is None


def test_ten_minutes_are_handled_quickly() -> None:
    long = np.tile(np.concatenate([synthetic_speech(3.0, seed=1), silence(0.4)]), 177)  # ten minutes
    start = time.perf_counter()
    reference = prepare(long, use_vad=False)
    assert time.perf_counter() - start < 20  # about one second on an idle core
    assert len(reference.wav) / RATE <= WINDOW_SECONDS + 1


def test_one_endless_utterance_is_cut() -> None:
    assert len(prepare(synthetic_speech(18.0)).wav) / RATE <= WINDOW_SECONDS + 1


@pytest.mark.parametrize(
    ("wav", "code"),
    [
        (silence(3), "reference_silent"),
        (0.05 * np.random.default_rng(0).standard_normal(3 * RATE), "reference_no_speech"),
        (synthetic_speech(0.15), "reference_too_short"),
        (np.concatenate([silence(2), synthetic_speech(0.2), silence(2)]), "reference_too_short"),
    ],
    ids=["silence", "noise", "short", "short in silence"],
)
def test_what_cannot_be_used_is_refused(wav: np.ndarray, code: str) -> None:
    with pytest.raises(UserError) as error:
        prepare(wav)
    assert error.value.code == code
    assert "clip.wav" in str(error.value)


def test_overdriven_speech_is_only_warned_about() -> None:
    speech = synthetic_speech(2.0)
    assert "reference_clipped" in codes_of(prepare(np.clip(20 * speech, -0.5, 0.5)))
    assert "reference_clipped" not in codes_of(prepare(speech))


def test_a_constant_offset_does_not_matter() -> None:
    speech = synthetic_speech(2.0)
    assert torch.allclose(prepare(speech).wav, prepare(speech + 0.2).wav, atol=1e-3)


@pytest.mark.parametrize("text", ["", "   ", None, "...", "🙂"])
def test_an_empty_transcript_is_no_transcript(text: str | None) -> None:
    assert prepare(synthetic_speech(1.5), text).text is None


def test_an_unknown_transcript_is_asked_for_when_there_is_someone_to_ask() -> None:
    wav = torch.from_numpy(synthetic_speech(1.5))
    asked = []

    def recognize(sound: torch.Tensor, rate: int) -> str:
        asked.append((len(sound), rate))
        return "hello\nthere"

    assert prepare_reference(wav, "a", recognize=recognize, use_vad=False).text == "hello there"
    assert prepare_reference(wav, "a", "known", recognize=recognize, use_vad=False).text == "known"
    assert len(asked) == 1 and asked[0][1] == RATE


def make(seed: int, weight: float) -> Reference:
    return Reference(f"r{seed}", torch.from_numpy(synthetic_speech(0.6, seed=seed)), weight=weight)


def test_weights_sum_to_one_and_zero_weights_vanish() -> None:
    voice = Voice((make(0, 3.0), make(1, 1.0), make(2, 0.0)))
    assert [r.weight for r in voice.references] == [0.25, 0.75]
    assert voice.heaviest.name == "r0"
    single = Voice((make(0, 0.5),))
    assert [r.content_hash for r in Voice((make(0, 1.0), make(1, 0.0))).references] == [single.heaviest.content_hash]


def test_the_order_of_references_does_not_matter() -> None:
    ours, theirs = Voice((make(0, 0.7), make(1, 0.3), make(2, 0.3))), Voice((make(2, 0.3), make(1, 0.3), make(0, 0.7)))
    assert [(r.name, r.weight) for r in ours.references] == [(r.name, r.weight) for r in theirs.references]


@pytest.mark.parametrize(
    ("weights", "code"),
    [([], "voice_empty"), ([0.0, 0.0], "weights_all_zero"), ([-1.0], "weight_invalid"), ([math.nan], "weight_invalid")],
)
def test_impossible_weights_are_refused(weights: list[float], code: str) -> None:
    with pytest.raises(UserError) as error:
        Voice(tuple(make(i, w) for i, w in enumerate(weights)))
    assert error.value.code == code


def test_the_content_names_a_reference_not_its_name() -> None:
    a = make(0, 1.0)
    assert a.content_hash == Reference("other", a.wav, weight=0.2).content_hash
    assert a.content_hash != Reference("r0", a.wav, text="hi").content_hash
    assert a.content_hash != make(1, 1.0).content_hash


def test_every_odd_file_is_used_or_refused_with_a_remedy(speech_dir: Path | None) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    usable = 0
    for path in sorted((speech_dir / "odd").iterdir()):
        try:
            reference = load_reference(path)
        except UserError as error:
            assert path.name in str(error), path.name
            continue
        usable += 1
        assert torch.isfinite(reference.wav).all() and 0.5 * RATE < len(reference.wav) < 16 * RATE, path.name
    assert usable >= 15
