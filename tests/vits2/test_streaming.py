"""Decoding while the tokens are still coming: the stream is the whole, piece by piece."""

from pathlib import Path

import pytest
import torch

from modules.speech.prosody import decode_prosody
from modules.vits2.model import VITS2, load_vits2
from modules.vits2.source import carry_pitch, phase_at, pulse_train
from modules.vits2.streaming import LEFT_CONTEXT_TOKENS, LOOK_AHEAD_TOKENS, SoundStream
from modules.vits2.timing import NoiseTape, places_at, retime, retime_f0

NANO = Path("pretrained_models/nano/vits2.safetensors")
HOP, TOKEN_SAMPLES, MEDIAN_HZ, SEED = 640, 1280, 180.0, 7


@pytest.fixture(scope="module")
def nano() -> VITS2:
    return load_vits2(NANO, speaking=True)


def _codes(tokens: int) -> torch.Tensor:
    """Held sounds with a melody and unvoiced gaps, one at the beginning."""
    generator = torch.Generator().manual_seed(2)
    content = torch.randint(0, 4096, (-(-tokens // 4),), generator=generator).repeat_interleave(4)[:tokens]
    melody = (32 + 6 * torch.sin(torch.arange(tokens) / 5)).round().long()
    melody[torch.arange(tokens) % 17 < 4] = 0
    return torch.stack((content, melody), dim=-1)


def _given(model: VITS2) -> dict:
    style = torch.randn(1, model.config.style_dim, generator=torch.Generator().manual_seed(4)) * 0.1
    return {"text_ids": torch.arange(40, 60)[None], "style": style, "f0_median_hz": MEDIAN_HZ}


def _whole(model: VITS2, codes: torch.Tensor, speed: float = 1.0, seed: int = SEED) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return model.infer(codes[None], **_given(model), speed=speed, generator=generator)


def _read_all(model: VITS2, codes: torch.Tensor, chunks: list[int], **changes) -> list[torch.Tensor]:
    stream = SoundStream(model, **_given(model), seed=SEED, **changes)
    pieces = []
    for part in codes.split(chunks):
        stream.push(part)
        pieces.append(stream.read())
    return [*pieces, stream.read(final=True)]


def _snr_db(wanted: torch.Tensor, got: torch.Tensor) -> float:
    return (10 * (wanted.square().mean() / (wanted - got).square().mean()).log10()).item()


def _mel_distance(model: VITS2, a: torch.Tensor, b: torch.Tensor) -> float:
    return (model.mel(a[None]) - model.mel(b[None])).abs().mean().item()


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.37])
def test_a_stream_is_as_long_as_the_whole_and_nearly_the_same(nano: VITS2, speed: float):
    """Measured with spoken codes: 30 dB and a log-mel distance of 0.025; another seed gives 0.26."""
    codes = _codes(75)
    whole = _whole(nano, codes, speed)
    streamed = torch.cat(_read_all(nano, codes, [12, 14, 24, 25], speed=speed))
    assert streamed.shape == whole.shape and streamed.dtype == torch.float32
    assert _snr_db(whole, streamed) > 20
    other = _mel_distance(nano, whole, _whole(nano, codes, speed, seed=SEED + 1))
    assert _mel_distance(nano, whole, streamed) < 0.25 * other


def test_one_window_is_exactly_the_whole(nano: VITS2):
    codes = _codes(30)
    stream = SoundStream(nano, **_given(nano), seed=SEED)
    stream.push(codes)
    torch.testing.assert_close(stream.read(final=True), _whole(nano, codes), atol=1e-6, rtol=0)


def test_half_precision_is_far_less_than_another_seed(nano: VITS2):
    codes = _codes(40)
    whole, half = _whole(nano, codes), load_vits2(NANO, speaking=True, precision="bf16")
    other = _mel_distance(nano, whole, _whole(nano, codes, seed=SEED + 1))
    assert 0 < _mel_distance(nano, whole, _whole(half, codes)) < 0.1 * other


def test_seams_do_not_click(nano: VITS2):
    codes = _codes(75)
    whole = _whole(nano, codes)
    pieces = _read_all(nano, codes, [12, 14, 24, 25])
    streamed, seam = torch.cat(pieces), 0
    for piece in pieces[:-1]:
        seam += len(piece)
        near = slice(seam - HOP, seam + 2 * HOP)
        assert streamed[near].diff().abs().max() < 1.2 * whole[near].diff().abs().max() + 1e-3


def test_what_was_read_is_settled(nano: VITS2):
    """Other tokens after the look-ahead change nothing of what was handed out before."""
    codes, stream = _codes(30), SoundStream(nano, **_given(nano), seed=SEED)
    stream.push(codes[:12])
    first = stream.read()
    assert len(first) == (12 - LOOK_AHEAD_TOKENS) * TOKEN_SAMPLES
    assert len(stream.read()) == 0
    assert torch.equal(first, _read_all(nano, codes, [12, 18])[0])


def test_more_context_is_nearer_to_the_whole(nano: VITS2):
    codes = _codes(75)
    whole = _whole(nano, codes)
    small, usual, large = (
        _snr_db(whole, torch.cat(_read_all(nano, codes, [20, 20, 35], look_ahead=ahead, left_context=left)))
        for ahead, left in ((2, 4), (LOOK_AHEAD_TOKENS, LEFT_CONTEXT_TOKENS), (20, 40))
    )
    assert small < usual < large


def test_a_short_or_empty_sentence_comes_at_the_end(nano: VITS2):
    stream = SoundStream(nano, **_given(nano), seed=SEED)
    assert len(stream.read()) == 0
    stream.push(_codes(3))
    assert len(stream.read()) == 0
    assert len(stream.read(final=True)) == 3 * TOKEN_SAMPLES
    with pytest.raises(RuntimeError, match="ended"):
        stream.push(_codes(3))
    assert len(SoundStream(nano, **_given(nano), seed=SEED).read(final=True)) == 0


def test_a_look_ahead_must_hold_the_fade(nano: VITS2):
    with pytest.raises(ValueError, match="cross-fade"):
        SoundStream(nano, **_given(nano), seed=SEED, look_ahead=0)


@pytest.mark.parametrize("width", [1, 8, 96, 640])
def test_noise_does_not_depend_on_how_much_is_drawn(width: int):
    at_once, piecewise = NoiseTape(width, 5).rows(0, 100), NoiseTape(width, 5)
    pieces = [piecewise.rows(first, last) for first, last in ((0, 1), (1, 40), (40, 41), (41, 100))]
    assert torch.equal(torch.cat(pieces), at_once)
    assert torch.equal(piecewise.rows(17, 33), at_once[17:33])
    assert at_once.std() == pytest.approx(1.0, abs=0.2)
    assert not torch.equal(NoiseTape(width, 6).rows(0, 100), at_once)


def test_pitch_is_carried_without_the_future():
    f0 = torch.tensor([[0.0, 0.0, 100.0, 120.0, 0.0, 0.0, 0.0, 200.0, 0.0], [0.0] * 9])
    carried = carry_pitch(f0, torch.tensor([150.0, 90.0]))
    assert carried[0].tolist() == [150.0, 100.0, 100.0, 120.0, 120.0, 120.0, 200.0, 200.0, 200.0]
    assert carried[1].tolist() == [90.0] * 9
    for known in range(2, 9):
        assert torch.equal(carry_pitch(f0[:, :known], torch.tensor([150.0, 90.0]))[:, :-1], carried[:, : known - 1])


@pytest.mark.parametrize("frame", [0, 1, 60, 110, 130])
def test_pulses_go_on_in_phase(frame: int):
    f0 = torch.linspace(90.0, 400.0, 150)[None].clone()
    f0[:, 50:70] = f0[:, 100:108] = 0.0
    carried = carry_pitch(f0, torch.tensor([100.0]))
    whole = pulse_train(f0, 32000, 320, carried=carried)
    start = phase_at(carried, frame, 32000, 320)
    rest = pulse_train(f0[:, frame:], 32000, 320, start, carried[:, frame:])
    # The first half frame holds the pitch, where the whole comes from the frame before.
    torch.testing.assert_close(rest[:, 160:], whole[:, frame * 320 + 160 :], atol=5e-3, rtol=0)


@pytest.mark.parametrize("speed", [0.7, 1.3])
def test_time_is_stretched_from_the_left(speed: float):
    """A prefix of what is stretched does not depend on what follows it, for values and for pitch."""
    codes, before = _codes(60)[None, :, 1], torch.tensor([MEDIAN_HZ])
    values = torch.randn(1, 4, 240, generator=torch.Generator().manual_seed(0))

    def stretched(tokens: int, settled: int) -> tuple[torch.Tensor, torch.Tensor]:
        f0 = decode_prosody(codes[:, :tokens], before, 4 * tokens)
        places = places_at(speed, 0, int(4 * settled / speed), values.device)
        return retime(values[:, :, : 4 * tokens], places), retime_f0(f0, carry_pitch(f0, before), places)

    for short, long in zip(stretched(40, 38), stretched(60, 38), strict=True):
        assert torch.equal(short, long)
