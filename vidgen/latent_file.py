"""The latents of a video of any length in one file: written as they come, read likewise, in memory that stays the same.

It is an ordinary safetensors file of one tensor, so that any reader of those opens it:

- ``ids``, uint8 (bytes,), of discrete latents: the parts in which they were encoded one after another, each as
  :func:`vidgen.training.cache.pack_ids` packs it, from a byte of its own on;
- ``h``, bfloat16 (t, C, h, w), of continuous latents: what diffusion models learn, standardised.

Its metadata says the rest: the tokenizer's spec and the hash of its weights, the size, length and rate of the video, and how many
cells each part has, as ``[cells, how often]`` pairs. The file appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidgen.errors import UserError, first_line
from vidgen.files import replacing
from vidgen.latents import Latent, LatentSpec, Shape
from vidgen.training.cache import bits_of, pack_ids, unpack_ids

FORMAT = 1

HEADER = 2**14
"""Bytes kept free for the header, which is known last and comes first."""


def stored(latent: Latent) -> Latent:
    """What a file keeps of a latent, from which the rest follows: its ids, else ``h`` rounded to bfloat16 (in float32)."""
    if latent.ids is not None:
        return replace(latent, z=None, h=None, logvar=None)
    assert latent.h is not None
    return replace(latent, z=None, h=latent.h.bfloat16().float(), logvar=None)


def packed(latent: Latent) -> bytes:
    """The bytes that a file keeps of a latent of one video."""
    if len(latent) != 1:
        raise ValueError(f"A file holds the latents of one video, and these are of {len(latent)}.")
    if latent.ids is not None:
        return pack_ids(latent.ids.cpu().numpy(), latent.spec.levels or ()).tobytes()
    assert latent.h is not None
    return latent.h[0].movedim(1, 0).bfloat16().contiguous().view(torch.int16).cpu().numpy().tobytes()


def write(path: str | os.PathLike[str], latents: Iterable[Latent], *, weights: str, fps: float) -> int:
    """Writes the latents of one video, which follow one another from cell 0 on.

    Args:
        path: where the file goes; its folder is made when absent.
        latents: one or more, each of a batch of 1. They are not kept.
        weights: :func:`vidgen.hub.weights_hash` of the tokenizer.
        fps: frames a second of the video.

    Returns:
        the bytes of all latents.

    Raises:
        OSError: when the file cannot be written.
    """
    parts, total, frames = _Runs(), 0, 0
    with replacing(path) as partial, partial.open("wb") as file:
        file.seek(8 + HEADER)
        for latent in latents:
            total += file.write(packed(latent))
            frames += latent.num_frames
            parts.add(latent.spec.cells(latent.num_frames, latent.start))
        file.seek(0)
        _, height, width = latent.grids[-1]
        about = {
            "format": FORMAT,
            "spec": latent.spec.to_dict(),
            "weights": weights,
            "frames": frames,
            "size": [height * latent.spec.stride[1], width * latent.spec.stride[2]],
            "fps": fps,
            "parts": parts.runs,
        }
        tensor = {"dtype": "U8", "shape": [total]}
        if latent.ids is None:
            assert latent.h is not None
            tensor = {"dtype": "BF16", "shape": [parts.total, *latent.h.shape[1:2], height, width]}
        metadata = {name: json.dumps(value) for name, value in about.items()}
        name = "h" if latent.ids is None else "ids"
        header = json.dumps({"__metadata__": metadata, name: {**tensor, "data_offsets": [0, total]}}).encode()
        if len(header) > HEADER:
            raise ValueError(f"The header takes {len(header)} bytes of the {HEADER} that are kept for it.")
        file.write(HEADER.to_bytes(8, "little") + header.ljust(HEADER))
    return total


class LatentFile:
    """The latents in a file that :func:`write` wrote, read as they are wanted: iterating gives them in the parts they came in.

    Args:
        path: the file.

    Attributes:
        spec: of the tokenizer that encoded them.
        shape: (T, H, W) of the video.
        fps: its frames a second.
        weights: the hash of that tokenizer.

    Raises:
        UserError: where it is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file = safe_open(path, "pt")
            about = {name: json.loads(value) for name, value in (self._file.metadata() or {}).items()}
            if about["format"] != FORMAT:
                raise UserError(f"'{path}' has format {about['format']}, and this version of vidgen reads format {FORMAT}.")
            self.spec = LatentSpec.from_dict(about["spec"])
            self.shape: Shape = (about["frames"], *about["size"])
            self.fps: float = about["fps"]
            self.weights: str = about["weights"]
            self._parts: list[tuple[int, int]] = about["parts"]
            self._values = self._file.get_slice("h" if self.spec.levels is None else "ids")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{path}' is no file of latents, such as 'vidgen encode' writes: {first_line(error)}.") from error

    def __iter__(self) -> Iterator[Latent]:
        left, start, place = self.shape[0], 0, 0
        for cells in (cells for cells, times in self._parts for _ in range(times)):
            frames = min(left, self.spec.frames(cells, start))
            shape = (frames, *self.shape[1:])
            grids = self.spec.grids(shape, start)
            values: dict[str, Tensor] = {}
            if self.spec.levels is None:
                values["h"] = self._values[start : start + cells].movedim(0, 1)[None].float()
            else:
                tokens = self.spec.num_tokens(shape, start)
                size = math.ceil(tokens * sum(bits_of(self.spec.levels)) / 8)
                rows = self._values[place : place + size].numpy()[None]
                values["ids"] = torch.from_numpy(unpack_ids(rows, tokens, self.spec.levels))
                place += size
            yield Latent(spec=self.spec, grids=grids, num_frames=frames, start=start, **values)
            left, start = left - frames, start + cells


class _Runs:
    """Numbers in a row, as ``[number, how often]`` pairs."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.total = 0

    def add(self, number: int) -> None:
        self.total += number
        if self.runs and self.runs[-1][0] == number:
            self.runs[-1][1] += 1
        else:
            self.runs.append([number, 1])
