"""From a voice and a text to sound: the place where text, speech tokens, language model and decoder meet.

Shapes: S samples, T frames of speech tokens, K codebooks, U text units.
"""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.config import Preset
from modules.errors import Stopped
from modules.gpt.decode import Request
from modules.inference import finishing
from modules.inference.attempts import RETRIES, Attempt, code_alarms, judged, keep_best, sound_alarms
from modules.inference.options import MAX_SEED, Chunk, Progress, Segment, SpeakOptions
from modules.inference.parts import Parts, load_parts
from modules.inference.sentences import (
    UNVOICED_MEDIAN_HZ,
    Features,
    Sentence,
    Timbre,
    Written,
    decode_options,
    features_of,
    make_sentence,
    write,
)
from modules.inference.sounding import MOST_TOGETHER, sounds
from modules.inference.streaming import LiveSpeech
from modules.inference.telling import ProgressCallback, StopCallback, Told
from modules.inference.voice import Reference, Voice
from modules.paths import PRETRAINED_MODELS
from modules.precision import Precision
from modules.runtime import pick_device
from modules.speech.prosody import F0_FRAME_RATE_HZ, median_f0
from modules.text.encoder import Precision as TextPrecision
from modules.text.sentences import split_text
from modules.text.spoken import spoken_text
from modules.vits2.streaming import can_stream

__all__ = ["RETRIES", "Chunk", "Progress", "Segment", "SpeakOptions", "Synthesizer"]

CACHED_REFERENCES = 32
BATCH_SECONDS = 20.0
"""So much work may be lost when somebody stops in the middle of a batch."""


