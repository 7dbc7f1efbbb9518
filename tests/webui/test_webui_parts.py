"""Weights, history, settings and forms: what the page knows without being a page."""

import os
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch

from modules.errors import Stopped, UserError
from tools.webui.form import Form
from tools.webui.history import Entry, form_values, list_entries, reference_record, save_output
from tools.webui.messages import Messages, guarded
from tools.webui.references_panel import example_voices
from tools.webui.services import Services, StopFlags
from tools.webui.settings import usable_settings
from tools.webui.weights import WeightFolders, natural_key, weight_names


def test_weight_names_are_sorted_like_a_person_counts(tmp_path: Path) -> None:
    for name in ("voice-e10", "voice-e9", "Voice-e1", "other"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    assert weight_names(tmp_path) == [f"{n}.safetensors" for n in ("other", "Voice-e1", "voice-e9", "voice-e10")]
    assert weight_names(tmp_path / "absent") == []
    assert natural_key("10") > natural_key("9")


def test_names_from_the_page_never_leave_their_folder(tmp_path: Path) -> None:
    folders = WeightFolders(tmp_path, tmp_path / "g", tmp_path / "v", tmp_path)
    (tmp_path / "secret.safetensors").touch()
    (tmp_path / "g").mkdir()
    for name in ("../secret.safetensors", "gone.safetensors", str(tmp_path / "secret.safetensors")):
        with pytest.raises(UserError) as caught:
            folders.gpt_file(name)
        assert caught.value.code == "weights_not_listed"
    with pytest.raises(UserError) as caught:
        folders.preset_folder("..")
    assert caught.value.code == "preset_unknown"
    assert folders.gpt_file("") is None


def test_base_is_a_choice_without_weights(services: Services) -> None:
    assert services.weights.preset_names()[0] == "nano"
    assert "base" in services.weights.preset_names()
    assert services.weights.is_installed("nano")
    assert not services.weights.is_installed("base")


def test_outputs_are_listed_newest_first_and_never_overwritten(tmp_path: Path) -> None:
    settings = {"text": "first", "seed": 7, "sample_rate": 8000, "seconds": 0.1}
    wav = torch.zeros(800).numpy()
    first = save_output(tmp_path, wav, settings)
    second = save_output(tmp_path, wav, {**settings, "text": "second" * 40})
    assert first != second
    os.utime(first.with_suffix(".json"), (1, 1))
    (tmp_path / "lonely.json").write_text("{}", encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "broken.wav").touch()
    entries = list_entries(tmp_path, 10)
    assert [entry.audio for entry in entries] == [second, first]
    assert entries[1].row()[1:] == ["first", 0.1, "7"]
    assert len(entries[0].row()[1]) == 80
    assert len(list_entries(tmp_path, 1)) == 1
    assert list_entries(tmp_path / "absent", 5) == []


def test_a_reference_is_copied_once_and_comes_back(tmp_path: Path, example: Path) -> None:
    reference = SimpleNamespace(content_hash="ab" * 32, name="ada.wav", notes=())
    records = [reference_record(tmp_path, example, "said", 0.5, reference) for _ in range(2)]
    assert records[0] == records[1]
    assert Path(records[0]["file"]).read_bytes() == example.read_bytes()
    settings = {
        "text": "hello",
        "references": records[:1],
        "options": {"speed": 1.2, "seed": 3},
        "model": {"preset": "nano"},
    }
    values = form_values(settings, 4)
    assert values["reference_1_audio"] == records[0]["file"]
    assert (values["reference_1_weight"], values["reference_1_text"]) == (0.5, "said")
    assert values["reference_2_audio"] is None
    assert (values["seed"], values["random_seed"], values["speed"]) == (3, False, 1.2)


@pytest.mark.parametrize("odd", [{}, {"references": 3, "options": [], "model": None, "text": 5}, {"references": [7]}])
def test_odd_sidecars_do_no_harm(odd: dict) -> None:
    values = form_values(odd, 2)
    assert values["reference_1_audio"] is None
    assert isinstance(values["text"], str)
    assert isinstance(Entry(Path("x.wav"), datetime(2024, 1, 2), odd).row()[1], str)


def small_form() -> Form:
    form = Form()
    form.add("text", gr.Textbox(""))
    form.add("speed", gr.Slider(0.6, 1.65, 1.0))
    form.add("top_k", gr.Slider(1, 100, 15))
    form.add("random_seed", gr.Checkbox(True))
    form.add("cut", gr.Dropdown(["auto", "cut1"], value="auto"))
    return form


def test_only_stored_settings_that_fit_are_put_back() -> None:
    stored = {"text": "hi", "speed": 9.0, "top_k": 20, "random_seed": "yes", "cut": "cut9", "unknown": 1}
    assert usable_settings(small_form(), {k: v for k, v in stored.items() if k != "unknown"} | {"text": "hi"}) == {
        "text": "hi",
        "top_k": 20,
    }
    assert usable_settings(small_form(), None) == {}
    assert usable_settings(small_form(), [1]) == {}
    assert usable_settings(small_form(), {"top_k": True, "cut": "cut1"}) == {"cut": "cut1"}


def test_a_form_knows_each_name_once() -> None:
    form = small_form()
    with pytest.raises(ValueError, match="already"):
        form.add("text", gr.Textbox(""))
    assert form.updates({"text": "new"}) == {form["text"]: "new"}
    assert form.only(["cut"]) == {"cut": form["cut"]}
    assert "cut" in form and "nothing" not in form


def test_bundled_voices_are_there_and_short() -> None:
    import soundfile

    from modules.paths import EXAMPLES

    voices = example_voices(EXAMPLES)
    assert len(voices) >= 3
    assert len({voice.name for voice in voices}) == len(voices)
    for voice in voices:
        info = soundfile.info(voice.path)
        assert (info.channels, info.samplerate) == (1, 22050)
        assert 3 < info.duration < 8
        assert voice.path.stat().st_size < 300_000
        assert voice.text.strip()
    assert example_voices(EXAMPLES / "absent") == []


def test_stop_reaches_only_its_own_tab() -> None:
    stops = StopFlags()
    mine, other = stops.arm("mine"), stops.arm("other")
    assert stops.arm("mine") is mine
    assert stops.stop("mine") and mine.is_set() and not other.is_set()
    assert not stops.stop("nobody")
    stops.done("other")
    assert other.is_set()
    assert not stops.stop("other")
    assert not stops.arm("other").is_set()


def test_failures_become_translated_toasts(tmp_path: Path) -> None:
    guard = guarded(Messages(language="ja"), tmp_path / "log.txt")

    @guard
    def known() -> None:
        raise UserError("audio_missing", "There is no audio file {file}.", file="<b>x</b>")

    @guard
    def unknown() -> None:
        raise RuntimeError("secret detail")

    @guard
    def stepwise(kind: str):
        yield 1
        if kind == "stopped":
            raise Stopped
        raise RuntimeError("secret detail")

    with pytest.raises(gr.Error) as caught:
        known()
    assert "&lt;b&gt;x&lt;/b&gt; がありません" in caught.value.message
    with pytest.raises(gr.Error) as caught:
        unknown()
    assert "secret" not in caught.value.message and "log.txt" in caught.value.message
    assert list(stepwise("stopped")) == [1]
    with pytest.raises(gr.Error):
        list(stepwise("broken"))
