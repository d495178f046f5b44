"""Exact physics of a world's clips, read from their pixels without a network: beside the judge's verdicts, how far off it is.

    findings = Physics(world)(pixels, labels, actions)
    findings.summary()["energy_error"].value

The judge (:class:`vidgen.metrics.legality.Legality`) says whether a clip is lawful. Here stand figures that grow with what is
wrong, each meant for one thing: where objects are (`trajectory_error`, given the true states), what their law conserves, the
frame's walls, what comes out from behind an occluder, what actions and captions ask. Both share one reading of the pixels. A
figure is NaN in the clips that could not be read or to which it does not apply, and says on how many it was measured out of how
many it was asked of: read it beside `parse_rate`, `presence` and `tracked`, which such clips lower.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vidgen.data.worlds import Worlds, laws, parse_caption
from vidgen.data.worlds.fit import boxes, track
from vidgen.data.worlds.parse import WHOLE, Parsed, parse, things
from vidgen.data.worlds.recipe import COLORS, SHAPES, Recipe
from vidgen.data.worlds.render import distance
from vidgen.errors import UserError, did_you_mean
from vidgen.metrics.conserved import energy_error, momentum_error
from vidgen.metrics.factors import Factors, coverage, read_factors
from vidgen.metrics.legality import Legality, Measure, Verdicts, beside_wall, mean_over, sharp_frames, wilson

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

FOLLOWED = ("color", "shape", "size", "objects", "motion", "caption")
"""What of a caption a clip may follow: the objects by each of their facts and by all of them, the law, and everything."""

# Frames in which an object must be read before it is hidden, to say where it will come out.
BEFORE = 3
# What an occluder cuts is put right by the share of its area that shows; between these two shares little area is much length,
# above all at the tip of a diamond, and a place is wrong by up to a pixel.
_CUT = 0.85
_CLEAN = 0.99
# Of what is seen whole in a true clip; an object that shows less is not asked for.
_SHOWN = 0.95


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was found in N clips of T frames: arrays (N,), NaN where a clip was not asked, or could not be read.

    Attributes:
        verdicts: the judge's, of the same reading.
        factors: of the objects that were read.
        asked: which clips each of the figures below applies to, by its name; names that apply to none are absent.
        squared: (N, T) sum over the objects of their squared distance from where they truly are, in pixels squared.
        compared: (N, T) how many objects that sum is of.
        tracked: of the objects that truly show, the share that was found in its colour, over frames and objects.
        energy_error: root mean square deviation of the energy from what the law makes of it, as a share of its mean.
        momentum_error: the same of the momentum between hits on walls, as a share of the sum of the speeds.
        wall_penetration: how far an object was beyond a wall of the frame at most, in pixels.
        permanence: share of the objects due out from behind the wall that came out.
        reappearance_error: how far from where it was due such an object was when it could first be placed, in pixels.
        action_accuracy: share of the moves that come within half a move of what the action asks.
        action_error: root mean square distance of the moves from what the actions ask, in pixels.
        follows: (N, 6) whether the clip shows what its caption says, of `FOLLOWED`.
    """

    verdicts: Verdicts
    factors: Factors
    asked: dict[str, Flags]
    squared: Array
    compared: Integers
    tracked: Array
    energy_error: Array
    momentum_error: Array
    wall_penetration: Array
    permanence: Array
    reappearance_error: Array
    action_accuracy: Array
    action_error: Array
    follows: Array
    recipe: Recipe

    @property
    def trajectory_error(self) -> Array:
        """Root mean square distance of the objects from where they truly are, over the frames in which they were found."""
        count = self.compared.sum(1)
        return np.where(count > 0, np.sqrt(self.squared.sum(1) / np.maximum(count, 1)), np.nan)

    def horizon(self) -> list[Measure]:
        """The trajectory error by frame, root mean square over all clips: ``n`` is the number of clips behind each."""
        asked = int(self.asked["trajectory_error"].sum()) if "trajectory_error" in self.asked else 0
        count, total = self.compared.sum(0), self.squared.sum(0)
        error = np.where(count > 0, np.sqrt(total / np.maximum(count, 1)), np.nan)
        found = (self.compared > 0).sum(0)
        return [Measure(float(value), int(n), of=asked) for value, n in zip(error, found, strict=True)]

    def summary(self) -> dict[str, Measure]:
        """Named scalars over all clips: the judge's, `count_error`, and every figure that any clip was asked for.

        Means have a normal 95 % interval over clips, shares of clips Wilson's; `coverage` and its parts have none.
        """
        found = {**self.verdicts.summary(), "count_error": mean_over(self.verdicts.count_error)}
        found |= {name: mean_over(getattr(self, name)[asked]) for name, asked in self._clips() if name != "follows"}
        for name, asked in self._clips():
            if name == "follows":
                shares = zip(FOLLOWED, self.follows[asked].T, strict=True)
                found |= {f"follows_{what}": _share(flags) for what, flags in shares}
        count = int(self.factors.read.sum())
        for name, value in coverage(self.factors, self.recipe).items():
            found["coverage" if name == "all" else f"coverage_{name}"] = Measure(value, count, of=self.factors.read.size)
        return found

    def _clips(self) -> list[tuple[str, Flags]]:
        return [(name, asked) for name, asked in self.asked.items() if asked.any()]

    @classmethod
    def cat(cls, parts: Sequence[Findings]) -> Findings:
        """The findings of several batches of one world as one."""
        nothing = [np.zeros(len(part.tracked), dtype=bool) for part in parts]
        names = dict.fromkeys(name for part in parts for name in part.asked)
        asked = {
            name: np.concatenate([part.asked.get(name, none) for part, none in zip(parts, nothing, strict=True)])
            for name in names
        }
        return cls(
            verdicts=Verdicts.cat([part.verdicts for part in parts]),
            factors=Factors.cat([part.factors for part in parts]),
            asked=asked,
            recipe=parts[0].recipe,
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
        )

    def __getitem__(self, chosen: Flags | slice) -> Findings:
        """The findings of some of the clips."""
        return Findings(
            verdicts=self.verdicts[chosen],
            factors=self.factors[chosen],
            asked={name: flags[chosen] for name, flags in self.asked.items()},
            recipe=self.recipe,
            **{name: getattr(self, name)[chosen] for name in _ARRAYS},
        )


