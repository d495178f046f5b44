"""What a world's laws conserve, read off positions alone: energy and momentum, by how much they change where they may not.

Velocities are differences of positions from frame to frame, so a step in which something is hit does not show one: steps too
near to a wall, or to another disc of `collide`, are left out. How near that is follows from the world's greatest speed and not
from any motion that was fitted: these figures say nothing that the judge's law residual has said already. Masses are 1.

- Energy is kinetic. Bounces, orbits and collisions keep it; under gravity the height above the floor adds to it, and each hit
  on the floor or on a side wall leaves the square of `RESTITUTION` of what that axis had.
- Momentum is kept between two hits on a wall, along the axis of that wall: of each object for itself, of all together where
  they collide. Gravity adds its acceleration at every step. Of an orbit, whose centre pulls, it is not kept.
- Nothing is kept by what is steered (`agent`).

Positions are in pixels, (N, T, n, 2), and NaN where unknown. Noise of s pixels in every coordinate shows as an error of about
2 s divided by the speed, the parser's own (0.02 px) as some hundredths.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds.fit import boxes
from vidgen.data.worlds.recipe import RESTITUTION, Recipe

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# A step may hold a hit if its two ends are no farther from the wall, together, than this many of the world's greatest steps:
# such a step is as long as the two distances, so nothing is missed up to speeds this far above the world's.
NEAR = 1.6
# What moves less than this from frame to frame stands still, and has no relative error: pixels, root mean square.
STILL = 0.1
# Steps needed to say that something is constant.
STEPS = 3
# A velocity that jumps by this share of the world's greatest speed, while near a wall, has hit it.
_JUMP = 0.15


def energy_error(recipe: Recipe, family: str, position: Array, shape: NDArray[np.int64], radius: Array) -> Array:
    """How far the energy of clips of ``family`` strays from what the law makes of it, root mean square, as a share of its mean.

    ``shape`` (positions in the recipe's shapes) and ``radius`` are (N, n). Returns (N,), of which several objects are the root
    mean square; NaN for `agent`, for what stands still, and where fewer than `STEPS` free steps of no object are known.
    """
    if family == "agent" or position.shape[1] < 2:
        return np.full(len(position), np.nan)
    step, walls = np.diff(position, axis=1), _at_walls(recipe, family, position, shape, radius)
    free = np.asarray(np.isfinite(step).all(-1) & ~walls.any(-1))
    kinetic = step**2 / 2
    energy, weight = kinetic, np.ones_like(step)
    if family == "gravity":
        weight = np.power(RESTITUTION, 2.0 * _hits(step, free, recipe))
        height = boxes(recipe, shape, radius)[:, None, :, 3] - (position[:, 1:, :, 1] + position[:, :-1, :, 1]) / 2
        # Half-way through a step a falling body is higher than the middle of the step's ends.
        energy = kinetic + recipe.gravity * np.stack([np.zeros(height.shape), height + recipe.gravity / 8], -1)
    if family == "collide":
        free = np.asarray(free.all(-1, keepdims=True)) & ~_at_each_other(recipe, position, radius)[..., None]
        energy = kinetic = kinetic.sum(2, keepdims=True)
        weight = np.ones_like(energy)
    count = free.sum(1)
    used = free[..., None]
    start = _total(used, weight * energy) / np.maximum(_total(used, weight**2), 1e-12)
    expected = (weight * start[:, None]).sum(-1)
    spent = 2 if family == "gravity" else 1  # what is estimated: the energy at the start, under gravity along each axis
    variance = _total(free, (energy.sum(-1) - expected) ** 2) / np.maximum(count - spent, 1)
    mean = _total(free, expected) / np.maximum(count, 1)
    moving = _total(free, kinetic.sum(-1)) / np.maximum(count, 1) >= STILL**2 / 2
    return _over_objects(np.sqrt(variance) / np.maximum(mean, 1e-12), (count >= STEPS) & moving)


def momentum_error(recipe: Recipe, family: str, position: Array, shape: NDArray[np.int64], radius: Array) -> Array:
    """How far the momentum of clips of ``family`` strays between hits on walls, root mean square, over the sum of the speeds.

    Arguments as of :func:`energy_error`. Returns (N,); NaN for `orbit` and `agent`, for what stands still, and where there are
    fewer than `STEPS` steps to compare.
    """
    clips, frames = position.shape[:2]
    if family in ("orbit", "agent") or frames < 2:
        return np.full(clips, np.nan)
    step, broken = np.diff(position, axis=1), _at_walls(recipe, family, position, shape, radius)
    broken |= ~np.isfinite(step)
    speed = np.where(broken.any(-1), np.nan, np.hypot(step[..., 0], step[..., 1]))
    if family == "gravity":
        step[..., 1] -= recipe.gravity * np.arange(frames - 1)[:, None]
    if family == "collide":
        step, speed = step.sum(2, keepdims=True), speed.sum(2, keepdims=True)
        broken = np.asarray(broken.any(2, keepdims=True))
    # Between two breaks of an axis everything is one stretch, whose momentum should be one.
    stretch = np.cumsum(broken, axis=1)
    lanes = np.arange(stretch[:, 0].size).reshape(stretch[:, :1].shape)
    group = (lanes * frames + stretch)[~broken]
    value, groups = step[~broken], lanes.size * frames
    size = np.maximum(np.bincount(group, minlength=groups), 1)
    mean = np.bincount(group, value, groups) / size
    clip = np.arange(groups) // (groups // clips)
    squares = np.bincount(clip[group], (value - mean[group]) ** 2, clips)
    freedom = np.bincount(clip, size - 1, clips)
    known = np.isfinite(speed)
    pace = _total(known, speed).sum(1) / np.maximum(known.sum((1, 2)), 1)
    error = np.sqrt(2 * squares / np.maximum(freedom, 1)) / np.maximum(pace, 1e-12)  # of two axes
    return np.where((freedom >= STEPS) & (pace >= STILL), error, np.nan)


def _total(use: Flags, values: Array) -> Array:
    """Sums over time, axis 1, of the values that are of use."""
    return np.asarray(np.where(use, values, 0.0).sum(1))


def _over_objects(error: Array, measured: Flags) -> Array:
    """Root mean square over the objects (N, n) that were measured, NaN where none was."""
    mean = np.where(measured, error**2, 0.0).sum(1) / np.maximum(measured.sum(1), 1)
    return np.where(measured.any(1), np.sqrt(mean), np.nan)


def _at_walls(recipe: Recipe, family: str, position: Array, shape: NDArray[np.int64], radius: Array) -> Flags:
    """Along which axes each step (N, T - 1, n, 2) may hold a hit on the frame's walls; an orbit never touches them."""
    if family == "orbit":
        return np.zeros(np.diff(position, axis=1).shape, dtype=bool)
    box = boxes(recipe, shape, radius)[:, None]
    low, high = position - box[..., ::2], box[..., 1::2] - position
    if family == "gravity":
        low[..., 1] = np.inf  # it turns below the ceiling
    return np.asarray(np.minimum(low[:, 1:] + low[:, :-1], high[:, 1:] + high[:, :-1]) <= NEAR * recipe.speed[1])


def _at_each_other(recipe: Recipe, position: Array, radius: Array) -> Flags:
    """Whether any two discs may meet in a step, (N, T - 1): they approach at the root of twice the greatest speed at most."""
    near = np.zeros(np.diff(position, axis=1).shape[:2], dtype=bool)
    for i in range(position.shape[2]):
        for j in range(i):
            apart = position[:, :, i] - position[:, :, j]
            gap = np.hypot(apart[..., 0], apart[..., 1]) - (radius[:, i] + radius[:, j])[:, None]
            near |= gap[:, 1:] + gap[:, :-1] <= NEAR * math.sqrt(2) * recipe.speed[1]
    return near


def _hits(step: Array, free: Flags, recipe: Recipe) -> NDArray[np.int64]:
    """How often each object had hit a wall of each axis before each step (N, T - 1, n, 2) under gravity.

    Two hits between two free steps count as one: what comes so near to the floor again and again has next to no energy left.
    """
    fall = np.array([0.0, recipe.gravity])
    hits = np.zeros(step.shape, dtype=np.int64)
    last, when = np.full(step[:, 0].shape, np.nan), np.full(free[:, 0].shape, -1)
    for t in range(step.shape[1]):
        waited = t - when
        jump = np.abs(step[:, t] - last - fall * waited[..., None]) > _JUMP * recipe.speed[1]
        hit = jump & (free[:, t] & (when >= 0) & (waited > 1))[..., None]
        hits[:, t] = (hits[:, t - 1] if t else 0) + hit
        last = np.where(free[:, t, :, None], step[:, t], last)
        when = np.where(free[:, t], t, when)
    return hits
