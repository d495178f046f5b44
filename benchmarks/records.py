"""One line of ``benchmarks/results/NAME.jsonl``: a figure of a finished run, with all that is needed to weigh it.

The figure is a row of the run's own ``metrics.jsonl`` (``vidgen.evaluation.rows.Row``), its keys unchanged; beside them stands
where it comes from. ``schema`` is raised whenever a key changes its name or its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vidgen.errors import UserError
from vidgen.evaluation.rows import Row

SCHEMA = 1


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

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps({"schema": SCHEMA, **vars(self.origin), **self.row.to_dict()}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The record that :meth:`to_json` wrote as ``line``. Raises ValueError where it is none of this schema."""
        values = json.loads(line)
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}")
        names = [field.name for field in fields(Origin)]
        if absent := [name for name in names if name not in values]:
            raise ValueError(f"it lacks {', '.join(absent)}")
        return cls(origin=Origin(**{name: values.pop(name) for name in names}), row=Row.from_dict(values))


def read(path: Path) -> list[Record]:
    """All records of a file, in the order written; none where there is no file.

    Raises:
        UserError: where a line is not a record, naming file and line.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is not a result ({error}): mend or remove that line.") from error
    return records


def append(path: Path, records: Iterable[Record]) -> None:
    """Add records to a file, made when absent; a kill leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    fresh = path.with_name(f".{path.name}.partial")
    fresh.write_text(before + "".join(f"{record.to_json()}\n" for record in records), encoding="utf-8")
    fresh.replace(path)
