"""Laws of picking: the rule of choice, the lines, the ears, and one whole small pick with broken weights in it."""

import dataclasses
import json
import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.io import read
from modules.checkpoint import Lineage, load_weights, save_weights
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import Stopped, UserError
from modules.evaluation.picking import lines as picking_lines
from modules.evaluation.picking import panel as picking_panel
from modules.evaluation.picking.choice import Output, Row, choose
from modules.evaluation.picking.ears import Ears, _aligned_distance, likeness
from modules.evaluation.picking.lines import choose_lines
from modules.evaluation.picking.panel import Panel
from modules.evaluation.picking.pick import PickOptions, pick, weight_files
from modules.experiment import Experiment
from modules.inference.parts import load_parts
from modules.paths import PRETRAINED_MODELS
from modules.speech.hearing import load_hearing
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import load_tokenizer, save_tokenizer
from modules.vits2.model import load_vits2
from tests.tiny import build_tiny_model_folder, synthetic_speech, tiny_preset

RATE = 32000


def row(name: str, similarities: list[float], *, failures: int = 0, phone_error: float = 0.3) -> Row:
    """A decoder's row with one output a line; the first `failures` of them failed."""
    outputs = [
        Output(line, 0, similarity, phone_error, 0.6, "silent" if line < failures else "")
        for line, similarity in enumerate(similarities)
    ]
    return Row("vits2", name, outputs=outputs)


def around(mean: float, seed: int, spread: float = 0.05, count: int = 12) -> list[float]:
    return list(mean + spread * np.random.default_rng(seed).standard_normal(count))


def test_the_best_wins_when_it_is_really_better() -> None:
    assert choose([row("", around(0.6, 0)), row("a", around(0.8, 1)), row("b", around(0.7, 2))]) == 1


def test_among_equals_the_built_in_and_then_the_earlier_wins() -> None:
    assert choose([row("", around(0.6, 0)), row("a", around(0.61, 1))]) == 0
    assert choose([row("", around(0.3, 0)), row("a", around(0.8, 1)), row("b", around(0.81, 2))]) == 1
    exact = [0.6] * 12  # surely measured, yet too little to be heard
    assert choose([row("", exact), row("a", [x + 0.005 for x in exact])]) == 0
    assert choose([row("", exact), row("a", [x + 0.05 for x in exact])]) == 1


def test_noise_alone_hardly_ever_favours_a_later_training() -> None:
    later = sum(choose([row(str(i), around(0.7, 10 * seed + i)) for i in range(4)]) > 0 for seed in range(100))
    assert later < 25


def test_differences_are_paired_so_that_hard_lines_are_no_noise() -> None:
    hard = around(0.5, 0, spread=0.3)
    assert choose([row("", hard), row("a", [x + 0.05 for x in hard])]) == 1


def test_failures_lose_against_a_similar_row_and_cost_points() -> None:
    clean, flawed = row("", [0.6] * 12), row("a", [0.7] * 12, failures=1)
    assert flawed.score > clean.score and flawed.failure_rate == pytest.approx(1 / 12)
    assert choose([clean, flawed]) == 0
    assert choose([flawed, clean]) == 1  # also where the flawed one stands first
    assert row("", [0.9] * 12, failures=12).score < row("", [0.1] * 12).score


def test_what_was_not_heard_is_not_chosen() -> None:
    silent = Row("gpt", "b", error="damaged")
    assert silent.failure_rate == 1.0 and silent.score == -math.inf
    assert choose([silent, row("a", [0.1] * 4)]) == 1 and choose([silent, silent]) == 0
    with pytest.raises(ValueError):
        choose([])


def test_a_missing_distance_counts_like_the_worst_one() -> None:
    outputs = [Output(0, 0, 0.5, 0.2, 0.8), Output(1, 0, 0.5, 0.2, math.nan)]
    assert Row("vits2", "", outputs=outputs).score == pytest.approx(0.5 - 0.2 - 0.25 * 0.8)
    assert Row("gpt", "", outputs=[Output(0, 0, 0.0, 1.0, math.nan, "given up")]).score == pytest.approx(-2.0)


def fill(folder: Path, clips: list[tuple[str, str, float]], *, heard: bool = False) -> FeatureStore:
    """A store of (split, speaker, seconds) clips; where they are not `heard`, anything will do for their sound."""
    with StoreWriter(folder) as writer:
        for number, (split, speaker, seconds) in enumerate(clips):
            wav = synthetic_speech(seconds, RATE, 110 if speaker == "low" else 230, number) if heard else np.ones(9)
            text = ("the lazy dog", "a quick brown fox", "jumps over")[number % 3]
            writer.add(
                f"{number:032x}", speaker=speaker, language="en", split=split, text=text, seconds=seconds,
                source="recorded", audio=(wav * 32767).astype(np.int16),
            )  # fmt: skip
    return FeatureStore(folder)


