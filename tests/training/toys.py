"""Toys for the tests of the training loop: data, and stages that a step takes no time."""

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from modules.checkpoint import Lineage, save_weights
from modules.data.batching import LengthBuckets, Loader, pad_stack
from modules.training.loop import LoopConfig
from modules.training.optimizers import muon_and_adamw

CPU = torch.device("cpu")


class Killed(Exception):
    """Stands for a kill: nothing runs after it."""


class Tones:
    """Items that depend on the generator handed in."""

    def __init__(self, count: int = 22):
        self.lengths = np.random.default_rng(0).integers(4, 12, count)

    def get(self, index, rng):
        return rng.standard_normal((int(self.lengths[index]), 3)).astype(np.float32)


def make_loader(count: int = 22, **options) -> Loader:
    data = Tones(count)
    sampler = LengthBuckets(data.lengths, budget=40, seed=1, buckets=3)
    return Loader(data, sampler, lambda items: pad_stack(items, sampler.bounds), **options)


class Center(nn.Module):
    """Has a buffer that changes in training, as batch norms and codebooks do."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0).float(), 0.1)
        return x - self.mean.clone()


class Regression:
    """One phase; dropout and Python's and numpy's global generators take part."""

    weights = {"l2": 0.5}

    def __init__(self, rate: float = 1e-2, kill_at: int = -1):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), Center(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.modules = {"model": self.model}
        self.optimizers = {"fit": muon_and_adamw(self.model, rate)}
        self.kill_at, self.calls, self.saved, self.history = kill_at, 0, [], []
        self.validated: list[dict[str, torch.Tensor]] = []

    def phases(self, step):
        if step == self.kill_at:
            raise Killed
        return ("fit",)

    def losses(self, phase, batch):
        wav, lengths = batch
        self.calls += 1
        noise = random.random() * 0.1 + np.random.rand() * 0.1
        out = self.model((wav.sum(1) / lengths[:, None]) + noise)
        loss = (out - wav.mean((1, 2))[:, None]).square().mean()
        self.history.append(loss.item())
        return {"fit": loss, "l2": self.model[0].weight.square().mean(), "_noise": torch.tensor(noise)}

    def validate(self):
        assert not self.model.training and not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()  # must not be noticed by the training
        self.validated.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return {"size": sum(float(p.abs().sum()) for p in self.model.parameters())}

    def save_weights(self, folder, step, epoch, *, last):
        path = folder / f"toy_s{step}.safetensors"
        self.saved.append(step)
        return [save_weights(path, self.model.state_dict(), {}, Lineage("nano", "toy", step, epoch))]


class Plain(Regression):
    """Without the buffer, which goes its own way in each of several processes."""

    def __init__(self, rate: float = 1e-2, kill_at: int = -1):
        super().__init__(rate, kill_at)
        self.model[1] = nn.Identity()


class Adversarial(Regression):
    """Two phases with an optimizer each; the discriminator is left out every third step, as is done in GANs."""

    weights = {"adversarial": 0.3}
    averaged = ("generator",)

    def __init__(self, rate: float = 2e-3, kill_at: int = -1):
        super().__init__(rate, kill_at)
        self.discriminator = nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(0.1), nn.Linear(16, 1))
        self.model = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.1), nn.Linear(16, 3))
        self.modules = {"generator": self.model, "discriminator": self.discriminator}
        self.optimizers = {
            "discriminator": torch.optim.AdamW(self.discriminator.parameters(), lr=rate, betas=(0.8, 0.99)),
            "generator": torch.optim.AdamW(self.model.parameters(), lr=rate),
        }

    def phases(self, step):
        super().phases(step)
        return ("generator",) if step % 3 == 2 else ("discriminator", "generator")

    def losses(self, phase, batch):
        real = batch[0].mean(1)
        fake = self.model(torch.randn_like(real))
        if phase == "discriminator":
            return {"real": functional.softplus(-self.discriminator(real)).mean(),
                    "fake": functional.softplus(self.discriminator(fake.detach())).mean()}  # fmt: skip
        adversarial = functional.softplus(-self.discriminator(fake)).mean()
        self.history.append(adversarial.item())
        return {"adversarial": adversarial, "match": (fake.mean(0) - real.mean(0)).square().mean()}


def settings(**changes) -> LoopConfig:
    values = {"max_steps": 20, "warmup_steps": 3, "ema_decay": 0.9, "validate_every_steps": 6, "log_every_steps": 2}
    return LoopConfig(**{**values, **changes})


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class Sick(Regression):
    """Gives NaN in some calls: as the loss, or in the gradient alone."""

    def __init__(self, when, how="loss"):
        super().__init__()
        self.when, self.how = when, how

    def losses(self, phase, batch):
        losses = super().losses(phase, batch)
        if self.when(self.calls):
            if self.how == "loss":
                losses["fit"] = losses["fit"] * float("nan")
            else:  # finite value, infinite slope
                losses["fit"] = losses["fit"] + (self.model[0].weight * 0).abs().sum().sqrt()
        return losses
