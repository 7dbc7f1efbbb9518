"""Outputs to be judged, each made once: the same request is answered from disk, also after an interruption.

The key of an output holds the hashes of the weights, so other weights make other outputs.
"""

import dataclasses
import io
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.audio.io import read, write
from modules.checkpoint import write_atomic
from modules.config import to_dict
from modules.data.store import entry_key
from modules.evaluation.clips import Clip, ClipReader
from modules.evaluation.failures.rules import RawSound
from modules.evaluation.results import Ledger
from modules.inference.options import SpeakOptions
from modules.inference.synthesizer import Synthesizer
from modules.inference.voice import Reference, Voice, prepare_reference

KEPT_REFERENCES = 64
PROGRAM = "3"
"""Part of the key of an output; goes up when the program speaks or measures otherwise with the same weights."""


@dataclass(frozen=True)
class Spoken:
    """One output.

    Args:
        stopped_by: of each sentence.
        frames: speech tokens in all; text_units: BPE units of the text.
        longest_run: longest run of one content code; longest_loop: most repetitions in a row of any phrase of
            3 to 12 codes.
        took_seconds: wall time of the synthesis; cpu_seconds: time of the processor.
        codes_key: the same for outputs with the same speech tokens.
        raw_peak, raw_rms, raw_flat_share: of the decoder's sound before it was levelled: loudest peak, quietest
            sentence, most flat samples.
    """

    key: str
    path: Path
    seconds: float
    stopped_by: tuple[str, ...]
    frames: int
    text_units: int
    longest_run: int
    longest_loop: int
    took_seconds: float
    cpu_seconds: float
    codes_key: str
    raw_peak: float
    raw_rms: float
    raw_flat_share: float

    @property
    def raw(self) -> RawSound:
        """What finishing hides of the decoder's sound."""
        return RawSound(self.raw_rms, self.raw_flat_share)

    def wav(self, sample_rate: int) -> np.ndarray:
        """float32 [S]."""
        return read(self.path, sample_rate).numpy()

    def content(self) -> list[np.ndarray]:
        """Content tokens [T] of each sentence."""
        with np.load(_codes_path(self.path)) as file:
            return [file[name] for name in file.files]


class Speaker:
    """Speaks through a synthesizer and remembers.

    Args:
        synthesizer: what is judged.
        reader: of the reference clips.
        folder: gets outputs.jsonl and wavs/.
        count_units: BPE units of a text.

    Attributes:
        usual_frames: speech tokens that a text usually takes by the model's own statistics; 0 where it has none.
    """

    def __init__(self, synthesizer: Synthesizer, reader: ClipReader, folder: Path, count_units: Callable[[str], int]):
        self.synthesizer, self.reader, self.folder = synthesizer, reader, Path(folder)
        self.count_units = count_units
        self.usual_frames: Callable[[str], float] = lambda text: 0.0
        # Sizes come from the preset; device and threads decide how long an output took.
        self.model_key = entry_key(
            json.dumps(synthesizer.hashes, sort_keys=True),
            json.dumps(to_dict(synthesizer.preset), sort_keys=True),
            f"{synthesizer.device} {torch.get_num_threads()} {synthesizer.weights}",
        )
        self.ledger = Ledger(self.folder / "outputs.jsonl")
        self._references: OrderedDict[str, Reference] = OrderedDict()

    def reference(self, clip: Clip, weight: float = 1.0) -> Reference:
        """A clip as a reference; one without a text stands in no prompt.

        Raises:
            UserError: what `prepare_reference` raises.
        """
        if clip.key not in self._references:
            audio = self.synthesizer.preset.audio
            wav = torch.from_numpy(self.reader.wav(clip, audio.sample_rate))
            self._references[clip.key] = prepare_reference(wav, clip.speaker, clip.text or None, 1.0, audio)
            while len(self._references) > KEPT_REFERENCES:
                self._references.popitem(last=False)
        return dataclasses.replace(self._references[clip.key], weight=weight)

    def say(self, text: str, voice: Sequence[tuple[Clip, float]], seed: int = 0, **options: Any) -> Spoken:
        """`text` in the voice of weighted clips, now or earlier."""
        chosen = SpeakOptions(seed=seed, **options)
        parts = [f"{clip.key}={weight}" for clip, weight in voice]
        key = entry_key(PROGRAM, self.model_key, text, json.dumps(dataclasses.asdict(chosen), sort_keys=True), *parts)
        path = self.folder / "wavs" / f"{key}.wav"
        found = self.ledger.get(key)
        if found is None or not path.is_file() or not _codes_path(path).is_file():
            found = self.ledger.put(key, self._speak(text, voice, chosen, path))
        return Spoken(key, path, **{**found, "stopped_by": tuple(found["stopped_by"])})

    def _speak(
        self, text: str, voice: Sequence[tuple[Clip, float]], options: SpeakOptions, path: Path
    ) -> dict[str, Any]:
        prepared = Voice(tuple(self.reference(clip, weight) for clip, weight in voice))
        wall, cpu = time.perf_counter(), time.process_time()
        segments = list(self.synthesizer.speak(prepared, text, options))
        wav = self.synthesizer.join(segments, options.pause_seconds)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        write(path, wav, self.synthesizer.sample_rate)
        content = [np.asarray(segment.codes)[:, 0] for segment in segments]
        write_atomic(_codes_path(path), _packed(content))
        return {
            "seconds": len(wav) / self.synthesizer.sample_rate,
            "stopped_by": [segment.stopped_by for segment in segments],
            "frames": sum(map(len, content)),
            "text_units": self.count_units(text),
            "longest_run": max(map(longest_run, content), default=0),
            "longest_loop": max(map(longest_loop, content), default=0),
            "took_seconds": wall,
            "cpu_seconds": cpu,
            "codes_key": entry_key(*(np.asarray(segment.codes).tobytes() for segment in segments)),
            "raw_peak": max((segment.raw_peak for segment in segments), default=0.0),
            "raw_rms": min((segment.raw_rms for segment in segments), default=0.0),
            "raw_flat_share": max((segment.raw_flat_share for segment in segments), default=0.0),
        }


def _codes_path(wav: Path) -> Path:
    return wav.with_suffix(".npz")


def _packed(arrays: Sequence[np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, *(array.astype(np.int32) for array in arrays))
    return buffer.getvalue()


def longest_run(codes: np.ndarray) -> int:
    """Length of the longest run of one value in codes [T]."""
    if not len(codes):
        return 0
    edges = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1], [True]]))
    return int(np.diff(edges).max())


def longest_loop(codes: np.ndarray, shortest: int = 3, longest: int = 12) -> int:
    """Most times that a phrase of `shortest` to `longest` codes is said in a row (1 = never repeated)."""
    best = 1 if len(codes) else 0
    for period in range(shortest, min(longest, len(codes) // 2) + 1):
        same = codes[period:] == codes[:-period]
        best = max(best, 1 + longest_run_of_true(same) // period)
    return best


def longest_run_of_true(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0
