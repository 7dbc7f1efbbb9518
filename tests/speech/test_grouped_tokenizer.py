"""Laws of tokens of form "grouped" from a wav to vectors, and of what is loaded for a config."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.audio.pitch import track_f0
from modules.checkpoint import Lineage
from modules.config import SpeechTokenizerConfig, load_preset
from modules.errors import UserError
from modules.speech.building import load_features, load_speech, random_speech
from modules.speech.contract import SpeechTokens
from modules.speech.encoder_files import PUBLISHED_SIZES, model_layers
from modules.speech.grouped import FrameVectors, GroupedQuantizer, frame_vector_dim, load_quantizer
from modules.speech.grouped_tokenizer import GroupedTokenizer
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import save_tokenizer
from modules.vits2.building import build_vits2
from modules.vits2.model import save_vits2
from tests.speech.tiny_encoders import KINDS, SMALL, encoder_config, save_encoder, speech_like
from tests.tiny import tiny_preset

CPU = torch.device("cpu")
LINEAGE = Lineage("tiny", "vits2", 1, 1)


def _config(kind: str = "mhubert-147", **changes) -> SpeechTokenizerConfig:
    sizes = {"vector_dim": 8, "codebook_size": 16, "levels": (4, 4), **changes}
    return SpeechTokenizerConfig(form="grouped", prosody_levels=16, grouped=encoder_config(kind, **sizes))


def _install(folder: Path, config: SpeechTokenizerConfig) -> None:
    """Write an encoder's folder, and beside it a decoder whose quantiser has seen its features."""
    save_encoder(folder / config.grouped.encoder, config.grouped.encoder)
    decoder = build_vits2(replace(tiny_preset(), tokenizer=config), 40, posterior=False)
    features = load_features(config, folder, CPU).features(speech_like(64000)[None])
    decoder.quantizer.train()(features, torch.ones(1, 100, dtype=torch.bool))
    save_vits2(folder / "vits2.safetensors", decoder.eval(), LINEAGE, include_posterior=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["vq", "fsq"])
@pytest.mark.parametrize("quantizers", [1, 2])
def test_encode_then_vectors_is_the_quantisers_output(kind: str, method: str, quantizers: int, tmp_path: Path):
    config = _config(kind, method=method, quantizers=quantizers)
    _install(tmp_path, config)
    tokens = load_speech(config, tmp_path, tmp_path, CPU)
    assert isinstance(tokens, SpeechTokens) and isinstance(tokens, GroupedTokenizer)
    wav = speech_like(20000, 5)[None]
    features, f0 = load_features(config, tmp_path, CPU).features(wav), track_f0(wav, 16000)
    quantizer = load_quantizer(tmp_path / "vits2.safetensors")
    codes = tokens.encode(wav)
    assert codes.shape == (1, 31, 2 * quantizers + 1) and codes.dtype == torch.int64
    assert torch.equal(codes, quantizer.codes(features, f0))
    assert torch.equal(codes, tokens.encode(wav, f0=f0))
    assert tokens.codebook_sizes == (16,) * 1 + (16,) + (16,) * (2 * quantizers - 1)
    vectors, _, _ = quantizer(features, torch.ones(1, 31, dtype=torch.bool))
    assert torch.equal(tokens.vectors(codes)[..., :8], vectors)
    assert torch.equal(tokens.vectors(codes), FrameVectors(quantizer)(codes))
    assert tokens.vectors(codes[0, 3]).shape == (frame_vector_dim(config),)
    assert (tokens.sample_rate, tokens.frame_rate, tokens.samples_per_token) == (16000, 25.0, 640)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_rows(kind: str, tmp_path: Path):
    config = _config(kind)
    _install(tmp_path, config)
    tokens = load_speech(config, tmp_path, tmp_path, CPU)
    clips = [speech_like(n, n) for n in (32000, 20001, 639)]
    wav = torch.full((3, 32000), 0.4)
    for row, clip in zip(wav, clips, strict=True):
        row[: len(clip)] = clip
    f0 = torch.zeros(3, 210)
    for row, clip in zip(f0, clips, strict=True):
        found = track_f0(clip[None], 16000)[0]
        row[: len(found)] = found
    together = tokens.encode(wav, torch.tensor([len(clip) for clip in clips]), f0)
    for row, clip in zip(together, clips, strict=True):
        count = len(clip) // 640
        alone = tokens.encode(clip[None])
        assert alone.shape == (1, count, 3) and not row[count:].any()
        assert count == 0 or torch.equal(row[:count, 1], alone[0, :, 1])
        assert count == 0 or (row[:count] == alone[0]).float().mean() > 0.98, "a code may lie between two"


