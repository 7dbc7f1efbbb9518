"""Speak a text in the voice of one or several recordings.

python -m tools.synthesize --reference A.wav --text "Hello there." --output out.wav
python -m tools.synthesize --reference A.wav --text "Hello there." --stream | aplay -f S16_LE -r 32000
python -m tools.synthesize --preset base --random-weights --reference A.wav --text "Hello there." --json
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UserError
from modules.inference.options import SpeakOptions
from modules.paths import PRETRAINED_MODELS
from modules.precision import PRECISIONS
from modules.text.sentences import CUTS, split_text

if TYPE_CHECKING:
    from modules.evaluation.costs.part_cost import PartCost
    from modules.inference.options import Segment
    from modules.inference.synthesizer import Synthesizer
    from modules.inference.voice import Voice

OPTIONS = {spec.name: spec for spec in dataclasses.fields(SpeakOptions)}
NUMBERS = {
    "--speed": "speed",
    "--pause": "pause_seconds",
    "--top-k": "top_k",
    "--top-p": "top_p",
    "--temperature": "temperature",
    "--repetition-penalty": "repetition_penalty",
    "--guidance": "guidance",
    "--noise-scale": "noise_scale",
}
"""Flag -> the choice that it stands for, with its default, bounds and help."""
RANDOM_SECONDS = 5.0
"""Length of a sentence of random weights, which end it by chance alone."""
EXIT_USER_ERROR = 2
EXIT_STOPPED = 130


def build_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.synthesize", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--reference",
        action="append",
        required=True,
        metavar="FILE",
        help="recording of the voice; repeat to blend voices",
    )
    parser.add_argument(
        "--weight", action="append", type=float, metavar="X", help="weight of each reference, in order; default equal"
    )
    parser.add_argument(
        "--reference-text",
        action="append",
        metavar="TEXT",
        help="what is said in each reference, in order; '' if unknown",
    )
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help="text to speak, any language or mixture")
    text.add_argument("--text-file", type=Path, metavar="FILE", help="UTF-8 file with the text")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.wav", help="16-bit wav; its settings go beside it as .json"
    )
    parser.add_argument(
        "--preset",
        default="nano",
        help="name of the model folder in pretrained_models/ (default nano), or a preset of one's own, NAME.json",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="build --preset in full size with random weights, to see what this machine carries; it speaks noise",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="X",
        help="length of every sentence, wherever the model would end it (default with --random-weights: 5)",
    )
    parser.add_argument(
        "--text-precision",
        default="float32",
        choices=("float32", "bf16", "int8"),
        help="of the text encoder on a CPU, for presets that have one (default float32)",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="of the language model's weights while it speaks; auto: int8 on a CPU (large models int4), bf16 on a GPU "
        "(default auto)",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write the sound to standard output while it is made: raw 16-bit little-endian PCM, mono, 32 kHz",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="another model folder")
    parser.add_argument(
        "--encoders",
        type=Path,
        metavar="FOLDER",
        help="holds the downloaded encoders (default: beside the model folder, else pretrained_models/)",
    )
    parser.add_argument("--gpt", type=Path, metavar="FILE", help="own weights of the language model (GPT_weights/...)")
    parser.add_argument("--vits2", type=Path, metavar="FILE", help="own weights of the decoder (SoVITS_weights/...)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    parser.add_argument("--seed", type=int, help="same seed, same sound; default drawn and reported")
    parser.add_argument("--cut", default="auto", choices=CUTS, help="how the text is cut (default auto)")
    _add_numbers(parser)
    parser.add_argument(
        "--no-fuse-gpt", action="store_true", help="prompt the language model with the heaviest reference alone"
    )
    parser.add_argument(
        "--no-fuse-decoder", action="store_true", help="take the timbre of the heaviest reference alone"
    )
    parser.add_argument(
        "--no-guards",
        action="store_true",
        help="take every sentence as it comes: no bounds on its length, nothing cut, nothing spoken again",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON instead of words; to standard error with --stream"
    )
    return parser


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    """A flag for each number of `SpeakOptions`, with its bounds."""
    for flag, option in NUMBERS.items():
        spec = OPTIONS[option]
        bounds = f"{spec.metadata['low']:g} to {spec.metadata['high']:g}, default {spec.default}"
        parser.add_argument(
            flag,
            dest=option,
            type=type(spec.default),
            default=spec.default,
            metavar="X",
            help=f"{spec.metadata['help']} ({bounds})",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_STOPPED


def run(arguments: argparse.Namespace) -> int:
    """Load, speak, write the wav and its sidecar, report."""
    text = _text(arguments)
    split_text(text, arguments.cut)  # refuses text that cannot be spoken before anything is loaded
    weights, texts = _per_reference(arguments)
    output = _checked_output(arguments)
    if arguments.stream and sys.stdout.isatty():
        raise UserError(
            "stream_terminal",
            "--stream writes raw sound to standard output, and that is a terminal; send it on to a player or a file, "
            "for example: | aplay -f S16_LE -r 32000",
        )
    # Heavy imports after the cheap checks, so that a typo is told at once and Ctrl-C is clean from the start.
    from modules.audio.io import write
    from modules.checkpoint import write_atomic
    from modules.inference.voice import Voice, load_reference

    options = _options(arguments)
    synthesizer, costs, model = _load(arguments)
    audio = synthesizer.preset.audio
    references = [
        load_reference(path, said, weight, audio)
        for path, said, weight in zip(arguments.reference, texts, weights, strict=True)
    ]
    voice = Voice(tuple(references))
    _say(arguments, *(f"{reference.name}: {note}" for reference in references for note in reference.notes))
    segments, times, interrupted = _speak(arguments, synthesizer, voice, text, options)
    wav = synthesizer.join(segments, options.pause_seconds)
    report = _report(synthesizer, segments, len(wav) / synthesizer.sample_rate, times)
    if costs:
        report["device"] = str(synthesizer.device)
        report["parts"] = [cost.row() for cost in costs]
    if output is not None:
        write(output, wav, synthesizer.sample_rate)
    sidecar = {
        "text": text,
        "references": [
            {"file": str(Path(file).resolve()), "text": said, "weight": weight, "content_hash": reference.content_hash}
            for file, said, weight, reference in zip(arguments.reference, texts, weights, references, strict=True)
        ],
        "options": {**dataclasses.asdict(options), "seed": synthesizer.used_seed},
        "model": model | {"preset": synthesizer.preset.name, "hashes": synthesizer.hashes},
        "complete": not interrupted,
        **report,
    }
    if output is not None:
        write_atomic(output.with_suffix(".json"), json.dumps(sidecar, ensure_ascii=False, indent=2).encode("utf-8"))
    told = sys.stderr if arguments.stream else sys.stdout
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False), file=told)
    else:
        print("\n".join(_cost_table(costs)), end="\n" if costs else "", file=told)
        place = f"{output}: " if output is not None else ""
        seconds, seed = report["seconds"], synthesizer.used_seed
        print(f"{place}{seconds:.1f} s of speech in {times[1]:.1f} s, seed {seed}", file=told)
    if interrupted:
        print("stopped" + ("; the finished sentences were written" if output else ""), file=sys.stderr)
    return EXIT_STOPPED if interrupted else 0


def _load(arguments: argparse.Namespace) -> tuple["Synthesizer", list["PartCost"], dict[str, Any]]:
    """What speaks, the costs of its parts where they are watched, and where it came from."""
    from modules.config import load_preset
    from modules.inference.synthesizer import Synthesizer

    if not arguments.random_weights:
        own = load_preset(arguments.preset) if arguments.preset.endswith(".json") else None
        folder = arguments.model or PRETRAINED_MODELS / (own.name if own else arguments.preset)
        synthesizer = Synthesizer.load(
            folder,
            device=arguments.device,
            gpt=arguments.gpt,
            vits2=arguments.vits2,
            text_precision=arguments.text_precision,
            precision=arguments.precision,
            encoders=arguments.encoders,
            preset=own,
        )
        return synthesizer, [], {"folder": str(folder)}
    from modules.evaluation.costs.part_cost import watched
    from modules.inference.random_parts import random_parts
    from modules.runtime import pick_device

    preset = load_preset(arguments.preset)
    precisions = {"text_precision": arguments.text_precision, "precision": arguments.precision}
    parts, costs = watched(random_parts(preset, pick_device(arguments.device), **precisions))
    return Synthesizer(parts), costs, {"folder": None, "random_weights": True}


def _cost_table(costs: list["PartCost"]) -> list[str]:
    """The costs of the parts as lines for people."""
    if not costs:
        return []
    lines = [f"{'part':18}{'numbers':>14}{'float32 MiB':>13}{'seconds':>9}{'peak MiB':>10}{'calls':>7}"]
    for cost in costs:
        lines.append(
            f"{cost.part:18}{cost.parameters:14,}{cost.row()['float32_mib']:13.0f}{cost.seconds:9.2f}"
            f"{cost.peak_mib:10.0f}{cost.calls:7}"
        )
    return lines


def _options(arguments: argparse.Namespace) -> SpeakOptions:
    return SpeakOptions(
        **{option: getattr(arguments, option) for option in NUMBERS.values()},
        cut=arguments.cut,
        seed=arguments.seed,
        fuse_gpt=not arguments.no_fuse_gpt,
        fuse_decoder=not arguments.no_fuse_decoder,
        guards=not arguments.no_guards,
        forced_seconds=arguments.seconds or (RANDOM_SECONDS if arguments.random_weights else 0.0),
    )


def _speak(
    arguments: argparse.Namespace, synthesizer: "Synthesizer", voice: "Voice", text: str, options: SpeakOptions
) -> tuple[list["Segment"], tuple[float, float], bool]:
    """Segments, seconds until the first and until the last of them, and whether Ctrl-C ended it.

    Raises:
        KeyboardInterrupt: before the first sentence was finished.
    """
    start = time.perf_counter()
    segments, first, interrupted = [], 0.0, False
    try:
        for segment in (
            _stream(synthesizer, voice, text, options) if arguments.stream else synthesizer.speak(voice, text, options)
        ):
            first = first or time.perf_counter() - start
            if segment is None:
                continue
            segments.append(segment)
            if not arguments.json:
                place = f"{segment.index + 1}/{segment.total}"
                again = f"(try {segment.retries + 1}) " if segment.retries else ""
                line = f"{place}  {segment.seconds:5.2f} s  {segment.stopped_by:5}  {again}{segment.text}"
                print(line, file=sys.stderr if arguments.stream else sys.stdout)
    except KeyboardInterrupt:
        interrupted = True
        if not segments:
            raise
    except BrokenPipeError:  # the player was closed: that is how a listener stops
        interrupted = True
        _close_output()
        if not segments:
            raise KeyboardInterrupt from None
    return segments, (first, time.perf_counter() - start), interrupted


def _stream(
    synthesizer: "Synthesizer", voice: "Voice", text: str, options: SpeakOptions
) -> Iterator["Segment | None"]:  # fmt: skip
    """Write the sound to standard output while it is made; gives each sentence, and None for the chunks within it."""
    from modules.audio.io import to_pcm16

    for chunk in synthesizer.stream(voice, text, options):
        sys.stdout.buffer.write(to_pcm16(chunk.wav).astype("<i2").tobytes())
        sys.stdout.buffer.flush()
        yield chunk.segment


def _close_output() -> None:
    """Let nothing more be written, at exit either, to where nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(
    synthesizer: "Synthesizer", segments: list["Segment"], seconds: float, times: tuple[float, float]
) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "rtf": round(times[1] / max(seconds, 1e-3), 4),
        "first_sound_seconds": round(times[0], 3),
        "sample_rate": synthesizer.sample_rate,
        "seed": synthesizer.used_seed,
        "sentences": [segment.report() for segment in segments],
    }