_ARRAYS = tuple(
    field.name for field in dataclasses.fields(Findings) if field.name not in ("verdicts", "factors", "asked", "recipe")
)


class Physics:
    """The measures of a world: called with clips, they say how far each of them is from what it should be.

    Args:
        world: the world that the clips claim to show. Its recipe is all that is used.
    """

    def __init__(self, world: Worlds) -> None:
        self.recipe, self.judge = world.recipe, Legality(world)

    def __call__(
        self,
        videos: NDArray[np.uint8],
        labels: Integers,
        actions: Integers | None = None,
        *,
        states: Array | None = None,
        colors: Sequence[Sequence[str]] | None = None,
        captions: Sequence[str] | None = None,
    ) -> Findings:
        """Measure ``videos`` uint8 (N, T, H, W, 3) that were made for ``labels`` (N,) and, those of `agent`, ``actions`` (N, T).

        What a clip is held against beyond its label is optional: ``states`` (N, T, n, 5), the true ones of predictions and
        reconstructions, with ``colors``, a clip's names in the order of its states, by which objects are known again (an only
        object needs none); ``captions``, one for each clip.

        Raises `UserError` as the judge does, and for states, colours or captions that do not match the clips.
        """
        labels = np.asarray(labels)
        actions = None if actions is None else np.asarray(actions)
        self.judge.check(videos, labels, actions)
        truth = None if states is None else self._truth(videos, np.asarray(states, dtype=np.float64), colors)
        if captions is not None and len(captions) != len(videos):
            raise UserError(f"There are {len(captions)} captions of {len(videos)} clips; give one caption for each clip.")
        wanted = None if captions is None else [parse_caption(caption) for caption in captions]

        parsed = parse(videos, self.recipe)
        verdicts = self.judge.judge(parsed, labels, actions)
        sharp = sharp_frames(parsed)
        clips, frames = parsed.seen.shape[:2]
        families = np.array(self.recipe.families, dtype=object)[labels]
        # What is beside something cannot be told sharp from blurred; it is believed if it is sharp in any other frame.
        readable = sharp | (parsed.covered & np.asarray(sharp.any(1))[:, None])
        precise = _precise(parsed, readable)
        shown = np.where(precise[..., None], parsed.position, np.nan)
        asked = {"wall_penetration": np.ones(clips, dtype=bool)}
        found = {name: np.full(clips, np.nan) for name in _ARRAYS if name not in ("squared", "compared", "follows")}
        found |= {"squared": np.zeros((clips, frames)), "compared": np.zeros((clips, frames), dtype=np.int64)}
        found["follows"] = np.full((clips, len(FOLLOWED)), np.nan)
        found["wall_penetration"] = penetration(parsed, sharp, self.recipe)

        for name, law, without in (
            ("energy_error", energy_error, ("agent",)),
            ("momentum_error", momentum_error, ("agent", "orbit")),
        ):
            asked[name] = ~np.isin(families, without)
            found[name] = self._by_family(law, families, shown, parsed)
        steered, walled = families == "agent", families == "occlude"
        if steered.any() and actions is not None:
            rows = steered.nonzero()[0]
            asked |= dict.fromkeys(("action_accuracy", "action_error"), steered)
            box = boxes(self.recipe, parsed.shape[rows], parsed.full[rows])
            followed = follow_actions(shown[rows], actions[rows], box, self.recipe)
            found["action_accuracy"][rows], found["action_error"][rows] = followed
        if walled.any():
            due, came, error = self._reappearance(parsed, precise, walled)
            asked |= dict.fromkeys(("permanence", "reappearance_error"), due)
            found["permanence"], found["reappearance_error"] = came, error
        if truth is not None:
            asked |= dict.fromkeys(("trajectory_error", "tracked"), np.ones(clips, dtype=bool))
            known = parsed.trusted.all(-1) & readable
            found |= compare(np.where(known[..., None], parsed.position, np.nan), parsed.color, *truth)
        if wanted is not None:
            asked["follows"] = np.ones(clips, dtype=bool)
            found["follows"] = follow_captions(parsed, wanted, verdicts.law, self.recipe)
        return Findings(verdicts=verdicts, factors=read_factors(parsed, sharp), asked=asked, recipe=self.recipe, **found)

    def _truth(
        self, videos: NDArray[np.uint8], states: Array, colors: Sequence[Sequence[str]] | None
    ) -> tuple[Array, Integers | None]:
        n = self.recipe.objects
        if states.shape != (*videos.shape[:2], n, 5):
            raise UserError(
                f"True states of clips of shape {videos.shape} are of shape {(*videos.shape[:2], n, 5)}, and these are of "
                f"{states.shape}; give those of the same clips, frame by frame."
            )
        if colors is None:
            if n > 1:
                raise UserError(
                    f"Which of {n} objects is which is told by its colour: give colors=, for every clip its factors' colors."
                )
            return states, None
        names = list(COLORS)
        unknown = next((name for row in colors for name in row if name not in COLORS), None)
        if unknown is not None:
            raise UserError(f"There is no colour '{unknown}'.{did_you_mean(str(unknown), names)} There are {', '.join(names)}.")
        if len(colors) != len(videos) or any(len(row) != n or len(set(row)) != n for row in colors):
            raise UserError(
                f"The colours of {len(videos)} clips of {n} objects are {len(videos)} lists of {n} different names; give each "
                "clip's factors' colors."
            )
        return states, np.array([[names.index(name) for name in row] for row in colors])

    def _by_family(self, law: Callable[..., Array], families: NDArray[np.object_], shown: Array, parsed: Parsed) -> Array:
        """What a measure of one family's clips gives for all of them."""
        found = np.full(len(families), np.nan)
        for family in np.unique(families):
            rows = (families == family).nonzero()[0]
            found[rows] = law(self.recipe, family, shown[rows], parsed.shape[rows], parsed.full[rows])
        return found

    def _reappearance(self, parsed: Parsed, precise: Flags, walled: Flags) -> tuple[Flags, Array, Array]:
        """Of each clip: whether any object is due out from behind the wall, the share that came, and how far off.

        From what was read before it was first lost from sight an object is carried on by its law. It is due where, after
        the wall has hidden it, half of it would show.
        """
        clips, frames = parsed.seen.shape[:2]
        came, error = np.full(clips, np.nan), np.full(clips, np.nan)
        time = np.arange(frames)[None, :, None]
        lost = np.where(parsed.seen.all(1), frames, (~parsed.seen).argmax(1))
        before = precise & (time < lost[:, None])
        beside = walled & (parsed.wall[:, 1] > parsed.wall[:, 0])
        clip, k = (beside[:, None] & (before.sum(1) >= BEFORE)).nonzero()
        if not len(clip):
            return np.zeros(clips, dtype=bool), came, error
        # Every object by itself, as a clip of one.
        position, shape, radius = parsed.position[clip, :, k][:, :, None], parsed.shape[clip, k], parsed.full[clip, k]
        use = np.broadcast_to(before[clip, :, k][:, :, None, None], position.shape)
        still = np.zeros((len(clip), frames), dtype=np.int64)
        carried = track(self.recipe, "occlude", position, use, shape[:, None], radius[:, None], still).position
        share = beside_wall(self.recipe, carried, shape[:, None], radius[:, None], parsed.wall[clip])[..., 0]
        hidden = (share <= 1 - WHOLE) & (time[..., 0] >= lost[clip, k][:, None])
        out = (np.cumsum(hidden, axis=1) > 0) & (share >= 0.5)
        late = np.cumsum(out, axis=1) > 0
        due = late.sum(1) > 1  # whether it comes out in the last frame, a hundredth of a pixel may decide
        back, read = late & parsed.seen[clip, :, k], late & precise[clip, :, k]
        first, row = read.argmax(1), np.arange(len(clip))
        miss = np.hypot(*(position[row, first, 0] - carried[row, first, 0]).T)
        returned, placed = due & back.any(1), due & read.any(1)
        count, returns, places = (np.bincount(clip[one], minlength=clips) for one in (due, returned, placed))
        squares = np.bincount(clip[placed], miss[placed] ** 2, clips)
        came = np.where(count > 0, returns / np.maximum(count, 1), np.nan)
        error = np.where(places > 0, np.sqrt(squares / np.maximum(places, 1)), np.nan)
        return count > 0, came, error


