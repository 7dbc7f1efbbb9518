"""Examine this installation, and say what to do about what is wrong.

    python -m tools.doctor
    python -m tools.doctor --preset base     also load and try that preset's encoders, and check their content
    python -m tools.doctor --json            one line of JSON

Exit status: 0 everything that is needed works, 1 there is a problem.
"""

import argparse
import importlib
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modules import paths
from modules.doctor.findings import Finding, Look, cause_of, examine, worst
from modules.doctor.system import check_folder, check_memory, check_packages, check_port, check_python
from modules.errors import UserError

# What needs packages is imported by the checks themselves: one that is missing or broken is a finding.

BUILT_IN = "nano"
MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
OTHER_DEVICE = "Start with --device auto or cpu, or see above what is wrong with the device."
RESTORE = "Restore pretrained_models/nano and examples from the repository."


def main(argv: Sequence[str] | None = None) -> int:
    """Examine, tell; returns the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console or a file that does not know every letter
            stream.reconfigure(errors="backslashreplace")
    findings = []
    quiet = arguments.json

    def begin(name: str) -> None:
        if not quiet and sys.stdout.isatty():
            print(f"        {name} ...", end="\r", flush=True)

    for finding in examine(looks(arguments), begin):
        findings.append(finding)
        if not quiet:
            _tell(finding)
    state = worst(findings)
    if quiet:
        print(json.dumps({"state": state, "findings": [asdict(finding) for finding in findings]}, ensure_ascii=False))
    else:
        print(_summary(findings))
    return 1 if state == "problem" else 0


def looks(arguments: argparse.Namespace) -> list[Look]:
    """What is looked at, quick and general things first."""
    models, root = arguments.models, paths.PROJECT_ROOT
    names = sorted((path.stem for path in paths.PRESETS.glob("*.json")), key=lambda name: (name != BUILT_IN, name))
    folders = {"of models": models, "of sound": arguments.output, "of datasets and jobs": arguments.logs,
               "GPT_weights": paths.GPT_WEIGHTS, "SoVITS_weights": paths.SOVITS_WEIGHTS}  # fmt: skip
    found = [
        Look("Python", check_python),
        Look("Packages", lambda: check_packages(root / "requirements.txt", root / "constraints.txt")),
        Look("PyTorch", lambda: _check("devices", "check_torch")),
        Look("Devices", lambda: _check("devices", "check_devices")),
        Look("bf16", lambda: _check("devices", "check_number_formats")),
        Look("Memory", check_memory),
        *(Look(f"Folder {name}", lambda name=name, folder=folder: check_folder(name, folder))
          for name, folder in folders.items()),
        Look("ffmpeg", lambda: _check("sound", "check_ffmpeg")),
        Look("Sound", lambda: _check("sound", "check_sound")),
        Look("Weight files", lambda: _check("presets", "check_weight_files", models / BUILT_IN), RESTORE),
        Look(f"Preset {BUILT_IN} speaks", lambda: _speak(models / BUILT_IN, arguments.device, RESTORE), RESTORE),
        Look("Presets", lambda: _check("presets", "check_presets", names, models, arguments.preset, None, _trained())),
        Look("Hub", lambda: _check("hub", "check_hub", models)),
        Look("Port of the page", lambda: check_port("127.0.0.1", arguments.port)),
    ]  # fmt: skip
    if arguments.preset and arguments.preset != BUILT_IN:
        found += _depth(arguments.preset, models, arguments.device)
    return found


def _depth(name: str, models: Path, device: str) -> list[Look]:
    """The further looks at the preset that was asked for."""
    return [
        Look(f"Content of {name}'s models", lambda: _hashes(name, models)),
        Look(f"Encoders of {name}", lambda: _encode(name, models, device)),
        Look("Weight files", lambda: _check("presets", "check_weight_files", models / name)),
        Look(f"Preset {name} speaks", lambda: _speak_if_there(models / name, device), _train_anew(name)),
    ]


def _trained() -> dict[str, tuple[int, int]]:
    """What was trained here, by preset."""
    from modules.doctor.presets import trained_weights

    return trained_weights(paths.GPT_WEIGHTS, paths.SOVITS_WEIGHTS)


def _check(module: str, function: str, *arguments: Any) -> Finding | Iterable[Finding]:
    """A check of modules/doctor, imported when its turn comes."""
    return getattr(importlib.import_module(f"modules.doctor.{module}"), function)(*arguments)


def _hashes(name: str, models: Path) -> Finding | Iterable[Finding]:
    from modules.config import load_preset

    return _check("presets", "check_hashes", load_preset(name), models)


def _encode(name: str, models: Path, device: str) -> Iterator[Finding]:
    from modules.config import load_preset
    from modules.doctor.encoders import check_encoders
    from modules.hub.needs import missing_models
    from modules.runtime import pick_device

    preset = load_preset(name)
    if not missing_models(preset, models):
        yield from check_encoders(preset, models, pick_device(device))


def _speak_if_there(folder: Path, device: str) -> Iterator[Finding]:
    if (folder / "gpt.safetensors").is_file() and (folder / "vits2.safetensors").is_file():
        yield _speak(folder, device, _train_anew(folder.name))


def _train_anew(name: str) -> str:
    return f"Put whole weights into the folder of {name}, or train it anew in the tab Train."


def _speak(folder: Path, device: str, remedy: str) -> Finding:
    """Load a preset and speak one word with a bundled voice. Here, since only inference may join the parts."""
    what = f"Preset {folder.name} speaks"
    try:
        from modules.inference.options import SpeakOptions
        from modules.inference.synthesizer import Synthesizer
        from modules.inference.voice import Voice, load_reference

        started = time.monotonic()
        synthesizer = Synthesizer.load(folder, device=device)
        loaded = time.monotonic() - started
        reference = load_reference(paths.EXAMPLES / "ada.wav", None, 1.0, synthesizer.preset.audio)
        began = time.monotonic()
        segments = list(synthesizer.speak(Voice((reference,)), "Hello.", SpeakOptions(seed=1)))
        took = time.monotonic() - began
    except UserError as cause:
        return Finding(what, "problem", cause_of(cause), OTHER_DEVICE if cause.code == "device_missing" else remedy)
    seconds = sum(segment.seconds for segment in segments)
    loudest = max((float(abs(segment.wav).max()) for segment in segments), default=0.0)
    if not loudest > 1e-3:  # NaN is no sound either
        return Finding(what, "problem", "It is silent.", "Start the page with --device cpu; update driver and torch.")
    told = f"loaded in {loaded:.1f} s, {seconds:.1f} s of speech in {took:.1f} s on {synthesizer.device}"
    return Finding(what, "ok", told)


def _tell(finding: Finding) -> None:
    print(f"{MARKS[finding.state]} {finding.name}: {finding.told}")
    if finding.remedy:
        print(f"        -> {finding.remedy}", flush=True)


def _summary(findings: Sequence[Finding]) -> str:
    counts = {state: sum(finding.state == state for finding in findings) for state in MARKS}
    warnings = _count(counts["warning"], "warning")
    if counts["problem"]:
        return f"\n{_count(counts['problem'], 'problem')}, {warnings}: follow the arrows above."
    return f"\nEverything that is needed works ({warnings})."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.doctor", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="", help="a preset to look at in depth, such as base")
    parser.add_argument("--models", type=Path, default=paths.PRETRAINED_MODELS, help="folder of the presets' weights")
    parser.add_argument("--output", type=Path, default=paths.OUTPUT, help="folder for audio")
    parser.add_argument("--logs", type=Path, default=paths.LOGS, help="folder for datasets, edits and jobs")
    parser.add_argument("--device", default="auto", help="where to compute: auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--port", type=int, default=9874, help="port of the page (default 9874)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of words")
    return parser


if __name__ == "__main__":
    sys.exit(main())
