"""Speaking: from prompts to new frames, step by step.

`Decoder` lays the prompts out once (prefill) and then samples step by step. Several prompts are several
opinions on the next frame: their distributions are mixed by weight, one frame is drawn and all of them go on
from it. That is how references fuse in the language model; `build_prompts` makes the prompts.

Shape letters: n prompts, T frames, K codebooks, W places of a step, H hidden, V classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.errors import Stopped, UserError
from modules.gpt.choosing import DecodeOptions, FrameChooser
from modules.gpt.model import CodeLinear, SpeechGPT
from modules.gpt.prompts import FusionMode, Prompt, PromptReference, build_prompts, frame_limits, without_text
from modules.gpt.reading import WINDOW, Pointer
from modules.gpt.sampling import Quiet
from modules.gpt.sequence import SPEECH, arrange
from modules.gpt.speaking import Speech, StoppedBy, writer_of
from modules.gpt.step import Cache, StepEngine
from modules.gpt.watching import Watch

__all__ = [
    "DecodeOptions",
    "Decoder",
    "FusionMode",
    "Generated",
    "Prompt",
    "PromptReference",
    "StoppedBy",
    "build_prompts",
    "frame_limits",
]

PAUSE_PHONE = "_"
"""Name of the phone that is silence, in a model's list of phones."""


@dataclass(frozen=True)
class Generated:
    """New codes int64 [T, K] on the CPU and why they ended; `phones` [T] where the model says them, else None; `quiet`:
    share of the frames that are silence; `finished`: whether the text was read to its end, as far as that is known;
    `reads` [T]: the text unit that each frame says, where the model has a pointer."""

    codes: Tensor
    stopped_by: StoppedBy
    phones: Tensor | None = None
    quiet: float = 0.0
    finished: bool = True
    reads: Tensor | None = None


@dataclass
class Reader:
    """The pointer while frames are drawn, and what the text gives to each step.

    near: [U, H] what enters where each unit is read, None without text; told [n]: rows that know the text.
    """

    pointer: Pointer
    near: Tensor | None
    told: Tensor
    steps: int = 0

    def step(self, begin: Tensor) -> tuple[Tensor, Tensor]:
        """After a frame: what enters besides it, [n, 1, H] (or one zero), and where the rows stand, [n, 1], from where
        they began."""
        self.steps += 1
        told = self.told[:, None]
        if self.near is None:
            return begin.new_zeros(1), begin + self.steps
        near = self.near[self.pointer.unit] * told[..., None]
        return near, begin + torch.where(told, self.pointer.place, float(self.steps))


