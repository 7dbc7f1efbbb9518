"""Laws of the measures behind tools.bench, on tiny models."""

import dataclasses
import math
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from modules.config import GPTConfig
from modules.errors import Stopped
from modules.evaluation.bench import batching, memory, run, speaking
from modules.evaluation.bench.bandwidth import Memory, blocked_bytes, engine_bytes, held_bytes, matrices, plain_bytes
from modules.evaluation.bench.effort import FULL, QUICK
from modules.evaluation.bench.language_model import HISTORY, PLAIN, measure_gpt, measure_growth
from modules.evaluation.bench.machine import Busyness, machine_facts
from modules.evaluation.bench.measured import Measured, figure, rounded, share, times
from modules.evaluation.bench.run import HEADLINES, MEASURES, Run, ordered
from modules.evaluation.bench.steps import OurSteps, PlainLoop, held_turn, quantised, step_turn
from modules.evaluation.bench.timing import Clock, Rounds, Spread, percentile
from modules.evaluation.bench.workshop import TEXT, Workshop
from modules.gpt.backbone import build_backbone
from modules.gpt.engines import build_engine
from modules.gpt.packing import pack_linear
from modules.gpt.step import StepEngine
from modules.inference.options import SpeakOptions
from modules.inference.synthesizer import Synthesizer
from tests.tiny import build_tiny_model_folder, tiny_preset

CPU = torch.device("cpu")
ONE = Rounds(1, 0.0, warm=False)
TINY = dataclasses.replace(
    QUICK, rounds=ONE, steps=2, cache_steps=1, requests=Rounds(2, 60.0, warm=False), base_requests=ONE,
    forced_seconds=0.4, sound_seconds=0.1, batches=(1, 2, 8), batch_rounds=ONE, batch_seconds=0.2, memory_requests=3,
    settling=2, left_out=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Tiny models for both presets."""
    models = tmp_path_factory.mktemp("models")
    build_tiny_model_folder(models / "nano")
    return Workshop(CPU, tiny_preset(), TINY, models=models)


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    sizes = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 96, "max_positions": 256}
    return build_backbone(GPTConfig(**sizes, dropout=0.0)).eval()


def numbers(values: object) -> Iterator[float]:
    """All numbers of a document."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from numbers(value)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield values


def test_ways_take_turns_and_the_warm_up_does_not_count() -> None:
    said: list[str] = []

    def way(name: str, value: float):
        def turn() -> float:
            said.append(name)
            return value + len(said)

        return turn

    found = Rounds(2, 60.0).run({"a": way("a", 0), "b": way("b", 100)})
    assert said == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [3, 6], "b": [104, 105]}


def test_rounds_end_with_their_time_but_never_before_the_first() -> None:
    assert len(Rounds(50, 0.0).run({"a": lambda: 1.0})["a"]) == 1
    assert len(Rounds(3, 60.0, warm=False).run({"a": lambda: 1.0})["a"]) == 3


def test_rounds_hear_a_stop() -> None:
    with pytest.raises(Stopped):
        Rounds(3, 60.0).run({"a": lambda: 1.0}, lambda: True)


def test_spread_and_percentiles() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert percentile(range(101), 95) == 95 and percentile([7.0], 95) == 7.0


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0123456, "0.0123"), (1.0, "1.00"), (12.345, "12.3"), (1234.5, "1,234"), (0, "0"), (None, "-"), (math.inf, "-")],
)
def test_figures_have_three_digits(value: float | None, told: str) -> None:
    assert figure(value) == told


def test_ratios_shares_and_json_values() -> None:
    assert (times(2.5), share(0.416), times(None), share(None)) == ("2.50 x", "42 %", "-", "-")
    assert rounded({"a": (1.23456789, math.nan), "b": True}) == {"a": [1.23457, None], "b": True}


