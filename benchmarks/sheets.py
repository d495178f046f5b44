"""Sample sheets: a few samples of each label of a run, kept with its figures so that a page can play them anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from vidgen.evaluation.cells import sheet
from vidgen.registry import build
from vidgen.runs import write_json


def keep(run: Path, folder: Path, name: str) -> None:
    """Writes ``name``.webp (:func:`vidgen.evaluation.pictures.sprite`, a row a label) to ``folder``, and what it shows to
    ``meta.json``; nothing for a run without samples.
    """
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    found = sheet(run, tuple(build("data", config["data"]).class_names))
    if found is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.webp").write_bytes(found.data)
    meta = {key: value for key, value in vars(found).items() if key != "data"} | {"labels": list(found.labels)}
    path = folder / "meta.json"
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != meta:
        write_json(path, meta)
