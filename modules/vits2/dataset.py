"""Training examples of the decoder: a random window of an utterance, and other speech of the same speaker for style.

Shapes: B batch, S samples, T decoder frames, K codebooks, U text units, F text features.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.audio.augmentation import AugmentOptions, augment
from modules.audio.effects import same_level
from modules.config import AudioConfig, SpeechTokenizerConfig, TextConfig
from modules.data.batching import map_tensors, pad_stack
from modules.data.columns import Rows
from modules.data.fit import check_text_features
from modules.errors import UserError
from modules.speech.grouped import PROSODY_STREAM, stream_sizes
from modules.speech.prosody import F0_FRAME_RATE_HZ, encode_prosody, median_f0

SYNTHETIC = "synthetic"
MIN_SECONDS = 0.6
BABBLERS = 3
TEXT_MULTIPLE = 16


@dataclass(frozen=True)
class Example:
    """One item; lengths belong together: wav covers `frames`, codes tokens and f0 points of the same window."""

    wav: np.ndarray  # float32 [S]
    codes: np.ndarray  # int64 [tokens, K]
    f0: np.ndarray  # float32 [points at 100 Hz]
    median_f0_hz: float  # of the whole utterance
    text_ids: np.ndarray  # int64 [U], of the whole utterance
    style_wav: np.ndarray  # float32 [samples], same speaker, other sound
    ssl: np.ndarray | None = None  # float16 [features, dim] of the window, for tokens that are learned here
    text_features: np.ndarray | None = None  # float16 [U, F], for decoders that read them


@dataclass(frozen=True)
class DecoderBatch:
    """Padded examples: wav [B, S], frames [B], codes [B, tokens, K], f0 [B, points], median_f0_hz [B],
    text_ids [B, U], text_lengths [B], style_wav [B, samples], style_samples [B].

    With ssl [B, features, dim] the content streams of `codes` are 0: the decoder's quantiser finds them.
    text_features [B, U, F] stand beside the ids where the decoder reads them."""

    wav: Tensor
    frames: Tensor
    codes: Tensor
    f0: Tensor
    median_f0_hz: Tensor
    text_ids: Tensor
    text_lengths: Tensor
    style_wav: Tensor
    style_samples: Tensor
    ssl: Tensor | None = None
    text_features: Tensor | None = None

    def to(self, device: torch.device) -> "DecoderBatch":
        """The same batch on another device."""
        return map_tensors(self, lambda tensor: tensor.to(device))


class DecoderDataset:
    """Windows of the utterances of one split; rows are read from the memory-mapped stores when asked for.

    The style never comes from the window itself, or the style encoder would learn to carry content: it comes from
    other utterances of the speaker, several joined, and from the rest of the same clip where there is no other.

    Args:
        stores: feature stores with audio.
        audio: rate and hop of the decoder.
        split: "train" or "dev".
        window_seconds: longest window; shorter clips are taken whole.
        style_seconds: least and most style audio; the length is drawn between them.
        token_rate: tokens per second.
        tokenizer: of the tokens; only the form "grouped" is asked for. Where every store has features for it (column
            ssl), the items carry these instead of codes, so that the decoder's quantiser can learn.
        text: how the decoder reads text; where by features, the items carry them (column text_features). Columns that
            the items do not need are not read.
        degrade_style: what may happen to the style audio, and to nothing else: a telephone's style is then learned to
            give the clean target. None leaves it alone.

    Raises:
        UserError: no_audio_rows when no row of the split has audio, no_ssl_features when a store has neither features
            nor codes for the tokenizer, no_text_features when the decoder reads text features and a store lacks them.
    """

    def __init__(
        self,
        stores: Sequence[Rows],
        audio: AudioConfig,
        split: str = "train",
        window_seconds: float = 2.0,
        style_seconds: tuple[float, float] = (2.5, 6.0),
        token_rate: float = 25.0,
        tokenizer: SpeechTokenizerConfig | None = None,
        text: TextConfig | None = None,
        degrade_style: AugmentOptions | None = None,
    ):
        self.stores, self.audio, self.style_seconds = list(stores), audio, style_seconds
        self.degrade_style = degrade_style
        self.samples_per_token = round(audio.sample_rate / token_rate)
        self.points_per_token = round(F0_FRAME_RATE_HZ / token_rate)
        self.window_tokens = int(window_seconds * token_rate) // 2 * 2
        self.learned = tokenizer if tokenizer is not None and _has_features(self.stores, tokenizer) else None
        self.features_per_token = self.learned.grouped.feature_rate // self.learned.frame_rate if self.learned else 0
        self.text_dim = text.feature_dim if text is not None and text.features != "embedding" else 0
        if self.text_dim:
            check_text_features(self.stores, self.text_dim)
        self._columns = ("audio", "f0", "text_ids", *(("ssl",) if self.learned else ("codes", "codebooks")))
        self._columns += ("text_features",) if self.text_dim else ()
        self.rows: list[tuple[int, int]] = []
        self.samples: list[int] = []
        self.speakers: list[str] = []
        self.synthetic: list[bool] = []
        for number, store in enumerate(self.stores):
            self._take(number, store, split)
        if not self.rows:
            raise UserError(
                "no_audio_rows", "The feature stores hold no {split} clips with audio; extract them first.", split=split
            )
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        for index, speaker in enumerate(self.speakers):
            self.by_speaker[speaker].append(index)

    def _take(self, number: int, store: Rows, split: str) -> None:
        split_of, splits = store.labels("split")
        samples = store.lengths("audio")
        rows = np.flatnonzero((splits == split)[split_of] & (samples >= MIN_SECONDS * self.audio.sample_rate))
        source_of, sources = store.labels("source")
        speaker_of, speakers = store.labels("speaker")
        names = np.array([[f"{source}:{name}" for name in speakers] for source in sources], dtype=object)
        self.rows += [(number, row) for row in rows.tolist()]
        self.samples += samples[rows].tolist()
        self.speakers += names[source_of[rows], speaker_of[rows]].tolist() if len(rows) else []
        self.synthetic += (sources == SYNTHETIC)[source_of[rows]].tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: int, rng: np.random.Generator) -> Example:
        """A window of utterance `index`; every choice comes from `rng`."""
        number, row = self.rows[index]
        values = self.stores[number].row(row, self._columns)
        audio, f0 = values["audio"], np.asarray(values["f0"], np.float32)
        codes, ssl = self._tokens(values, f0)
        tokens = min(len(codes), len(audio) // self.samples_per_token)
        style = self._style_of_others(index, rng)
        if style is None:
            start, length, style = self._split_clip(audio, tokens, rng)
        else:
            length = min(self.window_tokens, tokens)
            start = int(rng.integers(0, tokens - length + 1))
        wav = audio[start * self.samples_per_token : (start + length) * self.samples_per_token]
        contour = f0[start * self.points_per_token : (start + length) * self.points_per_token]
        contour = np.pad(contour, (0, length * self.points_per_token - len(contour)))
        return Example(
            wav=_to_float(wav),
            codes=codes[start : start + length],
            f0=contour,
            median_f0_hz=float(median_f0(torch.from_numpy(f0)[None])[0]) if len(f0) else 0.0,
            text_ids=np.asarray(values["text_ids"], np.int64),
            style_wav=self._degraded(style, rng),
            ssl=ssl[start * self.features_per_token :][: length * self.features_per_token] if self.learned else None,
            text_features=values["text_features"].reshape(-1, self.text_dim) if self.text_dim else None,
        )

    def _tokens(self, values: dict[str, Any], f0: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Codes int64 [tokens, K] of an utterance, and the features [tokens * n, dim] that they are yet to be made of;
        of such codes only the prosody stream is there."""
        if self.learned is None:
            return np.asarray(values["codes"], np.int64).reshape(-1, int(values["codebooks"])), None
        ssl = np.asarray(values["ssl"]).reshape(-1, self.learned.grouped.feature_dim)
        codes = np.zeros((len(ssl) // self.features_per_token, len(stream_sizes(self.learned))), np.int64)
        levels = self.learned.prosody_levels
        if levels and len(f0):
            prosody = encode_prosody(torch.from_numpy(f0)[None], levels, self.points_per_token)[0].numpy()
            codes[: len(prosody), PROSODY_STREAM] = prosody[: len(codes)]
        return codes, ssl

    def _style_of_others(self, index: int, rng: np.random.Generator) -> np.ndarray | None:
        """Pieces of other utterances of the speaker, joined; None when there is no other."""
        mates = self.by_speaker[self.speakers[index]]
        if len(mates) < 2:
            return None
        wanted = int(rng.uniform(*self.style_seconds) * self.audio.sample_rate)
        pieces, have = [], 0
        for position in rng.permutation(len(mates))[:8]:
            mate = mates[position]
            if mate == index:
                continue
            number, row = self.rows[mate]
            piece = self.stores[number].row(row, ("audio",))["audio"]
            take = min(len(piece), wanted - have)
            start = int(rng.integers(0, len(piece) - take + 1))
            pieces.append(piece[start : start + take])
            have += take
            if wanted - have < self.audio.sample_rate // 4:
                break
        return _to_float(np.concatenate(pieces))

    def _degraded(self, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Style audio as a poor recording has it, perhaps; at its own level, as references are normalised in use."""
        if self.degrade_style is None:
            return style
        return same_level(augment(style, self.audio.sample_rate, self.degrade_style, rng, self._voices), style)

    def _voices(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The sound of a few clips, whichever."""
        chosen = (self.rows[int(i)] for i in rng.integers(len(self.rows), size=BABBLERS))
        return [_to_float(self.stores[number].row(row, ("audio",))["audio"]) for number, row in chosen]

    def _split_clip(self, audio: np.ndarray, tokens: int, rng: np.random.Generator) -> tuple[int, int, np.ndarray]:
        """Start and length of a window in one half of a lonely clip, and the other half for style."""
        half = tokens // 2
        length = max(1, min(self.window_tokens, half))
        middle = half * self.samples_per_token
        limit = int(self.style_seconds[1] * self.audio.sample_rate)
        if rng.random() < 0.5:
            start = int(rng.integers(0, half - length + 1)) if half >= length else 0
            return start, length, _to_float(audio[middle : middle + limit])
        start = half + int(rng.integers(0, tokens - half - length + 1))
        return start, length, _to_float(audio[max(0, middle - limit) : middle])

    def collate(self, examples: list[Example]) -> DecoderBatch:
        """Pad to the window (so that shapes repeat), style and text to the longest."""
        tokens = [len(e.codes) for e in examples]
        width = self.window_tokens
        frames_per_token = self.samples_per_token // self.audio.hop_length
        style, style_samples = pad_stack([e.style_wav for e in examples])
        longest = max(len(e.text_ids) for e in examples)
        bounds = [-(-max(longest, 1) // TEXT_MULTIPLE) * TEXT_MULTIPLE]
        text, text_lengths = pad_stack([e.text_ids for e in examples], bounds)
        return DecoderBatch(
            wav=pad_stack([e.wav for e in examples], [width * self.samples_per_token])[0],
            frames=torch.tensor(tokens) * frames_per_token,
            codes=pad_stack([e.codes for e in examples], [width])[0],
            f0=pad_stack([e.f0 for e in examples], [width * self.points_per_token])[0],
            median_f0_hz=torch.tensor([e.median_f0_hz for e in examples], dtype=torch.float32),
            text_ids=text,
            text_lengths=text_lengths,
            style_wav=style,
            style_samples=style_samples,
            ssl=pad_stack([e.ssl for e in examples], [width * self.features_per_token])[0] if self.learned else None,
            text_features=pad_stack([e.text_features for e in examples], bounds)[0] if self.text_dim else None,
        )


class BalancedSampler:
    """Batches of fixed size, drawn with replacement so that neither big speakers nor the synthetic share dominate.

    A speaker's weight is the root of its number of clips; the synthetic clips together get `synthetic_share`.

    Args:
        dataset: what is drawn from.
        batch_size: items per batch.
        synthetic_share: 0..1; ignored when only one kind is there. Negative: as the data have it.
        seed: of the order, and of the loader's random choices.
    """

    def __init__(self, dataset: DecoderDataset, batch_size: int, synthetic_share: float = 0.3, seed: int = 0):
        self.seed, self.batch_size = seed, batch_size
        self.probabilities = clip_probabilities(dataset.speakers, dataset.synthetic, synthetic_share)
        self._edges = _edges(self.probabilities)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: as many draws as there are clips, at least 16 batches."""
        count = max(16, len(self.probabilities) // self.batch_size)
        rng = np.random.default_rng((self.seed, epoch))
        # Without replacement inside a batch where possible: the generator of an item is (seed, epoch, index).
        replace = np.count_nonzero(self.probabilities) < self.batch_size
        return [draw(rng, self.probabilities, self._edges, self.batch_size, replace) for _ in range(count)]

    def cost(self, batch: np.ndarray) -> float:
        """Items of a batch; all are padded to one window."""
        return float(len(batch))


def draw(
    rng: np.random.Generator, probabilities: np.ndarray, edges: np.ndarray, count: int, replace: bool
) -> np.ndarray:
    """What `rng.choice(len(probabilities), count, replace=replace, p=probabilities)` gives, number for number, without
    adding up all probabilities for each draw: `edges` are their sums so far, scaled to end at 1."""
    if replace:
        return edges.searchsorted(rng.random(count), side="right")
    found = np.zeros(0, np.int64)
    while len(found) < count:
        values = rng.random(count - len(found))
        if len(found):  # rare: two fell on one item, so what is found is taken out and the rest drawn again
            left = probabilities.copy()
            left[found] = 0
            edges = _edges(left)
        fresh = edges.searchsorted(values, side="right")
        found = np.concatenate([found, fresh[np.sort(np.unique(fresh, return_index=True)[1])]])
    return found


def _edges(probabilities: np.ndarray) -> np.ndarray:
    sums = np.cumsum(probabilities)
    return sums / sums[-1]


def clip_probabilities(speakers: Sequence[str], synthetic: Sequence[bool], synthetic_share: float) -> np.ndarray:
    """Chance of each clip: speaker weight = clips ** 0.5, then the two kinds scaled to their shares. Sums to 1."""
    _, inverse, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    weights = counts[inverse] ** -0.5
    kind = np.asarray(synthetic, bool)
    if kind.any() and not kind.all() and synthetic_share >= 0:
        weights[kind] *= synthetic_share / weights[kind].sum()
        weights[~kind] *= (1 - synthetic_share) / weights[~kind].sum()
    return weights / weights.sum()


def _has_features(stores: Sequence[Rows], tokenizer: SpeechTokenizerConfig) -> bool:
    """Whether tokens are to be made of features; stores without any must hold finished codes of the tokenizer."""
    grouped = tokenizer.form == "grouped"
    if grouped and all("ssl" in store.columns for store in stores):
        return True
    for store in stores:
        if len(store) and not _has_codes(store, len(stream_sizes(tokenizer)) if grouped else 0):
            raise UserError(
                "no_ssl_features",
                "The feature store {store} holds neither self-supervised features nor codes of this preset's tokens; "
                "extract them first.",
                store=store.folder,
            )
    return False


def _has_codes(store: Rows, streams: int) -> bool:
    """Whether a store holds codes, of so many streams where that is known (0: any)."""
    if not {"codes", "codebooks"} <= set(store.columns):
        return False
    return not streams or store.row(0, ("codebooks",))["codebooks"] == streams


def _to_float(pcm: np.ndarray) -> np.ndarray:
    return pcm.astype(np.float32) / 32768.0
