"""The table of a suite, from its records alone: every recipe of its grid, run or not, in Markdown and in LaTeX.

What should be equal between the cells of a suite and is not gets a letter, and the legend says what differs: work done and
parameters among recipes of the same settings, everything else among all. Nothing that the grid itself varies is marked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import suite_stats
from lines import command_words, cores, one_protocol_each, protocol_label, provenance
from lines import table as markdown_table
from records import BASELINE, Origin, Record
from suite import STAGES, Suite
from work import recipe_of

from vidgen.errors import UserError
from vidgen.evaluation.rows import Row, measure

COLUMNS = {
    "reconstruction/psnr": "PSNR",
    "tokenizer/bits_per_pixel": "Rate",
    "codebook/usage": "Codebook usage",
    "samples/appearance_legal": "Appearance-legal",
    "samples/law_legal": "Law-legal",
    "samples/class_accuracy": "Class accuracy",
    "samples/law_residual": "Law residual",
    "samples/motion_fd": "motion-FD",
    "samples/motion_fd_reconstructions": "motion-FD to reconstructions",
    "reconstruction/motion_fd": "motion-FD of reconstructions",
    "samples/fvd": "FVD",
    "samples/memorised": "Memorised",
    "samples/seconds": "Sampling time",
    "tokenizer/parameters": "Tokenizer parameters",
    "generator/parameters": "Generator parameters",
    "generator/trunk_tokens": "Tokens in the trunk",
    "generator/train_clips": "Clips trained on",
}
"""The columns in their order, each shown where any record has it; that of FVD wherever there are samples."""

PARTS = ("tokenizer", "generator", "stage")
"""Options that have columns of their own."""

FVD = "samples/fvd"
MEMORISED = "samples/memorised"
SEARCHED = re.compile(r"one of (\d+) training clips")
"""What the rule of that figure says of the clips among which copies are looked for."""

AGAINST_RECONSTRUCTIONS = "samples/motion_fd_reconstructions"
OF_READABLE = "samples/law_residual"
"""A mean over the clips that could be read, so that their number is a result and no setting."""

READ_ONCE = ("samples/seconds",)
"""One reading a run, under whatever load the machine had then: no place for a best."""

OWN_RULE = ("codebook/usage", "tokenizer/bits_per_pixel")
"""Measured by rules that name the tokenizer's own codebook."""

TOLERANCE = 0.05
"""By so much parameters, operations and rates may differ and count as equal."""

ARROWS = {"higher": "↑", "lower": "↓", None: ""}
FVD_COMMANDS = {
    "ucf101": "vidgen eval real=UCF fake=RUN protocol=ucf101-class-128 extractor=i3d-tats extractor.path=FILE out=fvd",
}
"""By suite, where a published protocol is followed."""

FVD_COMMAND = (
    "vidgen eval real=RUN:test fake=RUN protocol=run protocol.metric.ddof=0 extractor=i3d-styleganv extractor.path=FILE out=fvd"
)


@dataclass(frozen=True)
class Text:
    """What stands in one place of a table.

    Attributes:
        text: plain, with code in backticks.
        style: ``best``, ``close`` or none.
        marks: letters.
    """

    text: str
    style: str = ""
    marks: str = ""


@dataclass
class Entry:
    """A row of the table: a recipe with its seeds, or a baseline.

    Attributes:
        tokenizer: by name.
        generator: by name; ``–`` for none.
        settings: what else the grid varies, as typed.
        seeds: those that the suite asks for; none of a baseline.
        origins: of each seed that was run, where its figures come from.
        rows: by name and by seed.
        marks: letters of the legend, by the column that bears them: ``tokenizer``, ``generator``, ``seeds`` or a figure's name.
    """

    tokenizer: str
    generator: str
    settings: str = ""
    seeds: list[int] = field(default_factory=list)
    origins: dict[int, Origin] = field(default_factory=dict)
    rows: dict[str, dict[int, Row]] = field(default_factory=dict)
    marks: dict[str, list[str]] = field(default_factory=dict)

    def figures(self, column: str) -> dict[int, float]:
        """By seed."""
        return {seed: row.value for seed, row in self.rows.get(column, {}).items()}

    def add(self, record: Record) -> None:
        """Takes in a record; of what was measured twice the last counts."""
        self.origins[record.origin.seed] = record.origin
        self.rows.setdefault(record.row.name, {})[record.origin.seed] = record.row

    def text(self, text: str, column: str, style: str = "") -> Text:
        """What stands in a column, with its letters."""
        return Text(text, style, "".join(self.marks.get(column, ())))

    @property
    def state(self) -> str:
        """How many of its seeds were run."""
        done = len(self.origins)
        return "not run yet" if not done else str(done) if done == len(self.seeds) else f"{done} of {len(self.seeds)}"


