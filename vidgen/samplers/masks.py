"""Which cells of a clip are given: the tasks of conditional generation as data, so that no task has code of its own.

Source: Yu et al., "MAGVIT" (2023), section 3.2, and its released masks of latent cells: frame prediction and interpolation,
central, vertical, horizontal and dynamic outpainting, central and dynamic inpainting. Its class-conditional generation and
prediction are ``generation`` and ``prediction`` with a label. Deviation: given cells are the clip's own, not those of a padded
video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.registry import unknown


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which cells are given; what several fields say is given together.

    Attributes:
        first: cells at the beginning; below 1 a share of all, rounded down, but at least one.
        last: cells at the end, likewise.
        prefix: a random number of cells at the beginning, from one to all but one.
        scatter: each number of cells from one to all but one, anywhere.
        box: height and width of a region, as shares of the frame, in its middle; None for no region.
        outside: what lies around the region is given, and not the region.
        moves: the region goes from the left edge to the right one over the clip.
    """

    first: float = 0
    last: float = 0
    prefix: bool = False
    scatter: bool = False
    box: tuple[float, float] | None = None
    outside: bool = False
    moves: bool = False


TASKS = {
    "generation": Task(),
    "prediction": Task(first=1),
    "interpolation": Task(first=1, last=1),
    "extension": Task(first=0.5),
    "prefix": Task(prefix=True),
    "scatter": Task(scatter=True),
    "outpaint_center": Task(box=(0.5, 0.5)),
    "outpaint_vertical": Task(box=(1.0, 0.5)),
    "outpaint_horizontal": Task(box=(0.5, 1.0)),
    "outpaint_dynamic": Task(box=(1.0, 0.5), moves=True),
    "inpaint_center": Task(box=(0.5, 0.5), outside=True),
    "inpaint_dynamic": Task(box=(0.5, 0.5), outside=True, moves=True),
}
"""Every task by its name. ``vertical`` and ``horizontal`` are how the given strip lies; ``dynamic`` regions move."""


def task_mask(task: Task, grid: Shape, *, generator: torch.Generator | None = None) -> Tensor:
    """(t, h, w) bool: the cells of ``grid`` that are given; none where nothing would be left to generate."""
    t = grid[0]
    mask = torch.zeros(grid, dtype=torch.bool)
    mask[: _count(task.first, t)] = True
    mask[t - _count(task.last, t) :] = True
    if (task.prefix or task.scatter) and t > 1:
        count = int(torch.randint(1, t, (), generator=generator))
        mask[torch.arange(count) if task.prefix else torch.randperm(t, generator=generator)[:count]] = True
    if task.box is not None:
        region = _region(task.box, grid, task.moves)
        mask |= ~region if task.outside else region
    return torch.zeros_like(mask) if bool(mask.all()) else mask


def _count(cells: float, total: int) -> int:
    return int(cells) if cells >= 1 or cells == 0 else max(1, int(cells * total))


def _region(box: tuple[float, float], grid: Shape, moves: bool) -> Tensor:
    """(t, h, w): the cells of the region, in the middle or, where it moves, further to the right in every cell of time."""
    t, h, w = grid
    high, wide = box
    rows, columns = torch.arange(h), torch.arange(w)
    left = torch.full((t,), int(w * (1 - wide) / 2))
    right = torch.full((t,), int(w * (1 + wide) / 2))
    if moves:
        left = torch.linspace(0, int(w * (1 - wide)), t).round().long()
        right = left + int(w * wide)
    tall = (rows >= int(h * (1 - high) / 2)) & (rows < int(h * (1 + high) / 2))
    across = (columns >= left[:, None]) & (columns < right[:, None])
    return tall[None, :, None] & across[:, None, :]


def task_masks(names: Sequence[str], grid: Shape, *, generator: torch.Generator | None = None) -> Tensor:
    """(B, t, h, w) bool: the given cells of each clip by the name of its task.

    Raises:
        UserError: on an unknown task, naming the nearest and all of them.
    """
    for name in names:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    return torch.stack([task_mask(TASKS[name], grid, generator=generator) for name in names])


def draw_tasks(weights: Mapping[str, float], batch: int, *, generator: torch.Generator | None = None) -> list[str]:
    """A task for each clip of a batch, drawn in proportion to ``weights``.

    Raises:
        UserError: on an unknown task, and on weights of which none is above 0 or some are below.
    """
    for name in weights:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    chances = torch.tensor(list(weights.values()), dtype=torch.float64)
    if not len(chances) or float(chances.min()) < 0 or float(chances.sum()) <= 0:
        raise UserError(f"The weights of the tasks are {list(weights.values())}: give at least one above 0, and none below.")
    chosen = torch.multinomial(chances, batch, replacement=True, generator=generator)
    names = list(weights)
    return [names[index] for index in chosen.tolist()]
