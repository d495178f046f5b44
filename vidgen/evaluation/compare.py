"""Many runs on one page that opens offline: a table to sort and filter, samples to play side by side, curves, configs.

A run becomes a :class:`~vidgen.evaluation.cells.Cell`, whether it is read from its folder or from kept results; runs that differ
in nothing but their seeds make one line. :func:`content` puts cells together as plain values, which the page, the Markdown table
and the terminal show alike. Figures share a column where they were measured by one rule and on one set of clips; others have
columns of their own, and a sentence says what differs.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vidgen.evaluation.cells import Cell, Curve, Sheet
from vidgen.evaluation.rows import MEASURES, SUBJECTS, Row, large, markdown_table, measure
from vidgen.files import replacing

GROUPS = ("Reconstruction", "Generation", "Cost", "References")
"""What columns are sorted and picked by."""

SHOWN = (
    "reconstruction/psnr",
    "reconstruction/motion_fd",
    "tokenizer/bits_per_pixel",
    "codebook/usage",
    "samples/law_legal",
    "samples/appearance_legal",
    "samples/class_accuracy",
    "samples/motion_fd",
    "samples/motion_fd_reconstructions",
    "samples/memorised",
    "samples/nearest_psnr",
    "generator/parameters",
    "generator/trunk_tokens",
    "generator/train_clips",
    "generator/sample_flops",
    "generator/train_seconds",
    "samples/seconds",
)
"""The columns that are shown until others are picked, where any run has them."""

COSTS = ("parameters", "flops", "seconds")
"""Ends of the names of what a result costs."""

OF_THE_MODEL = ("tokenizer/", "generator/", "codebook/")
"""Figures that describe a model rather than judge it: how they were taken follows from what it is, and they share a column."""

AMONG = {"samples/motion_fd_reconstructions": "coder"}
"""What lines have to share for a best of them, beside the rate of reconstructions: distances to them have one tokenizer."""

SAME_RATE = 0.05
"""By so much rates may differ and count as one."""

MOST_SETTINGS = 3
"""Differences that a line is told apart by; the others are counted."""


# Lines and columns ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Runs that differ in nothing but their seeds.

    Attributes:
        id: its own, for addresses.
        told: the values by which it is told from other lines of its name.
        cells: by seed.
    """

    id: str
    told: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """In one piece of text."""
        return f"{self.cells[0].name} {self.told}".rstrip()


@dataclass(frozen=True)
class Column:
    """Figures of one name, measured by one rule on one set of clips.

    Attributes:
        key: its own.
        name: of the figures.
        label: of the figures, with what they are of where the label alone is another figure's too.
        rule: how they were measured; empty where that follows from the model.
        apart: what tells it from other columns of the name, in words; empty where there are none.
        rows: the figure of each cell, by the cell's ``id()``.
    """

    key: str
    name: str
    label: str
    rule: str
    apart: str
    rows: Mapping[int, Row]

    def of(self, cells: Iterable[Cell]) -> list[Row]:
        """The figures of those cells that have one."""
        return [self.rows[id(cell)] for cell in cells if id(cell) in self.rows]


def lines(cells: Sequence[Cell]) -> list[Line]:
    """Cells by recipe, in the order in which these came, seeds in theirs."""
    recipes: dict[str, list[Cell]] = {}
    for cell in cells:
        said = [cell.tokenizer, cell.generator, cell.data, sorted(cell.settings.items())]
        recipes.setdefault(json.dumps(said, default=str), []).append(cell)
    firsts = [those[0] for those in recipes.values()]
    ids: list[str] = []
    for first in firsts:
        slug = re.sub(r"[^a-z0-9]+", "-", first.name.lower()).strip("-") or "run"
        free = (name for name in (slug, *(f"{slug}-{number}" for number in range(2, len(firsts) + 2))) if name not in ids)
        ids.append(next(free))
    return [
        Line(name, _told_apart(those[0], firsts), tuple(sorted(those, key=lambda cell: cell.seed)))
        for name, those in zip(ids, recipes.values(), strict=True)
    ]


def _told_apart(cell: Cell, cells: Iterable[Cell]) -> str:
    """The values that recipes of the same names do not share."""
    others = [other for other in cells if other is not cell and other.name == cell.name]
    keys = [key for key, value in cell.settings.items() if any(other.settings.get(key) != value for other in others)]
    said = [f"{key}={_typed(cell.settings[key])}" for key in keys[:MOST_SETTINGS]]
    return " ".join([*said, *([f"and {len(keys) - MOST_SETTINGS} more"] if len(keys) > MOST_SETTINGS else [])])


