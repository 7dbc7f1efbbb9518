"""The steps from a dataset list to a chosen voice as command lines of their tools. Knows no components."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from modules.config import plain_number
from modules.errors import UserError
from modules.experiment import Experiment, experiment_name
from modules.paths import PROJECT_ROOT
from modules.training.suggestions import FINE_TUNING
from tools.webui.presets import BUILT_IN_PRESET, needs, quantises
from tools.webui.steps import Step, Work, existing_path, option_flags, step_options, whole_number
from tools.webui.training_scratch import FROM_NOTHING
from tools.webui.training_state import Run, read_run
from tools.webui.weights import WeightFolders


def _vits2_options() -> type:
    from modules.training.suggestions import VITS2Options

    return VITS2Options


def _gpt_options() -> type:
    from modules.training.suggestions import GPTOptions

    return GPTOptions


def _no_options() -> type:
    return type(None)


EXTRACT = Step("extract", "tools.extract", "heavy", _no_options)
VITS2 = Step("vits2", "tools.train_vits2", "heavy", _vits2_options, labels="training")
GPT = Step("gpt", "tools.train_gpt", "heavy", _gpt_options, labels="training")
PICK = Step("pick", "tools.pick", "heavy", _no_options)
STAGES = {"vits2": VITS2, "gpt": GPT}

PARTS = ("text", "audio", "speech")
"""What tools.extract can be told to do alone."""
CODES = "codes"
"""The part that comes after the decoder's training, for presets whose speech tokens are learned with it."""
DECODER_NAME = "vits2.safetensors"
"""Of the newest weights in the run folder of a decoder."""
BEGINNINGS = ("begin", "resume", "data_added", "start_over")
"""How a training begins; each but the first is a flag of the tools."""
DISTRIBUTED = "torch.distributed.run"


@dataclass(frozen=True)
class Pretrained:
    """The files that a fine-tuning starts from.

    Every preset but the built-in one may be trained from nothing: then they are not there.

    Args:
        models: holds the folders of presets and of the published encoders.
    """

    preset: str
    folder: Path
    gpt: Path
    vits2: Path
    vits2_training: Path
    tokenizer: Path
    models: Path

    def begins(self, stage: str) -> tuple[Path, ...]:
        """What a stage starts from; empty when it starts from nothing. Raises UserError path_missing."""
        first = self.gpt if stage == "gpt" else self.vits2
        if self.preset != BUILT_IN_PRESET and not first.is_file():
            return ()
        if stage == "gpt":
            return (existing_path(first),)
        if self.preset != BUILT_IN_PRESET and not self.vits2_training.is_file():
            return (existing_path(first),)
        return existing_path(first), existing_path(self.vits2_training)

    def decoder(self, experiment: Experiment) -> Path:
        """The folder of the decoder that the language model speaks through: the preset's, or the one trained here."""
        return existing_path(self.folder) if self.begins("vits2") else experiment.run("vits2")

    def quantizer(self, experiment: Experiment) -> Path:
        """The decoder's file that tells the speech tokens, for presets that learn them with it.

        A fine-tuning freezes them, so they are those of its beginning.
        """
        return self.vits2 if self.begins("vits2") else experiment.run("vits2") / DECODER_NAME

    @classmethod
    def of_preset(cls, preset: str, weights: WeightFolders) -> "Pretrained":
        """Those of a preset; whether they are there is found out at the start. Raises UserError preset_unknown."""
        folder = weights.preset_folder(preset)
        training = folder.with_name(f"{folder.name}-training")
        return cls(
            preset,
            folder,
            folder / "gpt.safetensors",
            folder / "vits2.safetensors",
            training / "vits2.safetensors",
            folder / "s3.safetensors",
            weights.models,
        )


PRETRAINED_BOXES = {
    "training_gpt_file": "gpt",
    "training_vits2_file": "vits2",
    "training_vits2_training_file": "vits2_training",
    "training_tokenizer_file": "tokenizer",
}
"""Box on the page -> the file that is meant; an empty box means the preset's own."""


