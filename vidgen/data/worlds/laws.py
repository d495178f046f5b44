"""The laws of motion, as functions of time over any batch: what draws a clip and what judges one are the same lines.

Arguments broadcast; times are in frames since the state that is given. Only + - * / sqrt and comparisons, so that results
are the same on every IEEE machine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Below this speed, in pixels per frame, an object that falls on the floor stays there.
_REST = 0.01
# A time that no clip reaches, yet finite, so that no speed times it is undefined.
_NEVER = 1e18
# Collisions between two frames, at most: only discs squeezed into a row between two walls, which no scene draws but a judge
# may have to try, have more, and they have no end of them.
_EVENTS = 100


def ricochet(
    x: Array | float, v: Array | float, low: Array | float, high: Array | float, t: Array, keep: float = 1.0
) -> tuple[Array, Array]:
    """Position and velocity at times ``t`` of uniform motion between two walls that ``keep`` this share of the speed."""
    x, v, low, high, t = np.broadcast_arrays(x, v, low, high, t)
    moving = v != 0.0
    wall = np.where(v > 0.0, high, low)
    hit = np.full(v.shape, _NEVER)
    np.divide(wall - x, v, out=hit, where=moving)
    position, velocity = x + v * t, np.array(v)
    after = t > hit
    while after.any():
        v = -keep * v
        position = np.where(after, wall + v * (t - hit), position)
        velocity = np.where(after, v, velocity)
        wall = low + high - wall
        hit += np.divide(high - low, np.abs(v), out=np.full(v.shape, _NEVER), where=moving)
        after = t > hit
    return position, velocity


def fall(z: Array | float, v: Array | float, gravity: float, t: Array, keep: float) -> tuple[Array, Array]:
    """Height above the floor and upward velocity at times ``t`` under gravity; each bounce leaves ``keep`` of the speed."""
    z, v, t = np.broadcast_arrays(np.maximum(z, 0.0), v, t)
    speed = np.sqrt(v * v + 2.0 * gravity * z)
    hit = (v + speed) / gravity
    height, velocity = z + v * t - 0.5 * gravity * t * t, v - gravity * t
    after = t > hit
    while after.any():
        speed = keep * speed
        speed = np.where(speed > _REST, speed, 0.0)
        since = t - hit
        height = np.where(after, speed * since - 0.5 * gravity * since * since, height)
        velocity = np.where(after, speed - gravity * since, velocity)
        resting = after & (speed == 0.0)
        height, velocity = np.where(resting, 0.0, height), np.where(resting, 0.0, velocity)
        hit = hit + 2.0 * speed / gravity
        after = after & ~resting & (t > hit)
    return height, velocity


def turn(u: float, frames: int) -> tuple[Array, Array]:
    """Cosine and sine of 0, 1, ... ``frames - 1`` turns by the angle 2 atan(u), by a renormalised recurrence."""
    scale = 1.0 + u * u
    c, s = (1.0 - u * u) / scale, 2.0 * u / scale
    cosines, sines = [1.0], [0.0]
    for _ in range(frames - 1):
        x, y = cosines[-1] * c - sines[-1] * s, sines[-1] * c + cosines[-1] * s
        norm = float(np.sqrt(x * x + y * y))
        cosines.append(x / norm)
        sines.append(y / norm)
    return np.array(cosines), np.array(sines)


def arctangent(u: float) -> float:
    """The angle in radians whose tangent is ``u``, by + * / sqrt alone: it is halved until a series is short."""
    halvings = 4
    for _ in range(halvings):
        u = u / (1.0 + math.sqrt(1.0 + u * u))
    series = 0.0
    for odd in range(19, 0, -2):
        series = 1.0 / odd - u * u * series
    return 2.0**halvings * u * series


def moves(actions: NDArray[np.int64], step: float) -> Array:
    """What ``actions`` (..., T) ask for, (..., T, 2) in pixels along x and y, ``step`` at a time."""
    right, left, down, up = (np.where(actions == number, step, 0.0) for number in (2, 1, 4, 3))
    return np.stack([right - left, down - up], -1)


def steer(x: Array, low: Array | float, high: Array | float, push: Array) -> Array:
    """Positions (..., T) along one axis under ``push`` (..., T), between borders that stop what reaches them.

    ``push[..., t]`` moves from frame t - 1 to frame t, so the first moves nothing; ``x`` and the borders are of shape (...).
    """
    path = [x]
    for t in range(1, push.shape[-1]):
        path.append(np.minimum(np.maximum(path[-1] + push[..., t], low), high))
    return np.stack(np.broadcast_arrays(*path), -1)


def collide(position: Array, velocity: Array, radius: Array, height: int, width: int, frames: int) -> tuple[Array, Array]:
    """Discs of equal mass that bounce off the frame and off one another without loss, from event to event.

    ``position`` and ``velocity`` are (B, n, 2), ``radius`` (B, n). Returns both at every frame, (B, frames, n, 2). Discs
    that jam between two walls stay where they are until the next frame.
    """
    p, v = position.copy(), velocity.copy()
    low = np.stack([radius, radius], -1)
    high = np.stack([width - radius, height - radius], -1)
    first, second = np.triu_indices(p.shape[1], 1)
    touch = radius[:, first] + radius[:, second]
    positions, velocities = [p.copy()], [v.copy()]
    for _ in range(frames - 1):
        left = np.ones(len(p))
        for _ in range(_EVENTS):
            if not (left > 0.0).any():
                break
            walls = _wall_times(p, v, low, high)
            pairs = _pair_times(p[:, first] - p[:, second], v[:, first] - v[:, second], touch)
            soonest = np.minimum(walls.min(axis=(1, 2)), pairs.min(axis=1, initial=np.inf))
            dt = np.minimum(left, soonest)
            p = p + v * dt[:, None, None]
            left = left - dt
            due = soonest <= dt
            v = np.where((walls <= soonest[:, None, None]) & due[:, None, None], -v, v)
            # One pair after another, should a disc hit two others in the same instant.
            for k in range(len(first)):
                hit = (pairs[:, k] <= soonest) & due
                if hit.any():
                    v = _exchange(p, v, int(first[k]), int(second[k]), hit)
        positions.append(p.copy())
        velocities.append(v.copy())
    return np.stack(positions, 1), np.stack(velocities, 1)


def _wall_times(p: Array, v: Array, low: Array, high: Array) -> Array:
    ahead = np.where(v > 0.0, high, low)
    times = np.full(p.shape, np.inf)
    np.divide(ahead - p, v, out=times, where=v != 0.0)
    return np.maximum(times, 0.0)


def _pair_times(p: Array, v: Array, touch: Array) -> Array:
    """When each pair will touch, given its relative position and velocity (B, pairs, 2); never, where it parts."""
    speed2 = v[..., 0] * v[..., 0] + v[..., 1] * v[..., 1]
    closing = p[..., 0] * v[..., 0] + p[..., 1] * v[..., 1]
    gap = p[..., 0] * p[..., 0] + p[..., 1] * p[..., 1] - touch * touch
    root = closing * closing - speed2 * gap
    times = np.full(closing.shape, np.inf)
    meets = (closing < 0.0) & (root >= 0.0)
    np.divide(-closing - np.sqrt(np.maximum(root, 0.0)), speed2, out=times, where=meets)
    return np.maximum(times, 0.0)


def _exchange(p: Array, v: Array, i: int, j: int, hit: NDArray[np.bool_]) -> Array:
    """Velocities after discs i and j, where they hit, have swapped what they had along the line between them."""
    dx, dy = p[:, i, 0] - p[:, j, 0], p[:, i, 1] - p[:, j, 1]
    along = (v[:, i, 0] - v[:, j, 0]) * dx + (v[:, i, 1] - v[:, j, 1]) * dy
    share = np.where(hit & (along < 0.0), along / np.maximum(dx * dx + dy * dy, 1e-12), 0.0)
    v = v.copy()
    for axis, d in ((0, dx), (1, dy)):
        v[:, i, axis] -= share * d
        v[:, j, axis] += share * d
    return v
