"""One line of ``benchmarks/results/NAME.jsonl``: the figures of a finished run, with all that is needed to weigh them.

A figure is a row of the run's own ``metrics.jsonl`` (``vidgen.evaluation.rows.Row``), its keys unchanged, those without a value
left out; beside them stands, once, where they come from. ``schema`` is raised whenever a key changes its name or its meaning.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from vidgen.errors import UserError
from vidgen.evaluation.rows import Row
from vidgen.files import replacing

SCHEMA = 2

BASELINE = "baseline"
"""The name of the run that figures are of which need no model."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that a figure is of.

    Attributes:
        run: the name of its folder.
        command: what was typed.
        tokenizer: the tokenizer by name, with the quantizer where it is not the recipe's own.
        generator: the generator by name; None where none was trained.
        data: the data by name.
        config: hash of the whole recipe but for the seed, so that runs of several seeds belong together.
        seed: of the run.
        precision: ``bf16`` or ``fp32``.
        hardware: processor, cores, memory, and the GPU where there is one.
        versions: of Python and of the packages that matter.
        commit: of the checkout; None for an installed package, ``-dirty`` at its end where files differed.
    """

    run: str
    command: str
    tokenizer: str
    generator: str | None
    data: str
    config: str
    seed: int
    precision: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A figure and its origin."""

    origin: Origin
    row: Row


OPTIONAL = ("protocol", "n", "interval")
"""Keys of a row that are left out where they have no value."""


def to_lines(records: Iterable[Record]) -> Iterator[str]:
    """A line for each run in a row, without its end."""
    for _, some in groupby(records, lambda record: json.dumps(vars(record.origin))):
        of_a_run = list(some)
        rows = [record.row.to_dict() for record in of_a_run]
        for row in rows:
            for key in [key for key in OPTIONAL if row[key] is None]:
                del row[key]
        yield json.dumps({"schema": SCHEMA, **vars(of_a_run[0].origin), "rows": rows}, allow_nan=False)


def from_line(line: str) -> list[Record]:
    """The records that :func:`to_lines` wrote as ``line``. Raises ValueError where they are none of this schema."""
    values = json.loads(line)
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise ValueError(f"it is not of schema {SCHEMA}")
    names = [field.name for field in fields(Origin)]
    if absent := [name for name in [*names, "rows"] if name not in values]:
        raise ValueError(f"it lacks {', '.join(absent)}")
    origin = Origin(**{name: values[name] for name in names})
    return [Record(origin=origin, row=Row.from_dict(dict.fromkeys(OPTIONAL) | row)) for row in values["rows"]]


def read(path: Path) -> list[Record]:
    """All records of a file, in the order written; none where there is no file.

    Raises:
        UserError: where a line is not a record, naming file and line.
    """
    records: list[Record] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            records += from_line(line)
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is not a run's results ({error}): mend or remove that line.") from error
    return records


def append(path: Path, records: Sequence[Record], *, once: bool = False) -> None:
    """Add records to a file, made when absent; a kill leaves it as it was, and of several writers none is lost.

    ``once`` adds nothing where the file has figures of the first record's recipe and seed.
    """
    with alone(path):
        if once and (records[0].origin.config, records[0].origin.seed) in done(path):
            return
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        with replacing(path) as fresh:
            fresh.write_text(before + "".join(f"{line}\n" for line in to_lines(records)), encoding="utf-8")


def done(path: Path) -> set[tuple[str, int]]:
    """Recipes and seeds whose figures are there."""
    return {(record.origin.config, record.origin.seed) for record in read(path)}


@contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Nobody else is at ``path`` meanwhile; without ``wait``, False where somebody is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
