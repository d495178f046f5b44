"""Whether clips obey the worlds they claim to show: the right objects throughout, moving by their label's law.

A clip is *appearance-legal* if its frames show the right number of objects, each wherever it should show, constant in colour,
shape and size, sharp, and nothing else. It is *law-legal* if some motion by its label's law, from any start that the world
can have, stays close to the positions read from the pixels. The two are judged apart, and need no network. The tolerances
below are the same for originals, reconstructions and samples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds import ACTIONS, Worlds
from vidgen.data.worlds.fit import track
from vidgen.data.worlds.parse import SEEN, Parsed, near_wall, parse, profile
from vidgen.data.worlds.recipe import Recipe
from vidgen.errors import UserError
from vidgen.metrics.statistics import NORMAL_95

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Checks = list[tuple[str, Flags]]

# How far the outline may be from that of a sharp shape, per pixel of its length. Clean frames have 0.01 to 0.1, a blur of
# half a pixel with light noise 0.4, a blur of 1.25 pixels 0.8.
MISFIT = 0.75
# How far the mean colour may lie off its line, as a share of its distance from the ground. Half of the way to the nearest
# other colour is 0.58.
OFF = 0.3
# Of the objects seen whole, how many must be sharp and of one colour for the clip to count as read: in 17 frames one may fail.
READABLE = 0.9
# A radius may differ by this share from the clip's, and by half as much from the world's range.
SIZE = 0.2
# By how much another shape may explain a frame better than the clip's does, in pixels of misfit.
SHAPE = 0.15
# Coverage that belongs to no object, in the worst frame, in pixels: a tenth of the smallest default object.
STRAY = 5.0
# Distance of the positions read from the nearest lawful motion, root mean square and greatest. Independent displacements of
# 1 px leave a root mean square of 0.94 px after the fit and never less than 0.7; reconstructions at 34 dB about 0.3 px.
RESIDUAL = 0.6
RESIDUAL_MOST = 1.5
# Laws whose residuals differ by no more than this explain a clip alike: a collision that never comes about is a bounce, and the
# search for the nearest motion ends within a tenth of a pixel.
ALIKE = 0.1
# Speeds may leave the world's range by this share of its bounds: slower is frozen, faster is jumping.
PACE = 0.2
# How much more or less of an object may show beside the wall than the lawful motion says, as a share of its area.
COVERED = 0.3
# Positions that must be read before a law can be said to explain them; shorter clips need all.
POSITIONS = 3
# Frames of a clip before its pace, and whether its discs collide, are judged.
PACED = 4


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number with what it was measured on: ``n`` clips, and its 95 % interval: of a share of them Wilson's, of a mean normal.

    ``of`` is how many clips it was asked of, where that is known: what could not be read in the others speaks against them, not
    for them.
    """

    value: float
    n: int
    interval: tuple[float, float] | None = None
    of: int | None = None


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What the judge says of N clips, an array (N,) each. ``reason`` is empty for clips legal on both counts.

    Attributes:
        parsed: the clip could be read: nine in ten of the objects seen whole are sharp and of one of the colours.
        appearance: legal in appearance.
        law: legal in motion.
        presence: share of objects present over the frames that should show them, whatever their colour.
        count_error: mean over frames of how many objects too many or too few.
        color_constant: share of the objects present that have the clip's colours; NaN where there was none.
        size_error: greatest deviation of a radius from the clip's, as a share; NaN where no object was seen whole.
        shape_constant: share of the objects seen whole that have the clip's shapes, within tolerance; NaN where there was none.
        stray: coverage outside of the objects in the worst frame, in pixels.
        law_residual: root mean square distance from the nearest lawful motion, in pixels; NaN where too little was read.
        travel: length of the path that was read, mean over the objects, in pixels: a residual says nothing without it.
        nearest: of no family of the world is a lawful motion nearer to the positions read than of the label's.
        reason: the first thing that failed.
    """

    parsed: Flags
    appearance: Flags
    law: Flags
    presence: Array
    count_error: Array
    color_constant: Array
    size_error: Array
    shape_constant: Array
    stray: Array
    law_residual: Array
    travel: Array
    nearest: Flags
    reason: tuple[str, ...]

    @classmethod
    def cat(cls, parts: Sequence[Verdicts]) -> Verdicts:
        """The verdicts of several batches as one."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "reason"]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, reason=tuple(reason for part in parts for reason in part.reason))

    def __getitem__(self, chosen: Flags | slice) -> Verdicts:
        """The verdicts of some of the clips."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "reason"]
        reason = tuple(np.array(self.reason, dtype=object)[chosen])
        return Verdicts(**{name: getattr(self, name)[chosen] for name in names}, reason=reason)

    def summary(self) -> dict[str, Measure]:
        """Named scalars over all clips: shares of clips in [0, 1] and means of the rest, each with its interval."""
        n = len(self.parsed)
        shares = {
            "appearance_legal": self.appearance,
            "law_legal": self.law,
            "class_accuracy": self.nearest,
            "parse_rate": self.parsed,
            "count_correct": self.count_error == 0,
        }
        means = {
            name: getattr(self, name)
            for name in ("presence", "color_constant", "shape_constant", "size_error", "stray", "law_residual", "travel")
        }
        return {
            **{name: Measure(float(flags.mean()), n, wilson(int(flags.sum()), n)) for name, flags in shares.items()},
            **{name: mean_over(values) for name, values in means.items()},
        }


def mean_over(values: Array) -> Measure:
    """The mean of the finite values, with a normal 95 % interval where there are two or more."""
    found = values[np.isfinite(values)]
    n = len(found)
    if not n:
        return Measure(math.nan, 0, of=len(values))
    mean, half = float(found.mean()), NORMAL_95 * float(found.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Measure(mean, n, (mean - half, mean + half) if n > 1 else None, of=len(values))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share: never outside of [0, 1], and never empty at 0 or 1."""
    z = NORMAL_95
    share, scale = successes / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


