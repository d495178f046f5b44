"""How the scenes of each family are drawn: who is in them, where they start, and how they move from there."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds import laws
from vidgen.data.worlds.draw import Draw
from vidgen.data.worlds.laws import Array
from vidgen.data.worlds.recipe import (
    CEILING,
    COLORS,
    GRAVITY_DRIFT,
    ORBIT_MARGIN,
    ORBIT_RADIUS,
    RESTITUTION,
    SHAPES,
    WALL_SLACK,
    Recipe,
)

# Scenes are drawn anew, at most this often, until every object is clear of the others in half of the frames: a scene whose
# objects cover each other throughout shows neither them nor their law. Discs that collide never cover each other.
_TRIES = 64


@dataclasses.dataclass(frozen=True)
class Cast:
    """The objects of a scene, in the order in which they are painted: names of colours and shapes, radii in pixels."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    radii: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    """One clip before it is drawn: ``position`` and ``velocity`` (T, n, 2), ``actions`` (T,), the columns of its wall."""

    family: str
    cast: Cast
    position: Array
    velocity: Array
    actions: NDArray[np.int64]
    wall: tuple[int, int] = (0, 0)


Motion = tuple[Array, Array, NDArray[np.int64]]


def draw_scene(recipe: Recipe, family: str, draw: Draw) -> Scene:
    """A scene of ``family``: a pure function of the recipe and of the draw."""
    cast = _cast(recipe, family, draw)
    wall = _wall(recipe, cast, draw) if family == "occlude" else (0, 0)
    for _ in range(_TRIES):
        position, velocity, actions = _MOTIONS[family](recipe, cast, draw, wall)
        if family == "collide" or _shows(cast, position):
            break
    return Scene(family, cast, position, velocity, actions, wall)


def _cast(recipe: Recipe, family: str, draw: Draw) -> Cast:
    n = recipe.objects
    low, high = recipe.radius
    if family == "occlude":
        high = recipe.behind_wall
    names = list(COLORS)
    colors = tuple(names[i] for i in draw.distinct(n, recipe.colors))
    shapes = tuple(recipe.shapes[draw.integer(len(recipe.shapes))] for _ in range(n))
    # Discs that collide are alike, so that they weigh the same.
    radii = (draw.uniform(low, high),) * n if family == "collide" else tuple(draw.uniform(low, high) for _ in range(n))
    return Cast(colors, shapes, radii)


def _wall(recipe: Recipe, cast: Cast, draw: Draw) -> tuple[int, int]:
    side = math.ceil(2 * max(r * SHAPES[s][0] for r, s in zip(cast.radii, cast.shapes, strict=True)) + WALL_SLACK)
    left = side + draw.integer(max(recipe.width - recipe.wall - 2 * side, 0) + 1)
    return left, left + recipe.wall


def _shows(cast: Cast, position: Array) -> bool:
    n = len(cast.radii)
    reach = [r * max(SHAPES[s]) for r, s in zip(cast.radii, cast.shapes, strict=True)]
    frames = len(position)
    covered = np.zeros((frames, n), dtype=bool)
    for i in range(n):
        for j in range(i):
            dx, dy = position[:, i, 0] - position[:, j, 0], position[:, i, 1] - position[:, j, 1]
            near = dx * dx + dy * dy < (reach[i] + reach[j] + 1.0) * (reach[i] + reach[j] + 1.0)
            covered[:, i] |= near
            covered[:, j] |= near
    return not covered[0].any() and bool((covered.sum(0) * 2 <= frames).all())


def _starts(recipe: Recipe, cast: Cast, draw: Draw) -> list[tuple[float, float]]:
    """Centres inside the frame, one object to a cell of the coarsest grid that has a cell for each."""
    n, reach = len(cast.radii), recipe.reach
    columns, rows = 1, 1
    while columns * rows < n:
        wider = recipe.width / (columns + 1) >= 2 * reach + 1
        if wider and (recipe.width / columns >= recipe.height / rows or recipe.height / (rows + 1) < 2 * reach + 1):
            columns += 1
        else:
            rows += 1
    centres = []
    for k, cell in enumerate(draw.distinct(n, columns * rows)):
        x0, x1, y0, y1 = recipe.box(cast.shapes[k], cast.radii[k])
        wide, high = recipe.width / columns, recipe.height / rows
        left, top = (cell % columns) * wide, (cell // columns) * high
        centres.append((left + draw.uniform(x0, x1 - recipe.width + wide), top + draw.uniform(y0, y1 - recipe.height + high)))
    return centres


def _bounce(recipe: Recipe, cast: Cast, draw: Draw, wall: tuple[int, int]) -> Motion:
    paths = []
    for k, (x, y) in enumerate(_starts(recipe, cast, draw)):
        speed = draw.uniform(*recipe.speed)
        a, b = draw.direction()
        paths.append(_ricochets(recipe, cast, k, x, y, speed * a, speed * b))
    return _together(recipe, paths)


def _ricochets(recipe: Recipe, cast: Cast, k: int, x: float, y: float, vx: float, vy: float) -> tuple[Array, ...]:
    x0, x1, y0, y1 = recipe.box(cast.shapes[k], cast.radii[k])
    t = np.arange(recipe.frames, dtype=np.float64)
    px, qx = laws.ricochet(x, vx, x0, x1, t)
    py, qy = laws.ricochet(y, vy, y0, y1, t)
    return px, py, qx, qy


def _gravity(recipe: Recipe, cast: Cast, draw: Draw, wall: tuple[int, int]) -> Motion:
    g, most, paths = recipe.gravity, recipe.speed[1], []
    t = np.arange(recipe.frames, dtype=np.float64)
    for k, (x, _) in enumerate(_starts(recipe, cast, draw)):
        x0, x1, y0, y1 = recipe.box(cast.shapes[k], cast.radii[k])
        vx = draw.sign() * draw.uniform(*GRAVITY_DRIFT) * most
        # What is left of the greatest speed for falling. Either there is too little energy to pass it, or too little time.
        cap = math.sqrt(most * most - vx * vx)
        late = g * recipe.steps - cap
        # It turns well below the ceiling, lest it seem to have bounced there.
        top = y1 - y0 - min(CEILING, (y1 - y0) / 4)
        low, high = cap * cap / (2 * g), top - max(late, 0.0) * max(late, 0.0) / (2 * g)
        z = draw.uniform(0.3, 1.0) * min(top, max(low, high if late < cap else 0.0))
        slow = late if z > low else -math.sqrt(cap * cap - 2 * g * z)
        v = draw.uniform(slow, min(cap, math.sqrt(2 * g * (top - z))))
        px, qx = laws.ricochet(x, vx, x0, x1, t, RESTITUTION)
        height, climb = laws.fall(z, v, g, t, RESTITUTION)
        paths.append((px, y1 - height, qx, -climb))
    return _together(recipe, paths)


def _orbit(recipe: Recipe, cast: Cast, draw: Draw, wall: tuple[int, int]) -> Motion:
    n = len(cast.radii)
    speed = draw.uniform(*recipe.speed)
    least = max(recipe.orbit_step, speed / (2 * recipe.orbit_room))
    # Several objects share the largest orbit, evenly spaced; one may have a smaller one.
    u = draw.uniform(least, max(least, min(1.0, speed / (2 * ORBIT_RADIUS)))) if n == 1 else least
    radius = speed / (2 * u) if n == 1 else recipe.orbit_room
    reach = radius + recipe.reach + ORBIT_MARGIN
    cx, cy = draw.uniform(reach, recipe.width - reach), draw.uniform(reach, recipe.height - reach)
    sense = draw.sign()
    a, b = draw.direction()
    cosine, sine = laws.turn(u, recipe.frames)
    sine = sense * sine
    rate = sense * 2.0 * laws.arctangent(u)
    c, s = _SPOKES[n]
    paths = []
    for _ in range(n):
        dx, dy = radius * (a * cosine - b * sine), radius * (b * cosine + a * sine)
        paths.append((cx + dx, cy + dy, -rate * dy, rate * dx))
        a, b = a * c - b * s, b * c + a * s
    return _together(recipe, paths)


# Cosine and sine of the angle between n objects on one orbit, by square roots where they have some.
_SPOKES = {
    1: (1.0, 0.0),
    2: (-1.0, 0.0),
    3: (-0.5, math.sqrt(3) / 2),
    4: (0.0, 1.0),
    5: ((math.sqrt(5) - 1) / 4, math.sqrt(10 + 2 * math.sqrt(5)) / 4),
    6: (0.5, math.sqrt(3) / 2),
    7: (0.6234898018587336, 0.7818314824680298),
    8: (math.sqrt(0.5), math.sqrt(0.5)),
}


def _collide(recipe: Recipe, cast: Cast, draw: Draw, wall: tuple[int, int]) -> Motion:
    """A motion both ways in time from an instant in which two discs touch: in a wide frame, chance brings few together."""
    # Were all the energy to end in one disc, it would still be no faster than the greatest speed.
    n, fastest = len(cast.radii), recipe.speed[1] / math.sqrt(len(cast.radii))
    speeds = [draw.uniform(min(recipe.speed[0], fastest), fastest) for _ in range(n)]
    position = np.array(_starts(recipe, cast, draw))
    velocity = np.array([(speed * a, speed * b) for speed, (a, b) in ((speed, draw.direction()) for speed in speeds)])
    # The nearest two meet, so that no third is between them, each at 53 degrees to the line between them at most.
    i, j = min(itertools.combinations(range(n), 2), key=lambda pair: _length(position[pair[1]] - position[pair[0]]))
    x, y = (position[j] - position[i]) / _length(position[j] - position[i])
    position[j] = position[i] + 2 * cast.radii[i] * np.array([x, y])
    for k, toward in ((i, 1.0), (j, -1.0)):
        a, b = draw.direction(0.5)
        a = toward * abs(a)
        velocity[k] = speeds[k] * (a * x - b * y), speeds[k] * (a * y + b * x)

    def run(p: Array, v: Array, frames: int) -> tuple[Array, Array]:
        p, v = laws.collide(p[None], v[None], np.array([cast.radii]), recipe.height, recipe.width, frames)
        return p[0], v[0]

    # They touch in the middle half of the clip, at some time before the frame after ``frame``.
    frame, early = recipe.frames // 4, 1.0 - draw.uniform()
    frame += draw.integer(max(recipe.frames - 1 - 2 * frame, 1))
    p, v = run(position, -early * velocity, 2)
    back, forth = run(p[1], v[1] / early, frame + 1), run(p[1], -v[1] / early, recipe.frames - frame)
    path = np.concatenate([back[0][:0:-1], forth[0]])
    return path, np.concatenate([-back[1][:0:-1], forth[1]]), _noop(recipe)


def _length(vector: Array) -> float:
    return math.sqrt(vector[0] * vector[0] + vector[1] * vector[1])


def _occlude(recipe: Recipe, cast: Cast, draw: Draw, wall: tuple[int, int]) -> Motion:
    paths = []
    for k in range(len(cast.radii)):
        x0, x1, y0, y1 = recipe.box(cast.shapes[k], cast.radii[k])
        side = cast.radii[k] * SHAPES[cast.shapes[k]][0]
        from_left = draw.uniform() < 0.5
        x = draw.uniform(x0, wall[0] - side) if from_left else draw.uniform(wall[1] + side, x1)
        # Fast enough to come out on the other side within the clip, where the greatest speed allows it.
        across = wall[1] + side + 1.0 - x if from_left else x + side + 1.0 - wall[0]
        a, b = draw.direction(0.2)
        speed = draw.uniform(max(recipe.speed[0], min(recipe.speed[1], across / (recipe.steps * abs(a)))), recipe.speed[1])
        vx = speed * abs(a) if from_left else -speed * abs(a)
        paths.append(_ricochets(recipe, cast, k, x, draw.uniform(y0, y1), vx, speed * b))
    return _together(recipe, paths)


def _agent(recipe: Recipe, cast: Cast, draw: Draw, wall: tuple[int, int]) -> Motion:
    starts = _starts(recipe, cast, draw)
    # The first run is a move away from the nearer border, so that something happens in every clip.
    x, y = starts[0]
    toward = (1 if x > recipe.width / 2 else 2) if draw.uniform() < 0.5 else (3 if y > recipe.height / 2 else 4)
    actions = [0]
    while len(actions) < recipe.frames:
        actions += [toward] * (2 + draw.integer(4))
        toward = draw.integer(5)
    chosen = np.array(actions[: recipe.frames], dtype=np.int64)
    push = laws.moves(chosen, recipe.speed[1])
    x0, x1, y0, y1 = np.array([recipe.box(s, r) for s, r in zip(cast.shapes, cast.radii, strict=True)]).T
    first = np.array(starts)
    path = np.stack([laws.steer(first[:, 0], x0, x1, push[:, 0]), laws.steer(first[:, 1], y0, y1, push[:, 1])], -1)
    path = path.transpose(1, 0, 2)
    velocity = np.concatenate([np.zeros_like(path[:1]), path[1:] - path[:-1]])
    return path, velocity, chosen


def _noop(recipe: Recipe) -> NDArray[np.int64]:
    return np.zeros(recipe.frames, dtype=np.int64)


def _together(recipe: Recipe, paths: Sequence[tuple[Array, ...]]) -> Motion:
    """One motion from an (x, y, vx, vy) over time for each object."""
    table = np.array(paths).transpose(2, 0, 1)
    return table[..., :2], table[..., 2:], _noop(recipe)


_MOTIONS: dict[str, Callable[[Recipe, Cast, Draw, tuple[int, int]], Motion]] = {
    "bounce": _bounce,
    "gravity": _gravity,
    "orbit": _orbit,
    "collide": _collide,
    "occlude": _occlude,
    "agent": _agent,
}
