"""Laws of what is handed to the models: pictures go, words and their marks stay."""

import pytest

from modules.text.sentences import split_text
from modules.text.spoken import spoken_text


@pytest.mark.parametrize(
    "text",
    [
        "Hello there.",
        "Is it 5 ℃?",
        "C# & C++, 100 %.",
        "क्या हुआ?",
        "می‌خواهم.",
        "你好！",
        "",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert spoken_text(text) == text


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello 🙂!", "Hello!"),
        ("hi👋there", "hi there."),
        ("Great 🎉🎉 See you.", "Great See you."),
        ("1\ufe0f\u20e3 apple.", "1 apple."),
        ("👨\u200d👩\u200d👧 Family 👍🏽.", "Family."),
        ("I ❤\ufe0f you.", "I you."),
        ("🇩🇪 Hallo.", "Hallo."),
        ("Press → now ★.", "Press now."),
        ("今天很好 😀。", "今天很好。"),
        ("Brand™ and № 5.", "Brand and № 5."),
        ("\U0001fae0 ok.", "ok."),
    ],
)
def test_what_nobody_speaks_is_left_out(text: str, spoken: str) -> None:
    assert spoken_text(text) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hi", "Hi."),
        ("你好", "你好。"),
        ("東京タワー", "東京タワー。"),
        ('Say "yes"', "Say yes."),
        ("100%", "100%."),
        ("5 ℃", "5 ℃."),
    ],
)
def test_a_text_without_an_end_gets_one(text: str, spoken: str) -> None:
    assert spoken_text(text) == spoken
    assert spoken_text(spoken) == spoken


def test_pieces_show_what_was_written_and_are_never_spoken_empty() -> None:
    for piece in split_text("Good 🙂 morning. 😀 ok\n🎉 7"):
        assert any(character.isalnum() for character in spoken_text(piece))
    assert split_text("Good 🙂 morning.") == ["Good 🙂 morning."]


@pytest.mark.parametrize(
    ("shown", "spoken"),
    [
        ("“They know.”", "They know."),
        ("don’t stop – please (now)!", "don't stop, please, now!"),
        ("昨日（月曜日）は雨だった。", "昨日，月曜日，は雨だった。"),
        ("「はい」と言った。", "はいと言った。"),
        ("a — b.", "a, b."),
        ("2010–2015.", "2010-2015."),
        ("foo (“bar”), baz.", "foo, bar, baz."),
        ("Wait… what?!", "Wait. what?!"),
        ("(note)", "note."),
        ("Er sagte: „Nein!“", "Er sagte: Nein!"),
        ("Es waren –5 Grad.", "Es waren -5 Grad."),
        ("Great job (👍)!", "Great job!"),
        ("Great job (👍)", "Great job."),
        ("So (♥) much", "So much."),
        ("Hello! (😀) How are you?", "Hello! How are you?"),
        ("昨日は、（雨）だった。", "昨日は、雨，だった。"),
        ("foo - - bar.", "foo, bar."),
    ],
)
def test_quotes_brackets_and_dashes_become_what_they_sound_like(shown: str, spoken: str) -> None:
    assert spoken_text(shown) == spoken
    assert spoken_text(spoken) == spoken, "what was made plain is plain"