@pytest.mark.parametrize("changes", [{"frame_rate": 50}, {"prosody_levels": 0}])
def test_other_rates_and_no_prosody(changes: dict, tmp_path: Path):
    config = replace(_config(), **changes)
    save_encoder(tmp_path / "mhubert-147", "mhubert-147")
    quantizer = GroupedQuantizer(config).randomise_().freeze().eval()
    tokens = GroupedTokenizer(load_features(config, tmp_path, CPU), quantizer)
    codes = tokens.encode(speech_like(16000)[None])
    assert codes.shape == (1, config.frame_rate, len(tokens.codebook_sizes))
    assert tokens.samples_per_token == 16000 // config.frame_rate
    assert tokens.vectors(codes).shape[2] == frame_vector_dim(config)


def test_a_decoder_trained_on_other_features_is_refused(tmp_path: Path):
    _install(tmp_path, _config())
    other = replace(_config(), grouped=replace(_config().grouped, layer=1))
    with pytest.raises(UserError, match="layer 2 of mhubert-147") as caught:
        load_speech(other, tmp_path, tmp_path, CPU)
    assert caught.value.code == "speech_encoder_mismatch"
    with pytest.raises(UserError, match=r"nothing\.safetensors"):
        load_speech(_config(), tmp_path, tmp_path, CPU, decoder=tmp_path / "nothing.safetensors")


def test_our_own_tokens_load_and_keep_the_contract(tmp_path: Path):
    config = SpeechTokenizerConfig(hidden=32, heads=2, encoder_layers=1, n_mels=40, dropout=0.0)
    model = SemanticTokenizer(config).eval()
    save_tokenizer(tmp_path / "s3.safetensors", model, LINEAGE)
    tokens = load_speech(config, tmp_path, tmp_path, CPU)
    wav = speech_like(16000)[None]
    assert isinstance(tokens, SpeechTokens) and isinstance(model, SpeechTokens)
    with torch.no_grad():
        codes = tokens.encode(wav)
        assert torch.equal(codes, model.encode(wav))
        # As many tokens as the wav has room for, whatever the lengths are.
        padded = tokens.encode(torch.nn.functional.pad(wav, (0, 8000)), torch.tensor([16000]))
        assert padded.shape == (1, 37, 2) and not padded[0, 25:].any()
        assert (padded[:, :25, 0] == codes[..., 0]).all()
        assert tokens.encode(wav[:, :639]).shape == (1, 0, 2) and tokens.encode(wav[:, :640]).shape == (1, 1, 2)
        assert not tokens.encode(wav, torch.tensor([100])).any()


@pytest.mark.parametrize("kind", KINDS)
def test_random_tokens_have_the_published_architecture(kind: str, monkeypatch: pytest.MonkeyPatch):
    whole = PUBLISHED_SIZES[kind]
    assert model_layers(whole) == (12 if kind == "mhubert-147" else 24)
    monkeypatch.setitem(PUBLISHED_SIZES, kind, whole | SMALL)
    untrained = GroupedQuantizer(_config(kind))
    assert not untrained.ready
    tokens = random_speech(_config(kind), untrained, CPU)
    codes = tokens.encode(speech_like(16000)[None])
    assert codes.shape == (1, 25, 3) and untrained.ready and len(codes[0, :, 0].unique()) > 1
    assert random_speech(_config(kind), None, CPU).encode(speech_like(16000)[None]).shape == (1, 25, 3)
    own = replace(SpeechTokenizerConfig(), hidden=32, heads=2)
    assert random_speech(own, None, CPU).encode(speech_like(16000)[None]).shape == (1, 25, 2)


def test_base_reads_the_ninth_of_twelve_layers():
    sizes = load_preset("base").tokenizer.grouped
    assert (sizes.encoder, sizes.layer) == ("mhubert-147", 9) and model_layers(PUBLISHED_SIZES["mhubert-147"]) == 12
