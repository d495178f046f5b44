"""Comparisons as tables: Markdown for people, LaTeX for papers. What cannot be compared is never in one column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vidgen.evaluation.between import Comparison
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import one_protocol
from vidgen.evaluation.rows import Measure, markdown_table, measure

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
APART = "Each table is of other real clips, or of other numbers of clips, than the rest: their figures cannot be compared."
LATEX_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}


def markdown(comparisons: Sequence[Comparison], title: str = "This table") -> str:
    """Markdown tables, a row for each source of generated clips, with the protocol and the real clips below.

    Figures of other real clips, or of other numbers of clips, stand in a table of their own.

    Raises:
        UserError: where they are of different protocols.
    """
    parts = []
    for table in _tables(comparisons, title):
        head = ["Clips", "N", *(f"{_label(about)}{ARROWS[about.better]}" for about in table.measures)]
        parts.append(f"{markdown_table(head, table.rows)}\n\n{table.about}. Brackets hold 95 % intervals.\n")
    return "\n".join([*parts, *([f"{APART}\n"] if len(parts) > 1 else [])])


def latex(comparisons: Sequence[Comparison], title: str = "This table") -> str:
    """The same as ``tabular`` environments for ``booktabs``, the real clips below their last rule.

    Raises:
        UserError: where they are of different protocols.
    """
    parts = []
    for table in _tables(comparisons, title):
        head = ["Clips", "$N$", *(f"{_escaped(_label(about))}{LATEX_ARROWS[about.better]}" for about in table.measures)]
        rows = [" & ".join(map(_escaped, row)) + r" \\" for row in table.rows]
        begin = [rf"\begin{{tabular}}{{lr{'r' * len(table.measures)}}}", r"\toprule", f"{' & '.join(head)} " + r"\\", r"\midrule"]
        about = rf"\multicolumn{{{len(head)}}}{{l}}{{\footnotesize {_escaped(table.about)}}} \\"
        parts.append("\n".join([*begin, *rows, r"\bottomrule", about, r"\end{tabular}", ""]))
    return "\n".join(([f"% {APART}"] if len(parts) > 1 else []) + parts)


@dataclass(frozen=True)
class _Table:
    """What one table says: its measures, a row of cells for each source of generated clips, and what all is measured against."""

    measures: list[Measure]
    rows: list[list[str]]
    about: str


def _tables(comparisons: Sequence[Comparison], title: str) -> Iterator[_Table]:
    """A table for each set of comparisons that may share one."""
    for group in _comparable(comparisons, title):
        names = list(dict.fromkeys(result.name for one in group for result in one.results))
        yield _Table([measure(name) for name in names], [_row(one, names) for one in group], _against(group))


def _row(one: Comparison, names: Sequence[str]) -> list[str]:
    by_name = {result.name: result for result in one.results}
    return [one.fake, str(one.num_fake or one.results[0].n), *(_cell(by_name.get(name)) for name in names)]


def _comparable(comparisons: Sequence[Comparison], title: str) -> list[list[Comparison]]:
    """Those that belong in one column, together: of the same real clips, and as many of either kind.

    Raises:
        UserError: where they are of different protocols.
    """
    one_protocol([one.protocol for one in comparisons], title)
    groups: dict[tuple[str, int, int], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault(one.setting, []).append(one)
    return list(groups.values())


def _against(group: Sequence[Comparison]) -> str:
    """What the figures of a table are of, in words."""
    real = ", ".join(dict.fromkeys(one.real for one in group))
    clips = f", {group[0].num_real} clips" if group[0].num_real else ""
    return f"Against {real}{clips}; protocol {group[0].protocol.label}"


def _label(about: Measure) -> str:
    return f"{about.label}, {about.unit}" if about.unit else about.label


def _cell(result: Result | None) -> str:
    if result is None or not math.isfinite(result.value):
        return ""
    about = measure(result.name)
    value = about.text(result.value, unit=False)
    if result.interval is None:
        return value
    low, high = (about.bound(end, result.value) for end in result.interval)
    return f"{value} ({low}–{high})"


def _escaped(text: str) -> str:
    """Plain text in LaTeX."""
    for plain, escaped in (("\\", r"\textbackslash "), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"), ("–", "--")):
        text = text.replace(plain, escaped)
    return text
