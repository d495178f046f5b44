"""The judge of worlds: originals are legal, each way of spoiling them is not, and nothing makes it hang."""

import dataclasses
import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from vidgen.data.worlds import Worlds, paint
from vidgen.data.worlds.recipe import COLORS, FAMILIES, GROUND, SHAPES
from vidgen.errors import UserError
from vidgen.metrics.legality import Legality, Measure, Verdicts, wilson

COUNT = 256
LEAK = 0.05  # of spoilt clips, how many may pass
ONE = tuple(family for family in FAMILIES if family != "collide")


@dataclasses.dataclass
class Clips:
    """Some of a world's test clips, with the scenes behind them."""

    world: Worlds
    video: np.ndarray
    label: np.ndarray
    actions: np.ndarray
    scenes: list

    @classmethod
    def of(cls, count, start=0, **recipe):
        world = Worlds(**recipe)
        found = [world.clip("test", start + index) for index in range(count)]
        columns = (np.stack([clip[key] for clip in found]) for key in ("video", "label", "actions"))
        return cls(world, *columns, [world.scene("test", start + index) for index in range(count)])

    def judge(self, video=None, label=None, actions=None):
        return Legality(self.world)(
            self.video if video is None else video,
            self.label if label is None else label,
            self.actions if actions is None else actions,
        )

    def painted(self, position):
        """The clips with each scene's position given by ``position(scene, low, high)``, the box where centres can be."""
        _, height, width = self.world.shape
        out = []
        for scene in self.scenes:
            box = np.array([self.world.recipe.box(s, r) for s, r in zip(scene.cast.shapes, scene.cast.radii, strict=True)])
            low, high = box[:, ::2], box[:, 1::2]
            moved = dataclasses.replace(scene, position=np.clip(position(scene, low, high), low, high))
            out.append(paint(moved, height, width)[0])
        return np.stack(out)

    def recoloured(self, rng):
        """The same clips with one object in another colour; none of the clip's, so that nothing else changes."""
        _, height, width = self.world.shape
        out = []
        for scene in self.scenes:
            colors = list(scene.cast.colors)
            colors[rng.integers(len(colors))] = rng.choice([name for name in COLORS if name not in colors])
            cast = dataclasses.replace(scene.cast, colors=tuple(colors))
            out.append(paint(dataclasses.replace(scene, cast=cast), height, width)[0])
        return np.stack(out)


@pytest.fixture(scope="module")
def default():
    """The world that the default command trains on."""
    return Clips.of(COUNT)


@pytest.fixture(scope="module")
def mixed():
    """Every family that one object can have."""
    return Clips.of(96, families=ONE)


@pytest.fixture(scope="module")
def double():
    """Every family, two objects."""
    return Clips.of(72, families=FAMILIES, objects=2, height=48, width=48)


def legal(verdicts):
    return verdicts.appearance & verdicts.law


# Originals.


def test_every_original_of_the_default_world_is_legal(default):
    verdicts = default.judge()
    assert verdicts.appearance.all() and verdicts.law.all() and verdicts.parsed.all()
    assert set(verdicts.reason) == {""}
    for name in ("presence", "color_constant", "shape_constant"):
        assert (getattr(verdicts, name) == 1).all()
    assert not verdicts.count_error.any()
    assert verdicts.law_residual.max() < 0.15
    path = [np.hypot(*np.diff(scene.position[:, 0], axis=0).T).sum() for scene in default.scenes]
    assert verdicts.travel == pytest.approx(path, abs=1)


