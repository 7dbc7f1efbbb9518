"""The panel of a training: sends what changed and nothing else, starts the scoring, hands over the best."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr
import pytest

from modules.errors import UserError
from modules.experiment import Experiment
from modules.paths import PRESETS
from tests.webui.dataset_helpers import finish, jobs_in
from tests.webui.run_helpers import append, build_pick, build_run, samples_event, step_event, tone
from tools.webui.chains import Chains
from tools.webui.form import Form
from tools.webui.messages import Messages
from tools.webui.run_panel import RunPanel
from tools.webui.services import Services
from tools.webui.step_panel import Desk
from tools.webui.weights import WeightFolders

if TYPE_CHECKING:
    from playwright.sync_api import Page

REQUEST: Any = SimpleNamespace(headers={"accept-language": "en"})


@pytest.fixture
def own(tmp_path: Path) -> SimpleNamespace:
    """Services without a model."""
    weights = WeightFolders(tmp_path / "models", tmp_path / "GPT_weights", tmp_path / "SoVITS_weights", PRESETS)
    jobs = jobs_in(tmp_path)
    return SimpleNamespace(
        jobs=jobs,
        chains=Chains(tmp_path / "chains", jobs),
        messages=Messages(),
        log_file=None,
        logs=tmp_path / "logs",
        weights=weights,
        engine=SimpleNamespace(device="cuda:1"),
    )


def experiment_in(services: Any, name: str = "mina") -> Experiment:
    return Experiment(name, services.logs, services.weights.gpt, services.weights.vits2)


@pytest.fixture
def experiment(own: SimpleNamespace) -> Experiment:
    return experiment_in(own)


@pytest.fixture
def panel(own: SimpleNamespace) -> RunPanel:
    with gr.Blocks():
        i18n = own.messages.frontend()
        desk = Desk(Form(), own, i18n, gr.State([]), gr.Timer(active=False))
        return RunPanel(desk, gr.Textbox("mina"))


class Visitor:
    """Holds what a browser would hold, and tells which components each look updates."""

    def __init__(self, panel: RunPanel):
        self.panel = panel
        self.held: dict[str, Any] = {"run_stage": "", "run_save": "", "run_row": None, "run_seen": {}}

    def look(self, name: str = "mina", **held: Any) -> dict[str, Any]:
        """Updates by the id of their component."""
        self.held |= held
        updates = self.panel.refresh(name, REQUEST, **self.held)
        assert set(updates) <= set(self.panel.outputs)
        seen = updates.pop(self.panel.seen)
        if updates:
            self.held["run_seen"] = seen
        return {component.elem_id: update for component, update in updates.items()}


def test_nothing_is_sent_twice(panel: RunPanel, experiment: Experiment) -> None:
    run = build_run(experiment, "vits2")
    build_pick(experiment, ("vits2",))
    visitor = Visitor(panel)
    first = visitor.look()
    assert len(first) == len(panel.outputs) - 1 and "<svg" in first["run-plots"]
    assert [first[f"run-sample-{number}"]["visible"] for number in range(1, 7)] == [True] * 4 + [False] * 2
    assert visitor.look() == {}
    append(run, step_event(250, 500, mel=0.4))
    assert set(visitor.look()) == {"run-status", "run-plots"} and visitor.look() == {}


def test_a_new_save_leaves_what_it_does_not_change(panel: RunPanel, experiment: Experiment) -> None:
    run = build_run(experiment, "vits2", count=2)
    visitor = Visitor(panel)
    visitor.look()
    pinned = visitor.look(run_save=f"vits2:120:{1.8e9 + 240:.3f}")
    assert "run-sample-1-sample" in pinned and "run-sample-1-truth" not in pinned
    append(run, samples_event(run, 480, 2))
    told = visitor.look()
    assert told["run-save"]["value"] == f"vits2:120:{1.8e9 + 240:.3f}" and len(told["run-save"]["choices"]) == 3
    assert not any("-sample-1" in name for name in told)
    newest = visitor.look(run_save="")
    assert {"run-sample-1-sample", "run-sample-2-sample"} <= set(newest) and "run-sample-1-truth" not in newest


def test_what_was_trained_last_is_shown_or_what_was_chosen(panel: RunPanel, experiment: Experiment) -> None:
    build_run(experiment, "vits2", count=0)
    append(experiment.run("gpt"), {**step_event(10, 20, content=3.0), "time": 1.9e9})
    visitor = Visitor(panel)
    assert "Speech tokens" in visitor.look()["run-plots"]
    assert "Distance from the recording" in visitor.look(run_stage="vits2")["run-plots"]
    other = visitor.look("nobody")
    assert "<svg" not in other["run-plots"] and "Nothing has been trained" in other["run-status"]
    emptied = visitor.look("../x")
    assert emptied["run-status"] == emptied["run-plots"] == emptied["run-pick"] == ""
    assert not emptied["run-save"]["visible"] and visitor.look("") == {}
    assert "Nothing has been trained" in visitor.look("nobody")["run-status"]


def test_files_outside_the_experiment_are_never_served(panel: RunPanel, experiment: Experiment, tmp_path: Path) -> None:
    secret = tone(tmp_path / "secret.wav", 200, 0.3)
    inside = tone(experiment.folder / "vits2" / "samples" / "a.wav", 200, 0.3)
    text = inside.with_name("words.wav")
    text.write_text("no sound", encoding="utf-8")
    files = [(secret, inside), (inside, secret), (text, text)]
    items = [{"file": str(file), "truth": str(truth), "text": "x"} for file, truth in files]
    append(experiment.run("vits2"), {"kind": "samples", "step": 1, "items": items})
    first = Visitor(panel).look()
    shown = {name: first[name]["visible"] for name in first if name.endswith(("-sample", "-truth"))}
    assert [name for name, visible in shown.items() if visible] == ["run-sample-1-truth", "run-sample-2-sample"]


def test_scores_are_shown_when_they_come_and_can_be_heard(panel: RunPanel, experiment: Experiment) -> None:
    build_run(experiment, "vits2", count=0)
    visitor = Visitor(panel)
    assert "No scores yet" in visitor.look()["run-pick"]
    build_pick(experiment)
    told = visitor.look()
    assert "best" in told["run-pick"] and told["run-row"]["value"] == "vits2:mina_e8_s240.safetensors"
    assert told["run-pick-sample-1-sample"]["visible"] and "run-use-best" not in told  # nobody can use them here
    other = visitor.look(run_row="vits2:")
    assert set(other) >= {"run-pick-sample-1-sample"} and "run-pick" not in other


def test_the_scoring_is_started_once_and_the_best_is_handed_over(
    panel: RunPanel, own: SimpleNamespace, experiment: Experiment
) -> None:
    taken = []
    with gr.Blocks():
        target = gr.Textbox()
        panel.bind_use(lambda vits2, gpt: taken.append((vits2, gpt)) or {target: vits2}, [target])
    build_run(experiment, "vits2", count=0)
    build_pick(experiment, ("vits2",))
    assert Visitor(panel).look()["run-use-best"]["visible"]
    from tools.webui.run_pick import best_weights, read_pick, start_pick

    job = start_pick(own, experiment)
    argv = job.config().argv
    assert "tools.pick" in argv and "--experiment=mina" in argv and job.config().resources == "heavy"
    with pytest.raises(Exception, match="does this already"):
        start_pick(own, experiment)
    pick = read_pick(experiment.folder / "pick.json")
    assert best_weights(own, experiment, pick) == ("mina_e8_s240.safetensors", "")
    experiment.vits2_file(240, 8).unlink()
    with pytest.raises(UserError, match="or are gone"):
        best_weights(own, experiment, pick)
    assert not Visitor(panel).look()["run-use-best"]["visible"]


def pressed(panel: RunPanel, button: gr.Button, **values: Any) -> Any:
    """What the button's own callback answers."""
    root = panel.stage.parent
    while root.parent is not None:
        root = root.parent
    callbacks = [f.fn for f in root.fns.values() if (button._id, "click") in f.targets]
    assert len(callbacks) == 1
    return callbacks[0](request=REQUEST, **values)


