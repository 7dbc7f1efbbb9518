"""Curves of a training as SVG text, small enough to stand side by side. Knows no components.

A plot is drawn about as wide as it is shown on a phone, so that its text stays readable there.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modules.training.curves import Curve

WIDTH, HEIGHT = 320, 195
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 10, 26
_TEXT_SIZE = 13.5
_ACCENT = "var(--color-accent, #0d9488)"
_MOST_DRAWN = 200
_SMOOTHED_FROM = 12
"""Fewer points than this are drawn as they are."""
_SMOOTHED_SHARE, _LEAST_SMOOTHED = 0.05, 5


@dataclass(frozen=True)
class PlotWords:
    """What a plot says. `label` names the whole drawing, the others are the titles of single points."""

    label: str
    training: str = ""
    validation: str = ""


def plot_svg(training: Curve, validation: Curve, words: PlotWords, smoothing: bool = True) -> str:
    """One number over the steps: smoothed as a line, as it was told faintly behind it, held-out lines as dots.

    Args:
        training: may be empty.
        validation: may be empty.
        words: for people who do not see it, and for those who point at a dot.
        smoothing: off for what is not measured but set.
    """
    drawn = thinned(training)
    smooth = smoothed(drawn) if smoothing else drawn
    low, high = value_range(drawn, smooth, validation)
    last = max((*training.steps[-1:], *validation.steps[-1:]), default=1)
    frame = _Frame(low, high, max(last, 1))
    parts = [*frame.axes()]
    if smooth.steps and smooth is not drawn:
        parts.append(_line(frame, drawn, "raw", 'stroke-opacity="0.4" stroke-width="1"'))
    if smooth.steps:
        parts.append(_line(frame, smooth, "smooth", 'stroke-width="2"'))
        parts.append(_dot(frame, smooth.steps[-1], smooth.values[-1], "last", words.training, _ACCENT, 3))
    if validation.steps:
        parts += _validation(frame, validation, words.validation)
    said = html.escape(words.label, quote=True)
    return (
        f'<svg class="run-plot" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" aria-label="{said}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def key_svg(kind: str) -> str:
    """A sample of a line for the legend: "smooth", "raw" or "validation"."""
    line = '<path d="M1 7H25" fill="none"'
    drawn = {
        "smooth": f'{line} stroke="{_ACCENT}" stroke-width="2.5"/>',
        "raw": f'{line} stroke="{_ACCENT}" stroke-opacity="0.4" stroke-width="1.5"/>',
        "validation": f'{line} stroke="currentColor" stroke-width="1" stroke-dasharray="3 3"/>'
        '<circle cx="13" cy="7" r="3.2" fill="currentColor"/>',
    }[kind]
    return f'<svg width="26" height="14" aria-hidden="true" xmlns="http://www.w3.org/2000/svg">{drawn}</svg>'


def thinned(curve: Curve, most: int = _MOST_DRAWN) -> Curve:
    """At most so many points; each stands for the mean of its neighbours."""
    size = math.ceil(len(curve.steps) / most) or 1
    if size == 1:
        return curve
    starts = range(0, len(curve.steps), size)
    groups = [curve.values[start : start + size] for start in starts]
    steps = tuple(curve.steps[min(start + size, len(curve.steps)) - 1] for start in starts)
    return Curve(steps, tuple(sum(group) / len(group) for group in groups))


def smoothed(curve: Curve) -> Curve:
    """The running mean with weights that fall off into the past, free of the pull of its start; short curves as is."""
    if len(curve.steps) < _SMOOTHED_FROM:
        return curve
    keep = 1 - 2 / (max(len(curve.steps) * _SMOOTHED_SHARE, _LEAST_SMOOTHED) + 1)
    values, total, weight = [], 0.0, 0.0
    for value in curve.values:
        total, weight = keep * total + value, keep * weight + 1
        values.append(total / weight)
    return Curve(curve.steps, tuple(values))


def value_range(raw: Curve, smooth: Curve, validation: Curve) -> tuple[float, float]:
    """Lowest and highest value to be shown: all that matters, but not single spikes of the raw curve."""
    ordered = sorted(raw.values)
    spare = len(ordered) // 50
    kept = [ordered[spare], ordered[-1 - spare]] if ordered else []
    values = [*kept, *smooth.values, *validation.values]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most about `most`."""
    rough = (high - low) / max(most, 1)
    if not math.isfinite(rough) or rough <= 0:
        return []
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def axis_labels(values: Sequence[float]) -> list[str]:
    """Numbers at an axis, with no more digits than tell each from its neighbours."""
    step = min((after - before for before, after in pairwise(values)), default=0.0)
    digits = next((n for n in range(2, 9) if all(abs(_rounded(v, n) - v) <= step / 100 for v in values)), 3)
    return [short_number(value, digits) for value in values]


