"""From pixels back to states: what is where in a clip, by the world's recipe alone, and what could not be read.

Ground and colours are known, so a pixel d away from the ground is a share of the colour whose line from the ground it lies
nearest: that share is coverage, its weighted mean the position, its sum the area. A sharp shape of that area at that place
is then held against the pixels; what it does not explain (blur, holes, specks, a second blob) is reported as the outline's
error, in pixels, and never smoothed over.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds.recipe import COLORS, GROUND, SHAPES, WALL, Recipe
from vidgen.data.worlds.render import coverage, distance
from vidgen.errors import UserError

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

FAINT = 0.12  # coverage below this is ground: the noise and the ringing of a good tokenizer stay below it
SEEN = 0.35  # of the least object's area: less is no object
WHOLE = 0.95  # an object that shows this share of its area is not covered, however near it is to something
_CHUNK = 32  # clips at a time, to bound the memory
_WALL_REACH = 24  # grey levels about the wall's that still are the wall: half of the way to the ground
_WALL_SHARE = 0.8  # of a column's pixels, over all frames, that make it a column of the wall


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What was read from N clips of T frames in a world of n objects. Objects come by area, the greatest first.

    Attributes:
        color: (N, n) positions in `COLORS`.
        shape: (N, n) positions in the recipe's shapes.
        full: (N, n) pixels: the radius that each object has where nothing covers it.
        position: (N, T, n, 2) x, y of the centroid in pixels; NaN where nothing is seen. Of what the wall cuts, x is where
            the wall's edge would leave the area that is seen.
        trusted: (N, T, n, 2) which of these coordinates are not bent by something in front of the object.
        radius: (N, T, n) pixels, of the circle with the visible area.
        misfit: (N, T, n) pixels: coverage that a sharp shape of that place and area leaves unexplained, per pixel of its
            outline. About 0.01 on clean frames; on blurred ones it grows with the blur.
        shape_misfit: (N, T, n, S) the same for each of the recipe's shapes.
        off: (N, T, n) how far the colour is from its line, as a share of the colour's distance from the ground.
        seen: (N, T, n) enough area to be an object.
        covered: (N, T, n) near enough to another object or to the wall to be partly behind it.
        clear: (N, T, n) seen and not covered, or beside the wall but whole.
        count: (N, T) colours with enough area to be an object, whether the clip's or not.
        stray: (N, T) coverage outside of the objects, in pixels.
        wall: (N, 2) first column of the wall and the one after its last; zeros where there is none.
    """

    color: NDArray[np.int64]
    shape: NDArray[np.int64]
    full: Array
    position: Array
    trusted: Flags
    radius: Array
    misfit: Array
    shape_misfit: Array
    off: Array
    seen: Flags
    covered: Flags
    clear: Flags
    count: NDArray[np.int64]
    stray: Array
    wall: NDArray[np.int64]


