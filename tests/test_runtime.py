"""Devices, seeds and generator states."""

import random

import numpy as np
import pytest
import torch

from modules.checkpoint import load_training_state, save_training_state
from modules.errors import UserError
from modules.runtime import (
    bf16_supported,
    device_label,
    pick_device,
    restore_rng_state,
    rng_state,
    seed_everything,
    set_threads,
)


def draw() -> tuple:
    return random.random(), float(np.random.rand()), float(torch.rand(())), random.gauss(0, 1), np.random.randn()


def test_cpu_can_always_be_picked():
    device = pick_device("cpu")
    assert device.type == "cpu" and device_label(device).startswith("CPU")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["tpu", "", "cuda:99", "cuda:x"])
def test_an_absent_device_is_named_with_the_choices(name):
    with pytest.raises(UserError, match="cpu") as caught:
        pick_device(name)
    assert caught.value.code == "device_missing" and caught.value.fields["device"] == name


def test_bf16_answer_is_a_bool():
    assert isinstance(bf16_supported(torch.device("cpu")), bool)
    assert bf16_supported(torch.device("meta")) is False


def test_the_same_seed_gives_the_same_draws():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert draw() != first


def test_generator_states_survive_a_file(tmp_path):
    seed_everything(1)
    draw()
    path = save_training_state(tmp_path, "rng", rng_state())
    expected = draw()
    seed_everything(2)
    restore_rng_state(load_training_state(path))
    assert draw() == expected


def test_set_threads():
    before = torch.get_num_threads()
    set_threads(0)
    assert torch.get_num_threads() == before
    set_threads(1)
    assert torch.get_num_threads() == 1
    set_threads(before)
