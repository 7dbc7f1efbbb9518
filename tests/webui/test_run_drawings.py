"""Curves of a training as drawings."""

import random

import pytest

from modules.training.curves import Curve
from tests.webui.dataset_helpers import parsed
from tools.webui.run_drawings import (
    WIDTH,
    PlotWords,
    axis_labels,
    plot_svg,
    short_number,
    smoothed,
    thinned,
    ticks,
    value_range,
)

NOTHING = Curve()
WORDS = PlotWords('a "loss" <b>', "Training", "Held out")


def curve(count: int, value: float = 1.0) -> Curve:
    return Curve(tuple(range(1, count + 1)), tuple(value / number for number in range(1, count + 1)))


def nodes(svg: str, kind: str) -> list:
    return [node for node in parsed(svg).iter() if node.get("class") == kind]


def test_a_plot_has_a_smooth_line_a_raw_one_and_dots() -> None:
    svg = plot_svg(curve(100), Curve((50, 100), (0.5, 0.2)), WORDS)
    assert len(nodes(svg, "smooth")) == len(nodes(svg, "raw")) == len(nodes(svg, "validation")) == 1
    assert len(nodes(svg, "held-out")) == 2 and parsed(svg).get("aria-label") == 'a "loss" <b>'
    assert "#" not in svg.replace(", #0d9488", "")  # the colours are the theme's, light or dark
    assert nodes(plot_svg(curve(5), NOTHING, WORDS), "raw") == []
    assert nodes(plot_svg(curve(100), NOTHING, WORDS, smoothing=False), "raw") == []


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        (NOTHING, NOTHING),
        (Curve((0,), (0.0,)), NOTHING),
        (NOTHING, Curve((7,), (-3.0,))),
        (Curve((1, 2), (5.0, 5.0)), NOTHING),
        (curve(5000, 1e30), curve(900, 1e-30)),
    ],
)
def test_any_curve_is_drawn_inside_its_frame(training: Curve, validation: Curve) -> None:
    root = parsed(plot_svg(training, validation, WORDS))
    height = float(root.get("viewBox").split()[3])
    for node in root.iter():
        for place in (node.get("points") or "").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= height
        if node.get("cx"):
            assert 0 <= float(node.get("cx")) <= WIDTH and 0 <= float(node.get("cy")) <= height


def test_text_stays_readable_on_a_phone() -> None:
    """At 300 px, what a phone of 375 px leaves, no text is below 11 px; and numbers at the axis are not cut off."""
    training = Curve(tuple(range(1, 50)), tuple(0.0123 + number / 1e6 for number in range(49)))
    for node in parsed(plot_svg(training, NOTHING, WORDS)).iter():
        if node.tag.endswith("text"):
            size = float(node.get("font-size"))
            assert size * 300 / WIDTH >= 11
            if node.get("text-anchor") == "end" and float(node.get("x")) < WIDTH / 2:
                assert size * sum(0.32 if sign in ".-" else 0.64 for sign in node.text) <= float(node.get("x"))


def test_smoothing_keeps_a_constant_and_calms_noise() -> None:
    assert smoothed(Curve(tuple(range(40)), (3.0,) * 40)).values == pytest.approx((3.0,) * 40)
    chance = random.Random(1)
    noise = Curve(tuple(range(400)), tuple(chance.gauss(0, 1) for _ in range(400)))
    assert max(map(abs, smoothed(noise).values[100:])) < 0.5 * max(map(abs, noise.values))


def test_thinning_keeps_the_mean_and_the_last_step() -> None:
    long = curve(1003)
    short = thinned(long, 100)
    assert len(short.steps) <= 100 and short.steps[-1] == 1003 and short.values[0] == pytest.approx(
        sum(long.values[:11]) / 11
    )  # fmt: skip
    assert thinned(curve(100), 100) == curve(100)


def test_a_single_spike_does_not_flatten_the_rest() -> None:
    values = [1.0] * 100
    values[3] = 1e6
    raw = Curve(tuple(range(100)), tuple(values))
    assert value_range(raw, NOTHING, NOTHING)[1] < 2
    assert value_range(raw, NOTHING, Curve((5,), (7.0,)))[1] > 7


def test_ticks_are_round_and_numbers_short() -> None:
    assert ticks(0.0, 1.0, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(len(ticks(0, high, 4)) <= 6 for high in (0.003, 1, 7, 99, 12345, 1e9))
    assert ticks(1.0, 1.0, 4) == []
    shown = [short_number(value) for value in (0, 0.25, 1200, 12_000, 2e6, 0.0004, 4e-5, -0.5)]
    assert shown == ["0", "0.25", "1200", "12k", "2M", "0.0004", "4e-5", "-0.5"]
    assert axis_labels([0.95, 1.0, 1.05]) == ["0.95", "1", "1.05"]
    assert axis_labels([0.01231, 0.01232, 0.01233]) == ["0.01231", "0.01232", "0.01233"]
    assert axis_labels([0, 5000, 10_000, 15_000]) == ["0", "5000", "10k", "15k"] and axis_labels([]) == []
