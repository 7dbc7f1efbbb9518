"""Each guard of decoding catches its failure, planted in what a tiny model says, and leaves all other speech alone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, cycle, repeat

import pytest
import torch
import torch.nn.functional as F

from modules.config import GPTConfig
from modules.gpt.decode import PAUSE_PHONE, DecodeOptions, Decoder, Generated, build_prompts
from modules.gpt.loops import LoopDetector, PhoneLoops, Quiet
from modules.gpt.model import SpeechGPT
from modules.gpt.reading import Pointer
from modules.gpt.watching import Watch

EOS, QUIET = 64, 9
PHONES = 6
PAUSE, PHONE_EOS = 0, PHONES
SPOKEN = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18]
CONFIG = GPTConfig(
    hidden=32, layers=1, heads=4, kv_heads=2, intermediate=48, max_positions=512, dropout=0.0
)  # fmt: skip
OPTIONS = DecodeOptions(ras_window=0, seed=1, max_frames=300)
GUARDED = replace(OPTIONS, usual_frames=10, tail_frames=4, pause_frames=10)


def planted(codes: Iterable[int], classes: int) -> Callable[..., torch.Tensor]:
    """Logits that say these codes one after the other with near certainty."""
    left: Iterator[int] = iter(codes)
    return lambda *_: F.one_hot(torch.tensor([next(left)]), classes).float() * 40


@pytest.fixture(params=["one frame", "groups", "delay"])
def model(make_gpt: Callable[..., SpeechGPT], request: pytest.FixtureRequest) -> SpeechGPT:
    """Models without phones and pointer."""
    more = {"groups": {"group_size": 2}, "delay": {"codebooks": "delay"}}.get(request.param, {})
    model = make_gpt(config=replace(CONFIG, **more))
    model.statistics = {"quiet_codes": [QUIET]}
    return model


@pytest.fixture
def reader(make_gpt: Callable[..., SpeechGPT]) -> SpeechGPT:
    """A model that says phones and follows the text with a pointer."""
    torch.manual_seed(0)
    model = make_gpt(config=replace(CONFIG, phones=PHONES, reading="pointer"), positions="aligned")
    model.statistics = {"phones": [PAUSE_PHONE, *"abcde"], "quiet_codes": [QUIET]}
    return model


def say(model: SpeechGPT, codes: Iterable[int], options: DecodeOptions = GUARDED) -> Generated:
    decoder = Decoder(model)
    decoder.first_logits = planted(codes, EOS + 1)
    return decoder.generate(build_prompts([], [3, 4], 2), options=options)


def read(
    model: SpeechGPT, phones: Iterable[int], codes: Iterable[int] = cycle(SPOKEN), options: DecodeOptions = GUARDED,
    advances: Iterable[int] = repeat(1), text: tuple[int, ...] = (3, 4, 5, 6),
) -> Generated:  # fmt: skip
    """Planted phones, content and advances; the pitch is the model's own."""
    decoder = Decoder(model)
    free = decoder.stream_logits
    streams = {1: planted(codes, EOS), 3: planted(advances, 8)}
    decoder.first_logits = planted(phones, PHONES + 1)
    decoder.stream_logits = lambda k, *rest: streams.get(k, lambda *x: free(k, *x))(*rest)
    return decoder.generate(build_prompts([], text, 2), options=options)


def test_silence_after_the_usual_length_ends_the_speech(model: SpeechGPT) -> None:
    codes = [*SPOKEN[:12], *repeat(QUIET, 200)]
    ended = say(model, codes)
    assert (ended.stopped_by, len(ended.codes)) == ("eos", 12 + 2 * GUARDED.tail_frames)
    unwatched = say(model, codes, replace(OPTIONS, max_frames=60, guard=False))
    assert (unwatched.stopped_by, len(unwatched.codes)) == ("limit", 60)


def test_silence_before_the_usual_length_or_the_fewest_frames_is_a_pause(model: SpeechGPT) -> None:
    codes = [*SPOKEN[:2], *repeat(QUIET, 6), *SPOKEN, EOS]
    assert len(say(model, codes, replace(GUARDED, usual_frames=30)).codes) == len(codes) - 1
    codes = [*SPOKEN[:10], *repeat(QUIET, 100)]
    late = say(model, codes, replace(GUARDED, pause_frames=0, min_frames=40))
    assert (late.stopped_by, len(late.codes)) == ("eos", 40)


