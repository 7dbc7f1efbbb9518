"""Starting from a published Qwen2: tiny random weights as transformers saves them, in bfloat16."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.config import GPTConfig, TextConfig
from modules.errors import UserError
from modules.gpt.model import SpeechGPT
from modules.gpt.qwen import start_backbone
from modules.gpt.sequence import TEXT
from modules.gpt.step import StepEngine

CONFIG = GPTConfig(
    backbone="qwen2-0.5b", hidden=32, layers=3, heads=4, kv_heads=2, intermediate=48, rope_theta=1e6, dropout=0.0
)
WORDS = TextConfig(tokenizer="qwen2", vocab_size=300)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory):
    """(folder, the model that was saved there, in float32)"""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, rope_theta=1e6, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(shape).to(torch.bfloat16).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight") or name.endswith(".bias"):  # so that gains and biases are put to the test
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    folder = tmp_path_factory.mktemp("qwen") / "qwen2-0.5b"
    model.save_pretrained(folder)
    return folder, Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)


def build(text: TextConfig = WORDS, **changes: object) -> SpeechGPT:
    torch.manual_seed(1)
    vocab = changes.pop("text_vocab", text.vocab_size)
    options = {"fsq_levels": (4, 4, 4)} if "vector_dim" not in changes else {"vector_dim": changes.pop("vector_dim")}
    return SpeechGPT(replace(CONFIG, **changes), text, (64, 8), vocab, **options).eval()


def edited(folder: Path, target: Path, **changes: object) -> Path:
    """The same files with another config.json."""
    target.mkdir()
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


@torch.no_grad()
def test_hidden_states_and_logits_equal_the_reference(published):
    folder, theirs = published
    model = build()
    start_backbone(model, folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = torch.randint(0, 300, (2, 17))
    assert torch.equal(model.text(ids.view(-1)), theirs.get_input_embeddings()(ids.view(-1)))
    x = theirs.get_input_embeddings()(ids)
    expected = theirs.model(inputs_embeds=x, use_cache=False).last_hidden_state
    ours = model.backbone(inputs_embeds=x, use_cache=False).last_hidden_state
    engine = StepEngine(model.backbone)
    cache = engine.new_cache(2, 17)
    steps = torch.cat([engine(piece, cache) for piece in x.split((9, *[1] * 8), 1)], 1)
    assert (ours - expected).abs().max() < 1e-6
    assert (steps - expected).abs().max() < 2e-5
    logits = theirs(inputs_embeds=x).logits
    assert (ours @ model.text.table.T - logits).abs().max() < 2e-5
    assert (steps @ model.text.table.T - logits).abs().max() < 5e-5


@torch.no_grad()
def test_speech_enters_at_the_scale_of_the_text_and_text_as_it_was(published):
    folder, theirs = published
    usual = float(theirs.get_input_embeddings().weight.square().mean().sqrt())
    codes = torch.stack([torch.arange(64), torch.arange(64) % 8], 1)
    for options in ({}, {"vector_dim": 12}):
        model = build(**options)
        if options:
            model.set_vectors(lambda c: torch.randn(len(c), 12))
        start_backbone(model, folder)
        assert float(model.embed_frames(codes).square().mean().sqrt()) == pytest.approx(usual, rel=0.25)
        assert not model.specials[TEXT].any()


def test_without_a_table_of_its_tokens_the_backbone_alone_is_read(published):
    folder, _ = published
    features = build(TextConfig(features="features", feature_dim=10))
    start_backbone(features, folder)
    other = build(TextConfig(vocab_size=400))
    before = other.text.table.clone()
    start_backbone(other, folder)
    assert torch.equal(other.text.table, before)
    assert torch.equal(other.backbone.norm.weight, features.backbone.norm.weight)
    both = build(TextConfig(tokenizer="qwen2", vocab_size=300, features="both", feature_dim=10), text_vocab=280)
    start_backbone(both, folder)
    assert not torch.equal(both.text.table, build(both.text_config, text_vocab=280).text.table)


def test_weights_in_several_files_are_the_same(published, tmp_path):
    folder, theirs = published
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    one, several = build(), build()
    start_backbone(one, folder)
    start_backbone(several, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), several.parameters(), strict=True))


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ({"hidden": 48}, {}, ("gpt.hidden", "48", "32")),
        ({"layers": 2}, {}, ("gpt.layers", "2", "3")),
        ({}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, ("gpt.rope_theta", "500000")),
        ({}, {"rms_norm_eps": 1e-5}, ("rms_norm_eps", "1e-06", "1e-05")),
        ({}, {"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": {"type": "yarn"}}, ("rope_type", "yarn")),
        ({}, {"vocab_size": 200}, ("text.vocab_size", "300", "200")),
        ({}, {"use_sliding_window": True}, ("use_sliding_window",)),
    ],
)
def test_what_would_not_compute_alike_is_refused_by_name(published, tmp_path, ours, theirs, told):
    folder = edited(published[0], tmp_path / "qwen2-0.5b", **theirs)
    with pytest.raises(UserError) as error:
        start_backbone(build(**ours), folder)
    assert error.value.code == "gpt_start_differs"
    assert all(word in str(error.value) for word in told)


def test_missing_and_damaged_files_are_told(published, tmp_path):
    with pytest.raises(UserError) as error:
        start_backbone(build(), tmp_path / "qwen2-0.5b")
    assert error.value.code == "gpt_start_missing" and "model.safetensors" in str(error.value)
    folder = edited(published[0], tmp_path / "qwen2-0.5b")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError) as error:
        start_backbone(build(), folder)
    assert error.value.code == "gpt_start_unreadable"
    config = json.loads((folder / "config.json").read_text())
    for tensors in ({}, {"model.extra.weight": torch.zeros(2)}):
        from safetensors.torch import save_file

        save_file(tensors, weights)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError) as error:
            start_backbone(build(), folder)
        assert error.value.code == "gpt_start_unreadable"