@dataclass(frozen=True)
class Heading:
    """What stands over a column: its name, the unit, an arrow for the better direction, and the protocol."""

    name: str
    unit: str = ""
    arrow: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Table:
    """A table before it is Markdown or LaTeX.

    Attributes:
        title: the question.
        words: what is held equal.
        head: of each column.
        body: rows of recipes.
        baselines: rows below them.
        legend: sentences.
        letters: what each letter says.
        fill: commands that fill the column of FVD; empty where it is full, or there is none.
    """

    title: str
    words: str
    head: tuple[Heading, ...]
    body: tuple[tuple[Text, ...], ...]
    baselines: tuple[tuple[Text, ...], ...]
    legend: tuple[str, ...]
    letters: tuple[tuple[str, str], ...]
    fill: str


def of(suite: Suite, records: Iterable[Record]) -> Table:
    """The table of a suite.

    Raises:
        UserError: where a column would hold figures of two protocols, or a record belongs to no cell of the suite.
    """
    results = [record for record in records if record.row.stage == "evaluation"]
    found, baselines = entries(suite, results), _baselines(results)
    columns = _columns(suite, [*found, *baselines])
    one_protocol_each(f"suites/{suite.name}", {column: _rows([*found, *baselines], column) for column in columns})
    letters = _differences(suite, found, baselines, columns)
    settings = any(entry.settings for entry in found)
    styles = {column: _styles(found, column) for column in columns}
    names = ["Tokenizer", "Generator", *(["Settings"] if settings else []), "Seeds"]
    head = [*map(Heading, names), *(_heading(column, [*found, *baselines]) for column in columns)]

    def named(entry: Entry, seeds: str) -> list[Text]:
        name = [entry.text(entry.tokenizer, "tokenizer"), entry.text(entry.generator, "generator")]
        return [*name, *([Text(entry.settings)] if settings else []), entry.text(seeds, "seeds")]

    body = [
        (*named(entry, entry.state), *(_cell(entry, column, styles[column][place]) for column in columns))
        for place, entry in enumerate(found)
    ]
    below = [(*named(entry, "–"), *(_cell(entry, column) for column in columns)) for entry in baselines]
    return Table(
        title=suite.title,
        words=suite.words,
        head=tuple(head),
        body=tuple(body),
        baselines=tuple(below),
        legend=tuple(_legend(found, baselines, columns, styles)),
        letters=tuple((letter, said) for said, letter in letters.items()),
        fill=_fill(suite, found, columns),
    )


# Rows -------------------------------------------------------------------------------------------------------------------


def entries(suite: Suite, records: Iterable[Record]) -> list[Entry]:
    """Every recipe of the suite in the order of its grid, with the records of its runs.

    Raises:
        UserError: for a run that is of no cell.
    """
    found: dict[tuple[str, ...], Entry] = {}
    for cell in suite.cells:
        settings = (word for word in (*cell.own, *cell.again) if word.partition("=")[0] not in PARTS)
        generator = "–" if _value(cell.words, "stage") == "tokenizer" else _value(cell.words, "generator", "dit")
        entry = Entry(_value(cell.words, "tokenizer", "lfq"), generator, " ".join(f"`{word}`" for word in settings))
        found.setdefault((*cell.words, *cell.again), entry).seeds.append(cell.seed)
    for record in records:
        if record.origin.run != BASELINE:
            entry = found[_recipe_of(record.origin, list(found), suite)]
            entry.add(record)
            entry.tokenizer, entry.generator = record.origin.tokenizer, record.origin.generator or "–"
    return list(found.values())


def _value(words: Sequence[str], key: str, default: str = "") -> str:
    """What is typed for ``key``, the last time that it is."""
    return next((word.partition("=")[2] for word in reversed(words) if word.partition("=")[0] == key), default)


def _recipe_of(origin: Origin, recipes: Sequence[tuple[str, ...]], suite: Suite) -> tuple[str, ...]:
    found = recipe_of(origin, recipes)
    if found is None:
        raise UserError(
            f"{suite.results.name} holds figures of '{origin.command}', which is no run of the suite {suite.name}: remove the "
            f"lines of {origin.run} there, or add the run to the suite's yaml."
        )
    return found


