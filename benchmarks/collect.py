"""Takes the results of finished runs into ``benchmarks/results/NAME.jsonl``, from which the tables are rendered.

    python benchmarks/collect.py NAME runs/2026-01-31-lfq-dit [more runs ...]
    python benchmarks/collect.py NAME RUN --again eval     what 'vidgen eval run=RUN out=eval' has measured of it later

NAME is the table that they belong to, such as the question that they answer. Runs that are there already are passed over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from records import Origin, Record, append, read, to_lines

from vidgen.config import flat
from vidgen.errors import UserError
from vidgen.evaluation import rows
from vidgen.evaluation.cells import NOT_OF_THE_RECIPE, NOTHING_CHANGES, costs, tokenizer_name

RESULTS = Path(__file__).parent / "results"

FOLDERS = ("data.path", "data.cache", "tokenizer.from", "init", "resume", "runs")
"""Options that name folders of one machine, which are no other's business: their last name is kept."""


def collect(run: Path, again: str | None = None) -> list[Record]:
    """The results of a finished run, or those of its later evaluation ``again``.

    Raises:
        UserError: where the folder is no run, is not finished, or lacks what ``vidgen fit`` writes.
    """
    state = _json(run / "state.json")
    if state.get("status") != "finished":
        raise UserError(f"The run {run} is not finished: repeat its command, which goes on with it, and collect it then.")
    results = [row for row in rows.read(run / "metrics.jsonl") if row.stage == "evaluation"]
    if again:
        took = max((row.seconds for row in results), default=0.0)  # the run; how long it was looked at later is no matter
        results = [replace(row, seconds=took) for row in rows.read(run / again / "metrics.jsonl") if row.stage == "evaluation"]
    if not results:
        raise UserError(f"There are no results in {run / (again or '')}: 'vidgen eval run={run} out=eval' makes some in eval.")
    own = _config(run)
    config = measured_so(own, _config(run / again)["evaluation"]) if again else own
    environment, names = _json(run / "environment.json"), _json(run / "model" / "config.json")["names"]
    origin = Origin(
        run=run.resolve().name,
        command=shlex.join(map(portable, shlex.split(config["command"]))),
        tokenizer=tokenizer_name(names["tokenizer"], config["tokenizer"]),
        generator=names.get("generator"),
        data=config["choices"]["data"],
        config=fingerprint(config),
        seed=config["seed"],
        precision=environment["precision"],
        hardware=environment["hardware"],
        versions=environment["versions"],
        commit=environment["commit"],
    )
    found = [*results, *costs(environment, results[-1])]
    if again and any(config["evaluation"][name] != own["evaluation"][name] for name in ("steps", "guidance_scale")):
        found = [row for row in found if row.name != "generator/sample_flops"]  # that is of samples as the run drew them
    return [Record(origin=origin, row=row) for row in found]


def measured_so(config: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """The config of a run as if ``fit`` had measured it by the options ``evaluation``, command and all."""
    own = config["evaluation"]
    changed = {name: value for name, value in evaluation.items() if value != own.get(name)}
    changed = {name: value for name, value in changed.items() if f"evaluation.{name}" not in NOTHING_CHANGES}
    said = {f"evaluation.{name}": f"evaluation.{name}={'null' if value is None else value}" for name, value in changed.items()}
    words = [word for word in shlex.split(config["command"]) if word.partition("=")[0] not in said]
    return {**config, "evaluation": own | changed, "command": shlex.join([*words, *said.values()])}


def fingerprint(config: dict[str, Any]) -> str:
    """Hash of the recipe but for the seed: equal for runs that may be averaged, on whatever machine."""
    recipe = {key: value for key, value in flat(config) if key.partition(".")[0] not in NOT_OF_THE_RECIPE}
    recipe |= {key: Path(recipe[key]).name for key in FOLDERS if recipe.get(key)}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def portable(word: str) -> str:
    """An option as it is typed, folders of this machine cut to their names."""
    key, _, value = word.partition("=")
    return f"{key}={Path(value).name}" if key in FOLDERS else word


def add(name: str, run: Path, folder: Path = RESULTS, again: str | None = None) -> int:
    """Adds a run's results to the table ``name`` in ``folder``; returns how many, 0 where the run is there already.

    Raises:
        UserError: as :func:`collect`, and where the run is there with other figures.
    """
    path, found = folder / f"{name}.jsonl", collect(run, again)
    known = [record for record in read(path) if record.origin == found[0].origin]
    if known and list(to_lines(known)) != list(to_lines(found)):
        raise UserError(f"{path} has other figures of {run.resolve().name}: remove its lines there, then collect it again.")
    if known:
        return 0
    append(path, found)
    return len(found)


def _config(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return values


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no {path.name} in {path.parent}: name the folder of a run that 'vidgen fit' has finished.")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Collects the runs that are named; returns 2 after a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="Then: python benchmarks/render.py")
    parser.add_argument("name", help="the table: benchmarks/results/NAME.jsonl")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--again", metavar="FOLDER", help="take what a later evaluation in this folder of each run has measured")
    given = parser.parse_args(arguments)
    try:
        for run in given.runs:
            count = add(given.name, run, again=given.again)
            print(f"{run}: {count} results" if count else f"{run}: there already")
    except UserError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