def _precise(parsed: Parsed, readable: Flags) -> Flags:
    """Objects (N, T, n) whose place is known to hundredths of a pixel: free, or beside something and put right."""
    share = (parsed.radius / np.maximum(parsed.full[:, None], 1e-9)) ** 2
    right = ~parsed.covered | (share < _CUT) | (share >= _CLEAN)
    return np.asarray(parsed.trusted.all(-1) & readable & right)


def compare(position: Array, color: Integers, states: Array, wanted: Integers | None) -> dict[str, NDArray]:
    """``squared``, ``compared`` and ``tracked`` of `Findings` for positions (N, T, n, 2), NaN where unknown, of ``color`` (N, n).

    ``wanted`` (N, n) are the colours of the objects of ``states`` (N, T, n, 5). An object in another colour is another object.
    Without them an only object is itself in any colour.
    """
    if wanted is not None:
        same = wanted[:, :, None] == color[:, None, :]
        place = same.argmax(2)
        position = np.take_along_axis(position, place[:, None, :, None], 2)
        position = np.where(same.any(2)[:, None, :, None], position, np.nan)
    miss = ((position - states[..., :2]) ** 2).sum(-1)
    found, shows = np.isfinite(miss), states[..., 4] >= _SHOWN
    many = shows.sum((1, 2))
    return {
        "squared": np.where(found, miss, 0.0).sum(-1),
        "compared": found.sum(-1),
        "tracked": np.where(many > 0, (found & shows).sum((1, 2)) / np.maximum(many, 1), np.nan),
    }


