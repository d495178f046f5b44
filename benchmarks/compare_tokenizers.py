"""Compares tokenizers at equal clips, steps and recipe of the backbone, into ``benchmarks/results/tokenizers.jsonl``.

    python benchmarks/compare_tokenizers.py --footage VIDEOS      trains and measures what is not there yet
    python benchmarks/compare_tokenizers.py --dry-run             says what it would do

Another stride has another number of weights. Beside them stands H.264 at equal rates. Every cell is a run of ``vidgen fit
stage=tokenizer`` on 64x64 clips, resumable like any other, and is then measured further: what becomes of small objects and of
motion below a pixel, and what a linear probe reads from the frozen latents. Without ``--footage`` the rows on real footage are
left out. Steps a second are read once each, under whatever load the machine has then: they compare nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collect import RESULTS, collect
from records import Origin, Record, append, read
from torch import Tensor

from vidgen import hub
from vidgen.data.batches import eval_batches, to_pixels, to_video
from vidgen.data.folder import Folder
from vidgen.data.worlds import Worlds
from vidgen.data.worlds.parse import parse
from vidgen.errors import UserError
from vidgen.evaluation.rows import Row
from vidgen.protocols import Data
from vidgen.runs import environment

PATH = RESULTS / "tokenizers.jsonl"
STEPS = {"worlds": 600, "footage": 400}
BATCH, SIZE, CLIPS, BATCHED = 4, 64, 64, 16
RADIUS, SMALL, SPEED = (4.0, 12.0), (4.0, 5.0), (2.0, 4.0)
"""Radii of the objects that are trained on, and of those whose survival is measured, in pixels, and speeds in pixels a frame:
the default world's at twice its size. With smaller objects all tokenizers saw nothing but the ground after as many steps."""

PROBED, HELD = 384, 192
"""Clips that probes are fitted on, and clips that they are scored on."""

CRFS = range(0, 52, 3)
"""From the finest, so that most tokenizers' rates have H.264 on both sides of them."""

QUANTIZERS = ("kl", "vq", "simvq", "gumbel", "fsq", "lfq", "bsq", "residual", "pyramid")
STRIDES = ((4, 8, 8), (8, 8, 8), (4, 16, 16))


@dataclass(frozen=True)
class Cell:
    """One run: a tokenizer's recipe with changes, on ``worlds`` or on ``footage``."""

    name: str
    tokenizer: str
    data: str
    changes: tuple[str, ...] = ()


def cells() -> Iterator[Cell]:
    """All quantizers at the default stride, then the other strides with one of them, on both kinds of data."""
    for data in ("worlds", "footage"):
        for name in QUANTIZERS:
            yield Cell(name, name, data)
        for stride in STRIDES:
            text = "x".join(map(str, stride))
            yield Cell(f"lfq {text}", "lfq", data, (f"tokenizer.backbone.patch=[{','.join(map(str, stride))}]",))


def command(cell: Cell, runs: Path, footage: Path | None) -> list[str]:
    """What is typed for a cell."""
    size = [f"data.height={SIZE}", f"data.width={SIZE}"]
    if cell.data == "worlds":
        data = ["data=worlds", f"data.radius=[{RADIUS[0]},{RADIUS[1]}]", f"data.speed=[{SPEED[0]},{SPEED[1]}]", *size]
    else:
        data = ["data=folder", f"data.path={footage}", f"data.cache={runs / 'cache'}", *size]
    budget = [
        f"tokenizer.training.steps={STEPS[cell.data]}",
        f"tokenizer.training.batch_size={BATCH}",
        f"evaluation.clips={CLIPS}",
    ]
    return ["fit", "stage=tokenizer", f"tokenizer={cell.tokenizer}", *data, *cell.changes, *budget, f"runs={runs}"]


# Measures beyond those of every run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """Clips with what a frozen tokenizer makes of them."""

    z: Tensor
    pixels: np.ndarray
    back: np.ndarray
    labels: np.ndarray
    states: np.ndarray


