"""The pictures of a suite, as SVG files that stand by themselves: what its records show beyond its tables.

Every figure is the mean over a cell's seeds. Colours tell one thing apart, shapes and dashes tell it again, and a picture follows
the reader's light or dark. What a suite's records have no figures for is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import mean

import scaling
from markupsafe import Markup
from measured import LOSS, Run, average, baselines, cells, families, points, runs, trained, varied
from records import Record
from suite import Suite
from suite_stats import standard_error

from vidgen.evaluation.charts import HEIGHT, LETTER, SHAPES, Field, Mark, Series, heat_map, line_chart, pareto, scatter_chart
from vidgen.evaluation.rows import measure

WIDTH, TALL = 560, 340
"""Of a picture, and the height of a chart that goes across it."""

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1d1e20",
    "quiet": "#56595f",
    "hair": "#e2e0da",
    "c": ("#438fe1", "#843900", "#004e3d", "#632570", "#b7890d", "#868a96"),
    "h": ("#f3f7fa", "#dde9f2", "#c2d8e8", "#a3c4dc", "#7fabcd", "#1f6ea3", "#0d4a75"),
}
DARK = {
    "paper": "#141618",
    "ink": "#e8e6e1",
    "quiet": "#a3a8ae",
    "hair": "#30353a",
    "c": ("#008af3", "#d46730", "#49eeb9", "#ffaefa", "#deec5f", "#828790"),
    "h": ("#1b2126", "#1c2d3a", "#1e3b50", "#204c6a", "#255f86", "#6fb1de", "#a9d4f2"),
}
"""Grounds, inks, the colours of lines and marks, and the steps of heat maps; on the last two of these, the paper is the ink.

The colours were searched for: seen with any of the three kinds of colour blindness, no two are nearer than 30 in CIELAB.
"""

DASHES = ("none", "7 3", "2 3", "9 3 2 3", "14 4")
STYLES = 30
"""Styles that differ: colours go round in six, dashes and shapes in five."""

OF_TOKENIZERS = ("reconstruction/psnr", "codebook/usage")
OF_SAMPLES = ("samples/appearance_legal", "samples/law_legal", "samples/motion_fd")
"""What is drawn over an option's numbers."""

WIDE = 8
"""How many times its lowest number an option's highest is, from which on its axis is logarithmic."""

COMPUTE = {"generator/train_flops": "training", "generator/sample_flops": "a sample"}
"""What stands for compute in scaling, the first that there is, and what it is of."""


def charts(suite: Suite, records: Sequence[Record]) -> dict[str, str]:
    """The pictures of a suite by file name, ``suite-NAME-WHAT.svg``; the same records give the same bytes."""
    found, without = runs(records), baselines(records)
    drawn = {
        "options": _options(found),
        "rate-distortion": _rate_distortion(found, without),
        "quality-time": _quality_time(found, without),
        "training": _training(found),
        "pairs": _pairs(found),
        "scaling": _scaling(found),
    }
    return {f"suite-{suite.name}-{what}.svg": _page(suite, what, page) for what, page in drawn.items() if page}


