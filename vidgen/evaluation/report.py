"""``report.html``: what a run was and what came of it, on one page that opens offline.

Only the run folder is read, so a report can be written again at any time, and on another machine. Videos and pictures are
embedded, curves are drawn as inline SVG, and the page's own policy forbids it to load anything. Every part but
``config.yaml`` may be absent; its section is then left out. What is read:

- ``config.yaml``: the resolved recipe, and on top ``command``, ``route`` and ``words``, what was run in a sentence or two.
- ``environment.json``: versions, commit, hardware, precision, seeds, timings in seconds by stage, peak_memory_gib,
  parameters, flops, throughput.
- ``metrics.jsonl``: see ``rows``. Rows of ``evaluation`` are results, all others points of curves.
- ``reconstructions/`` and ``samples/``: NAME.mp4, NAME.png (a contact sheet) and NAME.json with ``title``, ``caption``,
  ``order`` and ``kind``. ``pairs`` and ``nearest`` take the page's width, everything else is tiled. One with a ``step`` is a
  preview taken during the ``stage`` it names.
- ``codebook.json``: ``counts_sorted`` and ``vocab_size``, as ``CodebookUsage.histogram`` gives them.
- ``buckets.json``: of data with buckets the clips of each by its size and split, the first bucket first. Rows whose names end in
  one of the sizes are of that bucket alone.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen.errors import UserError
from vidgen.evaluation.pictures import WIDE
from vidgen.evaluation.rows import JUDGED, MEASURES, SUBJECTS, Row, large, measure, read
from vidgen.files import replacing
from vidgen.protocols import SPLITS
from vidgen.runs import read_mapping

if TYPE_CHECKING:
    from markupsafe import Markup

VERDICTS = ("appearance_legal", "law_legal")
HEADLINES = {
    "reconstruction/psnr": "Reconstruction PSNR",
    "codebook/usage": "Codebook usage",
    "samples/appearance_legal": "Appearance-legal samples",
    "samples/law_legal": "Law-legal samples",
    "reconstruction/ssim": "Reconstruction SSIM",
    "codebook/perplexity": "Codebook perplexity",
    "tokenizer/bits_per_pixel": "Rate",
}
MOST_HEADLINES = 4
OF_BUCKETS = ("reconstruction/psnr", "reconstruction/ssim", "tokenizer/bits_per_pixel", "generator/loss")
"""What is told of every bucket."""
FLOORS = {
    "baseline/psnr_blank": "a blank ground",
    "baseline/psnr_mean_frame": "the mean frame",
    "baseline/psnr_last_frame": "the last frame",
}
ARROWS = {"higher": "↑", "lower": "↓"}
TIMINGS = {
    "tokenizer": "Training the tokenizer",
    "latents": "Encoding the data",
    "generator": "Training the generator",
    "sampling": "Sampling",
    "evaluation": "Measuring",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A playing video of the page and its contact sheet, as data URIs."""

    title: str
    caption: str
    order: float
    kind: str
    stage: str
    step: int | None
    video: str | None
    sheet: str | None

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of the page."""
        return self.kind in WIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A result as the page prints it. ``share`` is the part of a bar that is filled, None where a bar would say nothing."""

    label: str
    unit: str
    arrow: str
    better: str
    meaning: str
    value: str
    interval: str
    n: str
    source: str
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A measure that originals, reconstructions and samples share: its figure of each, and of each the classes' own.

    ``verdict`` is True for what the others explain: whether a clip is legal at all.
    """

    what: Figure
    cells: list[Figure | None]
    classes: list[list[tuple[str, Figure]]]
    verdict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A size of clips: how many there are for training and how many are unseen, how many of these were measured, its figures.

    ``floor`` is what scores without any skill, beside the first of the figures.
    """

    size: str
    train: str
    unseen: str
    measured: str
    floor: str
    cells: list[Figure | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its name and a line for each of its curves: (class of its colour, label, last value)."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, str, str], ...]


def write_report(run: Path) -> Path:
    """Write ``run/report.html`` from what the run folder holds, and return its path.

    Raises:
        UserError: where ``config.yaml`` is absent, or a file of the run cannot be understood, naming the file.
    """
    from jinja2 import Environment, StrictUndefined

    template = files("vidgen.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(_content(run))
    target = run / "report.html"
    with replacing(target) as partial:
        partial.write_text(page, encoding="utf-8")
    return target


def _content(run: Path) -> dict[str, Any]:
    """Everything the template prints, already in words and drawings."""
    config_text = _text(run / "config.yaml")
    if config_text is None:
        raise UserError(f"There is no config.yaml in {run}: name the folder of a run, such as runs/latest.")
    config = read_mapping(run / "config.yaml")
    environment = read_mapping(run / "environment.json")
    rows, sizes = read(run / "metrics.jsonl"), read_mapping(run / "buckets.json")
    results = [row for row in rows if row.stage == "evaluation"]
    of_buckets, results = _parted(results, lambda row: row.name.rpartition("/")[2] in sizes)
    reconstructions, samples = _clips(run / "reconstructions"), _clips(run / "samples")
    previews = [clip for clip in reconstructions + samples if clip.step is not None]
    timings = _timings(environment.get("timings") or {})
    return {
        "run": run.resolve().name,
        "route": str(config.get("route") or run.resolve().name),
        "words": str(config.get("words") or ""),
        "command": str(config.get("command") or ""),
        "config": config_text,
        "headlines": _headlines(results),
        "time": _duration(sum(seconds for _, seconds, _ in timings)) if timings else "",
        "reconstructions": [clip for clip in reconstructions if clip.step is None],
        "samples": [clip for clip in samples if clip.step is None],
        "previews": sorted(previews, key=lambda clip: (clip.stage != "tokenizer", clip.stage, clip.step, clip.order)),
        "training": _training(rows, _codebook(read_mapping(run / "codebook.json"))),
        "subjects": [(name, _common_n(results, subject)) for subject, name in SUBJECTS.items()],
        "judged": _judged(results),
        "buckets": _buckets(sizes, results, of_buckets),
        "figures": _figures(results),
        "timings": [(label, _duration(seconds), share) for label, seconds, share in timings],
        "costs": _costs(environment),
        "environment": [
            (key, _flat(environment[key])) for key in ("hardware", "versions", "seeds", "commit") if environment.get(key)
        ],
    }


# Results ----------------------------------------------------------------------------------------------------------------


def _figure(row: Row) -> Figure:
    what = measure(row.name)
    finite = math.isfinite(row.value)
    known = finite and row.interval is not None and all(map(math.isfinite, row.interval))
    bounds = " – ".join(what.bound(bound, row.value) for bound in row.interval or ()) if known else ""
    barred = finite and what.unit == "%" and what.better == "higher"
    return Figure(
        label=what.label,
        unit=what.unit if finite else "",
        arrow=ARROWS.get(what.better or "", ""),
        better=f"{what.better} is better" if what.better else "",
        meaning=what.meaning,
        value=what.text(row.value, unit=False),
        interval=bounds,
        n="" if row.n is None else f"{row.n:,}",
        # Results are of unseen clips, which the page says once; only what is not needs a word.
        source=", ".join(part for part in ("" if row.split == "test" else f"{row.split} split", row.protocol) if part),
        share=min(max(row.value, 0.0), 1.0) if barred else None,
    )


def _headlines(results: list[Row]) -> list[tuple[str, Figure, str]]:
    """The few figures that say most: (label, figure, a note: what scores without any skill, or the interval)."""
    latest = {row.name: row for row in results}
    chosen = [latest[name] for name in HEADLINES if name in latest][:MOST_HEADLINES]
    return [(HEADLINES[row.name], _figure(row), _note(row, latest)) for row in chosen]


def _note(row: Row, latest: Mapping[str, Row]) -> str:
    if row.name == "reconstruction/psnr":
        found = [(words, latest[name].value) for name, words in FLOORS.items() if name in latest]
        return "; ".join(f"{words} scores {value:.1f}" for words, value in found)
    if row.name == "codebook/usage" and "codebook/perplexity" in latest:
        return f"perplexity {measure('codebook/perplexity').text(latest['codebook/perplexity'].value, unit=False)}"
    interval = _figure(row).interval
    return f"95 % interval {interval}" if interval else ""


def _compared(results: list[Row]) -> set[str]:
    """The measures that are shown side by side: those of the judge, and any other that several subjects have."""
    subjects: dict[str, set[str]] = {}
    for row in results:
        subject, _, what = row.name.partition("/")
        if subject in SUBJECTS:
            subjects.setdefault(what, set()).add(subject)
    return {what for what, having in subjects.items() if what.partition("/")[0] in JUDGED or len(having) > 1}


def _judged(results: list[Row]) -> list[Judged]:
    """A row for each measure that is shown side by side, the verdicts first."""
    latest = {row.name: row for row in results}
    order = list(JUDGED)
    compared = _compared(results)
    table = []
    for what in sorted({name.partition("/")[0] for name in compared}, key=lambda name: (_place(order, name), name)):
        cells = [_figure_of(latest.get(f"{subject}/{what}")) for subject in SUBJECTS]
        classes = [_classes(latest, f"{subject}/{what}/") for subject in SUBJECTS]
        known = [figure for figure in cells if figure] or [figure for found in classes for _, figure in found]
        table.append(Judged(what=known[0], cells=cells, classes=classes, verdict=what in VERDICTS))
    return table


def _classes(latest: Mapping[str, Row], name: str) -> list[tuple[str, Figure]]:
    """The figures that narrow ``name``, in the order in which they were measured."""
    narrowed = {row.name.removeprefix(name).replace("_", " "): row for row in latest.values() if row.name.startswith(name)}
    return [(words, _figure(row)) for words, row in narrowed.items()]


def _figure_of(row: Row | None) -> Figure | None:
    return None if row is None else _figure(row)


def _common_n(results: list[Row], subject: str) -> str:
    """How many clips of a subject most of its figures count: said once, above them."""
    counts = Counter(row.n for row in results if row.name.startswith(f"{subject}/") and row.n)
    return f"{counts.most_common(1)[0][0]:,}" if counts else ""


def _figures(results: list[Row]) -> list[Figure]:
    """All other results, the known ones first and in their order; of each name and split the latest."""
    compared = _compared(results)
    latest = {
        (row.name, row.split): row
        for row in results
        if row.name.partition("/")[0] not in SUBJECTS or row.name.partition("/")[2] not in compared
    }
    order = list(MEASURES)
    return [_figure(row) for row in sorted(latest.values(), key=lambda row: _place(order, row.name))]


def _buckets(
    sizes: Mapping[str, Mapping[str, int]], results: list[Row], of_buckets: list[Row]
) -> tuple[list[Figure], list[Bucket]] | None:
    """What the columns of the table of buckets are, and its rows; None of data without buckets.

    The first bucket is the one that all other results are of.
    """
    latest = {row.name: row for row in of_buckets}
    latest |= {f"{row.name}/{size}": row for size in list(sizes)[:1] for row in results}
    columns = [name for name in OF_BUCKETS if any(f"{name}/{size}" in latest for size in sizes)]
    if not columns:
        return None
    table = []
    for size, clips in sizes.items():
        found = [latest.get(f"{name}/{size}") for name in columns]
        split = next((row.split for row in found if row), "test")
        measured = next((row.n for row in found if row and row.n), None)
        floor = next((row for name in FLOORS if (row := latest.get(f"{name}/{size}"))), None)
        table.append(
            Bucket(
                size=size.replace("x", "×"),
                train=f"{clips['train']:,}",
                unseen=f"{clips[split]:,}" if clips[split] else "none",
                measured="" if measured in (None, clips[split]) else f"{measured:,} measured",
                floor="" if floor is None else f"{_floor(floor.name)} {floor.value:.1f}",
                cells=[_figure_of(row) for row in found],
            )
        )
    heads = [next(_figure(row) for row in latest.values() if row.name.startswith(name)) for name in columns]
    heads = [replace(head, label=measure(name).label) for head, name in zip(heads, columns, strict=True)]
    return heads, table


def _floor(name: str) -> str:
    """What a baseline is, whichever size it is of: ``mean frame``."""
    return next(words for key, words in FLOORS.items() if name.startswith(key)).removeprefix("the ").removeprefix("a ")


def _parted(rows: list[Row], chosen: Callable[[Row], bool]) -> tuple[list[Row], list[Row]]:
    """The rows that are chosen, and the others."""
    return [row for row in rows if chosen(row)], [row for row in rows if not chosen(row)]


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


# Curves -----------------------------------------------------------------------------------------------------------------


def _training(rows: list[Row], codebook: Chart | None) -> list[tuple[str, list[Chart], list[tuple[str, str]]]]:
    """(stage, charts, figures logged only once), the tokenizer first; its charts end with the use of its codebook."""
    found = []
    for stage in ("tokenizer", "generator"):
        charts, single = _curves(rows, stage)
        if stage == "tokenizer" and codebook is not None:
            charts.append(codebook)
        if charts or single:
            found.append((stage, charts, single))
    return found


def _curves(rows: list[Row], stage: str) -> tuple[list[Chart], list[tuple[str, str]]]:
    """A chart for each figure of a stage with its splits together: the loss first, then its parts, then the others.

    What has one point only is no curve: it is told in words.
    """
    named: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.stage == stage:
            # By step: a resumed run repeats the steps after its checkpoint, and the last time counts.
            named.setdefault(row.name, {}).setdefault(row.split, {})[row.step] = row.value
    names = sorted(named, key=lambda name: (name != "loss/total", not name.startswith("loss/")))
    names = [name for name in names if name == "loss/total" or named[name] != named.get("loss/total")]  # a sum's only term
    charts, single = [], []
    for name in names:
        steps = {step for values in named[name].values() for step in values}
        if len(steps) > 1:
            charts.append(_curve_chart(name, named[name]))
        else:
            values = ", ".join(measure(name).text(value) for points in named[name].values() for value in points.values())
            single.append((f"{measure(name).label}, step {steps.pop():,}", values))
    return [chart for chart in charts if chart is not None], single


def _curve_chart(name: str, splits: Mapping[str, Mapping[int, float]]) -> Chart | None:
    from vidgen.evaluation.charts import Series, line_chart

    what = measure(name)
    factor = 100 if what.unit == "%" else 1
    series: list[Series] = []
    legend: list[tuple[str, str, str]] = []
    for split, values in sorted(splits.items(), key=lambda item: SPLITS.index(item[0])):
        points = [(step, factor * value) for step, value in sorted(values.items()) if math.isfinite(value)]
        lost = len(values) - len(points)
        if points:
            ending = what.text(points[-1][1] / factor) + (f" ({lost} not finite, left out)" if lost else "")
            legend.append((f"s{len(series)}", split, ending))
            series.append(Series(split, points))
    if not series:
        return None
    title = f"{what.label} ({what.unit})" if what.unit else what.label
    return Chart(title, line_chart(series, title=title, x_name="steps"), tuple(legend))


def _codebook(data: Mapping[str, Any]) -> Chart | None:
    from vidgen.evaluation.charts import rank_chart

    if not data:
        return None
    counts, size = [count for count in data["counts_sorted"] if count > 0], data["vocab_size"]
    if not counts:
        return None
    svg = rank_chart(counts, size, title="Times each code occurs", x_name="codes, most frequent first")
    legend = (
        ("s0", "used", f"{len(counts):,} of {size:,} codes by {sum(counts):,} tokens"),
        ("dashed", "equal use", f"{sum(counts) / size:,.1f} times each"),
    )
    return Chart("Times each code occurs", svg, legend)


# Time, memory, environment ----------------------------------------------------------------------------------------------


def _timings(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(what, seconds, per cent of the whole), in the order of the run."""
    total = sum(seconds.values())
    names = [*(name for name in TIMINGS if name in seconds), *(name for name in seconds if name not in TIMINGS)]
    return [(TIMINGS.get(name, name), seconds[name], 100 * seconds[name] / total) for name in names if total > 0]


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _costs(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    costs = []
    if environment.get("peak_memory_gib") is not None:
        costs.append(("peak memory", f"{environment['peak_memory_gib']:.2f} GiB"))
    if environment.get("precision"):
        costs.append(("precision", str(environment["precision"])))
    for group, words in (("parameters", "parameters"), ("flops", "FLOPs"), ("throughput", "throughput")):
        # The group's name stays in front: "parameters, tokenizer".
        costs += [_cost(words, key, value) for key, value in _flat(environment.get(group))]
    return costs


def _cost(group: str, key: str, value: Any) -> tuple[str, str]:
    """A cost in words: by what a figure of that name means, with the rate that ends its name as its unit, or as it is named."""
    name = key.replace(" ", "_")
    if name in MEASURES:
        return MEASURES[name].label, MEASURES[name].text(value)
    what, _, unit = key.rpartition(" ") if key.endswith("/s") else (key, "", "")
    return f"{group}, {what}" if what else group, f"{_number(value)} {unit}".rstrip()


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as pairs: the keys along the way in words, and the value."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        inner = ((f"{name} {key}".strip().replace("_", " "), item) for key, item in value.items())
        return [pair for key, item in inner for pair in _flat(item, key)]
    return [(name, value)]


def _number(value: Any) -> str:
    """A quantity in few digits: 7.4 M, 1.2 G, 33.1."""
    if not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 1e6:
        return large(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


# Files of the run -------------------------------------------------------------------------------------------------------


def _clips(folder: Path) -> list[Clip]:
    names = {path.stem for path in _visible(folder) if path.suffix in (".mp4", ".png")}
    clips = [_clip(folder, name) for name in sorted(names)]
    return sorted(clips, key=lambda clip: clip.order)


def _visible(folder: Path) -> Iterable[Path]:
    """The folder's files but for those still being written, whose names begin with a dot."""
    return (path for path in folder.glob("*") if not path.name.startswith("."))


def _clip(folder: Path, name: str) -> Clip:
    said = read_mapping(folder / f"{name}.json")
    return Clip(
        title=str(said.get("title") or name.replace("_", " ")),
        caption=str(said.get("caption") or ""),
        order=float(said.get("order", 0)),
        kind=str(said.get("kind") or ""),
        stage=str(said.get("stage") or ""),
        step=None if said.get("step") is None else int(said["step"]),
        video=_data_uri(folder / f"{name}.mp4", "video/mp4"),
        sheet=_data_uri(folder / f"{name}.png", "image/png"),
    )


def _data_uri(path: Path, kind: str) -> str | None:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