def _baselines(records: Iterable[Record]) -> list[Entry]:
    found: dict[tuple[str, str], Entry] = {}
    for record in records:
        if record.origin.run == BASELINE:
            name = record.origin.tokenizer
            found.setdefault((name, record.origin.config), Entry(name, "–")).add(record)
    return list(found.values())


# Columns ----------------------------------------------------------------------------------------------------------------


def _columns(suite: Suite, found: Sequence[Entry]) -> list[str]:
    """Those that any record has; that of FVD wherever a run was sampled as it was trained to be, and once."""
    sampled = any(entry.origins and entry.generator != "–" for entry in found) and not any(cell.again for cell in suite.cells)
    return [column for column in COLUMNS if any(column in entry.rows for entry in found) or (column == FVD and sampled)]


def _rows(found: Iterable[Entry], column: str) -> list[Row]:
    return [row for entry in found for row in entry.rows.get(column, {}).values()]


def _heading(column: str, found: Sequence[Entry]) -> Heading:
    """With the protocol and the number of clips where it has a hash, and with how many training clips were searched."""
    what, rows = measure(column), _rows(found, column)
    labels = [label for row in rows if (label := protocol_label(row))]
    rule = f"{labels[0]}, {_usual(row.n for row in rows):,} clips" if labels else ""
    return Heading(COLUMNS[column], what.unit, ARROWS[what.better], _searched(rows, found) if column == MEMORISED else rule)


def _searched(rows: Sequence[Row], found: Sequence[Entry]) -> str:
    """Of how many training clips copies would have been found, and of how many they were trained on where the runs say so."""
    counts = _usual(said[1] for row in rows if (said := SEARCHED.search(row.protocol or "")))
    origins = [origin for entry in found for origin in entry.origins.values() if origin.run != BASELINE]
    trained = {_value(command_words(origin.command), "generator.training.clips") for origin in origins}
    (all_of_them,) = trained if len(trained) == 1 else ("",)
    of = f" of {int(all_of_them):,}" if all_of_them else ""
    return f"first {int(counts):,}{of} training clips searched" if counts else ""


def _cell(entry: Entry, column: str, style: str = "") -> Text:
    """The mean over the seeds with its standard error, where there are several that differ."""
    figures = list(suite_stats.finite(entry.figures(column)).values())
    if column not in entry.rows:
        return Text("")
    if not figures:
        return entry.text("no value", column)
    what, mean = measure(column), fmean(figures)
    text = what.text(mean, unit=False)
    if len(set(figures)) > 1:
        text += f" ± {what.bound(suite_stats.standard_error(figures), mean)}"
    return entry.text(text, column, style)


def _styles(found: Sequence[Entry], column: str) -> list[str]:
    """Which recipes are the best in a column, of those that can be held against each other there."""
    what = measure(column)
    styles = [""] * len(found)
    if column in READ_ONCE:
        return styles
    for group in _comparable(found, column):
        marks = suite_stats.marks(
            [found[place].figures(column) for place in group], what.better, lambda mean: what.text(mean, unit=False)
        )
        for place, mark in zip(group, marks, strict=True):
            styles[place] = mark
    return styles


def _comparable(found: Sequence[Entry], column: str) -> list[list[int]]:
    """Places of the recipes among which one is the best: reconstructions are of one rate, what is measured against them of one
    tokenizer, a mean over what could be read is of half of the clips at least, and the rest is all that there is."""
    if column.startswith("reconstruction/"):
        return _grouped(map(_rate, found), lambda one, other: abs(one - other) <= TOLERANCE * other)
    if column == AGAINST_RECONSTRUCTIONS:
        return _grouped(map(_tokenizer, found), lambda one, other: one == other)
    if column == OF_READABLE:
        return [[place for place, entry in enumerate(found) if not _hardly_read(entry)]]
    return [list(range(len(found)))]


def _hardly_read(entry: Entry) -> bool:
    """Whether fewer than half of the clips could be read, with any of its seeds."""
    asked = max((row.n or 0 for row in _rows([entry], "samples/law_legal")), default=0)
    return any((row.n or 0) < asked / 2 for row in _rows([entry], OF_READABLE))


