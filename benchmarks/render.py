"""Renders the tables of README.md and docs/ from ``benchmarks/results`` and from the code, between markers.

    python benchmarks/render.py            writes what has changed
    python benchmarks/render.py --check    writes nothing and fails where something would change

A table stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; ``TABLES`` says which names there are. Files that are
rendered whole are in ``whole``. The table of a suite that no document shows is written below ``runs/suites``, and is nobody's to
check.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import claims
import learn
import part_tables
import rates
import sensitivity
import suite as suites
import suite_charts
import suite_page
import suite_tables
import sweeps
import tiling
import timing
import work
import yaml
from lines import Line, anew, cores, every, lines, machine, one_protocol_each, protocol_label, provenance, table
from records import read
from timing import Timing

from vidgen.cli.list import pairs as every_pair
from vidgen.cli.list import together
from vidgen.config import GROUPS, config_dir, describe, load, preset_names
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation.further import is_lone
from vidgen.evaluation.protocol import preset
from vidgen.evaluation.rows import JUDGED, MEASURES, SUBJECTS, Measure, Row, measure
from vidgen.metrics import legality
from vidgen.routes import route

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
TIMINGS = ("quantizers", "backbones", "training", "sampling", "caching", "waiting", "frechet", "decoding", "speed")
"""Files of results whose rows are of :mod:`timing`, and not figures of runs."""

RATIOS = ("speed",)
"""Those of which the ratios alone are shown: what they compare stands in the others with its times."""

PROOFS = Path(__file__).parent / "proofs.jsonl"
"""What came of the slow tests, one line each: ``benchmarks/slow.py`` writes it."""

PUBLISHED = Path(__file__).parent / "published.yaml"
"""What others have published, each figure with its source."""

PICTURES = "benchmark"
"""The folder of the suites' pictures, in docs/."""

ABOUT_PUBLISHED = {"data": "Data", "clips": "Clips", "protocol": "Protocol", "from": "Source"}
"""What stands beside such a figure."""

SHOWN = (
    "reconstruction/psnr",
    "baseline/psnr_mean_frame",
    "reconstruction/psnr_objects",
    "codebook/usage",
    "tokenizer/bits_per_pixel",
    "samples/appearance_legal",
    "samples/law_legal",
    "samples/class_accuracy",
    "samples/law_residual",
    "samples/motion_fd",
    "samples/nearest_psnr",
    "generator/parameters",
    "generator/sample_flops",
)
"""The columns of the short table, where any run has them."""

FIRST = "worlds"
"""The file of results that stands before the others."""

KINDS_OF_LATENTS = {"continuous": "continuous latents", "bits": "bits", "ids": "ids"}
"""The kinds of latents, in words."""

TOLERANCES = {
    "RESIDUAL": ("px", "Root mean square distance from the nearest lawful motion."),
    "RESIDUAL_MOST": ("px", "The same in any one frame."),
    "PACE": ("%", "How far a speed may leave the world's range, as a share of its bounds."),
    "MISFIT": ("px", "How far an outline may be from a sharp shape's, per pixel of its length."),
    "OFF": ("%", "How far a colour may be off its line, as a share of its distance from the ground."),
    "READABLE": ("%", "How much of what is seen whole has to be within these two."),
    "SIZE": ("%", "How far the radius in a frame may be from the clip's, as a share of it."),
    "SHAPE": ("px", "By how much another shape may explain a frame better."),
    "STRAY": ("px", "Coverage that belongs to no object, in the worst frame."),
}
"""The constants of ``vidgen.metrics.legality`` that decide, with their units."""


# Tables -----------------------------------------------------------------------------------------------------------------


def results() -> str:
    """The short table of every file of results."""
    parts = [_short(path.stem, lines(read(path))) for path in _of_runs()]
    return "\n\n".join(parts) or "No results are collected yet: `python benchmarks/collect.py NAME RUN` takes them from runs."


