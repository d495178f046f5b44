"""Sample sheets: a few samples of each label of a run, kept with its figures so that a page can play them anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from vidgen.evaluation.pictures import sprite
from vidgen.registry import build
from vidgen.runs import write_json

COLUMNS = 3
"""Samples of each label."""

FPS = 8


def keep(run: Path, folder: Path, name: str) -> None:
    """Writes ``name``.webp (:func:`vidgen.evaluation.pictures.sprite`, a row a label) to ``folder``, and what it shows to
    ``meta.json``; nothing for a run without samples.
    """
    samples = run / "samples" / "samples.npy"
    if not samples.is_file():
        return
    pixels = np.load(samples)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    labels = list(build("data", config["data"]).class_names) or [""]
    rows = len(labels)  # sample i was asked for label i mod rows
    columns = min(COLUMNS, len(pixels) // rows)
    if not columns:
        return
    chosen = pixels[: rows * columns].reshape(columns, rows, *pixels.shape[1:]).swapaxes(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.webp").write_bytes(sprite(np.ascontiguousarray(chosen)))
    frames, height, width = (int(side) for side in pixels.shape[1:4])
    meta = {"labels": labels, "frames": frames, "height": height, "width": width, "columns": columns, "fps": FPS}
    path = folder / "meta.json"
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != meta:
        write_json(path, meta)
