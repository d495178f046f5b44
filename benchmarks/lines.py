"""Lines of a table: the runs of one recipe, which differ in their seeds."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from records import Origin, Record

from vidgen.evaluation.rows import Row, measure

CHOSEN_BY_THE_TABLE = ("tokenizer", "generator", "data", "seed", "stage", "resume", "reuse", "runs", "logger")


@dataclass(frozen=True)
class Line:
    """Runs of one recipe, differing in their seeds: a line of a table."""

    origins: tuple[Origin, ...]
    rows: dict[str, tuple[Row, ...]]

    @property
    def origin(self) -> Origin:
        return self.origins[0]

    @property
    def settings(self) -> str:
        """What was typed beside the parts and the seed, as code."""
        words = [word for word in shlex.split(self.origin.command)[2:] if word != "-m"]
        rest = [word for word in words if word.partition("=")[0] not in CHOSEN_BY_THE_TABLE]
        return " ".join(f"`{word}`" for word in rest if not word.startswith("trainer."))

    def text(self, name: str) -> str:
        """A figure without its unit: the mean over the seeds with their deviation, or the only one with its interval."""
        what, found = measure(name), self.rows.get(name, ())
        values = [row.value for row in found]
        if not values:
            return ""
        if len(values) > 1:
            return f"{what.text(mean(values), unit=False)} ± {what.bound(stdev(values), mean(values))}"
        text = what.text(values[0], unit=False)
        interval = found[0].interval
        return text if interval is None else f"{text} ({'–'.join(what.bound(end, values[0]) for end in interval)})"


def lines(records: Iterable[Record]) -> list[Line]:
    """Records by recipe and then by run, both in the order in which they came."""
    recipes: dict[tuple[str | None, ...], dict[str, list[Record]]] = {}
    for record in records:
        origin = record.origin
        runs = recipes.setdefault((origin.tokenizer, origin.generator, origin.data, origin.config), {})
        runs.setdefault(f"{origin.run} {origin.seed} {origin.commit}", []).append(record)
    return [_line(list(runs.values())) for runs in recipes.values()]


def _line(runs: Sequence[Sequence[Record]]) -> Line:
    rows: dict[str, tuple[Row, ...]] = {}
    for run in runs:
        for name, row in {record.row.name: record.row for record in run}.items():  # measured twice, the last counts
            rows[name] = (*rows.get(name, ()), row)
    return Line(tuple(run[0].origin for run in runs), rows)
