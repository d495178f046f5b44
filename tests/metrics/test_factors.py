"""Factors of objects: read as they are, counted by brute force, and indifferent to the order of things."""

import itertools

import numpy as np
import pytest

from vidgen.data.worlds import Worlds
from vidgen.data.worlds.parse import parse
from vidgen.data.worlds.recipe import COLORS, SHAPES
from vidgen.metrics.factors import Factors, coverage, factor_fd, novelty, read_factors, true_factors
from vidgen.metrics.legality import sharp_frames

NAMES = list(COLORS)


@pytest.fixture(scope="module")
def world():
    return Worlds(families=("bounce", "gravity"), objects=2, height=48, width=48, shapes=tuple(SHAPES))


@pytest.fixture(scope="module")
def true(world):
    return true_factors(world, "test", range(24))


@pytest.fixture(scope="module")
def read(world):
    parsed = parse(np.stack([world.clip("test", index)["video"] for index in range(24)]), world.recipe)
    return read_factors(parsed, sharp_frames(parsed))


def chosen(factors, order):
    return Factors(**{name: value[order] for name, value in vars(factors).items()})


def test_factors_read_from_pixels_are_those_of_the_scenes(true, read):
    assert read.read.all() and true.read.all()
    for i in range(24):
        order = [read.color[i].tolist().index(color) for color in true.color[i]]
        assert read.shape[i, order].tolist() == true.shape[i].tolist()
        assert read.radius[i, order] == pytest.approx(true.radius[i], rel=0.05)
        # What passes behind the other is not read there, so that the mean is over other frames.
        assert read.speed[i, order] == pytest.approx(true.speed[i], abs=0.3)
        assert read.place[i, order] == pytest.approx(true.place[i], abs=0.3)
        assert read.heading[i, order] == pytest.approx(true.heading[i], abs=0.25)


def test_vectors_tell_factors_apart_and_are_alike_in_scale(world, true):
    rows = true.vectors(world.recipe)
    assert rows.shape == (48, 9 + len(SHAPES)) and rows.dtype == np.float64
    assert np.abs(rows).max() <= 1.1
    assert {tuple(row) for row in rows[:, :3]} <= set(itertools.product((-1.0, 1.0), repeat=3))
    assert (rows[:, 3 : 3 + len(SHAPES)].sum(1) == 1).all()


def test_coverage_is_what_counting_says(world, true):
    recipe, found = world.recipe, coverage(true, world.recipe)
    objects = [(i, k) for i in range(24) for k in range(2)]

    def at(value, low, high):
        return min(max(int((value - low) / (high - low) * 4), 0), 3)

    bins = {
        "color": ([true.color[one] for one in objects], 8),
        "shape": ([true.shape[one] for one in objects], 4),
        "size": ([at(true.radius[one], *recipe.radius) for one in objects], 4),
        "speed": ([at(true.speed[one], 0, recipe.speed[1]) for one in objects], 4),
        "position": ([(at(true.place[one][0], 0, 48), at(true.place[one][1], 0, 48)) for one in objects], 16),
    }
    assert set(found) == {*bins, "all"}
    for name, (values, count) in bins.items():
        assert found[name] == len(set(values)) / count
    pairs = [len(set(zip(a, b, strict=True))) / (m * n) for (a, m), (b, n) in itertools.combinations(bins.values(), 2)]
    assert found["all"] == pytest.approx(np.mean(pairs))


def test_samples_that_are_all_alike_cover_next_to_nothing(world, true):
    one = chosen(true, np.zeros(24, dtype=int))
    found = coverage(one, world.recipe)
    assert found["color"] == 2 / 8 and found["all"] < 0.15 < coverage(true, world.recipe)["all"]


def test_novelty_is_the_distance_to_the_nearest_and_zero_for_copies(world, true):
    training = true_factors(world, "train", range(40))
    assert novelty(chosen(training, slice(5, 9)), training, world.recipe) == pytest.approx(0)
    ours, theirs = true.vectors(world.recipe), training.vectors(world.recipe)
    brute = [min(np.linalg.norm(one - other) for other in theirs) for one in ours]
    assert novelty(true, training, world.recipe) == pytest.approx(brute)
    assert min(brute) > 0


def test_neither_the_order_of_objects_nor_that_of_clips_matters(world, true):
    other = chosen(true, np.random.default_rng(0).permutation(24))
    other = Factors(**{name: value[:, ::-1] for name, value in vars(other).items()})
    training = true_factors(world, "train", range(16))
    assert coverage(other, world.recipe) == coverage(true, world.recipe)
    assert sorted(novelty(other, training, world.recipe)) == pytest.approx(sorted(novelty(true, training, world.recipe)))


def test_what_was_not_read_is_in_no_set(world):
    blank = np.full((3, 17, 48, 48, 3), 128, dtype=np.uint8)
    parsed = parse(blank, world.recipe)
    factors = read_factors(parsed, sharp_frames(parsed))
    assert not factors.read.any() and len(factors.vectors(world.recipe)) == 0
    assert set(coverage(factors, world.recipe).values()) == {0.0}
    assert len(novelty(factors, factors, world.recipe)) == 0


def test_parts_make_a_whole(true):
    parts = Factors.cat([true[:7], true[7:]])
    for name, value in vars(true).items():
        assert np.array_equal(getattr(parts, name), value)


def test_the_frechet_distance_of_factors_is_nothing_for_the_same_and_grows_with_a_shift(world, true):
    pytest.importorskip("vidgen.metrics.frechet")
    assert factor_fd(true, true, world.recipe) == 0
    moved = Factors(**{**vars(true), "place": true.place + np.array([6.0, 0.0])})
    # Only the mean of one column differs: by 6 pixels of 48, which are 2 of its scale.
    assert factor_fd(moved, true, world.recipe) == pytest.approx((6 / 24) ** 2)