def test_bytes_are_those_that_are_kept() -> None:
    """Every number once, at the size of its type; scales and biases too."""
    weight, bias = torch.randn(512, 1024), torch.randn(512)
    read = {kind: held_bytes(pack_linear(weight, bias, kind)) for kind in ("float32", "bf16", "int8", "int4")}
    count = weight.numel()
    assert read["float32"] == 4 * count + 4 * 512 and read["bf16"] == 2 * count + 4 * 512
    assert count < read["int8"] < 1.1 * count and count / 2 < read["int4"] < 0.6 * count


def test_an_engine_holds_all_layers_once(backbone: torch.nn.Module) -> None:
    linears = [module for module in backbone.modules() if isinstance(module, torch.nn.Linear)]
    values = sum(outputs * inputs for outputs, inputs, _ in matrices(backbone.config))
    assert values == sum(linear.weight.numel() for linear in linears)
    plain = plain_bytes(backbone.config, 4, 4)
    assert plain == sum(p.nbytes for linear in linears for p in linear.parameters())
    assert plain <= engine_bytes(backbone, StepEngine(backbone, "float32"), "float32") < 1.01 * plain


def test_blocks_of_a_graph_have_scales() -> None:
    assert blocked_bytes(64, 128, False, "int8") == 64 * 128 + 4 * 64 * 2
    assert blocked_bytes(64, 96, True, "int4") == 64 * 96 // 2 + 4 * 64 * 3 + 4 * 64
    assert blocked_bytes(64, 256, False, "int4") == 64 * 256 // 2 + 4 * 64 * 2
    assert blocked_bytes(64, 128, True, "float32") == 4 * (64 * 128 + 64)


def test_copying_counts_what_is_read_and_what_is_written() -> None:
    buffers = Memory(Clock(CPU), bytes=1 << 20)
    assert buffers.copy_rate(0.5) == 2 * buffers.read_rate(0.5) == 4 * (1 << 20)
    assert buffers.copy() > 0 and buffers.read() > 0 and buffers.reading(1 << 10, 3)() > 0


def test_both_loops_say_the_same_after_the_same_history(backbone: torch.nn.Module) -> None:
    """What is compared does the same work."""
    plain, ours = PlainLoop(backbone), OurSteps(build_engine(backbone, "float32"), 20)
    with torch.inference_mode():
        plain.begin(8)
        ours.begin(8)
        for layer in range(2):
            ours.cache.keys[layer, :, :, :8] = plain._cache.layers[layer].keys
            ours.cache.values[layer, :, :, :8] = plain._cache.layers[layer].values
        x = torch.randn(1, 1, 64)
        for _ in range(3):
            expected, x = plain.step(x), ours.step(x)
            assert torch.allclose(expected, x, atol=1e-4)
    assert ours.cache.lengths == [11]
    assert ours.read_bytes(8) == 2 * 2 * 2 * 8 * 16 * 4


def test_turns_go_back_to_their_history(backbone: torch.nn.Module) -> None:
    ours = OurSteps(build_engine(backbone, "float32"), 12, rows=2)
    growing = step_turn(ours, 64, 8, 3, Clock(CPU), rows=2)
    assert growing() > 0 and growing() > 0 and ours.cache.lengths == [11, 11]
    one = OurSteps(build_engine(backbone, "float32"), 12)
    assert held_turn(one, 64, 8, 9, Clock(CPU))() > 0 and one.cache.lengths == [9]


def test_steps_run_over_a_cache_of_bytes(backbone: torch.nn.Module) -> None:
    ours = OurSteps(build_engine(backbone, "int8"), 20)
    assert ours.cache.keys.dtype == torch.int8 and ours.cache.keys.unique().numel() > 100
    assert held_turn(ours, 64, 8, 2, Clock(CPU))() > 0 and ours.read_bytes(8) == 2 * 2 * 2 * 8 * 16


def test_the_quantised_copy_leaves_the_original_alone(backbone: torch.nn.Module) -> None:
    before = [p.clone() for p in backbone.parameters()]
    loop = PlainLoop(quantised(backbone))
    with torch.inference_mode():
        loop.begin(4)
        assert loop.step(torch.randn(1, 1, 64)).shape == (1, 1, 64)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


