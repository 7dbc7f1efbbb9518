"""The language model as a stage of the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.checkpoint import Lineage
from modules.gpt.dataset import Row
from modules.gpt.decode import DecodeOptions, Decoder, Prompt, frame_limits
from modules.gpt.lora import has_lora, merged, save_adapter
from modules.gpt.losses import Scored, score, stream_names
from modules.gpt.model import SpeechGPT, save_gpt
from modules.gpt.sequence import Part, Sequences
from modules.training.muon import Muon
from modules.training.optimizers import JointOptimizer
from modules.training.stage import Samples

METRIC_TARGETS = 512
WEIGHTS_NAME = "gpt.safetensors"
ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class StageOptions:
    """How the language model is trained.

    Args:
        learning_rate: of AdamW and, by the scaling of `Muon`, of the matrices too.
        weight_decay: on matrices and tables.
        label_smoothing: of the content stream.
        stream_weight: weight in the summed loss of every stream of the tokens but the content.
        sampled_targets: validation rows that are also spoken freely, for the EOS rate and the length ratio.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    stream_weight: float = 0.3
    sampled_targets: int = 12


@dataclass
class Validation:
    """Held-out batches (only targets predicted), the rows behind them and the names of their groups."""

    batches: list[Sequences] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    group_name: Callable[[int], str] = str


class GPTStage:
    """Next-frame prediction over references and target; see `modules.training.stage.Stage`.

    A model with LoRA adapters (`modules.gpt.lora.add_lora`) trains these alone; its weights are saved merged, and the
    adapters beside them.

    Args:
        preset, parent: of the lineage: the preset's name, and the hash of the weights that training started from.
        published: gives, from step and epoch, a further path for the saved weights.
        publish_each: put them there at every save, and not only when the run ends.
        samples: makes held-out lines heard: gets the model and a folder.
    """

    def __init__(
        self,
        model: SpeechGPT,
        options: StageOptions,
        validation: Validation,
        preset: str,
        parent: str = "",
        published: Callable[[int, int], Path] | None = None,
        publish_each: bool = True,
        samples: Callable[[SpeechGPT, Path], Samples] | None = None,
    ):
        self.model, self.options, self.validation = model, options, validation
        self.preset, self.parent, self.published, self.publish_each = preset, parent, published, publish_each
        self.samples = samples
        self.modules: dict[str, nn.Module] = {"gpt": model}
        self.optimizers = {"gpt": build_optimizer(model, options)}
        self.names = stream_names(model.pattern)
        self.weights = dict.fromkeys(set(self.names) - {"phones", "content", "advance"}, options.stream_weight)

    def phases(self, step: int) -> tuple[str, ...]:
        """One phase."""
        return ("gpt",)

    def losses(self, phase: str, batch: Sequences) -> dict[str, Tensor]:
        """Mean cross-entropy of each stream over all predicted frames; EOS is a class of stream 0.

        That of the content is also told apart: rows of one utterance alone, and pairs of prompts and target.
        """
        streams = self._score(batch, self.options.label_smoothing)
        losses = {name: stream.mean() for name, stream in zip(self.names, streams, strict=True)}
        with torch.no_grad():
            content = streams[self.model.pattern.content]
            hits, counted = content.hits(METRIC_TARGETS)  # metrics over every class are not free on a CPU
            losses["_accuracy"] = hits[counted].float().mean()
            losses["_eos"] = streams[0].losses[streams[0].targets == self.model.end_code].mean()
            prompted = (batch.groups % 2 == 1).repeat(batch.group_size)
            for name, rows in (("_content_alone", ~prompted), ("_content_pair", prompted)):
                rows = rows & content.valid
                if rows.any():
                    losses[name] = content.losses[rows].mean()
        return losses

    def validate(self) -> dict[str, float]:
        """Losses of the held-out targets, over all, by alone/pair and by language; then free speaking."""
        device = self.model.specials.device
        sums: dict[str, list[float]] = {}
        for batch in self.validation.batches:
            batch = batch.to(device)
            self._measure(batch, sums)
        measures = {name: total / count for name, (total, count) in sums.items() if count}
        return measures | self._speak()

    def make_samples(self, folder: Path) -> Samples:
        """Held-out lines, spoken."""
        if self.samples is None:
            return Samples()
        model = merged(self.model) if has_lora(self.model) else self.model
        return self.samples(model.eval(), folder)

    def save_weights(self, folder: Path, step: int, epoch: int, *, last: bool = True) -> list[Path]:
        """Write `gpt.safetensors`, stored as float16, and where there are adapters their folder `adapter`."""
        lineage = Lineage(self.preset, "gpt", step, epoch, self.parent)
        adapted = has_lora(self.model)
        model = merged(self.model) if adapted else self.model
        paths = [Path(folder) / WEIGHTS_NAME]
        if self.published is not None and (last or self.publish_each):
            paths.append(self.published(step, epoch))
        files = [save_gpt(path, model, lineage, torch.float16) for path in paths]
        return files + (save_adapter(Path(folder) / ADAPTER_FOLDER, self.model) if adapted else [])

    def _score(self, batch: Sequences, smoothing: float = 0.0) -> list[Scored]:
        return score(self.model(batch), batch.targets, self.model.pattern, smoothing)

    def _measure(self, batch: Sequences, sums: dict[str, list[float]]) -> None:
        streams = dict(zip(self.names, self._score(batch), strict=True))
        content, prosody, first = streams["content"], streams.get("prosody"), streams[self.names[0]]
        for name, stream in streams.items():
            _add(sums, name, stream.losses, stream.valid)
            hits, counted = stream.hits()
            _add(sums, "accuracy" if name == "content" else f"{name}_accuracy", hits.float(), counted)
            if batch.group_size > 1:
                _add_places(sums, f"{name}_place", stream.losses, stream.valid, batch.group_size)
                _add_places(sums, f"{name}_accuracy_place", hits.float(), counted, batch.group_size)
        _add(sums, "eos", first.losses, first.targets == self.model.end_code)
        for group in batch.groups.unique().tolist():
            language, kind = self.validation.group_name(group).rsplit("_", 1)
            here = (batch.groups == group).repeat(batch.group_size)
            _add(sums, f"content_{kind}", content.losses, here & content.valid)
            _add(sums, f"content_{language}_{kind}", content.losses, here & content.valid)
            if first is not content:
                _add(sums, f"phones_{language}_{kind}", first.losses, here & first.valid)
            if prosody is not None:
                _add(sums, f"prosody_{kind}", prosody.losses, here & prosody.valid)

    def _speak(self) -> dict[str, float]:
        """Share of targets whose speech ends by itself, and mean length relative to the true one."""
        rows = _spread(self.validation.rows, self.options.sampled_targets)
        if not rows:
            return {}
        decoder, ends, ratios = Decoder(self.model), 0, 0.0
        pace = self.model.statistics.get("frames_per_unit", 4.0)
        for seed, row in enumerate(rows):
            target = row.parts[-1]
            part = Part(target.text_ids, target.codes[:0], target.text_features)
            most = frame_limits(len(target.text_ids), pace)[1]
            options = DecodeOptions(max_frames=most, seed=seed)
            generated = decoder.generate(Prompt((*row.parts[:-1], part)), options=options)
            ends += generated.stopped_by == "eos"
            ratios += len(generated.codes) / len(target.codes)
        return {"eos_rate": ends / len(rows), "length_ratio": ratios / len(rows)}


