"""From the form of the training tab to command lines of the tools, and what is refused before anything starts."""

import ast
import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from modules.experiment import Experiment
from modules.paths import PROJECT_ROOT
from modules.training.suggestions import FINE_TUNING, GPTOptions, VITS2Options
from tests.webui.dataset_helpers import jobs_in, refused
from tests.webui.training_helpers import dataset, features, run
from tools.webui.chains import Chains
from tools.webui.steps import argument_in
from tools.webui.training_state import newest_list, read_features, read_run
from tools.webui.training_steps import (
    DISTRIBUTED,
    EXTRACT,
    GPT,
    PARTS,
    PICK,
    STAGES,
    VITS2,
    Pretrained,
    check_beginning,
    command_text,
    experiment_of,
    extract_work,
    pick_work,
    pretrained,
    train_work,
)
from tools.webui.training_whole import whole_works
from tools.webui.weights import WeightFolders

TOOLS = {"vits2": "tools/train_vits2.py", "gpt": "tools/train_gpt.py"}


@pytest.fixture
def weights(tmp_path: Path) -> WeightFolders:
    """Folders of a preset whose files are there, and empty."""
    for name in ("nano/gpt", "nano/vits2", "nano/s3", "nano-training/vits2", "mine/gpt"):
        path = tmp_path / "models" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return WeightFolders(tmp_path / "models", tmp_path / "g", tmp_path / "v", tmp_path / "presets")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment("ada", tmp_path / "logs", tmp_path / "g", tmp_path / "v")


@pytest.fixture
def files(weights: WeightFolders) -> Pretrained:
    return pretrained({}, weights)


def form(**values: Any) -> dict[str, Any]:
    """Values of all knobs as they are at first."""
    knobs = {
        f"{stage}_{name}": value
        for stage, options in (("vits2", VITS2Options()), ("gpt", GPTOptions()))
        for name, value in vars(options).items()
    }
    return {**knobs, "vits2_gpus": 1, "gpt_gpus": 1, "training_experiment": "ada", **values}


def flags_of(path: str) -> set[str]:
    """Words of a tool and of what it takes its flags from."""
    sources = [PROJECT_ROOT / path, PROJECT_ROOT / "tools/training.py", PROJECT_ROOT / "modules/vits2/train.py"]
    trees = [ast.parse(source.read_text(encoding="utf-8")) for source in sources]
    words = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    fields = {f"--{node.target.id.replace('_', '-')}" for tree in trees for node in ast.walk(tree)
              if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}  # fmt: skip
    return {word for word in words if isinstance(word, str)} | fields


@pytest.mark.parametrize("stage", STAGES)
def test_every_knob_is_a_flag_that_its_tool_knows(stage: str, experiment: Experiment, files: Pretrained) -> None:
    """Read from the source, because a tool is started and never imported."""
    known = flags_of(TOOLS[stage])
    work = train_work(stage, form(**{f"{stage}_beginning": "data_added"}), experiment, files)
    given = [argument.partition("=")[0] for argument in work.arguments if argument.startswith("--")]
    assert len(given) == len(set(given))
    assert not {flag for flag in given if flag not in known and flag.replace("--no-", "--") not in known}
    options = {f"--{spec.name.replace('_', '-')}" for spec in dataclasses.fields(type(STAGES[stage].options()()))}
    assert options <= {flag.replace("--no-", "--") for flag in given}
    assert set(FINE_TUNING[stage]) <= set(work.arguments) and "--data-added" in given


def test_a_turned_knob_reaches_the_command_line(experiment: Experiment, files: Pretrained) -> None:
    values = form(vits2_batch_seconds=12, vits2_epochs=7.0, vits2_keep_latest=True, gpt_lora_rank=0, gpt_max_minutes=0)
    vits2, gpt = train_work("vits2", values, experiment, files), train_work("gpt", values, experiment, files, "cpu")
    assert {"--batch-seconds=12.0", "--epochs=7", "--keep-latest", "--device=auto"} <= set(vits2.arguments)
    assert {"--lora-rank=0", "--max-minutes=0.0", "--device=cpu"} <= set(gpt.arguments)
    place = vits2.arguments.index("--init")
    assert vits2.arguments[place + 1 : place + 3] == (str(files.vits2), str(files.vits2_training))
    assert argument_in(gpt.arguments, "init") == str(files.gpt)
    assert argument_in(gpt.arguments, "decoder") == str(files.folder)
    assert argument_in(gpt.arguments, "store") == str(experiment.features)
    assert (vits2.name, gpt.name) == ("vits2 ada", "gpt ada") and vits2.work_key != gpt.work_key
    assert refused(lambda: train_work("gpt", form(gpt_epochs=0), experiment, files)) == "config_out_of_bounds"
    assert refused(lambda: train_work("gpt", form(gpt_epochs=1.5), experiment, files)) == "config_wrong_type"
    assert refused(lambda: train_work("gpt", form(gpt_epochs=None), experiment, files)) == "number_empty"