def test_only_held_out_lines_are_heard_each_with_another_clip_of_its_speaker(tmp_path: Path) -> None:
    clips = [("train", "low", 2.6), ("dev", "low", 1.2), ("dev", "high", 1.2), ("train", "high", 1.5)]
    store = fill(tmp_path, [*clips, ("dev", "low", 1.3), ("train", "low", 1.1), ("test", "low", 2.0)])
    found = choose_lines(store, 3, 0)
    assert found.held_out and {line.row for line in found.lines} == {1, 2, 4}
    assert {line.row: line.reference for line in found.lines} == {1: 0, 2: 3, 4: 0}
    assert all(set(line.gallery) == {1, 4, 5} for line in found.lines if line.speaker == "low")
    assert found == choose_lines(store, 3, 0)
    assert len({line.speaker for line in choose_lines(store, 2, 0).lines}) == 2  # speakers take turns


def test_lines_of_the_training_stand_in_and_are_flagged(tmp_path: Path) -> None:
    store = fill(tmp_path / "a", [("train", "low", 1.1)] * 9 + [("dev", "low", 1.2)])
    found = choose_lines(store, 12, 0)
    assert not found.held_out and len(found.lines) == picking_lines.MOST_TRAINED
    assert all(line.reference != line.row for line in found.lines)
    alone = choose_lines(fill(tmp_path / "b", [("train", "low", 1.1)]), 12, 0)
    assert alone.lines[0].reference == alone.lines[0].row  # there is nothing else
    with pytest.raises(UserError) as caught:
        choose_lines(fill(tmp_path / "c", [("test", "low", 1.1)]), 12, 0)
    assert caught.value.code == "pick_no_lines"


def test_few_lines_are_heard_with_several_seeds_and_long_ones_less_often(tmp_path: Path) -> None:
    few = choose_lines(fill(tmp_path / "a", [("dev", "low", 1.1)] * 3), 12, 0).plan
    assert len(few) == len(set(few)) == 12 and {line for line, _ in few} == {0, 1, 2}
    lines = choose_lines(fill(tmp_path / "b", [("dev", "low", 8.5)] * 7), 12, 0)
    heard = [lines.lines[number].seconds for number, _ in lines.plan]
    assert len(heard) >= 2 and sum(heard) <= picking_lines.ROW_SECONDS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


def with_head(models: Path, target: Path, lineage: Lineage) -> None:
    """The recognition head that belongs to a tiny tokenizer, in a folder of its own."""
    whole = SemanticTokenizer(tiny_preset().tokenizer, ("_", "a", "b"))
    whole.load_state_dict(load_tokenizer(models / "s3.safetensors").state_dict(), strict=False)
    whole.recogniser.out.weight.data *= 30  # so that random weights hear something
    save_tokenizer(target / "whole.safetensors", whole, lineage)
    weights = load_weights(target / "whole.safetensors")
    head = {name: tensor for name, tensor in weights.state.items() if name.startswith("recogniser.")}
    save_weights(target / "s3.safetensors", head, weights.config, lineage)


