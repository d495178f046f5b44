"""Comparisons as tables: Markdown for people, LaTeX for papers. What cannot be compared is never in one column."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vidgen.evaluation.between import Comparison
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import one_protocol
from vidgen.evaluation.rows import Measure, measure

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
    for group in _comparable(comparisons, title):
        names = _names(group)
        head = ["Clips", "N", *(f"{_label(measure(name))}{ARROWS[measure(name).better]}" for name in names)]
        lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
        for one in group:
            by_name = {result.name: result for result in one.results}
            cells = [_cell(by_name.get(name)) for name in names]
            lines.append(f"| {' | '.join([one.fake.replace('|', chr(92) + '|'), _number(one), *cells])} |")
        parts.append("\n".join([*lines, "", f"{_against(group)}. Brackets hold 95 % intervals.", ""]))
    return "\n".join([*parts, *([f"{APART}\n"] if len(parts) > 1 else [])])


def latex(comparisons: Sequence[Comparison], title: str = "This table") -> str:
    """The same as ``tabular`` environments for ``booktabs``, the real clips below their last rule.

    Raises:
        UserError: where they are of different protocols.
    """
    parts = []
    for group in _comparable(comparisons, title):
        names = _names(group)
        head = ["Clips", "$N$", *(f"{_escaped(_label(measure(name)))}{LATEX_ARROWS[measure(name).better]}" for name in names)]
        lines = [rf"\begin{{tabular}}{{lr{'r' * len(names)}}}", r"\toprule", f"{' & '.join(head)} " + r"\\", r"\midrule"]
        for one in group:
            by_name = {result.name: result for result in one.results}
            cells = [_escaped(_cell(by_name.get(name))) for name in names]
            lines.append(f"{' & '.join([_escaped(one.fake), _number(one), *cells])} " + r"\\")
        about = rf"\multicolumn{{{len(head)}}}{{l}}{{\footnotesize {_escaped(_against(group))}}} \\"
        parts.append("\n".join([*lines, r"\bottomrule", about, r"\end{tabular}", ""]))
    return "\n".join(([f"% {APART}"] if len(parts) > 1 else []) + parts)


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


def _number(one: Comparison) -> str:
    return str(one.num_fake or one.results[0].n)


def _names(comparisons: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(result.name for one in comparisons for result in one.results))


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
