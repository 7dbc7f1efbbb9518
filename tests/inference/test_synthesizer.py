"""Laws of speaking: seeds, weights, stopping, freezing, caching, and what is refused."""

import dataclasses
import itertools
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.errors import UserError
from modules.gpt.decode import Generated, Prompt, Request
from modules.inference.lengths import Lengths
from modules.inference.options import Progress, Segment, SpeakOptions
from modules.inference.sentences import Written, choose_prompts
from modules.inference.synthesizer import RETRIES, Synthesizer
from modules.inference.voice import Reference, Voice
from tests.tiny import build_tiny_model_folder

TEXT = "The first sentence is here for you. And now the second one follows it."
SHORT = "Hello you."
OPTIONS = SpeakOptions(seed=7)
Pair = tuple[Reference, Reference]


def weigh(reference: Reference, weight: float) -> Reference:
    return dataclasses.replace(reference, weight=weight)


def sound(synthesizer: Synthesizer, voice: Voice, options: SpeakOptions = OPTIONS, text: str = SHORT) -> np.ndarray:
    return synthesizer.join(list(synthesizer.speak(voice, text, options)), options.pause_seconds)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(
    synthesizer: Synthesizer, references: Pair
) -> None:
    voice = Voice(references[:1])
    first, again = sound(synthesizer, voice), sound(synthesizer, voice)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, sound(synthesizer, voice, SpeakOptions(seed=8)))


def test_a_fresh_synthesizer_gives_the_same_samples(
    synthesizer: Synthesizer, references: Pair, tiny_models: Path
) -> None:
    other = Synthesizer.load(tiny_models, device="cpu")
    assert np.array_equal(sound(synthesizer, Voice(references)), sound(other, Voice(references)))


def test_a_drawn_seed_is_reported_and_repeats_the_sound(synthesizer: Synthesizer, references: Pair) -> None:
    voice = Voice(references[:1])
    first = sound(synthesizer, voice, SpeakOptions())
    assert synthesizer.used_seed is not None
    assert np.array_equal(first, sound(synthesizer, voice, SpeakOptions(seed=synthesizer.used_seed)))


@pytest.mark.parametrize(("fuse_gpt", "fuse_decoder"), list(itertools.product((True, False), repeat=2)))
def test_weight_one_and_zero_is_exactly_the_single_voice(
    synthesizer: Synthesizer, references: Pair, fuse_gpt: bool, fuse_decoder: bool
) -> None:
    options = SpeakOptions(seed=7, fuse_gpt=fuse_gpt, fuse_decoder=fuse_decoder)
    low, high = references
    single = sound(synthesizer, Voice((low,)), options)
    assert np.array_equal(single, sound(synthesizer, Voice((weigh(low, 1.0), weigh(high, 0.0))), options))
    assert np.array_equal(single, sound(synthesizer, Voice((weigh(high, 0.0), weigh(low, 0.3))), options))


def test_without_any_fusion_the_heaviest_speaks_alone(synthesizer: Synthesizer, references: Pair) -> None:
    low, high = references
    options = SpeakOptions(seed=7, fuse_gpt=False, fuse_decoder=False)
    assert np.array_equal(
        sound(synthesizer, Voice((weigh(low, 0.8), weigh(high, 0.2))), options),
        sound(synthesizer, Voice((low,)), options),
    )


def test_the_order_of_references_does_not_matter_but_their_weights_do(
    synthesizer: Synthesizer, references: Pair
) -> None:
    low, high = references
    mixed = sound(synthesizer, Voice((weigh(low, 0.7), weigh(high, 0.3))))
    assert np.array_equal(mixed, sound(synthesizer, Voice((weigh(high, 3), weigh(low, 7)))))
    assert not np.array_equal(mixed, sound(synthesizer, Voice((weigh(low, 0.3), weigh(high, 0.7)))))