ORIGINALS = {
    **{f"two: {family}": (24, {"families": (family,), "objects": 2}) for family in FAMILIES},
    "shapes": (32, {"families": ONE, "shapes": tuple(SHAPES), "height": 48, "width": 48}),
    "two shapes": (24, {"families": ONE[:2] + ONE[3:], "objects": 2, "shapes": tuple(SHAPES), "height": 48, "width": 64}),
    "three": (24, {"families": ("gravity", "collide", "bounce"), "objects": 3, "height": 48, "width": 64}),
    "long": (12, {"families": ONE, "frames": 65, "height": 64, "width": 48}),
    "fast": (24, {"families": ("bounce", "gravity", "agent", "occlude"), "speed": (4, 8), "height": 64, "width": 64}),
    "slow": (24, {"families": ("bounce", "gravity", "orbit"), "speed": (0.4, 0.8)}),
    "short": (24, {"families": ONE, "frames": 5}),
    "three frames": (24, {"families": ONE, "frames": 3}),
    "three frames, two objects": (24, {"families": ("bounce", "collide"), "frames": 3, "objects": 2}),
    "two frames": (24, {"families": ONE, "frames": 2}),
    "one frame": (24, {"families": ONE, "frames": 1}),
    "one frame, two objects": (24, {"families": ("bounce", "gravity", "occlude"), "frames": 1, "objects": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", ORIGINALS)
def test_originals_of_other_worlds_are_legal(name):
    count, recipe = ORIGINALS[name]
    verdicts = Clips.of(count, **recipe).judge()
    assert set(verdicts.reason) == {""}
    assert legal(verdicts).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 9])
def test_beginnings_of_clips_are_legal(default, double, frames):
    for clips in (default, double):
        some = slice(0, 48)
        verdicts = clips.judge(clips.video[some, :frames], clips.label[some], clips.actions[some, :frames])
        waits = {"", "discs never collide"} if clips is double else {""}  # those may yet
        assert set(verdicts.reason) <= waits and verdicts.appearance.all()


# Spoilt clips. Each names the verdict that should see it.


def freeze(clips, rng):
    return clips.video[:, :1].repeat(clips.video.shape[1], 1)


def freeze_halfway(clips, rng):
    half = clips.video.shape[1] // 2
    return np.concatenate([clips.video[:, :half], clips.video[:, half : half + 1].repeat(clips.video.shape[1] - half, 1)], 1)


def jitter_pixels(clips, rng):
    """Every frame moved as a whole by -1, 0 or 1 pixels along each axis."""
    out = np.empty_like(clips.video)
    padded = np.pad(clips.video, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], constant_values=GROUND[0])
    for i, t in np.ndindex(out.shape[:2]):
        y, x = rng.integers(3, size=2)
        out[i, t] = padded[i, t, y : y + out.shape[2], x : x + out.shape[3]]
    return out


def jitter_one_pixel(clips, rng):
    """Every frame's objects one pixel up, down, left or right of where they should be."""
    steps = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
    return clips.painted(lambda scene, low, high: scene.position + steps[rng.integers(4, size=scene.position.shape[:2])])


def jitter_gauss(clips, rng):
    return clips.painted(lambda scene, low, high: scene.position + rng.normal(size=scene.position.shape))


def jitter_gauss_of_one_pixel_in_all(clips, rng):
    return clips.painted(lambda scene, low, high: scene.position + rng.normal(scale=math.sqrt(0.5), size=scene.position.shape))


def elsewhere(position, low, high, rng):
    """A place at least 4 pixels, the least radius, from ``position`` (n, 2)."""
    while True:
        place = rng.uniform(low, high)
        if (np.hypot(*(place - position).T) >= 4).all():
            return place


def teleport_for_a_frame(clips, rng):
    def position(scene, low, high):
        path, t = scene.position.copy(), rng.integers(1, len(scene.position) - 1)
        path[t] = elsewhere(path[t], low, high, rng)
        return path

    return clips.painted(position)


def teleport_for_good(clips, rng):
    def position(scene, low, high):
        path, t = scene.position.copy(), rng.integers(4, len(scene.position) - 4)
        path[t:] += elsewhere(path[t], low, high, rng) - path[t]
        return path

    return clips.painted(position)


def backwards_from_halfway(clips, rng):
    half = clips.video.shape[1] // 2
    return np.concatenate([clips.video[:, : half + 1], clips.video[:, :half][:, ::-1]], 1)


def frames_skipped(clips, rng):
    half = clips.video.shape[1] // 2
    ahead = clips.painted(lambda scene, low, high: np.roll(scene.position, -3, axis=0))
    return np.concatenate([clips.video[:, :half], ahead[:, half:]], 1)


def shuffled(clips, rng):
    return np.stack([video[rng.permutation(len(video))] for video in clips.video])


MOVED = (
    freeze, freeze_halfway, jitter_pixels, jitter_one_pixel, jitter_gauss, jitter_gauss_of_one_pixel_in_all, teleport_for_a_frame,
    teleport_for_good, backwards_from_halfway, frames_skipped, shuffled,
)  # fmt: skip


