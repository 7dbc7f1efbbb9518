"""A preset that reads published encoders, at tiny size in the published formats: loaded, checked and spoken with."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modules.checkpoint import Lineage
from modules.config import GroupedConfig, Preset, SpeechTokenizerConfig, TextConfig, to_dict
from modules.errors import UserError
from modules.evaluation.costs.part_cost import watched
from modules.evaluation.judging import JudgeOptions, open_judge
from modules.evaluation.picking.panel import Panel
from modules.evaluation.picking.pick import _speaking_the_same
from modules.gpt.building import build_gpt_of_preset
from modules.gpt.model import save_gpt
from modules.inference import parts as parts_module
from modules.inference.parts import load_parts
from modules.inference.random_parts import random_parts
from modules.inference.synthesizer import SpeakOptions, Synthesizer
from modules.inference.voice import Reference, Voice
from modules.speech.grouped import quantizer_hash
from modules.vits2.building import build_vits2
from modules.vits2.model import save_vits2
from tests.speech.tiny_encoders import WIDTH, save_encoder
from tests.text.published_text import write_bge_m3
from tests.tiny import synthetic_speech, tiny_preset, write_wav
from tools import synthesize

CPU = torch.device("cpu")
OPTIONS = SpeakOptions(seed=1, forced_seconds=0.6)


def _preset(vocab: int, text_features: str = "features") -> Preset:
    tokenizer = SpeechTokenizerConfig(
        form="grouped",
        prosody_levels=16,
        grouped=GroupedConfig(layer=2, feature_dim=WIDTH, vector_dim=8, groups=2, quantizers=1, codebook_size=16),
    )
    text = TextConfig(tokenizer="xlm-r", vocab_size=vocab, features=text_features, feature_dim=32)
    return replace(tiny_preset(), name="mine", text=text, tokenizer=tokenizer)


def _write(folder: Path, preset: Preset, seed: int = 0, quantizer: str | None = None) -> Path:
    """Random weights of the two models that speak."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = build_vits2(preset, preset.text.vocab_size, posterior=False)
        decoder.quantizer.randomise_()
        gpt = build_gpt_of_preset(preset)
    gpt.statistics["quantizer"] = quantizer_hash(decoder.quantizer) if quantizer is None else quantizer
    folder.mkdir(parents=True, exist_ok=True)
    save_gpt(folder / "gpt.safetensors", gpt, Lineage("mine", "gpt", 0, 0))
    save_vits2(folder / "vits2.safetensors", decoder, Lineage("mine", "vits2", 0, 0), include_posterior=False)
    (folder / "preset.json").write_text(json.dumps(to_dict(preset)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny encoders in their published files, and a preset `mine` beside them."""
    folder = tmp_path_factory.mktemp("models")
    vocab = write_bge_m3(folder / "bge-m3")
    save_encoder(folder / "mhubert-147", "mhubert-147")
    _write(folder / "mine", _preset(vocab))
    return folder


def _speak(synthesizer: Synthesizer, voice: Voice, text: str = "Hello 世界.") -> torch.Tensor:
    (segment,) = synthesizer.speak(voice, text, OPTIONS)
    return torch.from_numpy(segment.wav)


def test_it_speaks_and_repeats_itself(models: Path, references: tuple[Reference, Reference]) -> None:
    """Also with references whose words are known: their features stand in the prompt."""
    voice = Voice(references)
    first = _speak(Synthesizer.load(models / "mine", device="cpu"), voice)
    assert torch.isfinite(first).all() and first.abs().max() > 0
    assert torch.equal(first, _speak(Synthesizer.load(models / "mine", device="cpu"), voice))


def test_what_is_read_decides_what_is_said(models: Path, references: tuple[Reference, Reference]) -> None:
    synthesizer = Synthesizer.load(models / "mine", device="cpu")
    voice = Voice(references[:1])
    assert not torch.equal(_speak(synthesizer, voice, "Hello."), _speak(synthesizer, voice, "World."))


def test_forced_seconds_hold(models: Path, references: tuple[Reference, Reference]) -> None:
    synthesizer = Synthesizer.load(models / "mine", device="cpu")
    (segment,) = synthesizer.speak(Voice(references), "Hello.", replace(OPTIONS, forced_seconds=1.4))
    assert len(segment.codes) == 35


@pytest.mark.parametrize("text_features", ["embedding", "both"])
def test_every_way_of_reading_text_speaks(
    models: Path, tmp_path: Path, references: tuple[Reference, Reference], text_features: str
) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    folder = _write(tmp_path / "mine", _preset(vocab, text_features))
    parts = load_parts(folder, CPU, encoders=models)
    assert parts.text.has_features == (text_features == "both")
    assert _speak(Synthesizer(parts), Voice(references[:1])).abs().max() > 0


def test_a_missing_encoder_is_named_with_its_download(models: Path, tmp_path: Path) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    folder = _write(tmp_path / "mine", _preset(vocab))
    with pytest.raises(UserError, match="tools.download bge-m3"):
        load_parts(folder, CPU, encoders=tmp_path)


def test_a_folder_elsewhere_reads_the_encoders_of_the_program(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    folder = _write(tmp_path / "models" / "mine", _preset(vocab))
    monkeypatch.setattr(parts_module, "PRETRAINED_MODELS", tmp_path)
    with pytest.raises(UserError, match=str(tmp_path / "models" / "bge-m3")):
        load_parts(folder, CPU)  # nowhere
    monkeypatch.setattr(parts_module, "PRETRAINED_MODELS", models)
    assert load_parts(folder, CPU).text.has_features
    (tmp_path / "models" / "bge-m3").mkdir()  # a part beside it is not enough
    assert load_parts(folder, CPU).text.has_features


def test_encoders_are_read_once_for_many_weights(models: Path, tmp_path: Path) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    other = _write(tmp_path / "other", _preset(vocab), seed=5)
    first = load_parts(models / "mine", CPU)
    again = load_parts(
        models / "mine", CPU, other / "gpt.safetensors", other / "vits2.safetensors", like=replace(first, gpt=None)
    )
    fresh = load_parts(models / "mine", CPU, other / "gpt.safetensors", other / "vits2.safetensors")
    assert again.text is first.text and again.speech.encoder is first.speech.encoder
    wav = torch.from_numpy(synthetic_speech(1.0, 16000))[None]
    assert torch.equal(again.speech.encode(wav), fresh.speech.encode(wav))
    assert not torch.equal(again.speech.encode(wav), first.speech.encode(wav))
    codes = fresh.speech.encode(wav)
    assert torch.equal(again.speech.vectors(codes), fresh.speech.vectors(codes))
    assert load_parts(other, CPU, encoders=models, like=first).text is not first.text  # another folder


def test_decoders_of_other_codes_are_left_out_and_damaged_files_are_not(models: Path, tmp_path: Path) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    other = _write(tmp_path / "other", _preset(vocab), seed=5)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights")
    decoders = [models / "mine" / "vits2.safetensors", other / "vits2.safetensors", damaged]
    language_models = [damaged, models / "mine" / "gpt.safetensors"]
    assert _speaking_the_same(decoders, language_models) == [decoders[0], damaged]
    assert _speaking_the_same(decoders, [damaged]) == decoders


def test_a_recording_is_coded_once_for_a_quantiser(models: Path, tmp_path: Path) -> None:
    """Weights of one experiment have few quantisers, and the encoder before them is large."""
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    other = _write(tmp_path / "other", _preset(vocab), seed=5)
    panel = Panel(None, None, SimpleNamespace(sample_rate=16000), tmp_path, 0)
    panel.sound = lambda row: synthetic_speech(1.0, 16000, seed=row)
    first = load_parts(models / "mine", CPU)
    second = load_parts(models / "mine", CPU, vits2=other / "vits2.safetensors", with_gpt=False, like=first)
    heard, features = [], first.speech.encoder.features
    first.speech.encoder.features = lambda *wav: heard.append(1) or features(*wav)
    codes = [panel._codes(parts, row) for _ in range(2) for parts in (first, second) for row in (0, 1)]
    assert len(heard) == 4 and all(torch.equal(a, b) for a, b in zip(codes[:4], codes[4:], strict=True))
    assert torch.equal(codes[2], second.speech.encode(torch.from_numpy(panel.sound(0))[None])[0])


def test_units_are_counted_as_the_preset_reads_text(models: Path, tmp_path: Path) -> None:
    speaker = open_judge(JudgeOptions(models / "mine", (), device="cpu"), tmp_path).speaker
    assert speaker.count_units("Hello.") == len(load_parts(models / "mine", CPU).text.encode("Hello.")) > 0


def test_random_weights_speak_without_weight_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tiny_preset()
    preset = replace(preset, vits2=replace(preset.vits2, head="hifigan", upsample_channels=32))
    head = random_parts(preset, CPU).vits2.head
    assert not any(".parametrizations." in name for name in head.state_dict())


def test_a_preset_of_ones_own_speaks_from_the_folder_of_its_name(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    folder = _write(tmp_path / "models" / "mine", _preset(vocab))
    preset = (folder / "preset.json").rename(tmp_path / "anything.json")
    monkeypatch.setattr(synthesize, "PRETRAINED_MODELS", tmp_path / "models")
    write_wav(tmp_path / "a.wav", synthetic_speech(1.2))
    call = ["--reference", str(tmp_path / "a.wav"), "--text", "Hello.", "--output", str(tmp_path / "out.wav")]
    call += ["--preset", str(preset), "--device", "cpu", "--seconds", "0.6"]
    assert synthesize.main([*call, "--encoders", str(tmp_path)]) == 2
    assert "tools.download bge-m3" in capsys.readouterr().err
    assert synthesize.main([*call, "--encoders", str(models)]) == 0
    sidecar = json.loads((tmp_path / "out.json").read_text())
    assert sidecar["model"]["folder"] == str(folder) and sidecar["model"]["preset"] == "mine"


def test_a_language_model_is_held_to_the_decoder_whose_codes_it_learned(models: Path, tmp_path: Path) -> None:
    own = models / "mine" / "vits2.safetensors"
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    other = _write(tmp_path / "other", _preset(vocab), seed=5) / "vits2.safetensors"
    load_parts(models / "mine", CPU, vits2=own)
    with pytest.raises(UserError) as error:
        load_parts(models / "mine", CPU, vits2=other)
    assert error.value.code == "quantizer_differs" and str(other) in str(error.value)
    load_parts(models / "mine", CPU, vits2=other, with_gpt=False)


def test_weights_that_read_other_text_are_refused(models: Path, tmp_path: Path) -> None:
    vocab = json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]
    other = _write(tmp_path / "other", _preset(vocab, "both"))
    with pytest.raises(UserError) as error:
        load_parts(models / "mine", CPU, gpt=other / "gpt.safetensors")
    assert error.value.code == "text_differs" and "text.features = both" in str(error.value)


def test_the_shipped_config_stands_in_where_only_own_weights_are_chosen(models: Path, tmp_path: Path) -> None:
    """Nobody publishes weights of base: its folder is empty, and both files are a person's own."""
    with pytest.raises(UserError) as error:
        load_parts(tmp_path / "base", CPU)
    assert error.value.code == "preset_not_trained"
    with pytest.raises(UserError) as error:
        load_parts(
            tmp_path / "base", CPU, models / "mine" / "gpt.safetensors", models / "mine" / "vits2.safetensors",
            encoders=models,
        )  # fmt: skip
    assert error.value.code != "preset_not_trained"  # found, and then compared with base


def test_a_watch_changes_nothing_and_counts_everything(models: Path, references: tuple[Reference, Reference]) -> None:
    plain = load_parts(models / "mine", CPU)
    parts, costs = watched(plain)
    voice = Voice(references)
    assert torch.equal(_speak(Synthesizer(plain), voice), _speak(Synthesizer(parts), voice))
    assert all(cost.calls > 0 and cost.seconds > 0 and cost.parameters > 0 for cost in costs)
    numbers = {cost.part: cost.parameters for cost in costs}
    gpt = plain.gpt.model
    assert numbers["language model"] == sum(t.numel() for t in gpt.state_dict().values())
    assert numbers["text encoder"] == sum(p.numel() for p in plain.text.encoder.model.parameters())
