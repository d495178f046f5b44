"""A synthetic run folder, as ``vidgen fit`` leaves it, with everything that a report can show."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vidgen.evaluation.rows import Row, append
from vidgen.viz import contact_sheet, grid, write_mp4

FAMILIES = ("bounce", "gravity", "agent")
COLOURS = ((214, 69, 65), (58, 134, 196), (86, 158, 84), (232, 164, 58), (138, 92, 172), (70, 176, 176))

CONFIG = """\
command: vidgen fit tokenizer=lfq generator=dit data.size=32 seed=0
route: 'dit x lfq: analog bits, sign at decode'
words: >-
  An LFQ tokenizer of 10 bits a cell was trained for 2,400 steps on clips of one moving object, 17 frames of 32x32 pixels;
  then a DiT was trained for 3,000 steps to draw its codes, and asked for 256 new clips.
tokenizer:
  name: lfq
  backbone: {name: causal3d, stride: [4, 4, 4], width: 128}
  quantizer: {name: lfq, bits: 10, entropy_weight: 0.01}
generator: {name: dit, depth: 6, width: 256}
data: {name: worlds, frames: 17, size: 32, objects: 1}
trainer: {tokenizer_steps: 2400, generator_steps: 3000, batch: 16}
"""

ENVIRONMENT = {
    "versions": {"python": "3.11.9", "torch": "2.15.0", "lightning": "2.6.6", "vidgen": "0.1.0"},
    "commit": "0123abcd",
    "hardware": {"cpu": "2 cores", "memory_gib": 8, "accelerator": "none"},
    "precision": "bf16-mixed",
    "seeds": {"run": 20261121, "samples": 7},
    "timings": {"tokenizer": 331.0, "latents": 9.4, "generator": 412.0, "sampling": 61.0, "evaluation": 17.5},
    "peak_memory_gib": 1.834,
    "parameters": {"tokenizer": 2_140_312, "generator": 7_402_880},
    "flops": {"tokenizer_per_clip": 1.31e9, "generator_per_step": 0.62e9},
    "throughput": {"tokenizer_clips_per_second": 131.2, "samples_per_second": 4.2},
}


def discs(num: int, frames: int = 17, size: int = 32, *, blur: float = 1.0, seed: int = 0) -> np.ndarray:
    """uint8 (num, T, H, W, 3): a soft-edged disc each, bouncing on a grey ground."""
    rng = np.random.default_rng(seed)
    clips = np.empty((num, frames, size, size, 3), np.uint8)
    y, x = np.mgrid[0:size, 0:size]
    for clip in clips:
        radius = rng.uniform(4, 6)
        place, speed = rng.uniform(radius, size - radius, 2), rng.uniform(-2, 2, 2)
        colour = np.array(COLOURS[rng.integers(len(COLOURS))], float)
        for frame in clip:
            alpha = np.clip((radius - np.hypot(y - place[0], x - place[1])) / blur + 0.5, 0, 1)[..., None]
            frame[:] = (200 * (1 - alpha) + colour * alpha).round()
            place = place + speed
            speed = np.where((place < radius) | (place > size - radius), -speed, speed)
    return clips


def film(folder: Path, name: str, clips: np.ndarray, columns: int, **sidecar: object) -> None:
    write_mp4(folder / f"{name}.mp4", grid(clips, columns=columns), scale=2)
    contact_sheet(folder / f"{name}.png", clips[:4], every=2)
    (folder / f"{name}.json").write_text(json.dumps(sidecar))


def curves() -> list[Row]:
    rng = np.random.default_rng(0)
    rows = []

    def curve(stage: str, split: str, name: str, value: float, step: int) -> None:
        seconds = step / 7 + (340 if stage == "generator" else 0)
        rows.append(Row(stage=stage, split=split, step=step, seconds=seconds, name=name, value=float(value)))

    for step in range(10, 2401, 10):
        decay = math.exp(-step / 300)
        curve("tokenizer", "train", "loss/total", (0.006 + 0.4 * decay) * rng.lognormal(0, 0.12), step)
        curve("tokenizer", "train", "loss/reconstruction", (0.005 + 0.3 * decay) * rng.lognormal(0, 0.1), step)
        curve("tokenizer", "train", "loss/entropy", -0.2 + 0.6 * decay + 0.02 * rng.normal(), step)
        curve("tokenizer", "train", "lr", 2e-3 * min(step / 100, 1) * (1 - step / 2600), step)
        if step % 300 == 0:
            curve("tokenizer", "val", "loss/total", 0.0072 + 0.4 * decay, step)
            curve("tokenizer", "val", "reconstruction/psnr", 31.9 - 14 * decay, step)
            curve("tokenizer", "val", "codebook/usage", 0.97 - 0.9 * decay, step)
    for step in range(10, 3001, 10):
        noisy = (0.16 + 0.8 * math.exp(-step / 250)) * rng.lognormal(0, 0.08)
        curve("generator", "train", "loss/total", math.nan if step == 500 else noisy, step)
        if step % 500 == 0:
            curve("generator", "val", "loss/total", 0.17 + 0.8 * math.exp(-step / 250), step)
    return rows


def results() -> list[Row]:
    found = {
        "reconstruction/psnr": (31.64, 512, (31.42, 31.86), "mean per-frame PSNR"),
        "reconstruction/psnr_objects": (22.87, 512, (22.6, 23.14), "pixels off the ground"),
        "baseline/psnr_blank": (16.9, 512, None, None),
        "reconstruction/ssim": (0.9712, 512, (0.9691, 0.9733), "Gaussian 11x11, valid"),
        "codebook/usage": (0.9502, None, None, "163,840 tokens"),
        "codebook/perplexity": (312.4, None, None, "163,840 tokens"),
        "tokenizer/bits_per_pixel": (0.1838, None, None, None),
        "originals/appearance_legal": (1.0, 256, (0.985, 1.0), "worlds judge"),
        "reconstruction/appearance_legal": (0.9883, 256, (0.966, 0.996), "worlds judge"),
        "samples/appearance_legal": (0.8594, 256, (0.811, 0.897), "worlds judge"),
        "originals/law_legal": (1.0, 256, (0.985, 1.0), "worlds judge"),
        "reconstruction/law_legal": (0.9766, 256, (0.95, 0.989), "worlds judge"),
        "samples/law_legal": (0.8125, 256, (0.76, 0.856), "worlds judge"),
        "samples/law_legal/gravity": (0.7412, 85, (0.639, 0.823), "worlds judge"),
        "originals/law_residual": (0.042, 256, (0.04, 0.044), None),
        "reconstruction/law_residual": (0.11, 256, (0.1, 0.12), None),
        "samples/law_residual": (0.264, 256, (0.22, 0.31), None),
        "originals/travel": (18.2, 256, None, None),
        "reconstruction/travel": (18.1, 256, None, None),
        "samples/travel": (17.4, 256, None, None),
    }
    return [
        Row(
            stage="evaluation",
            split="test",
            step=3000,
            seconds=830.9,
            name=name,
            value=value,
            protocol=protocol,
            n=n,
            interval=interval,
        )
        for name, (value, n, interval, protocol) in found.items()
    ]


def write_run(run: Path) -> Path:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG)
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    append(run / "metrics.jsonl", [*curves(), *results()])
    used = [round(6000 * math.exp(-i / 210)) + 1 for i in range(973)]
    (run / "codebook.json").write_text(json.dumps({"counts_sorted": used, "vocab_size": 1024}))

    pairs = np.stack([discs(8), discs(8, blur=2.5)]).reshape(16, 17, 32, 32, 3)
    caption = "Above eight clips of the test split, below what the tokenizer makes of them."
    title = "Originals above, reconstructions below"
    film(run / "reconstructions", "test", pairs, 8, title=title, caption=caption, kind="pairs", order=0)
    for order, family in enumerate(FAMILIES):
        film(run / "samples", family, discs(9, blur=1.5, seed=order + 1), 3, title=family, kind="class", order=order)
    for order, step in enumerate((500, 750, 3000)):
        clips = discs(6, blur=6 - 2 * order, seed=9)
        moment = {"kind": "preview", "order": order, "stage": "generator", "step": step}
        film(run / "samples", f"preview_{step}", clips, 3, title="Six seeds", **moment)
    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: a test that changes a run copies it first."""
    return write_run(tmp_path_factory.mktemp("runs") / "2026-11-21-lfq-dit")
