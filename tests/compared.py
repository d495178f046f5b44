"""Cells to compare, made up: what of them is right can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vidgen.evaluation.cells import Cell, Curve, Sheet
from vidgen.evaluation.pictures import sprite
from vidgen.evaluation.rows import Row, append

PSNR, LEGAL, FD = "reconstruction/psnr", "samples/law_legal", "samples/motion_fd"
LABELS = ("bounce", "gravity")
FRAMES = 5


def row(name: str, value: float, **others: Any) -> Row:
    return Row(stage="evaluation", split="test", step=40, seconds=90.0, name=name, value=value, **others)


def shades(first: int) -> np.ndarray:
    """uint8 (2, 3, 5, 16, 16, 3), each clip of one grey: 20 brighter from label to label, 10 from frame to frame."""
    label, _, frame = np.meshgrid(np.arange(2), np.arange(3), np.arange(FRAMES), indexing="ij")
    grey = (first + 20 * label + 10 * frame).astype(np.uint8)
    return np.broadcast_to(grey[..., None, None, None], (2, 3, FRAMES, 16, 16, 3)).copy()


def sheet(first: int) -> Sheet:
    return Sheet(data=sprite(shades(first)), labels=LABELS, columns=3, frames=FRAMES, height=16, width=16, fps=8)


def cell(
    tokenizer: str = "lfq",
    generator: str | None = "dit",
    seed: int = 0,
    values: Mapping[str, float] | None = None,
    *,
    protocol: str = "by the judge",
    n: int = 128,
    settings: Mapping[str, Any] | None = None,
    first: int | None = None,
    **others: Any,
) -> Cell:
    """One run; ``first`` is the grey of its first sample."""
    found = {PSNR: 30.0, LEGAL: 0.5} if values is None else values
    recipe = {"tokenizer.name": tokenizer, "generator.name": generator, "generator.depth": 6, "data.height": 16}
    said: dict[str, Any] = {
        "run": f"run-{tokenizer}-{generator}-{seed}",
        "tokenizer": tokenizer,
        "generator": generator,
        "data": "worlds",
        "seed": seed,
        "command": f"vidgen fit tokenizer={tokenizer} generator={generator} seed={seed}",
        "settings": recipe | dict(settings or {}),
        "config": f"tokenizer: {tokenizer}\n",
        "rows": {name: row(name, value, protocol=protocol, n=n) for name, value in found.items()},
        "machine": "A processor, 2 cores, fp32",
        "versions": {"torch": "2.15.0"},
        "commit": "0123abcd",
        "curves": (Curve(stage="generator", name="loss/validation", points=((10, 1.0, 2.0), (20, 2.0, 1.0 + seed))),),
        "sheet": None if first is None else sheet(first),
    }
    return Cell(**said | others)


def write_run(folder: Path, **changes: Any) -> Path:
    """A finished run on disk, with nine samples of three labels of which each is of its own grey: 10 times its number."""
    said = {"seed": 0, "status": "finished", "depth": 6, "psnr": 30.0, "height": 16, "samples": 9, "stage": "all"} | changes
    config = {
        "command": f"vidgen fit seed={said['seed']}",
        "tokenizer": {"name": "autoencoder", "quantizer": {"name": "lfq", "bits": 10}},
        "generator": {"name": "dit", "depth": said["depth"]},
        "data": {"name": "worlds", "height": said["height"]},
        "choices": {"tokenizer": "lfq", "generator": "dit", "data": "worlds"},
        "evaluation": {"clips": 8, "shown": 4},
        "seed": said["seed"],
        "runs": "runs",
    }
    environment = {
        "versions": {"torch": "2.15.0"},
        "commit": "0123abcd",
        "hardware": {"cpu": "A processor", "cores": 2},
        "precision": "fp32",
        "parameters": {"tokenizer": 2_000_000},
        "flops": {"generator/sample_flops": 2e9},
        "timings": {"tokenizer": 12.5, "generator": 25.0, "sampling": 3.0},
    }
    names = {"tokenizer": "lfq", "generator": "dit"} if said["stage"] == "all" else {"tokenizer": "lfq"}
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "state.json").write_text(json.dumps({"status": said["status"], "fingerprint": "f"}))
    labels = ["bounce", "gravity", "orbit"]
    (folder / "model" / "config.json").write_text(json.dumps({"names": names, "class_names": labels, "num_classes": 3}))
    curve = [
        Row(stage="generator", split=split, step=step, seconds=step / 10, name="loss/validation", value=value)
        for split, step, value in (("val", 10, 2.0), ("val", 20, 1.5), ("train", 10, 9.0), ("val", 20, 1.0))
    ]
    append(folder / "metrics.jsonl", [*curve, row(PSNR, 1.0), row(PSNR, said["psnr"], n=8, interval=(29.0, 31.0))])
    if said["samples"]:
        greys = 10 * np.arange(said["samples"], dtype=np.uint8)
        (folder / "samples").mkdir()
        np.save(
            folder / "samples" / "samples.npy", np.broadcast_to(greys[:, None, None, None, None], (said["samples"], 4, 16, 16, 3))
        )
    return folder
