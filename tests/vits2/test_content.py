"""What is said as a loss: equal sounds lose nothing, other sounds do, and it teaches the sound alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.checkpoint import Lineage, load_weights, save_weights
from modules.config import SpeechTokenizerConfig
from modules.errors import UserError
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import save_tokenizer
from modules.vits2.content import ContentDistance, load_content_distance
from tests.tiny import synthetic_speech

RATE = 32000
CONFIG = SpeechTokenizerConfig(hidden=16, heads=2, encoder_layers=1, decoder_layers=1)


@pytest.fixture(params=["fsq", "vq"])
def distance(request: pytest.FixtureRequest) -> ContentDistance:
    torch.manual_seed(0)
    tokenizer = SemanticTokenizer(replace(CONFIG, quantizer=request.param, codebook_size=16), ("a", "b", "c"))
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.mul_(2.0)  # fresh weights are so quiet that all sounds are alike to them
        tokenizer.encode(sounds(90, 130, 180, 240)[:, ::2])  # codebooks begin as what they see first
    return ContentDistance(tokenizer, RATE)


def sounds(*pitches: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(synthetic_speech(0.8, RATE, hz, hz)) for hz in pitches])


def test_the_same_sound_has_lost_nothing_at_any_level(distance: ContentDistance) -> None:
    wav, samples = sounds(110, 170), torch.tensor([25600, 25600])
    assert distance(wav, wav, samples).abs().max() < 1e-5
    assert distance(0.3 * wav, wav, samples).abs().max() < 1e-3
    assert (distance(wav.flip(0), wav, samples) > 1e-2).all()


def test_what_lies_beyond_a_rows_length_does_not_count(distance: ContentDistance) -> None:
    wav, samples = sounds(110, 170), torch.tensor([25600, 12800])
    other = wav.clone()
    other[1, 12800:] = 0.5
    assert torch.allclose(distance(other, wav.flip(0), samples), distance(wav, wav.flip(0), samples), atol=1e-4)


def test_the_sound_learns_and_the_ear_does_not(distance: ContentDistance) -> None:
    wanted, samples = sounds(110), torch.tensor([25600])
    wav = sounds(170).requires_grad_()
    first = distance(wav, wanted, samples).sum()
    first.backward()
    assert wav.grad.abs().max() > 0 and all(p.grad is None for p in distance.parameters())
    if distance.tokenizer.config.quantizer == "vq":
        return  # codes drawn by chance hand on a gradient, but not one that leads anywhere
    nearer = wav.detach() - 0.02 * wav.grad / wav.grad.square().mean().sqrt() * wav.detach().std()
    assert distance(nearer, wanted, samples).sum() < first


def test_what_is_read_behind_the_codes_reaches_the_sound(distance: ContentDistance) -> None:
    wav = sounds(170).requires_grad_()
    _, heard, _ = distance._hear(wav, torch.tensor([25600]))
    heard[..., 1].sum().backward()
    assert wav.grad.abs().max() > 0


def test_a_tokenizer_needs_its_recognition_head(distance: ContentDistance, tmp_path: Path) -> None:
    lineage = Lineage("tiny", "s3", 1, 0)
    save_tokenizer(tmp_path / "s3.safetensors", distance.tokenizer, lineage)
    loaded = load_content_distance(tmp_path / "s3.safetensors", RATE)
    wav, samples = sounds(110, 170), torch.tensor([25600, 25600])
    assert torch.allclose(loaded(wav, wav.flip(0), samples), distance(wav, wav.flip(0), samples), atol=1e-5)
    save_tokenizer(tmp_path / "bare.safetensors", SemanticTokenizer(CONFIG), lineage)
    with pytest.raises(UserError) as error:
        load_content_distance(tmp_path / "bare.safetensors", RATE)
    assert error.value.code == "tokenizer_without_head" and "bare.safetensors" in str(error.value)


def test_a_model_folder_brings_its_head_from_beside_it(distance: ContentDistance, tmp_path: Path) -> None:
    lineage, models, beside = Lineage("tiny", "s3", 1, 0), tmp_path / "tiny", tmp_path / "tiny-training"
    save_tokenizer(tmp_path / "whole.safetensors", distance.tokenizer, lineage)
    whole = load_weights(tmp_path / "whole.safetensors")
    head = {name: tensor for name, tensor in whole.state.items() if name.startswith("recogniser.")}
    bare = {name: tensor for name, tensor in whole.state.items() if name not in head}
    save_weights(models / "s3.safetensors", bare, whole.config | {"labels": []}, lineage)
    with pytest.raises(UserError) as error:
        load_content_distance(models, RATE)
    assert error.value.code == "tokenizer_without_head"
    save_weights(beside / "s3.safetensors", head, whole.config, lineage)
    wav, samples = sounds(110), torch.tensor([25600])
    assert torch.allclose(
        load_content_distance(models, RATE)(wav * 0.5, wav, samples), distance(wav * 0.5, wav, samples), atol=1e-5
    )
    with pytest.raises(UserError) as error:
        load_content_distance(beside / "s3.safetensors", RATE)
    assert error.value.code == "weights_wrong_stage"
