"""Physics read from pixels: nothing on originals, known errors to their known sizes, and each seen by what is meant for it."""

import dataclasses
import math

import numpy as np
import pytest

from vidgen.data.worlds import Worlds, paint
from vidgen.data.worlds.recipe import COLORS, FAMILIES, GROUND, SHAPES
from vidgen.errors import UserError
from vidgen.metrics.legality import Legality
from vidgen.metrics.physics import FOLLOWED, Findings, Physics, cut

ONE = tuple(family for family in FAMILIES if family != "collide")


@dataclasses.dataclass
class Clips:
    """Some of a world's test clips, with all that is known of them."""

    world: Worlds
    clips: list
    scenes: list

    @classmethod
    def of(cls, count, **recipe):
        world = Worlds(**recipe)
        return cls(world, [world.clip("test", i) for i in range(count)], [world.scene("test", i) for i in range(count)])

    def __getattr__(self, name):
        return np.stack([clip[name] for clip in self.clips])

    def measure(self, video=None, **changes):
        given = {
            "labels": self.label,
            "actions": self.actions,
            "states": self.states,
            "colors": [clip["factors"]["colors"] for clip in self.clips],
            "captions": [clip["caption"] for clip in self.clips],
        } | changes
        return Physics(self.world)(self.video if video is None else video, given.pop("labels"), given.pop("actions"), **given)

    def painted(self, change):
        """The clips with the positions ``change(scene)``, or whatever scene it returns."""
        _, height, width = self.world.shape
        out = []
        for scene in self.scenes:
            new = change(scene)
            new = new if dataclasses.is_dataclass(new) else dataclasses.replace(scene, position=new)
            out.append(paint(new, height, width)[0])
        return np.stack(out)

    def family(self, name):
        return self.label == self.world.class_names.index(name)


@pytest.fixture(scope="module")
def one():
    return Clips.of(40, families=ONE, height=40, width=40)


@pytest.fixture(scope="module")
def two():
    return Clips.of(36, families=FAMILIES, objects=2, height=48, width=48)


@pytest.fixture(scope="module")
def true(one):
    return one.measure()


@pytest.fixture(scope="module")
def large():
    """A single slow disc in frames so wide that whatever is done to its path, it stays within."""
    return Clips.of(12, families=("bounce",), height=96, width=96, speed=(0.5, 1.0))


def inside(clips, count=8):
    """The clips of ``large`` in which the disc stays 8 pixels away from every wall's reach."""
    low, high = 14, 96 - 14
    keep = [i for i, scene in enumerate(clips.scenes) if ((scene.position > low) & (scene.position < high)).all()][:count]
    return Clips(clips.world, [clips.clips[i] for i in keep], [clips.scenes[i] for i in keep])


# Originals.


@pytest.mark.parametrize("name", ["one", "two"])
def test_originals_have_next_to_no_error_in_any_family(request, name):
    clips = request.getfixturevalue(name)
    found = clips.measure()
    summary = found.summary()
    for figure, most in {
        "trajectory_error": 0.1,
        "energy_error": 0.12,
        "momentum_error": 0.1,
        "wall_penetration": 0.06,
        "reappearance_error": 0.4,
        "action_error": 0.05,
    }.items():
        assert np.nanmax(getattr(found, figure)) < most, figure
        assert 0 <= summary[figure].value < most / 2 and summary[figure].n > 0
        low, high = summary[figure].interval
        assert low < summary[figure].value < high
    for figure in ("tracked", "permanence", "action_accuracy", "follows_caption"):
        assert summary[figure].value == pytest.approx(1, abs=0.002), figure
    assert summary["count_error"].value == 0 and summary["presence"].value == 1
    assert summary["trajectory_error"].of == summary["trajectory_error"].n == len(clips.clips)
    assert summary["action_accuracy"].of == clips.family("agent").sum()


def test_the_verdicts_are_the_judges(one, true):
    theirs = Legality(one.world)(one.video, one.label, one.actions).summary()
    assert theirs == {name: true.summary()[name] for name in theirs}