def test_a_blend_lies_between_its_voices(synthesizer: Synthesizer, references: Pair) -> None:
    low, high = references
    style, pitch = {}, {}
    for name, voice in {"low": Voice((low,)), "high": Voice((high,)), "both": Voice((low, high))}.items():
        timbre = synthesizer._timbre(voice, OPTIONS)
        style[name], pitch[name] = timbre.style, timbre.median_hz
    assert torch.allclose(style["both"], (style["low"] + style["high"]) / 2, atol=1e-6)
    assert pitch["both"] == pytest.approx((pitch["low"] * pitch["high"]) ** 0.5, rel=1e-6)
    assert pitch["low"] == pytest.approx(110, rel=0.15) and pitch["high"] == pytest.approx(240, rel=0.15)


def test_a_reference_without_text_shapes_the_timbre_and_stays_out_of_the_prompt(
    synthesizer: Synthesizer, references: Pair
) -> None:
    silent_words = dataclasses.replace(references[0], text=None)
    assert synthesizer._prompt_references(Voice((silent_words,)), OPTIONS) == []
    assert len(sound(synthesizer, Voice((silent_words,)))) > 0


def test_a_sentence_does_not_depend_on_the_ones_before_it(synthesizer: Synthesizer, references: Pair) -> None:
    voice = Voice(references[:1])
    ours = list(synthesizer.speak(voice, "One sentence.\nThe same line.", OPTIONS))
    theirs = list(synthesizer.speak(voice, "Another.\nThe same line.", OPTIONS))
    assert len(ours) == 2 and np.array_equal(ours[1].wav, theirs[1].wav)


def test_frozen_rendering_repeats_the_original_and_takes_new_choices(
    synthesizer: Synthesizer, references: Pair
) -> None:
    low, high = references
    segments = list(synthesizer.speak(Voice((low,)), TEXT, OPTIONS))
    frozen = list(synthesizer.render(Voice((low,)), segments, OPTIONS))
    assert all(np.array_equal(a.wav, b.wav) for a, b in zip(segments, frozen, strict=True))
    fast = list(synthesizer.render(Voice((low,)), segments, SpeakOptions(speed=1.65)))
    assert sum(s.seconds for s in fast) < 0.75 * sum(s.seconds for s in segments)
    other = list(synthesizer.render(Voice((high,)), segments, OPTIONS))
    assert not np.array_equal(other[0].wav, segments[0].wav)
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(segments, other, strict=True))


def test_segments_are_clean_sound(synthesizer: Synthesizer, references: Pair) -> None:
    segments = list(synthesizer.speak(Voice(references), TEXT, OPTIONS))
    for i, segment in enumerate(segments):
        assert (segment.index, segment.total) == (i, len(segments))
        assert segment.wav.dtype == np.float32 and np.isfinite(segment.wav).all()
        assert np.abs(segment.wav).max() <= 1.0
        assert segment.wav[0] == segment.wav[-1] == 0
        assert segment.seconds == pytest.approx(len(segment.wav) / synthesizer.sample_rate)
        assert segment.stopped_by in ("eos", "limit", "guard")


def test_joining_puts_pauses_between_and_none_after(synthesizer: Synthesizer) -> None:
    wavs = [np.ones(100, np.float32), np.ones(50, np.float32)]
    segments = [Segment(i, 2, "", wav, 0.0, "eos", torch.zeros(0, 2)) for i, wav in enumerate(wavs)]
    joined = synthesizer.join(segments, 0.5)
    assert len(joined) == 150 + synthesizer.sample_rate // 2
    assert joined[0] == joined[-1] == 1
    assert len(synthesizer.join([], 0.5)) == 0


def test_stop_keeps_the_finished_sentences(synthesizer: Synthesizer, references: Pair) -> None:
    text = "\n".join(f"This is the line of number {i} here." for i in range(6))
    finished: list[Segment] = []
    spoken = synthesizer.speak(Voice(references[:1]), text, OPTIONS, should_stop=lambda: len(finished) >= 2)
    for segment in spoken:
        finished.append(segment)
    assert [segment.index for segment in finished] == [0, 1]


def test_stop_is_asked_at_every_frame(synthesizer: Synthesizer, references: Pair) -> None:
    frames = []
    spoken = synthesizer.speak(
        Voice(references[:1]),
        TEXT,
        OPTIONS,
        on_progress=lambda progress: frames.append(progress.frames),
        should_stop=lambda: bool(frames) and frames[-1] >= 3,
    )
    assert list(spoken) == []
    assert max(frames) == 3