@pytest.mark.parametrize("spoil", MOVED)
def test_motion_against_the_law_is_seen_in_the_law(default, spoil):
    verdicts = default.judge(spoil(default, np.random.default_rng(0)))
    assert verdicts.law.mean() <= LEAK
    assert legal(verdicts).mean() <= LEAK
    # Nothing is wrong with the frames one by one, which the other verdict says.
    assert verdicts.appearance.mean() >= 0.99


@pytest.mark.parametrize("spoil", [freeze, jitter_pixels, jitter_gauss, teleport_for_good, shuffled])
@pytest.mark.parametrize("world", ["mixed", "double"])
def test_so_it_is_in_every_family(request, world, spoil):
    clips = request.getfixturevalue(world)
    verdicts = clips.judge(spoil(clips, np.random.default_rng(0)))
    assert verdicts.law.mean() <= LEAK


@pytest.mark.parametrize("world", ["default", "mixed", "double"])
def test_wrong_labels_are_seen(request, world):
    """By the law where the appearance is the same, by the joint verdict where only one of two families has a wall."""
    clips = request.getfixturevalue(world)
    count = len(clips.world.class_names)
    verdicts = [clips.judge(label=(clips.label + shift) % count) for shift in range(1, count)]
    for shift, found in enumerate(verdicts, start=1):
        for label in range(count):
            passed = legal(found)[clips.label == label]
            names = clips.world.class_names[label], clips.world.class_names[(label + shift) % count]
            assert passed.mean() <= LEAK or passed.sum() <= 1, names
        if world == "default":
            assert found.law.mean() <= LEAK and found.appearance.all()
    assert legal(Verdicts.cat(verdicts)).mean() <= LEAK


@pytest.mark.parametrize("world", ["default", "mixed", "double"])
def test_the_class_that_shows_is_the_label(request, world):
    """Of all originals; of the default world's, whose laws exclude one another, none shows another label."""
    clips = request.getfixturevalue(world)
    assert clips.judge().nearest.all()
    if world == "default":
        count = len(clips.world.class_names)
        wrong = [clips.judge(label=(clips.label + shift) % count).nearest for shift in range(1, count)]
        assert np.mean(wrong) <= LEAK


def test_a_class_is_told_from_motion_that_is_off_its_law(default):
    """Positions half a pixel off are illegal, and yet show whose law they would follow."""
    verdicts = default.judge(jitter_gauss(default, np.random.default_rng(0)))
    assert verdicts.law.mean() <= LEAK
    assert verdicts.nearest.mean() > 0.8


def recoloured_for_a_frame(clips, rng):
    out, other = clips.video.copy(), clips.recoloured(rng)
    for i in range(len(out)):
        t = rng.integers(out.shape[1])
        out[i, t] = other[i, t]
    return out


def recoloured_for_good(clips, rng):
    return np.concatenate([clips.video[:, :9], clips.recoloured(rng)[:, 9:]], 1)


@pytest.mark.parametrize("spoil", [recoloured_for_a_frame, recoloured_for_good])
@pytest.mark.parametrize("world", ["default", "double"])
def test_changed_colours_are_seen_in_the_appearance(request, world, spoil):
    clips = request.getfixturevalue(world)
    verdicts = clips.judge(spoil(clips, np.random.default_rng(0)))
    if world == "double":  # a wall may hide the object in the frame in which it has the other colour
        verdicts = verdicts[clips.label != FAMILIES.index("occlude")]
    assert verdicts.appearance.mean() <= LEAK
    if world == "default":
        assert set(verdicts.reason) <= {"", "changes colour"}


def blur(video, sigma):
    offsets = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    spread = kernel[np.abs(np.subtract.outer(np.arange(32), np.arange(32))).clip(max=8) + 8] * (
        np.abs(np.subtract.outer(np.arange(32), np.arange(32))) <= 8
    )
    spread /= spread.sum(1, keepdims=True)
    return np.rint(np.einsum("yh,ithwc,xw->ityxc", spread, video.astype(np.float32), spread, optimize=True)).astype(np.uint8)