def _rate(entry: Entry) -> float:
    """Bits a pixel; 0 where the latents are numbers and have no rate."""
    rates = entry.figures("tokenizer/bits_per_pixel").values()
    return fmean(rates) if rates else 0.0


def _tokenizer(entry: Entry) -> tuple[str, ...]:
    return entry.tokenizer, *(word for word in entry.settings.split(" ") if word.startswith("`tokenizer"))


def _grouped(keys: Iterable[Any], alike: Callable[[Any, Any], bool]) -> list[list[int]]:
    """Places of keys that are like the first of their group."""
    groups: list[tuple[Any, list[int]]] = []
    for place, key in enumerate(keys):
        for first, places in groups:
            if alike(key, first):
                places.append(place)
                break
        else:
            groups.append((key, [place]))
    return [places for _, places in groups]


# What differs -----------------------------------------------------------------------------------------------------------


def _differences(suite: Suite, found: Sequence[Entry], baselines: Sequence[Entry], columns: Sequence[str]) -> dict[str, str]:
    """Marks what differs from most others in what should be equal; the letter of each thing that is said of it."""
    letters: dict[str, str] = {}

    def mark(entry: Entry, column: str, said: str) -> None:
        letter = letters.setdefault(said, _letter(len(letters)))
        if letter not in entry.marks.setdefault(column, []):
            entry.marks[column].append(letter)

    ran = [entry for entry in found if entry.origins]
    groups: dict[str, list[Entry]] = {}
    for entry in ran:
        groups.setdefault(entry.settings, []).append(entry)
    for group in groups.values():
        _unusual(group, "seeds", "data {}", lambda entry: [origin.data for origin in entry.origins.values()], mark)
        for stage in STAGES:
            _mark_work(suite, stage, group, mark)
            _mark_far(group, f"{stage}/parameters", f"{stage}/parameters", "", mark)
        _mark_far(group, "generator/trunk_tokens", "generator/trunk_tokens", "tokens in the trunk ", mark)
    for said, of_origin in CONDITIONS.items():
        _unusual(ran, "seeds", said, lambda entry, of=of_origin: [of(origin) for origin in entry.origins.values()], mark)
    for entry in ran:
        dirty = [seed for seed, origin in entry.origins.items() if (origin.commit or "").endswith("-dirty")]
        if dirty:
            mark(entry, "seeds", "of a checkout with changes that no commit has: its code cannot be had again")
        if len({origin.config for origin in entry.origins.values()}) > 1:
            mark(entry, "seeds", "the seeds are of several recipes: a default has changed between them")
        for column in columns:
            if 0 < len(suite_stats.finite(entry.figures(column))) < len(entry.figures(column)):
                mark(entry, column, "the mean of the seeds that have a value")
    for column in columns:
        _mark_evaluation(column, [entry for entry in [*ran, *baselines] if column in entry.rows], mark)
    return letters


Mark = Callable[[Entry, str, str], None]
CONDITIONS: dict[str, Callable[[Origin], str]] = {
    "precision {}": lambda origin: origin.precision,
    "torch {}": lambda origin: origin.versions.get("torch", "unknown"),
    "run on {}": lambda origin: (
        " with ".join(str(part) for part in (origin.hardware.get("gpu"), origin.hardware.get("cpu")) if part)
        + f" ({cores(origin.hardware)})"
    ),
}
"""What runs share beside the recipe."""


def _mark_work(suite: Suite, stage: str, group: Sequence[Entry], mark: Mark) -> None:
    """Marks another number of steps where the budget is steps, other work where it is measured, and seeds that differ."""
    kind = suite.budget.get(stage, ("steps", 0.0))[0]
    subject = {"tokenizer": "reconstruction/", "generator": "samples/"}[stage]

    def steps(entry: Entry) -> list[str]:
        return [f"{row.step:,}" for name in entry.rows if name.startswith(subject) for row in entry.rows[name].values()]

    if kind == "steps":
        _unusual(group, stage, "{} steps", steps, mark)
        return
    for entry in group:
        if len(set(steps(entry))) > 1:
            mark(entry, stage, f"seeds of {' and '.join(sorted(set(steps(entry))))} steps")
    if kind != "seconds":  # which depend on the machine: its budget was turned into steps once, for whatever machine
        _mark_far(group, f"{stage}/train_{kind}", stage, f"{{}} {kind}, ", mark)


