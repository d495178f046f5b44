"""Which motion of a family's law comes nearest to positions that were seen: the constants known, the start searched for.

Every search is a grid over the starts that the law allows, refined about the best, over all clips at once. The laws
themselves are those of `laws`, which drew the clips.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds import laws
from vidgen.data.worlds.laws import Array
from vidgen.data.worlds.recipe import GRAVITY_DRIFT, ORBIT_RADIUS, RESTITUTION, SHAPES, Recipe

Flags = NDArray[np.bool_]

_ROWS = 2_000_000  # candidates times frames at a time, to bound the memory
_BEST = 3  # candidates of the grid that are refined: near a wall the best of a coarse grid may lie in the wrong valley
_ABOVE = 1.25  # times the world's greatest speed: how far above it the search looks, so that what is too fast shows as such
_ROUNDS = 12  # of refinement, each with steps of 0.6 of the last: a grid's spacing shrinks to 1/450 of itself


@dataclasses.dataclass(frozen=True)
class Track:
    """The best motion: ``position`` (N, T, n, 2) in pixels at every frame, and, per object (N, n), what it started with.

    ``pace`` is the speed of which ``slowest`` and ``fastest`` are the family's bounds: that of the start for bounce and
    occlude, sideways for gravity, along the circle for orbit. ``met`` says, of `collide`, whether any two discs did.
    """

    position: Array
    pace: Array
    slowest: float
    fastest: float
    met: Flags | bool = True

    @property
    def reach(self) -> Array:
        """The greatest step between two frames of each object's track, (N, n), in pixels per frame."""
        steps = np.diff(self.position, axis=1)
        return np.hypot(steps[..., 0], steps[..., 1]).max(1, initial=0.0)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is to be explained: R objects over T frames. ``use`` says which coordinates count; at least one of each.

    ``position`` (R, T, 2), ``use`` (R, T, 2), ``box`` (R, 4) where the centre may be, ``radius`` (R,), ``actions`` (R, T).
    """

    position: Array
    use: Flags
    box: Array
    radius: Array
    actions: NDArray[np.int64]


def boxes(recipe: Recipe, shape: NDArray[np.int64], radius: Array) -> Array:
    """Where centres may be, (..., 4) as `Recipe.box`, of objects of the recipe's shapes by number.

    One that was seen larger than any of the world's has the largest's, which leaves it room between the walls.
    """
    reach = np.array([SHAPES[name] for name in recipe.shapes])[shape] * np.minimum(radius, recipe.radius[1])[..., None]
    side, up, down = np.moveaxis(reach, -1, 0)
    return np.stack([side, recipe.width - side, up, recipe.height - down], -1)


def track(
    recipe: Recipe,
    family: str,
    position: Array,
    use: Flags,
    shape: NDArray[np.int64],
    radius: Array,
    actions: NDArray[np.int64],
) -> Track:
    """The motion by ``family``'s law that comes nearest to ``position`` (N, T, n, 2) where ``use``, of the same shape.

    ``shape`` and ``radius`` are (N, n), ``actions`` (N, T). Every object needs each coordinate used in one frame at least.
    """
    clips, frames, n = position.shape[:3]
    rows = clips * n
    seen = Seen(
        position=np.where(use, position, 0.0).transpose(0, 2, 1, 3).reshape(rows, frames, 2),
        use=use.transpose(0, 2, 1, 3).reshape(rows, frames, 2),
        box=boxes(recipe, shape, radius).reshape(rows, 4),
        radius=radius.reshape(rows),
        actions=np.repeat(actions, n, 0),
    )
    if family == "collide":
        found = _collide(recipe, seen, n)
    elif family == "orbit":
        found = _orbit(recipe, seen)
    elif family == "agent":
        found = _agent(recipe, seen)
    elif family == "gravity":
        found = _gravity(recipe, seen)
    else:
        found = _bounce(recipe, seen)
    return dataclasses.replace(
        found,
        position=found.position.reshape(clips, n, frames, 2).transpose(0, 2, 1, 3),
        pace=found.pace.reshape(clips, n),
    )


Model = Callable[[Array, NDArray[np.int64]], Array]


def _search(model: Model, start: Array, step: Array, seen: Array, use: Flags) -> Array:
    """The parameters (R, P) whose ``model(parameters (r, C, P), rows (r,)) -> (r, C, T)`` comes nearest to ``seen`` (R, T).

    ``start`` is (R, C, P), all the candidates of the grid; ``step`` (P,) its spacing.
    """
    best = []
    offsets = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=len(step))))
    chunk = max(1, _ROWS // (start.shape[1] * seen.shape[1]))
    for first in range(0, len(start), chunk):
        rows = np.arange(first, min(first + chunk, len(start)))

        def cost(candidates: Array, rows: NDArray[np.int64] = rows) -> Array:
            error = np.where(use[rows, None], model(candidates, rows) - seen[rows, None], 0.0)
            return np.asarray((error * error).sum(-1))

        order = np.argsort(cost(start[rows]), axis=1)[:, :_BEST]
        here = np.take_along_axis(start[rows], order[..., None], 1)
        wide = step
        for _ in range(_ROUNDS):
            around = here[:, :, None] + wide * offsets
            costs = cost(around.reshape(len(rows), -1, len(step))).reshape(around.shape[:3])
            here = np.take_along_axis(around, costs.argmin(-1)[:, :, None, None], 2)[:, :, 0]
            wide = wide * 0.6
        best.append(here[np.arange(len(rows)), costs.min(-1).argmin(-1)])
    return np.concatenate(best)


def _since(use: Flags) -> tuple[NDArray[np.int64], Array]:
    """The first frame that counts (R,), and every frame's time since then (R, 1, T), at least 0."""
    first = use.argmax(1)
    return first, np.maximum(np.arange(use.shape[1]) - first[:, None], 0.0)[:, None]