def test_blur_is_never_rewarded(default):
    some = slice(0, 96)
    legal_share = [
        default.judge(blur(default.video[some], sigma), default.label[some], default.actions[some]).appearance.mean()
        for sigma in (0.3, 0.8, 1.2, 1.6, 2.5)
    ]
    assert legal_share[0] == 1
    assert legal_share == sorted(legal_share, reverse=True)
    assert legal_share[-2:] == [0, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("gone", "object missing"),
        ("second", "too many objects"),
        ("specks", "stray pixels"),
        ("grows", "changes size"),
        ("square", "changes shape"),
        ("wall", "wall missing, moved or uncalled for"),
    ],
)
def test_what_is_wrong_with_a_frame_is_named(change, reason):
    clips = Clips.of(24, families=("bounce", "occlude"), shapes=("circle", "square"))
    clips = Clips(clips.world, *(a[clips.label == 0] for a in (clips.video, clips.label, clips.actions)), None)
    scenes = [clips.world.scene("test", i) for i in range(24)]
    scenes = [scene for scene in scenes if scene.family == "bounce"]
    video = clips.video.copy()
    for i, scene in enumerate(scenes):
        _, y = scene.position[8, 0]
        corner = np.s_[8, 2:9, 2:9] if y > 16 else np.s_[8, 23:30, 2:9]
        if change == "gone":
            video[i, 8] = GROUND
        elif change == "second":
            video[i][corner] = COLORS["red" if scene.cast.colors[0] != "red" else "blue"]
        elif change == "specks":
            video[i, 8, ::31, ::8] = COLORS["red" if scene.cast.colors[0] != "red" else "blue"]
        elif change == "wall":
            video[i, :, :, 15:18] = 80
        else:
            radius, shape = scene.cast.radii[0], scene.cast.shapes[0]
            shape = {"circle": "square", "square": "circle"}[shape] if change == "square" else shape
            cast = dataclasses.replace(scene.cast, radii=(radius * (1.3 if change == "grows" else 1),), shapes=(shape,))
            other = paint(dataclasses.replace(scene, cast=cast, position=np.clip(scene.position, 8, 24)), 32, 32)[0]
            video[i, 8] = other[8]
    verdicts = clips.judge(video)
    assert not verdicts.appearance.any()
    assert verdicts.reason.count(reason) >= 0.75 * len(video), verdicts.reason


def test_a_frame_hidden_whole_by_the_wall_is_hidden_and_one_left_out_elsewhere_is_missing():
    clips = Clips.of(24, families=("occlude",))
    share = np.stack([clips.world.clip("test", i)["states"][:, 0, 4] for i in range(24)])
    hides = (share == 0).any(1)
    assert hides.sum() >= 12 and legal(clips.judge()).all()
    # Away from the wall nothing hides it.
    video = clips.video.copy()
    left, right = np.array([scene.wall for scene in clips.scenes]).T
    for i, scene in enumerate(clips.scenes):
        away = np.abs(scene.position[:, 0, 0] - (left[i] + right[i]) / 2)
        hole = away.argmax()
        video[i, hole, :, : left[i]] = video[i, hole, :, right[i] :] = GROUND
    assert legal(clips.judge(video)).mean() <= LEAK
    # Nor does it stay behind the wall for ever, or show where it should be hidden.
    stays = clips.video.copy()
    for i in range(len(stays)):
        after = share[i].argmin()
        stays[i, after:, :, : left[i]] = stays[i, after:, :, right[i] :] = GROUND
    assert legal(clips.judge(stays))[hides].mean() <= LEAK


def test_the_agent_is_judged_by_its_actions():
    clips = Clips.of(48, families=("agent",))
    assert legal(clips.judge()).all()
    rng = np.random.default_rng(0)
    for wrong in (np.zeros_like(clips.actions), rng.integers(5, size=clips.actions.shape), np.roll(clips.actions, 1, axis=0)):
        assert clips.judge(actions=wrong).law.mean() <= LEAK
    # A single wrong move at a border, where no move is possible, is no wrong move; elsewhere it is.
    swapped = np.array([0, 2, 1, 4, 3])[clips.actions]
    assert clips.judge(actions=swapped).law.mean() <= LEAK


# Nothing hangs it: what follows ends, whatever it finds.


