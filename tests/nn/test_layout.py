"""Where tokens lie, counted by hand."""

from __future__ import annotations

import pytest
import torch

from vidgen.latents import LatentSpec, Shape
from vidgen.nn.layout import from_tokens, to_tokens, token_layout
from vidgen.nn.rope import grid_positions

HALVES = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


def spec(scales: tuple[tuple[float, float, float], ...] | None = None, clip: int | None = None) -> LatentSpec:
    return LatentSpec(channels=3, stride=(4, 8, 8), causal=True, levels=(5,), scales=scales, clip=clip)


@pytest.mark.parametrize("start", [0, 7])
def test_a_plain_grid_is_in_raster_order(start: int) -> None:
    layout = token_layout(spec(), ((2, 2, 3),), start)
    by_hand = [[t, h, w] for t in (0, 1) for h in (0, 1) for w in (0, 1, 2)]
    assert layout.positions.tolist() == [[start + t, h, w] for t, h, w in by_hand]
    assert torch.equal(layout.positions, grid_positions((2, 2, 3), start))
    assert layout.scale.tolist() == [0] * 12
    assert layout.cell.tolist() == [0] * 6 + [1] * 6
    assert layout.sizes == (12,)


@pytest.mark.parametrize("start", [0, 5])
def test_a_coarse_cell_is_at_the_middle_of_those_it_covers(start: int) -> None:
    """4 x 2 x 4 cells, and 2 x 1 x 2 over them: each of these is the mean position of its 2 x 2 x 2 cells."""
    grids: tuple[Shape, ...] = ((2, 1, 2), (4, 2, 4))
    layout = token_layout(spec(HALVES), grids, start)
    coarse = [[0.5, 0.5, 0.5], [0.5, 0.5, 2.5], [2.5, 0.5, 0.5], [2.5, 0.5, 2.5]]
    assert layout.positions[:4].tolist() == [[start + t, h, w] for t, h, w in coarse]
    assert torch.equal(layout.positions[4:], grid_positions((4, 2, 4), start))
    assert layout.scale.tolist() == [0] * 4 + [1] * 32
    assert layout.cell.tolist() == [0, 0, 2, 2, *[0] * 8, *[1] * 8, *[2] * 8, *[3] * 8]
    assert layout.sizes == (4, 32)


def test_cells_that_do_not_divide_lie_at_even_distances() -> None:
    """2 cells over 3: each covers one and a half, so the centres are at 1/4 and 7/4; the second begins within cell 1."""
    layout = token_layout(spec(HALVES), ((2, 1, 1), (3, 1, 1)))
    assert layout.positions[:2].tolist() == [[0.25, 0, 0], [1.75, 0, 0]]
    assert layout.cell.tolist() == [0, 1, 0, 1, 2]


def test_pyramids_that_grow_in_time_follow_one_another() -> None:
    """Cell 0, a clip of 2 cells, and one cell that is left: three pyramids, 1 x 2 of space."""
    growing = spec(HALVES, clip=2)
    grids = growing.grids((13, 8, 16))
    assert grids == ((1, 1, 1), (1, 1, 2), (1, 1, 1), (2, 1, 2), (1, 1, 1), (1, 1, 2))
    layout = token_layout(growing, grids)
    assert layout.positions.tolist() == [
        *([0, 0, 0.5], [0, 0, 0], [0, 0, 1]),
        *([1.5, 0, 0.5], [1, 0, 0], [1, 0, 1], [2, 0, 0], [2, 0, 1]),
        *([3, 0, 0.5], [3, 0, 0], [3, 0, 1]),
    ]
    assert layout.scale.tolist() == [0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1]
    assert layout.cell.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert layout.sizes == (1, 2, 1, 4, 1, 2)


def test_later_clips_have_no_cell_of_their_own_before_them() -> None:
    growing = spec(HALVES, clip=2)
    layout = token_layout(growing, growing.grids((8, 8, 8), start=3), 3)
    assert layout.positions[:, 0].tolist() == [3.5, 3, 4]
    assert layout.cell.tolist() == [0, 0, 1]


def test_a_layout_made_for_sampling_serves_training() -> None:
    with torch.inference_mode():
        layout = token_layout(spec(HALVES), ((1, 1, 1), (1, 3, 3)))
    table = torch.nn.Embedding(2, 4)
    table(layout.scale).sum().backward()
    assert table.weight.grad is not None and table.weight.grad[:, 0].tolist() == [1, 9]


def test_tokens_are_in_the_order_of_their_positions() -> None:
    grid = (2, 3, 4)
    x = grid_positions(grid).T.reshape(1, 3, *grid)
    tokens = to_tokens(x)
    assert torch.equal(tokens[0], token_layout(spec(), (grid,)).positions)
    assert torch.equal(from_tokens(tokens, grid), x)
