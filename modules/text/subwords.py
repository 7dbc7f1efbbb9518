"""The published subword tokenizers that full-size presets read: BGE-M3's (XLM-R, unigram) and Qwen2's (byte-level BPE).

A `tokenizer.json` is taken as it is, but for one thing: what its authors meant as special tokens is put out of a
text's reach. The library can be told not to look for special tokens in a text, but that is not enough: a unigram model
holds `<s>`, `</s>`, `<pad>`, `<unk>` (and XLM-R `<mask>`) as pieces of its vocabulary, with the best score of all, and
finds them in a text as it finds any word. So the pieces are renamed to what no text can contain after the
pre-tokenizer, and the list of added tokens is emptied. Ids stay as they are.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from modules.errors import UserError
from modules.text.tokenizer import whole_characters

Kind = Literal["xlm-r", "qwen2"]
MODELS: Mapping[str, str] = {"xlm-r": "Unigram", "qwen2": "BPE"}
UNREACHABLE = " "
"""Both pre-tokenizers turn every space into a visible mark, so no piece of a text has one inside."""


class SubwordTokenizer:
    """Text to the ids of a published vocabulary; nothing but text is ever coded.

    Args:
        inner: a `tokenizers.Tokenizer` without added tokens.
        kind: whose it is.
        specials: special token -> id, as its file has them.
        size: number of ids, those of special tokens included.
    """

    def __init__(self, inner: object, kind: Kind, specials: Mapping[str, int], size: int):
        self._inner, self.kind, self.specials, self.size = inner, kind, dict(specials), size

    @classmethod
    def load(cls, path: Path, kind: Kind) -> "SubwordTokenizer":
        """Read a `tokenizer.json`.

        Raises:
            UserError: tokenizer_unreadable, or tokenizer_wrong_kind when it is another kind's.
        """
        from tokenizers import Tokenizer

        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            found = values["model"].get("type")
            specials, size = _hide_specials(values)
            inner = Tokenizer.from_str(json.dumps(values, ensure_ascii=False))
        except Exception as cause:  # the library raises bare Exception for malformed files
            raise UserError(
                "tokenizer_unreadable",
                "{file} is not a readable text tokenizer; restore it or train one again.",
                file=str(path),
            ) from cause
        if found != MODELS[kind]:
            raise UserError(
                "tokenizer_wrong_kind",
                "{file} is a tokenizer of type {found}, but {kind} has one of type {expected}; put the published file "
                "there, for instance with tools.download.",
                file=str(path),
                found=found,
                kind=kind,
                expected=MODELS[kind],
            )
        return cls(inner, kind, specials, size)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens; [] of an empty one. Several unknown characters in a row are one id."""
        return self._inner.encode(whole_characters(text), add_special_tokens=False).ids if text else []

    def decode(self, ids: list[int]) -> str:
        """The text of ids, as far as the tokenizer keeps it."""
        return self._inner.decode(list(ids), skip_special_tokens=False)


def _hide_specials(values: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Change the content of a `tokenizer.json` so that no text gives a special token; these, and the number of ids."""
    added = {token["content"]: int(token["id"]) for token in values.get("added_tokens") or ()}
    model = values["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {UNREACHABLE + piece if piece in added else piece: number for piece, number in vocab.items()}
        ids = list(vocab.values())
    else:
        # The unknown character of a unigram model is a piece too, whether or not it was added.
        hidden = {*added.values(), *([] if model.get("unk_id") is None else [int(model["unk_id"])])}
        model["vocab"] = [
            [UNREACHABLE + piece if number in hidden else piece, score] for number, (piece, score) in enumerate(vocab)
        ]
        ids = range(len(vocab))
    values |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return added, max([*ids, *added.values()], default=-1) + 1
