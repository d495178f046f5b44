"""Worlds: the same to the last bit everywhere, every motion by its law, every fact of the sample true of the pixels."""

import ast
import hashlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from vidgen.data import worlds
from vidgen.data.worlds import ACTIONS, Worlds, laws, paint, parse_caption
from vidgen.data.worlds.draw import Draw
from vidgen.data.worlds.recipe import COLORS, FAMILIES, GROUND, SHAPES, WALL
from vidgen.errors import UserError

ALONE = tuple(family for family in FAMILIES if family != "collide")
KEEP = 0.6  # of its speed, what a wall leaves a falling object

# Of recipes, the sha256 of what six clips of each split hold. Whoever changes one of these changes every world that was ever
# reported on: raise VERSION in recipe.py with it.
GOLDEN = {
    "default": ({}, "562573cb97b7e8a9e1a2887f11955a47ff6950592cf7eecb1e6074406bde64d5"),
    "every family": (
        {"families": FAMILIES, "objects": 2, "height": 48, "width": 56, "seed": 3},
        "b378165d2ca5da9ba1c9ec96f2c658e7e66a4e1c703d96dda09c24f41ef7aa88",
    ),
    "every shape": (
        {"families": ALONE, "shapes": tuple(SHAPES), "height": 41, "width": 53, "frames": 8},
        "151203af5434eeb279de7095a54689e42f12a1007493cea9eb93674485fd270b",
    ),
    "a crowd": (
        {"families": ("collide",), "objects": 4, "height": 64, "width": 64, "frames": 33},
        "f7025a5f8628bee6bf03eda0451a49f8a2c6c3ddd14d7fd1e3ec981894a00e83",
    ),
    "one frame": (
        {"frames": 1, "height": 24, "width": 24, "colors": 3, "seed": 2**64 - 1},
        "088e443ca5f92d251f14312ec2d2b913ca4e4438a8ee97963b0d73c810924193",
    ),
}


def digest(world, count=6):
    found = hashlib.sha256()
    for split in ("train", "val", "test"):
        for index in range(count):
            clip = world.clip(split, index)
            for key in ("video", "actions", "states"):
                found.update(clip[key].tobytes())
            found.update(repr((clip["label"], clip["caption"], clip["factors"])).encode())
    return found.hexdigest()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_hashes(name):
    recipe, expected = GOLDEN[name]
    assert digest(Worlds(**recipe)) == expected


def test_what_draws_a_clip_uses_no_function_whose_last_bit_machines_dispute():
    exact = {"math": {"sqrt", "ceil", "floor", "pi"}, "np": {"sqrt", "floor", "rint", "minimum", "maximum", "abs", "where"}}
    layout = "arange array broadcast_arrays concatenate divide empty full inf ones stack triu_indices zeros zeros_like"
    types = "bool_ float64 int64 uint8 uint64 random"
    exact["np"] |= {*layout.split(), *types.split()}
    for module in ("draw", "laws", "scenes", "render"):
        source = (Path(worlds.__file__).parent / f"{module}.py").read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in exact:
                assert node.attr in exact[node.value.id], f"{module}.py, line {node.lineno}: {node.value.id}.{node.attr}"
            # Products of matrices go through libraries that add in an order of their own; so may an int power.
            assert not isinstance(getattr(node, "op", None), ast.MatMult | ast.Pow) or _is_constant(node), (module, node.lineno)


def _is_constant(node):
    return isinstance(node.left, ast.Constant)


def test_uniform_numbers_are_those_of_numpys_generator_over_the_same_philox_stream():
    draw = Draw(seed=2**64 - 1, stream=2, index=2**32 - 1)
    key, counter = np.array([2**64 - 1, 2], dtype=np.uint64), np.array([0, 2**32 - 1, 0, 0], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=counter)
    assert [draw.uniform() for _ in range(100)] == np.random.Generator(bits).random(100).tolist()


