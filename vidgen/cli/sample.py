"""``vidgen sample``: videos from a trained run, as files that play."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vidgen import hub
from vidgen.cli import long
from vidgen.cli.device import autocast, choose_device
from vidgen.cli.progress import Stage
from vidgen.data.batches import to_pixels
from vidgen.errors import UserError
from vidgen.evaluation.pictures import save_clips
from vidgen.runs import check_writable
from vidgen.training.precision import choose
from vidgen.viz import write_mp4


def run(config: dict[str, Any]) -> None:
    """Draws ``num`` samples of ``run`` and writes a grid, a contact sheet, every clip by itself, and the exact pixels."""
    console = Console(soft_wrap=True)
    device = choose_device(config["accelerator"])
    model = hub.load(config["run"], device)
    home = Path() if config["run"].startswith(hub.HUB) else hub.resolve(config["run"]).parent
    out = Path(config["out"] or home / "drawn" / _name(config))
    check_writable(out, "out")
    shape = tuple(config["shape"] or model.config["shape"])
    if len(shape) != 3:
        raise UserError(f"shape={list(shape)} is not [frames,height,width]; leave it out for the size of training.")
    model.tokenizer.spec.grid(shape)
    told = {
        "label": _label(config["label"], model.class_names),
        **{name: config[name] for name in ("text", "action", "negative", "steps", "guidance_scale", "temperature")},
    }
    precision = choose(config["precision"], device)
    if config["frames"] is not None or config["continue"] is not None:
        long.draw(config, model, out, told, device=device, precision=precision, console=console)
        return
    drawn: list[np.ndarray] = []
    with Stage(console, "sampling", config["num"], unit="sample") as stage:
        for first in range(0, config["num"], config["batch_size"]):
            count = min(config["batch_size"], config["num"] - first)
            with autocast(device, precision):
                video = model.sample(count, shape, seed=config["seed"], first=first, **told)
            drawn.append(to_pixels(video))
            stage.update(first + count)
    pixels = np.concatenate(drawn)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "samples.npy", pixels)
    save_clips(out, "grid", pixels, title="Samples", caption=_told(config), fps=config["fps"])
    scale = max(1, 256 // pixels.shape[3])
    for index, clip in enumerate(pixels):
        write_mp4(out / f"{index:04d}.mp4", clip, fps=config["fps"], scale=scale)
    console.print(f"{len(pixels)} samples in {out}; look at {out / 'grid.mp4'} and {out / 'grid.png'}", highlight=False)


def _name(config: dict[str, Any]) -> str:
    told = "-".join(str(config[name]) for name in ("label", "text", "action") if config[name] is not None)
    words = re.sub(r"\W+", "-", told).strip("-")[:60]
    return f"{words or 'any'}-seed{config['seed']}"


def _told(config: dict[str, Any]) -> str:
    """What the samples were asked for, in words."""
    asked = ("label", "text", "action", "negative", "seed")
    return ", ".join(f"{name} {config[name]}" for name in asked if config[name] is not None)


def _label(value: Any, names: tuple[str, ...]) -> int | str | None:
    """A label as typed: a class's name before an index, for classes may be called by numbers."""
    return value if value is None or (type(value) is int and str(value) not in names) else str(value)
