"""Ears that every installation has: what is said, in whose voice, and how near a sound is to a recording.

They are the built-in models' own, the same for everything that is compared, and need nothing but the runtime. They know
less than those of `tools.evaluate`, and tell trainings of one voice apart, not systems.

Shapes: S samples, M mel bands, T frames, H hidden, C cepstral coefficients.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.audio.loudness import normalize
from modules.audio.resample import resample
from modules.audio.spectral import LogMel
from modules.corpus.phones import PAUSE
from modules.inference.parts import VITS2_FILE
from modules.speech.hearing import load_hearing
from modules.speech.train import edit_distance, greedy_labels
from modules.vits2.model import load_vits2

OFFSETS = 4
"""Where the token frames fall changes what is heard; each sound is heard with them at this many places."""
STRANGE = 0.4
"""Mean distance of the encoder's states along the best alignment of two unlike sentences."""
ANALYSIS_HZ = 32000
SPEECH_SHARE = 0.7
"""Share of frames, the loudest, that count as speech."""
# Mean and deviation of the cepstra of 400 speakers of 60 languages, one recording each at -23 LUFS.
_CEPSTRUM_MEAN = (
    1.395, -0.341, 0.397, -0.101, 0.063, -0.091, -0.038, -0.058, -0.080, -0.038, -0.034, -0.066,
    -0.011, -0.060, -0.014, -0.018, -0.040, -0.026, -0.030, -0.025, -0.031, -0.037, -0.022, -0.030,
)  # fmt: skip
_CEPSTRUM_DEVIATION = (
    0.422, 0.369, 0.232, 0.185, 0.129, 0.114, 0.145, 0.125, 0.121, 0.077, 0.067, 0.056,
    0.056, 0.058, 0.047, 0.052, 0.041, 0.043, 0.046, 0.043, 0.035, 0.031, 0.032, 0.033,
)  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """What is said in a sound: phone labels at each offset where the recognition head is there, else the encoder's
    states [T, H] of unit length."""

    labels: tuple[list[int], ...] = ()
    states: np.ndarray | None = None