class Legality:
    """The judge of a world: called with clips, it says one by one what is legal and what is not, and why.

    Args:
        world: the world that the clips claim to show. Its recipe is all that is used, no true state is.
    """

    def __init__(self, world: Worlds) -> None:
        self.recipe = world.recipe

    def __call__(
        self, videos: NDArray[np.uint8], labels: NDArray[np.int64], actions: NDArray[np.int64] | None = None
    ) -> Verdicts:
        """Judge ``videos`` uint8 (N, T, H, W, 3) by their ``labels`` (N,), and those of `agent` by ``actions`` (N, T).

        Raises `UserError` for a label out of range, shapes that do not match, and clips of `agent` without actions.
        """
        labels = np.asarray(labels)
        if actions is not None:
            actions = np.asarray(actions)
        self.check(videos, labels, actions)  # before the reading, which takes longer
        return self.judge(parse(videos, self.recipe), labels, actions)

    def judge(self, parsed: Parsed, labels: NDArray[np.int64], actions: NDArray[np.int64] | None = None) -> Verdicts:
        """The same of clips that have been read already, for whoever measures more of them than this.

        Raises `UserError` as a call does.
        """
        self.check(parsed.seen, labels, actions)
        sharp = sharp_frames(parsed)
        readable, looks, measures = self._appearance(parsed, labels, sharp)
        moves, residual, nearest = self._law(parsed, labels, actions, sharp)
        return Verdicts(
            parsed=readable[0][1],
            appearance=_all(readable + looks),
            law=_all(readable + moves),
            law_residual=residual,
            travel=_travel(parsed),
            nearest=nearest,
            reason=_reasons(readable + looks + moves),
            **measures,
        )

    def check(self, videos: NDArray[Any], labels: NDArray[np.int64], actions: NDArray[np.int64] | None) -> None:
        """Raise what a call would raise: ``videos`` may be anything of shape (N, T, ...)."""
        families = self.recipe.families
        if labels.shape != videos.shape[:1] or not ((labels >= 0) & (labels < len(families))).all():
            raise UserError(
                f"The judge needs one label per clip, {len(videos)} whole numbers from 0 to {len(families) - 1} "
                f"({', '.join(families)}); give it the labels that the clips were made for."
            )
        if actions is None and "agent" in families and (labels == families.index("agent")).any():
            raise UserError("Clips of 'agent' are judged by their actions; give the judge the actions (N, T) they were made for.")
        if actions is not None and (actions.shape != videos.shape[:2] or not ((actions >= 0) & (actions < len(ACTIONS))).all()):
            raise UserError(
                f"The judge needs one action per frame, whole numbers from 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)}) of "
                f"shape {videos.shape[:2]}, not {actions.shape}; give it the actions that the clips were made for."
            )

    def _appearance(self, parsed: Parsed, labels: NDArray[np.int64], sharp: Flags) -> tuple[Checks, Checks, dict[str, Array]]:
        n = self.recipe.objects
        clear = parsed.clear
        shown = np.maximum(clear.sum((1, 2)), 1)
        expected = np.maximum(n - self._hidden(parsed).sum(-1), 0)
        present = np.minimum(parsed.count, expected)
        own = np.minimum(parsed.seen.sum(-1), present)
        deviation = np.where(clear, np.abs(parsed.radius / np.maximum(parsed.full[:, None], 1e-9) - 1), 0.0).max((1, 2))
        deviation[~clear.any((1, 2))] = np.nan
        odd = clear & (parsed.misfit > parsed.shape_misfit.min(-1) + SHAPE)
        measures = {
            "presence": present.sum(1) / np.maximum(expected.sum(1), 1),
            "count_error": np.abs(parsed.count - expected).mean(1),
            "color_constant": np.where(present.any(1), own.sum(1) / np.maximum(present.sum(1), 1), np.nan),
            "size_error": deviation,
            "shape_constant": np.where(clear.any((1, 2)), 1 - odd.sum((1, 2)) / shown, np.nan),
            "stray": parsed.stray.max(1),
        }
        low, high = self.recipe.radius
        sizes = (parsed.full >= low * (1 - SIZE / 2)) & (parsed.full <= high * (1 + SIZE / 2))
        readable = [("blurred or off colour", (sharp.sum((1, 2)) / shown) >= READABLE)]
        looks = [
            ("wall missing, moved or uncalled for", self._wall_legal(parsed, labels)),
            ("object missing", measures["presence"] == 1),
            ("too many objects", (parsed.count <= expected).all(1)),
            ("changes colour", measures["color_constant"] == 1),
            ("changes size", (deviation <= SIZE) & sizes.all(1)),
            ("changes shape", ~odd.any((1, 2))),
            ("stray pixels", measures["stray"] <= STRAY),
        ]
        return readable, looks, measures

    def _wall_legal(self, parsed: Parsed, labels: NDArray[np.int64]) -> Flags:
        width = parsed.wall[:, 1] - parsed.wall[:, 0]
        wanted = np.array([self.recipe.wall if name == "occlude" else 0 for name in self.recipe.families])[labels]
        return np.abs(width - wanted) <= (wanted > 0)

    def _law(
        self, parsed: Parsed, labels: NDArray[np.int64], actions: NDArray[np.int64] | None, sharp: Flags
    ) -> tuple[Checks, Array, Flags]:
        """Checks of the motion by each clip's own law, its residual, and whether no other family's is clearly smaller."""
        clips, frames = parsed.seen.shape[:2]
        use = parsed.trusted & (sharp | parsed.covered)[..., None]
        open_frames = (~parsed.covered & ~self._hidden(parsed)).sum(1)
        enough = ((sharp & ~parsed.covered).sum(1) >= READABLE * open_frames) & (use.sum(1).min(-1) >= min(POSITIONS, frames))
        read = enough.all(1)
        near, steady, paced, met, beside = (np.zeros(clips, dtype=bool) for _ in range(5))
        residuals = np.full((clips, len(self.recipe.families)), np.inf)
        rows = np.nonzero(read)[0]
        for number, family in enumerate(self.recipe.families):
            if not len(rows) or (family == "agent" and actions is None):
                continue
            found = track(
                self.recipe,
                family,
                parsed.position[rows],
                use[rows],
                parsed.shape[rows],
                parsed.full[rows],
                np.zeros((len(rows), frames), dtype=np.int64) if actions is None else actions[rows],
            )
            error = np.where(use[rows], found.position - parsed.position[rows], 0.0) ** 2
            residuals[rows, number] = np.sqrt((error.sum(1) / use[rows].sum(1)).sum(-1).max(-1))
            mine = labels[rows] == number
            own = rows[mine]
            near[own] = residuals[own, number] <= RESIDUAL
            steady[own] = error[mine].sum(-1).max((1, 2)) <= RESIDUAL_MOST**2
            slow, fast = found.slowest * (1 - PACE), found.fastest * (1 + PACE)
            within = (found.pace >= slow) & (found.pace <= fast) & (found.reach <= self.recipe.speed[1] * (1 + PACE))
            paced[own] = within[mine].all(-1) | (frames < PACED)
            met[own] = np.broadcast_to(np.all(found.met, -1), len(rows))[mine] | (frames < PACED)
            beside[own] = family != "occlude" or self._beside_wall(parsed, own, found.position[mine])
        residual = residuals[np.arange(clips), labels]
        checks = [
            ("too little to judge its motion by", read),
            ("off its law", near),
            ("jumps off its law", steady),
            ("frozen, too slow or too fast", paced),
            ("discs never collide", met),
            ("does not come out from behind the wall as it should", beside),
        ]
        return checks, np.where(read, residual, np.nan), read & (residual <= residuals.min(1) + ALIKE)

    def _beside_wall(self, parsed: Parsed, rows: NDArray[np.int64], position: Array) -> Flags:
        """Whether, in every frame, as much of each object shows as a lawful motion behind the wall would leave."""
        share = beside_wall(self.recipe, position, parsed.shape[rows], parsed.full[rows], parsed.wall[rows])
        area = parsed.full[rows][:, None] ** 2
        # What is too small to be seen may be there or not.
        unseen = np.minimum(share, SEEN * self.recipe.radius[0] ** 2 / area)
        shown = np.where(parsed.seen[rows], parsed.radius[rows] ** 2 / area, unseen)
        # Only the wall is reckoned with here: frames in which another object is in front say nothing.
        alone = parsed.seen[rows].sum(-1, keepdims=True) <= 1
        return ((np.abs(share - shown) <= COVERED) | ~alone).all((1, 2))

    def _hidden(self, parsed: Parsed) -> Flags:
        """Unseen, and last and next seen where one step leads behind something: hidden, not gone, (N, T, n)."""
        step = parsed.full * self.recipe.widest + self.recipe.speed[1] * (1 + PACE)
        going = parsed.covered | near_wall(parsed.position, step, parsed.wall)
        behind = np.ones((2, *parsed.seen.shape), dtype=bool)
        last = [np.ones(parsed.seen[:, 0].shape, dtype=bool) for _ in range(2)]
        for t in range(parsed.seen.shape[1]):
            for way, frame in ((0, t), (1, -1 - t)):
                last[way] = np.where(parsed.seen[:, frame], going[:, frame], last[way])
                behind[way][:, frame] = last[way]
        return np.asarray(~parsed.seen & behind[0] & behind[1] & parsed.seen.any(1, keepdims=True))