def follow_actions(position: Array, actions: Integers, box: Array, recipe: Recipe) -> tuple[Array, Array]:
    """Share of moves within half a move of what ``actions`` (N, T) ask, and their root mean square distance from it, both (N,).

    ``position`` is (N, T, n, 2), ``box`` (N, n, 4) where centres can be. What an action asks is reckoned from where the object
    was, up to the border; moves of which the border leaves less than half say nothing about the action and do not count.
    """
    step, push = recipe.speed[1], laws.moves(actions, recipe.speed[1])[:, 1:, None]
    low, high = box[:, None, :, ::2], box[:, None, :, 1::2]
    before = position[:, :-1]
    asked = np.clip(before + push, low, high) - np.clip(before, low, high)
    miss = np.hypot(*np.moveaxis(np.diff(position, axis=1) - asked, -1, 0))
    known = np.isfinite(miss)
    tells = known & ((np.hypot(asked[..., 0], asked[..., 1]) >= step / 2) | (np.abs(push).sum(-1) == 0))
    right, count, all_known = (tells & (miss <= step / 2)).sum((1, 2)), tells.sum((1, 2)), known.sum((1, 2))
    squares = np.where(known, miss**2, 0.0).sum((1, 2))
    return (
        np.where(count > 0, right / np.maximum(count, 1), np.nan),
        np.where(all_known > 0, np.sqrt(squares / np.maximum(all_known, 1)), np.nan),
    )


