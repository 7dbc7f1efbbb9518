"""A training in words and drawings: how far it is, its curves, and what it saved. Knows no components."""

import re
from collections.abc import Sequence
from pathlib import Path

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.curves import Curve
from modules.training.history import RunHistory, Sample, SavedSamples
from tools.jobs import Job, JobStore
from tools.webui.jobs_view import STATES, clock, facts, failure_words, safe, span
from tools.webui.messages import Translator
from tools.webui.retelling import retell
from tools.webui.run_drawings import PlotWords, key_svg, plot_svg, short_number, smoothed, thinned

STAGES = {"vits2": "run.stage_vits2", "gpt": "run.stage_gpt"}
MODULES = {"vits2": "tools.train_vits2", "gpt": "tools.train_gpt", "pick": "tools.pick"}
LOSSES = {
    "mel": "run.loss_mel",
    "kl": "run.loss_kl",
    "content": "run.loss_content",
    "content_alone": "run.loss_content_alone",
    "content_pair": "run.loss_content_pair",
    "prosody": "run.loss_prosody",
    "adversarial": "run.loss_adversarial",
    "features": "run.loss_features",
    "discriminator": "run.loss_discriminator",
    "mel_posterior": "run.loss_mel_posterior",
    "mel_prior": "run.loss_mel_prior",
    "accuracy": "run.loss_accuracy",
    "eos": "run.loss_eos",
    "length_ratio": "run.loss_length_ratio",
    "eos_rate": "run.loss_eos_rate",
    "pitch_error_semitones": "run.loss_pitch_error",
}
"""Numbers whose meaning can be told, in the order in which they are shown. Others keep their own name."""
_MOST_PLOTS, _MOST_NOTES = 12, 5
_FINISHED = re.compile(r"[-_]e\d+(_s\d+)?\.safetensors$")
_NOTHING = Curve()

CSS = """
.run-plots { display: grid; gap: 0.9rem 1.2rem;
             grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.run-plots figure { display: flex; flex-direction: column; justify-content: flex-end;
                    margin: 0; min-width: 0; max-width: 27rem; }
.run-plots figcaption { display: flex; justify-content: space-between; gap: 0.8rem; align-items: baseline;
                        font-size: var(--text-sm); line-height: 1.3; padding-bottom: 0.2rem; }
.run-plots figcaption b { font-weight: 600; }
.run-plots figcaption span { white-space: nowrap; color: var(--body-text-color-subdued); }
.run-plot { display: block; width: 100%; height: auto; }
.run-legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; margin: 0.2rem 0 0.7rem; font-size: var(--text-sm); }
.run-legend span { display: inline-flex; align-items: center; gap: 0.4rem; }
.run-legend svg { flex: none; }
.run-hint { color: var(--body-text-color-subdued); margin: 0.3rem 0; }
.run-bar { height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden;
           margin: 0.4rem 0; }
.run-bar > div { height: 100%; background: var(--color-accent); }
"""
"""Rules for what is drawn here; Gradio keeps them to the component that they are given to."""


def jobs_of(jobs: JobStore, experiment: str) -> dict[str, Job]:
    """The newest training job of each stage of an experiment, and as "pick" that of its scoring, of those there are."""
    found: dict[str, Job] = {}
    for job in jobs.jobs():
        try:
            argv = job.config().argv
        except UserError:
            continue  # it was removed while we looked
        for step, module in MODULES.items():
            if step not in found and module in argv and _is_of(argv, experiment):
                found[step] = job
    return found


def _is_of(argv: Sequence[str], experiment: str) -> bool:
    if f"--experiment={experiment}" in argv:
        return True
    return any(flag == "--experiment" and value == experiment for flag, value in zip(argv, argv[1:]))


def status_html(stage: str, history: RunHistory, job: Job | None, state: str, say: Translator) -> str:
    """How far a training is, and what it told; `state` is that of its job."""
    if not history.revision and job is None:
        return hint(say("run.nothing"))
    progress = history.progress
    share = min(progress.step / progress.total, 1.0) if progress.total else None
    words = state_words(history, state, say)
    rows = [(say("run.training"), say(STAGES[stage])), (say("jobs.state"), words)]
    cause = failure_words(job, say, say("jobs.this_job")) if job is not None and state == "failed" else ""
    if state not in ("waiting", "running", "done"):
        cause = cause or retell(history.error, say)
    rows.append((say("jobs.cause"), cause))
    if history.revision:
        rows.append((say("jobs.progress"), _how_far(history, share, say)))
        rows.append((say("jobs.time"), _times(history, state, say)))
    if progress.skipped:
        rows.append((say("run.skipped"), say("run.skipped_line", count=progress.skipped)))
    rows += [(clock(note.time), retell(note.message or note.code, say)) for note in history.notes[-_MOST_NOTES:]]
    finished = [name for path in history.weights if _FINISHED.search(name := Path(path).name)]
    if finished:
        rows.append((say("run.weights"), say("run.weights_line", name=finished[0], count=len(finished))))
    bar = f'<div class="run-bar"><div style="width:{100 * share:.1f}%"></div></div>' if share is not None else ""
    return bar + facts(rows)


