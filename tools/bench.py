"""Measure how quick this program is on this machine, with what it is compared with measured in the same run.

python -m tools.bench                                everything, about ten minutes
python -m tools.bench --quick --json bench.json      a look at everything within a minute
python -m tools.bench --parts gpt,growth --seed 1

See docs/benchmarks.md for what the figures mean.
"""

import argparse
import functools
import http.client
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from modules.data.sources import clean_path
from modules.paths import PRETRAINED_MODELS, PROJECT_ROOT
from modules.progress import StepProgress
from tools.jobs import Job, JobStore
from tools.running import run_step, write_found

if TYPE_CHECKING:
    import torch

    from modules.evaluation.bench.measured import Measured
    from modules.evaluation.bench.run import Run
    from modules.evaluation.bench.workshop import Workshop
    from modules.evaluation.results import Table

PARTS = {
    "start": "seconds until the page answers",
    "memory": "growth of the process over many requests of nano",
    "nano": "the shipped nano from text to sound: real-time factor and first sound",
    "decoder": "iSTFT head against HiFi-GAN, and whole decoders",
    "base": "the preset of full size with random weights from text to sound",
    "batch": "sentences spoken together against one by one",
    "gpt": "tokens a second of the language model, the plain loop beside it, and what memory allows",
    "growth": "cost of a step at a short and at a long history",
}
"""What is measured, in the order of a run."""
DEVICES = ("auto", "cpu", "cuda")
FAILED_EXIT = 1
POLL_SECONDS, PATIENCE_SECONDS = 0.02, 180.0
# What a job is started with ends in `--job FOLDER`, which the page does not know.
_RUN_PAGE = "import runpy, sys; sys.argv[:] = sys.argv[1:-2]; runpy.run_path(sys.argv[0], run_name='__main__')"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse flags, measure, print; 0 done, 1 a part failed, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    # The tables themselves go to the standard output, and nothing else does.
    say = functools.partial(print, file=sys.stderr, flush=True)
    failed: list[str] = []
    code = run_step(functools.partial(_run, arguments, failed), None, stopped="stopped", say=say)
    return code or (FAILED_EXIT if failed else 0)


def _run(arguments: argparse.Namespace, failed: list[str], progress: StepProgress) -> None:
    # Heavy imports after the flags are checked, so that a typo is told at once.
    import torch

    from modules.config import load_preset
    from modules.evaluation.bench.effort import FULL, QUICK
    from modules.evaluation.bench.run import MEASURES, Run, ordered
    from modules.evaluation.bench.workshop import Workshop
    from modules.runtime import seed_everything

    seed_everything(arguments.seed)
    workshop = Workshop(
        _device(arguments.device, torch.cuda.is_available()),
        load_preset(arguments.preset),
        QUICK if arguments.quick else FULL,
        arguments.seed,
        arguments.models,
        should_stop=progress.should_stop,
    )
    run = Run(workshop, ordered(arguments.parts, {"start": measure_start} | MEASURES), quick=arguments.quick)
    try:
        for number, name in enumerate(run.parts_in_turn()):
            progress.update(number, len(run.parts), name)
    finally:  # what was measured before a stop is not lost
        found = run.document()
        if arguments.json:
            write_found(clean_path(arguments.json), found)
    print("\n".join(_report(run, found)))
    failed.extend(run.errors)
    progress.finish(found)


