"""A Whisper of random weights that is converted in seconds; it speaks nonsense in 100 languages."""

import json
from pathlib import Path

_LAYERS, _WIDTH, _BANDS = 1, 64, 128
_TIMESTAMPS = 1501


def build_tiny_whisper(folder: Path) -> Path:
    """Make the model, convert it for CTranslate2 (int8) and return its folder, `folder/converted`."""
    import ctranslate2
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from transformers import PreTrainedTokenizerFast

    source, target = folder / "source", folder / "converted"
    tokenizer, empty = _tokenizer(list(_LANGUAGE_CODES))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    fast.save_pretrained(source)
    preprocessor = {"feature_size": _BANDS, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    (source / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    _save_model(source, fast, list(_LANGUAGE_CODES))
    converter = ctranslate2.converters.TransformersConverter(
        str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]
    )
    converter.convert(str(target), quantization="int8", force=True)
    # CTranslate2 takes a vocabulary for multilingual when it has an empty token.
    vocabulary = json.loads((target / "vocabulary.json").read_text(encoding="utf-8"))
    vocabulary[vocabulary.index(empty)] = ""
    (target / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return target


def _tokenizer(languages: list[str]):
    """Bytes and Whisper's special tokens, and the token that stands where the vocabulary gets an empty one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    empty = "<|nothing|>"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate([*letters, empty])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in languages),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    ]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", normalized=False) for i in range(_TIMESTAMPS)])
    return tokenizer, empty


def _save_model(folder: Path, tokenizer, languages: list[str]) -> None:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    ids = tokenizer.convert_tokens_to_ids
    end, begin = ids("<|endoftext|>"), ids("<|startoftranscript|>")
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=_BANDS,
        d_model=_WIDTH,
        encoder_layers=_LAYERS,
        decoder_layers=_LAYERS,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=_WIDTH,
        decoder_ffn_dim=_WIDTH,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=begin,
        suppress_tokens=[],
        begin_suppress_tokens=[end],
    )
    model = WhisperForConditionalGeneration(config)
    generation = model.generation_config
    generation.lang_to_id = {f"<|{language}|>": ids(f"<|{language}|>") for language in languages}
    generation.alignment_heads = [[0, 0]]
    generation.suppress_tokens, generation.begin_suppress_tokens = [], [end]
    generation._from_model_config = False  # otherwise these are lost on saving
    model.save_pretrained(folder)
