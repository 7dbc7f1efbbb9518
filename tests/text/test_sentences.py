"""Laws of the splitter: nothing spoken is lost, every piece is speakable, every length works."""

import time

import pytest
import regex

from modules.errors import UserError
from modules.text.sentences import (
    CUTS,
    LIMIT_CHARACTERS,
    LIMIT_SECONDS,
    SENTENCE_SECONDS,
    estimate_seconds,
    is_speakable,
    split_text,
)

ENGLISH = "We left early, and nobody saw us. The road was long! Was it worth the trouble? I think so; ask her."
MIXED = [
    ENGLISH,
    "我们今天去公园散步，天气非常好。你想一起来吗？当然可以！",
    "今日はいい天気ですね。散歩に行きましょう。「はい。」と言った。",
    "오늘은 날씨가 좋네요. 산책하러 갈까요? 네, 좋아요.",
    "यह एक वाक्य है। यह दूसरा वाक्य है।",
    "هذه جملة أولى. وهذه جملة ثانية؟ نعم، بالتأكيد.",
    "วันนี้อากาศดีมาก เราไปเดินเล่นกันเถอะ แล้วกลับบ้านตอนเย็น",
    "ይህ አንድ ነው። ይህ ሁለት ነው።",
    "He said 你好 and left. それから what? Τι έγινε;",
]


def spoken(text: str) -> str:
    return "".join(regex.findall(r"[\p{L}\p{N}\p{M}]", text))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("text", MIXED)
def test_no_letter_is_lost_and_every_piece_is_speakable(text: str, cut: str) -> None:
    pieces = split_text(text, cut)
    assert spoken("".join(pieces)) == spoken(text)
    assert all(is_speakable(piece) and piece == piece.strip() and "\n" not in piece for piece in pieces)


def test_sentences_of_scripts_without_spaces_are_found() -> None:
    text = "我们今天一起去那个公园里散步。明天我们会再一次见面的吧？"
    assert split_text(text) == ["我们今天一起去那个公园里散步。", "明天我们会再一次见面的吧？"]


def test_a_short_quotation_and_what_follows_it_stay_together() -> None:
    assert split_text("「はい。」と言った。") == ["「はい。」と言った。"]
    text = "先生は笑って「はい、そうですよ。」と言ったので、みんなが驚いていました。"
    assert split_text(text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "Yesterday in the old city centre we met Dr. Smith again by pure chance.",
        "The value is 3.14 and the page is example.com, nothing more than that.",
        "Wir treffen uns wie immer am 3. Mai vor dem alten Rathaus in der Stadt.",
        "There are many small things, e.g. apples and pears, that he would buy.",
        "The famous J. R. R. Tolkien wrote this long before anybody else did it.",
        "I was thinking about it for a while... and then nothing happened at all.",
    ],
)
def test_a_dot_inside_a_sentence_does_not_cut_it(text: str) -> None:
    assert split_text(text) == [text]


def test_a_newline_always_ends_a_piece_and_empty_lines_vanish() -> None:
    assert split_text("one line here\r\n\n  \u2028another line here\n...\n") == ["one line here", "another line here"]
    assert split_text("eins\nzwei", "cut0") == ["eins", "zwei"]


def test_short_sentences_are_merged() -> None:
    assert split_text("Yes. No. Well, I do not know what to say about that.") == [
        "Yes. No. Well, I do not know what to say about that."
    ]


@pytest.mark.parametrize("text", ["", "  \n\t ", "\ufeff\u200b", "\ud800"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        split_text(text)
    assert error.value.code == "text_empty"


@pytest.mark.parametrize("text", ["...!?", "🙂🙂", "— 「」 …\n***"])
def test_text_without_letters_is_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        split_text(text)
    assert error.value.code == "text_unspeakable"


def test_an_unknown_cut_is_refused_by_name() -> None:
    with pytest.raises(UserError) as error:
        split_text("hello", "cut9")
    assert error.value.code == "cut_unknown"
    assert "cut5" in str(error.value)


def test_the_six_known_ways() -> None:
    assert split_text(ENGLISH, "cut0") == [ENGLISH]
    assert split_text(ENGLISH, "cut5") == [
        "We left early,",
        "and nobody saw us.",
        "The road was long!",
        "Was it worth the trouble?",
        "I think so;",
        "ask her.",
    ]
    assert split_text(ENGLISH, "cut1") == [
        "We left early, and nobody saw us. The road was long! Was it worth the trouble?",
        "I think so; ask her.",
    ]
    assert split_text("他来了。她走了。真的吗？是的。", "cut3") == ["他来了。", "她走了。", "真的吗？是的。"]
    assert split_text("It is 3.14. Really! Yes, it is. Farewell", "cut4") == [
        "It is 3.14.",
        "Really! Yes, it is.",
        "Farewell",
    ]
    pieces = split_text(ENGLISH * 5, "cut2")
    assert all(len(piece) > 50 for piece in pieces[:-1]) and len(pieces) > 3


@pytest.mark.parametrize("unit", ["word ", "字", "ก", "long-and-unbroken", "a\u0301", "The cat sat. ", "a, ", "9"])
@pytest.mark.parametrize("cut", ["auto", "cut0", "cut2", "cut5"])
def test_twenty_thousand_characters_are_cut_fast_and_never_too_long(unit: str, cut: str) -> None:
    text = (unit * (20_000 // len(unit) + 1))[:20_000]
    start = time.perf_counter()
    pieces = split_text(text, cut)
    assert time.perf_counter() - start < 2.0
    longest = SENTENCE_SECONDS if cut == "auto" else LIMIT_SECONDS
    assert max(map(estimate_seconds, pieces)) <= longest + 1e-6
    assert max(map(len, pieces)) <= LIMIT_CHARACTERS
    assert "\u0301" not in {piece[0] for piece in pieces}


def test_twenty_thousand_stacked_marks_do_no_harm() -> None:
    pieces = split_text("a" + "\u0301" * 20_000)
    assert len(pieces) == 1 and len(pieces[0]) <= LIMIT_CHARACTERS
