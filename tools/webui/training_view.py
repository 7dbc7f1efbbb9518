"""The training of an experiment in words, as HTML. Knows no components; asks only the disk and the jobs."""

import html

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.suggestions import (
    GPTOptions,
    Machine,
    Speech,
    VITS2Options,
    gpt_steps,
    vits2_steps,
)
from tools.jobs import Job, JobStore
from tools.webui.chains import Chains
from tools.webui.jobs_view import card, facts
from tools.webui.messages import Translator
from tools.webui.steps import place_of
from tools.webui.training_state import Features, Run


def work_key(name: str, output: object) -> str:
    """The key of a step's work, as `tools.webui.steps.Work` makes it."""
    return f"{name} {place_of(str(output))}"


def work_keys(experiment: Experiment) -> dict[str, str]:
    """Step -> key of its work, of all steps that write to an experiment."""
    outputs = {"extract": experiment.features, **{stage: experiment.run(stage) for stage in ("vits2", "gpt")}}
    outputs["pick"] = experiment.folder / "pick"
    return {name: work_key(name, output) for name, output in outputs.items()}


def newest_job(jobs: JobStore, key: str) -> Job | None:
    """The job that did this work last, or does it."""
    return next((job for job in jobs.jobs() if job.config().work_key == key), None)


def job_html(job: Job | None, chains: Chains, say: Translator) -> str:
    """A job as the job panel shows it; empty for none."""
    if job is None:
        return ""
    chain = chains.of_job(job.id)
    stuck = chain if chain is not None and chain.reason and chain.newest_job == job.id else None
    return card(job, job.state(), stuck, say)


def features_html(features: Features | UserError | None, say: Translator) -> str:
    """What formatting has made, step by step, or what is wrong with it."""
    if isinstance(features, UserError):
        return f"<p>{html.escape(say.error(features))}</p>"
    if features is None:
        return f"<p>{html.escape(say('training.features_none'))}</p>"
    made: tuple[tuple[str, int], ...] = (
        ("training.part_text", features.text),
        ("training.part_audio", features.audio),
        ("training.part_speech", features.speech),
    )
    if features.codes is not None:
        made = (*made, ("training.part_codes", features.codes))
    rows = [(say(key), say("training.features_count", count=count, total=features.lines)) for key, count in made]
    if features.heard.clips:
        minutes = f"{features.heard.seconds / 60:.1f}"
        rows.append((say("training.heard"), say("training.heard_count", count=features.heard.clips, minutes=minutes)))
        rows.append((say("training.held_out"), say("training.held_out_count", count=features.held_out)))
    return facts(rows)


def run_html(run: Run | None, say: Translator) -> str:
    """How far a training is."""
    if run is None:
        return f"<p>{html.escape(say('training.run_none'))}</p>"
    words = say("training.run_so_far", epochs=run.epoch, steps=run.step, minutes=f"{run.seconds / 60:.1f}")
    return f"<p>{html.escape(words)}</p>"


def suggestion_words(
    device: str, machine: Machine, speech: Speech | None, options: tuple[VITS2Options, GPTOptions], say: Translator
) -> str:
    """What is suggested for the knobs, and why; not what they are set to."""
    vits2, gpt = options
    if speech is None or not speech.clips:
        return say("training.suggested_later")
    words = say(
        "training.suggested",
        device=device,
        minutes=f"{speech.seconds / 60:.1f}",
        vits2_steps=vits2.epochs * vits2_steps(speech, vits2.batch_seconds, vits2.window_seconds),
        gpt_steps=gpt.epochs * gpt_steps(speech, gpt.batch_frames),
    )
    if vits2.max_minutes:
        limit = say("training.suggested_limit", vits2=f"{vits2.max_minutes:g}", gpt=f"{gpt.max_minutes:g}")
        words = f"{words} {limit}"
    return words
