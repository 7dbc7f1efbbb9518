"""A voice apart from what sounds with it, by Demucs.

The accompaniment is the recording minus the voice, not the sum of the other stems: so the two files add up to the
recording exactly, nothing of it is lost, and models whose other stems are not needed run a quarter of the time.
Both keep the recording's sample rate and channels (more than two become one).

Shapes: C channels, S samples at the recording's rate, T samples at the model's rate.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.audio.channels import read_channels, write_channels
from modules.audio.io import probe, to_mono
from modules.audio.resample import resample
from modules.corpus.options import SeparationOptions
from modules.corpus.outputs import Results, mirrored
from modules.errors import Stopped, UserError
from modules.progress import StepProgress

VOCALS, ACCOMPANIMENT = "vocals", "accompaniment"
FAILED = "separation_failed"
_BLOCK_SECONDS, _CROSSFADE_SECONDS = 120, 4
"""A long recording is worked on in blocks, because the stems of an hour fill the memory."""


@dataclass(frozen=True)
class SeparationReport:
    """What a run made: the two folders, counts, reasons with their counts, and what the user should know."""

    vocals: Path
    accompaniment: Path
    files: int
    already: int
    seconds: float
    rejected: dict[str, int]
    notes: tuple[str, ...] = ()


class Separator:
    """Separates recordings with one network, or with several whose voices are averaged.

    The same recording gives the same result: the random shifts of Demucs are off.

    Args:
        networks: of Demucs, in evaluation mode, with a stem "vocals", all of one sample rate, for two channels.
        overlap: see `SeparationOptions.overlap`.
        say: told when a GPU has too little memory and the CPU takes over; kept in `notes` too.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        device: torch.device,
        overlap: float = SeparationOptions.overlap,
        say: Callable[[str], None] | None = None,
    ):
        self.networks = list(networks)
        self.device = device
        self.overlap = overlap
        self.sample_rate = int(networks[0].samplerate)
        self.notes: list[str] = []
        self._say = say

    @property
    def identity(self) -> str:
        """Hash of the weights and of the choices that change the result."""
        digest = hashlib.sha256(f"{self.overlap} {[float(one.segment) for one in self.networks]}".encode())
        for network in self.networks:
            for name, tensor in network.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def separate(
        self, mix: np.ndarray, sample_rate: int, on_progress: Callable[[float], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """mix [C, S] float32 -> vocals and accompaniment, each [C, S] (C = 1 for more than two channels).

        Args:
            on_progress: gets the share that is done, 0 to 1, after every piece; whatever it raises ends the work.
        """
        if mix.shape[0] > 2:
            mix = to_mono(mix.T)[None]
        if not mix.any():
            return np.zeros_like(mix), np.zeros_like(mix)
        # Three hours of stereo are 4 GB, so nothing of that length is kept longer than it is needed.
        found = self._vocals(self._pair(mix, sample_rate), on_progress).numpy()
        if mix.shape[0] == 1:
            found = found.mean(axis=0, keepdims=True)
        vocals = np.zeros_like(mix)
        for channel, samples in enumerate(found):
            back = resample(samples, self.sample_rate, sample_rate)[: mix.shape[1]]
            np.clip(back, -1, 1, out=vocals[channel, : len(back)])
        del found, samples, back
        return vocals, mix - vocals

    def _pair(self, mix: np.ndarray, sample_rate: int) -> Tensor:
        """mix [C, S] as the networks want it: [2, T]."""
        left = torch.from_numpy(resample(mix[0], sample_rate, self.sample_rate))
        pair = left.new_empty((2, len(left)))
        pair[0] = left
        del left
        pair[1] = torch.from_numpy(resample(mix[1], sample_rate, self.sample_rate)) if mix.shape[0] == 2 else pair[0]
        return pair

    def _vocals(self, mix: Tensor, on_progress: Callable[[float], None] | None) -> Tensor:
        """mix [2, T] -> vocals [2, T], block by block, each fading into the next."""
        # The networks were trained on mixes of this scale; it is taken of the whole, so that blocks fit together.
        reference = mix.mean(0)
        mean, scale = reference.mean(), reference.std(unbiased=False) + 1e-8
        del reference
        blocks = list(_blocks(mix.shape[1], _BLOCK_SECONDS * self.sample_rate, _CROSSFADE_SECONDS * self.sample_rate))
        total = sum(self._pieces(end - start, network) for start, end in blocks for network in self.networks)
        done = 0

        def tick(state: dict[str, Any]) -> None:
            nonlocal done
            done += state["state"] == "end"
            if on_progress is not None:
                on_progress(min(1.0, done / total))

        vocals = torch.zeros_like(mix)
        fade = torch.linspace(0, 1, _CROSSFADE_SECONDS * self.sample_rate)
        for start, end in blocks:
            estimate = self._estimate((mix[:, start:end] - mean) / scale, tick)
            if start:
                estimate[:, : len(fade)] *= fade
            if end < mix.shape[1]:
                estimate[:, -len(fade) :] *= 1 - fade
            vocals[:, start:end] += estimate
        # The offset stays with the accompaniment: a voice has none.
        return vocals.mul_(scale)

    def _estimate(self, mix: Tensor, tick: Callable[[dict[str, Any]], None]) -> Tensor:
        try:
            return self._mean(mix, tick)
        except torch.OutOfMemoryError:
            if self.device.type == "cpu":
                raise
            self.notes.append(f"{self.device} has too little memory for this model; going on with the CPU.")
            if self._say is not None:
                self._say(self.notes[-1])
            self.device = torch.device("cpu")
            return self._mean(mix, tick)

    def _mean(self, mix: Tensor, tick: Callable[[dict[str, Any]], None]) -> Tensor:
        from demucs.apply import apply_model

        found = torch.zeros_like(mix)
        for network in self.networks:
            with torch.no_grad():
                stems = apply_model(
                    network, mix[None], shifts=0, split=True, overlap=self.overlap, device=self.device, callback=tick
                )
            found += stems[0, list(network.sources).index("vocals")].cpu()
        return found / len(self.networks)

    def _pieces(self, length: int, network: nn.Module) -> int:
        """In how many pieces Demucs works on that many samples."""
        return len(range(0, length, int((1 - self.overlap) * int(self.sample_rate * network.segment))))


def separate_files(
    files: Sequence[Path],
    root: Path,
    separator: Separator,
    output: Path,
    format: str,
    progress: StepProgress,
    fresh: bool = False,
) -> SeparationReport:
    """Write `vocals/<name>.<format>` and `accompaniment/<name>.<format>` into `output` for every file.

    Folders below `root` are mirrored. A file that was done before by the same model is not done again; one that cannot
    be read goes into `rejected.jsonl`. Progress is counted in seconds of sound.

    Args:
        fresh: do everything again.

    Raises:
        Stopped: asked for by `progress`, also in the middle of a file; finished files stay.
        UserError: separation_failed when no readable file could be separated; output_of_other_step.
    """
    lengths = [_seconds(file) for file in files]
    total, before = max(1, round(sum(lengths))), 0.0
    kinds = [output / kind for kind in (VOCALS, ACCOMPANIMENT)]
    results = Results("separate", output, kinds, separator.identity, progress, fresh)
    targets = results.claim(files, mirrored(files, root, f".{format}"))
    for number, (file, target, seconds) in enumerate(zip(files, targets, lengths), start=1):
        place = f"{number}/{len(files)} {file.name}"

        def tick(share: float, before: float = before, seconds: float = seconds, place: str = place) -> None:
            if progress.should_stop():
                raise Stopped
            progress.update(round(before + share * seconds), total, f"{place} {100 * share:.0f} %")

        tick(0.0)
        outputs = [kind / target for kind in kinds]
        work = functools.partial(_separate_file, separator, file, outputs, tick)
        results.make(file, target.as_posix(), outputs, work)
        before += seconds
        progress.update(round(before), total, place, [path for path in outputs if path.is_file()])
    failures = [failure for failure in results.failures if failure.code == FAILED]
    if failures and not results.made + results.already:
        raise failures[-1]
    results.close()
    folders, seconds = (output / VOCALS, output / ACCOMPANIMENT), round(sum(lengths), 3)
    counts = (results.made, results.already, seconds, dict(results.reasons))
    return SeparationReport(*folders, *counts, tuple(separator.notes))


def _separate_file(
    separator: Separator, file: Path, outputs: Sequence[Path], tick: Callable[[float], None]
) -> dict[str, Any]:
    """Write the voice and the accompaniment of one file. Raises UserError of its reading, separation_failed."""
    mix, rate = read_channels(file)
    vocals, accompaniment = _separated(separator, file, mix, rate, tick)
    del mix
    write_channels(outputs[0], vocals, rate)
    del vocals
    write_channels(outputs[1], accompaniment, rate)
    return {}


def _separated(
    separator: Separator, file: Path, mix: np.ndarray, rate: int, tick: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray]:
    """`separator.separate`, whose failure is one of this file. Raises UserError separation_failed."""
    try:
        return separator.separate(mix, rate, tick)
    except (RuntimeError, ValueError, AssertionError) as cause:
        raise UserError(
            "separation_failed",
            "{file} could not be separated ({cause}); try another model or device.",
            file=str(file),
            cause=" ".join(str(cause).split())[:200] or type(cause).__name__,
        ) from cause


def _seconds(file: Path) -> float:
    try:
        return probe(file).seconds
    except UserError:
        return 0.0  # told when its turn comes


def _blocks(length: int, block: int, fade: int) -> Iterator[tuple[int, int]]:
    """Spans that cover `length`, each reaching `fade` samples into the next."""
    start = 0
    while True:
        end = min(length, start + block + fade)
        yield start, end
        if end == length:
            return
        start += block
