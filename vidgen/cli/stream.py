"""What ``encode``, ``decode`` and ``reconstruct`` share: long videos in and out, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen import hub
from vidgen.cli.device import autocast, choose_device
from vidgen.data import decode
from vidgen.data.batches import to_pixels, to_video
from vidgen.data.folder.cache import fit
from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Latent, LatentSpec
from vidgen.runs import check_writable
from vidgen.tokenizers.tiling import tiled
from vidgen.training.precision import choose

T = TypeVar("T")
Pixels = NDArray[np.uint8]


class Video:
    """A video file as the commands take it in.

    Args:
        config: of the command: ``input``, ``size`` and ``fps`` are used.
        spec: of the tokenizer that it goes through.
        option: that names the file.

    Attributes:
        height: of its frames as they are given to the tokenizer, as is ``width``.
        fps: its frames a second, converted where ``config`` says so.
        frames: about how many there are, by its header; None where that says nothing.

    Raises:
        UserError: where it is no video, or the tokenizer's stride does not divide its size.
    """

    def __init__(self, config: dict[str, Any], spec: LatentSpec, option: str = "input") -> None:
        self.option, self.path = option, existing_file(config, "a video", option)
        try:
            found, seconds = decode.probe(self.path), decode.duration(self.path)
        except decode.DecodeError as error:
            raise UserError(f"{option}={self.path} cannot be read as a video: {error}.") from error
        self._pixel_aspect, self._convert = found.pixel_aspect, config["fps"]
        own = (found.height, round(found.width * found.pixel_aspect))
        self.height, self.width = _size(config["size"], own, spec)
        if self._convert is None and found.rate is None:
            raise UserError(f"{option}={self.path} states no frame rate; give fps=NUMBER, the frames a second to take from it.")
        self.fps = float(self._convert or found.rate)  # type: ignore[arg-type]
        self.frames = None if seconds is None else max(1, round(seconds * self.fps))

    def __iter__(self) -> Iterator[Pixels]:
        """The frames, uint8 (H, W, 3); a UserError as soon as the file turns out not to decode."""
        try:
            for _, frame in decode.frames(self.path, fps=self._convert):
                yield fit(frame, self.height, self.width, self._pixel_aspect)
        except decode.DecodeError as error:
            raise UserError(f"{self.option}={self.path} does not decode to its end: {error}.") from error


class Codec:
    """A trained tokenizer as the commands use it, in tiles where ``config`` says so.

    Attributes:
        spec: of the tokenizer.
        weights: their hash.

    Raises:
        UserError: where there is no such model or device, or tiles that cannot be.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.device = choose_device(config["accelerator"])
        self.tokenizer = hub.load(config["run"], self.device).tokenizer
        self.spec: LatentSpec = self.tokenizer.spec
        self.weights = hub.weights_hash(self.tokenizer)
        if config["tile"] is not None:
            self.tokenizer = tiled(self.tokenizer, **_tiles(config["tile"], self.spec))
        self.precision = choose(config["precision"], self.device)

    def encode(self, frames: Iterable[Pixels], chunk: int) -> Iterator[Latent]:
        """Latents that follow one another, of ``chunk`` frames uint8 (H, W, 3) at a time (rounded up to whole cells; 0: of all).

        Raises:
            UserError: where the tokenizer cannot go in chunks and is to.
        """
        if chunk and not self.tokenizer.streams:
            raise UserError(
                "This tokenizer does not go through a video in chunks; chunk=0 takes the whole file at once, in memory that "
                "grows with its length."
            )
        chunks = (self._video(part) for part in _parts(frames, self.spec, chunk))
        return self._each(self.tokenizer.encode_stream(chunks) if self.tokenizer.streams else map(self.tokenizer.encode, chunks))

    def decode(self, latents: Iterable[Latent]) -> Iterator[Tensor]:
        """Videos (1, 3, any number of frames, H, W) in [-1, 1] that follow one another."""
        moved = (latent.to(self.device) for latent in latents)
        videos = self.tokenizer.decode_stream(moved) if self.tokenizer.streams else map(self.tokenizer.decode, moved)
        return (video.clamp(-1, 1) for video in self._each(videos))

    def _each(self, items: Iterator[T]) -> Iterator[T]:
        """``items``, made in this precision, which does not reach what is done between them."""
        while True:
            with autocast(self.device, self.precision):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _video(self, frames: list[Pixels]) -> Tensor:
        return to_video(torch.from_numpy(np.stack(frames)[None]).to(self.device))


