"""What sampling's options do to trained generators: guidance, steps and temperature, into ``benchmarks/results/sweeps.jsonl``.

    python benchmarks/sweeps.py runs/2026-01-31-lfq-dit runs/2026-01-31-lfq-ar    measures what is not there yet
    python benchmarks/sweeps.py --dry-run runs/latest                             says what it would do

Each option goes through its values while the others stay as the recipe has them; samples of every value have the same seeds and
labels, and are judged by the laws of their world. ``benchmarks/render.py`` draws ``docs/sweep-*.svg`` of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml

from vidgen import hub
from vidgen.config import load
from vidgen.data.worlds import Worlds
from vidgen.errors import UserError
from vidgen.evaluation import measure
from vidgen.evaluation.charts import HEIGHT, WIDTH, Series, line_chart
from vidgen.protocols import Data
from vidgen.registry import build
from vidgen.runs import environment

RESULTS = Path(__file__).parent / "results" / "sweeps.jsonl"
SAMPLES, BATCH = 96, 32
VALUES: dict[str, tuple[float, ...]] = {
    "guidance_scale": (1.0, 1.5, 2.0, 3.0, 5.0),
    "steps": (4, 8, 12, 25, 50, 100),
    "temperature": (0.7, 0.85, 1.0, 1.15),
}
WORDS = {"guidance_scale": "guidance", "steps": "steps", "temperature": "temperature"}
"""The options of sampling, and how they are called in pictures and their file names."""

FIGURES = {
    "appearance_legal": "Appearance-legal, %",
    "law_legal": "Law-legal, %",
    "class_accuracy": "Class accuracy, %",
}
COLOURS = ("#1f6feb", "#b45f06", "#2a7d4f", "#8250df", "#bf3989", "#57606a")
STYLE = (
    "text{font:10.5px sans-serif;fill:#444;stroke:none}.hair{stroke:#ddd;fill:none;stroke-width:.8}.name{font-weight:bold}"
    ".axis{stroke:#444;fill:none;stroke-width:.8}.line{fill:none;stroke-width:1.6}"
) + "".join(f".line.s{i}{{stroke:{colour}}}.dot.s{i}{{fill:{colour}}}" for i, colour in enumerate(COLOURS))
KEY = 26
"""Height of the names above the charts."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Samples at one value of one option.

    Attributes:
        run: the name of the run's folder.
        tokenizer: by name.
        generator: by name.
        option: one of ``VALUES``.
        value: of that option.
        figures: of ``FIGURES``, in [0, 1].
        samples: how many were judged.
        seconds: for a sample, decoding included; with whatever else was running.
    """

    run: str
    tokenizer: str
    generator: str
    option: str
    value: float
    figures: dict[str, float]
    samples: int
    seconds: float


def points() -> list[Point]:
    """What has been measured, the last of each run, option and value."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    names = Point.__dataclass_fields__
    found = [Point(**{name: value for name, value in json.loads(line).items() if name in names}) for line in lines]
    return list({(point.run, point.option, point.value): point for point in found}.values())


def missing() -> list[str]:
    """What of every run's points has not been measured, in words, such as ``ar x lfq: steps 8, 12``."""
    found: dict[str, list[Point]] = {}
    for point in points():
        found.setdefault(point.run, []).append(point)
    words = []
    for own in found.values():
        done = {(point.option, point.value) for point in own}
        recipe = SimpleNamespace(**load("generator", own[0].generator))
        for option, values in options_of(recipe).items():
            left = [f"{value:g}" for value in values if (option, value) not in done]
            if left:
                words.append(f"{own[0].generator} x {own[0].tokenizer}: {WORDS[option]} {', '.join(left)}")
    return words


def options_of(generator: Any) -> dict[str, tuple[float, ...]]:
    """The values to try of each option that this generator has; only some are sampled in steps of one's choice."""
    return {name: values for name, values in VALUES.items() if name != "steps" or hasattr(generator, "steps")}


