"""Held-out lines, made heard while a training goes on, beside the recordings that they should sound like.

Shapes: S samples, T tokens, K codebooks.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.audio.io import write
from modules.audio.pitch import track_f0
from modules.data.columns import Rows
from modules.gpt.decode import DecodeOptions, Decoder, Prompt, frame_limits
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import Part
from modules.speech.grouped import FrameVectors
from modules.speech.prosody import F0_FRAME_RATE_HZ, median_f0
from modules.training.stage import Samples
from modules.vits2.model import VITS2, load_vits2

TRUTH_FOLDER = "truth"
LONGEST_SECONDS, REFERENCE_SECONDS = 10.0, 6.0
Speak = Callable[[dict[str, Any], dict[str, Any], int], tuple[Tensor, float]]
"""Line, reference and number of the line -> wav [S], and its tokens over those of the recording (0: the same ones)."""


class SampleMaker:
    """Speaks a few lines of a dataset that a training does not see; without such lines, a few that it does.

    Each line is spoken with another clip of its speaker as the reference.

    Args:
        stores: feature stores with audio.
        count: lines, spread over the held-out ones.
        seed: of everything drawn.
    """

    def __init__(self, stores: Sequence[Rows], count: int = 4, seed: int = 0):
        self.seed = seed
        lines = [
            (store, row, split, speaker)
            for store in stores
            for row, (split, speaker, samples, seconds) in enumerate(
                zip(store.column("split"), store.column("speaker"), store.lengths("audio"), store.column("seconds"))
            )
            if samples > 0 and seconds <= LONGEST_SECONDS
        ]
        wanted = [line for line in lines if line[2] == "dev"] or [line for line in lines if line[2] == "train"]
        taken = min(count, len(wanted))
        self._lines = [wanted[i * len(wanted) // taken] for i in range(taken)]
        self._references = [self._reference(line, lines) for line in self._lines]

    def __len__(self) -> int:
        return len(self._lines)

    def from_tokens(self, model: VITS2, folder: Path) -> Samples:
        """The lines from their own tokens: what a decoder makes of them."""
        return self._make(folder, model.audio.sample_rate, functools.partial(self._decode, model))

    def from_text(self, decoder: Path, gpt: SpeechGPT, folder: Path) -> Samples:
        """The lines from their texts: what a language model says, heard through a finished decoder.

        Args:
            decoder: weights of the decoder; read anew each time, since it is needed so seldom.
        """
        vits2 = load_vits2(decoder, speaking=True).to(gpt.specials.device)
        if gpt.vector_dim is not None:
            gpt.set_vectors(FrameVectors(vits2.quantizer))
        speaking, pace = Decoder(gpt), float(gpt.statistics.get("frames_per_unit", 4.0))

        def speak(line: dict[str, Any], reference: dict[str, Any], number: int) -> tuple[Tensor, float]:
            parts = [_part(row, vits2) for row in (reference, line)]
            silent = Part(parts[1].text_ids, parts[1].codes[:0], parts[1].text_features)
            most = frame_limits(len(line["text_ids"]), pace)[1]
            options = DecodeOptions(max_frames=most, seed=self.seed + number)
            codes = speaking.generate(Prompt((parts[0], silent)), options=options).codes
            spoken = {**line, "codes": codes.cpu().numpy().reshape(-1)}
            rate = len(codes) / max(1, len(parts[1].codes))
            # The pitch that the voice moves around is known from the reference alone.
            return self._decode(vits2, spoken, reference, number, _median(reference["f0"]))[0], rate

        return self._make(folder, vits2.audio.sample_rate, speak)

    def _make(self, folder: Path, sample_rate: int, speak: Speak) -> Samples:
        items, rates = [], []
        for number, ((store, row, _, _), reference) in enumerate(zip(self._lines, self._references, strict=True)):
            line = store.row(row)
            wav, rate = speak(line, reference, number)
            truth = torch.from_numpy(_to_float(line["audio"]))
            rates.append(rate)
            items.append(_write(folder, number, line, wav, truth, sample_rate))
        measures = _measures(items)
        if any(rates):
            measures["token_rate_ratio"] = round(sum(rates) / len(rates), 4)
        return Samples(items, measures)

    def _decode(
        self, model: VITS2, line: dict[str, Any], reference: dict[str, Any], number: int, median_hz: float = 0.0
    ) -> tuple[Tensor, float]:
        device = next(model.parameters()).device
        codes = _codes(line, model)
        text_ids = torch.from_numpy(line["text_ids"].astype(np.int64))[None]
        features = _text_features(line)
        style = model.style_of(torch.from_numpy(_to_float(reference["audio"]))[None].to(device))
        if codes.shape[1] == 0:
            return torch.zeros(1), 0.0
        wav = model.infer(
            codes.to(device),
            text_ids.to(device),
            style,
            median_hz or _median(line["f0"]),
            generator=torch.Generator().manual_seed(self.seed + number),
            text_features=None if features is None else torch.from_numpy(features)[None].to(device),
        )
        return wav.cpu(), 0.0

    def _reference(self, line: tuple, lines: list[tuple]) -> dict[str, Any]:
        """The clip of the speaker, other than the line, whose length is nearest to a good reference's."""
        store, row, _, speaker = line
        seconds = store.column("seconds")
        own = [other for other in lines if other[0] is store and other[3] == speaker and other[1] != row]
        trained = [other for other in own if other[2] == "train"] or own or [line]
        best = min(trained, key=lambda other: (abs(seconds[other[1]] - REFERENCE_SECONDS), other[1]))
        return store.row(best[1])


