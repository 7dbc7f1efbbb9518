"""Laws of the relative-f0 stream."""

import torch

from modules.speech.prosody import decode_prosody, encode_prosody, median_f0


def _contour(centre_hz: float) -> torch.Tensor:
    time = torch.arange(200) / 100
    f0 = centre_hz * torch.exp2(3 * torch.sin(2 * torch.pi * 0.8 * time) / 12)
    f0[60:90] = 0
    return f0.unsqueeze(0)


def test_round_trip_stays_within_a_quarter_tone() -> None:
    f0 = _contour(150.0)
    codes = encode_prosody(f0, 64)
    back = decode_prosody(codes, median_f0(f0), f0.shape[1])
    both = (f0 > 0) & (back > 0)
    semitones = 12 * (back[both] / f0[both]).log2().abs()
    assert semitones.median() < 0.3 and semitones.max() < 1.0
    assert (both.sum() / (f0 > 0).sum()) > 0.95


def test_codes_do_not_know_the_speakers_pitch() -> None:
    low, high = encode_prosody(_contour(90.0), 64), encode_prosody(_contour(240.0), 64)
    assert (low - high).abs().max() <= 1


def test_another_median_transposes_the_contour() -> None:
    codes = encode_prosody(_contour(100.0), 64)
    a = decode_prosody(codes, torch.tensor([100.0]), 200)
    b = decode_prosody(codes, torch.tensor([200.0]), 200)
    torch.testing.assert_close(b, 2 * a)


def test_silence_is_all_unvoiced() -> None:
    codes = encode_prosody(torch.zeros(2, 100), 64)
    assert codes.shape == (2, 25) and not codes.any()
    assert not decode_prosody(codes, torch.zeros(2), 100).any()


def test_voiced_edges_do_not_glide_to_zero() -> None:
    codes = torch.tensor([[0, 0, 40, 40, 0, 0]])
    f0 = decode_prosody(codes, torch.tensor([100.0]), 24)
    voiced = f0[f0 > 0]
    assert len(voiced) == 8 and (voiced.max() / voiced.min()) < 1.001
