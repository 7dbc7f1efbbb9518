"""Laws of the published S3 tokens, on tiny graphs with the published inputs and outputs."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from modules.audio.pitch import track_f0
from modules.audio.spectral import WhisperLogMel
from modules.config import SpeechTokenizerConfig, load_preset
from modules.errors import ConfigError, UserError
from modules.speech.building import load_speech, random_speech
from modules.speech.contract import SpeechTokens
from modules.speech.prosody import encode_prosody
from modules.speech.published_s3 import PUBLISHED, PublishedS3
from tests.speech.tiny_encoders import TinyS3, speech_like

KINDS = tuple(PUBLISHED)


def _config(kind: str, **changes) -> SpeechTokenizerConfig:
    facts = PUBLISHED[kind]
    codes = {"quantizer": "vq", "codebook_size": 4096} if facts.size == 4096 else {"levels": (3,) * 8}
    return SpeechTokenizerConfig(form="s3", encoder=kind, frame_rate=facts.frame_rate, **{**codes, **changes})


def _tokenizer(folder: Path, kind: str = "s3-v2-25hz", **changes) -> tuple[PublishedS3, TinyS3]:
    graph = TinyS3(kind)
    graph.write(folder / kind / PUBLISHED[kind].file)
    return load_speech(_config(kind, **changes), folder, folder, torch.device("cpu")), graph


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_onnxruntime_on_the_reference_mel(kind: str, tmp_path: Path):
    from transformers import WhisperFeatureExtractor

    tokenizer, graph = _tokenizer(tmp_path, kind)
    wav = speech_like(52345)
    mel = WhisperFeatureExtractor(feature_size=128)(
        wav.numpy(), sampling_rate=16000, padding=False, return_tensors="np"
    )["input_features"]
    session = onnxruntime.InferenceSession(str(tmp_path / kind / PUBLISHED[kind].file))
    count = np.array([mel.shape[2]], np.int32)
    theirs = session.run(None, {"feats": mel.astype(np.float32), "feats_length": count})[0]
    codes = tokenizer.encode(wav[None])
    tokens = 52345 * tokenizer.config.frame_rate // 16000
    assert codes.shape == (1, tokens, 2) and codes.dtype == torch.int64
    assert codes[0, :, 0].tolist() == theirs.reshape(-1)[:tokens].tolist()
    assert torch.equal(codes[0, :, 0], graph.ids(torch.from_numpy(mel))[:tokens])
    assert theirs.dtype == (np.int64 if kind.startswith("s3-v1") else np.int32)
    assert len(codes[0, :, 0].unique()) > 20, "a graph that says one thing proves nothing"


def test_it_keeps_the_contract(tmp_path: Path):
    tokenizer, _ = _tokenizer(tmp_path)
    assert isinstance(tokenizer, SpeechTokens) and tokenizer.vectors(torch.zeros(1, 2, 2).long()) is None
    assert (tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.samples_per_token) == (16000, 25.0, 640)
    assert tokenizer.codebook_sizes == (6561, 64)
    assert _tokenizer(tmp_path / "b", prosody_levels=0)[0].encode(speech_like(6400)[None]).shape == (1, 10, 1)
    assert load_preset("base-s3").tokenizer.encoder == "s3-v2-25hz"


@pytest.mark.parametrize(
    ("kind", "seconds", "windows"),
    [("s3-v2-25hz", 67.33, 3), ("s3-v1-50hz", 31.0, 2), ("s3-v2-25hz", 30.02, 2), ("s3-v2-25hz", 30.0, 1)],
)
def test_a_long_clip_has_no_seam(kind: str, seconds: float, windows: int, tmp_path: Path):
    tokenizer, graph = _tokenizer(tmp_path, kind, prosody_levels=0)
    wav = speech_like(round(seconds * 16000))
    seen, whole = [], tokenizer._graph
    tokenizer._graph = lambda mel: (seen.append(mel.shape[2]), whole(mel))[1]
    codes = tokenizer.encode(wav[None])[0, :, 0]
    expected = graph.ids(WhisperLogMel()(wav[None]))
    assert torch.equal(codes, expected[: len(wav) // tokenizer.samples_per_token])
    assert max(seen) <= 3000 and len(seen) == windows


def test_every_duration_has_its_number_of_tokens(tmp_path: Path):
    tokenizer, _ = _tokenizer(tmp_path, prosody_levels=0)
    wav = speech_like(40000)
    for samples in (0, 1, 160, 639, 640, 641, 799, 1279, 1280, 5000, 15999, 16000, 31999, 40000):
        assert tokenizer.encode(wav[None, :samples]).shape == (1, samples // 640, 1)


def test_a_batch_is_its_rows_and_what_follows_a_row_does_not_matter(tmp_path: Path):
    tokenizer, _ = _tokenizer(tmp_path)
    first, second = speech_like(32000), speech_like(20000, 1)
    wav = torch.stack([first, torch.cat([second, torch.full((12000,), 0.3)])])
    lengths = torch.tensor([32000, 20000])
    f0 = torch.cat([track_f0(row[None], 16000) for row in wav])
    together = tokenizer.encode(wav, lengths, f0)
    assert torch.equal(together[0], tokenizer.encode(first[None], f0=f0[:1])[0])
    assert torch.equal(together[1, :31, 0], tokenizer.encode(second[None])[0, :, 0])
    assert not together[1, 31:].any()
    # The prosody stream is that of the other forms.
    assert torch.equal(together[0, :, 1], encode_prosody(f0[:1], 64)[0]) and together[0, :, 1].any()


def test_a_copy_opens_its_own_graph(tmp_path: Path):
    tokenizer, _ = _tokenizer(tmp_path)
    wav = speech_like(16000)[None]
    codes = tokenizer.encode(wav)
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again._graph is None and torch.equal(again.encode(wav), codes)
    opened = tokenizer._graph
    assert tokenizer.to(torch.device("cpu"))._graph is opened


def test_inputs_are_told_apart_by_type_not_by_name(tmp_path: Path):
    TinyS3("s3-v2-25hz", names=("x", "n")).write(tmp_path / "s3-v2-25hz" / "put_here_by_hand.onnx")
    renamed = load_speech(_config("s3-v2-25hz"), tmp_path, tmp_path, torch.device("cpu"))
    usual, _ = _tokenizer(tmp_path / "usual")
    assert torch.equal(renamed.encode(speech_like(16000)[None]), usual.encode(speech_like(16000)[None]))


def test_a_missing_graph_is_named_with_what_fetches_it(tmp_path: Path):
    with pytest.raises(UserError, match=r"s3-v2-25hz.*tools\.download s3-v2-25hz") as caught:
        load_speech(_config("s3-v2-25hz"), tmp_path, tmp_path, torch.device("cpu"))
    assert caught.value.code == "speech_encoder_missing"


def test_a_graph_that_is_none_or_another_one_is_refused_when_it_is_loaded(tmp_path: Path):
    file = tmp_path / "s3-v1-25hz" / PUBLISHED["s3-v1-25hz"].file
    cases = [("s3-v1-50hz", "speech_encoder_differs"), ("s3-v2-25hz", "speech_encoder_differs"), (None, "unreadable")]
    for kind, code in cases:
        if kind is None:
            file.write_bytes(b"no graph")
        else:
            TinyS3(kind, seed=2).write(file)
        with pytest.raises(UserError) as caught:
            load_speech(_config("s3-v1-25hz"), tmp_path, tmp_path, torch.device("cpu"))
        assert caught.value.code.endswith(code) and str(file.parent) in str(caught.value)


def test_a_preset_that_contradicts_the_published_model_is_refused(tmp_path: Path):
    config = _config("s3-v2-25hz")
    for changes in ({"frame_rate": 50}, {"levels": (8, 8, 8, 8)}, {"quantizer": "vq", "codebook_size": 4096}):
        with pytest.raises(ConfigError) as caught:
            PublishedS3(replace(config, **changes), tmp_path)
        assert caught.value.code == "config_not_published"


def test_it_cannot_be_tried_with_random_weights():
    with pytest.raises(UserError, match=r"tools\.download s3-v2-25hz"):
        random_speech(_config("s3-v2-25hz"), None, torch.device("cpu"))


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("offered", [("CPUExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider")])
def test_threads_are_torchs_and_cuda_is_used_where_both_have_it(
    device: str, offered: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, session = [], onnxruntime.InferenceSession

    def record(path: str, options: onnxruntime.SessionOptions, providers: list) -> onnxruntime.InferenceSession:
        named = [p if isinstance(p, str) else (p[0], p[1]["device_id"]) for p in providers]
        asked.append((options.intra_op_num_threads, named))
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(offered))
    TinyS3("s3-v2-25hz").write(tmp_path / "speech_tokenizer_v2.onnx")
    tokenizer = PublishedS3(_config("s3-v2-25hz"), tmp_path, device)
    assert not asked, "nothing is opened before it is needed"
    assert tokenizer.encode(speech_like(6400)[None]).shape == (1, 10, 2)
    cuda = [("CUDAExecutionProvider", int(device[-1] == "1"))] if device != "cpu" and len(offered) == 2 else []
    assert asked == [(torch.get_num_threads(), [*cuda, "CPUExecutionProvider"])]