def _part(row: dict[str, Any], vits2: VITS2) -> Part:
    return Part(row["text_ids"], _codes(row, vits2)[0].numpy(), _text_features(row))


def _text_features(row: dict[str, Any]) -> np.ndarray | None:
    """Features [U, F] of a row's text, where it has any."""
    if "text_features" not in row:
        return None
    return row["text_features"].astype(np.float32).reshape(len(row["text_ids"]), -1)


def _codes(row: dict[str, Any], vits2: VITS2) -> Tensor:
    """The tokens of a row [1, T, K]; where it holds features, those that the decoder's quantiser makes of them."""
    if "ssl" not in row or vits2.quantizer is None:
        return torch.from_numpy(row["codes"].astype(np.int64)).view(1, -1, len(vits2.codebook_sizes))
    device = next(vits2.parameters()).device
    features = torch.from_numpy(row["ssl"].astype(np.float32)).view(1, -1, vits2.quantizer.config.grouped.feature_dim)
    f0 = torch.from_numpy(np.asarray(row["f0"], np.float32))[None]
    return vits2.quantizer.codes(features.to(device), f0.to(device)).cpu()


def _write(folder: Path, number: int, line: dict[str, Any], wav: Tensor, truth: Tensor, sample_rate: int) -> dict:
    name = f"{number + 1:02d}.wav"
    made, recording = folder / name, folder.parent / TRUTH_FOLDER / name
    write(made, wav, sample_rate)
    write(recording, truth, sample_rate)  # each time: other lines may be spoken than in an earlier run
    f0 = track_f0(torch.nan_to_num(wav)[None], sample_rate, F0_FRAME_RATE_HZ) if len(wav) > sample_rate // 10 else None
    return {
        "file": str(made),
        "truth": str(recording),
        "text": line["text"],
        "seconds": round(len(wav) / sample_rate, 3),
        "true_seconds": round(len(truth) / sample_rate, 3),
        "f0_hz": round(float(median_f0(f0)[0]), 1) if f0 is not None else 0.0,
        "true_f0_hz": round(_median(line["f0"]), 1),
    }


def _measures(items: list[dict[str, Any]]) -> dict[str, float]:
    """Means of the ratios to the recordings, over the lines that have both sides."""
    measures = {}
    for name, made, true in (("length_ratio", "seconds", "true_seconds"), ("f0_ratio", "f0_hz", "true_f0_hz")):
        ratios = [item[made] / item[true] for item in items if item[made] > 0 and item[true] > 0]
        if ratios:
            measures[name] = round(sum(ratios) / len(ratios), 4)
    return measures


def _median(f0: np.ndarray) -> float:
    return float(median_f0(torch.from_numpy(np.asarray(f0, np.float32))[None])[0])


def _to_float(pcm: np.ndarray) -> np.ndarray:
    return pcm.astype(np.float32) / 32768.0