def _mark_far(group: Sequence[Entry], name: str, column: str, said: str, mark: Mark) -> None:
    """Marks figures that are further from the median of the group than the tolerance; ``said`` is filled with the figure."""
    means = [(entry, fmean(entry.figures(name).values())) for entry in group if name in entry.rows]
    middle = median(mean for _, mean in means) if means else 0.0
    what = measure(name)
    for entry, mean in means:
        if abs(mean - middle) > TOLERANCE * middle:
            far = f"over {100 * TOLERANCE:g} % off the median, {what.text(middle, unit=False)}"
            mark(entry, column, said.format(what.text(mean, unit=False)) + far)


def _mark_evaluation(column: str, measured: Sequence[Entry], mark: Mark) -> None:
    """Marks figures of another number of clips or another rule."""
    if column == OF_READABLE:
        for entry in measured:
            if _hardly_read(entry):
                mark(entry, column, "of fewer than half of the clips: the others could not be read")
    else:
        _unusual(measured, column, "of {} clips", lambda entry: [f"{row.n:,}" for row in _rows([entry], column) if row.n], mark)
    if column not in OWN_RULE:
        _unusual(measured, column, "by the rule: {}", lambda entry: _said(entry, column), mark)


def _said(entry: Entry, column: str) -> list[str]:
    """How the figures of a column were measured, in the words of their rows."""
    return [row.protocol for row in _rows([entry], column) if row.protocol]


def _unusual(group: Sequence[Entry], column: str, said: str, values: Callable[[Entry], Sequence[str]], mark: Mark) -> None:
    """Marks entries that have another value than most have; ``said`` is filled with it."""
    found = [(entry, list(dict.fromkeys(values(entry)))) for entry in group]
    usual = _usual(value for _, some in found for value in some)
    for entry, some in found:
        for value in some:
            if value != usual:
                mark(entry, column, f"{said.format(value)} (most: {usual})")


def _usual(values: Iterable[Any]) -> Any:
    """The most frequent; of several the first."""
    counted = Counter(value for value in values if value is not None).most_common(1)
    return counted[0][0] if counted else None


