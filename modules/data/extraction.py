"""Corpus rows to features: text ids, speech tokens, f0 and loudness-normalised audio.

The encoders are handed in, so this room knows none of them. Rows are batched by length; a row that is
already in the output under the same key (content hash and encoder hash) is not done again, and a row that
cannot be read is reported and left out.
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
from modules.data.store import FeatureStore, StoreWriter, entry_key
from modules.errors import Stopped

F0_RATE_HZ = 100


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
    """Counts of a run; `skipped` maps a reason to the number of clips."""

    done: int = 0
    already: int = 0
    seconds: float = 0.0
    skipped: Counter = field(default_factory=Counter)


def extract(
    corpus: FeatureStore,
    writer: StoreWriter,
    encoders: Encoders,
    audio: AudioConfig,
    options: ExtractOptions,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ExtractReport:
    """Fill `writer` with the features of a corpus store.

    Raises:
        Stopped: `should_stop` answered true; finished shards stay.
    """
    report = ExtractReport()
    rows = _choose(corpus, options, report)
    finished = 0
    for batch in _batches(corpus, rows, options):
        if should_stop is not None and should_stop():
            raise Stopped
        _extract_batch([corpus[i] for i in batch], writer, encoders, audio, options, report)
        finished += len(batch)
        if on_progress is not None:
            on_progress(finished, len(rows))
    return report


def _choose(corpus: FeatureStore, options: ExtractOptions, report: ExtractReport) -> list[int]:
    taken: Counter = Counter()
    rows = []
    columns = (corpus.column("seconds"), corpus.column("language"), corpus.column("split"))
    for row, (seconds, language, split) in enumerate(zip(*columns, strict=True)):
        if not options.min_seconds <= seconds <= options.max_seconds:
            report.skipped["too short or too long"] += 1
        elif not options.limit or taken[language, split] < options.limit:
            taken[language, split] += 1
            rows.append(row)
    return rows[options.rank :: options.world]


def _batches(corpus: FeatureStore, rows: Sequence[int], options: ExtractOptions) -> Iterator[list[int]]:
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
    fresh = []
    for item in items:
        key = entry_key(item["key"], encoders.hash, str(options.keep_audio))
        if writer.has(key):
            report.already += 1
        else:
            fresh.append((key, item))
    if not fresh:
        return
    wavs = [
        torch.from_numpy(
            resample(np.asarray(i["audio"], np.float32) / 32768.0, int(i["sample_rate"]), encoders.sample_rate)
        )
        for _, i in fresh
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
    wav = resample(np.asarray(item["audio"], np.float32) / 32768.0, int(item["sample_rate"]), audio.sample_rate)
    level = normalize(torch.from_numpy(wav), audio.sample_rate, audio.loudness_lufs, audio.true_peak_db)
    return (level.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)
