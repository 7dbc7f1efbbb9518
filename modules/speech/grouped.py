"""Speech tokens of form "grouped": self-supervised features and a grouped residual VQ, learned with the decoder.

A frozen encoder (HuBERT and its kin) gives features at 50 Hz; pairs of them become one vector at the token rate,
and vector-quantize-pytorch's GroupedResidualVQ codes each part of the vector by codebooks of its own. Codebooks move
towards the vectors that they code (exponential averages); the projection before them learns from the decoder's losses
and from the commitment loss. Once a language model has learned the codes, nothing here may move any more: `freeze`.

Pitch: what such features say of f0 depends on the encoder and its layer, and one code in 1024 keeps little of it,
while the decoder's source needs a contour. So pitch travels as it does in form "s3", in a prosody stream of its own
(`prosody.py`). A frame's streams are (codebook 0, prosody, codebook 1, ...): content and prosody stand where they
stand in form "s3". Codebooks count quantizer by quantizer: the first of every group, then the second of every group.

Shapes: B batch, F feature frames, T token frames, C codebooks, K streams, G groups, Q quantizers a group, D vector.
"""

import hashlib
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.checkpoint import load_weights
from modules.config import SpeechTokenizerConfig, from_dict, to_dict
from modules.errors import ConfigError, UserError
from modules.speech.dead_codes import revive
from modules.speech.prosody import F0_FRAME_RATE_HZ, encode_prosody

PROSODY_STREAM = 1
PREFIX = "quantizer."
"""Of this module's tensors in a decoder's weights, whose config holds the tokenizer's under "tokenizer"."""


