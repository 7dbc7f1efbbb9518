"""Both trainings as commands: killed and resumed, in two processes, with hardly any data, listened to."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from modules import checkpoint
from modules.checkpoint import load_training_state, load_weights
from modules.data.features import open_store
from modules.errors import UserError
from modules.experiment import Experiment
from modules.inference.samples import SampleMaker
from modules.paths import PROJECT_ROOT
from modules.training.events import read_events
from modules.training.memory import Fit
from tests.tools.conftest import TrainingData, write_store
from tests.training.test_team import torchrun
from tools import train_gpt, train_vits2, training

STAGES = {"gpt": train_gpt, "vits2": train_vits2}
MODULES = {"gpt": "tools.train_gpt", "vits2": "tools.train_vits2"}


def experiment(name: str, root: Path) -> Experiment:
    """One whose weights do not go to the project's folders."""
    return Experiment(name, root / "logs", root / "GPT", root / "SoVITS")


def flags(stage: str, data: TrainingData, output: Path, *more: str) -> list[str]:
    """A short training on the CPU."""
    own = {
        "gpt": ["--batch-frames", "160", "--decoder", str(data.preset.parent)],
        "vits2": ["--batch-seconds", "2", "--window-seconds", "0.6", "--adversarial-from", "3", "--segment-seconds",
                  "0.3", "--period-width", "2", "--spectrum-width", "2"],
    }  # fmt: skip
    common = ["--store", str(data.store), "--preset", str(data.preset), "--output", str(output), "--device", "cpu"]
    return [*common, *own[stage], "--threads", "1", "--warmup-steps", "2", "--validate-every", "0", *more]


def state_of(folder: Path) -> dict:
    return load_training_state(folder / "checkpoint.safetensors")


def moved(before: dict, after: dict) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before if before[name].is_floating_point())


@pytest.mark.parametrize("stage", STAGES)
def test_killed_by_the_system_and_resumed_equals_never_killed(stage, training_data, tmp_path) -> None:
    steps = ["--max-steps", {"gpt": "40", "vits2": "16"}[stage], "--ema-decay", "0.9"]
    assert STAGES[stage].main(flags(stage, training_data, tmp_path / "whole", *steps)) == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", MODULES[stage], *flags(stage, training_data, killed, *steps), "--no-check-memory"]
    process = subprocess.Popen([*command, "--save-every", "3"], cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < state_of(killed)["step"] < int(steps[1]), "killed on the way"
    assert STAGES[stage].main(flags(stage, training_data, killed, *steps, "--resume")) == 0
    a, b = state_of(tmp_path / "whole"), state_of(killed)
    assert a["step"] == b["step"] == int(steps[1]) and a["loader"] == b["loader"]
    for kind in ("modules", "ema"):
        for name, value in a[kind].items():
            states = [value, b[kind][name]] if kind == "modules" else [{name: value}, {name: b[kind][name]}]
            assert all(torch.equal(t, states[1][n]) for n, t in states[0].items()), (kind, name)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_equal_one(stage, training_data, tmp_path) -> None:
    steps = ["--max-steps", {"gpt": "20", "vits2": "6"}[stage], "--no-check-memory"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert STAGES[stage].main(flags(stage, training_data, one, *steps, "--accumulate", "2")) == 0
    torchrun("-m", MODULES[stage], *flags(stage, training_data, two, *steps, "--job", str(tmp_path / "job")))
    a, b = state_of(one)["modules"], state_of(two)["modules"]
    for module, state in a.items():
        for name, tensor in state.items():
            torch.testing.assert_close(b[module][name], tensor, rtol=1e-4, atol=1e-6)
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result["step"] == int(steps[1]), "the job hears of the main process"
    assert [event["kind"] for event in read_events(tmp_path / "job")].count("start") == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("clips", [1, 3, 5])
def test_the_smallest_datasets_change_the_weights_in_every_epoch(stage, clips, training_data, tmp_path) -> None:
    store = write_store(tmp_path / "store", clips, speakers=1, dev=0)
    data = TrainingData(training_data.preset, store)
    weights = tmp_path / "w.safetensors"
    before = None
    for epochs in (1, 2):
        output = tmp_path / f"run{epochs}"
        length = ["--epochs", str(epochs), "--max-steps", str(4 * epochs), "--weights-out", str(weights)]
        assert STAGES[stage].main(flags(stage, data, output, *length, "--ema-decay", "0")) == 0
        after = load_weights(weights).state
        assert before is None or moved(before, after)
        before = after
        assert state_of(output)["step"] > 0


def test_samples_are_written_at_every_save_beside_the_recordings(training_data, tmp_path) -> None:
    output = tmp_path / "run"
    more = ["--max-steps", "4", "--save-every", "2", "--samples", "2", "--tensorboard"]
    assert train_vits2.main(flags("vits2", training_data, output, *more)) == 0
    told = [event for event in read_events(output) if event["kind"] == "samples"]
    assert [event["step"] for event in told] == [2, 4]
    item = told[-1]["items"][0]
    assert Path(item["file"]).is_file() and Path(item["truth"]).is_file() and item["file"] != item["truth"]
    assert item["seconds"] == pytest.approx(item["true_seconds"], rel=0.05), "made of the line's own tokens"
    assert told[-1]["measures"]["length_ratio"] == pytest.approx(1, rel=0.05)
    assert list((output / "tensorboard").iterdir())
    # The language model's are heard through the decoder that was just trained.
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "vits2.safetensors").write_bytes((output / "vits2.safetensors").read_bytes())
    more = ["--max-steps", "2", "--samples", "1", "--decoder", str(tmp_path / "folder")]
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "gpt", *more)) == 0
    told = [event for event in read_events(tmp_path / "gpt") if event["kind"] == "samples"]
    assert len(told) == 1 and Path(told[0]["items"][0]["file"]).stat().st_size > 44
    assert {"length_ratio", "token_rate_ratio"} <= set(told[0]["measures"])