def test_the_recognition_head_is_found_beside_the_models_if_it_is_theirs(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.symlink_to(models, target_is_directory=True)
    (tmp_path / "tiny-training").mkdir()
    assert load_hearing(folder).labels == () and Ears(folder).heard_by == "states"
    with_head(models, tmp_path / "tiny-training", Lineage("tiny", "tokenizer", 5, 5))
    assert load_hearing(folder).labels == ()  # of another training
    with_head(models, tmp_path / "tiny-training", load_weights(models / "s3.safetensors").lineage)
    ears = Ears(folder)
    assert ears.heard_by == "phones" and ears.tokenizer.labels == ("_", "a", "b")
    one, other = (ears.hear(synthetic_speech(1.0, RATE, f0_hz, seed)) for f0_hz, seed in ((110, 0), (230, 5)))
    assert len(one.labels) == 4 and all(1 not in labels for labels in one.labels)  # no pauses
    assert 0 <= ears.phone_error(one, other) <= 1


def test_a_sound_is_nearest_to_itself_at_any_level(models: Path) -> None:
    ears = Ears(models)
    low, high = (synthetic_speech(1.5, RATE, f0_hz, seed) for f0_hz, seed in ((110, 0), (230, 5)))
    assert likeness(ears.voice(low), [ears.voice(0.3 * low)]) == pytest.approx(1, abs=1e-3)
    assert likeness(ears.voice(low), [ears.voice(high)]) < 0.98
    assert ears.mel_distance(0.3 * low, low) < 0.01 < ears.mel_distance(high, low)
    assert ears.phone_error(ears.hear(low), ears.hear(low)) == pytest.approx(0, abs=1e-3)
    assert ears.phone_error(ears.hear(high), ears.hear(low)) > 0.01
    assert ears.codes(low).shape == (37, 2)


def test_alignment_forgives_a_slower_pace_and_not_other_states() -> None:
    states = np.random.default_rng(0).standard_normal((20, 16))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    assert _aligned_distance(states, states) == pytest.approx(0, abs=1e-6)
    assert _aligned_distance(np.repeat(states, 2, 0), states) == pytest.approx(0, abs=1e-6)
    assert _aligned_distance(states[::-1], states) > 0.2


def test_nanos_ears_tell_broken_speech_from_whole(speech_dir: Path | None) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    ears = Ears(PRETRAINED_MODELS / "nano")
    assert ears.heard_by == "phones"
    one, other = (read(speech_dir / "clips" / f"pv_leopard_{name}.flac", RATE).numpy()[:96000] for name in ("de", "es"))
    truth = ears.hear(one)
    noise = one.std() * np.random.default_rng(0).standard_normal(len(one)).astype(np.float32)
    errors = [
        ears.phone_error(ears.hear(wav), truth)
        for wav in (one[160:], np.concatenate([one[:32000], one[56000:]]), one + noise, other)
    ]
    assert min(errors[1:]) > errors[0] + 0.1 and max(errors) == errors[3]
    assert likeness(ears.voice(one[48000:]), [ears.voice(one[:48000])]) > likeness(
        ears.voice(other[48000:]), [ears.voice(one[:48000])]
    )


def test_a_noised_decoder_is_not_chosen(speech_dir: Path | None, tmp_path: Path) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    wav = read(speech_dir / "clips" / "pv_leopard_de.flac", RATE)[:76800].numpy()
    with StoreWriter(tmp_path / "store") as writer:
        for number, split in enumerate(("dev", "dev", "train")):
            pcm = (wav[number * 6400 : number * 6400 + 51200] * 32767).astype(np.int16)
            same = {"speaker": "a", "language": "de", "text": "Der hinter diesem Portal", "seconds": 1.6}
            writer.add(str(number), split=split, audio=pcm, **same)
    store, nano = FeatureStore(tmp_path / "store"), PRETRAINED_MODELS / "nano"
    lines = dataclasses.replace(choose_lines(store, 2, 0), plan=((0, 0), (1, 0)))
    panel = Panel(store, lines, Ears(nano), tmp_path / "wavs", 0)
    parts = load_parts(nano, torch.device("cpu"))
    noised, whole = Row("vits2", "noised"), Row("vits2", "whole")
    panel.hear(whole, parts, lambda row: None, lambda: False)
    # The weights as they are trained: a decoder that only speaks has some of them in tables made in advance.
    spoilt = load_vits2(nano / "vits2.safetensors")
    for parameter in spoilt.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) * parameter.std(correction=0)
    panel.hear(noised, dataclasses.replace(parts, vits2=spoilt.fold()), lambda row: None, lambda: False)
    assert noised.score < whole.score - 0.2 and choose([noised, whole]) == 1


def changed(source: Path, target: Path, change, config=lambda config: config) -> None:
    """A copy of weights with every tensor changed."""
    weights = load_weights(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: change(tensor) if tensor.is_floating_point() else tensor for name, tensor in weights.state.items()}
    save_weights(target, state, config(weights.config), dataclasses.replace(weights.lineage, step=70))


@pytest.fixture
def experiment(models: Path, tmp_path: Path) -> Experiment:
    """Two held-out lines, one of the training, no weights yet."""
    made = Experiment("me", tmp_path / "logs", tmp_path / "gpt", tmp_path / "vits2")
    fill(made.features, [("dev", "low", 1.0)] * 2 + [("train", "low", 1.1)], heard=True)
    return made


@pytest.fixture
def few_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking_lines, "FEWEST_OUTPUTS", 2)