def test_the_scoring_uses_the_base_model_and_the_device_of_the_page(own: SimpleNamespace) -> None:
    build_run(experiment_in(own), "vits2", count=0)
    with gr.Blocks():
        form = Form()
        form.add("training_preset", gr.Dropdown(["nano", "base"]))
        name = gr.Textbox("mina")
        panel = RunPanel(Desk(form, own, own.messages.frontend(), gr.State([]), gr.Timer(active=False)), name)
    pressed(panel, panel.start, name="mina", training_preset="base")
    argv = own.jobs.jobs()[0].config().argv
    folder = own.weights.preset_folder("base")
    assert {"--device=cuda:1", "--preset=base", f"--models={folder}"} <= set(argv)


def test_the_scoring_is_seen_stopped_and_its_failure_told(
    panel: RunPanel, own: SimpleNamespace, experiment: Experiment
) -> None:
    build_run(experiment, "vits2", count=0)
    visitor = Visitor(panel)
    first = visitor.look()
    assert first["run-pick-job"] == "" and not first["run-pick-stop"]["visible"]
    pressed(panel, panel.start, name="mina")
    job = own.jobs.jobs()[0]
    told = visitor.look()
    assert set(told) == {"run-pick-job", "run-pick-stop"} and told["run-pick-stop"]["visible"]
    assert "Score the weights: mina" in told["run-pick-job"] and visitor.look() == {}
    pressed(panel, panel.stop, name="mina")
    told = visitor.look()
    assert "stopped" in told["run-pick-job"] and not told["run-pick-stop"]["visible"]
    pressed(panel, panel.start, name="mina")
    again = next(new for new in own.jobs.jobs() if new.id != job.id)
    finish(again, error=UserError("pick_no_lines", "The features in {folder} hold no line.", folder="x"))
    assert "hold no line" in visitor.look()["run-pick-job"]


