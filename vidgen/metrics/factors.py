"""What objects a set of clips shows, as plain factors read from the pixels: how much of the world it covers, and what is new.

The factors of an object are its colour, shape, radius, speed (mean over the clip), place (where it is first seen) and heading
(its mean velocity while it is first seen). True clips have them from their scenes, and others from the parser, by the same
formulae. Sets of objects are compared, so neither the order of the objects nor that of the clips matters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds import Worlds
from vidgen.data.worlds.parse import Parsed
from vidgen.data.worlds.recipe import COLORS, GROUND, Recipe

Array = NDArray[np.float64]

BINS = 4
"""How many the ranges of radius, of speed and of each coordinate are cut into."""

HEADING = 4
"""Frames from the first one on in which an object is seen, over which its heading is the mean velocity."""

_ROWS = 4_000_000  # distances at a time, to bound the memory


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of N clips of n objects; NaN, or -1 for names, of an object that was not read.

    Attributes:
        color: (N, n) positions in `COLORS`.
        shape: (N, n) positions in the recipe's shapes.
        radius: (N, n) pixels.
        speed: (N, n) pixels per frame.
        place: (N, n, 2) x, y in pixels.
        heading: (N, n, 2) pixels per frame.
    """

    color: NDArray[np.int64]
    shape: NDArray[np.int64]
    radius: Array
    speed: Array
    place: Array
    heading: Array

    @classmethod
    def cat(cls, parts: Sequence[Factors]) -> Factors:
        """The factors of several batches as one."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def __getitem__(self, chosen: NDArray[np.bool_] | slice) -> Factors:
        """The factors of some of the clips."""
        return Factors(**{field.name: getattr(self, field.name)[chosen] for field in dataclasses.fields(self)})

    @property
    def read(self) -> NDArray[np.bool_]:
        """Which objects (N, n) have all their factors."""
        return (self.color >= 0) & np.isfinite(self.speed) & np.isfinite(self.heading).all(-1)

    def vectors(self, recipe: Recipe) -> Array:
        """A row for every object that was read, (R, 9 + shapes), float64, its columns alike in scale.

        Colour by channel and shape one-hot, in -1 and 1 and in 0 and 1; radius and place as -1 to 1 over what the world has;
        speed and heading as shares of its greatest speed.
        """
        keep = self.read
        color = (np.array(list(COLORS.values()), dtype=np.float64)[self.color[keep]] - GROUND) / 96
        low, high = recipe.radius
        radius = 2 * (self.radius[keep] - low) / max(high - low, 1.0) - 1
        place = 2 * self.place[keep] / (recipe.width, recipe.height) - 1
        speeds = np.concatenate([self.speed[keep][:, None], self.heading[keep]], 1) / recipe.speed[1]
        return np.concatenate([color, np.eye(len(recipe.shapes))[self.shape[keep]], radius[:, None], speeds, place], 1)

    def bins(self, recipe: Recipe) -> dict[str, tuple[NDArray[np.int64], int]]:
        """Of each factor that is counted by bins, the bin of every object that was read, (R,), and how many bins there are."""
        keep, (low, high) = self.read, recipe.radius
        across, down = self.place[keep].T
        column, row = _bin(across, 0.0, recipe.width), _bin(down, 0.0, recipe.height)
        return {
            "color": (self.color[keep], recipe.colors),
            "shape": (self.shape[keep], len(recipe.shapes)),
            "size": (_bin(self.radius[keep], low, high), BINS),
            "speed": (_bin(self.speed[keep], 0.0, recipe.speed[1]), BINS),
            "position": (row * BINS + column, BINS * BINS),
        }


def read_factors(parsed: Parsed, sharp: NDArray[np.bool_]) -> Factors:
    """The factors of clips that were read, of the objects seen sharp, in the frames (N, T, n) in which they are."""
    position = np.where(sharp[..., None], parsed.position, np.nan)
    found = sharp.any(1)
    return Factors(
        color=np.where(found, parsed.color, -1),
        shape=np.where(found, parsed.shape, -1),
        radius=np.where(found, parsed.full, np.nan),
        **_motion(position),
    )


def true_factors(world: Worlds, split: str, indices: Sequence[int]) -> Factors:
    """The factors of a world's own clips, from their scenes: nothing is painted."""
    scenes = [world.scene(split, index) for index in indices]
    names = list(COLORS)
    return Factors(
        color=np.array([[names.index(color) for color in scene.cast.colors] for scene in scenes]),
        shape=np.array([[world.recipe.shapes.index(shape) for shape in scene.cast.shapes] for scene in scenes]),
        radius=np.array([scene.cast.radii for scene in scenes]),
        **_motion(np.stack([scene.position for scene in scenes])),
    )


