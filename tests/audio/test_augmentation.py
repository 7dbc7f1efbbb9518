"""Laws of the effects that degrade clips, one each, and of the chain that draws them."""

import numpy as np
import pytest

from modules.audio import effects
from modules.audio.augmentation import EFFECTS, AugmentOptions, augment, playing_speed

RATE = 16000
EVERYTHING = AugmentOptions(**dict.fromkeys(("degraded", *EFFECTS), 1.0))


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _voice(seconds: float = 1.5, pitch_hz: float = 120.0, rate: int = RATE) -> np.ndarray:
    """A buzz with a formant at 700 Hz and one at 2500 Hz, in syllables."""
    time = np.arange(int(seconds * rate)) / rate
    wav = np.zeros_like(time)
    for number in range(1, int(0.45 * rate / pitch_hz)):
        hz = number * pitch_hz
        strength = sum(1 / (1 + ((hz - formant) / 120) ** 2) for formant in (700, 2500)) + 0.02
        wav += strength * np.sin(2 * np.pi * hz * time)
    wav *= 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    return (0.3 * wav / np.abs(wav).max()).astype(np.float32)


def _power(wav: np.ndarray) -> float:
    return float(np.mean(np.square(wav, dtype=np.float64)))


def _band_power(wav: np.ndarray, low_hz: float, high_hz: float, rate: int = RATE) -> float:
    """Power between two frequencies, of any scale."""
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    hz = np.fft.rfftfreq(len(wav), 1 / rate)
    return float(spectrum[(hz >= low_hz) & (hz < high_hz)].sum())