def rubbish(name, rng, shape):
    plain = {"grey": 128, "black": 0, "white": 255, "wall": 80}
    if name in plain:
        return np.full(shape, plain[name], dtype=np.uint8)
    if name == "noise":
        return rng.integers(256, size=shape, dtype=np.uint8)
    if name == "saturated":
        return (255 * rng.integers(2, size=shape)).astype(np.uint8)
    if name == "flat saturated":
        return np.broadcast_to(255 * rng.integers(2, size=(shape[0], 1, 1, 1, 3)), shape).astype(np.uint8)
    if name == "flicker":
        return np.broadcast_to(rng.integers(256, size=(*shape[:2], 1, 1, 3)), shape).astype(np.uint8)
    blocks = rng.integers(2, size=(*shape[:2], math.ceil(shape[2] / 8), math.ceil(shape[3] / 8), 3)) * 192 + 32
    return blocks.repeat(8, 2).repeat(8, 3)[:, :, : shape[2], : shape[3]].astype(np.uint8)


@pytest.mark.parametrize("frames", [1, 2, 17])
@pytest.mark.parametrize("name", ["grey", "black", "white", "wall", "noise", "saturated", "flat saturated", "flicker", "blocks"])
def test_rubbish_is_illegal_and_ends(name, frames):
    rng = np.random.default_rng(0)
    for objects, families in ((1, ONE), (2, FAMILIES)):
        world = Worlds(families=families, objects=objects, height=48, width=48)
        count = 2 * len(families)
        video = rubbish(name, rng, (count, frames, 48, 48, 3))
        verdicts = Legality(world)(video, np.arange(count) % len(families), np.zeros((count, frames), dtype=int))
        assert not verdicts.appearance.any() and not verdicts.law.any()
        assert all(verdicts.reason)
        unseen = ("law_residual", "size_error", "shape_constant", "color_constant")  # NaN where there is nothing to have them
        assert np.isfinite([measure.value for name, measure in verdicts.summary().items() if name not in unseen]).all()


def test_objects_too_large_for_the_world_end():
    """A disc that fills the frame leaves its centre no room: what is between the walls must not be reckoned from it."""
    families = ("bounce", "gravity", "agent")
    world = Worlds(families=families, radius=(4, 14), height=32, width=32)
    y, x = np.mgrid[:32, :32] + 0.5
    video = np.full((len(families), 17, 32, 32, 3), 128, dtype=np.uint8)
    for radius in (14.0, 15.5, 15.99, 16.5):
        video[:, :, np.hypot(x - 16, y - 16) < radius] = COLORS["red"]
        verdicts = Legality(world)(video, np.arange(len(families)), np.zeros((len(families), 17), dtype=int))
        assert not legal(verdicts)[:2].any()


def test_discs_jammed_in_a_row_end():
    world = Worlds(families=("collide",), objects=3)
    scene = world.scene("test", 0)
    position = np.broadcast_to([[5.45, 16.0], [16.0, 16.0], [26.55, 16.0]], (5, 3, 2))
    cast = dataclasses.replace(scene.cast, radii=(5.45,) * 3)
    video = paint(dataclasses.replace(scene, cast=cast, position=position, velocity=0 * position), 32, 32)[0]
    assert not legal(Legality(world)(video[None], np.array([0]))).any()


def test_the_work_grows_with_the_clips_and_not_faster(monkeypatch):
    """Judged by calls of the law, not by the clock: a batch takes as many as a clip."""
    from vidgen.data.worlds import laws

    calls, law = [], laws.ricochet

    def counted(*args, **options):
        calls.append(1)
        return law(*args, **options)

    monkeypatch.setattr(laws, "ricochet", counted)
    clips, seen = Clips.of(64, families=("bounce",)), []
    for count in (1, 64):
        calls.clear()
        clips.judge(clips.video[:count], clips.label[:count], clips.actions[:count])
        seen.append(len(calls))
    assert seen[0] == seen[1] < 50


# Verdicts.


def test_verdicts_do_not_depend_on_the_batch(double):
    together = double.judge()
    parts = [slice(0, 1), slice(1, 30), slice(30, None)]
    apart = Verdicts.cat([double.judge(double.video[p], double.label[p], double.actions[p]) for p in parts])
    for field in dataclasses.fields(Verdicts):
        ours, theirs = getattr(together, field.name), getattr(apart, field.name)
        assert ours == theirs if field.name == "reason" else np.allclose(ours, theirs, equal_nan=True), field.name
    for part in parts:
        assert together[part].reason == together.reason[part]
    odd = np.arange(len(together.law)) % 2 == 1
    assert together[odd].reason == together.reason[1::2] and (together[odd].travel == together.travel[1::2]).all()