def build_optimizer(model: SpeechGPT, options: StageOptions) -> JointOptimizer:
    """Muon on the backbone's projections, AdamW on the rest, adapters too; norms and biases are not decayed."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if is_hidden_matrix(name, p)]
    tables = [p for name, p in named if not is_hidden_matrix(name, p) and p.ndim > 1]
    plain = [p for _, p in named if p.ndim <= 1]
    rate, decay = options.learning_rate, options.weight_decay
    adamw = torch.optim.AdamW(
        [g for g in ({"params": tables, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}) if g["params"]],
        lr=rate,
        betas=(0.9, 0.95),
    )
    return JointOptimizer([Muon(matrices, lr=rate, weight_decay=decay), adamw] if matrices else [adamw])


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Muon is for the backbone's projections; tables, heads, norms and biases stay with AdamW."""
    return name.startswith("backbone.") and parameter.ndim == 2 and ".lora_" not in name


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows evenly spaced over the list, so that every language and kind has its turn."""
    if not rows or count <= 0:
        return []
    return [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]


def _add(sums: dict[str, list[float]], name: str, values: Tensor, where: Tensor) -> None:
    entry = sums.setdefault(name, [0.0, 0.0])
    entry[0] += float(values[where].sum())
    entry[1] += float(where.sum())


def _add_places(sums: dict[str, list[float]], name: str, values: Tensor, where: Tensor, places: int) -> None:
    """The same for each frame of a group apart, counted from 1."""
    for place, (part, counted) in enumerate(zip(values.chunk(places), where.chunk(places), strict=True), 1):
        _add(sums, f"{name}{place}", part, counted)
