"""Speaking: from prompts to new frames, step by step.

`Decoder` lays the prompts out once (prefill) and then samples step by step. Several prompts are several
opinions on the next frame: their distributions are mixed by weight, one frame is drawn and all of them go on
from it. That is how references fuse in the language model; `build_prompts` makes the prompts.

Several sentences go through the model together, each as far as it goes: rows that have come to their end drop out. What
comes before the target in a prompt, the voice, is read once and kept.

Shape letters: S sentences, n rows (all prompts of all sentences), T frames, K codebooks, H hidden.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from threading import Lock

import torch
from torch import Tensor, nn

from modules.errors import Stopped, UserError
from modules.gpt.cache import Cache
from modules.gpt.choosing import DecodeOptions, FrameChooser, WholeFrames
from modules.gpt.engines import build_engine, weight_type
from modules.gpt.heads import PackedHeads
from modules.gpt.loops import Quiet
from modules.gpt.model import SpeechGPT
from modules.gpt.prompts import FusionMode, Prompt, PromptReference, build_prompts, frame_limits, without_text
from modules.gpt.reading import WINDOW, Pointer, Reader
from modules.gpt.sequence import Part, arrange, part_length
from modules.gpt.speaking import Speech, StoppedBy, writer_of
from modules.gpt.watching import Watch
from modules.precision import Precision
from modules.runtime import full_threads, threads_within

__all__ = [
    "DecodeOptions",
    "Decoder",
    "FusionMode",
    "Generated",
    "Prompt",
    "PromptReference",
    "Request",
    "StoppedBy",
    "build_prompts",
    "frame_limits",
]

PAUSE_PHONE = "_"
"""Name of the phone that is silence, in a model's list of phones."""
KEPT_VOICES = 8


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


@dataclass(frozen=True)
class Request:
    """A sentence of a batch.

    Args:
        prompts: whose distributions are mixed by weight (weight zero: left out).
        on_frame: called with the number of frames so far and the newest frame [K]; not for frames that do not count.
        on_end: called with what was generated as soon as the sentence ends, while others may go on.
    """

    prompts: Sequence[Prompt]
    options: DecodeOptions = DecodeOptions()
    on_frame: Callable[[int, Tensor], None] | None = None
    on_end: Callable[[Generated], None] | None = None


@dataclass
class _Spoken:
    """A batch while it speaks: cache of the rows, where they stand [n, 1] (None: counted by the engine), the reader."""

    cache: Cache
    place: Tensor | None
    reader: Reader | None
    rows: int
    """Rows of a sentence: its prompts, with guidance twice."""

    def keep(self, sentences: Sequence[int]) -> None:
        """Go on with these sentences alone."""
        rows = [sentence * self.rows + row for sentence in sentences for row in range(self.rows)]
        self.cache = self.cache.keep(rows)
        self.place = None if self.place is None else self.place[rows]
        if self.reader is not None:
            self.reader.keep(sentences)


