"""Speech with phone timing from eSpeak NG. One engine per test process: the library has global state."""

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("pypinyin")

from modules.corpus.espeak import SAMPLE_RATE, Espeak, VoiceSettings
from modules.corpus.phones import INVENTORY, PAUSE
from modules.errors import UserError

TEXTS = {
    "en": "Hello there, how are you? I am 42.",
    "de": "Es gibt viele Bücher, wirklich schön.",
    "es": "¿Qué tal, niño? El perro y la calle.",
    "zh": "你好，中国人民银行。我有12本书。",
}


@pytest.fixture(scope="module")
def engine() -> Espeak:
    return Espeak({"xtest": "language variant\nname xtest\npitch 150 220\nformant 1 110 100 100\n"})


def median_f0(wav: np.ndarray) -> float:
    """f0 in Hz of a voiced sound: median over frames of the smallest lag that correlates nearly as well as the best."""
    size, low, high = SAMPLE_RATE // 20, SAMPLE_RATE // 350, SAMPLE_RATE // 60
    found = []
    for start in range(0, max(1, len(wav) - size), size // 2):
        frame = wav[start : start + size].astype(np.float64)
        spectrum = np.fft.rfft(frame - frame.mean(), 2 * size)
        correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:high] / (size - np.arange(high))
        peaks = [
            lag
            for lag in range(low, high - 1)
            if correlation[lag - 1] <= correlation[lag] >= correlation[lag + 1]
        ]
        best = max((correlation[lag] for lag in peaks), default=0.0)
        found += [SAMPLE_RATE / lag for lag in peaks if correlation[lag] >= 0.85 * best][:1]
    return float(np.median(found))


@pytest.mark.parametrize("language", TEXTS)
def test_phones_cover_the_audio_in_order(engine: Espeak, language: str) -> None:
    speech = engine.speak(TEXTS[language], language, VoiceSettings("f3"))
    assert speech.samples.dtype == np.int16 and len(speech.samples) > SAMPLE_RATE
    assert len(speech.phones) == len(speech.phone_ends) > 10
    assert np.all(np.diff(speech.phone_ends) >= 0)
    assert speech.phone_ends[0] > 0 and speech.phone_ends[-1] == len(speech.samples)
    assert set(speech.phones) <= set(INVENTORY)
    assert PAUSE in speech.phones


@pytest.mark.parametrize("language", TEXTS)
def test_phonemes_of_text_agree_with_the_spoken_ones(engine: Espeak, language: str) -> None:
    spoken = [p for p in engine.speak(TEXTS[language], language).phones if p != PAUSE]
    written = [p for p in engine.phonemes(TEXTS[language], language) if p != PAUSE]
    assert len(spoken) == pytest.approx(len(written), rel=0.1)
    assert len(set(spoken) ^ set(written)) <= 4


def test_pauses_are_quiet_and_vowels_are_not(engine: Espeak) -> None:
    speech = engine.speak("Ha. Ha. Ha.", "en")
    starts = np.concatenate([[0], speech.phone_ends[:-1]])
    level = {True: [], False: []}
    for phone, start, end in zip(speech.phones, starts, speech.phone_ends, strict=True):
        if phone in ("_", "a", "ɑ"):
            level[phone == "_"].append(float(np.abs(speech.samples[start:end].astype(float)).mean()))
    assert max(level[True]) < 0.2 * min(level[False])


def test_mandarin_tones_have_their_contours(engine: Espeak) -> None:
    contour = {}
    for tone, hanzi in enumerate("妈麻马骂", 1):
        speech = engine.speak(hanzi, "zh", VoiceSettings("m1", 120))
        assert [p for p in speech.phones if p != PAUSE] == ["m", f"a{tone}"]
        start, end = speech.phone_ends[0], speech.phone_ends[1]
        third = (end - start) // 3
        contour[tone] = (median_f0(speech.samples[start : start + third]), median_f0(speech.samples[end - third : end]))
    assert contour[2][1] > 1.1 * contour[2][0]  # rises
    assert contour[4][1] < 0.9 * contour[4][0]  # falls
    assert contour[3][1] < contour[1][1]  # low against high
    assert contour[1][1] == pytest.approx(contour[1][0], rel=0.15)  # level


def test_pitch_and_variants_change_the_voice(engine: Espeak) -> None:
    low, high = (engine.speak("Aaaah", "en", VoiceSettings("m1", 150, pitch)).samples for pitch in (20, 90))
    assert median_f0(high[2000:8000]) > 1.3 * median_f0(low[2000:8000])
    invented = engine.speak("Aaaah", "en", VoiceSettings("xtest", 150, 50)).samples
    assert median_f0(invented[2000:8000]) > 140


def test_languages_without_a_voice_give_no_phonemes(engine: Espeak) -> None:
    assert engine.phonemes("Akwaaba", "tw") == []
    assert engine.phonemes("何か", "ja") == []
    assert not engine.has_voice("xx-unknown")
    with pytest.raises(UserError) as caught:
        engine.speak("hello", "xx-unknown")
    assert caught.value.code == "espeak_no_voice"


def test_nothing_to_say_gives_no_phones(engine: Espeak) -> None:
    assert engine.phonemes("", "en") == []
    assert all(phone == PAUSE for phone in engine.speak("。", "zh").phones)
