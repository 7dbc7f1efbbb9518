"""The floor under the shipped nano: what a newcomer hears in the first minute must be speech, in the chosen voice.

The floors lie below the figures of the model card, so that they catch a broken model and not a new seed.
"""

import json
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.corpus.phones import PAUSE
from modules.evaluation.alignment import count_edits, pooled_rate
from modules.evaluation.sets.shipped import plain_sentences
from modules.inference.parts import S3_FILE
from modules.inference.synthesizer import SpeakOptions, Synthesizer
from modules.inference.voice import Voice, load_reference
from modules.paths import EXAMPLES, PRETRAINED_MODELS
from modules.speech.hearing import load_hearing
from modules.speech.prosody import median_f0
from modules.speech.train import greedy_labels

NANO, TRAINING = PRETRAINED_MODELS / "nano", PRETRAINED_MODELS / "nano-training"
MOST_BYTES = 45_000_000
SENTENCES = {
    "en": "The weather is nice today.",
    "de": "Das Wetter ist heute sehr schön.",
    "es": "Hoy hace muy buen tiempo.",
    "zh": "今天的天气很好。",
    "fr": "Il fait très beau aujourd'hui.",
    "it": "Oggi il tempo è molto bello.",
    "pt": "Hoje o tempo está muito bom.",
    "ru": "Сегодня очень хорошая погода.",
    "nl": "Het is vandaag mooi weer.",
    "pl": "Dzisiaj jest bardzo ładna pogoda.",
    "ja": "今日はとてもいい天気です。",
    "ko": "오늘은 날씨가 아주 좋아요.",
}
CLOSED_SET = (
    "The cat is sleeping on the table.",
    "Please open the window.",
    "I would like a cup of coffee.",
    "Where is the train station?",
    "The book was written many years ago.",
    "You can change the settings here.",
    "She walked along the river.",
    "This is a very small house.",
    "Tomorrow we will go home.",
    "Save the file before you close it.",
)
KNOWN_LEAST = 6
SENTENCES_READ = 2
MOST_MISREAD = 0.4


@pytest.fixture(scope="module")
def nano() -> Synthesizer:
    return Synthesizer.load(NANO, device="cpu")


def _voices() -> list[dict]:
    return json.loads((EXAMPLES / "voices.json").read_text(encoding="utf-8"))


def _voice(nano: Synthesizer, entry: dict) -> Voice:
    return Voice((load_reference(EXAMPLES / entry["file"], entry["text"], 1.0, nano.preset.audio),))


def _say(nano: Synthesizer, voice: Voice, text: str, seed: int = 0):
    segments = list(nano.speak(voice, text, SpeakOptions(seed=seed)))
    return segments, nano.join(segments, 0.2)


def _median_hz(wav: np.ndarray, sample_rate: int) -> float:
    narrow = torch.from_numpy(resample(wav, sample_rate, 16000)).unsqueeze(0)
    return float(median_f0(track_f0(narrow, 16000))[0])


def test_it_is_small_and_complete() -> None:
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert {"README.md", "preset.json", "tokenizer.json"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


@pytest.mark.parametrize("language", SENTENCES)
def test_every_language_is_spoken_to_its_end(nano: Synthesizer, language: str) -> None:
    for entry in _voices()[:2]:
        segments, wav = _say(nano, _voice(nano, entry), SENTENCES[language])
        assert [s.stopped_by for s in segments] == ["eos"], entry["file"]
        assert 0.7 < len(wav) / nano.sample_rate < 6.0
        assert np.sqrt(np.mean(wav**2)) > 0.02 and np.abs(wav).max() < 1.0


def test_the_same_seed_gives_the_same_samples(nano: Synthesizer) -> None:
    voice = _voice(nano, _voices()[0])
    assert np.array_equal(_say(nano, voice, SENTENCES["de"], 5)[1], _say(nano, voice, SENTENCES["de"], 5)[1])


def test_the_language_model_reads_its_text(nano: Synthesizer) -> None:
    """The phones that the tokenizer's recognition head reads in the written tokens are those of the text."""
    reader = load_hearing(NANO, TRAINING / S3_FILE)
    names, edits = (*reader.labels,), defaultdict(list)
    for number, clip in enumerate(plain_sentences()):
        if len(edits[clip.language]) < SENTENCES_READ:
            voice = _voice(nano, _voices()[number % 4])
            tokens = [segment.codes[:, 0] for segment in nano.speak(voice, clip.text, SpeakOptions(seed=number))]
            with torch.inference_mode():
                logits = reader.label_logits(torch.cat(tokens)[None])
            heard = [names[i - 1] for i in greedy_labels(logits, torch.tensor([logits.shape[1]]))[0]]
            edits[clip.language].append(count_edits([name for name in heard if name != PAUSE], clip.phones))
    errors = {language: pooled_rate(counts).rate for language, counts in edits.items()}
    assert set(errors) == set(SENTENCES) and np.mean(list(errors.values())) < MOST_MISREAD, errors


def test_the_pitch_is_the_references(nano: Synthesizer) -> None:
    for entry in _voices():
        voice = _voice(nano, entry)
        _, wav = _say(nano, voice, SENTENCES["en"])
        wanted = _median_hz(voice.references[0].wav.numpy(), nano.sample_rate)
        assert abs(12 * math.log2(_median_hz(wav, nano.sample_rate) / wanted)) < 4.0, entry["file"]


def test_an_outside_recogniser_knows_which_sentence_it_hears(nano: Synthesizer) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed (requirements-dev.txt)")
    from modules.evaluation.english import SAMPLE_RATE, EnglishListener

    listener = EnglishListener()
    listener.expect(CLOSED_SET)
    voices = [_voice(nano, entry) for entry in _voices()]
    right = 0
    for n, sentence in enumerate(CLOSED_SET):
        _, wav = _say(nano, voices[n % len(voices)], sentence)
        right += listener.which(resample(wav, nano.sample_rate, SAMPLE_RATE)) == n
    assert right >= KNOWN_LEAST, f"{right} of {len(CLOSED_SET)}"
