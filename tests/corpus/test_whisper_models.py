"""Whisper models: where they are found, what is told when they are not, what makes two of them differ."""

import dataclasses
import socket
import time
from pathlib import Path

import pytest

from modules.corpus.whisper_models import (
    WHISPER_SIZES,
    find_whisper_model,
    missing_files,
    whisper_identity,
)
from modules.errors import UserError
from modules.hub.reaching import can_connect, hub_reachable
from tests.corpus.recognizers import EASY, Heard, model_folder, recognizer


def test_the_catalogue_knows_the_sizes_of_the_library() -> None:
    from faster_whisper import utils

    assert {name: size.repository for name, size in WHISPER_SIZES.items()} == utils._MODELS


def test_a_model_is_found_by_size_by_published_name_and_as_a_folder(tmp_path: Path) -> None:
    by_size = model_folder(tmp_path / "whisper" / "tiny")
    published = model_folder(tmp_path / "whisper" / "faster-whisper-small")
    assert find_whisper_model("tiny", tmp_path) == by_size
    assert find_whisper_model("small", tmp_path) == published
    assert find_whisper_model(str(by_size), tmp_path / "nowhere") == by_size


def test_missing_files_of_a_model_are_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "whisper" / "tiny")
    (folder / "tokenizer.json").unlink()
    (folder / "vocabulary.json").unlink()
    (folder / "model.bin").write_text("version of a pointer")
    with pytest.raises(UserError, match="tokenizer.json") as caught:
        find_whisper_model("tiny", tmp_path)
    assert caught.value.code == "asr_model_incomplete"
    assert "vocabulary.json" in str(caught.value) and "only a pointer" in str(caught.value)
    (folder / "vocabulary.txt").write_text("a\n")
    assert not any(name.startswith("vocabulary") for name in missing_files(folder))


def test_an_unknown_model_is_refused_with_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="large-v3-turbo") as caught:
        find_whisper_model("gigantic", tmp_path)
    assert caught.value.code == "asr_model_unknown"


def test_without_a_network_a_missing_model_is_told_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        find_whisper_model("medium", tmp_path, cache=tmp_path / "cache")  # the tests are offline
    assert time.monotonic() - start < 10  # what counts is that nothing is tried again for half a minute
    text = str(caught.value)
    assert caught.value.code == "asr_model_missing"
    assert all(word in text for word in ("Systran/faster-whisper-medium", "1530 MB", str(tmp_path / "whisper/medium")))


def test_the_hub_is_not_asked_when_switched_off_and_not_for_long() -> None:
    assert not hub_reachable()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert can_connect("127.0.0.1", server.getsockname()[1])
        port = server.getsockname()[1]
    start = time.monotonic()
    assert not can_connect("127.0.0.1", port, 0.5)
    assert not can_connect("x" * 80, 80, 0.5)
    assert time.monotonic() - start < 5


def test_the_identity_follows_the_model_and_the_choices(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "a")
    same = recognizer(folder, Heard()).identity
    assert recognizer(folder, Heard(), dataclasses.replace(EASY, min_confidence=0.9, threads=4)).identity == same
    assert recognizer(folder, Heard(), dataclasses.replace(EASY, beam_size=3)).identity != same
    assert recognizer(folder, Heard(), dataclasses.replace(EASY, language="en")).identity != same
    before = whisper_identity(folder)
    (folder / "model.bin").write_bytes(b"v" * 5000)
    assert whisper_identity(folder) != before