def _letter(number: int) -> str:
    """a to z, then aa, ab, and so on."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


# Words ------------------------------------------------------------------------------------------------------------------


def _legend(
    found: Sequence[Entry], baselines: Sequence[Entry], columns: Sequence[str], styles: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    seeds = [len(entry.origins) for entry in found if entry.origins]
    yield "± is the standard error of the mean over the seeds." if max(seeds, default=0) > 1 else "One seed a row."
    marked = {style for column in columns for style in styles[column]}
    if "best" in marked:
        rate = "; of reconstructions, among recipes of one rate" if any(c.startswith("reconstruction/") for c in columns) else ""
        own = "; of distances to them, among recipes of one tokenizer" if AGAINST_RECONSTRUCTIONS in columns else ""
        read = "; of law residuals, among recipes of which half of the clips can be read" if any(map(_hardly_read, found)) else ""
        yield f"**Bold** is the best of a column{rate}{own}{read}."
    if max(seeds, default=0) >= suite_stats.SEEDS:
        yield f"*Italic* is not significantly worse than that ({suite_stats.TEST})."
    counts = sorted(
        {row.n for column in columns if column != OF_READABLE for row in _rows([*found, *baselines], column) if row.n}
    )
    if counts:
        yield f"n is {' or '.join(f'{count:,}' for count in counts)} clips."
    for stage in STAGES:
        took = [row.value for row in _rows(found, f"{stage}/train_seconds")]
        if took:
            spread = f"{min(took):,.0f}" if round(min(took)) == round(max(took)) else f"{min(took):,.0f} to {max(took):,.0f}"
            yield f"Training a {stage} took {spread} s."
    origins = [origin for entry in found for origin in entry.origins.values()]
    if origins:
        yield provenance(origins)


def _fill(suite: Suite, found: Sequence[Entry], columns: Sequence[str]) -> str:
    """The commands for a column of FVD that has gaps."""
    sampled = [entry for entry in found if entry.origins and entry.generator != "–"]
    if FVD not in columns or all(entry.rows.get(FVD, {}).keys() >= entry.origins.keys() for entry in sampled):
        return ""
    return f"{FVD_COMMANDS.get(suite.name, FVD_COMMAND)}\npython benchmarks/fvd.py {suite.name} fvd"


FILL = "FVD needs weights that are not part of this project. If you have them, fill the column, a run (RUN) at a time, by"


# Markdown ---------------------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """The table with its title, its words and its legend."""
    head = [_markdown_heading(heading) for heading in table.head]
    body = [[_markdown_cell(cell) for cell in row] for row in (*table.body, *table.baselines)]
    parts = [f"**{table.title}**", table.words, markdown_table(head, body), " ".join(table.legend)]
    if table.letters:
        parts.append("; ".join(f"<sup>{letter}</sup> {said}" for letter, said in table.letters) + ".")
    if table.fill:
        parts.append(f"{FILL}\n\n```bash\n{table.fill}\n```")
    return "\n\n".join(parts)


def _markdown_heading(heading: Heading) -> str:
    unit = f", {heading.unit}" if heading.unit else ""
    rule = f"<br>`{heading.protocol}`" if heading.protocol else ""
    return f"{heading.name}{unit} {heading.arrow}".rstrip() + rule


def _markdown_cell(cell: Text) -> str:
    around = {"best": "**", "close": "*"}.get(cell.style, "")
    whole = cell.text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")  # a narrow column breaks headings, not figures
    return f"{around}{whole}{around}" + (f"<sup>{cell.marks}</sup>" if cell.marks else "")


# LaTeX ------------------------------------------------------------------------------------------------------------------

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{letter: f"\\{letter}" for letter in "{}$&#_%"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        "–": "--",
        "±": r"$\pm$",
        "×": r"$\times$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "“": "``",
        "”": "''",
    }
)


def escaped(text: str) -> str:
    """Plain text in LaTeX."""
    return text.translate(LATEX)


INLINE = re.compile(r"`(?P<texttt>[^`]+)`|\*\*(?P<textbf>\S[^*]*)\*\*|\*(?P<textit>\S[^*]*)\*|(?P<plain>[^`*]+|.)", re.DOTALL)


def inline(text: str) -> str:
    """Text with code in backticks and emphasis in asterisks, as the legend and settings have it, in LaTeX."""
    return INLINE.sub(_command, text)


def _command(part: re.Match[str]) -> str:
    kind = str(part.lastgroup)
    return escaped(part[kind]) if kind == "plain" else rf"\{kind}{{{escaped(part[kind])}}}"


LATEX_TABLE = r"""% Rendered by benchmarks/render.py: edit the suite or its results, not this. Needs booktabs and graphicx.
\begin{table*}
\centering
\caption{<caption>}
\setlength{\tabcolsep}{3pt}
\smallskip
\resizebox{\textwidth}{!}{%
\begin{tabular}{<columns>}
\toprule
<head>
\midrule
<body>
\bottomrule
\end{tabular}}

\smallskip
\raggedright\footnotesize
<legend>
\end{table*}
"""


def latex(table: Table) -> str:
    """A ``table*`` for ``booktabs``, as wide as the page, with the legend below it."""
    left = sum(heading.name in ("Tokenizer", "Generator", "Settings") for heading in table.head)
    body, baselines = ([_latex_row(map(_latex_cell, row)) for row in rows] for rows in (table.body, table.baselines))
    letters = "; ".join(rf"$^{{{letter}}}$ {inline(said)}" for letter, said in table.letters)
    filled = {
        "caption": f"{inline(table.title)} {inline(table.words)}",
        "columns": "l" * left + "r" * (len(table.head) - left),
        "head": _latex_row(map(_latex_heading, table.head)),
        "body": "\n".join([*body, *([r"\midrule", *baselines] if baselines else [])]),
        "legend": "\n".join([" ".join(map(inline, table.legend)), *([f"{letters}."] if letters else [])]),
    }
    return re.sub(r"<(\w+)>", lambda place: filled[place[1]], LATEX_TABLE)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_heading(heading: Heading) -> str:
    """A line each of the name's words, then the unit with the arrow, then the protocol and its clips."""
    lines = [*heading.name.split(" "), f"{heading.unit} {heading.arrow}".strip(), *heading.protocol.split(", ")]
    stacked = r"\\".join(escaped(line) for line in lines if line)
    return rf"\shortstack[b]{{{stacked}}}" if r"\\" in stacked else stacked


def _latex_cell(cell: Text) -> str:
    style = {"best": r"\textbf{%s}", "close": r"\textit{%s}"}.get(cell.style, "%s")
    return style % inline(cell.text) + (rf"$^{{{cell.marks}}}$" if cell.marks else "")
