"""The tab "Models": what is published for the presets, what of it is here, and how the rest gets here."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import Context

from modules.errors import UserError
from modules.hub.inventory import EntryState
from modules.hub.needs import Missing
from tools.jobs import Job
from tools.webui import models_view
from tools.webui.form import Form
from tools.webui.messages import Translator, inform
from tools.webui.models_jobs import (
    entry_of,
    free_bytes,
    lacking,
    newest_job,
    room_of,
    start_check,
    start_download,
    start_preset,
    states,
)
from tools.webui.models_source_panel import build_source_panel, known_source
from tools.webui.models_view import CSS
from tools.webui.presets import BUILT_IN_PRESET, missing_bytes, missing_of, needing, needs, only_waits
from tools.webui.services import Services
from tools.webui.sizes import size_words
from tools.webui.step_panel import QUIET, TOLD, Desk
from tools.webui.training_view import job_html

QUICK_SECONDS, IDLE_SECONDS = 2.0, 10.0
"""Between two looks at the disk, while something is downloaded and while nothing is."""
FIRST_PRESET = "base"
_SHOWN_SECONDS = 3600.0
"""For so long what was finished is still told."""

Part = tuple[Any, Callable[[], Any]]
"""What a component depends on, and what makes its update."""


@dataclass(frozen=True)
class _Look:
    """What the disk says, and what the visitor chose."""

    states: dict[str, EntryState]
    preset: str
    missing: list[Missing]
    model: str
    model_missing: list[Missing]
    free: int | None
    job: Job | None
    state: str

    @property
    def busy(self) -> bool:
        return self.state in ("waiting", "running")


def build_models_tab(app: gr.Blocks, services: Services, i18n: gr.I18n) -> "ModelsTab":
    """Build the tab inside the current `gr.Tab`."""
    return ModelsTab(app, Desk(Form(), services, i18n, gr.State([]), gr.Timer(QUICK_SECONDS)))


class ModelsTab:
    """The tab, and how it is brought up to date: all of it is read from the disk, so a reload changes nothing."""

    def __init__(self, app: gr.Blocks, desk: Desk):
        i18n = desk.i18n
        self.desk, self.services = desk, desk.services
        gr.Markdown(i18n("models.about"), elem_classes="quiet")
        self._build_preset()
        gr.Markdown(i18n("models.all_heading"))
        self.overview = gr.HTML("", css_template=CSS, elem_classes="flush", elem_id="models-overview")
        self._build_model()
        with gr.Accordion(i18n("models.source_heading"), open=False, elem_id="models-source-panel"):
            moved = build_source_panel(app, desk)
        self.seen: gr.State = gr.State({})
        self._bind(app, moved)

    def _build_preset(self) -> None:
        i18n, form = self.desk.i18n, self.desk.form
        names = self.services.weights.preset_names()
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=260):
                box = gr.Dropdown(
                    names,
                    value=FIRST_PRESET if FIRST_PRESET in names else BUILT_IN_PRESET,
                    label=i18n("models.preset"),
                    info=i18n("models.preset_hint"),
                    filterable=False,
                    elem_id="models-preset",
                )
                form.add("models_preset", box)
            with gr.Column(scale=3, min_width=300):
                self.needed = gr.HTML("", css_template=CSS, elem_classes="flush", elem_id="models-needed")
        self.accept = gr.Checkbox(False, label="", visible=False, elem_id="models-accept")
        form.add("models_accept", self.accept)
        with gr.Row():
            self.fetch = gr.Button(
                i18n("models.download_missing"), variant="primary", scale=3, min_width=200, elem_id="models-download"
            )
            self.stop = gr.Button(
                i18n("training.stop"), variant="stop", interactive=False, min_width=110, elem_id="models-stop"
            )
        self.job = gr.HTML("", visible=False, elem_classes="flush", elem_id="models-job")

    def _build_model(self) -> None:
        i18n, form = self.desk.i18n, self.desk.form
        names = list(self.services.catalogue)
        with gr.Row(equal_height=False):
            box = gr.Dropdown(
                names,
                value=names[0] if names else None,
                label=i18n("models.model"),
                info=i18n("models.model_hint"),
                filterable=False,
                scale=2,
                min_width=240,
                elem_id="models-model",
            )
            form.add("models_model", box)
            self.fetch_one = gr.Button(
                i18n("models.download_one"), elem_classes="beside", min_width=160, elem_id="models-download-one"
            )
            self.verify = gr.Button(
                i18n("models.verify"), elem_classes="beside", min_width=160, elem_id="models-verify"
            )  # fmt: skip
        self.accept_one = gr.Checkbox(False, label="", visible=False, elem_id="models-accept-one")
        form.add("models_accept_one", self.accept_one)
        with gr.Accordion(i18n("models.hand_heading"), open=False, elem_id="models-hand-panel"):
            self.hand = gr.HTML("", css_template=CSS, elem_id="models-hand")
            self.links = gr.Textbox(
                "",
                label=i18n("models.hand_links"),
                lines=2,
                max_lines=8,
                interactive=False,
                buttons=["copy"],
                elem_id="models-links",
            )

    def _bind(self, app: gr.Blocks, moved: list[Callable]) -> None:
        desk, form = self.desk, self.desk.form
        inputs = {**form.only(("models_preset", "models_model")), "seen": self.seen, "pace": desk.timer}
        outputs = [
            self.needed, self.accept, self.fetch, self.stop, self.job, self.overview, self.fetch_one, self.verify,
            self.accept_one, self.hand, self.links, self.seen, desk.timer,
        ]  # fmt: skip
        polling: dict[str, Any] = {"fn": desk.guard(self.poll), "inputs_kwargs": inputs, "outputs": outputs, **QUIET}
        events = [desk.timer.tick, app.load, form["models_preset"].change, form["models_model"].change, *moved]
        if isinstance(Context.block, gr.Tab):  # else it is not opened but there
            events.append(Context.block.select)
        for event in events:
            event(**polling)
        # Another selection has to be accepted anew. That is done in the page, at once: an answer comes later, when
        # somebody may have ticked again.
        for box, tick in (("models_preset", self.accept), ("models_model", self.accept_one)):
            form[box].change(fn=None, js="() => false", outputs=tick, **QUIET)
        acts = (
            (self.fetch, self._fetch_preset, ("models_preset", "models_accept")),
            (self.fetch_one, self._fetch_model, ("models_model", "models_accept_one")),
            (self.verify, self._verify, ("models_model",)),
            (self.stop, self._stop, ()),
        )
        for button, act, names in acts:
            done = button.click(desk.guard(act), inputs_kwargs=form.only(names), outputs=None, **TOLD)
            done.then(**polling)

    def poll(
        self, request: gr.Request, models_preset: str, models_model: str | None, seen: dict, pace: float = QUICK_SECONDS
    ) -> dict[Any, Any]:
        """Send what has changed since the last look, and nothing else.

        Args:
            request: tells the reader's language.
            models_preset, models_model: what is chosen.
            seen: what each component was made of.
            pace: seconds between two ticks of the timer.
        """
        say = self.desk.say(request)
        look = self._look(models_preset, models_model)
        parts = self._parts(look, say, seen)
        changed = {name: part for name, part in parts.items() if name not in seen or seen[name] != part[0]}
        updates = {getattr(self, name): build() for name, (_, build) in changed.items()}
        if pace != (wanted := QUICK_SECONDS if look.busy else IDLE_SECONDS):
            updates[self.desk.timer] = gr.update(value=wanted)
        if not changed:
            return {**updates, self.seen: gr.skip()}
        known = {**seen, **{name: part[0] for name, part in changed.items()}}
        known |= {_asked(name): known[name] for name in ("accept", "accept_one") if known.get(name)}
        return {**updates, self.seen: known}

    def _look(self, preset: str, model: str | None) -> _Look:
        services = self.services
        name = str(model or "")
        job = newest_job(services)
        state = _state(job)
        return _Look(
            states(services),
            preset,
            missing_of(preset, services),
            name,
            lacking(name, services) if name in services.catalogue else [],
            free_bytes(services.weights.models),
            job,
            state,
        )

    def _parts(self, look: _Look, say: Translator, seen: dict) -> dict[str, Part]:
        """Every component with what it shows; the attribute's name is its key. `seen`: see `poll`."""
        services, entries = self.services, self.services.catalogue
        room, hint = room_of(look.missing, services), preset_hint(look.preset, services, say)
        needed = models_view.preset_html(
            [entries[name] for name in needs(look.preset) if name in entries],
            look.states, look.missing, room, look.free, hint, say,
        )  # fmt: skip
        overview = models_view.models_html(
            entries, look.states, {name: needing(entry, services) for name, entry in entries.items()}, say
        )
        job = self._job_html(look, say)
        parts: dict[str, Part] = {
            "needed": (needed, lambda: needed),
            "overview": (overview, lambda: overview),
            "job": (job, lambda: gr.update(value=job, visible=bool(job))),
            "stop": (look.busy, lambda: gr.update(interactive=look.busy)),
            **_accepting("accept", [] if look.busy else look.missing, seen, say),
            **_accepting("accept_one", [] if look.busy else look.model_missing, seen, say),
        }
        parts |= _button("fetch", *_fetch_words(look.missing, look.busy, say))
        parts |= _button("fetch_one", *_fetch_one_words(look, say))
        state = look.states.get(look.model)
        there = state is not None and (state.bytes_there > 0 or bool(state.damaged))
        parts |= _button("verify", say("models.verify"), there and not look.busy)
        return {**parts, **self._hand_parts(look, say)}

    def _hand_parts(self, look: _Look, say: Translator) -> dict[str, Part]:
        entry = self.services.catalogue.get(look.model)
        if entry is None:
            return {"hand": ("", lambda: ""), "links": ("", lambda: "")}
        source = known_source(self.desk)
        words = models_view.hand_html(entry, self.services.weights.models, source, say)
        links = models_view.hand_links(entry, source)
        return {"hand": (words, lambda: words), "links": (links, lambda: links)}

    def _job_html(self, look: _Look, say: Translator) -> str:
        """The download or check that goes on, or how the last one ended; a good end is told for an hour."""
        if look.job is None or (look.state == "done" and _ended_seconds(look.job) > _SHOWN_SECONDS):
            return ""
        try:
            return job_html(look.job, self.services.chains, say)
        except UserError:
            return ""  # it was removed while we looked

    def _fetch_preset(self, request: gr.Request, models_preset: str, models_accept: bool) -> None:
        """Download what the preset lacks."""
        say = self.desk.say(request)
        with self.desk.naming(say):
            start_preset(self.services, models_preset, bool(models_accept))
        inform(say, "models.started")

    def _fetch_model(self, request: gr.Request, models_model: str, models_accept_one: bool) -> None:
        """Download the model that is chosen."""
        say = self.desk.say(request)
        with self.desk.naming(say):
            start_download(self.services, lacking(models_model, self.services), bool(models_accept_one))
        inform(say, "models.started")

    def _verify(self, request: gr.Request, models_model: str) -> None:
        """Compare what is there of a model with its hashes."""
        say, entry = self.desk.say(request), entry_of(models_model, self.services)
        with self.desk.naming(say):
            start_check(self.services, entry.name)
        inform(say, "models.verify_started", model=entry.name)

    def _stop(self, request: gr.Request) -> None:
        """End the download; what was fetched stays, and the next one goes on from there."""
        say, job = self.desk.say(request), newest_job(self.services)
        if job is None or _state(job) not in ("waiting", "running"):
            inform(say, "message.nothing_to_stop")
            return
        job.stop()
        inform(say, "models.stopped")