class Decoder(PackedHeads):
    """Draws frames from a trained model. Weights are copied into fast form once, so build it once and keep it.

    Args:
        model: in eval mode, on its device.
        precision: of the weights that a step reads, see `modules.gpt.engines`.
    """

    def __init__(self, model: SpeechGPT, precision: Precision = "float32"):
        super().__init__(model, weight_type(precision, model.specials.device, model.backbone))
        names = list(model.statistics.get("phones", ()))
        pause = names.index(PAUSE_PHONE) if self.pattern.phones and PAUSE_PHONE in names else None
        self.quiet = Quiet(frozenset(model.statistics.get("quiet_codes", ())), pause)
        self._device = model.specials.device
        self.engine = build_engine(model.backbone, self.weights)
        self._threads = full_threads()
        self._voices: OrderedDict[Hashable, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = Lock()
        self._frames = self._whole_frames() if self.engine.own_threads else None

    def _whole_frames(self) -> WholeFrames | None:
        from modules.gpt.onnx_frame import OnnxFrames  # another runtime, where it is used

        if not OnnxFrames.fits(self.model):
            return None
        spared = torch.zeros(self.pattern.codebook_sizes[self.pattern.content] + 1, dtype=torch.bool)
        spared[[code for code in self.quiet.codes if code < len(spared)]] = True
        return OnnxFrames(self.model, self._tables, self.weights, self.quiet.phone, spared, self.engine.own_threads)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        options: DecodeOptions | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_frame: Callable[[int, Tensor], None] | None = None,
    ) -> Generated:
        """Continue the prompts of one sentence with new frames.

        Args:
            prompts: one, or several whose distributions are mixed by weight (weight zero: left out).
            should_stop: asked at every step.
            on_frame: see `Request`.

        Raises:
            Stopped: should_stop said so.
            UserError: gpt_prompt_too_long when fewer than `min_frames` would fit behind the prompts.
        """
        prompts = [prompts] if isinstance(prompts, Prompt) else prompts
        request = Request(prompts, options or DecodeOptions(), on_frame)
        return self.generate_batch([request], should_stop=should_stop)[0]

    def generate_batch(
        self, requests: Sequence[Request], *, should_stop: Callable[[], bool] | None = None
    ) -> list[Generated]:
        """Continue the prompts of several sentences together; each says what it would say alone.

        That holds for weights whose sums do not depend on the number of rows, not for int4, where the last bits do.

        Args:
            requests: whose options draw alike (see `DecodeOptions.draws_like`).
            should_stop: asked at every step.

        Raises:
            Stopped, UserError: see `generate`.
            ValueError: options that do not draw alike.
        """
        requests = [_used(request) for request in requests]
        if not all(request.options.draws_like(requests[0].options) for request in requests):
            raise ValueError("sentences that are drawn in different ways cannot be one batch")
        done: dict[int, Generated] = {}
        for group in _of_equal_rows(requests):
            with torch.inference_mode(), threads_within(self.engine.threads or self._threads, self._threads):
                for place, generated in self._speak([requests[i] for i in group], should_stop):
                    done[group[place]] = generated
        return [done[i] for i in range(len(requests))]

    def _speak(
        self, requests: list[Request], should_stop: Callable[[], bool] | None
    ) -> Iterator[tuple[int, Generated]]:
        """Each sentence, by its place, as soon as it ends."""
        options = [request.options for request in requests]
        rows = [_rows(request) for request in requests]
        hidden, spoken, limits = self._prefill(rows, options)
        pointers = None if spoken.reader is None else spoken.reader.pointers
        weights = [[prompt.weight for prompt in request.prompts] for request in requests]
        chooser = FrameChooser(self, options, weights, self._device, pointers, max(limits))
        speeches = [
            Speech(
                limit,
                Watch(request.options, self.quiet, self.pattern.phones, pointers[i] if pointers else None),
                request.on_frame,
                self.pattern.tokens,
            )
            for i, (request, limit) in enumerate(zip(requests, limits, strict=True))
        ]
        writer, alive, told = writer_of(chooser, speeches), list(range(len(requests))), set[int]()
        while True:
            if should_stop is not None and should_stop():
                raise Stopped
            step = writer.write(hidden)
            ended = [row for row, place in enumerate(alive) if speeches[place].complete and place not in told]
            told |= {alive[row] for row in ended}
            for place in [alive[row] for row in ended]:
                generated = self._result(speeches[place], pointers[place] if pointers else None)
                if requests[place].on_end is not None:
                    requests[place].on_end(generated)
                yield place, generated
            if all(speeches[place].complete for place in alive):
                return
            if ended and not self.engine.fixed_rows:
                going = [row for row in range(len(alive)) if row not in ended]
                writer.keep(going)
                spoken.keep(going)
                step, alive = step[going], [alive[row] for row in going]
            x = self._embed(step) if chooser.entering is None else chooser.entering
            x = x[:, None] if spoken.rows == 1 else x.repeat_interleave(spoken.rows, 0)[:, None]
            if spoken.reader is None:
                if spoken.place is not None:
                    spoken.place = spoken.place + self.pattern.group_size
                hidden = self.engine(x, spoken.cache, spoken.place)[:, -1]
            else:
                near, there = spoken.reader.step()
                hidden = self.engine(x + near, spoken.cache, there)[:, -1]

    def _prefill(
        self, sentences: Sequence[Sequence[Prompt]], options: Sequence[DecodeOptions]
    ) -> tuple[Tensor, _Spoken, list[int]]:
        """Read the prompts of all rows of all sentences: hidden states at their ends [n, H], the batch, and the frame
        limit of each sentence."""
        rows, per_sentence = [prompt for prompts in sentences for prompt in prompts], len(sentences[0])
        grid = arrange([prompt.parts for prompt in rows], self.pattern).to(self._device)
        lengths = grid.lengths.tolist()
        longest = [max(lengths[at : at + per_sentence]) for at in range(0, len(rows), per_sentence)]
        limits = [self._limit(length, o) for length, o in zip(longest, options, strict=True)]
        x, positions = self.model.embed(grid, self._embed_frames), self.model.positions(grid)
        room = max(length + self.pattern.steps(limit) for length, limit in zip(longest, limits, strict=True))
        if self.engine.fixed_rows:  # rows that have come to their end go on beside the others
            room = max(longest) + self.pattern.steps(max(limits))
        hidden, cache = self._read(rows, x, positions, lengths, room)
        place = None
        if positions is not None:
            place = positions[torch.arange(len(rows), device=self._device), grid.lengths - 1][:, None]
        reader = self._reader(sentences, place) if self.pattern.pointer else None
        return hidden, _Spoken(cache, place, reader, per_sentence), limits

    def _limit(self, length: int, options: DecodeOptions) -> int:
        limit = min(options.max_frames, self.pattern.frames_within(self.engine.capacity - length))
        if limit < max(options.min_frames, 1):
            raise UserError(
                "gpt_prompt_too_long",
                "References and text take {length} positions of the {capacity} that the model has; use shorter "
                "references or fewer of them.",
                length=length,
                capacity=self.engine.capacity,
            )
        return limit

    def _read(
        self, prompts: Sequence[Prompt], x: Tensor, positions: Tensor | None, lengths: Sequence[int], room: int
    ) -> tuple[Tensor, Cache]:
        """Rows [n, L, H] of prompts through the engine: hidden states at their ends [n, H] and their cache. What stands
        before a target is read once for all prompts that begin with it, now and later."""
        cache = self.engine.new_cache(len(prompts), room)
        for row, prompt in enumerate(prompts):
            head = self._head(prompt, x[row], None if positions is None else positions[row])
            if head is not None:
                cache.begin(row, head)
        starts = list(cache.lengths)
        new = [length - start for length, start in zip(lengths, starts, strict=True)]
        columns = torch.tensor(starts)[:, None] + torch.arange(max(new))
        columns = columns.clamp_max(x.shape[1] - 1).to(self._device)
        index = torch.arange(len(prompts), device=self._device)[:, None]
        there = None if positions is None else positions[index, columns]
        hidden = self.engine(x[index, columns], cache, there, new)
        return hidden[index[:, 0], torch.tensor(new, device=self._device) - 1], cache

    def _head(self, prompt: Prompt, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Keys and values of what stands before the target of a row [L, H]; None where nothing does."""
        before = prompt.parts[:-1]
        if not before:
            return None
        key = tuple(_identity(part) for part in before)
        with self._lock:
            if key in self._voices:
                self._voices.move_to_end(key)
                return self._voices[key]
        length = sum(part_length(len(part.text_ids), len(part.codes), self.pattern) for part in before)
        cache = self.engine.new_cache(1, length)
        self.engine(x[None, :length], cache, None if positions is None else positions[None, :length])
        head = cache.head(0, length)
        with self._lock:
            self._voices[key] = head
            while len(self._voices) > KEPT_VOICES:
                self._voices.popitem(last=False)
        return head

    def _reader(self, sentences: Sequence[Sequence[Prompt]], place: Tensor) -> Reader:
        """The pointers over the targets' texts, each the same in all prompts of a sentence that tell it."""
        told = [[len(prompt.parts[-1].text_ids) > 0 for prompt in prompts] for prompts in sentences]
        pointers, nears = [], []
        for prompts, knows in zip(sentences, told, strict=True):
            target = next((p.parts[-1] for p, there in zip(prompts, knows, strict=True) if there), prompts[0].parts[-1])
            ids = torch.as_tensor(target.text_ids, dtype=torch.int64, device=self._device)
            pointers.append(Pointer(self.model.unit_frames[ids].tolist()))
            nears.append(self._near(ids, target.text_features))
        near = nn.utils.rnn.pad_sequence(nears, batch_first=True)
        return Reader(pointers, near, torch.tensor(told, device=self._device), place.view(len(sentences), -1))

    def _near(self, ids: Tensor, features: object) -> Tensor:
        """What enters where each of the units [U] is read, [U, H]; one row of nothing without text."""
        if not len(ids):
            return torch.zeros(1, len(self._frame_kind), device=self._device)
        features = None if features is None else torch.as_tensor(features, device=self._device)
        units = torch.arange(len(ids), device=self._device)
        around = units[:, None] + torch.tensor(WINDOW, device=self._device)
        around = torch.where((around >= 0) & (around < len(ids)), around, -1)
        return self.model.read(self.model.text(ids, features), around)

    def whole_frames(self) -> WholeFrames | None:
        """What draws plain frames at one go; there is one for models whose steps are one graph."""
        return self._frames

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


def _used(request: Request) -> Request:
    """The request without prompts of weight zero."""
    prompts = list(request.prompts)
    if len(prompts) > 1:
        prompts = [prompt for prompt in prompts if prompt.weight > 0]
    return Request(prompts, request.options, request.on_frame, request.on_end)


def _rows(request: Request) -> list[Prompt]:
    """The prompts of a sentence, with guidance those without text behind them."""
    without = map(without_text, request.prompts) if request.options.guidance else ()
    return [*request.prompts, *without]


def _of_equal_rows(requests: Sequence[Request]) -> list[list[int]]:
    """Places of requests that have as many prompts, together."""
    groups: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(len(request.prompts), []).append(place)
    return list(groups.values())


def _identity(part: Part) -> Hashable:
    features = None if part.text_features is None else part.text_features.tobytes()
    return part.text_ids.tobytes(), part.codes.shape, part.codes.tobytes(), part.hidden, features