# Charts ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A chart with its title, and the edge at which it stands in a picture."""

    title: str
    chart: Markup
    left: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its box."""
        width, height = re.findall(r"\d+", str(self.chart).partition('viewBox="0 0 ')[2].partition('"')[0])
        return int(width), int(height)


@dataclass(frozen=True)
class Page:
    """A picture to be: names of the styles, panels from top to bottom, and what has to be known of them."""

    keys: Sequence[tuple[int, str]]
    panels: Sequence[Panel]
    notes: Sequence[str]
    lines: bool = False


def _rate_distortion(found: Sequence[Run], without: Sequence[Run]) -> Page | None:
    """PSNR by rate, a mark a tokenizer, over the line of H.264."""
    marks, without_rate = [], []
    for name, own in _tokenizers(found).items():
        rate, psnr = average(own, "tokenizer/bits_per_pixel"), average(own, "reconstruction/psnr")
        if rate and psnr is not None:
            about = f"{name}: {_said('reconstruction/psnr', psnr)} at {rate:.3g} bits per pixel, {_seeds(own)}"
            marks.append(Mark(name, rate, psnr, about=about, spread=_spread(own, "reconstruction/psnr")))
        elif psnr is not None:
            without_rate.append(f"{name} ({_said('reconstruction/psnr', psnr)})")
    points = [(run.value("tokenizer/bits_per_pixel"), run.value("reconstruction/psnr")) for run in without]
    codec = sorted((rate, psnr) for rate, psnr in points if rate and psnr is not None)
    if len(marks) < 2:  # one alone is compared with nothing
        return None
    chart = scatter_chart(
        marks,
        title="PSNR by rate",
        x_name="bits per pixel",
        lines=[Series("H.264", codec, style=1)] if codec else (),
        front=pareto([(mark.x, mark.y) for mark in marks], higher=True),
        width=WIDTH,
        height=TALL,
    )
    notes = ["Steps: what no other tokenizer beats at its rate or below. Upright lines: from the lowest to the highest seed."]
    notes += [f"Continuous, and so without a rate: {', '.join(without_rate)}."] if without_rate else []
    return Page((), [Panel("PSNR of reconstructions, dB", chart)], notes)


def _quality_time(found: Sequence[Run], without: Sequence[Run]) -> Page | None:
    """Quality of samples by the time that one takes, a mark a pair; of one tokenizer, settings stand beside the marks."""
    named = _pairs_of(found)
    one = len({tokenizer for tokenizer, _ in named}) == 1 and any(", " in generator for _, generator in named)
    styles = _styles(_parts(generator)[0] if one else generator for _, generator in named)
    panels = []
    for name, factor in (("samples/law_legal", 100.0), ("samples/motion_fd", 1.0)):
        marks, higher = [], measure(name).better == "higher"
        for (tokenizer, generator), own in named.items():
            seconds, value = average(own, "samples/seconds"), average(own, name)
            if seconds and value is not None and (higher or min(_values(own, name)) > 0):
                about = f"{generator} × {tokenizer}: {_said(name, value)} at {seconds:.3g} s a sample, {_seeds(own)}"
                spread = _spread(own, name, factor)
                style, label = _parts(generator) if one else (generator, tokenizer)
                marks.append(Mark(_starred(label, own), seconds, factor * value, styles[style], about, spread))
        if not marks:
            continue
        what = measure(name)
        there = [(run.origin.tokenizer, factor * value) for run in without if (value := run.value(name)) is not None]
        chart = scatter_chart(
            marks,
            title=f"{what.label} by time",
            x_name="seconds per sample",
            front=pareto([(mark.x, mark.y) for mark in marks], higher=higher),
            levels={baseline: value for baseline, value in there if higher or value > 0},
            log=not higher,
            width=WIDTH,
            height=TALL,
        )
        panels.append(Panel(f"{_title(name)}: {measure(name).better} is better", chart))
    notes = ["Steps: what no other pair beats in as little time. Upright lines: from the lowest to the highest seed."]
    told = dict.fromkeys(part.rpartition(" ")[0] for _, generator in named for part in generator.split(", ")[1:])
    notes += [f"Beside the marks: {', '.join(told)}."] if one else []
    return Page(_keys(styles), panels, [*notes, *_stars(found)]) if panels else None


def _training(found: Sequence[Run]) -> Page | None:
    """Validation loss by steps, a chart a generator and a line a tokenizer."""
    named = {key: own for key, own in trained(found).items() if any(len(run.losses) > 1 for run in own)}
    styles = _styles(tokenizer for tokenizer, _ in named)
    half = WIDTH // 2
    panels = []
    for generator in dict.fromkeys(generator for _, generator in named):
        series = [
            _curve(tokenizer, [run.losses for run in own if run.losses], styles[tokenizer])
            for (tokenizer, its), own in named.items()
            if its == generator
        ]
        drawn = [one for one in series if one.points]
        if drawn:
            chart = line_chart(drawn, title=f"Validation loss, {generator}", x_name="steps", width=half, height=HEIGHT)
            panels.append(Panel(generator, chart, half * (len(panels) % 2)))
    notes = [
        "Validation loss of the generators. Lines: mean over seeds; shade: from the lowest to the highest.",
        "A loss is of its own latents: compare shapes and not heights between tokenizers.",
    ]
    return Page(_keys(styles), panels, notes, lines=True) if panels else None


def _curve(label: str, losses: Sequence[Mapping[int, float]], style: int) -> Series:
    """The mean of curves at the steps that all of them have, over their range."""
    steps = sorted(set.intersection(*(set(one) for one in losses)))
    columns = [(step, [one[step] for one in losses]) for step in steps]
    band = [(step, min(values), max(values)) for step, values in columns] if len(losses) > 1 else []
    return Series(label, [(step, mean(values)) for step, values in columns], style, band)


def _pairs(found: Sequence[Run]) -> Page | None:
    """Two measures of every pair, the figure in each field; what there is more of goes down, for names are long."""
    named = _pairs_of(found)
    tokenizers, generators = (list(dict.fromkeys(key[i] for key in named)) for i in (0, 1))
    turned = len(generators) > len(tokenizers)
    rows, columns = (generators, tokenizers) if turned else (tokenizers, generators)
    panels = []
    for name in ("samples/law_legal", "samples/motion_fd"):
        values = {key: value for key, own in named.items() if (value := average(own, name)) is not None}
        if len({key[0] for key in values}) < 2 or len({key[1] for key in values}) < 2:
            continue
        what = measure(name)
        scale = _strengths(list(values.values()), higher=what.better == "higher")
        best = max(values.values()) if what.better == "higher" else min(values.values())
        fields = {
            key[::-1] if turned else key: Field(
                _starred(what.text(value, unit=False), named[key]),
                scale[value],
                f"{key[1]} × {key[0]}: {_deviating(name, named[key], value)}",
                value == best,
            )
            for key, value in values.items()
        }
        chart = heat_map(fields, title=what.label, rows=rows, columns=columns, width=WIDTH)
        panels.append(Panel(f"{_title(name)}: {what.better} is better", chart))
    notes = ["The fuller the colour, the better; the best is framed. Means over seeds.", *_stars(found)]
    return Page((), panels, notes) if panels else None


def _strengths(values: Sequence[float], *, higher: bool) -> dict[float, float]:
    """Where each value lies from the worst, 0, to the best, 1; distances by their logarithms."""
    placed = {value: value if higher else -log(max(value, 1e-9)) for value in values}
    low, high = min(placed.values()), max(placed.values())
    return {value: (place - low) / (high - low) if high > low else 0.5 for value, place in placed.items()}


def _scaling(found: Sequence[Run]) -> Page | None:
    """The loss by the generator's size and a distance by compute, with power laws, where generators were run in several sizes."""
    related = families(found)
    styles = _styles(related)
    compute = next((name for name in COMPUTE if any(run.value(name) for run in found)), "generator/sample_flops")
    loss = _laws(related, styles, "generator/parameters", LOSS, "parameters of the generator")
    distance = _laws(related, styles, compute, "samples/motion_fd", f"FLOPs of {COMPUTE[compute]}")
    panels = []
    notes = ["A mark is a run. Straight lines: power laws with their 95 % bands; bent ones: with a floor."]
    for title, laws in (("Validation loss of the generator", loss), ("motion-FD of samples", distance)):
        if laws:
            panels.append(Panel(f"{title}: lower is better", laws[0]))
            notes += [f"{title}:", *laws[1]]
    return Page(_keys(styles), panels, notes) if panels else None


