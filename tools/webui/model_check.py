"""Whether the model of a step can be had, told before the step starts. Knows no components."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from modules.errors import UserError
from modules.hub.reaching import hub_reachable
from modules.hub.snapshots import cached_snapshot
from modules.hub.source import load_source
from tools.webui.steps import SEPARATE, TRANSCRIBE, Work, argument_in


def check_model(work: Work, models: Path, reachable: Callable[[], bool] | None = None) -> None:
    """Refuse a step whose model is unknown, or neither on this machine nor to be fetched. Downloads nothing.

    Args:
        work: any step; one without a model passes.
        models: folder of models, as the tool gets it.
        reachable: asked, for two seconds at most, only when the model is nowhere on this machine; None knocks at the
            source of downloads.

    Raises:
        UserError: asr_model_unknown, asr_model_incomplete, asr_model_missing, separation_model_unknown,
            separation_model_missing, hub_setting_broken, hub_endpoint_invalid.
    """
    if reachable is None:
        reachable = partial(_source_reachable, models)
    model = argument_in(work.arguments, "model")
    if work.step is TRANSCRIBE:
        _check_whisper(model, models, reachable)
    elif work.step is SEPARATE:
        _check_separator(model, models, reachable)


def _source_reachable(models: Path) -> bool:
    return hub_reachable(endpoint=load_source(models).snapshots_endpoint)


def _check_whisper(model: str, models: Path, reachable: Callable[[], bool]) -> None:
    from modules.corpus.whisper_models import find_whisper_model

    try:
        find_whisper_model(model, models, reachable=lambda: False)
    except UserError as error:
        if error.code != "asr_model_missing" or not reachable():
            raise


def _check_separator(model: str, models: Path, reachable: Callable[[], bool]) -> None:
    from modules.corpus.separation_models import BAGS, load_separators

    bag = BAGS.get(model)
    if bag is None:
        if Path(model).is_file():
            return
    else:
        names = {f"{signature}.safetensors": f"{signature}-{digits}.th" for signature, digits in bag.files.items()}
        folder = models / "demucs"
        if all((folder / name).is_file() or (folder / pickle).is_file() for name, pickle in names.items()):
            return
        cached = cached_snapshot(bag.repository, list(names))
        if (cached is not None and all((cached / name).is_file() for name in names)) or reachable():
            return
    load_separators(model, models, reachable=lambda: False)  # tells what is missing, and where to put it
