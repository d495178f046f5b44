"""``vidgen compare``: any runs on one page, and in the terminal as a table.

Torch is imported only where a run holds a further measure, of which its class says the unit and which way is better.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vidgen.config import checked, load
from vidgen.errors import UserError, did_you_mean
from vidgen.runs import check_writable, follow, write_json

ARROWS = {"higher": "↑", "lower": "↓"}
HELP = "See: vidgen compare --help"


def run(words: Sequence[str]) -> None:
    """Compares the runs that ``words`` (``RUN RUN ... [key=value ...]``) name: compare.html, compare.json and compare.md.

    Raises:
        UserError: on an unknown option, where no run is given, or as :func:`vidgen.evaluation.cells.read_run`.
    """
    options = _options(words)
    folders = list(dict.fromkeys(Path(follow(folder)) for folder in options["runs"]))
    if not folders:
        raise UserError(f"vidgen compare has no runs to compare: name their folders, one after another. {HELP}")
    out = Path(options["out"])
    check_writable(out, "out")
    from vidgen.evaluation import compare
    from vidgen.evaluation.cells import read_run

    cells = [read_run(folder) for folder in folders]
    said = compare.content(cells, title=options["title"] or (f"{len(cells)} runs" if len(cells) > 1 else cells[0].run))
    page = compare.write_page(said, out / "compare.html")
    write_json(out / "compare.json", compare.without_samples(said))
    (out / "compare.md").write_text(compare.markdown(said), encoding="utf-8")
    _show(said)
    print(f"Open the page:\n  {page}")


def _options(words: Sequence[str]) -> dict[str, Any]:
    """The options of ``configs/compare.yaml``, with the folders that stand alone among ``runs``."""
    options, folders, given = load("", "compare"), [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or (key not in options and os.path.lexists(word)):
            folders.append(word)
        elif key in options:
            given[key] = yaml.safe_load(value) if key == "runs" else value
        else:
            raise UserError(
                f"vidgen compare has no option '{key}'.{did_you_mean(key, options)} It has {', '.join(options)}. {HELP}"
            )
    if flags := [folder for folder in folders if folder.startswith("-")]:
        raise UserError(f"vidgen compare has no flag {flags[0]}. {HELP}")
    options |= checked(options, given)
    return {**options, "runs": [*folders, *map(str, options["runs"])]}


def _show(said: Mapping[str, Any]) -> None:
    """A table for each group of columns, as narrow as a terminal: intervals are left to the page."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = [column for column in said["columns"] if column["shown"]]
    for group in dict.fromkeys(column["group"] for column in shown):
        those = [column for column in shown if column["group"] == group]
        table = Table(title=group, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", overflow="fold")
        for column in those:
            table.add_column(Text(_head(column)), justify="right", overflow="fold")
        for line in said["lines"]:
            figures = [line["values"].get(column["key"]) for column in those]
            name = f"{line['name']} {line['told']}".rstrip()
            seeds = f", {len(line['cells'])} seeds" if len(line["cells"]) > 1 else ""
            table.add_row(Text(f"{name}{seeds}"), *(Text(_figure(figure)) for figure in figures))
        console.print(table)
    for note in said["notes"]:
        console.print(Text(f"Note: {note}"), soft_wrap=True)


def _head(column: Mapping[str, Any]) -> str:
    label = f"{column['label']}, {column['unit']}" if column["unit"] else column["label"]
    return " ".join([label, *filter(None, [ARROWS.get(column["better"]), column["apart"] and f"[{column['apart']}]"])])


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['text']} {figure['under']}" if "error" in figure else str(figure["text"])
