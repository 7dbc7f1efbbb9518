"""The stage: the optimiser, what it reports, and that a model learns to read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.config import GPTConfig
from modules.data.batching import Loader
from modules.gpt.batching import Collate, MixSampler, batches_of
from modules.gpt.dataset import MixOptions, PromptDataset, validation_rows
from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.model import load_gpt
from modules.gpt.sequence import Part, arrange
from modules.gpt.train import GPTStage, StageOptions, Validation, build_optimizer
from modules.training.events import read_events
from modules.training.loop import LoopConfig, train
from modules.training.muon import STEPS, Muon, _polynomial_of_gram, orthogonalize
from tools.train_gpt import main


def test_orthogonalised_singular_values_are_near_one():
    for shape in ((3, 12, 12), (2, 8, 30), (2, 30, 8)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.4


def test_the_short_way_for_wide_matrices_gives_the_same():
    x = torch.randn(4, 16, 64)
    x /= x.norm(dim=(1, 2), keepdim=True)
    stepped = x
    for _ in range(STEPS):
        gram = stepped @ stepped.mT
        stepped = 3.4445 * stepped + (-4.7750 * gram + 2.0315 * gram @ gram) @ stepped
    torch.testing.assert_close(_polynomial_of_gram(x @ x.mT) @ x, stepped, atol=1e-4, rtol=1e-3)


def test_a_muon_step_turns_the_matrix_against_its_gradient():
    matrix = torch.nn.Parameter(torch.zeros(4, 6))
    gradient = torch.randn(4, 6)
    matrix.grad = gradient.clone()
    Muon([matrix], lr=0.1).step()
    assert (matrix.detach() * gradient).sum() < 0
    assert matrix.detach().square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.3)  # the size of an AdamW update


def test_every_parameter_has_one_optimiser(make_gpt):
    model = make_gpt()
    groups = build_optimizer(model, StageOptions()).param_groups
    owned = [id(p) for group in groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    assert len(groups[0]["params"]) == 2 * 7  # seven projections a layer go to Muon


def test_a_model_learns_to_read_aloud(make_gpt):
    """Text unit u is spoken as the frames (u, u % 8) twice: after a little training, new texts are read right."""
    config = GPTConfig(hidden=48, layers=2, heads=4, kv_heads=2, intermediate=64, max_positions=256, dropout=0.0)
    model = make_gpt(config=config).train()
    rng = np.random.default_rng(0)

    def utterance(units: int) -> Part:
        text = rng.integers(0, 12, units)
        return Part(text, np.stack([text, text % 8], 1).repeat(2, 0))

    stage = GPTStage(model, StageOptions(learning_rate=1e-2), Validation(), "tiny")
    optimizer = stage.optimizers["gpt"]
    for _ in range(120):
        rows = [[utterance(4) for _ in range(rng.integers(1, 3))] for _ in range(12)]
        losses = stage.losses("gpt", arrange(rows, model.end_code))
        optimizer.zero_grad()
        (losses["content"] + losses["prosody"]).backward()
        optimizer.step()
    model.eval()
    decoder, right = Decoder(model), 0
    for seed in range(10):
        prompt, target = utterance(4), utterance(4)
        prompts = build_prompts([PromptReference(prompt.text_ids, prompt.codes)], target.text_ids, 2)
        generated = decoder.generate(prompts, options=DecodeOptions(top_k=3, max_frames=30, seed=seed))
        right += generated.stopped_by == "eos" and np.array_equal(generated.codes.numpy(), target.codes)
    assert right >= 8


def test_one_batch_is_learned_by_heart(make_gpt, make_part):
    model = make_gpt().train()
    rows = [[make_part(4 + n, 12 + n, seed=10 * n + k) for k in range(1 + n % 2)] for n in range(6)]
    stage = GPTStage(model, StageOptions(learning_rate=1e-2), Validation(), "tiny")
    optimizer, batch = stage.optimizers["gpt"], arrange(rows, model.end_code, groups=[n % 2 for n in range(6)])
    for _ in range(80):
        losses = stage.losses("gpt", batch)
        optimizer.zero_grad()
        (losses["content"] + losses["prosody"]).backward()
        optimizer.step()
    assert losses["_accuracy"] > 0.99
    assert {"_content_alone", "_content_pair"} <= set(losses), "the two kinds of rows are told apart"


def test_the_loop_trains_validates_and_saves(make_gpt, store_folder, tmp_path):
    model = make_gpt()
    dataset = PromptDataset([store_folder], "train", MixOptions())
    dev = PromptDataset([store_folder], "dev", MixOptions())
    rows = validation_rows(dev, 3)
    batches = [Collate(64, last_only=True)(batch) for batch in batches_of(rows, 400)]
    stage = GPTStage(model, StageOptions(sampled_targets=2), Validation(batches, rows, dev.group_name), "tiny")
    loader = Loader(dataset, MixSampler(dataset, 400), Collate(64))
    config = LoopConfig(max_steps=6, learning_rate=2e-3, ema_decay=0.9, log_every_steps=2)
    result = train(stage, loader, config, tmp_path, resume=False, device=torch.device("cpu"))
    assert {"content", "prosody", "_accuracy", "_eos"} <= set(result.last_losses)
    expected = {"content_alone", "content_pair", "content_en_alone", "prosody_pair", "eos", "eos_rate", "length_ratio"}
    assert expected <= set(result.validation)
    assert load_gpt(result.weights[0]).end_code == 64


def test_validation_counts_every_prediction_once(make_gpt, store_folder):
    dev = PromptDataset([store_folder], "dev", MixOptions())
    rows = validation_rows(dev, 4)
    measures = []
    for budget in (10_000, 100):
        batches = [Collate(64, last_only=True)(batch) for batch in batches_of(rows, budget)]
        stage = GPTStage(make_gpt(), StageOptions(sampled_targets=0), Validation(batches, rows, dev.group_name), "t")
        torch.manual_seed(0)
        for p in stage.model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        with torch.no_grad():
            measures.append(stage.validate())
    assert measures[0] == pytest.approx(measures[1], rel=1e-4)


def test_the_command_trains_resumes_and_hands_out_weights(store_folder, tmp_path, monkeypatch, capsys):
    from modules.config import Preset, SpeechTokenizerConfig, TextConfig

    tiny = Preset(
        text=TextConfig(vocab_size=300),
        tokenizer=SpeechTokenizerConfig(levels=(4, 4, 4), prosody_levels=8),
        gpt=GPTConfig(hidden=32, layers=1, heads=4, kv_heads=2, intermediate=48, max_positions=512),
    )
    monkeypatch.setattr("tools.train_gpt.load_preset", lambda name: tiny)
    out, weights = tmp_path / "run", tmp_path / "weights" / "gpt.safetensors"
    common = ["--store", str(store_folder), "--output", str(out), "--batch-frames", "400", "--device", "cpu"]
    assert main([*common, "--max-steps", "2", "--validate-targets", "1"]) == 0
    assert (
        main([*common, "--max-steps", "3", "--resume", "--weights-out", str(weights), "--validate-targets", "1"]) == 0
    )
    model = load_gpt(weights)
    assert model.statistics["frames_per_unit"] > 0
    assert model.codebook_sizes == (64, 8) and model.fsq_levels == (4, 4, 4)
    assert main([*common, "--max-steps", "3"]) == 2
    assert "resume" in capsys.readouterr().err
    more = ["--store", str(store_folder), "--output", str(tmp_path / "tuned"), "--init", str(weights)]
    assert main([*more, "--max-steps", "1", "--validate-targets", "0", "--device", "cpu"]) == 0
    assert Path(tmp_path / "tuned" / "gpt.safetensors").is_file()

    job = tmp_path / "job"
    common += ["--validate-targets", "0", "--resume", "--job", str(job), "--weights-out", str(weights)]
    assert main([*common, "--max-steps", "14"]) == 0
    result = json.loads((job / "result.json").read_text())
    assert (result["step"], result["stopped_by"]) == (14, "steps")
    assert result["weights"] == [str(out / "gpt.safetensors"), str(weights)]
    told = [(event["step"], event["total"]) for event in read_events(job) if event["kind"] == "step"]
    assert told == [(10, 14), (14, 14)]
    (job / "stop").touch()
    assert main([*common, "--max-steps", "30"]) == 3
    assert read_events(job)[-1]["stopped_by"] == "stop" and not (job / "result.json").exists()