def test_the_summary_counts(default):
    some = slice(0, 20)
    video = default.video[some].copy()
    video[:5, 8] = GROUND
    summary = default.judge(video, default.label[some], default.actions[some]).summary()
    assert summary["appearance_legal"] == Measure(0.75, 20, wilson(15, 20))
    assert summary["count_correct"].value == 0.75
    assert (summary["presence"].value, summary["presence"].n) == (pytest.approx(1 - 5 / 20 / 17), 20)
    assert set(summary) == {
        "appearance_legal", "law_legal", "parse_rate", "count_correct", "presence", "color_constant", "shape_constant",
        "size_error", "stray", "law_residual", "travel", "class_accuracy",
    }  # fmt: skip


def test_a_summary_of_nothing_readable_says_so():
    world = Worlds()
    summary = Legality(world)(np.full((4, 17, 32, 32, 3), 128, dtype=np.uint8), np.zeros(4, dtype=int)).summary()
    for name in ("law_residual", "color_constant", "shape_constant", "size_error"):
        assert summary[name].n == 0 and math.isnan(summary[name].value)
    assert summary["appearance_legal"].value == summary["presence"].value == 0


def test_clips_that_show_nothing_are_left_out_of_what_is_said_of_objects(default):
    """A blank clip has objects of no size, shape or colour: neither perfect ones nor wrong ones."""
    some = slice(0, 8)
    video = default.video[some].copy()
    video[2] = GROUND
    part, whole = (
        default.judge(clips, default.label[some], default.actions[some]).summary() for clips in (video, default.video[some])
    )
    for name in ("color_constant", "shape_constant", "size_error"):
        assert part[name].n == 7
        assert part[name].value == pytest.approx(whole[name].value, abs=0.01)


def test_means_have_the_normal_interval_of_their_clips(default):
    verdicts = default.judge(default.video[:24], default.label[:24], default.actions[:24])
    spread = dataclasses.replace(verdicts, law_residual=np.r_[np.full(4, np.nan), np.linspace(0.1, 2, 20)])
    summary = spread.summary()
    for name in ("presence", "color_constant", "shape_constant", "size_error", "stray", "law_residual", "travel"):
        values = getattr(spread, name)
        values = values[np.isfinite(values)]
        half = NormalDist().inv_cdf(0.975) * values.std(ddof=1) / math.sqrt(len(values))
        assert summary[name].n == len(values)
        assert summary[name].interval == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4), name
    one = dataclasses.replace(verdicts, law_residual=np.r_[np.full(23, np.nan), 0.5]).summary()["law_residual"]
    assert (one.value, one.n, one.interval, one.of) == (0.5, 1, None, 24)


@pytest.mark.parametrize(("successes", "n"), list(itertools.product((0, 1, 7, 10), (10, 250))))
def test_wilsons_interval_holds_the_shares_whose_score_is_within_1_96(successes, n):
    low, high = wilson(successes, n)
    z = 1.959963984540054
    for bound, inner in ((low, low + 1e-6), (high, high - 1e-6)):
        if 0 < bound < 1:
            assert abs(successes / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-6)
            assert abs(successes / n - inner) < z * math.sqrt(inner * (1 - inner) / n)
    assert 0 <= low <= successes / n <= high <= 1 and low < high


# Mistakes.


@pytest.mark.parametrize("labels", [np.zeros(3, dtype=int), np.array([0, 3]), np.array([-1, 0]), np.zeros((2, 1), dtype=int)])
def test_labels_must_be_the_worlds(labels):
    with pytest.raises(UserError, match=r"one label per clip, 2 whole numbers from 0 to 2 \(bounce, gravity, orbit\)"):
        Legality(Worlds())(np.zeros((2, 17, 32, 32, 3), dtype=np.uint8), labels)


def test_clips_of_the_agent_need_their_actions():
    judge, video = Legality(Worlds(families=("bounce", "agent"))), Clips.of(2).video
    with pytest.raises(UserError, match="give the judge the actions"):
        judge(video, np.array([0, 1]))
    judge(video, np.array([0, 0]))
    for actions in (np.zeros((2, 16), dtype=int), np.full((2, 17), 5), np.full((2, 17), -1)):
        with pytest.raises(UserError, match=r"whole numbers from 0 to 4 \(noop, left, right, up, down\) of shape \(2, 17\)"):
            judge(video, np.array([0, 1]), actions)