# Where objects are.


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_jitter_adds_what_it_adds(large, sigma):
    clips, rng = inside(large), np.random.default_rng(0)
    found = clips.measure(clips.painted(lambda scene: scene.position + rng.normal(scale=sigma, size=scene.position.shape)))
    assert np.sqrt((found.trajectory_error**2).mean()) == pytest.approx(math.sqrt(2) * sigma, rel=0.1)
    assert (found.tracked == 1).all() and (found.verdicts.presence == 1).all()
    assert np.nanmin(found.energy_error) > 0.3 and np.nanmin(found.momentum_error) > 0.3
    assert max(found.wall_penetration) == 0


def test_the_horizon_follows_a_growing_drift(large):
    clips = inside(large)
    drift = 0.3 * np.arange(17)[:, None, None] * [0.6, 0.8]
    horizon = clips.measure(clips.painted(lambda scene: scene.position + drift)).horizon()
    assert [one.value for one in horizon] == pytest.approx(0.3 * np.arange(17), abs=0.05)
    assert {one.n for one in horizon} == {one.of for one in horizon} == {len(clips.clips)}


def test_another_colour_is_another_object(one, true):
    def change(scene):
        color = next(name for name in COLORS if name != scene.cast.colors[0])
        return dataclasses.replace(scene, cast=dataclasses.replace(scene.cast, colors=(color,)))

    other = one.painted(change)
    late = np.concatenate([one.video[:, :9], other[:, 9:]], 1)
    found, open_ones = one.measure(late), ~one.family("occlude")
    # Where it has its own colour it is where it should be, and elsewhere nowhere: no distance, but less is tracked.
    assert np.nanmax(found.trajectory_error) < 0.1
    assert found.tracked[open_ones] == pytest.approx(9 / 17)
    assert found.verdicts.color_constant[open_ones] == pytest.approx(9 / 17, abs=0.01)
    gone = one.measure(other)
    assert np.isnan(gone.trajectory_error).all() and not gone.tracked.any()
    assert gone.summary()["trajectory_error"].n == 0 and gone.summary()["trajectory_error"].of == 40
    anyhow = one.measure(other, colors=None)  # an only object is itself in any colour
    assert anyhow.trajectory_error == pytest.approx(true.trajectory_error, abs=0.05)


def test_swapped_colours_are_a_trajectory_error_as_large_as_the_objects_are_apart(two):
    def change(scene):
        return dataclasses.replace(scene, cast=dataclasses.replace(scene.cast, colors=scene.cast.colors[::-1]))

    rows = ~two.family("occlude")
    found = two.measure(two.painted(change))
    apart = np.hypot(*np.moveaxis(two.states[:, :, 0, :2] - two.states[:, :, 1, :2], -1, 0))
    least, most = apart.min(1), apart.max(1)
    assert ((found.trajectory_error >= least - 0.1) & (found.trajectory_error <= most + 0.1))[rows].all()


def test_the_order_of_the_true_objects_does_not_matter(two):
    plain = two.measure()
    turned = two.measure(states=two.states[:, :, ::-1], colors=[clip["factors"]["colors"][::-1] for clip in two.clips])
    assert np.array_equal(plain.squared, turned.squared) and np.array_equal(plain.tracked, turned.tracked)


def test_what_vanishes_is_not_tracked_and_leaves_no_distance(one, true):
    video = one.video.copy()
    video[:, -5:] = GROUND
    rows = ~one.family("occlude")
    found = one.measure(video)
    assert found.tracked[rows] == pytest.approx(12 / 17)
    assert np.nanmax(found.trajectory_error) < 0.1
    assert found.verdicts.presence[rows] == pytest.approx(12 / 17)
    summary = found.summary()
    assert summary["energy_error"].value == pytest.approx(true.summary()["energy_error"].value, abs=0.02)


