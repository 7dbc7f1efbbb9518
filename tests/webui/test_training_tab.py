"""The training tab's callbacks, without a browser: what is filled in, what is kept, what is told, what is started."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from modules.experiment import Experiment
from modules.training.suggestions import Machine, suggest_gpt, suggest_vits2
from tests.webui.dataset_helpers import finish, jobs_in
from tests.webui.training_helpers import dataset, features, run
from tools.webui.services import Services
from tools.webui.training_format_panel import QUICK_SECONDS, format_starter, stopper
from tools.webui.training_stage_panel import training_starter, whole_starter
from tools.webui.training_state import fill
from tools.webui.training_tab import IDLE_SECONDS, TrainingTab, build_training_tab, offered_list, restored

REQUEST = SimpleNamespace(headers={"accept-language": "en"})


@pytest.fixture
def own(services_in: Callable[..., Services], tmp_path: Path, models: Path) -> Services:
    """Services with folders of their own, whose jobs are started and never run."""
    part = models / "nano-training" / "vits2.safetensors"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes((models / "nano" / "vits2.safetensors").read_bytes())
    return services_in(tmp_path, jobs_in(tmp_path / "logs"))


@pytest.fixture
def tab(own: Services) -> TrainingTab:
    with gr.Blocks() as app:
        tab = build_training_tab(app, own, own.messages.frontend())
    tab.machine = lambda: Machine("cpu", 16 << 30)
    return tab


@pytest.fixture
def experiment(own: Services) -> Experiment:
    return Experiment("ada", own.logs, own.weights.gpt, own.weights.vits2)


class Page:
    """What a visitor's page holds: values of the controls and states, changed by the updates of callbacks."""

    def __init__(self, tab: TrainingTab):
        self.tab, self.form = tab, tab.desk.form
        self.names = [*tab.knobs, *tab.beginnings, "training_experiment", "training_preset", "extract_source"]
        self.values: dict[str, Any] = {name: self.form[name].value for name in self.names}
        self.states = {"offered": tab.offered.value, "filled": tab.filled.value, "seen": {"restored": True}}
        self.texts: dict[str, str] = {}
        self.pace = QUICK_SECONDS

    def take(self, updates: dict[Any, Any]) -> set[str]:
        """Apply updates; returns the names of what has changed."""
        by_id = {self.form[name]: name for name in self.names}
        states = {self.tab.offered: "offered", self.tab.filled: "filled", self.tab.seen: "seen"}
        panels = {component: name for name, component in self.tab.states.items()}
        changed = set()
        for component, value in updates.items():
            if component is self.tab.desk.timer:
                self.pace = value["value"]
                continue
            if isinstance(value, dict) and value.get("__type__") == "update":
                if "value" not in value:
                    continue
                value = value["value"]
            if component in states:
                self.states[states[component]] = value
            elif component in by_id:
                self.values[by_id[component]] = value
                changed.add(by_id[component])
            else:
                self.texts[panels.get(component, "suggestion")] = value
        return changed

    def poll(self, call: Callable[..., dict] | None = None) -> set[str]:
        values = {name: self.values[name] for name in self.names}
        return self.take((call or self.tab.poll)(REQUEST, **self.states, pace=self.pace, **values))


def test_a_finished_list_is_handed_over_until_somebody_types(tab: TrainingTab, own: Services) -> None:
    page = Page(tab)
    page.poll()
    assert page.values["training_experiment"] == "voice" and page.values["extract_source"] == ""
    first = dataset(own.logs / "ada", 1)
    page.poll()
    assert (page.values["training_experiment"], page.values["extract_source"]) == ("ada", str(first))
    second = dataset(own.logs / "bruno", 1)
    os.utime(second, (2e9, 2e9))
    page.values["training_experiment"] = "mine"
    page.poll()
    assert (page.values["training_experiment"], page.values["extract_source"]) == ("mine", str(second))
    page.values["extract_source"] = "/my/own.list"
    os.utime(first, (3e9, 3e9))
    page.poll()
    assert page.values["extract_source"] == "/my/own.list"
    assert offered_list(own.logs / ("x" * 64) / "a.list").keys() == {"extract_source"}
    assert page.poll() == set(), "nothing is sent when nothing has changed"