def preset_hint(name: str, services: Services, say: Translator) -> str:
    """What to know of a preset before its models are fetched."""
    if name == BUILT_IN_PRESET:
        return say("models.hint_nano")
    return "" if services.weights.is_installed(name) else say("models.hint_untrained", preset=name)


def _state(job: Job | None) -> str:
    try:
        return job.state() if job is not None else ""
    except UserError:
        return ""  # it was removed while we looked


def _ended_seconds(job: Job) -> float:
    """How long ago it ended."""
    now = time.time()
    return now - (job.config().ended or now)


def _fetch_words(missing: list[Missing], busy: bool, say: Translator) -> tuple[str, bool]:
    if not missing:
        return say("models.nothing_missing"), False
    if busy:
        return say("models.busy"), False
    if only_waits(missing):
        return say("models.convert_missing"), True
    return say("models.download_missing_size", size=size_words(missing_bytes(missing))), True


def _fetch_one_words(look: _Look, say: Translator) -> tuple[str, bool]:
    if not look.model_missing:
        return say("models.one_there"), False
    if look.busy:
        return say("models.busy"), False
    if only_waits(look.model_missing):
        return say("models.convert_one"), True
    return say("models.download_one_size", size=size_words(missing_bytes(look.model_missing))), True


def _button(name: str, label: str, active: bool) -> dict[str, Part]:
    return {name: ((label, active), lambda: gr.update(value=label, interactive=active))}


def _accepting(name: str, missing: list[Missing], seen: dict, say: Translator) -> dict[str, Part]:
    """The tick, where a licence asks for it. It is taken back where it was given for other words, and only there: an
    answer that is late must not take back what was ticked meanwhile."""
    words = models_view.accept_words(missing, say)
    others = words and seen.get(_asked(name), words) != words
    value = {"value": False} if others else {}
    return {name: (words, lambda: gr.update(label=words, visible=bool(words), **value))}


def _asked(name: str) -> str:
    """Under this key `seen` has the last words that asked for the tick, also while there is none."""
    return f"{name} asked"