def _typed(value: Any) -> str:
    """A value as one types it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def group(name: str) -> str:
    """Which of :data:`GROUPS` a figure belongs to."""
    if name.endswith(COSTS):
        return "Cost"
    subject = name.partition("/")[0]
    if subject in ("reconstruction", "tokenizer", "codebook"):
        return "Reconstruction"
    return "Generation" if subject in ("samples", "generator") else "References"


def columns(cells: Sequence[Cell]) -> list[Column]:
    """The columns of all figures, by group, known ones first and in their order."""
    names = dict.fromkeys(name for cell in cells for name in cell.rows)
    order = [*(name for name in MEASURES if name in names), *(name for name in names if name not in MEASURES)]
    sets = _sets_of_clips(cells)
    return [
        column
        for part in GROUPS
        for name in order
        if group(name) == part
        for column in _columns(name, _label(name, order), cells, sets)
    ]


def _columns(name: str, label: str, cells: Sequence[Cell], sets: Sequence[str]) -> list[Column]:
    """Those of one name: a column for each rule and set of clips."""
    of_the_model = group(name) == "Cost" or name.startswith(OF_THE_MODEL)
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for cell, clips in zip(cells, sets, strict=True):
        if row := cell.rows.get(name):
            found.setdefault(("", "") if of_the_model else (rule(row), clips), {})[id(cell)] = row
    rules = _differing([said for said, _ in found])
    several = len({clips for _, clips in found}) > 1
    return [
        Column(
            key=name if number == 1 else f"{name}~{number}",
            name=name,
            label=label,
            rule=key[0],
            apart="; ".join(said for said in (differs, key[1] if several else "") if said),
            rows=those,
        )
        for number, ((key, those), differs) in enumerate(zip(found.items(), rules, strict=True), start=1)
    ]


def _differing(rules: Sequence[str]) -> list[str]:
    """Of each rule the words that not all share, with one more at either end; nothing where all are one rule."""
    if len(set(rules)) == 1:
        return [""] * len(rules)
    split = [said.split() for said in rules]
    begin = _leading(split)
    end = min(_leading([words[::-1] for words in split]), min(map(len, split)) - begin)
    found = []
    for words in split:
        first, last = max(0, begin - 1), min(len(words), len(words) - end + 1)
        said = [*(["…"] if first else []), *words[first:last], *(["…"] if last < len(words) else [])]
        found.append(" ".join(said) or "no rule stated")
    return found


def _leading(split: Sequence[Sequence[str]]) -> int:
    """How many words all begin with."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*split, strict=False)))


def _label(name: str, names: Iterable[str]) -> str:
    label, subject = measure(name).label, name.partition("/")[0]
    alone = all(other == name or measure(other).label != label for other in names)
    return label if alone else f"{label} of {SUBJECTS.get(subject, subject)}"


def rule(row: Row) -> str:
    """How a figure was measured. Distances between sets, whose rule has a hash, depend on how many clips there are too."""
    said = row.protocol or ""
    return f"{said}, n {row.n}" if "@" in said else said


def _sets_of_clips(cells: Sequence[Cell]) -> list[str]:
    """Of each cell the clips that it was measured on, in the options of the data that the cells do not share.

    Of a baseline only the data's name is known: it is of the clips of the first other cell with that data.
    """
    known = {cell.data: cell.clips for cell in reversed(cells) if not cell.baseline}
    sets = [known.get(cell.data, cell.clips) if cell.baseline else cell.clips for cell in cells]
    keys = dict.fromkeys(key for clips in sets for key in clips)
    differ = [key for key in keys if any(clips.get(key) != sets[0].get(key) for clips in sets)]
    return [", ".join(f"{key}={_typed(clips.get(key))}" for key in differ) for clips in sets]


def warnings(found: Sequence[Line], shown: Sequence[Column]) -> list[str]:
    """What a reader has to know before comparing: a sentence for each way in which the runs were measured apart."""
    split: dict[str, list[Column]] = {}
    for column in shown:
        if column.apart:
            split.setdefault(column.name, []).append(column)
    apart: dict[str, list[str]] = {}
    for columns in split.values():
        those = [(column.apart, [line.name for line in found if column.of(line.cells)]) for column in columns]
        words = "; ".join(f"{said} ({_several(names, 4)})" for said, names in those)
        apart.setdefault(words, []).append(columns[0].label)
    sentences = [
        f"Not measured alike, and in columns of their own: {_several(labels, 5)}. What differs: {words}."
        for words, labels in apart.items()
    ]
    unlike: dict[tuple[int, ...], list[str]] = {}
    for column in shown:
        counts = tuple(sorted({row.n for row in column.rows.values() if row.n}))
        if len(counts) > 1 and column.name in SHOWN and "@" not in column.rule:
            unlike.setdefault(counts, []).append(column.label)
    sentences += [
        f"Of unlike numbers of clips ({', '.join(f'{count:,}' for count in counts)}): {_several(list(dict.fromkeys(labels)), 5)}."
        for counts, labels in unlike.items()
    ]
    timed = [cell for line in found for cell in line.cells if any(name.endswith("seconds") for name in cell.rows)]
    machines = list(dict.fromkeys(cell.machine for cell in timed))
    if len(machines) > 1:
        sentences.append(f"Seconds were taken on {len(machines)} machines: compare them within one. {'; '.join(machines)}.")
    return sentences