def test_broken_weights_are_told_and_never_chosen(models: Path, experiment: Experiment, few_outputs: None) -> None:
    vits2, gpt = models / "vits2.safetensors", models / "gpt.safetensors"
    changed(vits2, experiment.vits2_file(10, 1), lambda x: x)
    changed(vits2, experiment.vits2_file(20, 2), torch.zeros_like)
    changed(vits2, experiment.vits2_file(30, 3), lambda x: x * math.nan)
    changed(vits2, experiment.vits2_file(40, 4), lambda x: x[..., :1].clone() if x.ndim else x)
    changed(gpt, experiment.gpt_file(0, 2), lambda x: x * math.nan)
    changed(vits2, experiment.gpt_file(0, 10), lambda x: x)
    told: list[tuple[int, int]] = []
    found = pick(
        experiment, PickOptions(models, 2, device="cpu"), lambda done, total, what, files: told.append((done, total))
    ).as_json()
    kept = json.loads((experiment.folder / "pick.json").read_text(encoding="utf-8"))
    assert kept == found and kept["lines"] == 2 and kept["held_out"] and kept["heard_by"] == "states"
    assert [(r["stage"], r["epoch"], r["step"]) for r in kept["rows"]] == [
        *(("vits2", 0, 0), ("vits2", 1, 10), ("vits2", 2, 20), ("vits2", 3, 30), ("vits2", 4, 40)),
        *(("gpt", 0, 0), ("gpt", 2, 70), ("gpt", 10, 70)),
    ]
    built_in, same, zeroed, numberless, misshapen = kept["rows"][:5]
    files = {
        path.name: path.stat() for path in (*experiment.vits2_weights.iterdir(), *experiment.gpt_weights.iterdir())
    }
    marks = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in files.items()} | {"": (0, 0)}
    assert all((r["bytes"], r["mtime_ns"]) == marks[r["file"]] for r in kept["rows"])
    assert same["score"] == built_in["score"] and same["failures"] == built_in["failures"]
    assert zeroed["failure_rate"] == 1 and zeroed["failures"] == {"no speech": 2} and zeroed["similarity"] == 0
    assert [bool(r["error"]) for r in kept["rows"]] == [False, False, False, True, True, False, True, True]
    assert numberless["score"] is None and misshapen["file"] in misshapen["error"]
    assert kept["best"] == {"vits2": "", "gpt": ""}  # equal to the built-in ones, or broken
    assert told[-1] == (16, 16) and [done for done, _ in told] == sorted(done for done, _ in told)
    sample = built_in["samples"][0]
    assert sample["text"] in {"the lazy dog", "a quick brown fox"} and Path(sample["truth"]).is_file()
    with wave.open(sample["file"], "rb") as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (RATE, 2, 1)


def test_the_same_seed_gives_the_same_numbers_and_old_wavs_go(
    models: Path, experiment: Experiment, few_outputs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picking_panel, "_FLAT_DB", 0.0)  # the tiny models' hiss passes for speech here
    changed(models / "vits2.safetensors", experiment.vits2_file(10, 1), lambda x: 0.9 * x)
    options = PickOptions(models, 1, seed=3, device="cpu")
    once, again = (pick(experiment, options).rows for _ in range(2))
    assert all(0 < abs(output.similarity) < 1 and output.distance > 0 for row in once for output in row.outputs)
    # Distances that are nan are not equal to themselves.
    assert [repr(row.outputs) for row in once] == [repr(row.outputs) for row in again]
    assert [path.name for path in (experiment.folder / "pick").iterdir()] == ["2"]
    assert once[0].samples[0]["file"] != again[0].samples[0]["file"]


def test_a_stop_leaves_the_earlier_result(models: Path, experiment: Experiment, few_outputs: None) -> None:
    changed(models / "vits2.safetensors", experiment.vits2_file(10, 1), lambda x: x)
    (experiment.folder / "pick" / "1").mkdir(parents=True)
    (experiment.folder / "pick.json").write_text("earlier")
    heard: list[int] = []
    for stop_at in (1, 5):  # in a decoder's row, and in a language model's
        with pytest.raises(Stopped):
            pick(
                experiment,
                PickOptions(models, 2, device="cpu"),
                lambda done, total, what, files: heard.append(done),
                lambda stop_at=stop_at: bool(heard) and heard[-1] >= stop_at,
            )
        heard.clear()
    assert (experiment.folder / "pick.json").read_text() == "earlier"
    assert [path.name for path in (experiment.folder / "pick").iterdir()] == ["1"]


def test_weights_are_those_of_the_experiment_by_age(experiment: Experiment) -> None:
    names = ["me_e10_s9.safetensors", "me_e2_s90.safetensors", "me_e2_s80.safetensors"]
    others = ["me_e1_e2_s3.safetensors", "you_e1_s1.safetensors", "me_e1_s1.safetensors.tmp", "me-e1.safetensors"]
    experiment.vits2_weights.mkdir()
    for name in names + others:
        (experiment.vits2_weights / name).touch()
    assert [path.name for path in weight_files(experiment, "vits2")] == [names[2], names[1], names[0]]
    assert weight_files(experiment, "gpt") == []
    with pytest.raises(UserError) as caught:
        pick(dataclasses.replace(experiment, name="nobody"), PickOptions(Path("nowhere")))
    assert caught.value.code == "pick_no_weights"