def _options(found: Sequence[Run]) -> Page | None:
    """What becomes of each figure over the numbers that an option was given, a line for all that is told beside it."""
    related = varied(found)
    styles = _styles(name for named in related.values() for name in named)
    half = WIDTH // 2
    panels = []
    for option, named in related.items():
        numbers = sorted({float(run.typed(option)) for own in named.values() for run in own})
        drawn = 0  # each option begins a row of its own
        for figure in (*(OF_TOKENIZERS if option.startswith("tokenizer.") else ()), *OF_SAMPLES):
            series = [one for name, own in named.items() if (one := _over(option, own, figure, name, styles[name])).points]
            if not any(len(one.points) > 1 for one in series):
                continue
            what = measure(figure)
            words = option.rpartition(".")[2].replace("_", " ")
            wide = numbers[0] > 0 and numbers[-1] / numbers[0] >= WIDE
            chart = line_chart(series, title=f"{what.label} by {words}", x_name=words, log_x=wide, width=half, height=HEIGHT)
            unit = f", {what.unit}" if what.unit else ""
            subject = " of samples" if figure == "samples/motion_fd" else ""
            panels.append(Panel(f"{what.label}{subject}{unit}", chart, half * (drawn % 2)))
            drawn += 1
    notes = ["Lines: means over the seeds that each point has; shade: from the lowest to the highest."]
    return Page(_keys(styles), panels, notes, lines=True) if panels else None


def _over(option: str, own: Sequence[Run], figure: str, name: str, style: int) -> Series:
    """A figure by an option's number: the mean over seeds, over their range."""
    factor = 100 if measure(figure).unit == "%" else 1
    found: dict[float, list[float]] = {}
    for run in own:
        if (value := run.value(figure)) is not None:
            found.setdefault(float(run.typed(option)), []).append(factor * value)
    several = any(len(values) > 1 for values in found.values())
    band = [(number, min(values), max(values)) for number, values in sorted(found.items())] if several else []
    return Series(name, [(number, mean(values)) for number, values in sorted(found.items())], style, band)


