"""Hear all trained weights of a voice on lines that no training met, and say which to use.

    python -m tools.pick --experiment NAME

Writes logs/NAME/pick.json, and wavs to listen to under logs/NAME/pick.
"""

import argparse
import functools
import sys
from pathlib import Path

from modules.errors import UserError
from modules.experiment import Experiment, experiment_name
from modules.paths import LOGS, PRETRAINED_MODELS
from modules.progress import StepProgress
from tools.running import error_line, run_step, say


def main(argv: list[str] | None = None) -> int:
    """Parse flags and pick; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(run, arguments)
    return run_step(work, arguments.job, stopped="stopped; the earlier result stays", error_text=error_line)


def run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    """Hear, print the table, report."""
    # Heavy imports after the flags are read.
    from modules.evaluation.picking.pick import PICK_FILE, PickOptions, pick
    from modules.runtime import seed_everything, set_threads

    if arguments.lines < 1:
        raise UserError(
            "option_invalid",
            "{name} is {value}; choose a number from {low} to {high}.",
            name="--lines",
            value=arguments.lines,
            low=1,
            high=64,
        )
    set_threads(arguments.threads)
    seed_everything(arguments.seed)
    experiment = Experiment(experiment_name(arguments.experiment), logs=arguments.logs)
    models = arguments.models or PRETRAINED_MODELS / arguments.preset
    picked = pick(
        experiment,
        PickOptions(models, arguments.lines, arguments.seed, arguments.device),
        lambda done, total, what, files: progress.update(done, total, what, files),
        progress.should_stop,
    )
    for row in picked.rows:
        if row.error:
            progress.reject(row.file, row.error)
    if not picked.lines.held_out:
        say(
            "Fewer than two lines were held out, so lines of the training were heard; they flatter what is overtrained."
        )
    say(_table(picked.as_json()))
    names = {stage: name or "built-in" for stage, name in picked.best.items()}
    say(f"best: {names['vits2']} (decoder), {names['gpt']} (language model)")
    progress.finish({"pick": experiment.folder / PICK_FILE, "best": picked.best})


def _table(found: dict) -> str:
    """Rows as aligned columns, the best of each stage with a star."""
    header = ("", "stage", "weights", "score", "+/-", "similarity", "phone error", "mel or token loss", "failures")
    lines = [header]
    for row in found["rows"]:
        star = "*" if row["file"] == found["best"][row["stage"]] else ""
        distance = row.get("mel", row.get("token_loss"))
        numbers = [row["score"], row["spread"], row["similarity"], row["phone_error"], distance, row["failure_rate"]]
        cells = [f"{number:.3f}" if number is not None else "-" for number in numbers]
        lines.append((star, row["stage"], row["file"] or "built-in", *cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(text.rstrip() for text in texts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.pick", description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", required=True, help="name of the voice, as in logs/NAME")
    parser.add_argument("--logs", type=Path, default=LOGS, help="folder of all experiments")
    parser.add_argument("--lines", type=int, default=12, help="most held-out lines to hear (default 12)")
    parser.add_argument(
        "--preset", default="nano", help="name of the model folder in pretrained_models/ (default nano)"
    )
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="another model folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 = all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