def test_a_tail_needs_speech_before_it(model: SpeechGPT) -> None:
    nothing = say(model, repeat(QUIET))
    assert nothing.stopped_by == "guard" and len(nothing.codes) == 0


def test_of_a_long_pause_a_part_is_kept(model: SpeechGPT) -> None:
    codes = [*SPOKEN[:5], *repeat(QUIET, 20), *SPOKEN[5:], EOS]
    options = replace(GUARDED, usual_frames=200)
    cut, whole = say(model, codes, options), say(model, codes, replace(options, pause_frames=0))
    assert cut.codes[:, 0].tolist() == [*SPOKEN[:5], *repeat(QUIET, options.pause_frames), *SPOKEN[5:]]
    assert whole.codes[:, 0].tolist() == codes[:-1]
    assert cut.stopped_by == whole.stopped_by == "eos"


def test_a_pause_without_an_end_stops_the_speech_and_does_not_count(model: SpeechGPT) -> None:
    lost = say(model, [*SPOKEN, *repeat(QUIET, 200)], replace(GUARDED, usual_frames=200))
    assert lost.stopped_by == "guard" and lost.codes[:, 0].tolist() == SPOKEN


@pytest.mark.parametrize("seed", range(3))
def test_guards_that_do_not_fire_change_nothing(model: SpeechGPT, seed: int) -> None:
    decoder, prompts = Decoder(model), build_prompts([], [3, 4], 2)
    free = replace(OPTIONS, guard=False, max_frames=40, seed=seed)
    watched = replace(free, guard=True, usual_frames=10, tail_frames=8, pause_frames=20, ras_window=10)
    first, second = (decoder.generate(prompts, options=o) for o in (free, watched))
    assert torch.equal(first.codes, second.codes) and first.stopped_by == second.stopped_by


def test_guards_that_do_not_fire_change_nothing_where_a_pointer_reads(reader: SpeechGPT) -> None:
    decoder, prompts = Decoder(reader), build_prompts([], [3, 4, 5, 6], 2)
    free = replace(OPTIONS, guard=False)
    watched = replace(free, guard=True, usual_frames=10, tail_frames=50, pause_frames=50)
    first, second = (decoder.generate(prompts, options=o) for o in (free, watched))
    assert torch.equal(first.codes, second.codes) and torch.equal(first.phones, second.phones)


def test_silence_may_repeat_itself_by_its_codes_or_by_its_phone(reader: SpeechGPT) -> None:
    """A code that is a little likelier than the others: repetition awareness breaks it up, but not in a pause."""
    options = replace(OPTIONS, guard=False, top_k=1, ras_window=10, ras_threshold=0.2, repetition_penalty=1.35)
    options = replace(options, min_frames=40, max_frames=40)

    def share(phone: int, code: int) -> float:
        decoder = Decoder(reader)
        free = decoder.stream_logits
        liked = torch.zeros(1, EOS).index_fill(1, torch.tensor([code]), 3.0)
        decoder.first_logits = planted(repeat(phone), PHONES + 1)
        decoder.stream_logits = lambda k, *rest: liked.clone() if k == 1 else free(k, *rest)
        said = decoder.generate(build_prompts([], range(3, 30), 2), options=options).codes[:, 0]
        return float((said == code).float().mean())

    assert share(PAUSE, 20) == 1.0 and share(2, QUIET) == 1.0
    assert share(2, 20) < 0.8


def test_silence_at_the_end_of_the_text_ends_the_speech(reader: SpeechGPT) -> None:
    ended = read(reader, chain([1, 2, 3, 4], repeat(PAUSE)), repeat(QUIET))
    assert ended.stopped_by == "eos" and ended.finished
    assert len(ended.codes) == 4 + GUARDED.tail_frames
    unwatched = read(reader, chain([1, 2, 3, 4], repeat(PAUSE)), repeat(QUIET), replace(OPTIONS, guard=False))
    assert len(unwatched.codes) > len(ended.codes)


