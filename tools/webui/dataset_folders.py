"""Where the files of a dataset lie, and what a finished step fills into the boxes of the next. Knows no components."""

import filecmp
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from tools.jobs import JobStore
from tools.webui.chains import Chain, Chains
from tools.webui.steps import STEPS, argument_in, place_of, whole_path

DEFAULT_NAME = "dataset"
_RESERVED = frozenset("con prn aux nul jobs chains edits".split())
"""Names that Windows keeps for devices, and folders of logs/ that are no datasets."""


@dataclass(frozen=True)
class DatasetFolders:
    """The folders of one dataset: sound below `output`, lists below `logs`."""

    name: str
    output: Path
    logs: Path

    @property
    def sound(self) -> Path:
        """Everything that can be heard."""
        return self.output / self.name

    @property
    def recordings(self) -> Path:
        """Copies of what was uploaded."""
        return self.sound / "recordings"

    @property
    def separated(self) -> Path:
        """Gets vocals/ and accompaniment/."""
        return self.sound / "separated"

    @property
    def denoised(self) -> Path:
        """Cleaned recordings."""
        return self.sound / "denoised"

    @property
    def clips(self) -> Path:
        """Clips and clips.jsonl."""
        return self.sound / "clips"

    @property
    def lists(self) -> Path:
        """manifest.jsonl, NAME.list, rejected.jsonl and report.json."""
        return self.logs / self.name

    def boxes(self) -> dict[str, str]:
        """What the path boxes of all steps hold at first; sources are those that are there already."""
        cleaned = (self.denoised, self.separated / "vocals")
        recordings = str(self.recordings) if _has_files(self.recordings) else ""
        heard = next((str(folder) for folder in cleaned[1:] if _has_files(folder)), recordings)
        lists = (self.lists / "manifest.jsonl", self.clips / "clips.jsonl")
        listed = next((str(path) for path in lists if path.is_file()), "")
        return {
            "chain_source": recordings,
            "separate_source": recordings,
            "separate_output": str(self.separated),
            "denoise_source": heard,
            "denoise_output": str(self.denoised),
            "slice_source": next((str(folder) for folder in cleaned if _has_files(folder)), recordings),
            "slice_output": str(self.clips),
            "transcribe_source": str(self.clips) if (self.clips / "clips.jsonl").is_file() else "",
            "transcribe_output": str(self.lists),
            "edit_list": listed,
            "edit_export": "",  # beside the opened list; NAME.list is what transcribing writes
            "report_list": listed,
        }


def dataset_name(text: object) -> str:
    """A name that is one folder on every system. Raises UserError dataset_name."""
    name = str(text or "").strip()
    if not re.fullmatch(r"[\w][\w .-]{0,63}", name) or name.endswith(".") or name.casefold() in _RESERVED:
        raise UserError(
            "dataset_name",
            "The dataset cannot be called {name}: use up to 64 letters, digits, spaces, - or _, and no reserved word.",
            name=name or "-",
        )
    return name


def keep_uploads(files: Sequence[str | Path], folder: Path) -> Path:
    """Copy uploaded files, which are temporary, into `folder`; returns it. No other file of the same name is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in map(Path, files):
        target, number = folder / file.name, 1
        while target.exists() and not filecmp.cmp(file, target, shallow=False):
            number += 1
            target = folder / f"{file.stem}-{number}{file.suffix}"
        if not target.exists():
            part = target.with_name(target.name + ".part")
            shutil.copyfile(file, part)
            part.replace(target)
    return folder


def boxes_after(step: str, output: Path) -> dict[str, str]:
    """What a finished step fills into the boxes of the next ones."""
    if step == "separate":
        return {"denoise_source": str(output / "vocals"), "slice_source": str(output / "vocals")}
    if step == "denoise":
        return {"slice_source": str(output)}
    if step == "slice":
        listed = str(output / "clips.jsonl")
        return {"transcribe_source": str(output), "edit_list": listed, "report_list": listed}
    if step == "transcribe":
        listed = str(output / "manifest.jsonl")
        return {"edit_list": listed, "report_list": listed}
    return {}


Outputs = Mapping[str, frozenset[str]]
"""Name of a step -> places (see `place_of`) whose content concerns a page."""


def own_outputs(values: Mapping[str, object], folders: DatasetFolders) -> Outputs:
    """Where the steps of a page write: what stands in its boxes, and the folders of its dataset.

    Args:
        values: `{step}_output` of the steps; others are ignored.
        folders: of the dataset that the page names.
    """
    usual = folders.boxes()
    found = {}
    for step in STEPS:
        places = set()
        for text in (values.get(f"{step.name}_output"), usual.get(f"{step.name}_output")):
            if str(text or "").strip():
                places.add(place_of(whole_path(text)))
        found[step.name] = frozenset(places)
    return found


def newly_finished(
    jobs: JobStore, chains: Chains, watched: Sequence[str], outputs: Outputs
) -> tuple[dict[str, str], list[str]]:
    """What the watched jobs and chains that ended since fill into the boxes, and the ids that still run or wait.

    A chain fills them when it has ended, so that nobody's typing is disturbed at each of its steps.

    Args:
        jobs, chains: of the machine, those of other datasets and pages among them.
        watched: ids.
        outputs: of the page; what was written elsewhere fills nothing.
    """
    boxes: dict[str, str] = {}
    left = []
    for id in watched:
        chain = chains.find(id)
        if chain is not None and not chain.ended:
            left.append(id)
            continue
        for state, argv in _ended_parts(jobs, chain, id):
            step = next((step for step in STEPS if step.module in argv), None)
            output = argument_in(argv, "output")
            if state in ("waiting", "running"):
                left.append(id)
            elif state == "done" and step is not None and output and place_of(output) in outputs[step.name]:
                boxes.update(boxes_after(step.name, Path(output)))
    return boxes, left


def _ended_parts(jobs: JobStore, chain: Chain | None, id: str) -> list[tuple[str, tuple[str, ...]]]:
    """State and command line of a job, or of the steps of a chain that has ended; none for a job that was removed."""
    if chain is not None:
        return [(link.state, (link.module, *link.arguments)) for link in chain.links if link.state]
    try:
        job = jobs.job(id)
        return [(job.state(), job.config().argv)]
    except UserError:
        return []


def work_folder(lists: Sequence[Path], logs: Path) -> Path:
    """Where the edits of lists are kept: one folder for each choice of them, found again after a restart."""
    whole = Path(place_of(lists[0]))
    names = "\n".join(place_of(path) for path in lists)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    stem = re.sub(r"[^\w-]+", "_", f"{whole.parent.name}-{whole.stem}")[:60]
    return logs / "edits" / f"{stem}-{digest}"


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
