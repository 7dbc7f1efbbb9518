"""The steps from recordings to a labelled dataset as command lines of their tools. Knows no components."""

import os
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modules.config import from_dict
from modules.data.sources import clean_path
from modules.errors import UserError, retold
from modules.paths import PROJECT_ROOT
from tools.jobs import Job, JobStore, Resources


@dataclass(frozen=True)
class Step:
    """One tool.

    Args:
        name: also the beginning of the names of its controls: `{name}_source`, `{name}_{option}`.
        module: what is started.
        resources: what it needs of the machine.
        options: gives the dataclass of its options; imported only when it is asked for.
        models: gives the names of models that its option "model" may have; any other value of it is a path.
        labels: begins the keys of its options' labels; its name when empty.
    """

    name: str
    module: str
    resources: Resources
    options: Callable[[], type]
    models: Callable[[], Collection[str]] = tuple
    labels: str = ""


@dataclass(frozen=True)
class Work:
    """A step made ready to be started: its paths are whole, its options lie in their bounds."""

    step: Step
    source: Path
    output: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people, and part of the name of the job's folder."""
        return f"{self.step.name} {self.source.name}".strip()

    @property
    def work_key(self) -> str:
        """Two jobs that write to one place are the same work, however its path is written."""
        return f"{self.step.name} {place_of(self.output)}"

    def start(self, jobs: JobStore) -> Job:
        """Put it into the queue. Raises UserError: job_twice, jobs_locked."""
        return jobs.start(self.name, self.step.module, self.arguments, self.work_key, self.step.resources)


def _separation_options() -> type:
    from modules.corpus.options import SeparationOptions

    return SeparationOptions


def _denoise_options() -> type:
    from modules.corpus.options import DenoiseOptions

    return DenoiseOptions


def _slice_options() -> type:
    from modules.audio.slicing import SliceOptions

    return SliceOptions


def _recognition_options() -> type:
    from modules.corpus.recognition import RecognitionOptions

    return RecognitionOptions


def _report_options() -> type:
    from modules.data.report import ReportOptions

    return ReportOptions


def _separation_models() -> Collection[str]:
    from modules.corpus.separation_models import BAGS

    return BAGS


def _whisper_models() -> Collection[str]:
    from modules.corpus.whisper_models import WHISPER_SIZES

    return WHISPER_SIZES


SEPARATE = Step("separate", "tools.separate", "heavy", _separation_options, _separation_models)
DENOISE = Step("denoise", "tools.denoise", "heavy", _denoise_options)
SLICE = Step("slice", "tools.slice", "heavy", _slice_options)
TRANSCRIBE = Step("transcribe", "tools.transcribe", "heavy", _recognition_options, _whisper_models)
REPORT = Step("report", "tools.report", "light", _report_options)
STEPS = (SEPARATE, DENOISE, SLICE, TRANSCRIBE, REPORT)


def prepare(
    step: Step,
    values: Mapping[str, Any],
    flags: Mapping[str, str] | None = None,
    *,
    source: Path | None = None,
) -> Work:
    """A step from the values of its controls.

    Args:
        step: what is to be done.
        values: `{step}_source`, `{step}_output` and `{step}_{option}`; others are ignored, an emptied number means the
            default.
        flags: further flags of the tool with their values; an empty value stands for a switch.
        source: taken instead of the control, and need not be there yet.

    Raises:
        UserError: path_empty, path_missing (also of a model), config_out_of_bounds, config_wrong_type,
            slice_option_order.
    """
    source = existing_path(values.get(f"{step.name}_source")) if source is None else source
    output = whole_path(values.get(f"{step.name}_output"))
    options = step_options(step, values)
    arguments = [f"--input={source}", f"--output={output}", *option_flags(options)]
    arguments += [f"--{name}={value}" if value else f"--{name}" for name, value in (flags or {}).items()]
    return Work(step, source, output, tuple(arguments))