def test_knobs_follow_the_speech_until_somebody_turns_them(tab: TrainingTab, experiment: Experiment) -> None:
    page = Page(tab)
    page.values["training_experiment"] = experiment.name
    page.poll()
    assert "Format the dataset first" in page.texts["suggestion"]
    page.values |= {"vits2_epochs": 3, "gpt_lora_rank": 0}
    features(experiment, clips=402, held_out=2, seconds=9.0)
    page.poll()
    speech = tab.looker.features(experiment).heard
    vits2, gpt = suggest_vits2(tab.machine(), speech), suggest_gpt(tab.machine(), speech)
    assert (page.values["vits2_epochs"], page.values["gpt_lora_rank"]) == (3, 0)
    assert page.values["vits2_max_minutes"] == vits2.max_minutes > 7
    assert page.values["gpt_epochs"] == gpt.epochs and "60.0 minutes" in page.texts["suggestion"]
    page.poll(tab.suggest)
    assert (page.values["vits2_epochs"], page.values["gpt_lora_rank"]) == (vits2.epochs, gpt.lora_rank)
    assert "400 clips" in page.texts["extract"] and "402 of 402" in page.texts["extract"]


def test_nothing_is_filled_in_before_the_page_is_restored(tab: TrainingTab, own: Services) -> None:
    dataset(own.logs / "ada", 1)
    page = Page(tab)
    page.states["seen"] = {}
    assert page.poll() == set()


def test_what_nobody_changed_is_filled() -> None:
    assert fill({"a": 1, "b": 2, "c": None, "d": 4}, {"a": 1, "b": 1}, {"a": 5, "b": 5, "c": 5, "d": 4}) == {
        "a": 5,
        "c": 5,
    }


def test_the_beginning_is_what_the_run_folder_suggests(tab: TrainingTab, experiment: Experiment) -> None:
    page = Page(tab)
    page.values["training_experiment"] = experiment.name
    fingerprint = features(experiment)
    page.poll()
    assert page.values["vits2_beginning"] == page.values["gpt_beginning"] == "begin"
    run(experiment, "vits2", epoch=4, data=fingerprint)
    run(experiment, "gpt", data="of other lines")
    page.poll()
    assert (page.values["vits2_beginning"], page.values["gpt_beginning"]) == ("resume", "data_added")
    assert "4 epochs, 64 steps, 1.0 minutes" in page.texts["vits2"]
    page.values["training_experiment"] = "../x"
    page.poll()
    assert page.values["vits2_beginning"] == "begin" and page.texts["vits2"] == ""


def test_the_command_lines_follow_and_tell_what_is_wrong(tab: TrainingTab) -> None:
    form = tab.desk.form
    names = [name for panel in tab.panels.values() for name in panel.names]
    values = {name: form[name].value for name in names} | {"training_experiment": "ada", "training_preset": "nano"}
    stored, vits2, gpt, board = tab.follow(REQUEST, {"o": 1}, {"f": 2}, **{**values, "gpt_epochs": 7})
    assert "-m tools.train_vits2" in vits2 and "--epochs=7" in gpt and "tensorboard --logdir" in board
    assert stored["gpt_epochs"] == 7 and stored["offered"] == {"o": 1} and stored["filled"] == {"f": 2}
    _, vits2, gpt, board = tab.follow(REQUEST, {}, {}, **{**values, "training_experiment": "../x"})
    assert vits2.startswith('# The experiment cannot be called "../x"') and board == ""
    _, vits2, _, _ = tab.follow(REQUEST, {}, {}, **{**values, "vits2_epochs": 0})
    assert vits2.startswith("# Epochs in all is 0"), "a knob is called by its label"


def test_only_what_fits_is_restored(tab: TrainingTab) -> None:
    form = tab.desk.form
    stored = {"training_experiment": "mine", "vits2_epochs": 4, "gpt_lora_rank": 5, "vits2_precision": "fp8",
              "vits2_keep_latest": 1, "extract_source": "/x", "filled": {"vits2_epochs": 3}, "offered": 7}  # fmt: skip
    names = ["training_experiment", "vits2_epochs", "gpt_lora_rank", "vits2_precision", "vits2_keep_latest"]
    assert restored(form, [*names, "extract_source"], stored) == {
        "training_experiment": "mine", "vits2_epochs": 4, "extract_source": "/x", "filled": {"vits2_epochs": 3},
    }  # fmt: skip
    assert restored(form, names, None) == {}


