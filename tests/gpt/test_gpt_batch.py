"""Several sentences at once: each says what it would say alone, whatever the model's pattern."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from modules.config import GPTConfig
from modules.errors import Stopped
from modules.gpt import onnx_frame
from modules.gpt.decode import DecodeOptions, Decoder, Generated, PromptReference, Request, build_prompts
from modules.gpt.model import SpeechGPT
from modules.gpt.onnx_frame import BoundFrames, OnnxFrames
from tests.gpt.loud import PHONES, SIZES, loud_model, summed_vectors

WAYS = {
    "plain": {},
    "groups": {"group_size": 2},
    "delay": {"codebooks": "delay"},
    "parallel": {"codebooks": "parallel"},
    "phones": {"phones": PHONES},
    "pointer": {"phones": PHONES, "reading": "pointer"},
    "vectors": {},
    "vectors in groups": {"group_size": 2},
}
OPTIONS = DecodeOptions(max_frames=24, top_k=20, repetition_penalty=1.3, ras_threshold=0.2, temperature=0.9)


@pytest.fixture(params=WAYS)
def model(make_gpt: Callable[..., SpeechGPT], request: pytest.FixtureRequest) -> SpeechGPT:
    return model_of(make_gpt, request.param)


def model_of(make_gpt: Callable[..., SpeechGPT], way: str) -> SpeechGPT:
    config = GPTConfig(**SIZES, **WAYS[way])
    if not way.startswith("vectors"):
        return loud_model(make_gpt, config)
    model = loud_model(make_gpt, config, vector_dim=6, fsq_levels=None)
    model.set_vectors(summed_vectors())
    return model


def reference(seed: int, frames: int = 9, weight: float = 1.0) -> PromptReference:
    rng = np.random.default_rng(seed)
    return PromptReference(rng.integers(0, 40, 4), np.stack([rng.integers(0, n, frames) for n in (64, 8)], 1), weight)


def requests(voices: list[list[PromptReference]], **options: object) -> list[Request]:
    """A sentence for each voice, of differing length, seed, and least and most frames."""
    made = []
    for i, references in enumerate(voices):
        text = np.random.default_rng(50 + i).integers(0, 40, 3 + 2 * i)
        one = replace(OPTIONS, seed=i, min_frames=2 + 3 * i, max_frames=24 - 4 * i, **options)
        made.append(Request(build_prompts(references, text, 2), one))
    return made


def same(first: Generated, second: Generated) -> bool:
    return torch.equal(first.codes, second.codes) and first.stopped_by == second.stopped_by


VOICES = {
    "one voice": [[reference(1)]] * 4,
    "differing voices": [[reference(1)], [reference(2, 14)], [reference(3, 3)]],
    "blends": [[reference(1, 9, 0.3), reference(2, 5, 0.7)], [reference(3), reference(4, 12)]],
    "as many prompts as they have": [[reference(1)], [reference(1), reference(2)], [], [reference(3)]],
}


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("voices", VOICES)
def test_a_batch_says_what_each_would_say_alone(model: SpeechGPT, voices: str, guidance: float) -> None:
    decoder, wanted = Decoder(model), requests(VOICES[voices], guidance=guidance)
    together = decoder.generate_batch(wanted)
    alone = [decoder.generate(one.prompts, options=one.options) for one in wanted]
    assert all(same(*pair) for pair in zip(together, alone, strict=True))
    assert len({len(generated.codes) for generated in together}) > 1, "rows drop out one after the other"


def test_rows_that_stay_after_their_end_change_nothing(model: SpeechGPT) -> None:
    """As on CUDA, where graphs are bound to their memory."""
    decoder, wanted = Decoder(model), requests(VOICES["differing voices"])
    dropping = decoder.generate_batch(wanted)
    decoder.engine.fixed_rows = True
    assert all(same(*pair) for pair in zip(dropping, decoder.generate_batch(wanted), strict=True))


def test_a_long_voice_and_a_long_text_fit_beside_each_other(model: SpeechGPT) -> None:
    """Neither row needs what the longest voice and the longest text take together."""
    decoder, text = Decoder(model), np.random.default_rng(1).integers(0, 40, 60)
    options = replace(OPTIONS, max_frames=4, seed=1)
    first = Request(build_prompts([reference(1, 120)], text[:3], 2), options)
    second = Request(build_prompts([reference(2, 1)], text, 2), options)
    alone = [decoder.generate(one.prompts, options=one.options) for one in (first, second)]
    assert all(same(*pair) for pair in zip(alone, decoder.generate_batch([first, second]), strict=True))


def test_a_batch_in_eight_bits_too(make_gpt: Callable[..., SpeechGPT]) -> None:
    config = GPTConfig(**(SIZES | {"hidden": 64}), phones=PHONES, reading="pointer")
    decoder = Decoder(loud_model(make_gpt, config), "int8")
    wanted = requests(VOICES["one voice"])
    for one, generated in zip(wanted, decoder.generate_batch(wanted), strict=True):
        assert same(decoder.generate(one.prompts, options=one.options), generated)


PLAIN = ("plain", "phones", "pointer", "vectors")


@pytest.mark.parametrize(
    "options", [{}, {"ras_threshold": 0.01}, {"ras_window": 0}, {"penalty_window": 0}, {"top_k": 0}]
)
@pytest.mark.parametrize("way", PLAIN)
def test_frames_at_one_go_are_those_of_torch(
    make_gpt: Callable[..., SpeechGPT], monkeypatch: pytest.MonkeyPatch, way: str, options: dict[str, float]
) -> None:
    model = model_of(make_gpt, way)
    model.statistics = {"quiet_codes": [3, 9]} | ({"phones": [*"abcde", "_"]} if model.pattern.phones else {})
    decoder, wanted = Decoder(model), requests(VOICES["one voice"], **options)
    by_torch = decoder.generate_batch(wanted)
    asked: list[int] = []
    frames = OnnxFrames(model, decoder._tables, "float32", decoder.quiet.phone, spared_codes(decoder))

    class Counting(BoundFrames):
        def run(self, numbers: np.ndarray) -> torch.Tensor:
            asked.append(int(self.forced.max()))
            return super().run(numbers)

    monkeypatch.setattr(onnx_frame, "BoundFrames", Counting)
    decoder._frames = frames
    for one, other in zip(by_torch, decoder.generate_batch(wanted), strict=True):
        assert same(one, other)
    # Where every code may be drawn there is no short list of candidates; that is left to torch.
    assert bool(asked) == (options.get("top_k") != 0)
    if options == {"ras_threshold": 0.01}:
        assert max(asked) >= 0, "overused codes are drawn again"


def spared_codes(decoder: Decoder) -> torch.Tensor:
    spared = torch.zeros(decoder.pattern.codebook_sizes[decoder.pattern.content] + 1, dtype=torch.bool)
    spared[sorted(decoder.quiet.codes)] = True
    return spared


def test_a_voice_is_read_once_and_says_the_same(model: SpeechGPT) -> None:
    decoder, read = Decoder(model), []
    engine = decoder.engine
    (first,), (second,) = requests([[reference(1)]]), requests([[reference(1)]])

    class Counting:
        capacity, threads, fixed_rows = engine.capacity, engine.threads, engine.fixed_rows
        new_cache = staticmethod(engine.new_cache)

        def __call__(self, x: torch.Tensor, *rest: object) -> torch.Tensor:
            read.append(x.shape[1])
            return engine(x, *rest)

    decoder.engine = Counting()
    fresh = decoder.generate_batch([first])[0]
    prefilled = [length for length in read if length > 1]
    read.clear()
    again = decoder.generate_batch([second])[0]
    assert len(prefilled) == 2 and [length for length in read if length > 1] == prefilled[1:]
    assert same(fresh, again)
    decoder.generate_batch(requests([[reference(5)]]))
    assert len(decoder._voices) == 2


def test_sentences_are_told_when_they_end_while_others_go_on(model: SpeechGPT) -> None:
    ended: list[tuple[int, int]] = []
    frames = [0, 0, 0]
    wanted = []
    for i, one in enumerate(requests(VOICES["differing voices"])):

        def on_frame(count: int, codes: torch.Tensor, i: int = i) -> None:
            frames[i] += 1

        def on_end(generated: Generated, i: int = i) -> None:
            ended.append((i, max(frames)))

        wanted.append(replace(one, on_frame=on_frame, on_end=on_end))
    said = Decoder(model).generate_batch(wanted)
    assert sorted(i for i, _ in ended) == [0, 1, 2] and frames == [len(one.codes) for one in said]
    assert ended[0][1] < max(frames)


def test_a_stop_ends_the_batch(model: SpeechGPT) -> None:
    asked: list[int] = []
    with pytest.raises(Stopped):
        Decoder(model).generate_batch(
            requests(VOICES["one voice"]), should_stop=lambda: asked.append(1) or len(asked) > 3
        )
    assert len(asked) == 4


def test_sentences_that_are_drawn_in_different_ways_are_no_batch(model: SpeechGPT) -> None:
    first, second = requests(VOICES["one voice"])[:2]
    with pytest.raises(ValueError, match="batch"):
        Decoder(model).generate_batch([first, replace(second, options=replace(second.options, top_k=3))])
