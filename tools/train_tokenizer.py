"""Train a tokenizer: of speech (S3) from labelled corpora, or of text (byte-level BPE) from their sentences.

python -m tools.train_tokenizer speech --corpus A --corpus B --output logs/s3 --max-minutes 30
python -m tools.train_tokenizer text --corpus A --corpus B --output pretrained_models/nano/tokenizer.json
"""

import argparse
import functools
import json
import shutil
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from modules.audio.augmentation import EFFECTS, AugmentOptions
from modules.config import load_preset, to_dict
from modules.corpus.phones import label_inventory
from modules.data.batching import LengthBuckets, Loader
from modules.data.dropping import read_dropped
from modules.data.store import FeatureStore
from modules.errors import Stopped
from modules.progress import StepProgress
from modules.runtime import pick_device, seed_everything, set_threads
from modules.speech.dataset import BUCKET_TOKENS, RecognitionDataset, balanced_weights, collate
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import TokenizerStage, load_tokenizer, relabel
from modules.text.spoken import spoken_text
from modules.text.tokenizer import TextTokenizer
from modules.training.loop import LoopConfig, train
from tools.flags import add_small_training, share
from tools.running import run_step

MOST_REPEATS = 8


def main(argv: list[str] | None = None) -> int:
    """Run one of the two trainings; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(train_speech if arguments.kind == "speech" else train_text, arguments)
    stopped = "stopped; run it again (speech: with --resume) to go on"
    return run_step(work, arguments.job, stopped=stopped, finishes=arguments.kind == "speech")


def train_text(arguments: argparse.Namespace, progress: StepProgress) -> None:
    """Learn BPE merges from the training sentences of the corpora, every language about as heavy as the largest."""
    steps = len(arguments.corpus) + 1
    preset = load_preset(arguments.preset)
    by_language: dict[str, list[str]] = {}
    for number, path in enumerate(arguments.corpus):
        progress.update(number, steps, f"reading {path}")
        if progress.should_stop():
            raise Stopped
        store = FeatureStore(path)
        for text, split, language in zip(*(store.column(c) for c in ("text", "split", "language")), strict=True):
            if split == "train" and (not arguments.language or language in arguments.language):
                by_language.setdefault(language, []).append(spoken_text(text))
    texts = [text for language in sorted(by_language) for text in sorted(by_language[language])]
    balanced = balance_languages(by_language)
    progress.update(steps - 1, steps, "learning the units")
    tokenizer = TextTokenizer.train(balanced, preset.text.vocab_size, preset.text.max_token_length)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(arguments.output)
    units = sum(len(tokenizer.encode(t)) for t in texts[:2000]) / max(1, sum(len(t) for t in texts[:2000]))
    print(f"{len(texts)} sentences, {tokenizer.size} ids, {units:.2f} ids per character: {arguments.output}")
    progress.update(steps, steps, files=[arguments.output])
    progress.finish({"weights": [arguments.output], "sentences": len(texts), "ids": tokenizer.size})


def balance_languages(texts: dict[str, list[str]], most: int = MOST_REPEATS) -> list[str]:
    """Sentences of all languages, those of a small language repeated until it holds about as many characters as the
    largest, `most` times at most: else the merges go to the language with the most text."""
    characters = {language: sum(map(len, sentences)) for language, sentences in texts.items()}
    largest = max(characters.values(), default=0)
    balanced = []
    for language in sorted(texts):
        repeats = min(most, max(1, round(largest / max(1, characters[language]))))
        balanced += sorted(texts[language]) * repeats
    return balanced


def train_speech(arguments: argparse.Namespace, progress: StepProgress) -> None:
    """Train the semantic tokenizer with its recognition head. Raises Stopped, after saving."""
    if arguments.threads:
        set_threads(arguments.threads)
    seed_everything(arguments.seed)
    device = pick_device(arguments.device)
    preset = load_preset(arguments.preset)
    stores = [FeatureStore(path) for path in arguments.corpus]
    model = _model(arguments, preset, stores).to(device)
    options = AugmentOptions().scaled(arguments.augment).without(arguments.without_effect)
    drop = frozenset().union(*map(read_dropped, arguments.drop))
    dataset = RecognitionDataset(
        stores, model.labels, "train", model.sample_rate, arguments.max_seconds, augment=options, drop=drop
    )
    tokens = np.ceil(np.array(dataset.seconds) * model.frame_rate).astype(int)
    sampler = LengthBuckets(
        tokens,
        budget=int(arguments.batch_seconds * model.frame_rate),
        max_batch=96,
        seed=arguments.seed,
        multiple=BUCKET_TOKENS,
        weights=balanced_weights(dataset, arguments.recorded_share),
    )
    loader = Loader(dataset, sampler, functools.partial(collate, samples_per_token=model.samples_per_token))
    stage = TokenizerStage(model, _validation(stores, model, device), arguments.learning_rate, preset.name)
    config = LoopConfig(
        max_steps=arguments.max_steps,
        max_minutes=arguments.max_minutes,
        learning_rate=arguments.learning_rate,
        warmup_steps=100,
        ema_decay=0.995,
        save_every_steps=10**9,
        save_every_minutes=5,
        validate_every_steps=arguments.validate_every,
        seed=arguments.seed,
        precision="auto",
    )
    result = train(
        stage,
        loader,
        config,
        arguments.output,
        resume=arguments.resume,
        device=device,
        should_stop=progress.should_stop,
        run_config={"tokenizer": to_dict(preset.tokenizer), "labels": list(model.labels)},
        on_event=progress.pass_on,
    )
    print(f"step {result.step}, stopped by {result.stopped_by}, {json.dumps(result.validation)}")
    weights = list(result.weights)
    if arguments.weights_out:
        arguments.weights_out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.output / "s3.safetensors", arguments.weights_out)
        weights.append(arguments.weights_out)
    if result.stopped_by == "stop":
        raise Stopped
    progress.finish({**asdict(result), "weights": weights})


def _model(arguments: argparse.Namespace, preset, stores) -> SemanticTokenizer:
    labels = tuple(label_inventory(stores))
    if arguments.init:
        return relabel(load_tokenizer(arguments.init, with_recogniser=True), labels).train()
    return SemanticTokenizer(preset.tokenizer, labels)


def _validation(stores, model: SemanticTokenizer, device: torch.device, per_group: int = 48) -> list:
    """A batch per (source, language) of the dev split for the languages with enough clips."""
    dataset = RecognitionDataset(stores, model.labels, "dev", model.sample_rate, 8.0, augment=False)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, (source, language) in enumerate(zip(dataset.sources, dataset.languages, strict=True)):
        groups[f"{source}_{language}"].append(index)
        groups[f"{source}_all"].append(index)
    batches = []
    rng = np.random.default_rng(0)
    for name, rows in sorted(groups.items()):
        if name.startswith("synthetic_all") or (name.startswith("recorded") and not name.endswith("_all")):
            continue
        chosen = rng.permutation(rows)[:per_group]
        items = [dataset.get(int(i), np.random.default_rng(int(i))) for i in chosen]
        batches.append((name, collate(items, model.samples_per_token).to(device)))
    return batches


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.train_tokenizer", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=("speech", "text"))
    parser.add_argument("--corpus", type=Path, action="append", required=True, help="corpus store; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="speech: run folder; text: tokenizer.json")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--language", action="append", help="text: only these languages")
    parser.add_argument("--init", type=Path, help="speech: start from these weights")
    parser.add_argument("--weights-out", type=Path, help="speech: copy the final weights here")
    parser.add_argument("--batch-seconds", type=float, default=100.0)
    parser.add_argument("--max-seconds", type=float, default=9.0, help="longer clips are left out")
    parser.add_argument("--recorded-share", type=float, default=0.6, help="share of recordings among the drawn clips")
    parser.add_argument(
        "--augment", type=share, default=1.0, help="speech: how often clips are degraded, 0 (never) to 1 (as tuned)"
    )
    parser.add_argument(
        "--without-effect", action="append", default=[], choices=EFFECTS, help="speech: leave one out; may be repeated"
    )
    parser.add_argument(
        "--drop", type=Path, action="append", default=[], metavar="REPORT",
        help="speech: leave out the clips that this report of tools.corpus clean lists; may be repeated",
    )  # fmt: skip
    add_small_training(parser, validate_every=300)
    return parser


if __name__ == "__main__":
    sys.exit(main())
