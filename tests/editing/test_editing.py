"""Laws of the dataset editor: no edit is lost, every edit can be undone, no source file ever changes."""

import dataclasses
import itertools
import json
import random
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modules.data.manifest import Utterance, read_manifest, write_manifest
from modules.editing.browsing import Filters
from modules.editing.cutting import divide_text, join_texts
from modules.editing.editor import DatasetEditor
from modules.editing.journal import Journal
from modules.errors import Stopped, UserError

ROOT = Path(__file__).resolve().parent.parent.parent
RATE_HZ = 8000


def write_clip(path: Path, seconds: float, sample_rate: int = RATE_HZ, seed: int = 0, gain: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(round(seconds * sample_rate)) * gain
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(noise, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def samples(path: str | Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def states(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A list of 8 clips of 0.5 s; when the test is over, nothing in its folder may have changed."""
    folder = tmp_path / "source"
    lines = []
    for number in range(8):
        write_clip(folder / "wavs" / f"{number}.wav", 0.5, seed=number)
        speaker = "Ann" if number < 5 else "Bob"
        lines.append(f"wavs/{number}.wav|{speaker}|{'EN' if number % 2 else 'Jp'}|This is text number {number}.")
    (folder / "a.list").write_bytes("\r\n".join(lines).encode())
    before = states(folder)
    yield folder / "a.list"
    assert states(folder) == before


def state(editor: DatasetEditor) -> tuple:
    return editor.rows, editor.revision, editor.can_undo, editor.can_redo


def edit_at_random(editor: DatasetEditor, generator: random.Random) -> None:
    """One edit; merging and splitting among them, since ids and files are where replay can go wrong."""
    ids = [row.id for row in editor.rows]
    some = generator.sample(ids, min(len(ids), generator.randrange(1, 4)))
    kind = generator.choice("text texts speaker language rename delete merge split review undo redo".split())
    try:
        if kind == "text":
            editor.set_text(some[0], f"new {generator.random():.3f} | 你好")
        elif kind == "texts":
            editor.set_texts({id: f"text of {id}\nand {generator.random():.3f}" for id in some})
        elif kind == "speaker":
            editor.set_speaker(some, generator.choice(["Ann", "Cleo"]))
        elif kind == "language":
            editor.set_language(some, generator.choice(["zh", "Yue", ""]))
        elif kind == "rename":
            editor.rename_speaker("Ann", "Dora")
        elif kind == "delete" and len(ids) > 3:
            editor.delete(some[:1])
        elif kind == "merge":
            editor.merge(some, generator.choice([0, 0.1]))
        elif kind == "split":
            editor.split(some[0], 0.2)
        elif kind == "review":
            editor.set_review(some, generator.random() < 0.5)
        elif kind == "undo":
            editor.undo()
        else:
            editor.redo()
    except UserError as error:
        known = {"merge_too_few", "merge_speakers", "undo_nothing", "redo_nothing", "split_outside", "audio_empty"}
        assert error.code in known


@pytest.mark.parametrize("seed", range(6))
def test_random_edits_are_replayed_undone_and_redone(source: Path, tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    editor = DatasetEditor.open(source, tmp_path / "work")
    first = editor.rows
    history = [editor.rows]
    for _ in range(25):
        edit_at_random(editor, generator)
        assert len({row.id for row in editor.rows}) == len(editor)
    # A kill takes the object, not the journal.
    assert state(DatasetEditor.open(source, tmp_path / "work")) == state(editor)
    while editor.can_undo:
        history.append(editor.rows)
        editor.undo()
    assert editor.rows == first
    for rows in reversed(history[1:]):
        editor.redo()
        assert editor.rows == rows, "redo after undo gives the same"
    assert not editor.can_redo
    again = DatasetEditor.open(source, tmp_path / "work")
    assert state(again) == state(editor)
    for name in ("out.jsonl", "sub/out.list"):
        again.export(tmp_path / "out" / name)
        opened = DatasetEditor.open(tmp_path / "out" / name, tmp_path / "work of" / name).utterances
        expected = again.utterances
        if name.endswith(".list"):
            expected = [Utterance(u.audio, u.speaker, u.language, u.text) for u in expected]
        assert opened == expected, "what was exported opens as it was"


def test_a_dataset_without_edits_is_exported_byte_for_byte(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "a.list"
    copy.parent.mkdir()
    copy.write_bytes(source.read_bytes() + b"\r\n\r\nbad line")
    for file in (source.parent / "wavs").iterdir():
        write_clip(copy.parent / "wavs" / file.name, 0.1)
    editor = DatasetEditor.open(copy, tmp_path / "work")
    assert [problem.reason.code for problem in editor.problems] == ["line_fields"]
    rejected = editor.export(copy).rejected
    assert copy.read_bytes() == source.read_bytes() + b"\r\n\r\n"
    assert rejected is not None and rejected.read_bytes() == b"bad line\n"
    editor.set_text(editor.rows[0].id, "Changed.")
    editor.export(copy)
    again = DatasetEditor.open(copy, tmp_path / "work")
    assert state(again) == state(editor), "saving over the opened list is no change by somebody else"
    again.undo()
    again.export(copy)
    assert copy.read_bytes() == source.read_bytes() + b"\r\n\r\n", "undo works beyond a save"


def test_a_torn_journal_line_is_dropped(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    journal = tmp_path / "work" / "edits.jsonl"
    editor.set_text(0, "one")
    one = state(editor)
    whole = journal.read_bytes()
    editor.set_text(0, "two")
    last = journal.read_bytes().removeprefix(whole)
    for length in (1, len(last) // 2, len(last) - 1):
        journal.write_bytes(whole + last[:length])
        again = DatasetEditor.open(source, tmp_path / "work")
        assert state(again) == one
        again.set_text(1, "three")
        assert DatasetEditor.open(source, tmp_path / "work").row(1).utterance.text == "three"


def test_a_killed_process_loses_nothing(source: Path, tmp_path: Path) -> None:
    """os._exit in the middle of an editing session, the lock held by the process that dies."""
    program = (
        "import os, sys\n"
        "from modules.editing.editor import DatasetEditor\n"
        "editor = DatasetEditor.open(sys.argv[1], sys.argv[2])\n"
        "editor.set_text(2, 'survives')\n"
        "with editor._journal.locked():\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(source), str(tmp_path / "work")], cwd=ROOT)
    assert done.returncode == 9
    editor = DatasetEditor.open(source, tmp_path / "work")
    assert editor.row(2).utterance.text == "survives"
    editor.undo()


def test_two_tabs_do_not_overwrite_each_other(source: Path, tmp_path: Path) -> None:
    first, second = (DatasetEditor.open(source, tmp_path / "work") for _ in range(2))
    seen = second.page().revision
    first.set_text(0, "first tab")
    for attempt in (lambda: second.set_text(0, "second tab"), lambda: second.delete([1], revision=seen)):
        with pytest.raises(UserError) as caught:
            attempt()
        assert caught.value.code == "edit_stale"
    assert second.row(0).utterance.text == "first tab", "the second tab has read the first one's edit"
    second.set_text(0, "second tab", revision=second.revision)
    assert first.refresh() and not first.refresh()
    assert state(first) == state(second)
    with pytest.raises(UserError) as caught:
        first.split(3, 0.2, revision=seen)
    assert caught.value.code == "edit_stale" and not (tmp_path / "work" / "edited").exists()
    assert first.undo() is None and second.refresh() and second.row(0).utterance.text == "first tab"


def test_a_changed_source_asks(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 0.3)
    path, work = tmp_path / "a.list", tmp_path / "work"
    path.write_text("a.wav|s|en|one\n")
    DatasetEditor.open(path, work).set_text(0, "edited")
    path.write_text("a.wav|s|en|two\n")
    with pytest.raises(UserError) as caught:
        DatasetEditor.open(path, work)
    assert caught.value.code == "source_changed"
    told = caught.value.fields
    editor = DatasetEditor.open(path, work, if_changed="keep_aside")
    assert editor.row(0).utterance.text == "two" and editor.revision == 0
    assert told["kept"] == str(work / "edits-1.jsonl") and "edited" in (work / "edits-1.jsonl").read_text()
    # The told way back works.
    now, path_now = (work / "edits.jsonl").read_bytes(), path.read_bytes()
    path.write_bytes(Path(told["copy"]).read_bytes())
    Path(told["kept"]).rename(work / "edits.jsonl")
    assert DatasetEditor.open(path, work).row(0).utterance.text == "edited"
    (work / "edits.jsonl").rename(work / "edits-1.jsonl")
    (work / "edits.jsonl").write_bytes(now)
    path.write_bytes(path_now)
    (work / "edits.jsonl").write_text((work / "edits.jsonl").read_text() + '{"kind": "delete", "ids": [99]}\n')
    with pytest.raises(UserError) as caught:
        DatasetEditor.open(path, work)
    assert (caught.value.code, caught.value.fields["line"]) == ("edits_damaged", 2)
    assert len(DatasetEditor.open(path, work, if_changed="start_over")) == 1
    assert sorted(p.name for p in work.glob("*.jsonl")) == ["edits-1.jsonl", "edits.jsonl"]
    (tmp_path / "b.list").write_text("a.wav|s|en|other\n")
    for choice in ("ask", "keep_aside"):
        with pytest.raises(UserError) as caught:
            DatasetEditor.open(tmp_path / "b.list", work, if_changed=choice)
        assert caught.value.code == "edits_other_source"


def test_another_tab_that_starts_over_is_noticed(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    editor.set_text(0, "x")
    (tmp_path / "work" / "edits.jsonl").unlink()
    with pytest.raises(UserError) as caught:
        editor.set_text(0, "y")
    assert caught.value.code == "edits_restarted"


@pytest.mark.parametrize("longer", [False, True])
def test_another_tabs_new_journal_of_the_same_list_is_noticed(source: Path, tmp_path: Path, longer: bool) -> None:
    journal = tmp_path / "work" / "edits.jsonl"
    old = DatasetEditor.open(source, tmp_path / "work")
    for id in range(4):
        old.set_text(id, f"old text {id}")
    journal.write_bytes(journal.read_bytes()[:-20] + b"damaged\n")
    new = DatasetEditor.open(source, tmp_path / "work", if_changed="start_over")
    for id in range(8 if longer else 1):
        new.set_text(id, f"new text of the row {id}")
    before = journal.read_bytes()
    for attempt in (lambda: old.set_text(1, "lost"), old.undo, old.refresh):
        with pytest.raises(UserError) as caught:
            attempt()
        assert caught.value.code == "edits_restarted"
    assert journal.read_bytes() == before
    new.set_text(2, "more")
    assert state(DatasetEditor.open(source, tmp_path / "work")) == state(new)


def test_a_journal_that_got_shorter_is_not_filled_with_zeros(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(4):
        journal.append({"kind": "open", "number": number})
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[: len(whole) // 2])
    for attempt in (lambda: journal.append({"kind": "undo"}), journal.read_new):
        with pytest.raises(UserError) as caught:
            attempt()
        assert caught.value.code == "edits_restarted"
    assert journal.path.read_bytes() == whole[: len(whole) // 2]


def test_an_export_keeps_what_somebody_else_wrote(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    target, folder = tmp_path / "out" / "x.list", tmp_path / "out"
    folder.mkdir()
    target.write_bytes(b"somebody else's")
    assert editor.export(target).backup == folder / "x.list.bak"
    editor.set_text(0, "new")
    assert editor.export(target).backup is None, "it is our own now"
    again = DatasetEditor.open(source, tmp_path / "work")
    again.set_text(0, "newer")
    assert again.export(target).backup is None, "also after the list was opened again"
    target.write_bytes(b"transcribed anew")
    assert again.export(target).backup == folder / "x.list.bak2"
    assert [path.read_bytes() for path in sorted(folder.glob("*.bak*"))] == [b"somebody else's", b"transcribed anew"]
    assert "newer" in target.read_text(encoding="utf-8")
    assert state(DatasetEditor.open(source, tmp_path / "work")) == state(again)


def test_an_export_over_the_opened_list_keeps_changes_that_were_not_seen(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 0.3)
    path = tmp_path / "a.list"
    path.write_text("a.wav|s|en|one\n")
    editor = DatasetEditor.open(path, tmp_path / "work")
    editor.set_text(0, "edited")
    assert editor.export(path).backup is None
    path.write_text("a.wav|s|en|by hand\n")
    assert editor.export(path).backup.read_text() == "a.wav|s|en|by hand\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_an_export_through_a_link_leaves_the_link(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 0.3)
    (tmp_path / "real.list").write_text("a.wav|s|en|one\n")
    (tmp_path / "link.list").symlink_to("real.list")
    editor = DatasetEditor.open(tmp_path / "link.list", tmp_path / "work")
    editor.set_text(0, "edited")
    for name in ("link.list", "real.list"):
        assert editor.export(tmp_path / name).backup is None
        assert (tmp_path / "link.list").is_symlink()
        assert (tmp_path / "real.list").read_text() == "a.wav|s|en|edited\n"
    assert DatasetEditor.open(tmp_path / "link.list", tmp_path / "work").row(0).utterance.text == "edited"


def test_an_export_needs_the_name_of_a_list(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    other = tmp_path / ".bashrc"
    other.write_bytes(b"export A=1\n")
    for path in (other, tmp_path / "new", tmp_path / "x.tsv"):
        with pytest.raises(UserError) as caught:
            editor.export(path)
        assert caught.value.code == "list_format"
    assert other.read_bytes() == b"export A=1\n" and not (tmp_path / "new").exists()
    (tmp_path / "bare").write_bytes(source.read_bytes().replace(b"wavs/", str(source.parent / "wavs").encode() + b"/"))
    bare = DatasetEditor.open(tmp_path / "bare", tmp_path / "other work")
    bare.set_text(0, "edited")
    bare.export(tmp_path / "bare")
    assert b"edited" in (tmp_path / "bare").read_bytes()
    (tmp_path / "table").write_text("audio\ttext\nwavs/0.wav\tone\n")
    table = DatasetEditor.open(tmp_path / "table", tmp_path / "third work")
    table.set_text(table.rows[0].id, "edited")
    with pytest.raises(UserError) as caught:
        table.export(tmp_path / "table")
    assert caught.value.code == "list_format" and (tmp_path / "table").read_text().startswith("audio")


def test_merge_and_split_write_new_files(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    pieces = [samples(editor.row(id).utterance.audio)[0] for id in (1, 2)]
    merged = editor.row(editor.merge([2, 1], gap_seconds=0.25))
    wav, rate = samples(merged.utterance.audio)
    assert rate == RATE_HZ and Path(merged.utterance.audio).parent == tmp_path / "work" / "edited"
    gap = np.zeros(RATE_HZ // 4, np.int16)
    assert np.array_equal(wav, np.concatenate([pieces[0], gap, pieces[1]])), "in the order of the list"
    assert merged.utterance.seconds == len(wav) / rate and not merged.review
    assert merged.utterance.text == "This is text number 1. This is text number 2."
    assert [row.id for row in editor.rows] == [0, 8, 3, 4, 5, 6, 7]
    first, second = (editor.row(id) for id in editor.split(merged.id, 0.5))
    parts = [samples(row.utterance.audio)[0] for row in (first, second)]
    assert np.array_equal(np.concatenate(parts), wav) and len(parts[0]) == RATE_HZ // 2
    assert (first.utterance.text, second.utterance.text) == ("This is text number", "1. This is text number 2.")
    assert first.review and second.review and editor.find(filters=Filters(review=True)) == [first.id, second.id]
    editor.set_text(first.id, "This is text number 1.")
    assert editor.find(filters=Filters(review=True)) == [second.id]
    for wrong, code in (
        (lambda: editor.split(0, 0.45), "split_outside"),
        (lambda: editor.split(0, float("nan")), "split_outside"),
        (lambda: editor.merge([0]), "merge_too_few"),
        (lambda: editor.merge([0, 7]), "merge_speakers"),
        (lambda: editor.merge([0, 3], 11), "option_invalid"),
        (lambda: editor.split(1, 0.2), "row_gone"),
    ):
        before = (state(editor), states(tmp_path / "work"))
        with pytest.raises(UserError) as caught:
            wrong()
        assert caught.value.code == code
        assert (state(editor), states(tmp_path / "work")) == before, "a refused edit leaves nothing behind"


def test_merging_keeps_the_better_rate(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 0.5, 8000)
    write_clip(tmp_path / "b.wav", 0.5, 16000)
    (tmp_path / "a.list").write_text("a.wav|s|zh|你好，\nb.wav|s|zh|世界。\n", encoding="utf-8")
    editor = DatasetEditor.open(tmp_path / "a.list", tmp_path / "work")
    merged = editor.row(editor.merge([0, 1])).utterance
    wav, rate = samples(merged.audio)
    assert (rate, len(wav), merged.text) == (16000, 16000, "你好，世界。")


def test_texts_are_joined_and_divided_at_words() -> None:
    assert join_texts(["你好。", "世界"]) == "你好。世界"
    assert join_texts(["안녕", "하세요"]) == "안녕 하세요"
    assert join_texts(["Hello", "", " 你好", "안녕"]) == "Hello 你好 안녕"
    assert divide_text("one two three four", 0.5) == ("one two", "three four")
    assert divide_text("Hello", 0.6) == ("Hello", "") and divide_text("Hello", 0.2) == ("", "Hello")
    assert divide_text("你好，世界。再见", 0.34) == ("你好，", "世界。再见")
    assert divide_text("きゃっと", 0.3) == ("", "きゃっと") and divide_text("", 0.5) == ("", "")
    generator = random.Random(0)
    for _ in range(200):
        text = "".join(generator.choice("ab 你好，。（） é") for _ in range(generator.randrange(20))).strip()
        first, second = divide_text(text, generator.random())
        assert "".join((first + second).split()) == "".join(text.split()), "no character is lost"


def test_pages_selection_and_jump(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    page = editor.page(1, size=3)
    assert [(s.number, s.row.id) for s in page.rows] == [(4, 3), (5, 4), (6, 5)]
    assert (page.index, page.pages, page.total) == (1, 3, 8)
    assert all(s.seconds == 0.5 and not s.missing for s in page.rows)
    assert editor.page(99, size=3).index == 2 and editor.page(-1).index == 0 and editor.page(ids=[]).pages == 1
    assert editor.jump(7, size=3).index == 2 and editor.jump(0).index == editor.jump(10**6).index == 0
    editor.select([1, 2])
    editor.invert(row.row.id for row in editor.page(0, size=3).rows)
    assert editor.selected == [0]
    editor.invert()
    assert editor.selected == [1, 2, 3, 4, 5, 6, 7]
    editor.deselect([2])
    editor.delete(editor.selected)
    assert [row.id for row in editor.rows] == [0, 2] and editor.selected == []
    assert editor.page(ids=[2, 3]).total == 1, "rows that are gone are left out"
    editor.undo()
    editor.select_all()
    assert len(editor.selected) == 8
    editor.deselect()
    assert editor.selected == []


def test_edits_that_change_nothing_are_none(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    editor.set_text(0, f" {editor.row(0).utterance.text}\n")
    editor.rename_speaker("Nobody", "X")
    editor.delete([])
    assert editor.revision == 0 and not editor.can_undo
    editor.rename_speaker("Bob", "Ann")
    assert {u.speaker for u in editor.utterances} == {"Ann"} and editor.revision == 1
    for wrong, code in (
        (lambda: editor.set_speaker([0], "a|b"), "manifest_separator"),
        (lambda: editor.delete([0, 99]), "row_gone"),
        (editor.redo, "redo_nothing"),
        (lambda: editor.export(tmp_path / "x.wav"), "list_format"),
    ):
        with pytest.raises(UserError) as caught:
            wrong()
        assert caught.value.code == code and editor.revision == 1


def test_search_and_filters(tmp_path: Path) -> None:
    lengths = {"short": 0.3, "normal": 1.5, "long": 3.0, "loud": 1.2}
    for seed, (name, seconds) in enumerate(lengths.items()):
        write_clip(tmp_path / f"{name}.wav", seconds, seed=seed, gain=5 if name == "loud" else 0.1)
    (tmp_path / "twin.wav").write_bytes((tmp_path / "normal.wav").read_bytes())
    names = [*lengths, "twin", "gone"]
    texts = ["ＡＢＣ straße", "カタカナ", "", "Hello", "x", "y"]
    utterances = [
        Utterance(str(tmp_path / f"{name}.wav"), "Åsa" if name == "long" else "Bob", "", text, confidence=confidence)
        for name, text, confidence in zip(names, texts, [0.1, 0.9, -1, 0.49, 0.5, -1], strict=True)
    ]
    write_manifest(tmp_path / "m.jsonl", utterances)
    editor = DatasetEditor.open(tmp_path / "m.jsonl", tmp_path / "work")

    def found(query: str = "", **chosen: object) -> str:
        return " ".join(names[id] for id in editor.find(query, Filters(**chosen)))

    assert found("abc STRASSE") == "short" and found("ｶﾀｶﾅ") == "normal" and found("åSA") == "long"
    assert found("LOUD.wav") == "loud" and found("nothing") == "" and found() == " ".join(names)
    assert found(empty=True) == "long" and found(low_confidence=True) == "short loud"
    assert found(low_confidence=True, confidence_below=0.2) == "short"
    assert found(too_long=True, longest_seconds=2.0) == "long" and found(too_short=True) == "short"
    assert found(clipped=True) == "loud" and found(missing=True) == "gone"
    assert found(duplicate=True) == "normal twin" and found("ABC", low_confidence=True) == "short"
    assert found(empty=True, missing=True) == "long gone"
    with pytest.raises(Stopped):
        editor.find(filters=Filters(clipped=True), should_stop=lambda: True)
    editor.set_text(0, "Now sure.")
    assert found(low_confidence=True) == "loud", "a text typed by a person is not the transcriber's guess"


def test_several_lists_and_a_moved_work_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / name / "x.wav", 0.4)
        (tmp_path / name / "m.list").write_text(f"x.wav|{name}|en|{name} one\nx.wav|{name}|en|{name} two\n")
    lists = [tmp_path / "a" / "m.list", tmp_path / "b" / "m.list"]
    editor = DatasetEditor.open(lists, tmp_path / "work")
    assert [row.utterance.text for row in editor.rows] == ["a one", "a two", "b one", "b two"]
    editor.split(3, 0.2)
    (tmp_path / "work").rename(tmp_path / "moved")
    moved = DatasetEditor.open(lists, tmp_path / "moved")
    assert all(Path(item.audio).is_file() for item in moved.utterances)
    moved.export(tmp_path / "out.list")
    assert [item.text for item in read_manifest(tmp_path / "out.list")] == ["a one", "a two", "b one", "b", "two"]
    folder = tmp_path / "b"
    relocated = DatasetEditor.open(lists, tmp_path / "third", audio_folder=folder)
    assert {item.audio for item in relocated.utterances} == {str(folder / "x.wav")}


def test_the_journal_is_plain_json_lines(source: Path, tmp_path: Path) -> None:
    editor = DatasetEditor.open(source, tmp_path / "work")
    editor.set_text(0, "a\u2028b\ud800")
    editor.undo()
    records = [json.loads(line) for line in (tmp_path / "work" / "edits.jsonl").read_bytes().splitlines()]
    assert [record["kind"] for record in records] == ["open", "set", "undo"]
    assert [record.get("revision") for record in records] == [None, 1, 2]
    assert list(itertools.accumulate(dataclasses.astuple(editor.page())[3:4])) == [8]