def step_options(step: Step, values: Mapping[str, Any]) -> Any:
    """The checked options of a step.

    Raises:
        UserError: config_out_of_bounds, config_wrong_type, slice_option_order, path_missing (a model); options are
            named as `{labels}.{option}`, which is the key of their label.
    """
    cls = step.options()
    hints = typing.get_type_hints(cls)
    chosen = {}
    for spec in fields(cls):
        value = values.get(f"{step.name}_{spec.name}")
        if value is not None:
            chosen[spec.name] = _typed(hints[spec.name], value, f"{step.labels or step.name}.{spec.name}")
    if chosen.get("model"):
        chosen["model"] = _model(step, chosen["model"])
    options = from_dict(cls, chosen, step.labels or step.name)
    if step is SLICE:
        from modules.audio.slicing import check

        try:
            check(options)
        except UserError as error:
            named = {name: f"slice.{error.fields[name]}" for name in ("field", "other")}
            raise retold(error.code, str(error), {**error.fields, **named}) from error
    return options


def option_flags(options: Any) -> list[str]:
    """Every option as one argument: joined by "=", so that no value is taken for another flag."""
    arguments = []
    for spec in fields(options):
        value, flag = getattr(options, spec.name), spec.name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments.append(f"--{flag}={value}")
    return arguments


def argument(job: Job, flag: str) -> str:
    """The value that a job was given for a flag such as "output"; empty if it was given none."""
    return argument_in(job.config().argv, flag)


def argument_in(argv: Sequence[str], flag: str) -> str:
    """The value of a flag in a command line; empty if it has none."""
    prefix = f"--{flag}="
    return next((item[len(prefix) :] for item in argv if item.startswith(prefix)), "")


def step_of(job: Job) -> Step | None:
    """The step that a job does; None for another tool."""
    argv = job.config().argv
    return next((step for step in STEPS if step.module in argv), None)


def place_of(path: str | Path) -> str:
    """One text for all ways of writing a path: links followed, and in one case where the system knows but one."""
    return os.path.normcase(os.path.realpath(path))


def whole_path(text: object) -> Path:
    """The absolute path that was meant by what stands in a box. Raises UserError path_empty."""
    path = clean_path(str(text or ""))
    path = path.expanduser() if str(path).startswith("~") else path
    return path if path.is_absolute() else PROJECT_ROOT / path


def existing_path(text: object) -> Path:
    """Like `whole_path`, of something that is there. Raises UserError: path_empty, path_missing."""
    path = whole_path(text)
    if not path.exists():
        raise UserError("path_missing", "There is no file or folder {path}; check the path.", path=str(path))
    return path


def existing_lists(text: object) -> list[Path]:
    """The lists that stand in a box, one a line. Raises UserError: path_empty, path_missing."""
    lines = [line for line in str(text or "").splitlines() if line.strip()]
    return [existing_path(line) for line in lines or [""]]


def _model(step: Step, text: str) -> str:
    """A known name as it is, anything else as a whole path; a single word may also be a name that nobody knows.

    Raises UserError: path_empty, path_missing.
    """
    known = step.models()
    if not known or text in known:
        return text
    name = str(clean_path(text))
    if name in known:
        return name
    path = whole_path(text)
    if path.exists() or not any(mark in name for mark in "/\\~"):
        return str(path) if path.exists() else name
    return str(existing_path(text))


def whole_number(value: Any, key: str) -> Any:
    """A number that must have no fraction, which is never rounded in silence; anything else as it is.

    Args:
        value: of a control; sliders and number boxes may give 5.0 for 5.
        key: of the control's label.

    Raises:
        UserError: config_wrong_type; what was expected is told as the key of its words too.
    """
    if not isinstance(value, float):
        return value
    if not value.is_integer():
        raise UserError(
            "config_wrong_type",
            "{key} must be {expected}, not {value!r}.",
            key=key,
            expected="config.whole_number",
            value=value,
        )
    return int(value)


def _typed(hint: Any, value: Any, key: str) -> Any:
    """What a control gives as the type of the option, without spaces around a text. Raises config_wrong_type."""
    if hint is int:
        return whole_number(value, key)
    return value.strip() if isinstance(value, str) else value