def test_starts_check_first_and_refuse_a_second_one(tab: TrainingTab, own: Services, experiment: Experiment) -> None:
    desk, page = tab.desk, Page(tab)
    listed = dataset(experiment.folder, 2)
    values = {**page.values, "training_experiment": "../x", "extract_source": str(listed)}
    for start in (format_starter(desk), training_starter(desk, "gpt"), whole_starter(desk)):
        with pytest.raises(gr.Error, match="cannot be called"):
            start(REQUEST, **values)
    values["training_experiment"] = "ada"
    with pytest.raises(gr.Error, match="format the dataset first"):
        training_starter(desk, "vits2")(REQUEST, **values)
    assert own.jobs.jobs() == []
    assert format_starter(desk, "text")(REQUEST, **values)["value"] == QUICK_SECONDS
    job = own.jobs.jobs()[0]
    assert "--only=text" in job.config().argv and job.config().name == "extract ada"
    with pytest.raises(gr.Error, match="Format: ada does this already"):
        format_starter(desk)(REQUEST, **values)
    finish(job)
    features(experiment)
    training_starter(desk, "vits2")(REQUEST, **values)
    page.values["training_experiment"] = "ada"
    page.poll()
    assert "Train the decoder: ada" in page.texts["vits2"] and "waiting" in page.texts["vits2"]
    stopper(desk, "vits2")("ada", REQUEST)
    assert own.jobs.jobs()[0].state() == "stopped"
    run(experiment, "gpt")
    with pytest.raises(gr.Error, match="holds a training already"):
        training_starter(desk, "gpt")(REQUEST, **values)
    assert len(own.jobs.jobs()) == 2


@pytest.mark.parametrize("step", ["extract", "gpt", ""])
def test_everything_is_started_and_stopped_as_a_chain(
    step: str, tab: TrainingTab, own: Services, experiment: Experiment
) -> None:
    values = {**Page(tab).values, "training_experiment": "ada", "extract_source": str(dataset(experiment.folder, 2))}
    whole_starter(tab.desk)(REQUEST, **values)
    (chain,) = own.chains.all()
    assert [link.module for link in chain.links] == [
        "tools.extract", "tools.train_vits2", "tools.train_gpt", "tools.pick",
    ]  # fmt: skip
    stopper(tab.desk, "gpt")("bruno", REQUEST)
    assert not own.chains.find(chain.id).ended, "another experiment's"
    stopper(tab.desk, step)("ada", REQUEST)
    assert own.chains.find(chain.id).ended == "stopped"


def test_a_chosen_beginning_stays_until_its_training_begins(tab: TrainingTab, experiment: Experiment) -> None:
    page = Page(tab)
    page.values["training_experiment"] = experiment.name
    fingerprint = features(experiment)
    run(experiment, "vits2", data=fingerprint)
    page.poll()
    page.values["vits2_beginning"] = "start_over"
    run(experiment, "gpt", data=fingerprint)
    page.poll()
    assert (page.values["vits2_beginning"], page.values["gpt_beginning"]) == ("start_over", "resume")
    page.poll(tab.suggest)
    assert page.values["vits2_beginning"] == "start_over", "it is no knob"
    training_starter(tab.desk, "vits2")(REQUEST, **page.values)
    page.poll()
    assert page.values["vits2_beginning"] == "resume", "a second press does not throw away what the first one makes"


def test_resuming_brings_back_the_knobs_that_cannot_change(tab: TrainingTab, experiment: Experiment) -> None:
    page = Page(tab)
    page.values |= {"training_experiment": experiment.name, "gpt_lora_rank": 64}
    run(experiment, "vits2", rate=1e-3, data=features(experiment))
    run(experiment, "gpt", rate=1e-4, rank=128)
    page.poll()
    held = {"vits2_learning_rate": 1e-3, "gpt_learning_rate": 1e-4, "gpt_lora_rank": 128}
    assert {name: page.values[name] for name in held} == held
    page.values |= {"gpt_lora_rank": 16, "gpt_epochs": 40}
    assert page.poll() == set(), "a knob is turned back only where the beginning is chosen"
    with pytest.raises(gr.Error, match="LoRA rank was 128 when"):
        training_starter(tab.desk, "gpt")(REQUEST, **page.values)
    page.values["gpt_beginning"] = "start_over"
    page.poll()
    page.values["gpt_beginning"] = "resume"
    page.poll()
    assert (page.values["gpt_lora_rank"], page.values["gpt_epochs"]) == (128, 40)
    training_starter(tab.desk, "gpt")(REQUEST, **page.values)


