"""What a job's folder tells, without any process: read again when it changed, told when it is broken."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modules.errors import UserError
from modules.records import CONFIG_NAME, LOG_NAME, JobConfig, JobRecord

CONFIG = JobConfig("切分 a", ("python", "-m", "x"), "work", "light", 100.0)


def test_a_config_is_read_as_it_was_written_by_whoever_asks(tmp_path: Path) -> None:
    one, other = JobRecord(tmp_path), JobRecord(tmp_path)
    one.write(CONFIG)
    assert one.config() == other.config() == CONFIG and one.id == tmp_path.name
    one.write(replace(CONFIG, pid=7, process_created=150.0, ended=160.0))
    assert other.config().pid == 7 and other.seconds() == 10.0
    (tmp_path / CONFIG_NAME).write_text(
        (tmp_path / CONFIG_NAME).read_text(encoding="utf-8").replace('"pid"', '"new": 1, "pid"'), encoding="utf-8"
    )
    assert other.config().pid == 7, "what a newer version adds is passed over"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"argv": 1}'])
def test_a_folder_without_a_readable_config_is_no_job(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / CONFIG_NAME).write_text(content)
    with pytest.raises(UserError) as caught:
        JobRecord(tmp_path).config()
    assert caught.value.code == "job_missing"


def test_a_wish_to_stop_and_the_last_sign_of_life(tmp_path: Path) -> None:
    record = JobRecord(tmp_path)
    record.write(CONFIG)
    assert record.seconds() == 0.0 and record.result() is None and not record.stop_was_asked()
    record.ask_to_stop()
    assert record.stop_was_asked() and record.was_stopped(None), "it was never started"
    record.write(replace(CONFIG, pid=7))
    ended = {None: True, 3: True, -15: True, -9: True, 0: False, 1: False, 2: False, -11: False}
    assert {code: record.was_stopped(code) for code in ended} == ended
    record.write(CONFIG)
    os.utime(tmp_path / CONFIG_NAME, (500, 500))
    (tmp_path / LOG_NAME).write_text("first\nlast\n")
    os.utime(tmp_path / LOG_NAME, (900, 900))
    assert record.last_sign() == 900 and record.log_tail(1) == ["last"]
