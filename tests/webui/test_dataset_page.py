"""The page with the dataset tab as a whole, without a browser."""

from pathlib import Path
from types import SimpleNamespace

from tools.webui.messages import Messages, Translator


def test_the_page_is_built_with_the_tab_and_remembers_its_paths(services: object, tmp_path: Path) -> None:
    from tools.webui.app import build_app
    from tools.webui.dataset_tab import build_dataset_tab, restored

    app = build_app(services, [("tab.dataset", build_dataset_tab)])
    named = [fn for fn in app.fns.values() if fn.api_visibility == "public"]
    assert [fn.api_name for fn in named] == ["speak"]
    own = SimpleNamespace(output=tmp_path / "output", logs=tmp_path / "logs")
    kept = restored({"dataset_name": "other", "slice_source": "/somewhere", "edit_list": 7}, own)
    assert kept["dataset_name"] == "other" and kept["slice_source"] == "/somewhere"
    assert kept["slice_output"] == str(tmp_path / "output" / "other" / "clips") and kept["edit_list"] == ""
    assert restored({"dataset_name": "../.."}, own)["dataset_name"] == "dataset"
    assert restored(None, own)["edit_export"] == "", "that file is written by transcribing"


def test_words_fall_back_to_english() -> None:
    assert Translator({}, Messages().tables["en"])("jobs.none") == "There are no jobs yet."
