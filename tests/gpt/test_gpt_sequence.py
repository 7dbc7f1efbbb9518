"""How parts lie in a sequence."""

import numpy as np
import torch

from modules.gpt.patterns import IGNORED
from modules.gpt.sequence import (
    BEGIN_SPEECH,
    BEGIN_TEXT,
    END_SPEECH,
    PAD,
    SPEECH,
    TEXT,
    Part,
    arrange,
    part_length,
)


def test_parts_interleave_and_the_last_has_no_eos_input():
    first = Part(np.array([7, 8]), np.array([[1, 2]]))
    second = Part(np.array([9]), np.array([[3, 4], [5, 6]]))
    row = arrange([[first, second]], pattern=64).kinds[0].tolist()
    assert row == [
        BEGIN_TEXT,
        TEXT,
        TEXT,
        BEGIN_SPEECH,
        SPEECH,
        END_SPEECH,
        BEGIN_TEXT,
        TEXT,
        BEGIN_SPEECH,
        SPEECH,
        SPEECH,
    ]


def test_every_frame_and_eos_is_predicted_from_the_position_before_it(make_part):
    parts = [make_part(3, 4, 1), make_part(2, 5, 2)]
    s = arrange([parts], pattern=64)
    codes = np.concatenate([parts[0].codes, [[64, IGNORED]], parts[1].codes, [[64, IGNORED]]])
    assert np.array_equal(s.targets.numpy(), codes)
    before = s.kinds.flatten()[s.target_positions].tolist()
    assert before == [BEGIN_SPEECH, *[SPEECH] * 4, BEGIN_SPEECH, *[SPEECH] * 5]
    frames = s.targets[:, 0] != 64
    assert torch.equal(s.codes, s.targets[frames])
    assert torch.equal(s.speech_positions, (s.target_positions + 1)[frames])


def test_length_counts_every_position_and_padding_is_on_the_right(make_part):
    rows = [[make_part(3, 4)], [make_part(2, 2), make_part(5, 9)]]
    s = arrange(rows, pattern=64, pad_multiple=16)
    assert s.lengths.tolist() == [part_length(3, 4) - 1, part_length(2, 2) + part_length(5, 9) - 1]
    assert s.kinds.shape == (2, 32)
    for kinds, length in zip(s.kinds, s.lengths.tolist(), strict=True):
        assert (kinds[:length] != PAD).all() and (kinds[length:] == PAD).all()


def test_an_open_part_ends_where_decoding_starts(make_part):
    s = arrange([[make_part(3, 4), make_part(6, 0)]], pattern=64)
    assert s.kinds[0, -1] == BEGIN_SPEECH
    assert len(s.targets) == 5


def test_last_only_predicts_no_reference(make_part):
    parts = [make_part(3, 4, 1), make_part(2, 5, 2)]
    s = arrange([parts], pattern=64, groups=[3], last_only=True)
    assert np.array_equal(s.targets[:-1].numpy(), parts[1].codes)
    assert s.groups.tolist() == [3] * 6


def test_a_reference_may_lack_text(make_part):
    s = arrange([[Part(np.zeros(0, np.int64), make_part(1, 2).codes), make_part(2, 3)]], pattern=64)
    assert s.kinds[0, :2].tolist() == [BEGIN_TEXT, BEGIN_SPEECH]
    assert len(s.text_ids) == 2
