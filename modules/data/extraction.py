"""Recordings to features in three steps: text ids, loudness-normalised audio, and speech tokens with f0.

The encoders are handed in, so this room knows none of them. First all lines are looked at, without decoding a sound:
what a step made before, of the same content by the same encoder, is not made again. Then come the texts, and then the
sounds that are needed, batched by length. A line that cannot be read is reported and left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modules.audio.loudness import normalize
from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.config import AudioConfig
from modules.data.features import Line, LineWriter
from modules.data.recordings import Sound, Source
from modules.data.store import entry_key
from modules.errors import Stopped, UserError

F0_RATE_HZ = 100
VERSION = "1"
"""Part of every step's hash: to be raised when the same input gives other features."""
WINDOW_LINES = 512
LOOK_LINES = 64
FIELDS = ("speaker", "language", "split", "text", "source")


@dataclass(frozen=True)
class Encoders:
    """What extraction needs: `text(str) -> ids`, `speech(wav [B,S], lengths [B], f0) -> codes [B,T,K]`, the
    speech encoder's rates, and for each encoder a hash that changes when it does. One whose step is not asked for
    may be None."""

    text: Callable[[str], list[int]] | None
    speech: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    sample_rate: int
    samples_per_token: int
    text_hash: str
    speech_hash: str

    def hashes(self, audio: AudioConfig, keep_audio: bool = True) -> dict[str, str]:
        """What makes the features of each step, audio "" where it is left out; for `LineWriter`."""
        settings = json.dumps([audio.sample_rate, audio.loudness_lufs, audio.true_peak_db])
        return {
            "text": entry_key(VERSION, self.text_hash),
            "audio": entry_key(VERSION, settings) if keep_audio else "",
            "speech": entry_key(VERSION, self.speech_hash),
        }


@dataclass(frozen=True)
class ExtractOptions:
    """Choices of a run: at most `limit` rows a language and split (0 = all), batch size in seconds, clip lengths
    accepted, and the share of this process (`rank` of `world`)."""

    limit: int = 0
    batch_seconds: float = 60.0
    min_seconds: float = 0.4
    max_seconds: float = 20.0
    rank: int = 0
    world: int = 1


@dataclass
class StepCount:
    """Lines whose features of a step were made now, and before."""

    done: int = 0
    already: int = 0


@dataclass
class ExtractReport:
    """Counts of a run: lines of which something was made and lines that lacked nothing, seconds of sound encoded,
    lines by step, and by the reason why they were left out."""

    done: int = 0
    already: int = 0
    seconds: float = 0.0
    steps: dict[str, StepCount] = field(default_factory=dict)
    skipped: Counter = field(default_factory=Counter)


def extract(
    source: Source,
    writer: LineWriter,
    encoders: Encoders,
    audio: AudioConfig,
    options: ExtractOptions,
    on_progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_reject: Callable[[int, str], None] | None = None,
) -> ExtractReport:
    """Fill `writer` with the features of a source, those of its steps.

    Args:
        on_progress: gets the lines done, all lines, and what is done with them ("look", "text", "sound").
        on_reject: gets the number of a row that was left out, and why.

    Raises:
        Stopped: `should_stop` answered true; what was made stays.
    """
    return _Extraction(source, writer, encoders, audio, options, on_progress, should_stop, on_reject).run()