def follow_captions(parsed: Parsed, wanted: Sequence[dict], lawful: Flags, recipe: Recipe) -> Array:
    """Whether clips show what their captions' facts name, (N, 6) of `FOLLOWED`, 1 or 0; the motion is the judge's ``lawful``."""
    shown = [sorted(found) for found in things(parsed, recipe)]
    asked = [sorted(zip(facts["colors"], facts["shapes"], facts["sizes"], strict=True)) for facts in wanted]
    parts = [
        [sorted(one[place] for one in a) == sorted(one[place] for one in b) for a, b in zip(asked, shown, strict=True)]
        for place in range(3)
    ]
    objects = np.array([a == b for a, b in zip(asked, shown, strict=True)], dtype=bool)
    return np.stack([*np.array(parts, dtype=bool), objects, lawful, objects & lawful], 1).astype(np.float64)


def penetration(parsed: Parsed, sharp: Flags, recipe: Recipe) -> Array:
    """How far an object reached beyond an edge of the frame at most, (N,) in pixels; NaN where none is ever seen sharp.

    The centroid of what an edge leaves of a shape tells how deep the cut is, for shape and size are known from other frames.
    """
    deepest = np.zeros(parsed.seen.shape)
    x, y = np.moveaxis(parsed.position, -1, 0)
    for number, name in enumerate(recipe.shapes):
        here = np.asarray(parsed.shape == number)[:, None]
        for side, gap in (("side", x), ("side", recipe.width - x), ("up", y), ("down", recipe.height - y)):
            gaps, depths = cut(name, side)
            scale = np.maximum(parsed.full, 1e-9)[:, None]
            depth = np.interp(np.nan_to_num(gap / scale, nan=np.inf), gaps, depths) * scale
            deepest = np.where(here, np.maximum(deepest, depth), deepest)
    tells = parsed.seen & ~parsed.covered & np.asarray(sharp.any(1))[:, None]
    return np.where(tells.any((1, 2)), np.where(tells, deepest, 0.0).max((1, 2)), np.nan)


@functools.cache
def cut(shape: str, side: str) -> tuple[Array, Array]:
    """Of a shape of radius 1 that an edge cuts ``side`` (to either "side", "up" or "down"): how far the centroid of what is left
    is from the edge, ascending, and how far the shape reached beyond it.
    """
    fine = np.linspace(-1.6, 1.6, 1281)
    inside = distance(shape, fine[None, :], fine[:, None], 1.0) <= 0
    area = inside.sum(0 if side == "side" else 1).astype(np.float64)
    if side == "down":
        area = area[::-1]
    # From here on the edge comes from the left and cuts away what is to its left.
    left = np.cumsum(area[::-1])[::-1]
    moment = np.cumsum((area * fine)[::-1])[::-1]
    reach = SHAPES[shape][("side", "up", "down").index(side)]
    edge = np.linspace(-reach, fine[np.nonzero(area)[0][-2]], 200)
    centre = np.interp(edge, fine, moment) / np.interp(edge, fine, left)
    return (centre - edge)[::-1], (edge + reach)[::-1]


def _share(flags: Array) -> Measure:
    """A share of clips with Wilson's interval."""
    return Measure(float(flags.mean()), len(flags), wilson(int(flags.sum()), len(flags)), of=len(flags))
