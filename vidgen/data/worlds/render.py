"""Painting a scene: anti-aliased shapes from their signed distance, over a plain ground, into uint8 frames."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds.laws import Array
from vidgen.data.worlds.recipe import COLORS, GROUND, SHAPES, WALL
from vidgen.data.worlds.scenes import Scene

_GRAINS = 2.0**24  # of a pixel's coverage, when coverage is added up


def distance(shape: str, dx: Array, dy: Array, radius: Array | float) -> Array:
    """Signed distance in pixels (inside negative) from the outline of ``shape`` at (dx, dy) from its centroid.

    Outside of corners it is the distance to the nearest side's line, which leaves corners sharp.
    """
    if shape == "circle":
        return np.sqrt(dx * dx + dy * dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - SHAPES[shape][0] * radius
    if shape == "diamond":
        return (np.abs(dx) + np.abs(dy) - SHAPES[shape][0] * radius) * math.sqrt(0.5)
    return np.maximum(dy, np.abs(dx) * (math.sqrt(3) / 2) - 0.5 * dy) - SHAPES["triangle"][2] * radius


def coverage(shape: str, dx: Array, dy: Array, radius: Array | float) -> Array:
    """How much of a pixel centred at (dx, dy) from the centroid is covered, in [0, 1]: a ramp one pixel wide."""
    return np.minimum(np.maximum(0.5 - distance(shape, dx, dy, radius), 0.0), 1.0)


def paint(scene: Scene, height: int, width: int) -> tuple[NDArray[np.uint8], Array]:
    """The frames of a scene, uint8 (T, H, W, 3), and how much of each object shows in them, (T, n) in [0, 1].

    Later objects are painted over earlier ones, and the wall over all.
    """
    frames, n = scene.position.shape[:2]
    if n == 1 and scene.wall[1] == 0:
        return _paint_one(scene, height, width), np.ones((frames, 1))
    canvas = np.empty((frames, height, width, 3))
    canvas[:] = GROUND
    covers = np.zeros((n, frames, height, width))
    for k in range(n):
        alpha, top, left = _window(scene, k, height, width)
        rows, columns = alpha.shape[1:]
        color = np.array(COLORS[scene.cast.colors[k]], dtype=np.float64)
        for t in range(frames):
            place = (t, slice(top[t], top[t] + rows), slice(left[t], left[t] + columns))
            canvas[place] += alpha[t, :, :, None] * (color - canvas[place])
            covers[(k, *place)] = alpha[t]
    canvas[:, :, scene.wall[0] : scene.wall[1]] = WALL
    return np.floor(canvas + 0.5).astype(np.uint8), _shares(covers, scene.wall)


def _paint_one(scene: Scene, height: int, width: int) -> NDArray[np.uint8]:
    """One object on the bare ground, whose windows need no mixing with what lies below."""
    alpha, top, left = _window(scene, 0, height, width)
    ground = np.array(GROUND, dtype=np.float64)
    color = np.array(COLORS[scene.cast.colors[0]], dtype=np.float64)
    pixels = np.floor(ground + alpha[..., None] * (color - ground) + 0.5).astype(np.uint8)
    rows, columns = alpha.shape[1:]
    video = np.empty((len(alpha), height, width, 3), dtype=np.uint8)
    video[:] = np.array(GROUND, dtype=np.uint8)
    for frame, patch, y, x in zip(video, pixels, top, left, strict=True):
        frame[y : y + rows, x : x + columns] = patch
    return video


def _window(scene: Scene, k: int, height: int, width: int) -> tuple[Array, list[int], list[int]]:
    """Coverage of object k in a window of equal size in every frame, (T, h, w), with each window's top and left."""
    shape, radius = scene.cast.shapes[k], scene.cast.radii[k]
    side, up, down = (reach * radius for reach in SHAPES[shape])
    x, y = scene.position[:, k, 0], scene.position[:, k, 1]
    columns, rows = min(math.ceil(2 * side) + 2, width), min(math.ceil(up + down) + 2, height)
    left = np.minimum(np.maximum(np.floor(x - side - 0.5), 0.0), width - columns)
    top = np.minimum(np.maximum(np.floor(y - up - 0.5), 0.0), height - rows)
    dx = np.arange(columns) + 0.5 - (x - left)[:, None]
    dy = np.arange(rows) + 0.5 - (y - top)[:, None]
    alpha = coverage(shape, dx[:, None, :], dy[:, :, None], radius)
    return alpha, top.astype(int).tolist(), left.astype(int).tolist()


def _shares(covers: Array, wall: tuple[int, int]) -> Array:
    """Visible share of each object (n, T, H, W) of coverage, under the objects after it and the wall.

    Sums are of whole numbers, so that their order, which machines choose for themselves, does not matter.
    """
    free = np.ones(covers.shape[1:])
    free[:, :, wall[0] : wall[1]] = 0.0
    shares = np.empty((covers.shape[1], len(covers)))
    for k in range(len(covers) - 1, -1, -1):
        shown, whole = (np.rint(cover * _GRAINS).sum((1, 2)) for cover in (covers[k] * free, covers[k]))
        shares[:, k] = shown / whole
        free *= 1.0 - covers[k]
    return shares
