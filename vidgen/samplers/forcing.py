"""Diffusion forcing: every cell along time has a noise level of its own, and a matrix says how they fall.

Source: Chen et al., "Diffusion Forcing" (2024). A network trained with independent levels can finish early cells first, as an
autoregressive model does, all at once, or anything between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["full_sequence", "pyramid", "autoregressive", "trapezoid"]

SCHEDULES: tuple[Schedule, ...] = ("full_sequence", "pyramid", "autoregressive", "trapezoid")


def lags(schedule: Schedule, cells: int, steps: int, lag: float) -> list[int]:
    """How many steps each cell begins after the first to begin; a ``lag`` of more than ``steps`` is ``steps``.

    ``full_sequence``: none. ``pyramid``: each ``lag`` steps after the one before it. ``autoregressive``: each when the one before
    it is finished. ``trapezoid``: from both ends towards the middle, ``lag`` steps apart (the published code takes the last cell
    for the second's twin instead of the first's, so that its ends do not match).
    """
    places = [min(cell, cells - 1 - cell) if schedule == "trapezoid" else cell for cell in range(cells)]
    apart = {"full_sequence": 0.0, "autoregressive": float(steps)}.get(schedule, min(lag, float(steps)))
    return [int(place * apart) for place in places]


def matrix(schedule: Schedule, cells: int, steps: int, lag: float = 1.0) -> Tensor:
    """(rows, cells): the steps that each cell has yet to take, from ``steps`` down to 0; a row follows the other by one step."""
    behind = torch.tensor(lags(schedule, cells, steps, lag), dtype=torch.long)
    rows = torch.arange(steps + int(behind.max()) + 1)
    return (steps + behind - rows[:, None]).clamp(0, steps)


def forced_times(schedule: Schedule, times: Tensor, given: Sequence[bool], lag: float = 1.0) -> Tensor:
    """(rows, cells) noise levels: those of ``times`` (steps + 1), by the matrix of the cells that are not ``given``.

    Given cells are at level 0 all the time, and take no rows.
    """
    steps, free = len(times) - 1, [cell for cell, known in enumerate(given) if not known]
    if not free:
        return times.new_zeros(1, len(given))
    left = matrix(schedule, len(free), steps, lag).to(times.device)
    levels = times.new_zeros(len(left), len(given))
    levels[:, free] = times[steps - left]
    return levels
