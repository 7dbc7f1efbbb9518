"""Speech with phone timing from eSpeak NG. One engine per test process: the library has global state."""

import numpy as np
import pytest
import torch

pytest.importorskip("espeakng_loader")
pytest.importorskip("pypinyin")

from modules.audio.pitch import track_f0
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


def f0_contour(samples: np.ndarray) -> np.ndarray:
    """f0 in Hz of the voiced frames."""
    f0 = track_f0(torch.from_numpy(samples.astype(np.float32) / 32768)[None], SAMPLE_RATE)[0].numpy()
    return f0[f0 > 0]


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
        speech = engine.speak(hanzi, "zh", VoiceSettings("Annie", 110))
        assert [p for p in speech.phones if p != PAUSE] == ["m", f"a{tone}"]
        contour[tone] = f0_contour(speech.samples)
    # the second and the last quarter: the first one belongs to the consonant
    quarter = {t: (f0[len(f0) // 4 : len(f0) // 2].mean(), f0[-len(f0) // 4 :].mean()) for t, f0 in contour.items()}
    assert quarter[2][1] > 1.1 * quarter[2][0]  # rises
    assert quarter[4][1] < 0.9 * quarter[4][0]  # falls
    assert contour[3].mean() < 0.9 * contour[1].mean()  # low against high
    assert quarter[1][1] == pytest.approx(quarter[1][0], rel=0.15)  # level


def test_pitch_and_variants_change_the_voice(engine: Espeak) -> None:
    def median(voice: VoiceSettings) -> float:
        return float(np.median(f0_contour(engine.speak("Mama, mama, mama.", "en", voice).samples)))

    assert median(VoiceSettings("m1", 150, 90)) > 1.3 * median(VoiceSettings("m1", 150, 20))
    assert median(VoiceSettings("xtest", 150, 50)) > 1.4 * median(VoiceSettings("m1", 150, 50))


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