class Ears:
    """Hears sounds with the built-in speech tokenizer and style encoder of a model folder, on the CPU.

    The recognition head lies in the folder's weights, or in the folder beside it whose name ends in "-training", as
    `tools.ship` leaves it. Without it the encoder's states are compared instead.

    Args:
        models: model folder.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage.
    """

    def __init__(self, models: Path):
        self.tokenizer = load_hearing(models)
        decoder = load_vits2(models / VITS2_FILE)
        self._audio, self._style, self._style_mel = decoder.audio, decoder.style_encoder, decoder.mel
        self.sample_rate: int = decoder.audio.sample_rate
        self._mel = LogMel(ANALYSIS_HZ, 2048, 640, 80)

    @property
    def heard_by(self) -> str:
        """ "phones" with the recognition head, "states" without."""
        return "phones" if self.tokenizer.labels else "states"

    @torch.inference_mode()
    def hear(self, wav: np.ndarray) -> Heard:
        """What is said in wav [S] at `sample_rate`, at least 0.2 s."""
        narrow = resample(wav, self.sample_rate, self.tokenizer.sample_rate)
        step = self.tokenizer.samples_per_token // OFFSETS
        count = OFFSETS if self.tokenizer.labels else 1
        lengths = torch.tensor([len(narrow) - i * step for i in range(count)])
        rows = torch.zeros(count, len(narrow))
        for i in range(count):
            rows[i, : lengths[i]] = torch.from_numpy(narrow[i * step :])
        mel, tokens = self.tokenizer.mels(rows, lengths)
        if self.tokenizer.labels:
            labels = greedy_labels(self.tokenizer(mel, tokens).logits, tokens * 2)
            return Heard(labels=tuple([x for x in row if x != self._pause] for row in labels))
        states = self.tokenizer.hidden(mel, tokens)[0][0]
        states = states - states.mean(0)
        return Heard(states=(states / states.norm(dim=1, keepdim=True).clamp_min(1e-6)).numpy())

    @torch.inference_mode()
    def codes(self, wav: np.ndarray) -> Tensor:
        """Speech tokens [T, K] of wav [S], as extraction makes them."""
        narrow = resample(wav, self.sample_rate, self.tokenizer.sample_rate)
        return self.tokenizer.encode(torch.from_numpy(narrow)[None])[0]

    def phone_error(self, heard: Heard, truth: Heard) -> float:
        """0..1: how much of what is said differs from the recording.

        Edits between their phones over the phones of the longer one, a mean over all pairs of offsets; two sentences
        that have nothing in common reach about 0.85. Without the recognition head: the distance of the encoder's
        states along the best alignment, relative to that of unlike sentences.
        """
        if heard.states is not None and truth.states is not None:
            return min(1.0, _aligned_distance(heard.states, truth.states) / STRANGE)
        rates = [edit_distance(a, b) / max(1, len(a), len(b)) for a in heard.labels for b in truth.labels]
        return float(np.mean(rates))

    @torch.inference_mode()
    def voice(self, wav: np.ndarray) -> np.ndarray:
        """Print of a voice, [2, max(C, H)]: the style vector, and the mean cepstrum (Furui, 1981) in deviations of
        many speakers, each of unit length. Two prints are compared by `likeness`."""
        level = self._levelled(wav)
        style = self._style(self._style_mel(level[None]))[0].numpy()
        mel = self._analysed(level)
        cepstrum = _cosines(mel.shape[0]) @ _speech(mel, mel).mean(1) / mel.shape[0]
        cepstrum = (cepstrum.numpy() - np.array(_CEPSTRUM_MEAN)) / np.array(_CEPSTRUM_DEVIATION)
        width = max(len(style), len(cepstrum))
        return np.stack([_unit(np.pad(part, (0, width - len(part)))) for part in (style, cepstrum)])

    def mel_distance(self, wav: np.ndarray, truth: np.ndarray) -> float:
        """Mean difference of log-mels of two sounds [S] that run in step, where the second one speaks; nepers."""
        ours, theirs = (self._analysed(self._levelled(x)) for x in (wav, truth))
        width = min(ours.shape[1], theirs.shape[1])
        difference = (ours[:, :width] - theirs[:, :width]).abs()
        return float(_speech(difference, theirs[:, :width]).mean())

    @cached_property
    def _pause(self) -> int:
        """Label of silence; -1 when there is none."""
        labels = self.tokenizer.labels
        return labels.index(PAUSE) + 1 if PAUSE in labels else -1

    def _levelled(self, wav: np.ndarray) -> Tensor:
        audio = self._audio
        return normalize(torch.from_numpy(wav), self.sample_rate, audio.loudness_lufs, audio.true_peak_db)

    def _analysed(self, wav: Tensor) -> Tensor:
        """[M, T] of one resolution for all presets."""
        return self._mel(torch.from_numpy(resample(wav.numpy(), self.sample_rate, ANALYSIS_HZ))[None])[0]


def likeness(voice: np.ndarray, voices: list[np.ndarray]) -> float:
    """Cosine of a voice's print to the mean of others, -1..1: the mean of its two parts."""
    centre = np.mean(voices, axis=0)
    return float(np.mean([part @ _unit(other) for part, other in zip(voice, centre, strict=True)]))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _speech(values: Tensor, mel: Tensor) -> Tensor:
    """The frames of values [M, T] in which mel [M, T] is loudest."""
    level = mel.mean(0)
    return values[:, level >= torch.quantile(level, 1 - SPEECH_SHARE)]


def _cosines(bands: int) -> Tensor:
    """Cosine transform [C, M] without the level."""
    order = torch.arange(1, len(_CEPSTRUM_MEAN) + 1)[:, None]
    return torch.cos(math.pi * order * (torch.arange(bands) + 0.5) / bands)


def _aligned_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean (1 - cosine) / 2 of states [T, H] along the cheapest alignment (time warping, Sakoe and Chiba 1978)."""
    cost = (1 - a @ b.T) / 2
    row = np.cumsum(cost[0])
    for i in range(1, len(a)):
        # What can be reached from the row before; the way along the row itself is followed one by one.
        reached = np.minimum(row, np.concatenate([[np.inf], row[:-1]])) + cost[i]
        row = reached.copy()
        for j in range(1, len(b)):
            row[j] = min(reached[j], row[j - 1] + cost[i, j])
    return float(row[-1] / max(len(a), len(b)))
