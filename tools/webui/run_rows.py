"""Rows to listen to: a text, a sample and the true recording. A fixed number of them, hidden where unused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.training.history import Sample
from tools.webui.messages import Translator
from tools.webui.run_pick import fingerprint
from tools.webui.run_view import inside, sample_html
from tools.webui.serving import served

Parts = dict[str, tuple[Any, Callable[[], dict]]]
"""Name of a part of the page -> what it depends on, and what gives its updates. Sent only when the former changed."""


class ListeningRows:
    """The rows, built inside the current block.

    Args:
        name: begins the ids of their components.
        count: how many lines can be shown.
        i18n: of the page.
    """

    def __init__(self, name: str, count: int, i18n: gr.I18n):
        self.name, self.count = name, count
        self._rows: list[tuple[gr.Row, gr.HTML, gr.Audio, gr.Audio]] = []
        for number in range(1, count + 1):
            with gr.Row(visible=False, equal_height=False, elem_classes="clip-row", elem_id=f"{name}-{number}") as row:
                with gr.Column(scale=4, min_width=230):
                    note = gr.HTML("", elem_id=f"{name}-{number}-note")
                with gr.Column(scale=4, min_width=230):
                    sample = self._player(i18n("run.sample"), f"{name}-{number}-sample")
                with gr.Column(scale=4, min_width=230):
                    truth = self._player(i18n("run.truth"), f"{name}-{number}-truth")
            self._rows.append((row, note, sample, truth))

    @staticmethod
    def _player(label: Any, id: str) -> gr.Audio:
        # The browser's own player: low, so that many stand on one page, and nothing is decoded before it is played.
        low = gr.WaveformOptions(show_recording_waveform=False)
        return gr.Audio(
            type="filepath", interactive=False, label=label, buttons=[], waveform_options=low, elem_id=id
        )  # fmt: skip

    @property
    def outputs(self) -> list:
        """All components that `parts` may update."""
        return [component for row in self._rows for component in row]

    def parts(self, items: Sequence[Sample], folder: Path, say: Translator) -> Parts:
        """What shows these lines; each player is a part of its own, so that one that stays the same plays on.

        Args:
            items: more than there are rows are left out.
            folder: only files inside it are handed to the browser.
            say: the reader's language.
        """
        parts: Parts = {}
        for number, (row, note, *players) in enumerate(self._rows):
            item = items[number] if number < len(items) else None
            parts[f"{self.name}-{number}"] = (item is not None, lambda row=row, on=item is not None: _shown(row, on))
            parts[f"{self.name}-{number}-note"] = (item, lambda note=note, item=item: _told(note, item, say))
            for kind, player in zip(("sample", "truth"), players):
                path = inside(folder, getattr(item, "file" if kind == "sample" else "truth")) if item else None
                key = (str(path), fingerprint(path)) if path is not None else None
                parts[f"{self.name}-{number}-{kind}"] = (key, lambda player=player, path=path: _playing(player, path))
        return parts


def _shown(row: gr.Row, visible: bool) -> dict:
    return {row: gr.update(visible=visible)}


def _told(note: gr.HTML, item: Sample | None, say: Translator) -> dict:
    return {note: sample_html(item, say) if item is not None else ""}


def _playing(player: gr.Audio, path: Path | None) -> dict:
    copy = served(path) if path is not None else None
    return {player: gr.update(value=copy, visible=copy is not None)}