def test_draws_are_what_they_say():
    draw = Draw(seed=0, stream=0, index=0)
    assert {draw.integer(5) for _ in range(200)} == set(range(5))
    assert {draw.sign() for _ in range(50)} == {-1.0, 1.0}
    assert all(sorted(draw.distinct(8, 8)) == list(range(8)) for _ in range(20))
    x, y = np.array([draw.direction() for _ in range(2000)]).T
    assert x**2 + y**2 == pytest.approx(1, abs=1e-15)
    assert len({(a, b) for a, b in zip(x > 0, y > 0, strict=True)}) == 4
    assert (np.abs(y) > np.abs(x)).mean() == pytest.approx(0.5, abs=0.1)
    steep = np.array([draw.direction(0.2) for _ in range(500)])
    assert np.abs(np.arctan(steep[:, 1] / steep[:, 0])).max() <= 2 * math.atan(0.2)


@pytest.mark.parametrize("u", [1e-9, 0.01, 0.3, 1.0, 5.0, 100.0])
def test_arctangent(u):
    assert laws.arctangent(u) == pytest.approx(math.atan(u), rel=2e-15)


def test_a_clip_is_a_function_of_split_and_index_alone():
    recipe = {"families": ALONE, "objects": 1, "seed": 7}
    world = Worlds(**recipe)
    indices = [5, 2**32 - 1, 0, 3]
    first = [world.clip("train", index) for index in indices]
    for clip in first:
        clip["video"][:], clip["states"][:] = 0, 0  # whoever spoils his copy spoils no other
    again = {index: Worlds(**recipe).clip("train", index, epoch=9) for index in reversed(indices)}
    for index, clip in zip(indices, first, strict=True):
        other = world.clip("train", np.int64(index))
        assert (other["video"] == again[index]["video"]).all() and other["video"].any()
        assert (other["states"] == again[index]["states"]).all()
        assert (other["actions"] == again[index]["actions"]).all()
        assert {key: other[key] for key in ("label", "caption", "factors")} == {
            key: clip[key] for key in ("label", "caption", "factors")
        }
        scene = world.scene("train", index)
        assert (paint(scene, 32, 32)[0] == other["video"]).all()


def test_no_clip_is_in_two_splits_or_seeds():
    seen = [
        Worlds(seed=seed).clip(split, i)["video"].tobytes()
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for i in range(60)
    ]
    assert len(set(seen)) == len(seen)


def test_indices_end_where_the_split_does():
    world = Worlds()
    for split, size in (("train", 2**32), ("val", 2**20), ("test", 2**20)):
        assert world.size(split) == size
        world.clip(split, size - 1)
        for index in (-1, size):
            with pytest.raises(IndexError, match=f"'{split}'"):
                world.clip(split, index)


def test_the_fingerprint_knows_every_option_and_nothing_else():
    changes = {
        "frames": 16, "height": 33, "width": 33, "families": ("gravity", "bounce", "orbit"), "objects": 2, "radius": (4, 5),
        "speed": (1, 1.5), "colors": 7, "shapes": ("square",), "seed": 1,
    }  # fmt: skip
    prints = [Worlds().fingerprint, *(Worlds(**{key: value}).fingerprint for key, value in changes.items())]
    assert len(set(prints)) == len(prints)
    assert Worlds(families=["bounce", "gravity", "orbit"], radius=[4, 6]).fingerprint == Worlds().fingerprint