def _pitch_hz(wav: np.ndarray) -> float:
    """By the highest peak of the autocorrelation between 60 and 400 Hz."""
    spectrum = np.fft.rfft(wav, 2 * len(wav))
    close = np.fft.irfft(np.abs(spectrum) ** 2)[: RATE // 60]
    shortest = RATE // 400
    return RATE / (shortest + int(close[shortest:].argmax()))


CHANGES = {
    "white": lambda w, r: effects.add_noise(w, effects.white_noise(len(w), r), 10),
    "pink": lambda w, r: effects.add_noise(w, effects.coloured_noise(len(w), r), 10),
    "room noise": lambda w, r: effects.add_noise(w, effects.room_noise(len(w), r), 10),
    "hum": lambda w, r: effects.add_noise(w, effects.mains_hum(len(w), RATE, r), 10),
    "babble": lambda w, r: effects.add_noise(w, effects.babble(len(w), [_voice(0.4, 210)], r), 10),
    "reverberation": lambda w, r: effects.reverberate(w, effects.impulse_response(RATE, 0.5, 5, r)),
    "telephone": lambda w, r: effects.limit_band(w, RATE, 300, 3400),
    "colour": lambda w, r: effects.limit_band(w, RATE, 60, 8000, 2, [6, -6, 3]),
    "8 kHz": lambda w, r: effects.through_rate(w, RATE),
    "mu-law": lambda w, r: effects.mu_law(w),
    "few bits": lambda w, r: effects.quantise(w, 5),
    "adaptive bits": lambda w, r: effects.adaptive_quantise(w, 3),
    "thinned out": lambda w, r: effects.thin_out(w, RATE, 0.1),
    "overload": lambda w, r: effects.overload(w, 0.3),
    "formants": lambda w, r: effects.shift_formants(w, RATE, 1.15),
    "pitch": lambda w, r: effects.shift_pitch(w, RATE, 1.12),
    "everything": lambda w, r: augment(w, RATE, EVERYTHING, r, lambda _: [_voice(0.4, 210)]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_length_stays_and_what_comes_out_is_sound(change) -> None:
    for samples in (1999, 16000, 24001):
        wav = _voice(2)[:samples]
        before = wav.copy()
        changed = change(wav, _rng())
        assert changed.shape == wav.shape and changed.dtype == np.float32
        assert np.isfinite(changed).all() and _power(changed) > 1e-3 * _power(wav)
        assert not np.array_equal(changed, wav) and np.array_equal(wav, before)
        np.testing.assert_array_equal(change(wav, _rng()), changed)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_silence_stays_silent(change) -> None:
    changed = change(np.zeros(8000, np.float32), _rng())
    assert np.isfinite(changed).all() and not changed.any()


@pytest.mark.parametrize("snr_db", [-5.0, 5.0, 25.0])
@pytest.mark.parametrize("name", ["white", "coloured", "room", "hum", "babble"])
def test_noise_lies_as_far_below_as_asked(name: str, snr_db: float) -> None:
    wav = _voice()
    noise = {
        "white": lambda r: effects.white_noise(len(wav), r),
        "coloured": lambda r: effects.coloured_noise(len(wav), r, 2.0),
        "room": lambda r: effects.room_noise(len(wav), r),
        "hum": lambda r: effects.mains_hum(len(wav), RATE, r),
        "babble": lambda r: effects.babble(len(wav), [_voice(0.5, 200), _voice(0.7, 90)], r),
    }[name](_rng(3))
    added = effects.add_noise(wav, noise, snr_db) - wav
    assert abs(10 * np.log10(_power(wav) / _power(added)) - snr_db) < 0.5


def test_pink_noise_has_equal_power_in_every_octave() -> None:
    noise = effects.coloured_noise(RATE * 8, _rng())
    octaves = [_band_power(noise, hz, 2 * hz) for hz in (125, 250, 500, 1000, 2000, 4000)]
    assert np.ptp(10 * np.log10(octaves)) < 1.5


def test_hum_stands_on_the_harmonics_of_the_mains() -> None:
    hum = effects.mains_hum(RATE * 2, RATE, _rng())
    assert max(sum(_band_power(hum, k * b - 4, k * b + 4) for k in range(1, 9)) for b in (50, 60)) > 0.99 * _band_power(
        hum, 0, 8000
    )


@pytest.mark.parametrize("rt60", [0.15, 0.4, 0.8])
def test_a_room_falls_by_sixty_decibels_in_its_time(rt60: float) -> None:
    response = effects.impulse_response(RATE, rt60, 3.0, _rng())
    late = response[1:]
    assert response[0] == 1.0 and abs(10 * np.log10(1 / np.square(late).sum()) - 3.0) < 0.1
    # Schroeder's backward integral between -5 and -25 dB, as rooms are measured.
    left = 10 * np.log10(np.cumsum(np.square(late[::-1], dtype=np.float64))[::-1] / np.square(late).sum() + 1e-12)
    five, twenty_five = (int(np.argmax(left < level)) for level in (-5, -25))
    assert abs(3 * (twenty_five - five) / RATE - rt60) < 0.3 * rt60


def test_a_room_starts_with_the_direct_sound() -> None:
    click = np.zeros(RATE, np.float32)
    click[3000] = 1.0
    wet = effects.reverberate(click, effects.impulse_response(RATE, 0.5, 0.0, _rng()))
    assert np.abs(wet).argmax() == 3000 and np.abs(wet[:3000]).max() < 1e-4 < np.abs(wet[3100:5000]).max()


def test_a_telephone_has_no_lows_and_no_highs() -> None:
    noise = effects.white_noise(RATE * 2, _rng())
    limited = effects.limit_band(noise, RATE, 300, 3400)
    kept = _band_power(limited, 600, 2800) / _band_power(noise, 600, 2800)
    for low, high in ((0, 200), (5000, 8000)):
        assert _band_power(limited, low, high) / _band_power(noise, low, high) < 1e-3 * kept
    assert abs(_power(limited) / _power(noise) - 1) < 1e-3


def test_a_filter_does_not_move_what_it_keeps() -> None:
    wav = _voice()
    limited = effects.limit_band(wav, RATE, 300, 3400)
    lag = np.correlate(limited, wav[200:-200], "valid").argmax() - 200
    assert lag == 0


def test_a_lower_rate_takes_what_it_cannot_hold() -> None:
    noise = effects.white_noise(RATE * 2, _rng())
    through = effects.through_rate(noise, RATE)
    assert _band_power(through, 4100, 8000) < 1e-4 * _band_power(through, 100, 3500)
    np.testing.assert_array_equal(effects.through_rate(noise, 8000), noise)


def test_steps_are_as_many_as_the_bits_allow() -> None:
    wav = _voice()
    assert len(np.unique(effects.quantise(wav, 4))) <= 16
    assert len(np.unique(effects.mu_law(wav))) <= 256


def test_more_bits_are_less_noise() -> None:
    wav = _voice()
    for codec in (effects.quantise, effects.adaptive_quantise):
        errors = [_power(codec(wav, bits) - wav) for bits in (2, 4, 6)]
        assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert 10 * np.log10(_power(wav) / _power(effects.mu_law(wav) - wav)) > 30
    kept = [_power(effects.thin_out(wav, RATE, share) - wav) for share in (0.05, 1.0)]
    assert kept[1] < kept[0] and kept[1] < 0.02 * _power(wav)


def test_an_overload_flattens_the_peaks() -> None:
    wav = _voice()
    changed = effects.overload(wav, 0.4)
    assert np.isclose(np.abs(changed).max(), np.abs(wav).max())
    soft = np.abs(wav) < 0.4 * np.abs(wav).max()
    np.testing.assert_allclose(changed[soft], wav[soft] / 0.4, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.85, 1.18])
def test_pitch_moves_and_syllables_stay(factor: float) -> None:
    wav = _voice(2.0)
    changed = effects.shift_pitch(wav, RATE, factor)
    assert abs(_pitch_hz(changed) / _pitch_hz(wav) / factor - 1) < 0.03
    loudness = [np.sqrt(np.square(w[:32000]).reshape(-1, 320).mean(1)) for w in (wav, changed)]
    assert np.corrcoef(*loudness)[0, 1] > 0.9


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_formants_move_and_pitch_stays(factor: float) -> None:
    wav = _voice(2.0)
    changed = effects.shift_formants(wav, RATE, factor)
    assert abs(_pitch_hz(changed) / _pitch_hz(wav) - 1) < 0.02
    bands = [[_band_power(w, hz - 60, hz + 60) for hz in range(1800, 3400, 60)] for w in (wav, changed)]
    centres = [float(np.dot(b, range(1800, 3400, 60)) / np.sum(b)) for b in bands]
    assert abs(centres[1] / centres[0] - 1) > 0.4 * abs(factor - 1) and (centres[1] > centres[0]) == (factor > 1)


def test_no_share_is_no_change() -> None:
    wav = _voice()
    for options in (AugmentOptions().scaled(0.0), AugmentOptions(degraded=1, speed=1).without(EFFECTS)):
        for seed in range(20):
            np.testing.assert_array_equal(augment(wav, RATE, options, _rng(seed), lambda _: [wav]), wav)
            assert playing_speed(options, _rng(seed)) == 1.0


def test_a_moderate_share_of_clips_is_degraded() -> None:
    wav = _voice(0.3)
    share = {}
    for strength in (0.5, 1.0):
        options = AugmentOptions().scaled(strength).without(("faint_noise",))
        share[strength] = np.mean([augment(wav, RATE, options, _rng(s)) is not wav for s in range(400)])
    assert 0.3 < share[1.0] < 0.5 and 0.1 < share[0.5] < 0.3


def test_speed_stays_near_what_it_was() -> None:
    speeds = [playing_speed(AugmentOptions(speed=1), _rng(s)) for s in range(200)]
    assert 0.92 <= min(speeds) < 0.95 and 1.05 < max(speeds) <= 1.08


def test_babble_is_asked_for_only_when_wanted() -> None:
    wav, asked = _voice(), []
    voices = lambda rng: asked.append(1) or [wav]  # noqa: E731
    augment(wav, RATE, EVERYTHING.without(("babble",)), _rng(), voices)
    assert not asked
    augment(wav, RATE, EVERYTHING, _rng(), voices)
    assert asked == [1]


def test_a_reference_keeps_its_voice() -> None:
    options = AugmentOptions.of_references(1.0)
    assert (options.formants, options.pitch, options.speed, options.degraded) == (0, 0, 0, 1)
    wav = _voice(2.0)
    for seed in range(20):
        assert abs(_pitch_hz(augment(wav, RATE, options.without(("noise",)), _rng(seed))) / _pitch_hz(wav) - 1) < 0.02
    assert augment(wav, RATE, AugmentOptions.of_references(0.0), _rng()) is wav


def test_clips_too_short_to_change_stay() -> None:
    wav = _voice()[:1000]
    np.testing.assert_array_equal(augment(wav, RATE, EVERYTHING, _rng()), wav)