def test_silence_before_the_end_of_the_text_is_a_pause(reader: SpeechGPT) -> None:
    phones = chain([1, 2], repeat(PAUSE, 5), [3, 4, 5, PHONE_EOS])
    advances = chain([1], repeat(0, 6), repeat(1))
    options = replace(GUARDED, usual_frames=1)
    said = read(reader, phones, advances=advances, options=options, text=(3, 4, 5, 6, 7))
    assert (said.stopped_by, said.phones.tolist()) == ("eos", [1, 2, *repeat(PAUSE, 5), 3, 4, 5])


def test_frames_of_a_pause_that_are_left_out_have_moved_the_pointer_too(reader: SpeechGPT) -> None:
    options = replace(GUARDED, usual_frames=1, pause_frames=3)

    def say(options: DecodeOptions):
        phones = chain([1, 2], repeat(PAUSE, 5), [3, 4, PHONE_EOS])
        advances = chain([1, 1, 0, 0, 0, 1, 0], repeat(1))
        return read(reader, phones, advances=advances, options=options, text=(3, 4, 5, 6, 7, 8))

    cut, whole = say(options), say(replace(options, pause_frames=0))
    assert len(cut.codes) < len(whole.codes)
    assert cut.reads.tolist() == [*whole.reads[:5].tolist(), *whole.reads[7:].tolist()]


def test_phones_that_go_round_in_circles_are_stopped_whatever_their_content(reader: SpeechGPT) -> None:
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 4, (400,), generator=rng).tolist()
    phones = [p for p, n in zip(cycle([1, 2, 3]), lengths, strict=False) for _ in range(n)]
    codes = torch.randint(0, EOS, (2000,), generator=rng).tolist()
    text = tuple(range(3, 60))
    looped = read(reader, [4, 5, *phones], codes, advances=repeat(0), text=text)
    assert looped.stopped_by == "guard" and len(looped.codes) <= 2 + 3 * 3 and not looped.finished
    free = replace(OPTIONS, guard=False, max_frames=100)
    assert read(reader, [4, 5, *phones], codes, options=free, advances=repeat(0), text=text).stopped_by == "limit"


def test_a_phone_without_an_end_is_stopped(reader: SpeechGPT) -> None:
    held = read(reader, chain([4, 5], repeat(1)), advances=repeat(0), text=tuple(range(3, 60)))
    assert held.stopped_by == "guard" and 2 < len(held.codes) < 10


def test_phone_loops_are_told_from_speech() -> None:
    def fires(phones: Iterable[int]) -> bool:
        loops = PhoneLoops(PAUSE)
        return any(loops.update(phone) for phone in phones)

    rng = torch.Generator().manual_seed(3)
    assert not fires(torch.randint(0, 12, (5000,), generator=rng).tolist())
    assert not fires([1, 2, PAUSE] * 10), "ten times ha"
    assert not fires([3, 4, 5, 4] * 6), "six times mama"
    assert not fires([PAUSE] * 500)
    assert fires([1, 1, 2, PAUSE] * 12) and fires([1, 2, 2, 3, 4, 5] * 8)


def test_a_loop_is_judged_by_the_phone_where_there_is_one() -> None:
    pause, sound = LoopDetector(), LoopDetector(quiet=[5])
    assert not any(pause.update(5, quiet=True) for _ in range(60))
    assert any(sound.update(5, quiet=False) for _ in range(60))
    quiet = Quiet(frozenset([5]), phone=0)
    assert quiet.holds(5) and not quiet.holds(5, phone=3) and quiet.holds(1, phone=0)
    assert Quiet(frozenset([5])).holds(5, phone=3), "names of phones without a pause tell nothing"


def test_an_end_that_is_only_guessed_needs_a_longer_tail() -> None:
    def frames(pointer: Pointer) -> int:
        watch = Watch(GUARDED, Quiet(frozenset([QUIET])), pointer=pointer)
        watch.add(1)
        return next(n for n in range(1, 100) if watch.add(QUIET).stopped_by == "eos")

    assert frames(Pointer([3.0, 3.0, 3.0], unit=2)) == GUARDED.tail_frames
    assert frames(Pointer([3.0, 3.0, 3.0], unit=1, held=2)) == 2 * GUARDED.tail_frames
