"""Downloads and checks of published models as jobs of tools.download. Knows no components."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.errors import UserError
from modules.hub.catalogue import Entry, find_entry
from modules.hub.inventory import EntryState, entry_folder, state_of
from modules.hub.needs import Missing
from modules.hub.space import check_space, room_bytes
from tools.jobs import Job
from tools.webui.presets import missing_of
from tools.webui.services import Services
from tools.webui.steps import place_of

DOWNLOAD_TOOL = "tools.download"
VERIFY_FLAG = "--verify"


def work_key(services: Services) -> str:
    """One at a time in a folder of models: two downloads would share the line and could meet in a file."""
    return f"models {place_of(services.weights.models)}"


def newest_job(services: Services) -> Job | None:
    """The download or check that was started last in this folder of models."""
    key = work_key(services)
    return next((job for job in services.jobs.jobs() if job.config().work_key == key), None)


def entry_of(name: object, services: Services) -> Entry:
    """A model of the catalogue. Raises UserError model_unknown."""
    return find_entry(str(name or ""), dict(services.catalogue))


def lacking(name: object, services: Services) -> list[Missing]:
    """A model as what has to be downloaded of it; empty if it is whole. Raises UserError model_unknown."""
    entry = entry_of(name, services)
    state = state_of(entry, services.weights.models)
    return [] if state.state == "present" else [Missing(entry, state.missing, state.missing_bytes)]


def restricted(missing: Iterable[Missing]) -> list[Entry]:
    """Those to be downloaded whose licence forbids commercial use."""
    return [item.entry for item in missing if item.entry.non_commercial and item.files]


def room_of(missing: Iterable[Missing], services: Services) -> int:
    """Bytes that have to be free for it, conversions included."""
    models = services.weights.models
    return sum(room_bytes(item.entry, entry_folder(item.entry, models), item.files, item.bytes) for item in missing)


def start_preset(services: Services, preset: str, accepted: bool) -> Job:
    """Download what a preset lacks.

    Raises:
        UserError: as `start_download` does.
    """
    return start_download(services, missing_of(preset, services), accepted)


def start_download(services: Services, missing: Sequence[Missing], accepted: bool) -> Job:
    """Put the download into the queue.

    Args:
        missing: what to download.
        accepted: whether the reader accepts licences that forbid commercial use.

    Raises:
        UserError: models_complete, models_licence, hub_no_space, job_twice.
    """
    if not missing:
        raise UserError("models_complete", "Nothing is missing: all of these models are on this machine already.")
    if (entries := restricted(missing)) and not accepted:
        raise UserError(
            "models_licence",
            "{models} may not be used commercially ({licence}). Read the licence, tick that you accept it, and start "
            "the download again.",
            models=", ".join(entry.name for entry in entries),
            licence=", ".join(sorted({entry.licence for entry in entries})),
        )
    check_space(services.weights.models, room_of(missing, services))
    names = [item.entry.name for item in missing]
    flags = ["--accept-licence"] if accepted else []
    return _start(services, "download", names, flags)


def start_check(services: Services, name: object) -> Job:
    """Compare the content of a model with its hashes; reads all of it. Raises UserError: model_unknown, job_twice."""
    entry = entry_of(name, services)
    return _start(services, "verify", [entry.name], [VERIFY_FLAG])


def _start(services: Services, verb: str, names: Sequence[str], flags: Sequence[str]) -> Job:
    arguments = [*names, f"--models={services.weights.models.absolute()}", *flags]
    title = f"{verb} {', '.join(names)}"
    return services.jobs.start(title, DOWNLOAD_TOOL, arguments, work_key(services), "light")


def free_bytes(folder: Path) -> int | None:
    """Free space where a folder lies or would be made; None where that cannot be told."""
    for place in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def states(services: Services) -> dict[str, EntryState]:
    """What is there of every model of the catalogue."""
    return {name: state_of(entry, services.weights.models) for name, entry in services.catalogue.items()}