def _laws(
    related: Mapping[str, Sequence[Run]], styles: Mapping[str, int], across: str, along: str, words: str
) -> tuple[Markup, list[str]] | None:
    """A chart of one figure by another, and what its laws say."""
    marks, lines, notes = [], [], []
    for name, own in related.items():
        found = points(own, across, along)
        marks += [Mark("", x, y, styles[name], f"{name}: {y:.3g} at {x:.3g}") for x, y in found]
        sizes, values = [x for x, _ in found], [y for _, y in found]
        if len(set(sizes)) < scaling.LEAST:
            continue
        law = scaling.fit(sizes, values)
        places = [exp(log(min(sizes)) + step / 32 * log(max(sizes) / min(sizes))) for step in range(33)]
        band = [(place, *law.band(place)) for place in places]
        lines.append(Series("", [(place, law.at(place)) for place in places], styles[name], band))
        notes.append(f"{name}: {law.words}")
        if len(set(sizes)) < scaling.LEAST_WITH_FLOOR:
            continue
        floored = scaling.fit_with_floor(sizes, values)
        notes[-1] += f"; {floored.words}"
        if floored.floor:
            bent = (styles[name] + len(LIGHT["c"])) % STYLES  # of the same colour, in other dashes
            lines.append(Series("", [(place, floored.at(place)) for place in places], bent))
    if not marks:
        return None
    chart = scatter_chart(marks, title=f"{along} by {words}", x_name=words, lines=lines, log=True, width=WIDTH, height=TALL)
    return chart, notes


# Names and figures ----------------------------------------------------------------------------------------------------------


