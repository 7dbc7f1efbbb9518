"""Where the files of a dataset lie, and how one step follows another."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.io import write
from modules.errors import UserError
from tests.webui.dataset_helpers import finish, form, jobs_in, refused
from tools.webui import denoise_panel
from tools.webui.chain_panel import chain_works
from tools.webui.chains import Chains
from tools.webui.dataset_folders import (
    DatasetFolders,
    boxes_after,
    dataset_name,
    keep_uploads,
    newly_finished,
    own_outputs,
    work_folder,
)
from tools.webui.step_panel import sample_of
from tools.webui.steps import SLICE, TRANSCRIBE, argument, prepare, step_of


@pytest.mark.parametrize("name", ["", "  ", "../x", "a/b", "a\\b", "CON", "jobs", ".hidden", "end.", "a" * 65])
def test_names_that_are_no_folder_are_refused(name: str) -> None:
    assert refused(lambda: dataset_name(name)) == "dataset_name"


def test_names_of_any_script_are_taken() -> None:
    assert [dataset_name(name) for name in (" my-voice 2 ", "声音", "アダ")] == ["my-voice 2", "声音", "アダ"]


def test_uploads_are_kept_and_never_overwrite(tmp_path: Path) -> None:
    first, same, other = (tmp_path / place / "a.wav" for place in ("1", "2", "3"))
    for path, content in ((first, b"one"), (same, b"one"), (other, b"two")):
        path.parent.mkdir()
        path.write_bytes(content)
    folder = keep_uploads([first, same, other], tmp_path / "kept")
    assert sorted(path.name for path in folder.iterdir()) == ["a-2.wav", "a.wav"]
    assert (folder / "a-2.wav").read_bytes() == b"two"


def test_boxes_hold_what_is_there(folders: DatasetFolders, recording: Path) -> None:
    boxes = folders.boxes()
    assert boxes["slice_source"] == boxes["chain_source"] == str(folders.recordings)
    assert boxes["transcribe_source"] == boxes["edit_list"] == ""
    folders.clips.mkdir(parents=True)
    (folders.clips / "clips.jsonl").touch()
    assert folders.boxes()["edit_list"] == str(folders.clips / "clips.jsonl")
    folders.lists.mkdir(parents=True)
    (folders.lists / "manifest.jsonl").touch()
    assert folders.boxes()["edit_list"] == str(folders.lists / "manifest.jsonl")


def test_a_finished_step_fills_the_next_one(folders: DatasetFolders, recording: Path, tmp_path: Path) -> None:
    jobs, chains = jobs_in(tmp_path), Chains(tmp_path / "chains", jobs_in(tmp_path))
    job = prepare(SLICE, form(folders)).start(jobs)
    own = own_outputs(form(folders), folders)
    assert newly_finished(jobs, chains, [job.id], own) == ({}, [job.id])
    finish(job)
    boxes, left = newly_finished(jobs, chains, [job.id], own)
    assert left == [] and boxes == boxes_after("slice", folders.clips)
    assert boxes["transcribe_source"] == str(folders.clips)
    failed = prepare(TRANSCRIBE, form(folders, transcribe_source=str(recording))).start(jobs)
    finish(failed, error=UserError("audio_empty", "{file} holds no sound.", file="x"))
    assert newly_finished(jobs, chains, [failed.id, "gone"], own) == ({}, [])


def test_a_step_of_another_dataset_fills_nothing(folders: DatasetFolders, recording: Path, tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    chains, elsewhere = Chains(tmp_path / "chains", jobs), tmp_path / "elsewhere"
    job = prepare(SLICE, form(folders, slice_output=str(elsewhere))).start(jobs)
    finish(job)
    assert newly_finished(jobs, chains, [job.id], own_outputs(form(folders), folders)) == ({}, [])
    here = own_outputs({"slice_output": f" {tmp_path}/x/../elsewhere/ "}, folders)
    assert newly_finished(jobs, chains, [job.id], here)[0] == boxes_after("slice", elsewhere)


def test_one_list_has_one_folder_of_edits_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    ways = [tmp_path / "a.list", tmp_path / "x" / ".." / "a.list"]
    assert len({work_folder([way], tmp_path) for way in ways}) == 1


def test_a_chain_goes_on_after_a_restart_and_ends_with_a_failure(
    folders: DatasetFolders, recording: Path, tmp_path: Path
) -> None:
    jobs = jobs_in(tmp_path)
    works = chain_works(form(folders), folders, dict, {})
    chain = Chains(tmp_path / "chains", jobs).start(works)
    chains = Chains(tmp_path / "chains", jobs)
    chains.advance()
    assert len(jobs.jobs()) == 1 and chains.find(chain.id).ended == ""
    finish(jobs.jobs()[0])
    chains.advance()
    chains.advance()
    newest = jobs.jobs()[0]
    assert step_of(newest) is TRANSCRIBE and argument(newest, "input") == str(folders.clips)
    assert chains.of_job(newest.id).position == 2
    own = own_outputs({}, folders)
    boxes, left = newly_finished(jobs, chains, [chain.id], own)
    assert left == [chain.id] and boxes == {}
    finish(newest, error=UserError("no_recordings", "There are no recordings in {path}; check the path.", path="x"))
    chains.advance()
    assert chains.find(chain.id).ended == "failed"
    jobs.remove(jobs.job(chain.links[0].job))
    boxes, left = newly_finished(jobs, chains, [chain.id], own)
    assert left == [] and boxes["transcribe_source"] == str(folders.clips)


def test_the_same_work_is_not_chained_twice(folders: DatasetFolders, recording: Path, tmp_path: Path) -> None:
    chains = Chains(tmp_path / "chains", jobs_in(tmp_path))
    works = chain_works(form(folders), folders, dict, {})
    chains.start(works)
    assert refused(lambda: chains.start(works)) == "job_twice"
    assert len(chains.all()) == 1


def test_a_sample_is_a_recording_of_the_source(folders: DatasetFolders, recording: Path, tmp_path: Path) -> None:
    write(folders.recordings / "a.wav", torch.zeros(100), 16000)
    assert sample_of(str(folders.recordings), 1).name == "a.wav"
    assert sample_of(str(folders.recordings), 99) == recording
    assert sample_of(str(recording), None) == recording
    (tmp_path / "empty").mkdir()
    assert refused(lambda: sample_of(str(tmp_path / "empty"), 1)) == "no_recordings"


def test_a_sample_is_heard_before_and_after(folders: DatasetFolders) -> None:
    rate = 16000
    path = folders.recordings / "noisy.wav"
    write(path, 0.05 * torch.randn(2 * rate), rate)
    (rate_before, before), (rate_after, after) = denoise_panel.denoised_sample(path, 99.0, form(folders))
    assert rate_before == rate_after == rate and before.shape == after.shape == (2 * rate, 1)
    assert before.dtype == after.dtype == np.int16
    assert refused(lambda: denoise_panel.denoised_sample(path, 0.0, form(folders, denoise_strength=3.0))) == (
        "config_out_of_bounds"
    )