def pretrained(values: Mapping[str, Any], weights: WeightFolders) -> Pretrained:
    """The files that the boxes name. Raises UserError: preset_unknown, path_missing (of a file that was named)."""
    files = Pretrained.of_preset(str(values.get("training_preset") or "nano"), weights)
    named = {
        part: existing_path(values[box]) for box, part in PRETRAINED_BOXES.items() if str(values.get(box) or "").strip()
    }
    return replace(files, **named)


def experiment_of(values: Mapping[str, Any], logs: Path, weights: WeightFolders) -> Experiment:
    """The experiment that the page names. Raises UserError experiment_name."""
    name = experiment_name(str(values.get("training_experiment") or ""))
    if name.casefold() in ("jobs", "chains", "edits"):  # folders of logs/ that are no experiments
        raise UserError(
            "experiment_reserved",
            'The experiment cannot be called "{name}": a folder of that name serves another purpose.',
            name=name,
        )
    return Experiment(name, logs, weights.gpt, weights.vits2)


def extract_work(
    values: Mapping[str, Any], experiment: Experiment, files: Pretrained, part: str = "", device: str = "auto"
) -> Work:
    """The formatting of a list, or one part of it.

    Speech tokens that are learned with the decoder are part of it where the decoder is there from the beginning.

    Raises:
        UserError: path_empty, path_missing.
    """
    source = existing_path(values.get("extract_source"))
    arguments = [f"--input={source}", f"--output={experiment.features}"]
    if str(folder := values.get("extract_audio_folder") or "").strip():
        arguments.append(f"--audio-folder={existing_path(folder)}")
    arguments.append(f"--preset={files.preset}")
    if needs(files.preset):
        arguments += [f"--models={files.folder}", f"--encoders={files.models}", f"--device={device}"]
    else:
        arguments.append(f"--models={existing_path(files.folder)}")
    if quantises(files.preset) and (part == CODES or (not part and files.begins("vits2"))):
        arguments.append(f"--decoder={files.quantizer(experiment)}")
    if files.tokenizer != files.folder / "s3.safetensors":
        arguments.append(f"--speech-tokenizer={files.tokenizer}")
    if part:
        arguments.append(f"--only={part}")
    return Work(EXTRACT, experiment.folder, experiment.features, tuple(arguments))


def train_work(
    stage: str, values: Mapping[str, Any], experiment: Experiment, files: Pretrained, device: str = "auto"
) -> Work:
    """A training from the values of its controls.

    Args:
        stage: "vits2" or "gpt".
        values: `{stage}_{option}`, `{stage}_beginning` and `{stage}_gpus`; others are ignored. An emptied number is
            refused: nobody could see what would be taken instead.
        experiment: whose features are learned from.
        files: what the training starts from, if anything.
        device: as the tools know it.

    Raises:
        UserError: number_empty, config_out_of_bounds, config_wrong_type, path_missing (a pretrained file),
            training_nothing_to_adapt.
    """
    step, output = STAGES[stage], experiment.run(stage)
    arguments = [f"--store={experiment.features}", f"--output={output}", f"--experiment={experiment.name}"]
    arguments.append(f"--preset={files.preset}")
    begins, options = files.begins(stage), _options(stage, values)
    if stage == "vits2":
        arguments += ["--init", *map(str, begins)] if begins else []
    else:
        if not begins and options.lora_rank:
            raise UserError(
                "training_nothing_to_adapt",
                "The language model of {preset} begins from nothing, so there is nothing that adapters could adapt; "
                "set {key} to the whole model.",
                preset=files.preset,
                key="training.lora_rank",
            )
        arguments += [f"--init={begins[0]}"] if begins else []
        arguments.append(f"--decoder={files.decoder(experiment)}")
        arguments += [f"--encoders={files.models}"] if needs(files.preset) else []
    arguments += [*option_flags(options), *(FINE_TUNING if begins else FROM_NOTHING)[stage], f"--device={device}"]
    beginning = str(values.get(f"{stage}_beginning") or "begin")
    if beginning in BEGINNINGS[1:]:
        arguments.append(f"--{beginning.replace('_', '-')}")
    gpus = whole_number(values.get(f"{stage}_gpus") or 1, "training.gpus")
    if gpus > 1:
        arguments = ["--standalone", "--nproc-per-node", str(gpus), "-m", step.module, *arguments]
        step = replace(step, module=DISTRIBUTED)
    return Work(step, experiment.folder, output, tuple(arguments))