def _pairs_of(found: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """The cells that have a generator."""
    return {key: own for key, own in cells(found).items() if own[0].generator}


def _parts(generator: str) -> tuple[str, str]:
    """A generator's name, and the values of the settings that are told of it."""
    name, *settings = generator.split(", ")
    return name, ", ".join(setting.rpartition(" ")[2] for setting in settings)


def _tokenizers(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by tokenizer, those apart that were trained with another quantizer; of a seed, one run speaks for all."""
    named: dict[str, dict[int, Run]] = {}
    for (tokenizer, _), own in cells(found).items():
        for run in own:
            name = f"{tokenizer} with {run.quantizer}" if run.quantizer else tokenizer
            if run.value("reconstruction/psnr") is not None:
                named.setdefault(name, {})[run.origin.seed] = run
    return {name: list(own.values()) for name, own in named.items()}


def _styles(names: Iterable[str]) -> dict[str, int]:
    return {name: place % STYLES for place, name in enumerate(dict.fromkeys(names))}


def _keys(styles: Mapping[str, int]) -> list[tuple[int, str]]:
    return [(style, name) for name, style in styles.items()]


def _starred(text: str, own: Sequence[Run]) -> str:
    return f"{text}*" if any(run.quantizer for run in own) else text


def _stars(found: Sequence[Run]) -> list[str]:
    others = sorted({run.quantizer for run in found if run.quantizer})
    return [f"* the tokenizer was trained with another quantizer: {', '.join(others)}"] if others else []


def _values(own: Sequence[Run], name: str) -> list[float]:
    return [value for run in own if (value := run.value(name)) is not None]


def _spread(own: Sequence[Run], name: str, factor: float = 1.0) -> tuple[float, float] | None:
    values = _values(own, name)
    return (factor * min(values), factor * max(values)) if len(values) > 1 else None


def _seeds(own: Sequence[Run]) -> str:
    count = len({run.origin.seed for run in own})
    return f"{count} seed{'s' if count > 1 else ''}"


def _said(name: str, value: float) -> str:
    return measure(name).text(value)


def _deviating(name: str, own: Sequence[Run], value: float) -> str:
    values = _values(own, name)
    error = f" ± {measure(name).bound(standard_error(values), value)}" if len(values) > 1 else ""
    return f"{_said(name, value)}{error}, {_seeds(own)}"


def _title(name: str) -> str:
    what = measure(name)
    return f"{what.label} of samples{f', {what.unit}' if what.unit else ''}"


# Pictures -------------------------------------------------------------------------------------------------------------------


def _page(suite: Suite, what: str, page: Page) -> str:
    """A picture: its keys, its panels from top to bottom with two halves side by side, and its notes."""
    shapes, top = _legend(page.keys, lines=page.lines)
    for panel in page.panels:
        wide, tall = panel.size
        start = top - tall - 26 if panel.left else top
        shapes.append(_text(panel.left + 10, start + 16, panel.title, "title"))
        place = f'<svg x="{panel.left}" y="{start + 22}" width="{wide}" height="{tall}" '
        shapes.append(str(panel.chart).replace("<svg ", place, 1))
        top = start + tall + 26
    for note in page.notes:
        for line in _wrapped(note):
            top += 16
            shapes.append(_text(10, top, line, "note"))
    height = top + 12
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="suite" {size}>'
    title = Markup("<title>{}: {}</title>").format(suite.title, what.replace("-", " "))
    ground = f'<rect class="ground" width="{WIDTH}" height="{height}"/>'
    used = {int(style) for shape in shapes for style in re.findall(r'class="(?:line|mark|range) s(\d+)"', shape)}
    return "\n".join([head, str(title), f"<style>{_style(sorted(used))}</style>", ground, *shapes, "</svg>"]) + "\n"


def _legend(keys: Sequence[tuple[int, str]], *, lines: bool) -> tuple[list[str], int]:
    """What each style stands for, in as many rows as it takes, and where they end."""
    shapes, left, top = [], 12.0, 20
    for style, name in keys:
        wide = 34 + (LETTER + 0.5) * len(name)
        if left + wide > WIDTH and left > 12:
            left, top = 12.0, top + 20
        if lines:
            sign = f'<path class="line s{style}" d="M{left:.1f} {top - 4}h22"/>'
        else:
            place, shape = f"translate({left + 12:.1f} {top - 4})", SHAPES[style % len(SHAPES)]
            sign = f'<path class="mark s{style}" transform="{place}" d="{shape}"/>'
        shapes += [sign, _text(left + 28, top, name, "key")]
        left += wide + 12
    return shapes, top + 6 if keys else 4


def _text(x: float, y: float, text: str, style: str) -> str:
    return str(Markup('<text class="{}" x="{:.1f}" y="{}">{}</text>').format(style, x, y, text))


def _wrapped(text: str) -> list[str]:
    """Lines that are no wider than a picture."""
    rows = [""]
    for word in text.split():
        if rows[-1] and (len(rows[-1]) + 1 + len(word)) * (LETTER - 0.2) > WIDTH - 20:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    return rows


def _style(used: Iterable[int]) -> str:
    """The style sheet with the styles that are used, for light and dark; it binds nothing outside of these pictures."""

    def colours(of: Mapping[str, str | tuple[str, ...]]) -> str:
        named = {key: value for key, value in of.items() if isinstance(value, str)}
        named |= {f"{key}{i}": value for key in ("c", "h") for i, value in enumerate(of[key])}
        return ";".join(f"--{key}:{value}" for key, value in named.items())

    rules = [
        f"svg.suite{{{colours(LIGHT)}}}",
        f"@media (prefers-color-scheme:dark){{svg.suite{{{colours(DARK)}}}}}",
        ".suite .ground{fill:var(--paper)}",
        ".suite text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif;fill:var(--quiet)}",
        ".suite .title{font-weight:600;fill:var(--ink)}.suite .name,.suite .key{fill:var(--ink)}.suite .note{font-size:11.5px}",
        ".suite .name{stroke:var(--paper);stroke-width:3;paint-order:stroke;stroke-linejoin:round}",
        ".suite .hair,.suite .leader{stroke:var(--hair);fill:none}.suite .leader{stroke:var(--quiet);stroke-width:.6}",
        ".suite .axis{stroke:var(--quiet);fill:none}.suite .line{fill:none;stroke-width:1.8}.suite .range{opacity:.16}",
        ".suite .front{stroke:var(--ink);fill:none;stroke-width:1.1;stroke-dasharray:4 3}",
        ".suite .equal{stroke:var(--quiet);fill:none;stroke-dasharray:1 3}.suite .spread{fill:none;opacity:.55}",
        ".suite .mark{stroke:var(--paper);stroke-width:.6}.suite .best{stroke:var(--ink);stroke-width:2}",
    ]
    for style in used:
        colour, dash = f"var(--c{style % len(LIGHT['c'])})", DASHES[style % len(DASHES)]
        rules.append(
            f".suite .line.s{style},.suite .spread.s{style}{{stroke:{colour}}}.suite .line.s{style}{{stroke-dasharray:{dash}}}"
            f".suite .mark.s{style},.suite .dot.s{style},.suite .range.s{style}{{fill:{colour}}}"
        )
    for step in range(len(LIGHT["h"])):
        ink = "paper" if step > 4 else "ink"
        rules.append(f".suite .h{step}{{fill:var(--h{step})}}.suite .t{step}{{fill:var(--{ink});font-weight:600}}")
    return "".join(rules)