def all_results() -> str:
    """Every figure of every file of results, with where it comes from."""
    parts = [_long(path.stem, lines(read(path))) for path in _of_runs()]
    return "\n\n".join(parts) or "No results are collected yet."


def _of_runs() -> list[Path]:
    others = {*TIMINGS, rates.RESULTS.stem, learn.PATH.stem, sweeps.RESULTS.stem, sensitivity.RESULTS.stem, tiling.RESULTS.stem}
    paths = [path for path in RESULTS.glob("*.jsonl") if path.stem not in others]
    return sorted(paths, key=lambda path: (path.stem != FIRST, path.stem))


def _short(name: str, found: Sequence[Line]) -> str:
    columns = [column for column in SHOWN if any(column in line.rows for line in found)]
    _one_protocol_each(name, found, columns)
    settings = any(line.settings for line in found)
    names = ["Tokenizer", "Generator", *(["Settings"] if settings else []), "Seeds"]
    head = [*names, *(_heading(column, _rows(found, column)) for column in columns)]
    body = [
        [
            line.origin.tokenizer,
            line.origin.generator or "–",
            *([line.settings] if settings else []),
            str(len(line.origins)),
            *(line.text(column) for column in columns),
        ]
        for line in found
    ]
    data = ", ".join(dict.fromkeys(line.origin.data for line in found))
    title = f"**{name}**" if name == data else f"**{name}** ({data})"
    return f"{title}\n\n{table(head, body)}\n\n{_legend(found, columns)}"


def _one_protocol_each(name: str, found: Sequence[Line], columns: Iterable[str]) -> None:
    one_protocol_each(name, {column: _rows(found, column) for column in columns})


def _rows(found: Iterable[Line], column: str) -> list[Row]:
    return [row for line in found for row in line.rows.get(column, ())]


def _counted(found: Sequence[Line], columns: Sequence[str]) -> str:
    """How many clips stand behind the figures, and behind those of columns that have others than most."""
    counts = {column: ns for column in columns if (ns := sorted({row.n for row in _rows(found, column) if row.n}))}
    if not counts:
        return ""
    usual = Counter(map(tuple, counts.values())).most_common(1)[0][0]
    others = [f'{_range(ns)} of "{_named(column)}"' for column, ns in counts.items() if tuple(ns) != usual]
    return "; ".join([f"n is {_range(usual)} clips", *others]) + ". "


def _range(counts: Sequence[int]) -> str:
    return f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")


def _legend(found: Sequence[Line], columns: Sequence[str]) -> str:
    spread = "± is the standard error of the mean over the seeds" if any(len(line.origins) > 1 for line in found) else ""
    single = "brackets hold a run's 95 % interval" if any(len(line.origins) == 1 for line in found) else ""
    said = "; ".join(part for part in (single, spread) if part)
    return f"{_counted(found, columns)}{said[:1].upper()}{said[1:]}. {_provenance(found)}"


def _provenance(found: Sequence[Line]) -> str:
    return provenance(origin for line in found for origin in line.origins)


def _long(name: str, found: Sequence[Line]) -> str:
    columns = [f"{i}" for i in range(1, len(found) + 1)]
    names = {row for line in found for row in line.rows}
    order = [*(known for known in MEASURES if known in names), *sorted(names.difference(MEASURES))]
    _one_protocol_each(name, found, order)
    body = [[_heading(row, _rows(found, row)), *(line.text(row) for line in found)] for row in order]
    keys = "\n".join(f"{i}. {_entry(line)}" for i, line in zip(columns, found, strict=True))
    return f"## {name}\n\n{keys}\n\n{table(['Measure', *columns], body)}\n\n{_rules(found, order)}"


