"""Videos of any length from a generator of short windows, stage after stage, in memory that does not grow with their length.

The schedules are in :mod:`vidgen.samplers.rollout`. Here they meet a generator: each stage is a window with ``Condition.known``
for the finished cells that it observes; what is finished leaves at once, in order, and what no later stage observes is forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, takewhile
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, LatentSpec, Shape
from vidgen.samplers.noise import key
from vidgen.samplers.rollout import SCHEDULES, Stage, schedule


class Draw(Protocol):
    """A generator's ``sample`` with everything but the window decided."""

    def __call__(self, shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
        """The window of a video of ``shape`` that begins at cell ``start``."""
        ...


class _Window(NamedTuple):
    """The units of a generator's window, those of them that it observes, others that it sees, and whether there are gaps."""

    units: tuple[int, ...]
    near: tuple[int, ...]
    far: tuple[int, ...]
    spread: bool


class Rollout:
    """One long video as stages.

    A unit of the schedule is a cell, or of pyramids that grow in time a clip (``spec.clip``), for these are made whole: windows
    after the first then have a clip in the place of cell 0.

    Args:
        spec: of the latents.
        shape: (T, H, W) of the whole video.
        window: cells that the generator makes at once: those of its training clips.
        name: the schedule, of :data:`vidgen.samplers.rollout.SCHEDULES`.
        overlap: units of a window that are observed; None: half of it.
        given: latents of what is there already, of one video or of each of the batch; they are in the result as they are.

    Attributes:
        stages: the schedule, in units.
        units: how many there are.
        window: the most units of a window.

    Raises:
        UserError: where the schedule cannot be, or what is given ends inside a cell or a clip.
    """

    def __init__(
        self,
        spec: LatentSpec,
        shape: Shape,
        *,
        window: int,
        name: str = "autoregressive",
        overlap: int | None = None,
        given: Sequence[Latent] = (),
    ) -> None:
        self.spec, self.shape, self.name = spec, shape, name
        cells = spec.grid(shape)[0]
        self.window = size = len(_units(spec, window))
        self._edges = [0, *accumulate(_units(spec, cells))]
        self.units = len(self._edges) - 1
        self._given = {unit: part for latent in given for unit, part in self._split(latent)}
        self.stages = schedule(
            name, self.units, window=size, overlap=size // 2 if overlap is None else overlap, given=self._given.keys()
        )
        self._last = {unit: index for index, stage in enumerate(self.stages) for unit in stage.observed}

    def check(self, generator: Any) -> None:
        """Sees that a generator can make every stage.

        It says so itself: ``takes_known`` where it was trained to see finished cells in its window, ``takes_frames`` (it, or its
        ``conditioner``) where also ones apart from it, by cross-attention, ``takes_places`` where the cells of its window may lie
        anywhere.

        Raises:
            UserError: where it cannot, naming the schedules that it can make, or how to train one that can.
        """
        ways = [self._way(stage) for stage in self.stages if stage.observed or len(stage.runs) > 1]
        if not ways:
            return
        if not _takes(generator, "known"):
            raise UserError(
                "This generator was not trained with known cells, so it cannot go on from any: train one with "
                "generator/conditioning=[label,frames], or ask for no more frames than it makes at once."
            )
        takes = {"known"} | {way for way in ("frames", "places") if _takes(generator, way)}
        if not all(way & takes for way in ways):
            can = [name for name, way in NEEDS.items() if way & takes]
            raise UserError(
                f"rollout.schedule={self.name} makes windows with gaps, and this generator was not trained on such; it makes "
                f"{', '.join(can)}."
            )

    def run(self, draw: Draw, num: int, condition: Condition | None = None, *, generator: Any, seed: int = 0) -> Iterator[Latent]:
        """The latents of ``num`` videos, which follow one another from cell 0 on, each as soon as it is finished.

        Args:
            draw: makes a window.
            num: videos.
            condition: of the whole video: ``action`` has all its frames, ``frames_at`` counts from its first cell.
            generator: what ``draw`` samples; it says what it takes, as for :meth:`check`.
            seed: as of ``sample``; no two stages share their noise.
        """
        condition = condition or Condition()
        if condition.known is not None:
            raise ValueError("What is given to a rollout is its own `given`, not a condition's `known`.")
        kept = {unit: _batch(part, num) for unit, part in self._given.items()}
        front = 0
        begun: set[int] = set()
        for index, stage in enumerate(self.stages):
            front = yield from self._leave(kept, front, index)
            window = self._window(stage, _takes(generator, "frames"))
            start = self._edges[window.units[0]]
            frames = sum(after - before for before, after in map(self._frames, window.units))
            made = draw(
                (frames, *self.shape[1:]),
                self._told(window, condition, kept, num),
                start=start,
                seed=key(seed, "stage", index) if start in begun else seed,
            )
            begun.add(start)
            kept.update(self._cut(window, stage.generated, made))
            del made
        yield from self._leave(kept, front, len(self.stages))

    def _leave(self, kept: dict[int, Latent], front: int, index: int) -> Generator[Latent, None, int]:
        """What is finished and follows unit ``front``, a window at a time; before stage ``index`` what nobody will see goes.

        Returns:
            the first unit that is not finished.
        """
        while front in kept:
            ready = list(takewhile(kept.__contains__, range(front, front + self.window)))
            yield Latent.cat([kept[unit] for unit in ready])
            front = ready[-1] + 1
        for unit in [unit for unit in kept if unit < front and self._last.get(unit, -1) < index]:
            del kept[unit]
        return front

    def _way(self, stage: Stage) -> set[str]:
        """What a generator may take so that it can make a stage: any of these."""
        if len(stage.runs) == 1:
            return {"known", "frames", "places"}
        return {"frames", "places"} if _main(stage) else {"places"}

    def _window(self, stage: Stage, frames: bool) -> _Window:
        """What of a stage is in the generator's window, and what it sees by cross-attention, where it takes ``frames``."""
        main = _main(stage)
        if main is None or (len(stage.runs) > 1 and not frames):
            return _Window(stage.cells, stage.observed, (), True)
        units = range(*main)
        near = tuple(unit for unit in stage.observed if unit in units)
        return _Window(tuple(units), near, tuple(unit for unit in stage.observed if unit not in units), False)

    def _told(self, window: _Window, condition: Condition, kept: dict[int, Latent], num: int) -> Condition:
        """The condition of a window: what is said of its frames, and what it observes."""
        start = self._edges[window.units[0]]
        told = condition.window([frame for unit in window.units for frame in range(*self._frames(unit))])
        places = [cell for unit in window.units for cell in range(self._edges[unit], self._edges[unit + 1])]
        told = replace(told, frames_at=told.frames_at - start, places=tuple(places) if window.spread else None)
        if window.near:
            known, mask = self._known(window.units, window.near, kept, num)
            told = replace(told, known=known, known_mask=mask)
        if window.far:
            if condition.frames is not None:
                raise UserError(f"rollout.schedule={self.name} shows the generator frames of its own: give none.")
            away, mask = self._known(range(window.far[0], window.far[-1] + 1), window.far, kept, num)
            told = replace(told, frames=away, frames_mask=mask, frames_at=self._edges[window.far[0]] - start)
        return told

    def _known(
        self, units: Collection[int], observed: Collection[int], kept: dict[int, Latent], num: int
    ) -> tuple[Latent, Tensor]:
        """A latent over ``units``, empty but for the ``observed`` ones, and the mask (num, cells) of those."""
        like = kept[next(iter(observed))]
        place, parts, flags = self._edges[next(iter(units))], [], []
        for unit in units:
            part = kept[unit] if unit in observed else self._blank(unit, like)
            parts.append(replace(part, start=place))  # as if they followed one another
            size = self._edges[unit + 1] - self._edges[unit]
            flags += [unit in observed] * size
            place += size
        device = next(iter(like.tensors().values())).device
        return Latent.cat(parts), torch.tensor(flags, device=device).expand(num, -1)

    def _blank(self, unit: int, like: Latent) -> Latent:
        """An empty unit with the fields of ``like``."""
        before, after = self._frames(unit)
        first, last = self._edges[unit], self._edges[unit + 1]
        grids = self.spec.grids((after - before, *self.shape[1:]), first)
        tokens = sum(t * h * w for t, h, w in grids)
        empty: dict[str, Any] = {
            name: value.new_zeros(len(value), tokens, value.shape[2])
            if name == "ids"
            else value.new_zeros(*value.shape[:2], last - first, *value.shape[3:])
            for name, value in like.tensors().items()
        }
        return Latent(spec=self.spec, grids=grids, num_frames=after - before, start=first, **empty)

    def _cut(self, window: _Window, generated: Collection[int], made: Latent) -> Iterator[tuple[int, Latent]]:
        """The units that a stage has made, each by itself and at its own place."""
        at = 0
        for unit in window.units:
            size = self._edges[unit + 1] - self._edges[unit]
            if unit in generated:
                before, after = self._frames(unit)
                part = made.cells(at, at + size).clone()  # a view would keep the whole window
                yield unit, replace(part, start=self._edges[unit], num_frames=after - before)
            at += size

    def _frames(self, unit: int) -> tuple[int, int]:
        """The frames of a unit, (first, last + 1); the video ends where it was asked to."""
        return self.spec.frames(self._edges[unit]), min(self.spec.frames(self._edges[unit + 1]), self.shape[0])

    def _split(self, latent: Latent) -> Iterator[tuple[int, Latent]]:
        """The units that a given latent is made of."""
        place, end = latent.start, latent.start + self.spec.cells(latent.num_frames, latent.start)
        if place not in self._edges or end not in self._edges:
            raise UserError(
                f"Cells {place} to {end - 1} are given, and the video's {self._edges[-1]} cells, or the clips that they make, do "
                "not begin and end there."
            )
        for unit in range(self._edges.index(place), self._edges.index(end)):
            first, last = self._edges[unit], self._edges[unit + 1]
            part = latent.cells(first - place, last - place)
            before, after = self._frames(unit)
            if part.num_frames != after - before:
                raise UserError(
                    f"What is given has {part.num_frames} of the {after - before} frames of cell {first}: give whole cells."
                )
            yield unit, part


NEEDS = {
    name: {"known", "frames", "places"}
    if name in ("autoregressive", "interpolation")
    else {"frames", "places"}
    if name == "long_range"
    else {"places"}
    for name in SCHEDULES
}
"""Any of what a generator must take so that it can make a schedule's windows."""


def _takes(generator: Any, way: str) -> bool:
    """What a generator says of itself, or its conditioner where it says nothing."""
    asked = (generator, getattr(generator, "conditioner", None))
    return any(getattr(one, f"takes_{way}", False) for one in asked)


def _main(stage: Stage) -> tuple[int, int] | None:
    """The run of units that holds all that are made; None where they are in several."""
    return next((run for run in stage.runs if run[0] <= stage.generated[0] and stage.generated[-1] < run[1]), None)


def _units(spec: LatentSpec, cells: int) -> list[int]:
    """How many cells each of the parts has that are made whole."""
    return [1] * cells if spec.clip is None else spec.pieces(cells)


def _batch(latent: Latent, num: int) -> Latent:
    """A latent of one clip as one of ``num``."""
    return latent if len(latent) == num else latent.expand(num)
