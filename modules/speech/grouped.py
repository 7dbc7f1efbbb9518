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

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.checkpoint import load_weights
from modules.config import SpeechTokenizerConfig, from_dict
from modules.errors import ConfigError, UserError
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
        from vector_quantize_pytorch import GroupedResidualVQ

        sizes = config.grouped
        _check_multiple("tokenizer.grouped.feature_rate", sizes.feature_rate, config.frame_rate)
        _check_multiple("tokenizer.grouped.vector_dim", sizes.vector_dim, sizes.groups)
        self.config = config
        self.frame_rate = float(config.frame_rate)
        self.stride = sizes.feature_rate // config.frame_rate
        self.vector_dim = sizes.vector_dim
        self.codebook_sizes = (sizes.codebook_size,) * (sizes.groups * sizes.quantizers)
        self.frozen = False
        # A few channels of such encoders are tens of times larger than the rest; frames differ in size as well.
        self.norm = nn.LayerNorm(sizes.feature_dim, elementwise_affine=False)
        self.project = nn.Linear(self.stride * sizes.feature_dim, sizes.vector_dim)
        self._start_as_mean(sizes.feature_dim)
        self.inner = GroupedResidualVQ(
            dim=sizes.vector_dim,
            groups=sizes.groups,
            num_quantizers=sizes.quantizers,
            codebook_size=sizes.codebook_size,
            decay=sizes.decay,
            kmeans_init=True,
            threshold_ema_dead_code=sizes.dead_below,
            commitment_weight=1.0,
            # Left to itself the library asks once and remembers, for the whole process.
            sync_codebook=torch.distributed.is_available() and torch.distributed.is_initialized(),
        )

    @property
    def ready(self) -> bool:
        """Whether the codebooks hold anything yet."""
        return all(bool(flag) for name, flag in self.inner.named_buffers() if name.endswith("initted"))

    def codebooks(self) -> Tensor:
        """All codebooks, [C, codes, D / G], in the order of the codes."""
        return self.inner.codebooks.transpose(0, 1).flatten(0, 1)

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
            hidden = self._hidden(x)[:, : mask.shape[1]]
            if self.training and not self.frozen:
                # A frame that is not a number would stay in the averages for ever.
                sound = mask & hidden.detach().isfinite().all(-1)
                vectors, ids, loss = self.inner(hidden.where(sound.unsqueeze(-1), 0.0), mask=sound)
                return vectors * mask.unsqueeze(-1), _by_quantizer(ids).clamp_min(0), loss.mean()
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
        if lengths is not None:
            real = torch.arange(ids.shape[1], device=ids.device) < (lengths // self.stride)[:, None]
            ids = ids * real.unsqueeze(-1)
        return ids

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
        return frame_codes(ids, encode_prosody(f0, levels, points)[:, : ids.shape[1]])

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes [.., C] -> vectors [.., D], exactly those of `forward` in use. Any leading shape."""
        tables = self.codebooks()
        picked = tables[torch.arange(len(tables), device=codes.device), codes]
        # [.., Q, G, D / G]: what the quantizers of a group say adds up, the groups stand side by side.
        return picked.unflatten(-2, (self.config.grouped.quantizers, -1)).sum(-3).flatten(-2)

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
        return _by_quantizer(self.inner(hidden, freeze_codebook=True)[1])

    def _start_as_mean(self, feature_dim: int) -> None:
        """The projection starts as the mean of a token's features, cut down by chance where D is smaller."""
        with torch.no_grad():
            if self.vector_dim == feature_dim:
                one = torch.eye(feature_dim)
            else:
                one = torch.randn(self.vector_dim, feature_dim) * feature_dim**-0.5
            self.project.weight.copy_(one.repeat(1, self.stride) / self.stride)
            self.project.bias.zero_()


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


def stream_sizes(config: SpeechTokenizerConfig) -> tuple[int, ...]:
    """Classes of each code stream of a config's tokens, of either form."""
    sizes = config.grouped
    if config.form == "grouped":
        books = (sizes.codebook_size,) * (sizes.groups * sizes.quantizers)
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
    quantizer.load_state_dict(own)
    return quantizer.freeze().eval()


def _by_quantizer(ids: Tensor) -> Tensor:
    """The library's [G, B, T, Q] -> [B, T, C], the first quantizer of every group first."""
    return ids.permute(1, 2, 3, 0).flatten(2)


def _check_multiple(key: str, value: int, of: int) -> None:
    if value % of:
        raise ConfigError(
            "config_not_multiple", "{key} is {value}; it must be a multiple of {of}.", key=key, value=value, of=of
        )
