"""The whole way in one place: texts and eSpeak NG -> corpus -> tokenizers -> features -> weights -> a spoken sentence.

Every step is the command that a person runs, with a tiny preset and a few training steps. The sound is noise; that
each part takes what the one before it made, and that the stores hold what they should, is the point.
"""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from modules.config import GPTConfig, SpeechTokenizerConfig, VITS2Config, to_dict
from modules.data.extraction import ExtractOptions
from modules.data.features import open_store
from modules.data.store import FeatureStore
from tests.tiny import tiny_preset
from tools import corpus, extract, ship, synthesize, train_gpt, train_tokenizer, train_vits2

espeak = pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed (requirements-dev.txt)")

ENGLISH = [
    f"The {a} {b} {c}."
    for a in ("old", "new", "red")
    for b in ("house", "river", "garden")
    for c in ("sleeps", "waits here")
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The corpus and the preset that all steps share."""
    root = tmp_path_factory.mktemp("way")
    tiny = tiny_preset()
    preset = dataclasses.replace(
        tiny,
        tokenizer=dataclasses.replace(tiny.tokenizer, decoder_layers=1),
        gpt=GPTConfig(hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64, dropout=0.0),
    )
    assert isinstance(preset.tokenizer, SpeechTokenizerConfig) and isinstance(preset.vits2, VITS2Config)
    (root / "tiny.json").write_text(json.dumps(to_dict(preset)))
    (root / "texts.txt").write_text("\n".join(ENGLISH))
    build = ["synthetic", "--output", str(root / "corpus"), "--language", "en=24", "--processes", "1"]
    assert corpus.main([*build, "--text-file", f"en={root / 'texts.txt'}"]) == 0
    return root


def test_from_text_to_a_spoken_sentence(root) -> None:
    preset = ["--preset", str(root / "tiny.json"), "--threads", "1"]
    corpus_store = ["--corpus", str(root / "corpus")]
    text, logs = root / "tokenizer.json", root / "logs"
    assert train_tokenizer.main(["text", *corpus_store, "--output", str(text), *preset]) == 0
    steps = ["--max-steps", "3", "--device", "cpu"]
    assert (
        train_tokenizer.main(
            ["speech", *corpus_store, "--output", str(logs / "s3"), "--batch-seconds", "20", *steps, *preset]
        )
        == 0
    )
    s3 = logs / "s3" / "s3.safetensors"
    features = root / "features"
    encoders = ["--text-tokenizer", str(text), "--speech-tokenizer", str(s3)]
    assert extract.main(["--input", str(root / "corpus"), "--output", str(features), *encoders, *preset]) == 0
    spoken = FeatureStore(root / "corpus")
    long_enough = sum(spoken[i]["seconds"] >= ExtractOptions().min_seconds for i in range(len(spoken)))
    assert len(open_store(features)) == long_enough > len(spoken) // 2

    store = ["--store", str(features), *steps, *preset]
    decoder = ["--output", str(logs / "vits2"), "--batch-seconds", "3", "--window-seconds", "0.8"]
    assert train_vits2.main([*store, *decoder, "--text-tokenizer", str(text), "--adversarial-from", "1"]) == 0
    assert train_gpt.main([*store, "--output", str(logs / "gpt"), "--batch-frames", "600"]) == 0

    model = root / "model"
    weights = {name: logs / name / f"{name}.safetensors" for name in ("s3", "gpt", "vits2")}
    flags = [part for name, path in weights.items() for part in (f"--{name}", str(path))]
    assert ship.main(["--text-tokenizer", str(text), *flags, "--output", str(model), "--preset", preset[1]]) == 0

    row = next(r for r in (FeatureStore(root / "corpus")[i] for i in range(24)) if r["seconds"] > 0.8)
    reference = root / "reference.wav"
    soundfile.write(reference, row["audio"], int(row["sample_rate"]))
    out = root / "out.wav"
    speak = ["--model", str(model), "--reference", str(reference), "--reference-text", row["text"], "--seed", "1"]
    assert synthesize.main([*speak, "--text", "The old river waits.", "--output", str(out), "--device", "cpu"]) == 0
    wav, rate = soundfile.read(out)
    assert rate == 32000 and len(wav) > 0.1 * rate and np.isfinite(wav).all() and np.abs(wav).max() > 0.01
    assert json.loads(out.with_suffix(".json").read_text())["text"] == "The old river waits."
