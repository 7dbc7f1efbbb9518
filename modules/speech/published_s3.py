"""The published supervised semantic speech tokens (S3; Du et al. 2024, CosyVoice), out of their ONNX files.

A file is the whole network: log-mel frames in, one id per token out. v1 has a codebook of 4096 at 50 or 25 tokens a
second, v2 and v3 an FSQ of 3^8 = 6561 at 25. Ids enter the language model through a learned embedding. Our own second
stream, pitch, is added as in every other form (prosody.py).

The graphs take one clip of up to half a minute; longer ones go through in windows (windows.py), cut out of the mel of
the whole clip, so that its floor and its ends are the same for all windows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modules.audio.spectral import WhisperLogMel
from modules.config import SpeechTokenizerConfig
from modules.errors import ConfigError, UserError
from modules.speech.grouped import stream_sizes
from modules.speech.prosody import prosody_stream
from modules.speech.windows import OVERLAP_SECONDS, WINDOW_SECONDS, plan_windows

MEL_RATE_HZ = 100
SHORTEST_FRAMES = 16
"""Shorter clips are zero-extended for the network."""
PROBE_FRAMES = 120


@dataclass(frozen=True)
class Published:
    """Facts of a published model: its file, tokens per second, ids."""

    file: str
    frame_rate: int
    size: int


PUBLISHED = {
    "s3-v1-50hz": Published("speech_tokenizer_v1.onnx", 50, 4096),
    "s3-v1-25hz": Published("speech_tokenizer_v1.onnx", 25, 4096),
    "s3-v2-25hz": Published("speech_tokenizer_v2.onnx", 25, 6561),
    "s3-v3-25hz": Published("speech_tokenizer_v3.onnx", 25, 6561),
}


class PublishedS3:
    """Speech to the ids of a published graph (see modules/speech/contract.py).

    The graph is opened when it is first needed, and again in a process or a copy that was made of this.

    Args:
        config: names the encoder and says what it has; `prosody_levels` is ours.
        folder: holds the ONNX file.
        device: CUDA is used where onnxruntime has it; anything else is the CPU.

    Raises:
        ConfigError: config_not_published when rate or codes are not those of the published model.
        UserError: speech_encoder_missing.
    """

    def __init__(self, config: SpeechTokenizerConfig, folder: Path, device: torch.device | str = "cpu"):
        facts = PUBLISHED[config.encoder]
        sizes = stream_sizes(config)
        for key, ours, theirs in (
            ("frame_rate", config.frame_rate, facts.frame_rate),
            ("levels" if config.quantizer == "fsq" else "codebook_size", sizes[0], facts.size),
        ):
            if ours != theirs:
                raise ConfigError(
                    "config_not_published",
                    "tokenizer.{key} makes {ours}, but the published {name} has {theirs}; correct the preset.",
                    key=key,
                    ours=ours,
                    theirs=theirs,
                    name=config.encoder,
                )
        self.config, self.path, self.device = config, graph_file(config.encoder, folder), None
        self.sample_rate = WhisperLogMel.sample_rate
        self.frame_rate = float(facts.frame_rate)
        self.samples_per_token = self.sample_rate // facts.frame_rate
        self.codebook_sizes = sizes
        self.mel = WhisperLogMel(128)
        self._graph: Callable[[np.ndarray], np.ndarray] | None = None
        self.to(device)

    def to(self, device: torch.device | str) -> "PublishedS3":
        """The same on a device."""
        device = torch.device(device)
        if self.device is None or device != self.device:
            self.device, self._graph = device, None
        return self

    def check(self) -> "PublishedS3":
        """Try the graph on a short sound.

        Raises:
            UserError: speech_encoder_unreadable, speech_encoder_differs.
        """
        frames = PROBE_FRAMES
        generator = np.random.default_rng(0)
        mel = generator.uniform(-1.0, 1.5, (1, 128, frames)).astype(np.float32)
        ids = self._ids(mel)
        wanted = frames * int(self.frame_rate) // MEL_RATE_HZ
        facts = (("frame_rate", self.frame_rate, len(ids) * MEL_RATE_HZ / frames, abs(len(ids) - wanted) <= 1),)
        facts += (("codes", self.codebook_sizes[0], int(ids.max(initial=0)) + 1, self._in_range(ids)),)
        for key, ours, theirs, fits in facts:
            if not fits:
                raise self._differs(key, ours, theirs)
        return self

    @torch.no_grad()
    def encode(self, wav: Tensor, lengths: Tensor | None = None, f0: Tensor | None = None) -> Tensor:
        """Speech to codes.

        Args:
            wav: [B, S] at 16 kHz; lengths: [B] samples, None for full rows.
            f0: [B, N] Hz at 100 Hz if already tracked.

        Returns:
            codes [B, T, K] int64 on the wav's device, T = S // samples_per_token; 0 beyond a row's length. Rows go
            through one after the other.

        Raises:
            UserError: speech_encoder_unreadable, speech_encoder_differs.
        """
        counts = [wav.shape[1]] * len(wav) if lengths is None else [min(int(n), wav.shape[1]) for n in lengths]
        tokens = torch.tensor(counts, device=wav.device) // self.samples_per_token
        frames = wav.shape[1] // self.samples_per_token
        content = torch.zeros(len(wav), frames, dtype=torch.long)
        for b, samples in enumerate(counts):
            if samples >= self.samples_per_token:
                content[b, : tokens[b]] = self._encode_clip(wav[b, :samples])
        content = content.to(wav.device)
        levels, rate = self.config.prosody_levels, self.config.frame_rate
        if not levels or not frames:
            return content.unsqueeze(-1).expand(-1, -1, len(self.codebook_sizes))
        mask = torch.arange(frames, device=wav.device) < tokens[:, None]
        prosody = prosody_stream(wav, mask, f0, levels, self.sample_rate, rate)
        return torch.stack([content, prosody], dim=-1)

    def vectors(self, codes: Tensor) -> None:
        """None: these tokens enter the GPT through a learned embedding of their ids."""
        return None

    def _encode_clip(self, wav: Tensor) -> Tensor:
        """One clip [S] -> ids [S // samples per token]."""
        mel = self.mel(wav.cpu()[None])
        tokens, stride = len(wav) // self.samples_per_token, MEL_RATE_HZ // self.config.frame_rate
        mel = functional.pad(mel, (0, max(0, SHORTEST_FRAMES - mel.shape[2])), value=float(mel.min())).numpy()
        ids = np.zeros(tokens, dtype=np.int64)
        rate = self.config.frame_rate
        # A token less where there are several, for the last one takes what fills no whole token as well.
        size = WINDOW_SECONDS * rate - (mel.shape[2] > WINDOW_SECONDS * MEL_RATE_HZ)
        for window in plan_windows(tokens, size, OVERLAP_SECONDS * rate):
            stop = mel.shape[2] if window.stop == tokens else window.stop * stride
            got = self._ids(mel[:, :, window.start * stride : stop])
            kept = got[window.keep_start - window.start : window.keep_stop - window.start]
            if len(kept) != window.keep_stop - window.keep_start:
                raise self._differs("frame_rate", rate, len(got) * MEL_RATE_HZ / (stop - window.start * stride))
            if not self._in_range(kept):
                raise self._differs("codes", self.codebook_sizes[0], int(kept.max()) + 1)
            ids[window.keep_start : window.keep_stop] = kept
        return torch.from_numpy(ids)

    def _ids(self, mel: np.ndarray) -> np.ndarray:
        """mel [1, 128, frames] -> ids [tokens] int64."""
        try:
            if self._graph is None:
                self._graph = open_graph(self.path, self.device)
            return self._graph(np.ascontiguousarray(mel)).reshape(-1).astype(np.int64)
        except _graph_errors() as cause:
            raise UserError(
                "speech_encoder_unreadable",
                "{folder} does not hold the published {name}, or a file of it is damaged ({cause}). Delete the folder "
                "and run `python -m tools.download {name}`.",
                folder=str(self.path.parent),
                name=self.config.encoder,
                cause=str(cause).splitlines()[0],
            ) from cause

    def _in_range(self, ids: np.ndarray) -> bool:
        return bool(((ids >= 0) & (ids < self.codebook_sizes[0])).all())

    def _differs(self, key: str, ours: object, theirs: object) -> UserError:
        return UserError(
            "speech_encoder_differs",
            "{file} does not fit the preset: {key} is {ours}, the encoder has {theirs}. Choose another encoder or "
            "correct the preset.",
            file=str(self.path),
            key=f"tokenizer.{key}",
            ours=ours,
            theirs=theirs,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the open graph, which belongs to this process."""
        return self.__dict__ | {"_graph": None}


def open_graph(path: Path, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """A published graph as a function from mel [1, 128, frames] float32 to what it gives.

    Its inputs are told apart by their types, for their names are the exporter's: floats are frames, integers their
    number. As many threads as torch has at this moment.
    """
    # Costs a second to import, and only published tokens need it.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    inputs = session.get_inputs()
    frames = next(i.name for i in inputs if i.type == "tensor(float)")
    counts = [(i.name, np.int64 if i.type == "tensor(int64)" else np.int32) for i in inputs if i.name != frames]

    def run(mel: np.ndarray) -> np.ndarray:
        number = {name: np.array([mel.shape[2]], dtype=kind) for name, kind in counts}
        return session.run(None, {frames: mel, **number})[0]

    return run


def _graph_errors() -> tuple[type[BaseException], ...]:
    """What a file that is no such graph can raise."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "RuntimeException")
    return (*(getattr(states, name) for name in names), NotImplementedError, StopIteration, ValueError)


def graph_file(name: str, folder: Path) -> Path:
    """The graph in a folder: under its published name, or the only one that was put there by hand.

    Raises:
        UserError: speech_encoder_missing.
    """
    expected = PUBLISHED[name].file
    found = sorted(Path(folder).glob("*.onnx"))
    if (Path(folder) / expected).is_file():
        return Path(folder) / expected
    if len(found) == 1:
        return found[0]
    raise UserError(
        "speech_encoder_missing",
        "The speech encoder {name} is not there: {folder} lacks {missing}. Get it with `python -m tools.download "
        "{name}` or in the tab Models.",
        name=name,
        folder=str(folder),
        missing=expected,
    )
