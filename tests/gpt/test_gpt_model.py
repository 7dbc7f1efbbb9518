"""Laws of the language model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.checkpoint import Lineage
from modules.config import GPTConfig, TextConfig
from modules.errors import UserError
from modules.gpt.model import build_gpt, load_gpt, load_initial, save_gpt
from modules.gpt.patterns import IGNORED
from modules.gpt.sequence import BEGIN_TEXT, SPEECH, TEXT, Part, arrange


@pytest.mark.parametrize("positions", ["sequence", "aligned"])
def test_padding_changes_nothing(make_gpt, make_part, positions):
    model = make_gpt(positions=positions)
    short, long = [make_part(4, 6, 1)], [make_part(3, 9, 2), make_part(5, 20, 3)]
    together = model(arrange([short, long], model.end_code, pad_multiple=64))
    alone = [model(arrange([row], model.end_code)) for row in (short, long)]
    for k in range(2):
        expected = torch.cat([logits[k] for logits in alone])
        torch.testing.assert_close(together[k], expected, atol=1e-5, rtol=1e-5)


def test_the_future_does_not_reach_the_past(make_gpt, make_part):
    model, part = make_gpt(), make_part(5, 12)
    codes = part.codes.copy()
    codes[7:] = (codes[7:] + 1) % 8
    before, after = (model(arrange([[Part(part.text_ids, c)]], model.end_code)) for c in (part.codes, codes))
    torch.testing.assert_close(before[0][:8], after[0][:8])  # the eighth prediction saw frames 0..6
    assert not torch.allclose(before[0][8:], after[0][8:])


def test_later_streams_see_the_chosen_code_of_their_frame(make_gpt):
    model, hidden = make_gpt(), torch.randn(1, 32)
    one, other = (model.stream_logits(1, hidden, torch.tensor([[c]])) for c in (3, 4))
    assert one.shape == (1, 8)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("sizes", [(64,), (64, 8), (16, 16, 16, 16)])
def test_any_number_of_streams(make_gpt, make_part, sizes):
    model = make_gpt(sizes, None)
    logits = model(arrange([[make_part(4, 6, streams=len(sizes))]], model.end_code))
    assert [tuple(x.shape) for x in logits] == [(7, 65 if k == 0 and sizes[0] == 64 else size + (k == 0))
                                                for k, size in enumerate(sizes)]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"share_tables": True}, {"vector_dim": 6, "fsq_levels": None}])
def test_the_gradient_reaches_every_parameter(make_gpt, make_part, options):
    model = make_gpt(**options).train()
    if "vector_dim" in options:
        model.set_vectors(lambda codes: codes.float().repeat(1, 3))
    batch = arrange([[make_part(4, 6, 1), make_part(4, 6, 2)]], model.end_code)
    logits = model(batch)
    sum(F.cross_entropy(x, batch.targets[:, k], ignore_index=IGNORED) for k, x in enumerate(logits)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_sharing_tables_saves_one(make_gpt):
    count = [sum(p.numel() for p in make_gpt(share_tables=s).parameters()) for s in (False, True)]
    assert count[0] - count[1] == (64 + 12) * 32


def test_text_features_replace_or_join_the_table(make_part):
    part = replace(make_part(4, 5), text_features=np.random.default_rng(0).normal(size=(4, 10)))
    batch = arrange([[part]], 64)
    shape = GPTConfig(hidden=32, layers=1, heads=4, kv_heads=2, intermediate=48, dropout=0.0)
    for source in ("features", "both"):
        description = {
            "gpt": vars(shape),
            "text": {"features": source, "feature_dim": 10},
            "codebook_sizes": [64, 8],
            "text_vocab": 40,
            "fsq_levels": None,
            "vector_dim": None,
            "share_tables": False,
        }
        model = build_gpt(description).eval()
        other = replace(batch, text_ids=(batch.text_ids + 1) % 40)
        same = torch.equal(model(batch)[0], model(other)[0])
        assert same == (source == "features")
        with pytest.raises(ValueError, match="features"):
            model(replace(batch, text_features=None))


def test_weights_come_back_as_they_went(make_gpt, make_part, tmp_path):
    model = make_gpt()
    model.statistics = {"frames_per_unit": 3.5, "quiet_codes": [1, 2]}
    path = save_gpt(tmp_path / "gpt.safetensors", model, Lineage("tiny", "gpt", 3, 1))
    again = load_gpt(path)
    batch = arrange([[make_part(4, 6)]], model.end_code)
    assert torch.equal(again(batch)[0], model(batch)[0])
    assert again.description() == model.description()
    assert not again.training


def test_half_precision_weights_give_nearly_the_same_distribution(make_gpt, make_part, tmp_path):
    model = make_gpt()
    again = load_gpt(save_gpt(tmp_path / "gpt.safetensors", model, Lineage("tiny", "gpt", 3, 1), torch.float16))
    batch = arrange([[make_part(4, 20)]], model.end_code)
    difference = (again(batch)[0].softmax(-1) - model(batch)[0].softmax(-1)).abs().max()
    assert difference < 1e-4


def test_weights_of_another_shape_are_refused_by_name(make_gpt, tmp_path):
    path = save_gpt(tmp_path / "other.safetensors", make_gpt((32, 8), None), Lineage("tiny", "gpt", 3, 1))
    with pytest.raises(UserError, match="other") as error:
        load_initial(make_gpt(), path)
    assert error.value.code == "gpt_weights_wrong"


def test_dropout_acts_in_training_only(make_gpt, make_part):
    config = GPTConfig(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48, dropout=0.5)
    model = make_gpt(config=config)
    batch = arrange([[make_part(4, 6)]], model.end_code)
    assert torch.equal(model(batch)[0], model(batch)[0])
    model.train()
    assert not torch.allclose(model(batch)[0], model(batch)[0])


def test_base_takes_a_training_step(make_part):
    from modules.config import load_preset

    preset = load_preset("base")
    description = {
        "gpt": vars(preset.gpt), "text": vars(preset.text), "codebook_sizes": [4096, 64],
        "text_vocab": preset.text.vocab_size, "fsq_levels": [8, 8, 8, 8], "vector_dim": None, "share_tables": False,
    }  # fmt: skip
    with torch.device("meta"):
        model = build_gpt(description).train()
    count = sum(p.numel() for p in model.backbone.parameters())
    assert 210e6 < count < 220e6
    # Two of its twenty layers carry the same shapes through a real step.
    description["gpt"] = vars(replace(preset.gpt, layers=2))
    model = build_gpt(description).train()
    part = replace(make_part(4, 6), text_features=np.random.default_rng(0).normal(size=(4, 1024)))
    batch = arrange([[part]], model.end_code)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(batch)[0], batch.targets[:, 0])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]


def test_text_config_default_is_a_learned_table():
    assert TextConfig().features == "embedding"


def test_aligned_positions_put_text_and_speech_of_a_part_on_one_clock(make_gpt):
    model = make_gpt(positions="aligned")
    text, codes = np.array([3, 7, 5]), np.zeros((4, 2), np.int64)
    sequences = arrange([[Part(text, codes), Part(text[:1], codes)]], model.end_code)
    places, kinds = model.positions(sequences)[0], sequences.kinds[0]
    units = model.unit_frames[text]
    torch.testing.assert_close(places[kinds == TEXT][:3], 1 + units.cumsum(0) - units)
    assert places[kinds == SPEECH][:4].tolist() == [1, 2, 3, 4]
    second = float(places[(kinds == BEGIN_TEXT).nonzero()[1, 0]])
    assert second > max(4, float(units.sum()))  # nothing of the second part stands inside the first
    assert places[kinds == SPEECH][4:].tolist() == [second + t for t in (1, 2, 3, 4)]


def test_the_usual_lengths_of_the_units_are_saved_and_add_up(make_gpt, tmp_path):
    model = make_gpt(positions="aligned")
    path = save_gpt(tmp_path / "gpt.safetensors", model, Lineage("nano", "gpt", 1, 1))
    loaded = load_gpt(path)
    assert torch.equal(loaded.unit_frames, model.unit_frames)
    assert loaded.expected_frames([3, 3, 5]) == pytest.approx(float(2 * model.unit_frames[3] + model.unit_frames[5]))
