"""What the tabs share: folders, messages, the loaded model, the jobs and the stop flags. Made once by `webui.py`."""

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modules import paths
from tools.jobs import JobStore
from tools.webui.chains import Chains
from tools.webui.live import LiveSounds
from tools.webui.messages import Messages
from tools.webui.reference_cache import ReferenceCache
from tools.webui.weights import ModelChoice, WeightFolders

if TYPE_CHECKING:
    from modules.hub.catalogue import Entry
    from modules.inference.synthesizer import Synthesizer


log = logging.getLogger(__name__)


class Engine:
    """Loads synthesizers when they are first needed and keeps the last one.

    Loading imports torch, which takes seconds; the page must answer before that.
    """

    def __init__(self, weights: WeightFolders, device: str = "auto"):
        self.weights, self.device = weights, device
        self._lock, self._warming = threading.Lock(), threading.Lock()
        self._loaded: tuple[tuple, Synthesizer] | None = None

    def is_loaded(self, choice: ModelChoice) -> bool:
        """Whether the next `synthesizer` call answers at once."""
        return self._loaded is not None and self._loaded[0] == self._key(choice)

    def synthesizer(self, choice: ModelChoice) -> "Synthesizer":
        """The synthesizer for a choice; a changed weight file is read again.

        Raises:
            UserError: the preset or a file is not there or cannot be read.
        """
        with self._lock:
            return self._load(choice)

    def warm_up(self, choice: ModelChoice) -> None:
        """Import and load in the background what the first Speak needs, once. What fails is told by that Speak.

        A model that somebody asked for meanwhile stays.
        """

        def load() -> None:
            try:
                with self._lock:
                    if self._loaded is None:
                        self._load(choice)
            except Exception as problem:  # whatever it is: nobody has asked for anything yet
                log.info("Nothing was loaded in advance: %s", problem)

        if self._warming.acquire(blocking=False):
            threading.Thread(target=load, name="warm-up", daemon=True).start()

    def device_name(self) -> str:
        """The device in words, such as "CPU"."""
        from modules.runtime import device_label, pick_device

        return device_label(pick_device(self.device))

    def _load(self, choice: ModelChoice) -> "Synthesizer":
        from modules.inference.synthesizer import Synthesizer

        key = self._key(choice)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # free the old one first: two do not fit on small devices
            synthesizer = Synthesizer.load(
                self.weights.preset_folder(choice.preset),
                device=self.device,
                gpt=self.weights.gpt_file(choice.gpt),
                vits2=self.weights.vits2_file(choice.vits2),
            )
            self._loaded = (key, synthesizer)
        return self._loaded[1]

    def _key(self, choice: ModelChoice) -> tuple:
        folder = self.weights.preset_folder(choice.preset)
        files = [
            self.weights.gpt_file(choice.gpt) or folder / "gpt.safetensors",
            self.weights.vits2_file(choice.vits2) or folder / "vits2.safetensors",
        ]
        return (choice, *(path.stat().st_mtime_ns if path.is_file() else 0 for path in files))


class StopFlags:
    """One stop flag per browser tab, so that Stop reaches only the run that was started there."""

    def __init__(self) -> None:
        self._flags: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def arm(self, session: str) -> threading.Event:
        """A fresh flag for the next run of this tab."""
        with self._lock:
            return self._flags.setdefault(session, threading.Event())

    def stop(self, session: str) -> bool:
        """Ask the tab's run to end; False when none is running or waiting."""
        with self._lock:
            flag = self._flags.get(session)
        if flag is None:
            return False
        flag.set()
        return True

    def done(self, session: str) -> None:
        """Forget the tab's run, telling what may be left of it to end."""
        with self._lock:
            flag = self._flags.pop(session, None)
        if flag is not None:
            flag.set()


@dataclass(frozen=True)
class Services:
    """Everything that tabs are handed.

    Args:
        output: folder for sound.
        logs: folder for datasets, edits and jobs.
        jobs: the long tools that the page starts.
        entries: published models by name; None takes those of the program's own catalogue.
        warm_up: called each time that somebody has opened the page: not before, so that the page itself comes first.
    """

    messages: Messages
    weights: WeightFolders
    engine: Engine
    output: Path
    examples: Path = paths.EXAMPLES
    log_file: Path | None = None
    stops: StopFlags = field(default_factory=StopFlags)
    live: LiveSounds = field(default_factory=LiveSounds)
    references: ReferenceCache = field(default_factory=ReferenceCache)
    logs: Path = paths.LOGS
    jobs: JobStore = field(default_factory=JobStore)
    entries: "Mapping[str, Entry] | None" = None
    warm_up: Callable[[], None] = lambda: None

    @functools.cached_property
    def catalogue(self) -> "Mapping[str, Entry]":
        """The published models that can be downloaded."""
        from modules.hub.catalogue import load_catalogue

        return load_catalogue() if self.entries is None else self.entries

    @functools.cached_property
    def chains(self) -> Chains:
        """Steps that follow each other."""
        return Chains(self.logs / "chains", self.jobs)


def make_services(
    *,
    models: Path = paths.PRETRAINED_MODELS,
    output: Path = paths.OUTPUT,
    logs: Path = paths.LOGS,
    device: str = "auto",
    language: str | None = None,
    log_file: Path | None = None,
) -> Services:
    """The services for a set of folders; the weight folders of fine-tuned models lie beside the project."""
    weights = WeightFolders(Path(models), paths.GPT_WEIGHTS, paths.SOVITS_WEIGHTS, paths.PRESETS)
    engine = Engine(weights, device)
    return Services(
        messages=Messages(language=language),
        weights=weights,
        engine=engine,
        output=Path(output).resolve(),
        log_file=log_file,
        logs=Path(logs).resolve(),
        jobs=JobStore(Path(logs).resolve() / "jobs"),
        warm_up=lambda: engine.warm_up(ModelChoice("nano")),
    )
