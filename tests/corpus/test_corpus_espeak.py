"""Speech with phone timing from eSpeak NG. One engine per test process: the library has global state."""

import numpy as np
import pytest
import torch

pytest.importorskip("espeakng_loader")
pytest.importorskip("pypinyin")
pytest.importorskip("fugashi")

from modules.audio.pitch import track_f0
from modules.corpus.espeak import SAMPLE_RATE, Espeak, Speech, VoiceSettings
from modules.corpus.phones import INVENTORY, PAUSE, normalise_label, split_ipa
from modules.corpus.readings import read
from modules.corpus.speaking import Planned, join_speech, speak_planned
from modules.errors import UserError

TEXTS = {
    "en": "Hello there, how are you? I am 42.",
    "de": "Es gibt viele Bücher, wirklich schön.",
    "es": "¿Qué tal, niño? El perro y la calle.",
    "zh": "你好，中国人民银行。我有12本书。",
    "ja": "私は学校で新聞を読んだ。12月です、はい。",
    "ko": "안녕하세요, 저는 학생입니다. 빵이 12개 있어요.",
    "fr": "Bonjour, comment allez-vous ? Un bon vin blanc.",
    "it": "Buongiorno, come stai? Gli gnocchi e la pizza.",
    "pt": "Bom dia, como você está? Meu irmão e minha mãe.",
    "ru": "Здравствуйте, как дела? Щука и ёлка, 12 раз.",
    "nl": "Goedemorgen, hoe gaat het? Scheveningen, uit huis.",
    "pl": "Cześć, źle. Chrząszcz i dźwięk, szczęście.",
    "tr": "Günaydın, nasılsınız? Bu ağaç çok güzel.",
    "sv": "God morgon, hur mår du? Sju sjuka sköterskor.",
    "cs": "Dobrý den, jak se máte? Řeka a žába.",
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


@pytest.mark.parametrize("language", TEXTS)
def test_every_raw_label_of_a_language_is_known(engine: Espeak, language: str) -> None:
    reading = read(TEXTS[language], language)
    if reading.tones:
        return  # pinyin syllables have labels of their own, tested by their tones
    engine.has_voice(language)
    for clause in engine._clauses(reading.text):
        for label in split_ipa(clause):
            assert label.startswith("(") or normalise_label(label, voice=reading.voice), label


def test_questions_end_higher_than_statements(engine: Espeak) -> None:
    for language, text in (("en", "You are coming today"), ("fr", "Tu viens demain"), ("ru", "Он работает сегодня")):
        ends = {}
        for mark in ".?":
            f0 = f0_contour(engine.speak(text + mark, language, VoiceSettings("f3")).samples)
            ends[mark] = f0[-len(f0) // 10 :].mean() / np.median(f0)
        assert ends["?"] > 1.1 * ends["."]


@pytest.mark.parametrize("syllable", ["兄", "穷", "窘", "嗯", "翁", "略"])
def test_no_syllable_is_spelled_in_english(engine: Espeak, syllable: str) -> None:
    assert engine.has_voice("zh")
    labels = [label for clause in engine._clauses(read(syllable, "zh").text) for label in split_ipa(clause)]
    assert labels and not any(label.startswith("(") for label in labels)


def test_emoji_are_not_spoken(engine: Espeak) -> None:
    assert engine.phonemes("Thank you 😊", "en") == engine.phonemes("Thank you", "en")


def test_many_invented_voices_fit_into_one_engine(engine: Espeak) -> None:
    voices = {f"many{i}": f"language variant\nname many{i}\npitch {80 + i} {120 + i}\n" for i in range(400)}
    engine._variants |= voices
    low = np.median(f0_contour(engine.speak("Mama, mama.", "en", VoiceSettings("many0")).samples))
    high = np.median(f0_contour(engine.speak("Mama, mama.", "en", VoiceSettings("many150")).samples))
    assert high > 1.4 * low


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
    assert not engine.has_voice("xx-unknown")
    with pytest.raises(UserError) as caught:
        engine.speak("hello", "xx-unknown")
    assert caught.value.code == "espeak_no_voice"


def test_nothing_to_say_gives_no_phones(engine: Espeak) -> None:
    assert engine.phonemes("", "en") == []
    assert all(phone == PAUSE for phone in engine.speak("。", "zh").phones)


def test_a_line_in_two_languages_is_one_utterance(engine: Espeak) -> None:
    parts = (("He said", "en"), ("Guten Morgen", "de"), ("and left.", "en"))
    planned = Planned(
        "00", "He said Guten Morgen and left.", "en+de", "train", "switch", "s", VoiceSettings("f3"), parts
    )
    speech = speak_planned(engine, planned)
    alone = [engine.speak(text, language, VoiceSettings("f3")) for text, language in parts]
    sounds = [phone for part in alone for phone in part.phones if phone != PAUSE]
    assert [phone for phone in speech.phones if phone != PAUSE] == sounds
    assert speech.phone_ends[-1] == len(speech.samples) and np.all(np.diff(speech.phone_ends) >= 0)
    assert len(speech.samples) < sum(len(part.samples) for part in alone)  # no sentence pause in the middle
    pauses = [b - a for a, b, p in zip([0, *speech.phone_ends], speech.phone_ends, speech.phones) if p == PAUSE]
    assert max(pauses[:-1]) < 0.2 * SAMPLE_RATE


def test_pauses_that_meet_become_one(engine: Espeak) -> None:
    one = engine.speak("Ha. Ha.", "en")
    quiet = Speech(np.zeros(100, np.int16), [PAUSE], np.array([100], np.int32))
    speech = join_speech([one, quiet, quiet, one])
    assert PAUSE + PAUSE not in "".join(speech.phones) and speech.phone_ends[-1] == len(speech.samples)
