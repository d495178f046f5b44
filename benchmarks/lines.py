"""Lines of a table: the runs of one recipe, which differ in their seeds; and what every table of results says and refuses."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from records import Origin, Record
from suite_stats import standard_error

from vidgen.errors import UserError
from vidgen.evaluation.cells import NOTHING_CHANGES
from vidgen.evaluation.rows import Row, measure

CHOSEN_BY_THE_TABLE = ("tokenizer", "generator", "data", "seed", "stage", "resume", "reuse", "runs", "logger")
COMMITS_NAMED = 4
"""Of so many commits each is named, of more the first and the last."""


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
        known = (*CHOSEN_BY_THE_TABLE, *NOTHING_CHANGES)
        rest = [word for word in command_words(self.origin.command) if word.partition("=")[0] not in known]
        return " ".join(f"`{word}`" for word in rest if not word.startswith("trainer."))

    def text(self, name: str) -> str:
        """A figure without its unit: the mean over the seeds with its standard error, or the only one with its interval."""
        what, found = measure(name), self.rows.get(name, ())
        values = [row.value for row in found]
        if not values:
            return ""
        if len(values) > 1:
            return f"{what.text(mean(values), unit=False)} ± {what.bound(standard_error(values), mean(values))}"
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


def anew(command: str) -> str:
    """The command that makes a run from nothing. Whoever goes on with one names its folder and types its recipe all the same."""
    return shlex.join(word for word in shlex.split(command) if not word.startswith("resume="))


def command_words(command: str) -> list[str]:
    """What was typed after ``vidgen fit``."""
    return [word for word in shlex.split(command) if word not in ("vidgen", "fit", "-m")]


def protocol_label(row: Row) -> str:
    """The ``name@hash`` in the words of a figure's protocol; empty where they have none."""
    return next((word.strip(",") for word in (row.protocol or "").split() if "@" in word), "")


def one_protocol_each(name: str, columns: Mapping[str, Iterable[Row]]) -> None:
    """Sees that no column of ``name.jsonl`` holds figures of two protocols, which are told by their labels.

    Raises:
        UserError: naming the column and the protocols.
    """
    for column, rows in columns.items():
        labels = {label for row in rows if (label := protocol_label(row))}
        if len(labels) > 1:
            raise UserError(
                f"The column {column} of {name}.jsonl holds figures of {' and of '.join(sorted(labels))}, which cannot be "
                "compared: measure the runs again by one protocol ('vidgen eval'), or collect them under another name."
            )


def provenance(origins: Iterable[Origin]) -> str:
    """Where figures were measured and with what, in a sentence."""
    found = list(origins)
    machines, versions = every(map(machine, found)), every(origin.versions.get("torch") for origin in found)
    return f"Measured on {machines} with torch {versions}{at(origin.commit for origin in found)}."


def at(commits: Iterable[str | None]) -> str:
    """At which commits, in words; nothing where none is known."""
    found = list(dict.fromkeys(f"`{commit}`" for commit in commits if commit))
    if len(found) > COMMITS_NAMED:
        return f" at {found[0]} to {found[-1]}, {len(found)} commits"
    return f" at {', '.join(found)}" if found else ""


def machine(origin: Origin) -> str:
    """The processor with its cores and the precision, after the GPU where there is one."""
    hardware = origin.hardware
    processor = f"{hardware.get('cpu')} ({cores(hardware)}, {origin.precision})"
    return f"{hardware['gpu']}, {processor}" if hardware.get("gpu") else processor


def cores(hardware: Mapping[str, Any]) -> str:
    """How many cores there are, and of how many a run made use where it was told to take fewer."""
    there, used = hardware.get("cores"), hardware.get("threads")
    return f"{used} of {there} cores" if used and there and used < there else f"{there} cores"


def every(values: Iterable[str | None]) -> str:
    """All that there are, once each, in words."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
