"""BGE-M3, loaded and batched, against transformers' own XLMRobertaModel, on random weights as they were published."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaModel

from modules.errors import UserError
from modules.text.encoder import BATCH_IDS, BgeM3, full_size
from tests.text.published_text import write_bge_m3

LENGTHS = (5, 1, 40, 12, 0, 62, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bge-m3"
    write_bge_m3(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> BgeM3:
    return BgeM3.load(folder)


@pytest.fixture(scope="module")
def ids() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, 80, length).tolist() for length in LENGTHS]


def reference(folder: Path, text: list[int]) -> np.ndarray:
    model = XLMRobertaModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[0, *text, 2]])).last_hidden_state[0, 1:-1].numpy()


def error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Relative error of all states together."""
    a, b = np.concatenate(found), np.concatenate(expected)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_states_are_those_of_transformers_one_for_each_id(folder: Path, encoder: BgeM3, ids: list[list[int]]) -> None:
    found = encoder.states(ids)
    for text, states in zip(ids, found, strict=True):
        assert states.shape == (len(text), 32) and states.dtype == np.float32
        np.testing.assert_allclose(states, reference(folder, text), atol=3e-6)


def test_what_stands_beside_a_text_changes_nothing(
    encoder: BgeM3, ids: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = encoder.states(ids)
    for text, states in zip(ids, together, strict=True):
        np.testing.assert_allclose(encoder.states([text])[0], states, atol=1e-5)
    monkeypatch.setattr("modules.text.encoder.BATCH_IDS", 80)
    for a, b in zip(encoder.states(ids), together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert BATCH_IDS >= 1000 and encoder.states([]) == []


def test_a_text_beyond_the_positions_goes_through_in_windows(encoder: BgeM3) -> None:
    assert encoder.max_ids == 62
    text = np.random.default_rng(1).integers(4, 80, 200).tolist()
    long = encoder.states([text])[0]
    assert long.shape == (200, 32) and np.abs(long).min(axis=1).max() > 0 and np.isfinite(long).all()
    np.testing.assert_allclose(long[:40], encoder.states([text[:62]])[0][:40], atol=1e-5)
    np.testing.assert_allclose(long[-25:], encoder.states([text[-62:]])[0][-25:], atol=1e-5)
    # Away from its edges a window sees much of what a whole pass would; the seams do not stand out.
    steps = np.linalg.norm(np.diff(long, axis=0), axis=1)
    assert steps.max() < 3 * np.median(steps)


def test_half_precision_files_are_computed_in_float32(folder: Path, tmp_path: Path, ids: list[list[int]]) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        shutil.copytree(folder, tmp_path / str(dtype))
        state = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(state, tmp_path / str(dtype) / "model.safetensors")
        encoder = BgeM3.load(tmp_path / str(dtype))
        assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
        np.testing.assert_allclose(encoder.states(ids)[0], reference(tmp_path / str(dtype), ids[0]), atol=3e-6)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("int8", 0.08)])
def test_the_error_of_smaller_formats_is_bounded_and_does_not_depend_on_the_batch(
    folder: Path, encoder: BgeM3, ids: list[list[int]], precision: str, bound: float
) -> None:
    small = BgeM3.load(folder, precision=precision)
    found = small.states(ids)
    assert 1e-6 < error(found, encoder.states(ids)) < bound
    alone = [small.states([text])[0] for text in ids]
    assert error(alone, found) < (1e-6 if precision == "int8" else 0.01)


def test_int8_is_refused_off_the_cpu(folder: Path) -> None:
    with pytest.raises(UserError, match="int8") as caught:
        BgeM3.load(folder, "meta", "int8")
    assert caught.value.code == "text_int8_needs_cpu"


def test_what_is_missing_or_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    def loading(place: Path) -> str:
        with pytest.raises(UserError, match="bge-m3") as caught:
            BgeM3.load(place)
        return caught.value.code

    assert loading(tmp_path / "bge-m3") == "text_encoder_missing"
    place = shutil.copytree(folder, tmp_path / "bge-m3")
    weights, whole = place / "model.safetensors", (place / "model.safetensors").read_bytes()
    weights.rename(place / "pytorch_model.bin")
    assert loading(place) == "text_encoder_pickle"
    for content in (b"", whole[:1000], b"junk" * 100):
        weights.write_bytes(content)
        assert loading(place) == "text_encoder_unreadable"
    state = load_file(folder / "model.safetensors")
    first = next(name for name in state if "query.weight" in name)
    for wrong in ({**state, "other": torch.zeros(1)}, {n: t for n, t in state.items() if n != first}):
        save_file(wrong, weights)
        assert loading(place) == "text_encoder_unreadable"
    save_file({**state, first: torch.zeros(2, 2)}, weights)
    assert loading(place) == "text_encoder_unreadable"
    weights.write_bytes(whole)
    assert BgeM3.load(place).dim == 32, "a pickle beside converted weights is not looked at"


def test_the_full_size_is_the_published_one() -> None:
    with torch.device("meta"):
        model = XLMRobertaModel(full_size(), add_pooling_layer=False)
    assert sum(p.numel() for p in model.parameters()) == 566_705_152
    assert model.embeddings.word_embeddings.weight.shape == (250002, 1024)
