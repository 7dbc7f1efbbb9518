"""Tiny text models in the formats that were published: BGE-M3's folder and Qwen2's tokenizer, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "Der schnelle Fuchs springt über den faulen Hund!",
    "¿Qué tal? Hello world, 1984.",
    "我们今天去公园散步，天气很好。",
    "a < b > c / d | e _ mask start end of text pad unk s im tool call",
] * 4
QWEN2_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


def write_xlmr_tokenizer(path: Path, size: int = 300) -> int:
    """A unigram tokenizer with the special tokens of XLM-R at their ids, <mask> last; returns the number of ids.

    What there is to learn makes some 80 pieces; the rest are rare ones.
    """
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    ends = ["<s>", "<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=size - 1, special_tokens=ends, unk_token="<unk>", show_progress=False),
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    inner.enable_truncation(8192)
    values = json.loads(inner.to_str())
    pieces, mask = values["model"]["vocab"], size - 1
    pieces += [[f"rare{number}", -30.0] for number in range(len(pieces), mask)]
    pieces.append(["<mask>", 0.0])
    values["added_tokens"].append(_added(mask, "<mask>", lstrip=True))
    _write(path, values)
    return size


def write_qwen2_tokenizer(path: Path, vocab_size: int = 320) -> int:
    """A byte-level BPE with the special tokens of Qwen2 after its vocabulary, and one that is added but not special."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in QWEN2_SPECIALS])
    inner.add_tokens([AddedToken("<tool_call>", normalized=True)])
    _write(path, json.loads(inner.to_str()))
    return inner.get_vocab_size()


def write_bge_m3(
    folder: Path, dim: int = 32, positions: int = 66, dtype: torch.dtype = torch.float32, seed: int = 0
) -> int:
    """A folder as it was published, with two layers; returns the number of ids."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    vocab = write_xlmr_tokenizer(folder / "tokenizer.json")
    config = XLMRobertaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * dim,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMRobertaModel(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)  # at 0.02 every state would be its embedding
    model.to(dtype).save_pretrained(folder)
    return vocab


def _added(number: int, content: str, lstrip: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
