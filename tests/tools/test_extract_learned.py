"""The whole way of a preset whose tokens are learned with the decoder: features, decoder, codes, language model.

Encoders of text and speech are tiny ones with random weights in the folders of the published ones; every step is the
command that a person runs.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.config import AudioConfig, SpeechTokenizerConfig, TextConfig, to_dict
from modules.data.features import open_store
from modules.speech.building import load_speech
from modules.speech.grouped import load_quantizer
from modules.text.building import load_text
from modules.text.spoken import spoken_text
from tests.speech.tiny_encoders import encoder_config, save_encoder
from tests.text.published_text import write_bge_m3
from tests.tiny import synthetic_speech, tiny_preset, write_wav
from tools import extract, train_gpt, train_vits2

CLIPS = 8
TOKENIZER = SpeechTokenizerConfig(
    form="grouped", prosody_levels=16, grouped=encoder_config("mhubert-147", vector_dim=8, codebook_size=16)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared encoders, a preset that names them, and recordings."""
    return lay_out(tmp_path_factory.mktemp("learned"))


def lay_out(root: Path) -> Path:
    """The same in a folder."""
    torch.manual_seed(0)
    vocab = write_bge_m3(root / "models" / "bge-m3")
    save_encoder(root / "models" / "mhubert-147", "mhubert-147")
    preset = dataclasses.replace(
        tiny_preset(),
        audio=AudioConfig(n_mels=20, n_fft=1280),
        text=TextConfig("xlm-r", vocab, 0, "features", 32),
        tokenizer=TOKENIZER,
    )
    (root / "tiny.json").write_text(json.dumps(to_dict(preset)))
    lines = []
    for number in range(CLIPS):
        wav = synthetic_speech(1.2 + 0.1 * number, 32000, 110 + 9 * number, number)
        write_wav(root / "clips" / f"{number}.wav", wav, 32000)
        lines.append(f"clips/{number}.wav|ada|en|the quick fox {number}")
    (root / "me.list").write_text("\n".join(lines), encoding="utf-8")
    return root


def run(root: Path, *more: str) -> int:
    shared = ["--preset", str(root / "tiny.json"), "--models", str(root / "models" / "base"), "--threads", "1"]
    return extract.main(["--input", str(root / "me.list"), "--output", str(root / "features"), *shared, *more])


def test_features_decoder_codes_language_model(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    store = open_store(root / "features")
    assert len(store) == CLIPS and "codes" not in store.columns
    preset = extract.load_preset(str(root / "tiny.json"))
    text = load_text(preset.text, root / "models" / "base", root / "models")
    for row in (store[i] for i in range(CLIPS)):
        spoken = spoken_text(row["text"])
        (states,) = text.features([spoken])
        assert row["text_ids"].tolist() == text.encode(spoken)
        np.testing.assert_allclose(row["text_features"].reshape(-1, 32), states, atol=2e-3)

    steps = ["--store", str(root / "features"), "--max-steps", "2", "--device", "cpu", "--threads", "1"]
    steps += ["--preset", str(root / "tiny.json")]
    decoder = ["--output", str(root / "vits2"), "--batch-seconds", "3", "--window-seconds", "0.8"]
    assert train_vits2.main([*steps, *decoder, "--adversarial-from", "1"]) == 0
    weights = root / "vits2" / "vits2.safetensors"

    assert run(root, "--only", "codes", "--decoder", str(weights), "--job", str(root / "job")) == 0
    assert json.loads((root / "job" / "result.json").read_text())["steps"] == {"codes": {"done": CLIPS, "already": 0}}
    store, quantizer = open_store(root / "features"), load_quantizer(weights)
    tokens, same = load_speech(TOKENIZER, root, root / "models", torch.device("cpu"), weights), []
    for row in (store[i] for i in range(CLIPS)):
        ssl = torch.from_numpy(row["ssl"].astype(np.float32)).view(1, -1, 32)
        codes = row["codes"].reshape(-1, row["codebooks"])
        assert np.array_equal(codes, quantizer.codes(ssl, torch.from_numpy(row["f0"])[None])[0].numpy())
        clip = root / "clips" / f"{row['text'].split()[-1]}.wav"
        wav = torch.from_numpy(extract_wav(clip))[None]
        direct = tokens.encode(wav, f0=torch.from_numpy(row["f0"])[None])[0].numpy()
        assert direct.shape == codes.shape
        same.append((direct == codes).mean())
    assert np.mean(same) > 0.98, "stored features are rounded to float16; hardly a code depends on it"

    models = root / "models" / "base"
    models.mkdir(exist_ok=True)
    (models / "vits2.safetensors").write_bytes(weights.read_bytes())
    assert (
        train_gpt.main([*steps, "--output", str(root / "gpt"), "--batch-frames", "600", "--decoder", str(models)]) == 0
    )
    assert (root / "gpt" / "gpt.safetensors").is_file()
    assert run(root, "--decoder", str(weights), "--job", str(root / "job")) == 0
    told = json.loads((root / "job" / "result.json").read_text())
    assert told["steps"] == {step: {"done": 0, "already": CLIPS} for step in ("text", "audio", "speech", "codes")}
    assert "codes: 0 done" in capsys.readouterr().out


def extract_wav(path: Path) -> np.ndarray:
    """A clip as the extraction hears it, at 16 kHz."""
    from modules.audio.io import decode, to_mono
    from modules.audio.resample import resample

    decoded = decode(path)
    return resample(to_mono(decoded.samples), decoded.sample_rate, 16000)


def test_a_missing_encoder_is_named_and_stops_only_its_own_step(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").mkdir()
    other = ["--output", str(tmp_path / "out"), "--models", str(tmp_path / "base")]
    assert run(root, *other) == 2
    assert "tools.download bge-m3" in capsys.readouterr().err
    assert run(root, *other, "--only", "speech") == 2
    assert "tools.download mhubert-147" in capsys.readouterr().err
    assert run(root, *other, "--only", "audio") == 0
    assert run(root, *other, "--only", "text", "--encoders", str(root / "models")) == 0


def test_codes_are_of_this_presets_decoder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(root, "--only", "codes")
    capsys.readouterr()
    flags = ["--only", "codes", "--output", str(tmp_path / "out")]
    assert run(root, *flags, "--decoder", str(root / "nothing.safetensors")) == 2
    assert "nothing.safetensors" in capsys.readouterr().err
    assert run(root, *flags, "--decoder", str(root / "nothing.safetensors"), "--preset", "nano") == 2
    assert "leave --decoder out" in capsys.readouterr().err
