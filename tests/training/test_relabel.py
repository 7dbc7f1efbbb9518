"""Recognisers that go on with other labels."""

import pytest
import torch

from modules.evaluation.recognizer import PhoneRecognizer, RecognizerConfig
from modules.evaluation.recognizer import relabel as relabel_recognizer
from modules.training.relabel import carry_labels


def test_known_labels_keep_their_rows():
    old = torch.arange(2 * 3 * 2.0).view(6, 2)  # two groups of blank, a, b
    new = -torch.ones(8, 2)  # two groups of blank, b, c, a
    carried = carry_labels(old, new, "ab", "bca").view(2, 4, 2)
    groups = old.view(2, 3, 2)
    assert torch.equal(carried[:, 0], groups[:, 0]) and torch.equal(carried[:, 1], groups[:, 2])
    assert (carried[:, 2] == -1).all() and torch.equal(carried[:, 3], groups[:, 1])
    bias = carry_labels(old[:, 0], new[:, 0], "ab", "bca")
    assert torch.equal(bias, carried.view(8, 2)[:, 0])


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="groups"):
        carry_labels(torch.zeros(6), torch.zeros(12), "ab", "bca")


@torch.inference_mode()
def test_a_recogniser_hears_what_it_heard_before():
    torch.manual_seed(0)
    config = RecognizerConfig(stem=16, hidden=24, bottleneck=8, layers=2, recurrent=8, dropout=0.0)
    model = PhoneRecognizer(config, ("_", "a", "t")).eval()
    wider = relabel_recognizer(model, ("_", "a", "o", "t"))
    wav, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    before, after = model(wav, lengths), wider(wav, lengths)
    torch.testing.assert_close(after.logits[..., [0, 1, 2, 4]], before.logits)
    torch.testing.assert_close(after.frame_logits[..., [0, 1, 2, 4]], before.frame_logits)
    assert relabel_recognizer(model, model.labels) is model