def short_number(value: float, digits: int = 4) -> str:
    """A number with at most so many digits that count: "0.25", "1200", "12k", "4e-5"."""
    value = _rounded(value, digits)
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 1e-4:
        power = math.floor(math.log10(size) + 1e-9)
        return f"{value / 10.0**power:.6g}e{power}"
    if size >= 1e4:
        unit, sign = (1e6, "M") if size >= 1e6 else (1e3, "k")
        return f"{value / unit:.8g}{sign}"
    return f"{value:.8g}"


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class _Frame:
    """Where a value at a step lies on the plot."""

    low: float
    high: float
    last: int

    def x(self, step: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * step / self.last

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    def axes(self) -> list[str]:
        """Lines and numbers."""
        parts = []
        values = ticks(self.low, self.high, 5)
        for value, words in zip(values, axis_labels(values)):
            y = self.y(value)
            parts.append(
                f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity="0.15" fill="none"/>'
            )
            parts.append(_text(_LEFT - 5, y + 4.5, words, "end"))
        bottom = HEIGHT - _BOTTOM
        parts.append(
            f'<path d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}" fill="none" '
            'stroke="currentColor" stroke-opacity="0.4"/>'
        )
        steps = [step for step in ticks(0, self.last, 4) if step == int(step)]
        parts += [
            _text(self.x(step), bottom + 17, words, self._anchor(step))
            for step, words in zip(steps, axis_labels(steps))
        ]
        return parts

    def _anchor(self, step: float) -> str:
        return "end" if self.x(step) > WIDTH - _RIGHT - 12 else "middle"


def _validation(frame: _Frame, curve: Curve, word: str) -> list[str]:
    places = [f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in _points(thinned(curve, 60))]
    line = (
        f'<polyline class="validation" points="{" ".join(places)}" fill="none" stroke="currentColor" '
        'stroke-width="1" stroke-dasharray="3 3" stroke-opacity="0.8"/>'
    )
    dots = [
        _dot(frame, step, value, "held-out", word, "currentColor", 3.2) for step, value in _points(thinned(curve, 60))
    ]
    return [line, *dots]


def _points(curve: Curve) -> Sequence[tuple[int, float]]:
    return list(zip(curve.steps, curve.values))


def _line(frame: _Frame, curve: Curve, kind: str, style: str) -> str:
    points = _points(curve)
    places = [f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in points]
    # Points that lie on one spot say nothing more.
    kept = [places[0], *(after for before, after in pairwise(places) if before != after)]
    return (
        f'<polyline class="{kind}" points="{" ".join(kept)}" fill="none" stroke="{_ACCENT}" '
        f'stroke-linejoin="round" {style}/>'
    )


def _dot(frame: _Frame, step: int, value: float, kind: str, word: str, colour: str, radius: float) -> str:
    title = html.escape(f"{word} {step}: {value:.4g}".strip())
    return (
        f'<circle class="{kind}" cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="{radius}" fill="{colour}">'
        f"<title>{title}</title></circle>"
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{_TEXT_SIZE}" fill="currentColor" fill-opacity="0.8" '
        f'text-anchor="{anchor}">{html.escape(words)}</text>'
    )
