"""A run as tables and pages take it: its names, recipe, figures, costs, curves, and a few samples to play."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vidgen.config import flat, load, preset_names
from vidgen.errors import UserError
from vidgen.evaluation import rows
from vidgen.evaluation.rows import Row
from vidgen.runs import STATE, read_mapping

NOT_OF_THE_RECIPE = ("seed", "command", "words", "route", "choices", "runs", "resume", "reuse", "logger", "trainer")
"""What does not decide what was compared: the seed, where things lie, the machine, and words about it all."""

NOTHING_CHANGES = ("evaluation.batch_size", "evaluation.shown", "evaluation.metrics")
"""Options that no other figure depends on."""

FOLDERS = ("data.path", "data.cache", "tokenizer.from", "init")
"""Options that name folders of one machine: their last name is kept."""

COLUMNS, MOST_LABELS, FPS = 3, 12, 8.0
"""Of the samples of a run that are played: how many of each label, of how many labels, and how fast."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Samples to play: a sprite (``pictures.sprite``) with a row for each label, and what is needed to cut it."""

    data: bytes
    labels: tuple[str, ...]
    columns: int
    frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a figure of the validation split while a stage was trained: (step, seconds, value)."""

    stage: str
    name: str
    points: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A run.

    Attributes:
        run: what it is called.
        tokenizer: by name; of a baseline what it is.
        generator: by name; None where there is none.
        data: by name.
        seed: of the run.
        command: what makes it again.
        settings: the recipe, every value by its full key. Runs that differ in nothing of it, nor in their names, make a line.
        config: the recipe for people, as yaml.
        rows: results by name.
        machine: what it ran on.
        versions: of Python and of the packages that matter.
        commit: of vidgen, where it is known.
        curves: of training.
        sheet: samples to play.
        baseline: whether no model stands behind it.
    """

    run: str
    tokenizer: str
    generator: str | None
    data: str
    seed: int
    command: str
    settings: Mapping[str, Any]
    config: str
    rows: Mapping[str, Row]
    machine: str
    versions: Mapping[str, str]
    commit: str | None
    curves: tuple[Curve, ...] = ()
    sheet: Sheet | None = None
    baseline: bool = False

    @property
    def name(self) -> str:
        """Of the pair."""
        return f"{self.tokenizer} x {self.generator}" if self.generator else self.tokenizer

    @property
    def clips(self) -> dict[str, Any]:
        """The options of the data: figures of other clips are other figures. A baseline is of whatever the others are of."""
        found = {key: value for key, value in self.settings.items() if key.startswith("data.") and key != "data.cache"}
        return {"data.name": self.data} | found


def read_run(folder: Path) -> Cell:
    """The run of ``folder``, or what ``vidgen eval`` has measured of one in a folder inside it.

    Raises:
        UserError: where it is no run, is not finished, or holds no results.
    """
    home = folder if (folder / STATE).is_file() else folder.resolve().parent
    if not ((home / STATE).is_file() and (folder / "config.yaml").is_file()):
        raise UserError(f"{folder} is not the folder of a run: give those that 'vidgen fit' made, such as runs/latest.")
    config = read_mapping(folder / "config.yaml")
    if read_mapping(home / STATE).get("status") != "finished":
        raise UserError(f"The run {folder} is not finished: give its command again, which goes on with it ({config['command']}).")
    found = rows.read(folder / "metrics.jsonl")
    results = {row.name: row for row in found if row.stage == "evaluation"}  # measured twice, the last counts
    if not results:
        raise UserError(f"There are no results in {folder}: 'vidgen eval run={folder}' measures it, into its folder eval.")
    environment, model = read_mapping(home / "environment.json"), read_mapping(home / "model" / "config.json")
    names = model.get("names") or config["choices"]
    return Cell(
        run=folder.resolve().name if home == folder else f"{home.name}/{folder.resolve().name}",
        tokenizer=tokenizer_name(names["tokenizer"], config["tokenizer"]),
        generator=names.get("generator"),
        data=config["choices"]["data"],
        seed=config["seed"],
        command=str(config.get("command") or ""),
        settings=settings(config),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120),
        rows={row.name: row for row in costs(environment, next(iter(results.values())))} | results,
        machine=machine(environment.get("hardware", {}), environment.get("precision", "")),
        versions=environment.get("versions", {}),
        commit=environment.get("commit"),
        curves=curves(found),
        sheet=sheet(folder, tuple(model.get("class_names", ())) if model.get("num_classes") else ()),
    )


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe but for the seed and for what belongs to one machine: every value by its full key."""
    found = {key: value for key, value in flat(config) if key.partition(".")[0] not in NOT_OF_THE_RECIPE}
    found = {key: value for key, value in found.items() if key not in NOTHING_CHANGES}
    return found | {key: Path(found[key]).name for key in FOLDERS if found.get(key)}


def tokenizer_name(name: str, config: Mapping[str, Any]) -> str:
    """The tokenizer's name, followed by its quantizer's where that is not its recipe's."""
    quantizer = config.get("quantizer", {}).get("name")
    own = load("tokenizer", name).get("quantizer", {}).get("name") if name in preset_names("tokenizer") else quantizer
    return name if quantizer == own else f"{name}, quantizer {quantizer}"


def machine(hardware: Mapping[str, Any], precision: str) -> str:
    """A machine in words, with the precision that it worked in: what seconds are seconds of."""
    parts = [hardware.get("gpu"), hardware.get("cpu"), f"{hardware.get('cores', 'unknown')} cores", precision]
    return ", ".join(str(part) for part in parts if part)


def curves(found: Iterable[Row]) -> tuple[Curve, ...]:
    """What was measured of the validation split during training."""
    named: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for row in found:
        if row.stage != "evaluation" and row.split == "val" and math.isfinite(row.value):
            named.setdefault((row.stage, row.name), {})[row.step] = (row.seconds, row.value)  # a repeated step's last counts
    return tuple(
        Curve(stage=stage, name=name, points=tuple((step, *values) for step, values in sorted(points.items())))
        for (stage, name), points in named.items()
    )


def costs(environment: Mapping[str, Any], like: Row) -> list[Row]:
    """Parameters, operations and seconds of training as rows like all others."""
    timings = environment.get("timings", {})
    found = {f"{part}/parameters": value for part, value in environment.get("parameters", {}).items()}
    found |= environment.get("flops", {})
    found |= {f"{stage}/train_seconds": timings[stage] for stage in ("tokenizer", "generator") if stage in timings}
    blank = replace(like, protocol=None, n=None, interval=None)
    return [replace(blank, name=name, value=float(value)) for name, value in found.items()]


def sheet(folder: Path, labels: tuple[str, ...]) -> Sheet | None:
    """The first samples of each label: they were asked for in turns. Of long clips as many frames as a sprite holds."""
    import numpy as np

    from vidgen.evaluation.pictures import LARGEST, sprite

    path = folder / "samples" / "samples.npy"
    if not path.is_file():
        return None
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    turns = len(labels) or 1
    num, frames, height, width = pixels.shape[:4]
    columns = min(COLUMNS, num // turns)
    shown = min(turns, MOST_LABELS, LARGEST // height)
    if not columns or not shown:
        return None
    every = math.ceil(frames * columns * width / LARGEST)
    chosen = np.stack([pixels[label : label + turns * columns : turns, ::every] for label in range(shown)])
    return Sheet(
        data=sprite(chosen),
        labels=(labels or ("samples",))[:shown],
        columns=columns,
        frames=chosen.shape[2],
        height=height,
        width=width,
        fps=FPS / every,
    )
