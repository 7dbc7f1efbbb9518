"""Laws of the pitch tracker: it finds the period that was put in, and nothing where there is none."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.audio.io import read
from modules.audio.pitch import track_f0

RATE = 16000


def _harmonic(f0_hz: Tensor, rate: int, harmonics: int = 30, skip_first: bool = False) -> Tensor:
    """Tone whose f0 follows f0_hz [S] with harmonics falling by 6 dB per octave, below half the rate."""
    phase = 2 * math.pi * torch.cumsum(f0_hz.double(), 0) / rate
    parts = range(2 if skip_first else 1, harmonics + 1)
    wav = sum(torch.sin(n * phase) / n * (n * f0_hz < 0.45 * rate) for n in parts)
    return (0.1 * wav).float()


def _constant(hz: float, seconds: float = 0.6, rate: int = RATE) -> Tensor:
    return torch.full((int(seconds * rate),), hz)


@pytest.mark.parametrize("hz", [60.0, 82.0, 110.0, 155.5, 233.3, 310.0, 440.0, 523.0, 700.0, 780.0])
@pytest.mark.parametrize("rate", [16000, 32000, 44100])
def test_tones_are_exact(hz: float, rate: int) -> None:
    f0 = track_f0(_harmonic(_constant(hz, rate=rate), rate)[None], rate)[0]
    voiced = f0 > 0
    assert voiced[3:-3].all()
    assert float((f0[voiced] / hz - 1).abs().max()) < 0.01


@pytest.mark.parametrize("hz", [90.0, 150.0, 240.0])
def test_missing_fundamental_is_heard(hz: float) -> None:
    f0 = track_f0(_harmonic(_constant(hz), RATE, skip_first=True)[None], RATE)[0][3:-3]
    assert float((f0 / hz - 1).abs().max()) < 0.01


@pytest.mark.parametrize(
    "contour",
    [
        lambda t: 100 * 2**t,
        lambda t: 400 * 2**-t,
        lambda t: 150 * 2 ** (0.5 * torch.sin(4 * math.pi * t)),
        lambda t: 220 * 2 ** (torch.sin(10 * math.pi * t) / 12),
    ],
    ids=["octave up", "octave down", "swing", "vibrato"],
)
def test_glides_are_followed(contour: Callable[[Tensor], Tensor]) -> None:
    f0 = track_f0(_harmonic(contour(torch.arange(2 * RATE) / RATE), RATE)[None], RATE)[0]
    truth = contour((torch.arange(len(f0)) + 0.5) / 100)
    assert float((f0 > 0).float().mean()) > 0.97
    assert float((f0 / truth - 1).abs()[3:-3].max()) < 0.015


@pytest.mark.parametrize("samples", [0, 1, 100, 159, 160, 161, 1000, 16000, 16159])
def test_frame_count(samples: int) -> None:
    for frame_rate in (50.0, 100.0, 86.13):
        f0 = track_f0(torch.randn(2, samples), RATE, frame_rate)
        assert f0.shape == (2, math.floor(samples * frame_rate / RATE))


def test_silence_and_noise_are_unvoiced() -> None:
    torch.manual_seed(0)
    assert not track_f0(torch.zeros(1, RATE), RATE).any()
    assert not track_f0(torch.full((1, RATE), 0.3), RATE).any()
    assert float((track_f0(0.1 * torch.randn(1, 3 * RATE), RATE) > 0).float().mean()) < 0.05


def test_voicing_starts_and_ends_with_the_tone() -> None:
    wav = torch.zeros(RATE)
    wav[RATE // 4 : RATE // 2] = _harmonic(_constant(180, 0.25), RATE)
    voiced = (track_f0(wav[None], RATE)[0] > 0).nonzero().flatten()
    assert int(voiced[0]) == pytest.approx(25, abs=2) and int(voiced[-1]) == pytest.approx(49, abs=2)
    assert len(voiced) == int(voiced[-1] - voiced[0]) + 1


def test_noise_offset_and_level_do_not_move_the_pitch() -> None:
    torch.manual_seed(0)
    clean = _harmonic(_constant(130, 1), RATE)
    for wav in (clean * 1e-3, clean + 0.2, clean + 0.03 * torch.randn(RATE)):
        f0 = track_f0(wav[None], RATE)[0][5:-5]
        assert float((f0 > 0).float().mean()) > 0.95
        assert float((f0[f0 > 0] / 130 - 1).abs().max()) < 0.02


def test_batch_equals_single_and_padding_adds_nothing() -> None:
    rows = [_harmonic(_constant(hz, seconds), RATE) for hz, seconds in ((100, 0.5), (210, 0.9), (330, 1.3))]
    batch = track_f0(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), RATE)
    for row, tracked in zip(rows, batch):
        alone = track_f0(row[None], RATE)[0]
        assert torch.allclose(alone, tracked[: len(alone)], rtol=1e-4)
        assert not tracked[len(alone) + 3 :].any()


def test_blocks_join_without_a_seam() -> None:
    f0 = track_f0(_harmonic(_constant(200, 12), RATE)[None], RATE)[0]
    assert float((f0[3:-3] / 200 - 1).abs().max()) < 0.005


def test_agrees_with_world_on_speech(speech_dir: Path | None) -> None:
    """Where WORLD's two trackers agree with each other, ours agrees with them (alone, each errs by octaves too)."""
    pyworld = pytest.importorskip("pyworld")
    if speech_dir is None:
        pytest.skip("needs --speech")
    cents = []
    for path in sorted((speech_dir / "clips").glob("*.flac"))[::17]:
        wav = read(path, RATE)[: 2 * RATE]
        ours = track_f0(wav[None], RATE)[0].numpy()
        samples = wav.double().numpy()
        tracks = []
        for tracker in (pyworld.dio, pyworld.harvest):
            rough, times = tracker(samples, RATE, f0_floor=55, f0_ceil=800, frame_period=5)
            # Every second 5 ms frame of WORLD is the centre of one of ours.
            tracks.append(pyworld.stonemask(samples, rough, times, RATE)[1::2][: len(ours)])
        logs = [np.log2(np.maximum(track, 1)) for track in (*tracks, ours[: len(tracks[0])])]
        sure = (np.minimum(logs[0], logs[1]) > 0) & (np.abs(logs[0] - logs[1]) < 50 / 1200) & (logs[2] > 0)
        cents.append(1200 * np.abs(logs[2] - logs[1])[sure])
    errors = np.concatenate(cents)
    assert len(errors) > 150
    assert np.mean(errors < 50) > 0.94
    assert np.mean(errors > 700) < 0.005
