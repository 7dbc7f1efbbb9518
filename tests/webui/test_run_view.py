"""A training and its scores in words."""

import json
import os
from pathlib import Path

import pytest

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.history import Sample, read_run
from tests.webui.dataset_helpers import ENGLISH, finish, jobs_in, parsed, refused
from tests.webui.run_helpers import append, build_pick, build_run, samples_event, step_event
from tools.webui import jobs_view, run_pick, run_pick_view, run_view
from tools.webui.messages import Messages

ARGUMENTS = ("--store", "x", "--experiment=mina")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment("mina", tmp_path / "logs", tmp_path / "GPT_weights", tmp_path / "SoVITS_weights")


@pytest.mark.parametrize("stage", ["vits2", "gpt"])
@pytest.mark.parametrize("language", ["en", "zh-CN", "ja"])
def test_a_run_is_told_with_a_plot_for_each_loss(experiment: Experiment, stage: str, language: str) -> None:
    say = Messages().translator(language)
    history = read_run(build_run(experiment, stage, count=0))
    plots = run_view.plots_html(history, say)
    assert plots.count("<figure>") == len(history.training) + 1  # and the learning rate
    for part in plots.split("<figure>")[1:]:
        assert parsed(part[part.index("<svg") : part.index("</svg>") + 6]).get("aria-label")
    status = run_view.status_html(stage, history, None, "", say)
    assert "100 %" in status and "240" in status and say(run_view.STATES["done"]) in status
    assert run_view.STAGES[stage] not in status and say(run_view.STAGES[stage]) in status


def test_before_the_first_number_there_is_a_hint(experiment: Experiment) -> None:
    run = experiment.run("vits2")
    empty = read_run(run)
    assert "Nothing has been trained" in run_view.status_html("vits2", empty, None, "", ENGLISH)
    assert "run-hint" in run_view.plots_html(empty, ENGLISH) and "<svg" not in run_view.plots_html(empty, ENGLISH)
    append(run, {"kind": "start", "time": 1.0, "step": 0, "total": 0})
    begun = read_run(run)
    assert "has begun" in run_view.plots_html(begun, ENGLISH)
    assert "step 0" in run_view.status_html("vits2", begun, None, "running", ENGLISH)
    assert "held-out lines" in run_view.samples_html(None, 6, ENGLISH)


def test_the_state_is_that_of_the_job_or_of_the_last_event(experiment: Experiment) -> None:
    run = experiment.run("gpt")
    append(run, step_event(10, 100, content=1.0))
    assert "interrupted" in run_view.status_html("gpt", read_run(run), None, "", ENGLISH)
    running = run_view.status_html("gpt", read_run(run), None, "running", ENGLISH)
    assert "running" in running and "3:00 left" in running and "10 %" in running
    append(run, {"kind": "end", "step": 10, "total": 100})
    assert "stopped" in run_view.status_html("gpt", read_run(run), None, "", ENGLISH)
    append(run, {"kind": "error", "error": "There is <nothing> to train on."})
    failed = run_view.status_html("gpt", read_run(run), None, "", ENGLISH)
    assert "failed" in failed and "&lt;nothing&gt;" in failed
    assert "nothing" not in run_view.status_html("gpt", read_run(run), None, "waiting", ENGLISH)


