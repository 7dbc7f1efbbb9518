"""The report in words, tables and a drawing, and when it is shown."""

import json
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from modules.data.report import ReportOptions, build_report
from tests.webui.dataset_helpers import ENGLISH, finish, jobs_in, refused
from tools.webui import report_view
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.form import Form
from tools.webui.messages import Messages
from tools.webui.report_panel import ReportPanel, start_report
from tools.webui.step_panel import Desk
from tools.webui.steps import REPORT


def test_a_report_becomes_tables_and_the_newest_is_found(listed: Path, tmp_path: Path) -> None:
    report = build_report(listed, None, ReportOptions(sample_clips=0))
    shown = report_view.report_html(report, ENGLISH)
    assert "ada" in shown and "<svg" in shown and "Duplicates: 11" in shown and "Lines without text: 2" in shown
    empty = build_report(listed, tmp_path / "nowhere", ReportOptions())
    assert "<svg" not in report_view.report_html(empty, ENGLISH)
    jobs = jobs_in(tmp_path)
    job = jobs.start("report x", REPORT.module, ["--input", str(listed)], report_view.report_key([listed]), "light")
    assert report_view.latest_report(jobs, [listed]) is None
    finish(job, report)
    assert report_view.latest_report(jobs, [listed]).id == job.id
    assert report_view.latest_report(jobs, [tmp_path / "other.list"]) is None


def test_a_finished_report_is_shown_once(listed: Path, folders: DatasetFolders, tmp_path: Path) -> None:
    own = SimpleNamespace(jobs=jobs_in(tmp_path), messages=Messages(), log_file=None)
    with gr.Blocks():
        page = Form()
        for name in ("dataset_name", "edit_audio_folder"):
            page.add(name, gr.Textbox("mine"))
        i18n = own.messages.frontend()
        panel = ReportPanel(Desk(page, own, i18n, gr.State([]), gr.Timer(active=False)), folders)
    values = {"report_list": str(listed), "report_sample_clips": 0}
    job = start_report(own, values, folders.lists / "report.json")
    assert "--sample-clips=0" in job.config().argv and panel.news(str(listed), "", ENGLISH) == {}
    assert not any(item.startswith("--audio-folder") for item in job.config().argv)
    finish(job, build_report(listed, None, ReportOptions(sample_clips=0)))
    news = panel.news(str(listed), "", ENGLISH)
    assert "<svg" in news[panel.view] and news[panel.seen] == job.id
    assert panel.news(str(listed), job.id, ENGLISH) == {}
    assert panel.news("", job.id, ENGLISH) == {panel.view: "", panel.seen: ""}
    assert refused(lambda: start_report(own, {"report_list": "/no/list"}, tmp_path / "r.json")) == "path_missing"


def test_the_audio_folder_of_the_editor_is_that_of_the_report(listed: Path, tmp_path: Path) -> None:
    own = SimpleNamespace(jobs=jobs_in(tmp_path))
    values = {"report_list": str(listed), "edit_audio_folder": f' "{tmp_path}/" '}
    assert f"--audio-folder={tmp_path}" in start_report(own, values, tmp_path / "r.json").config().argv
    elsewhere = {**values, "edit_audio_folder": "/no/folder"}
    assert refused(lambda: start_report(own, elsewhere, tmp_path / "r.json")) == "path_missing"


def test_reasons_that_differ_in_a_name_only_are_told_together_and_in_the_readers_language(
    listed: Path, tmp_path: Path
) -> None:
    reasons = ["low confidence: 0.10", "low confidence: 0.20", "silence", "an odd reason"]
    lines = (json.dumps({"file": f"{number}.wav", "reason": reason}) for number, reason in enumerate(reasons))
    (tmp_path / "rejected.jsonl").write_text("\n".join(lines), encoding="utf-8")
    report = build_report(listed, None, ReportOptions(sample_clips=0))
    shown = report_view.report_html(report, Messages().translator("zh-CN"))
    assert "<th>2</th><td>置信度低" in shown and "静音" in shown and "an odd reason" in shown
