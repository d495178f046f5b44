"""Schedules of long videos: which cells a window observes and which it generates, stage after stage, as plain data.

A generator makes windows of at most ``window`` cells; a video of more is made in stages, each a set of cells to generate and a
set of finished ones to observe. That is all a schedule is, so it can be printed, drawn, and checked without any model.

Source: Harvey et al., "Flexible Diffusion Modeling of Long Videos" (2022), whose autoregressive, long-range and hierarchical
schemes these are, over the cells of a latent in the place of frames. Deviations, where the published code stops or repeats
itself: a cell that a spread would name twice is named once; at least one recent cell is observed; a level whose spacing is beyond
the end is left out; where the finished cells in between would fill a window, a stage makes fewer, and their spacing stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from types import MappingProxyType

import numpy as np

from vidgen.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Stage:
    """One window of a rollout.

    Attributes:
        observed: finished cells that the window sees, ascending.
        generated: the cells that it makes, ascending.
    """

    observed: tuple[int, ...]
    generated: tuple[int, ...]

    @property
    def cells(self) -> tuple[int, ...]:
        """All cells of the window, ascending."""
        return tuple(sorted(self.observed + self.generated))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The window's cells as ranges (first, last + 1) of cells that follow one another; one where there are no gaps."""
        cells = self.cells
        breaks = [place for place, (a, b) in enumerate(pairwise(cells), start=1) if b != a + 1]
        return tuple((cells[a], cells[b - 1] + 1) for a, b in pairwise([0, *breaks, len(cells)]))


Schedule = Callable[[int, int, int, Collection[int]], Iterator[Stage]]
"""(cells of the video, most cells of a window, most cells made in a stage after the first, cells given) -> stages."""


def autoregressive(cells: int, window: int, step: int, given: Collection[int] = ()) -> Iterator[Stage]:
    """Each window observes the ``window - step`` cells before those that it makes."""
    yield from _forward(cells, window, step, given, lambda done, origin: range(max(0, done - window + step), done))


