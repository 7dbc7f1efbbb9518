"""Sizes of presets are those of their models, and every stage takes a step."""

from dataclasses import replace

import pytest
import torch

from modules.config import GroupedConfig, Preset, SpeechTokenizerConfig, load_preset
from modules.errors import Stopped
from modules.evaluation.costs.sizing import PartSize, part_sizes, totals
from modules.evaluation.costs.step_cost import BatchShape, measure_steps
from modules.gpt.building import build_gpt_of_preset
from modules.vits2.building import build_vits2
from tests.tiny import tiny_preset

SMALL = BatchShape(
    gpt_rows=2, reference_seconds=0.4, target_seconds=0.4, vits2_items=2, window_seconds=0.4, style_seconds=0.4
)


def _preset(form: str) -> Preset:
    if form == "s3":
        return tiny_preset()
    sizes = GroupedConfig(feature_dim=12, vector_dim=8, groups=2, quantizers=1, codebook_size=16)
    return replace(tiny_preset(), tokenizer=SpeechTokenizerConfig(form="grouped", grouped=sizes))


@pytest.mark.parametrize("form", ["s3", "grouped"])
def test_the_parts_are_the_whole(form: str):
    preset = _preset(form)
    sizes = part_sizes(preset)
    found = {row.model: row for row in totals(sizes)}
    gpt, vits2 = build_gpt_of_preset(preset), build_vits2(preset, preset.text.vocab_size)
    books = vits2.quantizer.codebooks().numel() if form == "grouped" else 0
    assert found["gpt"].trainable == sum(p.numel() for p in gpt.parameters())
    assert found["vits2"].trainable == sum(p.numel() for p in vits2.parameters()) + books
    assert found["all"].count == sum(row.count for row in sizes)
    frozen = {row.model for row in sizes if row.frozen}
    assert frozen == {"encoders"}
    assert any(row.part == "quantiser" for row in sizes) == (form == "grouped")


def test_bytes_follow_from_the_count():
    row = PartSize("gpt", "heads", 3 << 20, 1 << 20).row()
    assert row["float32_mib"] == 16 and row["float16_mib"] == 8 and row["trainable"] == 3 << 20


def test_base_is_counted_without_being_made():
    """The design's backbone, in a second and in little memory."""
    parts = {(row.model, row.part): row.trainable for row in part_sizes(_only_gpt(load_preset("base")))}
    assert parts["gpt", "backbone"] == 215_336_448


def _only_gpt(preset: Preset) -> Preset:
    """The preset with a decoder that takes no time to draw."""
    text = replace(preset.text, vocab_size=300)
    return replace(preset, text=text, vits2=tiny_preset().vits2)


@pytest.mark.parametrize("form", ["s3", "grouped"])
def test_every_stage_takes_steps(form: str):
    told: list[tuple[int, int, str]] = []
    costs = measure_steps(
        _preset(form), SMALL, 1, torch.device("cpu"), matmul_rate=1e12, on_progress=lambda *args: told.append(args)
    )
    assert [cost.stage for cost in costs] == ["gpt", "vits2", "vits2 with discriminators"] == [row[2] for row in told]
    for cost in costs:
        assert cost.seconds > 0 and cost.gflop > 0 and cost.steps == 1
        assert cost.chip_share == pytest.approx(cost.gflop * 1e9 / cost.seconds / 1e12)
    assert costs[2].gflop > costs[1].gflop


def test_a_stop_is_heard_between_two_stages():
    told: list[str] = []
    with pytest.raises(Stopped):
        measure_steps(
            _preset("s3"), SMALL, 1, torch.device("cpu"),
            on_progress=lambda done, total, what: told.append(what), should_stop=lambda: len(told) == 1,
        )  # fmt: skip
    assert told == ["gpt"]