def test_a_frozen_clip_conserves_everything_and_is_credited_with_nothing(one):
    found = one.measure(one.video[:, :1].repeat(17, 1))
    for name in ("energy_error", "momentum_error"):
        assert np.isnan(getattr(found, name)).all()
        assert found.summary()[name].n == 0 < found.summary()[name].of
    assert not found.verdicts.travel.any() and found.verdicts.law_residual[one.family("bounce")].max() < 0.1
    # Nothing is due from behind a wall that nothing goes to.
    assert "permanence" not in found.summary()
    assert found.trajectory_error[~one.family("agent")].min() > 1


# The walls of the frame.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [0.5, 1.5, 3.0])
def test_what_goes_through_a_wall_is_measured_to_tenths_of_a_pixel(shape, depth):
    clips = Clips.of(8, shapes=(shape,), families=("bounce",), height=48, width=48)
    for axis, end in ((0, 0), (0, 1), (1, 0), (1, 1)):

        def position(scene, axis=axis, end=end):
            box = clips.world.recipe.box(shape, scene.cast.radii[0])
            path = np.broadcast_to([[[24.0, 24.0]]], (17, 1, 2)).copy()
            wall = box[2 * axis + end]
            path[8:10, 0, axis] = wall + (depth if end else -depth)
            return path

        found = clips.measure(clips.painted(position))
        assert found.wall_penetration == pytest.approx(depth, abs=0.3)


def test_the_table_of_cuts_agrees_with_the_closed_form_of_a_half_disc():
    gaps, depths = cut("circle", "side")
    assert np.interp(4 / (3 * math.pi), gaps, depths) == pytest.approx(1, abs=0.005)  # its centroid, when half is cut away
    assert np.interp(1, gaps, depths) == pytest.approx(0, abs=0.005)
    gaps, depths = cut("square", "up")
    side = math.sqrt(math.pi)
    assert np.interp(side / 4, gaps, depths) == pytest.approx(side / 2, abs=0.01)
    assert not np.allclose(cut("triangle", "up")[1], cut("triangle", "down")[1])


# Behind the wall.


@pytest.fixture(scope="module")
def hidden():
    clips = Clips.of(24, families=("occlude",), height=40, width=40)
    assert clips.measure().asked["permanence"].sum() >= 16
    return clips


def test_what_comes_out_elsewhere_is_off_by_as_much(hidden):
    lost = (hidden.states[:, :, 0, 4] < 0.05).argmax(1)

    def position(scene, shift=3.0):
        path, i = scene.position.copy(), hidden.scenes.index(scene)
        y0, y1 = hidden.world.recipe.box(scene.cast.shapes[0], scene.cast.radii[0])[2:]
        middle = (y0 + y1) / 2
        path[lost[i] :, 0, 1] += np.where(path[lost[i] :, 0, 1] < middle, shift, -shift)
        return path

    found, plain = hidden.measure(hidden.painted(position)), hidden.measure()
    asked = found.asked["permanence"]
    assert found.permanence[asked] == pytest.approx(1)
    assert np.nanmedian(found.reappearance_error) == pytest.approx(3, abs=0.3)
    assert np.nanmax(plain.reappearance_error) < 0.5
    assert np.nanmax(found.wall_penetration) < 0.1


def test_what_never_comes_out_is_counted(hidden):
    video = hidden.video.copy()
    lost = (hidden.states[:, :, 0, 4] < 0.05).argmax(1)
    for i, scene in enumerate(hidden.scenes):
        left, right = scene.wall
        video[i, lost[i] :, :, :left] = video[i, lost[i] :, :, right:] = GROUND
    found = hidden.measure(video)
    assert found.asked["permanence"].sum() >= 16 and not found.permanence[found.asked["permanence"]].any()
    assert np.isnan(found.reappearance_error).all() and found.summary()["reappearance_error"].n == 0
    assert np.nanmax(found.trajectory_error) < 0.2


# What was asked.