@pytest.mark.parametrize(
    ("frames", "height", "width", "objects", "families"),
    [
        (1, 16, 16, 1, ("bounce", "gravity", "orbit", "agent")),
        (2, 17, 90, 1, ALONE),
        (7, 33, 47, 2, ("bounce", "gravity", "collide", "occlude", "agent")),
        (65, 128, 96, 2, FAMILIES),
        (18, 64, 31, 1, ALONE),
    ],
)
def test_any_size_and_length(frames, height, width, objects, families):
    world = Worlds(frames=frames, height=height, width=width, objects=objects, radius=(2, 3), families=families)
    assert world.shape == (frames, height, width)
    labels = set()
    for index in range(20):
        clip = world.clip("train", index)
        labels.add(clip["label"])
        assert clip["video"].shape == (frames, height, width, 3) and clip["video"].dtype == np.uint8
        assert clip["states"].shape == (frames, objects, 5) and clip["states"].dtype == np.float64
        assert clip["actions"].shape == (frames,) and clip["actions"].dtype == np.int64
        assert clip["factors"]["family"] == world.class_names[clip["label"]]
        assert all(len(clip["factors"][key]) == objects for key in ("colors", "shapes", "radii", "sizes"))
        for k, box in enumerate(boxes(world, clip)):
            x, y = clip["states"][:, k, 0], clip["states"][:, k, 1]
            assert (x >= box[0] - 1e-9).all() and (x <= box[1] + 1e-9).all()
            assert (y >= box[2] - 1e-9).all() and (y <= box[3] + 1e-9).all()
        assert (clip["states"][..., 4] >= 0).all() and (clip["states"][..., 4] <= 1).all()
    assert labels == set(range(len(families)))


def boxes(world, clip):
    """Where each object's centre may be: (x least, x most, y least, y most), from the area of its shape."""
    _, height, width = world.shape
    reaches = {
        "circle": (1, 1, 1),
        "square": (math.sqrt(math.pi) / 2,) * 3,
        "diamond": (math.sqrt(math.pi / 2),) * 3,
        # Equilateral of area pi: half a side, and two thirds and a third of the height.
        "triangle": tuple(math.sqrt(math.pi / math.sqrt(3)) * share for share in (1, 2 / math.sqrt(3), 1 / math.sqrt(3))),
    }
    for shape, radius in zip(clip["factors"]["shapes"], clip["factors"]["radii"], strict=True):
        side, up, down = (reach * radius for reach in reaches[shape])
        yield side, width - side, up, height - down


# Motion, family by family, against what physics says of it.


def motions(family, count=40, **recipe):
    """Of ``count`` clips of one family: position and velocity (T, n, 2), the boxes of the centres (n, 4), and the clip."""
    world = Worlds(families=(family,), **recipe)
    for index in range(count):
        clip = world.clip("train", index)
        states = clip["states"]
        yield states[..., :2], states[..., 2:4], np.array(list(boxes(world, clip))), clip


def triangle_wave(start, velocity, low, high, t):
    """Where an object is that moves straight on in a hall of mirrors."""
    period = 2 * (high - low)
    phase = (start - low + velocity * t) % period
    return low + np.minimum(phase, period - phase)


@pytest.mark.parametrize(
    "recipe", [{}, {"frames": 50, "objects": 2, "height": 48, "shapes": ("triangle", "diamond")}, {"speed": (20, 60)}]
)
def test_bounce_is_a_triangle_wave(recipe):
    for position, velocity, box, _ in motions("bounce", **recipe):
        t = np.arange(len(position))[:, None]
        for axis in (0, 1):
            low, high = box[:, 2 * axis], box[:, 2 * axis + 1]
            expected = triangle_wave(position[0, :, axis], velocity[0, :, axis], low, high, t)
            assert position[..., axis] == pytest.approx(expected, abs=1e-9)
            # The velocity is the path's slope, save where a wall is touched.
            ahead = triangle_wave(position[0, :, axis], velocity[0, :, axis], low, high, t + 1e-6)
            slope = (ahead - position[..., axis]) / 1e-6
            inner = (position[..., axis] > low + 1e-3) & (position[..., axis] < high - 1e-3)
            assert slope[inner] == pytest.approx(velocity[..., axis][inner], abs=1e-4)


def falls(height, climb, gravity):
    """Height and upward velocity one frame on, hit by hit; how many hits."""
    left, hits = 1.0, 0
    while True:
        until = (climb + math.sqrt(climb * climb + 2 * gravity * height)) / gravity
        if until > left:
            return height + climb * left - gravity * left * left / 2, climb - gravity * left, hits
        left, height, climb, hits = left - until, 0.0, KEEP * (gravity * until - climb), hits + 1
        if climb < 0.01:
            return 0.0, 0.0, hits


