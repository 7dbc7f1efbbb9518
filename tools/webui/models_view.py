"""Published models in words, as HTML: what each is for, what is there of it, what a preset lacks. No components."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.hub.catalogue import Entry
from modules.hub.inventory import EntryState, entry_folder
from modules.hub.needs import Missing
from modules.hub.source import HubSource
from tools.webui.jobs_view import safe
from tools.webui.messages import Translator
from tools.webui.models_jobs import restricted
from tools.webui.presets import missing_bytes, only_waits
from tools.webui.retelling import retell
from tools.webui.sizes import part_words, size_words

STATES = {
    "present": "models.state_present",
    "partial": "models.state_partial",
    "missing": "models.state_missing",
    "damaged": "models.state_damaged",
}
PURPOSES = {
    "models.purpose_text": "models.purpose_text",
    "models.purpose_language_model": "models.purpose_language_model",
    "models.purpose_speech_features": "models.purpose_speech_features",
    "models.purpose_speech_features_chinese": "models.purpose_speech_features_chinese",
    "models.purpose_speech_features_large": "models.purpose_speech_features_large",
    "models.purpose_speech_tokens": "models.purpose_speech_tokens",
}
"""What models are for, by the catalogue's key of it."""
_WEB = re.compile(r"https?://", re.IGNORECASE)

CSS = """
.models { display: grid; gap: 0.7rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.model { border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); padding: 0.6rem 0.8rem;
         display: flex; flex-direction: column; gap: 0.25rem; overflow-wrap: anywhere; }
.model .head { display: flex; justify-content: space-between; align-items: baseline; gap: 0.6rem; }
.model .head b { font-weight: 600; }
.model .small, .needed .small, .hint { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.model .small b { font-weight: 600; color: var(--body-text-color); }
.badge { white-space: nowrap; font-size: var(--text-sm); padding: 0 0.5rem; border-radius: 999px;
         border: 1px solid var(--border-color-primary); }
.badge.present { color: #047857; border-color: #34d39980; }
.badge.partial { color: #b45309; border-color: #fbbf2480; }
.badge.damaged { color: #b91c1c; border-color: #f8717180; }
.badge.present:is(.dark *) { color: #34d399; }
.badge.partial:is(.dark *) { color: #fbbf24; }
.badge.damaged:is(.dark *) { color: #f87171; }
.warn { border-left: 3px solid #d97706; padding-left: 0.5rem; }
.needed { margin: 0.2rem 0; padding: 0; list-style: none; }
.needed li { padding: 0.3rem 0; margin: 0; border-top: 1px solid var(--border-color-primary); overflow-wrap: anywhere; }
.needed li:first-child { border-top: none; }
.needed .head { display: flex; justify-content: space-between; align-items: baseline; gap: 0.6rem; }
.needed .head b { font-weight: 600; }
.total { font-weight: 600; margin: 0.3rem 0 0; }
a { color: var(--link-text-color); text-decoration: underline; margin: 0; padding: 0; }
code { overflow-wrap: anywhere; white-space: normal; }
.files { padding-left: 1.1rem; margin: 0.3rem 0; list-style: disc; }
.files li { margin: 0.2rem 0; overflow-wrap: anywhere; }
"""
"""Rules for what is shown here; Gradio keeps them to the component that they are given to."""


def models_html(
    entries: Mapping[str, Entry],
    states: Mapping[str, EntryState],
    presets: Mapping[str, Sequence[str]],
    say: Translator,
) -> str:
    """Every model as a card.

    Args:
        entries: the catalogue.
        states: what is there of each.
        presets: model -> the presets that need it.
        say: the reader's language.
    """
    if not entries:
        return f'<p class="hint">{safe(say("models.none"))}</p>'
    first = sorted(
        entries, key=lambda name: not presets.get(name)
    )  # those that only presets of one's own need come last
    cards = (_card(entries[name], states[name], presets.get(name, ()), say) for name in first)
    return f'<div class="models">{"".join(cards)}</div>'


def _card(entry: Entry, state: EntryState, presets: Sequence[str], say: Translator) -> str:
    needed = say("models.needed_by", presets=", ".join(presets)) if presets else say("models.needed_by_none")
    lines = [
        f'<div class="head"><b>{safe(entry.name)}</b>{badge(state, say)}</div>',
        f"<div>{safe(purpose(entry, say))}</div>",
        f'<div class="small">{safe(_size(state, say))} · {licence_html(entry, say)}</div>',
        f'<div class="small">{safe(needed)}</div>',
        *(f'<div class="small warn">{safe(words)}</div>' for words in remarks(state, say)),
    ]
    return f'<div class="model" data-model="{safe(entry.name)}" data-state="{state.state}">{"".join(lines)}</div>'


def badge(state: EntryState, say: Translator) -> str:
    """What is there of a model, in a word or two."""
    return f'<span class="badge {state.state}">{safe(say(STATES[state.state]))}</span>'


