"""BGE-M3 as it was published: the last hidden states of XLM-R, one for each unit of the text.

A folder holds config.json, tokenizer.json and model.safetensors, the published weights converted by tools.download.

Shapes: U text units, D width (1024).
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modules.errors import UserError

if TYPE_CHECKING:
    from transformers import XLMRobertaConfig, XLMRobertaModel

Precision = Literal["float32", "bf16", "int8"]
CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE = "config.json", "model.safetensors", "pytorch_model.bin"
NOT_READ = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
"""Tensors of a published file that per-token states do not need."""
BATCH_IDS = 4096
"""Most padded ids of a batch."""
WINDOW_OVERLAP = 1024


class BgeM3:
    """Ids to states in context. Threads may share it.

    Args:
        model: an XLMRobertaModel.
        device: where it runs.
        precision: "float32"; "bf16" halves the memory, and the time where the machine computes in it; "int8", on a CPU
            alone, has the weights of the linear layers as bytes (torch's dynamic quantisation).

    Raises:
        UserError: text_int8_needs_cpu.
    """

    def __init__(self, model: "XLMRobertaModel", device: torch.device | str = "cpu", precision: Precision = "float32"):
        self.device, self.precision = torch.device(device), precision
        if precision == "int8" and self.device.type != "cpu":
            raise UserError(
                "text_int8_needs_cpu",
                "The text encoder runs in int8 on a CPU only, not on {device}; choose float32 or bf16.",
                device=self.device,
            )
        config = model.config
        self.dim = config.hidden_size
        self.pad_id, self.start_id, self.end_id = config.pad_token_id, config.bos_token_id, config.eos_token_id
        # Positions begin after the padding's; two of them are the ends'.
        self.max_ids = config.max_position_embeddings - self.pad_id - 1 - 2
        self.model = _at_precision(model.eval().requires_grad_(False), precision).to(self.device)

    @staticmethod
    def files(folder: Path) -> tuple[Path, Path]:
        """What a folder must hold for `load`."""
        return Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", precision: Precision = "float32") -> "BgeM3":
        """Read a published folder, whatever number format its weights have.

        Raises:
            UserError: text_encoder_missing, text_encoder_pickle when there is only a pickle, text_encoder_unreadable,
                text_int8_needs_cpu.
        """
        _check_files(Path(folder))
        config_path, weights_path = cls.files(folder)
        try:
            from transformers import XLMRobertaConfig

            model = _empty_model(XLMRobertaConfig.from_json_file(str(config_path)))
            _read_weights(model, weights_path)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as cause:
            raise UserError(
                "text_encoder_unreadable",
                "{folder} does not hold the text encoder BGE-M3, or is damaged ({cause}); download it again with: "
                "python -m tools.download bge-m3",
                folder=str(folder),
                cause=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
            ) from cause
        return cls(model, device, precision)

    @classmethod
    def random(cls, device: torch.device | str = "cpu", precision: Precision = "float32") -> "BgeM3":
        """Full size and random weights, made quickly: the normal values of one block are repeated."""
        model = _empty_model(full_size())
        block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * model.config.initializer_range
        with torch.no_grad():
            for module in model.modules():
                for own, tensor in list(module.named_parameters(recurse=False)):
                    if isinstance(module, nn.LayerNorm) or own == "bias":
                        value = torch.full(tensor.shape, float(isinstance(module, nn.LayerNorm) and own == "weight"))
                    else:
                        repeats = -(-tensor.numel() // len(block))
                        value = block.repeat(repeats)[: tensor.numel()].view(tensor.shape)
                    _assign(module, own, value)
        return cls(model, device, precision)

    @torch.inference_mode()
    def states(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32 [U, D] of each text's ids, without the two ends that the encoder reads them between.

        More ids than the encoder has positions go through it in overlapping windows, and each state comes from the
        window in whose middle it lies.
        """
        found = [np.zeros((len(text), self.dim), np.float32) for text in ids]
        pieces = [(number, *window) for number, text in enumerate(ids) for window in self._windows(len(text))]
        for batch in self._batches(pieces):
            hidden = self._run([list(ids[number][start:end]) for number, start, end, _, _ in batch])
            for row, (number, start, _, first, last) in enumerate(batch):
                # One for the start token before the window.
                states = hidden[row, 1 + first - start : 1 + last - start]
                found[number][first:last] = states.float().cpu().numpy()
        return found

    def _run(self, texts: Sequence[list[int]]) -> Tensor:
        """Last hidden states [B, 2 + longest, D] of ids put between the ends, and padded."""
        longest = max(len(text) for text in texts) + 2
        rows = [[self.start_id, *text, self.end_id] for text in texts]
        padded = torch.tensor([[*row, *[self.pad_id] * (longest - len(row))] for row in rows], device=self.device)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        # Told outright: an id of a text might be the padding's, from which the model would count its positions.
        positions = (self.pad_id + real.cumsum(1) * real).long()
        return self.model(input_ids=padded, attention_mask=real, position_ids=positions).last_hidden_state

    def _windows(self, count: int) -> Iterator[tuple[int, int, int, int]]:
        """Start and end of each window over `count` ids, and the part of it whose states are taken."""
        if not count:
            return
        overlap = min(WINDOW_OVERLAP, self.max_ids // 2)
        start, first = 0, 0
        while start + self.max_ids < count:
            end = start + self.max_ids
            last = end - overlap // 2
            yield start, end, first, last
            start, first = end - overlap, last
        # The last one is a full window too, if there are so many ids: as much context as there is.
        yield max(0, count - self.max_ids), count, first, count

    def _batches(self, pieces: list[tuple[int, int, int, int, int]]) -> Iterator[list[tuple[int, int, int, int, int]]]:
        """Windows of like length together."""
        batch: list[tuple[int, int, int, int, int]] = []
        for piece in sorted(pieces, key=lambda piece: piece[2] - piece[1]):
            longest = piece[2] - piece[1] + 2
            # Bytes have one scale for a whole batch: alone, a text gives the same whatever it is asked with.
            if batch and (self.precision == "int8" or (len(batch) + 1) * longest > BATCH_IDS):
                yield batch
                batch = []
            batch.append(piece)
        if batch:
            yield batch


def full_size() -> "XLMRobertaConfig":
    """The published sizes of BGE-M3."""
    from transformers import XLMRobertaConfig

    return XLMRobertaConfig(
        vocab_size=250002,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=8194,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )


def full_size_encoder() -> "XLMRobertaModel":
    """BGE-M3 without memory for its weights: for counting them."""
    return _empty_model(full_size())


def _empty_model(config: "XLMRobertaConfig") -> "XLMRobertaModel":
    """The module without memory for its weights, which take the time of a build twice over."""
    from transformers import XLMRobertaModel

    config.is_decoder = False
    with torch.device("meta"):
        model = XLMRobertaModel(config, add_pooling_layer=False)
    shape = model.embeddings.position_ids.shape
    model.embeddings.position_ids = torch.arange(shape[-1]).expand(shape)
    model.embeddings.token_type_ids = torch.zeros(shape, dtype=torch.long)
    return model


def _read_weights(model: nn.Module, path: Path) -> None:
    """Fill the empty model; raises ValueError for tensors that are missing, of another shape, or of another model."""
    wanted = dict(model.named_parameters())
    with safe_open(path, framework="pt", device="cpu") as file:
        names = set(file.keys())
        unknown = {name for name in names - set(wanted) if not name.startswith(NOT_READ)}
        if unknown or set(wanted) - names:
            told = sorted(set(wanted) - names) or sorted(unknown)
            raise ValueError(f"{WEIGHTS_FILE} {'has no' if set(wanted) - names else 'should not have'} {told[0]}")
        for name, empty in wanted.items():
            # Copied: a tensor that maps the file would crash when the file is replaced.
            value = file.get_tensor(name).to(torch.float32, copy=True)
            if value.shape != empty.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, config.json says {tuple(empty.shape)}")
            owner, _, own = name.rpartition(".")
            _assign(model.get_submodule(owner), own, value)


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=False))


def _at_precision(model: "XLMRobertaModel", precision: Precision) -> nn.Module:
    if precision == "bf16":
        return model.to(torch.bfloat16)
    if precision == "int8":
        with warnings.catch_warnings():
            # Its successor is slower than float32 on a CPU (torchao 0.17), so the deprecated one is used as long as
            # torch has it.
            warnings.simplefilter("ignore")
            # A scale for each output: trained layers have a few far larger than the rest.
            spec = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
            return torch.ao.quantization.quantize_dynamic(model, spec, inplace=True)
    return model


def _check_files(folder: Path) -> None:
    missing = [path for path in BgeM3.files(folder) if not path.is_file()]
    if not missing:
        return
    if missing == [folder / WEIGHTS_FILE] and (folder / PICKLE_FILE).is_file():
        raise UserError(
            "text_encoder_pickle",
            "{file} is a pickle, which could run any code when it is opened, so it is not read. "
            "python -m tools.download bge-m3 checks and converts it.",
            file=str(folder / PICKLE_FILE),
        )
    raise UserError(
        "text_encoder_missing",
        "{entry} is not there: {file} is missing. Download it with: python -m tools.download {entry}",
        entry=folder.name,
        file=str(missing[0]),
    )
