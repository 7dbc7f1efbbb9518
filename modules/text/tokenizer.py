"""Byte-level BPE over any script: no phonemes, no language tag.

Text is NFC-normalised, digits stay single, and user text can never produce a special token: specials are
added by id, outside the text. Id 0 is padding.
"""

from collections.abc import Iterable
from pathlib import Path

from modules.errors import UserError

PAD = "<pad>"


def whole_characters(text: str) -> str:
    """The text with halves of surrogate pairs, which the library refuses, joined or replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


# Letters of all scripts but the Latin one. They take two bytes or more: left alone, merges would join half of one with
# the space or the letter before it.
LONE_LETTERS = r"[^\p{Latin}\p{N}\p{P}\p{Z}\p{S}\p{M}\p{C}]"


class TextTokenizer:
    """Text to ids and back. Make one with `train` or `load`."""

    def __init__(self, inner: object):
        self._inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, max_token_length: int = 0) -> "TextTokenizer":
        """Learn merges from texts; a letter of another script than the Latin one is never joined with anything else.

        Args:
            vocab_size: size of the vocabulary, the 256 bytes and the padding included.
            max_token_length: longest merge in bytes, 0 for no limit. A short limit keeps the units near to sounds,
                so that a small model learns spelling instead of words; 3 still holds a hanzi in one unit.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        inner = Tokenizer(models.BPE(unk_token=None))
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.Split(Regex(LONE_LETTERS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        # The library counts its limit from one above.
        limit = max_token_length + 1 if max_token_length else None
        # Padding is a slot of the trainer's, and then taken out of the added tokens, so that no text maps to it.
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            max_token_length=limit,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        """Read `tokenizer.json`. Raises UserError when the file is missing or not a tokenizer."""
        from tokenizers import Tokenizer

        try:
            return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except Exception as cause:  # the library raises bare Exception for malformed files
            raise UserError(
                "tokenizer_unreadable",
                "{file} is not a readable text tokenizer; restore it or train one again.",
                file=str(path),
            ) from cause

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` in one step."""
        path = Path(path)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self._inner.to_str(), encoding="utf-8")
        temporary.replace(path)

    @property
    def size(self) -> int:
        """Number of ids, padding included."""
        return self._inner.get_vocab_size() + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text, all between 1 and `size - 1`."""
        return [i + 1 for i in self._inner.encode(whole_characters(text), add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding is dropped."""
        return self._inner.decode([i - 1 for i in ids if i > 0], skip_special_tokens=False)