def pick_work(experiment: Experiment, files: Pretrained | None = None, device: str = "auto") -> Work:
    """The scoring of all weights of an experiment, which speak with the other parts of their base model."""
    arguments = [f"--experiment={experiment.name}", f"--logs={experiment.logs}", f"--device={device}"]
    if files is not None:
        arguments += [f"--preset={files.preset}", f"--models={files.folder}"]
    return Work(PICK, experiment.folder, experiment.folder / "pick", tuple(arguments))


def check_beginning(stage: str, values: Mapping[str, Any], experiment: Experiment, fingerprint: str = "") -> None:
    """Refuse what the tool would refuse, or what would end at once, as far as that can be told without computing.

    Args:
        stage: "vits2" or "gpt".
        values: as for `train_work`.
        experiment: whose run folder is looked at.
        fingerprint: of the features as they are now; empty when they are about to change.

    Raises:
        UserError: run_exists, resume_data_differs, resume_knob_differs, training_is_over, and of the knobs as
            `train_work` does.
    """
    run = read_run(experiment.run(stage))
    beginning = values.get(f"{stage}_beginning") or "begin"
    if run is None or beginning == "start_over":
        return
    if beginning == "begin":
        raise UserError(
            "run_exists",
            "{folder} holds a training already; resume it, start over, or choose another folder.",
            folder=run.folder,
        )
    options = _options(stage, values)
    if fingerprint and beginning == "resume" and run.data and run.data != fingerprint:
        raise UserError(
            "resume_data_differs",
            "The data of the training in {folder} have changed; say that data were added, or start over.",
            folder=run.folder,
        )
    _refuse_other_knobs(run, stage, options)
    if beginning == "data_added" and fingerprint and run.data != fingerprint:
        return  # epochs and minutes count from here
    if run.epoch >= options.epochs or 0 < 60 * options.max_minutes <= run.seconds:
        raise UserError(
            "training_is_over",
            "The training in {folder} has made {epochs} epochs in {minutes} minutes, which is all that was asked "
            "for; set more epochs or minutes to go on, or start over.",
            folder=run.folder,
            epochs=run.epoch,
            minutes=f"{run.seconds / 60:.1f}",
        )


def held_knobs(run: Run, stage: str) -> dict[str, Any]:
    """The knobs that a run cannot change on its way, with the values that it was begun with: option -> value."""
    return {spec.name: run.trained[spec.name] for spec in fields(STAGES[stage].options()) if spec.name in run.trained}


def _refuse_other_knobs(run: Run, stage: str, options: Any) -> None:
    """Raise resume_knob_differs where a knob was turned that a run cannot change on its way."""
    for name, before in held_knobs(run, stage).items():
        if getattr(options, name) == before:
            continue
        words = plain_number(before) if isinstance(before, int | float) else str(before)
        raise UserError(
            "resume_knob_differs",
            "{key} was {before} when the training in {folder} began; set it back to go on, or start over.",
            key=f"training.{name}",
            before="training.lora_whole" if name == "lora_rank" and not before else words,
            folder=run.folder,
        )


def _options(stage: str, values: Mapping[str, Any]) -> Any:
    """The checked options of a training. Raises UserError as `train_work` does."""
    step = STAGES[stage]
    for spec in fields(step.options()):
        if values.get(name := f"{stage}_{spec.name}", spec.default) is None:
            raise UserError(
                "number_empty",
                "{key} is empty; type a number, or let all knobs be set as suggested.",
                key=f"training.{name.removeprefix(f'{stage}_')}",
            )
    return step_options(step, values)


def command_text(work: Work) -> str:
    """The command line of a work, to be read and copied; paths inside the project are written from its root."""
    words = ["python", "-m", work.step.module]
    for argument in work.arguments:
        flag, joined, value = argument.partition("=")
        if joined and flag.startswith("--"):
            words.append(f"{flag}={shown_path(value)}")
        else:
            words.append(shown_path(argument))
    return shlex.join(words)


def shown_path(path: str | Path) -> str:
    """A path as it is written from the project's root, if it lies there; other text as it is."""
    return str(path).removeprefix(f"{PROJECT_ROOT}{os.sep}")