def state_words(history: RunHistory, state: str, say: Translator) -> str:
    """What the job says, or, where there is none any more, what the last event means."""
    if state:
        return say(STATES[state])
    if history.last_kind == "end":
        whole = history.progress.step >= history.progress.total
        return say("jobs.state_done") if whole else say("jobs.state_stopped")
    return say("jobs.state_failed") if history.last_kind == "error" else say("run.state_open")


def _how_far(history: RunHistory, share: float | None, say: Translator) -> str:
    progress = history.progress
    words = [f"{100 * share:.0f} %"] if share is not None else []
    steps = say("run.steps_of", step=progress.step, total=progress.total)
    words.append(steps if progress.total else say("run.steps", step=progress.step))
    if progress.epoch is not None:
        words.append(say("run.epoch", epoch=progress.epoch))
    return ", ".join(words)


def _times(history: RunHistory, state: str, say: Translator) -> str:
    progress, words = history.progress, []
    if progress.seconds is not None:
        words.append(span(progress.seconds))
    if state == "running" and progress.eta_seconds is not None and history.last_kind != "end":
        words.append(say("jobs.eta", time=span(progress.eta_seconds)))
    if progress.seconds_per_step is not None:
        words.append(say("run.per_step", seconds=f"{progress.seconds_per_step:.3g}"))
    return ", ".join(words)


def plots_html(history: RunHistory, say: Translator) -> str:
    """A plot for each loss, and one for the learning rate; a hint before the first number."""
    names = plotted(history)
    if not names and not history.learning_rate.steps:
        return hint(say("run.no_curves") if history.revision else say("run.nothing_hint"))
    training = {name.lstrip("_"): curve for name, curve in history.training.items()}
    validation = {name.lstrip("_"): curve for name, curve in history.validation.items()}
    parts = [
        _figure(loss_title(name, say), training.get(name, _NOTHING), validation.get(name, _NOTHING), say)
        for name in names
    ]
    if history.learning_rate.steps:
        parts.append(_figure(say("run.learning_rate"), history.learning_rate, _NOTHING, say, smoothing=False))
    about = hint(say("run.curves_hint" if any(name in validation for name in names) else "run.curves_hint_alone"))
    return f'{about}{_legend(history, say)}<div class="run-plots">{"".join(parts)}</div>'


def plotted(history: RunHistory) -> list[str]:
    """Names of what is drawn, without their "_": every loss of the training, and of the validation what can be told.

    A validation also splits its losses by language and kind of prompt; that is for those who read the file.
    """
    summed = [name for name in history.training if not name.startswith("_")]
    shown = [name.lstrip("_") for name in history.training if name.startswith("_")]
    alone = [name for name in history.validation if name.lstrip("_") in LOSSES]
    names = list(dict.fromkeys([*summed, *shown, *(name.lstrip("_") for name in alone)]))
    order = {name: place for place, name in enumerate(LOSSES)}
    return sorted(names, key=lambda name: order.get(name, len(order)))[:_MOST_PLOTS]


def loss_title(name: str, say: Translator) -> str:
    """What a loss is called on the page."""
    return say(LOSSES[name]) if name in LOSSES else name


def _figure(title: str, training: Curve, validation: Curve, say: Translator, smoothing: bool = True) -> str:
    newest = (smoothed(thinned(training)) if smoothing else training).values[-1:]
    figures = [short_number(value, 3) for value in newest]
    figures += [f"● {short_number(value, 3)}" for value in validation.values[-1:]]
    drawn = ""
    if max(len(training.steps), len(validation.steps)) > 1:  # a single point makes no curve
        words = PlotWords(f"{title}: {', '.join(figures)}", say("run.point"), say("run.point_held_out"))
        drawn = plot_svg(training, validation, words, smoothing)
    return (
        f"<figure><figcaption><b>{safe(title)}</b><span>{safe('  '.join(figures))}</span></figcaption>{drawn}</figure>"
    )


