"""The decoder with tokens of form "grouped": codebooks learned with it, saved with it, and fixed afterwards."""

import itertools
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from modules.checkpoint import Lineage, load_training_state, load_weights
from modules.config import AudioConfig, GPTConfig, GroupedConfig, SpeechTokenizerConfig, TextConfig, to_dict
from modules.data.batching import Loader
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import UserError
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import Part, arrange
from modules.speech.grouped import FrameVectors, frame_codes, frame_vector_dim, load_quantizer, stream_sizes
from modules.training.loop import LoopConfig, train
from modules.training.memory import fit_batch
from modules.vits2.building import build_vits2
from modules.vits2.dataset import BalancedSampler, DecoderDataset
from modules.vits2.model import VITS2, load_vits2, save_vits2
from modules.vits2.train import VITS2Stage, VITS2TrainConfig, warm_start
from tests.tiny import tiny_preset
from tools import train_vits2

TOKENIZER = SpeechTokenizerConfig(
    form="grouped",
    prosody_levels=64,
    grouped=GroupedConfig(feature_dim=12, vector_dim=8, groups=2, quantizers=1, codebook_size=16),
)
PRESET = replace(tiny_preset(), audio=AudioConfig(n_mels=20, n_fft=1280), tokenizer=TOKENIZER)
LINEAGE = Lineage("tiny", "vits2", 1, 1)


