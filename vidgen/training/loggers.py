"""Where training curves go besides the run folder's metrics.jsonl, which always has them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vidgen.errors import UserError, did_you_mean

Log = Callable[[str, str, int, Mapping[str, float]], None]
"""Called with (stage, split, step, named values)."""


def build_logger(config: Mapping[str, Any], folder: Path) -> Log:
    """The logger ``config["name"]``: ``csv`` (``curves.csv`` in ``folder``), ``tensorboard`` or ``wandb``.

    Raises:
        UserError: on an unknown name, or where the logger's package is not installed.
    """
    makers: dict[str, Callable[[], Log]] = {
        "csv": lambda: _csv(folder / "curves.csv"),
        "tensorboard": lambda: _tensorboard(folder),
        "wandb": lambda: _wandb(config["project"], folder),
    }
    name = config["name"]
    if name not in makers:
        raise UserError(f"There is no logger called '{name}'.{did_you_mean(name, makers)} There are {', '.join(makers)}.")
    try:
        return makers[name]()
    except ImportError as error:
        raise UserError(f'logger={name} needs a package that is not installed: pip install "vidgen[{name}]".') from error


def _csv(path: Path) -> Log:
    if not path.exists():
        path.write_text("stage,split,step,name,value\n", encoding="utf-8")

    def log(stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        with path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([stage, split, step, name, value] for name, value in values.items())

    return log


def _tensorboard(folder: Path) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"{stage}/{split}/{name}", value, step)
        writer.flush()

    return log


def _wandb(project: str, folder: Path) -> Log:
    import wandb

    run = wandb.init(project=project, name=folder.name, id=folder.name, dir=str(folder), resume="allow")

    def log(stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        # Stages count their own steps, and wandb's step may not go back: each stage has an axis of its own.
        run.log({f"{stage}/step": step, **{f"{stage}/{split}/{name}": value for name, value in values.items()}})

    return log
