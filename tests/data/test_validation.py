"""Laws of the forgiving reader: every line is accounted for, and a good list comes back byte for byte."""

import dataclasses
import io
import json
import random
from pathlib import Path

import pytest

from modules.data.lines import split_lines
from modules.data.manifest import Utterance, read_manifest
from modules.data.validation import check_manifest, language_code, write_back
from modules.errors import UserError

TAGS = "ZH zh JA ja JP jp EN En en KO Ko ko YUE Yue yue".split()
ISO = "zh zh ja ja ja ja en en en ko ko ko yue yue yue".split()


def audio(folder: Path, *names: str) -> None:
    """Files that are there; what they hold does not matter here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def codes(path: Path | list[Path], **options: object) -> list[tuple[str, int, bool]]:
    return [(p.reason.code, p.line, p.fatal) for p in check_manifest(path, **options).problems]


def random_list(folder: Path, generator: random.Random) -> bytes:
    """A list without a bad line, in all its lawful varieties."""
    newline = generator.choice(["\n", "\r\n", "\r"])
    lines = []
    for number in range(generator.randrange(1, 12)):
        name = f"wavs/{number}.wav"
        audio(folder, name)
        path = generator.choice([name, str(folder / name), f'"{name}"', name.replace("/", "\\")])
        speaker = generator.choice(["Ann", "安", "", " Bob "])
        text = generator.choice(["Hello | there|", "你好，世界。", " spaced ", "", "a\u2028b", '"quoted"', "{x}"])
        lines += [f"{path}|{speaker}|{generator.choice([*TAGS, 'FR', ''])}|{text}"]
        lines += [""] * generator.choice([0, 0, 0, 1, 2])
    body = generator.choice(["", newline]) + newline.join(lines) + generator.choice(["", newline])
    return generator.choice([b"", b"\xef\xbb\xbf"]) + body.encode()


@pytest.mark.parametrize("seed", range(12))
def test_a_good_list_round_trips_byte_for_byte(tmp_path: Path, seed: int) -> None:
    data = random_list(tmp_path, random.Random(seed))
    (tmp_path / "a.list").write_bytes(data)
    checked = check_manifest(tmp_path / "a.list")
    assert not checked.rejected
    assert checked.utterances == read_manifest(tmp_path / "a.list"), "the strict reader reads the same"
    assert write_back(tmp_path / "b.list", checked) is None
    assert (tmp_path / "b.list").read_bytes() == data
    write_back(tmp_path / "a.list", check_manifest(tmp_path / "a.list"))
    assert (tmp_path / "a.list").read_bytes() == data


def test_only_the_edited_line_changes(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    (tmp_path / "x.list").write_bytes(b"\xef\xbb\xbfa.wav|  s|Jp|one | two \r\n\r\n'b.wav'|s|En|three")
    checked = check_manifest(tmp_path / "x.list")
    edited = [checked.utterances[0], dataclasses.replace(checked.utterances[1], text="four|\nfive")]
    write_back(tmp_path / "x.list", checked, edited)
    assert (tmp_path / "x.list").read_bytes() == b"\xef\xbb\xbfa.wav|  s|Jp|one | two \r\n\r\n'b.wav'|s|En|four| five"
    with pytest.raises(UserError) as caught:
        write_back(tmp_path / "x.list", checked, [dataclasses.replace(edited[0], speaker="a|b"), edited[1]])
    assert caught.value.code == "manifest_separator"


def test_bad_lines_are_named_and_never_lost(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    bad = [b"a.wav|s|en", b"gone.wav|s|en|Hi", b"b.wav|s|zh|\xc4\xe3", b"|s|en|no path", b"x" * 5000 + b"|s|en|Hi"]
    lines = [b"a.wav|s|en|Hi", bad[0], b"", bad[1], bad[2], b"b.wav|s|en|  ", bad[3], bad[4]]
    path = tmp_path / "a.list"
    path.write_bytes(b"\r\n".join(lines))
    expected = [("line_fields", 2), ("line_audio_missing", 4), ("line_encoding", 5), ("line_text_empty", 6)]
    expected += [("line_invalid", 7), ("line_audio_missing", 8)]
    assert codes(path) == [(code, line, code != "line_text_empty") for code, line in expected]
    checked = check_manifest(path)
    assert [item.text for item in checked.utterances] == ["Hi", ""]
    rejected = write_back(path, checked)
    assert path.read_bytes() == b"a.wav|s|en|Hi\r\n\r\nb.wav|s|en|  \r\n"
    assert rejected is not None and rejected.read_bytes().splitlines() == bad
    reasons = [json.loads(line) for line in (tmp_path / "a.list.rejected.jsonl").read_text("utf-8").splitlines()]
    assert [entry["line"] for entry in reasons] == [2, 4, 5, 7, 8]
    assert all(str(entry["reason"]) and entry["file"] == str(path) for entry in reasons)
    assert write_back(path, checked) == rejected and rejected.read_bytes().splitlines() == bad, "not twice"
    write_back(path, check_manifest(path))
    assert rejected.read_bytes().splitlines() == bad, "a later good save does not delete them"


def test_tags_in_every_spelling(tmp_path: Path) -> None:
    audio(tmp_path, *(f"{n}.wav" for n in range(20)))
    assert [language_code(tag) for tag in TAGS] == ISO
    others = {
        "zh-CN": "zh",
        "en_US": "en",
        "all_ja": "ja",
        "Fr": "fr",
        "AUTO": "",
        "": "",
        " yue ": "yue",
        "zh-yue": "yue",
    }
    assert {tag: language_code(tag) for tag in others} == others
    tags = [*TAGS, "FR", "FR", "AUTO", ""]
    (tmp_path / "a.list").write_text("".join(f"{n}.wav|s|{tag}|t\n" for n, tag in enumerate(tags)))
    checked = check_manifest(tmp_path / "a.list")
    assert [item.language for item in checked.utterances] == tags
    assert [(p.line, p.reason.fields) for p in checked.problems] == [
        (16, {"tag": "FR", "count": 2}),
        (18, {"tag": "AUTO", "count": 1}),
    ]


def test_duplicates_across_files(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "twin.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "1.list").write_text("a.wav|s|en|t\nb.wav|s|en|t\n")
    (tmp_path / "2.jsonl").write_text('{"audio": "./b.wav", "text": "t"}\n{"path": "twin.wav", "sentence": "t"}\n')
    both = [tmp_path / "1.list", tmp_path / "2.jsonl"]
    assert codes(both) == [("line_duplicate", 1, False)]
    assert codes(both, hash_audio=True) == [("line_duplicate", 1, False), ("line_duplicate_content", 2, False)]
    checked = check_manifest(both, hash_audio=True)
    assert [row.number for row in checked.rows] == [0, 1, 2, 3]
    assert checked.problems[1].reason.fields == {"audio": "a.wav", "line": 1, "file": str(both[0])}


def test_audio_folder_replaces_the_path(tmp_path: Path) -> None:
    audio(tmp_path, "new/a.wav", "new/名 b.wav")
    (tmp_path / "a.list").write_text(
        "/old/a.wav|s|en|t\n\u202aD:\\old\\名 b.wav|s|en|t\n../c.wav|s|en|t\n", encoding="utf-8"
    )
    checked = check_manifest(tmp_path / "a.list", tmp_path / "new")
    found = [str(tmp_path / "new" / "a.wav"), str(tmp_path / "new" / "名 b.wav")]
    assert [item.audio for item in checked.utterances] == found
    assert checked.problems[0].reason.fields["audio"] == str(tmp_path / "new" / "c.wav")
    write_back(tmp_path / "b.list", checked)
    assert [item.audio for item in read_manifest(tmp_path / "b.list")] == found, (
        "written paths are those that were found"
    )
    assert len(check_manifest(tmp_path / "a.list", require_audio=False).rows) == 3


def test_a_list_can_be_written_elsewhere_and_as_json(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    (tmp_path / "a.list").write_text("a.wav|s|Ko|t | u\nb.wav|s|en|t\n")
    checked = check_manifest(tmp_path / "a.list")
    for name in ("sub/b.list", "sub/b.jsonl", "c.jsonl"):
        write_back(tmp_path / name, checked)
        again = check_manifest(tmp_path / name).utterances
        assert [
            dataclasses.replace(item, audio=str(Path(item.audio).resolve())) for item in again
        ] == checked.utterances
    with pytest.raises(UserError) as caught:
        write_back(tmp_path / "a.wav", checked)
    assert caught.value.code == "list_format" and (tmp_path / "a.wav").read_bytes() == b"a.wav"


def test_json_lines_keep_what_is_unknown_here(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    lines = [
        '{"mood": "glad", "wav":"a.wav" , "text": "x"}',
        '{"audio": "b.wav", "text": "y", "confidence": 0.25}',
        "{",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    checked = check_manifest(tmp_path / "a.jsonl")
    assert [(p.reason.code, p.line) for p in checked.problems] == [("line_invalid", 3)]
    assert checked.utterances[1].confidence == 0.25
    edited = [dataclasses.replace(checked.utterances[0], text="z"), checked.utterances[1]]
    write_back(tmp_path / "a.jsonl", checked, edited)
    first, second = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert second == lines[1]
    written = json.loads(first)
    assert (written["mood"], written["audio"], written["text"]) == ("glad", "a.wav", "z") and "wav" not in written
    assert check_manifest(tmp_path / "a.jsonl").utterances == edited


def test_an_edited_json_line_may_begin_with_invisible_marks(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    (tmp_path / "a.jsonl").write_text('\u200e\ufeff{"audio": "a.wav", "text": "x", "mood": "glad"}\n', encoding="utf-8")
    checked = check_manifest(tmp_path / "a.jsonl")
    write_back(tmp_path / "a.jsonl", checked, [dataclasses.replace(checked.utterances[0], text="y")])
    written = json.loads((tmp_path / "a.jsonl").read_text("utf-8"))
    assert (written["text"], written["mood"]) == ("y", "glad")


def test_a_name_with_a_line_break_is_no_part_of_a_list(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    (tmp_path / "a.list").write_text("a.wav|s|en|t\n")
    checked = check_manifest(tmp_path / "a.list")
    renamed = [dataclasses.replace(checked.utterances[0], audio=str(tmp_path / "a\nb.wav"))]
    with pytest.raises(UserError) as caught:
        write_back(tmp_path / "a.list", checked, renamed)
    assert caught.value.code == "manifest_line_break" and (tmp_path / "a.list").read_text() == "a.wav|s|en|t\n"
    write_back(tmp_path / "b.jsonl", checked, renamed)
    assert check_manifest(tmp_path / "b.jsonl", require_audio=False).utterances == renamed


def test_only_an_opened_list_needs_no_suffix(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    (tmp_path / "list").write_text("a.wav|s|en|t\n")
    checked = check_manifest(tmp_path / "list")
    write_back(tmp_path / "list", checked, [dataclasses.replace(checked.utterances[0], text="new")])
    assert (tmp_path / "list").read_text() == "a.wav|s|en|new\n"
    with pytest.raises(UserError) as caught:
        write_back(tmp_path / "other", checked)
    assert caught.value.code == "list_format" and not (tmp_path / "other").exists()


def test_confidence_is_kept_and_bounded(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    values = ["0", "1", "-1", "0.5", "null", '"0.5"', "1.01", "-0.5", "NaN", "true"]
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"audio": "a.wav", "text": "t", "confidence": {v}}}\n' for v in values)
    )
    checked = check_manifest(tmp_path / "a.jsonl")
    assert [item.confidence for item in checked.utterances] == [0, 1, -1, 0.5, -1, 0.5]
    assert [p.line for p in checked.rejected] == [7, 8, 9, 10]
    assert Utterance("a.wav", "s", "en", "t").confidence == -1


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_bytes("a.wav|s|en|t\n".encode("utf-16"))
    for name, code in (("a.list", "manifest_encoding"), ("none.list", "manifest_missing")):
        with pytest.raises(UserError) as caught:
            check_manifest(tmp_path / name)
        assert caught.value.code == code
    (tmp_path / "empty.list").write_bytes(b"\n\n")
    assert check_manifest(tmp_path / "empty.list").utterances == []


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_lines_do_not_depend_on_blocks(ending: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ending.join([b"one", b"", b"two", b"three"])
    for size in range(1, 8):
        monkeypatch.setattr("modules.data.lines._BLOCK_BYTES", size)
        for end in (b"", ending):
            pieces = list(split_lines(io.BytesIO(data + end)))
            assert [line for line, _ in pieces] == [b"one", b"", b"two", b"three"]
            assert b"".join(line + mark for line, mark in pieces) == data + end
