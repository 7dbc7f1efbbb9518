"""Sound while its tokens are still coming: what is settled is handed out, and the whole is as if decoded at once.

Attention reaches a second to both sides, so a frame's sound never depends on few tokens alone. What it owes to far
ones is small: with some context before it and a short look-ahead after it, a frame differs from that of the whole by
a tenth of what another seed changes (measured on spoken codes: 30 dB below the sound, a log-mel distance of 0.025
against 0.26). Noise, pitch and the phase of the pulses are those of the whole exactly, so the sounds of two windows
can be cross-faded without cancelling each other.

Shapes: D style, U text units, F text features, K codebooks, T tokens, S samples.
"""

import math

import torch
from torch import Tensor

from modules.vits2.model import VITS2
from modules.vits2.source import carry_pitch, phase_at
from modules.vits2.timing import noise_tapes, places_at, retime

LOOK_AHEAD_TOKENS = 5
"""Tokens after a frame that must be known before its sound is settled (0.2 s)."""
LEFT_CONTEXT_TOKENS = 20
"""Tokens before a frame that are decoded again with it (0.8 s)."""
FADE_SECONDS = 0.02
"""Cross-fade from one window to the next; shorter than the look-ahead, which it uses up."""


def can_stream(model: VITS2) -> bool:
    """Whether a decoder's head has the pitch rate of the tokens, which `SoundStream` needs."""
    return model.head.pitch_per_frame == model.pitch_per_frame


class SoundStream:
    """One sentence's decoder for tokens that come piece by piece.

    `read` decodes a window: context, the tokens since the last read, and look-ahead. The caller chooses when: seldom
    reads cost less, early ones let the sound begin sooner. Not to be shared between threads.

    Args:
        model: decoder in eval mode, best one loaded for speaking.
        text_ids: [1, U] of the whole sentence; text_features [1, U, F] for a model that reads them.
        style: [1, D].
        f0_median_hz, noise_scale, speed: as of `VITS2.infer`.
        seed: the sound is that of `VITS2.infer` with a generator of this seed.
        look_ahead, left_context: tokens.

    Raises:
        ValueError: the fade does not fit into the look-ahead, or the head has another pitch rate than the tokens.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: VITS2,
        text_ids: Tensor,
        style: Tensor,
        f0_median_hz: float,
        *,
        noise_scale: float = 0.35,
        speed: float = 1.0,
        seed: int,
        text_features: Tensor | None = None,
        look_ahead: int = LOOK_AHEAD_TOKENS,
        left_context: int = LEFT_CONTEXT_TOKENS,
    ):
        self._model, self._style, self._noise_scale, self._speed = model, style, noise_scale, speed
        self._look_ahead, self._left_context = look_ahead, left_context
        self._hop = model.audio.hop_length
        self._fade = round(FADE_SECONDS * model.audio.sample_rate)
        if self._fade >= look_ahead * model.frames_per_token * self._hop / speed:
            raise ValueError(f"a look-ahead of {look_ahead} tokens is shorter than the cross-fade")
        if not can_stream(model):
            raise ValueError("the head's pitch rate is not that of the tokens' pitch")
        self._text = model.prior.text.read(text_ids, None, text_features)
        self._median_hz = torch.tensor([f0_median_hz], dtype=torch.float32, device=style.device)
        self._latent, self._hiss = noise_tapes(model.noise_widths, torch.Generator().manual_seed(seed))
        self._codes = torch.zeros(1, 0, len(model.codebook_sizes), dtype=torch.long, device=style.device)
        self._frames = 0  # of sound that were handed out
        self._tail = torch.zeros(0)  # how the last window goes on after them
        self._ended = False

    def push(self, codes: Tensor) -> None:
        """Add tokens [T, K] int64.

        Raises:
            RuntimeError: after the final read.
        """
        if self._ended:
            raise RuntimeError("the stream has ended")
        self._codes = torch.cat((self._codes, codes[None].to(self._codes)), dim=1)

    @torch.inference_mode()
    def read(self, final: bool = False) -> Tensor:
        """Samples [S] float32 on the CPU that are settled and were not read before; with `final`, all that are left."""
        tokens = self._codes.shape[1]
        known = tokens * self._model.frames_per_token
        if final:
            until = self._model.spoken_frames(known, self._speed) if tokens else 0
        else:
            until = math.floor((tokens - self._look_ahead) * self._model.frames_per_token / self._speed)
        self._ended |= final
        if until <= self._frames:
            return torch.zeros(0)
        begin, wav = self._decode(until if final else None)
        wav = wav[(self._frames - begin) * self._hop :]
        blended = torch.lerp(self._tail, wav[: len(self._tail)], _ramp(len(self._tail)))
        settled = (until - self._frames) * self._hop
        self._frames, self._tail = until, wav[settled : settled + self._fade]
        return torch.cat((blended, wav[len(blended) :]))[:settled]

    def _decode(self, last: int | None) -> tuple[int, Tensor]:
        """The window of what is not settled yet with its context: its first frame and its sound [S].

        `last` is the number of frames of the whole sound once that is known; until then, the window ends with the
        frames that lie between known ones.
        """
        model, speed = self._model, self._speed
        f0 = model.contour(self._codes, None, self._median_hz)
        first_token = max(0, int(self._frames * speed) // model.frames_per_token - self._left_context)
        offset = first_token * model.frames_per_token
        codes = self._codes[:, first_token:]
        width = codes.shape[1] * model.frames_per_token
        pitch = f0[:, offset * model.pitch_per_frame :]
        mean, log_scale = model.prior(model.tokens(codes), pitch, width, None, self._text, self._style)
        begin, end = offset, offset + width
        if speed != 1.0:
            # Frame k of the sound lies at place (k + 1/2) * speed - 1/2, which must be within the window.
            begin = math.ceil((offset + 0.5) / speed - 0.5) if offset else 0
            end = math.floor((end - 0.5) / speed + 0.5) if last is None else last
            places = places_at(speed, begin, end, mean.device) - offset
            mean, log_scale = (retime(x, places) for x in (mean, log_scale))
            f0 = model.spoken_f0(f0, self._median_hz, speed, end)
        # Pitch before the window and phase at its beginning come from the whole of what is known: it is a short track.
        carried = carry_pitch(f0, self._median_hz)
        point = begin * model.pitch_per_frame
        start = phase_at(carried, point, model.audio.sample_rate, self._hop // model.pitch_per_frame)
        wav = model.sound(
            mean,
            log_scale,
            f0[:, point:],
            self._latent.rows(begin, end)[None],
            self._hiss.rows(begin, end)[None],
            self._style,
            self._noise_scale,
            before_hz=carried[:, point - 1] if point else self._median_hz,
            start=start,
        )
        return begin, wav[0].cpu()


def _ramp(samples: int) -> Tensor:
    """Shares of the new window in a cross-fade, [samples]."""
    return (torch.arange(samples) + 0.5) / max(1, samples)