def _legend(history: RunHistory, say: Translator) -> str:
    parts = [("smooth", say("run.legend_smooth")), ("raw", say("run.legend_raw"))]
    if history.validation:
        parts.append(("validation", say("run.legend_validation")))
    entries = (f"<span>{key_svg(kind)} {safe(words)}</span>" for kind, words in parts)
    return f'<div class="run-legend">{"".join(entries)}</div>'


def save_key(stage: str, save: SavedSamples) -> str:
    """Tells one save from all others, also from one of an earlier training of that name."""
    return f"{stage}:{save.step}:{save.time:.3f}"


def save_choices(stage: str, history: RunHistory, newest: str, say: Translator) -> list[tuple[str, str]]:
    """Saves as (words, value) for a dropdown, newest first; the first has the value `newest`, whichever it is."""
    choices = []
    for number, save in enumerate(history.samples):
        words = say("run.save", epoch=save.epoch, step=save.step)
        choices.append((words, save_key(stage, save)) if number else (say("run.save_newest", save=words), newest))
    return choices


def samples_html(save: SavedSamples | None, shown: int, say: Translator) -> str:
    """What a save's samples are like on average; a hint where there are none."""
    if save is None:
        return hint(say("run.no_samples"))
    words = measure_words(save.measures, say)
    lines = [say("run.on_average", words=words)] if words else []
    if len(save.items) > shown:
        folder = Path(save.items[0].file).parent
        lines.append(say("run.more_samples", count=len(save.items) - shown, folder=folder))
    return "".join(hint(line) for line in lines)


def measure_words(measures: dict[str, float], say: Translator) -> str:
    """Means in words; what has no words is told as a number."""
    known = {
        "length_ratio": length_words(measures.get("length_ratio"), say),
        "f0_ratio": pitch_words(measures.get("f0_ratio"), say),
        "token_rate_ratio": _token_words(measures.get("token_rate_ratio"), say),
    }
    words = [known[name] for name in known if known[name]]
    words += [f"{name} {value:.3g}" for name, value in measures.items() if name not in known]
    return "; ".join(words)


def sample_html(sample: Sample, say: Translator) -> str:
    """The text of a line, and how its sample differs from its recording."""
    words = []
    if sample.seconds and sample.true_seconds:
        words.append(length_words(sample.seconds / sample.true_seconds, say))
    if sample.true_f0_hz and sample.f0_hz is not None:
        words.append(pitch_words(sample.f0_hz / sample.true_f0_hz, say) if sample.f0_hz > 0 else say("run.no_pitch"))
    told = f'<div class="quiet">{safe("; ".join(filter(None, words)))}</div>' if words else ""
    return f"<div>{safe(sample.text or Path(sample.file).name)}</div>{told}"


def length_words(ratio: float | None, say: Translator) -> str:
    """A length as a share of the recording's, in words; empty where it is not known."""
    return _share_words(ratio, ("run.shorter", "run.length_same", "run.longer"), say)


def pitch_words(ratio: float | None, say: Translator) -> str:
    """A pitch as a share of the recording's, in words; empty where it is not known."""
    return _share_words(ratio, ("run.lower", "run.pitch_same", "run.higher"), say)


def _token_words(ratio: float | None, say: Translator) -> str:
    return _share_words(ratio, ("run.tokens_fewer", "run.tokens_same", "run.tokens_more"), say)


def _share_words(ratio: float | None, keys: tuple[str, str, str], say: Translator) -> str:
    """A ratio in the words for less, as much and more."""
    if ratio is None or ratio <= 0:
        return ""
    less, same, more = keys
    percent = round(100 * abs(ratio - 1))
    if percent < 1:
        return say(same)
    return say(more if ratio > 1 else less, percent=percent)


def inside(folder: Path, named: str) -> Path | None:
    """The file that was named, if it lies in a folder, links followed; None for any other and for one that is gone.

    Events and scores are files like any other and may name what they like; only an experiment's own files are shown.
    """
    try:
        path = Path(named).resolve()
        return path if path.is_relative_to(Path(folder).resolve()) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def saved_weights(experiment: Experiment) -> dict[str, list[str]]:
    """Names of the weight files of an experiment by stage."""
    name = re.escape(experiment.name)
    patterns = {
        "vits2": (experiment.vits2_weights, rf"{name}_e\d+_s\d+\.safetensors"),
        "gpt": (experiment.gpt_weights, rf"{name}-e\d+\.safetensors"),
    }
    return {
        stage: sorted(path.name for path in folder.glob("*.safetensors") if re.fullmatch(pattern, path.name))
        for stage, (folder, pattern) in patterns.items()
    }


def hint(words: str) -> str:
    """A paragraph that explains."""
    return f'<p class="run-hint">{safe(words)}</p>'
