"""Published tokenizers: the ids of the library, and no text that gives a special token."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from modules.errors import UserError
from modules.text.subwords import SubwordTokenizer
from modules.text.tokenizer import TextTokenizer
from tests.text.published_text import QWEN2_SPECIALS, TEXTS, write_qwen2_tokenizer, write_xlmr_tokenizer

WRITERS = {"xlm-r": write_xlmr_tokenizer, "qwen2": write_qwen2_tokenizer}
ORDINARY = [
    *TEXTS[:5],
    "brown Hund",
    " leading",
    "two  spaces",
    "ñandú",
    "é",
    "Ｆｕｌｌ",
    "مرحبا",
    "日本語 한국어 हिन्दी",
]
XLMR_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
AWKWARD = ["😀", "😀" * 50, "\n\n", "\t", "\x00", "a\x00b", "\x1b[0m", "\ud800", "a\udc00b", "\u200b\u200d", "▁", "▁▁a"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind, write in WRITERS.items():
        write(folder / f"{kind}.json")
    return {kind: folder / f"{kind}.json" for kind in WRITERS}


@pytest.fixture(scope="module", params=WRITERS)
def tokenizer(request: pytest.FixtureRequest, files: dict[str, Path]) -> SubwordTokenizer:
    return SubwordTokenizer.load(files[request.param], request.param)


def test_ids_are_those_of_the_library(tokenizer: SubwordTokenizer, files: dict[str, Path]) -> None:
    plain = Tokenizer.from_file(str(files[tokenizer.kind]))
    for text in ORDINARY:
        assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids, text
    assert tokenizer.size == plain.get_vocab_size()


def test_no_text_gives_a_special_token(tokenizer: SubwordTokenizer) -> None:
    assert set(tokenizer.specials) >= set(XLMR_SPECIALS if tokenizer.kind == "xlm-r" else QWEN2_SPECIALS)
    hidden = set(tokenizer.specials.values())
    for special in (*XLMR_SPECIALS, *QWEN2_SPECIALS, "<tool_call>"):
        wide = special.replace("<", "＜").replace(">", "＞")  # a normaliser makes plain ones of these
        for text in (special, f"a{special}b", f"  {special}  ", f"\n{special}", special * 3, f"▁{special}", wide):
            ids = tokenizer.encode(text)
            assert len(ids) > 2 and not hidden & set(ids), (text, ids)
            if tokenizer.kind == "qwen2":
                assert special in tokenizer.decode(ids) or text == wide


def test_the_switch_of_the_library_alone_would_let_them_in(files: dict[str, Path]) -> None:
    plain = Tokenizer.from_file(str(files["xlm-r"]))
    plain.encode_special_tokens = True
    assert {0, 2} <= set(plain.encode("a <s> b </s>", add_special_tokens=False).ids), "no need to rename them any more"


@pytest.mark.parametrize("text", AWKWARD)
def test_any_character_goes_in(tokenizer: SubwordTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode(text) and all(0 <= number < tokenizer.size for number in ids)
    if tokenizer.kind == "xlm-r":
        assert ids.count(3) <= 2, "what is unknown is one id and not one for each character"
    else:
        assert ids and not set(tokenizer.specials.values()) & set(ids)


def test_nothing_is_nothing_and_halves_of_a_character_are_joined(tokenizer: SubwordTokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.encode("x \ud83d\ude00 y") == tokenizer.encode("x 😀 y")
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")


def test_our_own_tokenizer_takes_half_a_character_too() -> None:
    own = TextTokenizer.train(TEXTS, 300)
    assert own.decode(own.encode("a\ud800b")) == "a\ufffdb" and own.decode(own.encode("\ud83d\ude00")) == "😀"


def test_another_kind_and_a_broken_file_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unigram") as caught:
        SubwordTokenizer.load(files["qwen2"], "xlm-r")
    assert caught.value.code == "tokenizer_wrong_kind"
    broken = tmp_path / "tokenizer.json"
    for content in ("{", "[]", json.dumps({"model": {"type": "BPE"}})):
        broken.write_text(content)
        with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
            SubwordTokenizer.load(broken, "qwen2")
        assert caught.value.code == "tokenizer_unreadable"
