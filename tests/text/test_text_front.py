"""The text side of a preset: what it is built of, and the memory for sentences."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from modules.checkpoint import file_hash
from modules.config import TextConfig
from modules.errors import UserError
from modules.text import building
from modules.text.building import load_text, random_text, text_identity
from modules.text.encoder import BgeM3
from modules.text.front import SentenceCache, TextFrontEnd
from modules.text.tokenizer import TextTokenizer
from tests.text.published_text import TEXTS, write_bge_m3, write_qwen2_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_bge_m3(models / "bge-m3")
    write_qwen2_tokenizer(models / "qwen2-0.5b" / "tokenizer.json")
    (models / "nano").mkdir()
    TextTokenizer.train(TEXTS, 300).save(models / "nano" / "tokenizer.json")
    return models


@pytest.fixture(scope="module")
def vocab(models: Path) -> int:
    return json.loads((models / "bge-m3" / "config.json").read_text())["vocab_size"]


@pytest.fixture
def front(models: Path, vocab: int) -> TextFrontEnd:
    return load_text(TextConfig("xlm-r", vocab, 0, "features", 32), models / "base", models)


class Counting:
    """An encoder that counts the texts that it is given."""

    dim = 4

    def __init__(self) -> None:
        self.texts = 0

    def states(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        self.texts += len(ids)
        return [np.full((len(text), 4), sum(text), np.float32) for text in ids]


class Letters:
    """Ids that are code points."""

    size = 1000

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_our_own_tokenizer_has_ids_alone(models: Path) -> None:
    front = load_text(TextConfig(), models / "nano", models)
    own = TextTokenizer.load(models / "nano" / "tokenizer.json")
    assert front.encode(TEXTS[0]) == own.encode(TEXTS[0]) and front.size == own.size
    assert not front.has_features and front.features([TEXTS[0]]) is None and front.feature_dim == 0
    # What stores were extracted with before there was a choice of tokenizers still counts.
    assert front.identity == file_hash(models / "nano" / "tokenizer.json")


def test_the_published_encoder_gives_a_state_for_each_id(front: TextFrontEnd, vocab: int) -> None:
    texts = ["the brown fox", "", "我们 <s> 😀", "the brown fox"]
    features = front.features(texts)
    assert front.has_features and front.size == vocab and front.feature_dim == 32
    assert [states.shape for states in features] == [(len(front.encode(text)), 32) for text in texts]
    assert np.array_equal(features[0], features[3]) and front.encode("") == []


def test_what_is_remembered_is_what_was_computed(front: TextFrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    first = front.features(TEXTS[:3])
    fresh = [front.encoder.states([front.encode(text)])[0] for text in TEXTS[:3]]
    monkeypatch.setattr(BgeM3, "states", lambda self, ids: pytest.fail("computed again"))
    again = front.features(TEXTS[:3])
    first[0][:] = 0  # what a caller does with his copy is his own affair
    for a, b, c in zip(again, fresh, front.features(TEXTS[:3]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.array_equal(a, c)


def test_a_text_is_encoded_once_and_what_was_used_last_stays() -> None:
    encoder = Counting()
    front = TextFrontEnd(Letters(), 1000, encoder, str, cache_bytes=4 * 4 * 10)  # ten letters
    front.features(["abcd", "abcd", "efgh"])
    front.features(["abcd"])
    assert encoder.texts == 2
    front.features(["ijkl"])  # twelve letters: "efgh" was used longest ago
    front.features(["abcd", "ijkl"])
    assert encoder.texts == 3
    front.features(["efgh"])
    assert encoder.texts == 4
    front.features(["x" * 11])
    front.features(["x" * 11])
    assert encoder.texts == 6, "what is larger than the memory is not kept"


def test_the_memory_keeps_its_bound_among_threads() -> None:
    cache = SentenceCache(100 * 16)
    values = {str(n): np.full(4, n, np.float32) for n in range(400)}

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 400, 2000):
            kept = cache.get(str(number))
            assert kept is None or kept[0] == number
            cache.put(str(number), values[str(number)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == 16 * len(cache) <= 1600


def test_published_ids_without_features_need_no_encoder(models: Path, vocab: int, tmp_path: Path) -> None:
    (tmp_path / "bge-m3").mkdir()
    (tmp_path / "bge-m3" / "tokenizer.json").write_bytes((models / "bge-m3" / "tokenizer.json").read_bytes())
    front = load_text(TextConfig("xlm-r", vocab), tmp_path / "base", tmp_path)
    assert front.encode(TEXTS[0]) and not front.has_features
    with pytest.raises(UserError, match="bge-m3") as caught:
        load_text(TextConfig("xlm-r", vocab, 0, "both", 32), tmp_path / "base", tmp_path)
    assert caught.value.code == "text_encoder_missing"
    with pytest.raises(UserError, match=r"tools.download qwen2-0.5b") as caught:
        load_text(TextConfig("qwen2", 400), tmp_path / "base", tmp_path)
    assert caught.value.code == "text_encoder_missing"


def test_the_tables_of_qwen2_are_padded_and_those_of_xlmr_are_not(models: Path, vocab: int) -> None:
    front = load_text(TextConfig("qwen2", 400), models / "base", models)
    assert front.size == 400 > front.tokenizer.size
    for config in (TextConfig("qwen2", 280), TextConfig("xlm-r", vocab + 1), TextConfig("xlm-r", vocab - 1)):
        with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
            load_text(config, models / "base", models)
        assert caught.value.code == "text_vocab_differs"


def test_features_that_do_not_fit_are_refused(models: Path, vocab: int) -> None:
    with pytest.raises(UserError, match="feature_dim") as caught:
        load_text(TextConfig("xlm-r", vocab, 0, "features", 64), models / "base", models)
    assert caught.value.code == "text_encoder_differs"
    for tokenizer in ("bpe", "qwen2"):
        with pytest.raises(UserError, match="xlm-r") as caught:
            load_text(TextConfig(tokenizer, 400, 0, "features", 32), models / "nano", models)
        assert caught.value.code == "text_features_need_xlmr"


def test_what_makes_the_features_is_told_without_loading_them(models: Path, vocab: int, tmp_path: Path) -> None:
    config = TextConfig("xlm-r", vocab, 0, "features", 32)
    known = {text_identity(config, models / "base", models, precision) for precision in ("float32", "bf16", "int8")}
    known |= {text_identity(TextConfig("xlm-r", vocab), models / "base", models)}
    known |= {text_identity(TextConfig(), models / "nano", models)}
    assert len(known) == 5 and "" not in known
    assert load_text(config, models / "base", models, precision="int8").identity in known
    assert text_identity(config, tmp_path, tmp_path) == ""


def test_random_weights_take_the_ids_of_another_tokenizer(
    models: Path, monkeypatch: pytest.MonkeyPatch, front: TextFrontEnd
) -> None:
    own = TextTokenizer.load(models / "nano" / "tokenizer.json")
    small = BgeM3.load(models / "bge-m3").model.config
    small.vocab_size = 1000
    monkeypatch.setattr("modules.text.encoder.full_size", lambda: small)
    random = random_text(TextConfig("xlm-r", 250002, 0, "features", 1024), own)
    assert random.size == 250002 and random.encode("fox") == own.encode("fox")
    (states,) = random.features(["the brown fox"])
    assert states.shape == (len(own.encode("the brown fox")), 32) and 0 < states.std() < 10
    assert not random_text(TextConfig("qwen2", 151936), own).has_features
    assert building.random_text(TextConfig(), own).size == own.size
