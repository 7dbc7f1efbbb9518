"""Training stage of the decoder: reconstruction from posterior and prior, later with discriminators.

Shapes: B batch, S samples.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modules.audio.pitch import track_f0
from modules.checkpoint import Lineage, load_weights, save_weights
from modules.config import field, to_dict
from modules.speech.grouped import PREFIX as QUANTIZER_PREFIX
from modules.speech.grouped import PROSODY_STREAM, GroupedQuantizer, perplexity
from modules.speech.prosody import decode_prosody
from modules.training.stage import Samples
from modules.vits2.content import ContentDistance
from modules.vits2.dataset import DecoderBatch
from modules.vits2.discriminators import Discriminators
from modules.vits2.layers import length_mask
from modules.vits2.losses import MelDistance, discriminator_loss, feature_matching_loss, generator_loss
from modules.vits2.model import VITS2, Decoded, save_vits2
from modules.vits2.speaker import SpeakerEncoder

WEIGHTS_NAME = "vits2.safetensors"
TEXT_PREFIX = "prior.text."
DISCRIMINATORS_NAME = "vits2_discriminators.safetensors"


@dataclass(frozen=True)
class VITS2TrainConfig:
    """How the decoder is trained."""

    learning_rate: float = field(1e-3, "peak rate of the decoder", 1e-7, 1e-1)
    text_rate: float = field(1.0, "rate of the text part as a share of the decoder's", 0, 1)
    discriminator_rate: float = field(4e-4, "peak rate of the discriminators", 1e-7, 1e-1)
    adversarial_from: int = field(-1, "step at which the discriminators join; -1 = never", -1, 10**9)
    mel_weight: float = field(1.0, "weight of the multi-resolution mel distance", 0, 1000)
    kl_weight: float = field(0.2, "weight of the KL, nats per latent value", 0, 1000)
    kl_ramp_steps: int = field(500, "steps over which the KL's weight grows from 0", 0, 10**9)
    adversarial_weight: float = field(0.1, "weight of the adversarial loss", 0, 1000)
    feature_weight: float = field(0.3, "weight of feature matching", 0, 1000)
    speaker_weight: float = field(0.5, "weight of the distance to the voice, where a speaker encoder is given", 0, 1000)
    content_weight: float = field(0.5, "weight of what is said, where a tokenizer is given to hear it", 0, 1000)
    posterior_share: float = field(0.5, "share of a batch that is decoded from the posterior", 0, 1)
    commitment_weight: float = field(0.25, "weight of the commitment of features to their codes", 0, 1000)
    quantizer: Literal["auto", "train", "freeze"] = field(
        "auto", "whether codebooks that belong to the decoder move; auto: unless the start weights bring learned ones"
    )
    energy_distance: bool = field(True, "compare two sounds of differing noise (istft head only)")
    coded_pitch_share: float = field(0.5, "share of prior items that get their pitch from the tokens, as in use", 0, 1)
    segment_seconds: float = field(0.64, "length of the pieces that the discriminators hear", 0.1, 10)
    period_width: int = field(8, "first width of the period discriminators", 1, 128)
    spectrum_width: int = field(8, "first width of the spectral discriminators", 1, 128)


class VITS2Stage:
    """What the loop trains (see `modules.training.stage.Stage`).

    Args:
        model: decoder with its posterior encoder.
        config: weights and rates.
        validation: batches of held-out clips.
        preset: name for the lineage.
        include_posterior: save the posterior encoder too (needed to go on training from the file).
        parent_hash: hash of the weights that training started from.
        published: gives, from step and epoch, a further path for the weights, which get it small: float16, without
            the posterior encoder.
        publish_each: put them there at every save, and not only when the run ends.
        samples: makes held-out lines heard: gets the model and a folder.
        speaker: tells how far the sound is from the voice of the recording (cosine); it is not trained here.
        content: tells how much of what the recording says is lost; it is not trained here.
    """

    averaged = ("vits2",)
    # Codebooks follow what the projection gives now: an averaged projection before them would give other codes than
    # those that the decoder has heard.
    unaveraged = (f"vits2.{QUANTIZER_PREFIX}",)

    def __init__(
        self,
        model: VITS2,
        config: VITS2TrainConfig,
        validation: list[DecoderBatch],
        preset: str,
        *,
        include_posterior: bool = True,
        parent_hash: str = "",
        published: Callable[[int, int], Path] | None = None,
        publish_each: bool = True,
        samples: Callable[[VITS2, Path], Samples] | None = None,
        speaker: SpeakerEncoder | None = None,
        content: ContentDistance | None = None,
    ):
        self.speaker, self.content = speaker, content
        self.model, self.config, self.validation = model, config, validation
        self.preset, self.include_posterior, self.parent_hash = preset, include_posterior, parent_hash
        self.published, self.publish_each, self.samples = published, publish_each, samples
        if model.quantizer is not None and _is_fixed(model, config):
            model.quantizer.freeze()
        self.distance = MelDistance(model.audio.sample_rate)
        self.modules: dict[str, nn.Module] = {"vits2": model}
        self.optimizers: dict[str, Any] = {
            "generator": _adamw(model, config.learning_rate, {TEXT_PREFIX: config.text_rate})
        }
        self.discriminators: Discriminators | None = None
        if config.adversarial_from >= 0:
            self.discriminators = Discriminators(config.period_width, config.spectrum_width)
            self.modules["discriminators"] = self.discriminators
            self.optimizers["discriminator"] = _adamw(self.discriminators, config.discriminator_rate)
        self.weights = {
            "mel": config.mel_weight,
            "kl": config.kl_weight,
            "commitment": config.commitment_weight,
            "adversarial": config.adversarial_weight,
            "features": config.feature_weight,
            "speaker": config.speaker_weight,
            "content": config.content_weight,
        }
        self._adversarial = False
        self._decoded: dict[int, tuple[Decoded, Tensor, Tensor, Tensor]] = {}

    def phases(self, step: int) -> tuple[str, ...]:
        """The discriminators come first, and judge the very sound that the generator's phase then improves."""
        self._adversarial = self.discriminators is not None and step >= self.config.adversarial_from
        self._decoded.clear()
        # At full weight from the start the posterior would give up before the generator has learned to use z.
        self.weights["kl"] = self.config.kl_weight * min(1.0, (step + 1) / max(1, self.config.kl_ramp_steps))
        return ("discriminator", "generator") if self._adversarial else ("generator",)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, codes are looked up, or drawn where there are none yet: learning them is done by all processes
        together."""
        quantizer = self.model.quantizer
        if quantizer is None or quantizer.frozen:
            yield
            return
        quantizer.forward = functools.partial(_looked_up, quantizer)  # shadows the class's own until it is deleted
        quantizer.inner.eval()  # in train mode even a search draws a number, for all processes
        try:
            yield
        finally:
            del quantizer.forward
            quantizer.train(quantizer.training)

    def losses(self, phase: str, batch: DecoderBatch) -> dict[str, Tensor]:
        """Named losses of a batch in one of the phases."""
        if phase == "discriminator":
            with torch.enable_grad():
                self._decoded[id(batch)] = self._decode(batch)
            _, _, real, fake = self._decoded[id(batch)]
            self.discriminators.requires_grad_(True)
            real_scores, _ = self.discriminators(real)
            fake_scores, _ = self.discriminators(fake.detach())
            return {"discriminator": discriminator_loss(real_scores, fake_scores)}
        decoded, from_posterior, real, fake = self._decoded.pop(id(batch), None) or self._decode(batch)
        second = decoded.second
        distance = self.distance.to(decoded.wav.device)(decoded.wav, batch.wav, decoded.mask, second)
        losses = {"mel": distance.mean(), "kl": decoded.kl} | self._token_losses(decoded, batch)
        for name, chosen in (("_mel_posterior", from_posterior), ("_mel_prior", ~from_posterior)):
            if chosen.any():
                losses[name] = distance[chosen].mean()
        for name, distances in self._judged(decoded, batch).items():
            losses[name] = distances.mean()
            if (~from_posterior).any():
                losses[f"_{name}_prior"] = distances[~from_posterior].mean()
        if self._adversarial:
            losses |= self._adversarial_losses(real, fake)
        return losses

    def _judged(self, decoded: Decoded, batch: DecoderBatch) -> dict[str, Tensor]:
        """How far what was decoded is from the recording, [B] each, by the ears that were given."""
        found = {}
        if self.speaker is not None:
            found["speaker"] = self._speaker_distance(decoded, batch)
        if self.content is not None:
            samples = batch.frames * self.model.audio.hop_length
            content = self.content.to(batch.wav.device)
            found["content"] = content(decoded.wav, batch.wav, samples)
        return found

    def _speaker_distance(self, decoded: Decoded, batch: DecoderBatch) -> Tensor:
        """One minus the cosine between the voices of what was decoded and of the recording, [B]."""
        speaker = self.speaker.to(batch.wav.device)
        samples = batch.frames * self.model.audio.hop_length
        with torch.no_grad():
            wanted = speaker(batch.wav, samples)
        return 1 - (speaker(decoded.wav * decoded.mask, samples) * wanted).sum(1)

    def _token_losses(self, decoded: Decoded, batch: DecoderBatch) -> dict[str, Tensor]:
        """Commitment of the features to their codes while these move, and how many codes are in use."""
        if decoded.ids is None:
            return {}
        real = length_mask(batch.frames // self.model.frames_per_token, decoded.ids.shape[1])
        codes = self.model.quantizer.codebook_sizes[0]
        moving = {} if self.model.quantizer.frozen else {"commitment": decoded.commitment}
        return moving | {"_code_perplexity": perplexity(decoded.ids, real, codes)}

    def _adversarial_losses(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        # Their own gradients are not wanted here, and not computing them saves a third of this phase.
        self.discriminators.requires_grad_(False)
        with torch.no_grad():
            _, real_features = self.discriminators(real)
        fake_scores, fake_features = self.discriminators(fake)
        return {
            "adversarial": generator_loss(fake_scores),
            "features": feature_matching_loss(real_features, fake_features),
        }

    def _decode(self, batch: DecoderBatch) -> tuple[Decoded, Tensor, Tensor, Tensor]:
        """Decoded batch, which items came from the posterior, and pieces of real and decoded sound."""
        count, device = batch.wav.shape[0], batch.wav.device
        posterior_items = round(self.config.posterior_share * count)
        from_posterior = torch.randperm(count, device=device) < posterior_items
        decoded = self.model.decode_for_training(
            batch.wav,
            batch.frames,
            batch.codes,
            self._pitch(batch, from_posterior),
            batch.text_ids,
            batch.text_lengths,
            self.model.style_of(batch.style_wav, batch.style_samples),
            from_posterior,
            0.2 + 0.8 * torch.rand(count, device=device),
            ssl=batch.ssl,
            two_sounds=self.config.energy_distance and self.model.config.head == "istft",
            text_features=batch.text_features,
        )
        real, fake = self._pieces(batch, decoded)
        return decoded, from_posterior, real, fake

    def _pitch(self, batch: DecoderBatch, from_posterior: Tensor) -> Tensor:
        """Measured pitch; some prior items hear the pitch of their tokens, which is all there is in use."""
        if not self.model.prosody_levels or self.config.coded_pitch_share == 0:
            return batch.f0
        coded = decode_prosody(
            batch.codes[:, :, PROSODY_STREAM],
            batch.median_f0_hz,
            batch.f0.shape[1],
            self.model.prosody_levels,
        )
        lot = torch.rand(batch.f0.shape[0], device=batch.f0.device) < self.config.coded_pitch_share
        return torch.where((lot & ~from_posterior & (batch.median_f0_hz > 0))[:, None], coded, batch.f0)

    def _pieces(self, batch: DecoderBatch, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """The same random piece of each real and decoded sound, [B, segment] each; empty without discriminators."""
        if not self._adversarial:
            return batch.wav[:, :0], decoded.wav[:, :0]
        samples = batch.wav.shape[1]
        segment = min(round(self.config.segment_seconds * self.model.audio.sample_rate), samples)
        spare = (batch.frames * self.model.audio.hop_length - segment).clamp_min(0)
        start = (torch.rand(spare.shape, device=spare.device) * (spare + 1)).long()
        index = start[:, None] + torch.arange(segment, device=spare.device)
        return (batch.wav * decoded.mask).gather(1, index), decoded.wav.gather(1, index)

    def validate(self) -> dict[str, float]:
        """Mel distance from posterior and prior, and how well the prior's sound keeps the pitch it was given."""
        totals: dict[str, list[float]] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for batch in self.validation:
                for name, value in self._measure(batch.to(next(self.model.parameters()).device)).items():
                    totals.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in totals.items()}

    def _measure(self, batch: DecoderBatch) -> dict[str, float]:
        if self.model.quantizer is not None and not self.model.quantizer.ready:
            return {}  # before the first step there are no codes to speak from
        style = self.model.style_of(batch.style_wav, batch.style_samples)
        found: dict[str, float] = {}
        count = batch.wav.shape[0]
        for name in ("posterior", "prior"):
            decoded = self.model.decode_for_training(
                batch.wav, batch.frames, batch.codes, batch.f0, batch.text_ids, batch.text_lengths, style,
                torch.full((count,), name == "posterior", device=batch.wav.device),
                torch.full((count,), 0.35, device=batch.wav.device), ssl=batch.ssl,
                text_features=batch.text_features,
            )  # fmt: skip
            distance = self.distance.to(batch.wav.device)(decoded.wav, batch.wav, decoded.mask)
            found[f"mel_{name}"] = float(distance.mean())
            for judge, distances in self._judged(decoded, batch).items():
                found[f"{judge}_{name}"] = float(distances.mean())
            found["kl"] = float(decoded.kl)
        heard = track_f0(decoded.wav.float(), self.model.audio.sample_rate)[:, : batch.f0.shape[1]]
        both = (heard > 0) & (batch.f0 > 0)
        if both.any():
            found["pitch_error_semitones"] = float((12 * (heard[both] / batch.f0[both]).log2().abs()).median())
        return found

    def make_samples(self, folder: Path) -> Samples:
        """Held-out lines from their own tokens."""
        return self.samples(self.model, folder) if self.samples is not None else Samples()

    def save_weights(self, folder: Path, step: int, epoch: int, *, last: bool = True) -> list[Path]:
        """The decoder, and the discriminators in a file of their own."""
        lineage = Lineage(self.preset, "vits2", step, epoch, self.parent_hash)
        path = folder / WEIGHTS_NAME
        save_vits2(path, self.model, lineage, include_posterior=self.include_posterior)
        files = [path]
        if self.published is not None and (last or self.publish_each):
            files.append(self.published(step, epoch))
            save_vits2(files[-1], self.model, lineage, include_posterior=False, dtype=torch.float16)
        if self.discriminators is not None:
            files.append(folder / DISCRIMINATORS_NAME)
            save_weights(files[-1], self.discriminators.state_dict(), {"train": to_dict(self.config)}, lineage)
        return files

    def load_discriminators(self, path: Path) -> None:
        """Start the discriminators from a file of an earlier run."""
        if self.discriminators is not None:
            self.discriminators.load_state_dict(load_weights(path).state)


