"""Lines of an experiment as its weights speak them, and what the ears make of that.

Shapes: S samples, T frames of speech tokens, K codebooks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.audio.io import write
from modules.audio.loudness import frame_power
from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.data.store import FeatureStore
from modules.errors import Stopped, UserError
from modules.evaluation.picking.choice import Output, Row
from modules.evaluation.picking.ears import Ears, Heard, likeness
from modules.evaluation.picking.lines import Line, Lines, sound
from modules.gpt.losses import content_loss
from modules.gpt.sequence import Part, arrange
from modules.inference.finishing import finish, trim
from modules.inference.options import MAX_SEED, SpeakOptions
from modules.inference.parts import Parts
from modules.inference.synthesizer import UNVOICED_MEDIAN_HZ, Synthesizer
from modules.inference.voice import Reference, Voice, prepare_reference
from modules.speech.grouped import quantizer_hash
from modules.speech.prosody import F0_FRAME_RATE_HZ, median_f0

LENGTH_RATIOS = (0.6, 1.7)
"""Of usable speech, relative to the recording without the silence at its ends."""
MOST_SAMPLES = 4
"""Lines of a row that are kept for people to hear."""
GIVE_UP = 4
"""A row whose first outputs all fail is not heard to its end: broken weights speak long."""
PAUSE_SECONDS = 0.3
_SILENT_PEAK = 0.01
_FLAT_DB = 4.0
"""The level of speech moves more than this between syllables, also in a noisy room; that of hum or hiss does not."""
_SHORTEST_SECONDS = 0.2


@dataclass(frozen=True)
class Spoken:
    """An output: wav float32 [S] as it left the models, "" or why it did not end, and the distance of its stage."""

    wav: np.ndarray
    unfinished: str
    distance: float


class Panel:
    """Has weights speak, and judges. Recordings are read and heard once.

    Args:
        store: features of the experiment.
        lines: what is spoken.
        ears: what judges.
        folder: where wavs go.
        seed: of everything drawn.
    """

    def __init__(self, store: FeatureStore, lines: Lines, ears: Ears, folder: Path, seed: int):
        self.lines, self.ears, self.folder, self.seed = lines, ears, folder, seed
        self.sound = cache(lambda row: sound(store, row))
        self._codes_by: dict[tuple[str, int], Tensor] = {}
        self._own_codes = cache(lambda row: ears.codes(self.sound(row)))
        self._truth: Callable[[int], Heard] = cache(lambda row: ears.hear(self.sound(row)))
        self._voice: Callable[[int], np.ndarray] = cache(lambda row: ears.voice(self.sound(row)))

    def hear(self, row: Row, parts: Parts, on_output: Callable[[Row], None], should_stop: Callable[[], bool]) -> None:
        """Fill `row` with the outputs of `parts`.

        Raises:
            Stopped: should_stop said so.
        """
        speak = self._decoded if row.stage == "vits2" else self._spoken
        for line, seed, spoken in speak(parts, should_stop):
            if should_stop():
                raise Stopped
            row.outputs.append(self._judge(line, seed, spoken))
            if seed == 0 and len(row.samples) < MOST_SAMPLES:
                row.samples.append(self._sample(row, line, spoken))
            on_output(row)
            if len(row.outputs) == GIVE_UP and all(output.failure for output in row.outputs):
                row.outputs += [_silence(*place, "given up") for place in self.lines.plan[GIVE_UP:]]
                return

    def _decoded(self, parts: Parts, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Spoken]]:
        """The lines' own tokens and texts in the voice of the reference, the way that speech takes."""
        device = parts.device
        for number, seed in self.lines.plan:
            line = self.lines.lines[number]
            truth = self.sound(line.row)
            with torch.inference_mode():
                style = parts.vits2.style_of(torch.from_numpy(self.sound(line.reference))[None].to(device))
            features = parts.text.features([line.text])
            wav = parts.vits2.infer(
                self._codes(parts, line.row)[None].to(device),
                torch.tensor([parts.text.encode(line.text)], device=device),
                style,
                _median_hz(truth, self.ears.sample_rate),
                noise_scale=SpeakOptions().noise_scale,
                generator=torch.Generator().manual_seed(self._seed(number, seed)),
                text_features=None if features is None else torch.from_numpy(features[0])[None].to(device),
            )
            made = wav.cpu().numpy()
            unheard = _failure(made, truth, self.ears.sample_rate) in _UNHEARD
            yield number, seed, Spoken(made, "", np.nan if unheard else self.ears.mel_distance(made, truth))

    def _spoken(self, parts: Parts, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Spoken]]:
        """The lines' texts, as a person has them spoken."""
        synthesizer = Synthesizer(parts)
        losses: dict[int, float] = {}
        for number, seed in self.lines.plan:
            line = self.lines.lines[number]
            if number not in losses:
                losses[number] = self._token_loss(parts, line)
            options = SpeakOptions(seed=self._seed(number, seed))
            try:
                voice = Voice((self._reference(parts, line.reference),))
                segments = list(synthesizer.speak(voice, line.text, options, should_stop=should_stop))
            except UserError as error:
                yield number, seed, Spoken(np.zeros(0, np.float32), error.code, losses[number])
                continue
            wav = synthesizer.join(segments, PAUSE_SECONDS)
            endings = {segment.stopped_by for segment in segments} - {"eos"}
            yield number, seed, Spoken(wav, "did not end" if endings else "", losses[number])

    @torch.inference_mode()
    def _token_loss(self, parts: Parts, line: Line) -> float:
        """Cross-entropy of the recording's content tokens and their end after the reference, nats a token."""
        model = parts.gpt.model
        places = ((line.reference, line.reference_text), (line.row, line.text))
        features = parts.text.features([text for _, text in places]) or (None, None)
        said = [
            Part(np.asarray(parts.text.encode(text), np.int64), self._codes(parts, row).numpy(), told)
            for (row, text), told in zip(places, features)
        ]
        batch = arrange([said], model.pattern, last_only=True).to(parts.device)
        return float(content_loss(model, batch))

    @torch.inference_mode()
    def _codes(self, parts: Parts, row: int) -> Tensor:
        """The tokens [T, K] of a recording, as these parts make them."""
        if parts.preset.tokenizer.form == "s3" and parts.preset.tokenizer.encoder == "own":
            return self._own_codes(row)  # every row of the pick has the same
        quantizer = parts.vits2.quantizer
        key = ("" if quantizer is None else quantizer_hash(quantizer), row)
        if key not in self._codes_by:
            wav = torch.from_numpy(resample(self.sound(row), self.ears.sample_rate, parts.speech.sample_rate))[None]
            self._codes_by[key] = parts.speech.encode(wav.to(parts.device))[0].cpu()
        return self._codes_by[key]

    def _reference(self, parts: Parts, row: int) -> Reference:
        text = next(line.reference_text for line in self.lines.lines if line.reference == row)
        wav = torch.from_numpy(self.sound(row))
        try:
            return prepare_reference(wav, str(row), text, 1.0, parts.preset.audio)
        except UserError:  # nothing that passes for speech, but all there is
            return Reference(str(row), wav, text)

    def _judge(self, number: int, seed: int, spoken: Spoken) -> Output:
        line, rate = self.lines.lines[number], self.ears.sample_rate
        failure = spoken.unfinished or _failure(spoken.wav, self.sound(line.row), rate)
        if failure in _UNHEARD or len(spoken.wav) < _SHORTEST_SECONDS * rate:
            return _silence(number, seed, failure or "silent", spoken.distance)
        wav = finish(spoken.wav, rate)
        return Output(
            number,
            seed,
            likeness(self.ears.voice(wav), [self._voice(row) for row in line.gallery]),
            self.ears.phone_error(self.ears.hear(wav), self._truth(line.row)),
            spoken.distance,
            failure,
        )

    def _sample(self, row: Row, number: int, spoken: Spoken) -> dict[str, str]:
        line = self.lines.lines[number]
        name = Path(row.file).stem or f"built-in-{row.stage}"
        made = self.folder / f"{name}-{number + 1:02d}.wav"
        truth = self.folder / f"recording-{number + 1:02d}.wav"
        write(made, finish(spoken.wav, self.ears.sample_rate), self.ears.sample_rate)
        if not truth.is_file():
            write(truth, self.sound(line.row), self.ears.sample_rate)
        return {"file": str(made), "truth": str(truth), "text": line.text}

    def _seed(self, number: int, seed: int) -> int:
        return (self.seed + 1_009 * number + 100_003 * seed) % MAX_SEED


