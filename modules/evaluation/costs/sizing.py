"""How large a preset is: the numbers that each part of its models holds, counted without keeping one of them."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from modules.config import Preset
from modules.gpt.building import build_gpt_of_preset
from modules.gpt.model import SpeechGPT
from modules.speech.encoder_files import random_encoder
from modules.speech.grouped import GroupedQuantizer
from modules.speech.s3 import SemanticTokenizer
from modules.text.encoder import full_size_encoder
from modules.vits2.building import build_vits2
from modules.vits2.discriminators import Discriminators
from modules.vits2.train import VITS2TrainConfig

MIB = 1 << 20


@dataclass(frozen=True)
class PartSize:
    """One part of a model.

    Args:
        model: "encoders", "gpt", "vits2" or "discriminators".
        part: its name within the model.
        trainable: numbers that training moves, codebooks included.
        frozen: numbers that are used as they are.
    """

    model: str
    part: str
    trainable: int
    frozen: int

    @property
    def count(self) -> int:
        """All numbers."""
        return self.trainable + self.frozen

    def row(self) -> dict[str, Any]:
        """As JSON values, with the size in MiB at 4 and at 2 bytes a number."""
        return asdict(self) | {"float32_mib": 4 * self.count / MIB, "float16_mib": 2 * self.count / MIB}


def part_sizes(preset: Preset, training: VITS2TrainConfig | None = None) -> list[PartSize]:
    """Every part of a preset's models, as pre-training from nothing has them.

    The encoders are those that the preset reads, up to the layer that is read; of a published S3 the size is not told.

    Args:
        training: widths of the discriminators.
    """
    from accelerate import init_empty_weights  # heavy

    training = training or VITS2TrainConfig()
    with init_empty_weights(include_buffers=False):  # shapes alone: base would take gigabytes
        models = [("gpt", _gpt_parts(build_gpt_of_preset(preset)))]
        models.append(("vits2", _vits2_parts(build_vits2(preset, preset.text.vocab_size))))
        judges = Discriminators(training.period_width, training.spectrum_width)
        models.append(("discriminators", {"periods and spectra": [judges]}))
        models.insert(0, ("encoders", _encoder_parts(preset)))
    return [
        PartSize(model, part, *_count(members))
        for model, parts in models
        for part, members in parts.items()
        if any(True for _ in _tensors(members))
    ]


def totals(sizes: Iterable[PartSize]) -> list[PartSize]:
    """One row for each model of several parts, and one for all of them."""
    sizes = list(sizes)
    groups = [(model, list(rows)) for model, rows in itertools.groupby(sizes, key=lambda size: size.model)]
    return [
        PartSize(model, "total", sum(r.trainable for r in rows), sum(r.frozen for r in rows))
        for model, rows in [*groups, ("all", sizes)]
        if len(rows) > 1
    ]


def _encoder_parts(preset: Preset) -> dict[str, list[nn.Module]]:
    parts: dict[str, list[nn.Module]] = {}
    if preset.text.features != "embedding":
        parts["text (bge-m3)"] = [full_size_encoder()]
    if preset.tokenizer.form == "grouped":
        parts[f"speech ({preset.tokenizer.grouped.encoder})"] = [random_encoder(preset.tokenizer.grouped)]
    elif preset.tokenizer.encoder == "own":
        parts["speech (own)"] = [SemanticTokenizer(preset.tokenizer)]
    return {name: [module.requires_grad_(False) for module in modules] for name, modules in parts.items()}


def _gpt_parts(model: SpeechGPT) -> dict[str, list[nn.Module | nn.Parameter]]:
    tables = [model.specials, model.output_end]
    names = ("speech", "from_vector", "chosen", "output", "grouping")
    tables += [getattr(model, name) for name in names if hasattr(model, name)]
    return {"text": [model.text], "backbone": [model.backbone], "tables": tables, "heads": [model.heads]}


def _vits2_parts(model: nn.Module) -> dict[str, list[nn.Module | nn.Parameter]]:
    prior = [part for name, part in model.prior.named_children() if name != "text"]
    return {
        "text": [model.prior.text],
        "quantiser": [model.quantizer] if model.quantizer is not None else [],
        "prior": prior,
        "posterior": [model.posterior],
        "flow": [model.flow],
        "generator": [model.head],
        "style": [model.style_encoder],
    }


def _count(members: Iterable[nn.Module | nn.Parameter]) -> tuple[int, int]:
    trainable = frozen = 0
    for tensor in _tensors(members):
        if tensor.requires_grad:
            trainable += tensor.numel()
        else:
            frozen += tensor.numel()
    # Codebooks learn by averages, not by gradients.
    books = sum(m.codebooks().numel() for m in members if isinstance(m, GroupedQuantizer) and not m.frozen)
    return trainable + books, frozen


def _tensors(members: Iterable[nn.Module | nn.Parameter]) -> Iterator[Tensor]:
    for member in members:
        yield from member.parameters() if isinstance(member, nn.Module) else [member]