def _entry(line: Line) -> str:
    seconds = [max((row.seconds for rows in line.rows.values() for row in rows), default=0.0)]
    seeds = ", ".join(str(origin.seed) for origin in line.origins)
    parts = f"{line.origin.tokenizer} x {line.origin.generator}" if line.origin.generator else line.origin.tokenizer
    return (
        f"{parts}: `{anew(line.origin.command)}` (seed {seeds}; recipe `{line.origin.config}`; {max(seconds):,.0f} s in all on "
        f"{machine(line.origin)}; commit {line.origin.commit or 'unknown'})"
    )


def _rules(found: Sequence[Line], names: Sequence[str]) -> str:
    """How each figure was measured, in the words of its rows."""
    rules: dict[str, list[str]] = {}
    for name in names:
        for rule in dict.fromkeys(row.protocol for line in found for row in line.rows.get(name, ()) if row.protocol):
            rules.setdefault(rule, []).append(f"`{name}`")
    return "\n".join(f"- {rule}: {', '.join(measured)}" for rule, measured in rules.items())


def timings(name: str) -> str:
    """A benchmark of speed and memory, a line a row."""
    rows = timing.read(RESULTS / f"{name}.jsonl")
    figures = name not in RATIOS
    head = ["", "Measure", "Ratio ↑", *(["Wanted", "Ours", "Theirs"] if figures else []), "Against", "With"]
    body = [
        [row.subject, row.measure, _ratio(row), *(_figures(row) if figures else []), row.against, row.settings] for row in rows
    ]
    return f"{table(head, body)}\n\n{_measured(rows)}" if rows else f"Nothing is measured yet: `python benchmarks/{name}.py`."


def _figures(row: Timing) -> list[str]:
    """What is asked of a row, and the figures of both sides."""
    return [
        f"{row.wanted}: {'yes' if row.holds else 'no'}" if row.wanted else "",
        f"{_rounded(row.ours)} {row.unit}",
        "" if row.theirs is None else f"{_rounded(row.theirs)} {row.unit}",
    ]


def _ratio(row: Timing) -> str:
    if row.ratio is None:
        return ""
    return _times(row.ratio) + (f" ({_times(row.quartiles[0])}–{_times(row.quartiles[1])})" if row.quartiles else "")


def _times(ratio: float) -> str:
    """Two decimals, or the first digit of what has none there."""
    return f"{ratio:.2f}" if ratio >= 0.005 else f"{ratio:.1g}"


