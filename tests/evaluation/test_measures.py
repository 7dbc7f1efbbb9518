"""What is measured of sounds and voices: likeness, bands, pitch, runs of codes."""

import math

import numpy as np
import pytest

from modules.evaluation import sound
from modules.evaluation.sound import band_levels_db, clipped_share, pitch_agreement, silent_share
from modules.evaluation.speaking import longest_loop, longest_run
from modules.evaluation.voices import centroid, identified_share, likeness
from tests.evaluation.vectors import unit_vectors


def test_equal_embeddings_are_always_identified_and_foreign_ones_at_chance() -> None:
    rng = np.random.default_rng(0)
    gallery = unit_vectors(rng, 40)
    assert identified_share(gallery, gallery, 20) == 1.0
    foreign = np.mean([identified_share(unit_vectors(rng, 40), gallery, 20, draws=10) for _ in range(5)])
    assert foreign == pytest.approx(1 / 20, abs=0.05)
    assert identified_share(gallery, gallery, 20, seed=1) == identified_share(gallery, gallery, 20, seed=1)


def test_likeness_tells_same_from_different_and_knows_genders() -> None:
    gallery = np.eye(4)
    queries = np.stack([centroid([gallery[i], gallery[i] + 0.1 * gallery[(i + 1) % 4]]) for i in range(4)])
    found = likeness(queries, gallery, ["male", "male", "female", "female"], 4)
    assert found.same > 0.99 and found.identified == found.nearest_of_all == 1.0
    assert found.different == pytest.approx((queries.sum() - np.trace(queries)) / 12)
    assert math.isnan(likeness(queries, gallery, [""] * 4, 4).different_alike)
    assert np.linalg.norm(centroid(queries)) == pytest.approx(1.0)
    assert found.low <= found.same <= found.high and found.identified_low == found.identified_high == 1.0
    copies = likeness(gallery, gallery, [""] * 4, 4, own=[False, False, True, False])
    assert copies.same == 1.0 and math.isnan(likeness(gallery, gallery, [""] * 4, 4, own=[False] * 4).same)


def test_band_levels_do_not_depend_on_level_and_follow_a_filter() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(64000)
    levels = band_levels_db(noise, 32000)
    assert levels.shape == (8,)
    assert np.allclose(levels, band_levels_db(0.01 * noise, 32000), atol=0.1)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(64000, 1 / 32000) > 4000] *= 0.1
    change = band_levels_db(np.fft.irfft(spectrum), 32000) - levels
    assert change[0] - change[-1] == pytest.approx(20, abs=1.0)
    assert np.isfinite(band_levels_db(np.zeros(100), 32000)).all()


def test_clipping_and_silence_are_counted() -> None:
    wav = np.concatenate([np.zeros(16000), 0.5 * np.ones(16000)]).astype(np.float32)
    assert silent_share(wav, 16000) == pytest.approx(0.5)
    assert clipped_share(wav) == 0.0 and clipped_share(np.array([1.0, -1.0, 0.0])) == pytest.approx(2 / 3)
    assert silent_share(np.zeros(0), 16000) == 0.0


def test_pitch_agreement_in_semitones() -> None:
    reference = [100.0, 150.0, 200.0, 0.0]
    same = pitch_agreement(reference, reference)
    assert same["correlation"] == pytest.approx(1) and same["semitones"] == 0 and same["speakers"] == 3
    octave = pitch_agreement(reference, [200.0, 300.0, 400.0, 90.0])
    assert octave["correlation"] == pytest.approx(1) and octave["semitones"] == pytest.approx(12)
    assert octave["within_two"] == 0
    assert math.isnan(pitch_agreement([100.0], [100.0])["correlation"])
    rough = pitch_agreement([100, 120, 150, 190, 210, 230], [110, 112, 170, 160, 240, 215])
    assert rough["low"] < rough["correlation"] < rough["high"] <= 1.0
    assert np.isnan(sound.recorded_bands(np.array([-10.0, -70.0]))).tolist() == [False, True]


def test_harvest_hears_the_pitch_of_a_tone() -> None:
    pytest.importorskip("pyworld")
    time = np.arange(16000) / 16000
    wav = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 10)).astype(np.float32) * 0.2
    assert sound.median_f0_hz(wav) == pytest.approx(140, rel=0.02)


def test_runs_and_loops_of_codes() -> None:
    assert longest_run(np.array([1, 1, 2, 2, 2, 3])) == 3 and longest_run(np.array([])) == 0
    assert longest_loop(np.arange(30)) == 1
    assert longest_loop(np.tile(np.arange(5), 4)) == 4
    assert longest_loop(np.array([], dtype=np.int64)) == 0