def test_actions_are_followed_or_not(one):
    rows = one.family("agent")
    swapped = np.array([0, 2, 1, 4, 3])[one.actions]
    found = one.measure(actions=swapped)
    stays = (one.actions == 0)[:, 1:]
    # Of moves that show, only standing still is the same after the swap.
    assert (found.action_accuracy[rows] < 0.7).all() and found.action_error[rows].min() > 1
    frozen = one.measure(one.video[:, :1].repeat(17, 1))
    assert (frozen.action_accuracy[rows] >= stays.mean(1)[rows] - 1e-9).all()
    assert (frozen.action_accuracy[rows] < 1).all()
    half = one.measure(one.painted(lambda scene: scene.position[:1] + 0.45 * (scene.position - scene.position[:1])))
    assert half.action_accuracy[rows].max() < 1  # less than half a move is none


def test_captions_are_followed_by_colour_shape_size_and_motion(two):
    own = two.measure().follows
    assert own.shape == (36, len(FOLLOWED)) and own.mean(0).min() > 0.95
    wrong = [clip["caption"] for clip in two.clips[1:] + two.clips[:1]]
    assert two.measure(captions=wrong).follows[:, FOLLOWED.index("objects")].mean() < 0.2
    assert "follows_caption" not in two.measure(captions=None).summary()


# What cannot be read.


@pytest.mark.parametrize("name", ["grey", "noise", "half bright"])
def test_clips_that_cannot_be_read_are_counted_and_not_rewarded(one, name):
    rng = np.random.default_rng(0)
    video = {
        "grey": np.full_like(one.video, 128),
        "noise": rng.integers(256, size=one.video.shape, dtype=np.uint8),
        "half bright": (GROUND[0] + (one.video.astype(int) - GROUND[0]) // 2).astype(np.uint8),
    }[name]
    summary = one.measure(video).summary()
    for figure in ("trajectory_error", "energy_error", "momentum_error", "wall_penetration", "action_accuracy"):
        assert summary[figure].n == 0 and math.isnan(summary[figure].value) and summary[figure].of > 0, figure
    assert summary["tracked"].value == summary["follows_caption"].value == 0
    assert summary["coverage"].value == 0


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips_are_measured_as_far_as_they_go(one, frames):
    found = one.measure(one.video[:, :frames], actions=one.actions[:, :frames], states=one.states[:, :frames], captions=None)
    assert np.nanmax(found.trajectory_error) < 0.2 and found.summary()["energy_error"].n == 0


# Parts and wholes.


def test_findings_do_not_depend_on_the_batch(two):
    whole = two.measure()
    names = ("labels", "actions", "states", "colors", "captions")
    every = (two.label, two.actions, two.states, [c["factors"]["colors"] for c in two.clips], [c["caption"] for c in two.clips])
    joined = Findings.cat(
        [
            two.measure(two.video[some], **{name: value[some] for name, value in zip(names, every, strict=True)})
            for some in (slice(0, 1), slice(1, 20), slice(20, None))
        ]
    )
    assert joined.summary().keys() == whole.summary().keys()
    for name, measure in whole.summary().items():
        assert joined.summary()[name].value == pytest.approx(measure.value, abs=1e-9), name
        assert (joined.summary()[name].n, joined.summary()[name].of) == (measure.n, measure.of)
    chosen = whole[two.family("agent")]
    assert chosen.summary()["action_accuracy"] == whole.summary()["action_accuracy"]
    assert chosen.summary()["trajectory_error"].n == two.family("agent").sum()
    assert "permanence" not in chosen.summary()


def test_bad_input_is_answered_in_a_sentence(one, two):
    with pytest.raises(UserError, match="one label per clip"):
        one.measure(labels=one.label[:3])
    with pytest.raises(UserError, match=r"True states of clips .* are of shape \(40, 17, 1, 5\)"):
        one.measure(states=one.states[:, :5])
    with pytest.raises(UserError, match="Which of 2 objects is which"):
        two.measure(colors=None)
    with pytest.raises(UserError, match="no colour 'purpel'"):
        one.measure(colors=[["purpel"]] * 40)
    with pytest.raises(UserError, match="lists of 2 different names"):
        two.measure(colors=[["red", "red"]] * 36)
    with pytest.raises(UserError, match="3 captions of 40 clips"):
        one.measure(captions=["A small red circle bounces off the walls."] * 3)
    with pytest.raises(UserError, match="actions"):
        one.measure(actions=None)
