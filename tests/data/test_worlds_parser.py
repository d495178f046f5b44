"""The parser: states read from pixels against those that drew them, and no clip read better than it can be seen."""

import math

import numpy as np
import pytest

from vidgen.data.worlds import Worlds
from vidgen.data.worlds.parse import parse
from vidgen.data.worlds.recipe import COLORS, FAMILIES, GROUND, SHAPES, WALL
from vidgen.errors import UserError

NAMES = list(COLORS)


def clips(world, count, split="test"):
    found = [world.clip(split, index) for index in range(count)]
    return np.stack([clip["video"] for clip in found]), found


def pairs(parsed, found):
    """(clip number, its object, the parser's number of it, clip), matched by colour."""
    for i, clip in enumerate(found):
        read = [NAMES[number] for number in parsed.color[i]]
        assert sorted(read) == sorted(clip["factors"]["colors"])
        for k, name in enumerate(clip["factors"]["colors"]):
            yield i, k, read.index(name), clip


WORLDS = {
    **{family: {"families": (family,)} for family in FAMILIES if family != "collide"},
    **{f"two: {family}": {"families": (family,), "objects": 2} for family in FAMILIES},
    "shapes": {"families": ("bounce", "occlude", "agent"), "shapes": tuple(SHAPES), "height": 48, "width": 48},
    "two shapes": {"families": ("gravity", "occlude"), "objects": 2, "shapes": tuple(SHAPES), "height": 48, "width": 48},
}


@pytest.mark.parametrize("name", WORLDS)
def test_clean_clips_are_read(name):
    world = Worlds(**WORLDS[name])
    videos, found = clips(world, 24)
    parsed = parse(videos, world.recipe)
    errors, trusted = [], []
    for i, k, j, clip in pairs(parsed, found):
        states, factors = clip["states"][:, k], clip["factors"]
        error = np.hypot(*(parsed.position[i, :, j] - states[:, :2]).T)
        seen, visible = parsed.seen[i, :, j], states[:, 4]
        assert seen[visible > 0.6].all() and not seen[visible < 0.1].any()
        assert np.isnan(error[~seen]).all()
        assert (parsed.covered[i, :, j] | (visible > 0.99) | ~seen).all()
        errors += error[seen].tolist()
        trusted += error[parsed.trusted[i, :, j].all(-1)].tolist()
        assert parsed.full[i, j] == pytest.approx(factors["radii"][k], rel=0.04)
        assert world.recipe.shapes[parsed.shape[i, j]] == factors["shapes"][k]
        assert parsed.wall[i].tolist() == factors["wall"]
    assert np.median(errors) < 0.05
    assert np.quantile(trusted, 0.99) < 0.25
    assert (parsed.off < 0.1)[parsed.seen].all()
    assert (parsed.misfit < 0.15)[parsed.seen & ~parsed.covered].all()
    assert parsed.stray.max() < 2


def test_where_half_of_an_object_is_behind_the_wall_x_is_its_centre_all_the_same():
    world = Worlds(families=("occlude",))
    videos, found = clips(world, 32)
    parsed = parse(videos, world.recipe)
    cut = 0
    for i, clip in enumerate(found):
        visible = clip["states"][:, 0, 4]
        half = (visible > 0.4) & (visible < 0.6)
        assert parsed.position[i, half, 0] == pytest.approx(clip["states"][half, 0, :2], abs=0.25)
        cut += half.sum()
    assert cut > 10


def test_clips_do_not_depend_on_their_batch():
    world = Worlds(objects=2)
    videos, _ = clips(world, 40)  # more than are read at a time
    together = parse(videos, world.recipe)
    for i in (0, 31, 32, 39):
        alone = parse(videos[i : i + 1], world.recipe)
        for name in ("color", "shape", "full", "position", "radius", "misfit", "seen", "covered", "count", "stray"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i])


def blurred(videos, sigma):
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    out = videos.astype(np.float64)
    for axis in (2, 3):
        width = [(reach, reach) if a == axis else (0, 0) for a in range(5)]
        padded = np.pad(out, width, mode="edge")
        out = sum(k * padded.take(range(i, i + out.shape[axis]), axis) for i, k in enumerate(kernel))
    return np.rint(out).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_blur_makes_every_clip_read_worse(shape):
    world = Worlds(shapes=(shape,))
    videos, _ = clips(world, 6)
    last = parse(videos, world.recipe).misfit.mean((1, 2))
    for sigma in (0.5, 0.75, 1.0, 1.5, 2.0):
        misfit = parse(blurred(videos, sigma), world.recipe).misfit.mean((1, 2))
        assert (misfit > last).all()
        last = misfit


