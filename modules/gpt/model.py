"""The language model: Qwen2 over text and speech embeddings.

Text units and speech frames live in one sequence (see `sequence.py`). A frame's embedding is the sum over its
K code streams; all streams of the next frame are predicted from one hidden state, stream k after the streams
before it (their embeddings are added to the hidden state), so a frame costs one step whatever K is. That is the plain
pattern; `patterns.py` has others: streams that do not depend on each other or come one step later each, and several
frames in one step (see `grouping.py`).

When stream 0 is an FSQ code, its table is a free table plus the sum of one small table per FSQ digit, both on
the way in and on the way out: codes that differ in one digit share most of their vector.

With `positions = "aligned"` the one RoPE runs along time and not along the sequence: a part's text units stand where
their sound is expected (the sum of the usual lengths of the units before), its frames at their own time, both from
the same start. A frame then finds its text near distance zero, and reading is learned in a fraction of the steps.

With `phones` a frame has one more stream, before those of its tokens: the phone that is being said. Reading is then
learned from labels that hold nothing else, whatever the noise in the tokens, and a frame's content is chosen for a
phone that is known. References have no phones at run time: a gap enters in their place (see `patterns.py`).

With `reading = "pointer"` the model is told which text unit each frame says, and tells how far to go on (`reading.py`).

A model of code vectors (`vector_dim`) reads a frame as one vector of all its codes. Under a delay the codes of a step
belong to different frames, which have no common vector, so such a model refuses the pattern "delay".

Shape letters: B batch, L positions, M steps, P predictions, K codebooks, G frames of a step, W = G * K places of a
step, H hidden, F features, V classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.checkpoint import Lineage, load_weights, save_weights
from modules.config import GPTConfig, TextConfig, from_dict, to_dict
from modules.errors import ConfigError, UserError
from modules.gpt.backbone import INIT_STD, build_backbone
from modules.gpt.grouping import Grouping
from modules.gpt.patterns import pattern_of
from modules.gpt.reading import WINDOW
from modules.gpt.sequence import BEGIN_SPEECH, BEGIN_TEXT, KINDS, PAD, SPEECH, Sequences
from modules.speech.code_table import CodeLinear, CodeTable

USUAL_UNIT_FRAMES = 4.0


class TextEmbedding(nn.Module):
    """Text units to vectors: a learned table, external features through a linear layer, or both added."""

    def __init__(self, text: TextConfig, text_vocab: int, hidden: int):
        super().__init__()
        self.source = text.features
        if text.features != "features":
            self.table = nn.Parameter(torch.randn(text_vocab, hidden) * INIT_STD)
        if text.features != "embedding":
            self.project = nn.Linear(text.feature_dim, hidden)

    def forward(self, text_ids: Tensor, features: Tensor | None = None) -> Tensor:
        """text_ids [N], features [N, F] or None -> [N, H]."""
        if self.source == "embedding":
            return F.embedding(text_ids, self.table)
        if features is None:
            raise ValueError("this model reads text features, none were given")
        projected = self.project(features)
        return projected if self.source == "features" else projected + F.embedding(text_ids, self.table)


class SpeechGPT(nn.Module):
    """Predicts speech frames from text and from what was said before.

    Args:
        config: backbone sizes.
        text: how text enters (table, features, both).
        codebook_sizes: classes of each stream of the tokens; the first carries content.
        text_vocab: number of text units.
        fsq_levels: levels behind the content when it is an FSQ code, else None.
        vector_dim: width of the tokenizer's own code vectors; then a frame enters through an MLP over its
            vector (see `set_vectors`) and has no learned table.
        share_tables: use the input table of stream 0 as its output matrix too.

    Raises:
        ConfigError: gpt_delay_grouped, gpt_delay_vectors, gpt_phones_chain, gpt_phones_vectors, gpt_pointer_positions.
    """

    def __init__(
        self,
        config: GPTConfig,
        text: TextConfig,
        codebook_sizes: Sequence[int],
        text_vocab: int,
        *,
        fsq_levels: Sequence[int] | None = None,
        vector_dim: int | None = None,
        share_tables: bool = False,
    ):
        super().__init__()
        self.config, self.text_config = config, text
        self.codebook_sizes = tuple(int(n) for n in codebook_sizes)
        self.pattern = pattern_of(config, self.codebook_sizes)
        if vector_dim is not None and self.pattern.lag:
            raise ConfigError(
                "gpt_delay_vectors",
                "gpt.codebooks is delay, which tokens of form grouped do not allow: their frames enter as one vector "
                "of all codes. Set it to chain or parallel.",
            )
        if vector_dim is not None and (self.pattern.phones or self.pattern.pointer):
            raise ConfigError(
                "gpt_phones_vectors",
                "gpt.phones or gpt.reading pointer is set, which tokens of form grouped do not allow: their frames "
                "enter as one vector. Set them to 0 and attention.",
            )
        if self.pattern.pointer and config.positions != "aligned":
            raise ConfigError(
                "gpt_pointer_positions",
                "gpt.reading is pointer, and gpt.positions is {positions}; a pointer stands on the axis of time, so "
                "set gpt.positions to aligned.",
                positions=config.positions,
            )
        self.text_vocab = int(text_vocab)
        self.fsq_levels = tuple(fsq_levels) if fsq_levels else None
        self.vector_dim = vector_dim
        self.share_tables = share_tables and vector_dim is None
        self.statistics: dict[str, Any] = {}
        self._vectors: Callable[[Tensor], Tensor] | None = None
        hidden, sizes = config.hidden, self.pattern.codebook_sizes
        levels = [self.fsq_levels if k == self.pattern.content else None for k in range(len(sizes))]
        self.backbone = build_backbone(config)
        self.specials = nn.Parameter(torch.randn(KINDS, hidden) * INIT_STD)
        self.text = TextEmbedding(text, text_vocab, hidden)
        if vector_dim is None:
            entering = zip(sizes[: self.pattern.tokens.stop], levels, strict=False)
            self.speech = nn.ModuleList(CodeTable(size, hidden, lv) for size, lv in entering)
        else:
            entering = config.group_size * vector_dim
            self.from_vector = nn.Sequential(nn.Linear(entering, hidden), nn.GELU(), nn.Linear(hidden, hidden))
            # What a later stream sees of the earlier ones of its step; none comes after the last of the step.
            chosen = self.codebook_sizes if config.group_size > 1 else self.codebook_sizes[:-1]
            chosen = chosen if self.pattern.chained else ()
            self.chosen = nn.ModuleList(CodeTable(size, hidden) for size in chosen)
        if not self.share_tables:
            self.output = CodeTable(sizes[0], hidden, levels[0])
        self.output_end = nn.Parameter(torch.randn(1, hidden) * INIT_STD)
        if self.pattern.pointer:
            self.window = nn.Linear(len(WINDOW) * hidden, hidden, bias=False)
        if config.positions == "aligned":
            self.register_buffer("unit_frames", torch.full((self.text_vocab,), USUAL_UNIT_FRAMES))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), _output(size, hidden, lv))
            for size, lv in zip(sizes[1:], levels[1:], strict=True)
        )
        if config.group_size > 1:
            self.grouping = Grouping(hidden, config.group_size, self.pattern.chained, joins=vector_dim is None)

    @property
    def end_code(self) -> int:
        """Class of EOS in stream 0."""
        return self.pattern.end_code

    def set_vectors(self, vectors: Callable[[Tensor], Tensor]) -> None:
        """Hand in the tokenizer's `vectors`: codes [.., K] -> [.., vector_dim], sums of what each code says. Only for
        `vector_dim` models, and before a `Decoder` of it is built, which makes tables of them."""
        self._vectors = vectors

    def frame_vectors(self, codes: Tensor) -> Tensor:
        """The vectors of frames: codes [.., K] -> [.., vector_dim]."""
        if self._vectors is None:
            raise ValueError("this model reads code vectors: call set_vectors first")
        return self._vectors(codes)

    def embed_frames(self, codes: Tensor) -> Tensor:
        """codes [M, W] of steps -> their embeddings [M, H]. What is not there (negative) enters as zero."""
        self.pattern.check_width(codes.shape[1])
        if self.vector_dim is None:
            return self._join(self._sum(self.speech, codes.reshape(-1, self.pattern.streams)))
        if not self.pattern.has_gaps:
            return self.from_vector(self.frame_vectors(codes))
        frames = codes.view(len(codes), -1, self.pattern.streams)
        vectors = self.frame_vectors(frames.clamp_min(0)) * (frames[..., :1] >= 0)
        return self.from_vector(vectors.flatten(1))

    def _sum(self, tables: nn.ModuleList, codes: Tensor) -> Tensor:
        """codes [N, >= K] of K tables -> the sum of their vectors [N, H]."""
        if not self.pattern.has_gaps:
            return sum(F.embedding(codes[:, k], table.matrix()) for k, table in enumerate(tables))
        there = (codes >= 0).unsqueeze(-1)
        return sum(F.embedding(codes[:, k].clamp_min(0), t.matrix()) * there[:, k] for k, t in enumerate(tables))

    def _join(self, frames: Tensor) -> Tensor:
        """Embeddings [M * G, H] of the frames of steps -> those of the steps [M, H]."""
        group = self.pattern.group_size
        return frames if group == 1 else self.grouping.join(frames.view(-1, group * frames.shape[1]))

    def embed(self, sequences: Sequences, embed_frames: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Input embeddings [B, L, H]. The kind of every position adds its own vector; padding is zero.

        Args:
            embed_frames: what gives the same as the method of this name, for those who know its tables already.
        """
        if (sequences.group_size, sequences.lag) != (self.pattern.group_size, self.pattern.lag):
            raise ValueError(f"these sequences were arranged for another pattern than {self.pattern}")
        kinds = sequences.kinds
        x = F.embedding(kinds.reshape(-1), self.specials, padding_idx=0) * (kinds.reshape(-1, 1) > 0)
        text = self.text(sequences.text_ids, sequences.text_features)
        x = x.index_add(0, sequences.text_positions, text.to(x.dtype))
        if len(sequences.codes):
            frames = (embed_frames or self.embed_frames)(sequences.codes)
            x = x.index_add(0, sequences.speech_positions, frames.to(x.dtype))
        if self.pattern.pointer and len(text):
            unit, _ = sequences.reading.places(self.unit_frames[sequences.text_ids])
            x = x.index_add(0, sequences.reading.at, self.read(text, sequences.reading.window(unit)).to(x.dtype))
        return F.dropout(x.view(*kinds.shape, -1), self.config.dropout, self.training)

    def read(self, text: Tensor, around: Tensor) -> Tensor:
        """What enters of the text that is read: vectors of text units [N, H] and which of them stand around the pointer
        [R, len(WINDOW)] (-1: none) -> [R, H]."""
        near = F.embedding(around.clamp_min(0), text) * (around >= 0).unsqueeze(-1)
        return self.window(near.flatten(1))

    def positions(self, sequences: Sequences) -> Tensor | None:
        """RoPE positions [B, L] float, in frames; None when they are simply 0, 1, 2, ..."""
        if self.config.positions != "aligned":
            return None
        kinds = sequences.kinds
        step = (kinds != PAD).float().view(-1)
        step = step.index_copy(0, sequences.text_positions, self.unit_frames[sequences.text_ids])
        step = step.view(kinds.shape)
        group = self.pattern.group_size
        if group > 1:
            step = torch.where(kinds == SPEECH, float(group), step)
        before = step.cumsum(1) - step
        begins = (kinds == BEGIN_TEXT) | (kinds == BEGIN_SPEECH)
        places = torch.arange(kinds.shape[1], device=kinds.device).expand_as(kinds)
        # Text and speech of a part both count from the part's start.
        offset = before - before.gather(1, torch.where(begins, places, 0).cummax(1).values)
        if sequences.reading is not None and len(sequences.text_ids):
            offset = self._reading_offsets(sequences, offset)
        part = (kinds == BEGIN_TEXT).cumsum(1)
        spans = offset.new_zeros(kinds.shape[0], int(part.max()) + 1)
        spans = spans.scatter_reduce(1, part, offset + step, "amax")
        if group > 1:
            # A step stands at the last of its frames: what it predicts begins one frame later, as after BOS.
            offset = offset + (group - 1) * (kinds == SPEECH)
        return (spans.cumsum(1) - spans).gather(1, part) + offset

    def _reading_offsets(self, sequences: Sequences, offset: Tensor) -> Tensor:
        """Steps that read stand at their text unit, and go on with it for as long as it usually lasts."""
        unit, inside = sequences.reading.places(self.unit_frames[sequences.text_ids])
        flat = offset.reshape(-1)
        there = flat[sequences.text_positions[unit.clamp_min(0)]] + inside
        at = sequences.reading.at
        return flat.index_copy(0, at, torch.where(unit >= 0, there, flat[at])).view_as(offset)

    def expected_frames(self, text_ids: Sequence[int]) -> float:
        """Frames that a text usually takes by its units; 0 when the model does not know."""
        if self.config.positions == "aligned":
            return float(self.unit_frames[torch.as_tensor(text_ids, dtype=torch.int64)].sum())
        return len(text_ids) * float(self.statistics.get("frames_per_unit", 0.0))

    def hidden(self, sequences: Sequences) -> Tensor:
        """Hidden states [B, L, H]; causal, so right padding reaches nobody."""
        positions = self.positions(sequences)
        order: dict[str, Any] = {}
        if positions is not None:
            # No mask means plain causal; left alone, transformers takes positions that go back for packed sequences.
            order = {"position_ids": positions, "attention_mask": {"full_attention": None}}
        return self.backbone(inputs_embeds=self.embed(sequences), use_cache=False, **order).last_hidden_state

    def forward(self, sequences: Sequences) -> list[Tensor]:
        """Teacher-forced logits at `target_positions`: W tensors [P, V_k], place by place of the step (those of stream
        0 have the EOS class last). What comes after EOS or is IGNORED means nothing."""
        hidden = self.hidden(sequences).flatten(0, 1)[sequences.target_positions]
        group, known = self.pattern.group_size, self._known(sequences.targets)
        states = self._states(hidden, known)
        streams = [self.first_logits(states)]
        streams += [self.stream_logits(k, states, known[:, :k]) for k in range(1, self.pattern.streams)]
        # All frames of the group went through at once, the first of every step first.
        return [logits for place in zip(*(x.chunk(group) for x in streams), strict=True) for logits in place]

    def _known(self, targets: Tensor) -> Tensor:
        """Targets [P, W] as codes that have a vector, [G * P, K], the first frame of every step first. EOS and nothing
        become some code, for nothing is learned after them; but for phones that are not known, which stay a gap."""
        largest = targets.new_tensor(self.pattern.codebook_sizes) - 1
        known = torch.minimum(torch.cat(targets.chunk(self.pattern.group_size, 1)), largest)
        return known if self.pattern.phones else known.clamp_min(0)

    def _states(self, hidden: Tensor, known: Tensor) -> Tensor:
        """Hidden states [P, H] of steps and their codes [G * P, K] -> the states that the frames are predicted from,
        [G * P, H]."""
        group = self.pattern.group_size
        if group == 1:
            return hidden
        earlier = known[: -len(hidden)]
        seen = self._sum(self.chosen_tables(), earlier).chunk(group - 1) if self.pattern.chained else ()
        return torch.cat([self.grouping.place(hidden, place, seen[:place]) for place in range(group)])

    def output_matrix(self) -> Tensor:
        """Output vectors of stream 0, EOS last: [V_0 + 1, H]."""
        table = self.speech[0] if self.share_tables else self.output
        return torch.cat([table.matrix(), self.output_end])

    def first_logits(self, hidden: Tensor) -> Tensor:
        """Logits of stream 0 with EOS as the last class: [P, H] -> [P, V_0 + 1]."""
        return F.linear(hidden, self.output_matrix())

    def chosen_tables(self) -> nn.ModuleList:
        """Tables that tell a later code what the earlier ones of its step are."""
        return self.speech if self.vector_dim is None else self.chosen

    def stream_logits(self, stream: int, hidden: Tensor, chosen: Tensor) -> Tensor:
        """Logits of stream k >= 1: the frame's state [P, H] and its earlier codes [P, k], which count when the codes
        are chained -> [P, V_k]."""
        if not self.pattern.chained:
            return self.heads[stream - 1](hidden)
        return self.heads[stream - 1](hidden + self._sum(self.chosen_tables()[:stream], chosen))

    def description(self) -> dict[str, Any]:
        """Everything needed to build this model again, as plain JSON values."""
        return {
            "gpt": to_dict(self.config),
            "text": to_dict(self.text_config),
            "codebook_sizes": list(self.codebook_sizes),
            "text_vocab": self.text_vocab,
            "fsq_levels": list(self.fsq_levels) if self.fsq_levels else None,
            "vector_dim": self.vector_dim,
            "share_tables": self.share_tables,
            "statistics": self.statistics,
        }