def long_range(cells: int, window: int, step: int, given: Collection[int] = ()) -> Iterator[Stage]:
    """Half of what a window observes are the cells just before; the others the last given ones (or of the first window)."""
    room = window - step

    def observed(done: int, origin: int) -> set[int]:
        recent = set(range(max(0, done - max(1, room // 2)), done))
        old = [cell for cell in range(origin - 1, -1, -1) if cell not in recent]
        return recent | set(old[: room - len(recent)])

    yield from _forward(cells, window, step, given, observed)


def hierarchy(cells: int, window: int, step: int, given: Collection[int] = (), *, levels: int) -> Iterator[Stage]:
    """First cells spread over the whole video, then those between them, level by level, between finished ones on both sides.

    Level l of n takes every ``d ** ((n - l) / (n - 1))``-th cell, where d is what is left to make over ``step - 1``. A stage
    observes all finished cells between its own, and the nearest ones after and before them, half of each.
    """
    if window < 3 and cells > window:
        raise UserError(
            f"A hierarchy needs windows of 3 cells or more, one to make and one on each side, and this one has {window}; "
            "take autoregressive."
        )
    origin, step = _prefix("This", given), min(step, max(1, window - 2))
    if origin == cells:
        return
    first = Stage((), _spread(0, cells - 1, window))
    if origin:  # as published, the whole width of the last cell counts here
        first = Stage(_spread(0, origin - 0.001, window - step), _spread(origin, cells - 0.001, step))
    yield first
    done = {*range(origin), *first.generated}
    spacing = (cells - (origin or len(first.generated))) / max(1, step - 1)
    for level in range(2, levels + 1):
        every = max(1, int(spacing ** ((levels - level) / (levels - 1))))
        place = min(set(range(cells)) - done, default=cells) - 1 + every
        while wanted := _every(place, every, cells, done, step):
            stage = _between(wanted, window, step, cells, done)
            yield stage
            done.update(stage.generated)
            place = stage.generated[-1] + every


def interpolation(cells: int, window: int, step: int, given: Collection[int] = ()) -> Iterator[Stage]:
    """Fills the gaps between given cells from the first to the last, in windows without gaps.

    A gap that fits is made at once, between what is before and after it; a longer one from its beginning on, ``step`` cells at a
    time, until the rest fits. What lies before the first given cell is made backwards.
    """
    if not given:
        raise UserError("Interpolation fills what lies between given cells, and none is given; take another schedule.")
    done = set(given)
    begin = min(done)
    while begin:  # backwards, to cell 0
        first = max(0, begin - (step if begin + 1 > window else begin))
        yield Stage(_run(begin, window - (begin - first), 1, done), tuple(range(first, begin)))
        done.update(range(first, begin))
        begin = first
    while len(done) < cells:
        begin = next(cell for cell in range(begin, cells) if cell not in done)
        end = next((cell for cell in range(begin, cells) if cell in done), cells)
        sides = 1 + (end < cells)
        last = end if end - begin + sides <= window else begin + min(step, end - begin)
        room = window - (last - begin)
        after = _run(last, room // 2, 1, done)
        before = _run(begin - 1, room - len(after), -1, done)
        after = _run(last, room - len(before), 1, done)
        yield Stage(before + after, tuple(range(begin, last)))
        done.update(range(begin, last))


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "autoregressive": autoregressive,
        "long_range": long_range,
        "hierarchy_2": partial(hierarchy, levels=2),
        "hierarchy_3": partial(hierarchy, levels=3),
        "interpolation": interpolation,
    }
)


def schedule(name: str, cells: int, *, window: int, overlap: int, given: Collection[int] = ()) -> list[Stage]:
    """The stages that make a video of ``cells`` cells.

    Args:
        name: of :data:`SCHEDULES`.
        cells: of the whole video.
        window: the most cells of a window, observed and made.
        overlap: how many of them are observed (hierarchies: at least).
        given: cells that are there already.

    Raises:
        UserError: on an unknown name, an overlap that leaves nothing to make or nothing to observe, given cells beyond the video,
            or which the schedule cannot use.
    """
    if name not in SCHEDULES:
        raise UserError(
            f"There is no rollout schedule '{name}'.{did_you_mean(name, tuple(SCHEDULES))} There are {', '.join(SCHEDULES)}."
        )
    if any(not 0 <= cell < cells for cell in given):
        raise UserError(f"Cells {min(given)} to {max(given)} are given, and the video has {cells}: ask for a longer one.")
    if cells > window and not 1 <= overlap < window:
        if window == 1:
            raise UserError(f"A window of 1 cell observes nothing, so it makes no video of {cells} cells.")
        raise UserError(
            f"rollout.overlap={overlap} is not from 1 to {window - 1}: a window of {window} cells observes some of them."
        )
    step = max(1, window - overlap)
    return list(SCHEDULES[name](cells, window, step, sorted(set(given))))


def text(stages: Sequence[Stage], cells: int) -> str:
    """A row for each stage, a column for each cell: ``#`` made, ``o`` observed, ``.`` finished and not seen."""
    marks = np.array(list(" .o#"))
    return "\n".join("".join(row) for row in marks[table(stages, cells)])


COLOURS = np.array([[255, 255, 255], [214, 214, 214], [74, 144, 194], [230, 130, 40]], dtype=np.uint8)
"""Of cells not yet made, finished, observed, made."""


def image(stages: Sequence[Stage], cells: int, size: int = 8) -> np.ndarray:
    """The same as a picture, uint8 (stages * size, cells * size, 3): orange is made, blue is observed, grey is finished."""
    drawn = COLOURS[table(stages, cells)].repeat(size, axis=0).repeat(size, axis=1)
    drawn[size - 1 :: size], drawn[:, size - 1 :: size] = 255, 255
    return drawn


def table(stages: Sequence[Stage], cells: int) -> np.ndarray:
    """(stages, cells) uint8: 0 not yet made, 1 finished, 2 observed, 3 made in this stage. Given cells are finished."""
    rows = np.zeros((len(stages), cells), dtype=np.uint8)
    made = sorted(cell for stage in stages for cell in stage.generated)
    state = np.ones(cells, dtype=np.uint8)
    state[made] = 0
    for row, stage in zip(rows, stages, strict=True):
        row[:] = state
        row[list(stage.observed)] = 2
        row[list(stage.generated)] = 3
        state[list(stage.generated)] = 1
    return rows


def _forward(
    cells: int, window: int, step: int, given: Collection[int], observed: Callable[[int, int], Collection[int]]
) -> Iterator[Stage]:
    """From the first cell to the last; ``observed`` of how many are done, and how many were at first."""
    done = origin = _prefix("This", given)
    if not done:
        done = origin = min(window, cells)
        yield Stage((), tuple(range(done)))
    while done < cells:
        after = min(done + step, cells)
        yield Stage(tuple(sorted(observed(done, origin))), tuple(range(done, after)))
        done = after


def _prefix(name: str, given: Collection[int]) -> int:
    """How many cells are given, from the first on.

    Raises:
        UserError: where they are others.
    """
    if sorted(given) != list(range(len(given))):
        raise UserError(f"{name} schedule goes on from given cells that begin the video; interpolation takes any others.")
    return len(given)


def _spread(first: int, last: float, count: int) -> tuple[int, ...]:
    """``count`` cells, or fewer where there are fewer, spread evenly from ``first`` to ``last``, both of them included."""
    places = np.linspace(first, last, count) if count > 1 else [last]
    return tuple(sorted({int(place) for place in places}))


def _every(place: int, every: int, cells: int, done: Collection[int], count: int) -> list[int]:
    """Up to ``count`` cells that are not done, from ``place`` on, each at least ``every`` after the one before."""
    found: list[int] = []
    while place < cells and len(found) < count:
        if place in done:
            place += 1
        else:
            found.append(place)
            place += every
    return found


def _between(wanted: Sequence[int], window: int, step: int, cells: int, done: Collection[int]) -> Stage:
    """The first of the ``wanted`` cells, at most ``step``, that leave room for what is done between them and on both sides."""
    for size in range(step, 0, -1):
        generated = wanted[:size]
        inside = [cell for cell in range(generated[0], generated[-1]) if cell in done]
        room = window - size - len(inside)
        if room >= 2:
            break
    after = list(islice((cell for cell in range(generated[-1] + 1, cells) if cell in done), room // 2))
    before = list(islice((cell for cell in range(generated[0] - 1, -1, -1) if cell in done), room - len(after)))
    return Stage(tuple(sorted(before + inside + after)), tuple(generated))


def _run(place: int, count: int, direction: int, done: Collection[int]) -> tuple[int, ...]:
    """Up to ``count`` done cells that follow one another from ``place`` on in a direction, ascending."""
    found: list[int] = []
    while place in done and len(found) < count:
        found.append(place)
        place += direction
    return tuple(sorted(found))