def slides(x, v, low, high):
    left = 1.0
    while True:
        until = ((high if v > 0 else low) - x) / v
        if until > left:
            return x + v * left, v
        left, x, v = left - until, high if v > 0 else low, -KEEP * v


@pytest.mark.parametrize("recipe", [{}, {"frames": 65, "objects": 2}, {"height": 64, "width": 64, "speed": (3.0, 6.0)}])
def test_gravity_is_a_parabola_between_impacts_that_keep_the_restitution(recipe):
    gravity = Worlds(families=("gravity",), **recipe).recipe.gravity
    impacts = free = 0
    for position, velocity, box, _ in motions("gravity", **recipe):
        for p, v, b in zip(position.swapaxes(0, 1), velocity.swapaxes(0, 1), box, strict=True):
            height, hits = b[3] - p[:, 1], np.zeros(len(p), dtype=int)
            for t in range(1, len(p)):
                z, climb, hits[t] = falls(height[t - 1], -v[t - 1, 1], gravity)
                x, vx = slides(p[t - 1, 0], v[t - 1, 0], b[0], b[1])
                assert [height[t], -v[t, 1], p[t, 0], v[t, 0]] == pytest.approx([z, climb, x, vx], abs=1e-7)
            calm = (hits[1:-1] == 0) & (hits[2:] == 0)
            assert np.diff(p[:, 1], n=2)[calm] == pytest.approx(gravity, abs=1e-9)
            energy = v[:, 1] ** 2 / 2 + gravity * height
            once = (hits[1:] == 1) & (energy[:-1] > 0.05)
            assert energy[1:][once] / energy[:-1][once] == pytest.approx(KEEP**2, abs=1e-6)
            assert p[:, 1].min() >= b[2]  # it turns below the ceiling
            impacts, free = impacts + once.sum(), free + calm.sum()
    assert impacts >= 10 and free > 200


@pytest.mark.parametrize(
    "recipe", [{}, {"objects": 3, "height": 80, "width": 64, "radius": (3, 4)}, {"frames": 5}, {"frames": 40}]
)
def test_orbit_keeps_its_radius_and_angular_speed(recipe):
    for position, velocity, box, _ in motions("orbit", **recipe):
        frames, n = position.shape[:2]
        z, w = (a[..., 0] + 1j * a[..., 1] for a in (position, velocity))
        # The centre is where (x - cx)^2 + (y - cy)^2 = r^2, linear in cx, cy and r^2 - cx^2 - cy^2.
        for k in range(n):
            table = np.stack([2 * z[:, k].real, 2 * z[:, k].imag, np.ones(frames)], -1)
            cx, cy, _ = np.linalg.lstsq(table, np.abs(z[:, k]) ** 2, rcond=None)[0]
            arm = z[:, k] - (cx + 1j * cy)
            radius, turns = np.abs(arm).mean(), np.angle(arm[1:] / arm[:-1])
            assert np.abs(arm) == pytest.approx(radius, abs=1e-6)
            assert turns == pytest.approx(turns[0], abs=1e-7)
            assert w[:, k] == pytest.approx(1j * turns[0] * arm, abs=1e-6)
            assert np.abs(turns).sum() >= 4
            assert (np.abs(position[:, k] - (box[k, ::2] + box[k, 1::2]) / 2) < (box[k, 1::2] - box[k, ::2]) / 2).all()
        if n > 1:
            centre = z.mean(1, keepdims=True)
            assert np.abs(centre - centre[0]).max() < 1e-9
            spread = np.sort((np.angle((z - centre) / (z - centre)[:, :1]) + 1) % (2 * math.pi)) - 1
            assert spread == pytest.approx(np.broadcast_to(2 * math.pi * np.arange(n) / n, spread.shape), abs=1e-9)