def test_several_gpus_are_started_together(experiment: Experiment, files: Pretrained, tmp_path: Path) -> None:
    work = train_work("gpt", form(gpt_gpus=2), experiment, files)
    assert work.step.module == DISTRIBUTED and work.step.resources == "heavy"
    assert work.arguments[:5] == ("--standalone", "--nproc-per-node", "2", "-m", GPT.module)
    assert work.work_key == train_work("gpt", form(), experiment, files).work_key
    job = work.start(jobs_in(tmp_path))
    assert job.config().argv[-2] == "--job", "the tool's own flag comes after all of its others"


def test_formatting_is_done_whole_or_in_parts(experiment: Experiment, files: Pretrained, tmp_path: Path) -> None:
    listed = dataset(experiment.folder, 2)
    values = {"extract_source": f' "{listed}" ', "extract_audio_folder": str(tmp_path)}
    whole = extract_work(values, experiment, files)
    assert argument_in(whole.arguments, "input") == str(listed)
    assert argument_in(whole.arguments, "output") == str(experiment.features)
    assert argument_in(whole.arguments, "audio-folder") == str(tmp_path) and not argument_in(whole.arguments, "only")
    parts = [extract_work(values, experiment, files, part) for part in PARTS]
    assert [argument_in(work.arguments, "only") for work in parts] == list(PARTS)
    assert {work.work_key for work in parts} == {whole.work_key}, "all of them write to one place"
    assert refused(lambda: extract_work({}, experiment, files)) == "path_empty"
    assert refused(lambda: extract_work({"extract_source": "/no/such"}, experiment, files)) == "path_missing"


def test_pretrained_files_are_those_of_the_preset_unless_they_are_named(
    weights: WeightFolders, experiment: Experiment, tmp_path: Path
) -> None:
    own = weights.models / "mine" / "gpt.safetensors"
    files = pretrained({"training_gpt_file": f" '{own}' ", "training_vits2_file": "  "}, weights)
    assert files.gpt == own and files.vits2 == weights.models / "nano" / "vits2.safetensors"
    assert refused(lambda: pretrained({"training_gpt_file": "/no/such.safetensors"}, weights)) == "path_missing"
    assert refused(lambda: pretrained({"training_preset": "../mine"}, weights)) == "preset_unknown"
    (weights.models / "nano-training" / "vits2.safetensors").unlink()
    assert refused(lambda: train_work("vits2", form(), experiment, pretrained({}, weights))) == "path_missing"
    listed = dataset(experiment.folder, 1)
    other = pretrained({"training_tokenizer_file": str(own)}, weights)
    work = extract_work({"extract_source": str(listed)}, experiment, other)
    assert argument_in(work.arguments, "speech-tokenizer") == str(own)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "con", ".hidden", "x" * 61])
def test_a_bad_name_is_refused(name: str, weights: WeightFolders, tmp_path: Path) -> None:
    assert refused(lambda: experiment_of({"training_experiment": name}, tmp_path, weights)) == "experiment_name"


def test_folders_of_the_program_are_no_experiments(weights: WeightFolders, tmp_path: Path) -> None:
    assert refused(lambda: experiment_of({"training_experiment": "Jobs"}, tmp_path, weights)) == "experiment_reserved"
    assert experiment_of({"training_experiment": " 小红 1 "}, tmp_path, weights).folder == tmp_path / "小红 1"


def test_a_run_is_read_from_the_head_of_its_checkpoint(experiment: Experiment) -> None:
    assert read_run(experiment.run("vits2")) is None
    run(experiment, "vits2", epoch=5, seconds=90.0, data="abc")
    found = read_run(experiment.run("vits2"))
    assert (found.step, found.epoch, found.seconds, found.data) == (80, 5, 90.0, "abc")
    assert found.config["train"]["learning_rate"] == 4e-4
    (experiment.run("vits2") / "checkpoint.safetensors").write_bytes(b"broken")
    assert read_run(experiment.run("vits2")).step == 0, "that it is damaged is told by the training"


@pytest.mark.parametrize(
    ("beginning", "values", "code"),
    [
        ("begin", {}, "run_exists"),
        ("resume", {}, ""),
        ("resume", {"data": "other"}, "resume_data_differs"),
        ("resume", {"rate": 1e-3}, "resume_knob_differs"),
        ("resume", {"epoch": 19}, "training_is_over"),
        ("resume", {"seconds": 420.0}, "training_is_over"),
        ("data_added", {"data": "other"}, ""),
        ("data_added", {"data": "other", "epoch": 30, "seconds": 420.0}, ""),  # both count from there
        ("data_added", {"epoch": 30}, "training_is_over"),
        ("start_over", {"rate": 1e-3, "epoch": 30, "data": "other"}, ""),
    ],
)
def test_a_wrong_beginning_is_told_before_the_job(
    beginning: str, values: dict[str, Any], code: str, experiment: Experiment
) -> None:
    chosen = form(vits2_beginning=beginning)
    check_beginning("vits2", chosen, experiment, "same")
    run(experiment, "vits2", **{"data": "same", **values})
    if code:
        assert refused(lambda: check_beginning("vits2", chosen, experiment, "same")) == code
    else:
        check_beginning("vits2", chosen, experiment, "same")


