"""What a press of Speak does, without a page: the tiny model speaks, is stopped, fails and is frozen."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from modules.errors import UserError
from modules.inference import voice
from modules.inference.options import Segment
from tools.webui.live import LiveSound
from tools.webui.services import Services
from tools.webui.speaking import FORM_NAMES, REFERENCES, LastRun, Speech
from tools.webui.weights import ModelChoice

TEXT = "One apple fell down.\nTwo pears followed it.\nThree plums stayed."


@pytest.fixture
def values(example: Path) -> dict[str, Any]:
    """A filled form with one reference."""
    filled: dict[str, Any] = {
        "text": TEXT,
        "top_k": 15,
        "top_p": 1.0,
        "temperature": 1.0,
        "repetition_penalty": 1.35,
        "guidance": 1.0,
        "speed": 1.0,
        "pause_seconds": 0.1,
        "noise_scale": 0.35,
        "cut": "auto",
        "fuse_gpt": True,
        "fuse_decoder": True,
        "guards": True,
        "seed": 5,
        "random_seed": False,
        "freeze": False,
        "preset": "nano",
        "gpt_weights": "",
        "vits2_weights": "",
    }
    for number in range(1, REFERENCES + 1):
        filled |= {
            f"reference_{number}_{part}": blank for part, blank in (("audio", None), ("weight", 1.0), ("text", ""))
        }
    filled["reference_1_audio"] = str(example)
    assert set(filled) == set(FORM_NAMES)
    return filled


def never() -> bool:
    return False


def run(
    services: Services,
    values: dict[str, Any],
    last: LastRun | None = None,
    should_stop: Callable[[], bool] = never,
    live: LiveSound | None = None,
) -> list[dict[str, Any]]:
    """Every update of a run."""
    say = services.messages.translator("en")
    return list(Speech(services, values, last, say, lambda state, words: None, should_stop, live).run())


def refused(services: Services, values: dict[str, Any], last: LastRun | None = None) -> str:
    """The code of the error that a run ends with."""
    with pytest.raises(UserError) as caught:
        run(services, values, last)
    return caught.value.code


def test_speech_is_saved_with_everything_needed_to_make_it_again(services: Services, values: dict[str, Any]) -> None:
    updates = run(services, values)
    rows = [len(update["table"]["data"]) for update in updates]
    assert rows == [1, 2, 3, 3]
    final = updates[-1]
    path = Path(final["player"])
    settings = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert soundfile.info(path).duration == pytest.approx(settings["seconds"], abs=0.01)
    assert settings["seed"] == final["seed"] == 5
    assert settings["text"] == TEXT and settings["complete"] and settings["model"]["hashes"]
    assert Path(settings["references"][0]["file"]).is_file()
    again = run(services, values)[-1]
    assert Path(again["player"]).read_bytes() == path.read_bytes()


def test_freeze_keeps_the_codes_and_changes_the_speed(services: Services, values: dict[str, Any]) -> None:
    first = run(services, values)[-1]["last_run"]
    frozen = run(services, {**values, "freeze": True, "speed": 0.6, "random_seed": True}, first)[-1]
    assert [s.codes.tolist() for s in frozen["last_run"].segments] == [s.codes.tolist() for s in first.segments]
    longer = sum(s.seconds for s in frozen["last_run"].segments) / sum(s.seconds for s in first.segments)
    assert longer > 1.2
    assert frozen["seed"] == first.seed


def test_what_is_heard_while_it_is_made_is_what_is_saved(services: Services, values: dict[str, Any]) -> None:
    live = LiveSound()
    updates = run(services, values, live=live)
    assert updates[0]["status"] == updates[-1]["status"][-len(updates[0]["status"]) :]
    assert "First sound after" in updates[0]["status"]
    assert (live.held_bytes - 4) // 2 == soundfile.info(updates[-1]["player"]).frames
    frozen = LiveSound()
    again = run(services, {**values, "freeze": True}, updates[-1]["last_run"], live=frozen)
    assert frozen.first_seconds is None and "First sound" not in again[-1]["status"]


def test_the_settings_tell_whether_the_sound_was_streamed(services: Services, values: dict[str, Any]) -> None:
    one = {**values, "text": "One apple."}
    plain, live = run(services, one)[-1], run(services, one, live=LiveSound())[-1]
    # Rendered again, nothing is streamed, whoever listens.
    frozen = run(services, {**one, "freeze": True}, live["last_run"], live=LiveSound())[-1]
    sidecars = [Path(final["player"]).with_suffix(".json") for final in (plain, live, frozen)]
    assert [json.loads(path.read_text("utf-8"))["streamed"] for path in sidecars] == [False, True, False]


def test_a_second_press_does_not_listen_to_the_references_again(
    services: Services, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    prepare = voice.prepare_reference

    def counted(wav: torch.Tensor, name: str, *arguments: Any, **more: Any) -> voice.Reference:
        prepared.append(name)
        return prepare(wav, name, *arguments, **more)

    monkeypatch.setattr(voice, "prepare_reference", counted)
    mine = tmp_path / "mine.wav"
    shutil.copy(services.examples / "ada.wav", mine)
    one = {**values, "text": "One apple.", "reference_1_audio": str(mine)}
    first, second = (Path(run(services, one)[-1]["player"]).read_bytes() for _ in range(2))
    assert prepared == ["mine.wav"] and first == second
    shutil.copy(services.examples / "bruno.wav", mine)
    other = Path(run(services, one)[-1]["player"]).read_bytes()
    assert prepared == ["mine.wav"] * 2 and other != first


def test_freeze_says_when_there_is_nothing_to_keep(services: Services, values: dict[str, Any]) -> None:
    frozen = {**values, "freeze": True}
    assert refused(services, frozen) == "freeze_nothing"
    last = LastRun(TEXT, "nano", 1, ())
    assert refused(services, {**frozen, "text": "Other words."}, last) == "freeze_text_changed"
    assert refused(services, frozen, replace(last, preset="base")) == "freeze_other_preset"


def test_stop_keeps_the_finished_sentences(services: Services, values: dict[str, Any]) -> None:
    say = services.messages.translator("en")
    finished: list[int] = []
    speech = Speech(services, values, None, say, lambda state, words: None, lambda: bool(finished))
    updates = []
    for update in speech.run():
        updates.append(update)
        finished.append(1)
    assert len(speech.segments) == 1
    assert "Stopped after 1 of 3" in updates[-1]["status"]
    assert Path(updates[-1]["player"]).is_file()


def test_stop_before_the_first_sentence(services: Services, values: dict[str, Any]) -> None:
    updates = run(services, values, should_stop=lambda: True)
    assert len(updates) == 1 and "player" not in updates[0]


def test_two_references_count_by_their_weights(services: Services, values: dict[str, Any]) -> None:
    both = {**values, "text": "One apple.", "reference_2_audio": str(services.examples / "bruno.wav")}
    even = Path(run(services, both)[-1]["player"]).read_bytes()
    second_off = Path(run(services, {**both, "reference_2_weight": 0.0})[-1]["player"]).read_bytes()
    alone = Path(run(services, {**values, "text": "One apple."})[-1]["player"]).read_bytes()
    assert second_off == alone
    assert even != alone


def test_mistakes_are_named(services: Services, values: dict[str, Any], tmp_path: Path) -> None:
    fake = tmp_path / "words.wav"
    fake.write_text("these are only words", encoding="utf-8")
    assert refused(services, {**values, "text": "  \n"}) == "text_empty"
    assert refused(services, {**values, "text": "?!…"}) == "text_unspeakable"
    assert refused(services, {**values, "reference_1_audio": None}) == "reference_needed"
    assert refused(services, {**values, "reference_1_audio": str(fake)}) == "audio_unreadable"
    assert refused(services, {**values, "reference_1_weight": 0.0}) == "weights_all_zero"
    assert refused(services, {**values, "top_p": 7.0}) == "option_invalid"
    assert refused(services, {**values, "preset": "base"}) == "preset_not_trained"
    assert refused(services, {**values, "gpt_weights": "gone.safetensors"}) == "weights_not_listed"


def test_the_model_is_kept_until_another_is_chosen(services: Services, models: Path) -> None:
    choice = ModelChoice("nano")
    first = services.engine.synthesizer(choice)
    assert services.engine.is_loaded(choice)
    assert services.engine.synthesizer(choice) is first
    copy = services.weights.gpt / "mine-e1.safetensors"
    copy.write_bytes((models / "nano" / "gpt.safetensors").read_bytes())
    other = ModelChoice("nano", gpt=copy.name)
    assert not services.engine.is_loaded(other)
    assert services.engine.synthesizer(other) is not first
    copy.unlink()


def test_an_emptied_seed_is_drawn(services: Services, values: dict[str, Any]) -> None:
    seeds = {run(services, {**values, "text": "One apple.", "seed": None})[-1]["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_the_table_tells_how_often_a_sentence_was_spoken_again(services: Services, values: dict[str, Any]) -> None:
    speech = Speech(services, values, None, services.messages.translator("en"), lambda *_: None, never)
    speech.segments = [
        Segment(i, 2, "One apple.", np.zeros(10, np.float32), 1.0, "limit", torch.zeros(0, 2), 5, retries)
        for i, retries in enumerate((0, 2))
    ]
    ends = [row[-1] for row in speech.table()["data"]]
    assert ends[1].startswith(ends[0]) and "2" in ends[1] and "2" not in ends[0]
