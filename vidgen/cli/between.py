"""``vidgen eval real=... fake=...``: any clips against any others by a protocol, into a table that grows by a row each time."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vidgen.cli.device import autocast, choose_device
from vidgen.cli.progress import Stage
from vidgen.config import load
from vidgen.errors import UserError
from vidgen.evaluation import tables
from vidgen.evaluation.between import Comparison, Looking, compare, prepared
from vidgen.evaluation.protocol import from_recipe, one_protocol
from vidgen.evaluation.rows import measure
from vidgen.evaluation.sources import Drawing, open_source
from vidgen.registry import build
from vidgen.runs import check_writable, write_json
from vidgen.training.precision import choose

RESULTS = "results.json"


def run(config: dict[str, Any], console: Console) -> None:
    """Measures ``fake`` against ``real`` and writes results.json, table.md and table.tex into ``out``.

    Raises:
        UserError: where one of the two is not given, or ``out`` holds figures of another protocol.
    """
    for given, other in (("real", "fake"), ("fake", "real")):
        if not config[other]:
            raise UserError(f"{given}={config[given]} has nothing to be compared with: give {other}=CLIPS too.")
    folder, cache = Path(config["out"]), Path(config["cache"])
    check_writable(folder, "out")
    check_writable(cache, "cache")
    before = read_results(folder)
    protocol = from_recipe(config["choices"]["protocol"], config["protocol"])
    extractor = build("extractors", config.get("extractor") or load("extractor", str(protocol.metric.extractor)))
    protocol, _ = prepared(protocol, extractor, config["lpips"])
    one_protocol([*(one.protocol for one in before), protocol], f"The table of {folder}")  # before any long work
    console.print(f"{config['fake']} against {config['real']} by {protocol.label}", highlight=False)
    device = choose_device(config["accelerator"])
    precision = choose(config["precision"], device)
    options = {name: config["evaluation"][name] for name in ("steps", "guidance_scale", "temperature")}
    with _Progress(console) as progress:
        drawing = Drawing(
            device=device,
            batch_size=config["evaluation"]["batch_size"],
            precision=lambda: autocast(device, precision),
            options=options,
            progress=lambda done: progress("sampling", done),
        )
        looking = Looking(
            device=device,
            batch_size=config["evaluation"]["batch_size"],
            cache=cache,
            lpips=config["lpips"],
            progress=lambda name, done: progress(f"looking at {name}", done),
        )
        real = open_source(config["real"], protocol.data, drawing, generated=False)
        fake = open_source(config["fake"], protocol.data, drawing, generated=True)
        found = compare(real, fake, protocol, extractor.to(device), looking)
    kept = [one for one in before if (one.fake, one.real) != (found.fake, found.real)] + [found]
    write_results(folder, kept)
    _show(found, console)
    console.print(f"The table: {folder / 'table.md'}, {folder / 'table.tex'}; all figures: {folder / RESULTS}", highlight=False)


def read_results(folder: Path) -> list[Comparison]:
    """What earlier evaluations have written into ``folder``.

    Raises:
        UserError: where it cannot be read.
    """
    path = folder / RESULTS
    if not path.exists():
        return []
    try:
        return [Comparison.from_dict(one) for one in json.loads(path.read_text(encoding="utf-8"))["comparisons"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not what 'vidgen eval' writes ({error}): give another folder by out=FOLDER.") from error


def write_results(folder: Path, comparisons: list[Comparison]) -> None:
    """results.json, table.md and table.tex."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS, {"comparisons": [one.to_dict() for one in comparisons]})
    title = f"The table of {folder}"
    (folder / "table.md").write_text(tables.markdown(comparisons, title), encoding="utf-8")
    (folder / "table.tex").write_text(tables.latex(comparisons, title), encoding="utf-8")


class _Progress:
    """A live stage for whatever is being gone through, one after another; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console, self.name, self.stage = console, "", ExitStack()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stage.close()

    def __call__(self, name: str, done: int) -> None:
        if name != self.name:
            self.stage.close()
            self.name, self.live = name, self.stage.enter_context(Stage(self.console, name, None, unit="clip"))
        self.live.update(done)


def _show(found: Comparison, console: Console) -> None:
    table = Table(
        title=f"{found.fake} against {found.real}",
        caption=found.words,
        title_justify="left",
    )
    for column in ("measure", "value", "95 % interval", "N"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for result in found.results:
        about = measure(result.name)
        interval = "" if result.interval is None else " to ".join(about.bound(end, result.value) for end in result.interval)
        table.add_row(about.label, about.text(result.value), interval, str(result.n))
    console.print(table)
    for warning in found.warnings:
        console.print(f"Note: {warning}", highlight=False)
    for source, name, reason in found.skipped:
        console.print(f"Left out of {source}: {name}: {reason}.", highlight=False)
