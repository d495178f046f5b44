"""The part of ``vidgen sample`` that makes videos longer than a window, and that goes on from given ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from vidgen import viz
from vidgen.cli.device import autocast
from vidgen.cli.progress import Stage
from vidgen.cli.stream import Video
from vidgen.data.batches import to_pixels, to_video
from vidgen.errors import UserError
from vidgen.files import replacing
from vidgen.hub import Model
from vidgen.latents import Latent, LatentSpec
from vidgen.rollout import Rollout
from vidgen.samplers.rollout import image, text

COLUMNS = 17
"""Frames of a sample on a contact sheet, at most."""

WIDTH, GRID_WIDTH = 256, 640
"""About how many pixels wide a video that plays is enlarged to, alone and beside others."""

CHUNK = 64
"""About how many frames of a given video are encoded at a time."""


def draw(
    config: dict[str, Any],
    model: Model,
    out: Path,
    told: dict[str, Any],
    *,
    device: torch.device,
    precision: str,
    console: Console,
) -> None:
    """Makes ``config['num']`` videos of ``config['frames']`` frames and writes them as they come, in memory that stays the same.

    Args:
        config: of the command.
        model: what it samples.
        out: the folder for the files.
        told: label, text and the like, and the sampler's options, as :meth:`vidgen.hub.Model.stream` takes them.
        device: where the model is.
        precision: that it runs in.
        console: where progress is shown.

    Raises:
        UserError: where the file to go on from cannot be used, or the generator cannot make the stages.
    """
    spec: LatentSpec = model.tokenizer.spec
    length, *size = config["shape"] or model.config["shape"]
    fps, given = config["fps"], []
    if config["continue"] is not None:
        video = Video({"continue": config["continue"], "size": size, "fps": None}, spec, "continue")
        fps, given = video.fps, _encoded(video, model, device, precision)
    known = sum(latent.num_frames for latent in given)
    frames = known + length if config["frames"] is None else config["frames"]
    if frames <= known:
        raise UserError(f"frames={frames} are no more than the {known} of continue={config['continue']}; ask for more.")
    how = config["rollout"]
    rollout = model.rollout(frames, how["schedule"], how["overlap"], size=(size[0], size[1]), given=given)
    out.mkdir(parents=True, exist_ok=True)
    _show(rollout, out)
    if how["show"]:
        print(text(rollout.stages, rollout.units))
        console.print(f"{len(rollout.stages)} stages, drawn in {out / 'schedule.png'}; # made, o observed", highlight=False)
        return
    rollout.check(model.generator)
    shape = (config["num"], frames, *size, 3)
    with (
        Stage(console, "sampling", config["num"] * frames, unit="frame") as stage,
        replacing(out / "samples.npy") as partial,
        _Pixels(partial, shape) as store,
    ):
        done = 0
        for first in range(0, config["num"], config["batch_size"]):
            count = min(config["batch_size"], config["num"] - first)
            chunks = model.stream(rollout, count, seed=config["seed"], first=first, **told)
            for made in _write(chunks, out, store, first, count, fps, device, precision):
                done += made
                stage.update(done)
    _overview(out, fps)
    console.print(
        f"{shape[0]} videos of {frames} frames in {out}; look at {out / 'grid.mp4'} and {out / 'grid.png'}", highlight=False
    )


def _write(
    chunks: Iterator[Tensor], out: Path, store: _Pixels, first: int, count: int, fps: float, device: torch.device, precision: str
) -> Iterator[int]:
    """Writes the chunks of a batch, each clip to a file of its own; yields how many frames, of all its clips together."""
    place = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(viz.frame_writer(out / f"{first + i:04d}.mp4", fps)) for i in range(count)]
        while True:
            with autocast(device, precision):
                chunk = next(chunks, None)
            if chunk is None:
                return
            pixels = to_pixels(chunk)
            for index, (clip, write) in enumerate(zip(pixels, writers, strict=True)):
                store.write(first + index, place, clip)
                for frame in viz.upscale(clip, max(1, WIDTH // clip.shape[2])):
                    write(frame)
            place += pixels.shape[1]
            yield count * pixels.shape[1]


class _Pixels:
    """A .npy file (videos, frames, H, W, 3) that is written piece by piece."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.begin = self.file.tell()

    def __enter__(self) -> _Pixels:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, video: int, frame: int, pixels: np.ndarray) -> None:
        """Frames (T, H, W, 3) of a video, from ``frame`` on."""
        self.file.seek(self.begin + (video * self.shape[1] + frame) * math.prod(self.shape[2:]))
        self.file.write(np.ascontiguousarray(pixels).data)


def _encoded(video: Video, model: Model, device: torch.device, precision: str) -> list[Latent]:
    """The latents of a video's frames as far as they fill whole cells, and whole clips of pyramids that grow in time."""
    tokenizer = model.tokenizer
    spec: LatentSpec = tokenizer.spec
    count = sum(1 for _ in video)
    first = 1 if spec.causal else 0
    unit = spec.stride[0] * (spec.clip or 1)
    whole = first + (count - first) // unit * unit
    if not whole:
        raise UserError(
            f"continue={video.path} has {count} frames, and a cell of this tokenizer has {unit}; give a longer video."
        )
    coming = islice(video, whole)

    def chunks() -> Iterator[Tensor]:
        while part := list(islice(coming, CHUNK if tokenizer.streams else whole)):
            yield to_video(torch.from_numpy(np.stack(part)[None]).to(device))

    latents = tokenizer.encode_stream(chunks()) if tokenizer.streams else map(tokenizer.encode, chunks())
    found: list[Latent] = []
    while True:
        with autocast(device, precision):
            latent = next(latents, None)
        if latent is None:
            return found
        found.append(latent)


def _show(rollout: Rollout, out: Path) -> None:
    """The schedule as a picture, its stages from top to bottom, its cells from left to right."""
    if rollout.stages:
        Image.fromarray(image(rollout.stages, rollout.units)).save(out / "schedule.png")


def _overview(out: Path, fps: float) -> None:
    """All videos side by side, and some of their frames on a sheet, read again from the exact pixels."""
    pixels = np.load(out / "samples.npy", mmap_mode="r")
    tiles = (viz.grid(pixels[:, place : place + 1])[0] for place in range(pixels.shape[1]))
    scale = max(1, GRID_WIDTH // viz.grid(pixels[:, :1]).shape[2])
    viz.write_frames(out / "grid.mp4", (viz.upscale(tile, scale) for tile in tiles), fps)
    viz.contact_sheet(out / "grid.png", pixels, every=math.ceil(pixels.shape[1] / COLUMNS))
