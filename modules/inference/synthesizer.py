"""From a voice and a text to sound: the place where text, speech tokens, language model and decoder meet.

Shapes: S samples, T frames of speech tokens, K codebooks, U text units.
"""

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.config import Preset
from modules.errors import Stopped
from modules.gpt.decode import DecodeOptions, Generated, Prompt, PromptReference, build_prompts
from modules.gpt.sequence import part_length
from modules.inference import finishing
from modules.inference.options import MAX_SEED, Progress, Segment, SpeakOptions
from modules.inference.parts import Parts, load_parts
from modules.inference.voice import Reference, Voice
from modules.paths import PRETRAINED_MODELS
from modules.runtime import pick_device
from modules.speech.prosody import F0_FRAME_RATE_HZ, median_f0
from modules.text.encoder import Precision
from modules.text.sentences import estimate_seconds, split_text

__all__ = ["Progress", "Segment", "SpeakOptions", "Synthesizer"]

CACHED_REFERENCES = 32
RETRIES = 2
UNVOICED_MEDIAN_HZ = 150.0
"""Pitch of a voice that was only heard whispering."""
PACE_RANGE = (0.6, 1.7)
"""How far a reference may move the expected pace: its own transcript may be wrong."""
LONGEST_SECONDS = 40.0
SHORTEST_SECONDS = 0.12

ProgressCallback = Callable[[Progress], None]
StopCallback = Callable[[], bool]


@dataclass(frozen=True)
class Features:
    """What is computed once for a reference: codes [T, K], style [1, D], median pitch (0 if never voiced), text ids,
    and features [U, F] of the text for models that read them."""

    codes: Tensor
    style: Tensor
    median_hz: float
    text_ids: tuple[int, ...]
    seconds: float
    text: str
    text_features: np.ndarray | None = None


