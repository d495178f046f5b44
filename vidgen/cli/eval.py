"""``vidgen eval``: measures a trained run again, with other options, into a report of its own."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from vidgen import hub
from vidgen.cli.device import choose_device
from vidgen.cli.evaluate import Evaluation
from vidgen.errors import UserError
from vidgen.evaluation.report import write_report
from vidgen.registry import build
from vidgen.runs import write_yaml
from vidgen.training.precision import choose


def run(config: dict[str, Any]) -> None:
    """Measures the model of ``run`` on the data it was trained for and writes ``<run>/<out>/report.html``."""
    console = Console(soft_wrap=True)
    source = Path(config["run"])
    if not (source / "config.yaml").is_file():
        raise UserError(f"run={source} is not the folder of a run; give one that 'vidgen fit' made, such as runs/latest.")
    fitted = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
    device = choose_device(config["accelerator"])
    model = hub.load(source, device)
    folder = source / config["out"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    evaluation = Evaluation(
        folder=folder,
        model=model,
        data=build("data", fitted["data"]),
        options=config["evaluation"],
        precision=choose(config["precision"], device),
        seed=config["seed"],
        console=console,
        since=time.monotonic(),
    )
    write_yaml(folder / "config.yaml", {**fitted, "command": config["command"], "evaluation": config["evaluation"]})
    evaluation.reconstructions(fitted["tokenizer"]["training"]["steps"])
    if model.generator is not None:
        evaluation.samples(*evaluation.draw(), fitted["generator"]["training"]["steps"])
    console.print(f"Open the report:\n  {write_report(folder)}", highlight=False)
