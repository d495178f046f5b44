"""``vidgen eval``: measures a trained run again into a report of its own, or clips against clips into a table."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from vidgen import hub
from vidgen.cli import between
from vidgen.cli.device import choose_device
from vidgen.cli.evaluate import Evaluation
from vidgen.errors import UserError
from vidgen.evaluation.report import write_report
from vidgen.registry import build
from vidgen.runs import check_writable, write_yaml
from vidgen.training.precision import choose


def run(config: dict[str, Any]) -> None:
    """Measures ``fake`` against ``real`` where they are given, else the model of ``run`` on the data it was trained for."""
    console = Console(soft_wrap=True)
    if config["real"] or config["fake"]:
        between.run(config, console)
    else:
        _measure_run(config, console)


def _measure_run(config: dict[str, Any], console: Console) -> None:
    """Writes ``<run>/<out>/report.html``."""
    source = Path(config["run"])
    if not (source / "config.yaml").is_file():
        raise UserError(f"run={source} is not the folder of a run; give one that 'vidgen fit' made, such as runs/latest.")
    folder = _own_folder(source, config["out"])
    device = choose_device(config["accelerator"])
    model = hub.load(source, device)
    fitted = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
    fitted["data"] = _moved(fitted["data"], config["data"]["path"])
    data = build("data", fitted["data"])
    if model.generator is not None and data.class_names != model.class_names:
        raise UserError(
            f"The data's classes are {_listed(data.class_names)}, and the run's are {_listed(model.class_names)}; give "
            "data.path=FOLDER, the folder that it was trained on."
        )
    precision = choose(config["precision"], device)
    evaluation = Evaluation(
        folder=folder,
        model=model,
        data=data,
        options=config["evaluation"],
        precision=precision,
        seed=config["seed"],
        console=console,
        since=time.monotonic(),
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", {**fitted, "command": config["command"], "evaluation": config["evaluation"]})
    evaluation.reconstructions(fitted["tokenizer"].get("training", {}).get("steps", 0))
    if model.generator is not None:
        evaluation.samples(*evaluation.draw(), fitted["generator"]["training"]["steps"])
    console.print(f"Open the report:\n  {write_report(folder)}", highlight=False)


def _moved(data: dict[str, Any], path: str | None) -> dict[str, Any]:
    """The recipe of the run's data, to be read from ``path`` where that is given.

    Raises:
        UserError: where the data is not read from a folder.
    """
    if path is None:
        return data
    if "path" not in data:
        raise UserError(f"data.path={path} is for runs on videos of a folder, and this one is on {data['name']}: leave it out.")
    return {**data, "path": path}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _own_folder(run: Path, out: str) -> Path:
    """The folder ``out`` in the run: a new one, or that of an earlier evaluation, which is replaced.

    Raises:
        UserError: where it is anything else, for what lies there would be lost, or cannot be written.
    """
    folder = run / out
    inside = folder.resolve().parent == run.resolve()
    free = not folder.exists() or (folder.is_dir() and ((folder / "config.yaml").exists() or not any(folder.iterdir())))
    if not inside or not free:
        raise UserError(
            f"out={out} is not a new folder in {run}, nor that of an earlier evaluation; give another name, such as out=eval."
        )
    check_writable(folder, "out")
    return folder
