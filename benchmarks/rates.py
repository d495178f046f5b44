"""What ``compare_tokenizers.py`` has measured: its columns, what H.264 has at each rate, and the picture of quality by rate."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from lines import Line, lines
from records import read

from vidgen.evaluation.rows import measure

RESULTS = Path(__file__).parent / "results" / "tokenizers.jsonl"
KINDS = {"worlds": "Worlds", "folder": "Footage"}
"""The data by name, and in words."""

COLUMNS = {
    "reconstruction/psnr": "PSNR, dB ↑",
    "reconstruction/ssim": "SSIM ↑",
    "tokenizer/parameters": "Parameters",
    "tokenizer/bits_per_pixel": "Bits/pixel",
    "tokenizer/stored_bits_per_pixel": "Stored, bits/pixel",
    "codebook/usage": "Codes used, % ↑",
    "codebook/perplexity": "Perplexity ↑",
    "reconstruction/small_objects": "Small objects kept, % ↑",
    "reconstruction/motion_error": "Motion error, px ↓",
    "probe/label_accuracy": "Label, % ↑",
    "probe/position_r2": "Place, R² ↑",
    "probe/velocity_r2": "Velocity, R² ↑",
    "tokenizer/steps_per_second": "Steps/s",
}
FLOORS = {
    "baseline/psnr_mean_frame": "the clip's mean frame, shown throughout,",
    "baseline/psnr_blank": "a ground without any object",
}
"""What a reconstruction should be better than, by the kind of data."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 60, 40, 30, 50
STYLE = (
    "text{font:13px sans-serif;fill:#333}.m{text-anchor:middle}.e{text-anchor:end}.g{stroke:#ddd}"
    ".c{stroke:#b45f06;fill:none;stroke-width:2}circle{fill:#1f6feb}"
)


@cache
def _lines(kind: str) -> tuple[Line, ...]:
    return tuple(line for line in lines(read(RESULTS)) if line.origin.data == kind)


def _is_codec(line: Line) -> bool:
    return line.origin.tokenizer.startswith("H.264")


def cells(kind: str) -> list[Line]:
    """The tokenizers measured on a kind of data."""
    return [line for line in _lines(kind) if not _is_codec(line)]


def point(line: Line) -> tuple[float, float]:
    """Bits per pixel and PSNR."""
    return line.rows["tokenizer/bits_per_pixel"][0].value, line.rows["reconstruction/psnr"][0].value


def floor(kind: str) -> tuple[str, float] | None:
    """What needs no tokenizer, in words, and its PSNR on the same clips; None where it was not measured."""
    for name, said in FLOORS.items():
        if values := [row.value for line in cells(kind) for row in line.rows.get(name, ())]:
            return said, max(values)
    return None


def codec(kind: str) -> list[tuple[float, float]]:
    """H.264's points, from the lowest rate on."""
    return sorted(point(line) for line in _lines(kind) if _is_codec(line))


def crfs(kind: str) -> list[int]:
    """H.264's qualities that were measured, from the finest on."""
    return sorted(int(line.origin.tokenizer.rpartition(" ")[2]) for line in _lines(kind) if _is_codec(line))


def text(line: Line, name: str) -> str:
    """A figure without its interval, in the unit of its column."""
    if name not in line.rows:
        return ""
    if name == "tokenizer/parameters":
        return measure(name).text(line.rows[name][0].value, unit=False)
    value = line.rows[name][0].value * (100 if "%" in COLUMNS[name] else 1)
    return f"{value:.3g}" if math.isfinite(value) else "–"


def codec_at(kind: str, line: Line) -> str:
    """PSNR of H.264 at the rate of a line, between the two qualities about it; above its finest, more than that one's."""
    curve, rate = codec(kind), point(line)[0]
    for (low, before), (high, after) in zip(curve, curve[1:], strict=False):
        if low <= rate <= high:
            share = math.log(rate / low) / math.log(high / low)
            return f"{before + share * (after - before):.1f}"
    return f"> {curve[-1][1]:.1f}" if curve and rate > curve[-1][0] else "none so low"


def picture_name(kind: str) -> str:
    """The picture's file in docs/."""
    return f"rate-distortion-{kind}.svg"


def picture(kind: str) -> str:
    """PSNR by rate as SVG, the rate on a logarithmic axis: a dot a tokenizer, a line for H.264."""
    points, curve = [(line.origin.tokenizer, *point(line)) for line in cells(kind)], codec(kind)
    rates = [rate for _, rate, _ in points] + [rate for rate, _ in curve]
    values = [value for _, _, value in points] + [value for _, value in curve]
    low, high = math.log2(min(rates)) - 0.2, math.log2(max(rates)) + 0.2
    bottom, top = min(values) - 1, max(values) + 1

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log2(rate) - low) / (high - low)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)

    shapes = []
    for tick in range(math.ceil(low), math.floor(high) + 1):
        shapes.append(f'<path d="M{x(2.0**tick):.1f} {TOP}V{HEIGHT - BOTTOM}" class="g"/>')
        shapes.append(_word(x(2.0**tick), HEIGHT - BOTTOM + 18, f"{2.0**tick:g}", "m"))
    for tick in range(math.ceil(bottom / 5) * 5, math.floor(top) + 1, 5):
        shapes.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" class="g"/>')
        shapes.append(_word(LEFT - 8, y(tick) + 4, str(tick), "e"))
    if curve:
        path = "L".join(f"{x(rate):.1f} {y(value):.1f}" for rate, value in curve)
        shapes += [f'<path d="M{path}" class="c"/>', _word(x(curve[-1][0]) - 8, y(curve[-1][1]) - 8, "H.264", "e")]
    shapes += _labelled([(name, x(rate), y(value)) for name, rate, value in points])
    axes = [_word((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "bits per pixel (logarithmic)", "m"), _word(12, 20, "PSNR, dB", "s")]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    title = f"<title>{KINDS[kind]}: PSNR by rate</title><style>{STYLE}</style>"
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    return "\n".join([head, title, ground, *shapes, *axes, "</svg>"]) + "\n"


def _word(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{anchor}">{said}</text>'


def _labelled(dots: list[tuple[str, float, float]]) -> list[str]:
    """Dots with their names beside them, moved down where another name is."""
    shapes: list[str] = []
    taken: list[tuple[float, float]] = []
    for name, x, y in sorted(dots, key=lambda dot: dot[2]):
        place = y + 4
        while any(abs(place - other) < 14 and abs(x - across) < 100 for across, other in taken):
            place += 14
        taken.append((x, place))
        anchor, side = ("e", -8) if x > WIDTH - 140 else ("s", 8)
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>', _word(x + side, place, name, anchor)]
    return shapes