def coverage(factors: Factors, recipe: Recipe) -> dict[str, float]:
    """The shares of bins that hold an object: of each factor of `Factors.bins` by its name, and ``all``, the mean over all pairs.

    Few objects cannot fill many bins, and a world's laws leave some of them empty: compare with as many true clips.
    """
    bins = factors.bins(recipe)
    found = {name: len(np.unique(place)) / count for name, (place, count) in bins.items()}
    pairs = [
        len(np.unique(first * counts[1] + second)) / (counts[0] * counts[1])
        for (first, *one), (second, *other) in itertools.combinations(bins.values(), 2)
        for counts in [(*one, *other)]
    ]
    return {**found, "all": float(np.mean(pairs))}


def novelty(factors: Factors, training: Factors, recipe: Recipe) -> Array:
    """The distance of every object that was read from the nearest of ``training``, (R,), in the scale of `Factors.vectors`.

    0 is a copy; how far true clips that were not trained on are from the same ones says what to expect.
    """
    ours, theirs = factors.vectors(recipe), training.vectors(recipe)
    chunk = max(1, _ROWS // max(len(theirs) * theirs.shape[1], 1))
    parts = [np.sqrt(((ours[first : first + chunk, None] - theirs) ** 2).sum(-1).min(1)) for first in range(0, len(ours), chunk)]
    return np.concatenate(parts) if parts else np.zeros(0)


def factor_fd(factors: Factors, real: Factors, recipe: Recipe) -> float:
    """The Frechet distance between the vectors of two sets of objects: a network has no part in it; needs two of each."""
    import torch

    from vidgen.metrics.frechet import frechet_from_features

    ours, theirs = (torch.from_numpy(one.vectors(recipe)) for one in (factors, real))
    return float(frechet_from_features(ours, theirs))


def _bin(values: Array, low: float, high: float) -> NDArray[np.int64]:
    """Which of `BINS` between the two ends; what lies beyond is in the outermost."""
    return np.clip((values - low) / max(high - low, 1e-9) * BINS, 0, BINS - 1).astype(np.int64)


def _motion(position: Array) -> dict[str, Array]:
    """Speed, place and heading from positions (N, T, n, 2), NaN where unknown; NaN where less than two frames in a row are."""
    clips, frames, n = position.shape[:3]
    known = np.isfinite(position).all(-1)
    first = known.argmax(1)
    i, k = np.indices(first.shape)
    step = np.diff(position, axis=1)
    along = np.asarray(np.isfinite(step).all(-1))
    early = along & (np.arange(frames - 1)[None, :, None] < first[:, None] + HEADING - 1)

    def mean(values: Array, use: NDArray[np.bool_]) -> Array:
        total = np.where(use.reshape(*use.shape, *[1] * (values.ndim - 3)), values, 0.0).sum(1)
        count = use.sum(1).reshape(clips, n, *[1] * (values.ndim - 3))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return {
        "speed": mean(np.hypot(step[..., 0], step[..., 1]), along),
        "place": position[i, first, k],
        "heading": mean(step, early),
    }