def pixels(videos: Iterable[Tensor]) -> Iterator[Pixels]:
    """The frames of videos of one clip each, uint8 (H, W, 3)."""
    return chain.from_iterable(to_pixels(video)[0] for video in videos)


def existing_file(config: dict[str, Any], what: str, option: str = "input") -> Path:
    """The file that ``option`` names.

    Raises:
        UserError: where it is not given or there is none.
    """
    if config[option] is None:
        raise UserError(f"{option} is missing: give {option}=FILE, {what}.")
    path = Path(config[option])
    if path.is_dir():
        raise UserError(f"{option}={path} is a folder; give {option}=FILE, {what}.")
    if not path.is_file():
        beside = [str(path.with_name(file.name)) for file in path.parent.glob("*") if file.is_file()]
        raise UserError(f"There is no file {option}={path}.{did_you_mean(str(path), beside)} Give {option}=FILE, {what}.")
    return path


def new_file(config: dict[str, Any], ending: str) -> Path:
    """The file ``out``, or one called like ``input`` with another ``ending``, here.

    Raises:
        UserError: where it is the input itself, or cannot be written.
    """
    source = Path(config["input"])
    out = Path(config["out"] or f"{source.stem}{ending}")
    if out.exists() and (out.is_dir() or out.samefile(source)):
        which = "a folder" if out.is_dir() else "the input"
        raise UserError(f"out={out} is {which}; give out=FILE, another name, such as out={source.stem}-new{ending}.")
    check_writable(out.parent, "out")
    return out


def _size(wanted: list[int] | None, own: tuple[int, int], spec: LatentSpec) -> tuple[int, int]:
    """``wanted``, else the file's ``own`` height and width; the stride must divide them."""
    height, width = own if wanted is None else _pair(wanted)
    strides = spec.stride[1:]
    if height % strides[0] or width % strides[1]:
        below = [max(1, size // stride) * stride for size, stride in zip((height, width), strides, strict=True)]
        above = [-(-size // stride) * stride for size, stride in zip((height, width), strides, strict=True)]
        nearest = " or ".join(f"size={size}".replace(" ", "") for size in ([below, above] if below != above else [above]))
        raise UserError(
            f"Frames of {height}x{width} are not a multiple of the tokenizer's stride {strides[0]}x{strides[1]}; give {nearest}, "
            "to which they are resized and cropped."
        )
    return height, width


def _tiles(tile: list[int], spec: LatentSpec) -> dict[str, Any]:
    """Tiles of that height and width as :func:`tiled` takes them: they overlap by a quarter, of which a quarter is thrown away.

    Raises:
        UserError: where they are no multiples of the stride.
    """
    height, width = spec.stride[1:]
    if len(tile) != 2 or min(tile) < 1 or tile[0] % height or tile[1] % width:
        raise UserError(
            f"tile={tile} is not [height,width] in multiples of the tokenizer's stride {height}x{width}; give such as "
            f"tile=[{32 * height},{32 * width}]."
        )
    cells = tile[0] // height, tile[1] // width
    overlap = min(cells) // 4
    return {"tile": cells, "overlap": overlap, "halo": overlap // 4}


def _pair(size: list[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"size={size} is not [height,width] of at least 1 each; leave it out for the size of the file.")
    return size[0], size[1]


def _parts(frames: Iterable[Pixels], spec: LatentSpec, chunk: int) -> Iterator[list[Pixels]]:
    """``frames`` in parts that fill whole cells, and whole clips of pyramids that grow in time, but for the last."""
    coming = iter(frames)
    unit = spec.stride[0] * (spec.clip or 1)
    step = -(-chunk // unit) * unit or None
    size = step and step + spec.causal
    while part := list(islice(coming, size)):
        yield part
        size = step
