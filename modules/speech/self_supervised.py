"""Features of self-supervised speech encoders (HuBERT and its kin) at 50 Hz.

Frame t stands for samples [320 t, 320 t + 320): zeros at both ends of a clip make the encoder's frames, whose windows
are longer than their hop, start and end with the clip, so S samples give exactly S // 320 frames. HuBERT's
convolutions see 400 samples, hence 40 zeros at each end, after the clip was normalised. w2v-bert reads pairs of 25 ms
frames 10 ms apart, 560 samples, hence 120 zeros at each end of the wav.

What surrounds a clip in a batch must not change it. Networks with layer norms get a mask; one with a group norm, which
averages over time, was trained without masks and gets its clips one by one.

Shapes: B batch, S samples, F feature frames, D width of the features, C channels that the network reads.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.checkpoint import file_hash
from modules.speech.windows import OVERLAP_SECONDS, WINDOW_SECONDS, Window, plan_windows

SAMPLE_RATE_HZ = 16000
RATE_HZ = 50
HOP = SAMPLE_RATE_HZ // RATE_HZ
SHORTEST = SAMPLE_RATE_HZ // 10
"""Shorter clips are zero-extended to 0.1 s: one frame alone has no variance, and the convolutions need 400 samples."""
HUBERT_MARGIN = 40
BERT_MARGIN = 120
BATCH_FRAMES = 4 * WINDOW_SECONDS * RATE_HZ
"""Frames, padding included, that go through a masked network at once."""


class SelfSupervised(nn.Module):
    """A frozen encoder, cut off above the layer that is read. Always float32, on a GPU too, where convolutions would
    otherwise run in TF32; always in eval mode.

    Args:
        model: `transformers` HubertModel or Wav2Vec2BertModel with that many layers and no more.
        fbank: what turns one wav into the network's input (w2v-bert: `SeamlessM4TFeatureExtractor`); None where the
            network reads the wav.
        normalise: whether a wav gets zero mean and unit variance.
        weights: the file that the weights came from; None where they are random.
        layer: which hidden state `model` gives; 0 = before the first transformer layer.
    """

    sample_rate = SAMPLE_RATE_HZ
    rate_hz = RATE_HZ

    def __init__(
        self,
        model: nn.Module,
        layer: int,
        *,
        fbank: Callable | None = None,
        normalise: bool = True,
        weights: Path | None = None,
    ):
        super().__init__()
        self.model, self.layer, self.fbank, self.normalise, self.weights = model, layer, fbank, normalise, weights
        self.dim: int = model.config.hidden_size
        self.masked = fbank is not None or model.config.feat_extract_norm == "layer"
        # Input units of a frame, and those that the network's windows reach beyond the frames of a stretch.
        self.hop, self.reach = (HOP, 2 * HUBERT_MARGIN) if fbank is None else (1, 0)
        self.float().requires_grad_(False).train(False)

    @property
    def identity(self) -> str:
        """What decides the features: hash of the weights, layer and preparation; the same in every process."""
        weights = "random" if self.weights is None else _hash_of(self.weights)
        told = f"{weights} layer {self.layer} normalised {self.normalise} fbank {self.fbank is not None}"
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> "SelfSupervised":
        """Stays in eval mode: in train mode such encoders mask and skip at random."""
        return super().train(False)

    @torch.no_grad()
    def features(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The hidden state that was chosen.

        Args:
            wav: [B, S] at 16 kHz; lengths: [B] samples, None for full rows.

        Returns:
            [B, F, D] float32 on the encoder's device, F = S // 320; zero from a row's lengths // 320 on. Clips over
            30 s go through in windows (see modules/speech/windows.py).
        """
        counts = [wav.shape[1]] * len(wav) if lengths is None else [min(int(n), wav.shape[1]) for n in lengths]
        out = torch.zeros(len(wav), wav.shape[1] // HOP, self.dim, device=self.device)
        with torch.autocast(self.device.type, enabled=False), _exact_convolutions(self.device):
            real = [(b, n) for b, n in enumerate(counts) if n >= HOP]
            inputs = {b: self._prepare(wav[b, :n].float()) for b, n in real}
            stretches = [
                (b, window)
                for b, n in real
                for window in plan_windows(n // HOP, WINDOW_SECONDS * RATE_HZ, OVERLAP_SECONDS * RATE_HZ)
            ]
            for group in self._groups(stretches):
                states = self._run([self._cut(inputs[b], window, counts[b] // HOP) for b, window in group])
                for (b, window), state in zip(group, states, strict=True):
                    kept = state[window.keep_start - window.start : window.keep_stop - window.start]
                    out[b, window.keep_start : window.keep_stop] = kept
        return out

    def _prepare(self, wav: Tensor) -> Tensor:
        """A real clip [S] -> what the network reads of it, with its margins: [units] or [units, C]."""
        if self.fbank is not None:
            wav = _extend(wav, SHORTEST)
            sound = nn.functional.pad(wav, (BERT_MARGIN, BERT_MARGIN)).cpu().numpy()
            pairs = self.fbank(sound, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"][0]
            # An odd frame at the end was given a partner of padding.
            return pairs[: len(wav) // HOP].float().to(self.device)
        wav = wav.to(self.device)
        if self.normalise:
            wav = (wav - wav.mean()) / (wav.var(correction=0) + 1e-7).sqrt()
        return nn.functional.pad(_extend(wav, SHORTEST), (HUBERT_MARGIN, HUBERT_MARGIN))

    def _cut(self, units: Tensor, window: Window, frames: int) -> Tensor:
        """The network's input for a window of a clip of so many frames. The last one also holds what makes no frame."""
        stop = len(units) if window.stop == frames else window.stop * self.hop + self.reach
        return units[window.start * self.hop : stop]

    def _groups(self, stretches: list[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
        """Stretches that go through the network together."""
        group: list[tuple[int, Window]] = []
        longest = 0
        for stretch in stretches:
            longest = max(longest, stretch[1].stop - stretch[1].start)
            if group and (not self.masked or longest * (len(group) + 1) > BATCH_FRAMES):
                yield group
                group, longest = [], stretch[1].stop - stretch[1].start
            group.append(stretch)
        if group:
            yield group

    def _run(self, inputs: list[Tensor]) -> Tensor:
        """Inputs of some stretches -> states [stretches, frames, D], of which the padded ones mean nothing."""
        batch = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        mask = None
        if self.masked:
            sizes = torch.tensor([len(units) for units in inputs], device=batch.device)
            mask = (torch.arange(batch.shape[1], device=batch.device) < sizes[:, None]).long()
        return self.model(batch, attention_mask=mask).last_hidden_state


def _exact_convolutions(device: torch.device) -> AbstractContextManager:
    """Inside, cuDNN keeps all bits of float32. Matrix products keep them unless somebody asked otherwise."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)


def _extend(wav: Tensor, samples: int) -> Tensor:
    return nn.functional.pad(wav, (0, max(0, samples - len(wav))))


def _hash_of(path: Path) -> str:
    """Hash of a file, computed once per process and version of the file: these files are gigabytes."""
    facts = path.stat()
    return _remembered_hash(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _remembered_hash(path: Path, size_bytes: int, changed_ns: int) -> str:
    return file_hash(path)