def _rounded(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _measured(rows: Sequence[Timing]) -> str:
    """Where and how timings were taken."""
    machines = every(f"{row.hardware.get('gpu') or row.hardware['cpu']} ({cores(row.hardware)})" for row in rows)
    commits = every(f"`{row.commit}`" if row.commit else None for row in rows)
    pairs = " or ".join(str(pairs) for pairs in sorted({row.pairs for row in rows if row.quartiles}))
    loads = [row.load for row in rows]
    ratios = f"A ratio is the median over {pairs} pairs, with its quartiles. " if pairs else ""
    if any(row.wanted == timing.NO_SLOWER for row in rows):
        ratios += f"No slower is a median of {1 - timing.NOISE:g} or more: {100 * timing.NOISE:g} % are noise. "
    return (
        f"{ratios}Measured on {machines} with torch "
        f"{every(row.versions['torch'] for row in rows)}{f' at {commits}' if commits else ''}, under a load of {min(loads):g} to "
        f"{max(loads):g}."
    )


def parts() -> str:
    """What there is of each kind of part, in the recipes' own words."""
    titles = ("tokenizers", "quantizers", "backbones", "generators", "heads", "conditioning", "data", "extractors")
    groups = [GROUPS[title] for title in titles]
    body = [[f"`{group}={name}`", describe(group, name)] for group in groups for name in _own(group)]
    return table(["Part", "What it is"], body)


def protocols() -> str:
    """The presets of protocols, each with its hash as it is before an extractor's weights are known."""
    head = ["Protocol", "What it is", "Real clips", "Measures", "Extractor"]
    body = []
    for name in _own("protocol"):
        found = preset(name)
        rule = found.data
        size = "x".join(str(side) for side in (rule.frames, rule.height, rule.width) if side)
        many = "all" if rule.count is None else f"{rule.count:,}"
        stride = f", every {rule.stride}. frame" if rule.stride > 1 else ""
        clips = f"{many} of {rule.reference}; {size}{stride}, {rule.clip}"
        body.append(
            [f"`{name}`", describe("protocol", name), clips, ", ".join(found.metric.measures), str(found.metric.extractor)]
        )
    return table(head, body)


def measures_by_name() -> str:
    """The recipes of measures."""
    return table(["Name", "What it is"], [[f"`{name}`", describe("metric", name)] for name in _own("metric")])


def pairs() -> str:
    """What each generator does with the latents of each tokenizer, one row a pair; presets that do the same share one."""
    head = ["Tokenizer", "Generator", "Layout", "Head", "Route"]
    own = {group: set(_own(group)) for group in ("tokenizer", "generator")}
    found = [row for row in every_pair() if row["tokenizer"] in own["tokenizer"] and row["generator"] in own["generator"]]
    body = []
    for row in together(found):
        generators = ", ".join(f"`{name}`" for name in row["generator"].split(", "))
        body.append([f"`{row['tokenizer']}`", generators, row["layout"], row["head"], row["route"]])
    return table(head, body)


def kinds() -> str:
    """What each generator does with each kind of latent."""
    generators = list(dict.fromkeys(load("generator", name)["name"] for name in _own("generator")))
    body = [[KINDS_OF_LATENTS[kind], *(route(part, kind) for part in generators)] for kind in KINDS_OF_LATENTS]
    return table(["", *(f"`{part}`" for part in generators)], body)


def tokenizers() -> str:
    """The recipes of tokenizers, those of the papers too."""
    return table(["Recipe", "What it is"], [[f"`tokenizer={name}`", describe("tokenizer", name)] for name in _own("tokenizer")])


def experiments() -> str:
    """The presets of whole experiments."""
    return table(
        ["Preset", "What it is"], [[f"`experiment={name}`", describe("experiment", name)] for name in _own("experiment")]
    )


def measures() -> str:
    """Every figure that a run may have, by name."""
    named = {f"`{name}`": what for name, what in MEASURES.items() if name not in _judged()}
    named |= {f"*subject*`/{name}`": what for name, what in JUDGED.items()}
    body = [[name, what.label, what.unit, _arrow(what), what.meaning] for name, what in named.items()]
    return table(["Name", "In words", "Unit", "Better", "What it says"], body)


def tolerances() -> str:
    """The judge's tolerances, read from its module."""
    body = []
    for name, (unit, meaning) in TOLERANCES.items():
        value = getattr(legality, name) * (100 if unit == "%" else 1)
        body.append([f"`{name}`", f"{value:g} {unit}", meaning])
    return table(["Tolerance", "Value", "What it bounds"], body)


def proven() -> list[dict[str, Any]]:
    """The rows of the slow tests, the last of each test."""
    lines = PROOFS.read_text(encoding="utf-8").splitlines() if PROOFS.exists() else []
    return list({row["test"]: row for row in map(json.loads, lines)}.values())


def proofs() -> str:
    """The slow tests with what came of them."""
    body = [
        [
            f"`{row['test'].partition('tests/')[2]}`",
            row["outcome"],
            f"{row['seconds']:.0f}",
            f"`{row['code']}`",
            row["hardware"]["cpu"],
        ]
        for row in sorted(proven(), key=lambda row: row["test"])
    ]
    return table(["Test", "Outcome", "Seconds", "Code", "On"], body) if body else "None has been run yet."


def suite_table(name: str) -> str:
    """The table of a suite with its pictures, or how to come by them."""
    suite = suites.load(name, suites.SUITES)
    if not suite.results.exists():
        return f"**{suite.title}**\n\n{suite.words}\n\nNot run yet: `python benchmarks/run.py {name}`."
    records = work.results(suite)
    pictures = suite_charts.charts(suite, records)
    shown = [f"![{picture.removesuffix('.svg').replace('-', ' ')}]({PICTURES}/{picture})" for picture in pictures]
    return "\n\n".join([suite_tables.markdown(suite_tables.of(suite, records)), *shown])


def published() -> str:
    """What others have published, a table for each task: figures of one table need not have been taken alike either."""
    groups = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return "\n\n".join(_published(group) for group in groups)


def _published(group: dict[str, Any]) -> str:
    """One table; what all of its rows share stands below it."""
    rows = [group | own | {"from": _link(group | own)} for own in group["rows"]]
    shared = [key for key in ABOUT_PUBLISHED if len({row[key] for row in rows}) == 1]
    rest = [key for key in ABOUT_PUBLISHED if key not in shared]
    head = ["Model", *group["measures"], *(ABOUT_PUBLISHED[key] for key in rest)]
    body = [[row["model"], *row["values"], *(row[key] for key in rest)] for row in rows]
    said = "; ".join(f"{ABOUT_PUBLISHED[key].lower()}: {rows[0][key]}" for key in shared)
    return f"**{group['task']}**\n\n{table(head, body)}\n\n{said[:1].upper()}{said[1:]}."


def _link(row: dict[str, Any]) -> str:
    return f"[{row['from']}]({row['source']})"


TABLES: dict[str, Callable[[], str]] = {
    "results": results,
    "all-results": all_results,
    "parts": parts,
    "pairs": pairs,
    "kinds": kinds,
    "experiments": experiments,
    "tokenizers": tokenizers,
    "tokenizer-benchmark": part_tables.comparison,
    "learning": part_tables.learning,
    "sweeps": part_tables.sweeping,
    "corruptions": part_tables.corrupted,
    "tiling": part_tables.tiles,
    "measures": measures,
    "measures-by-name": measures_by_name,
    "protocols": protocols,
    "tolerances": tolerances,
    "proofs": proofs,
    "published": published,
    "claims": claims.page,
    **{name: partial(timings, name) for name in TIMINGS},
    **{f"suite-{name}": partial(suite_table, name) for name in suites.names()},
}


def _judged() -> set[str]:
    """The names of the judge's figures, of every subject."""
    return {f"{subject}/{name}" for subject in SUBJECTS for name in JUDGED}


def _is_lone(name: str) -> bool:
    """Whether a figure is by name and of clips alone."""
    subject, _, what = name.partition("/")
    return subject in SUBJECTS and what in preset_names("metric") and is_lone(load("metric", what))


def _own(group: str) -> list[str]:
    """The recipes of a group that are files of this project, whatever packages are installed."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def _arrow(what: Measure) -> str:
    return {"higher": "↑", "lower": "↓"}.get(what.better or "", "")


def _named(name: str) -> str:
    """A measure in words, with what it is of where others are called the same."""
    what, subject = measure(name), name.partition("/")[0]
    same = [other for other in MEASURES if other.partition("/")[0] != subject and MEASURES[other].label == what.label]
    judged = name in _judged() or name.rpartition("/")[0] in _judged() or _is_lone(name)
    label = f"{SUBJECTS[subject]}: {what.label}" if judged or (same and subject in SUBJECTS) else what.label
    return f"{label[:1].upper()}{label[1:]}"


def _heading(name: str, rows: Iterable[Row]) -> str:
    """What stands over the figures ``rows``: the measure, its unit and direction, and the protocol where that has a hash."""
    what = measure(name)
    unit = f", {what.unit}" if what.unit else ""
    label = next((label for row in rows if (label := protocol_label(row))), "")
    return f"{_named(name)}{unit} {_arrow(what)}".rstrip() + (f"<br>`{label}`" if label else "")


# Documents --------------------------------------------------------------------------------------------------------------


def documents() -> list[Path]:
    """Every document that may hold a table."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str, where: str) -> str:
    """A document with its tables made anew.

    Raises:
        UserError: on a marker of an unknown name, or one that is not opened once and then closed once.
    """
    for name in dict.fromkeys(re.findall(r"<!-- ([\w-]+):(?:begin|end) -->", text)):
        if name not in TABLES:
            raise UserError(f"{where} asks for a table '{name}'.{did_you_mean(name, TABLES)} There are: {', '.join(TABLES)}.")
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not closed or begin in rest or end in head + tail:
            raise UserError(f"{where} needs one line {begin.strip()} and, after it, one {end}.")
        text = f"{head}{begin}{TABLES[name]()}\n{end}{tail}"
    return text


def whole() -> dict[Path, str]:
    """Files that are rendered from their first line to their last, with what belongs in each."""
    made = {ROOT / "docs" / rates.picture_name(kind): rates.picture(kind) for kind in rates.KINDS if rates.cells(kind)}
    for option in dict.fromkeys(point.option for point in sweeps.points()):
        made[ROOT / "docs" / sweeps.picture_name(option)] = sweeps.picture(option)
    for suite in _of_suites(shown=True):
        records = work.results(suite)
        found = suite_tables.of(suite, records)
        made[ROOT / "benchmarks" / "results" / "suites" / f"{suite.name}.tex"] = suite_tables.latex(found)
        made |= {ROOT / "docs" / PICTURES / name: svg for name, svg in suite_charts.charts(suite, records).items()}
    return made


def stale(made: Iterable[Path]) -> list[Path]:
    """Files of a kind that is rendered whole, which no result makes any more."""
    kinds = ("docs/rate-distortion-*.svg", "docs/sweep-*.svg", f"docs/{PICTURES}/*.svg", "benchmarks/results/suites/*.tex")
    return sorted({path for kind in kinds for path in ROOT.glob(kind)} - set(made))


def by_the_way() -> dict[Path, str]:
    """Tables of suites that no document shows: files that are not committed, with what belongs in each."""
    made = {}
    for suite in _of_suites(shown=False):
        folder, found = ROOT / "runs" / "suites" / suite.name, suite_tables.of(suite, work.results(suite))
        made[folder / "table.md"] = f"{suite_tables.markdown(found)}\n"
        made[folder / "table.tex"] = suite_tables.latex(found)
    return made


def _of_suites(*, shown: bool) -> list[suites.Suite]:
    """The suites that have results, those that a document shows or those that none does."""
    texts = "".join(path.read_text(encoding="utf-8") for path in documents())
    found = [suites.load(name, suites.SUITES) for name in suites.names() if (f"<!-- suite-{name}:begin -->" in texts) == shown]
    return [suite for suite in found if suite.results.exists()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders, or checks; returns 1 where a check finds a difference and 2 after a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would change")
    check = parser.parse_args(arguments).check
    try:
        made = {path: rendered(path.read_text(encoding="utf-8"), path.name) for path in documents()} | whole()
        changed = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        for path in changed:
            name = path.relative_to(ROOT)
            if check:
                print(f"{name} is not what its tables are made of: run python benchmarks/render.py", file=sys.stderr)
            else:
                _write(path, made[path])
                print(f"{name}: rendered")
        for path in (gone := stale(made)):
            name = path.relative_to(ROOT)
            if check:
                print(f"{name} is made of no results any more: run python benchmarks/render.py", file=sys.stderr)
            else:
                path.unlink()
                print(f"{name}: removed, it was made of results that are gone")
        for path, text in () if check else by_the_way().items():
            _write(path, text)
            print(f"{path.relative_to(ROOT)}: rendered")
        for suite in () if check else (suites.load(name) for name in suites.names()):
            if records := work.results(suite):
                page = suite_page.page(suite, records, suite.folder, ROOT / "runs" / "suites" / suite.name / "report.html")
                print(f"{page.relative_to(ROOT)}: open it in a browser")
    except UserError as error:
        print(f"render: {error}", file=sys.stderr)
        return 2
    return int(check and bool(changed or gone))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