@pytest.mark.parametrize(
    "recipe", [{"objects": 2}, {"objects": 4, "height": 48, "width": 40}, {"objects": 2, "height": 128, "width": 128}]
)
def test_collisions_conserve_momentum_and_energy(recipe):
    calm = meetings = 0
    for position, velocity, box, clip in motions("collide", **recipe):
        energy = (velocity**2).sum((1, 2))
        assert energy == pytest.approx(energy[0], rel=1e-9)
        gaps = [np.hypot(*(position[:, i] - position[:, j]).T) for i, j in itertools.combinations(range(position.shape[1]), 2)]
        assert min(gap.min() for gap in gaps) >= 2 * clip["factors"]["radii"][0] - 1e-9
        # Where none can reach a wall within a frame, nothing takes momentum away.
        fast = math.sqrt(energy[0])
        inner = ((position > box[:, ::2] + fast) & (position < box[:, 1::2] - fast)).all((1, 2))[:-1]
        momentum, shares = velocity.sum(1), velocity[..., 0] ** 2 + velocity[..., 1] ** 2
        assert momentum[1:][inner] == pytest.approx(momentum[:-1][inner], abs=1e-9)
        met = (np.abs(shares[1:] - shares[:-1]) > 1e-6).any(1)
        assert met.any()
        # Straight on where nothing is met.
        straight = inner & ~met
        assert position[1:][straight] == pytest.approx((position + velocity)[:-1][straight], abs=1e-9)
        calm, meetings = calm + straight.sum(), meetings + (inner & met).sum()
    assert calm > 40 and meetings > 10


def test_a_collision_swaps_velocities_along_the_line_between_the_discs():
    position, velocity = np.array([[[10.0, 20.0], [20.0, 20.0]]]), np.array([[[1.0, 0.5], [-1.0, -0.25]]])
    p, v = laws.collide(position, velocity, np.full((1, 2), 3.0), 100, 100, 8)
    # Closed form: they touch when |(10 - 2 t, -0.75 t)| = 6.
    a, b, c = 4 + 0.75**2, -40, 100 - 36
    t = (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a)
    line = (position[0, 0] + velocity[0, 0] * t) - (position[0, 1] + velocity[0, 1] * t)
    line /= np.hypot(*line)
    swap = ((velocity[0, 0] - velocity[0, 1]) @ line) * line
    assert v[0, -1] == pytest.approx(np.array([velocity[0, 0] - swap, velocity[0, 1] + swap]), abs=1e-12)
    assert p[0, -1] == pytest.approx(position[0] + velocity[0] * t + v[0, -1] * (7 - t), abs=1e-12)


def test_colliding_discs_retrace_their_paths_when_time_runs_backwards():
    for position, velocity, _, clip in motions("collide", 10, objects=3, height=48, width=48):
        radius = np.array([clip["factors"]["radii"]])
        back, _ = laws.collide(position[-1:], -velocity[-1:], radius, 48, 48, len(position))
        assert back[0, ::-1] == pytest.approx(position, abs=1e-6)


def test_discs_jammed_between_two_walls_do_not_hang_the_law():
    position = np.array([[[5.5, 16.0], [16.0, 16.0], [26.5, 16.0]]])
    p, _ = laws.collide(position, np.array([[[1.0, 0.0], [0.3, 0.0], [-0.5, 0.0]]]), np.full((1, 3), 5.6), 32, 32, 17)
    assert p.shape == (1, 17, 3, 2) and np.isfinite(p).all()


def test_occluded_objects_bounce_and_show_what_the_wall_leaves():
    hidden = 0
    for position, velocity, box, clip in motions("occlude"):
        left, right = clip["factors"]["wall"]
        assert (clip["video"][:, :, left:right] == WALL).all()
        assert (clip["video"][:, :, [left - 1, right]] != WALL).any(-1).all()
        t = np.arange(len(position))[:, None]
        for axis in (0, 1):
            low, high = box[:, 2 * axis], box[:, 2 * axis + 1]
            expected = triangle_wave(position[0, :, axis], velocity[0, :, axis], low, high, t)
            assert position[..., axis] == pytest.approx(expected, abs=1e-9)
        radius, x, share = clip["factors"]["radii"][0], position[:, 0, 0], clip["states"][:, 0, 4]
        assert share == pytest.approx(1 - left_of(right - x, radius) + left_of(left - x, radius), abs=0.02)
        assert share[0] == 1
        hidden += (share == 0).any()
    assert hidden >= 20


