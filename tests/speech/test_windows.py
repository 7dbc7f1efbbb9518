"""Laws of the windows that long sounds go through."""

import pytest

from modules.speech.windows import Window, plan_windows


@pytest.mark.parametrize("frames", [751, 800, 1399, 1400, 1401, 2050, 2051, 12345])
def test_every_frame_is_kept_once_with_its_context(frames: int):
    windows = plan_windows(frames, 750, 100)
    kept = [frame for w in windows for frame in range(w.keep_start, w.keep_stop)]
    assert kept == list(range(frames))
    for w in windows:
        assert w.stop - w.start == 750 and w.start >= 0 and w.stop <= frames
        assert w.keep_start - w.start >= 50 or w.start == w.keep_start == 0
        assert w.stop - w.keep_stop >= 50 or w.stop == w.keep_stop == frames
    assert len(windows) == 1 + -(-(frames - 750) // 650), "no more windows than it takes"


def test_a_short_clip_is_one_window_of_its_length():
    assert plan_windows(750, 750, 100) == [Window(0, 750, 0, 750)]
    assert plan_windows(3, 750, 100) == [Window(0, 3, 0, 3)]