def test_small_weights_appear_at_every_save_or_at_the_end(training_data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "Experiment", lambda name: experiment(name, tmp_path))
    length = ["--epochs", "2", "--save-every-epochs", "1", "--experiment", "me"]
    for number, (switches, expected) in enumerate(
        {(): 2, ("--keep-latest",): 1, ("--no-save-small",): 1, ("--keep-latest", "--no-save-small"): 1}.items()
    ):
        for file in tmp_path.glob("GPT/*"):
            file.unlink()
        assert train_gpt.main(flags("gpt", training_data, tmp_path / f"run{number}", *length, *switches)) == 0
        found = sorted(file.name for file in (tmp_path / "GPT").glob("*"))
        assert len(found) == expected and found[-1] == "me-e2.safetensors", switches


def test_resuming_with_another_adapter_is_refused_by_name(training_data, tmp_path, capsys) -> None:
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "base", "--max-steps", "1")) == 0
    init = ["--init", str(tmp_path / "base" / "gpt.safetensors"), "--lora-rank"]
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "run", "--max-steps", "1", *init, "16")) == 0
    more = ["--max-steps", "2", *init, "32", "--resume"]
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "run", *more)) == 2
    assert "train.lora_rank" in capsys.readouterr().err


def test_a_mistake_leaves_the_earlier_run_where_it_was(training_data, tmp_path, capsys) -> None:
    run = flags("gpt", training_data, tmp_path / "run", "--max-steps", "1")
    assert train_gpt.main(run) == 0
    for more in (["--init", str(tmp_path / "none.safetensors")], ["--experiment", "../x"]):
        assert train_gpt.main([*run, "--start-over", *more]) == 2
        assert state_of(tmp_path / "run")["step"] == 1 and not (tmp_path / "run-earlier1").exists()
    assert train_gpt.main([*run, "--start-over"]) == 0 and (tmp_path / "run-earlier1").is_dir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.txt").touch()
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "docs", "--max-steps", "1", "--start-over")) == 2
    assert "no folder of a training" in capsys.readouterr().err and (tmp_path / "docs" / "thesis.txt").exists()


def test_a_missing_decoder_for_samples_is_told_before_the_training(training_data, tmp_path, capsys) -> None:
    more = ["--max-steps", "1", "--samples", "1", "--decoder", str(tmp_path / "none")]
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "run", *more)) == 2
    assert "none" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_added_data_are_trained_on_even_after_the_last_epoch(training_data, tmp_path) -> None:
    small = TrainingData(training_data.preset, write_store(tmp_path / "small", 3, dev=0))
    run = tmp_path / "run"
    assert train_gpt.main(flags("gpt", small, run, "--epochs", "2")) == 0
    before = state_of(run)["step"]
    more = flags("gpt", training_data, run, "--epochs", "2", "--data-added")
    assert train_gpt.main(more) == 0
    after = state_of(run)
    assert after["step"] > before and after["loader"]["epoch"] == 4
    assert train_gpt.main(more) == 0 and state_of(run)["step"] == after["step"], "nothing was added since"


def test_a_full_disk_is_told_with_the_folder(training_data, tmp_path, monkeypatch, capsys) -> None:
    def full(*arguments) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "run", "--max-steps", "1")) == 2
    told = capsys.readouterr().err
    assert "disk is full" in told and "run" in told


def test_few_lines_are_each_spoken_once(training_data, tmp_path) -> None:
    maker = SampleMaker([open_store(training_data.store)], 8)
    assert len(maker) == 2, "no more than are held out"
    assert len({row for _, row, _, _ in maker._lines}) == 2


def test_a_name_that_leads_elsewhere_is_refused(training_data, tmp_path, capsys) -> None:
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "run", "--experiment", "../x", "--epochs", "1")) == 2
    assert "cannot be called" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_batch_that_does_not_fit_is_made_smaller_and_told(training_data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(training, "fit_batch", lambda *arguments, **options: Fit(0.5, 1, 1))
    assert train_gpt.main(flags("gpt", training_data, tmp_path / "run", "--max-steps", "1")) == 0
    assert "80 are used" in capsys.readouterr().out
    notes = [event["code"] for event in read_events(tmp_path / "run") if event["kind"] == "note"]
    assert notes == ["batch_stepped_down"]


def test_errors_of_the_memory_check_reach_the_person(training_data, tmp_path, monkeypatch, capsys) -> None:
    def nothing_fits(*arguments, **options):
        raise UserError("memory_too_small", "close other programs")

    monkeypatch.setattr(training, "fit_batch", nothing_fits)
    assert train_vits2.main(flags("vits2", training_data, tmp_path / "run", "--max-steps", "1")) == 2
    assert "close other programs" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
