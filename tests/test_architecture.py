"""The rules of the house, read from the source: who may import whom, and what nobody may do.

`violations(place, source)` is itself tested on small sources that break each rule.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [
    "webui.py",
    *(p.relative_to(ROOT).as_posix() for d in ("modules", "tools") for p in ROOT.glob(f"{d}/**/*.py")),
]
EVERYTHING = [*PROGRAM, *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("tests/**/*.py"))]

# Runs before anything is installed, on the standard library alone, so it cannot borrow tools/jobs.py.
SETUP = "tools/setup_environment.py"
MAY_START_PROCESSES = {"tools/jobs.py", SETUP}
# Not steps of their own, but what serves them: each may import these, and these import no step either.
SHARED_TOOLS = {"tools.jobs", "tools.flags", "tools.running", "tools.training"}
# Of these, what the page may import; the others belong to a command line.
PAGE_TOOLS = {"tools.jobs"}
# Rooms of modules/ that must not know certain others.
STRANGERS = {"gpt": {"vits2"}, "vits2": {"gpt"}, "training": {"gpt", "vits2", "speech", "text", "inference"}}
# Where text, speech, gpt and vits2 may meet; evaluation judges what inference makes.
MEETING_ROOMS = {"inference", "evaluation"}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported dotted name with its line; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module or ''}.{alias.name}", node.lineno) for alias in node.names)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def room_of(name: str) -> str:
    """The room of modules/ that a dotted name or a path lies in; empty for its single files and others."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == "modules" and len(parts) > 2 else ""


def violations(place: str, source: str) -> list[str]:
    """The broken rules of one file. `place` is its path from the project's root, with slashes."""
    tree = ast.parse(source, place)
    found = [*_forbidden_imports(place, tree), *_forbidden_code(place, tree)]
    return [f"{place}:{line}: {problem}" for line, problem in sorted(found)]


