"""From the forms of the dataset tab to command lines of the tools."""

import ast
from pathlib import Path

import pytest

from modules.audio.slicing import SliceOptions
from modules.config import from_dict
from modules.paths import PROJECT_ROOT
from tests.webui.dataset_helpers import form, refused
from tools.webui.chain_panel import chain_works
from tools.webui.controls import Control, controls_of
from tools.webui.dataset_folders import (
    DatasetFolders,
)
from tools.webui.model_check import check_model
from tools.webui.steps import DENOISE, REPORT, SEPARATE, SLICE, STEPS, TRANSCRIBE, argument_in, prepare


def test_a_filled_form_becomes_the_command_line_of_its_tool(folders: DatasetFolders, recording: Path) -> None:
    values = form(folders, slice_threshold=-40, slice_max_seconds=8, slice_normalize=False, slice_min_length=None)
    work = prepare(SLICE, {**values, "slice_source": f' "{recording}" '}, {"speaker": "-x", "fresh": ""})
    assert f"--input={recording}" in work.arguments and f"--output={folders.clips}" in work.arguments
    assert {"--threshold=-40.0", "--max-seconds=8.0", "--no-normalize", "--min-length=4000"} <= set(work.arguments)
    assert {"--speaker=-x", "--fresh"} <= set(work.arguments)
    assert work.source == recording


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_flag_is_one_that_the_tool_knows(step: object) -> None:
    """Read from the tool's source, because a tool is started and never imported."""
    source = (PROJECT_ROOT / f"{step.module.replace('.', '/')}.py").read_text(encoding="utf-8")
    words = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert {"--input", "--job"} <= words
    assert step is REPORT or "--output" in words
    assert step.options().__name__ in source


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"slice_source": ""}, "path_empty"),
        ({"slice_source": "/no/such/folder"}, "path_missing"),
        ({"slice_output": '""'}, "path_empty"),
        ({"slice_min_length": 0}, "config_out_of_bounds"),
        ({"slice_min_length": 2.5}, "config_wrong_type"),
        ({"slice_min_interval": 5000, "slice_min_length": 400}, "slice_option_order"),
    ],
)
def test_a_wrong_form_is_refused_before_anything_starts(
    folders: DatasetFolders, recording: Path, values: dict, code: str
) -> None:
    assert refused(lambda: prepare(SLICE, {**form(folders), **values})) == code


def test_one_place_is_one_work_however_its_path_is_written(folders: DatasetFolders, recording: Path) -> None:
    ways = (str(folders.clips), f"{folders.clips.parent}/x/../{folders.clips.name}/")
    assert len({prepare(SLICE, form(folders, slice_output=way)).work_key for way in ways}) == 1


@pytest.mark.parametrize("step", [SEPARATE, TRANSCRIBE], ids=lambda step: step.name)
def test_a_model_is_a_name_or_a_path_that_is_there(
    step: object, folders: DatasetFolders, recording: Path, tmp_path: Path
) -> None:
    def model(text: str) -> str:
        values = {**form(folders), f"{step.name}_model": text, f"{step.name}_source": str(recording)}
        return argument_in(prepare(step, values).arguments, "model")

    name = next(iter(step.models()))
    (tmp_path / "my model").mkdir()
    assert model(f' "{name}" ') == model(name) == name and model("nobody-knows") == "nobody-knows"
    assert model(f"'{tmp_path}/my model/'") == str(tmp_path / "my model")
    assert refused(lambda: model(f"{tmp_path}/other")) == refused(lambda: model("~/no/such/model")) == "path_missing"


@pytest.mark.parametrize(
    ("step", "text", "code"),
    [
        (TRANSCRIBE, "tiny", "asr_model_missing"),
        (TRANSCRIBE, "nobody-knows", "asr_model_unknown"),
        (SEPARATE, "htdemucs", "separation_model_missing"),
        (SEPARATE, "nobody-knows", "separation_model_unknown"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_before_the_first_step(
    step: object,
    text: str,
    code: str,
    folders: DatasetFolders,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modules.corpus.whisper_models.cached_snapshot", lambda *args: None)
    monkeypatch.setattr("modules.corpus.separation_models.cached_snapshot", lambda *args: None)
    monkeypatch.setattr("tools.webui.model_check.cached_snapshot", lambda *args: None)
    work = prepare(step, {**form(folders), f"{step.name}_model": text}, source=recording)
    assert refused(lambda: check_model(work, tmp_path, lambda: False)) == code
    if "missing" in code:
        check_model(work, tmp_path, lambda: True)
    check_model(prepare(SLICE, form(folders)), tmp_path, lambda: False)


def test_controls_have_the_defaults_and_bounds_of_their_options() -> None:
    for control in controls_of(SliceOptions):
        if control.is_slider:
            assert from_dict(SliceOptions, {control.name: control.default}) == SliceOptions()
            assert (control.default - control.low) / control.step == pytest.approx(
                round((control.default - control.low) / control.step)
            )
    assert not Control("a", 5, 0, 600000).is_slider
    assert not Control("a", 5).is_slider


def test_a_chain_reads_what_the_step_before_writes(folders: DatasetFolders, recording: Path) -> None:
    values = form(folders, chain_source=str(folders.recordings))
    plain = chain_works(values, folders, lambda: {"name": "mine"}, {})
    assert [work.step for work in plain] == [SLICE, TRANSCRIBE]
    assert plain[0].source == folders.recordings and plain[1].source == plain[0].output
    assert "--speaker=mine" in plain[0].arguments and "--name=mine" in plain[1].arguments
    whole = chain_works({**values, "chain_separate": True, "chain_denoise": True}, folders, dict, {"models": "m"})
    assert [work.step for work in whole] == [SEPARATE, DENOISE, SLICE, TRANSCRIBE]
    assert whole[1].source == folders.separated / "vocals" and whole[2].source == folders.denoised
    assert refused(lambda: chain_works({**values, "transcribe_beam_size": 99}, folders, dict, {})) == (
        "config_out_of_bounds"
    )