class _Extraction:
    """One run."""

    def __init__(
        self,
        source: Source,
        writer: LineWriter,
        encoders: Encoders,
        audio: AudioConfig,
        options: ExtractOptions,
        on_progress: Callable[[int, int, str], None] | None,
        should_stop: Callable[[], bool] | None,
        on_reject: Callable[[int, str], None] | None,
    ):
        self.source, self.writer, self.encoders, self.audio, self.options = source, writer, encoders, audio, options
        self._progress = on_progress or (lambda done, total, what: None)
        self._should_stop = should_stop or (lambda: False)
        self._reject = on_reject or (lambda row, reason: None)
        self.report = ExtractReport(steps={step: StepCount() for step in writer.steps})
        self.lines: dict[int, Line] = {}

    def run(self) -> ExtractReport:
        self._look()
        self.writer.write_lines(self.lines.values())
        lacking = {row: self._lacking(line) for row, line in self.lines.items()}
        known = len(self.lines)
        if texts := [row for row, steps in lacking.items() if "text" in steps]:
            self._encode_texts(texts)
        if sounds := [row for row, steps in lacking.items() if set(steps) - {"text"}]:
            self._encode_sounds(sounds)
        if len(self.lines) < known:
            self.writer.write_lines(self.lines.values())
        for row in self.lines:
            for step in self.writer.steps:
                count = self.report.steps[step]
                count.done, count.already = (
                    count.done + (step in lacking[row]),
                    count.already + (step not in lacking[row]),
                )
        self.report.already = sum(not lacking[row] for row in self.lines)
        self.report.done = len(self.lines) - self.report.already
        return self.report

    def _lacking(self, line: Line) -> tuple[str, ...]:
        return tuple(step for step in self.writer.steps if not self.writer.has(step, line.step_key(step)))

    def _leave_out(self, row: int, why: str, reason: str) -> None:
        self.lines.pop(row, None)
        self.report.skipped[why] += 1
        self._reject(row, reason)

    def _look(self) -> None:
        """Find out what each line's features are called."""
        rows, seen = self._choose(), set()
        columns = [self.source.column(name) for name in FIELDS]
        for number, row in enumerate(rows, start=1):
            line = self._line(row, [column[row] for column in columns])
            if line is not None and line.key in seen:
                self.report.skipped["the same clip again"] += 1
            elif line is not None:
                seen.add(line.key)
                self.lines[row] = line
            if number % LOOK_LINES == 0 or number == len(rows):
                self._step(number, len(rows), "look")

    def _line(self, row: int, values: list[str]) -> Line | None:
        try:
            content = self.source.content(row)
        except UserError as cause:
            self._leave_out(row, cause.code, str(cause))
            return None
        hashes = self.writer.hashes
        return Line(
            *values,
            text_key=entry_key(hashes["text"], values[FIELDS.index("text")]),
            audio_key=entry_key(hashes["audio"], content) if hashes["audio"] else "",
            speech_key=entry_key(hashes["speech"], content),
        )

    def _choose(self) -> list[int]:
        """The rows of this process's share that have a fitting length."""
        options, taken = self.options, Counter()
        if not options.limit:
            return [row for row in range(options.rank, len(self.source), options.world) if self._fits(row)]
        groups = list(zip(self.source.column("language"), self.source.column("split"), strict=True))
        rows = []
        for row, group in enumerate(groups):
            if taken[group] < options.limit and self._fits(row):
                taken[group] += 1
                rows.append(row)
        return rows[options.rank :: options.world]

    def _fits(self, row: int) -> bool:
        # A length of 0 is that of a file that could not be probed: reading it tells why.
        seconds = self.source.seconds(row)
        return seconds <= 0 or self._accept(row, seconds)

    def _accept(self, row: int, seconds: float) -> bool:
        low, high = self.options.min_seconds, self.options.max_seconds
        if low <= seconds <= high:
            return True
        self._leave_out(row, "too short or too long", f"{seconds:.1f} s long; clips of {low:g} to {high:g} s are used")
        return False

    def _step(self, done: int, total: int, what: str) -> None:
        if self._should_stop():
            raise Stopped
        self._progress(done, total, what)

    def _encode_texts(self, rows: Sequence[int]) -> None:
        self._step(0, len(rows), "text")
        for number, row in enumerate(rows, start=1):
            line = self.lines[row]
            if not self.writer.has("text", line.text_key):
                ids = np.array(self.encoders.text(line.text), dtype=np.int32)
                self.writer.add("text", line.text_key, text_ids=ids)
            if number % LOOK_LINES == 0 or number == len(rows):
                self._step(number, len(rows), "text")
        self.writer.flush("text")  # the sounds take long, and a line needs both

    def _encode_sounds(self, rows: Sequence[int]) -> None:
        finished = 0
        self._step(0, len(rows), "sound")
        for batch in self._batches(rows):
            self._encode_batch(batch)
            finished += len(batch)
            self._step(finished, len(rows), "sound")

    def _batches(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Neighbouring lengths together, within windows, so that reading stays local and memory bounded."""
        # Where nobody could tell a length, the longest that is accepted must fit.
        seconds = {row: self.source.seconds(row) or self.options.max_seconds for row in rows}
        for start in range(0, len(rows), WINDOW_LINES):
            window = sorted(rows[start : start + WINDOW_LINES], key=seconds.__getitem__)
            batch: list[int] = []
            for row in window:
                if batch and (len(batch) + 1) * seconds[row] > self.options.batch_seconds:
                    yield batch
                    batch = []
                batch.append(row)
            if batch:
                yield batch

    def _encode_batch(self, rows: Sequence[int]) -> None:
        """Audio and speech tokens of a batch; no sound is held longer than this."""
        sounds: dict[str, Sound] = {}
        for row in rows:
            line = self.lines[row]
            # The same recording may stand under several texts.
            if line.speech_key in sounds or not set(self._lacking(line)) - {"text"}:
                continue
            try:
                sound = self.source.read(row)
            except UserError as cause:
                self._leave_out(row, cause.code, str(cause))
                continue
            if not self._accept(row, sound.seconds):
                continue
            sounds[line.speech_key] = sound
            self.report.seconds += sound.seconds
            if "audio" in self.writer.steps and not self.writer.has("audio", line.audio_key):
                self.writer.add("audio", line.audio_key, audio=_pcm(sound, self.audio))
        if "speech" in self.writer.steps:
            self._encode_speech({key: s for key, s in sounds.items() if not self.writer.has("speech", key)})

    @torch.inference_mode()
    def _encode_speech(self, sounds: dict[str, Sound]) -> None:
        if not sounds:
            return
        rate = self.encoders.sample_rate
        wavs = [torch.from_numpy(resample(sound.wav, sound.sample_rate, rate)) for sound in sounds.values()]
        lengths = torch.tensor([len(w) for w in wavs])
        batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        f0 = track_f0(batch, rate, F0_RATE_HZ)
        codes = self.encoders.speech(batch, lengths, f0)
        for b, (key, sound) in enumerate(sounds.items()):
            tokens = int(lengths[b]) // self.encoders.samples_per_token
            frames = int(lengths[b]) * F0_RATE_HZ // rate
            self.writer.add(
                "speech",
                key,
                seconds=float(sound.seconds),
                codes=codes[b, :tokens].reshape(-1).numpy().astype(np.int16),
                codebooks=int(codes.shape[2]),
                f0=f0[b, :frames].numpy().astype(np.float32),
            )


def _pcm(sound: Sound, audio: AudioConfig) -> np.ndarray:
    """The clip at the decoder's rate and loudness, int16 [S]."""
    wav = torch.from_numpy(resample(sound.wav, sound.sample_rate, audio.sample_rate))
    level = normalize(wav, audio.sample_rate, audio.loudness_lufs, audio.true_peak_db)
    return (level.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)