_UNHEARD = ("silent", "not finite", "no speech")


def _failure(wav: np.ndarray, truth: np.ndarray, sample_rate: int) -> str:
    """Why a sound is no usable speech, "" when it may be."""
    if not np.isfinite(wav).all():
        return "not finite"
    if np.abs(wav).max(initial=0.0) < _SILENT_PEAK:
        return "silent"
    spoken = trim(wav, sample_rate)
    if _level_range_db(spoken, sample_rate) < _FLAT_DB:
        return "no speech"
    ratio = len(spoken) / max(1, len(trim(truth, sample_rate)))
    if ratio < LENGTH_RATIOS[0]:
        return "too short"
    return "too long" if ratio > LENGTH_RATIOS[1] else ""


def _level_range_db(wav: np.ndarray, sample_rate: int) -> float:
    """Between the quiet and the loud tenth of 20 ms frames."""
    power = frame_power(wav, sample_rate // 50)
    if len(power) < 2:
        return 0.0
    quiet, loud = np.percentile(10 * np.log10(power + 1e-10), (10, 90))
    return float(loud - quiet)


def _silence(number: int, seed: int, failure: str, distance: float = float("nan")) -> Output:
    """The output of which nothing can be heard."""
    return Output(number, seed, 0.0, 1.0, distance, failure)


def _median_hz(wav: np.ndarray, sample_rate: int) -> float:
    f0: Tensor = track_f0(torch.from_numpy(wav)[None], sample_rate, F0_FRAME_RATE_HZ)
    return float(median_f0(f0)[0]) or UNVOICED_MEDIAN_HZ