def left_of(edge, radius):
    """The share of a disc about 0 that lies left of ``edge``: a circular segment."""
    u = np.clip(edge / radius, -1, 1)
    return 1 - (np.arccos(u) - u * np.sqrt(1 - u * u)) / math.pi


def test_visible_share_is_what_later_objects_leave_of_earlier_ones():
    lenses = 0
    for position, _, _, clip in motions("bounce", objects=2):
        share, radii = clip["states"][..., 4], clip["factors"]["radii"]
        distance = np.hypot(*(position[:, 0] - position[:, 1]).T)
        overlap = np.array([lens(d, *radii) for d in distance])
        assert (share[:, 1] == 1).all()
        assert share[:, 0] == pytest.approx(1 - overlap / (math.pi * radii[0] ** 2), abs=0.03)
        lenses += (overlap > 5).sum()
    assert lenses > 20


def lens(d, a, b):
    """Area that circles of radii a and b at distance d share."""
    if d >= a + b:
        return 0.0
    if d <= abs(a - b):
        return math.pi * min(a, b) ** 2
    x = (d * d + a * a - b * b) / (2 * d)
    y = math.sqrt(a * a - x * x)
    return a * a * math.atan2(y, x) + b * b * math.atan2(y, d - x) - d * y


@pytest.mark.parametrize("objects", [1, 3])
def test_the_agent_obeys_its_actions_and_the_borders(objects):
    moves = dict(zip(ACTIONS, [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], strict=True))
    stopped, asked = 0, set()
    for position, velocity, box, clip in motions("agent", objects=objects):
        assert clip["actions"][0] == 0
        for t, action in enumerate(clip["actions"][1:], start=1):
            wanted = position[t - 1] + 2.0 * np.array(moves[ACTIONS[action]])
            assert position[t] == pytest.approx(np.clip(wanted, box[:, ::2], box[:, 1::2]), abs=1e-12)
            assert velocity[t] == pytest.approx(position[t] - position[t - 1], abs=1e-12)
            stopped += (position[t] != wanted).any()
            asked.add(int(action))
        assert np.abs(position - position[0]).max() > 1  # something happens
    assert stopped > 10 and asked == set(range(5))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", [{}, {"frames": 33, "height": 64, "width": 64, "speed": (0.5, 4.0)}])
def test_speeds_stay_in_range(family, recipe):
    least, most = recipe.get("speed", (1.0, 2.0))
    slowest, fastest = math.inf, 0.0
    for position, velocity, _, clip in motions(family, objects=1 + (family == "collide"), **recipe):
        speed = np.hypot(velocity[..., 0], velocity[..., 1])
        step = np.hypot(*np.moveaxis(np.diff(position, axis=0), -1, 0))
        assert (step <= most * 1.1).all()
        if family != "agent":
            assert (clip["actions"] == 0).all()
        slowest, fastest = min(slowest, speed.min()), max(fastest, speed.max())
    assert fastest <= most * (1.1 if family == "gravity" else 1 + 1e-9)
    assert fastest >= most * 0.8
    if family in ("bounce", "occlude"):
        assert slowest >= least - 1e-9
    if family == "orbit":
        assert slowest >= least * 0.98


# Pixels.


def scenes(count=8, **recipe):
    world = Worlds(**recipe)
    for index in range(count):
        clip = world.clip("val", index)
        yield clip, clip["video"].astype(float)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_centroid_and_area_of_the_pixels_are_those_of_the_state(shape):
    for clip, video in scenes(shapes=(shape,)):
        color = np.array(COLORS[clip["factors"]["colors"][0]], dtype=float)
        share = (video - GROUND)[..., 0] / (color - GROUND)[0]
        area = share.sum((1, 2))
        x = (share * (np.arange(32) + 0.5)).sum((1, 2)) / area
        y = (share * (np.arange(32) + 0.5)[:, None]).sum((1, 2)) / area
        expected = clip["states"][:, 0]
        limit = 0.06 if shape == "circle" else 0.15
        assert np.hypot(x - expected[:, 0], y - expected[:, 1]).max() < limit
        assert area == pytest.approx(math.pi * clip["factors"]["radii"][0] ** 2, rel=0.03)


