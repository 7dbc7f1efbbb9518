"""Laws of drawing codes, for several sentences at once."""

import pytest
import torch

from modules.gpt.loops import LoopDetector
from modules.gpt.sampling import RowNoise, candidates, draw, is_overused, penalize_repetition


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 50, generator=torch.Generator().manual_seed(1)) * 3


def several(logits: torch.Tensor, seeds: list[int], times: int = 30, **options: float) -> list[list[int]]:
    noise = RowNoise(seeds)
    options = {"top_k": 20, "top_p": 0.95, "temperature": 1.2} | options
    return [draw(logits, noise=noise, **options).tolist() for _ in range(times)]


def test_one_candidate_or_no_temperature_is_the_argmax(logits):
    best, noise = logits.argmax(-1), RowNoise([1, 2, 3])
    assert torch.equal(draw(logits, 1, 1.0, 1.0, noise), best)
    assert torch.equal(draw(logits, 0, 1.0, 0.0, noise), best)


def test_a_seed_repeats_itself(logits):
    assert several(logits, [3, 4, 5]) == several(logits, [3, 4, 5])
    assert several(logits, [3, 4, 5]) != several(logits, [3, 4, 6])


@pytest.mark.parametrize("options", [{}, {"top_k": 0, "top_p": 1.0}, {"top_k": 0}])
def test_a_row_draws_the_same_alone_and_in_company(logits, options):
    together = several(logits, [3, 4, 5], 200, **options)
    for row, seed in enumerate([3, 4, 5]):
        alone = several(logits[row : row + 1], [seed], 200, **options)
        assert [codes[row] for codes in together] == [codes[0] for codes in alone]


def test_rows_that_are_kept_go_on_with_their_noise():
    whole, cut = RowNoise([7, 8, 9]), RowNoise([7, 8, 9])
    for noise in (whole, cut):
        noise.take(10)
    cut.keep([2, 0])
    for count in (10, 5000, 3):
        assert torch.equal(whole.take(count)[[2, 0]], cut.take(count))
    assert torch.equal(whole.again(4, 20)[[2, 0]], cut.again(4, 20))
    assert not torch.equal(cut.again(4, 20), cut.again(5, 20))


def test_top_k_keeps_the_k_likeliest(logits):
    _, codes = candidates(logits, 7, 1.0, 1.0)
    assert [set(row) for row in codes.tolist()] == [set(row) for row in logits.topk(7).indices.tolist()]


def test_top_p_keeps_the_fewest_that_hold_the_mass(logits):
    scores, codes = candidates(logits, 0, 0.8, 1.0)
    for row in range(3):
        kept = codes[row][scores[row].isfinite()]
        probabilities = logits[row].softmax(0)[kept]
        assert probabilities.sum() >= 0.8 > probabilities[:-1].sum()
        assert codes[row, 0] == logits[row].argmax()
    assert (candidates(logits, 0, 0.0, 1.0)[0].isfinite().sum(1) == 1).all()


@pytest.mark.parametrize("top_k", [0, 3])
def test_frequencies_follow_the_distribution(top_k):
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(2, -1)
    drawn = torch.tensor(several(logits, [0, 1], 3000, top_k=top_k, top_p=1.0, temperature=1.0))
    for row in range(2):
        shares = torch.bincount(drawn[:, row], minlength=3) / 3000
        torch.testing.assert_close(shares, logits[row].softmax(0), atol=0.03, rtol=0)


def test_a_penalty_lowers_what_was_said_and_nothing_else(logits):
    recent = torch.tensor([[3, 5, 5], [-1, -1, 0], [-1, 7, 9]])
    lowered = penalize_repetition(logits, recent, 1.5)
    changed = [(lowered[row] != logits[row]).nonzero()[:, 0].tolist() for row in range(3)]
    assert changed == [[3, 5], [0], [7, 9]]
    assert (lowered <= logits).all()
    spared = torch.zeros(50, dtype=torch.bool)
    spared[5] = True
    kept = penalize_repetition(logits, recent, 1.5, spared)
    assert (kept[0] != logits[0]).nonzero()[:, 0].tolist() == [3]
    assert penalize_repetition(logits, recent, 1.0) is logits
    assert penalize_repetition(logits, recent[:, :0], 1.5) is logits


def test_overuse_is_a_share_of_the_window():
    def overused(history: list[int], window: int, threshold: float) -> bool:
        return bool(is_overused(torch.tensor([4]), torch.tensor([history]), window, threshold))

    assert overused([4] * 3, 10, 0.2)
    assert not overused([4] * 2, 10, 0.2)
    assert not overused([4] * 3 + [1] * 10, 10, 0.2)
    both = is_overused(torch.tensor([4, 1]), torch.tensor([[4, 4, 4, 1], [4, 4, 4, 1]]), 4, 0.5)
    assert both.tolist() == [True, False]


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