def _say(arguments: argparse.Namespace, *lines: str) -> None:
    """Remarks for people, kept out of the machine's line."""
    for line in lines:
        if not arguments.json:
            print(line, file=sys.stderr)


def _text(arguments: argparse.Namespace) -> str:
    if arguments.text is not None:
        return arguments.text
    try:
        return arguments.text_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as cause:
        raise UserError(
            "text_file_not_utf8", "{file} is not UTF-8 text; save it as UTF-8.", file=str(arguments.text_file)
        ) from cause
    except OSError as cause:
        raise UserError(
            "text_file_missing", "The text file {file} cannot be read; check the path.", file=str(arguments.text_file)
        ) from cause


def _per_reference(arguments: argparse.Namespace) -> tuple[list[float], list[str | None]]:
    """Weights and transcripts, one for each reference."""
    count = len(arguments.reference)
    weights = arguments.weight or [1.0] * count
    texts: list[str | None] = list(arguments.reference_text or [None] * count)
    for flag, given in (("--weight", len(weights)), ("--reference-text", len(texts))):
        if given != count:
            raise UserError(
                "count_differs",
                "{flag} was given {given} times for {count} references; give it once for each, in the same order.",
                flag=flag,
                given=given,
                count=count,
            )
    return weights, texts


def _checked_output(arguments: argparse.Namespace) -> Path | None:
    """The output path with its folder made. Found out now, not after minutes of work."""
    path = arguments.output
    if path is None:
        if arguments.random_weights or arguments.stream:
            return None
        raise UserError("output_needed", "Where the sound goes is not said; name a file with --output FILE.wav.")
    if path.suffix.lower() != ".wav":
        raise UserError("output_not_wav", "The output {file} must end in .wav; rename it.", file=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = not path.is_dir()
    except OSError:
        writable = False
    if not writable:
        raise UserError("output_unwritable", "{file} cannot be written; choose another place.", file=str(path))
    return path


if __name__ == "__main__":
    sys.exit(main())