def inside(shape, dx, dy):
    """Whether points lie in a shape of area pi about its centroid, by its sides."""
    if shape == "circle":
        return dx * dx + dy * dy <= 1
    if shape == "square":
        return np.maximum(abs(dx), abs(dy)) <= math.sqrt(math.pi) / 2
    if shape == "diamond":
        return abs(dx) + abs(dy) <= math.sqrt(math.pi / 2)
    half = math.sqrt(math.pi / math.sqrt(3))  # of a side; the base lies below, at half / sqrt(3)
    return (dy <= half / math.sqrt(3)) & (math.sqrt(3) * abs(dx) <= dy + 2 * half / math.sqrt(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_anti_aliased_as_by_many_samples_a_pixel(shape):
    fine = (np.arange(32 * 8) + 0.5) / 8
    for clip, video in scenes(3, shapes=(shape,), frames=3):
        color, radius = np.array(COLORS[clip["factors"]["colors"][0]], dtype=float), clip["factors"]["radii"][0]
        for frame, state in zip(video, clip["states"][:, 0], strict=True):
            points = inside(shape, (fine[None] - state[0]) / radius, (fine[:, None] - state[1]) / radius)
            share = points.reshape(32, 8, 32, 8).mean((1, 3))[..., None]
            error = np.abs(frame - (GROUND + share * (color - GROUND))) / 96
            assert error.max() < (0.1 if shape == "circle" else 0.3)
            assert error.mean() < 0.005


def test_later_objects_hide_earlier_ones_and_the_wall_hides_all():
    for clip, video in scenes(12, families=("bounce", "occlude"), objects=3, height=64, width=64):
        expected = np.empty_like(video)
        expected[:] = GROUND
        x, y = np.arange(64) + 0.5, np.arange(64)[:, None] + 0.5
        for k, name in enumerate(clip["factors"]["colors"]):
            px, py = (clip["states"][:, k, axis][:, None, None] for axis in (0, 1))
            share = np.clip(0.5 + clip["factors"]["radii"][k] - np.hypot(x - px, y - py), 0, 1)[..., None]
            expected = expected * (1 - share) + share * np.array(COLORS[name])
        left, right = clip["factors"]["wall"]
        expected[:, :, left:right] = WALL
        assert np.abs(video - expected).max() <= 0.5 + 1e-9
        assert (left < right) == (clip["factors"]["family"] == "occlude")
        assert len(set(clip["factors"]["colors"])) == 3


# Words.


@pytest.mark.parametrize(("family", "objects"), [(f, n) for f in FAMILIES for n in (1, 2, 3) if n > 1 or f != "collide"])
def test_captions_read_back_as_the_factors(family, objects):
    shapes = ("circle",) if family == "collide" else tuple(SHAPES)
    world = Worlds(families=(family,), objects=objects, shapes=shapes, radius=(2, 3), height=48, width=48)
    for index in range(8):
        clip = world.clip("test", index)
        factors = clip["factors"]
        assert parse_caption(clip["caption"]) == {key: factors[key] for key in ("family", "colors", "shapes", "sizes")}
        assert factors["sizes"] == ["small" if radius < 2.5 else "large" for radius in factors["radii"]]


def test_a_caption_is_a_sentence():
    texts = {Worlds(objects=n, height=64, width=64).clip("train", 0)["caption"] for n in (1, 2, 3)}
    assert len(texts) == 3
    for text in texts:
        assert text.startswith("A ") and text.endswith(".") and text.count(".") == 1
    assert parse_caption("A small red circle bounces off the walls.")["colors"] == ["red"]


@pytest.mark.parametrize(
    "caption", ["", "A dog runs.", "A small pink circle bounces off the walls.", "A small red circle flies."]
)
def test_other_captions_are_refused(caption):
    with pytest.raises(UserError, match=r"not of the worlds' grammar; write one like 'A small red circle"):
        parse_caption(caption)


# Mistakes.

MISTAKES = {
    "unknown family": ({"families": ["bounse"]}, "data.families names 'bounse', which there is not. Did you mean 'bounce'?"),
    "unknown shape": ({"shapes": ["circles"]}, "data.shapes names 'circles', which there is not. Did you mean 'circle'?"),
    "no family": ({"families": []}, "data.families is empty; name at least one of bounce, gravity, orbit"),
    "family twice": ({"families": ["bounce", "bounce"]}, "names one twice"),
    "no frames": ({"frames": 0}, "data.frames=0 is not a whole number of at least 1."),
    "half a frame": ({"frames": 1.5}, "data.frames=1.5 is not a whole number of at least 1."),
    "a truth for a number": ({"height": True}, "data.height=True is not a whole number of at least 1."),
    "nine colours": ({"colors": 9}, "data.colors=9 is not a whole number from 1 to 8."),
    "negative seed": ({"seed": -1}, "data.seed=-1 is not a whole number from 0 to 18446744073709551615."),
    "no object": ({"objects": 0}, "data.objects=0 is not a whole number of at least 1."),
    "more objects than colours": ({"objects": 3, "colors": 2}, "take at most 2 objects or data.colors=3."),
    "nine objects": ({"objects": 9}, "needs as many colours"),
    "radius upside down": ({"radius": (6, 4)}, "data.radius=[6.0, 4.0] is not a range; give [least, most] in pixels with 2 <="),
    "tiny radius": ({"radius": (1, 4)}, "with 2 <= least <= most"),
    "one radius": ({"radius": [4]}, "data.radius=[4.0] is not a range"),
    "no speed": ({"speed": (0, 1)}, "data.speed=[0.0, 1.0] is not a range; give [least, most] in pixels with 0.1 <="),
    "speed of no number": ({"speed": (math.nan, 1)}, "is not a range"),
    "endless speed": ({"speed": (1, math.inf)}, "is not a range"),
    "small frames": ({"families": ["bounce"], "height": 15}, "no room to move; take frames of at least 16x16 or a smaller"),
    "small frames for an orbit": ({"width": 19, "height": 19}, "which has no room in a 19x19 frame at radius 6; take frames of"),
    "crowd": ({"families": ["bounce"], "objects": 5}, "do not fit side by side in a 32x32 frame at radius 6; 4 do"),
    "crowded orbit": ({"objects": 4}, "do not fit on one orbit in a 32x32 frame at radius 6 and speed 2, but"),
    "lonely collision": ({"families": ["collide"]}, "needs two objects or more, but data.objects=1; set data.objects=2"),
    "colliding squares": ({"families": ["collide"], "objects": 2, "shapes": ["square"]}, "set data.shapes=[circle] or leave"),
    "narrow wall": ({"families": ["occlude"], "width": 24}, "take data.width=32 or more, or a smaller data.radius."),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence_that_says_how_to_go_on(name):
    options, sentence = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        Worlds(**options)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"families": ["bounce"], "height": 16, "width": 16},
        {"height": 20, "width": 20},
        {"families": ["bounce"], "objects": 4},
        {"families": ["occlude"], "width": 32},
        {"families": ["collide"], "objects": 2},
        {"objects": 3, "colors": 3, "families": ["gravity"]},
        {"objects": 4, "radius": (2, 3), "speed": (1, 6), "height": 48, "width": 48},
    ],
)
def test_what_a_sentence_offers_instead_can_be_had(options):
    assert Worlds(**options).clip("train", 0)["video"].any()


def test_an_unknown_split_is_a_users_mistake():
    for call in (Worlds().size, lambda split: Worlds().clip(split, 0)):
        with pytest.raises(UserError, match=r"no split 'trian'\. Did you mean 'train'"):
            call("trian")
