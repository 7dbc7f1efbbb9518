"""Laws of speaking: prompts, fusion, stops, seeds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modules.errors import Stopped, UserError
from modules.gpt.choosing import FrameChooser, mix
from modules.gpt.decode import (
    DecodeOptions,
    Decoder,
    PromptReference,
    build_prompts,
    frame_limits,
)
from modules.gpt.model import SpeechGPT
from modules.gpt.prompts import without_text
from modules.gpt.sequence import arrange

FREE = DecodeOptions(min_frames=12, max_frames=12, guard=False, seed=5)


@pytest.fixture(params=["sequence", "aligned"])
def model(make_gpt, request) -> SpeechGPT:
    model = make_gpt(positions=request.param)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # a loud random model: what it reads changes what it says
    return model


def reference(seed: int, frames: int = 9, weight: float = 1.0) -> PromptReference:
    rng = np.random.default_rng(seed)
    return PromptReference(rng.integers(0, 40, 4), rng.integers(0, 8, (frames, 2)), weight)


def test_greedy_decoding_equals_the_full_model_at_every_frame(model):
    prompts = build_prompts([reference(1)], [3, 4, 5], 2)
    options = replace(FREE, top_k=1, prosody_top_k=1, ras_window=0)
    codes = Decoder(model).generate(prompts, options=options).codes
    open_part = prompts[0].parts[-1]
    with torch.no_grad():
        for t in range(12):
            row = [*prompts[0].parts[:-1], replace(open_part, codes=codes[: t + 1].numpy())]
            content, prosody = model(arrange([row], model.end_code))
            content[:, model.end_code] = -torch.inf
            # Of the target's t + 2 predictions the last is what follows frame t; the one before it made frame t.
            assert content[-2].argmax() == codes[t, 0]
            assert prosody[-2].argmax() == codes[t, 1]


def test_a_seed_repeats_itself_and_another_does_not(model):
    decoder, prompts = Decoder(model), build_prompts([reference(1)], [3, 4, 5], 2)
    first, again, other = (
        decoder.generate(prompts, options=replace(FREE, seed=s)).codes for s in (5, 5, 6)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("mode", ["distributions", "share", "order"])
def test_a_reference_of_weight_zero_leaves_no_trace(model, mode):
    decoder = Decoder(model)
    alone = build_prompts([reference(1)], [3, 4], 2, mode)
    beside = build_prompts([reference(1), reference(2, weight=0.0)], [3, 4], 2, mode)
    one, other = (decoder.generate(p, options=FREE).codes for p in (alone, beside))
    assert torch.equal(one, other)


def test_equal_opinions_mix_to_the_single_one(model):
    decoder = Decoder(model)
    (prompt,) = build_prompts([reference(1)], [3, 4], 2)
    options = replace(FREE, top_k=1, prosody_top_k=1)
    twice = [replace(prompt, weight=0.3), replace(prompt, weight=0.7)]
    assert torch.equal(decoder.generate(twice, options=options).codes, decoder.generate(prompt, options=options).codes)


def test_prompts_of_differing_length_fuse_as_each_would_speak(model):
    decoder = Decoder(model)
    short, long = (build_prompts([reference(i, frames)], [3, 4], 2)[0] for i, frames in ((1, 3), (2, 30)))
    hidden = decoder._prefill([[short, long]], [FREE])[0]
    apart = [decoder._prefill([[prompt]], [FREE])[0][0] for prompt in (short, long)]
    torch.testing.assert_close(hidden, torch.stack(apart), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_guidance_moves_away_from_what_is_said_without_the_text(model):
    decoder = Decoder(model)
    prompts = build_prompts([reference(1), reference(2, 14)], [3, 4, 5], 2)
    bare = build_prompts([reference(1), reference(2, 14)], [], 2)
    seen: list[torch.Tensor] = []
    for rows, guidance in ((prompts, 0.0), (bare, 0.0), (prompts, 1.5)):
        options = replace(FREE, guidance=guidance)
        chooser = FrameChooser(decoder, [options], [[p.weight for p in prompts]])
        both = [*rows, *map(without_text, rows)] if guidance else rows
        seen.append(chooser.first_logits(decoder._prefill([both], [options])[0]).log_softmax(-1)[0])
    told, untold, guided = seen
    torch.testing.assert_close(guided, (told + 1.5 * (told - untold)).log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_a_guided_voice_ends_and_repeats_itself_by_seed(model):
    prompts = build_prompts([reference(1)], [3, 4, 5], 2)
    options = replace(FREE, guidance=1.0)
    first, again = (Decoder(model).generate(prompts, options=options).codes for _ in range(2))
    assert len(first) == 12 and torch.equal(first, again)


def test_mixing_is_convex():
    logits, weights = torch.randn(3, 20), torch.tensor([0.2, 0.3, 0.5])
    mixed, apart = mix(logits, weights[None])[0].exp(), logits.softmax(-1)
    torch.testing.assert_close(mixed, (weights[:, None] * apart).sum(0))
    assert (mixed <= apart.amax(0) + 1e-6).all() and (mixed >= apart.amin(0) - 1e-6).all()
    assert torch.equal(mix(logits, None), logits)
    together = mix(torch.cat([logits, logits.flip(0)]), torch.stack([weights, weights.flip(0)]))
    torch.testing.assert_close(together[0], together[1])


def test_each_distribution_has_its_own_reference_nearest():
    references = [reference(1, 5, 0.5), reference(2, 6, 0.2), reference(3, 7, 0.3)]
    prompts = build_prompts(references, [1], 2)
    frames = [[len(part.codes) for part in prompt.parts] for prompt in prompts]
    assert frames == [[7, 5, 6, 0], [6, 5, 7, 0], [6, 7, 5, 0]]
    assert [prompt.weight for prompt in prompts] == pytest.approx([0.2, 0.3, 0.5])


def test_order_puts_the_heaviest_nearest():
    (prompt,) = build_prompts([reference(1, 5, 0.6), reference(2, 6, 0.4)], [1], 2, "order")
    assert [len(part.codes) for part in prompt.parts] == [6, 5, 0]


def test_share_takes_the_references_whose_frames_fit_the_weights():
    even = build_prompts([reference(1, 50, 0.5), reference(2, 50, 0.5)], [1], 2, "share")
    assert even[0].reference_frames == 100
    skewed = build_prompts([reference(1, 20, 0.95), reference(2, 200, 0.05)], [1], 2, "share")
    assert skewed[0].reference_frames == 20


def test_no_reference_is_the_bare_target(model):
    prompts = build_prompts([], [3, 4], 2)
    assert len(prompts) == 1 and len(prompts[0].parts) == 1
    assert len(Decoder(model).generate(prompts, options=FREE).codes) == 12


def test_eos_waits_for_the_fewest_frames_and_then_ends(model):
    decoder, prompts = Decoder(model), build_prompts([reference(1)], [3], 2)
    # What speaks when EOS is by far the likeliest class.
    decoder.first_logits = lambda hidden: torch.nn.functional.one_hot(torch.tensor([64]), 65).float() * 30
    options = DecodeOptions(min_frames=7, max_frames=50, seed=1)
    generated = decoder.generate(prompts, options=options)
    assert (len(generated.codes), generated.stopped_by) == (7, "eos")
    assert generated.codes[:, 0].max() < 64


def test_the_limit_is_told(model):
    generated = Decoder(model).generate(build_prompts([], [3], 2), options=FREE)
    assert generated.stopped_by == "limit"


def circling(decoder: Decoder) -> Decoder:
    """A decoder whose model says 1 2 3 1 2 3 .. with near certainty."""
    count = iter(range(10_000))

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([1 + next(count) % 3]), 65).float() * 12

    decoder.first_logits = logits
    return decoder


def test_the_guard_stops_a_loop_and_keeps_one_round(model):
    prompts = build_prompts([], [3], 2)
    options = DecodeOptions(max_frames=200, ras_window=0, seed=1, top_k=1)
    generated = circling(Decoder(model)).generate(prompts, options=options)
    assert generated.stopped_by == "guard"
    assert generated.codes[:, 0].tolist() == [1, 2, 3]
    free = circling(Decoder(model)).generate(prompts, options=replace(options, guard=False))
    assert free.stopped_by == "limit"


def test_repetition_awareness_draws_again_what_is_overused(model):
    decoder = Decoder(model)
    decoder.first_logits = lambda hidden: torch.zeros(1, 65).index_fill(1, torch.tensor([9]), 3.0)
    prompts = build_prompts([], [3], 2)
    options = DecodeOptions(min_frames=40, max_frames=40, top_k=1, seed=1, guard=False, ras_threshold=0.3)
    aware = decoder.generate(prompts, options=options).codes[:, 0]
    stuck = decoder.generate(prompts, options=replace(options, ras_window=0)).codes[:, 0]
    assert (stuck == 9).all()
    assert 0 < (aware == 9).sum() < 30


def test_progress_and_stop(model):
    decoder, seen = Decoder(model), []
    prompts = build_prompts([], [3], 2)
    codes = decoder.generate(prompts, options=FREE, on_frame=lambda n, frame: seen.append((n, frame))).codes
    assert [n for n, _ in seen] == list(range(1, 13))
    assert torch.equal(torch.stack([frame for _, frame in seen]), codes)
    with pytest.raises(Stopped):
        decoder.generate(prompts, options=FREE, should_stop=lambda: len(seen) > 0)


def test_a_prompt_that_leaves_no_room_is_refused(model):
    with pytest.raises(UserError) as error:
        Decoder(model).generate(build_prompts([reference(1, 250)], [3], 2), options=FREE)
    assert error.value.code == "gpt_prompt_too_long"


def test_a_vector_model_speaks(make_gpt):
    model = make_gpt(vector_dim=6, fsq_levels=None)
    model.set_vectors(lambda codes: codes.float().repeat(1, 3))
    codes = Decoder(model).generate(build_prompts([reference(1)], [3], 2), options=FREE).codes
    assert codes.shape == (12, 2)


def test_limits_frame_the_normal_pace():
    low, high = frame_limits(20, 4.0)
    assert 0 < low < 80 < high
    assert frame_limits(0, 4.0)[0] == 1