def test_training_everything_is_a_chain_of_four(experiment: Experiment, files: Pretrained, tmp_path: Path) -> None:
    values = form(extract_source=str(dataset(experiment.folder, 2)))
    works = whole_works(values, experiment, files).works
    assert [work.step for work in works] == [EXTRACT, VITS2, GPT, PICK]
    jobs = jobs_in(tmp_path)
    chains = Chains(tmp_path / "chains", jobs)
    chains.start(works)
    assert refused(lambda: chains.start(works)) == "job_twice"
    assert refused(lambda: Chains(tmp_path / "chains", jobs_in(tmp_path / "2")).start(works[1:])) == "chain_twice"
    features(experiment)
    assert [work.step for work in whole_works(form(), experiment, files).works] == [VITS2, GPT, PICK]
    run(experiment, "gpt")
    assert refused(lambda: whole_works(values, experiment, files)) == "run_exists"
    assert argument_in(pick_work(experiment, files).arguments, "preset") == "nano"


def test_what_is_over_is_left_out_while_its_data_are_the_same(experiment: Experiment, files: Pretrained) -> None:
    data = features(experiment)
    run(experiment, "vits2", epoch=19, data=data)
    values = form(vits2_beginning="resume", gpt_beginning="begin")
    whole = whole_works(values, experiment, files)
    assert ([work.step for work in whole.works], whole.over) == ([GPT, PICK], ("vits2",))
    listed = dataset(experiment.folder, 2)
    os.utime(listed, (1e9, 1e9))
    whole = whole_works(values | {"extract_source": str(listed)}, experiment, files)
    assert ([work.step for work in whole.works], whole.over) == ([EXTRACT, GPT, PICK], ("vits2",))
    os.utime(listed, (4e9, 4e9))
    changed = values | {"extract_source": str(listed)}
    assert refused(lambda: whole_works(changed, experiment, files)) == "training_is_over", "lines may be new"
    run(experiment, "gpt", epoch=25, data=data)
    values["gpt_beginning"] = "resume"
    assert refused(lambda: whole_works(values, experiment, files)) == "training_is_over", "nothing is left"


def test_a_chain_that_formats_tells_trainings_that_lines_may_be_new(experiment: Experiment, files: Pretrained) -> None:
    values = form(extract_source=str(dataset(experiment.folder, 2)), vits2_beginning="resume", gpt_beginning="resume")
    run(experiment, "vits2", data=features(experiment))
    _, vits2, gpt, _ = whole_works(values, experiment, files).works
    assert "--data-added" in vits2.arguments and "--resume" not in vits2.arguments
    assert "--resume" in gpt.arguments, "there is nothing to go on from"
    del values["extract_source"]
    assert "--resume" in whole_works(values, experiment, files).works[0].arguments


def test_everything_is_formatted_while_nothing_can_be_trained_on(experiment: Experiment, files: Pretrained) -> None:
    experiment.features.mkdir(parents=True)
    assert refused(lambda: whole_works(form(), experiment, files)) == "path_empty", "no list is named"
    features(experiment, clips=2, held_out=2)
    assert refused(lambda: whole_works(form(), experiment, files)) == "path_empty"


def test_a_shown_command_is_the_one_that_is_started(experiment: Experiment, files: Pretrained, tmp_path: Path) -> None:
    named = dataclasses.replace(experiment, name="my voice's")
    work = train_work("vits2", form(), named, dataclasses.replace(files, vits2=PROJECT_ROOT / "README.md"))
    words = shlex.split(command_text(work))
    assert words[:3] == ["python", "-m", VITS2.module] and f"--experiment={named.name}" in words
    assert "README.md" in words, "what lies in the project is written from its root"
    assert len(words) == 3 + len(work.arguments)


def test_features_are_counted_and_recognised(experiment: Experiment) -> None:
    assert read_features(experiment.features) is None
    fingerprint = features(experiment, clips=10, held_out=2, seconds=6.0)
    found = read_features(experiment.features)
    assert (found.lines, found.held_out, found.heard.clips, found.heard.seconds) == (10, 2, 8, 48.0)
    assert found.fingerprint == fingerprint
    assert features(experiment, clips=11) != fingerprint


def test_the_newest_finished_list_is_found(tmp_path: Path) -> None:
    assert newest_list(tmp_path) is None
    ages = {"a/manifest.jsonl": 50, "a/a.list": 49, "b/b.list": 30, "jobs/x.list": 1, "b/clips.jsonl": 1}
    for name, age in ages.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert newest_list(tmp_path) == tmp_path / "b/b.list"
    os.utime(tmp_path / "a/manifest.jsonl", (1e9, 1e9))
    os.utime(tmp_path / "a/a.list", (1e9 + 1, 1e9 + 1))
    assert newest_list(tmp_path) == tmp_path / "a/manifest.jsonl", "the same step wrote both, and it says more"
