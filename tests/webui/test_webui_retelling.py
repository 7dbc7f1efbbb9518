"""What tools wrote down in English is told in the reader's language."""

import ast
from pathlib import Path

import pytest

from modules.corpus.recognition import Recognition, RecognitionOptions
from modules.corpus.transcribing import FAILED, SILENCE, UNREADABLE, judge
from modules.errors import UserError
from modules.paths import PROJECT_ROOT
from tools.webui.messages import Messages
from tools.webui.retelling import REMARKS, kind_of, retell, retell_error

EMPTY = "{file} holds no sound; record or export it again, or leave it out."

CHINESE = Messages().translator("zh-CN")


def sentences(path: Path) -> str:
    """All texts of a source file; `{}` stands for what an f-string fills in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
    return "\n".join(found)


def heard(text: str, confidence: float = 0.9, seconds: float = 2.0) -> Recognition:
    return Recognition(text, "en", confidence, seconds)


@pytest.mark.parametrize(
    "reason",
    [
        SILENCE,
        judge(heard("..."), RecognitionOptions()),
        judge(heard("so it is", confidence=0.123), RecognitionOptions()),
        judge(heard("hm", seconds=20), RecognitionOptions()),
        judge(heard("thank you very much " * 9), RecognitionOptions()),
        f"{FAILED}: some library's words",
        str(UserError("audio_empty", EMPTY, file="声 {1}.wav")),
    ],
)
def test_reasons_of_the_tools_are_told_in_chinese(reason: str) -> None:
    assert reason and retell(reason, CHINESE) != reason
    assert any("\u4e00" <= letter <= "\u9fff" for letter in retell(reason, CHINESE))


def test_a_cause_inside_is_told_too_and_fields_stay_as_they_were() -> None:
    inner = str(UserError("audio_empty", EMPTY, file="a b.wav"))
    told = retell(f"{UNREADABLE}: {inner}", CHINESE)
    assert told.startswith("无法读取") and "a b.wav" in told and "holds" not in told
    short = "x.wav holds 0.4 s of speech; record at least 1.0 s, better 3 to 10 s."
    assert "0.4" in retell(short, CHINESE) and retell(short, CHINESE) != short


@pytest.mark.parametrize("text", ["", "3/7 song.wav 40 %", "Something that nobody has ever said."])
def test_what_is_not_known_stays_as_it_is(text: str) -> None:
    assert retell(text, CHINESE) == text


def test_texts_of_one_kind_have_one_name() -> None:
    assert kind_of("low confidence: 0.10") == kind_of("low confidence: 0.20") != kind_of("silence")
    assert kind_of("odd") == "odd"


def test_the_cause_of_an_error_is_told() -> None:
    error = UserError("asr_all_failed", "None of {count} ({cause}).", count=3, cause="recognition failed: x")
    assert "识别失败" in CHINESE.error(retell_error(error, CHINESE))


def test_every_remark_is_one_that_a_tool_makes() -> None:
    """Otherwise a changed wording would silently be told in English."""
    sources = [*(PROJECT_ROOT / "modules").rglob("*.py"), *(PROJECT_ROOT / "tools").glob("*.py")]
    said = "\n".join(sentences(path) for path in sources)
    for key in REMARKS:
        template = Messages().tables["en"][key]
        literal = max(template.replace("}", "{").split("{")[::2], key=len).strip(" :.;,()")
        assert literal in said, key