def _grid(seen: Array, use: Flags, values: Array) -> Array:
    """Candidates (R, C, 2): where the object was first seen, with each of ``values`` for its velocity."""
    first = seen[np.arange(len(seen)), use.argmax(1)]
    return np.stack(np.broadcast_arrays(first[:, None], values), -1)


def _speeds(recipe: Recipe, most: float) -> tuple[Array, float]:
    """Velocities to try, and their spacing: such that over a clip the nearest one strays by less than a pixel."""
    spacing = min(0.1, 1.6 / recipe.steps)
    count = math.ceil(most / spacing)
    return np.asarray(spacing * np.arange(-count, count + 1), dtype=np.float64), spacing


def _ricochets(recipe: Recipe, seen: Seen, axis: int, keep: float, fastest: float) -> tuple[Array, Array]:
    """Best positions (R, T) along one axis between its two walls, and the best (x, v) where first seen, (R, 2).

    Starts faster than ``fastest`` are not tried: one that hits a lossy wall at once would pass for a slower one.
    """
    velocities, spacing = _speeds(recipe, fastest)
    values, use, box = seen.position[..., axis], seen.use[..., axis], seen.box[:, 2 * axis : 2 * axis + 2]
    _, since = _since(use)

    def model(p: Array, rows: NDArray[np.int64]) -> Array:
        low, high = box[rows, 0, None, None], box[rows, 1, None, None]
        x = np.minimum(np.maximum(p[..., :1], low), high)
        return laws.ricochet(x, np.clip(p[..., 1:], -fastest, fastest), low, high, since[rows], keep)[0]

    best = _search(model, _grid(values, use, velocities), np.array([0.3, spacing]), values, use)
    best[:, 1] = np.clip(best[:, 1], -fastest, fastest)
    return model(best[:, None], np.arange(len(best)))[:, 0], best


def _bounce(recipe: Recipe, seen: Seen) -> Track:
    (x, px), (y, py) = (_ricochets(recipe, seen, axis, 1.0, _ABOVE * recipe.speed[1]) for axis in (0, 1))
    return Track(np.stack([x, y], -1), np.hypot(px[:, 1], py[:, 1]), *recipe.speed)


def _gravity(recipe: Recipe, seen: Seen) -> Track:
    low, high = (share * recipe.speed[1] for share in GRAVITY_DRIFT)
    x, px = _ricochets(recipe, seen, 0, RESTITUTION, _ABOVE * high)
    velocities, spacing = _speeds(recipe, _ABOVE * recipe.speed[1])
    use, floor = seen.use[..., 1], seen.box[:, 3:]
    height = floor - seen.position[..., 1]
    _, since = _since(use)

    def model(p: Array, rows: NDArray[np.int64]) -> Array:
        return laws.fall(p[..., :1], p[..., 1:], recipe.gravity, since[rows], RESTITUTION)[0]

    best = _search(model, _grid(height, use, velocities), np.array([0.3, spacing]), height, use)
    y = floor - model(best[:, None], np.arange(len(best)))[:, 0]
    # Whether the first frames' pace is that before a hit on a side wall or after it, positions hardly tell.
    return Track(np.stack([x, y], -1), np.abs(px[:, 1]), RESTITUTION * low, high)


