"""Drawings as SVG text. Colours come from the page's theme, so that light and dark both fit. Knows no components."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH = 1000
_WAVE_HEIGHT, _BAR_HEIGHT, _TEXT_HEIGHT = 150, 170, 22
_ACCENT = "var(--color-accent, #0d9488)"
_TICK_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_MOST_TICKS = 12


def cuts_svg(seconds: float, envelope: np.ndarray, cuts: Sequence[tuple[float, float]], label: str) -> str:
    """A waveform with the clips that would be cut from it.

    Args:
        seconds: length of the recording.
        envelope: lowest and highest sample of each bin [2, bins].
        cuts: start and end of each clip, seconds.
        label: says what is drawn, for people who do not see it.
    """
    scale = WIDTH / max(seconds, 1e-6)
    middle, half = _WAVE_HEIGHT / 2, _WAVE_HEIGHT / 2 - 4
    levels = np.nan_to_num(np.asarray(envelope, dtype=np.float64))
    loudest = max(float(np.abs(levels).max(initial=0.0)), 1e-6)
    places = np.linspace(0, WIDTH, levels.shape[1])
    upper = [f"{x:.1f},{middle - half * y / loudest:.1f}" for x, y in zip(places, levels[1])]
    lower = [f"{x:.1f},{middle - half * y / loudest:.1f}" for x, y in zip(places, levels[0])][::-1]
    boxes = [
        f'<rect class="cut" x="{start * scale:.1f}" y="0" width="{max((end - start) * scale, 0.5):.1f}" '
        f'height="{_WAVE_HEIGHT}" fill="{_ACCENT}" fill-opacity="{0.4 if number % 2 else 0.22}">'
        f"<title>{number}: {start:.2f} – {end:.2f} s ({end - start:.2f} s)</title></rect>"
        for number, (start, end) in enumerate(cuts, start=1)
    ]
    step = next((step for step in _TICK_SECONDS if seconds / step <= _MOST_TICKS), seconds / _MOST_TICKS)
    ticks = [
        _text(number * step * scale, _WAVE_HEIGHT + 16, _clock(number * step), "start")
        for number in range(int(seconds / step) + 1)
        if number * step * scale < WIDTH - 30
    ]
    wave = f'<polygon points="{" ".join([*upper, *lower])}" fill="currentColor" fill-opacity="0.75"/>'
    return _svg(_WAVE_HEIGHT + _TEXT_HEIGHT, label, [*boxes, wave, *ticks])


def histogram_svg(bins: Sequence[Mapping[str, Any]], label: str) -> str:
    """Clip lengths as bars; `bins` as `modules.data.report.build_report` gives them."""
    most = max((int(row["clips"]) for row in bins), default=0) or 1
    width = WIDTH / max(len(bins), 1)
    drawn = []
    for number, row in enumerate(bins):
        height = _BAR_HEIGHT * int(row["clips"]) / most
        upper = f"{row['to']:g}" if row["to"] is not None else "…"
        x, y = number * width, 18 + _BAR_HEIGHT - height
        drawn.append(
            f'<rect class="bar" x="{x + 4:.1f}" y="{y:.1f}" width="{width - 8:.1f}" height="{height:.1f}" '
            f'fill="{_ACCENT}"><title>{row["from"]:g} – {upper} s: {row["clips"]}</title></rect>'
        )
        if row["clips"]:
            drawn.append(_text(x + width / 2, y - 4, str(row["clips"]), "middle"))
        drawn.append(_text(x + width / 2, 18 + _BAR_HEIGHT + 16, f"{row['from']:g}–{upper}", "middle"))
    return _svg(18 + _BAR_HEIGHT + _TEXT_HEIGHT, label, drawn)


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    said = html.escape(label, quote=True)
    return (
        f'<svg class="drawing" viewBox="0 0 {WIDTH} {height:.0f}" width="100%" role="img" aria-label="{said}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" fill="currentColor" fill-opacity="0.8" '
        f'text-anchor="{anchor}">{html.escape(words)}</text>'
    )


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
