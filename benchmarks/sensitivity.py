"""What ``corruptions.py`` has measured: which figure tells which spoilt clips from true ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "corruptions.jsonl"
NONE, FRESH = "none", "fresh true clips"
"""What is no corruption: the clips themselves, and several sets of others of the split. Together they say what chance does."""

FIGURES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "fd_random3d": "FD, random 3-D features",
    "fd_motion": "FD, `motion`",
    "factor_fd": "FD, factors",
    "appearance_legal": "Appearance-legal, %",
    "law_legal": "Law-legal, %",
    "class_accuracy": "Class accuracy, %",
    "parse_rate": "Readable, %",
    "presence": "Presence, %",
    "count_error": "Count error",
    "color_constant": "Colour constant, %",
    "shape_constant": "Shape constant, %",
    "size_error": "Size error, %",
    "law_residual": "Law residual, px",
    "travel": "Travel, px",
    "trajectory_error": "Trajectory error, px",
    "tracked": "Tracked, %",
    "energy_error": "Energy error, %",
    "momentum_error": "Momentum error, %",
    "wall_penetration": "Wall penetration, px",
    "permanence": "Permanence, %",
    "reappearance_error": "Reappearance error, px",
    "action_accuracy": "Action accuracy, %",
    "action_error": "Action error, px",
    "follows_caption": "Follows caption, %",
    "coverage": "Coverage, %",
    "novelty": "Novelty",
}
"""The figures by name, and the heads of their columns."""

PAIRED = ("psnr", "ssim")
"""Figures that compare with each clip's original, which fresh clips have none of."""

TABLES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "one object": (
        ("Pixels and features", tuple(FIGURES)[:5]),
        ("The judge", tuple(FIGURES)[5:16]),
        ("Physics, against the true states and the laws", tuple(FIGURES)[16:23]),
        ("Physics, against what was asked, and the set as a whole", tuple(FIGURES)[23:]),
    ),
    "two discs": (
        (
            "Two discs that may collide",
            (
                "fd_random3d",
                "fd_motion",
                "appearance_legal",
                "law_legal",
                "law_residual",
                "trajectory_error",
                "tracked",
                "energy_error",
                "momentum_error",
                "wall_penetration",
            ),
        ),
    ),
}
"""The tables of each world: a title and the figures in its columns."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Every figure of one set of clips.

    Attributes:
        world: by the name that ``corruptions.WORLDS`` gives it.
        corruption: what was done to the clips, by its name.
        draw: which set of clips it is, beyond the first of fresh ones.
        clips: how many.
        figures: by name: the value (None where there is none), on how many it was measured, and out of how many.
        seconds: that measuring took, with whatever else was running.
    """

    world: str
    corruption: str
    draw: int
    clips: int
    figures: dict[str, tuple[float | None, int, int]]
    seconds: float

    def value(self, figure: str) -> float | None:
        """A figure's value; None where it has none."""
        return self.figures.get(figure, (None, 0, 0))[0]


def rows() -> list[dict]:
    """The lines of the file, whole."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def points() -> list[Point]:
    """What has been measured."""
    names = [field.name for field in fields(Point)]
    return [Point(**{name: row[name] for name in names}) for row in rows()]


def ends(found: Sequence[Point], world: str, figure: str, *corruptions: str) -> tuple[float, float] | None:
    """The least and the greatest of a figure over all sets of these corruptions; None where it has no value in them."""
    values = [point.value(figure) for point in found if point.corruption in corruptions and point.world == world]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def sees(found: Sequence[Point], point: Point, figure: str) -> bool:
    """Whether a figure tells spoilt clips from true ones: it is farther from what sets of true clips give than these differ."""
    value, bounds = point.value(figure), ends(found, point.world, figure, NONE, FRESH)
    if value is None or bounds is None or figure in PAIRED:
        return False
    low, high = bounds
    return value < 2 * low - high - 1e-9 or value > 2 * high - low + 1e-9


def text(figure: str, value: float | None) -> str:
    """A figure in the unit of its column, to three digits."""
    if value is None:
        return "–"
    value *= 100 if FIGURES[figure].endswith("%") else 1
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def bodies() -> dict[tuple[str, str], tuple[list[str], list[list[str]]]]:
    """The head and the rows of every table, by its world and title.

    A figure that sees a corruption is in bold; one that could be measured on less than half of what it was asked of, in brackets.
    """
    found, tables = points(), {}
    for world, parts in TABLES.items():
        own = [point for point in found if point.world == world and point.draw == 0]
        for title, names in parts if own else ():
            columns = [name for name in names if any(point.value(name) is not None for point in own)]
            body = [[point.corruption, *(_cell(found, point, name) for name in columns)] for point in own]
            tables[world, title] = (["", *(FIGURES[name] for name in columns)], body)
    return tables


def _cell(found: Sequence[Point], point: Point, figure: str) -> str:
    if point.corruption == FRESH and figure not in PAIRED:
        low, high = (text(figure, end) for end in ends(found, point.world, figure, FRESH) or (None, None))
        return low if low == high else f"{low}–{high}"
    shown = text(figure, point.value(figure))
    _, n, of = point.figures.get(figure, (None, 0, 0))
    if 0 < 2 * n < of:
        shown = f"({shown})"
    return f"**{shown}**" if sees(found, point, figure) else shown
