"""The pointer: where the text is read, in training and in speaking."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.config import GPTConfig
from modules.errors import ConfigError
from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.patterns import ADVANCES, IGNORED
from modules.gpt.prompts import without_text
from modules.gpt.reading import Pointer
from modules.gpt.sequence import arrange
from modules.gpt.train import GPTStage, StageOptions, Validation
from modules.gpt.unit_alignment import UnitAligner, runs
from tests.gpt.loud import PHONES, SIZES, loud_model
from tests.gpt.loud import spoken as batchof

CONFIG = GPTConfig(**SIZES, phones=PHONES, reading="pointer")
FREE = DecodeOptions(top_k=0, phone_top_k=0, ras_window=0, guard=False, max_frames=30, seed=1)
spoken = partial(batchof, reading=True)


@pytest.fixture
def model(make_gpt):
    return loud_model(make_gpt, CONFIG)


def test_advances_are_predicted_and_do_not_enter(model):
    part = replace(spoken(1, 4), reads=np.array([0, 0, 2, 3]))
    s = arrange([[part]], model.pattern)
    assert s.targets[:, -1].tolist() == [0, 2, 1, IGNORED, IGNORED] and (s.codes[:, -1] == IGNORED).all()
    assert s.reading.unit.tolist() == [0, 0, 2, 3, 3] and s.reading.held.tolist() == [0, 1, 0, 0, 1]
    far = replace(part, text_ids=np.arange(20), reads=np.array([0, ADVANCES - 1, 2 * ADVANCES, 17]))
    assert arrange([[far]], model.pattern).targets[:3, -1].tolist() == [ADVANCES - 1, IGNORED, 17 - 2 * ADVANCES]


@torch.inference_mode()
def test_a_step_stands_at_the_unit_that_it_reads(model):
    part = replace(spoken(1, 5, 3), reads=np.array([0, 0, 1, 1, 2]))
    s = arrange([[part]], model.pattern)
    places, usual = model.positions(s)[0], model.unit_frames[torch.as_tensor(part.text_ids)]
    starts = places[1:4]
    steps = places[4:10]  # BOS predicts frame 0, the frames what comes after them
    assert torch.allclose(starts[1:] - starts[:-1], usual[:-1])
    assert steps[0] == starts[0] and steps[2] == starts[1] and steps[4] == starts[2]
    assert steps[1] == starts[0] + torch.minimum(torch.tensor(1.0), 0.9 * usual[0])
    assert (steps[1:] >= steps[:-1]).all()


@torch.inference_mode()
def test_a_reference_is_spread_over_its_text(model):
    part = replace(spoken(2, 12, 4), hidden=True)
    s = arrange([[part, spoken(3)]], model.pattern)
    unit, inside = s.reading.places(model.unit_frames[s.text_ids])
    first = unit[:12]
    assert first[0] == 0 and first[-1] == 3 and (first.diff() >= 0).all() and (inside >= 0).all()
    shares = torch.bincount(first, minlength=4) / 12
    usual = model.unit_frames[torch.as_tensor(part.text_ids)]
    assert torch.allclose(shares, usual / usual.sum(), atol=1.1 / 12)
    silent = arrange([[replace(part, text_ids=part.text_ids[:0]), spoken(3)]], model.pattern)
    assert (silent.reading.places(model.unit_frames[silent.text_ids])[0][:13] == -1).all()
    assert torch.isfinite(model(silent)[0]).all()


@torch.inference_mode()
def test_rows_do_not_touch_each_other(model):
    rows = [[spoken(1, 6)], [replace(spoken(2, 9, 3), hidden=True), spoken(3, 20, 5)], [spoken(4, 7, 6)]]
    together = model(arrange(rows, model.pattern, pad_multiple=64))
    alone = [model(arrange([row], model.pattern)) for row in rows]
    for w in range(model.pattern.width):
        torch.testing.assert_close(together[w], torch.cat([x[w] for x in alone]), atol=2e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("guided", [False, True])
def test_cached_steps_equal_the_whole_model(model, guided):
    decoder, part = Decoder(model), spoken(3, 11, 5)
    references = [PromptReference(spoken(n).text_ids, spoken(n, 6 + n).codes, 1.0) for n in (1, 2)]
    (prompt,) = build_prompts(references, part.text_ids, 2, "order")
    rows = [prompt, without_text(prompt)] if guided else [prompt]
    entering, predicted = model.pattern.pack(part.frames(model.pattern))
    hidden, batch, _ = decoder._prefill([rows], [DecodeOptions(max_frames=20)])
    reader = batch.reader
    told = arrange([[*prompt.parts[:-1], part]], model.pattern, last_only=True)
    untold = arrange([[*prompt.parts[:-1], replace(part, text_ids=part.text_ids[:0], reads=None)]], model.pattern)
    whole = [model(told), model(untold)]
    for step, target in enumerate(predicted):
        known = torch.as_tensor(np.minimum(target.clip(0), [PHONES - 1, 63, 7, 7]))[:, None].expand(-1, len(rows))
        logits = [decoder.first_logits(hidden)]
        logits += [decoder.stream_logits(k, hidden, known[:k]) for k in (1, 2, 3)]
        for row in range(len(rows)):
            for w in range(4 if step < len(entering) else 1):
                torch.testing.assert_close(logits[w][row], whole[row][w][step], atol=2e-4, rtol=1e-4)
        if step < len(entering):
            reader.pointers[0].advance(max(int(target[-1]), 0))
            near, there = reader.step()
            x = decoder._embed(torch.as_tensor(entering[step])[None]).expand(len(rows), 1, -1)
            hidden = decoder.engine(x + near, batch.cache, there)[:, -1]


@torch.inference_mode()
def test_the_place_of_reading_matters_and_only_from_there_on(model):
    part = replace(spoken(1, 8, 4), reads=np.array([0, 0, 1, 1, 1, 2, 3, 3]))
    other = replace(part, reads=np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    before, after = (model(arrange([[p]], model.pattern)) for p in (part, other))
    assert torch.equal(before[0][:4], after[0][:4]) and not torch.allclose(before[0][4:], after[0][4:])


def test_the_gradient_reaches_every_parameter(model):
    batch = arrange([[spoken(1), spoken(2, 12)]], model.pattern)
    logits = model.train()(batch)
    sum(F.cross_entropy(x, batch.targets[:, w], ignore_index=IGNORED) for w, x in enumerate(logits)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_text_is_learned_by_heart_and_read_to_its_end(make_gpt):
    torch.manual_seed(0)
    model = make_gpt(config=CONFIG, positions="aligned").train()
    parts = [spoken(n, 8 + n) for n in range(4)]
    stage = GPTStage(model, StageOptions(learning_rate=1e-2), Validation(), "tiny")
    assert stage.weights == {"prosody": 0.3}
    optimizer, batch = stage.optimizers["gpt"], arrange([[part] for part in parts], model.pattern)
    for _ in range(60):
        losses = stage.losses("gpt", batch)
        assert {"phones", "content", "prosody", "advance"} <= set(losses)
        optimizer.zero_grad()
        sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
        optimizer.step()
    decoder = Decoder(model.eval())
    options = DecodeOptions(top_k=1, phone_top_k=1, prosody_top_k=1, advance_temperature=0, ras_window=0, max_frames=20)
    for part in parts:
        generated = decoder.generate(build_prompts([], part.text_ids, 2), options=options)
        assert generated.codes.tolist() == part.codes.tolist()
        assert generated.phones.tolist() == part.phones.tolist()


@torch.inference_mode()
def test_speech_cannot_end_before_its_text_nor_go_on_after_it(model):
    decoder = Decoder(model)
    text = np.arange(1, 13)
    for seed in range(6):
        decoder.first_logits = lambda hidden: F.one_hot(torch.tensor([PHONES]), PHONES + 1).float() * 12  # always EOS
        batchonce = decoder.generate(build_prompts([], text, 2), options=replace(FREE, seed=seed, max_frames=400))
        usual = float(model.unit_frames[torch.as_tensor(text)].sum())
        assert batchonce.stopped_by == "eos" and len(batchonce.codes) >= len(text[:-2]) / (ADVANCES - 1)
        decoder.first_logits = lambda hidden: F.one_hot(torch.tensor([2]), PHONES + 1).float() * 12  # never EOS
        endless = decoder.generate(build_prompts([], text, 2), options=replace(FREE, seed=seed, max_frames=4000))
        assert endless.stopped_by == "eos" and len(endless.codes) <= 12 * max(6 * usual / 12, 60)


@torch.inference_mode()
def test_without_temperature_nothing_is_left_to_chance(model):
    decoder, text = Decoder(model), np.arange(1, 9)
    cold = DecodeOptions(temperature=0.0, max_frames=60, ras_threshold=0.05)
    first, again = (decoder.generate(build_prompts([], text, 2), options=replace(cold, seed=n)) for n in (1, 2))
    assert first.codes.tolist() == again.codes.tolist() and first.phones.tolist() == again.phones.tolist()


def test_a_pointer_stays_within_its_text_and_tells_when_it_is_stuck():
    pointer = Pointer([4.0, 2.0, 5.0], patience=2.0, least_frames=3)
    assert (pointer.place, pointer.most, pointer.at_end, pointer.stuck) == (0.0, 2, False, False)
    for _ in range(7):
        pointer.advance(0)
    assert pointer.stuck and pointer.place == pytest.approx(3.6)
    pointer.advance(1)
    assert (pointer.unit, pointer.held, pointer.place, pointer.at_end) == (1, 0, 4.0, True)
    pointer.advance(7)
    assert pointer.unit == 2 and pointer.most == 0
    waiting = Pointer([3.0, 3.0, 3.0], unit=1)
    assert not waiting.at_end, "the unit before the last mark has yet to be said"
    waiting.advance(0)
    assert waiting.at_end
    nothing = Pointer([])
    nothing.advance(3)
    assert nothing.unit == 0 and nothing.place == 0.0 and nothing.at_end


def test_a_pointer_needs_positions_along_time(make_gpt):
    with pytest.raises(ConfigError) as error:
        make_gpt(config=CONFIG, positions="sequence")
    assert error.value.code == "gpt_pointer_positions"


def test_units_and_phones_that_belong_together_are_found():
    """A made-up writing: "c" before "h" is one sound, "." is a pause or nothing, the others say themselves."""
    rng, sound_of = np.random.default_rng(0), {0: [0], 1: [1], 2: [2, 3], 3: [4]}
    units, phones, owners = [], [], []
    for _ in range(300):
        text = [int(u) for u in rng.integers(0, 4, rng.integers(3, 9))]
        said = [(p, place) for place, unit in enumerate(text) for p in sound_of[unit]]
        text.append(5)
        if rng.random() < 0.5:
            said.append((5, len(text) - 1))
        units.append(np.array(text))
        phones.append(np.array([p for p, _ in said]))
        owners.append([place for _, place in said])
    aligner = UnitAligner.train(units[:250], phones[:250], 6, 6)
    found = aligner.align_all(units[250:], phones[250:])
    right = [np.mean(np.array(a) == b) for a, b in zip(found, owners[250:], strict=True)]
    assert np.mean(right) > 0.98
    for units_of, said, owner in zip(units[250:], phones[250:], found, strict=True):
        assert np.array_equal(aligner.align(units_of, said), owner) and (np.diff(owner) >= 0).all()
    assert aligner.align(np.array([1]), np.zeros(20, np.int64)) is None, "more phones than a unit ever says"
    assert aligner.align(np.zeros(0, np.int64), np.array([1])) is None


def test_runs_join_what_repeats_itself():
    labels, frames = runs(np.array([3, 3, 1, 1, 1, 3]))
    assert labels.tolist() == [3, 1, 3] and frames.tolist() == [0, 0, 1, 1, 1, 2]
    assert [len(part) for part in runs(np.zeros(0, np.int64))] == [0, 0]
