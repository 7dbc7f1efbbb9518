"""Every command line that the page builds for a whole training is read by the parsers of the tools themselves."""

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from modules import paths
from modules.experiment import Experiment
from modules.training.suggestions import GIB, Machine, Speech
from tools.webui.training_scratch import suggested_options
from tools.webui.training_steps import STAGES, Pretrained, pretrained
from tools.webui.training_whole import whole_works
from tools.webui.weights import WeightFolders

TOOLS = ("tools.extract", "tools.train_vits2", "tools.train_gpt", "tools.pick")
FILES = ("preset.json", "gpt.safetensors", "vits2.safetensors", "tokenizer.json", "s3.safetensors")
MACHINES = {"CPU": Machine(), "two GPUs": Machine("cuda", 80 * GIB, 2)}
FEW, MANY = Speech(10, 60.0), Speech(100_000, 400_000.0)


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    return {name: importlib.import_module(name)._parser() for name in TOOLS}


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[str, bool], tuple[WeightFolders, Pretrained]]:
    def make(preset: str, installed: bool) -> tuple[WeightFolders, Pretrained]:
        folders = WeightFolders(tmp_path / "models", tmp_path / "gpt", tmp_path / "vits2", paths.PRESETS)
        for name in ("nano", preset) if installed else ("nano",):
            files = [folders.models / name / file for file in FILES]
            for path in (*files, folders.models / f"{name}-training" / "vits2.safetensors"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return folders, pretrained({"training_preset": preset}, folders)

    return make


@pytest.mark.parametrize("speech", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("preset", ["nano", "base", "base-s3", "base-qwen2", "base-wide"])
def test_the_tools_understand_the_page(
    preset: str, installed: bool, machine: str, speech: Speech, parsers: dict, weights: Callable, tmp_path: Path
) -> None:
    folders, files = weights(preset, installed)
    (tmp_path / "list.jsonl").touch()
    experiment = Experiment("me", tmp_path / "logs", folders.gpt, folders.vits2)
    values = {"extract_source": str(tmp_path / "list.jsonl"), "training_preset": preset, "training_experiment": "me"}
    for stage, options in zip(STAGES, suggested_options(MACHINES[machine], speech, preset, folders), strict=True):
        values |= {f"{stage}_{name}": value for name, value in dataclasses.asdict(options).items()}
    works = whole_works(values, experiment, files, "auto").works
    assert [work.step.module for work in works if work.step.module.startswith("tools.train")] == [
        "tools.train_vits2", "tools.train_gpt",
    ]  # fmt: skip
    for work in works:
        read = parsers[work.step.module].parse_args(list(work.arguments))
        assert getattr(read, "preset", preset) in (preset, None, ""), work.arguments
