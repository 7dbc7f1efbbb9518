"""Laws of drawing a code."""

import pytest
import torch

from modules.gpt.sampling import LoopDetector, candidates, draw, is_overused, penalize_repetition


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(50, generator=torch.Generator().manual_seed(1)) * 3


def test_one_candidate_or_no_temperature_is_the_argmax(logits):
    best = int(logits.argmax())
    assert draw(logits, top_k=1) == draw(logits, temperature=0) == best


def test_a_seed_repeats_itself(logits):
    def several(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [draw(logits, 20, 0.95, 1.2, generator) for _ in range(30)]

    assert several(3) == several(3)
    assert several(3) != several(4)


def test_top_k_keeps_the_k_likeliest(logits):
    _, codes = candidates(logits, 7, 1.0, 1.0)
    assert set(codes.tolist()) == set(logits.topk(7).indices.tolist())


def test_top_p_keeps_the_fewest_that_hold_the_mass(logits):
    probabilities, codes = candidates(logits, 0, 0.8, 1.0)
    assert probabilities.sum() >= 0.8 > probabilities[:-1].sum()
    assert codes[0] == logits.argmax()
    assert len(candidates(logits, 0, 0.0, 1.0)[1]) == 1


def test_frequencies_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([draw(logits, generator=generator) for _ in range(3000)]), minlength=3)
    torch.testing.assert_close(counts / 3000, logits.softmax(0), atol=0.03, rtol=0)


def test_a_penalty_lowers_what_was_said_and_nothing_else(logits):
    lowered = penalize_repetition(logits, [3, 5, 5], 1.5)
    changed = (lowered != logits).nonzero()[:, 0].tolist()
    assert changed == [3, 5]
    assert (lowered <= logits).all()
    assert penalize_repetition(logits, [3], 1.0) is logits
    assert penalize_repetition(logits, [], 1.5) is logits


def test_overuse_is_a_share_of_the_window():
    assert is_overused(4, [4] * 3, window=10, threshold=0.2)
    assert not is_overused(4, [4] * 2, window=10, threshold=0.2)
    assert not is_overused(4, [4] * 3 + [1] * 10, window=10, threshold=0.2)
    assert not is_overused(4, [4] * 50, window=0, threshold=0.2)


@pytest.mark.parametrize("pattern", [[7], [1, 2], [1, 2, 3, 4, 5], list(range(20))])
def test_a_loop_is_found_soon_and_its_period_told(pattern):
    detector = LoopDetector()
    codes = [90, 91, 92] + pattern * 60
    at = next(i for i, code in enumerate(codes, 1) if detector.update(code))
    assert detector.period == len(pattern)
    assert at == 3 + len(pattern) + max(20, 4 * len(pattern))
    assert detector.length == max(20, 4 * len(pattern))


def test_speech_without_loops_passes():
    generator = torch.Generator().manual_seed(0)
    detector = LoopDetector()
    codes = torch.randint(0, 30, (800,), generator=generator).repeat_interleave(2).tolist()
    assert not any(detector.update(code) for code in codes)


def test_silence_may_last_longer():
    noisy, silent = LoopDetector(), LoopDetector(quiet=[7])
    assert any(noisy.update(7) for _ in range(40))
    assert not any(silent.update(7) for _ in range(40))
    assert any(silent.update(7) for _ in range(60))
