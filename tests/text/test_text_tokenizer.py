"""Laws of the byte-level BPE."""

import unicodedata

import pytest

from modules.errors import UserError
from modules.text.tokenizer import TextTokenizer

CORPUS = ["The quick brown fox. ", "Der schnelle Fuchs!", "你好世界，今天天气很好。", "¿Qué tal? 1984"] * 5
UNSEEN = ["ÑandÚ é", "ελληνικά", "日本語😀\n\tمرحبا", "x<pad>y</s><|eos|>", "", " leading", "𝔘𝔫𝔦"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(CORPUS, 330)


@pytest.mark.parametrize("text", CORPUS[:4] + UNSEEN)
def test_any_text_round_trips_up_to_nfc(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_composed_and_decomposed_text_give_the_same_ids(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("é") == tokenizer.encode("e\u0301")


def test_digits_stay_single(tokenizer: TextTokenizer) -> None:
    trained_on_numbers = TextTokenizer.train(["1984 1984 1984"] * 50, 300)
    assert len(trained_on_numbers.encode("1984")) == 4


def test_user_text_never_gives_padding(tokenizer: TextTokenizer) -> None:
    for text in ("<pad>", "[PAD]", "</s>", "\x00"):
        ids = tokenizer.encode(text)
        assert ids and min(ids) >= 1 and max(ids) < tokenizer.size


@pytest.mark.parametrize("longest", (2, 3))
def test_no_unit_is_longer_than_the_limit_and_some_reach_it(longest: int) -> None:
    tokenizer = TextTokenizer.train(CORPUS * 20, 400, longest)
    units = {len(tokenizer.decode([i]).encode()) for text in CORPUS[::2] for i in tokenizer.encode("the " + text)}
    latin = {len(tokenizer.decode([i])) for i in tokenizer.encode(CORPUS[0])}
    assert max(latin) == longest
    assert longest < 3 or max(units) == 3  # a hanzi is three bytes


def test_saved_and_loaded_tokenizer_is_the_same(tokenizer: TextTokenizer, tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = TextTokenizer.load(path)
    assert again.size == tokenizer.size
    assert all(again.encode(t) == tokenizer.encode(t) for t in CORPUS + UNSEEN)


def test_training_is_reproducible() -> None:
    a, b = (TextTokenizer.train(CORPUS, 330) for _ in range(2))
    assert a.encode("The brown Fuchs 你好") == b.encode("The brown Fuchs 你好")


def test_a_broken_file_is_named(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        TextTokenizer.load(path)
