"""The 32 kHz decoder: speech tokens, text, pitch and style -> sound (after VITS2, Kong et al., 2023).

Text enters as ids through a learned table, as features of an encoder outside, or as both (see `TextConfig`).
The tokens' codes are looked up in learned tables, or, for tokens of form "grouped", in the codebooks of a quantiser
that is trained here, with the decoder, and saved with its weights (see `modules.speech.grouped`).

Shapes: B batch, K codebooks, U text units, D latent channels, S samples; T decoder frames (50 Hz in the presets),
f0 contours run at 100 Hz, tokens at `token_rate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from modules.audio.spectral import LogMel
from modules.checkpoint import Lineage, load_stage, save_weights
from modules.config import AudioConfig, SpeechTokenizerConfig, TextConfig, VITS2Config, from_dict, to_dict
from modules.errors import UserError
from modules.speech.grouped import PREFIX as QUANTIZER_PREFIX
from modules.speech.grouped import PROSODY_STREAM, GroupedQuantizer, content_codes, stream_sizes
from modules.speech.prosody import F0_FRAME_RATE_HZ, decode_prosody
from modules.speech.style import StyleEncoder
from modules.vits2.encoders import PosteriorEncoder, PriorEncoder
from modules.vits2.flow import Flow
from modules.vits2.generator import SourceFilterHead
from modules.vits2.hifigan import HifiGanHead
from modules.vits2.layers import HalfLinear, length_mask
from modules.vits2.losses import kl_divergence
from modules.vits2.source import carry_pitch
from modules.vits2.timing import Generators, draw_noise, places_at, retime, retime_f0

POSTERIOR_PREFIX = "posterior."
Precision = Literal["float32", "bf16"]
HALVED = ("joint", "matrix", "out", "up", "down")
"""Names of the layers that work in bfloat16 where it is asked for."""


@dataclass(frozen=True)
class Decoded:
    """What a training pass gives: wav and second [B, S] (second may be None), sample mask [B, S], KL scalar.

    Where a quantiser read features: its commitment loss and the ids [B, tokens, codebooks] that it chose.
    """

    wav: Tensor
    second: Tensor | None
    mask: Tensor
    kl: Tensor
    commitment: Tensor | None = None
    ids: Tensor | None = None


class VITS2(nn.Module):
    """Decoder of one preset.

    Args:
        config, audio: sizes of the network and of the sound.
        codebook_sizes: one entry per token stream; stream 1, when there is one, carries relative pitch.
        text_vocab: number of text ids.
        token_rate: tokens per second.
        fsq_levels: levels behind stream 0 when it is an FSQ code, else None.
        posterior: build the posterior encoder (training, copy-synthesis); inference does without.
        tokenizer: of the form "grouped" it brings a quantiser, and its streams are the `codebook_sizes`; else ignored.
        text: how text enters: table, features or both; None: a table of `text_vocab` ids.
    """

    def __init__(
        self,
        config: VITS2Config,
        audio: AudioConfig,
        codebook_sizes: Sequence[int],
        text_vocab: int,
        token_rate: float = 25.0,
        *,
        fsq_levels: Sequence[int] | None = None,
        posterior: bool = True,
        tokenizer: SpeechTokenizerConfig | None = None,
        text: TextConfig | None = None,
    ):
        super().__init__()
        self.text_config = text or TextConfig()
        grouped = tokenizer is not None and tokenizer.form == "grouped"
        self.tokenizer = tokenizer if grouped else None
        if grouped and tuple(codebook_sizes) != stream_sizes(tokenizer):
            raise ValueError(f"streams {tuple(codebook_sizes)} are not those of the tokenizer")
        self.fsq_levels = tuple(fsq_levels) if fsq_levels else None
        self.config, self.audio = config, audio
        self.codebook_sizes, self.text_vocab, self.token_rate = tuple(codebook_sizes), text_vocab, token_rate
        self.frames_per_token = round(audio.frame_rate / token_rate)
        self.pitch_per_frame = round(F0_FRAME_RATE_HZ / audio.frame_rate)
        self.mel = LogMel(audio.sample_rate, audio.n_fft, audio.hop_length, audio.n_mels)
        self.style_encoder = StyleEncoder(audio.n_mels, config.style_dim, config.hidden)
        self.quantizer = GroupedQuantizer(tokenizer) if grouped else None
        self.tokens_given = False  # whether a file brought all of it (see `warm_start`)
        vector_dim = self.quantizer.vector_dim if grouped else None
        self.prior = PriorEncoder(
            config, self.codebook_sizes, text_vocab, self.fsq_levels, vector_dim, self.text_config
        )
        self.flow = Flow(config)
        self.head = (SourceFilterHead if config.head == "istft" else HifiGanHead)(config, audio)
        self.posterior = PosteriorEncoder(config, audio.n_mels) if posterior else None

    def fold(self, precision: Precision = "float32") -> "VITS2":
        """Compute in advance what depends on weights alone (weight norms, code tables, joint matrices); returns itself.

        Such a decoder is quicker and sounds the same; it is not to be saved or trained.

        Args:
            precision: of the large matrices between frames. "bf16" is for devices with `bf16_supported`: a whole
                sentence takes two thirds of the time there, and the log-mel spectrum moves by 0.004 (another seed
                moves it by 0.26).
        """
        for module in list(self.modules()):
            if module is not self and hasattr(module, "fold"):
                module.fold()
        if precision == "bf16":
            for part in (self.prior, self.flow, self.head):
                _halve_(part)
        return self

    @property
    def prosody_levels(self) -> int:
        """Codes of the pitch stream; 0 when the tokens have none."""
        if self.tokenizer is not None:
            return self.tokenizer.prosody_levels
        return self.codebook_sizes[PROSODY_STREAM] if len(self.codebook_sizes) > PROSODY_STREAM else 0

    @property
    def reads_text_features(self) -> bool:
        """Whether a text must come with its features (`text_features`)."""
        return self.text_config.features != "embedding"

    def tokens(self, codes: Tensor) -> Tensor:
        """What the prior reads of codes [B, tokens, K]: the codes, or the quantiser's vectors [B, tokens, D]."""
        if self.quantizer is None:
            return codes
        return self.quantizer.vectors(content_codes(codes, self.prosody_levels))

    def style(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """mel [B, n_mels, T], lengths [B] -> style [B, style_dim]. Styles may be mixed by weights."""
        return self.style_encoder(mel, lengths)

    def style_of(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wav [B, S] at the decoder's rate, loudness-normalised, lengths [B] samples -> style [B, style_dim]."""
        frames = None if lengths is None else self.mel.frames(lengths)
        return self.style(self.mel(wav), frames)

    def decode_for_training(
        self,
        wav: Tensor,
        frames: Tensor,
        codes: Tensor,
        f0: Tensor,
        text_ids: Tensor,
        text_lengths: Tensor,
        style: Tensor,
        from_posterior: Tensor,
        noise_scale: Tensor,
        *,
        ssl: Tensor | None = None,
        two_sounds: bool = False,
        text_features: Tensor | None = None,
    ) -> Decoded:
        """Decode every item from its posterior or from a sample of its prior.

        Args:
            wav: [B, S] target; frames [B] its length in decoder frames; f0 [B, 2 T] Hz measured on it.
            codes: [B, tokens, K]; text_ids [B, U], text_lengths [B]; style [B, style_dim].
            from_posterior: bool [B]; the others take the way of inference: prior, inverse flow, generator.
            noise_scale: [B] scale of the prior's noise.
            ssl: [B, features, dim] of the same window, for the quantiser; the codes' content is not read then.
            two_sounds: also render with a second noise (for the energy distance).
            text_features: [B, U, F] beside the ids, for a model that `reads_text_features`; others pass them by.
        """
        mel = self.mel(wav)
        width = mel.shape[2]
        valid = length_mask(frames, width)[:, None].to(mel.dtype)
        commitment = ids = None
        if self.quantizer is None or ssl is None:
            tokens = self.tokens(codes)
        else:
            real = length_mask(frames // self.frames_per_token, codes.shape[1])
            tokens, ids, commitment = self.quantizer(ssl, real)
        text = self.prior.text.read(text_ids, text_lengths, text_features)
        mean, log_scale = self.prior(tokens, f0, width, frames, text, style)
        z, _, posterior_log_scale = self.posterior(mel, frames, style, torch.randn_like(mean))
        kl = kl_divergence(self.flow(z, frames, style), posterior_log_scale, mean, log_scale, valid)
        prior_z = (mean + torch.randn_like(mean) * log_scale.exp() * noise_scale[:, None, None]) * valid
        chosen = (~from_posterior).nonzero()[:, 0]
        if len(chosen) > 0:
            inverted = self.flow(prior_z[chosen], frames[chosen], style[chosen], inverse=True)
            z = z.index_copy(0, chosen, inverted)
        wav, second = self.head(
            z,
            f0,
            style,
            frames,
            torch.randn_like(wav),
            torch.rand(wav.shape[0], device=wav.device),
            torch.randn_like(wav) if two_sounds else None,
        )
        mask = length_mask(frames * self.audio.hop_length, wav.shape[1]).to(wav.dtype)
        return Decoded(wav, second, mask, kl, commitment, ids)

    @torch.inference_mode()
    def infer(
        self,
        codes: Tensor,
        text_ids: Tensor,
        style: Tensor,
        f0_median_hz: float,
        *,
        noise_scale: float = 0.35,
        speed: float = 1.0,
        generator: torch.Generator | None = None,
        f0: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Tensor:
        """One sentence: codes [1, T, K], text_ids [1, U], style [1, style_dim] -> wav [S] float32.

        Args:
            f0_median_hz: pitch that the prosody stream moves around (the reference's median).
            noise_scale: 0 gives the prior's mean, 1 its full spread.
            speed: above 1 is faster; time is stretched before the generator, so the pitch stays.
            generator: CPU generator; the same seed gives the same samples.
            f0: [1, N] Hz at 100 Hz, instead of the prosody stream.
            text_features: [1, U, F] beside the ids, for a model that `reads_text_features`.
        """
        median = torch.tensor([f0_median_hz], dtype=torch.float32, device=codes.device)
        wav, _ = self.infer_batch(
            codes, text_ids, style, median, noise_scale=noise_scale, speed=speed, generators=generator, f0=f0,
            text_features=text_features,
        )  # fmt: skip
        return wav[0]

    @torch.inference_mode()
    def infer_batch(
        self,
        codes: Tensor,
        text_ids: Tensor,
        style: Tensor,
        f0_median_hz: Tensor,
        *,
        lengths: Tensor | None = None,
        text_lengths: Tensor | None = None,
        noise_scale: float = 0.35,
        speed: float = 1.0,
        generators: Generators = None,
        f0: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Several sentences of differing length at once.

        Args:
            lengths: [B] tokens; text_lengths [B] ids (whole width when None, which is quicker).
            generators: one for all rows, or one per row, which makes a row independent of its batch.

        Returns:
            wav [B, S] (zero after each row's end) and lengths [B] in samples.
        """
        batch, tokens, _ = codes.shape
        width = tokens * self.frames_per_token
        frames = None if lengths is None else lengths * self.frames_per_token
        f0 = self.contour(codes, lengths, f0_median_hz, f0)
        text = self.prior.text.read(text_ids, text_lengths, text_features)
        mean, log_scale = self.prior(self.tokens(codes), f0, width, frames, text, style)
        counts = [width] * batch if frames is None else frames.tolist()
        if speed != 1.0:
            wanted = [self.spoken_frames(count, speed) for count in counts]
            places = places_at(speed, 0, max(wanted), codes.device)
            mean, log_scale = (retime(x, places, frames) for x in (mean, log_scale))
            f0 = self.spoken_f0(f0, f0_median_hz, speed, max(wanted), frames)
            counts = wanted
            frames = None if frames is None else torch.tensor(wanted, device=codes.device)
        latent, hiss = draw_noise(counts, self.noise_widths, generators)
        wav = self.sound(mean, log_scale, f0, latent, hiss, style, noise_scale, frames, before_hz=f0_median_hz)
        return wav, torch.tensor(counts, device=codes.device) * self.audio.hop_length

    @property
    def noise_widths(self) -> tuple[int, int]:
        """Values of noise that a frame needs: of the latent, and samples of hiss."""
        return self.config.latent, self.audio.hop_length

    @staticmethod
    def spoken_frames(frames: int, speed: float) -> int:
        """Frames of a sound that has `frames` at speed 1."""
        return max(1, round(frames / speed))

    def spoken_f0(
        self, f0: Tensor, before_hz: Tensor, speed: float, frames: int, lengths: Tensor | None = None
    ) -> Tensor:
        """f0 [B, N] Hz at 100 Hz of the plain sound -> that of the first `frames` frames at a speed, [B, 2 frames].

        before_hz [B] before the first voiced point; lengths [B] plain frames (None: whole width).
        """
        points = None if lengths is None else lengths * self.pitch_per_frame
        places = places_at(speed, 0, frames * self.pitch_per_frame, f0.device)
        return retime_f0(f0, carry_pitch(f0, before_hz), places, points)

    def sound(
        self,
        mean: Tensor,
        log_scale: Tensor,
        f0: Tensor,
        latent: Tensor,
        hiss: Tensor,
        style: Tensor,
        noise_scale: float,
        lengths: Tensor | None = None,
        *,
        before_hz: Tensor,
        start: Tensor | None = None,
    ) -> Tensor:
        """The prior's mean and log-scale [B, D, T] to sound, wav [B, T * hop] float32.

        Args:
            f0: [B, 2 T] Hz; before_hz [B] its pitch before the first voiced point.
            latent, hiss: [B, T, D] and [B, T, hop] unit noise, on the CPU.
            lengths: [B] frames; None: all are real.
            start: [B] phase of the pulses at the first sample, turns.
        """
        latent = latent.to(mean.device).transpose(1, 2)
        z = self.flow(torch.addcmul(mean, latent, log_scale.exp(), value=noise_scale), lengths, style, inverse=True)
        wav, _ = self.head(z, f0, style, lengths, hiss.to(mean.device).flatten(1), start, before_hz=before_hz)
        return wav.float()

    @torch.inference_mode()
    def reconstruct(self, mel: Tensor, f0: Tensor, style: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Copy-synthesis through the posterior's mean: mel [B, n_mels, T], f0 [B, N] -> wav [B, T * hop]."""
        if self.posterior is None:
            raise UserError(
                "posterior_missing", "These decoder weights hold no posterior encoder; copy-synthesis needs one."
            )
        if lengths is None:
            lengths = torch.full((mel.shape[0],), mel.shape[2], device=mel.device)
        z, _, _ = self.posterior(mel, lengths, style)
        samples = mel.shape[2] * self.audio.hop_length
        noise = torch.randn(mel.shape[0], samples, generator=torch.Generator().manual_seed(0))
        wav, _ = self.head(z, f0, style, lengths, noise.to(mel))
        return wav.float()

    def contour(self, codes: Tensor, lengths: Tensor | None, median_hz: Tensor, f0: Tensor | None = None) -> Tensor:
        """f0 [B, points] Hz at 100 Hz: what is given (cut or filled up), else what the prosody stream says."""
        points = codes.shape[1] * self.frames_per_token * self.pitch_per_frame
        if f0 is None:
            if not self.prosody_levels:
                raise UserError("pitch_missing", "These tokens carry no pitch stream; the decoder needs an f0 contour.")
            prosody = codes[:, :, PROSODY_STREAM]
            if lengths is not None:
                # Padding tokens must not bend the last interpolated points: unvoiced ones are bridged from the left.
                prosody = prosody * length_mask(lengths, codes.shape[1])
            f0 = decode_prosody(prosody, median_hz, points, self.prosody_levels)
        f0 = nn.functional.pad(f0, (0, max(0, points - f0.shape[1])))[:, :points]
        if lengths is None:
            return f0
        # A row's last value is held through its padding, as if the row stood alone.
        last = lengths * self.frames_per_token * self.pitch_per_frame - 1
        return f0.gather(1, torch.arange(points, device=f0.device).minimum(last[:, None]))


def _halve_(part: nn.Module) -> None:
    """Let the linear layers that see every frame work in bfloat16; norms and projections of one style stay."""
    for module in list(part.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name in HALVED:
                setattr(module, name, HalfLinear(child))


def save_vits2(
    path: Path, model: VITS2, lineage: Lineage, *, include_posterior: bool, dtype: torch.dtype | None = None
) -> Path:
    """Write a decoder; without the posterior encoder the file is for inference only."""
    config = {
        "vits2": to_dict(model.config),
        "audio": to_dict(model.audio),
        "codebook_sizes": list(model.codebook_sizes),
        "text_vocab": model.text_vocab,
        "text": to_dict(model.text_config),
        "token_rate": model.token_rate,
        "fsq_levels": list(model.fsq_levels) if model.fsq_levels else None,
        "tokenizer": to_dict(model.tokenizer) if model.tokenizer is not None else None,
    }
    state = {k: v for k, v in model.state_dict().items() if include_posterior or not k.startswith(POSTERIOR_PREFIX)}
    if dtype is not None:
        # Rounded codebooks would give some frames other codes than those a language model has learned.
        cast = {k for k, v in state.items() if v.is_floating_point() and not k.startswith(QUANTIZER_PREFIX)}
        state = {k: v.to(dtype) if k in cast else v for k, v in state.items()}
    return save_weights(path, state, config, lineage)


def load_vits2(path: Path, *, speaking: bool = False, precision: Precision = "float32") -> VITS2:
    """Read a decoder in eval mode, with the posterior encoder if the file holds one.

    Args:
        speaking: it will only speak (see `VITS2.fold`, also for the precision of such a decoder).

    Raises:
        UserError: weights_missing, weights_unreadable, or weights_wrong_stage for another stage's file.
    """
    weights = load_stage(path, "vits2", "codebook_sizes", stage="VITS2")
    tokenizer = weights.config.get("tokenizer")
    model = VITS2(
        from_dict(VITS2Config, weights.config["vits2"]),
        from_dict(AudioConfig, weights.config["audio"]),
        weights.config["codebook_sizes"],
        weights.config["text_vocab"],
        weights.config["token_rate"],
        fsq_levels=weights.config.get("fsq_levels"),
        posterior=any(name.startswith(POSTERIOR_PREFIX) for name in weights.state),
        tokenizer=from_dict(SpeechTokenizerConfig, tokenizer, "tokenizer") if tokenizer else None,
        text=from_dict(TextConfig, weights.config.get("text") or {}, "text"),
    )
    model.load_state_dict(weights.state)
    return (model.fold(precision) if speaking else model).eval()
