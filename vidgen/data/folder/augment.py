"""Changes of training clips that keep what they show: mirroring, closer views, other light. Few files then teach more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.errors import UserError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """One change for a whole clip, so that nothing moves that did not move before.

    Attributes:
        mirror: chance that left and right are exchanged.
        zoom: greatest share of the sides that a closer view leaves out, in [0, 1); the view's place is drawn too.
        light: spread (standard deviation) of the logarithm of the contrast and, in units of half of the range, of the
            brightness; half of it again for each colour by itself.

    Raises `UserError` for values out of range.
    """

    mirror: float
    zoom: float
    light: float

    def __post_init__(self) -> None:
        for name, most in (("mirror", 1.0), ("zoom", 0.9), ("light", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"data.{name}={getattr(self, name)} is out of range: give 0 for none, and at most {most:g}.")

    @property
    def active(self) -> bool:
        """Whether anything may change."""
        return self.mirror + self.zoom + self.light > 0

    def __call__(self, frames: Pixels, rng: np.random.Generator) -> Pixels:
        """uint8 (T, H, W, 3) -> the same shape, by draws from ``rng``."""
        flip, side, left, top = rng.random(4)
        gain, shift, gains, shifts = rng.standard_normal(), rng.standard_normal(), rng.standard_normal(3), rng.standard_normal(3)
        if self.zoom:
            frames = _closer(frames, 1 - self.zoom * side, left, top)
        if flip < self.mirror:
            frames = frames[:, :, ::-1]
        if self.light:
            contrast = np.exp(self.light * (gain + gains / 2))
            frames = _relit(frames, contrast, 127.5 * self.light * (shift + shifts / 2))
        return np.ascontiguousarray(frames)


def _closer(frames: Pixels, side: float, left: float, top: float) -> Pixels:
    """The part of every frame with ``side`` of its sides, at a place that ``left`` and ``top`` in [0, 1] say, at full size."""
    from PIL import Image

    _, height, width, _ = frames.shape
    x, y = left * (1 - side) * width, top * (1 - side) * height
    box = (x, y, x + side * width, y + side * height)

    def view(frame: Pixels) -> Any:
        return Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box)

    return np.stack([np.asarray(view(frame)) for frame in frames])


def _relit(frames: Pixels, contrast: NDArray[np.float64], brightness: NDArray[np.float64]) -> Pixels:
    """Values v of each colour as mean + contrast * (v - mean) + brightness, by a table of all 256."""
    from PIL import Image

    values = np.arange(256)
    clip = Image.fromarray(
        frames.reshape(-1, *frames.shape[2:])
    )  # whose histogram and tables are several times faster than numpy's
    means = np.reshape(clip.histogram(), (3, 256)) @ values / (clip.width * clip.height)
    tables = means + contrast * (values[:, None] - means) + brightness
    table = np.rint(tables).clip(0, 255).astype(np.uint8)
    return np.asarray(clip.point(table.T.flatten().tolist())).reshape(frames.shape)