@pytest.fixture
def page_services(services_in: Callable[..., Services], tmp_path: Path) -> Services:
    return services_in(tmp_path, jobs_in(tmp_path))


@pytest.fixture
def page_address(page_services: Services, served: Callable) -> Iterator[str]:
    """A page with nothing but the panel in its first tab."""

    def build(app: gr.Blocks, services: Services, i18n: gr.I18n) -> None:
        name = gr.Textbox("mina", label="Experiment", elem_id="experiment")
        used = gr.Textbox("", label="Used", elem_id="used")
        desk = Desk(Form(), services, i18n, gr.State([]), gr.Timer(active=False))
        panel = RunPanel(desk, name, lambda vits2, gpt: {used: f"{vits2} {gpt}"}, [used])
        panel.follow(gr.Timer(1.0).tick, app.load)

    with served(page_services, (("tab.dataset", build),)) as address:
        yield address


def text_sizes(page: "Page") -> list[float]:
    """Sizes of the text in the plots as they are seen, CSS pixels."""
    return page.eval_on_selector_all(
        ".run-plot text", "all => all.map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"
    )


@pytest.mark.browser
def test_a_visitor_follows_a_training(
    page_services: Services, page_address: str, visitor: Callable[..., "Page"]
) -> None:
    experiment = experiment_in(page_services)
    run = build_run(experiment, "vits2", count=2)
    build_pick(experiment, ("vits2",))
    page = visitor(width=375)
    page.goto(page_address)
    page.get_by_role("tab").first.click()
    page.wait_for_selector("#run-plots .run-plot")
    page.wait_for_selector("#run-pick-sample-2-truth audio[src]", state="attached")
    assert min(text_sizes(page)) >= 11
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.eval_on_selector("#run-sample-1-sample audio", "audio => { audio.mark = audio.src; }")
    append(run, step_event(250, 500, mel=0.4))
    page.wait_for_selector("#run-status:has-text('step 250 of 500')")
    kept = "audio => audio.mark === audio.src"
    assert page.eval_on_selector("#run-sample-1-sample audio", kept)  # it plays on
    append(run, samples_event(run, 360, 2))
    page.wait_for_function("document.querySelector('#run-save input').value.includes('360')")
    page.wait_for_function("(a => a && a.src !== a.mark)(document.querySelector('#run-sample-1-sample audio'))")
    page.click("#run-save input")
    page.get_by_role("option").nth(1).click()
    page.wait_for_function("document.querySelector('#run-save input').value.includes('240')")
    page.click("#run-use-best")
    page.wait_for_function("document.querySelector('#used textarea, #used input').value.includes('mina_e8_s240')")
    page.click("#run-pick-start")
    page.get_by_text("The weights are being scored.").wait_for()
    assert [job.config().name for job in page_services.jobs.jobs()] == ["pick mina"]
    page.reload()
    page.get_by_role("tab").first.click()
    page.wait_for_selector("#run-plots .run-plot")
    page.wait_for_selector("#run-pick-job:has-text('Score the weights: mina')")
    assert "mina_e8_s240" in page.inner_text("#run-pick tr.best") and page.is_visible("#run-pick-sample-1")
    page.click("#run-pick-stop")
    page.wait_for_selector("#run-pick-job .job.stopped")
    page.wait_for_selector("#run-pick-stop", state="hidden")
