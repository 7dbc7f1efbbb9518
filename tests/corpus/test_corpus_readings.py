"""What voices are given to read: kana for kanji, nothing for emoji."""

import pytest

pytest.importorskip("fugashi")
pytest.importorskip("unidic_lite")
pytest.importorskip("pypinyin")

from modules.corpus.kana import counted_kana, kana_reading, number_kana
from modules.corpus.readings import read, voice_name, without_emoji


@pytest.mark.parametrize(
    ("text", "kana"),
    [
        ("私は東京へ行きました。", "ワタシワ トーキョーエ イキマシタ."),
        ("お母さんは新聞を読む？", "オカーサンワ シンブンオ ヨム?"),
        ("これは、何ですか？", "コレワ, ナンデスカ?"),
        ("今日は12月25日です！", "キョーワ ジューニガツ ニジューゴニチデス!"),
        ("CDを3本買う。", "シーディーオ サンボン カウ."),
        ("ラーメン", "ラーメン"),
        ("やぁ、ファイルだ。", "ヤア, ファイルダ."),
        ("𠮷", ""),
    ],
)
def test_japanese_is_read_in_kana(text: str, kana: str) -> None:
    assert kana_reading(text) == kana


@pytest.mark.parametrize(
    ("digits", "kana"),
    [("0", "ゼロ"), ("10", "ジュー"), ("300", "サンビャク"), ("1999", "センキューヒャクキュージューキュー"),
     ("10000", "イチマン"), ("38600", "サンマンハッセンロッピャク"), ("007", "ゼロゼロナナ"),
     ("10000000", "イッセンマン")],
)  # fmt: skip
def test_numbers_are_read_in_japanese(digits: str, kana: str) -> None:
    assert number_kana(digits) == kana


@pytest.mark.parametrize(
    ("digits", "counter", "kana"),
    [("1", "人", "ヒトリ"), ("14", "人", "ジューヨニン"), ("4", "時", "ヨジ"), ("10", "分", "ジュップン"),
     ("21", "分", "ニジューイップン"), ("20", "日", "ハツカ"), ("3", "枚", "サンマイ"), ("100", "回", "ヒャクカイ"),
     ("8", "冊", "ハッサツ")],
)  # fmt: skip
def test_counters_change_their_sound(digits: str, counter: str, kana: str) -> None:
    assert counted_kana(digits, counter) == kana


def test_emoji_are_silent() -> None:
    assert without_emoji("Thank you 😊 very much! ❤️") == "Thank you very much!"
    assert without_emoji("🇩🇪 Guten Tag 👍🏽") == "Guten Tag"
    assert without_emoji("3 # 4 * 5") == "3 # 4 * 5"
    assert read("你好👍", "zh") == read("你好", "zh")


def test_every_language_gets_the_form_that_its_voice_reads() -> None:
    assert read("你好", "zh").tones == ((1, 2), (5, 3)) and read("你好", "zh").voice == "cmn-latn-pinyin"
    assert read("猫", "ja").text == "ネコ"
    assert read("Olá", "pt").voice == "pt-br" and read("Hi", "tw").voice == ""
    assert voice_name("ja") == "ja" and voice_name("sv-SE") == "sv"
