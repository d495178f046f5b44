"""Makes docs/samples.png of the samples of a run: three clips of each class, a row each, every second frame.

python benchmarks/picture.py runs/latest
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vidgen.viz import contact_sheet

DOCS = Path(__file__).parent.parent / "docs"
ROWS = 3


def main() -> None:
    """Reads the exact pixels that ``vidgen fit`` keeps, in which the classes take turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    classes = len(list((run / "samples").glob("class-*.png")))
    samples = np.load(run / "samples" / "samples.npy", mmap_mode="r")
    chosen = [samples[label + classes * row] for label in range(classes) for row in range(ROWS)]
    contact_sheet(DOCS / "samples.png", np.stack(chosen), every=2)


if __name__ == "__main__":
    main()
