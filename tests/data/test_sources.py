"""Pasted paths and folders full of recordings."""

from pathlib import Path

import pytest

from modules.data.earlier import mark_earlier
from modules.data.sources import clean_path, list_audio
from modules.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "/data/my voice",
        "  /data/my voice \n",
        '"/data/my voice"',
        "'/data/my voice/'",
        '"/data/my voice/"/',
        "\u202a/data/my voice",
        "\u202a“/data/my voice”\u202c",
        "/data/my voice//",
    ],
)
def test_what_surrounds_a_pasted_path_goes(text: str) -> None:
    assert clean_path(text) == Path("/data/my voice")


def test_roots_and_windows_paths_survive() -> None:
    assert clean_path(' "/" ') == Path("/")
    assert str(clean_path('"D:\\声音\\take 1\\"')) == "D:\\声音\\take 1"
    assert str(clean_path("C:\\")) == "C:\\"


def test_a_path_that_exists_is_not_touched(tmp_path: Path) -> None:
    odd = tmp_path / "ends with a quote'"
    odd.mkdir()
    assert clean_path(str(odd)) == odd
    assert clean_path(odd) == odd


@pytest.mark.parametrize("text", ["", "  ", '""', "\u202a", "\0"])
def test_no_path_at_all_is_told(text: str) -> None:
    with pytest.raises(UserError) as error:
        clean_path(text)
    assert error.value.code == "path_empty"


def test_a_path_too_long_for_the_system_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        clean_path(f'"{tmp_path}/{"長" * 86}.wav"')
    assert error.value.code == "path_too_long" and "shorten" in str(error.value)
    longest = tmp_path / ("x" * 255)
    assert clean_path(f'"{longest}"') == longest, "quotes do not count"


def test_results_of_earlier_runs_are_skipped(tmp_path: Path) -> None:
    for name in ("old.wav", "new.wav", "sub/old.wav", "sub/mine.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    mark_earlier(tmp_path, ["old.wav", "sub/old.wav", "gone.wav"])
    assert list_audio(tmp_path) == [tmp_path / "new.wav", tmp_path / "sub/mine.wav"]
    assert list_audio(tmp_path / "sub") == [tmp_path / "sub/mine.wav"]
    assert list_audio(tmp_path / "old.wav") == [tmp_path / "old.wav"], "asked for by name"
    for text in ("no json", "7", '"x"', "[[1]]"):
        (tmp_path / ".earlier.json").write_text(text)
        assert len(list_audio(tmp_path)) == 4
    mark_earlier(tmp_path, [])
    assert not (tmp_path / ".earlier.json").exists()


def test_a_folder_is_walked_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    wanted = ["a/2.WAV", "a/b/1.mp3", "a.flac", "video.mp4", "名字 1.m4a"]
    others = [".hidden.wav", ".git/x.wav", "notes.txt", "plain", "a/x.raw", "clips.jsonl"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in list_audio(f'"{tmp_path}/" ')] == wanted


def test_one_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "voice").touch()
    assert list_audio(tmp_path / "voice") == [tmp_path / "voice"]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere") as error:
        list_audio(tmp_path / "nowhere")
    assert error.value.code == "path_missing"


def test_an_empty_folder_is_an_empty_list(tmp_path: Path) -> None:
    assert list_audio(tmp_path) == []
