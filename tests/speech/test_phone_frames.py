"""Which phone is said in each frame: from times, and by alignment."""

import numpy as np
import torch

from modules.config import SpeechTokenizerConfig
from modules.corpus.phones import PAUSE
from modules.data.recordings import Spelled
from modules.speech.phone_frames import aligned_frames, name_frames, timed_frames
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import relabel


def test_frames_have_the_phone_that_fills_them():
    assert timed_frames(np.array([0.08, 0.20, 0.32]), 8, 25).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert timed_frames(np.array([0.08]), 4, 25).tolist() == [0, 0, 0, 0]


def test_a_phone_shorter_than_a_frame_is_not_lost():
    ends = np.array([0.12, 0.135, 0.30])
    assert timed_frames(ends, 8, 25).tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    # Where it would take away another one's only frame, it is.
    assert timed_frames(np.array([0.035, 0.05, 0.08]), 2, 25).tolist() in ([0, 2], [0, 1])


def test_frames_rise_and_name_nearly_all_phones_of_natural_lengths():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ends = np.cumsum(rng.uniform(0.02, 0.16, 30))
        frames = timed_frames(ends, int(ends[-1] * 25), 25)
        assert (np.diff(frames) >= 0).all()
        assert len(set(frames.tolist())) >= 27


def said(path: list[int], classes: int = 5) -> torch.Tensor:
    """CTC logits that are sure of a path, 0 the blank."""
    return torch.nn.functional.one_hot(torch.tensor(path), classes).float() * 12


def test_alignment_finds_the_phones_where_they_are_said():
    path = [0] * 6 + [1, 1, 0, 0, 2, 0, 0, 2, 0, 0, 3, 3] + [0] * 8
    found = aligned_frames(said(path), [1, 2, 2, 3])
    assert len(found) == len(path) // 2
    assert found[:2].tolist() == [-1, -1] and found[-3:].tolist() == [-1, -1, -1]
    middle = found[found >= 0]
    assert (np.diff(middle) >= 0).all() and set(middle.tolist()) == {0, 1, 2, 3}
    assert found[3] == 0 and found[5] == 1 and found[8] == 3


def test_too_many_phones_for_the_frames_are_refused():
    assert aligned_frames(said([0, 1, 0, 0]), [1, 2, 3, 1, 2]) is None
    assert aligned_frames(said([0, 1, 0, 0]), []) is None
    assert aligned_frames(said([1, 1, 1]), [1, 1, 1]) is None, "equal neighbours need a blank between"


class Head:
    """A tokenizer whose head reads the codes themselves as labels at both of its frames."""

    frame_rate = 25.0

    def __init__(self, labels: tuple[str, ...]):
        self.labels = labels

    def parameters(self):
        return iter([torch.zeros(1)])

    def label_logits(self, content: torch.Tensor) -> torch.Tensor:
        twice = content.repeat_interleave(2, 1)
        return torch.nn.functional.one_hot(twice, len(self.labels) + 1).float() * 12


def test_names_of_timed_and_of_aligned_phones():
    head = Head(("_", "a", "t"))
    codes = torch.tensor([0, 0, 2, 2, 0, 3, 3, 0, 0, 0])[:, None]
    timed = name_frames(head, codes, Spelled(("a", "t"), np.array([0.2, 0.4])))
    assert timed == ["a"] * 5 + ["t"] * 5
    aligned = name_frames(head, codes, Spelled(("a", "unheard of", "t")))
    assert aligned[0] == PAUSE and aligned[-1] == PAUSE and aligned[2:4] == ["a", "a"] and aligned[5:7] == ["t", "t"]
    assert len(aligned) == len(codes)
    assert name_frames(Head(()), codes, Spelled(("a",))) == []


@torch.inference_mode()
def test_a_tokenizer_goes_on_with_further_labels():
    torch.manual_seed(0)
    config = SpeechTokenizerConfig(hidden=32, heads=2, encoder_layers=1, decoder_layers=1, levels=(4, 4))
    model = SemanticTokenizer(config, ("_", "a", "t")).eval()
    wider = relabel(model, ("_", "o", "t", "a"))
    content = torch.randint(0, 16, (1, 12))
    torch.testing.assert_close(wider.label_logits(content)[..., [0, 1, 4, 3]], model.label_logits(content))
    assert relabel(model, model.labels) is model and not wider.training