@torch.no_grad()
def encoded(tokenizer: Any, data: Worlds, split: str, count: int) -> Encoded:
    """``count`` clips of a world, encoded and decoded."""
    latents, pixels, back, labels, states = [], [], [], [], []
    for begin in range(0, count, BATCHED):
        clips = [data.clip(split, index) for index in range(begin, min(begin + BATCHED, count))]
        batch = np.stack([clip["video"] for clip in clips])
        latent = tokenizer.encode(to_video(torch.from_numpy(batch)))
        latents.append(latent.z.float())
        pixels.append(batch)
        back.append(to_pixels(tokenizer.decode(latent).clamp(-1, 1)))
        labels += [clip["label"] for clip in clips]
        states += [clip["states"] for clip in clips]
    return Encoded(torch.cat(latents), np.concatenate(pixels), np.concatenate(back), np.array(labels), np.stack(states))


def motion(found: Encoded, data: Worlds) -> tuple[float, float]:
    """Of one object a clip: the share of frames in which it is found within 1 px of its place, and the error of its motion.

    The motion error is the root mean square of the change of place from frame to frame less that of the original, in pixels, over
    the pairs of frames in which both are found.
    """
    again, first = parse(found.back, data.recipe), parse(found.pixels, data.recipe)
    off = np.linalg.norm(again.position - first.position, axis=-1)
    there = np.nan_to_num(off, nan=np.inf) < 1
    error = np.diff(again.position - first.position, axis=1)[there[:, 1:] & there[:, :-1]]
    return float(there.mean()), float(np.sqrt(np.square(error).sum(-1).mean())) if len(error) else float("nan")


def probes(train: Encoded, test: Encoded) -> dict[str, float]:
    """What ridge regression reads from the frozen latents of unseen clips: the label's accuracy, R2 of place and of velocity.

    The label is read from the clip's whole latent, place and velocity of the object from each cell's; frames belong to the cell
    that their pixels are coded in, of which the last is taken.
    """
    frames, cells = train.states.shape[1], train.z.shape[2]
    last = [round(cell * (frames - 1) / (cells - 1)) for cell in range(cells)]
    one_hot = np.eye(train.labels.max() + 1)[train.labels] * 2 - 1
    guess = _ridge(_rows(train.z, whole=True), one_hot, _rows(test.z, whole=True))
    found = {"label_accuracy": float((guess.argmax(1) == test.labels).mean())}
    for name, columns in (("position_r2", slice(0, 2)), ("velocity_r2", slice(2, 4))):
        ours, theirs = (part.states[:, last, 0, columns].reshape(-1, 2) for part in (train, test))
        guess = _ridge(_rows(train.z, whole=False), ours, _rows(test.z, whole=False))
        found[name] = float(1 - np.square(guess - theirs).sum() / np.square(theirs - ours.mean(0)).sum())
    return found


def _rows(z: Tensor, *, whole: bool) -> Tensor:
    """(B, D, t, h, w) as features of clips, or of each of their cells in time."""
    return (z.flatten(1) if whole else z.movedim(2, 1).flatten(2).flatten(0, 1)).double()


PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of ridge regression, as shares of the mean length of a row; the one is taken that does best on the last fifth of the rows."""


def _ridge(x: Tensor, y: np.ndarray, at: Tensor, penalties: Sequence[float] = PENALTIES) -> np.ndarray:
    """Dual ridge regression of ``y`` (n, k) by ``x`` (n, d), and its values ``at`` other rows."""
    target = torch.from_numpy(np.asarray(y, dtype=np.float64))
    first = len(x) * 4 // 5
    errors = [
        float((_fitted(x[:first], target[:first], x[first:], penalty) - target[first:]).square().sum()) for penalty in penalties
    ]
    return _fitted(x, target, at, penalties[int(np.argmin(errors))]).numpy()


def _fitted(x: Tensor, y: Tensor, at: Tensor, penalty: float) -> Tensor:
    mean, target = x.mean(0), y.mean(0)
    x, at = x - mean, at - mean
    kernel = x @ x.T
    kernel.diagonal().add_(penalty * kernel.diagonal().mean())
    return at @ x.T @ torch.linalg.solve(kernel, y - target) + target


# H.264 --------------------------------------------------------------------------------------------------------------------


def h264(clip: np.ndarray, crf: int, *, preset: str = "veryslow", rate: int = 25) -> tuple[int, np.ndarray]:
    """A clip through x264: the bytes of its elementary stream, without the encoder's own remarks, and what comes back."""
    import av

    frames, height, width, _ = clip.shape
    coder = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = width, height, "yuv420p", Fraction(1, rate)
    # The macroblock tree reads beyond small frames: with it the same clip would not always come back the same.
    coder.options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
    packets = [
        packet for frame in clip for packet in coder.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24"))
    ]
    stream = b"".join(bytes(packet) for packet in [*packets, *coder.encode(None)])
    decoder = av.CodecContext.create("h264", "r")
    pictures = [picture for packet in decoder.parse(stream) + decoder.parse(b"") for picture in decoder.decode(packet)]
    back = np.stack([picture.to_ndarray(format="rgb24") for picture in [*pictures, *decoder.decode(None)]])
    assert len(back) == frames
    return sum(len(unit) for unit in _units(stream)), back


def _units(stream: bytes) -> list[bytes]:
    """The units of an elementary stream with their start codes, but for supplemental information (type 6)."""
    parts = stream.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")[1:]
    return [b"\x00\x00\x01" + part for part in parts if part[0] & 31 != 6]


def h264_point(data: Data, split: str, crf: int) -> tuple[float, float]:
    """Bits per pixel and the mean PSNR per frame over the test clips."""
    clips = [clip for batch in eval_batches(data, split, CLIPS, BATCHED) for clip in batch["video"].numpy()]
    size, values = 0, []
    for clip in clips:
        spent, back = h264(clip, crf)
        size += spent
        error = np.square((back.astype(np.float64) - clip) / 255).mean(axis=(1, 2, 3))
        values.append(float((-10 * np.log10(np.maximum(error, 1e-10))).mean()))
    return 8 * size / (len(clips) * clips[0][..., 0].size), float(np.mean(values))


# Running ------------------------------------------------------------------------------------------------------------------


def run_cell(cell: Cell, runs: Path, footage: Path | None) -> list[Record]:
    """Trains a cell's tokenizer, unless it is trained already, and measures it."""
    folder = runs / f"{cell.data}-{cell.name.replace(' ', '-')}"
    done = folder / "latest"
    if not (done / "state.json").exists() or json.loads((done / "state.json").read_text())["status"] != "finished":
        subprocess.run([sys.executable, "-m", "vidgen", *command(cell, folder, footage)], check=True)
    base = collect(done.resolve())
    origin = replace(base[0].origin, tokenizer=cell.name)
    records = [Record(origin=origin, row=record.row) for record in base]
    model = hub.load(done)
    data = world() if cell.data == "worlds" else footage_data(footage, runs)
    spent = json.loads((done / "environment.json").read_text())["throughput"]["tokenizer training clips/s"]

    def row(name: str, value: float, protocol: str, n: int) -> Record:
        last = base[0].row
        made = Row(stage="evaluation", split="test", step=last.step, seconds=last.seconds, name=name, value=value)
        return Record(origin=origin, row=replace(made, protocol=protocol, n=n))

    records.append(
        row("tokenizer/steps_per_second", spent / BATCH, f"batches of {BATCH}, with validation and previews", STEPS[cell.data])
    )
    if model.tokenizer.spec.levels is None:
        cells_per_pixel = model.tokenizer.spec.num_tokens(data.shape) / np.prod(data.shape)
        stored = 16 * model.tokenizer.spec.channels * float(cells_per_pixel)
        records.append(row("tokenizer/stored_bits_per_pixel", stored, "16 bits a channel", CLIPS))
    if isinstance(data, Worlds):
        records += [row(name, value, rule, n) for name, value, rule, n in of_worlds(model.tokenizer, data)]
    return records


