"""Fundamental frequency by autocorrelation and a smoothest-path search.

After P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of
a sampled sound", Proc. Inst. Phonetic Sciences 17 (1993): the autocorrelation of a windowed frame divided by that
of its window peaks at 1 for a periodic sound, whatever the window; the best few peaks of each frame and an
"unvoiced" candidate form a lattice, and dynamic programming finds its best path.

Shapes: B batch, S samples, T frames, W window, L lags or frames of a path block, C candidates.

The sound is low-passed and decimated first, because autocorrelation needs no more than the lowest harmonics.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ANALYSIS_RATE_HZ = 8000
"""Decimation stops above this rate."""
_CUTOFF_HZ = 1000.0
"""Low-pass edge: one harmonic of the highest voice, several of the others, little of the noise of fricatives."""
_FILTER_HALF = 6
"""Half length of the low-pass, in periods of the analysis rate."""
_BANDS = 3
"""Search ranges, each with a window half as long as the one before."""
_PERIODS = 2.5
"""Window length in periods of the lowest pitch of a band. Boersma takes three; a little less follows glides better
and still outweighs the window's own slope."""
_NEUTRAL_HZ = 200.0
"""Pitch whose candidates keep their strength; lower ones lose by the octave cost and higher ones gain."""
_PATH_BLOCK = 32
"""Frames in a block of the path search, L."""
_IMPOSSIBLE = -1e6
_REFINE_OCTAVES = 0.25
_REFINE_STRENGTH = 0.5
"""How near and how strong a peak of the shorter window must be to be the same one."""
_BLOCK_FRAMES = 512
"""Frames handled at once: small enough for the cache and for an hour-long wav."""


@dataclass(frozen=True)
class PitchCosts:
    """Costs of the path search, in units of correlation (0 to 1). The transition costs are per 10 ms."""

    voicing_threshold: float = 0.6
    silence_threshold: float = 0.03
    octave: float = 0.04
    octave_jump: float = 0.6
    voicing_change: float = 0.14
    register: float = 0.3
    register_octaves: float = 0.75
    clear_strength: float = 0.8
    candidates: int = 6


@torch.no_grad()
def track_f0(
    wav: Tensor,
    sample_rate: int,
    frame_rate: float = 100.0,
    f_min: float = 55.0,
    f_max: float = 800.0,
    costs: PitchCosts = PitchCosts(),
) -> Tensor:
    """Fundamental frequency of wav [B, S] -> [B, T] Hz, 0 where unvoiced; T = floor(S * frame_rate / sample_rate).

    Frame t describes the sound around second (t + 0.5) / frame_rate. Zero padding at the end of a row does not
    change the frames before it.

    Args:
        wav: mono sound; the level does not matter.
        sample_rate: Hz.
        frame_rate: frames per second.
        f_min, f_max: search range, Hz.
        costs: how the path weighs voicing, octaves and jumps.
    """
    batch, samples = wav.shape
    total = int(samples * frame_rate / sample_rate + 1e-6)
    if total == 0 or batch == 0:
        return wav.new_zeros(batch, total, dtype=torch.float32)
    sound, rate = _decimate(wav.float(), sample_rate)
    centres = ((torch.arange(total, device=sound.device, dtype=torch.float64) + 0.5) * (rate / frame_rate)).long()
    analysers = [_BandAnalyser(rate, low, high, costs, sound.device) for low, high in _bands(f_min, f_max)]
    frequency, strength, energy = _candidates(sound, centres, analysers)
    unvoiced = _unvoiced_strength(energy, costs)
    scores = strength - _register_penalty(frequency, strength, unvoiced, costs)
    best = scores.topk(min(costs.candidates, scores.shape[-1]), dim=-1)
    f0 = _best_path(frequency.gather(-1, best.indices), best.values, unvoiced, costs, 100.0 / frame_rate)
    return _refine(f0, frequency, strength, f_min, len(analysers)).to(wav.device)


def _bands(f_min: float, f_max: float) -> list[tuple[float, float]]:
    """Overlapping search ranges, each beginning an octave above the one before and all ending at f_max.

    A window made for 55 Hz would smear a glide at 300 Hz, so each range has its own. They overlap because octaves
    can only be compared fairly within one window.
    """
    edges = [f_min]
    while len(edges) < _BANDS and edges[-1] * 2 < 0.8 * f_max:
        edges.append(edges[-1] * 2)
    return [(edge, f_max) for edge in edges]


