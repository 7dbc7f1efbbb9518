"""A fresh language model out of a preset, whichever form its tokens have."""

from modules.config import Preset
from modules.gpt.model import SpeechGPT
from modules.speech.grouped import frame_vector_dim, stream_sizes


def build_gpt_of_preset(preset: Preset, streams: int = 0, *, share_tables: bool = False) -> SpeechGPT:
    """A language model with fresh weights; for tokens of form "grouped" it still lacks its vectors.

    Args:
        streams: code streams in use, from the first; 0 = all of the preset.
        share_tables: see `SpeechGPT`.
    """
    tokenizer = preset.tokenizer
    grouped = tokenizer.form == "grouped"
    sizes = stream_sizes(tokenizer)
    return SpeechGPT(
        preset.gpt,
        preset.text,
        sizes[: streams or len(sizes)],
        preset.text.vocab_size,
        fsq_levels=None if grouped or tokenizer.quantizer != "fsq" else tokenizer.levels,
        vector_dim=frame_vector_dim(tokenizer) if grouped else None,
        share_tables=share_tables,
    )
