"""Measures what tiles cost: frames too large for training, coded in tiles and whole, into ``benchmarks/results/tiling.jsonl``.

    python benchmarks/tiling.py                 trains a tokenizer for each backbone, where it is not there yet, and measures
    python benchmarks/tiling.py --only causal3d
    python benchmarks/tiling.py --dry-run       says what is left to do

Each tokenizer is that of ``vidgen fit stage=tokenizer tokenizer=lfq`` with another backbone, trained on the default world for
equally many steps, and then meets frames of four times its sides with eight objects of the same sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidgen import hub
from vidgen.data.batches import eval_batches, to_video
from vidgen.data.worlds import Worlds
from vidgen.runs import environment
from vidgen.tokenizers.tiling import seam_error, tiled

RESULTS = Path(__file__).parent / "results" / "tiling.jsonl"
BACKBONES = ("causal3d", "axial", "vit")
STEPS, CLIPS, FRAMES, SIZE, OBJECTS = 600, 8, 9, 128, 8
TILE = (16, 16)
"""Rows and columns of cells: a quarter of the frame, and four times what was trained on."""

OVERLAPS = ((0, 0), (4, 0), (8, 0), (4, 2), (8, 2), (8, 4))
"""Cells that tiles share, and how many of these are thrown away at each tile's edge."""


@dataclass(frozen=True)
class Seam:
    """What tiles of one kind cost one tokenizer.

    Attributes:
        backbone: its name.
        overlap: cells that neighbouring tiles share.
        halo: of those, how many are thrown away at each tile's edge.
        ids: the share of ids that differ from those of the whole frame.
        decode_mean: the mean difference of the pixels that are decoded from the whole frame's latent, in 255ths.
        decode_max: the greatest.
        psnr: of what was encoded and decoded in tiles, in dB.
        psnr_whole: of what was encoded and decoded whole.
    """

    backbone: str
    overlap: int
    halo: int
    ids: float
    decode_mean: float
    decode_max: float
    psnr: float
    psnr_whole: float


def trained(backbone: str, runs: Path) -> Any:
    """The tokenizer with that backbone, from its run, which is made where it is missing."""
    folder = runs / backbone
    done = folder / "latest" / "state.json"
    if not done.exists() or json.loads(done.read_text())["status"] != "finished":
        words = ["fit", "stage=tokenizer", "tokenizer=lfq", f"tokenizer/backbone={backbone}", f"tokenizer.training.steps={STEPS}"]
        subprocess.run([sys.executable, "-m", "vidgen", *words, f"runs={folder}"], check=True)
    return hub.load(folder / "latest").tokenizer.eval()


def large() -> Tensor:
    """Clips (B, C, T, H, W) of frames that are tiled."""
    data = Worlds(frames=FRAMES, height=SIZE, width=SIZE, objects=OBJECTS, families=["bounce"])
    return torch.cat([to_video(batch["video"]) for batch in eval_batches(data, "test", CLIPS, CLIPS)])


def psnr(a: Tensor, b: Tensor) -> float:
    """Of all pixels together, in dB."""
    return float(-10 * ((a - b) / 2).square().mean().log10())


@torch.no_grad()
def seams(backbone: str, tokenizer: Any, video: Tensor) -> Iterator[Seam]:
    """A row for each way of overlapping."""
    whole = tokenizer.encode(video)
    again = tokenizer.decode(whole).clamp(-1, 1)
    for overlap, halo in OVERLAPS:
        tiles = {"tile": TILE, "overlap": overlap, "halo": halo}
        view = tiled(tokenizer, **tiles)
        latent, error = view.encode(video), seam_error(tokenizer, video, **tiles)
        yield Seam(
            backbone=backbone,
            overlap=overlap,
            halo=halo,
            ids=float((latent.ids != whole.ids).any(-1).double().mean()),
            decode_mean=127.5 * error.decode_mean,
            decode_max=127.5 * error.decode_max,
            psnr=psnr(view.decode(latent).clamp(-1, 1), video),
            psnr_whole=psnr(again, video),
        )


def rows() -> list[dict[str, Any]]:
    """What has been measured: of each backbone the last."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return list({(row["backbone"], row["overlap"], row["halo"]): row for row in map(json.loads, lines)}.values())


def table() -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of all rows."""
    head = ["Backbone", "Overlap, cells", "Halo, cells", "Ids changed, %", "Seam, mean of 255", "Seam, most of 255"]
    return [*head, "PSNR in tiles, dB", "PSNR whole, dB"], [_row(row) for row in rows()]


def _row(row: dict[str, Any]) -> list[str]:
    off = (f"{value:.3g}" for value in (100 * row["ids"], row["decode_mean"], row["decode_max"]))
    return [f"`{row['backbone']}`", f"{row['overlap']}", f"{row['halo']}", *off, f"{row['psnr']:.2f}", f"{row['psnr_whole']:.2f}"]


def main(words: Sequence[str] | None = None) -> int:
    """Trains and measures what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="Then: python benchmarks/render.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-tiling"), help="where the tokenizers are kept")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, help="these backbones, whether they are there or not")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to run, and run nothing")
    given = parser.parse_args(words)
    known = {row["backbone"] for row in rows()}
    wanted = given.only or [backbone for backbone in BACKBONES if backbone not in known]
    if given.dry_run:
        print("\n".join(wanted))
        return 0
    for backbone in wanted:
        found = list(seams(backbone, trained(backbone, given.runs), large()))
        with RESULTS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**asdict(seam), **environment()}) + "\n" for seam in found)
        print(f"{backbone}: done", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
