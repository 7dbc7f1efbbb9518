"""Presets beyond nano in the tabs Train and Speak: what is offered, what is refused, in which order they are made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch

from modules.checkpoint import Lineage, save_weights
from modules.experiment import Experiment
from modules.training.suggestions import FINE_TUNING, GIB, GPTOptions, Machine, Speech, VITS2Options
from tests.webui.dataset_helpers import ENGLISH, jobs_in, refused
from tests.webui.models_helpers import SPEECH, START, TEXT, entries, place
from tests.webui.training_helpers import dataset, features
from tools.webui import history_panel
from tools.webui.inference_tab import build_inference_tab
from tools.webui.options_panel import chosen_model
from tools.webui.presets import check_models, missing_bytes, missing_of, preset_of, quantises, speaking_presets
from tools.webui.services import Services
from tools.webui.settings import FILES
from tools.webui.steps import argument_in
from tools.webui.training_head_panel import preset_choices, preset_remark
from tools.webui.training_scratch import FROM_NOTHING, suggested_options
from tools.webui.training_steps import pretrained, train_work
from tools.webui.training_tab import build_training_tab
from tools.webui.training_whole import whole_works
from tools.webui.weights import WeightFolders

HOURS = Speech(20_000, 40 * 3600.0)


@pytest.fixture
def services(services_in: Callable[..., Services], tmp_path: Path) -> Services:
    """Services with a small catalogue and no models."""
    own = services_in(tmp_path, jobs_in(tmp_path))
    weights = WeightFolders(tmp_path / "models", own.weights.gpt, own.weights.vits2, own.weights.presets)
    return replace(own, weights=weights, entries=entries())


@pytest.fixture
def experiment(services: Services) -> Experiment:
    return Experiment("ada", services.logs, services.weights.gpt, services.weights.vits2)


def knobs(**values: object) -> dict:
    """The form of the tab with base as it is suggested."""
    named = {"vits2": VITS2Options(), "gpt": replace(GPTOptions(), lora_rank=0)}
    return {
        **{f"{stage}_{name}": value for stage, options in named.items() for name, value in vars(options).items()},
        "training_preset": "base",
        "training_experiment": "ada",
        **values,
    }


def trained(path: Path, preset: str, stage: str) -> None:
    save_weights(path, {"x": torch.zeros(1)}, {}, Lineage(preset, stage, 1, 1))


def test_what_a_preset_lacks_is_named_before_anything_runs(services: Services) -> None:
    check_models("nano", services)
    assert refused(lambda: check_models("base", services)) == "preset_models_missing"
    place(services.weights.models, "bge-m3", TEXT)
    assert [item.entry.name for item in missing_of("base", services)] == ["mhubert-147"]
    assert missing_bytes(missing_of("base", services)) == sum(map(len, SPEECH.values()))
    place(services.weights.models, "mhubert-147", SPEECH)
    check_models("base", services)
    assert refused(lambda: check_models("base-qwen2", services)) == "preset_models_missing"
    assert quantises("base") and not quantises("nano") and not quantises("base-s3") and not quantises("nobody")


def test_all_presets_can_be_trained_on_and_tell_what_that_takes(services: Services) -> None:
    place(services.weights.models, "bge-m3", TEXT)
    place(services.weights.models, "mhubert-147", SPEECH)
    place(services.weights.models, "qwen2-0.5b", START)
    desk = SimpleNamespace(services=services)
    assert dict(map(reversed, preset_choices(desk, ENGLISH)))["base"] == "base"
    assert preset_remark(desk, "nano", ENGLISH) == ""
    told = preset_remark(desk, "base", ENGLISH)
    assert "many hours of speech and a GPU" in told and "Models" not in told and "speech tokens" in told
    (services.weights.models / "bge-m3" / "text.onnx").unlink()
    assert "in the tab **Models**" in preset_remark(desk, "base", ENGLISH)
    labels = dict(map(reversed, preset_choices(desk, ENGLISH)))
    assert labels["nano"] == "nano" and "lacks" in labels["base"]
    with gr.Blocks() as app, gr.Tab("train"):
        build_training_tab(app, services, services.messages.frontend())
    shown = [function for function in app.fns.values() if function.name == "show_lacking"]
    assert [block.elem_id for block in shown[0].outputs] == ["training-preset", "training-preset-remark"]
    base, remark = shown[0].fn("base", SimpleNamespace(headers={"accept-language": "en"}))
    assert "in the tab **Models**" in remark["value"] and remark["visible"] and base["choices"]


def test_base_is_made_from_nothing_in_the_right_order(services: Services, experiment: Experiment) -> None:
    values = knobs(extract_source=str(dataset(experiment.folder, 2)))
    whole = whole_works(values, experiment, pretrained(values, services.weights), "cuda")
    names = [(work.step.name, argument_in(work.arguments, "only")) for work in whole.works]
    assert names == [("extract", ""), ("vits2", ""), ("extract", "codes"), ("gpt", ""), ("pick", "")]
    formatting, decoder, codes, language_model, _ = (work.arguments for work in whole.works)
    assert argument_in(formatting, "encoders") == str(services.weights.models) and "--device=cuda" in formatting
    assert not argument_in(formatting, "decoder"), "there is none yet"
    assert "--init" not in decoder and set(FROM_NOTHING["vits2"]) <= set(decoder)
    assert not set(FINE_TUNING["vits2"]) & set(decoder)
    assert argument_in(codes, "decoder") == str(experiment.run("vits2") / "vits2.safetensors")
    assert not argument_in(language_model, "init") and "--lora-rank=0" in language_model
    assert argument_in(language_model, "decoder") == str(experiment.run("vits2"))
    assert argument_in(language_model, "encoders") == str(services.weights.models)


def test_base_with_weights_is_fine_tuned_and_its_tokens_are_formatted_in_one_go(
    services: Services, experiment: Experiment
) -> None:
    folder = services.weights.models / "base"
    for stage in ("gpt", "vits2"):
        trained(folder / f"{stage}.safetensors", "base", stage)
    values = knobs(extract_source=str(dataset(experiment.folder, 2)), gpt_lora_rank=32)
    whole = whole_works(values, experiment, pretrained(values, services.weights))
    assert [work.step.name for work in whole.works] == ["extract", "vits2", "gpt", "pick"]
    formatting, decoder, language_model, _ = (work.arguments for work in whole.works)
    assert argument_in(formatting, "decoder") == str(folder / "vits2.safetensors")
    assert decoder[decoder.index("--init") + 1] == str(folder / "vits2.safetensors")
    assert argument_in(language_model, "init") == str(folder / "gpt.safetensors")
    assert argument_in(language_model, "decoder") == str(folder)
    assert set(FINE_TUNING["gpt"]) <= set(language_model)


def test_presets_of_published_tokens_need_no_step_between(services: Services, experiment: Experiment) -> None:
    values = knobs(training_preset="base-s3", extract_source=str(dataset(experiment.folder, 2)))
    whole = whole_works(values, experiment, pretrained(values, services.weights))
    assert [work.step.name for work in whole.works] == ["extract", "vits2", "gpt", "pick"]


def test_adapters_without_weights_are_refused(services: Services, experiment: Experiment) -> None:
    values = knobs(gpt_lora_rank=32)
    files = pretrained(values, services.weights)
    assert refused(lambda: train_work("gpt", values, experiment, files)) == "training_nothing_to_adapt"
    lost = pretrained({"training_preset": "nano"}, services.weights)
    assert refused(lambda: train_work("gpt", values, experiment, lost)) == "path_missing", "nano is never from nothing"


def test_a_training_from_nothing_is_suggested_long_and_whole(services: Services) -> None:
    gpu = Machine("cuda", 80 * GIB, 1)
    vits2, gpt = suggested_options(gpu, HOURS, "base", services.weights)
    assert gpt.lora_rank == 0 and gpt.max_minutes == vits2.max_minutes == 0
    assert gpt.epochs * HOURS.seconds * 96 / gpt.batch_frames == pytest.approx(100_000, rel=0.2)
    started = suggested_options(gpu, HOURS, "base-qwen2", services.weights)[1]
    assert started.learning_rate < gpt.learning_rate
    fine = suggested_options(gpu, HOURS, "nano", services.weights)[1]
    assert fine.lora_rank == 32 and fine.epochs < gpt.epochs
    assert suggested_options(Machine(), HOURS, "nobody", services.weights)[1].lora_rank == 32


def test_speaking_offers_what_can_be_heard_here(services: Services) -> None:
    weights = services.weights
    assert speaking_presets(services) == ["nano"]
    trained(weights.gpt / "ada-e1.safetensors", "base", "gpt")
    trained(weights.vits2 / "ada_e1_s1.safetensors", "base", "vits2")
    (weights.gpt / "odd.safetensors").write_bytes(b"odd")
    assert speaking_presets(services) == ["nano"], "its encoders are missing"
    place(weights.models, "bge-m3", TEXT)
    place(weights.models, "mhubert-147", SPEECH)
    assert speaking_presets(services) == ["nano", "base"]
    (weights.vits2 / "ada_e1_s1.safetensors").unlink()
    assert speaking_presets(services) == ["nano"] and preset_of(weights.gpt / "odd.safetensors") == ""
    assert "preset" in FILES, "a stored preset is looked for anew"


def test_a_preset_that_cannot_speak_any_more_takes_its_weights_with_it(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, told = services.weights, []
    trained(weights.gpt / "ada-e1.safetensors", "base", "gpt")
    trained(weights.vits2 / "ada_e1_s1.safetensors", "base", "vits2")
    place(weights.models, "bge-m3", TEXT)
    place(weights.models, "mhubert-147", SPEECH)
    with gr.Blocks() as app:
        form = build_inference_tab(app, services, services.messages.frontend())
    monkeypatch.setattr(history_panel, "inform", lambda say, key, **fields: told.append(key))
    rows = SimpleNamespace(show=lambda used: {}, outputs=[])
    reload = history_panel._reloader(form, services, rows)
    model = {"preset": "base", "gpt": "ada-e1.safetensors", "vits2": "ada_e1_s1.safetensors"}
    entry, request = SimpleNamespace(settings={"model": model}), SimpleNamespace(headers={"accept-language": "en"})
    boxes = [form[name] for name in ("preset", "gpt_weights", "vits2_weights")]

    def chosen(updates: dict) -> list[str]:
        return [updates[box]["value"] if isinstance(updates[box], dict) else updates[box] for box in boxes]

    def both() -> list[list[str]]:
        i18n = services.messages.frontend()
        return [chosen(reload(entry, request)), chosen(chosen_model(form, services, i18n, *model.values()))]

    assert both() == [list(model.values())] * 2 and "options.preset_gone" not in told
    (weights.models / "bge-m3" / "text.onnx").unlink()
    assert both() == [["nano", "", ""]] * 2 and "options.preset_gone" in told


def test_a_language_model_waits_for_its_tokens(experiment: Experiment) -> None:
    from tools.webui.training_state import Features, read_features

    features(experiment)
    made = read_features(experiment.features)
    assert made is not None and made.codes is None and made.has_codes and made.fingerprint_for("vits2")
    waiting = Features(10, 10, 10, 10, 2, Speech(8, 48.0), "with", 0, "without")
    assert not waiting.has_codes and waiting.fingerprint_for("vits2") == "without"
    assert waiting.fingerprint_for("gpt") == "with"


def test_the_page_is_built_with_the_tab_behind_the_others(services: Services) -> None:
    from tools.webui.app import build_app
    from tools.webui.models_tab import build_models_tab

    app = build_app(services, [("tab.training", build_training_tab)], [("tab.models", build_models_tab)])
    tabs = [block.id for block in app.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs.index("tab.models") > tabs.index("inference") > tabs.index("tab.training")
