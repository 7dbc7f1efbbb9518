"""Recordings to features in three steps: text ids, loudness-normalised audio, and speech tokens with f0.

Where the tokens are learned with the decoder, the third step makes the features that they are made of (ssl), and a
fourth one, once there is a decoder, makes codes of what the third one wrote.

The encoders are handed in, so this room knows none of them. First all lines are looked at, without decoding a sound:
what a step made before, of the same content by the same encoder, is not made again. Then come the texts, and then the
sounds that are needed, batched by length. A line that cannot be read is reported and left out.

Shapes: B batch, S samples, T token frames, K code streams, F feature frames, N points of f0, U text units, D width.
"""

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
from modules.data.encoders import Encoders, flat_codes, half
from modules.data.features import CODES, Line, LineWriter
from modules.data.recordings import Sound, Source
from modules.data.store import entry_key
from modules.errors import Stopped, UserError

F0_RATE_HZ = 100
WINDOW_LINES = 512
LOOK_LINES = 64
TEXT_LINES = 32
"""Texts that go through a text encoder together."""
SOUND_STEPS = {"audio", "speech"}
FIELDS = ("speaker", "language", "split", "text", "source")


@dataclass(frozen=True)
class ExtractOptions:
    """Choices of a run: at most `limit` rows a language and split (0 = all), batch size in seconds, clip lengths
    accepted, the share of this process (`rank` of `world`), and what the sounds are called (`Source.content`) that are
    left out."""

    limit: int = 0
    batch_seconds: float = 60.0
    min_seconds: float = 0.4
    max_seconds: float = 20.0
    rank: int = 0
    world: int = 1
    drop: frozenset[str] = frozenset()


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
        on_progress: gets the lines done, all lines, and what is done with them ("look", "text", "sound", "codes").
        on_reject: gets the number of a row that was left out, and why.

    Raises:
        Stopped: `should_stop` answered true; what was made stays.
        UserError: codes_before_features when codes are to be made of features of which no line has any.
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
        self._has_phones: bool | None = None

    def run(self) -> ExtractReport:
        self._look()
        self.writer.write_lines(self.lines.values())
        lacking = {row: self._lacking(line) for row, line in self.lines.items()}
        known = len(self.lines)
        if texts := [row for row, steps in lacking.items() if "text" in steps]:
            self._encode_texts(texts)
        if sounds := [row for row, steps in lacking.items() if set(steps) & SOUND_STEPS]:
            self._encode_sounds(sounds)
        if len(self.lines) < known:
            self.writer.write_lines(self.lines.values())
        waiting: set[int] = set()
        if rows := [row for row in self.lines if CODES in lacking[row]]:
            waiting = self._encode_codes(rows)
        for row in self.lines:
            for step in self.writer.steps:
                count, lacked = self.report.steps[step], step in lacking[row]
                count.done += lacked and not (step == CODES and row in waiting)
                count.already += not lacked
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
            codes_key=entry_key(hashes[CODES], content) if hashes[CODES] else "",
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
        if self.options.drop and self.source.content(row) in self.options.drop:
            self._leave_out(row, "to be dropped", "it is listed among the clips that are to be dropped")
            return False
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
        texts = {self.lines[row].text_key: self.lines[row].text for row in rows}  # many lines may have the same
        missing = [(key, text) for key, text in texts.items() if not self.writer.has("text", key)]
        for start in range(0, len(missing), TEXT_LINES):
            part = missing[start : start + TEXT_LINES]
            features = self._text_features([text for _, text in part])
            for (key, text), more in zip(part, features, strict=True):
                self.writer.add("text", key, text_ids=np.array(self.encoders.text(text), dtype=np.int32), **more)
            self._step(round((start + len(part)) / len(missing) * len(rows)), len(rows), "text")
        self.writer.flush("text")  # the sounds take long, and a line needs both

    def _text_features(self, texts: list[str]) -> list[dict[str, np.ndarray]]:
        if self.encoders.text_features is None:
            return [{} for _ in texts]
        return [{"text_features": half(states)} for states in self.encoders.text_features(texts)]

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
            if line.speech_key in sounds or not set(self._lacking(line)) & SOUND_STEPS:
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
            wanted = {key: sound for key, sound in sounds.items() if not self.writer.has("speech", key)}
            self._encode_speech(wanted, {self.lines[row].speech_key: row for row in rows if row in self.lines})

    @torch.inference_mode()
    def _encode_speech(self, sounds: dict[str, Sound], row_of: dict[str, int]) -> None:
        if not sounds:
            return
        rate = self.encoders.sample_rate
        wavs = [torch.from_numpy(resample(sound.wav, sound.sample_rate, rate)) for sound in sounds.values()]
        lengths = torch.tensor([len(w) for w in wavs])
        batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        f0 = track_f0(batch, rate, F0_RATE_HZ)
        made = self.encoders.speech(batch, lengths, f0) if self.encoders.ssl is None else None
        ssl = self.encoders.ssl(batch, lengths) if self.encoders.ssl is not None else None
        for b, (key, sound) in enumerate(sounds.items()):
            count = int(lengths[b]) // self.encoders.samples_per_token
            if ssl is None:
                values = {"codes": flat_codes(made[b, :count]), "codebooks": int(made.shape[2])}
                values |= self._phones(made[b, :count], row_of[key])
            else:
                values = {"ssl": half(ssl[b, :count].cpu().numpy())}
            frames = int(lengths[b]) * F0_RATE_HZ // rate
            contour = f0[b, :frames].numpy().astype(np.float32)
            self.writer.add("speech", key, seconds=float(sound.seconds), **values, f0=contour)

    def _phones(self, codes: Tensor, row: int) -> dict[str, str]:
        """The phone of each frame of codes [T, K], where the source knows what was said. Features that an earlier
        version began without phones go on without."""
        if self._has_phones is None:
            earlier = self.writer.read("speech")
            self._has_phones = not len(earlier) or "phones" in earlier.columns
        if not self._has_phones:
            return {}
        spelled = self.source.phones(row) if self.encoders.phones else None
        return {"phones": " ".join(self.encoders.phones(codes, spelled)) if spelled else ""}

    def _encode_codes(self, rows: Sequence[int]) -> set[int]:
        """Codes of what the speech step wrote; the rows of which it has written nothing yet."""
        if "speech" in self.writer.steps:
            self.writer.flush("speech")
        store = self.writer.read("speech")
        waiting: set[int] = set()
        places = {key: number for number, key in enumerate(store.keys())}
        self._step(0, len(rows), CODES)
        for number, row in enumerate(rows, start=1):
            line = self.lines[row]
            if line.speech_key not in places:
                waiting.add(row)
            elif not self.writer.has(CODES, line.codes_key):
                codes = self._codes_of(store.row(places[line.speech_key], ("ssl", "f0")))
                self.writer.add(CODES, line.codes_key, codes=flat_codes(codes), codebooks=int(codes.shape[1]))
            if number % LOOK_LINES == 0 or number == len(rows):
                self._step(number, len(rows), CODES)
        if len(waiting) == len(rows) == len(self.lines):
            raise UserError(
                "codes_before_features",
                "None of the {count} clips has the features that codes are made of; extract them first, with the same "
                "preset: tools.extract --only speech",
                count=len(rows),
            )
        if waiting:
            self.report.skipped["no features for codes yet"] += len(waiting)
        return waiting

    @torch.inference_mode()
    def _codes_of(self, values: dict[str, np.ndarray]) -> Tensor:
        """Codes [T, K] of one recording."""
        ssl = torch.from_numpy(values["ssl"].reshape(-1, self.encoders.feature_dim).astype(np.float32))
        return self.encoders.codes(ssl[None], torch.from_numpy(values["f0"])[None])[0]


def _pcm(sound: Sound, audio: AudioConfig) -> np.ndarray:
    """The clip at the decoder's rate and loudness, int16 [S]."""
    wav = torch.from_numpy(resample(sound.wav, sound.sample_rate, audio.sample_rate))
    level = normalize(wav, audio.sample_rate, audio.loudness_lufs, audio.true_peak_db)
    return (level.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)
