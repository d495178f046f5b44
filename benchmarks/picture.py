"""Makes docs/samples.webp of the samples of runs, side by side: three clips of each class, a row a class.

python benchmarks/picture.py runs/2026-01-31-lfq-dit runs/2026-01-31-lfq-ar
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vidgen.viz import grid, upscale

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS, SCALE, GAP, HEAD = 3, 3, 12, 26
MILLISECONDS = 120
"""Of a frame."""


def block(run: Path) -> NDArray[np.uint8]:
    """The first clips of each class, (T, H, W, 3): the exact pixels that ``vidgen fit`` keeps, the classes in turns."""
    classes = len(list((run / "samples").glob("class-*.png")))
    samples = np.load(run / "samples" / "samples.npy", mmap_mode="r")
    chosen = [samples[label + classes * column] for label in range(classes) for column in range(COLUMNS)]
    return upscale(grid(np.stack(chosen), COLUMNS), SCALE)


def name(run: Path) -> str:
    """The generator of a run and the tokenizer that it was trained on."""
    names = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["names"]
    return f"{names['generator']} x {names['tokenizer']}"


def frames(blocks: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> list[Image.Image]:
    """The blocks beside one another with their names above them."""
    height, width = HEAD + blocks[0].shape[1], sum(part.shape[2] for part in blocks) + GAP * (len(blocks) - 1)
    found, font = [], ImageFont.load_default(size=16)
    for time in range(len(blocks[0])):
        frame, left = Image.new("RGB", (width, height), "white"), 0
        for part, said in zip(blocks, names, strict=True):
            frame.paste(Image.fromarray(part[time]), (left, HEAD))
            ImageDraw.Draw(frame).text((left, 2), said, fill="black", font=font)
            left += part.shape[2] + GAP
        found.append(frame)
    return found


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    runs = parser.parse_args().runs
    first, *rest = frames([block(run) for run in runs], [name(run) for run in runs])
    first.save(DOCS / "samples.webp", save_all=True, append_images=rest, duration=MILLISECONDS, loop=0, quality=85, method=6)


if __name__ == "__main__":
    main()