def _candidates(sound: Tensor, centres: Tensor, analysers: "list[_BandAnalyser]") -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of all ranges, C of each side by side: frequency, strength [B, T, ranges * C]; energy [B, T]."""
    margin = analysers[0].window_length
    padded = F.pad(sound, (margin, margin))
    blocks = []
    for block in centres.split(_BLOCK_FRAMES):
        parts = [analyser(padded, block + margin) for analyser in analysers]
        frequency = torch.cat([part[0] for part in parts], dim=-1)
        strength = torch.cat([part[1] for part in parts], dim=-1)
        blocks.append((frequency, strength, parts[0][2]))
    frequency, strength, energy = (torch.cat(parts, dim=1) for parts in zip(*blocks))
    return frequency, strength, energy


def _refine(f0: Tensor, frequency: Tensor, strength: Tensor, f_min: float, ranges: int) -> Tensor:
    """Replace each f0 [B, T] by the same peak seen through the shortest window that holds enough periods of it.

    A wide window decides best between octaves, a narrow one follows a glide best.
    """
    octave = torch.log2(f0.clamp_min(1.0) / f_min)
    wanted = octave.floor().clamp(0, ranges - 1)
    of_range = torch.arange(ranges, device=f0.device).repeat_interleave(frequency.shape[-1] // ranges)
    distance = (torch.log2(frequency.clamp_min(1.0) / f_min) - octave[..., None]).abs()
    fits = (of_range == wanted[..., None]) & (strength > _REFINE_STRENGTH)
    nearest, index = distance.masked_fill(~fits, torch.inf).min(dim=-1)
    found = (nearest < _REFINE_OCTAVES) & (f0 > 0)
    return torch.where(found, frequency.gather(-1, index[..., None]).squeeze(-1), f0)


def _register_penalty(frequency: Tensor, strength: Tensor, unvoiced: Tensor, costs: PitchCosts) -> Tensor:
    """Penalty [B, T, C] of candidates far from the row's usual pitch (the median of its clear frames).

    Within `register_octaves` of the median nothing is charged, so intonation is free and octave slips are not.
    """
    best, index = strength.max(dim=-1)
    octaves = torch.log2(frequency.clamp_min(1.0))
    clear = best > torch.maximum(unvoiced, unvoiced.new_tensor(costs.clear_strength))
    usual = octaves.gather(-1, index[..., None]).squeeze(-1).masked_fill(~clear, torch.nan)
    median = usual.nanmedian(dim=1).values[:, None, None]
    excess = ((octaves - median).abs() - costs.register_octaves).clamp_min(0)
    return torch.nan_to_num(costs.register * excess)


def _decimate(wav: Tensor, sample_rate: int) -> tuple[Tensor, float]:
    """Low-pass wav [B, S] and keep each n-th sample; returns the sound and its rate, Hz."""
    factor = max(1, sample_rate // _ANALYSIS_RATE_HZ)
    half = _FILTER_HALF * factor
    cutoff = min(_CUTOFF_HZ / sample_rate, 0.45)
    times = torch.arange(-half, half, device=wav.device, dtype=torch.float32)
    taps = torch.sinc(2 * cutoff * times) * torch.hann_window(2 * half, device=wav.device)
    # Polyphase: output n is the sum over m of row n + m times column m, far cheaper than a strided convolution.
    columns = (taps / taps.sum()).view(2 * _FILTER_HALF, factor).T
    samples = wav.shape[1]
    outputs = -(-(samples + half) // factor)  # with the filter's tail, as if zeros followed
    right = (outputs + 2 * _FILTER_HALF - 1) * factor - half - samples
    products = F.pad(wav, (half, right)).view(len(wav), -1, factor) @ columns
    sound = sum(products[:, m : m + outputs, m] for m in range(2 * _FILTER_HALF))
    return sound, sample_rate / factor


class _BandAnalyser:
    """Candidates of single frames within one band of f0."""

    def __init__(self, rate: float, f_min: float, f_max: float, costs: PitchCosts, device: torch.device):
        self.rate, self.costs = rate, costs
        self.window_length = int(math.ceil(_PERIODS * rate / f_min))
        self.lag_low = max(2, int(rate / f_max))
        self.lag_high = int(math.ceil(rate / f_min)) + 1
        self.n_fft = _fast_size(self.window_length + self.lag_high + 2)
        self.window = torch.hann_window(self.window_length + 2, False, device=device)[1:-1]
        self.offsets = torch.arange(self.window_length, device=device) - self.window_length // 2
        own = torch.fft.irfft(torch.fft.rfft(self.window, self.n_fft).abs().square(), self.n_fft)
        lags = slice(self.lag_low - 1, self.lag_high + 2)
        # Correlation of the window at each lag, relative to lag 0.
        self.window_correlation = (own / own[0])[lags]
        self.lags = torch.arange(self.lag_low - 1, self.lag_high + 2, device=device, dtype=torch.float32)
        self.bounds_hz = (f_min, f_max)

    def __call__(self, sound: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sound [B, S], centres [T] in samples -> frequency, strength [B, T, C], energy [B, T]."""
        frames = sound[:, centres[:, None] + self.offsets]
        frames = (frames - frames.mean(dim=-1, keepdim=True)).mul_(self.window)
        spec = torch.fft.rfft(frames, self.n_fft)
        power = spec.real.square() + spec.imag.square()
        correlation = torch.fft.irfft(power, self.n_fft)
        energy = correlation[..., 0]
        wanted = correlation[..., self.lag_low - 1 : self.lag_high + 2]
        normal = wanted / (energy[..., None] + 1e-12) / self.window_correlation
        return *self._peaks(normal), energy.clamp_min(0)

    def _peaks(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """The strongest local maxima of normal [B, T, L]: frequency (0 = none) and strength, each [B, T, C]."""
        before, here, after = normal[..., :-2], normal[..., 1:-1], normal[..., 2:]
        is_peak = (here > before) & (here >= after) & (here > 0.5 * self.costs.voicing_threshold)
        # Shorter lags are preferred a little: every multiple of the period is as good a peak.
        preference = self.costs.octave * torch.log2(self.lags[1:-1] / self.lags[1])
        scores = torch.where(is_peak, here - preference, torch.full_like(here, -1.0))
        index = scores.topk(min(self.costs.candidates, scores.shape[-1]), dim=-1).indices
        left, middle, right = before.gather(-1, index), here.gather(-1, index), after.gather(-1, index)
        curvature = (2 * middle - left - right).clamp_min(1e-9)
        shift = (0.5 * (right - left) / curvature).clamp(-0.5, 0.5)
        height = (middle + 0.25 * (right - left) * shift).clamp_max(1.0)
        lag = self.lags[1:-1][index] + shift
        frequency = self.rate / lag
        low, high = self.bounds_hz
        valid = is_peak.gather(-1, index) & (frequency >= low) & (frequency <= high)
        strength = height - self.costs.octave * torch.log2(_NEUTRAL_HZ / frequency)
        return frequency * valid, torch.where(valid, strength, torch.full_like(strength, _IMPOSSIBLE))


def _fast_size(minimum: int) -> int:
    """The smallest even 2^a 3^b 5^c not below minimum."""
    size = minimum + minimum % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def _unvoiced_strength(energy: Tensor, costs: PitchCosts) -> Tensor:
    """Strength [B, T] of calling a frame unvoiced: the threshold, and more the quieter it is within its row."""
    level = torch.sqrt(energy / energy.amax(dim=1, keepdim=True).clamp_min(1e-12))
    return costs.voicing_threshold + (2 - level * (1 + costs.voicing_threshold) / costs.silence_threshold).clamp_min(0)


def _best_path(frequency: Tensor, strength: Tensor, unvoiced: Tensor, costs: PitchCosts, scale: float) -> Tensor:
    """Viterbi search over candidates [B, T, C] and the unvoiced state [B, T] -> f0 [B, T].

    A row begins and ends unvoiced, so trailing silence costs a row nothing extra. The frames are cut into blocks
    whose best paths between every pair of end states are found side by side (max-plus matrix products are
    associative), which takes T / L + L short steps instead of T.
    """
    total = frequency.shape[1]
    steps, blocks = _path_steps(frequency, strength, unvoiced, costs, scale)
    states = steps.shape[-1]
    whole, back = steps[:, 0].transpose(1, 2), []
    for step in steps.unbind(1)[1:]:
        whole, origin = (whole[:, :, None, :] + step[:, None]).max(dim=-1)
        back.append(origin.to(torch.int8))
    whole = whole.view(-1, blocks, states, states)
    score = torch.full_like(whole[:, 0, 0], _IMPOSSIBLE)
    score[:, -1] = 0.0
    entries = []
    for block in whole.unbind(1):
        score, entry = (score[:, :, None] + block).max(dim=1)
        entries.append(entry)
    state = torch.full_like(entries[-1][:, :1], states - 1)
    starts, ends = [], []
    for entry in reversed(entries):
        ends.append(state)
        state = entry.gather(1, state)
        starts.append(state)
    start, state = (torch.cat(parts[::-1], dim=1).view(-1, 1, 1) for parts in (starts, ends))
    path = [state]
    for origin in reversed(back):
        from_start = origin.gather(1, start.expand(-1, 1, states)).long()
        state = from_start.gather(2, state)
        path.append(state)
    chosen = torch.cat(path[::-1], dim=1).view(len(frequency), -1, 1)[:, :total]
    return F.pad(frequency, (0, 1)).gather(-1, chosen).squeeze(-1)


def _path_steps(
    frequency: Tensor, strength: Tensor, unvoiced: Tensor, costs: PitchCosts, scale: float
) -> tuple[Tensor, int]:
    """Gain of each step of the path, [B * blocks, L, to, from] with the unvoiced state last; number of blocks.

    Frames appended to fill the last block (at least one) admit only the unvoiced state.
    """
    batch, total, count = frequency.shape
    blocks = total // _PATH_BLOCK + 1
    extra = blocks * _PATH_BLOCK - total
    octaves = F.pad(torch.log2(frequency.clamp_min(1.0)), (0, 0, 1, extra))
    change = -costs.voicing_change * scale
    jump = (octaves[:, 1:, :, None] - octaves[:, :-1, None, :]).abs() * (-costs.octave_jump * scale)
    steps = F.pad(jump, (0, 1, 0, 1), value=change)
    steps[..., -1, -1] = 0.0
    voiced = F.pad(strength, (0, 0, 0, extra), value=_IMPOSSIBLE)
    local = torch.cat([voiced, F.pad(unvoiced, (0, extra))[..., None]], dim=-1)
    steps = steps + local[..., None]
    return steps.view(batch * blocks, _PATH_BLOCK, count + 1, count + 1), blocks
