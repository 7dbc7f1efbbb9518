"""Jobs and reports in words."""

from pathlib import Path
from types import SimpleNamespace

from modules.errors import UserError
from tests.webui.dataset_helpers import ENGLISH, finish, form, jobs_in
from tools.webui import jobs_view, report_view
from tools.webui.chains import Chains
from tools.webui.dataset_folders import (
    DatasetFolders,
)
from tools.webui.jobs_panel import changes, shown_job
from tools.webui.messages import Messages
from tools.webui.models_jobs import DOWNLOAD_TOOL
from tools.webui.steps import SLICE, STEPS, prepare
from tools.webui.training_steps import EXTRACT, GPT, PICK, VITS2


def test_a_job_is_told_in_the_readers_language_and_never_finished_when_it_failed(
    folders: DatasetFolders, recording: Path, tmp_path: Path
) -> None:
    jobs = jobs_in(tmp_path)
    chains = Chains(tmp_path / "chains", jobs)
    job = prepare(SLICE, form(folders)).start(jobs)
    waiting = jobs_view.jobs_view(jobs, chains, "", ENGLISH)
    assert waiting.can_stop and not waiting.can_remove and "waiting" in waiting.overview
    finish(job, error=UserError("audio_empty", "{file} holds no sound.", file="<x>.wav"))
    for language, words in (("en", "&lt;x&gt;.wav holds no sound"), ("zh-CN", "失败"), ("ja", "失敗")):
        view = jobs_view.jobs_view(jobs, chains, job.id, Messages().translator(language))
        assert words in view.details and words in view.overview and view.can_remove
        assert "finished" not in view.overview and "take &lt;1&gt;.wav" in view.details
        assert "it is broken" in view.details


def test_only_what_changed_is_sent() -> None:
    view = jobs_view.JobsView((), "a", (), "b", "log", (), False, True)
    seen = changes(view, {})
    assert len(seen) == 9 and changes(view, seen) == {}
    assert changes(jobs_view.JobsView((), "a", (), "c", "log", (), False, True), seen) == {"details": "c"}


def test_a_finished_job_names_its_lists(folders: DatasetFolders, recording: Path, tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    job = prepare(SLICE, form(folders)).start(jobs)
    made = tmp_path / "clips.jsonl"
    made.touch()
    finish(job, {"manifest": str(made), "rejected": "/gone.jsonl", "clips": 3, "clip_seconds": 4.5})
    view = jobs_view.jobs_view(jobs, Chains(tmp_path / "chains", jobs), "", ENGLISH)
    assert view.files == (str(made),) and "finished" in view.overview and "4.5" in view.details


def test_a_job_that_has_not_ended_is_shown_however_old_it_is(
    folders: DatasetFolders, recording: Path, tmp_path: Path
) -> None:
    jobs = jobs_in(tmp_path)
    chains = Chains(tmp_path / "chains", jobs)
    old = prepare(SLICE, form(folders)).start(jobs)
    for number in range(jobs_view.SHOWN_JOBS + 2):
        finish(jobs.start(f"report {number}", "tools.report", (), str(number), "light"))
    view = jobs_view.jobs_view(jobs, chains, old.id, ENGLISH)
    assert view.active == (old.id,) and view.current == old.id and view.can_stop
    assert len(view.choices) == jobs_view.SHOWN_JOBS + 1 and view.choices[-1][1] == old.id


def test_the_buttons_act_on_the_job_that_was_shown(folders: DatasetFolders, recording: Path, tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    own = SimpleNamespace(jobs=jobs)
    assert shown_job(own, "", {}) is None
    first = prepare(SLICE, form(folders)).start(jobs)
    seen = changes(jobs_view.jobs_view(jobs, Chains(tmp_path / "chains", jobs), "", ENGLISH), {})
    finish(first)
    second = prepare(SLICE, form(folders)).start(jobs)
    assert shown_job(own, "", seen) is first and shown_job(own, second.id, seen) is second


def test_every_state_and_tool_has_words() -> None:
    for language in ("en", "zh-CN", "ja"):
        table = Messages().tables[language]
        keys = [*jobs_view.STATES.values(), *jobs_view.TOOLS.values(), *jobs_view.RESULTS.values()]
        assert {*keys, *report_view.DEFECTS.values()} <= set(table)
    assert set(jobs_view.TOOLS) == {step.module for step in (*STEPS, EXTRACT, VITS2, GPT, PICK)} | {DOWNLOAD_TOOL}
