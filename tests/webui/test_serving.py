"""What the browser may read: sound that a list names, and nothing else that it names."""

from pathlib import Path

import pytest
import torch

from modules.audio.io import write
from modules.editing.editor import DatasetEditor
from tools.webui.serving import served, served_result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.mark.parametrize("name", ["secret", "secret.txt", "secret.wav", "secret.mp3", "secret.MP4", "folder.wav", ""])
def test_a_list_gets_nothing_but_sound_to_the_browser(tmp_path: Path, cache: Path, name: str) -> None:
    secret = tmp_path / name
    if name.startswith("secret"):
        secret.write_text("root:x:0:0\n" * 100)
    elif name:
        secret.mkdir()
    listed = tmp_path / "l.list"
    listed.write_text(f"{secret}|s|EN|t\n", encoding="utf-8")
    audio = DatasetEditor.open(listed, tmp_path / "work").row(0).utterance.audio
    assert served(audio) is None and served(tmp_path / "missing.wav") is None
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_sound_and_the_results_of_a_job_are_served(tmp_path: Path, cache: Path) -> None:
    sound, listed = tmp_path / "a b.WAV", tmp_path / "clips.jsonl"
    write(sound, torch.zeros(1600), 16000)
    listed.write_text("{}")
    copy = served(sound)
    assert copy is not None and Path(copy).read_bytes() == sound.read_bytes() and cache in Path(copy).parents
    copy = served_result(listed)
    assert copy is not None and Path(copy).read_text() == "{}"
    assert served_result(tmp_path / "missing.jsonl") is None
