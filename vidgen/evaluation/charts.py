"""Small line charts and histograms as inline SVG, drawn for the report: no library, no script, colours from its style sheet.

A chart is drawn in a box of fixed units and scaled by the page. Strokes and texts carry classes only (``line s0``, ``tick``,
...), so one style sheet serves light and dark. Every text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34  # room around the plot for ticks and the name of the horizontal axis
MOST_POINTS = 120  # a curve with more is drawn as the mean of each of so many spans, its range shaded
LOG_FROM = 20.0  # positive values that span more than this factor are drawn on a logarithmic axis


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve: finite points in order of x. Its place in a chart's list chooses its colour."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Axis:
    """A scale from values to units of the drawing, with the values to mark."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(series: Sequence[Series], *, title: str, x_name: str) -> Markup:
    """Curves over a shared horizontal axis. Vertically logarithmic where the values are positive and span over a factor 20."""
    points = [point for one in series for point in one.points]
    x = _linear([p[0] for p in points], LEFT, WIDTH - RIGHT, tight=True)
    y = _vertical([p[1] for p in points])
    shapes = [shape for i, one in enumerate(series) for shape in _curve(one.points, x, y, f"s{i}")]
    ends = "; ".join(f"{one.label} from {one.points[0][1]:.3g} to {one.points[-1][1]:.3g}" for one in series)
    return _svg(f"{title}: {ends}", [*_grid(x, y, x_name), *shapes])


def rank_chart(counts: Sequence[int], size: int, *, title: str, x_name: str) -> Markup:
    """Counts in falling order, out of ``size`` entries: a step for each entry, or the mean of each of 120 spans of them.

    ``counts`` are the positive ones; the rest of the axis stays empty. The dashed line is what equal use would give.
    """
    bins = min(size, MOST_POINTS)
    edges = [round(i * size / bins) for i in range(bins + 1)]
    padded = [*counts, *[0] * (size - len(counts))]
    means = [sum(padded[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    equal = sum(counts) / size
    x = _linear([0, size], LEFT, WIDTH - RIGHT, tight=True)
    y = _vertical([v for v in [*means, equal] if v > 0], from_zero=True)
    floor = y.at(y.low)
    path = [f"M{x.at(0):.1f} {floor:.1f}"]
    for a, b, value in zip(edges, edges[1:], means, strict=False):
        height = y.at(value) if value > 0 else floor
        path.append(f"L{x.at(a):.1f} {height:.1f}L{x.at(b):.1f} {height:.1f}")
    level = y.at(equal)
    shapes = [
        Markup('<path class="bars" d="{}"/>').format(" ".join([*path, f"L{x.at(size):.1f} {floor:.1f}Z"])),
        Markup('<path class="equal" d="{}"/>').format(f"M{LEFT} {level:.1f}H{WIDTH - RIGHT}"),
    ]
    return _svg(f"{title}: {len(counts)} of {size} used", [*_grid(x, y, x_name), *shapes])


def _svg(label: str, shapes: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return head + Markup("").join(shapes) + Markup("</svg>")


def _grid(x: _Axis, y: _Axis, x_name: str) -> list[Markup]:
    """Hairlines and figures of both axes, and the name of the horizontal one."""
    floor = HEIGHT - BOTTOM
    shapes = []
    for tick in y.ticks:
        shapes.append(Markup('<path class="hair" d="M{} {:.1f}H{}"/>').format(LEFT, y.at(tick), WIDTH - RIGHT))
        shapes.append(_text(LEFT - 6, y.at(tick) + 3.5, _short(tick), "end"))
    for tick in x.ticks:
        near_end = x.at(tick) > WIDTH - RIGHT - 12
        shapes.append(_text(x.at(tick), floor + 14, _short(tick), "end" if near_end else "middle"))
    shapes.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, floor, WIDTH - RIGHT))
    name = f"{x_name} (vertical axis logarithmic)" if y.log else x_name
    shapes.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, name, "middle"))
    return shapes


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))


def _curve(points: Sequence[tuple[float, float]], x: _Axis, y: _Axis, style: str) -> list[Markup]:
    """A line through the points, over a shade of their range where several share a place; dots where they are few."""
    spans = _spans(points)
    middle = [(x.at(px), y.at(py)) for px, py, _, _ in spans]
    shapes = []
    if len(spans) < len(points):
        upper = [f"{x.at(px):.1f} {y.at(high):.1f}" for px, _, _, high in spans]
        lower = [f"{x.at(px):.1f} {y.at(low):.1f}" for px, _, low, _ in reversed(spans)]
        shapes.append(Markup('<path class="range {}" d="M{}Z"/>').format(style, "L".join([*upper, *lower])))
    line = "L".join(f"{a:.1f} {b:.1f}" for a, b in middle)
    shapes.append(Markup('<path class="line {}" d="M{}"/>').format(style, line))
    if len(middle) <= 12:
        shapes += [Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(style, a, b) for a, b in middle]
    return shapes


def _spans(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """At most ``MOST_POINTS`` of (mean x, mean y, lowest y, highest y)."""
    bins = min(len(points), MOST_POINTS)
    edges = [round(i * len(points) / bins) for i in range(bins + 1)]
    spans = []
    for a, b in zip(edges, edges[1:], strict=False):
        xs, ys = zip(*points[a:b], strict=True)
        spans.append((sum(xs) / len(xs), sum(ys) / len(ys), min(ys), max(ys)))
    return spans


def _linear(values: Sequence[float], start: float, end: float, *, tight: bool = False) -> _Axis:
    """An axis over ``values``; ``tight`` ends it at their extremes, else it ends at round figures."""
    low, high = min(values), max(values)
    if low == high:
        # A constant has no extent of its own: give it a tenth of its size either way.
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    step = _round_step((high - low) / 4)
    if not tight:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return _Axis(low, high, start, end, False, tuple(i * step for i in range(first, last + 1)))


def _vertical(values: Sequence[float], *, from_zero: bool = False) -> _Axis:
    start, end = HEIGHT - BOTTOM, TOP
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_FROM:
        return _logarithmic(low, high, start, end)
    return _linear([0, *values] if from_zero else values, start, end)


def _logarithmic(low: float, high: float, start: float, end: float) -> _Axis:
    """An axis that ends at 1, 2 or 5 times powers of ten, and marks the powers, or those figures where powers are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    figures = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    low = max(figure for figure in figures if figure <= low * (1 + 1e-9))
    high = min(figure for figure in figures if figure >= high * (1 - 1e-9))
    inside = [figure for figure in figures if low <= figure <= high]
    decades = [float(f"1e{power}") for power in powers if low <= float(f"1e{power}") <= high]
    ticks = inside if len(inside) <= 7 else decades[:: math.ceil(len(decades) / 6)]
    return _Axis(low, high, start, end, True, tuple(ticks))


def _round_step(rough: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _short(value: float) -> str:
    """A tick's figure in few letters: 0, 250, 1.5k, 2M, 0.01, 1e-5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if value and abs(value) < 1e-4:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"
