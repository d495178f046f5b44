"""Writes the page of a suite from its kept results: every recipe to sort, filter, play and set side by side.

python benchmarks/suite_page.py cpu      writes runs/suites/cpu/report.html
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import work
import yaml
from collect import fingerprint
from records import BASELINE, Record

from vidgen.cli.compose import compose
from vidgen.errors import UserError
from vidgen.evaluation.cells import Cell, Sheet, curves, machine, settings
from vidgen.evaluation.compare import content, write_page
from vidgen.routes import fitted


class Titled(Protocol):
    """What the page says of a suite."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def words(self) -> str: ...


def page(suite: Titled, records: Sequence[Record], sheets_folder: Path, out: Path) -> Path:
    """Writes the page of ``records`` to ``out`` and returns it.

    Args:
        suite: its name, the question that it answers, and what it holds equal.
        records: its results.
        sheets_folder: where samples are kept: ``CONFIG-SEED.webp``, and ``meta.json`` that says what they show.
        out: the file.
    """
    meta = sheets_folder / "meta.json"
    shown = json.loads(meta.read_text(encoding="utf-8")) if meta.is_file() else {}
    said = content(
        list(_cells(records, sheets_folder, shown)), title=suite.title, kind=f"vidgen suite · {suite.name}", words=suite.words
    )
    return write_page(said, out)


def _cells(records: Sequence[Record], folder: Path, shown: Mapping[str, Any]) -> Iterator[Cell]:
    runs: dict[str, list[Record]] = {}
    for record in records:
        origin = record.origin
        key = [origin.run, origin.tokenizer, origin.generator, origin.config, origin.seed, origin.commit]
        runs.setdefault(json.dumps(key), []).append(record)
    for those in runs.values():
        origin = those[0].origin
        recipe = _recipe(_words(origin.command), origin.config) if origin.command else {}
        whole = {key: value for key, value in recipe.items() if key != "command"} | {"seed": origin.seed}
        sprite = folder / f"{origin.config}-{origin.seed}.webp"
        yield Cell(
            run=origin.run,
            tokenizer=origin.tokenizer,
            generator=origin.generator,
            data=origin.data,
            seed=origin.seed,
            command=origin.command,
            settings=settings(recipe),
            config=yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120) if recipe else "",
            rows={record.row.name: record.row for record in those if record.row.stage == "evaluation"},
            machine=machine(origin.hardware, origin.precision),
            versions=origin.versions,
            commit=origin.commit,
            curves=curves(record.row for record in those),
            sheet=Sheet(data=sprite.read_bytes(), **{**shown, "labels": tuple(shown["labels"])})
            if shown and sprite.is_file()
            else None,
            baseline=origin.run == BASELINE,
        )


def _words(command: str) -> tuple[str, ...]:
    """What of a command is of the recipe, after ``vidgen fit``."""
    words = [word for word in shlex.split(command)[2:] if word != "-m"]
    return tuple(word for word in words if word.partition("=")[0] not in ("seed", "runs", "resume"))


@cache
def _recipe(words: tuple[str, ...], config: str) -> dict[str, Any]:
    """The config that ``words`` are composed to, where that is the one they were given for; otherwise the words themselves.

    Recipes change with the code: what a command means now need not be what it meant then.
    """
    try:
        composed = compose("fit", words)
        composed["tokenizer"] = fitted(composed["tokenizer"], composed["generator"]["name"])
    except UserError:  # an option has gone since
        composed = {}
    if composed and fingerprint(composed) == config:
        return composed
    return {"recipe": config} | dict(word.partition("=")[::2] for word in words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page of the suite that is named; returns 2 after a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="a suite with results in benchmarks/results/suites")
    name = parser.parse_args(arguments).name
    import suite

    try:
        chosen = suite.load(name)
        records = work.results(chosen)
        if not records:
            raise UserError(f"The suite {name} has no results yet: 'python benchmarks/run.py {name}' makes them.")
        print(page(chosen, records, chosen.folder, Path("runs") / "suites" / name / "report.html"))
    except UserError as error:
        print(f"suite_page: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
