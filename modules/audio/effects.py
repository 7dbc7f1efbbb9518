"""What happens to a voice on its way into a file: rooms, noise, microphones, lines and codecs.

Each function takes a wav float32 [S] and gives one of the same length whose events stay at their times; what is random
comes from the generator handed in. A silent wav stays silent. Shapes: S samples, L of an impulse response, F frames,
K frequency bins.
"""

from collections.abc import Sequence

import numpy as np

from modules.audio.resample import resample

_FRAME_SECONDS = 0.064
_HOPS_PER_FRAME = 4
_FADE_SECONDS = 0.25
_MU = 255.0
_FURTHEST = 30.0
"""Further outside the band than this the response falls no more: float32 would overflow."""
_QUANTISER_BLOCK = 32
_ENVELOPE_HZ = 350.0
_STEP_DB = 3.0


def add_noise(wav: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """wav + noise, scaled so that their mean powers lie `snr_db` apart; noise [S]."""
    wanted = np.sqrt(np.mean(np.square(wav)) / max(float(np.mean(np.square(noise))), 1e-12))
    return wav + noise * np.float32(wanted * 10 ** (-snr_db / 20))


def white_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Equal power at all frequencies, [S]."""
    return rng.standard_normal(samples, dtype=np.float32)


def coloured_noise(samples: int, rng: np.random.Generator, fall: float = 1.0) -> np.ndarray:
    """Power that falls as 1 / frequency**fall: 1 is pink, 2 is brown; [S]."""
    spectrum = np.fft.rfft(_padded(white_noise(samples, rng), 0))
    bins = np.maximum(np.arange(len(spectrum), dtype=np.float32), 1)
    return np.fft.irfft(spectrum * bins ** np.float32(-fall / 2))[:samples].astype(np.float32)


def room_noise(samples: int, rng: np.random.Generator, smooth_samples: int = 12) -> np.ndarray:
    """Noise with the fall of a ventilator's rush, [S]: white noise through a moving mean."""
    noise = white_noise(samples, rng)
    total = np.cumsum(noise)
    noise[smooth_samples:] = total[smooth_samples:] - total[:-smooth_samples]
    return noise


def mains_hum(samples: int, rate: int, rng: np.random.Generator, harmonics: int = 8) -> np.ndarray:
    """50 or 60 Hz with harmonics of random strength, the odd ones louder; [S]."""
    base_hz = 50.0 if rng.random() < 0.5 else 60.0
    time = np.arange(samples, dtype=np.float32) * np.float32(2 * np.pi * base_hz / rate)
    hum = np.zeros(samples, dtype=np.float32)
    for number in range(1, harmonics + 1):
        strength = rng.uniform(0.2, 1.0) / number * (1.0 if number % 2 else 0.5)
        hum += np.float32(strength) * np.sin(np.float32(number) * time + np.float32(rng.uniform(0, 2 * np.pi)))
    return hum


def babble(samples: int, voices: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Other people's speech: voices [any length] at about the same level, each from a random place on and repeated
    as often as needed; [S]. Without a voice that sounds it is silence."""
    total = np.zeros(samples, dtype=np.float32)
    for voice in voices:
        level = float(np.sqrt(np.mean(np.square(voice)))) if len(voice) else 0.0
        if level > 0:
            turned = np.roll(voice, -int(rng.integers(len(voice))))
            total += np.resize(turned, samples) * np.float32(10 ** (rng.uniform(-4, 4) / 20) / level)
    return total


def impulse_response(rate: int, rt60_seconds: float, direct_to_late_db: float, rng: np.random.Generator) -> np.ndarray:
    """A room's answer [L]: 1 at the start, and after 2 to 12 ms noise that has fallen by 60 dB after `rt60_seconds`,
    the high frequencies sooner, its energy `direct_to_late_db` below that of the direct sound.

    The statistical model of late reverberation after Polack 1988.
    """
    length = max(8, int(rt60_seconds * rate))
    time = np.arange(length, dtype=np.float32) / np.float32(rt60_seconds * rate)
    decay = np.float32(np.log(1e-3))
    noise = white_noise(length, rng)
    dull = np.convolve(noise, np.full(6, 1 / 6, dtype=np.float32))[:length]
    late = (noise * np.exp(decay * 2.5 * time) + 2 * dull * np.exp(decay * time)).astype(np.float32)
    late[: min(length - 1, 1 + int(rng.uniform(0.002, 0.012) * rate))] = 0
    late *= np.float32(10 ** (-direct_to_late_db / 20)) / max(float(np.sqrt(np.square(late).sum())), 1e-9)
    late[0] = 1.0
    return late


def reverberate(wav: np.ndarray, response: np.ndarray) -> np.ndarray:
    """wav through a room's answer [L], at the level that it had."""
    padded = _padded(wav, len(response))
    wet = np.fft.irfft(np.fft.rfft(padded) * np.fft.rfft(response, len(padded)))[: len(wav)]
    return same_level(wet, wav)


def limit_band(
    wav: np.ndarray,
    rate: int,
    low_hz: float,
    high_hz: float,
    order: int = 8,
    colour_db: Sequence[float] = (),
) -> np.ndarray:
    """wav with what lies outside [low_hz, high_hz] taken away, at the level that it had.

    The response is a Butterworth's without its phase, so nothing moves in time.

    Args:
        low_hz: 0 keeps the lowest.
        high_hz: at or above half the rate keeps the highest.
        order: 6 dB per octave each.
        colour_db: gains at points evenly spaced over the logarithm of the band, the microphone's own colour.
    """
    padded = _padded(wav, int(_FADE_SECONDS * rate))
    hz = np.fft.rfftfreq(len(padded), 1 / rate).astype(np.float32)
    hz[0] = hz[1] / 2
    gain = np.ones_like(hz)
    if low_hz > 0:
        gain /= np.sqrt(1 + np.minimum(low_hz / hz, _FURTHEST) ** (2 * order))
    if high_hz < rate / 2:
        gain /= np.sqrt(1 + np.minimum(hz / high_hz, _FURTHEST) ** (2 * order))
    if len(colour_db):
        points = np.geomspace(max(low_hz, 60.0), min(high_hz, rate / 2), len(colour_db))
        gain *= 10 ** (np.interp(np.log(hz), np.log(points), colour_db).astype(np.float32) / 20)
    return same_level(np.fft.irfft(np.fft.rfft(padded) * gain)[: len(wav)], wav)


def through_rate(wav: np.ndarray, rate: int, low_rate: int = 8000) -> np.ndarray:
    """wav at a lower rate and back."""
    if low_rate >= rate:
        return wav
    return fit_length(resample(resample(wav, rate, low_rate), low_rate, rate), len(wav))


def mu_law(wav: np.ndarray) -> np.ndarray:
    """wav through the 8 bits of a telephone line (ITU-T G.711, mu-law, as a continuous curve)."""
    peak = _peak(wav)
    curve = np.sign(wav) * np.log1p(_MU * np.abs(wav) / peak) / np.log1p(_MU)
    curve = np.round(curve * 127) / 127
    return (np.sign(curve) * np.expm1(np.abs(curve) * np.log1p(_MU)) / _MU * peak).astype(np.float32)


def quantise(wav: np.ndarray, bits: int) -> np.ndarray:
    """wav in 2**bits even steps between its peaks."""
    steps = np.float32((2 ** (bits - 1) - 1) / _peak(wav))
    return np.round(wav * steps) / steps


def adaptive_quantise(wav: np.ndarray, bits: int) -> np.ndarray:
    """wav in 2**bits steps between the peaks of each 32 samples, about as noisy as ADPCM of so many bits."""
    blocks = fit_length(wav, -(-len(wav) // _QUANTISER_BLOCK) * _QUANTISER_BLOCK).reshape(-1, _QUANTISER_BLOCK)
    steps = np.float32(2 ** (bits - 1) - 1) / np.maximum(np.abs(blocks).max(axis=1, keepdims=True), 1e-9)
    return (np.round(blocks * steps) / steps).reshape(-1)[: len(wav)].astype(np.float32)


def thin_out(wav: np.ndarray, rate: int, keep: float) -> np.ndarray:
    """wav of which each 64 ms keep only their strongest share `keep` of frequencies, in steps of 3 dB: the watery
    sound of a transform codec at a low bit rate."""
    frames = _spectra(wav, rate)
    size = np.abs(frames)
    weakest = np.partition(size, -max(1, round(keep * size.shape[1])), axis=1)[:, -max(1, round(keep * size.shape[1]))]
    log_step = np.float32(_STEP_DB / 20 * np.log(10))
    stepped = np.exp(np.round(np.log(np.maximum(size, 1e-9)) / log_step) * log_step)
    gain = np.where(size >= np.maximum(weakest, 1e-9)[:, None], stepped / np.maximum(size, 1e-9), 0)
    return same_level(_wav(frames * gain.astype(np.float32), rate, len(wav)), wav)


def overload(wav: np.ndarray, ceiling: float) -> np.ndarray:
    """wav cut off at `ceiling` of its peak, the peak staying what it was."""
    limit = np.float32(ceiling * _peak(wav))
    return np.clip(wav, -limit, limit) / np.float32(ceiling)


def shift_formants(wav: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """wav as of a vocal tract shorter by `factor` (formants times factor), pitch and timing kept: the envelope of
    each frame's spectrum, a moving mean over 350 Hz, is moved along the frequencies."""
    frames = _spectra(wav, rate)
    bins = frames.shape[1]
    width = max(3, round(_ENVELOPE_HZ * 2 * (bins - 1) / rate) | 1)
    power = np.square(frames.real) + np.square(frames.imag)
    edges = np.pad(power, ((0, 0), (width // 2 + 1, width // 2)), mode="edge")
    total = np.cumsum(edges, axis=1, dtype=np.float64)
    envelope = np.sqrt((total[:, width:] - total[:, :-width]) / width + 1e-10).astype(np.float32)
    source = np.minimum(np.arange(bins, dtype=np.float32) / np.float32(factor), bins - 1)
    low = np.minimum(source.astype(np.int64), bins - 2)
    part = source - low
    moved = envelope[:, low] * (1 - part) + envelope[:, low + 1] * part
    return same_level(_wav(frames * (moved / envelope), rate, len(wav)), wav)


def shift_pitch(wav: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """wav with pitch and formants times `factor`, timing kept to a few milliseconds: played at another rate, then put
    together anew from overlapping pieces (WSOLA, Verhelst and Roelands 1993)."""
    played = resample(wav, round(rate * factor), rate)
    if len(played) == len(wav):
        return wav
    piece, reach = 2 * int(0.016 * rate), int(0.006 * rate)
    hop = piece // 2
    window = np.hanning(piece + 1)[:piece].astype(np.float32)
    count = -(-len(wav) // hop) + 1
    ratio = len(played) / len(wav)
    source = np.pad(played, (hop + reach, piece + 3 * reach + hop))
    out = np.zeros((count + 1) * hop, dtype=np.float32)
    expected = source[reach : reach + piece]
    for number in range(count):
        start = min(int(number * hop * ratio), len(source) - piece - 2 * reach)
        near = source[start : start + piece + 2 * reach]
        at = start + int(np.correlate(near, expected, "valid").argmax())
        out[number * hop : number * hop + piece] += source[at : at + piece] * window
        expected = source[at + hop : at + hop + piece]
        if len(expected) < piece:
            expected = np.pad(expected, (0, piece - len(expected)))
    return same_level(out[hop : hop + len(wav)], wav)


def same_level(changed: np.ndarray, wav: np.ndarray) -> np.ndarray:
    """`changed` at the mean power of wav; wav itself where nothing is left of it."""
    power, wanted = float(np.mean(np.square(changed))), float(np.mean(np.square(wav)))
    if not power > 1e-6 * wanted:
        return wav
    return (changed * np.float32(np.sqrt(wanted / power))).astype(np.float32)


def fit_length(wav: np.ndarray, samples: int) -> np.ndarray:
    """wav cut, or padded with zeros, to so many samples."""
    return wav[:samples] if len(wav) >= samples else np.pad(wav, (0, samples - len(wav)))


def _spectra(wav: np.ndarray, rate: int) -> np.ndarray:
    """Windowed frames [F, K] complex64, a quarter of a frame apart."""
    hop = int(_FRAME_SECONDS * rate / _HOPS_PER_FRAME)
    size = hop * _HOPS_PER_FRAME
    padded = np.pad(wav, (size - hop, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.fft.rfft(frames * _window(size), axis=1).astype(np.complex64)


def _wav(spectra: np.ndarray, rate: int, samples: int) -> np.ndarray:
    """The inverse of `_spectra`: overlap and add."""
    hop = int(_FRAME_SECONDS * rate / _HOPS_PER_FRAME)
    size = hop * _HOPS_PER_FRAME
    frames = np.fft.irfft(spectra, size, axis=1).astype(np.float32) * _window(size)
    rows = np.zeros((len(frames) + _HOPS_PER_FRAME - 1, hop), dtype=np.float32)
    for part in range(_HOPS_PER_FRAME):
        rows[part : part + len(frames)] += frames[:, part * hop : (part + 1) * hop]
    # Squared Hann windows a quarter apart add up to 1.5.
    return rows.reshape(-1)[size - hop : size - hop + samples] / np.float32(1.5)


def _window(size: int) -> np.ndarray:
    return np.hanning(size + 1)[:size].astype(np.float32)


def _padded(wav: np.ndarray, more: int) -> np.ndarray:
    """wav followed by at least `more` zeros, in a length that transforms fast."""
    needed = max(len(wav) + more, 8)
    power = 2 ** max(0, int(np.ceil(np.log2(needed))) - 3)
    return fit_length(wav, -(-needed // power) * power)


def _peak(wav: np.ndarray) -> float:
    return max(float(np.abs(wav).max(initial=0.0)), 1e-9)
