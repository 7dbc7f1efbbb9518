"""What the parts of the benchmark work on, each thing made when it is first asked for and kept for the others."""

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from modules.config import Preset
from modules.evaluation.bench.effort import FULL, Effort
from modules.evaluation.bench.timing import Clock
from modules.gpt.backbone import build_backbone
from modules.gpt.engines import Precision, build_engine, weight_type
from modules.gpt.packing import WeightType
from modules.gpt.step import Engine
from modules.inference.parts import Parts, load_parts
from modules.inference.random_parts import random_parts
from modules.inference.voice import Voice, load_reference
from modules.paths import EXAMPLES, PRETRAINED_MODELS

T = TypeVar("T")

TEXT = "The morning train was late, so we walked along the old river"
"""Sixty characters: what somebody waits for."""
VOICES_FILE = "voices.json"


@dataclass(frozen=True, eq=False)
class Workshop:
    """Models, voice and counts of a run.

    Args:
        base: the preset of full size, built with random weights.
        models: holds the folder of the preset nano.
        examples: holds voices.json and the recordings that it names; the first one is cloned.
        should_stop: asked between turns.
    """

    device: torch.device
    base: Preset
    effort: Effort = FULL
    seed: int = 0
    models: Path = PRETRAINED_MODELS
    examples: Path = EXAMPLES
    should_stop: Callable[[], bool] | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        """Of the device."""
        return Clock(self.device)

    def chosen(self, name: str) -> WeightType:
        """The type of weights that the program takes for "nano" or "base" on this device when nobody says another."""
        return weight_type("auto", self.device, self.backbone(name))

    def nano(self, precision: Precision) -> Parts:
        """The shipped nano."""
        return self._once(
            ("nano", precision), lambda: load_parts(self.models / "nano", self.device, precision=precision)
        )

    def full_size(self) -> Parts:
        """The preset of full size with random weights."""
        text = self.effort.text_precision if self.device.type == "cpu" else "bf16"
        more = {"text_precision": text, "precision": "auto", "seed": self.seed}
        return self._once("full size", lambda: random_parts(self.base, self.device, self.models, **more))

    def backbone(self, name: str) -> nn.Module:
        """The Qwen2Model of "nano" or "base"; the latter alone, unless the rest of the system is there already."""
        if name == "nano":
            return self.nano("auto").gpt.model.backbone
        if "full size" in self._made:
            return self.full_size().gpt.model.backbone
        return self._once("backbone", self._fresh_backbone)

    def engine(self, name: str, weights: WeightType) -> Engine:
        """Our engine of that backbone."""
        backbone = self.backbone(name)
        if name == "nano" or "full size" in self._made:
            speaking = (self.nano("auto") if name == "nano" else self.full_size()).gpt
            if speaking.weights == weights:
                return speaking.engine
        return self._once(("engine", name, weights), lambda: build_engine(backbone, weights))

    def voice(self) -> Voice:
        """The first example voice with its words."""
        return self._once("voice", self._first_example)

    def _first_example(self) -> Voice:
        first = json.loads((self.examples / VOICES_FILE).read_text(encoding="utf-8"))[0]
        audio = self.nano("auto").preset.audio
        return Voice((load_reference(self.examples / first["file"], first["text"], 1.0, audio),))

    def _fresh_backbone(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return build_backbone(self.base.gpt).to(self.device).eval()

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
