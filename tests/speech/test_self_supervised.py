"""Laws of the self-supervised encoders, on tiny random weights in the published files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from modules.checkpoint import file_hash
from modules.config import SpeechTokenizerConfig
from modules.errors import UserError
from modules.speech import self_supervised
from modules.speech.building import load_features
from modules.speech.encoder_files import load_encoder
from modules.speech.self_supervised import SelfSupervised
from tests.speech.tiny_encoders import (
    KINDS,
    LAYERS,
    WIDTH,
    encoder_config,
    save_encoder,
    speech_like,
    tiny_extractor,
    tiny_model,
)

DURATIONS = (16000, 15999, 16161, 5000)


@pytest.fixture(scope="module", params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, object]:
    """Kind, folder and whole model of a published encoder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, save_encoder(folder, request.param)


def _reference(kind: str, model: torch.nn.Module, wav: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Hidden states of the whole model by way of transformers' extractor alone: what each layer says of one clip [S];
    the last one is what the model itself calls its output."""
    extractor = tiny_extractor(kind)
    if kind == "w2v-bert-2.0":
        inputs = extractor(functional.pad(wav, (120, 120)).numpy(), sampling_rate=16000, return_tensors="pt")
    else:
        values = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"]
        inputs = {"input_values": functional.pad(values, (40, 40))}
    with torch.no_grad():
        result = model(**inputs, output_hidden_states=True)
    return (*result.hidden_states[:-1], result.last_hidden_state)


def test_features_are_those_of_transformers(published):
    kind, folder, model = published
    for samples in DURATIONS:
        wav = speech_like(samples, 3)
        states = _reference(kind, model, wav)
        for layer in range(LAYERS + 1):
            ours = load_encoder(encoder_config(kind, layer), folder).features(wav[None])
            assert ours.shape == (1, samples // 320, WIDTH) and ours.dtype == torch.float32
            assert (ours - states[layer][:, : samples // 320]).abs().max() < 3e-5  # measured: 6e-6


def test_the_layers_above_are_not_there(published):
    kind, folder, whole = published
    encoder = load_encoder(encoder_config(kind, 1), folder)
    assert len(encoder.model.encoder.layers) == 1
    assert sum(p.numel() for p in encoder.parameters()) < sum(p.numel() for p in whole.parameters())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.train().model.training, "train mode would mask and skip at random"


def test_a_batch_is_its_clips_and_padding_changes_nothing(published):
    kind, folder, _ = published
    encoder = load_encoder(encoder_config(kind), folder)
    clips = [speech_like(n, n) for n in (32000, 17777, 900, 9600, 200)]
    wav = torch.full((len(clips), 40000), 0.7)
    for row, clip in zip(wav, clips, strict=True):
        row[: len(clip)] = clip
    lengths = torch.tensor([len(clip) for clip in clips])
    together = encoder.features(wav, lengths)
    assert together.shape == (5, 125, WIDTH)
    for row, clip in zip(together, clips, strict=True):
        frames = len(clip) // 320
        assert (row[:frames] - encoder.features(clip[None])[0]).abs().max() < 3e-5 if frames else True
        assert not row[frames:].any() and row.isfinite().all()


def test_any_duration_has_its_number_of_frames(published):
    kind, folder, _ = published
    encoder = load_encoder(encoder_config(kind, 0), folder)
    wav = speech_like(4000)
    for samples in (0, 1, 319, 320, 399, 639, 640, 1599, 1600, 1601, 1920, 3333):
        features = encoder.features(wav[None, :samples])
        assert features.shape == (1, samples // 320, WIDTH) and features.isfinite().all()
    assert encoder.features(torch.zeros(2, 1600)).isfinite().all(), "silence"


def _local(kind: str, encoder: SelfSupervised) -> SelfSupervised:
    """Without what looks over the whole clip: the group norm, and w2v-bert's attention."""
    if kind == "mhubert-147":
        encoder.model.feature_extractor.conv_layers[0].layer_norm = torch.nn.Identity()
    return encoder


def test_a_long_clip_has_no_seam_where_the_network_is_local(published, monkeypatch: pytest.MonkeyPatch):
    kind, folder, _ = published
    # Layer 0 is local: convolutions and norms. Windows of 6 s with 1 s of overlap keep the test short.
    encoder = _local(kind, load_encoder(encoder_config(kind, 0), folder))
    wav = speech_like(20 * 16000 + 123)[None]
    whole = encoder.features(wav)
    monkeypatch.setattr("modules.speech.self_supervised.WINDOW_SECONDS", 6)
    monkeypatch.setattr("modules.speech.self_supervised.OVERLAP_SECONDS", 1)
    monkeypatch.setattr("modules.speech.self_supervised.BATCH_FRAMES", 700)
    shapes, run = [], encoder._run
    monkeypatch.setattr(encoder, "_run", lambda inputs: (shapes.append(len(inputs)), run(inputs))[1])
    pieces = encoder.features(torch.cat([wav, wav]), torch.tensor([wav.shape[1], 16000 * 7]))
    assert (pieces[0] - whole[0]).abs().max() < 3e-5
    assert sum(shapes) == 4 + 2 and max(shapes) == (1 if kind == "mhubert-147" else 2)


def test_autocast_does_not_reach_it(published):
    kind, folder, _ = published
    encoder, wav = load_encoder(encoder_config(kind), folder), speech_like(8000)[None]
    plain = encoder.features(wav)
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder.features(wav)
    assert torch.equal(plain, inside)


def test_half_precision_files_are_computed_in_full(tmp_path: Path):
    save_encoder(tmp_path, "mhubert-147", tiny_model("mhubert-147").half())
    encoder = load_encoder(encoder_config("mhubert-147"), tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder.features(speech_like(8000)[None]).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_old_names_and_a_heads_prefix_load(kind: str, tmp_path: Path):
    model, wav = save_encoder(tmp_path, kind), speech_like(8000)
    expected = _reference(kind, model, wav)[2]
    file = tmp_path / "model.safetensors"
    prefix = "wav2vec2_bert." if kind == "w2v-bert-2.0" else "hubert."
    old = {}
    for name, tensor in load_file(file).items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        old[prefix + name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    save_file(old | {"lm_head.weight": torch.zeros(3)}, file)
    assert kind == "w2v-bert-2.0" or any(name.endswith("pos_conv_embed.conv.weight_g") for name in old)
    ours = load_encoder(encoder_config(kind), tmp_path).features(wav[None])
    assert (ours - expected[:, :25]).abs().max() < 3e-5


def test_identity_tells_weights_and_layers_apart(tmp_path: Path):
    for name in ("a", "b"):
        save_encoder(tmp_path / name, "mhubert-147")
    told = [
        load_encoder(encoder_config("mhubert-147", layer), tmp_path / name).identity
        for name, layer in (("a", 1), ("a", 2), ("b", 1))
    ]
    assert len(set(told)) == 3
    assert load_encoder(encoder_config("mhubert-147", 1), tmp_path / "a").identity == told[0]
    assert len(file_hash(tmp_path / "a" / "model.safetensors")) == len(told[0])


def test_what_is_missing_is_named_with_what_fetches_it(tmp_path: Path):
    config = encoder_config("mhubert-147")
    tokenizer = SpeechTokenizerConfig(form="grouped", grouped=config)
    with pytest.raises(UserError, match=r"mhubert-147.*model\.safetensors.*tools\.download mhubert-147") as caught:
        load_features(tokenizer, tmp_path, torch.device("cpu"))
    assert caught.value.code == "speech_encoder_missing"
    folder = tmp_path / "mhubert-147"
    save_encoder(folder, "mhubert-147")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*tools\.download") as caught:
        load_features(tokenizer, tmp_path, torch.device("cpu"))
    assert caught.value.code == "speech_encoder_pickle"


@pytest.mark.parametrize("damage", ["config", "cut", "foreign"])
def test_a_damaged_folder_says_so(damage: str, tmp_path: Path):
    save_encoder(tmp_path, "mhubert-147")
    weights = tmp_path / "model.safetensors"
    if damage == "config":
        (tmp_path / "config.json").write_text("{")
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:2000])
    else:
        save_file({"x": torch.zeros(2)}, weights)
    with pytest.raises(UserError) as caught:
        load_encoder(encoder_config("mhubert-147"), tmp_path)
    assert caught.value.code == "speech_encoder_unreadable" and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"feature_dim": 768}, "feature_dim"), ({"layer": 4}, "layer"), ({"feature_rate": 25}, "rate")],
)
def test_an_encoder_of_other_sizes_is_refused(changes: dict, word: str, tmp_path: Path):
    save_encoder(tmp_path, "mhubert-147")
    with pytest.raises(UserError, match=word) as caught:
        load_encoder(replace(encoder_config("mhubert-147"), **changes), tmp_path)
    assert caught.value.code == "speech_encoder_differs"


def test_convolutions_on_a_gpu_keep_all_bits() -> None:
    """What is set for the while holds for the whole process, so it must come and go."""
    before = torch.backends.cudnn.allow_tf32
    with self_supervised._exact_convolutions(torch.device("cuda")):
        assert torch.backends.cudnn.enabled and not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
    with self_supervised._exact_convolutions(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 == before