def test_a_missing_kernel_is_a_reason(backbone: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "quantized", types.SimpleNamespace(engine="none"))
    with pytest.raises(RuntimeError, match="no quantised kernels"):
        quantised(backbone)


def test_gpt_tells_every_way_or_why_not(workshop: Workshop) -> None:
    found = measure_gpt(workshop)
    ways = found.values["base"]["ways"]
    assert set(ways) | set(found.values["base"]["skipped"]) == {
        PLAIN, "plain int8", "ours float32", "ours bf16", "ours int8", "ours int4",
    }  # fmt: skip
    assert ways[PLAIN]["speedup"] == 1.0 and found.values["history_tokens"] == HISTORY
    for told in ways.values():
        assert told["tokens_per_second"] * told["step_ms"] == pytest.approx(1e3)
        limit = told["tokens_per_second"] / told["copy_limit_tokens_per_second"]
        assert told["share_of_copy_limit"] == pytest.approx(limit)
    assert found.headlines["base_gpt_speedup"] == ways[f"ours {workshop.chosen('base')}"]["speedup"]


def test_a_quick_look_leaves_out_but_never_the_chosen_type(workshop: Workshop) -> None:
    effort = dataclasses.replace(TINY, left_out=("plain int8", "ours int4", f"ours {workshop.chosen('nano')}"))
    skipped = measure_gpt(dataclasses.replace(workshop, effort=effort)).values["nano"]["skipped"]
    assert {"plain int8", "ours int4"} <= set(skipped) and f"ours {workshop.chosen('nano')}" not in skipped


def test_growth_takes_the_reading_off(workshop: Workshop) -> None:
    found = measure_growth(workshop)
    told = found.values[workshop.chosen("base")]
    steps, cache = (
        [told[f"{which}_{what}_ms"] for which in ("long", "short")] for what in ("step", "cache_reading")
    )  # fmt: skip
    assert told["growth"] == pytest.approx((steps[0] - cache[0]) / (steps[1] - cache[1]))
    assert cache[0] / cache[1] == pytest.approx(found.values["long_history_tokens"] / 100)


def test_the_text_is_as_long_as_the_tables_say() -> None:
    assert len(TEXT) == 60 and len(batching.TEXTS) == max(FULL.batches) == len(set(batching.TEXTS))


def test_requests_are_told_by_their_sound(workshop: Workshop) -> None:
    synthesizer, voice = Synthesizer(workshop.nano("auto")), workshop.voice()
    options = SpeakOptions(seed=3, forced_seconds=0.6)
    for ask in (speaking.stream, speaking.speak):
        spoken = ask(synthesizer, voice, TEXT, options)
        assert 0 < spoken.first_seconds <= spoken.wall_seconds and 0 < spoken.sound_seconds < 1.0
        assert spoken.rtf == pytest.approx(spoken.wall_seconds / spoken.sound_seconds)


def test_shares_are_those_of_one_request() -> None:
    watch = speaking.Watch()
    watch._add("decoder", 1.0)
    assert watch.shares(4.0) == {"share_language_model": 0.0, "share_decoder": 0.25, "share_rest": 0.75}
    assert watch.shares(4.0)["share_rest"] == 1.0


def test_nano_and_base_tell_requests_without_the_cold_one(workshop: Workshop) -> None:
    nano, base = speaking.measure_nano(workshop), speaking.measure_base(workshop)
    assert nano.values["auto"]["requests"] == nano.values["float32"]["requests"] == 2
    assert nano.values["float32"]["weights"] == "float32" and nano.values["auto"]["weights"] == workshop.chosen("nano")
    for told in (nano.values["auto"], base.values["auto"]):
        assert sum(told[f"share_{part}"] for part in ("language_model", "decoder", "rest")) == pytest.approx(1.0)
        assert told["share_language_model"] > 0 and told["share_decoder"] > 0
        assert told["first_sound_ms_p50"] <= told["first_sound_ms_p95"]
    assert base.values["layers"] == 1 and base.values["random_weights"]
    assert base.headlines["base_rtf"] == base.values["auto"]["stream_rtf"]


