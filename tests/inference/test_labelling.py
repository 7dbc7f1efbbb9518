"""Labels of recordings from a model that reads their text, on a made-up writing that is learned by heart."""

import numpy as np
import pytest
import torch

from modules.config import GPTConfig, TextConfig
from modules.gpt.decode import Decoder
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import Part, arrange
from modules.gpt.train import GPTStage, StageOptions, Validation
from modules.inference.labelling import Labeller

NAMES = ["_", "a", "t", "o"]
CONFIG = GPTConfig(
    hidden=48, layers=1, heads=4, kv_heads=2, intermediate=64, max_positions=256, dropout=0.0, phones=4,
    reading="pointer", positions="aligned",
)  # fmt: skip


class Head:
    """A tokenizer whose content codes are the phones themselves."""

    labels = ("_", "a", "t", "o")

    def parameters(self):
        return iter([torch.zeros(1)])

    def label_logits(self, content: torch.Tensor) -> torch.Tensor:
        twice = content.clone()
        twice[content == 0] = -1  # silence is the blank
        return torch.nn.functional.one_hot((twice + 1).repeat_interleave(2, 1), 5).float() * 12


@pytest.fixture(scope="module")
def labeller() -> Labeller:
    """A model that has learned: unit 1 says "a", 2 "t", 3 "t o"; each phone takes two frames."""
    torch.manual_seed(0)
    model = SpeechGPT(CONFIG, TextConfig(), (8, 4), 16).train()
    model.statistics["phones"] = NAMES
    says, parts, rng = {1: [1], 2: [2], 3: [2, 3]}, [], np.random.default_rng(0)
    for _ in range(24):
        text = rng.integers(1, 4, 4)
        text = text[np.concatenate([[True], text[1:] != text[:-1]])]
        said = [(phone, place) for place, unit in enumerate(text) for phone in says[int(unit)]]
        said = [pair for n, pair in enumerate(said) if n == 0 or pair[0] != said[n - 1][0]]
        phones, reads = np.array(said).repeat(2, 0).T
        parts.append(Part(text, np.stack([phones, np.zeros_like(phones)], 1), phones=phones, reads=reads))
    stage = GPTStage(model, StageOptions(learning_rate=1e-2), Validation(), "tiny")
    optimizer, batch = stage.optimizers["gpt"], arrange([[part] for part in parts], model.pattern)
    for _ in range(80):
        optimizer.zero_grad()
        sum(loss for name, loss in stage.losses("gpt", batch).items() if not name.startswith("_")).backward()
        optimizer.step()
    return Labeller(Decoder(model.eval()), Head())


def test_a_recording_of_another_pace_is_labelled(labeller):
    text = np.array([1, 3, 1])
    codes = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3, 1, 1, 1, 0, 0, 0, 0])
    labels = labeller.label(text, np.stack([codes, np.zeros_like(codes)], 1))
    assert len(labels.phones) == len(labels.reads) == len(codes)
    inside = (codes > 0) & (np.roll(codes, 1) == codes) & (np.roll(codes, -1) == codes)
    assert np.array_equal(labels.phones[inside], codes[inside])
    assert labels.phones[0] == 0 and labels.phones[-1] == 0
    assert labels.reads[0] == 0 and (np.diff(labels.reads) >= 0).all() and labels.reads[-1] == 2
    assert labels.reads[10] == 1 and labels.reads[14] == 2


def test_what_cannot_be_laid_over_is_not_labelled(labeller):
    codes = np.array([[1, 0], [1, 0]])
    assert labeller.label(np.array([1, 2, 1, 2, 1, 2, 1]), codes) is None
    assert labeller.label(np.zeros(0, np.int64), codes) is None


def test_a_model_without_a_pointer_is_refused():
    model = SpeechGPT(GPTConfig(hidden=32, layers=1, heads=4, kv_heads=2, intermediate=48), TextConfig(), (8, 4), 16)
    with pytest.raises(ValueError, match="neither phones"):
        Labeller(Decoder(model.eval()), Head())
