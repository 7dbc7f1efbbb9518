"""Every way of laying frames out in steps: what goes in comes out, and it is trained as it is spoken."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.checkpoint import Lineage
from modules.config import GPTConfig
from modules.errors import ConfigError
from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.lora import add_lora, merged
from modules.gpt.losses import content_loss
from modules.gpt.model import SpeechGPT, load_gpt, save_gpt
from modules.gpt.patterns import IGNORED, Pattern
from modules.gpt.sequence import BEGIN_SPEECH, SPEECH, Part, arrange, part_length
from modules.gpt.train import GPTStage, StageOptions, Validation
from tests.gpt.conftest import TINY

WAYS = [(1, "chain"), (2, "chain"), (4, "chain"), (1, "parallel"), (2, "parallel"), (4, "parallel"), (1, "delay")]
NAMES = [f"{codebooks}{size}" for size, codebooks in WAYS]
FREE = DecodeOptions(min_frames=11, max_frames=11, guard=False, seed=5)
Make = Callable[..., SpeechGPT]

every_way = pytest.mark.parametrize("way", WAYS, ids=NAMES)
every_form = pytest.mark.parametrize(
    ("way", "options"),
    [(way, {}) for way in WAYS] + [(way, {"vector_dim": 6, "sizes": (16, 8, 16)}) for way in WAYS if way[1] != "delay"],
    ids=[*NAMES, *(f"{name}-vectors" for name in NAMES if name != "delay1")],
)


@pytest.fixture
def make(make_gpt) -> Make:
    """`make((group_size, codebooks), sizes=(64, 8), positions=..., loud=True)`: a model of that way."""

    def build(way: tuple[int, str], loud: bool = True, sizes: tuple[int, ...] = (64, 8), **options: object):
        config = replace(TINY, group_size=way[0], codebooks=way[1])
        levels = None if "vector_dim" in options or sizes[0] != 64 else (4, 4, 4)
        torch.manual_seed(0)
        model = make_gpt(sizes, levels, config, **options)
        for parameter in model.parameters() if loud else ():
            torch.nn.init.normal_(parameter, std=0.2)
        if "vector_dim" in options:
            model.set_vectors(lambda codes: torch.cat([codes.float(), (codes.float() * 0.7).sin()], -1))
        return model

    return build


def reference(seed: int, frames: int = 9, streams: int = 2) -> PromptReference:
    rng = np.random.default_rng(seed)
    return PromptReference(rng.integers(0, 40, 4), rng.integers(0, 8, (frames, streams)))


@every_way
@pytest.mark.parametrize("streams", [1, 2, 5])
def test_what_is_packed_is_unpacked(way, streams):
    pattern = Pattern((9,) * streams, *way)
    for frames in range(10):
        codes = np.random.default_rng(frames).integers(0, 9, (frames, streams))
        entering, predicted = pattern.pack(codes)
        assert np.array_equal(pattern.unpack(entering), codes)
        assert np.array_equal(pattern.unpack(predicted), codes)
        assert entering.shape == (pattern.steps(frames), pattern.width)
        assert len(predicted) <= len(entering) + 1
        assert (predicted == 9).sum() == 1, "one EOS"
        counts = [(steps[steps != IGNORED] < 9).sum() for steps in (entering, predicted)]
        assert counts == [frames * streams] * 2, "every code enters once and is predicted once"
        assert pattern.steps(pattern.frames_within(pattern.steps(frames))) <= pattern.steps(frames)
        assert pattern.frames_within(pattern.steps(frames)) >= frames
    lengths = np.arange(10)
    assert pattern.steps(lengths).tolist() == [pattern.steps(int(n)) for n in lengths]


def test_a_sentence_may_end_inside_a_group():
    pattern = Pattern((9, 4), 2)
    entering, predicted = pattern.pack(np.array([[1, 1], [2, 2], [3, 3]]))
    assert entering.tolist() == [[1, 1, 2, 2], [3, 3, IGNORED, IGNORED]]
    assert predicted.tolist() == [[1, 1, 2, 2], [3, 3, 9, IGNORED]]
    assert pattern.pack(np.array([[1, 1], [2, 2]]))[1].tolist() == [[1, 1, 2, 2], [9, *[IGNORED] * 3]]


def test_a_delayed_stream_comes_later_by_its_number():
    entering, predicted = Pattern((9, 9, 9), 1, "delay").pack(np.array([[1, 2, 3], [4, 5, 6]]))
    none = IGNORED
    assert entering.tolist() == [[1, none, none], [4, 2, none], [none, 5, 3], [none, none, 6]]
    assert predicted.tolist() == [[1, none, none], [4, 2, none], [9, 5, 3], [none, none, 6]]


def test_what_cannot_be_laid_out_is_refused(make):
    with pytest.raises(ConfigError) as error:
        make((2, "delay"))
    assert error.value.code == "gpt_delay_grouped" and "2" in str(error.value)
    with pytest.raises(ConfigError) as error:
        make((1, "delay"), vector_dim=4)
    assert error.value.code == "gpt_delay_vectors"
    for way in ((2, "chain"), (1, "delay")):
        model = make(way)
        with pytest.raises(ValueError, match="another pattern"):
            model(arrange([[Part(np.array([1]), np.zeros((4, 2), np.int64))]], model.end_code))


@every_way
def test_each_step_is_predicted_from_the_position_before_it(way, make_part):
    pattern = Pattern((64, 8), *way)
    parts = [make_part(3, 5, 1), make_part(2, 8, 2)]
    s = arrange([parts], pattern, groups=[3])
    assert s.kinds.shape[1] == sum(part_length(len(p.text_ids), len(p.codes), pattern) for p in parts) - 1
    steps = [pattern.steps(5), pattern.steps(8)]
    assert (s.kinds == SPEECH).sum() == sum(steps) == len(s.codes)
    counts = [len(pattern.pack(p.codes)[1]) for p in parts]
    for part, targets, at in zip(parts, s.targets.split(counts), s.target_positions.split(counts), strict=True):
        assert np.array_equal(pattern.unpack(targets.numpy()), part.codes)
        assert s.kinds.flatten()[at].tolist() == [BEGIN_SPEECH, *[SPEECH] * (len(at) - 1)]
        assert (at.diff() == 1).all()
    assert s.groups.tolist() == [3] * sum(counts) and s.group_size == way[0]


@every_form
@pytest.mark.parametrize("positions", ["sequence", "aligned"])
@torch.inference_mode()
def test_cached_steps_equal_the_whole_model(make, way, positions, options):
    model = make(way, positions=positions, **options)
    streams = len(model.codebook_sizes)
    decoder, pattern = Decoder(model), model.pattern
    prompts = [build_prompts([reference(seed, 4 + 3 * seed, streams)], [3, 4, 5], streams)[0] for seed in (1, 2)]
    codes = reference(3, 11, streams).codes
    entering, predicted = pattern.pack(codes)
    hidden, batch, _ = decoder._prefill([prompts], [FREE])
    cache, place = batch.cache, batch.place
    seen = []
    for s, target in enumerate(predicted):
        # Places after EOS mean nothing; what stands there need only be a code.
        frames = np.minimum(target.clip(0).reshape(-1, streams), np.array(model.codebook_sizes) - 1)
        frames = torch.as_tensor(frames)[:, None].expand(-1, 2, -1)
        logits = []
        for n, frame in enumerate(frames):
            state = decoder.place(hidden, list(frames[:n]))
            logits.append(decoder.first_logits(state))
            logits += [decoder.stream_logits(k, state, frame.unbind(1)[:k]) for k in range(1, streams)]
        seen.append(logits)
        if s < len(entering):
            place = None if place is None else place + pattern.group_size
            x = decoder._embed(torch.as_tensor(entering[s])[None]).expand(2, 1, -1)
            hidden = decoder.engine(x, cache, place)[:, -1] if cache.longest < cache.capacity else hidden
    for row, prompt in enumerate(prompts):
        spoken = [*prompt.parts[:-1], replace(prompt.parts[-1], codes=codes)]
        s = arrange([spoken], pattern, last_only=True)
        whole = model(s)
        for w in range(pattern.width):
            for step in (s.targets[:, w] != IGNORED).nonzero()[:, 0].tolist():
                torch.testing.assert_close(seen[step][w][row], whole[w][step], atol=1e-4, rtol=1e-4)


@every_way
@pytest.mark.parametrize("positions", ["sequence", "aligned"])
def test_rows_do_not_touch_each_other(make, make_part, way, positions):
    model = make(way, positions=positions, loud=False)
    rows = [[make_part(4, 6, 1)], [make_part(3, 9, 2), make_part(5, 20, 3)]]
    together = model(arrange(rows, model.pattern, pad_multiple=64))
    alone = [model(arrange([row], model.pattern)) for row in rows]
    for w in range(model.pattern.width):
        torch.testing.assert_close(together[w], torch.cat([x[w] for x in alone]), atol=1e-5, rtol=1e-5)


@every_way
def test_the_future_does_not_reach_the_past(make, make_part, way):
    model, part = make(way), make_part(5, 12)
    pattern, codes = model.pattern, part.codes.copy()
    codes[8:] = (codes[8:] + 1) % 8
    before, after = (model(arrange([[Part(part.text_ids, c)]], pattern)) for c in (part.codes, codes))
    past = 8 // way[0] + 1  # the steps that were told of frames 0..7 alone
    for w in range(0, pattern.width, 2):
        chained_on = pattern.chained and w > 0  # a later frame of a group hears of the one before it
        torch.testing.assert_close(before[w][: past - chained_on], after[w][: past - chained_on])
    assert not torch.allclose(before[0][past:], after[0][past:])


@every_form
def test_the_gradient_reaches_every_parameter(make, make_part, way, options):
    model = make(way, loud=False, **options).train()
    streams = len(model.codebook_sizes)
    batch = arrange([[make_part(4, 11, 1, streams), make_part(4, 9, 2, streams)]], model.pattern)
    logits = model(batch)
    sum(F.cross_entropy(x, batch.targets[:, w], ignore_index=IGNORED) for w, x in enumerate(logits)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_way
def test_a_sequence_is_learned_by_heart_and_spoken(make_gpt, way):
    """Each text has a length and codes of its own, so that an utterance ends at every place of a group."""
    config = GPTConfig(
        hidden=48, layers=1, heads=4, kv_heads=2, intermediate=64, max_positions=256, dropout=0.0,
        group_size=way[0], codebooks=way[1],
    )  # fmt: skip
    torch.manual_seed(0)
    model, rng = make_gpt((64, 8, 8), config=config).train(), np.random.default_rng(0)
    parts = [Part(np.array([n, n + 1]), rng.integers(0, 8, (5 + n, 3))) for n in range(4)]
    stage = GPTStage(model, StageOptions(learning_rate=1e-2), Validation(), "tiny")
    optimizer, batch = stage.optimizers["gpt"], arrange([[part] for part in parts], model.pattern)
    for _ in range(50):
        losses = stage.losses("gpt", batch)
        assert {"content", "prosody", "stream2", "_accuracy", "_eos"} <= set(losses)
        optimizer.zero_grad()
        sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
        optimizer.step()
    decoder = Decoder(model.eval())
    options = DecodeOptions(top_k=1, prosody_top_k=1, ras_window=0, max_frames=20)
    for part in parts:
        heard: list[list[int]] = []
        prompts = build_prompts([], part.text_ids, 3)
        generated = decoder.generate(prompts, options=options, on_frame=lambda n, f, to=heard: to.append(f.tolist()))
        assert generated.stopped_by == "eos"
        assert generated.codes.tolist() == part.codes.tolist() == heard
    assert content_loss(model, batch) < 0.1


@every_way
@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_callers_count_in_frames(make, way, guidance):
    model, prompts = make(way), build_prompts([reference(1), reference(2, 14)], [3, 4, 5], 2)
    for most in (1, 5, 6, 11):
        options, seen = replace(FREE, min_frames=most, max_frames=most, guidance=guidance), []
        generated = Decoder(model).generate(
            prompts, options=options, on_frame=lambda n, f, seen=seen: seen.append((n, f))
        )
        assert generated.codes.shape == (most, 2) and generated.stopped_by == "limit"
        assert [n for n, _ in seen] == list(range(1, most + 1))
        assert torch.equal(torch.stack([frame for _, frame in seen]), generated.codes)
        assert generated.codes[:, 0].max() < 64 and generated.codes.min() >= 0
    again = Decoder(model).generate(prompts, options=options).codes
    assert torch.equal(again, generated.codes)


@every_way
def test_the_least_and_the_guard_are_in_frames(make, way):
    model = make(way)
    prompts, count = build_prompts([], [3], 2), iter(range(10_000))
    decoder = Decoder(model)
    decoder.first_logits = lambda hidden: F.one_hot(torch.tensor([64]), 65).float() * 12
    ended = decoder.generate(prompts, options=DecodeOptions(min_frames=7, max_frames=30, seed=1, top_k=1))
    assert (len(ended.codes), ended.stopped_by) == (7, "eos")
    decoder.first_logits = lambda hidden: F.one_hot(torch.tensor([1 + next(count) % 3]), 65).float() * 12
    options = DecodeOptions(max_frames=200, ras_window=0, seed=1, top_k=1)
    stuck = decoder.generate(prompts, options=options)
    assert stuck.stopped_by == "guard" and stuck.codes[:, 0].tolist() == [1, 2, 3]


@every_way
def test_the_room_behind_a_prompt_is_used_to_its_end(make, way):
    model = make(way, positions="aligned")
    pattern, prompts = model.pattern, build_prompts([reference(1, 180)], [3], 2)
    width = arrange([prompts[0].parts], pattern).kinds.shape[1]
    room = pattern.frames_within(256 - width)
    options = replace(FREE, min_frames=1000, max_frames=1000)
    with pytest.raises(Exception, match="positions"):
        Decoder(model).generate(prompts, options=options)
    _, batch, (limit,) = Decoder(model)._prefill([prompts], [replace(options, min_frames=1)])
    assert limit == room and batch.cache.capacity <= 256


@every_way
def test_adapters_and_weights_keep_the_pattern(make, make_part, way, tmp_path):
    model = make(way, loud=False)
    batch = arrange([[make_part(4, 6)]], model.pattern)
    again = load_gpt(save_gpt(tmp_path / "gpt.safetensors", model, Lineage("tiny", "gpt", 3, 1)))
    assert again.pattern == model.pattern and again.description() == model.description()
    assert all(torch.equal(a, b) for a, b in zip(again(batch), model(batch), strict=True))
    plain = merged(add_lora(model, 16))
    assert plain.pattern == model.pattern
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(plain(batch), model(batch), strict=True))


def test_one_frame_a_step_needs_nothing_new(make):
    names = {name for name, _ in make((1, "chain")).named_parameters()}
    assert names == {name for name, _ in make((1, "delay")).named_parameters()}
    assert not any("grouping" in name for name in names)


def test_aligned_steps_stand_at_the_last_of_their_frames(make):
    model = make((2, "chain"), positions="aligned")
    text, codes = np.array([3, 7, 5]), np.zeros((5, 2), np.int64)
    s = arrange([[Part(text, codes), Part(text[:1], codes)]], model.pattern)
    places, kinds = model.positions(s)[0], s.kinds[0]
    assert places[kinds == SPEECH][:3].tolist() == [2, 4, 6]
    assert places[kinds == BEGIN_SPEECH].diff() >= max(5, float(model.unit_frames[text].sum()))