class Decoder:
    """Draws frames from a trained model. Weights are copied into fast form once, so build it once and keep it.

    Args:
        model: in eval mode, on its device.
    """

    def __init__(self, model: SpeechGPT):
        self.model, self.pattern = model, model.pattern
        names = list(model.statistics.get("phones", ()))
        pause = names.index(PAUSE_PHONE) if self.pattern.phones and PAUSE_PHONE in names else None
        self.quiet = Quiet(frozenset(model.statistics.get("quiet_codes", ())), pause)
        self._engine = StepEngine(model.backbone)
        self._device = model.specials.device
        with torch.inference_mode():
            self._output = model.output_matrix().clone()
            self._frame_kind = model.specials[SPEECH].clone()
            learned = model.vector_dim is None
            self._tables = [table.matrix().clone() for table in model.speech] if learned else None
            chained = model.pattern.chained
            self._chosen = [table.matrix().clone() for table in model.chosen_tables()] if chained else []
            self._heads = [_unfolded(head) for head in model.heads]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        options: DecodeOptions | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_frame: Callable[[int, Tensor], None] | None = None,
    ) -> Generated:
        """Continue the prompts with new frames.

        Args:
            prompts: one, or several whose distributions are mixed by weight (weight zero: left out).
            should_stop: asked at every step.
            on_frame: called with the number of frames so far and the newest frame [K].

        Raises:
            Stopped: should_stop said so.
            UserError: gpt_prompt_too_long when fewer than `min_frames` would fit behind the prompts.
        """
        options = options or DecodeOptions()
        prompts = [prompts] if isinstance(prompts, Prompt) else [p for p in prompts if p.weight > 0]
        generator = torch.Generator()
        generator.manual_seed(options.seed) if options.seed is not None else generator.seed()
        with torch.inference_mode():
            rows = [*prompts, *map(without_text, prompts)] if options.guidance else prompts
            hidden, cache, place, limit = self._prefill(rows, options)
            reader = self._reader(rows) if self.pattern.pointer else None
            chooser = FrameChooser(self, options, [prompt.weight for prompt in prompts], generator, reader)
            pointer = reader.pointer if reader else None
            watch = Watch(options, self.quiet, self.pattern.phones, pointer)
            speech = Speech(limit, watch, on_frame, self.pattern.tokens)
            writer = writer_of(chooser, speech)
            while True:
                if should_stop is not None and should_stop():
                    raise Stopped
                step = writer.write(hidden)
                if step is None:
                    return self._result(speech, pointer)
                x = self._embed(step).expand(len(hidden), 1, -1)
                if reader is None:
                    place = None if place is None else place + self.pattern.group_size
                    hidden = self._engine(x, cache, place)[:, -1]
                else:
                    near, there = reader.step(place)
                    hidden = self._engine(x + near, cache, there)[:, -1]

    def _prefill(self, prompts: list[Prompt], options: DecodeOptions) -> tuple[Tensor, Cache, Tensor | None, int]:
        """Hidden states at the end of the prompts [n, H], their cache, the last RoPE positions [n, 1] (None: counted
        by the engine) and the frame limit."""
        sequences = arrange([prompt.parts for prompt in prompts], self.pattern).to(self._device)
        lengths, width = sequences.lengths, sequences.kinds.shape[1]
        limit = min(options.max_frames, self.pattern.frames_within(self._engine.capacity - width))
        if limit < max(options.min_frames, 1):
            raise UserError(
                "gpt_prompt_too_long",
                "References and text take {length} positions of the {capacity} that the model has; use shorter "
                "references or fewer of them.",
                length=width,
                capacity=self._engine.capacity,
            )
        x, positions = self.model.embed(sequences), self.model.positions(sequences)
        padding = width - lengths
        if len(prompts) > 1:
            # Rows end together: new frames then stand at the same place in every row.
            x = _align_right(x, padding)
            positions = None if positions is None else _align_right(positions, padding)
        cache = self._engine.new_cache(len(prompts), width + self.pattern.steps(limit), padding)
        hidden = self._engine(x, cache, positions)[:, -1]
        return hidden, cache, None if positions is None else positions[:, -1:], limit

    def _reader(self, prompts: Sequence[Prompt]) -> Reader:
        """The pointer over the target's text, which is the same in all prompts that tell it."""
        told = [len(prompt.parts[-1].text_ids) > 0 for prompt in prompts]
        target = next((p.parts[-1] for p, there in zip(prompts, told, strict=True) if there), prompts[0].parts[-1])
        ids = torch.as_tensor(target.text_ids, dtype=torch.int64, device=self._device)
        features = target.text_features
        features = None if features is None else torch.as_tensor(features, device=self._device)
        units = torch.arange(len(ids), device=self._device)
        around = units[:, None] + torch.tensor(WINDOW, device=self._device)
        around = torch.where((around >= 0) & (around < len(ids)), around, -1)
        near = self.model.read(self.model.text(ids, features), around) if len(ids) else None
        pointer = Pointer(self.model.unit_frames[ids].tolist())
        return Reader(pointer, near, torch.tensor(told, device=self._device))

    def _embed(self, step: list[int]) -> Tensor:
        """Input embedding [H] of a step [W]."""
        if self._tables is None:
            return self.model.embed_frames(torch.tensor([step], device=self._device))[0] + self._frame_kind
        streams = self.pattern.streams
        if self.pattern.group_size == 1:
            return self._sum(self._frame_kind, self._tables, step)
        nothing = torch.zeros_like(self._frame_kind)
        frames = [self._sum(nothing, self._tables, step[i : i + streams]) for i in range(0, len(step), streams)]
        return self.model.grouping.join(torch.cat(frames)) + self._frame_kind

    def _sum(self, x: Tensor, tables: list[Tensor], frame: list[int]) -> Tensor:
        """x and the vectors of a frame's codes, [H]."""
        for table, code in zip(tables, frame, strict=False):  # advances have no table
            if code >= 0:
                x = x + table[code]
        return x

    def place(self, hidden: Tensor, frames: Sequence[list[int]]) -> Tensor:
        """A step's hidden states [n, H] to those of its next frame, after the step's `frames` so far."""
        if not frames:
            return hidden
        nothing = torch.zeros_like(self._frame_kind)
        seen = [self._sum(nothing, self._chosen, frame) for frame in frames] if self._chosen else []
        return self.model.grouping.place(hidden, len(frames), seen)

    def first_logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V_0 + 1] on the CPU."""
        return F.linear(hidden, self._output).float().cpu()

    def stream_logits(self, stream: int, hidden: Tensor, frame: list[int]) -> Tensor:
        """Logits of stream k >= 1 after the frame's earlier codes: [n, H] -> [n, V_k] on the CPU."""
        for table, code in zip(self._chosen, frame, strict=False):
            hidden = hidden + table[code]
        turn, matrix, bias = self._heads[stream - 1]
        return F.linear(F.silu(turn(hidden)), matrix, bias).float().cpu()

    def _result(self, speech: Speech, pointer: Pointer | None) -> Generated:
        said, kept = torch.tensor(speech.frames, dtype=torch.int64).reshape(-1, self.pattern.streams), speech.kept()
        frames = said[kept]
        phones = frames[:, 0] if self.pattern.phones else None
        sounds = zip(frames[:, self.pattern.content].tolist(), repeat(None) if phones is None else phones.tolist())
        quiet = sum(self.quiet.holds(*sound) for sound in sounds) / max(len(frames), 1)
        finished = pointer is None or pointer.at_end
        codes = frames[:, self.pattern.tokens]
        # Frames that are left out have moved the pointer too.
        reads = None if pointer is None else (said[:, -1].cumsum(0) - said[:, -1])[kept]
        return Generated(codes, speech.stopped_by or "eos", phones, quiet, finished, reads)


def _unfolded(head: nn.Sequential) -> tuple[nn.Module, Tensor, Tensor | None]:
    """A head's first layer, and its output as one matrix with its bias."""
    turn, _, output = head
    if isinstance(output, CodeLinear):
        return turn, output.table.matrix().clone(), None
    return turn, output.weight, output.bias


def _align_right(rows: Tensor, padding: Tensor) -> Tensor:
    """Move each row's padding [n] from its end to its start."""
    return torch.stack([row.roll(int(shift), 0) for row, shift in zip(rows, padding, strict=True)])