def _output(size: int, hidden: int, levels: Sequence[int] | None) -> nn.Module:
    return CodeLinear(size, hidden, levels) if levels else nn.Linear(hidden, size)


def save_gpt(path: Path, model: SpeechGPT, lineage: Lineage, dtype: torch.dtype | None = None) -> Path:
    """Write weights with the model's description and its lineage; `dtype` casts floating tensors."""
    save_weights(path, model.state_dict(), model.description(), lineage, dtype)
    return Path(path)


def load_gpt(path: Path, device: torch.device | str = "cpu") -> SpeechGPT:
    """Build the model that a weight file describes, float32 and in eval mode.

    Raises:
        UserError: weights_missing or weights_unreadable; gpt_weights_wrong when the file holds something else.
    """
    weights = load_weights(path)
    model = build_gpt(weights.config, str(path))
    _load_state(model, weights.state, str(path))
    return model.to(device).eval()


def load_initial(model: SpeechGPT, path: Path) -> None:
    """Start `model` from a weight file of the same shape. Raises UserError gpt_weights_wrong if it differs."""
    _load_state(model, load_weights(path).state, str(path))


def build_gpt(description: dict[str, Any], name: str = "") -> SpeechGPT:
    """A model with fresh weights from a `description`."""
    try:
        model = SpeechGPT(
            from_dict(GPTConfig, description["gpt"], "gpt"),
            from_dict(TextConfig, description["text"], "text"),
            description["codebook_sizes"],
            description["text_vocab"],
            fsq_levels=description["fsq_levels"],
            vector_dim=description["vector_dim"],
            share_tables=description["share_tables"],
        )
    except KeyError as cause:
        raise _wrong(name, f"no {cause} in its config") from cause
    model.statistics = dict(description.get("statistics") or {})
    return model


def _load_state(model: SpeechGPT, state: dict[str, Tensor], name: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as cause:
        raise _wrong(name, str(cause).splitlines()[-1].strip()) from cause


def _wrong(name: str, cause: str) -> UserError:
    return UserError(
        "gpt_weights_wrong",
        "{file} does not hold the weights of this language model ({cause}); choose a file that train_gpt wrote.",
        file=name,
        cause=cause,
    )
