"""The tab Models without a browser: what it says of models, what it starts, and what it refuses."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from modules.errors import UserError
from modules.hub.catalogue import CatalogueFile
from modules.hub.inventory import state_of
from modules.hub.judging import verify
from modules.hub.source import HubSource, load_source, save_source
from tests.hub.hub_server import entry_of
from tests.webui.dataset_helpers import ENGLISH, finish, jobs_in, refused
from tests.webui.models_helpers import LICENCE, SPEECH, START, TEXT, entries, place, write_catalogue
from tools.webui import models_view
from tools.webui.jobs_view import card, title
from tools.webui.messages import Messages
from tools.webui.models_jobs import (
    DOWNLOAD_TOOL,
    lacking,
    newest_job,
    room_of,
    start_check,
    start_download,
    start_preset,
    states,
)
from tools.webui.models_source_panel import OWN, known_source, source_of
from tools.webui.models_tab import ModelsTab, build_models_tab
from tools.webui.presets import check_models, missing_of, needing
from tools.webui.services import Services
from tools.webui.weights import WeightFolders

CHINESE = Messages().translator("zh-CN")


@pytest.fixture
def services(services_in: Callable[..., Services], tmp_path: Path) -> Services:
    """Services whose models are a small catalogue, none of which is there; their jobs are never run."""
    own = services_in(tmp_path, jobs_in(tmp_path))
    weights = WeightFolders(tmp_path / "models", own.weights.gpt, own.weights.vits2, own.weights.presets)
    catalogue = write_catalogue(tmp_path / "catalogue.json", entries())
    return replace(own, weights=weights, entries=catalogue)


@pytest.fixture
def tab(services: Services) -> ModelsTab:
    with gr.Blocks() as app:
        return build_models_tab(app, services, services.messages.frontend())


def shown(tab: ModelsTab, preset: str = "base", model: str = "bge-m3", language: str = "en", **held: Any) -> dict:
    """What the tab sends, by the names of its parts."""
    request = SimpleNamespace(headers={"accept-language": language})
    updates = tab.poll(request, preset, model, held.get("seen", {}), held.get("pace", 10.0))
    names = {getattr(tab, name): name for name in vars(tab) if hasattr(getattr(tab, name), "_id")}
    return {names.get(component, "timer"): value for component, value in updates.items()}


def test_every_model_is_told_with_purpose_size_licence_and_state(tab: ModelsTab, services: Services) -> None:
    place(services.weights.models, "bge-m3", TEXT)
    place(services.weights.models, "mhubert-147", {"speech.onnx": b"<html>log in"})
    told = shown(tab)["overview"]
    assert 'data-model="bge-m3" data-state="present"' in told and "has not been verified" in told
    assert 'data-model="mhubert-147" data-state="damaged"' in told and "non-commercial" in told
    assert 'data-model="qwen2-0.5b" data-state="missing"' in told and "Needed by base-qwen2" in told
    assert f'href="https://example.org/licence" target="_blank" rel="noopener noreferrer">Licence {LICENCE}' in told
    assert "许可证" in shown(tab, language="zh-CN")["overview"]


def test_a_preset_tells_what_it_lacks_and_the_button_how_much(tab: ModelsTab, services: Services) -> None:
    first = shown(tab)
    assert first["fetch"]["value"] == "Download what is missing (31 kB)" and first["fetch"]["interactive"]
    assert "31 kB to download." in first["needed"] and "many hours of speech and a GPU" in first["needed"]
    assert first["accept"]["visible"] and LICENCE in first["accept"]["label"] and not first["verify"]["interactive"]
    place(services.weights.models, "bge-m3", TEXT)
    place(services.weights.models, "mhubert-147", SPEECH)
    second = shown(tab)
    assert second["fetch"] == {**second["fetch"], "interactive": False, "value": "Nothing is missing for this preset"}
    assert "Everything this preset needs" in second["needed"] and not second["accept"]["visible"]
    assert second["verify"]["interactive"]
    assert "no further models" in shown(tab, "nano")["needed"]


def test_a_tick_holds_for_its_words_and_is_taken_back_for_others(tab: ModelsTab, services: Services) -> None:
    first = shown(tab)
    assert "value" not in first["accept"], "nothing was ticked yet"
    place(services.weights.models, "mhubert-147", SPEECH)
    hidden = shown(tab, seen=first["seen"])
    assert not hidden["accept"]["visible"]
    (services.weights.models / "mhubert-147" / "speech.onnx").unlink()
    again = shown(tab, seen=hidden["seen"])
    assert again["accept"]["visible"] and "value" not in again["accept"], "a late answer would take back a new tick"
    other = {**again["seen"], "accept": "", "accept asked": "I accept the licence of another model."}
    assert shown(tab, seen=other)["accept"]["value"] is False


def test_only_what_changed_is_sent(tab: ModelsTab, services: Services) -> None:
    first = shown(tab)
    again = shown(tab, seen=first["seen"])
    assert set(again) == {"seen"}
    place(services.weights.models, "qwen2-0.5b", {"start.onnx": b"\x08"})
    assert {"overview"} <= set(shown(tab, seen=first["seen"])) <= {"overview", "seen", "needed"}


def test_a_download_starts_only_with_the_licence_accepted(services: Services) -> None:
    assert refused(lambda: start_preset(services, "base", False)) == "models_licence"
    assert newest_job(services) is None
    job = start_preset(services, "base", True)
    argv = job.config().argv
    assert {DOWNLOAD_TOOL, "bge-m3", "mhubert-147", "--accept-licence"} <= set(argv)
    assert f"--models={services.weights.models}" in argv and job.config().resources == "light"
    assert newest_job(services).id == job.id
    assert refused(lambda: start_download(services, lacking("qwen2-0.5b", services), False)) == "job_twice"
    assert title(job, CHINESE) == "下载模型: bge-m3, mhubert-147"


def test_a_single_model_and_a_check_are_jobs_too(services: Services) -> None:
    job = start_download(services, lacking("qwen2-0.5b", services), False)
    assert "--accept-licence" not in job.config().argv
    job.stop()
    place(services.weights.models, "bge-m3", TEXT)
    assert lacking("bge-m3", services) == []
    assert refused(lambda: start_download(services, [], True)) == "models_complete"
    assert refused(lambda: start_check(services, "../x")) == "model_unknown"
    check = start_check(services, "bge-m3")
    assert "--verify" in check.config().argv and title(check, ENGLISH) == "Verify: bge-m3"


def test_what_does_not_fit_on_the_disk_is_refused(services: Services) -> None:
    missing = [replace(item, bytes=1 << 60) for item in missing_of("base", services)]
    assert refused(lambda: start_download(services, missing, True)) == "hub_no_space"


def test_progress_is_told_in_bytes_and_the_end_in_words(tab: ModelsTab, services: Services) -> None:
    job = start_preset(services, "base", True)
    told = {"step": 12_000_000, "total": 31_000_000, "eta_seconds": 100.0, "message": "bge-m3/text.onnx: 12 of 31 MB"}
    event = {"kind": "step", "time": time.time(), "samples": None, **told}
    (job.folder / "events.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    words = card(job, "running", None, ENGLISH)
    assert "39 %, 12.0 / 31.0 MB, 190 kB/s" in words and words.count("text.onnx") == 1
    assert "of 31" not in words
    for age, told in ((-1.0, True), (-60.0, False)):  # counted down, it is the same; after a stall it is none
        then = time.time() + age
        with open(job.folder / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": then}) + "\n")
        os.utime(job.folder / "events.jsonl", (then, then))
        assert ("190 kB/s" in card(job, "running", None, ENGLISH)) == told
        assert ("kB/s" in card(job, "running", None, ENGLISH)) == told
    assert not shown(tab)["fetch"]["interactive"] and shown(tab)["stop"]["interactive"]
    finish(job, error=UserError("hub_busy", "{host} ({cause}) {file}", host="h", cause="503", file="text.onnx"))
    after = shown(tab, language="zh-CN")
    assert "失败" in after["job"]["value"] and after["job"]["visible"] and after["fetch"]["interactive"]


def test_what_only_waits_is_converted_without_a_licence_and_in_words_of_its_own(
    tab: ModelsTab, services: Services
) -> None:
    speech = services.catalogue["mhubert-147"]
    waits = replace(
        speech, files=(CatalogueFile("a.bin", 4000),), convert=(("a.bin", "a.safetensors"),), non_commercial=True
    )
    services.catalogue["mhubert-147"] = waits
    fetched = room_of(lacking("mhubert-147", services), services)
    assert fetched == 8000  # the pickle, and what is made of it
    place(services.weights.models, "bge-m3", TEXT)
    place(services.weights.models, "mhubert-147", {"a.bin": b"\x80" * 4000})
    told = shown(tab, model="mhubert-147")
    assert told["fetch"]["value"].startswith("Convert what is there") and told["fetch"]["interactive"]
    assert told["fetch_one"]["value"].startswith("Convert this model") and not told["accept"]["visible"]
    assert "only has to be converted" in told["needed"] and "0 B" not in told["needed"]
    assert room_of(lacking("mhubert-147", services), services) == 4000
    assert refused(lambda: check_models("base", services)) == "preset_models_wait"
    assert "--accept-licence" not in start_preset(services, "base", False).config().argv


def test_a_damaged_model_can_be_verified_again(tab: ModelsTab, services: Services) -> None:
    place(services.weights.models, "qwen2-0.5b", {"start.onnx": START["start.onnx"][:-1] + b"?"})
    entry, models = services.catalogue["qwen2-0.5b"], services.weights.models
    assert [check.name for check in verify(entry, models) if check.problem] == ["start.onnx"]
    assert state_of(entry, models).bytes_there == 0 and shown(tab, model="qwen2-0.5b")["verify"]["interactive"]


def test_what_no_hash_is_known_of_is_told(tab: ModelsTab, services: Services) -> None:
    services.catalogue["qwen2-0.5b"] = entry = entry_of(START, pinned=False, name="qwen2-0.5b")
    place(services.weights.models, "qwen2-0.5b", START)
    assert "only its format" not in shown(tab)["overview"]
    verify(entry, services.weights.models)
    assert "only its format was checked" in shown(tab)["overview"]


def test_files_for_the_hand_are_named_with_their_folder_and_addresses(tab: ModelsTab, services: Services) -> None:
    save_source(services.weights.models, HubSource("https://mirror.example"))
    told = shown(tab, model="mhubert-147")
    folder = services.weights.models / "mhubert-147"
    assert f"<code>{folder}</code>" in told["hand"] and "<code>speech.onnx</code>" in told["hand"]
    assert told["links"].splitlines()[1].startswith("https://mirror.example/people/model/resolve/")
    assert state_of(services.catalogue["mhubert-147"], services.weights.models).state == "missing"


def test_the_source_is_a_mirror_or_an_address_of_ones_own(tab: ModelsTab, services: Services) -> None:
    assert source_of({"models_source": "hf-mirror.com"}).endpoint == "https://hf-mirror.com"
    own = {"models_source": OWN, "models_endpoint": " https://hub.example/ "}
    assert source_of(own).endpoint == "https://hub.example"
    assert refused(lambda: source_of({**own, "models_endpoint": "ftp://x"})) == "hub_endpoint_invalid"
    services.weights.models.mkdir()
    (services.weights.models / "hub.json").write_text("{", encoding="utf-8")
    assert refused(lambda: load_source(services.weights.models)) == "hub_setting_broken"
    assert known_source(tab.desk).name == "huggingface.co"


def test_an_empty_catalogue_and_unknown_presets_do_no_harm(services: Services) -> None:
    empty = replace(services, entries={})
    with gr.Blocks() as app:
        tab = build_models_tab(app, empty, services.messages.frontend())
    assert "catalogue of models is empty" in shown(tab, "nano", None)["overview"]
    assert models_view.preset_html([], {}, [], 0, None, "", ENGLISH).count("<p>") == 1
    assert needing(services.catalogue["bge-m3"], services) == ["base", "base-s3", "base-wide"]
    assert missing_of("no-such", services) == [] and set(states(services)) == set(services.catalogue)


def test_every_purpose_of_the_catalogue_is_told_in_every_language() -> None:
    from modules.hub.catalogue import load_catalogue

    assert {entry.purpose_key for entry in load_catalogue().values()} == set(models_view.PURPOSES)
    for table in Messages().tables.values():
        assert set(models_view.PURPOSES.values()) <= set(table)