def test_the_newest_job_of_each_stage_is_found(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    start = [
        ("tools.train_vits2", ARGUMENTS),
        ("torch.distributed.run", ("-m", "tools.train_gpt", "--experiment", "mina")),
        ("tools.train_gpt", ("--experiment=minamoto",)),
    ]
    made = [jobs.start(str(number), module, arguments, str(number)) for number, (module, arguments) in enumerate(start)]
    found = run_view.jobs_of(jobs, "mina")
    assert {stage: job.id for stage, job in found.items()} == {"vits2": made[0].id, "gpt": made[1].id}
    finish(made[0], error=UserError("no_batches", "There is nothing to train on."))
    status = run_view.status_html("vits2", read_run(tmp_path), made[0], "failed", ENGLISH)
    assert "nothing to train on" in status and run_view.jobs_of(jobs, "nobody") == {}


def test_details_of_a_validation_are_not_drawn(experiment: Experiment) -> None:
    run = experiment.run("gpt")
    append(run, step_event(1, 9, content=1.0, new_loss=2.0, _accuracy=0.5))
    losses = {"content": 1, "content_en_alone": 1, "accuracy": 1, "length_ratio": 1.1, "prosody_pair": 2}
    append(run, {"kind": "validation", "step": 1, "losses": losses})
    assert run_view.plotted(read_run(run)) == ["content", "accuracy", "length_ratio", "new_loss"]


def test_one_point_is_a_number_and_no_curve(experiment: Experiment) -> None:
    run = experiment.run("vits2")
    append(run, step_event(10, 100, mel=0.625))
    told = run_view.plots_html(read_run(run), ENGLISH)
    assert "0.625" in told and "run-plot " not in told and 'class="run-plot"' not in told
    append(run, step_event(20, 100, mel=0.5))
    assert run_view.plots_html(read_run(run), ENGLISH).count('class="run-plot"') == 2  # and the learning rate


def test_a_card_names_its_job_once(tmp_path: Path) -> None:
    job = jobs_in(tmp_path).start("vits2 mina", "tools.train_vits2", (), "vits2")
    finish(job, error=UserError("job_killed", "{name} was killed.", name="vits2 mina"))
    shown = jobs_view.card(job, "failed", None, ENGLISH)
    assert shown.count("Train the decoder") == 1 and "This job was killed" in shown


def test_saves_can_be_chosen_and_are_told_in_words(experiment: Experiment) -> None:
    run = experiment.run("vits2")
    append(run, *(samples_event(run, step, 2) for step in (120, 240)))
    history = read_run(run)
    choices = run_view.save_choices("vits2", history, "", ENGLISH)
    assert choices[0] == ("epoch 8, step 240 (newest)", "") and choices[1][0] == "epoch 4, step 120"
    assert choices[1][1] == run_view.save_key("vits2", history.samples[1])
    assert "On average: 4 % longer than the recording; pitch 2 % higher." in run_view.samples_html(
        history.samples[0], 2, ENGLISH
    )  # fmt: skip
    assert "More samples: 1" in run_view.samples_html(history.samples[0], 1, ENGLISH)


@pytest.mark.parametrize(
    ("seconds", "f0", "words"),
    [
        (0.92, 204.0, "8 % shorter than the recording; pitch 2 % higher"),
        (1.001, 200.0, "as long as the recording; same pitch"),
        (1.5, 150.0, "50 % longer than the recording; pitch 25 % lower"),
        (1.0, 0.0, "as long as the recording; no voiced sound in it"),
        (None, None, ""),
    ],
)
def test_a_sample_is_compared_in_words(seconds: float | None, f0: float | None, words: str) -> None:
    told = run_view.sample_html(Sample("a.wav", "t.wav", "<Hi>", seconds, 1.0, f0, 200.0), ENGLISH)
    assert "&lt;Hi&gt;" in told and (words in told if words else "quiet" not in told)


def test_only_files_of_the_experiment_are_shown(experiment: Experiment, tmp_path: Path) -> None:
    own, other = experiment.folder / "vits2" / "a.wav", tmp_path / "secret.wav"
    own.parent.mkdir(parents=True)
    own.touch()
    other.touch()
    assert run_view.inside(experiment.folder, str(own)) == own.resolve()
    for named in (other, experiment.folder / ".." / ".." / "secret.wav", experiment.folder / "gone.wav", "\0", ""):
        assert run_view.inside(experiment.folder, str(named)) is None
    link = experiment.folder / "link.wav"
    try:
        link.symlink_to(other)
    except OSError:
        return
    assert run_view.inside(experiment.folder, str(link)) is None


def test_scores_become_tables_with_the_best_marked(experiment: Experiment) -> None:
    build_run(experiment, "vits2", count=0)
    pick = run_pick.read_pick(build_pick(experiment))
    assert run_pick.current(pick, experiment) == pick
    shown = run_pick_view.pick_html(pick, run_pick.unscored(pick, experiment), False, ENGLISH)
    assert (
        shown.count('class="run-table"') == 2
        and "chance" not in shown
        and shown.count(">best<") == 2
        and "10.0 %" in shown
    )
    assert "Untrained" in shown and "without a score" not in shown
    assert run_pick_view.row_choices(pick, ENGLISH)[0] == (
        "Best: Decoder (VITS2) · mina_e8_s240",
        "vits2:mina_e8_s240.safetensors",
    )
    (experiment.vits2_weights / "mina_e9_s270.safetensors").touch()
    (experiment.vits2_weights / "minamoto_e9_s270.safetensors").touch()
    assert run_pick.unscored(pick, experiment) == 1
    assert "without a score yet: 1" in run_pick_view.pick_html(pick, 1, False, ENGLISH)


def test_scores_stand_for_the_files_that_were_heard_and_for_no_others(experiment: Experiment) -> None:
    pick = run_pick.read_pick(build_pick(experiment))
    best = experiment.vits2_file(240, 8)
    best.write_bytes(b"of another training")
    now = run_pick.current(pick, experiment)
    assert [row.key for row in pick.rows if row not in now.rows] == [f"vits2:{best.name}"]
    assert now.best == {"gpt": pick.best["gpt"]} and run_pick.unscored(now, experiment) == 1
    assert refused(lambda: run_pick.best_weights(None, experiment, pick)) == "pick_outdated"
    shown = run_pick_view.pick_html(now, 1, True, ENGLISH)
    assert best.stem not in shown and "has changed" in shown and "without a score yet: 1" in shown
    experiment.vits2_file(120, 4).unlink()
    assert len(run_pick.current(pick, experiment).rows) == len(pick.rows) - 2


def test_the_same_size_and_an_unlike_time_is_another_file(experiment: Experiment) -> None:
    pick = run_pick.read_pick(build_pick(experiment, ("gpt",)))
    best = experiment.gpt_file(240, 8)
    os.utime(best, ns=(0, best.stat().st_mtime_ns + 1))
    assert run_pick.current(pick, experiment).best == {}


def test_scores_of_trained_lines_are_told_as_such(experiment: Experiment) -> None:
    for held_out, words in ((True, "held-out lines, which no training learned from"), (False, "with care")):
        pick = run_pick.read_pick(build_pick(experiment, ("gpt",), held_out=held_out))
        shown = run_pick_view.pick_html(pick, 0, False, ENGLISH)
        assert words in shown and ("with care" in shown) is not held_out


@pytest.mark.parametrize("language", ["en", "zh-CN", "ja"])
def test_a_best_without_the_highest_score_is_explained(experiment: Experiment, language: str) -> None:
    say = Messages().translator(language)
    pick = run_pick.read_pick(build_pick(experiment, ("vits2",), best={"vits2": ""}))
    shown = run_pick_view.pick_html(pick, 0, False, say)
    words = say("run.best_simpler", top="mina_e8_s240", best=say("run.built_in"))
    assert shown.count(words) == 1 and say("run.about_score", vits2="0.25", gpt="0.2") in shown


def test_a_row_tells_its_distance_its_failures_and_why_it_was_not_heard(tmp_path: Path) -> None:
    damaged = str(UserError("weights_missing", "There is no weight file {file}; check the name.", file="<x>"))
    rows = [
        {"stage": "vits2", "file": "", "mel": 0.456, "failure_rate": 0.5, "failures": {"silent": 2, "odd": 1}},
        {"stage": "vits2", "file": "a.safetensors", "error": damaged, "failure_rate": 1.0, "score": None},
        {"stage": "gpt", "file": "", "token_loss": 7.125, "failures": 3},
    ]
    path = tmp_path / "pick.json"
    path.write_text(json.dumps({"rows": rows, "best": {}}), encoding="utf-8")
    shown = run_pick_view.pick_html(run_pick.read_pick(path), 0, False, ENGLISH)
    assert "0.456" in shown and "7.125" in shown and "Surprise at the recording" in shown
    assert "2 × silent; 1 × odd" in shown and "no weight file &lt;x&gt;" in shown and "100.0 %" not in shown


@pytest.mark.parametrize("content", ["", "[]", "{", '{"rows": 3}'])
def test_a_file_that_holds_no_scores_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pick.json"
    path.write_text(content, encoding="utf-8")
    assert run_pick.read_pick(path) is None and run_pick.read_pick(tmp_path / "gone.json") is None
    assert "No scores yet" in run_pick_view.pick_html(None, 0, False, ENGLISH)


def test_missing_scores_are_told_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "pick.json"
    rows = [{"stage": "gpt", "file": "", "score": "high", "samples": [3]}, {"stage": "other"}, 7]
    path.write_text(json.dumps({"rows": rows, "best": {"gpt": "", "vits2": "x", "odd": 3}}), encoding="utf-8")
    pick = run_pick.read_pick(path)
    assert len(pick.rows) == 1 and pick.best == {"gpt": ""} and "–" in run_pick_view.pick_html(pick, 0, False, ENGLISH)
    assert run_pick_view.row_choices(pick, ENGLISH) == []


def test_nothing_is_scored_before_there_are_weights(experiment: Experiment) -> None:
    assert refused(lambda: run_pick.start_pick(None, experiment)) == "nothing_to_pick"
    assert refused(lambda: run_pick.best_weights(None, experiment, None)) == "pick_missing"
