"""A training takes the features of its own preset and the speech tokens of its own decoder, or says what differs."""

import dataclasses
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.checkpoint import Lineage, load_weights, save_weights
from modules.config import GPTConfig, Preset, SpeechTokenizerConfig, TextConfig, load_preset, to_dict
from modules.data.features import LineStore, open_store
from modules.data.store import StoreWriter
from modules.errors import UserError
from modules.speech.grouped import load_quantizer, quantizer_hash
from modules.vits2.building import build_vits2
from modules.vits2.model import save_vits2
from tests.speech.tiny_encoders import WIDTH, TinyS3
from tests.tools import test_extract_learned as learned
from tests.tools.conftest import TrainingData
from tools import extract, train_gpt, train_vits2

CLIPS = learned.CLIPS


def write_decoder(folder: Path, preset: Preset, seed: int) -> Path:
    """A decoder that has seen one batch of noise."""
    torch.manual_seed(seed)
    decoder = build_vits2(preset, preset.text.vocab_size)
    tokens = preset.tokenizer
    decoder.quantizer.train()(torch.randn(1, 400, tokens.grouped.feature_dim), torch.ones(1, 200, dtype=torch.bool))
    folder.mkdir(parents=True)
    return save_vits2(
        folder / "vits2.safetensors", decoder, Lineage(preset.name, "vits2", 0, 0), include_posterior=False
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, their features with the codes of decoder a, and another decoder b."""
    root = learned.lay_out(tmp_path_factory.mktemp("guarded"))
    preset = load_preset(str(root / "tiny.json"))
    for number, name in enumerate("ab"):
        write_decoder(root / name, preset, number)
    assert learned.run(root, "--decoder", str(root / "a" / "vits2.safetensors")) == 0
    return root


@pytest.fixture
def store(root: Path, tmp_path: Path) -> Path:
    """A copy of the features."""
    return Path(shutil.copytree(root / "features", tmp_path / "features"))


def changed(root: Path, file: Path, **changes) -> Path:
    """The preset's file with other parts."""
    file.write_text(json.dumps(to_dict(dataclasses.replace(load_preset(str(root / "tiny.json")), **changes))))
    return file


def train(root: Path, store: Path, output: Path, *more: str, preset: Path | None = None) -> int:
    flags = ["--store", str(store), "--output", str(output), "--preset", str(preset or root / "tiny.json")]
    flags += ["--max-steps", "1", "--batch-frames", "300", "--device", "cpu", "--threads", "1", "--no-check-memory"]
    return train_gpt.main([*flags, "--decoder", str(root / "a"), *more])


def train_decoder(root: Path, store: Path, output: Path, preset: Path) -> int:
    flags = ["--store", str(store), "--output", str(output), "--preset", str(preset), "--max-steps", "1"]
    return train_vits2.main([*flags, "--batch-seconds", "2", "--window-seconds", "0.6", "--device", "cpu"])


def write_plain(folder: Path, **more) -> Path:
    """A store of a single line that says nothing about its origin."""
    row = {"codes": np.ones(90, np.int16), "codebooks": 3, "text_ids": np.arange(4, dtype=np.int32)} | more
    with StoreWriter(folder) as writer:
        writer.add(
            "key", speaker="a", language="en", text="x", split="train", seconds=1.2, source="recorded",
            audio=np.ones(38400, np.int16), f0=np.full(120, 140.0, np.float32), **row,
        )  # fmt: skip
    return folder


def test_codes_of_one_decoder_are_not_learned_with_another(root, store, tmp_path, capsys) -> None:
    assert train(root, store, tmp_path / "run", "--decoder", str(root / "b")) == 2
    told = capsys.readouterr().err
    assert str(store) in told and f"--only codes --preset tiny --decoder {root / 'b'}" in told
    assert not (tmp_path / "run").exists()
    assert train(root, store, tmp_path / "run") == 0
    weights = tmp_path / "run" / "gpt.safetensors"
    claimed = load_weights(weights).config["statistics"]["quantizer"]
    assert claimed == quantizer_hash(load_quantizer(root / "a" / "vits2.safetensors"))
    other = ["--decoder", str(root / "b")]
    assert train(root, store, tmp_path / "on", "--init", str(weights), *other) == 2
    assert "another decoder than" in capsys.readouterr().err
    assert train(root, store, tmp_path / "on", "--init", str(weights)) == 0
    assert (
        learned.run(root, "--output", str(store), "--only", "codes", "--decoder", f"{root / 'b'}/vits2.safetensors")
        == 0
    )
    assert train(root, store, tmp_path / "run", "--max-steps", "2", "--data-added", *other) == 2
    assert "train.quantizer" in capsys.readouterr().err
    assert train(root, store, tmp_path / "of b", *other) == 0


@pytest.mark.parametrize("pattern", [{"group_size": 2}, {"codebooks": "delay"}])
def test_every_pattern_is_trained_by_the_command(pattern: dict, training_data: TrainingData, tmp_path) -> None:
    preset = load_preset(str(training_data.preset))
    gpt = dataclasses.replace(preset.gpt, **pattern)
    (tmp_path / "p.json").write_text(json.dumps(to_dict(dataclasses.replace(preset, gpt=gpt))))
    assert train(tmp_path, training_data.store, tmp_path / "run", preset=tmp_path / "p.json") == 0
    found = load_weights(tmp_path / "run" / "gpt.safetensors").config["gpt"]
    assert pattern.items() <= found.items()


def test_learned_tokens_are_trained_in_groups(root, tmp_path) -> None:
    gpt = dataclasses.replace(load_preset(str(root / "tiny.json")).gpt, group_size=2)
    assert train(root, root / "features", tmp_path / "run", preset=changed(root, tmp_path / "p.json", gpt=gpt)) == 0


def test_codes_that_are_missing_are_told(root, store, tmp_path, capsys) -> None:
    learned.write_wav(root / "clips" / "more.wav", learned.synthetic_speech(1.3, 32000, 150, 77), 32000)
    longer = root / "longer.list"
    longer.write_text((root / "me.list").read_text() + "\nclips/more.wav|ada|en|the lazy dog")
    assert learned.run(root, "--output", str(store), "--input", str(longer)) == 0
    assert len(open_store(store)) == CLIPS + 1
    assert train(root, store, tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert told.count("1 lines in") == 1 and "--only codes" in told
    decoder = str(root / "a" / "vits2.safetensors")
    assert (
        learned.run(root, "--output", str(store), "--input", str(longer), "--only", "codes", "--decoder", decoder) == 0
    )
    assert train(root, store, tmp_path / "run") == 0
    assert learned.run(root, "--output", str(tmp_path / "bare")) == 0
    assert train(root, tmp_path / "bare", tmp_path / "bare run") == 2
    assert "hold no speech tokens yet" in capsys.readouterr().err


def test_streams_are_those_of_the_preset(root, tmp_path, capsys) -> None:
    features = {"text_features": np.zeros(4 * 32, np.float16)}
    two = write_plain(tmp_path / "two", codebooks=2, **features)
    assert train(root, two, tmp_path / "run") == 2
    assert "holds 2 code streams, preset tiny has 3" in capsys.readouterr().err
    assert train(root, write_plain(tmp_path / "three", **features), tmp_path / "run") == 0, "it says nothing else"
    sizes = dataclasses.replace(learned.TOKENIZER.grouped, codebook_size=8)
    smaller = dataclasses.replace(learned.TOKENIZER, grouped=sizes)
    preset = changed(root, tmp_path / "p.json", tokenizer=smaller)
    assert train(root, root / "features", tmp_path / "other", preset=preset) == 2
    assert "16, 16, 16" in (told := capsys.readouterr().err) and "8, 16, 8" in told


def test_features_of_another_preset_are_not_trained_on(root, tmp_path, capsys) -> None:
    deeper = dataclasses.replace(learned.TOKENIZER.grouped, layer=1)
    preset = changed(root, tmp_path / "p.json", tokenizer=dataclasses.replace(learned.TOKENIZER, grouped=deeper))
    assert train(root, root / "features", tmp_path / "run", preset=preset) == 2
    assert "layer 2" in (told := capsys.readouterr().err) and "layer 1" in told
    assert train_decoder(root, root / "features", tmp_path / "run", preset) == 2
    assert "layer 2" in (told := capsys.readouterr().err) and "layer 1" in told
    own = changed(root, tmp_path / "own.json", text=TextConfig())
    assert train(root, root / "features", tmp_path / "run", preset=own) == 2
    assert "tokenizer xlm-r" in (told := capsys.readouterr().err) and "tokenizer bpe" in told
    ids = dataclasses.replace(load_preset(str(root / "tiny.json")).text, features="embedding")
    only_ids = changed(root, tmp_path / "ids.json", text=ids)
    assert train(root, root / "features", tmp_path / "run", preset=only_ids) == 0, "features beside the ids do no harm"
    with pytest.raises(UserError) as caught:
        train_gpt.check_fit([open_store(root / "features")], load_preset("nano"))
    assert caught.value.code == "features_of_another_preset"


def test_stores_that_say_nothing_show_their_widths(root, tmp_path, capsys) -> None:
    assert train(root, write_plain(tmp_path / "no text"), tmp_path / "run") == 2
    assert "no text features of width 32" in capsys.readouterr().err
    for width, started in ((WIDTH, 0), (2 * WIDTH, 2), (WIDTH + 1, 2)):
        more = {"ssl": np.zeros(60 * width, np.float16), "text_features": np.zeros(4 * 32, np.float16)}
        found = train(root, write_plain(tmp_path / f"wide {width}", **more), tmp_path / f"run {width}")
        assert found == started
        assert started == 0 or f"about {width} wide" in capsys.readouterr().err


def test_a_decoder_of_other_features_makes_no_codes(root, store, tmp_path, capsys) -> None:
    deeper = dataclasses.replace(learned.TOKENIZER.grouped, layer=1)
    preset = changed(root, tmp_path / "p.json", tokenizer=dataclasses.replace(learned.TOKENIZER, grouped=deeper))
    flags = ["--output", str(store), "--preset", str(preset), "--decoder", str(root / "a" / "vits2.safetensors")]
    assert learned.run(root, "--only", "codes", *flags) == 2
    assert "layer 2 (the preset: 1)" in capsys.readouterr().err
    with pytest.raises(UserError) as caught:
        extract._quantizer(
            Namespace(decoder=root / "a" / "vits2.safetensors"), load_preset(str(preset)), torch.device("cpu")
        )
    assert caught.value.code == "codes_of_another_preset"


def test_a_step_alone_leaves_what_the_others_made(root, tmp_path, monkeypatch) -> None:
    output = ["--output", str(tmp_path / "out"), "--encoders", str(root / "models")]
    assert learned.run(root, *output, "--text-precision", "bf16", "--no-audio") == 0
    before = LineStore(tmp_path / "out")
    monkeypatch.setattr(extract, "text_identity", lambda *_: pytest.fail("reads gigabytes"))
    monkeypatch.setattr(extract, "file_hash", lambda path: pytest.fail(f"reads {path}"))
    assert learned.run(root, *output, "--only", "codes", "--decoder", str(root / "a" / "vits2.safetensors")) == 0
    after = LineStore(tmp_path / "out")
    assert len(after) == CLIPS and not after.missing and after.array("codebooks").tolist() == [3] * CLIPS
    assert after.keys() == before.keys() and after.described == before.described
    assert {step: after.made[step] for step in ("text", "audio", "speech")} == {
        step: before.made[step] for step in ("text", "audio", "speech")
    }


def test_two_graphs_under_any_name_are_two_encoders(root, tmp_path) -> None:
    tokens = SpeechTokenizerConfig(encoder="s3-v2-25hz", levels=(3,) * 8, prosody_levels=16)
    preset = changed(root, tmp_path / "p.json", tokenizer=tokens, text=TextConfig("xlm-r", 300, 0, "embedding"))
    models = Path(shutil.copytree(root / "models", tmp_path / "models"))
    flags = ["--preset", str(preset), "--encoders", str(models), "--output", str(tmp_path / "out"), "--no-audio"]
    flags += ["--job", str(tmp_path / "job")]
    for seed, name, done in ((0, "mine.onnx", CLIPS), (0, "renamed.onnx", 0), (1, "mine.onnx", CLIPS)):
        shutil.rmtree(models / "s3-v2-25hz", ignore_errors=True)
        TinyS3("s3-v2-25hz", seed).write(models / "s3-v2-25hz" / name)
        assert learned.run(root, *flags) == 0
        told = json.loads((tmp_path / "job" / "result.json").read_text())["steps"]
        assert told["speech"] == {"done": done, "already": CLIPS - done}, (seed, name)


@pytest.mark.parametrize("way", ["resume", "data_added", "neither"])
def test_a_run_that_goes_on_does_not_begin_with_the_published_model(way: str, root, monkeypatch) -> None:
    begun = []
    monkeypatch.setattr(train_gpt, "start_backbone", lambda model, folder: begun.append(folder))
    preset = load_preset(str(root / "tiny.json"))
    preset = dataclasses.replace(preset, gpt=dataclasses.replace(preset.gpt, backbone="qwen2-0.5b"))
    assert isinstance(preset.gpt, GPTConfig)
    arguments = Namespace(
        init=None, lora_rank=0, share_tables=False, encoders=root / "models", resume=way == "resume",
        data_added=way == "data_added",
    )  # fmt: skip
    train_gpt._model(arguments, preset, [open_store(root / "features")])
    assert len(begun) == (way == "neither")


def test_a_decoder_that_lacks_a_tensor_is_called_damaged(root, tmp_path) -> None:
    weights = load_weights(root / "a" / "vits2.safetensors")
    lost = next(name for name in weights.state if name.startswith("quantizer.project"))
    state = {name: tensor for name, tensor in weights.state.items() if name != lost}
    save_weights(tmp_path / "w.safetensors", state, weights.config, weights.lineage)
    with pytest.raises(UserError, match="w.safetensors") as caught:
        load_quantizer(tmp_path / "w.safetensors")
    assert caught.value.code == "weights_unreadable"
