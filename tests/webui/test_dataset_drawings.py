"""What the dataset tab draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.io import write
from tests.webui.dataset_helpers import ENGLISH, form, parsed, rectangles
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.drawings import cuts_svg, histogram_svg
from tools.webui.slice_panel import preview_html


def test_cuts_are_drawn_where_they_are() -> None:
    envelope = np.stack([-np.linspace(0, 1, 50), np.linspace(0, 1, 50)])
    svg = cuts_svg(10.0, envelope, [(0.0, 2.0), (5.0, 10.0)], 'a "label" <b>')
    first, second = rectangles(svg, "cut")
    assert (float(first.get("x")), float(first.get("width"))) == (0.0, 200.0)
    assert (float(second.get("x")), float(second.get("width"))) == (500.0, 500.0)
    assert parsed(svg).get("aria-label") == 'a "label" <b>'
    assert "#" not in svg.replace(", #0d9488", "")  # the colours are the theme's, light or dark


@pytest.mark.parametrize("seconds", [0.0, 0.01, 7.3, 4000.0])
def test_any_length_is_drawn(seconds: float) -> None:
    assert parsed(cuts_svg(seconds, np.full((2, 5), np.nan), [], "x")) is not None


def test_the_histogram_has_a_bar_for_each_bin() -> None:
    bins = [{"from": 0.0, "to": 1.0, "clips": 0}, {"from": 1.0, "to": None, "clips": 4}]
    heights = [float(bar.get("height")) for bar in rectangles(histogram_svg(bins, "x"), "bar")]
    assert heights[0] == 0 < heights[1]
    assert rectangles(histogram_svg([], "x"), "bar") == []


def test_cuts_are_shown_before_anything_is_written(folders: DatasetFolders, recording: Path) -> None:
    shown = preview_html(recording, form(folders, slice_min_length=1000), ENGLISH)
    assert len(rectangles(shown[shown.index("<svg") : shown.index("</svg>") + 6], "cut")) == 2
    assert "5.0 s. Clips: 2" in shown and not folders.clips.exists()
    silent = folders.recordings / "silent.wav"
    write(silent, torch.zeros(32000), 32000)
    assert "no clip" in preview_html(silent, form(folders), ENGLISH)