class Synthesizer:
    """Speaks texts in voices. Safe to share between threads: a call keeps its state to itself.

    Args:
        parts: the models, on one device.
    """

    def __init__(self, parts: Parts):
        self.preset: Preset = parts.preset
        self.device = parts.device
        self.sample_rate: int = parts.vits2.audio.sample_rate
        self.weights = parts.gpt.weights if parts.gpt is not None else "float32"
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
        text_precision: TextPrecision = "float32",
        precision: Precision = "auto",
        encoders: Path | None = None,
        preset: Preset | None = None,
    ) -> "Synthesizer":
        """Read a model folder, with one's own language model or decoder if given. For the arguments see `load_parts`.

        Raises:
            UserError: what `load_parts` and `pick_device` raise.
        """
        more = {"encoders": encoders, "text_precision": text_precision, "preset": preset}
        more |= {"precision": precision}
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
        the iterator ends after the last finished sentence; sentences are spoken several at a time, and those that are
        under way are lost. A sentence depends on the seed, its index and itself alone, not on the sentences around
        it (in int4 that holds but for the last bits of sums, see `modules.gpt.decode`).

        Raises:
            UserError: text_empty, text_unspeakable; gpt_prompt_too_long.
        """
        sentences = split_text(text, options.cut)
        seed = secrets.randbelow(MAX_SEED) if options.seed is None else int(options.seed)
        self.used_seed = seed
        return self._speak(voice, sentences, options, seed, Told(len(sentences), on_progress, should_stop))

    def stream(
        self,
        voice: Voice,
        text: str,
        options: SpeakOptions = SpeakOptions(),
        *,
        on_progress: ProgressCallback | None = None,
        should_stop: StopCallback | None = None,
    ) -> Iterator[Chunk]:
        """Speak a text and hand its sound out while it comes into being; arguments and errors are those of `speak`.

        Chunks joined are what `join` makes of their segments. The codes are those of `speak` where nothing went wrong:
        a sentence whose beginning has left is not spoken again, and one that fails every time is taken as it was last.
        The sound is that of `speak` but for its level, which cannot wait for
        the sentence's end (see `modules.inference.live_finishing`), and for seams within `vits2.streaming`'s tolerance.
        """
        texts = split_text(text, options.cut)
        seed = secrets.randbelow(MAX_SEED) if options.seed is None else int(options.seed)
        self.used_seed = seed
        return self._stream(voice, texts, options, seed, Told(len(texts), on_progress, should_stop))

    def _stream(
        self, voice: Voice, texts: list[str], options: SpeakOptions, seed: int, told: Told
    ) -> Iterator[Chunk]:  # fmt: skip
        if not can_stream(self._parts.vits2):
            yield from self._whole_chunks(self._speak(voice, texts, options, seed, told), options)
            return
        timbre, references = self._timbre(voice, options), self._prompt_references(voice, options)
        seeds = [sentence_seed(seed, i) for i in range(len(texts))]
        yield from LiveSpeech(self._parts, texts, references, timbre, options, seeds, told).chunks()

    def _whole_chunks(self, segments: Iterator[Segment], options: SpeakOptions) -> Iterator[Chunk]:
        """Whole sentences as chunks, for decoders that cannot do less."""
        for segment in segments:
            pause = np.zeros(round(options.pause_seconds * self.sample_rate) if segment.index else 0, np.float32)
            yield Chunk(segment.index, segment.total, np.concatenate([pause, segment.wav]), segment)

    def render(self, voice: Voice, segments: Sequence[Segment], options: SpeakOptions) -> Iterator[Segment]:
        """Decode the codes of segments again, with another speed or timbre (the frozen way). With the voice and
        options of the original it gives the same samples."""
        timbre = self._timbre(voice, options)
        for segment in segments:
            written = write(self._parts, segment.text)
            (raw,) = self._sounds([(segment.codes, written, segment.seed)], timbre, options)
            wav = finishing.finish(raw, self.sample_rate)
            yield replace(segment, wav=wav, seconds=len(wav) / self.sample_rate, **finishing.raw_levels(raw))

    def join(self, segments: Sequence[Segment], pause_seconds: float) -> np.ndarray:
        """One sound float32 [S] of all segments, with pauses between them."""
        return finishing.join([segment.wav for segment in segments], pause_seconds, self.sample_rate)

    def _speak(
        self,
        voice: Voice,
        texts: list[str],
        options: SpeakOptions,
        seed: int,
        told: Told,
    ) -> Iterator[Segment]:
        timbre = self._timbre(voice, options)
        references = self._prompt_references(voice, options)
        done, size = 0, 1
        while done < len(texts):
            batch, started = list(range(len(texts)))[done : done + size], time.perf_counter()
            done += len(batch)
            try:
                told.begin(batch[0])
                sentences = [make_sentence(self._parts, texts[i], references, options) for i in batch]
                seeds = [sentence_seed(seed, i) for i in batch]
                kept = self._best(sentences, seeds, timbre, options, told, batch[0])
                size = next_batch(size, (time.perf_counter() - started) / len(batch))
                for i, (best, retries) in zip(batch, kept, strict=True):
                    told.check()
                    wav = finishing.finish(best.raw, self.sample_rate)
                    segment = self._segment(i, len(texts), texts[i], wav, best, retries)
                    told.add(segment)
                    yield segment
            except Stopped:
                return

    def _best(
        self,
        sentences: Sequence[Sentence],
        seeds: Sequence[int],
        timbre: Timbre,
        options: SpeakOptions,
        told: "Told",
        first: int,
    ) -> list[tuple[Attempt, int]]:
        """Of each sentence the best attempt, with its raw sound, and how often it was tried again."""

        def attempt(which: Sequence[int], seeds: Sequence[int]) -> list[Attempt]:
            return self._attempts([sentences[i] for i in which], seeds, timbre, options, told, first)

        if options.guards and not options.forced_seconds:
            kept = keep_best(attempt, seeds)
        else:
            kept = [(tried, 0) for tried in attempt(range(len(sentences)), seeds)]
        silent = [i for i, (best, _) in enumerate(kept) if best.raw is None]
        if silent:
            raws = self._sounds(
                [(kept[i][0].generated.codes, sentences[i].written, kept[i][0].seed) for i in silent], timbre, options
            )
            for i, raw in zip(silent, raws, strict=True):
                kept[i] = (replace(kept[i][0], raw=raw), kept[i][1])
        return kept

    def _attempts(
        self,
        sentences: Sequence[Sentence],
        seeds: Sequence[int],
        timbre: Timbre,
        options: SpeakOptions,
        told: "Told",
        first: int,
    ) -> list[Attempt]:
        """Each sentence spoken with its seed, and what is wrong with it. What failed by its codes has no sound."""
        rate, guarded = self._parts.speech.frame_rate, options.guards and not options.forced_seconds
        requests = [
            Request(
                sentence.prompts,
                decode_options(options, sentence.lengths, seed, rate),
                told.frames_of(first) if i == 0 else None,
            )
            for i, (sentence, seed) in enumerate(zip(sentences, seeds, strict=True))
        ]
        said = self._parts.gpt.generate_batch(requests, should_stop=told.should_stop)
        told.check()
        tries = [Attempt(generated, seed) for generated, seed in zip(said, seeds, strict=True)]
        if not guarded:
            return tries
        pitched = bool(self._parts.vits2.prosody_levels) and timbre.is_pitched
        alarms = [code_alarms(t.generated, s.lengths, pitched) for t, s in zip(tries, sentences, strict=True)]
        sound = [i for i, found in enumerate(alarms) if not found]
        raws = self._sounds([(said[i].codes, sentences[i].written, seeds[i]) for i in sound], timbre, options)
        for i, raw in zip(sound, raws, strict=True):
            least = sentences[i].lengths.low / rate / options.speed
            tries[i], alarms[i] = replace(tries[i], raw=raw), sound_alarms(raw, self.sample_rate, least)
        return [judged(t, s.lengths, found) for t, s, found in zip(tries, sentences, alarms, strict=True)]

    def _sounds(
        self, said: Sequence[tuple[Tensor, Written, int]], timbre: Timbre, options: SpeakOptions
    ) -> list[np.ndarray]:
        """Codes, text and seed of sentences to raw sounds float32 [S]."""
        if not said:
            return []
        codes, texts, seeds = zip(*said, strict=True)
        return sounds(self._parts, codes, texts, timbre, options, seeds)

    def _segment(self, index: int, total: int, text: str, wav: np.ndarray, best: Attempt, retries: int) -> Segment:
        levels = finishing.raw_levels(best.raw)
        seconds, generated = len(wav) / self.sample_rate, best.generated
        return Segment(
            index, total, text, wav, seconds, generated.stopped_by, generated.codes, best.seed, retries, **levels
        )

    def _prompt_references(self, voice: Voice, options: SpeakOptions) -> list[tuple[Features, float]]:
        """References whose words are known, with weights; they stand in the language model's prompt."""
        used = voice.references if options.fuse_gpt else (voice.heaviest,)
        return [(self._features_of(r), r.weight) for r in used if r.text]

    @torch.inference_mode()
    def _timbre(self, voice: Voice, options: SpeakOptions) -> Timbre:
        """Weighted style [1, D] and weighted geometric mean of the references' median pitches, Hz."""
        used = voice.references if options.fuse_decoder else voice.alone().references
        features = [(self._features_of(r), r.weight) for r in used]
        style = torch.stack([weight * f.style for f, weight in features]).sum(0)
        voiced = [(math.log(f.median_hz), weight) for f, weight in features if f.median_hz > 0]
        if not voiced:
            return Timbre(style, UNVOICED_MEDIAN_HZ)
        mean = sum(value * weight for value, weight in voiced) / sum(weight for _, weight in voiced)
        return Timbre(style, math.exp(mean))

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
            features_of(self._parts, text) if text else None,
        )


def sentence_seed(seed: int, index: int) -> int:
    """The seed of a sentence of a text."""
    return (seed + 1_000_003 * index) % MAX_SEED


def next_batch(size: int, seconds: float) -> int:
    """How many sentences are spoken together after a batch of `size` that took `seconds` for each: one at first,
    because somebody waits for it, then more and more; but never so many that a stop would lose much."""
    return max(1, min(2 * size, MOST_TOGETHER, int(BATCH_SECONDS / max(seconds, 1e-3))))
