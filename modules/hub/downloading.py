"""Brings a model of the catalogue into its folder: takes what is there, downloads the rest, converts pickles."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from modules.errors import UserError
from modules.hub.catalogue import CatalogueFile, Entry
from modules.hub.converting import TEMPORARY, convert_pickle
from modules.hub.fetching import PAUSES_SECONDS, Wanted, fetch, make_client, why_silent
from modules.hub.hashing import hash_file
from modules.hub.inventory import EntryState, entry_folder, state_of
from modules.hub.judging import is_leftover, verify_held
from modules.hub.locking import alone_in
from modules.hub.notes import FileNote, drop_note, now, read_notes, write_note
from modules.hub.reaching import hub_reachable, kept_offline
from modules.hub.source import HubSource
from modules.hub.space import check_space, room_bytes


@dataclass(frozen=True)
class DownloadReport:
    """What was done for an entry.

    Args:
        folder: where it lies.
        taken: files that were there already, put there by hand, and are good.
        replaced: files that were there, but damaged or another one.
        fetched: files that were downloaded, by their published names.
        converted: safetensors files that were made of pickles.
        fetched_bytes: of the downloaded files.
    """

    folder: Path
    taken: tuple[str, ...]
    replaced: tuple[str, ...]
    fetched: tuple[str, ...]
    converted: tuple[str, ...]
    fetched_bytes: int


@dataclass(frozen=True)
class _Way:
    """Whom a download tells, and what may end it."""

    on_progress: Callable[[int, int, str], None]
    should_stop: Callable[[], bool]


def download(
    entry: Entry,
    models: Path,
    source: HubSource,
    on_progress: Callable[[int, int, str], None] = lambda done, total, file: None,
    should_stop: Callable[[], bool] = lambda: False,
    accept_licence: bool = False,
    *,
    pauses: Sequence[float] = PAUSES_SECONDS,
) -> DownloadReport:
    """Make an entry whole. Needs no network when nothing is missing; a later call goes on where this one ended.

    Args:
        on_progress: gets the bytes done, the bytes of all, and the file that is being worked on.
        accept_licence: somebody read the licence; asked only of those that forbid commercial use, and only when
            something has to be downloaded.
        pauses: waits before further tries after a cut connection.

    Raises:
        Stopped.
        UserError: model_licence, model_downloading (another process does it already), hub_unreachable, hub_no_space,
            hub_folder_unwritable, model_pickle_refused, model_pickle_odd, model_conversion_wrong, and those of `fetch`.
    """
    folder = entry_folder(entry, models)
    way = _Way(on_progress, should_stop)
    if state_of(entry, models).missing:
        check_licence(entry, accept_licence)
    with alone_in(folder, entry.name):
        return _download(entry, models, source, way, accept_licence, pauses)


def check_licence(entry: Entry, accepted: bool) -> None:
    """Refuse a model that is not for commercial use until somebody said yes. Raises UserError: model_licence."""
    if entry.non_commercial and not accepted:
        raise UserError(
            "model_licence",
            "{model} is published under {licence}, which forbids commercial use ({url}). Read it, then start again and "
            "accept the licence (on the command line: --accept-licence).",
            model=entry.name,
            licence=entry.licence,
            url=entry.licence_url,
        )


def _download(
    entry: Entry, models: Path, source: HubSource, way: _Way, accept_licence: bool, pauses: Sequence[float]
) -> DownloadReport:
    folder = entry_folder(entry, models)
    _tidy(entry, folder)
    notes = read_notes(folder)
    # Somebody ended an earlier run between the conversion and its note: do it again.
    stale = {target for pickle, target in entry.convert if pickle in notes and target not in notes}
    checks = verify_held(entry, models, way.on_progress, way.should_stop, only_new=True)
    wrong = {check.name for check in checks if check.problem}
    converted = _convert(entry, folder, way, wrong, stale | wrong)
    state = state_of(entry, models)
    stale = wrong | {name for name, _ in state.damaged}
    missing, fetched_bytes = state.missing, 0
    if missing:
        check_licence(entry, accept_licence)
        with make_client() as client:
            _check_reachable(entry, state, source, folder, client)
            check_space(folder, room_bytes(entry, folder, missing, state.missing_bytes))
            fetched_bytes = _fetch_all(entry, missing, source, client, way, pauses, folder)
    converted += _convert(entry, folder, way, set(), stale)
    good = {check.name for check in checks if not check.problem}
    return DownloadReport(
        folder=folder,
        taken=tuple(sorted(good - set(dict(entry.convert)))),
        replaced=tuple(sorted(stale & {name for file in missing for name in (file.name, entry.kept_name(file.name))})),
        fetched=tuple(file.name for file in missing),
        converted=tuple(converted),
        fetched_bytes=fetched_bytes,
    )


def _tidy(entry: Entry, folder: Path) -> None:
    """Remove what an earlier run had to leave: half a safetensors file, and a pickle that somebody had open."""
    for pickle, target in entry.convert:
        (folder / (target + TEMPORARY)).unlink(missing_ok=True)
        if is_leftover(folder, pickle, target, read_notes(folder)):
            _remove(folder / pickle)
            drop_note(folder, pickle)


def _remove(pickle: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows, while a process has it open; the next run does it
        pickle.unlink()


def _check_reachable(entry: Entry, state: EntryState, source: HubSource, folder: Path, client: httpx.Client) -> None:
    """Knock before anything is tried, so that somebody without a network hears of it within three seconds."""
    cause = "HF_HUB_OFFLINE is set" if kept_offline(source.endpoint) else "no connection"
    if hub_reachable(endpoint=source.endpoint):
        cause = why_silent(client, source.url(entry, state.missing[0].name))
    if cause:
        raise UserError(
            "hub_unreachable",
            "{endpoint} cannot be reached from here ({cause}), and {model} lacks {files} (about {megabytes} MB). "
            "Connect to the internet or choose another source and start again, or get the files of {repository} "
            "elsewhere and put them into {folder}.",
            endpoint=source.endpoint,
            cause=cause,
            model=entry.name,
            files=", ".join(file.name for file in state.missing),
            megabytes=-(-state.missing_bytes // 1_000_000),
            repository=entry.repository,
            folder=str(folder),
        )


def _fetch_all(
    entry: Entry,
    missing: Sequence[CatalogueFile],
    source: HubSource,
    client: httpx.Client,
    way: _Way,
    pauses: Sequence[float],
    folder: Path,
) -> int:
    """Fetch the files in their order, each noted down as soon as it is here; returns their bytes."""
    sizes = {file.name: file.size_bytes for file in missing}
    notes = read_notes(folder)
    done = 0
    for file in missing:

        def tell(part: int, total: int, before: int = done, name: str = file.name) -> None:
            sizes[name] = total or max(sizes[name], part)
            way.on_progress(before + part, sum(sizes.values()), name)

        known = notes.get(file.name)
        wanted = Wanted(
            url=source.url(entry, file.name),
            path=folder / file.name,
            file=file.name,
            repository=entry.repository,
            size_bytes=file.size_bytes if file.size_exact else 0,
            sha256=file.sha256,
            known_sha256=known.sha256 if known and known.checked != "format" else "",
        )
        note = fetch(client, wanted, tell, way.should_stop, pauses)
        write_note(folder, file.name, note)
        sizes[file.name] = note.size_bytes
        done += note.size_bytes
    return done


def _convert(entry: Entry, folder: Path, way: _Way, wrong: set[str], stale: set[str]) -> list[str]:
    """Convert the pickles that are there; a pickle goes away only when its safetensors file is whole and noted down.

    Args:
        wrong: pickles that are not to be read.
        stale: safetensors files that are to be replaced.
    """
    made = []
    for pickle, target in entry.convert:
        source, result = folder / pickle, folder / target
        if not source.is_file() or pickle in wrong or (result.is_file() and target not in stale):
            continue
        note = read_notes(folder).get(pickle)
        check_space(folder, source.stat().st_size)
        convert_pickle(
            source, result, way.should_stop, lambda done, total, name=target: way.on_progress(done, total, name)
        )
        sha256, _ = hash_file(result, way.should_stop)
        base = note or FileNote(0, "", "format")
        write_note(
            folder,
            target,
            replace(
                base,
                size_bytes=result.stat().st_size,
                sha256=sha256,
                source=pickle,
                source_sha256=base.sha256,
                time=now(),
            ),
        )
        _remove(source)
        drop_note(folder, pickle)
        made.append(target)
    return made
