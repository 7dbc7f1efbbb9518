"""In how many bits a language model's weights are read while it speaks; what they mean is told in `gpt/engines.py`."""

from typing import Literal

Precision = Literal["auto", "float32", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bf16", "int8", "int4")
