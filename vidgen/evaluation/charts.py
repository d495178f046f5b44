"""Small charts as inline SVG, drawn for reports: no library, no script, colours from the page's style sheet.

A chart is drawn in a box of fixed units and scaled by the page. Strokes and texts carry classes only (``line s0``, ``tick``,
...), so one style sheet serves light and dark. Every text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34  # room around the plot for ticks and the name of the horizontal axis
MOST_POINTS = 120  # a curve with more is drawn as the mean of each of so many spans, its range shaded
LOG_FROM = 20.0  # positive values that span more than this factor are drawn on a logarithmic axis


LETTER = 6.8
"""Width of a letter, in fonts that are wide, of texts of 12 units."""

BESIDE = 6.0
"""How far from its mark a name may be without a hairline to it."""

SHAPES = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "M0 -4.8L4.6 3.4H-4.6Z",
    "M0 -5.2L4.6 0L0 5.2L-4.6 0Z",
    "M0 4.8L4.6 -3.4H-4.6Z",
)
"""What marks look like about their place, style after style: circle, square, triangle, diamond, triangle downwards."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve.

    Attributes:
        label: its name.
        points: finite, in order of x.
        style: chooses its colour; its place in a chart's list where it is None.
        band: (x, low, high) of a shade below it, in order of x.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: int | None = None
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a scatter chart.

    Attributes:
        label: what stands beside it, where there is room.
        x, y: its place.
        style: chooses shape and colour.
        about: what is told of it on pointing.
        spread: the ends of a line through it, along y.
    """

    label: str
    x: float
    y: float
    style: int = 0
    about: str = ""
    spread: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a heat map: what is written in it, a strength in [0, 1] for its fill, and what is told of it on pointing."""

    text: str
    strength: float
    about: str = ""
    best: bool = False


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


def line_chart(
    series: Sequence[Series], *, title: str, x_name: str, log_x: bool = False, width: int = WIDTH, height: int = HEIGHT
) -> Markup:
    """Curves over a shared horizontal axis. Vertically logarithmic where the values are positive and span over a factor 20.

    Args:
        series: the curves.
        title: what the chart is of, for those who hear it.
        x_name: of the horizontal axis.
        log_x: whether the horizontal axis is logarithmic; all x are positive then.
        width: of the box.
        height: of the box.
    """
    points = [point for one in series for point in one.points]
    across, start, end = [p[0] for p in points], LEFT, width - RIGHT
    x = _logarithmic_about(across, start, end) if log_x else _linear(across, start, end, tight=True)
    y = _vertical([*(p[1] for p in points), *(end for one in series for _, *ends in one.band for end in ends)], height=height)
    shapes = [shape for i, one in enumerate(series) for shape in _series(one, x, y, i)]
    ends = "; ".join(f"{one.label} from {one.points[0][1]:.3g} to {one.points[-1][1]:.3g}" for one in series)
    return _svg(f"{title}: {ends}", [*_grid(x, y, x_name), *shapes], width, height)


