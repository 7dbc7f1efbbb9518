"""The loop's laws, on toys: resume equals never-killed, NaN is survived, a run ends when it should and tells so."""

import os
import time

import numpy as np
import pytest

from modules.checkpoint import load_training_state
from modules.errors import UserError
from modules.training import loop
from modules.training.events import read_events
from modules.training.loop import train
from tests.training.toys import CPU, Adversarial, Killed, Regression, Sick, make_loader, same, settings


@pytest.mark.parametrize("stage", [Regression, Adversarial])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_killed_and_resumed_equals_never_killed(tmp_path, stage, accumulate):
    config = settings(save_every_steps=5, accumulate=accumulate)
    whole = stage()
    expected = train(whole, make_loader(), config, tmp_path / "whole", resume=False, device=CPU)
    losses = []
    for kill_at in (8, 17, -1):  # killed twice, between checkpoints: steps 5-7 and 15-16 are done again
        part = stage(kill_at=kill_at)
        try:
            result = train(part, make_loader(), config, tmp_path / "parts", resume=True, device=CPU)
        except Killed:
            pass
        losses.append(part.history)
    assert result.step == 20 and result.last_losses == expected.last_losses
    assert result.validation == expected.validation
    a, b = (load_training_state(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "parts"))
    for key in ("step", "modules", "optimizers", "ema", "loader", "rng", "skipped"):
        assert same(a[key], b[key]), key
    phases = 1 if accumulate == 1 else accumulate
    joined = losses[0][: 5 * phases] + losses[1][: 10 * phases] + losses[2]
    assert joined == whole.history


def test_a_clean_stop_loses_nothing(tmp_path):
    whole, config = Regression(), settings()
    train(whole, make_loader(), config, tmp_path / "whole", resume=False, device=CPU)
    first, polls = Regression(), iter(range(100))
    result = train(
        first, make_loader(), config, tmp_path / "parts", resume=False, device=CPU, should_stop=lambda: next(polls) == 7
    )
    assert (result.step, result.stopped_by) == (7, "stop") and result.weights[0].name == "toy_s7.safetensors"
    second = Regression()
    result = train(second, make_loader(), config, tmp_path / "parts", resume=True, device=CPU)
    assert (result.step, result.stopped_by) == (20, "steps")
    assert first.history + second.history == whole.history
    assert same(second.model.state_dict(), whole.model.state_dict())


def test_stop_file_stops_and_an_old_one_does_not(tmp_path):
    (tmp_path / "stop").touch()
    result = train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert (result.step, result.stopped_by) == (0, "stop")
    long_ago = time.time() - 10**7
    os.utime(tmp_path / "stop", (long_ago, long_ago))
    assert train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU).step == 20


def test_resume_without_a_checkpoint_starts_and_a_finished_run_stays(tmp_path):
    assert train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU).step == 20
    again = Regression()
    assert train(again, make_loader(), settings(), tmp_path, resume=True, device=CPU).step == 20
    assert again.calls == 0
    assert train(Regression(), make_loader(), settings(max_steps=25), tmp_path, resume=True, device=CPU).step == 25


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    train(Regression(), make_loader(), settings(max_steps=1), tmp_path, resume=False, device=CPU)
    with pytest.raises(UserError, match=tmp_path.name) as caught:
        train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert caught.value.code == "run_exists"


def test_resume_with_another_config_names_the_keys(tmp_path):
    ours = {"gpt": {"hidden": 4, "layers": (1, 2)}, "preset": "nano", "seed": 1}
    train(Regression(), make_loader(), settings(max_steps=1), tmp_path, resume=False, device=CPU, run_config=ours)
    other = {"gpt": {"hidden": 8, "layers": [1, 2]}, "preset": "nano", "speed": 2}
    with pytest.raises(UserError) as caught:
        train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU, run_config=other)
    assert caught.value.code == "resume_config_differs"
    assert caught.value.fields["keys"] == "gpt.hidden, seed"
    newer = ours | {"speed": 2, "gpt": {**ours["gpt"], "heads": 2}}  # what the run's version did not know yet
    train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU, run_config=newer)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_nan_is_skipped_and_counted(tmp_path, how):
    stage = Sick(lambda call: call in (3, 4, 11), how)
    result = train(stage, make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert (result.step, result.skipped) == (20, 3)
    assert all(p.isfinite().all() for p in stage.model.parameters())
    assert all(np.isfinite(v) for v in result.last_losses.values())
    assert load_training_state(tmp_path / "checkpoint.safetensors")["skipped"] == 3
    assert read_events(tmp_path)[-2]["kind"] in ("step", "validation", "weights")


def test_a_skipped_step_leaves_the_weights_alone(tmp_path):
    stage = Sick(lambda call: True)
    before = {k: v.clone() for k, v in stage.model.named_parameters()}
    train(stage, make_loader(), settings(max_steps=3), tmp_path, resume=False, device=CPU)
    assert same(before, dict(stage.model.named_parameters()))


def test_endless_nan_ends_the_run_with_the_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPS_IN_A_ROW", 5)
    with pytest.raises(UserError) as caught:
        train(Sick(lambda call: True), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert caught.value.code == "training_diverged"
    last = read_events(tmp_path)[-1]
    assert last["kind"] == "error" and "learning rate" in last["error"]


def test_time_budget_counts_earlier_runs(tmp_path):
    config = settings(max_steps=10**6, max_minutes=0.3 / 60)
    result = train(Regression(), make_loader(), config, tmp_path, resume=False, device=CPU)
    assert result.stopped_by == "minutes" and result.step < 10**6
    again = train(Regression(), make_loader(), config, tmp_path, resume=True, device=CPU)
    assert again.step == result.step


def test_events_tell_the_progress(tmp_path):
    train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    events = read_events(tmp_path)
    assert events[0]["kind"] == "start" and events[-1]["kind"] == "end"
    steps = [e for e in events if e["kind"] == "step"]
    assert [e["step"] for e in steps] == list(range(2, 21, 2))
    assert set(steps[0]["losses"]) == {"fit", "l2", "_noise"}
    assert steps[0]["total"] == 20 and steps[-1]["eta_seconds"] == 0 and steps[0]["epoch"] >= 0
    assert [e["step"] for e in events if e["kind"] == "validation"] == [6, 12, 18, 20]


def test_a_listener_hears_every_event_as_it_is_written(tmp_path):
    heard = []
    train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU, on_event=heard.append)
    for told in heard:
        told["files"] = [str(file) for file in told.get("files", [])]
    assert heard == [{**event, "files": event.get("files", [])} for event in read_events(tmp_path)]
    with pytest.raises(Killed):
        train(Regression(kill_at=2), make_loader(), settings(), tmp_path / "died", resume=False, device=CPU,
              on_event=heard.append)  # fmt: skip
    assert (heard[-1]["kind"], heard[-1]["step"], heard[-1]["error"]) == ("error", 2, "Killed")


def test_the_total_of_a_run_that_minutes_end_follows_its_speed(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(Regression):
        def losses(self, phase, batch):
            clock[0] += 1 / 64
            return super().losses(phase, batch)

    config = settings(max_steps=1000, max_minutes=1 / 128, log_every_steps=1)  # 30 steps
    train(Slow(), make_loader(), config, tmp_path, resume=False, device=CPU)
    events = read_events(tmp_path)
    assert (events[0]["kind"], events[0]["total"]) == ("start", 0)
    assert {event["total"] for event in events[1:]} == {30} and events[-1]["step"] == 30
