"""Matrices of noise levels by cell: what falls when."""

from __future__ import annotations

import pytest
import torch

from vidgen.samplers.forcing import SCHEDULES, Schedule, forced_times, matrix
from vidgen.samplers.paths import FLOW


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("cells", "steps", "lag"), [(1, 3, 1.0), (5, 4, 1.0), (4, 3, 2.5), (6, 2, 0.5), (3, 5, 7.0)])
def test_every_cell_takes_every_step_once_and_in_order(schedule: Schedule, cells: int, steps: int, lag: float) -> None:
    levels = matrix(schedule, cells, steps, lag)
    assert levels[0].tolist() == [steps] * cells
    assert levels[-1].tolist() == [0] * cells
    falls = levels[:-1] - levels[1:]
    assert set(falls.unique().tolist()) <= {0, 1}
    assert falls.sum(dim=0).tolist() == [steps] * cells
    assert bool(falls.any(dim=1).all())  # no row is wasted


def test_full_sequence_falls_together() -> None:
    assert matrix("full_sequence", 3, 2).tolist() == [[2, 2, 2], [1, 1, 1], [0, 0, 0]]


def test_pyramid_follows_by_its_lag() -> None:
    assert matrix("pyramid", 3, 2, 1).tolist() == [[2, 2, 2], [1, 2, 2], [0, 1, 2], [0, 0, 1], [0, 0, 0]]
    assert matrix("pyramid", 3, 1, 0.5).tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_autoregressive_finishes_one_before_the_next_begins() -> None:
    assert matrix("autoregressive", 2, 2).tolist() == [[2, 2], [1, 2], [0, 2], [0, 1], [0, 0]]
    levels = matrix("autoregressive", 5, 4)
    assert bool((((levels > 0) & (levels < 4)).sum(dim=1) <= 1).all())


def test_trapezoid_is_even_about_its_middle() -> None:
    assert matrix("trapezoid", 4, 1, 1).tolist() == [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    for cells in (4, 5):
        levels = matrix("trapezoid", cells, 3, 2)
        assert torch.equal(levels, levels.flip(1))


def published(schedule: str, horizon: int, steps: int, scale: float) -> list[list[int]]:
    """The published rule, cell by cell: steps + int(cell * scale) - row, cut to 0 and steps."""
    scale = {"autoregressive": steps, "full_sequence": 0}.get(schedule, scale)
    height = steps + int((horizon - 1) * scale) + 1
    return [[min(steps, max(0, steps + int(cell * scale) - row)) for cell in range(horizon)] for row in range(height)]


@pytest.mark.parametrize("schedule", ["full_sequence", "pyramid", "autoregressive"])
def test_the_published_rule(schedule: Schedule) -> None:
    for horizon, steps, scale in ((1, 2, 1.0), (4, 5, 2.0), (7, 3, 1.5)):
        assert matrix(schedule, horizon, steps, scale).tolist() == published(schedule, horizon, steps, scale)


def test_given_cells_are_clean_and_take_no_rows() -> None:
    times = FLOW.times(4)
    levels = forced_times("autoregressive", times, [True, True, False, True, False])
    assert not levels[:, [0, 1, 3]].any()
    assert torch.equal(levels[:, [2, 4]], times[4 - matrix("autoregressive", 2, 4)])
    assert torch.equal(forced_times("pyramid", times, [False]), times.unsqueeze(1))
    assert forced_times("pyramid", times, [True, True]).tolist() == [[0, 0]]
