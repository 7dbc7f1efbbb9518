"""A shipped folder is what training made, without what only training needs."""

import dataclasses

import pytest
import torch

from modules.checkpoint import Lineage, load_weights, save_weights
from modules.errors import UserError
from modules.inference.parts import load_parts
from modules.inference.shipping import Trained, join_training, ship
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import load_tokenizer, save_tokenizer
from modules.vits2.model import VITS2, load_vits2, save_vits2
from tests.tiny import build_tiny_model_folder, tiny_preset


@pytest.fixture
def trained(tmp_path) -> Trained:
    preset = tiny_preset()
    source = build_tiny_model_folder(tmp_path / "source")
    torch.manual_seed(1)
    speech = SemanticTokenizer(preset.tokenizer, ("a", "b"))
    save_tokenizer(tmp_path / "s3.safetensors", speech, Lineage("tiny", "tokenizer", 5, 1))
    text_size = load_parts(source, torch.device("cpu")).text.size
    decoder = VITS2(preset.vits2, preset.audio, speech.codebook_sizes, text_size, speech.frame_rate)
    save_vits2(tmp_path / "vits2.safetensors", decoder, Lineage("tiny", "vits2", 5, 1), include_posterior=True)
    return Trained(
        source / "tokenizer.json",
        tmp_path / "s3.safetensors",
        source / "gpt.safetensors",
        tmp_path / "vits2.safetensors",
    )


def test_the_folder_speaks_and_is_small(trained, tmp_path) -> None:
    size = ship(trained, tiny_preset(), tmp_path / "model", tmp_path / "training")
    parts = load_parts(tmp_path / "model", torch.device("cpu"))
    assert parts.speech.recogniser is None and parts.vits2.posterior is None
    assert size == sum(f.stat().st_size for f in (tmp_path / "model").iterdir())
    assert load_weights(tmp_path / "model" / "s3.safetensors").lineage.step == 5


def test_training_can_go_on_from_what_was_kept(trained, tmp_path) -> None:
    ship(trained, tiny_preset(), tmp_path / "model", tmp_path / "training")
    join_training(tmp_path / "model", tmp_path / "training", tmp_path / "whole")
    again = load_tokenizer(tmp_path / "whole" / "s3.safetensors", with_recogniser=True)
    assert again.labels == ("a", "b")
    assert load_vits2(tmp_path / "whole" / "vits2.safetensors").posterior is not None
    for name, source in (("s3", trained.s3), ("vits2", trained.vits2)):
        joined, first = (load_weights(p) for p in (tmp_path / "whole" / f"{name}.safetensors", source))
        assert joined.config == first.config and joined.state.keys() == first.state.keys()
        assert all(torch.equal(joined.state[k], v.half().float()) for k, v in first.state.items())


def test_parts_of_two_trainings_are_not_joined(trained, tmp_path) -> None:
    ship(trained, tiny_preset(), tmp_path / "model", tmp_path / "training")
    weights = load_weights(tmp_path / "training" / "vits2.safetensors")
    lineage = dataclasses.replace(weights.lineage, step=6)
    save_weights(tmp_path / "training" / "vits2.safetensors", weights.state, weights.config, lineage)
    with pytest.raises(UserError, match="one training"):
        join_training(tmp_path / "model", tmp_path / "training", tmp_path / "whole")


def test_codes_survive_float16(trained, tmp_path) -> None:
    ship(trained, tiny_preset(), tmp_path / "model")
    whole, small = load_tokenizer(trained.s3), load_tokenizer(tmp_path / "model" / "s3.safetensors")
    wav = torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        assert (whole.encode(wav) == small.encode(wav)).float().mean() > 0.9


def test_weights_in_the_wrong_place_are_named(trained, tmp_path) -> None:
    swapped = Trained(trained.text, trained.gpt, trained.s3, trained.vits2)
    with pytest.raises(UserError, match=r"gpt\.safetensors"):
        ship(swapped, tiny_preset(), tmp_path / "model")