# What cannot be read is reported, and nothing made up in its place.


@pytest.fixture
def clip():
    world = Worlds(families=("bounce",))
    return world, world.clip("test", 3)["video"].copy()


def test_an_empty_frame(clip):
    world, video = clip
    video[4] = GROUND
    parsed = parse(video[None], world.recipe)
    assert np.nonzero(~parsed.seen[0, :, 0])[0].tolist() == [4]
    assert np.nonzero(np.isnan(parsed.position[0, :, 0]).any(-1))[0].tolist() == [4]
    assert np.nonzero(parsed.count[0] != 1)[0].tolist() == [4] and parsed.count[0, 4] == 0
    assert not parsed.trusted[0, 4].any()


def test_a_blank_clip():
    world = Worlds()
    parsed = parse(np.full((2, 5, 32, 32, 3), 128, dtype=np.uint8), world.recipe)
    assert not parsed.seen.any() and not parsed.count.any() and np.isnan(parsed.position).all() and not parsed.stray.any()


def test_a_second_object_of_another_colour_and_of_its_own(clip):
    world, video = clip
    state = world.clip("test", 3)["states"][:, 0, :2]
    y, x = np.mgrid[:32, :32] + 0.5
    corner = min(((cx, cy) for cx in (5, 27) for cy in (5, 27)), key=lambda c: -np.hypot(*(state[9] - c)))
    disc = np.hypot(x - corner[0], y - corner[1]) < 4
    color = COLORS[world.clip("test", 3)["factors"]["colors"][0]]
    for paint, count in ((next(c for c in COLORS.values() if c != color), 2), (color, 1)):
        spoilt = video.copy()
        spoilt[9][disc] = paint
        parsed = parse(spoilt[None], world.recipe)
        assert parsed.count[0, 9] == count
        assert parsed.stray[0, 9] > 40 and parsed.stray[0, [8, 10]].max() < 1


def test_an_off_colour(clip):
    world, video = clip
    color = np.array(COLORS[world.clip("test", 3)["factors"]["colors"][0]], dtype=float)
    share = np.abs(video[6].astype(float) - GROUND).max(-1, keepdims=True) / 96
    odd = color.copy()
    odd[0] = 128 + 0.25 * (color[0] - 128)
    video[6] = np.rint(GROUND + share * (odd - GROUND))
    off = parse(video[None], world.recipe).off[0, :, 0]
    assert off[6] > 0.3 and np.delete(off, 6).max() < 0.05


def test_another_shape():
    world, other = (Worlds(shapes=shapes, families=("orbit",)) for shapes in (("circle", "square"), ("triangle",)))
    videos, _ = clips(other, 8)
    parsed = parse(videos, world.recipe)
    assert (parsed.misfit > 0.4).all()


def test_a_hole_in_the_object(clip):
    world, video = clip
    x, y = np.floor(world.clip("test", 3)["states"][7, 0, :2]).astype(int)
    video[7, y - 1 : y + 2, x - 1 : x + 2] = GROUND
    misfit = parse(video[None], world.recipe).misfit[0, :, 0]
    assert misfit[7] > 5 * np.delete(misfit, 7).max()


def test_a_wall_is_found_only_where_whole_columns_are_one():
    world = Worlds(families=("bounce", "occlude"))
    videos = np.full((3, 4, 32, 32, 3), 128, dtype=np.uint8)
    videos[0, :, :, 10:19] = WALL
    videos[1, :, :16, 10:19] = WALL  # half a wall
    videos[2, :2, :, 10:19] = WALL  # in half of the frames
    assert parse(videos, world.recipe).wall.tolist() == [[10, 19], [0, 0], [0, 0]]
    assert parse(videos, Worlds(families=("bounce",)).recipe).wall.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("shape", [(2, 5, 30, 32, 3), (2, 5, 32, 32, 1), (5, 32, 32, 3)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(UserError, match=r"reads uint8 videos \(N, T, 32, 32, 3\), not uint8 of shape"):
        parse(np.zeros(shape, dtype=np.uint8), Worlds().recipe)


def test_other_types_and_no_clips_are_refused():
    with pytest.raises(UserError, match="not float32 of shape"):
        parse(np.zeros((1, 5, 32, 32, 3), dtype=np.float32), Worlds().recipe)
    with pytest.raises(UserError, match="given no clip; give it at least one"):
        parse(np.zeros((0, 5, 32, 32, 3), dtype=np.uint8), Worlds().recipe)