class GroupedQuantizer(nn.Module):
    """Features to vectors out of codebooks, and codes back to those vectors. All of it runs in float32.

    Build it after `torch.distributed` was initialised: whether codebooks are kept equal over processes is settled here.
    Until the first training batch, whose vectors seed the codebooks (k-means), it is not `ready` and codes nothing.

    Raises:
        ConfigError: config_not_multiple, when the rates or the groups do not divide.
    """

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__()
        # The library costs a second to import, and only building a quantiser needs it.
        from vector_quantize_pytorch import GroupedResidualFSQ, GroupedResidualVQ

        sizes = config.grouped
        _check_multiple("tokenizer.grouped.feature_rate", sizes.feature_rate, config.frame_rate)
        _check_multiple("tokenizer.grouped.vector_dim", sizes.vector_dim, sizes.groups)
        self.config = config
        self.frame_rate = float(config.frame_rate)
        self.stride = sizes.feature_rate // config.frame_rate
        self.vector_dim = sizes.vector_dim
        self.scalar = sizes.method == "fsq"
        self.codebook_sizes = codebook_sizes(config)
        self.frozen = False
        self.together = torch.distributed.is_available() and torch.distributed.is_initialized()
        # A few channels of such encoders are tens of times larger than the rest; frames differ in size as well.
        self.norm = nn.LayerNorm(sizes.feature_dim, elementwise_affine=False)
        self.project = nn.Linear(self.stride * sizes.feature_dim, sizes.vector_dim)
        self._start_as_mean(sizes.feature_dim)
        shape = {"dim": sizes.vector_dim, "groups": sizes.groups, "num_quantizers": sizes.quantizers}
        if self.scalar:
            self.inner = GroupedResidualFSQ(**shape, levels=list(sizes.levels))
            self._spread_over_levels()
            return
        self.inner = GroupedResidualVQ(
            **shape,
            codebook_size=sizes.codebook_size,
            decay=sizes.decay,
            kmeans_init=True,
            threshold_ema_dead_code=0,  # see modules/speech/dead_codes.py
            commitment_weight=1.0,
            # Left to itself the library asks once and remembers, for the whole process.
            sync_codebook=self.together,
        )

    @property
    def ready(self) -> bool:
        """Whether the codebooks hold anything yet; those of an FSQ always do."""
        return all(bool(flag) for name, flag in self.inner.named_buffers() if name.endswith("initted"))

    def codebooks(self) -> Tensor:
        """All learned codebooks, [C, codes, D / G], in the order of the codes; an FSQ has learned none, [0, 0, 0]."""
        if self.scalar:
            return self.project.weight.new_zeros(0, 0, 0)
        return self.inner.codebooks.transpose(0, 1).flatten(0, 1)

    def randomise_(self) -> "GroupedQuantizer":
        """Codebooks of random vectors, for measuring speed without a training."""
        with torch.no_grad():
            for name, buffer in self.inner.named_buffers():
                if name.endswith("initted"):
                    buffer.fill_(True)
                elif name.endswith("embed"):
                    buffer.normal_()
        return self

    def freeze(self) -> "GroupedQuantizer":
        """From now on neither a gradient nor an average moves anything, in train mode too."""
        self.frozen = True
        self.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "GroupedQuantizer":
        """As of any module; a frozen quantiser stays as in use."""
        super().train(mode)
        self.inner.train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise.

        Args:
            x: [B, F, feature_dim] features; F is at least the stride times T.
            mask: [B, T] bool, True where a token is real.

        Returns:
            vectors [B, T, D] (with a gradient to the projection while training), ids [B, T, C] int64 and the
            commitment loss, the mean over codebooks. Vectors and ids are 0 where masked.
        """
        with torch.autocast(x.device.type, enabled=False):
            if self.training and not self.frozen:
                return self._learn(x, mask)
            hidden = self._hidden(x)[:, : mask.shape[1]]
            ids = self._search(hidden) * mask.unsqueeze(-1)
            return self.vectors(ids) * mask.unsqueeze(-1), ids, hidden.new_zeros(())

    @torch.no_grad()
    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features to ids; changes nothing, in train mode either.

        Args:
            x: [B, F, feature_dim]; lengths: [B] feature frames, None for full rows.

        Returns:
            ids [B, T, C] int64, T = F // stride; 0 beyond a row's length.
        """
        with torch.autocast(x.device.type, enabled=False):
            ids = self._search(self._hidden(x))
        return ids if lengths is None else ids * self._real(ids, lengths).unsqueeze(-1)

    def codes(self, x: Tensor, f0: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features and pitch to the codes of all streams, as a language model learns them.

        Args:
            x, lengths: see `encode`; f0: [B, N] Hz at 100 Hz of the whole clips, 0 where unvoiced and in padding.

        Returns:
            [B, T, K] int64.
        """
        ids, levels = self.encode(x, lengths), self.config.prosody_levels
        if not levels:
            return ids
        points = F0_FRAME_RATE_HZ // self.config.frame_rate
        f0 = nn.functional.pad(f0, (0, max(0, ids.shape[1] * points - f0.shape[1])))
        prosody = encode_prosody(f0, levels, points)[:, : ids.shape[1]]
        return frame_codes(ids, prosody if lengths is None else prosody * self._real(ids, lengths))

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes [.., C] -> vectors [.., D], exactly those of `forward` in use. Any leading shape."""
        if self.scalar:
            return self._scalar_vectors(codes)
        tables = self.codebooks()
        picked = tables[torch.arange(len(tables), device=codes.device), codes]
        # [.., Q, G, D / G]: what the quantizers of a group say adds up, the groups stand side by side.
        return picked.unflatten(-2, (self.config.grouped.quantizers, -1)).sum(-3).flatten(-2)

    def _scalar_vectors(self, codes: Tensor) -> Tensor:
        """`vectors` of an FSQ: every quantizer of a group adds its grid, finer each time, before one projection."""
        codes = codes.unflatten(-1, (self.config.grouped.quantizers, -1))
        parts = []
        for group, part in enumerate(self.inner.rvqs):
            picked = part.codebooks[torch.arange(codes.shape[-2], device=codes.device), codes[..., group]]
            parts.append(part.project_out((picked * part.scales).sum(-2)))
        return torch.cat(parts, -1)

    def _learn(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` of a training step. A frame that is not a number would stay in the averages for ever, and in every
        weight: it counts as masked, and as silence on its way there."""
        tokens = mask.shape[1]
        finite = x[:, : tokens * self.stride].isfinite().all(-1).unflatten(1, (tokens, self.stride)).all(-1)
        hidden = self._hidden(x.nan_to_num(0.0, 0.0, 0.0))[:, :tokens]
        if self.scalar:
            (vectors, ids), loss = self.inner(hidden), hidden.new_zeros(())
        else:
            sound = mask & finite
            vectors, ids, loss = self.inner(hidden.where(sound.unsqueeze(-1), 0.0), mask=sound)
            revive(self.inner, hidden, ids, sound, self.config.grouped.dead_below, together=self.together)
        ids = _by_quantizer(ids).clamp_min(0) * mask.unsqueeze(-1)
        return vectors * mask.unsqueeze(-1), ids, loss.mean()

    def _real(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Where ids [B, T, C] of rows of that many feature frames are real: [B, T] bool."""
        return torch.arange(ids.shape[1], device=ids.device) < (lengths // self.stride)[:, None]

    def _hidden(self, x: Tensor) -> Tensor:
        """Features [B, F, feature_dim] -> vectors to be coded [B, F // stride, D]."""
        tokens = x.shape[1] // self.stride
        return self.project(self.norm(x[:, : tokens * self.stride].float()).unflatten(1, (tokens, -1)).flatten(2))

    def _search(self, hidden: Tensor) -> Tensor:
        """Ids [B, T, C] of the nearest codes. Raises UserError quantizer_untrained when there are none."""
        if not self.ready:
            raise UserError(
                "quantizer_untrained",
                "The speech tokens of this decoder have not been learned yet; train the decoder first.",
            )
        if not self.scalar:
            return _by_quantizer(self.inner(hidden, freeze_codebook=True)[1])
        # Part by part: in train mode the library's group draws a random number, and nothing here may change.
        parts = zip(self.inner.rvqs, hidden.chunk(self.inner.groups, -1), strict=True)
        return _by_quantizer(torch.stack([part(piece)[1] for part, piece in parts]))

    def _start_as_mean(self, feature_dim: int) -> None:
        """The projection starts as the mean of a token's features, cut down by chance where D is smaller."""
        with torch.no_grad():
            if self.vector_dim == feature_dim:
                one = torch.eye(feature_dim)
            else:
                one = torch.randn(self.vector_dim, feature_dim) * feature_dim**-0.5
            self.project.weight.copy_(one.repeat(1, self.stride) / self.stride)
            self.project.bias.zero_()

    def _spread_over_levels(self) -> None:
        """Vectors enter an FSQ at their own size: torch's usual start would leave its outer levels unused for long."""
        with torch.no_grad():
            for part in self.inner.rvqs:
                if isinstance(part.project_in, nn.Linear):
                    part.project_in.weight.mul_(math.sqrt(3.0))


class FrameVectors:
    """What a language model with `vector_dim` reads of a frame: its vector, and which prosody code it has.

    The prosody code enters as a one-hot, which the model's first layer turns into a learned table. Hand an instance to
    `SpeechGPT.set_vectors` and its `dim` to the model as `vector_dim`.

    Args:
        quantizer: ready and frozen, on the model's device.
    """

    def __init__(self, quantizer: GroupedQuantizer):
        self.quantizer, self.levels = quantizer, quantizer.config.prosody_levels
        self.dim = frame_vector_dim(quantizer.config)

    def __call__(self, codes: Tensor) -> Tensor:
        """codes [.., K] -> [.., dim]."""
        vectors = self.quantizer.vectors(content_codes(codes, self.levels))
        if not self.levels:
            return vectors
        prosody = nn.functional.one_hot(codes[..., PROSODY_STREAM], self.levels)
        return torch.cat((vectors, prosody.to(vectors.dtype)), -1)


def frame_vector_dim(config: SpeechTokenizerConfig) -> int:
    """Width of what `FrameVectors` gives."""
    return config.grouped.vector_dim + config.prosody_levels


def codebook_sizes(config: SpeechTokenizerConfig) -> tuple[int, ...]:
    """Codes of each codebook of a config's grouped quantiser."""
    sizes = config.grouped
    size = math.prod(sizes.levels) if sizes.method == "fsq" else sizes.codebook_size
    return (size,) * (sizes.groups * sizes.quantizers)


def stream_sizes(config: SpeechTokenizerConfig) -> tuple[int, ...]:
    """Classes of each code stream of a config's tokens, of either form."""
    if config.form == "grouped":
        books = codebook_sizes(config)
    else:
        books = (math.prod(config.levels) if config.quantizer == "fsq" else config.codebook_size,)
    return (*books[:1], config.prosody_levels, *books[1:]) if config.prosody_levels else books


def frame_codes(ids: Tensor, prosody: Tensor | None) -> Tensor:
    """Codes of all streams [.., K] out of ids [.., C] and prosody codes [..] (None: there is no such stream)."""
    return ids if prosody is None else torch.cat((ids[..., :1], prosody.unsqueeze(-1), ids[..., 1:]), -1)


def content_codes(codes: Tensor, prosody_levels: int) -> Tensor:
    """Codes of all streams [.., K] -> ids of the codebooks alone [.., C]."""
    if not prosody_levels:
        return codes
    return torch.cat((codes[..., :PROSODY_STREAM], codes[..., PROSODY_STREAM + 1 :]), -1)


def perplexity(ids: Tensor, mask: Tensor, codes: int) -> Tensor:
    """How many codes are in use, as if all equally: exp of the entropy, the mean over codebooks.

    Args:
        ids: [B, T, C]; mask: [B, T] bool; codes: size of a codebook.
    """
    found = ids[mask]
    counts = torch.zeros(found.shape[1], codes, device=ids.device)
    counts.scatter_add_(1, found.t(), torch.ones_like(found.t(), dtype=counts.dtype))
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    return torch.special.entr(shares).sum(1).exp().mean()


def load_quantizer(path: Path) -> GroupedQuantizer:
    """The quantiser out of a decoder's weights, frozen and in eval mode.

    Raises:
        UserError: weights_missing, weights_unreadable, or quantizer_missing when the decoder reads other tokens.
    """
    weights = load_weights(path)
    described = weights.config.get("tokenizer")
    if not described:
        raise UserError(
            "quantizer_missing",
            "{file} holds no grouped quantiser; choose decoder weights trained with tokenizer.form = grouped.",
            file=str(path),
        )
    quantizer = GroupedQuantizer(from_dict(SpeechTokenizerConfig, described, "tokenizer"))
    own = {name.removeprefix(PREFIX): t for name, t in weights.state.items() if name.startswith(PREFIX)}
    try:
        quantizer.load_state_dict(own)
    except RuntimeError as cause:
        raise UserError(
            "weights_unreadable",
            "{file} is not a weight file of this program or is damaged ({cause}); choose another.",
            file=str(path),
            cause=str(cause).splitlines()[-1].strip(),
        ) from cause
    return quantizer.freeze().eval()


def quantizer_hash(quantizer: GroupedQuantizer) -> str:
    """What decides the codes of features, as one word: whether a language model's codes are a decoder's.

    It covers the sizes, the projection and the codebooks, and nothing that only training reads (averages, counters).
    Numbers count to the precision of float16, so weights that were stored in half precision keep their word.
    """
    config = quantizer.config
    told = to_dict(config.grouped) | {"frame_rate": config.frame_rate, "prosody_levels": config.prosody_levels}
    for name in ("decay", "dead_below", "codebook_size" if quantizer.scalar else "levels"):
        del told[name]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(quantizer.state_dict().items()):
        if not name.startswith("inner.") or name.rpartition(".")[2] in ("embed", "weight", "bias"):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _by_quantizer(ids: Tensor) -> Tensor:
    """The library's [G, B, T, Q] -> [B, T, C], the first quantizer of every group first."""
    return ids.permute(1, 2, 3, 0).flatten(2).long()


def _check_multiple(key: str, value: int, of: int) -> None:
    if value % of:
        raise ConfigError(
            "config_not_multiple", "{key} is {value}; it must be a multiple of {of}.", key=key, value=value, of=of
        )
