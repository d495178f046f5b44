"""Changes of training clips that keep what they show: mirroring, closer views, other light. Few files then teach more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidgen.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

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
        from PIL import Image

        flip, side, left, top = rng.random(4)
        gain, shift, gains, shifts = rng.standard_normal(), rng.standard_normal(), rng.standard_normal(3), rng.standard_normal(3)
        count, height, width, _ = frames.shape
        # The whole clip is one picture, its frames one below the other: Pillow changes that faster than frame by frame.
        clip = Image.fromarray(frames.reshape(-1, width, 3))
        share = 1 - self.zoom * side
        if self.zoom:
            clip = _seen(clip, (left * (1 - share) * width, 0.0), (share * width, clip.height))
        if flip < self.mirror:
            clip = clip.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.zoom:  # now side by side, so that no frame sees into the one below
            clip = Image.fromarray(_swapped(clip, count, width).reshape(height, -1, 3))
            clip = _seen(clip, (0.0, top * (1 - share) * height), (clip.width, share * height))
        if self.light:
            contrast = np.exp(self.light * (gain + gains / 2))
            clip = _relit(clip, contrast, 127.5 * self.light * (shift + shifts / 2))
        return np.array(_swapped(clip, height, width) if self.zoom else np.asarray(clip).reshape(frames.shape), order="C")


def _seen(picture: Picture, corner: tuple[float, float], size: tuple[float, float]) -> Picture:
    """A part of a picture, from its left upper corner (x, y) on, at the picture's full size."""
    from PIL.Image import Resampling

    (x, y), (width, height) = corner, size
    return picture.resize(picture.size, Resampling.BICUBIC, box=(x, y, x + width, y + height))


def _swapped(picture: Picture, parts: int, width: int) -> Pixels:
    """A picture of ``parts`` rows of frames or of lines of such a ``width``, with rows and columns exchanged: not contiguous."""
    return np.asarray(picture).reshape(parts, -1, width, 3).swapaxes(0, 1)


def _relit(clip: Picture, contrast: NDArray[np.float64], brightness: NDArray[np.float64]) -> Picture:
    """Values v of each colour as mean + contrast * (v - mean) + brightness, by a table of all 256."""
    values = np.arange(256)
    means = np.reshape(clip.histogram(), (3, 256)) @ values / (clip.width * clip.height)
    tables = means + contrast * (values[:, None] - means) + brightness
    table = np.rint(tables).clip(0, 255).astype(np.uint8)
    return clip.point(table.T.flatten().tolist())