def test_together_and_alone_say_the_same(workshop: Workshop) -> None:
    """Otherwise their times could not be compared."""
    system = batching.Batches(workshop.nano("float32"))
    prepared = system.prepare(workshop.voice(), batching.TEXTS[:3], SpeakOptions(), 0, 3)
    together = system.codes(prepared, range(3))
    alone = [system.codes(prepared, [place])[0] for place in range(3)]
    assert [codes.tolist() for codes in together] == [codes.tolist() for codes in alone]
    seconds = sum(system.sound_seconds(prepared, [place]) for place in range(3))
    assert system.sound_seconds(prepared, range(3)) == pytest.approx(seconds)


def test_batches_stand_against_their_own_sentences(workshop: Workshop) -> None:
    found = batching.measure_batches(workshop)
    assert list(found.values["nano"]["sizes"]) == ["1", "2", "8"]
    rates = batching._rates(
        2,
        {"together 2": [1.0], "alone 0": [1.0], "alone 1": [3.0]},
        {"together 2": 5.0, "alone 0": 3.0, "alone 1": 2.0},
    )
    assert rates == {
        "together_sound_seconds_per_second": 5.0, "one_by_one_sound_seconds_per_second": 1.25, "speedup": 4.0,
    }  # fmt: skip


def test_short_texts_are_sentences() -> None:
    assert batching.first_words("One two, three four.", 2) == "One two."
    assert batching.first_words("One two.", 5) == "One two."


def test_memory_tells_its_growth(workshop: Workshop) -> None:
    told = memory.measure_memory(workshop).values
    after, end = told["resident_mib_after_settling"], told["resident_mib_at_end"]
    assert told["memory_growth_percent"] == pytest.approx(100 * (end / after - 1))
    assert told["peak_mib"] >= 0.99 * max(after, end) > 1


def test_machine_facts_are_json_values_that_judge_a_figure() -> None:
    busyness = Busyness()
    np.linalg.norm(np.ones(1 << 20))
    facts = machine_facts(CPU) | busyness.facts()
    assert facts["torch_threads"] == torch.get_num_threads() and facts["versions"]["torch"] == torch.__version__
    assert facts["processor"] and facts["memory_bytes"] > 0 and facts["others_busy_cores"] >= 0
    assert rounded(facts).keys() == facts.keys() and all(map(math.isfinite, numbers(facts)))


def test_a_part_that_fails_does_not_take_the_others_with_it(workshop: Workshop) -> None:
    def broken(_: Workshop) -> Measured:
        raise RuntimeError("no such kernel")

    parts = {"broken": broken, "good": lambda _: Measured({"a_ms": 1.0}, (), {"nano_rtf": 0.5})}
    bench = Run(workshop, parts, quick=True)
    assert list(bench.parts_in_turn()) == ["broken", "good"]
    found = bench.document()
    assert set(HEADLINES) <= set(found) and found["nano_rtf"] == 0.5 and found["base_rtf"] is None
    assert found["errors"] == {"broken": "RuntimeError: no such kernel"} and "broken" in found["traces"]
    assert found["parts"] == {"good": {"a_ms": 1.0}} and set(found["part_seconds"]) == {"broken", "good"}


def test_a_stop_is_no_failure(workshop: Workshop) -> None:
    def stopped(_: Workshop) -> Measured:
        raise Stopped

    with pytest.raises(Stopped):
        list(Run(workshop, {"a": stopped}, quick=True).parts_in_turn())


def test_parts_keep_their_order() -> None:
    assert list(ordered(["gpt", "nano"], MEASURES)) == ["nano", "gpt"]
    assert run.HEADLINES == HEADLINES and len(set(HEADLINES)) == len(HEADLINES)
