"""Copy-synthesis: how far the spectrum of a recording is from what the decoder makes of the recording itself.

From the posterior it is the decoder's ceiling; from speech tokens it is what tokens and decoder lose together.

Shapes: S samples, M mel bands, T frames, K streams.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.audio.loudness import normalize
from modules.audio.pitch import track_f0
from modules.audio.resample import resample
from modules.evaluation.clips import Clip
from modules.evaluation.judging import Judge
from modules.evaluation.results import Finding, Table
from modules.evaluation.shares import mean_interval, shown_ends
from modules.speech.prosody import F0_FRAME_RATE_HZ, median_f0
from modules.vits2.model import VITS2, load_vits2

RECORDINGS = 20
_FLOOR_NEPERS = 8.0
Copy = Callable[[Clip, Tensor], Tensor]
"""A recording and its wav [S] -> its copy [S]."""
_NOTE = (
    "Mean distance of log-mel spectra (nepers; 1 is 8.7 dB) at the same loudness, over the frames within {nepers} "
    "nepers of the loudest."
)


def judge_copies(judge: Judge) -> Finding:
    """The references of some voices, each copied in its own voice; one that is silent or cannot be read is left out.

    Raises:
        UserError: judge_too_few_voices.
    """
    clips = [test.reference for test in judge.taken_voices("copies", RECORDINGS)]
    ways: dict[str, Callable[[Clip, Tensor], Tensor]] = {
        "from tokens": lambda clip, wav: _from_tokens(judge, clip, wav)
    }
    if judge.posterior is not None:
        model = load_vits2(judge.posterior)
        ways["from the posterior"] = lambda clip, wav: from_posterior(model, wav)
    vits2 = judge.parts.vits2
    values: dict[str, Any] = {}
    rows = []
    for name, copy in ways.items():
        items = []
        for number, clip in enumerate(clips):
            if items and judge.out_of_time():
                break
            wav = levelled(torch.from_numpy(judge.reader.wav(clip, vits2.audio.sample_rate)), vits2)
            made = levelled(copy(clip, wav), vits2)
            items.append({"voice": clip.speaker, "nepers": mel_distance(vits2, made, wav)})
            judge.progress(f"copying, {name}", number + 1, len(clips))
        found = mean_interval(item["nepers"] for item in items)
        values[name] = {**found, "items": items}
        if found["mean"] is not None:
            rows.append((name, found["count"], f"{found['mean']:.3f} ({shown_ends(found, '{:.3f}')})"))
    if judge.posterior is None:
        values["from the posterior"] = {"mean": None, "reason": "the posterior encoder is not shipped; give --whole"}
    table = Table("Copy-synthesis", ("copy", "recordings", "distance"), tuple(rows), _NOTE.format(nepers=_FLOOR_NEPERS))
    return Finding("copies", values, (table,))


@torch.inference_mode()
def mel_distance(model: VITS2, made: Tensor, wav: Tensor) -> float:
    """Mean absolute difference of the log-mel spectra of two wavs [S] in step, nepers, where the second has sound."""
    count = min(len(made), len(wav))
    ours, theirs = (model.mel(sound[None, :count].float())[0] for sound in (made, wav))
    level = theirs.amax(0)
    sounding = level > level.max() - _FLOOR_NEPERS
    return float((ours - theirs).abs()[:, sounding].mean()) if bool(sounding.any()) else float("nan")


@torch.inference_mode()
def from_posterior(model: VITS2, wav: Tensor) -> Tensor:
    """A levelled wav [S] through the decoder's posterior and generator."""
    f0 = track_f0(wav[None], model.audio.sample_rate, F0_FRAME_RATE_HZ)
    return model.reconstruct(model.mel(wav[None]), f0, model.style_of(wav[None]))[0]


@torch.inference_mode()
def _from_tokens(judge: Judge, clip: Clip, wav: Tensor) -> Tensor:
    parts = judge.parts
    rate, speech = parts.vits2.audio.sample_rate, parts.speech
    narrow = torch.from_numpy(np.ascontiguousarray(resample(wav.numpy(), rate, speech.sample_rate)))[None]
    f0 = track_f0(narrow, speech.sample_rate, F0_FRAME_RATE_HZ)
    codes = speech.encode(narrow.to(parts.device), f0=f0.to(parts.device))
    features = parts.text.features([clip.text]) if clip.text else None
    return parts.vits2.infer(
        codes,
        torch.tensor([parts.text.encode(clip.text)], dtype=torch.long, device=parts.device),
        parts.vits2.style_of(wav[None].to(parts.device)),
        float(median_f0(f0)[0]) or 150.0,
        noise_scale=0.0,
        generator=torch.Generator().manual_seed(0),
        text_features=None if features is None else torch.from_numpy(features[0])[None].to(parts.device),
    ).cpu()


def levelled(wav: Tensor, model: VITS2) -> Tensor:
    """A wav [S] as the decoder was trained to hear it."""
    audio = model.audio
    return normalize(torch.nan_to_num(wav), audio.sample_rate, audio.loudness_lufs, audio.true_peak_db)