def run(folder: Path, done: set[tuple[str, str, float]], dry: bool) -> Iterator[Point]:
    """Samples a finished run's model at every value that is not ``done``.

    Raises:
        UserError: where the run has no generator, or its data has no judge.
    """
    config, name = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), folder.resolve().name
    data: Data = build("data", config["data"])
    model = hub.load(folder)
    if model.generator is None or not isinstance(data, Worlds):
        raise UserError(f"{folder} has no generator of worlds, whose samples could be judged: give runs of 'data=worlds'.")
    names = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))["names"]
    todo = [(option, value) for option, values in options_of(model.generator).items() for value in values]
    asked = measure.ask(model, data, SAMPLES)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    for option, value in todo:
        if (name, option, value) in done:
            continue
        if dry:
            print(f"{name}: {option} {value:g}")
            continue
        begin = time.monotonic()
        drawn = measure.draw_samples(
            model,
            asked=asked,
            batch_size=BATCH,
            shape=data.shape,
            seed=config["seed"],
            precision=partial(torch.autocast, device, torch.bfloat16),
            options={option: int(value) if option == "steps" else value},
        )
        pixels = np.concatenate(list(drawn))
        seconds = (time.monotonic() - begin) / SAMPLES
        judged = {result.name.partition("/")[2]: result.value for result in measure.measure_samples(pixels, asked, data)}
        yield Point(
            run=name,
            tokenizer=names["tokenizer"],
            generator=names["generator"],
            option=option,
            value=value,
            figures={figure: judged[figure] for figure in FIGURES},
            samples=SAMPLES,
            seconds=round(seconds, 3),
        )


def picture_name(option: str) -> str:
    """The picture's file in docs/."""
    return f"sweep-{WORDS[option]}.svg"


def picture(option: str) -> str:
    """A chart a figure over the values of an option, a line a run; as SVG."""
    measured: dict[str, list[Point]] = {}
    for point in points():
        measured.setdefault(f"{point.generator} x {point.tokenizer}", []).append(point)
    style = {name: number for number, name in enumerate(measured)}  # one colour in all pictures
    found = {name: [point for point in own if point.option == option] for name, own in measured.items()}
    found = {name: own for name, own in found.items() if own}
    charts = []
    for place, (figure, words) in enumerate(FIGURES.items()):
        series = [
            Series(name, sorted((point.value, 100 * point.figures[figure]) for point in own), style[name])
            for name, own in found.items()
        ]
        chart = line_chart(series, title=words, x_name=WORDS[option])
        place_at = f'<svg x="{place * WIDTH}" y="{2 * KEY}" width="{WIDTH}" height="{HEIGHT}" '
        charts.append(f'<text x="{place * WIDTH + 46}" y="{2 * KEY}" class="name">{words}</text>')
        charts.append(str(chart).replace("<svg ", place_at, 1))
    keys = [
        f'<circle class="dot s{style[name]}" cx="{52 + 150 * place}" cy="{KEY - 8}" r="4"/>'
        f'<text x="{62 + 150 * place}" y="{KEY - 4}">{name}</text>'
        for place, name in enumerate(found)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(FIGURES) * WIDTH} {HEIGHT + 2 * KEY}">'
    title = f"<title>Samples by {WORDS[option]}</title><style>{STYLE}</style>"
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([head, title, ground, *keys, *charts, "</svg>"]) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Measures what is left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to measure, and measure nothing")
    given = parser.parse_args(words)
    done = {(point.run, point.option, point.value) for point in points()}
    for folder in given.runs:
        for point in run(folder, done, given.dry_run):
            shown = ", ".join(f"{FIGURES[name]} {100 * value:.1f}" for name, value in point.figures.items())
            print(f"{point.run}: {point.option} {point.value:g}: {shown} ({point.seconds:.2f} s a sample)", flush=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**asdict(point), **environment()}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
