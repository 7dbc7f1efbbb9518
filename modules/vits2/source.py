"""The excitation of the source-filter heads: a band-limited pulse train that follows f0, from frames to samples."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FALLBACK_HZ = 120.0


def fill_unvoiced(f0: Tensor) -> Tensor:
    """Carry the pitch through unvoiced frames: straight lines in log-f0 between voiced neighbours, held at the ends.

    f0 [B, N] Hz, 0 = unvoiced -> [B, N] Hz, never 0; a row without any voice is a constant.
    """
    frames = f0.shape[1]
    voiced = f0 > 0
    index = torch.arange(frames, device=f0.device).expand_as(f0)
    before = torch.where(voiced, index, -1).cummax(dim=1).values
    after = torch.where(voiced, index, frames).flip(1).cummin(dim=1).values.flip(1)
    has_before, has_after = before >= 0, after < frames
    log_f0 = f0.clamp_min(1.0).log()
    left = log_f0.gather(1, before.clamp_min(0))
    right = log_f0.gather(1, after.clamp_max(frames - 1))
    share = (index - before).to(f0.dtype) / (after - before).clamp_min(1).to(f0.dtype)
    filled = torch.lerp(left, right, share)
    filled = torch.where(has_before & has_after, filled, torch.where(has_before, left, right))
    none = ~(has_before | has_after)
    return torch.where(none, math.log(FALLBACK_HZ), filled).exp()


def carry_pitch(f0: Tensor, before_hz: Tensor) -> Tensor:
    """`fill_unvoiced` without the future: an unvoiced frame keeps the pitch of the last voiced one.

    Only the frame right before an onset has the pitch of the onset already, because the pulses fade in from there.

    Args:
        f0: [B, N] Hz, 0 = unvoiced.
        before_hz: [B] pitch before the first voiced frame.

    Returns:
        [B, N] Hz, never 0. Frame n depends on the frames up to n + 1.
    """
    voiced = f0 > 0
    last = torch.where(voiced, torch.arange(f0.shape[1], device=f0.device), -1).cummax(dim=1).values
    held = torch.where(last >= 0, f0.gather(1, last.clamp_min(0)), before_hz[:, None].to(f0.dtype))
    coming = F.pad(f0[:, 1:], (0, 1))
    return torch.where(~voiced & (coming > 0), coming, held)


def stretch_track(track: Tensor, frames: int) -> Tensor:
    """Resample a track to `frames` points by straight lines; points sit in the middle of their frames. [B, N]."""
    if track.shape[1] == frames:
        return track
    return F.interpolate(track[:, None], size=frames, mode="linear", align_corners=False)[:, 0]


def stretch_f0(f0: Tensor, frames: int) -> Tensor:
    """Resample an f0 contour in time without gliding into unvoiced stretches. [B, N] Hz -> [B, frames] Hz."""
    if f0.shape[1] == frames:
        return f0
    voiced = stretch_track((f0 > 0).to(f0.dtype), frames) > 0.5
    return torch.where(voiced, stretch_track(fill_unvoiced(f0), frames), 0.0)


@torch.no_grad()
def pulse_train(
    f0: Tensor, sample_rate: int, hop_length: int, start: Tensor | None = None, carried: Tensor | None = None
) -> Tensor:
    """Band-limited pulses at pitch f0, flat spectrum, unit power while voiced, silent while unvoiced.

    Sum of all harmonics below the Nyquist frequency in closed form (Dirichlet kernel),
    sum_{k=1..n} cos(k p) = sin((n + 1/2) p) / (2 sin(p / 2)) - 1/2; the topmost harmonic is faded by the fraction of
    n so that a gliding pitch makes no steps. No harmonic passes the Nyquist frequency, so nothing aliases.

    Args:
        f0: [B, N] Hz, one value per `hop_length` samples, 0 = unvoiced; values hold in the middle of their frames and
            straight lines lie between them.
        sample_rate: Hz of the result.
        hop_length: samples per f0 frame; even.
        start: [B] phase of the first sample in turns; 0 when None.
        carried: [B, N] Hz, f0 carried through its unvoiced frames; `fill_unvoiced` when None.

    Returns:
        [B, N * hop_length] float32.
    """
    pitch = _within(fill_unvoiced(f0.float()) if carried is None else carried.float(), sample_rate)
    left, right = _middles(pitch)
    gates = _middles((f0 > 0).float())
    # Turns are summed in float64: in float32 a ten-second clip would drift by whole degrees. Between two middles the
    # sum has a closed form, so the long sum runs over frames and not over samples.
    whole_turns = (left.double() + right.double()) * (hop_length / 2 / sample_rate)
    begun = whole_turns.cumsum(1) - whole_turns - pitch[:, :1].double() * (hop_length / 2 / sample_rate)
    if start is not None:
        begun = begun + start.double()[:, None]
    begun = (begun - begun.round()).float()
    pulses = pitch.new_zeros(*left.shape, hop_length)
    sounding = (gates[0] + gates[1]) > 0
    pulses[sounding] = _pulses(*(x[sounding] for x in (left, right, begun, *gates)), sample_rate, hop_length)
    side = hop_length // 2
    return pulses.flatten(1)[:, side:-side]


def phase_at(pitch: Tensor, frame: int, sample_rate: int, hop_length: int) -> Tensor:
    """The start [B], turns, with which the pulses of pitch[:, frame:] go on as those of all of it.

    pitch [B, N] Hz without gaps (`carry_pitch`); the first half of frame `frame` may differ.
    """
    if frame == 0:
        return torch.zeros(pitch.shape[0], dtype=torch.float64, device=pitch.device)
    pitch = _within(pitch[:, : frame + 1].double(), sample_rate)
    # Up to the middle of the frame by straight lines, and back by half a frame that a fresh start holds.
    lines = (pitch[:, :-1] + pitch[:, 1:]).sum(1) / 2 + pitch[:, 0] / 2 - pitch[:, -1] / 2
    turns = lines * (hop_length / sample_rate)
    return turns - turns.round()


def _within(pitch: Tensor, sample_rate: int) -> Tensor:
    return pitch.clamp(20.0, 0.2 * sample_rate)


def _middles(track: Tensor) -> tuple[Tensor, Tensor]:
    """Values at both ends of each piece from middle to middle, [B, N + 1]; held before the first and after the last."""
    padded = torch.cat((track[:, :1], track, track[:, -1:]), dim=1)
    return padded[:, :-1], padded[:, 1:]


def _pulses(
    left: Tensor, right: Tensor, begun: Tensor, gate_left: Tensor, gate_right: Tensor, sample_rate: int, hop: int
) -> Tensor:
    """Pieces of a pulse train: pitch and gate at both ends and turns at the beginning, all [V] -> [V, hop]."""
    step = torch.arange(1, hop + 1, device=left.device)
    share = (step - 0.5) / hop
    pitch = torch.lerp(left[:, None], right[:, None], share)
    gate = torch.lerp(gate_left[:, None], gate_right[:, None], share)
    # The sum of (i - 1/2) / hop for i = 1..step is step^2 / (2 hop).
    curve = step.square() / (2 * hop * sample_rate)
    turns = torch.addcmul(begun[:, None] + left[:, None] * (step / sample_rate), (right - left)[:, None], curve)
    phase = (turns - turns.round()) * (2 * math.pi)
    count = 0.5 * sample_rate / pitch - 1.0
    whole = count.floor()
    half = torch.sin(0.5 * phase)
    near = half.abs() < 1e-4
    kernel = torch.sin((whole + 0.5) * phase) / (2 * torch.where(near, 1.0, half)) - 0.5
    kernel = torch.where(near, whole, kernel)
    kernel = torch.addcmul(kernel, count - whole, torch.cos((whole + 1) * phase))
    return kernel * gate * torch.sqrt(2.0 / count)
