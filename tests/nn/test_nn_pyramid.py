"""Pyramids: averages by loops, interpolation by torch's own for videos, VAR's rule by hand, and what must restore its input."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.latents import scale_grids
from vidgen.nn.pyramid import Phi, area_down, nearest_tick, residual_pyramid, split_scales, upsample

GROWING = ((0.25, 0.125, 0.25), (0.5, 0.5, 0.5), (0.5, 0.75, 1.0), (1.0, 1.0, 1.0))
CONSTANT = tuple((1.0, part, part) for part in (0.25, 0.5, 0.75, 1.0))


def averaged(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Cell i of n over a length of L is the mean of the positions from floor(i L / n) up to ceil((i + 1) L / n)."""
    out = torch.empty(*x.shape[:2], *grid, dtype=x.dtype)
    for place in product(*(range(size) for size in grid)):
        spans = [
            slice(math.floor(i * length / size), math.ceil((i + 1) * length / size))
            for i, size, length in zip(place, grid, x.shape[2:], strict=True)
        ]
        out[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *spans)].mean(dim=(2, 3, 4))
    return out


@pytest.mark.parametrize("grid", [(1, 1, 1), (5, 6, 7), (2, 3, 4), (5, 4, 2), (3, 6, 1)])
def test_area_is_the_mean_of_what_a_cell_covers(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, 5, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(area_down(x, grid), averaged(x, grid))


@pytest.mark.parametrize("grid", [(5, 6, 7), (2, 3, 5), (4, 3, 5), (2, 8, 9)])
def test_trilinear_is_torch_s_over_time_and_space(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, 2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(upsample(x, grid, "trilinear"), F.interpolate(x, grid, mode="trilinear"))


def test_bicubic_is_torch_s_for_each_frame_and_linear_in_time() -> None:
    x = torch.randn(2, 3, 4, 3, 2, dtype=torch.float64)
    frames = torch.stack([F.interpolate(x[:, :, t], (7, 6), mode="bicubic") for t in range(4)], dim=2)
    torch.testing.assert_close(upsample(x, (4, 7, 6), "bicubic"), frames)
    # In time by hand: centres at (t + 1/2) / 2 - 1/2, the ends repeated.
    places = [min(max((t + 0.5) / 2 - 0.5, 0), 3) for t in range(8)]
    by_hand = [
        frames[:, :, math.floor(place)] * (1 - place % 1) + frames[:, :, math.ceil(place)] * (place % 1) for place in places
    ]
    torch.testing.assert_close(upsample(x, (8, 7, 6), "bicubic"), torch.stack(by_hand, dim=2))


@pytest.mark.parametrize("mode", ["bicubic", "trilinear"])
def test_a_constant_stays_one_both_ways(mode: str) -> None:
    x = torch.full((1, 2, 3, 5, 4), 0.7)
    small = area_down(x, (2, 2, 3))
    torch.testing.assert_close(small, torch.full_like(small, 0.7))
    torch.testing.assert_close(upsample(small, (3, 5, 4), mode), x)


@pytest.mark.parametrize("mode", ["bicubic", "trilinear"])
@pytest.mark.parametrize("scales", [CONSTANT, GROWING, ((1.0, 1.0, 1.0),)])
@pytest.mark.parametrize("grid", [(4, 8, 8), (1, 3, 5), (3, 1, 1), (5, 7, 2)])
def test_a_residual_pyramid_restores_what_it_took_apart(mode: str, scales: tuple, grid: tuple[int, int, int]) -> None:
    """On any grid, duplicates of small ones included: whole at the last scale, and there the sum of what went up."""
    x = torch.randn(2, 3, *grid, dtype=torch.float64)
    grids = scale_grids(grid, scales)
    residues, sums = residual_pyramid(x, grids, mode)
    assert [tuple(residue.shape[2:]) for residue in residues] == list(grids)
    torch.testing.assert_close(sums[-1], x)
    z = torch.zeros_like(x)
    for residue, size, total in zip(residues, grids, sums, strict=True):
        torch.testing.assert_close(residue, averaged(x - z, size))
        z = z + upsample(residue, grid, mode)
        torch.testing.assert_close(total, z)


def test_each_scale_of_a_smooth_field_leaves_less() -> None:
    """The point of a pyramid: most of a smooth field is in its coarse scales."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    x = (1 + rows + columns * rows).view(1, 1, 1, 16, 16)
    scales = tuple((1.0, part / 16, part / 16) for part in (1, 2, 4, 8, 16))
    _, sums = residual_pyramid(x, scale_grids((1, 16, 16), scales), "bicubic")
    left = [float((x - z).square().mean()) for z in sums]
    assert left == sorted(left, reverse=True)
    assert left[2] < 0.01 * float(x.square().mean())


def test_ids_are_split_where_scales_end() -> None:
    grids = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    ids = torch.arange(26).view(1, 13, 2)
    assert [part.shape[1] for part in split_scales(ids, grids)] == [1, 4, 8]
    assert torch.equal(torch.cat(split_scales(ids, grids), dim=1), ids)
    assert [part.shape[1] for part in split_scales(ids[:, :5], grids)] == [1, 4]
    for count in (3, 12, 14):
        with pytest.raises(ValueError, match=f"{count} ids do not end"):
            split_scales(torch.zeros(1, count, 1), grids)


# Phi


def test_phi_starts_as_the_identity_and_mixes_by_its_ratio() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    for time_kernel in (1, 3):
        phi = Phi(3, ratio=0.25, time_kernel=time_kernel)
        torch.testing.assert_close(phi(x), x)
        torch.nn.init.normal_(phi.weight)
        torch.nn.init.normal_(phi.bias)
        conv = torch.nn.Conv3d(3, 3, (time_kernel, 3, 3), padding=(time_kernel // 2, 1, 1))
        conv.load_state_dict(phi.state_dict())
        torch.testing.assert_close(phi(x), 0.75 * x + 0.25 * conv(x))


def test_phi_of_one_frame_is_a_convolution_of_images() -> None:
    phi = torch.nn.init.normal_(Phi(3).weight), torch.randn(3)
    module = Phi(3)
    module.load_state_dict({"weight": phi[0], "bias": phi[1]})
    x = torch.randn(2, 3, 4, 5, 6)
    for t in range(4):
        image = 0.5 * x[:, :, t] + 0.5 * F.conv2d(x[:, :, t], phi[0][:, :, 0], phi[1], padding=1)
        torch.testing.assert_close(module(x)[:, :, t], image)


def test_the_tick_of_each_scale_by_hand() -> None:
    """VAR's ten scales lie at k / 9 and its four ticks at 3, 13, 23 and 33 of 36; scales 2 and 7 are as near to two of them."""
    nearest = [
        {tick for tick in range(4) if abs(4 * scale - (3 + 10 * tick)) == min(abs(4 * scale - (3 + 10 * i)) for i in range(4))}
        for scale in range(10)
    ]
    picked = [nearest_tick(scale, 10, 4) for scale in range(10)]
    assert [len(near) for near in nearest] == [1, 1, 2, 1, 1, 1, 1, 2, 1, 1]
    assert all(tick in near for tick, near in zip(picked, nearest, strict=True))
    assert [nearest_tick(scale, 4, 4) for scale in range(4)] == [0, 1, 2, 3]
    # Without the rule for four, five scales and two ticks: 1/4 and 3/4 against 0, 1/4, 1/2, 3/4, 1.
    assert [nearest_tick(scale, 5, 2) for scale in range(5)] == [0, 0, 0, 1, 1]
    assert {nearest_tick(scale, 7, 1) for scale in range(7)} == {0}


@pytest.mark.parametrize("ticks", [1, 2, 3, 4, 5, 8, 10])
def test_equally_near_ticks_are_settled_as_numpy_settles_them(ticks: int) -> None:
    """Which is what VAR's release computes with."""
    end = 1 / 3 / ticks if ticks == 4 else 1 / 2 / ticks
    places = np.linspace(end, 1 - end, ticks)
    for scales in range(2, 31):
        expected = [int(np.argmin(np.abs(places - scale / (scales - 1)))) for scale in range(scales)]
        assert [nearest_tick(scale, scales, ticks) for scale in range(scales)] == expected


@pytest.mark.parametrize("ticks", [1, 2, 4, 9])
def test_one_scale_divides_by_nothing(ticks: int) -> None:
    assert nearest_tick(0, 1, ticks) == 0


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_as_many_ticks_as_scales_serve_one_each(count: int) -> None:
    assert [nearest_tick(scale, count, count) for scale in range(count)] == list(range(count))