def _orbit(recipe: Recipe, seen: Seen) -> Track:
    """For every rate of turning the best circle has a closed form: one complex coefficient of exp(i rate t)."""
    use = seen.use.all(-1)
    weight = use / np.maximum(use.sum(1, keepdims=True), 1)
    z = (seen.position[..., 0] + 1j * seen.position[..., 1])[:, None]
    t = np.arange(z.shape[-1])

    def circle(rate: Array, rows: slice) -> tuple[Array, Array]:
        w = weight[rows, None]
        e = np.exp(1j * rate[..., None] * t)
        z0, e0 = (w * z[rows]).sum(-1, keepdims=True), (w * e).sum(-1, keepdims=True)
        spread = (w * np.abs(e - e0) ** 2).sum(-1, keepdims=True)
        arm = (w * (z[rows] - z0) * np.conj(e - e0)).sum(-1, keepdims=True) / np.maximum(spread, 1e-12)
        return z0 + arm * (e - e0), np.abs(arm[..., 0])

    least = 0.9 * 2 * math.atan(recipe.orbit_step)
    most = max(_ABOVE * 2 * math.atan(min(1.0, recipe.speed[1] / (2 * ORBIT_RADIUS))), 1.3 * least)
    rates = np.linspace(least, most, math.ceil((most - least) * recipe.steps) + 4)
    spacing, rates = rates[1] - rates[0], np.concatenate([-rates, rates])
    path, pace = np.empty((len(z), len(t)), dtype=complex), np.empty(len(z))
    chunk = max(1, _ROWS // (len(rates) * len(t)))
    for first in range(0, len(z), chunk):
        rows = slice(first, first + chunk)
        rate, wide = np.broadcast_to(rates, (len(z[rows]), len(rates))), spacing
        for _ in range(_ROUNDS):
            found, arm = circle(rate, rows)
            best = (weight[rows, None] * np.abs(found - z[rows]) ** 2).sum(-1).argmin(-1)[:, None]
            rate = np.take_along_axis(rate, best, 1)
            rate = np.sign(rate) * np.maximum(np.abs(rate + wide * np.array([0.0, -1.0, -0.5, 0.5, 1.0])), least)
            wide = wide * 0.6
        found, arm = circle(rate[:, :1], rows)
        path[rows], pace[rows] = found[:, 0], (arm * np.abs(rate[:, :1]))[:, 0]
    return Track(np.stack([path.real, path.imag], -1), pace, *recipe.speed)


def _agent(recipe: Recipe, seen: Seen) -> Track:
    push = laws.moves(seen.actions, recipe.speed[1])
    path = np.empty_like(seen.position)
    for axis in (0, 1):
        values, use = seen.position[..., axis], seen.use[..., axis]
        low, high = seen.box[:, 2 * axis, None], seen.box[:, 2 * axis + 1, None]
        first, since = _since(use)
        pushes = np.where(since[:, 0] > 0, push[..., axis], 0.0)

        def model(p: Array, rows: NDArray[np.int64]) -> Array:
            at = np.minimum(np.maximum(p[..., 0], low[rows]), high[rows])  # noqa: B023 - called before the loop goes on
            return laws.steer(at, low[rows], high[rows], pushes[rows, None])  # noqa: B023

        offsets = np.linspace(-1.5, 1.5, 7)[:, None]
        start = values[np.arange(len(values)), first][:, None, None] + offsets
        best = _search(model, start, np.array([0.5]), values, use)
        path[..., axis] = model(best[:, None], np.arange(len(best)))[:, 0]
    # Whoever is told to stand still stands still: no pace is too slow.
    return Track(path, np.full(len(path), recipe.speed[1]), 0.0, recipe.speed[1])


_DAMPING = 1e-3
_DIFFERENCE = 1e-4
_EXCHANGE = 1e-6  # of squared speed, far above rounding and far below any collision that a world draws
_STRETCH = 4  # frames whose straight lines, reflected off the walls, a search for colliding discs starts from


def _collide(recipe: Recipe, seen: Seen, n: int) -> Track:
    """All objects of a clip at once, forwards and, as these laws do not know one from the other, backwards in time."""
    clips, frames = len(seen.position) // n, seen.position.shape[1]
    back = dataclasses.replace(seen, position=seen.position[:, ::-1], use=seen.use[:, ::-1])
    ahead, cost, pace, met = _shoot(recipe, seen, n)
    behind, back_cost, back_pace, back_met = _shoot(recipe, back, n)
    forwards = cost <= back_cost
    position = np.where(forwards[:, None, None, None], ahead, behind[:, ::-1]).transpose(0, 2, 1, 3)
    # The bound is on the clip's energy, because discs hand their speed to one another.
    share = recipe.speed[1] / math.sqrt(n)
    pace = np.where(forwards, pace, back_pace).repeat(n)
    met = np.where(forwards, met, back_met)[:, None]
    return Track(position.reshape(clips * n, frames, 2), pace, min(recipe.speed[0], share), share, met)


def _shoot(recipe: Recipe, seen: Seen, n: int) -> tuple[Array, Array, Array, Flags]:
    """Best positions (N, T, n, 2), their squared error, root mean square speed and whether discs met (N,), from the start on.

    Damped Gauss-Newton steps over a horizon that grows, so that each collision is met with what led to it known.
    """
    clips, frames = len(seen.position) // n, seen.position.shape[1]
    target, use = (a.reshape(clips, n, frames, 2).transpose(0, 2, 1, 3) for a in (seen.position, seen.use))
    box, radius = seen.box.reshape(clips, n, 4), seen.radius.reshape(clips, n)

    def motion(p: Array, rows: NDArray[np.int64], horizon: int) -> tuple[Array, Array]:
        at, v = p[:, : 2 * n].reshape(-1, n, 2), p[:, 2 * n :].reshape(-1, n, 2)
        low, high = box[rows][..., (0, 2)], box[rows][..., (1, 3)]
        # A start beyond a wall is its mirror image, lest the search stick to the wall.
        v = np.where((at < low) | (at > high), -v, v)
        at = np.clip(np.where(at < low, 2 * low - at, np.where(at > high, 2 * high - at, at)), low, high)
        return laws.collide(at, v, radius[rows], recipe.height, recipe.width, horizon)

    def error(p: Array, rows: NDArray[np.int64], horizon: int) -> Array:
        miss = np.where(use[rows, :horizon], motion(p, rows, horizon)[0] - target[rows, :horizon], 0.0)
        return miss.reshape(len(p), -1)

    every = np.arange(clips)
    early = dataclasses.replace(seen, use=seen.use & (np.arange(frames) < _STRETCH)[:, None])
    starts = [_ricochets(recipe, early, axis, 1.0, _ABOVE * recipe.speed[1])[1] for axis in (0, 1)]
    p = np.stack(starts, -1).reshape(clips, n, 2, 2).transpose(0, 2, 1, 3).reshape(clips, 4 * n)
    for horizon in [*range(min(_STRETCH, frames), frames), frames, frames]:
        p = _newton(p, lambda q, rows, h=horizon: error(q, rows, h), every)  # type: ignore[misc]
    speed = np.sqrt((p[:, 2 * n :] ** 2).sum(-1) / n)
    position, velocity = motion(p, every, frames)
    # Walls change no disc's speed, other discs do.
    energy = (velocity**2).sum(-1)
    met = (np.abs(energy - energy[:, :1]) > _EXCHANGE).any((1, 2))
    return position, (error(p, every, frames) ** 2).sum(-1), speed, met


def _newton(p: Array, error: Callable[[Array, NDArray[np.int64]], Array], rows: NDArray[np.int64]) -> Array:
    """One step that lowers every row's squared error, or none, from derivatives by differences."""
    clips, count = p.shape
    nudged = (p[:, None] + _DIFFERENCE * np.eye(count)).reshape(-1, count)
    here = error(p, rows)
    slopes = (error(nudged, rows.repeat(count)).reshape(clips, count, -1) - here[:, None]) / _DIFFERENCE
    curvature = slopes @ slopes.transpose(0, 2, 1) + _DAMPING * np.eye(count)
    step = np.linalg.solve(curvature, slopes @ here[..., None])[..., 0]
    best, least = p, (here**2).sum(-1)
    for share in (1.0, 0.5, 0.2):
        there = p - share * step
        cost = (error(there, rows) ** 2).sum(-1)
        best, least = np.where((cost < least)[:, None], there, best), np.minimum(cost, least)
    return best