def test_progress_names_sentence_frames_and_seconds(synthesizer: Synthesizer, references: Pair) -> None:
    heard: list[Progress] = []
    segments = list(
        synthesizer.speak(
            Voice(references[:1]), "One line that is here.\nAnd another line.", OPTIONS, on_progress=heard.append
        )
    )
    assert {p.sentence for p in heard} == {1, 2} and {p.total for p in heard} == {2}
    assert heard[-1].seconds_done == pytest.approx(segments[0].seconds)
    assert heard[-1].frames >= len(segments[1].codes)


def test_twenty_thousand_characters_start_at_once(synthesizer: Synthesizer, references: Pair) -> None:
    text = ("We walk along the river and talk about the weather. " * 400)[:20_000]
    start = time.perf_counter()
    segment = next(synthesizer.speak(Voice(references[:1]), text, OPTIONS))
    assert segment.total > 100
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(("text", "code"), [("", "text_empty"), (" \n", "text_empty"), ("...🙂", "text_unspeakable")])
def test_text_is_refused_before_anything_is_done(
    synthesizer: Synthesizer, references: Pair, text: str, code: str
) -> None:
    with pytest.raises(UserError) as error:
        synthesizer.speak(Voice(references[:1]), text)
    assert error.value.code == code


@pytest.mark.parametrize(
    "text", ["7", "a", "你", "\u0e01" * 300, "𝔘𝔫𝔦 🙂 ok", "<pad><eos>", "a\u0301" * 40, "Привет, κόσμε! 你好 مرحبا"]
)
def test_odd_texts_are_spoken(synthesizer: Synthesizer, references: Pair, text: str) -> None:
    assert len(sound(synthesizer, Voice(references[:1]), text=text)) > 0


@pytest.mark.parametrize("silence", [0, 3])
def test_a_sentence_that_does_not_end_is_tried_again_and_the_best_is_kept(
    synthesizer: Synthesizer, references: Pair, monkeypatch: pytest.MonkeyPatch, silence: int
) -> None:
    lengths = iter([5000, 60, silence])
    seeds = []

    def generate_batch(requests: list[Request], **_: object) -> list[Generated]:
        seeds.append(requests[0].options.seed)
        return [Generated(torch.ones(next(lengths), 2, dtype=torch.int64), "limit")]

    monkeypatch.setattr(synthesizer._parts.gpt, "generate_batch", generate_batch)
    (segment,) = synthesizer.speak(Voice(references[:1]), "A sentence to be spoken here.", OPTIONS)
    assert len(segment.codes) == 60 and segment.stopped_by == "limit"
    assert len(set(seeds)) == RETRIES + 1


def test_nothing_at_all_from_the_model_becomes_a_short_silence(
    synthesizer: Synthesizer, references: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Generated(torch.zeros(0, 2, dtype=torch.int64), "guard")
    monkeypatch.setattr(synthesizer._parts.gpt, "generate_batch", lambda *_, **__: [nothing])
    (segment,) = synthesizer.speak(Voice(references[:1]), "A sentence.", OPTIONS)
    assert segment.stopped_by == "guard" and 0 < segment.seconds < 0.5


def test_features_are_made_once_for_the_same_content(
    tiny_models: Path, references: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Synthesizer.load(tiny_models, device="cpu")
    made = []
    analyse = fresh._analyse
    monkeypatch.setattr(fresh, "_analyse", lambda reference: made.append(reference.name) or analyse(reference))
    for voice in (Voice(references), Voice((dataclasses.replace(references[0], name="renamed", weight=0.2),))):
        list(fresh.speak(voice, "A sentence.", OPTIONS))
    assert sorted(made) == ["high", "low"]


def test_speaking_leaks_no_inference_mode(synthesizer: Synthesizer, references: Pair) -> None:
    for _ in synthesizer.speak(Voice(references[:1]), "A sentence.", OPTIONS):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": -1},
        {"top_p": 1.5},
        {"temperature": float("nan")},
        {"speed": 0.1},
        {"speed": 2},
        {"pause_seconds": -1},
        {"repetition_penalty": 0},
        {"noise_scale": 9},
        {"seed": -1},
        {"seed": 1.5},
        {"top_p": "much"},
    ],
)
def test_options_out_of_bounds_name_the_field(wrong: dict) -> None:
    with pytest.raises(UserError) as error:
        SpeakOptions(**wrong)
    assert next(iter(wrong)) in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"speed": 0.6},
        {"speed": 1.65},
        {"top_k": 1},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"noise_scale": 0.0},
        {"top_k": 0, "temperature": 2.0},
        {"repetition_penalty": 5.0},
    ],
)
def test_options_at_their_bounds_work(synthesizer: Synthesizer, references: Pair, options: dict) -> None:
    text = "A sentence." if options.get("temperature", 1.0) else "No."
    assert len(sound(synthesizer, Voice(references[:1]), SpeakOptions(seed=1, **options), text)) > 0