def part_list(text: str) -> tuple[str, ...]:
    """The value of `--parts`; empty text means all. Raises argparse's own error for a part that there is not."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part {name}; choose some of {', '.join(PARTS)}")
    return names or tuple(PARTS)


def _device(name: str, has_card: bool) -> "torch.device":
    """ "auto" is a card or the processor: nothing here waits for other devices to be done."""
    from modules.runtime import pick_device

    return pick_device(name if name != "auto" else "cuda" if has_card else "cpu")


def measure_start(workshop: "Workshop", program: Path = PROJECT_ROOT / "webui.py") -> "Measured":
    """Part "start": the page is started as a process of its own, answers, and is ended."""
    from modules.evaluation.bench.measured import Measured, figure
    from modules.evaluation.bench.timing import Spread
    from modules.evaluation.results import Table

    taken = [_start_page(program) for _ in range(workshop.effort.starts)]
    wall, cpu = (Spread.of([one[place] for one in taken]) for place in (0, 1))
    values = {
        "page_start_seconds": wall.median, "page_start_seconds_low": wall.low, "page_start_seconds_high": wall.high,
        "page_start_cpu_seconds": cpu.median, "starts": wall.rounds,
    }  # fmt: skip
    row = (figure(wall.median), f"{figure(wall.low)}-{figure(wall.high)}", figure(cpu.median), wall.rounds)
    note = "From the start of the process until / answers with 200; processor seconds of all its processes until then."
    table = Table("Start of the page", ("seconds", "lowest-highest", "processor seconds", "starts"), (row,), note)
    return Measured(values, (table,), {"page_start_seconds": wall.median})


def _start_page(program: Path) -> tuple[float, float]:
    """Wall and processor seconds until the page answers. Its folders are its own, so that no job of a person goes on in
    it, and are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as place:
        port = _free_port()
        flags = ["--no-browser", "--port", str(port), "--logs", f"{place}/logs", "--output", f"{place}/output"]
        store = JobStore(Path(place) / "jobs", (sys.executable, "-c", _RUN_PAGE))
        begun = time.perf_counter()
        job = store.start("page", str(program), flags, "page", "light")
        try:
            _wait_for_answer(job, port, begun + PATIENCE_SECONDS)
            return time.perf_counter() - begun, _processor_seconds(job.config().pid)
        finally:
            job.stop(grace_seconds=0.0)
            store.close()


def _wait_for_answer(job: Job, port: int, until: float) -> None:
    """Ask for / until it is answered.

    Raises:
        RuntimeError: the process has ended, or there is no answer in time.
    """
    page = job.config().pid
    while time.perf_counter() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # nobody listens yet
        finally:
            connection.close()
        if not psutil.pid_exists(page):  # to ask the job takes seconds while it runs
            raise RuntimeError(f"the page has ended: {' '.join(job.log_tail())}")
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the page has not answered within {PATIENCE_SECONDS:g} s")


def _processor_seconds(pid: int) -> float:
    leader = psutil.Process(pid)
    spent = [process.cpu_times() for process in (leader, *leader.children(recursive=True))]
    return sum(times.user + times.system for times in spent)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _report(run: "Run", found: dict[str, Any]) -> list[str]:
    """All that was measured, as lines for people."""
    from modules.evaluation.bench.measured import figure
    from modules.evaluation.bench.run import HEADLINES
    from modules.evaluation.results import Table

    machine = found["machine"]
    tables = [
        Table(
            "Benchmark" + (", a quick look" if run.quick else ""),
            ("figure", "value"),
            tuple((name, figure(found[name])) for name in HEADLINES),
            f"{machine['processor']}, {machine['usable_cores']} cores, {machine['torch_threads']} threads, "
            f"{machine['device_name']}, load average {figure(machine['load_average_at_start'])} to "
            f"{figure(machine['load_average_at_end'])}, others kept {figure(machine['others_busy_cores'])} cores busy, "
            f"{figure(machine['run_seconds'])} s, seed {found['seed']}.",
        )
    ]
    tables += [table for part in run.measured.values() for table in part.tables]
    lines = [line for table in tables for line in [*aligned(table), ""]]
    return [*lines, *(f"FAILED {name}: {error}" for name, error in run.errors.items())]


def aligned(table: "Table") -> list[str]:
    """A table in GitHub's markdown whose columns stand below each other."""
    rows = [table.header, *(tuple(map(str, row)) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    lines = [line([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows]
    lines.insert(1, line(["-" * width for width in widths]))
    return [f"### {table.title}", "", *lines, *(["", table.note] if table.note else [])]


def _parser() -> argparse.ArgumentParser:
    parts = "; ".join(f"{name}: {told}" for name, told in PARTS.items())
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="everything within a minute: fewer rounds, smaller counts")
    parser.add_argument(
        "--parts", type=part_list, default="", metavar="A,B", help=f"some parts only, with commas between ({parts})"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute (default auto)")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of what is spoken (default 0)")
    parser.add_argument("--preset", default="base", help="the preset of full size, or a JSON file that holds one")
    parser.add_argument(
        "--models", type=Path, default=PRETRAINED_MODELS, metavar="FOLDER", help="holds the folder of the preset nano"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all figures here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
