"""Shares and means with their intervals."""

import math

from modules.evaluation.results import plain
from modules.evaluation.shares import Share, clustered_share, mean_interval, share_of, shown_ends


def test_shares_and_means_hold_their_interval() -> None:
    share = share_of([True, None, False, False])
    assert share == Share(1, 3) and share.interval[0] < share.rate < share.interval[1]
    low, high = Share(0, 2000).interval
    assert low < 1e-9 and 0.001 < high < 0.003
    assert Share(0, 0).rate is None and str(Share(0, 0)) == "-"
    found = mean_interval([1.0, 2.0, 3.0, math.nan])
    assert found["mean"] == 2.0 and found["low"] < 2 < found["high"] and found["count"] == 3
    assert mean_interval([])["mean"] is None
    alone = mean_interval([0.83, math.nan])
    assert plain(alone) == {"mean": 0.83, "low": None, "high": None, "count": 1}
    assert plain(mean_interval([1.0, 2.0], clusters="aa"))["low"] is None
    assert shown_ends(alone) == "-" and shown_ends({"low": 0.5, "high": 1.0}) == "+0.500..+1.000"


def test_outputs_of_one_voice_are_no_independent_tries() -> None:
    flags, voices = [number < 20 for number in range(100)], [number // 20 for number in range(100)]
    found = clustered_share(flags, voices)
    alone = share_of(flags).values()
    assert found["rate"] == alone["rate"] and found["high"] > alone["high"] + 0.1
    assert clustered_share([False] * 9, list(range(9))) == share_of([False] * 9).values()
    assert mean_interval([1.0, 1.0, 3.0, 3.0], clusters="aabb")["high"] == 3.0