def _several(words: Sequence[str], most: int) -> str:
    """Some words with commas, the rest counted."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


# Content ----------------------------------------------------------------------------------------------------------------


def content(cells: Sequence[Cell], *, title: str, kind: str = "vidgen compare", words: str = "") -> dict[str, Any]:
    """All that the page shows, as plain values for JSON: figures as numbers and as text, samples as data URIs.

    Args:
        cells: one or more.
        title: of the page.
        kind: what the page is, in small letters above.
        words: what is held equal, or what was asked.
    """
    found, shown = sorted(lines(cells), key=lambda line: line.cells[0].baseline), columns(cells)
    charts = dict(_chart(cell, curve) for cell in cells for curve in cell.curves)
    return {
        "title": title,
        "kind": kind,
        "words": words,
        "notes": warnings(found, shown),
        "columns": [_column(column) for column in shown],
        "lines": [{**_line(line, shown), "rate": rate} for line, rate in zip(found, _rates(found), strict=True)],
        "charts": [{"key": key, "title": said} for key, said in sorted(charts.items(), key=_generators_last)],
        "facts": _facts(cells),
    }


def _column(column: Column) -> dict[str, Any]:
    what = measure(column.name)
    counts = sorted({row.n for row in column.rows.values() if row.n})
    return {
        "key": column.key,
        "label": what.label,
        "full": column.label,
        "unit": what.unit,
        "better": what.better,
        "ranked": what.better is not None and not column.name.endswith("seconds"),  # read once, under whatever load there was
        "among": AMONG.get(column.name, "rate" if column.name.startswith("reconstruction/") else ""),
        "meaning": what.meaning,
        "group": group(column.name),
        "rule": column.rule,
        "apart": column.apart,
        "n": "–".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "",
        "shown": column.name in SHOWN,
    }


def _rates(found: Sequence[Line]) -> list[str]:
    """Of each line the first rate that is like its own; empty for none."""
    firsts: list[float] = []
    said = []
    for line in found:
        rates = [cell.rows["tokenizer/bits_per_pixel"].value for cell in line.cells if "tokenizer/bits_per_pixel" in cell.rows]
        own = mean(rates) if rates else 0.0
        first = next((other for other in firsts if abs(own - other) <= SAME_RATE * other), None)
        if first is None:
            firsts.append(own)
        said.append(f"{own if first is None else first:g}" if rates else "")
    return said


def _line(line: Line, shown: Sequence[Column]) -> dict[str, Any]:
    first, seeds = line.cells[0], [cell.seed for cell in line.cells]
    settings = {key: _typed(value) for key, value in first.settings.items()}
    times = [seeds[:place].count(seed) for place, seed in enumerate(seeds)]  # a seed may have been run again
    return {
        "id": line.id,
        "name": first.name,
        "told": line.told,
        "tokenizer": first.tokenizer,
        "generator": first.generator or "",
        "data": first.data,
        "coder": " ".join([first.tokenizer, *(f"{key}={settings[key]}" for key in settings if key.startswith("tokenizer."))]),
        "baseline": first.baseline,
        "settings": settings,
        "values": {column.key: _mean(column.of(line.cells), len(line.cells)) for column in shown if column.of(line.cells)},
        "cells": [
            _cell(cell, f"{cell.seed}.{again + 1}" if again else str(cell.seed), shown)
            for cell, again in zip(line.cells, times, strict=True)
        ],
    }


def _cell(cell: Cell, seed: str, shown: Sequence[Column]) -> dict[str, Any]:
    return {
        "seed": seed,
        "run": cell.run,
        "command": cell.command,
        "config": cell.config,
        "machine": cell.machine,
        "versions": dict(cell.versions),
        "commit": cell.commit or "",
        "values": {column.key: _figure(column.rows[id(cell)]) for column in shown if id(cell) in column.rows},
        "curves": [{"chart": _chart(cell, curve)[0], "points": [*map(list, curve.points)]} for curve in cell.curves],
        "sheet": None if cell.sheet is None else _playable(cell.sheet),
    }


def _figure(row: Row) -> dict[str, Any]:
    """A figure: its value, its text, and what stands under it."""
    what = measure(row.name)
    finite = math.isfinite(row.value)
    known = finite and row.interval is not None and all(map(math.isfinite, row.interval))
    under = "–".join(what.bound(end, row.value) for end in row.interval or ()) if known else ""
    return {"value": row.value if finite else None, "text": what.text(row.value, unit=False), "under": under, "n": row.n}


def _mean(found: Sequence[Row], seeds: int) -> dict[str, Any]:
    """The mean over seeds with its standard error; of a single seed its figure."""
    values = [row.value for row in found if math.isfinite(row.value)]
    if seeds == 1 or not values:
        return _figure(found[0])
    what, middle = measure(found[0].name), mean(values)
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    under = [f"± {large(error) if middle >= 1e6 else what.bound(error, middle)}"] if error else []
    if len(values) < seeds:
        under.append(f"{len(values)} of {seeds} seeds")
    text = what.text(middle, unit=False)
    return {"value": middle, "error": error, "text": text, "under": ", ".join(under), "n": found[0].n}


def _chart(cell: Cell, curve: Curve) -> tuple[str, str]:
    """The chart that a curve is drawn in, and its title: losses of unlike generators are on unlike scales."""
    what = measure(curve.name)
    said = "validation loss" if curve.name.startswith("loss/") else f"{what.label}{f' ({what.unit})' if what.unit else ''}"
    who = f"generator {cell.generator}" if curve.stage == "generator" else "tokenizers"
    return f"{who} {curve.name}", f"{who[:1].upper()}{who[1:]}: {said}"


def _generators_last(chart: tuple[str, str]) -> bool:
    return chart[0].startswith("generator")


def _playable(sheet: Sheet) -> dict[str, Any]:
    uri = f"data:image/webp;base64,{base64.b64encode(sheet.data).decode()}"
    return {"uri": uri, **{key: getattr(sheet, key) for key in ("labels", "columns", "frames", "height", "width", "fps")}}


def _facts(cells: Sequence[Cell]) -> list[tuple[str, list[str]]]:
    """Where the figures are from: each different answer once, with how many runs gave it where there are several."""

    def counted(answers: Iterable[str]) -> list[str]:
        found = Counter(answer for answer in answers if answer)
        return [answer if len(found) == 1 else f"{answer} ({count} of {len(cells)} runs)" for answer, count in found.items()]

    said = {
        "Hardware": counted(cell.machine for cell in cells),
        "Versions": counted(", ".join(f"{name} {number}" for name, number in cell.versions.items()) for cell in cells),
        "Commit": counted(cell.commit or "" for cell in cells),
        "Data": counted(cell.data for cell in cells),
    }
    return [(name, answers) for name, answers in said.items() if answers]


# Written ----------------------------------------------------------------------------------------------------------------


def write_page(said: Mapping[str, Any], path: Path) -> Path:
    """Writes :func:`content` as a page that needs nothing but itself, and returns ``path``."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = files("vidgen.evaluation").joinpath("compare.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Within <script> nothing is markup but what begins with <, which JSON may spell otherwise in its strings: the only place.
    data = Markup(json.dumps(said, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))
    page = environment.from_string(template).render(title=said["title"], kind=said["kind"], data=data)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def without_samples(said: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`content` for programs: all but the samples."""
    plain = [
        {**line, "cells": [{key: value for key, value in cell.items() if key != "sheet"} for cell in line["cells"]]}
        for line in said["lines"]
    ]
    return {**said, "lines": plain}


def table(said: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The columns that are shown at first, as heads and lines of text."""
    shown = [column for column in said["columns"] if column["shown"]]
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    heads = [
        f"{column['full']}{f', {unit}' if (unit := column['unit']) else ''}{arrows[column['better']]}"
        + (f" [{column['apart']}]" if column["apart"] else "")
        for column in shown
    ]
    body = []
    for line in said["lines"]:
        figures = [line["values"].get(column["key"]) for column in shown]
        body.append([f"{line['name']} {line['told']}".rstrip(), str(len(line["cells"])), *map(_text, figures)])
    return ["Recipe", "Seeds", *heads], body


def _text(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    under = figure["under"]
    return f"{figure['text']} {under if under.startswith('±') else f'({under})'}" if under else str(figure["text"])


def markdown(said: Mapping[str, Any]) -> str:
    """The table with its notes and the commands that make its runs."""
    commands = [f"- {line['name']}, seed {cell['seed']}: `{cell['command']}`" for line in said["lines"] for cell in line["cells"]]
    legend = "± is the standard error over seeds; ranges are 95 % intervals of a single run."
    parts = [f"# {said['title']}", said["words"], *said["notes"], markdown_table(*table(said)), legend, "\n".join(commands)]
    return "\n\n".join(part for part in parts if part) + "\n"
