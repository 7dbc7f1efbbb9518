"""What the tests of the tab Models share: a small catalogue whose models presets need, and the files of a hub."""

import dataclasses
import json
from pathlib import Path

from modules.hub.catalogue import Entry, load_catalogue
from tests.hub.hub_server import entry_of

TEXT = {"sentencepiece.json": b'{"text": 1}', "text.onnx": b"\x08" + bytes(range(256)) * 40}
SPEECH = {"speech.json": b'{"speech": 1}', "speech.onnx": b"\x08" + bytes(range(256)) * 80}
START = {"start.onnx": b"\x08" + bytes(range(256)) * 20}
TOKENS = {"tokens.onnx": b"\x08" + bytes(range(256)) * 10}
FILES = {**TEXT, **SPEECH, **START, **TOKENS}
LICENCE = "CC-BY-NC-SA-4.0"


def entries() -> dict[str, Entry]:
    """What the presets need: base needs the first two, of which the second forbids commercial use."""
    made = (
        entry_of(TEXT, name="bge-m3"),
        entry_of(SPEECH, name="mhubert-147", purpose_key="models.purpose_speech_features", non_commercial=True,
                 licence=LICENCE),
        entry_of(START, name="qwen2-0.5b", purpose_key="models.purpose_language_model"),
        entry_of(TOKENS, name="s3-v2-25hz", purpose_key="models.purpose_speech_tokens"),
    )  # fmt: skip
    return {entry.name: entry for entry in made}


def write_catalogue(path: Path, catalogue: dict[str, Entry]) -> dict[str, Entry]:
    """Write a catalogue as the program reads it; returns it as it was read."""
    path.write_text(json.dumps([dataclasses.asdict(entry) for entry in catalogue.values()]), encoding="utf-8")
    return load_catalogue(path)


def place(models: Path, name: str, files: dict[str, bytes]) -> None:
    """Put the files of a model where they belong, by hand."""
    for file, content in files.items():
        path = models / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