@pytest.mark.parametrize("file", ["preset.json", "tokenizer.json", "s3.safetensors", "gpt.safetensors"])
def test_a_missing_file_of_the_model_is_named(tiny_models: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(tiny_models, tmp_path / "nano"))
    (folder / file).unlink()
    with pytest.raises(UserError) as error:
        Synthesizer.load(folder, device="cpu")
    assert error.value.code == "model_incomplete" and file in str(error.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "s3.safetensors", "gpt.safetensors", "vits2.safetensors"])
def test_a_damaged_file_of_the_model_is_named(tiny_models: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(tiny_models, tmp_path / "nano"))
    (folder / file).write_bytes((folder / file).read_bytes()[:200])
    with pytest.raises(UserError) as error:
        Synthesizer.load(folder, device="cpu")
    assert file in str(error.value)


def test_weights_in_the_wrong_place_are_refused(tiny_models: Path) -> None:
    with pytest.raises(UserError):
        Synthesizer.load(tiny_models, device="cpu", gpt=tiny_models / "vits2.safetensors")
    with pytest.raises(UserError):
        Synthesizer.load(tiny_models, device="cpu", vits2=tiny_models / "gpt.safetensors")


def test_own_weights_replace_those_of_the_folder(tiny_models: Path, tmp_path: Path, references: Pair) -> None:
    other = build_tiny_model_folder(tmp_path / "other", seed=1)
    ours = Synthesizer.load(tiny_models, device="cpu")
    mixed = Synthesizer.load(tiny_models, device="cpu", vits2=other / "vits2.safetensors")
    assert ours.hashes["gpt"] == mixed.hashes["gpt"] and ours.hashes["vits2"] != mixed.hashes["vits2"]
    voice = Voice(references[:1])
    assert not np.array_equal(sound(ours, voice, text="Hello."), sound(mixed, voice, text="Hello."))


def test_base_says_that_it_was_never_published(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Synthesizer.load(tmp_path / "base", device="cpu")
    assert error.value.code == "preset_not_trained" and "nano" in str(error.value)


def test_references_that_leave_no_room_stay_out_of_the_prompt(synthesizer: Synthesizer, references: Pair) -> None:
    low, high = references
    voice = Voice((weigh(low, 0.7), weigh(high, 0.3)))
    known = synthesizer._prompt_references(voice, OPTIONS)
    assert len(known) == 2
    statistics = synthesizer._parts.gpt.model.statistics
    lengths = Lengths(20.0, 10, 60, 5, 75)

    def prompts(ids: list[int]) -> list[Prompt]:
        return choose_prompts(synthesizer._parts, known, Written("", ids, None), lengths)

    assert len(prompts([1, 2, 3])) == 2
    statistics["max_length"] = 80
    try:
        (prompt,) = prompts([1, 2, 3])
        assert prompt.reference_frames == len(synthesizer._features_of(low).codes)
        (prompt,) = prompts(list(range(2040)))
        assert prompt.reference_frames == 0
    finally:
        del statistics["max_length"]