def sharp_frames(parsed: Parsed) -> Flags:
    """The objects that are seen whole, with a sharp outline and of one colour, (N, T, n)."""
    return parsed.clear & (parsed.misfit <= MISFIT) & (parsed.off <= OFF)


def beside_wall(recipe: Recipe, position: Array, shape: NDArray[np.int64], radius: Array, wall: NDArray[np.int64]) -> Array:
    """What share of objects (N, T, n) at ``position`` (N, T, n, 2) the ``wall`` (N, 2) leaves; ``shape``, ``radius`` (N, n)."""
    share = np.zeros(position.shape[:3])
    edges = wall[:, None, None] - position[..., :1]
    for j, name in enumerate(recipe.shapes):
        offsets, shares = profile(name)
        left, right = np.moveaxis(np.interp(edges / radius[:, None, :, None], offsets, shares), -1, 0)
        share = np.where(shape[:, None] == j, 1 - right + left, share)
    return share


def _travel(parsed: Parsed) -> Array:
    """Length of the path through the positions that were read, mean over the objects, (N,) in pixels."""
    clips, frames, n = parsed.seen.shape
    length, last = np.zeros((clips, n)), parsed.position[:, 0]
    for t in range(1, frames):
        here = np.where(np.isnan(parsed.position[:, t]), last, parsed.position[:, t])
        length += np.nan_to_num(np.hypot(*np.moveaxis(here - last, -1, 0)))
        last = here
    return np.asarray(length.mean(1))


def _all(checks: Checks) -> Flags:
    return np.logical_and.reduce([passed for _, passed in checks])


def _reasons(checks: Checks) -> tuple[str, ...]:
    reasons = [""] * len(checks[0][1])
    for name, passed in reversed(checks):
        reasons = [reason if ok else name for reason, ok in zip(reasons, passed, strict=True)]
    return tuple(reasons)
