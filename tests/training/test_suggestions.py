"""Laws of the settings that are suggested for a machine and an amount of speech."""

from dataclasses import asdict

import pytest

from modules.config import from_dict
from modules.training.suggestions import (
    FINE_TUNING,
    GIB,
    GPTOptions,
    Machine,
    Speech,
    VITS2Options,
    gpt_steps,
    suggest_gpt,
    suggest_vits2,
    vits2_steps,
)

CPU = Machine("cpu", 16 * GIB)
GPUS = [Machine("cuda", memory * GIB) for memory in (4, 8, 24, 80)]
AMOUNTS = [Speech(1, 3.0), Speech(2, 8.0), Speech(15, 60.0), Speech(120, 600.0), Speech(4000, 20000.0)]


@pytest.mark.parametrize("speech", [Speech(12, 60.0), Speech(39, 150.0), Speech(150, 600.0)])
def test_a_few_minutes_on_a_cpu_get_the_tried_settings(speech: Speech) -> None:
    vits2, gpt = suggest_vits2(CPU, speech), suggest_gpt(CPU, speech)
    assert (vits2.batch_seconds, vits2.window_seconds, vits2.learning_rate) == (9.6, 1.6, 4e-4)
    assert (vits2.warmup_steps, vits2.max_minutes) == (10, 7.0)
    assert (gpt.lora_rank, gpt.learning_rate, gpt.batch_frames, gpt.max_minutes) == (32, 2e-4, 3072, 4.0)
    assert 300 <= vits2.epochs * vits2_steps(speech, vits2.batch_seconds, vits2.window_seconds) < 330
    assert 50 <= gpt.epochs * gpt_steps(speech, gpt.batch_frames) < 120 and gpt.epochs <= 30
    assert "--no-energy-distance" in FINE_TUNING["vits2"]


@pytest.mark.parametrize("machine", [CPU, Machine("mps", 16 * GIB), *GPUS], ids=str)
@pytest.mark.parametrize("speech", AMOUNTS, ids=str)
def test_every_suggestion_lies_in_the_bounds_and_saves_three_or_four_times(machine: Machine, speech: Speech) -> None:
    for options in (suggest_vits2(machine, speech), suggest_gpt(machine, speech)):
        assert from_dict(type(options), asdict(options)) == options
        saves = -(-options.epochs // options.save_every_epochs)
        assert saves in (3, 4) or options.epochs < 6
    vits2 = suggest_vits2(machine, speech)
    assert round(vits2.batch_seconds / vits2.window_seconds) <= max(2, speech.clips)


@pytest.mark.parametrize("machine", [CPU, GPUS[1]], ids=str)
def test_more_speech_never_means_fewer_steps_and_there_is_a_cap(machine: Machine) -> None:
    amounts = [Speech(15 * minutes, 60.0 * minutes) for minutes in (1, 5, 10, 20, 60, 600)]

    def lengths(speech: Speech) -> tuple[int, int]:
        vits2, gpt = suggest_vits2(machine, speech), suggest_gpt(machine, speech)
        return (
            vits2.epochs * vits2_steps(speech, vits2.batch_seconds, vits2.window_seconds),
            gpt.epochs * gpt_steps(speech, gpt.batch_frames),
        )

    steps = [lengths(speech) for speech in amounts]
    for before, after in zip(steps, steps[1:]):
        assert after[0] >= 0.9 * before[0] and after[1] >= 0.9 * before[1]  # whole epochs make it a little uneven
    base = (2000, 600) if machine.kind == "cuda" else (300, 100)
    epochs = (suggest_vits2(machine, amounts[-1]).epochs, suggest_gpt(machine, amounts[-1]).epochs)
    for made, usual, passes in zip(steps[-1], base, epochs, strict=True):
        assert made <= 6 * usual or passes == 1  # nothing less than all of the speech


def test_a_larger_gpu_gets_larger_batches_and_no_limit_of_time() -> None:
    speech = Speech(500, 1500.0)
    vits2, gpt = ([suggest(machine, speech) for machine in GPUS] for suggest in (suggest_vits2, suggest_gpt))
    assert [o.batch_seconds for o in vits2] == sorted(o.batch_seconds for o in vits2)
    assert [o.batch_frames for o in gpt] == sorted(o.batch_frames for o in gpt)
    assert vits2[-1].batch_seconds > vits2[0].batch_seconds and gpt[-1].batch_frames > gpt[0].batch_frames
    assert {o.max_minutes for o in (*vits2, *gpt)} == {0.0}


def test_the_defaults_are_those_of_a_cpu() -> None:
    usual = Speech(35, 120.0)
    assert VITS2Options() == suggest_vits2(CPU, usual)
    assert GPTOptions() == suggest_gpt(CPU, usual)