def scatter_chart(
    marks: Sequence[Mark],
    *,
    title: str,
    x_name: str,
    lines: Sequence[Series] = (),
    front: Sequence[tuple[float, float]] = (),
    levels: Mapping[str, float] | None = None,
    log: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Markup:
    """Named points over a logarithmic axis, each label where it hides no other.

    Args:
        marks: the points; x is positive.
        title: what the chart is of, for those who hear it.
        x_name: of the horizontal axis.
        lines: curves behind the points, of x that is positive, each with its label at its last point.
        front: points in order of x that are joined by steps, as :func:`pareto` gives them.
        levels: values that have no x, drawn across, by name.
        log: whether the vertical axis is logarithmic too; all y are positive then.
        width: of the box.
        height: of the box.
    """
    curves = [point for one in lines for point in one.points]
    ends = [end for one in lines for _, *band in one.band for end in band]
    ends += [end for mark in marks for end in mark.spread or ()] + list((levels or {}).values())
    across, along = [mark.x for mark in marks] + [x for x, _ in curves], [mark.y for mark in marks] + [y for _, y in curves]
    start, end, floor = LEFT, width - RIGHT, height - BOTTOM
    x = _logarithmic_about(across, start, end)
    y = _logarithmic_about(along + ends, floor, TOP) if log else _linear(along + ends, floor, TOP)
    shapes = [shape for i, one in enumerate(lines) for shape in _series(one, x, y, i)]
    places = [(x.at(mark.x), y.at(mark.y)) for mark in marks]
    taken = [_box(a, b, 5, 5) for a, b in places]
    for name, value in (levels or {}).items():
        shapes.append(Markup('<path class="equal" d="M{} {:.1f}H{}"/>').format(start, y.at(value), end))
        shapes += _label(name, end - LETTER * len(name) - 14, y.at(value) - 8, taken, (), x, y)
    if front:
        shapes.append(Markup('<path class="front" d="{}"/>').format(_steps([(x.at(a), y.at(b)) for a, b in front], end)))
    for mark in marks:
        shapes += _mark(mark, x.at(mark.x), y.at(mark.y), y)
    for one in lines:
        if one.label:
            shapes += _label(one.label, x.at(one.points[-1][0]), y.at(one.points[-1][1]), taken, places, x, y)
    best = set(front)
    for mark in sorted(marks, key=lambda mark: (mark.x, mark.y) not in best):
        if mark.label:
            shapes += _label(mark.label, x.at(mark.x), y.at(mark.y), taken, places, x, y)
    said = "; ".join(mark.about or mark.label for mark in marks if mark.about or mark.label)
    return _svg(f"{title}: {said}", [*_grid(x, y, x_name), *shapes], width, height)


def pareto(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """The points that no other one beats: at no more x, none has a y that is better; in order of x, each once."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1] if higher else point[1])):
        if not found or (y > found[-1][1] if higher else y < found[-1][1]):
            found.append((x, y))
    return found


def heat_map(
    fields: Mapping[tuple[str, str], Field], *, title: str, rows: Sequence[str], columns: Sequence[str], width: int = WIDTH
) -> Markup:
    """A field for each of (row, column) that there is, filled by its strength in seven steps: ``h0`` to ``h6``.

    The text of a field carries its step too (``t0`` to ``t6``), so that the style sheet can keep it legible on every one. Names
    of columns are broken at their commas.
    """
    names = [column.split(", ") for column in columns]
    left = max(LETTER * len(row) for row in rows) + 20
    side, tall, top = (width - left - RIGHT) / len(columns), 30, 9 + 15 * max(map(len, names))
    shapes = [
        _text(left + side * (i + 0.5), 15 * (line + 1), word, "middle")
        for i, name in enumerate(names)
        for line, word in enumerate(name)
    ]
    for j, row in enumerate(rows):
        middle = top + tall * (j + 0.5) + 4
        shapes.append(_text(left - 8, middle, row, "end"))
        for i, column in enumerate(columns):
            field = fields.get((row, column))
            if field is None:
                continue
            step = min(int(field.strength * 7), 6)
            box = Markup('<rect class="field h{}{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}" rx="3"/>').format(
                step, " best" if field.best else "", left + side * i + 1.5, top + tall * j + 1.5, side - 3, tall - 3
            )
            words = Markup('<text class="t{}" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
                step, left + side * (i + 0.5), middle, field.text
            )
            about = Markup("<title>{}</title>").format(field.about or f"{row}, {column}: {field.text}")
            shapes.append(Markup("<g>") + about + box + words + Markup("</g>"))
    said = "; ".join(field.about or f"{row}, {column}: {field.text}" for (row, column), field in fields.items())
    return _svg(f"{title}: {said}", shapes, width, top + tall * len(rows) + 4)


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


def _svg(label: str, shapes: Sequence[Markup], width: int = WIDTH, height: int = HEIGHT) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
    return head + Markup("").join(shapes) + Markup("</svg>")


def _grid(x: _Axis, y: _Axis, x_name: str) -> list[Markup]:
    """Hairlines and figures of both axes, and the name of the horizontal one."""
    left, right, floor = x.start, x.end, y.start
    shapes = []
    for tick in y.ticks:
        shapes.append(Markup('<path class="hair" d="M{} {:.1f}H{}"/>').format(left, y.at(tick), right))
        shapes.append(_text(left - 6, y.at(tick) + 3.5, _short(tick), "end"))
    for tick in x.ticks:
        near_end = x.at(tick) > right - 12
        shapes.append(_text(x.at(tick), floor + 14, _short(tick), "end" if near_end else "middle"))
    shapes.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(left, floor, right))
    axes = {(False, True): "vertical axis", (True, False): "horizontal axis", (True, True): "both axes"}.get((x.log, y.log))
    name = f"{x_name} ({axes} logarithmic)" if axes else x_name
    shapes.append(_text((left + right) / 2, floor + BOTTOM - 6, name, "middle"))
    return shapes


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))


def _series(series: Series, x: _Axis, y: _Axis, place: int) -> list[Markup]:
    """A curve over its band, if it has one."""
    style = f"s{place if series.style is None else series.style}"
    shapes = []
    if series.band:
        upper = [f"{x.at(at):.1f} {y.at(high):.1f}" for at, _, high in series.band]
        lower = [f"{x.at(at):.1f} {y.at(low):.1f}" for at, low, _ in reversed(series.band)]
        shapes.append(Markup('<path class="range {}" d="M{}Z"/>').format(style, "L".join([*upper, *lower])))
    return [*shapes, *_curve(series.points, x, y, style)]


def _steps(places: Sequence[tuple[float, float]], end: float) -> str:
    """A path that goes on at the height of each place until the next is reached, and from the last to ``end``."""
    (left, height), *rest = places
    return f"M{left:.1f} {height:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in rest) + f"H{end}"


def _mark(mark: Mark, a: float, b: float, y: _Axis) -> list[Markup]:
    """The shape of a mark at a place of the drawing, over the line of its spread."""
    shapes = []
    if mark.spread:
        ends = (y.at(end) for end in mark.spread)
        shapes.append(Markup('<path class="spread s{}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(mark.style, a, *ends))
    shape = Markup('<path class="mark s{}" transform="translate({:.1f} {:.1f})" d="{}">').format(
        mark.style, a, b, SHAPES[mark.style % len(SHAPES)]
    )
    about = Markup("<title>{}</title>").format(mark.about) if mark.about else Markup("")
    return [*shapes, shape + about + Markup("</path>")]


_Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def _box(a: float, b: float, half_width: float, half_height: float) -> _Box:
    return a - half_width, b - half_height, a + half_width, b + half_height


def _label(
    text: str, a: float, b: float, taken: list[_Box], places: Sequence[tuple[float, float]], x: _Axis, y: _Axis
) -> list[Markup]:
    """The text near (a, b), where it is on nothing that is ``taken``.

    It has a hairline to its place where that is not beside it, or where it is nearer to another of ``places``. What it takes is
    added. Where all is full, there is none: it is told on pointing.
    """
    wide, inside = LETTER * len(text) / 2, (x.start, y.end - 8, x.end + 4, y.start)
    for out, (right, down) in _around():
        box = _box(a + right * (wide + 3 + out), b + down * (6 + out), wide, 6)
        within = box[0] >= inside[0] and box[1] >= inside[1] and box[2] <= inside[2] and box[3] <= inside[3]
        far = out > BESIDE or any(_distance(box, place) < _distance(box, (a, b)) for place in places)
        if within and (out >= BESIDE or not far) and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            # Anchored where the place is, so that a font of another width does not reach it.
            at, anchor = (box[0], "start") if right > 0 else (box[2], "end") if right < 0 else (a, "middle")
            word = Markup('<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
                at, (box[1] + box[3]) / 2 + 4, anchor, text
            )
            leader = Markup('<path class="leader" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(a, b, *_nearest(box, (a, b)))
            return [leader, word] if far else [word]
    return []


def _nearest(box: _Box, place: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to a place."""
    return min(max(place[0], box[0]), box[2]), min(max(place[1], box[1]), box[3])


def _distance(box: _Box, place: tuple[float, float]) -> float:
    return math.dist(_nearest(box, place), place)


def _around() -> Iterator[tuple[float, tuple[float, float]]]:
    """Distances and directions to try, the nearest first: right, left, above, below and between them."""
    for out in (4.0, BESIDE, 14.0, 24.0, 36.0, 50.0):
        for direction in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -0.8), (1, 0.8), (-1, -0.8), (-1, 0.8)):
            yield out, direction


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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


def _vertical(values: Sequence[float], *, from_zero: bool = False, height: int = HEIGHT) -> _Axis:
    start, end = height - BOTTOM, TOP
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


def _logarithmic_about(values: Sequence[float], start: float, end: float) -> _Axis:
    """A logarithmic axis a little wider than ``values``, with round figures between its ends marked."""
    low, high = min(values), max(values)
    pad = max((high / low) ** 0.06, 1.05)
    low, high = low / pad, high * pad
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    figures = [[float(f"{factor}e{power}") for power in powers for factor in factors] for factors in ((1, 2, 5), (1,))]
    inside = [[figure for figure in some if low <= figure <= high] for some in figures]
    ticks = next((some for some in inside if 2 < len(some) <= 7), inside[1])
    if len(ticks) < 3:
        ticks = list(_linear([low, high], start, end, tight=True).ticks)
    return _Axis(low, high, start, end, True, tuple(ticks[:: math.ceil(len(ticks) / 7)]))


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
