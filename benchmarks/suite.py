"""A suite: a question, the grid of runs that answers it, and the budget that they share. Each is a yaml of ``benchmarks/suites``.

    # The question, in one sentence.
    words: What is held equal, said above every table.
    budget: {tokenizer: {steps: 600}, generator: {flops: 2.0e+13}}
    like: cpu                         # budget, threads and common are that suite's where they are not said here; none by default
    threads: 1                        # of a run; 0: all there are
    common: [data=worlds]             # as typed after 'vidgen fit', for every run
    grid: {tokenizer: [kl, lfq], generator: [dit, ar]}
    extra: [[tokenizer=lfq, generator=dit, generator.depth=8]]    # runs beside the product, none by default
    again: {evaluation.guidance_scale: [1.0, 2.0]}                # every run measured so, trained once; not by default
    seeds: [0, 1, 2]
    sheets: true                      # samples are kept with the results, so that a page can play them; not by default

A budget is in ``steps`` of the optimizer, in ``tokens`` (cells of latents that are trained on), in ``flops`` (of forward and
backward passes) or in ``seconds`` of training. All but the first are turned into steps once for each recipe, by a trial step, and
kept in ``results/suites/NAME/work.json``: whoever goes on with a suite takes the same number of steps, on whatever machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from vidgen.errors import UserError, did_you_mean

SUITES = Path(__file__).parent / "suites"
RESULTS = Path(__file__).parent / "results" / "suites"
STAGES = ("tokenizer", "generator")
KINDS = ("steps", "tokens", "flops", "seconds")
INHERITED = ("budget", "threads", "common")
KEYS = ("words", "like", "budget", "threads", "common", "grid", "extra", "again", "seeds", "sheets")


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Attributes:
        words: what is typed after ``vidgen fit``, but for the seed and for the steps that a budget makes.
        seed: of the run.
        again: how it is measured when it is trained, as typed after ``vidgen eval``; nothing for as it was.
        own: those of ``words`` that not all runs of the suite have.
    """

    words: tuple[str, ...]
    seed: int
    again: tuple[str, ...] = ()

    own: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """What runs that differ in their seeds have in common."""
        return " ".join(self.words)

    @property
    def name(self) -> str:
        """For people, and for files: ``lfq-dit-0``, with what else the grid says."""
        values = [word.partition("=")[2] for word in (*self.own, *self.again) if not word.startswith("stage=")]
        return "-".join([*(value.strip("[]").replace(",", "x") for value in values), str(self.seed)])


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a yaml of ``benchmarks/suites`` says.

    Attributes:
        name: the file's.
        title: its first comment.
        words: what is held equal.
        budget: of each stage, the kind and how much.
        threads: of a run; 0 for as many as the machine has.
        cells: every run, seed by seed, so that a suite that is cut short has whole tables of fewer seeds.
        sheets: whether samples are kept with the results.
    """

    name: str
    title: str
    words: str
    budget: dict[str, tuple[str, float]]
    threads: int = 0
    cells: tuple[Cell, ...] = ()
    sheets: bool = False
    grid: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The file of its figures."""
        return RESULTS / f"{self.name}.jsonl"

    @property
    def folder(self) -> Path:
        """Where what belongs to its figures lies: sample sheets, and how much work each recipe is."""
        return RESULTS / self.name


def names() -> list[str]:
    """All suites."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load(name: str, folder: Path | None = None) -> Suite:
    """The suite of that name, of ``benchmarks/suites`` or of another folder.

    Raises:
        UserError: for an unknown name, or a file that is not a suite, saying what is wrong with it.
    """
    folder = folder or SUITES
    path = _path(name, folder)
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    for key in values:
        if key not in KEYS:
            raise UserError(f"{path} has the key '{key}', which no suite has.{did_you_mean(key, KEYS)}")
    if "like" in values:
        other = yaml.safe_load(_path(values["like"], folder).read_text(encoding="utf-8"))
        values = {key: other[key] for key in INHERITED if key in other} | values
    if absent := [key for key in ("words", "budget", "seeds") if key not in values]:
        raise UserError(f"{path} lacks {', '.join(absent)}.")
    if not text.startswith("# "):
        raise UserError(f"{path} does not begin with a comment: its first line is the question that the suite answers.")
    return Suite(
        name=name,
        title=text.partition("\n")[0].removeprefix("# "),
        words=values["words"],
        budget=_budget(values["budget"], path),
        threads=values.get("threads", 0),
        cells=_cells(values),
        sheets=values.get("sheets", False),
        grid=values.get("grid", {}),
    )


def _path(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise UserError(f"There is no suite '{name}'.{did_you_mean(name, known)} There are {', '.join(known)}.")
    return path


def with_words(suite: Suite, words: Sequence[str]) -> Suite:
    """The suite with ``words`` for every run, such as where its data lies; they take the place of what they contradict."""
    keys = {word.partition("=")[0] for word in words}

    def changed(cell: Cell) -> Cell:
        return replace(cell, words=(*(word for word in cell.words if word.partition("=")[0] not in keys), *words))

    return replace(suite, cells=tuple(map(changed, suite.cells)))


def _budget(given: Mapping[str, Mapping[str, float]], path: Path) -> dict[str, tuple[str, float]]:
    found = {}
    for stage, limit in given.items():
        if stage not in STAGES or len(limit) != 1 or next(iter(limit)) not in KINDS:
            raise UserError(
                f"The budget of {path} says '{stage}: {dict(limit)}': say one of {', '.join(KINDS)} for each of "
                f"{' and '.join(STAGES)}, such as 'tokenizer: {{steps: 600}}'."
            )
        found[stage] = next((kind, float(amount)) for kind, amount in limit.items())
    return found


def _cells(values: Mapping[str, Any]) -> tuple[Cell, ...]:
    common, grid = values.get("common", []), values.get("grid", {})
    recipes = [*(_product(grid) if grid else []), *map(tuple, values.get("extra", []))]
    again = _product(values.get("again", {}))
    return tuple(Cell((*common, *own), seed, other, own) for seed in values["seeds"] for own in recipes for other in again)


def _product(grid: Mapping[str, list[Any]]) -> list[tuple[str, ...]]:
    return [tuple(f"{key}={_word(value)}" for key, value in zip(grid, point, strict=True)) for point in product(*grid.values())]


def _word(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
