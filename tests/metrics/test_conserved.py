"""Energy and momentum from positions: nothing where the laws are kept, closed forms where they are broken in known ways."""

import math

import numpy as np
import pytest

from vidgen.data.worlds import Worlds, laws
from vidgen.data.worlds.recipe import FAMILIES, SHAPES
from vidgen.metrics.conserved import energy_error, momentum_error

SIZES = (
    {},
    {"objects": 2, "height": 48, "width": 48},
    {"objects": 3, "height": 64, "width": 64, "frames": 33},
    {"height": 48, "width": 64, "shapes": tuple(SHAPES), "speed": (0.5, 3.0)},
)
FREE = Worlds(height=400, width=400, speed=(1.0, 2.0))  # so large that nothing comes near a wall


def of(world, count=32):
    scenes = [world.scene("test", index) for index in range(count)]
    shape = np.array([[world.recipe.shapes.index(name) for name in scene.cast.shapes] for scene in scenes])
    return np.stack([scene.position for scene in scenes]), shape, np.array([scene.cast.radii for scene in scenes])


def both(world, family, position, shape=None, radius=None):
    clips, _, n = position.shape[:3]
    shape = np.zeros((clips, n), dtype=int) if shape is None else shape
    radius = np.full((clips, n), 4.0) if radius is None else radius
    return tuple(error(world.recipe, family, position, shape, radius) for error in (energy_error, momentum_error))


def path(step, count=1):
    """Positions (count, T, 1, 2) from the middle of a frame of 400 pixels on, by steps (T - 1, 2)."""
    return np.broadcast_to(
        200 + np.concatenate([np.zeros((1, 2)), np.cumsum(step, 0)])[None, :, None], (count, len(step) + 1, 1, 2)
    )


@pytest.mark.parametrize("recipe", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_states_of_every_family_keep_what_its_law_keeps(family, recipe):
    if family == "collide":
        recipe = {**recipe, "objects": max(recipe.get("objects", 1), 2), "shapes": ("circle",)}
    world = Worlds(families=(family,), **recipe)
    energy, momentum = both(world, family, *of(world))
    if family == "agent":
        assert np.isnan(energy).all()
    else:
        assert np.isfinite(energy).mean() > 0.6 and np.nanmax(energy) < 1e-9
    if family in ("agent", "orbit"):
        assert np.isnan(momentum).all()
    else:
        assert np.isfinite(momentum).mean() > 0.8 and np.nanmax(momentum) < 1e-9


@pytest.mark.parametrize("uneven", [0.05, 0.3])
def test_steps_that_are_long_and_short_in_turn_err_by_the_closed_form(uneven):
    length = 1.5 * (1 + uneven * np.array([1, -1] * 8))
    step = length[:, None] * np.array([0.6, 0.8])
    energy, momentum = both(FREE, "bounce", path(step))
    correction = math.sqrt(16 / 15)  # the mean is estimated from the same steps
    assert energy == pytest.approx(2 * uneven / (1 + uneven**2) * correction)
    assert momentum == pytest.approx(uneven * correction)


def test_noise_shows_as_twice_itself_by_the_speed():
    rng, sigma = np.random.default_rng(0), 0.1
    position = path(np.tile([0.9, 1.2], (16, 1)), 400) + rng.normal(scale=sigma, size=(400, 17, 1, 2))
    energy, momentum = both(FREE, "bounce", position)
    assert np.sqrt((momentum**2).mean()) == pytest.approx(2 * sigma / 1.5, rel=0.05)
    assert np.sqrt((energy**2).mean()) == pytest.approx(2 * math.sqrt(2) * sigma / 1.5, rel=0.05)


def test_turning_at_constant_speed_costs_momentum_and_no_energy():
    angle = np.linspace(0, 2, 16)
    energy, momentum = both(FREE, "bounce", path(1.5 * np.stack([np.cos(angle), np.sin(angle)], -1)))
    assert energy < 1e-9 and momentum > 0.5


def test_a_wall_that_keeps_speed_away_costs_energy_and_no_momentum_between_the_hits():
    world = Worlds(frames=31)
    x, v = laws.ricochet(10.0, 1.5, 4.0, 28.0, np.arange(31.0), 0.7)
    assert (np.diff(np.sign(v)) != 0).sum() == 1
    position = np.stack([x, np.full(31, 16.0)], -1)[None, :, None]
    energy, momentum = both(world, "bounce", position)
    assert momentum < 1e-9 and energy > 0.3


def test_gravity_loses_energy_at_the_floor_and_gains_none():
    world = Worlds(families=("gravity",), height=48, width=48, frames=33)
    position, shape, radius = of(world, 64)
    bounced = (np.diff(np.sign(np.diff(position[:, :, 0, 1], axis=1)), axis=1) < 0).any(1)
    assert bounced.sum() > 12
    energy, momentum = both(world, "gravity", position[:, ::-1], shape, radius)
    assert np.nanmedian(energy[bounced]) > 0.2  # the arrow of time
    assert np.nanmax(momentum) < 1e-9  # which flights do not show
    lossless = laws.fall(20.0, 0.0, world.recipe.gravity, np.arange(33.0), 1.0)[0]
    up = np.stack([np.linspace(15, 30, 33), 44 - lossless], -1)[None, :, None]
    assert both(world, "gravity", up)[0] > 0.2
    floating = np.stack([np.linspace(15, 30, 33), np.full(33, 20.0)], -1)[None, :, None]
    assert both(world, "gravity", floating)[1] > 0.5


def test_collisions_that_lose_speed_keep_momentum_and_not_energy():
    world = Worlds(families=("collide",), objects=2, height=200, width=200, frames=33)
    t = np.arange(33.0)

    def clip(after):
        """Two discs of radius 4 that meet after 16 frames at a pixel a frame, and part at ``after`` of it."""
        apart = 4 + np.where(t < 16, 16 - t, after * (t - 16))
        return np.stack([np.stack([100 + side * apart, np.full(33, 100.0)], -1) for side in (-1, 1)], 1)[None]

    energy, momentum = both(world, "collide", clip(0.5))
    assert momentum < 1e-9 and energy > 0.5
    assert max(both(world, "collide", clip(1.0))) < 1e-9
    one_stays = clip(1.0)
    one_stays[0, 16:, 1] = one_stays[0, 16, 1]  # what hits it flies back, and nothing takes twice its momentum
    assert both(world, "collide", one_stays)[1] > 0.3


def test_the_order_of_objects_and_of_clips_does_not_matter():
    world = Worlds(families=("collide",), objects=3, height=64, width=64)
    position, shape, radius = of(world, 12)
    position = position + np.random.default_rng(0).normal(scale=0.3, size=position.shape)
    there = np.array([2, 0, 1])
    for family in ("collide", "bounce", "gravity"):
        plain = both(world, family, position, shape, radius)
        turned = both(world, family, position[::-1][:, :, there], shape[::-1][:, there], radius[::-1][:, there])
        for ours, theirs in zip(plain, turned, strict=True):
            assert ours == pytest.approx(theirs[::-1], nan_ok=True)


def test_what_stands_still_or_is_not_known_has_no_error():
    still = np.full((1, 17, 1, 2), 200.0)
    unknown = np.where(np.arange(17)[:, None, None] % 2 == 0, path(np.ones((16, 2))), np.nan)
    for position in (still, unknown, still[:, :1], still[:, :2]):
        assert all(np.isnan(error).all() for error in both(FREE, "bounce", position))
