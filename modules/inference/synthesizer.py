"""From a voice and a text to sound: the place where text, speech tokens, language model and decoder meet.

Shapes: S samples, T frames of speech tokens, K codebooks, U text units.
"""

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.config import Preset
from modules.errors import Stopped
from modules.gpt.decode import DecodeOptions, Prompt, PromptReference, build_prompts
from modules.gpt.sequence import part_length
from modules.inference import finishing
from modules.inference.attempts import RETRIES, Attempt, code_alarms, judged, keep_best, sound_alarms
from modules.inference.lengths import LONGEST_SECONDS, SHORTEST_SECONDS, Lengths, expect_lengths
from modules.inference.options import MAX_SEED, Progress, Segment, SpeakOptions
from modules.inference.parts import Parts, load_parts
from modules.inference.voice import Reference, Voice
from modules.paths import PRETRAINED_MODELS
from modules.runtime import pick_device
from modules.speech.prosody import F0_FRAME_RATE_HZ, median_f0
from modules.text.encoder import Precision
from modules.text.sentences import split_text
from modules.text.spoken import spoken_text

__all__ = ["RETRIES", "Progress", "Segment", "SpeakOptions", "Synthesizer"]

CACHED_REFERENCES = 32
UNVOICED_MEDIAN_HZ = 150.0
"""Pitch of a voice that was only heard whispering."""
TAIL_SECONDS = 0.3
"""Silence after the text that ends a sentence."""
PAUSE_SECONDS = 0.8
"""Longest pause inside a sentence: of 100 recordings one has a longer one."""

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
            raw = self._sound(segment.codes, segment.text, style, median_hz, options, segment.seed)
            wav = finishing.finish(raw, self.sample_rate)
            yield replace(segment, wav=wav, seconds=len(wav) / self.sample_rate, **finishing.raw_levels(raw))

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
                attempt = self._attempts(voice, sentence, style, median_hz, options, on_frame, should_stop)
                guarded = options.guards and not options.forced_seconds
                best, retries = keep_best(attempt, sentence_seed) if guarded else (attempt(sentence_seed), 0)
            except Stopped:
                return
            codes, raw = best.generated.codes, best.raw
            if raw is None:
                raw = self._sound(codes, sentence, style, median_hz, options, best.seed)
            wav = finishing.finish(raw, self.sample_rate)
            seconds = len(wav) / self.sample_rate
            seconds_done += seconds
            stopped_by = best.generated.stopped_by
            levels = finishing.raw_levels(raw)
            yield Segment(index, total, sentence, wav, seconds, stopped_by, codes, best.seed, retries, **levels)

    def _attempts(
        self,
        voice: Voice,
        sentence: str,
        style: Tensor,
        median_hz: float,
        options: SpeakOptions,
        on_frame: Callable[[int, Tensor], None],
        should_stop: StopCallback | None,
    ) -> Callable[[int], Attempt]:
        """What speaks the sentence with a seed, and tells what is wrong with it."""
        text, rate = spoken_text(sentence), self._parts.speech.frame_rate
        text_ids, text_features = self._parts.text.encode(text), self._text_features(text)
        references = self._prompt_references(voice, options)
        lengths = self._lengths(text, text_ids, references, options)
        prompts = self._prompts(references, text_ids, text_features, lengths.expected, lengths.most)
        # A voice that was only heard whispering may go on so.
        pitched = bool(self._parts.vits2.prosody_levels) and median_hz != UNVOICED_MEDIAN_HZ

        def attempt(seed: int) -> Attempt:
            decode_options = self._decode_options(options, lengths, seed)
            generated = self._parts.gpt.generate(
                prompts, options=decode_options, should_stop=should_stop, on_frame=on_frame
            )
            if should_stop is not None and should_stop():
                raise Stopped
            tried = Attempt(generated, seed)
            if alarms := code_alarms(generated, lengths, pitched):
                return judged(tried, lengths, alarms)
            raw = self._sound(generated.codes, sentence, style, median_hz, options, seed)
            least = lengths.low / rate / options.speed
            return judged(Attempt(generated, seed, raw), lengths, sound_alarms(raw, self.sample_rate, least))

        return attempt

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

    def _lengths(
        self, text: str, text_ids: list[int], references: list[tuple[Features, float]], options: SpeakOptions
    ) -> Lengths:
        """Frames that the sentence should and may take."""
        rate = self._parts.speech.frame_rate
        spoken = [(f.text, f.text_ids, len(f.codes), weight) for f, weight in references]
        lengths = expect_lengths(text, text_ids, spoken, self._parts.gpt.model, rate)
        if options.forced_seconds:
            return lengths.forced(max(1, round(options.forced_seconds * rate)))
        return lengths

    def _decode_options(self, options: SpeakOptions, lengths: Lengths, seed: int) -> DecodeOptions:
        rate = self._parts.speech.frame_rate
        guarded = options.guards and not options.forced_seconds
        bounded = options.guards or options.forced_seconds
        chosen = DecodeOptions(
            top_k=options.top_k,
            top_p=options.top_p,
            temperature=options.temperature,
            repetition_penalty=options.repetition_penalty,
            guidance=options.guidance,
            min_frames=lengths.least if bounded else 1,
            max_frames=lengths.most if bounded else round(LONGEST_SECONDS * rate),
            guard=guarded,
            seed=seed,
        )
        if not guarded:
            return chosen if options.guards else replace(chosen, ras_window=0)
        return replace(
            chosen,
            usual_frames=round(lengths.expected),
            tail_frames=round(TAIL_SECONDS * rate),
            pause_frames=round(PAUSE_SECONDS * rate),
        )

    @torch.inference_mode()
    def _sound(
        self, codes: Tensor, text: str, style: Tensor, median_hz: float, options: SpeakOptions, seed: int
    ) -> np.ndarray:
        """Codes [T, K] to the decoder's raw sound float32 [S]."""
        text = spoken_text(text)
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
        return wav.cpu().numpy()

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
        text = spoken_text(reference.text or "")
        return Features(
            codes,
            style,
            float(median_f0(f0)[0]),
            tuple(self._parts.text.encode(text)),
            len(reference.wav) / audio.sample_rate,
            text,
            self._text_features(text) if text else None,
        )
