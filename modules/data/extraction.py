"""Recordings to features: text ids, speech tokens, f0 and loudness-normalised audio.

The encoders are handed in, so this room knows none of them. Rows are batched by length; a row that is
already in the output under the same key (content hash and encoder hash) is not done again, and a row that
cannot be read is reported and left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modules.audio.loudness import normalize
from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.config import AudioConfig
from modules.data.store import StoreWriter, entry_key
from modules.errors import Stopped, UserError

F0_RATE_HZ = 100


class Source(Protocol):
    """What is extracted: a corpus store, or `modules.data.recordings.Recordings`.

    A row has key, audio (int16, or float32 from -1 to 1), sample_rate, seconds, speaker, language, split, text and
    source; reading one may raise a UserError that names the file.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> dict[str, Any]: ...
    def column(self, name: str) -> list[Any]: ...


@dataclass(frozen=True)
class Encoders:
    """What extraction needs: `text(str) -> ids`, `speech(wav [B,S], lengths [B], f0) -> codes [B,T,K]`, the
    speech encoder's rates, and a hash that changes when any of the encoders does."""

    text: Callable[[str], list[int]]
    speech: Callable[[Tensor, Tensor, Tensor], Tensor]
    sample_rate: int
    samples_per_token: int
    hash: str


@dataclass(frozen=True)
class ExtractOptions:
    """Choices of a run: keep audio, at most `limit` rows a language (0 = all), batch size in seconds, clip
    lengths accepted, and the share of this process (`rank` of `world`)."""

    keep_audio: bool = True
    limit: int = 0
    batch_seconds: float = 60.0
    min_seconds: float = 0.4
    max_seconds: float = 20.0
    rank: int = 0
    world: int = 1


@dataclass
class ExtractReport:
    """Counts of a run; `skipped` maps a reason to the number of clips, `keys` are those of all rows of the source."""

    done: int = 0
    already: int = 0
    seconds: float = 0.0
    skipped: Counter = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)


def extract(
    corpus: Source,
    writer: StoreWriter,
    encoders: Encoders,
    audio: AudioConfig,
    options: ExtractOptions,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_reject: Callable[[int, str], None] | None = None,
) -> ExtractReport:
    """Fill `writer` with the features of a source.

    Args:
        on_progress: gets the rows done and all rows.
        on_reject: gets the number of a row that was left out, and why.

    Raises:
        Stopped: `should_stop` answered true; finished shards stay.
    """
    report = ExtractReport()
    reject = on_reject or (lambda row, reason: None)
    rows = _choose(corpus, options, report, reject)
    finished = 0
    for batch in _batches(corpus, rows, options):
        if should_stop is not None and should_stop():
            raise Stopped
        _extract_batch(_read(corpus, batch, report, reject), writer, encoders, audio, options, report)
        finished += len(batch)
        if on_progress is not None:
            on_progress(finished, len(rows))
    return report


def _choose(
    corpus: Source, options: ExtractOptions, report: ExtractReport, reject: Callable[[int, str], None]
) -> list[int]:
    taken: Counter = Counter()
    rows = []
    columns = (corpus.column("seconds"), corpus.column("language"), corpus.column("split"))
    low, high = options.min_seconds, options.max_seconds
    for row, (seconds, language, split) in enumerate(zip(*columns, strict=True)):
        # A length of 0 is that of a file that could not be probed: reading it tells why.
        if seconds > 0 and not low <= seconds <= high:
            report.skipped["too short or too long"] += 1
            reject(row, f"{seconds:.1f} s long; clips of {low:g} to {high:g} s are used")
        elif not options.limit or taken[language, split] < options.limit:
            taken[language, split] += 1
            rows.append(row)
    return rows[options.rank :: options.world]


def _read(
    corpus: Source, batch: Sequence[int], report: ExtractReport, reject: Callable[[int, str], None]
) -> list[dict[str, Any]]:
    """The rows of a batch that can be read."""
    items = []
    for row in batch:
        try:
            items.append(corpus[row])
        except UserError as cause:
            report.skipped[cause.code] += 1
            reject(row, str(cause))
    return items


def _batches(corpus: Source, rows: Sequence[int], options: ExtractOptions) -> Iterator[list[int]]:
    """Neighbouring lengths together, within windows, so that reading stays local and memory bounded."""
    seconds = corpus.column("seconds")
    for start in range(0, len(rows), 512):
        window = sorted(rows[start : start + 512], key=lambda row: seconds[row])
        batch: list[int] = []
        for row in window:
            if batch and (len(batch) + 1) * seconds[row] > options.batch_seconds:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


@torch.inference_mode()
def _extract_batch(
    items: list[dict],
    writer: StoreWriter,
    encoders: Encoders,
    audio: AudioConfig,
    options: ExtractOptions,
    report: ExtractReport,
) -> None:
    fresh, seen = [], set()
    for item in items:
        key = entry_key(item["key"], encoders.hash, str(options.keep_audio))
        if writer.has(key):
            report.already += 1
        elif key in seen:
            report.skipped["the same clip again"] += 1
            continue
        else:
            fresh.append((key, item))
        seen.add(key)
        report.keys.append(key)
    if not fresh:
        return
    wavs = [
        torch.from_numpy(resample(_as_float(i["audio"]), int(i["sample_rate"]), encoders.sample_rate)) for _, i in fresh
    ]
    lengths = torch.tensor([len(w) for w in wavs])
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    f0 = track_f0(batch, encoders.sample_rate, F0_RATE_HZ)
    codes = encoders.speech(batch, lengths, f0)
    for b, (key, item) in enumerate(fresh):
        tokens = int(lengths[b]) // encoders.samples_per_token
        frames = int(lengths[b]) * F0_RATE_HZ // encoders.sample_rate
        writer.add(
            key,
            speaker=item["speaker"],
            language=item["language"],
            split=item["split"],
            text=item["text"],
            seconds=float(item["seconds"]),
            source=item["source"],
            text_ids=np.array(encoders.text(item["text"]), dtype=np.int32),
            codes=codes[b, :tokens].reshape(-1).numpy().astype(np.int16),
            codebooks=int(codes.shape[2]),
            audio=_pcm(item, audio) if options.keep_audio else np.zeros(0, np.int16),
            f0=f0[b, :frames].numpy().astype(np.float32),
        )
        report.done += 1
        report.seconds += float(item["seconds"])


def _pcm(item: dict, audio: AudioConfig) -> np.ndarray:
    wav = resample(_as_float(item["audio"]), int(item["sample_rate"]), audio.sample_rate)
    level = normalize(torch.from_numpy(wav), audio.sample_rate, audio.loudness_lufs, audio.true_peak_db)
    return (level.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)


def _as_float(samples: np.ndarray) -> np.ndarray:
    """16-bit or float samples [S] as float32, -1 to 1."""
    return samples.astype(np.float32) / 32768.0 if samples.dtype == np.int16 else samples