def purpose(entry: Entry, say: Translator) -> str:
    """What a model is for, in the reader's language; in that of the catalogue where nobody has translated it."""
    key = PURPOSES.get(entry.purpose_key)
    return say(key) if key is not None else entry.purpose


def licence_html(entry: Entry, say: Translator) -> str:
    """The licence as a link, with a warning where it forbids commercial use."""
    name = safe(say("models.licence", licence=entry.licence))
    link = name
    if _WEB.match(entry.licence_url):
        link = f'<a href="{safe(entry.licence_url)}" target="_blank" rel="noopener noreferrer">{name}</a>'
    return f"{link} · <b>{safe(say('models.non_commercial'))}</b>" if entry.non_commercial else link


def remarks(state: EntryState, say: Translator) -> list[str]:
    """What else is to be known of a model: damaged files, a pickle that waits, files that nobody has checked."""
    told = [say("models.remark_damaged", file=file, problem=retell(problem, say)) for file, problem in state.damaged]
    if state.unconverted:
        told.append(say("models.remark_unconverted", files=", ".join(state.unconverted)))
    if state.state == "present" and state.checked == "nothing":
        told.append(say("models.remark_unchecked"))
    if state.state == "present" and state.checked == "format":
        told.append(say("models.remark_format"))
    return told


def _size(state: EntryState, say: Translator) -> str:
    if state.state in ("present", "missing") or not state.bytes_there:
        return size_words(state.bytes_total)
    return say("models.size_part", size=part_words(state.bytes_there, state.bytes_total))


def preset_html(
    needed: Sequence[Entry],
    states: Mapping[str, EntryState],
    missing: Sequence[Missing],
    room: int,
    free: int | None,
    hint: str,
    say: Translator,
) -> str:
    """What a preset needs, what of it is missing, and whether there is room for it.

    Args:
        needed: the models.
        states: what is there of each.
        missing: what has to be downloaded or converted.
        room: bytes that this takes on the disk.
        free: bytes on the disk of the models; None where that is not known.
        hint: what to know of the preset itself.
        say: the reader's language.
    """
    told = f'<p class="hint">{safe(hint)}</p>' if hint else ""
    left_free = say("models.free", size=size_words(free)) if free is not None else ""
    if not needed:
        return f"<p>{safe(say('models.needs_nothing'))}</p>{told}"
    left = {item.entry.name: item.bytes for item in missing}
    lines = "".join(_needed_line(entry, states[entry.name], left.get(entry.name, 0), say) for entry in needed)
    if not missing:
        words = say("models.complete")
    elif only_waits(missing):
        words = f"{say('models.total_waits')} {left_free}"
    else:
        words = f"{say('models.total_missing', size=size_words(missing_bytes(list(missing))))} {left_free}"
    tight = free is not None and missing and free < room
    warning = f'<p class="warn">{safe(say("models.disk_tight"))}</p>' if tight else ""
    return f'<ul class="needed">{lines}</ul><p class="total">{safe(words)}</p>{warning}{told}'


def _needed_line(entry: Entry, state: EntryState, left: int, say: Translator) -> str:
    size = say("models.to_download", size=size_words(left)) if left else size_words(state.bytes_total)
    head = f'<div class="head"><b>{safe(entry.name)}</b>{badge(state, say)}</div>'
    return f'<li>{head}<div class="small">{safe(purpose(entry, say))} {safe(size)}</div></li>'


def accept_words(missing: Sequence[Missing], say: Translator) -> str:
    """What a reader accepts with the tick: the models whose licences forbid commercial use; empty for none."""
    entries = restricted(missing)
    licences = ", ".join(sorted({entry.licence for entry in entries}))
    names = ", ".join(entry.name for entry in entries)
    return say("models.accept", models=names, licence=licences) if entries else ""


def hand_html(entry: Entry, models: Path, source: HubSource, say: Translator) -> str:
    """Where to put which files of a model that were fetched on another computer."""
    folder = entry_folder(entry, models).absolute()
    files = "".join(
        f"<li><code>{safe(file.name)}</code>{_file_facts(file.size_bytes, say)} "
        f'<a href="{safe(source.url(entry, file.name))}" target="_blank" rel="noopener noreferrer">'
        f"{safe(say('models.hand_link'))}</a></li>"
        for file in entry.files
    )
    pickles = [pickle for pickle, _ in entry.convert]
    after = say("models.hand_convert", files=", ".join(pickles)) if pickles else say("models.hand_after")
    return (
        f"<p>{safe(say('models.hand_folder', model=entry.name))} <code>{safe(folder)}</code></p>"
        f'<ul class="files">{files}</ul><p class="hint">{safe(after)}</p>'
    )


def hand_links(entry: Entry, source: HubSource) -> str:
    """The addresses of all files of a model, one a line."""
    return "\n".join(source.url(entry, file.name) for file in entry.files)


def _file_facts(size: int, say: Translator) -> str:
    return f' <span class="small">({size_words(size)})</span>' if size else ""