class Synthesizer:
    """Speaks texts in voices. Safe to share between threads: a call keeps its state to itself.

    Args:
        parts: the models, on one device.
    """

    def __init__(self, parts: Parts):
        self.preset: Preset = parts.preset
        self.device = parts.device
        self.sample_rate: int = parts.vits2.audio.sample_rate
        self.used_seed: int | None = None
        self._parts = parts
        self._features: OrderedDict[str, Features] = OrderedDict()
        self._lock = Lock()
        self._hashes: dict[str, str] | None = None

    @classmethod
    def load(
        cls,
        folder: Path | str = PRETRAINED_MODELS / "nano",
        *,
        device: str = "auto",
        gpt: Path | None = None,
        vits2: Path | None = None,
        text_precision: Precision = "float32",
        encoders: Path | None = None,
        preset: Preset | None = None,
    ) -> "Synthesizer":
        """Read a model folder, with one's own language model or decoder if given. For the arguments see `load_parts`.

        Raises:
            UserError: what `load_parts` and `pick_device` raise.
        """
        more = {"encoders": encoders, "text_precision": text_precision, "preset": preset}
        return cls(load_parts(Path(folder), pick_device(device), gpt, vits2, **more))

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the weight files, by part."""
        if self._hashes is None:
            self._hashes = self._parts.hashes()
        return self._hashes

    def speak(
        self,
        voice: Voice,
        text: str,
        options: SpeakOptions = SpeakOptions(),
        *,
        on_progress: ProgressCallback | None = None,
        should_stop: StopCallback | None = None,
    ) -> Iterator[Segment]:
        """Speak a text sentence by sentence; each segment comes as soon as it is done.

        The text is checked before the iterator is handed out. When `should_stop` (asked at every frame) says so,
        the iterator ends after the last finished sentence. A sentence depends on the seed, its index and itself
        alone, not on the sentences before it.

        Raises:
            UserError: text_empty, text_unspeakable; gpt_prompt_too_long.
        """
        sentences = split_text(text, options.cut)
        seed = secrets.randbelow(MAX_SEED) if options.seed is None else int(options.seed)
        self.used_seed = seed
        return self._speak(voice, sentences, options, seed, on_progress, should_stop)

    def render(self, voice: Voice, segments: Sequence[Segment], options: SpeakOptions) -> Iterator[Segment]:
        """Decode the codes of segments again, with another speed or timbre (the frozen way). With the voice and
        options of the original it gives the same samples."""
        style, median_hz = self._timbre(voice, options)
        for segment in segments:
            wav = self._sound(segment.codes, segment.text, style, median_hz, options, segment.seed)
            yield Segment(
                segment.index,
                segment.total,
                segment.text,
                wav,
                len(wav) / self.sample_rate,
                segment.stopped_by,
                segment.codes,
                segment.seed,
            )

    def join(self, segments: Sequence[Segment], pause_seconds: float) -> np.ndarray:
        """One sound float32 [S] of all segments, with pauses between them."""
        return finishing.join([segment.wav for segment in segments], pause_seconds, self.sample_rate)

    def _speak(
        self,
        voice: Voice,
        sentences: list[str],
        options: SpeakOptions,
        seed: int,
        on_progress: ProgressCallback | None,
        should_stop: StopCallback | None,
    ) -> Iterator[Segment]:
        style, median_hz = self._timbre(voice, options)
        total, seconds_done = len(sentences), 0.0
        for index, sentence in enumerate(sentences):

            def on_frame(frames: int, codes: Tensor | None, index: int = index, done: float = seconds_done) -> None:
                if on_progress is not None:
                    on_progress(Progress(index + 1, total, frames, done))

            sentence_seed = (seed + 1_000_003 * index) % MAX_SEED
            try:
                if should_stop is not None and should_stop():
                    return
                on_frame(0, None)
                generated = self._generate(voice, sentence, options, sentence_seed, on_frame, should_stop)
                if should_stop is not None and should_stop():
                    return
            except Stopped:
                return
            wav = self._sound(generated.codes, sentence, style, median_hz, options, sentence_seed)
            seconds = len(wav) / self.sample_rate
            seconds_done += seconds
            yield Segment(index, total, sentence, wav, seconds, generated.stopped_by, generated.codes, sentence_seed)

    def _generate(
        self,
        voice: Voice,
        sentence: str,
        options: SpeakOptions,
        seed: int,
        on_frame: Callable[[int, Tensor], None],
        should_stop: StopCallback | None,
    ) -> Generated:
        """Codes of one sentence. A sentence that did not end by itself is tried again with another seed; the try
        that comes nearest to the expected length is kept."""
        text_ids = self._parts.text.encode(sentence)
        text_features = self._text_features(sentence)
        references = self._prompt_references(voice, options)
        expected = self._expected_frames(sentence, text_ids, references)
        best: Generated | None = None
        best_cost = math.inf
        for attempt in range(RETRIES + 1):
            generated = self._parts.gpt.generate(
                self._prompts(references, text_ids, text_features, expected, self._longest_frames(expected, options)),
                options=self._decode_options(options, expected, (seed + 7_919 * attempt) % MAX_SEED),
                should_stop=should_stop,
                on_frame=on_frame,
            )
            if options.forced_seconds or (generated.stopped_by == "eos" and len(generated.codes)):
                return generated
            cost = abs(math.log((len(generated.codes) + 1) / (expected + 1)))
            if cost < best_cost:
                best, best_cost = generated, cost
        assert best is not None
        return best

    def _prompt_references(self, voice: Voice, options: SpeakOptions) -> list[tuple[Features, float]]:
        """References whose words are known, with weights; they stand in the language model's prompt."""
        used = voice.references if options.fuse_gpt else (voice.heaviest,)
        return [(self._features_of(r), r.weight) for r in used if r.text]

    def _text_features(self, text: str) -> np.ndarray | None:
        """Features [U, F] of a text for models that read them."""
        found = self._parts.text.features([text])
        return found[0] if found is not None else None

    def _prompts(
        self,
        references: list[tuple[Features, float]],
        text_ids: list[int],
        text_features: np.ndarray | None,
        expected: float,
        longest: int,
    ) -> list[Prompt]:
        """Prompts that leave room for a sentence of `longest` frames; the lightest references are left out first."""
        model = self._parts.gpt.model
        pattern = model.pattern
        longest, usual = pattern.steps(longest), pattern.steps(int(1.3 * expected))
        # No position beyond those seen in training, if known; the heaviest reference may go to the model's limit.
        capacity = model.config.max_positions - len(text_ids) - longest - 8
        trained = int(model.statistics.get("max_length", model.config.max_positions))
        room = min(capacity, trained - len(text_ids) - usual)
        kept: list[PromptReference] = []
        for features, weight in sorted(references, key=lambda pair: -pair[1]):
            length = part_length(len(features.text_ids), len(features.codes), pattern)
            if length <= (room if kept else capacity):
                kept.insert(0, PromptReference(features.text_ids, features.codes, weight, features.text_features))
                room, capacity = room - length, capacity - length
        streams = len(self._parts.speech.codebook_sizes)
        return build_prompts(kept, text_ids, streams, text_features=text_features)

    def _expected_frames(self, sentence: str, text_ids: list[int], references: list[tuple[Features, float]]) -> float:
        """Frames that the sentence should take, from its length and the pace of the references."""
        rate = self._parts.speech.frame_rate

        def normal(text: str, ids: Sequence[int]) -> float:
            by_script = estimate_seconds(text) * rate
            by_units = self._parts.gpt.model.expected_frames(ids)
            # Units mislead where the tokenizer falls back to bytes, scripts where nothing was spelled out.
            return math.sqrt(by_script * by_units) if by_units else by_script

        expected = max(normal(sentence, text_ids), 0.2 * rate)
        if references:
            spoken = sum(weight * len(f.codes) for f, weight in references)
            usual = sum(weight * normal(f.text, f.text_ids) for f, weight in references)
            expected *= min(max(spoken / max(usual, 1.0), PACE_RANGE[0]), PACE_RANGE[1])
        return expected

    def _decode_options(self, options: SpeakOptions, expected: float, seed: int) -> DecodeOptions:
        rate = self._parts.speech.frame_rate
        forced = self._longest_frames(expected, options) if options.forced_seconds else 0
        return DecodeOptions(
            top_k=options.top_k,
            top_p=options.top_p,
            temperature=options.temperature,
            repetition_penalty=options.repetition_penalty,
            guidance=options.guidance,
            min_frames=forced or max(round(SHORTEST_SECONDS * rate), int(expected / 3)),
            max_frames=self._longest_frames(expected, options),
            guard=not forced,
            seed=seed,
        )

    def _longest_frames(self, expected: float, options: SpeakOptions) -> int:
        """Most frames that a sentence may take."""
        rate = self._parts.speech.frame_rate
        if options.forced_seconds:
            return max(1, round(options.forced_seconds * rate))
        return round(min(2.5 * expected + rate, LONGEST_SECONDS * rate))

    @torch.inference_mode()
    def _sound(
        self, codes: Tensor, text: str, style: Tensor, median_hz: float, options: SpeakOptions, seed: int
    ) -> np.ndarray:
        """Codes [T, K] to a finished sound float32 [S]."""
        if not len(codes):
            return np.zeros(round(SHORTEST_SECONDS * self.sample_rate), np.float32)
        text_ids = torch.tensor([self._parts.text.encode(text)], device=self.device)
        features = self._text_features(text)
        wav = self._parts.vits2.infer(
            codes.unsqueeze(0).to(self.device),
            text_ids,
            style,
            median_hz,
            noise_scale=options.noise_scale,
            speed=options.speed,
            generator=torch.Generator().manual_seed(seed),
            text_features=None if features is None else torch.from_numpy(features)[None].to(self.device),
        )
        return finishing.finish(wav.cpu().numpy(), self.sample_rate)

    @torch.inference_mode()
    def _timbre(self, voice: Voice, options: SpeakOptions) -> tuple[Tensor, float]:
        """Weighted style [1, D] and weighted geometric mean of the references' median pitches, Hz."""
        used = voice.references if options.fuse_decoder else voice.alone().references
        features = [(self._features_of(r), r.weight) for r in used]
        style = torch.stack([weight * f.style for f, weight in features]).sum(0)
        voiced = [(math.log(f.median_hz), weight) for f, weight in features if f.median_hz > 0]
        if not voiced:
            return style, UNVOICED_MEDIAN_HZ
        return style, math.exp(sum(value * weight for value, weight in voiced) / sum(weight for _, weight in voiced))

    def _features_of(self, reference: Reference) -> Features:
        """Features from the cache, or made now. The key is the content, so a replaced file is never mixed up."""
        key = reference.content_hash
        with self._lock:
            found = self._features.pop(key, None)
            if found is not None:
                self._features[key] = found
                return found
        made = self._analyse(reference)
        with self._lock:
            self._features[key] = made
            while len(self._features) > CACHED_REFERENCES:
                self._features.popitem(last=False)
        return made

    @torch.inference_mode()
    def _analyse(self, reference: Reference) -> Features:
        speech, audio = self._parts.speech, self._parts.vits2.audio
        narrow = torch.from_numpy(resample(reference.wav.numpy(), audio.sample_rate, speech.sample_rate)).unsqueeze(0)
        f0 = track_f0(narrow, speech.sample_rate, F0_FRAME_RATE_HZ)
        codes = speech.encode(narrow.to(self.device), f0=f0.to(self.device))[0].cpu()
        style = self._parts.vits2.style_of(reference.wav.unsqueeze(0).to(self.device))
        text = reference.text or ""
        return Features(
            codes,
            style,
            float(median_f0(f0)[0]),
            tuple(self._parts.text.encode(text)),
            len(reference.wav) / audio.sample_rate,
            text,
            self._text_features(text) if text else None,
        )