def of_worlds(tokenizer: Any, data: Worlds) -> Iterator[tuple[str, float, str, int]]:
    """What only a world can tell: small objects, motion, probes."""
    small = world(SMALL)
    survival, _ = motion(encoded(tokenizer, small, "test", CLIPS), small)
    yield "reconstruction/small_objects", survival, f"found within 1 px; radius {SMALL[0]} to {SMALL[1]} px", CLIPS
    train, test = encoded(tokenizer, data, "train", PROBED), encoded(tokenizer, data, "test", HELD)
    yield "reconstruction/motion_error", motion(test, data)[1], "px RMS of the change from frame to frame", HELD
    for name, value in probes(train, test).items():
        yield f"probe/{name}", value, f"ridge regression on the latents of {PROBED} clips", HELD


def world(radius: Sequence[float] = RADIUS) -> Worlds:
    """The world of the cells, or one like it with other radii."""
    return Worlds(height=SIZE, width=SIZE, radius=radius, speed=SPEED)


def footage_data(path: Path | None, runs: Path) -> Folder:
    """The clips of real footage."""
    return Folder(path=str(path), height=SIZE, width=SIZE, cache=str(runs / "cache"))


def codec(name: str, data: Data, crf: int) -> list[Record]:
    """H.264's rows at one quality."""
    found = environment()
    rate, psnr = h264_point(data, "test", crf)
    origin = Origin(
        run=f"h264-{name}-{crf}",
        command=f"x264 --preset veryslow --no-mbtree --crf {crf}",
        tokenizer=f"H.264, crf {crf}",
        generator=None,
        data=name,
        config="h264",
        seed=0,
        precision="8 bit",
        hardware=found["hardware"],
        versions=found["versions"],
        commit=found["commit"],
    )
    records = []
    for measure, value in (("tokenizer/bits_per_pixel", rate), ("reconstruction/psnr", psnr)):
        rule = "elementary stream, each clip by itself" if "bits" in measure else "mean over frames, RGB"
        made = Row(stage="evaluation", split="test", step=0, seconds=0.0, name=measure, value=value)
        records.append(Record(origin=origin, row=replace(made, protocol=rule, n=CLIPS)))
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing; returns 1 where a cell failed, which is said at the end, and 2 after a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="Then: python benchmarks/render.py")
    parser.add_argument("--footage", type=Path, help="a folder of videos for the rows on real footage")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-tokenizers"), help="where the runs are kept")
    parser.add_argument("--only", nargs="*", help="names of cells, such as lfq or 'lfq 4x8x8'")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    given = parser.parse_args(arguments)
    if given.footage is not None and not given.footage.is_dir():
        print(f"compare_tokenizers: there is no folder {given.footage}.", file=sys.stderr)
        return 2
    known = {(record.origin.data, record.origin.tokenizer) for record in read(PATH)}
    failed: list[str] = []

    def do(label: str, key: tuple[str, str], work: Callable[[], list[Record]]) -> None:
        if key in known:
            print(f"{label}: there already")
        elif given.dry_run:
            print(f"{label}: would be run")
        else:
            try:
                append(PATH, work())
                print(f"{label}: done", flush=True)
            except (UserError, subprocess.CalledProcessError) as error:
                failed.append(f"{label}: {error}")

    for cell in cells():
        if (given.only and cell.name not in given.only) or (cell.data == "footage" and given.footage is None):
            continue
        place = "worlds" if cell.data == "worlds" else "folder"
        do(f"{cell.name} on {cell.data}", (place, cell.name), lambda cell=cell: run_cell(cell, given.runs, given.footage))
    for name, data in (("worlds", world), ("folder", lambda: footage_data(given.footage, given.runs))):
        if (name == "folder" and given.footage is None) or (given.only and "h264" not in given.only):
            continue
        for crf in CRFS:
            key = name, f"H.264, crf {crf}"
            do(f"{key[1]} on {name}", key, lambda name=name, data=data, crf=crf: codec(name, data(), crf))
    print("\n".join(["", *failed] if failed else ["Then: python benchmarks/render.py"]))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
