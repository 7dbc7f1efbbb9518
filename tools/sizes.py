"""Say how large a preset is, and what a training step of each of its stages costs.

python -m tools.sizes --preset base
python -m tools.sizes --preset my-preset.json --steps 3 --device cuda --json sizes.json
"""

import argparse
import functools
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modules.config import load_preset
from modules.data.sources import clean_path
from modules.evaluation.costs.sizing import PartSize, part_sizes, totals
from modules.evaluation.costs.step_cost import BatchShape, StepCost, measure_matmul_rate, measure_steps
from modules.progress import StepProgress
from modules.runtime import bf16_supported, device_label, pick_device, seed_everything, set_threads
from tools.flags import add_options, options_from
from tools.running import run_step, write_found


def main(argv: list[str] | None = None) -> int:
    """Parse flags, count, measure, print; 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    # The tables themselves go to the standard output, and nothing else does.
    say = functools.partial(print, file=sys.stderr, flush=True)
    return run_step(functools.partial(_run, arguments), arguments.job, stopped="stopped", say=say)


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    preset, shape = load_preset(arguments.preset), options_from(arguments, BatchShape)
    sizes = part_sizes(preset)
    found: dict[str, Any] = {"preset": preset.name, "parts": [s.row() for s in [*sizes, *totals(sizes)]]}
    lines = size_table(sizes)
    if arguments.steps > 0:
        set_threads(arguments.threads)
        device = pick_device(arguments.device)
        seed_everything(0)
        rate = measure_matmul_rate(device) if device.type == "cuda" else None
        costs = measure_steps(
            preset, shape, arguments.steps, device, matmul_rate=rate,
            on_progress=progress.update, should_stop=progress.should_stop,
        )  # fmt: skip
        precision = "bf16" if bf16_supported(device) else "float32"
        found |= {
            "device": device_label(device),
            "precision": precision,
            "shape": asdict(shape),
            "matmul_tflops": rate / 1e12 if rate else None,
            "steps": [cost.row() for cost in costs],
        }
        measured = f", bf16 matrix products {rate / 1e12:.0f} TFLOP/s" if rate else ""
        lines += ["", f"training steps on {device_label(device)}, {precision}{measured}", *cost_table(costs)]
    if arguments.json:
        write_found(clean_path(arguments.json), found)
    print("\n".join(lines))
    progress.finish(found)


def size_table(sizes: list[PartSize]) -> list[str]:
    """The parts of a preset and their sums as lines for people."""
    lines = [f"{'model':15}{'part':24}{'trainable':>14}{'frozen':>14}{'float32 MiB':>13}{'float16 MiB':>13}"]
    for size in [*sizes, *totals(sizes)]:
        row = size.row()
        lines.append(
            f"{size.model:15}{size.part:24}{size.trainable:14,}{size.frozen:14,}"
            f"{row['float32_mib']:13.1f}{row['float16_mib']:13.1f}"
        )
    return lines


def cost_table(costs: list[StepCost]) -> list[str]:
    """Seconds, memory and arithmetic of a step as lines for people."""
    lines = [f"{'stage':27}{'seconds':>9}{'peak MiB':>10}{'GFLOP':>10}{'of chip':>9}  batch"]
    for cost in costs:
        share = f"{100 * cost.chip_share:.1f} %" if cost.chip_share is not None else "-"
        lines.append(
            f"{cost.stage:27}{cost.seconds:9.3f}{cost.memory_mib:10.0f}{cost.gflop:10.1f}{share:>9}  {cost.shape}"
        )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.sizes", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="nano", help="name of a preset, or a JSON file that holds one")
    parser.add_argument("--steps", type=int, default=0, help="training steps to time for each stage; 0 = count only")
    parser.add_argument("--device", default="auto", help="where to train: auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = as many as there are cores")
    parser.add_argument("--json", metavar="FILE", help="also write all numbers here")
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )
    add_options(parser.add_argument_group("the batches that are tried"), BatchShape)
    return parser


if __name__ == "__main__":
    sys.exit(main())