def warm_start(model: VITS2, *paths: Path) -> tuple[list[str], list[str]]:
    """Copy what fits by name and shape from a decoder's file, or from several that hold its parts.

    Returns:
        Names of the parameters that the files lack, and of those whose shape differs; both kept as they were.
    """
    own = model.state_dict()
    given = {name: tensor for path in paths for name, tensor in load_weights(path).state.items()}
    missing = sorted(set(own) - set(given))
    differing = sorted(name for name in set(own) & set(given) if own[name].shape != given[name].shape)
    model.load_state_dict({n: t for n, t in given.items() if n in own and n not in differing}, strict=False)
    tokens = {name for name in own if name.startswith(QUANTIZER_PREFIX)}
    model.tokens_given |= bool(tokens) and not tokens & {*missing, *differing}
    return missing, differing


def _looked_up(quantizer: GroupedQuantizer, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a quantiser's `forward` gives in training, with gradients, of codes that do not move."""
    tokens = mask.shape[1]
    with torch.autocast(x.device.type, enabled=False):
        frames = quantizer.norm(x[:, : tokens * quantizer.stride].float()).unflatten(1, (tokens, -1))
        hidden = quantizer.project(frames.flatten(2))
        if quantizer.ready:
            ids = quantizer.encode(x)[:, :tokens]
        else:
            sizes = torch.tensor(quantizer.codebook_sizes, device=x.device)
            ids = (torch.rand(*mask.shape, len(sizes), device=x.device) * sizes).long()
        vectors = quantizer.vectors(ids)
        vectors = vectors + (hidden - hidden.detach())  # straight through, as codes are learned
        commitment = (hidden - vectors.detach()).square().mean()
    return vectors * mask.unsqueeze(-1), ids * mask.unsqueeze(-1), commitment


def _is_fixed(model: VITS2, config: VITS2TrainConfig) -> bool:
    """Whether the tokens stay as they are. Codebooks tell by themselves whether they have learned anything; the grid of
    an FSQ is there from the start, and its projections have learned something only where a file brought them."""
    learned = model.tokens_given if model.quantizer.scalar else model.quantizer.ready
    return config.quantizer == "freeze" or (config.quantizer == "auto" and learned)


def _adamw(module: nn.Module, learning_rate: float, shares: Mapping[str, float] | None = None) -> torch.optim.AdamW:
    """AdamW without decay on vectors; tables and matrices decay.

    Args:
        shares: beginning of parameters' names -> their rate as a share of the others'.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        share = next((share for prefix, share in (shares or {}).items() if name.startswith(prefix)), 1.0)
        if parameter.requires_grad:
            groups.setdefault((share, 0.01 if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": learning_rate * share, "weight_decay": decay}
            for (share, decay), parameters in groups.items()
        ],
        lr=learning_rate,
        betas=(0.8, 0.99),
        fused=True,
    )
