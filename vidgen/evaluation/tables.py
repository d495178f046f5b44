"""Comparisons as one table: Markdown for people, LaTeX for papers. All figures are of one protocol, or there is no table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vidgen.evaluation.between import Comparison
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import one_protocol
from vidgen.evaluation.rows import Measure, measure

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
LATEX_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}


def markdown(comparisons: Sequence[Comparison], title: str = "This table") -> str:
    """A Markdown table, a row for each source of generated clips, with the protocol below.

    Raises:
        UserError: where they are of different protocols.
    """
    protocol = one_protocol([one.protocol for one in comparisons], title)
    names = _names(comparisons)
    head = ["Clips", "N", *(f"{_label(measure(name))}{ARROWS[measure(name).better]}" for name in names)]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for one in comparisons:
        by_name = {result.name: result for result in one.results}
        cells = [_cell(by_name.get(name)) for name in names]
        lines.append(f"| {' | '.join([one.fake.replace('|', chr(92) + '|'), str(one.results[0].n), *cells])} |")
    real = ", ".join(dict.fromkeys(one.real for one in comparisons))
    return "\n".join([*lines, "", f"Against {real}; protocol {protocol.label}. Brackets hold 95 % intervals.", ""])


def latex(comparisons: Sequence[Comparison], title: str = "This table") -> str:
    """The same as a LaTeX ``tabular`` for ``booktabs``.

    Raises:
        UserError: where they are of different protocols.
    """
    protocol = one_protocol([one.protocol for one in comparisons], title)
    names = _names(comparisons)
    head = ["Clips", "$N$", *(f"{_escaped(_label(measure(name)))}{LATEX_ARROWS[measure(name).better]}" for name in names)]
    lines = [rf"% protocol {protocol.label}", rf"\begin{{tabular}}{{lr{'r' * len(names)}}}", r"\toprule"]
    lines += [f"{' & '.join(head)} " + r"\\", r"\midrule"]
    for one in comparisons:
        by_name = {result.name: result for result in one.results}
        cells = [_escaped(_cell(by_name.get(name))) for name in names]
        lines.append(f"{' & '.join([_escaped(one.fake), str(one.results[0].n), *cells])} " + r"\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


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
