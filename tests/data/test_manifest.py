"""Laws of the dataset lists: what is written is read back, and a bad line is named."""

import os
from pathlib import Path

import pytest

from modules.data.manifest import Utterance, read_manifest, write_list, write_manifest
from modules.errors import UserError


def _utterances(folder: Path) -> list[Utterance]:
    return [
        Utterance(str(folder / "wavs" / "a.wav"), "Ann", "EN", 'She said "hi" | twice.', "train", 1.25, "CC0", "here"),
        Utterance(str(folder / "wavs" / "名字 é.wav"), "安", "zh", "你好，世界\u2028！", "test", 0.5),
        Utterance(str(folder / "wavs" / "c.wav"), "Ann", "", ""),
    ]


def test_jsonl_gives_back_what_was_written(tmp_path: Path) -> None:
    utterances = _utterances(tmp_path)
    write_manifest(tmp_path / "sub" / "m.jsonl", utterances)
    assert read_manifest(tmp_path / "sub" / "m.jsonl") == utterances


def test_a_folder_can_be_moved_with_its_manifest(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_manifest(first / "m.jsonl", _utterances(first))
    first.rename(second)
    assert read_manifest(second / "m.jsonl") == _utterances(second)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.list", "A.LIST", "a.txt", "a"])
def test_list_is_read_with_or_without_bom(tmp_path: Path, bom: bytes, newline: str, name: str) -> None:
    lines = ["wavs/a.wav|Ann|ZH|你好", "", "/abs/b.wav|Bob|en|Hello.", '"wavs/c d.wav"|Bob|JP|', ""]
    (tmp_path / name).write_bytes(bom + newline.join(lines).encode())
    assert read_manifest(tmp_path / name) == [
        Utterance(str(tmp_path / "wavs/a.wav"), "Ann", "ZH", "你好"),
        Utterance("/abs/b.wav", "Bob", "en", "Hello."),
        Utterance(str(tmp_path / "wavs/c d.wav"), "Bob", "JP", ""),
    ]


def test_list_is_written_exactly(tmp_path: Path) -> None:
    write_list(
        tmp_path / "out.list", [Utterance("a.wav", "安", "ZH", "你|好\n吗"), Utterance("b.wav", "Bob", "en", "Hi.")]
    )
    assert (tmp_path / "out.list").read_bytes() == "a.wav|安|ZH|你 好 吗\nb.wav|Bob|en|Hi.\n".encode()
    with pytest.raises(UserError) as caught:
        write_list(tmp_path / "out.list", [Utterance("a|b.wav", "x", "en", "Hi.")])
    assert caught.value.code == "manifest_separator"
    assert os.listdir(tmp_path) == ["out.list"], "a failed write leaves the old file and no other"
    assert len((tmp_path / "out.list").read_bytes().splitlines()) == 2


def test_an_audio_path_is_listed_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    odd = tmp_path / "x\u2028y\x85z.wav"
    write_list(tmp_path / "out.list", [Utterance(str(odd), "s\nt", "en", "Hi\u2028there.")])
    [read] = read_manifest(tmp_path / "out.list")
    assert (read.audio, read.speaker, read.text) == (str(odd), "s t", "Hi there.")
    for name in ("x\ny.wav", "x\ry.wav"):
        with pytest.raises(UserError) as caught:
            write_list(tmp_path / "out.list", [Utterance(name, "s", "en", "Hi.")])
        assert caught.value.code == "manifest_line_break"


def test_tsv_columns_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(
        "path\tsplit\tspeaker\tlanguage\tseconds\ttranscript\tlicence\tsource_repo\tnote\n"
        'x/a.opus\ttest\tcv_1\tab\t3.06\tSay "it\tCC0-1.0\tsomewhere\t\n'
        "b.opus\t\tcv_2\n",
        encoding="utf-8",
    )
    assert read_manifest(tmp_path / "t.tsv") == [
        Utterance(str(tmp_path / "x/a.opus"), "cv_1", "ab", 'Say "it', "test", 3.06, "CC0-1.0", "somewhere"),
        Utterance(str(tmp_path / "b.opus"), "cv_2", "", ""),
    ]


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    (tmp_path / "w.list").write_text("wavs\\a.wav|Ann|EN|Hi\nD:\\data\\b.wav|Ann|EN|Hi\n")
    found = [item.audio.replace("\\", "/") for item in read_manifest(tmp_path / "w.list")]
    assert found == [(tmp_path / "wavs/a.wav").as_posix(), "D:/data/b.wav"]


def test_working_directory_is_the_second_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "here.wav").touch()
    (tmp_path / "lists" / "a.list").write_text("here.wav|s|en|t\ngone.wav|s|en|t\n")
    assert [item.audio for item in read_manifest("lists/a.list")] == ["here.wav", str(Path("lists/gone.wav"))]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.list", "a.wav|s|en|ok\n\nb.wav|s|en\n", 3),
        ("a.list", "|s|en|no path\n", 1),
        ("a.jsonl", '{"audio": "a.wav", "speaker": "s"}\n{"audio": \n', 2),
        ("a.jsonl", "[]\n", 1),
        ("a.jsonl", '{"audio": "a.wav", "text": 3}\n', 1),
        ("a.jsonl", '{"audio": "a.wav", "seconds": "long"}\n', 1),
        ("a.jsonl", '{"audio": "a.wav", "seconds": NaN}\n', 1),
        ("a.tsv", "name\ttext\n", 1),
        ("a.tsv", "path\ttext\na.wav\tx\ty\n", 2),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: str, line: int) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / name)
    assert caught.value.code == "manifest_line"
    assert caught.value.fields["line"] == line
    assert name in str(caught.value)


def test_missing_and_foreign_encodings_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "none.list")
    assert caught.value.code == "manifest_missing"
    (tmp_path / "gbk.list").write_bytes("a.wav|s|zh|ok\na.wav|s|zh|你好\n".encode("gbk"))
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "gbk.list")
    assert (caught.value.code, caught.value.fields["line"]) == ("manifest_encoding", 2)


def test_real_table(speech_dir: Path | None) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    utterances = read_manifest(speech_dir / "manifest.tsv")
    assert utterances and all(Path(item.audio).is_file() for item in utterances)
