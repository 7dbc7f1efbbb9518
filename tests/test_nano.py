"""The floor under the shipped nano: what a newcomer hears in the first minute must be speech, in the chosen voice.

The floors lie below the figures of the model card, so that they catch a broken model and not a new seed.
"""

import json
import math

import numpy as np
import pytest
import torch

from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.gpt.dataset import Collate, Row
from modules.gpt.sequence import Part
from modules.inference.synthesizer import SpeakOptions, Synthesizer
from modules.inference.voice import Voice, load_reference
from modules.paths import EXAMPLES, PRETRAINED_MODELS
from modules.speech.prosody import median_f0

NANO = PRETRAINED_MODELS / "nano"
MOST_BYTES = 45_000_000
SENTENCES = {
    "en": "The weather is nice today.",
    "de": "Das Wetter ist heute sehr schön.",
    "es": "Hoy hace muy buen tiempo.",
    "zh": "今天的天气很好。",
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
GAP_LEAST = 0.3


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
    """The speech of a voice is likelier after its own words than after another voice's words."""
    parts = nano._parts
    model = parts.gpt.model
    collate = Collate(model.end_code, last_only=True)
    texts = [np.array(parts.text.encode(entry["text"])) for entry in _voices()]
    gaps = []
    for n, entry in enumerate(_voices()):
        wav = _voice(nano, entry).references[0].wav.numpy()
        narrow = torch.from_numpy(resample(wav, nano.sample_rate, parts.speech.sample_rate)).unsqueeze(0)
        with torch.inference_mode():
            codes = parts.speech.encode(narrow)[0].numpy()
            losses = [_content_loss(model, collate([Row((Part(text, codes),), 0)])) for text in texts]
        gaps.append(np.mean(np.delete(losses, n)) - losses[n])
    assert np.mean(gaps) > GAP_LEAST and sum(gap > 0 for gap in gaps) >= 3, gaps


def _content_loss(model: torch.nn.Module, batch) -> float:
    return float(torch.nn.functional.cross_entropy(model(batch)[0].float(), batch.targets[:, 0]))


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