def _forbidden_imports(place: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    in_modules, in_tools = place.startswith("modules/"), place.startswith("tools/")
    in_page = place == "webui.py" or place.startswith("tools/webui/")
    in_tests = place.startswith("tests/")
    room = room_of(place)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "relative import"
    for name, line in imports(tree):
        top = name.split(".")[0]
        if top.startswith("gradio") and not (in_page or in_tests):
            yield line, "gradio outside webui.py and tools/webui"
        if top == "subprocess" and place not in MAY_START_PROCESSES and not in_tests:
            yield line, "subprocess outside tools/jobs.py"
        if top == "argparse" and in_modules:
            yield line, "argparse in modules"
        if top in {"pickle", "dill", "joblib"} and not in_tests:
            yield line, f"{top} reads and writes code, not data"
        if top in {"tools", "webui", "i18n", "tests"} and in_modules:
            yield line, f"modules must not import {top}"
        if top == "tests" and not in_tests:
            yield line, "the program must not import its tests"
        if in_tools and top == "webui":
            yield line, "tools must not import webui"
        if in_tools and not in_page and top == "tools" and tool_of(name) not in SHARED_TOOLS:
            yield line, f"a tool must not import another one ({name})"
        if in_page and top == "tools" and not name.startswith("tools.webui") and tool_of(name) not in PAGE_TOOLS:
            yield line, f"the page starts a tool as a job, it does not import it ({name})"
        if place == SETUP and top not in sys.stdlib_module_names:
            yield line, "the set-up runs before anything is installed"
        if room_of(name + ".x") in STRANGERS.get(room, set()):
            yield line, f"{room} must not know {name}"
        if in_modules and room not in MEETING_ROOMS and name.startswith("modules.inference"):
            yield line, "only evaluation stands above inference"
    if in_modules and room not in MEETING_ROOMS:
        met = {room_of(name + ".x") for name, _ in imports(tree)} | {room}
        if {"gpt", "vits2"} <= met:
            yield 1, "gpt and vits2 meet outside inference"


def _forbidden_code(place: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    in_modules, in_tests = place.startswith("modules/"), place.startswith("tests/")
    for node in ast.walk(tree):
        name = dotted(node)
        if name == "sys.path" or name.startswith("sys.path."):
            yield node.lineno, "sys.path"
        if name in {"os.environ", "os.getenv", "os.putenv"} and in_modules:
            yield node.lineno, "the environment is read at the entry points only"
        if isinstance(node, ast.ImportFrom) and in_modules and node.module == "os":
            if {alias.name for alias in node.names} & {"environ", "getenv"}:
                yield node.lineno, "the environment is read at the entry points only"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        if isinstance(node, ast.Global):
            yield node.lineno, "global statement"
        if isinstance(node, ast.Call):
            yield from _forbidden_call(node, in_modules, in_tests)


def _forbidden_call(node: ast.Call, in_modules: bool, in_tests: bool) -> Iterator[tuple[int, str]]:
    name = dotted(node.func)
    given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
    if given.get("shell") is True or name in {"os.system", "os.popen"}:
        yield node.lineno, "a shell string; give an argument list"
    if name == "torch.load" and given.get("weights_only") is not True:
        yield node.lineno, "torch.load without weights_only=True"
    if given.get("allow_pickle") is True:
        yield node.lineno, "allow_pickle=True"
    if name == "print" and in_modules:
        yield node.lineno, "print in modules"
    if name in {"eval", "exec"} and not in_tests:
        yield node.lineno, name


def tool_of(name: str) -> str:
    """The tool that a dotted name, with or without an imported member at its end, belongs to."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("place", EVERYTHING)
def test_every_file_keeps_the_rules(place: str) -> None:
    assert violations(place, (ROOT / place).read_text(encoding="utf-8")) == []


BROKEN = [
    ("modules/audio/io.py", "import gradio"),
    ("tools/slice.py", "from gradio import Blocks"),
    ("tools/slice.py", "import subprocess"),
    ("modules/audio/io.py", "from subprocess import run"),
    ("modules/audio/io.py", "import argparse"),
    ("modules/audio/io.py", "print('x')"),
    ("modules/audio/io.py", "import os\nos.environ['A'] = 'b'"),
    ("modules/audio/io.py", "from os import getenv"),
    ("modules/audio/io.py", "from tools.jobs import start"),
    ("modules/audio/io.py", "from . import loudness"),
    ("modules/audio/io.py", "from tests import tiny"),
    ("modules/gpt/model.py", "from modules.vits2.model import VITS2"),
    ("modules/gpt/model.py", "from modules import vits2"),
    ("modules/vits2/model.py", "import modules.gpt.model"),
    ("modules/training/loop.py", "from modules.gpt import model"),
    ("modules/corpus/texts.py", "from modules.gpt.model import A\nfrom modules.vits2.model import B"),
    ("modules/data/store.py", "from modules.inference.voice import Voice"),
    ("tools/slice.py", "from tools.extract import main"),
    ("tools/slice.py", "from tools import extract"),
    ("tools/running.py", "from tools.slice import main"),
    ("tools/flags.py", "import tools.report"),
    ("tools/webui/app.py", "import tools.extract"),
    ("tools/webui/app.py", "from tools.running import run_step"),
    ("webui.py", "from tools.extract import main"),
    ("tools/setup_environment.py", "import torch"),
    ("tools/slice.py", "import sys\nsys.path.append('x')"),
    ("tests/test_x.py", "import sys\nsys.path.insert(0, 'x')"),
    ("tools/jobs.py", "import subprocess\nsubprocess.run('x', shell=True)"),
    ("tools/slice.py", "import os\nos.system('x')"),
    ("modules/checkpoint.py", "import torch\ntorch.load('x')"),
    ("modules/checkpoint.py", "import torch\ntorch.load('x', weights_only=False)"),
    ("modules/checkpoint.py", "import pickle"),
    ("modules/checkpoint.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
    ("modules/checkpoint.py", "try:\n    a = 1\nexcept:\n    pass"),
    ("modules/checkpoint.py", "def f():\n    global a\n    a = 1"),
    ("modules/checkpoint.py", "eval('1')"),
]


@pytest.mark.parametrize(("place", "source"), BROKEN)
def test_each_rule_sees_what_breaks_it(place: str, source: str) -> None:
    assert violations(place, source)


ALLOWED = [
    ("webui.py", "import argparse, os\nimport gradio\nfrom tools.webui.app import build\nprint(os.environ)"),
    ("tools/webui/training_tab.py", "import gradio as gr\nfrom tools.jobs import start\nfrom tools import jobs"),
    ("tools/train_gpt.py", "import argparse\nfrom modules.gpt.model import A\nfrom tools.jobs import start"),
    ("tools/slice.py", "from tools.flags import add_options\nfrom tools.running import run_step"),
    ("modules/inference/synthesizer.py", "from modules.gpt.model import A\nfrom modules.vits2.model import B"),
    ("modules/gpt/train.py", "from modules.training.loop import train\nfrom modules.speech.s3 import T"),
    ("modules/checkpoint.py", "import torch\ntorch.load('x', weights_only=True)\nmodel.eval()"),
    ("tools/jobs.py", "import subprocess\nsubprocess.Popen(['x'])"),
]


@pytest.mark.parametrize(("place", "source"), ALLOWED)
def test_what_is_allowed_passes(place: str, source: str) -> None:
    assert violations(place, source) == []


def test_the_rooms_of_modules_have_an_order() -> None:
    """No two rooms need each other, not even by way of a third."""
    needs: dict[str, set[str]] = {}
    for place in PROGRAM:
        room = room_of(place)
        if not room:
            continue
        tree = ast.parse((ROOT / place).read_text(encoding="utf-8"))
        needs.setdefault(room, set()).update(room_of(name + ".x") for name, _ in imports(tree))
    graph = {room: others - {room, ""} for room, others in needs.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(f"rooms that need each other: {' -> '.join(cycle.args[1])}")


IMPORT_ALL = """
import importlib, socket, sys
def refuse(*args, **kwargs):
    raise RuntimeError("importing a module reached for the network")
socket.socket.connect = socket.getaddrinfo = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)
import torch
assert not torch.cuda.is_initialized(), "importing a module started CUDA"
assert "gradio" not in sys.modules, "importing a module loaded gradio"
"""


def test_importing_modules_needs_no_network_no_gpu_and_is_silent() -> None:
    names = [PurePosixPath(p).with_suffix("").as_posix().replace("/", ".") for p in PROGRAM if p.startswith("modules/")]
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout == ""
