"""A made-up experiment as its trainings would have left it: events, samples, weights, scores."""

import json
import math
import random
from pathlib import Path
from typing import Any

import torch

from modules.audio.io import write
from modules.experiment import Experiment

LINES = (
    "The harbour lay quiet under the moon.",
    "你好，今天天气很好。",
    "Wer hat an der Uhr gedreht?",
    "One more line.",
)
RATE = 16000


def tone(path: Path, hertz: float, seconds: float) -> Path:
    """A sound file with a tone that swells and fades; one that is there is left as it is."""
    if path.exists():
        return path
    time = torch.arange(int(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, 0.4 * torch.sin(2 * math.pi * hertz * time) * torch.sin(math.pi * time / seconds), RATE)
    return path


def append(folder: Path, *events: dict[str, Any]) -> None:
    """Add events to a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "events.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def step_event(step: int, total: int, **losses: float) -> dict[str, Any]:
    """As the loop writes it, at two seconds a step and 30 steps an epoch."""
    return {
        "kind": "step",
        "time": 1.8e9 + 2 * step,
        "step": step,
        "total": total,
        "epoch": step // 30,
        "losses": losses,
        "learning_rate": 4e-4 * (1 - step / (total + 1)),
        "seconds": 2.0 * step,
        "eta_seconds": 2.0 * (total - step),
    }


def samples_event(run: Path, step: int, count: int = len(LINES)) -> dict[str, Any]:
    """A save whose samples come nearer to the recordings the later it is; writes the sounds."""
    items = []
    for number in range(count):
        text, pitch, seconds = LINES[number % len(LINES)], 150.0 + 20 * number, 0.6 + 0.1 * number
        stretch = 1 + 10 / step * (-1) ** number
        sample = tone(run / "samples" / f"step{step}" / f"{number}.wav", pitch * 1.02, seconds * stretch)
        truth = tone(run / "samples" / "recordings" / f"{number}.wav", pitch, seconds)
        numbers = {"seconds": seconds * stretch, "true_seconds": seconds, "f0_hz": pitch * 1.02, "true_f0_hz": pitch}
        items.append({"file": str(sample), "truth": str(truth), "text": text, **numbers})
    files = [item["file"] for item in items]
    return {
        "kind": "samples", "time": 1.8e9 + 2 * step, "step": step, "epoch": step // 30, "samples": files,
        "items": items, "measures": {"length_ratio": 1 + 10 / step, "f0_ratio": 1.02},
    }  # fmt: skip


def build_run(experiment: Experiment, stage: str, steps: int = 240, every: int = 10, count: int = 4) -> Path:
    """A run that saves twice: at its half and at its end."""
    run, chance = experiment.run(stage), random.Random(7)
    append(run, {"kind": "start", "time": 1.8e9, "step": 0, "total": steps})
    for step in range(every, steps + 1, every):
        fall = math.exp(-3 * step / steps)
        wobble = chance.gauss(0, 0.04)
        names = ("mel", "kl", "_mel_prior") if stage == "vits2" else ("content", "prosody", "_accuracy", "_eos")
        values = (0.45 + 0.4 * fall + wobble, 0.09 + 0.05 * fall + wobble / 8, 0.5 + 0.4 * fall + wobble, 0.3 + fall)
        append(run, step_event(step, steps, **dict(zip(names, values))))
        if step % (steps // 4) == 0:
            held_out = {name.lstrip("_"): value + 0.05 for name, value in zip(names, values)}
            event = {"kind": "validation", "time": 1.8e9 + 2 * step, "step": step, "total": steps, "losses": held_out}
            append(run, {**event, "epoch": step // 30, "seconds": 2.0 * step})
        if step % (steps // 2) == 0:
            name = experiment.vits2_file if stage == "vits2" else experiment.gpt_file
            file = name(step, step // 30)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            append(run, {"kind": "weights", "time": 1.8e9, "step": step, "total": steps, "files": [str(file)]})
            append(run, samples_event(run, step, count))
    append(run, {"kind": "end", "time": 1.8e9 + 2 * steps, "step": steps, "total": steps, "seconds": 2.0 * steps})
    return run


def build_pick(experiment: Experiment, stages: tuple[str, ...] = ("vits2", "gpt"), **more: Any) -> Path:
    """Scores of the preset's own weights and of all saved ones; the newest of a stage is its best.

    Writes weights that are not there yet; `more` goes into the file.
    """
    rows, best = [], {}
    for stage in stages:
        name = experiment.vits2_file if stage == "vits2" else experiment.gpt_file
        for number, (epoch, step) in enumerate(((0, 0), (4, 120), (8, 240))):
            file, mark = "", {"bytes": 0, "mtime_ns": 0}
            if number:
                weights = name(step, epoch)
                weights.parent.mkdir(parents=True, exist_ok=True)
                weights.touch()
                file, stat = weights.name, weights.stat()
                mark = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            folder = experiment.folder / "pick" / f"{stage}{number}"
            samples = [
                {
                    "file": str(tone(folder / f"{line}.wav", 160 + 20 * line + number, 0.6)),
                    "truth": str(tone(experiment.folder / "pick" / "recordings" / f"{line}.wav", 160 + 20 * line, 0.6)),
                    "text": LINES[line],
                }
                for line in range(2)
            ]
            scores = {"phone_error": 0.2 - 0.05 * number, "similarity": 0.7 + 0.08 * number, "failure_rate": 0.0}
            scores["score"] = scores["similarity"] - scores["phone_error"]
            place = {"stage": stage, "file": file, "epoch": epoch, "step": step, **mark}
            rows.append({**place, **scores, "samples": samples})
            best[stage] = file
    path = experiment.folder / "pick.json"
    content = {"lines": 8, "held_out": True, "created": 1.8e9, "rows": rows, "best": best, **more}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