def parse(videos: NDArray[np.uint8], recipe: Recipe) -> Parsed:
    """Read clips, uint8 (N, T, H, W, 3), of the recipe's height and width and of any length."""
    expected = (recipe.height, recipe.width, 3)
    if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[2:] != expected:
        raise UserError(
            f"The worlds' parser reads uint8 videos (N, T, {recipe.height}, {recipe.width}, 3), not {videos.dtype} of shape "
            f"{videos.shape}; give it clips of the world that it was built with."
        )
    parts = [_parse(videos[i : i + _CHUNK], recipe) for i in range(0, len(videos), _CHUNK)]
    if not parts:
        raise UserError("The worlds' parser was given no clip; give it at least one.")
    names = [field.name for field in dataclasses.fields(Parsed)]
    return Parsed(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def things(parsed: Parsed, recipe: Recipe) -> list[list[tuple[str, str, str]]]:
    """The (colour, shape, size) of every object of each clip, as captions name them; what is never seen is no object."""
    colors, middle = list(COLORS), sum(recipe.radius) / 2

    def thing(clip: int, place: int) -> tuple[str, str, str]:
        size = "small" if parsed.full[clip, place] < middle else "large"
        return colors[parsed.color[clip, place]], recipe.shapes[parsed.shape[clip, place]], size

    return [[thing(clip, place) for place in np.flatnonzero(seen.any(0)).tolist()] for clip, seen in enumerate(parsed.seen)]


@dataclasses.dataclass
class _Pixels:
    """The pixels that are not ground: their (clip, frame) as one number, place, colour, coverage and distance off its line."""

    frame: NDArray[np.int64]
    x: Array
    y: Array
    color: NDArray[np.int64]
    alpha: Array
    off: Array

    def where(self, keep: Flags) -> _Pixels:
        return _Pixels(*(getattr(self, field.name)[keep] for field in dataclasses.fields(self)))


def _parse(videos: NDArray[np.uint8], recipe: Recipe) -> Parsed:
    clips, frames, n = len(videos), videos.shape[1], recipe.objects
    wall = _find_wall(videos) if "occlude" in recipe.families else np.zeros((clips, 2), dtype=np.int64)
    pixels = _unmix(videos, wall)
    area = _sums(pixels.frame * len(COLORS) + pixels.color, pixels.alpha, clips * frames * len(COLORS))
    area = area.reshape(clips, frames, len(COLORS))
    least = SEEN * math.pi * recipe.radius[0] ** 2
    color = np.argsort(-area.sum(1), axis=1, kind="stable")[:, :n]

    shape = (clips, frames, n)
    position, radius, off = np.full((*shape, 2), np.nan), np.zeros(shape), np.zeros(shape)
    shape_misfit = np.zeros((*shape, len(recipe.shapes)))
    owner = _owners(pixels, color, frames)
    stray = np.zeros((clips, frames))
    for k in range(n):
        mine = pixels.where(owner == k)
        place = _locate(mine, clips * frames, recipe.reach + 2.0)
        near = _near(mine, place, recipe.reach + 2.0)
        stray += _sums(mine.frame, np.where(near, 0.0, mine.alpha), clips * frames).reshape(clips, frames)
        mine = mine.where(near)
        covered = _sums(mine.frame, mine.alpha, clips * frames)
        weight = np.maximum(covered, 1e-9)
        position[..., k, :] = np.where(covered[:, None] > 0, place, np.nan).reshape(clips, frames, 2)
        radius[..., k] = np.sqrt(covered / math.pi).reshape(clips, frames)
        off[..., k] = (_sums(mine.frame, mine.off * mine.alpha, clips * frames) / weight).reshape(clips, frames)
        for j, name in enumerate(recipe.shapes):
            shape_misfit[..., k, j] = _misfit(mine, place, covered, name).reshape(clips, frames)
    fringe, lost = _leftovers(pixels.where(owner == n), position, radius)
    shape_misfit += (fringe / np.maximum(2 * math.pi * radius, 1.0))[..., None]
    seen = math.pi * radius**2 >= least
    position = np.where(seen[..., None], position, np.nan)
    full = np.quantile(radius, 0.8, axis=1)
    side, reach = full * recipe.widest, full * recipe.reach / recipe.radius[1]
    for _ in range(2):  # first whatever the shapes, then with those found
        walled, meets = near_wall(position, side + 0.5, wall), _meets(position, reach)
        full, best = _outlines(radius, shape_misfit, seen, seen & ~walled & ~meets)
        reaches = np.array([SHAPES[name] for name in recipe.shapes])[best]
        side, reach = full * reaches[..., 0], full * reaches.max(-1)
    position, trusted = _uncover(position, radius, full, best, wall, walled, recipe)
    whole = radius >= math.sqrt(WHOLE) * full[:, None]
    return Parsed(
        color=color,
        shape=best,
        full=full,
        position=position,
        trusted=trusted & (seen & (~meets | whole))[..., None],
        radius=radius,
        misfit=np.take_along_axis(shape_misfit, best[:, None, :, None], -1)[..., 0],
        shape_misfit=shape_misfit,
        off=off,
        seen=seen,
        covered=walled | meets,
        clear=seen & ~meets & (~walled | whole),
        count=(area >= least).sum(-1),
        stray=stray + lost,
        wall=wall,
    )


def _find_wall(videos: NDArray[np.uint8]) -> NDArray[np.int64]:
    near = (np.abs(videos.astype(np.int16) - np.array(WALL, dtype=np.int16)) <= _WALL_REACH).all(-1)
    column = near.mean((1, 2)) >= _WALL_SHARE
    first, last = column.argmax(1), column.shape[1] - column[:, ::-1].argmax(1)
    return np.where(column.any(1)[:, None], np.stack([first, last], 1), 0)


def _unmix(videos: NDArray[np.uint8], wall: NDArray[np.int64]) -> _Pixels:
    lines = np.array(list(COLORS.values()), dtype=np.float64) - np.array(GROUND)
    length2 = (lines**2).sum(1)
    away = videos.astype(np.int16) - np.array(GROUND, dtype=np.int16)
    # A share of FAINT along any line moves some channel by at least this much.
    candidate = np.abs(away).max(-1) >= FAINT * np.abs(lines).max(1).min() - 1
    columns = np.arange(videos.shape[3])
    candidate &= ~((columns >= wall[:, :1]) & (columns < wall[:, 1:]))[:, None, None, :]
    clip, frame, row, column = np.nonzero(candidate)
    d = away[candidate].astype(np.float64)
    shares = d @ (lines / length2[:, None]).T
    color = shares.argmax(1)
    share = shares[np.arange(len(d)), color]
    off = np.sqrt(((d - share[:, None] * lines[color]) ** 2).sum(1) / length2[color])
    x, y = (np.asarray(place + 0.5, dtype=np.float64) for place in (column, row))
    pixels = _Pixels(clip * videos.shape[1] + frame, x, y, color, np.minimum(share, 1.0), off)
    return pixels.where(share >= FAINT)


def _sums(group: NDArray[np.int64], weight: Array, groups: int) -> Array:
    """Each group's sum of the weights of the pixels that are in it, (groups,)."""
    return np.asarray(np.bincount(group, weight, groups), dtype=np.float64)


def _owners(pixels: _Pixels, color: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Which object each pixel's colour makes it part of; n, the number of objects, where none."""
    n = color.shape[1]
    table = np.full((len(color), len(COLORS)), n)
    np.put_along_axis(table, color, np.arange(n)[None], 1)
    return table[pixels.frame // frames, pixels.color]


def _locate(pixels: _Pixels, frames: int, reach: float) -> Array:
    """Centroids (frames, 2), taken again within ``reach`` of the last so that specks far away do not pull them."""
    place = np.zeros((frames, 2))
    near = np.ones(len(pixels.x), dtype=bool)
    for _ in range(3):
        weight = np.where(near, pixels.alpha, 0.0)
        total = np.maximum(_sums(pixels.frame, weight, frames), 1e-9)
        place[:, 0] = _sums(pixels.frame, weight * pixels.x, frames) / total
        place[:, 1] = _sums(pixels.frame, weight * pixels.y, frames) / total
        near = _near(pixels, place, reach)
    return place


def _near(pixels: _Pixels, place: Array, reach: float) -> Flags:
    there = place[pixels.frame]
    return (np.abs(pixels.x - there[:, 0]) <= reach) & (np.abs(pixels.y - there[:, 1]) <= reach)


def _misfit(pixels: _Pixels, place: Array, area: Array, shape: str) -> Array:
    """Coverage that a sharp ``shape`` of that place and area does not explain, per pixel of a circle's outline, (frames,)."""
    radius = np.sqrt(area / math.pi)
    there = place[pixels.frame]
    model = coverage(shape, pixels.x - there[:, 0], pixels.y - there[:, 1], radius[pixels.frame])
    # Over the pixels that are not ground |alpha - model|, over the rest the model, whose sum over all pixels is the area.
    error = area + _sums(pixels.frame, np.abs(pixels.alpha - model) - model, len(area))
    return np.asarray(error / np.maximum(2 * math.pi * radius, 1.0))


def _leftovers(pixels: _Pixels, position: Array, radius: Array) -> tuple[Array, Array]:
    """Coverage in colours of no object: (N, T, n) that fringes an object, (N, T) that is nowhere near one."""
    clips, frames, n = radius.shape
    there, size = position.reshape(-1, n, 2)[pixels.frame], radius.reshape(-1, n)[pixels.frame]
    gap = np.hypot(pixels.x[:, None] - there[..., 0], pixels.y[:, None] - there[..., 1]) - 1.3 * size - 2.0
    gap = np.where(np.isnan(gap), np.inf, gap)
    nearest, fringes = gap.argmin(1), gap.min(1, initial=np.inf) <= 0.0
    fringe = _sums(pixels.frame * n + nearest, np.where(fringes, pixels.alpha, 0.0), clips * frames * n)
    lost = _sums(pixels.frame, np.where(fringes, 0.0, pixels.alpha), clips * frames)
    return fringe.reshape(clips, frames, n), lost.reshape(clips, frames)


def _outlines(radius: Array, misfit: Array, seen: Flags, clear: Flags) -> tuple[Array, NDArray[np.int64]]:
    """Radius and shape (N, n) of each object over the frames in which it is clear; without any, where a shape fits it best."""
    least = np.where(seen, misfit.min(-1), np.inf)
    use = np.where(clear.any(1, keepdims=True), clear, least <= least.min(1, keepdims=True))
    full = np.nanmedian(np.where(use, radius, np.nan), 1)
    return full, np.where(use[..., None], misfit, 0.0).sum(1).argmin(-1)


def near_wall(position: Array, reach: Array, wall: NDArray[np.int64]) -> Flags:
    """Whether objects at ``position`` (N, T, n, 2) are within ``reach`` (N, n) pixels of the ``wall`` (N, 2)."""
    close, x = reach[:, None], position[..., 0]
    left, right = wall[:, :1, None], wall[:, 1:, None]
    return (right > left) & (x + close > left) & (x - close < right)


def _meets(position: Array, reach: Array) -> Flags:
    """Whether each object, which reaches ``reach`` (N, n) pixels from its centroid, comes within a pixel of another."""
    meets = np.zeros(position.shape[:3], dtype=bool)
    for i in range(position.shape[2]):
        for j in range(i):
            gap = np.hypot(*np.moveaxis(position[:, :, i] - position[:, :, j], -1, 0))
            near = gap < reach[:, None, i] + reach[:, None, j] + 1.0
            meets[..., i] |= near
            meets[..., j] |= near
    return meets


def _uncover(
    position: Array,
    radius: Array,
    full: Array,
    shape: NDArray[np.int64],
    wall: NDArray[np.int64],
    walled: Flags,
    recipe: Recipe,
) -> tuple[Array, Flags]:
    """Positions with x put right where the wall cuts an object, from the share of its area that shows, and what to trust."""
    share = np.minimum((radius / np.maximum(full[:, None], 1e-9)) ** 2, 1.0)
    offset, level = np.zeros(share.shape), np.zeros(shape.shape, dtype=bool)
    for j, name in enumerate(recipe.shapes):
        here = shape == j
        offsets, shares = profile(name)
        offset = np.where(here[:, None], np.interp(share, shares, offsets) * full[:, None], offset)
        level |= here & (SHAPES[name][1] == SHAPES[name][2])
    from_left = position[..., 0] < wall.mean(1)[:, None, None]
    edge = np.where(from_left, wall[:, :1, None], wall[:, 1:, None])
    cut = walled & (share < WHOLE)
    x = np.where(cut, edge - np.where(from_left, offset, -offset), position[..., 0])
    trusted = np.stack([np.ones(cut.shape, dtype=bool), ~cut | level[:, None]], -1)
    return np.stack([x, position[..., 1]], -1), trusted


@functools.cache
def profile(shape: str) -> tuple[Array, Array]:
    """Of a shape of radius 1: offsets from its centroid along x, and the share of its area to the left of each."""
    fine = np.linspace(-1.6, 1.6, 641)
    inside = distance(shape, fine[None, :], fine[:, None], 1.0) <= 0
    area = np.cumsum(inside.sum(0).astype(np.float64))
    side = np.nonzero(inside.any(0))[0]
    keep = slice(side[0], side[-1] + 1)
    return fine[keep], area[keep] / area[-1]