def _row(seconds: float, f0_hz: float, seed: int) -> dict[str, np.ndarray]:
    """A buzz whose timbre follows one of 8 kinds, and features at 50 Hz, one short of the sound, that tell the kind."""
    rng = np.random.default_rng(seed)
    tokens = int(seconds * 25)
    kinds = np.repeat(rng.integers(0, 8, tokens // 5 + 1), 5)[:tokens]
    times = np.arange(tokens * 1280) / 32000
    wav = 0.1 * sum(np.sin(2 * np.pi * f0_hz * n * times) / n ** np.repeat(1 + kinds / 4, 1280) for n in range(1, 20))
    table = np.random.default_rng(5).standard_normal((8, 12))
    ssl = np.repeat(table[kinds], 2, axis=0)[:-1] + 0.05 * rng.standard_normal((2 * tokens - 1, 12))
    return {
        "audio": (wav * 32767).clip(-32768, 32767).astype(np.int16),
        "f0": np.full(tokens * 4, f0_hz, np.float32),
        "ssl": ssl.astype(np.float16).reshape(-1),
    }


def _write(folder: Path, *, features: bool = True, codebooks: int | None = 0) -> FeatureStore:
    """With `codebooks` None the store has no column of codes."""
    with StoreWriter(folder) as writer:
        for number in range(7):
            row = _row(1.6 + 0.2 * number, 120.0 + 30 * (number % 3), number)
            tokens = len(row["f0"]) // 4
            if codebooks is not None:
                codes = np.random.default_rng(number).integers(0, 16, tokens * codebooks).astype(np.int16)
                row |= {"codebooks": codebooks, "codes": codes}
            if not features:
                row.pop("ssl")
            writer.add(
                str(number), speaker="ab"[number % 2], language="en", split="dev" if number == 6 else "train",
                text="x", seconds=tokens / 25, source="recorded", text_ids=np.arange(1, 4 + number, dtype=np.int32),
                **row,
            )  # fmt: skip
    return FeatureStore(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return _write(tmp_path_factory.mktemp("grouped"))


@pytest.fixture
def dataset(store: FeatureStore) -> DecoderDataset:
    return DecoderDataset([store], PRESET.audio, "train", 0.8, (0.5, 1.0), tokenizer=TOKENIZER)


def _batch(dataset: DecoderDataset, count: int = 4):
    return dataset.collate([dataset.get(i, np.random.default_rng(i)) for i in range(count)])


def _stage(dataset: DecoderDataset, model: VITS2 | None = None, **changes) -> VITS2Stage:
    config = VITS2TrainConfig(segment_seconds=0.3, period_width=2, spectrum_width=2, **changes)
    return VITS2Stage(model or build_vits2(PRESET, 40), config, [_batch(dataset, 2)], "tiny")


def _loader(dataset: DecoderDataset) -> Loader:
    return Loader(dataset, BalancedSampler(dataset, 4), dataset.collate, prefetch_threads=0)


def _speak(model: VITS2, codes: torch.Tensor, **changes) -> torch.Tensor:
    style = torch.zeros(1, PRESET.vits2.style_dim)
    generator = torch.Generator().manual_seed(3)
    return model.infer(codes, torch.tensor([[1, 2, 3]]), style, 150.0, generator=generator, **changes)


def _codes(model: VITS2, tokens: int = 12) -> torch.Tensor:
    ids = torch.randint(0, 16, (1, tokens, 2), generator=torch.Generator().manual_seed(1))
    return frame_codes(ids, torch.full((1, tokens), 32))


def _trained(dataset: DecoderDataset) -> VITS2:
    """A decoder whose codebooks have seen one batch."""
    stage = _stage(dataset)
    stage.phases(0)
    stage.model.train()
    stage.losses("generator", _batch(dataset))
    return stage.model.eval()


def test_windows_carry_features_and_pitch(dataset: DecoderDataset, store: FeatureStore):
    for index in range(len(dataset)):
        example = dataset.get(index, np.random.default_rng(index))
        tokens = len(example.codes)
        assert len(example.ssl) == 2 * tokens and len(example.wav) == tokens * 1280 and example.ssl.shape[1] == 12
        assert example.codes.shape[1] == 3 and (example.codes[:, 1] == 32).all() and not example.codes[:, [0, 2]].any()
        whole = store[dataset.rows[index][1]]
        sound = whole["audio"].astype(np.float32) / 32768
        features = whole["ssl"].reshape(-1, 12)
        (start,) = [t for t in range(0, len(features), 2) if np.array_equal(features[t:][: 2 * tokens], example.ssl)]
        assert np.array_equal(sound[start * 640 :][: tokens * 1280], example.wav)
    batch = _batch(dataset)
    assert batch.ssl.shape == (4, 40, 12) and batch.to(torch.device("cpu")).ssl.dtype == torch.float16


def test_stores_without_features_need_finished_codes(tmp_path: Path):
    s3 = _write(tmp_path / "s3", features=False, codebooks=2)
    with pytest.raises(UserError) as caught:
        DecoderDataset([s3], PRESET.audio, tokenizer=TOKENIZER)
    assert caught.value.code == "no_ssl_features" and str(tmp_path / "s3") in str(caught.value)
    bare = _write(tmp_path / "bare", features=False, codebooks=None)
    for tokenizer in (TOKENIZER, SpeechTokenizerConfig()):
        with pytest.raises(UserError) as caught:
            DecoderDataset([bare], PRESET.audio, tokenizer=tokenizer)
        assert caught.value.code == "no_ssl_features"
    done = DecoderDataset([_write(tmp_path / "own", features=False, codebooks=3)], PRESET.audio, tokenizer=TOKENIZER)
    assert _batch(done).ssl is None and _batch(done).codes[..., 0].any()


def test_gradient_reaches_every_parameter(dataset: DecoderDataset):
    stage = _stage(dataset)
    stage.phases(0)
    losses = stage.losses("generator", _batch(dataset))
    assert losses["commitment"] > 0 and 1 < losses["_code_perplexity"] <= 16
    sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
    assert [n for n, p in stage.model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert stage.model.quantizer.project.weight.grad.any() and stage.weights["commitment"] == 0.25


def test_validation_never_seeds_the_codebooks(dataset: DecoderDataset):
    stage = _stage(dataset)
    stage.model.eval()
    with torch.no_grad():
        assert stage.validate() == {} and not stage.model.quantizer.ready


def test_trying_the_batch_against_the_memory_is_no_first_batch(dataset: DecoderDataset):
    stage = _stage(dataset)
    before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    assert fit_batch(stage, lambda share: _loader(dataset), torch.device("cpu")).share == 1.0
    assert not stage.model.quantizer.ready
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.model.state_dict().items())


@pytest.mark.parametrize("method", ["vq", "fsq"])
def test_trying_the_batch_asks_no_other_process(dataset: DecoderDataset, monkeypatch: pytest.MonkeyPatch, method: str):
    """Each process tries shares of its own: one that waited for another would wait for ever."""
    calls = []
    for name in ("all_reduce", "all_gather", "broadcast"):
        monkeypatch.setattr(dist, name, lambda *a, _name=name, **k: calls.append(_name))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda *a: 2)
    sizes = replace(TOKENIZER.grouped, method=method, levels=(4, 4))
    preset = replace(PRESET, tokenizer=replace(TOKENIZER, grouped=sizes))
    stage = _stage(dataset, build_vits2(preset, 40), adversarial_from=0)
    quantizer = stage.model.quantizer
    assert quantizer.together
    for seeded in (False, True):
        if seeded:
            quantizer.randomise_()
        before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
        assert fit_batch(stage, lambda share: _loader(dataset), torch.device("cpu")).share == 1.0
        assert calls == [] and "forward" not in vars(quantizer)
        assert all(torch.equal(before[name], tensor) for name, tensor in stage.model.state_dict().items())
    with stage.quiet():
        stage.phases(0)
        losses = stage.losses("generator", _batch(dataset))
    assert losses["commitment"] > 0
    sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
    assert quantizer.project.weight.grad.any()
    assert calls == []
    # A real step does ask; with nobody there to answer, it may fail on what it hears.
    with suppress(Exception):
        stage.losses("generator", _batch(dataset))
    assert calls


def test_saved_tokens_are_those_that_were_learned(dataset: DecoderDataset, tmp_path: Path):
    """An averaged projection before codebooks of now would give other ids than the prior was trained with."""

    def run(folder: str, steps: int) -> VITS2Stage:
        torch.manual_seed(0)
        stage, asked = _stage(dataset, learning_rate=1e-2), itertools.count()
        train(
            stage, _loader(dataset), LoopConfig(max_steps=3, ema_decay=0.9), tmp_path / folder, resume=True,
            device=torch.device("cpu"), should_stop=lambda: next(asked) >= steps,
        )  # fmt: skip
        return stage

    whole, _, _ = run("a", 3), run("b", 2), run("b", 3)
    raw = whole.model.quantizer.eval()
    saved = load_quantizer(tmp_path / "a" / "vits2.safetensors")
    x = _batch(dataset).ssl
    assert torch.equal(saved.encode(x), raw.encode(x))
    assert all(torch.equal(tensor, raw.state_dict()[name]) for name, tensor in saved.state_dict().items())
    state = load_training_state(tmp_path / "a" / "checkpoint.safetensors")
    assert state["ema"] and not any(name.startswith("vits2.quantizer.") for name in state["ema"])
    one, other = (load_weights(tmp_path / folder / "vits2.safetensors").state for folder in "ab")
    assert list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_fixed_codebooks_stay_fixed_over_a_resume(store: FeatureStore, tmp_path: Path, capsys):
    """Without the weights that brought them, the quantiser would be built to learn: another run."""
    (tmp_path / "tiny.json").write_text(json.dumps(to_dict(PRESET)))
    same = ["--store", str(store.folder), "--preset", str(tmp_path / "tiny.json"), "--device", "cpu", "--threads", "1"]
    same += ["--batch-seconds", "2", "--window-seconds", "0.8", "--validate-every", "0", "--no-check-memory"]
    init = ["--init", str(tmp_path / "a" / "vits2.safetensors")]

    def run(folder: str, steps: int, *more: str) -> int:
        return train_vits2.main([*same, "--output", str(tmp_path / folder), "--max-steps", str(steps), *more])

    assert run("a", 1) == 0 and run("a", 2, "--resume") == 0 and run("b", 1, *init) == 0
    capsys.readouterr()
    assert run("b", 2, "--resume") == 2
    told = capsys.readouterr().err
    assert "repeat the --init" in told and "Traceback" not in told
    assert run("b", 2, "--resume", *init) == 0
    learned, kept = (load_quantizer(tmp_path / folder / "vits2.safetensors").state_dict() for folder in "ab")
    assert all(torch.equal(kept[name], tensor) for name, tensor in learned.items())
    configs = [load_training_state(tmp_path / folder / "checkpoint.safetensors")["run_config"] for folder in "ab"]
    assert [config["quantizer_fixed"] for config in configs] == [False, True]


def test_the_loop_learns_codes_that_speak(dataset: DecoderDataset, tmp_path: Path):
    stage = _stage(dataset, adversarial_from=1)
    stage.published = lambda step, epoch: tmp_path / "small.safetensors"
    run = {"resume": True, "device": torch.device("cpu"), "run_config": {}}
    train(stage, _loader(dataset), LoopConfig(max_steps=2), tmp_path, **run)
    result = train(stage, _loader(dataset), LoopConfig(max_steps=3), tmp_path, **run)
    assert result.step == 3 and result.skipped == 0
    assert {"commitment", "_code_perplexity", "adversarial"} <= set(result.last_losses)
    assert {"mel_prior", "pitch_error_semitones"} <= set(result.validation)
    x = _batch(dataset).ssl
    quantizer, model = load_quantizer(tmp_path / "vits2.safetensors"), load_vits2(tmp_path / "vits2.safetensors")
    small = load_vits2(tmp_path / "small.safetensors")
    ids = quantizer.encode(x)
    assert quantizer.frozen and not quantizer.training and model.codebook_sizes == (16, 64, 16)
    for other in (model, small):  # half precision leaves the tokens alone
        assert torch.equal(other.quantizer.encode(x), ids)
        assert torch.equal(other.quantizer.vectors(ids), quantizer.vectors(ids))
    codes = frame_codes(ids[:1], torch.full_like(ids[:1, :, 0], 32))
    wav = _speak(model, codes)
    assert wav.shape == (20 * 1280,) and wav.isfinite().all() and wav.std() > 0
    assert not torch.equal(_speak(model, (codes + torch.tensor([1, 0, 0])) % 16), wav)


def test_a_decoder_comes_back_as_it_went(dataset: DecoderDataset, tmp_path: Path):
    model = _trained(dataset)
    again = load_vits2(save_vits2(tmp_path / "a.safetensors", model, LINEAGE, include_posterior=True))
    assert torch.equal(_speak(again, _codes(model)), _speak(model, _codes(model)))
    assert again.tokenizer == TOKENIZER and again.prosody_levels == 64


def test_learned_codebooks_are_left_alone_unless_asked(dataset: DecoderDataset, tmp_path: Path):
    path = save_vits2(tmp_path / "a.safetensors", _trained(dataset), LINEAGE, include_posterior=True)
    for choice, still in (("auto", True), ("freeze", True), ("train", False)):
        model = build_vits2(PRESET, 40)
        assert warm_start(model, path) == ([], [])
        stage = _stage(dataset, model, quantizer=choice)
        before = {name: tensor.clone() for name, tensor in model.quantizer.state_dict().items()}
        result = train(
            stage,
            _loader(dataset),
            LoopConfig(max_steps=2),
            tmp_path / choice,
            resume=False,
            device=torch.device("cpu"),
        )
        same = all(torch.equal(before[name], tensor) for name, tensor in model.quantizer.state_dict().items())
        assert same == still and ("commitment" in result.last_losses) == (not still)


def test_scalar_codes_learn_until_a_file_brings_learned_ones(dataset: DecoderDataset, tmp_path: Path):
    """Their grid is there from the start, so being ready does not say that they were learned."""
    sizes = replace(TOKENIZER.grouped, method="fsq", levels=(4, 4))
    preset = replace(PRESET, tokenizer=replace(TOKENIZER, grouped=sizes))
    model = build_vits2(preset, 40)
    stage = _stage(dataset, model)
    assert model.quantizer.ready and not model.quantizer.frozen
    stage.phases(0)
    stage.model.train()
    losses = stage.losses("generator", _batch(dataset))
    sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert model.quantizer.project.weight.grad.any()
    path = save_vits2(tmp_path / "a.safetensors", model, LINEAGE, include_posterior=True)
    for choice, still in (("auto", True), ("train", False)):
        fresh = build_vits2(preset, 40)
        assert warm_start(fresh, path) == ([], [])
        _stage(dataset, fresh, quantizer=choice)
        assert fresh.quantizer.frozen == still
    other = build_vits2(PRESET, 40)
    warm_start(other, path)
    assert not other.tokens_given


def test_finished_codes_train_the_same_decoder(dataset: DecoderDataset):
    model = _trained(dataset)
    model.quantizer.freeze()
    batch = _batch(dataset)
    ids = model.quantizer.encode(batch.ssl)
    finished = replace(batch, ssl=None, codes=frame_codes(ids, batch.codes[..., 1]))
    sounds = []
    for one in (batch, finished):
        torch.manual_seed(2)
        stage = _stage(dataset, model)
        stage.phases(0)
        losses = stage.losses("generator", one)
        assert "commitment" not in losses
        sounds.append(losses["mel"])
    torch.testing.assert_close(*sounds)


def test_without_a_pitch_stream_a_contour_must_be_given(dataset: DecoderDataset):
    preset = replace(PRESET, tokenizer=replace(TOKENIZER, prosody_levels=0))
    model = build_vits2(preset, 40).eval()
    assert model.codebook_sizes == (16, 16) and model.prosody_levels == 0
    codes = torch.zeros(1, 12, 2, dtype=torch.long)
    with pytest.raises(UserError, match="f0 contour"):
        _speak(model, codes)
    assert _speak(model, codes, f0=torch.full((1, 48), 120.0)).shape == (12 * 1280,)


def test_a_language_model_learns_from_the_decoders_codes(dataset: DecoderDataset):
    quantizer = _trained(dataset).quantizer.freeze()
    batch = _batch(dataset)
    codes = quantizer.codes(batch.ssl, batch.f0)
    assert torch.equal(codes[..., 1] * (batch.codes[..., 1] > 0), batch.codes[..., 1])
    config = GPTConfig(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48, max_positions=256, dropout=0.0)
    model = SpeechGPT(config, TextConfig(), stream_sizes(TOKENIZER), 40, vector_dim=frame_vector_dim(TOKENIZER))
    model.set_vectors(FrameVectors(quantizer))
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    rows = [[Part(np.arange(1, 5), codes[i].numpy()), Part(np.arange(3, 9), codes[i + 1].numpy())] for i in (0, 2)]
    sequences = arrange(rows, model.end_code)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(8):
        logits = model(sequences)
        loss = sum(F.cross_entropy(x, sequences.targets[:, k], ignore_index=-100) for k, x in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [x.shape[1] for x in logits] == [17, 64, 16] and losses[-1] < losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in quantizer.state_dict().items())
