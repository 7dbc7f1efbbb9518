"""Adapters: untrained they change nothing; merged, saved and loaded they say the same; peft itself reads them."""

import json
from pathlib import Path

import pytest
import torch

from modules.checkpoint import Lineage
from modules.errors import UserError
from modules.gpt.lora import add_lora, has_lora, load_adapter, merged, save_adapter
from modules.gpt.model import SpeechGPT, load_gpt, save_gpt
from modules.gpt.sequence import arrange
from modules.gpt.train import GPTStage, StageOptions, Validation


def train_adapters(model: SpeechGPT, seed: int = 0) -> SpeechGPT:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, atol=2e-5) for x, y in zip(a, b, strict=True))


def test_untrained_adapters_change_nothing_and_alone_learn(make_gpt, make_part) -> None:
    model = make_gpt()
    batch = arrange([[make_part(4, 6, 1)], [make_part(3, 9, 2), make_part(5, 20, 3)]], model.end_code)
    before = model(batch)
    add_lora(model, 16)
    assert same(before, model(batch)) and has_lora(model)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning and all(".lora_" in name for name in learning)
    sum(logits.square().mean() for logits in model(batch)).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == learning
    with pytest.raises(UserError) as caught:
        add_lora(make_gpt(), 7)
    assert caught.value.code == "lora_rank"


def test_merged_saved_and_loaded_they_say_the_same(make_gpt, make_part, tmp_path: Path) -> None:
    model = make_gpt()
    batch = arrange([[make_part(4, 6, 1)], [make_part(3, 9, 2), make_part(5, 20, 3)]], model.end_code)
    before = model(batch)
    base = save_gpt(tmp_path / "base.safetensors", model, Lineage("tiny", "gpt", 0, 0))
    train_adapters(add_lora(model, 16))
    said = model(batch)
    assert not same(before, said)
    plain = merged(model)
    assert not has_lora(plain) and has_lora(model) and same(said, plain(batch)) and same(said, model(batch))
    again = load_gpt(save_gpt(tmp_path / "merged.safetensors", plain, Lineage("tiny", "gpt", 1, 1)))
    assert same(said, again(batch))
    save_adapter(tmp_path / "adapter", model)
    loaded = load_adapter(load_gpt(base), tmp_path / "adapter")
    assert same(said, loaded(batch)) and same(said, merged(loaded)(batch))


def test_peft_reads_the_adapter(make_gpt, make_part, tmp_path: Path) -> None:
    from peft import PeftModel

    model = make_gpt()
    base = save_gpt(tmp_path / "base.safetensors", model, Lineage("tiny", "gpt", 0, 0))
    batch = arrange([[make_part(4, 6, 1)]], model.end_code)
    said = train_adapters(add_lora(model, 32))(batch)
    save_adapter(tmp_path / "adapter", model)
    other = load_gpt(base)
    other.backbone = PeftModel.from_pretrained(other.backbone, tmp_path / "adapter").merge_and_unload()
    assert same(said, other(batch))


def test_a_foreign_or_missing_adapter_is_told(make_gpt, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_adapter(make_gpt(), tmp_path)
    assert caught.value.code == "lora_missing" and str(tmp_path) in str(caught.value)
    save_adapter(tmp_path, add_lora(make_gpt(), 16))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 32}))
    with pytest.raises(UserError) as caught:
        load_adapter(make_gpt(), tmp_path)
    assert caught.value.code == "lora_wrong"


def test_a_stage_trains_adapters_and_saves_them_merged(make_gpt, make_part, tmp_path: Path) -> None:
    model = add_lora(make_gpt(), 16)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    stage = GPTStage(
        model, StageOptions(), Validation(), "tiny", published=lambda step, epoch: tmp_path / f"e{epoch}.st"
    )
    batch = arrange([[make_part(4, 6, 1)], [make_part(3, 9, 2)]], model.end_code)
    before = float(stage.losses("gpt", batch)["content"])
    for _ in range(5):
        stage.optimizers["gpt"].zero_grad()
        stage.losses("gpt", batch)["content"].backward()
        stage.optimizers["gpt"].step()
    said = model(batch)
    assert float(stage.losses("gpt", batch)["content"]) < before
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    files = stage.save_weights(tmp_path, 5, 2)
    assert {path.name for path in files} == {
        "gpt.safetensors",
        "e2.st",
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    loaded = load_gpt(tmp_path / "e2.st")
    assert all(torch.allclose(x, y, atol=2e-2) for x, y in zip(said, loaded(batch), strict=True)), "but for float16"
