"""Texts and voices of a user's own: what is read, and what is told of a line that cannot be."""

from pathlib import Path

import pytest

from modules.errors import UserError
from modules.evaluation.sets.readings import PhoneReader
from modules.evaluation.sets.references import as_voices, example_clips, folder_clips, listed_clips
from modules.evaluation.sets.shipped import texts_of
from tests.tiny import synthetic_speech, write_wav


class _Reader(PhoneReader):
    def phones(self, text: str, language: str) -> tuple[str, ...] | None:
        return tuple(text.replace(" ", "")) if language == "en" else None


def test_texts_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    lines = ["en|a b", "", '{"language": "xx", "text": "c"}', '{"language": "de", "text": "d", "phones": "d e"}']
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    clips = texts_of(file, _Reader())
    assert [(c.language, c.text, c.phones) for c in clips] == [
        ("en", "a b", ("a", "b")), ("xx", "c", ()), ("de", "d", ("d", "e")),
    ]  # fmt: skip
    wrong = '{"language": "en", "text": "x", "phones": [1]}'
    for content, line in (("no language", 1), ("en|x\n{bad", 2), ("", 0), ('{"text": "x"}', 1), (wrong, 1)):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            texts_of(file, _Reader())
        assert caught.value.code == "texts_unreadable" and caught.value.fields["line"] == line


def test_voices_of_ones_own(tmp_path: Path) -> None:
    for name in ("anna/1.wav", "anna/2.wav", "bert.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_wav(tmp_path / name, synthetic_speech(3.0 if "2" in name else 1.0))
    (tmp_path / "bert.txt").write_text("What Bert says.\n", encoding="utf-8")
    voices = {voice.speaker: voice for voice in as_voices(folder_clips(tmp_path))}
    assert set(voices) == {"anna", "bert"} and voices["anna"].reference.path.endswith("2.wav")
    assert len(voices["anna"].others) == 1 and voices["bert"].others == ()
    assert voices["bert"].reference.text == "What Bert says."
    (tmp_path / "my.list").write_text("bert.wav|Bert|ZH|你好。\n", encoding="utf-8")
    listed = [(c.speaker, c.language, c.text) for c in listed_clips(tmp_path / "my.list")]
    assert listed == [("Bert", "zh", "你好。")], "the sentences of its language are looked up by its plain tag"
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError) as caught:
        folder_clips(tmp_path / "none")
    assert caught.value.code == "references_none"
    assert len(example_clips()) >= 3 and all(clip.text and clip.seconds > 2 for clip in example_clips())