def test_nothing_is_trained_before_there_is_something_to_hear(tab: TrainingTab, experiment: Experiment) -> None:
    values = {**Page(tab).values, "training_experiment": experiment.name}
    experiment.features.mkdir(parents=True)
    with pytest.raises(gr.Error, match=r"format the dataset first \(1A\)"):
        training_starter(tab.desk, "vits2")(REQUEST, **values)
    features(experiment, clips=2, held_out=2)
    with pytest.raises(gr.Error, match=r"format the dataset first \(1A\)"):
        training_starter(tab.desk, "gpt")(REQUEST, **values)
    assert experiment.features.is_dir() and tab.services.jobs.jobs() == []


def test_an_emptied_box_stays_empty_and_a_used_name_stays(tab: TrainingTab, experiment: Experiment) -> None:
    page, logs = Page(tab), experiment.logs
    dataset(logs / "ada", 1)
    page.poll()
    page.values |= {"extract_source": "", "training_experiment": ""}
    page.poll()
    assert page.values["extract_source"] == page.values["training_experiment"] == ""
    page.values["training_experiment"] = "ada"
    features(experiment)
    second = dataset(logs / "bruno", 1)
    os.utime(second, (2e9, 2e9))
    page.poll()
    assert (page.values["training_experiment"], page.values["extract_source"]) == ("ada", ""), "it has features"
    page.values["training_experiment"] = "new"
    page.poll()
    assert page.values["extract_source"] == str(second)


def test_damaged_features_are_told(tab: TrainingTab, experiment: Experiment) -> None:
    page = Page(tab)
    page.values["training_experiment"] = experiment.name
    features(experiment)
    next(experiment.features.glob("*.arrow")).write_bytes(b"broken")
    page.poll()
    assert "Nothing is formatted" not in page.texts["extract"] and ".arrow" in page.texts["extract"]


def test_the_timer_rests_while_nothing_goes_on(tab: TrainingTab, own: Services, experiment: Experiment) -> None:
    page = Page(tab)
    page.poll()
    assert page.pace == IDLE_SECONDS
    features(experiment)
    training_starter(tab.desk, "gpt")(REQUEST, **{**page.values, "training_experiment": "ada"})
    page.poll()
    assert page.pace == QUICK_SECONDS
    finish(own.jobs.jobs()[0])
    page.values["training_experiment"] = "ada"
    page.poll()
    assert page.pace == IDLE_SECONDS and "done" not in page.texts["gpt"], "what it made is gone"


def test_knobs_and_gpus_are_checked_by_their_labels(tab: TrainingTab, own: Services, experiment: Experiment) -> None:
    features(experiment)
    values = {**Page(tab).values, "training_experiment": "ada", "gpt_gpus": 4}
    for knob, value, words in (
        ("gpt_save_every_epochs", 1.5, "Save every … epochs must be a whole number, not 1.5"),
        ("gpt_epochs", None, "Epochs in all is empty"),
        ("gpt_learning_rate", 0, "must lie between 0.000001 and 0.1"),
        ("training_experiment", "x" * 200, r"cannot be called \S*x{39}…"),
    ):
        with pytest.raises(gr.Error, match=words):
            training_starter(tab.desk, "gpt")(REQUEST, **{**values, knob: value})
    training_starter(tab.desk, "gpt")(REQUEST, **values)
    assert "tools.train_gpt" in own.jobs.jobs()[0].config().argv, "there are not four GPUs here"
    assert "torch.distributed.run" not in own.jobs.jobs()[0].config().argv


def test_new_weights_are_offered_when_the_inference_tab_is_opened(own: Services) -> None:
    from tools.webui.app import build_app

    app = build_app(own, [("tab.training", build_training_tab)])
    assert [fn.api_name for fn in app.fns.values() if fn.api_visibility == "public"] == ["speak"]
    opened = [
        fn for fn in app.fns.values() if fn.name == "refresh" and ("select" in {event for _, event in fn.targets})
    ]
    assert len(opened) == 1
    (own.weights.gpt / "ada-e4.safetensors").touch()
    preset, gpt, vits2 = opened[0].fn("nano", "ada-e4.safetensors", "gone.safetensors", REQUEST).values()
    assert preset["value"] == "nano" and (gpt["value"], vits2["value"]) == ("ada-e4.safetensors", "")
    assert [name for _, name in gpt["choices"]] == ["", "ada-e4.safetensors"]
