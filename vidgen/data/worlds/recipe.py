"""What decides a world: its size, families, objects and constants, checked once and shared by every other module here.

Positions are in pixels of the frame [0, W] x [0, H], x to the right and y down; the centre of pixel (i, j) is (j + 0.5, i + 0.5).
Speeds are in pixels per frame.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from vidgen.errors import UserError, did_you_mean

# Changes whenever the same recipe would give other pixels.
VERSION = "worlds/1"

# The ground is mid-grey and the colours are the eight corners of a cube about it: from there no two of them lie within 70
# degrees of one another, so that an edge pixel (a mixture of ground and colour) still says which colour it belongs to.
GROUND = (128, 128, 128)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (224, 32, 32),
    "green": (32, 224, 32),
    "blue": (32, 32, 224),
    "yellow": (224, 224, 32),
    "magenta": (224, 32, 224),
    "cyan": (32, 224, 224),
    "white": (224, 224, 224),
    "black": (32, 32, 32),
}
# The wall is known by filling whole columns of every frame, so its grey may lie between the ground and black.
WALL = (80, 80, 80)

# Every shape has the area of a circle of the same radius, so that area tells size whatever the shape. How far each reaches
# from its centroid, in radii: (sideways, up, down).
_SQUARE = math.sqrt(math.pi) / 2
_DIAMOND = math.sqrt(math.pi / 2)
_TRIANGLE = math.sqrt(math.pi / (3 * math.sqrt(3)))  # equilateral, standing on a side
SHAPES: dict[str, tuple[float, float, float]] = {
    "circle": (1.0, 1.0, 1.0),
    "square": (_SQUARE, _SQUARE, _SQUARE),
    "diamond": (_DIAMOND, _DIAMOND, _DIAMOND),
    "triangle": (math.sqrt(3) * _TRIANGLE, 2 * _TRIANGLE, _TRIANGLE),
}

FAMILIES = ("bounce", "gravity", "orbit", "collide", "occlude", "agent")
ACTIONS = ("noop", "left", "right", "up", "down")

RESTITUTION = 0.6  # of speed kept at each wall and at the floor under gravity
GRAVITY_DRIFT = (0.3, 0.45)  # least and most speed sideways under gravity, as a share of the world's greatest
CEILING = 3.0  # pixels that an object under gravity stays below the ceiling: its turning there would seem a bounce
ORBIT_TURN = 4.0  # radians that an orbit turns in one clip, at least: an arc that no bounce and no fall could be
ORBIT_MARGIN = 1.0  # pixels between an orbiting object and the frame: it never touches a wall
ORBIT_RADIUS = 3.0  # the least radius of an orbit that a frame must have room for, in pixels
ROOM = 4.0  # how far an object must be able to move along each axis, in pixels
WALL_SLACK = 3.0  # on each side of the wall, how far an object can move and still be clear of it, in pixels


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The plain values of a world, checked. ``radius`` and ``speed`` are (least, most), the rest as in `Worlds`.

    Raises `UserError`, one sentence, for values that no world can have, naming what would fit.
    """

    frames: int
    height: int
    width: int
    families: tuple[str, ...]
    objects: int
    radius: tuple[float, float]
    speed: tuple[float, float]
    colors: int
    shapes: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        """Check every value on its own, then the families for room."""
        _names("families", self.families, FAMILIES)
        _names("shapes", self.shapes, SHAPES)
        _integer("frames", self.frames, 1, None)
        _integer("height", self.height, 1, None)
        _integer("width", self.width, 1, None)
        _integer("colors", self.colors, 1, len(COLORS))
        _integer("seed", self.seed, 0, 2**64 - 1)
        _range("radius", self.radius, 2.0)
        _range("speed", self.speed, 0.1)
        _integer("objects", self.objects, 1, None)
        if self.objects > self.colors:
            raise UserError(
                f"data.objects={self.objects} needs as many colours, because every object of a scene has its own, but "
                f"data.colors={self.colors}; take at most {self.colors} objects"
                + (f" or data.colors={self.objects}." if self.objects <= len(COLORS) else ".")
            )
        self._check_room()

    def _check_room(self) -> None:
        reach, short = self.reach, min(self.height, self.width)
        need = math.ceil(2 * reach + ROOM)
        if short < need:
            raise UserError(
                f"data.height={self.height}, data.width={self.width} leave an object of radius {self.radius[1]:g} no room to "
                f"move; take frames of at least {need}x{need} or a smaller data.radius."
            )
        fit = math.floor(self.width / (2 * reach + 1)) * math.floor(self.height / (2 * reach + 1))
        if self.objects > max(fit, 1):
            raise UserError(
                f"data.objects={self.objects} do not fit side by side in a {self.height}x{self.width} frame at radius "
                f"{self.radius[1]:g}; {max(fit, 1)} do: take that many, larger frames or a smaller data.radius."
            )
        if "orbit" in self.families:
            self._check_orbit()
        if "collide" in self.families and self.objects < 2:
            raise UserError(
                "data.families names 'collide', which needs two objects or more, but data.objects=1; set data.objects=2 or "
                "leave 'collide' out."
            )
        if "collide" in self.families and self.shapes != ("circle",):
            raise UserError(
                "data.families names 'collide', whose law is that of discs, but data.shapes holds others; set "
                "data.shapes=[circle] or leave 'collide' out."
            )
        if "occlude" in self.families and self.behind_wall < self.radius[0]:
            need = math.ceil(6 * self.radius[0] * self.widest + 2 + 2 * WALL_SLACK)
            raise UserError(
                f"data.families names 'occlude', whose wall hides a whole object of radius {self.radius[0]:g} and leaves room on "
                f"both sides, which data.width={self.width} does not have; take data.width={need} or more, or a smaller "
                "data.radius."
            )

    def _check_orbit(self) -> None:
        short = min(self.height, self.width)
        need = math.ceil(2 * (self.reach + ORBIT_MARGIN + ORBIT_RADIUS))
        if short < need:
            raise UserError(
                f"data.families names 'orbit', which has no room in a {self.height}x{self.width} frame at radius "
                f"{self.radius[1]:g}; take frames of at least {need}x{need}, a smaller data.radius, or leave 'orbit' out."
            )
        fit = orbit_capacity(self.orbit_room, self.reach)
        if self.objects > fit:
            raise UserError(
                f"data.objects={self.objects} do not fit on one orbit in a {self.height}x{self.width} frame at radius "
                f"{self.radius[1]:g} and speed {self.speed[1]:g}, but {fit} do; take that many, a smaller data.radius, a greater "
                f"data.speed in larger frames, or leave 'orbit' out."
            )

    @property
    def steps(self) -> int:
        """Steps between frames in one clip, at least 1."""
        return max(self.frames - 1, 1)

    @property
    def widest(self) -> float:
        """How far the widest of the shapes reaches sideways, in radii."""
        return max(SHAPES[shape][0] for shape in self.shapes)

    @property
    def reach(self) -> float:
        """How far the largest object reaches from its centroid in any of the four directions, in pixels."""
        return self.radius[1] * max(max(SHAPES[shape]) for shape in self.shapes)

    @property
    def orbit_step(self) -> float:
        """The least turn of an orbit in one step, as the tangent of half its angle."""
        half = min(ORBIT_TURN / 2 / self.steps, 0.6)
        return half * (1 + 0.4 * half * half)  # up to 0.6 a little more than tan(half), whose last bit machines dispute

    @property
    def orbit_room(self) -> float:
        """The largest orbit that fits in the frame and turns far enough at the greatest speed, in pixels."""
        return min(min(self.height, self.width) / 2 - self.reach - ORBIT_MARGIN, self.speed[1] / (2 * self.orbit_step))

    @property
    def gravity(self) -> float:
        """The world's acceleration under gravity, in pixels per frame squared.

        Such that a clip changes an object's velocity by 1.25 of the greatest speed, or, in long clips, that a fall
        through the whole frame reaches the greatest speed, whichever is more.
        """
        fall = max(self.height - 2 * self.radius[0], 1.0)
        return max(1.25 * self.speed[1] / self.steps, self.speed[1] * self.speed[1] / (2 * fall))

    @property
    def behind_wall(self) -> float:
        """The largest radius of an object that the wall of this width of frame can hide, in pixels."""
        return min(self.radius[1], (self.width - 2 - 2 * WALL_SLACK) / (6 * self.widest))

    @property
    def wall(self) -> int:
        """The width of the wall of `occlude`, in pixels."""
        return math.ceil(2 * self.behind_wall * self.widest) + 1

    def box(self, shape: str, radius: float) -> tuple[float, float, float, float]:
        """Where the centre of an object can be: (x least, x most, y least, y most), in pixels."""
        side, up, down = SHAPES[shape]
        return side * radius, self.width - side * radius, up * radius, self.height - down * radius


def orbit_capacity(room: float, reach: float) -> int:
    """How many objects evenly spaced on the largest orbit stay apart."""
    count = 1
    while count < len(COLORS) and 2 * room * math.sin(math.pi / (count + 1)) >= 2 * reach + 1:
        count += 1
    return count


def _names(key: str, names: tuple[str, ...], known: Iterable[str]) -> None:
    known = tuple(known)
    if not names:
        raise UserError(f"data.{key} is empty; name at least one of {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise UserError(
                f"data.{key} names '{name}', which there is not.{did_you_mean(str(name), known)} Known: {', '.join(known)}."
            )
    if len(set(names)) < len(names):
        raise UserError(f"data.{key}={list(names)} names one twice; name each once.")


def _integer(key: str, value: object, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise UserError(
            f"data.{key}={value!r} is not a whole number " + (f"of at least {low}." if high is None else f"from {low} to {high}.")
        )


def _range(key: str, value: tuple[float, float], least: float) -> None:
    if len(value) != 2 or not least <= value[0] <= value[1] < math.inf:
        raise UserError(f"data.{key}={list(value)} is not a range; give [least, most] in pixels with {least:g} <= least <= most.")
