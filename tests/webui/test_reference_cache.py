"""What is prepared once is not prepared again, and nothing that changed is ever taken for what it was."""

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modules import paths
from modules.config import AudioConfig
from modules.errors import UserError
from modules.inference import voice
from modules.inference.voice import Reference
from tools.webui.reference_cache import ReferenceCache

AUDIO = AudioConfig()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A file that `prepared` takes for a recording."""
    path = tmp_path / "me.wav"
    path.write_bytes(b"first")
    return path


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """In place of preparing: a reference whose sound is the file's bytes. What was prepared so far, in order."""
    contents: list[bytes] = []

    def load(path: Path, text: str | None, weight: float, audio: AudioConfig) -> Reference:
        content = path.read_bytes()
        contents.append(content)
        return Reference(path.name, torch.tensor(list(content), dtype=torch.float32), text, weight)

    monkeypatch.setattr(voice, "load_reference", load)
    return contents


def heard(reference: Reference) -> bytes:
    """The content that a reference of `prepared` was made from."""
    return bytes(reference.wav.to(torch.uint8).tolist())


def test_the_same_recording_is_prepared_once(recording: Path, prepared: list[bytes]) -> None:
    cache = ReferenceCache()
    first = cache.load(recording, "hello", 1.0, AUDIO)
    assert cache.load(recording, "hello", 1.0, replace(AUDIO)).wav is first.wav
    assert prepared == [b"first"] and len(cache) == 1


def test_a_weight_is_that_of_the_press_and_prepares_nothing(recording: Path, prepared: list[bytes]) -> None:
    cache = ReferenceCache()
    weights = [cache.load(recording, None, weight, AUDIO).weight for weight in (0.3, 0.0, 0.7, 0.3)]
    assert weights == [0.3, 0.0, 0.7, 0.3]
    assert len(prepared) == 1


def test_another_text_audio_or_name_is_another_reference(recording: Path, prepared: list[bytes]) -> None:
    cache = ReferenceCache()
    texts = [cache.load(recording, text, 1.0, AUDIO).text for text in ("one", "two", None, "one")]
    assert texts == ["one", "two", None, "one"] and len(prepared) == 3
    for audio in (replace(AUDIO, sample_rate=24000), replace(AUDIO, loudness_lufs=-20.0)):
        cache.load(recording, "one", 1.0, audio)
    assert len(prepared) == 5
    copy = Path(shutil.copy2(recording, recording.with_name("copy.wav")))
    assert cache.load(copy, "one", 1.0, AUDIO).name == "copy.wav"
    assert cache.load(recording, "one", 1.0, AUDIO).name == "me.wav"


def edit_in_place(path: Path) -> None:
    path.write_bytes(b"other")


def edit_unseen(path: Path) -> None:
    """As long as before, and no time tells."""
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_there(path: Path) -> None:
    """As `cp -p` or `rsync -t` do."""
    other = path.with_name("other")
    other.write_bytes(b"other")
    shutil.copystat(path, other)
    os.replace(other, path)


@pytest.mark.parametrize("change", [edit_in_place, edit_unseen, put_another_there])
def test_a_changed_file_is_a_new_voice(recording: Path, prepared: list[bytes], change: Callable[[Path], None]) -> None:
    cache = ReferenceCache()
    cache.load(recording, None, 1.0, AUDIO)
    change(recording)
    assert heard(cache.load(recording, None, 1.0, AUDIO)) == b"other"


def test_a_link_is_what_it_leads_to(recording: Path, prepared: list[bytes]) -> None:
    cache, link, other = ReferenceCache(), recording.with_name("link.wav"), recording.with_name("other.wav")
    other.write_bytes(b"other")
    try:
        link.symlink_to(recording)
    except OSError:
        pytest.skip("no links here")
    assert heard(cache.load(link, None, 1.0, AUDIO)) == b"first"
    link.unlink()
    link.symlink_to(other)
    assert heard(cache.load(link, None, 1.0, AUDIO)) == b"other"


def test_a_file_that_is_written_while_it_is_read_is_not_kept(
    recording: Path, prepared: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = voice.load_reference

    def too_late(path: Path, *arguments: Any) -> Reference:
        path.write_bytes(b"other")
        return load(path, *arguments)

    cache = ReferenceCache()
    with monkeypatch.context() as patch:
        patch.setattr(voice, "load_reference", too_late)
        cache.load(recording, None, 1.0, AUDIO)
    assert len(cache) == 0
    recording.write_bytes(b"first")
    assert heard(cache.load(recording, None, 1.0, AUDIO)) == b"first"


def test_so_many_are_kept_and_the_longest_unused_goes_first(tmp_path: Path, prepared: list[bytes]) -> None:
    cache, recordings = ReferenceCache(most=2), [tmp_path / f"{name}.wav" for name in "abc"]
    for path in recordings:
        path.write_bytes(path.stem.encode())
    a, b, c = recordings
    for path in (a, b, a, c):
        cache.load(path, None, 1.0, AUDIO)
    assert prepared == [b"a", b"b", b"c"] and len(cache) == 2
    cache.load(a, None, 1.0, AUDIO)
    assert len(prepared) == 3
    cache.load(b, None, 1.0, AUDIO)
    assert prepared[3:] == [b"b"] and len(cache) == 2


def test_a_refusal_is_not_kept(tmp_path: Path) -> None:
    cache, path = ReferenceCache(), tmp_path / "me.wav"
    codes = []
    for content in (None, b"these are only words"):
        if content is not None:
            path.write_bytes(content)
        for _ in range(2):
            with pytest.raises(UserError) as caught:
                cache.load(path, None, 1.0, AUDIO)
            codes.append(caught.value.code)
    assert codes == ["audio_missing"] * 2 + ["audio_unreadable"] * 2 and len(cache) == 0
    shutil.copy(paths.EXAMPLES / "ada.wav", path)
    assert len(cache.load(path, None, 1.0, AUDIO).wav) > 0


def test_a_kept_reference_is_what_would_be_prepared(example: Path) -> None:
    cache = ReferenceCache()
    for weight in (0.4, 0.9):
        kept = cache.load(example, "Hello.", weight, AUDIO)
        fresh = voice.load_reference(example, "Hello.", weight, AUDIO)
        assert torch.equal(kept.wav, fresh.wav)
        assert (kept.name, kept.text, kept.weight, kept.notes) == (fresh.name, fresh.text, fresh.weight, fresh.notes)


def test_many_threads_may_ask_at_once(tmp_path: Path, prepared: list[bytes]) -> None:
    cache, wrong = ReferenceCache(most=3), []
    recordings = [tmp_path / f"{number}.wav" for number in range(6)]
    for path in recordings:
        path.write_bytes(path.stem.encode())

    def ask(offset: int) -> None:
        for step in range(60):
            path = recordings[(step * 5 + offset) % len(recordings)]
            if heard(cache.load(path, None, 1.0, AUDIO)) != path.stem.encode():
                wrong.append(path)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(cache) == 3
