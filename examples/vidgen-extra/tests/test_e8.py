# ruff: noqa: D103
"""The codes are E8's shortest vectors, the quantizer finds the nearest, and it promises what a quantizer promises."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from vidgen_extra.e8 import E8, directions

from vidgen import UserError, names, tokenizer
from vidgen.protocols import Quantizer


def test_the_240_codes_are_as_far_apart_as_240_points_can_be() -> None:
    """Every code has 1 opposite, 56 neighbours at 60 degrees, 126 at right angles and 56 at 120, and nothing is nearer."""
    codes = directions().double()
    angles = (codes @ codes.T).clamp(-1, 1).acos().rad2deg().round().long()
    for row in angles:
        values, counts = row.unique(return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 1, 60: 56, 90: 126, 120: 56, 180: 1}


def test_the_codes_are_of_the_lattice() -> None:
    """Whole numbers, or all of them halves, with an even sum."""
    vectors = directions().double() * math.sqrt(2)
    doubled = (2 * vectors).round()
    torch.testing.assert_close(2 * vectors, doubled, atol=1e-6, rtol=0)
    assert all(len({int(value) % 2 for value in row}) == 1 for row in doubled)
    assert bool((doubled.sum(dim=1) % 4 == 0).all())


@pytest.mark.parametrize("groups", [1, 3])
def test_codes_are_the_nearest_by_brute_force(groups: int) -> None:
    quantizer, x = E8(groups=groups), torch.randn(2, 8 * groups, 2, 3, 2)
    found = quantizer(x)
    assert found.ids is not None
    assert found.ids.shape == (2, 12, groups)
    assert quantizer.levels == (240,) * groups
    places = list(product(range(2), range(3), range(2)))
    for batch, (cell, (t, h, w)), group in product(range(2), enumerate(places), range(groups)):
        vector = x[batch, 8 * group : 8 * group + 8, t, h, w].double()
        distances = (directions().double() - vector / vector.norm()).norm(dim=1)
        assert int(found.ids[batch, cell, group]) == int(distances.argmin())


def test_ids_stand_for_codes_and_codes_for_themselves() -> None:
    """The law of a bottleneck: embed(project(h).ids) is project(h).z, to the bit, and what is legal stays as it is."""
    quantizer, grid = E8(groups=2), (2, 3, 4)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        h = torch.randn(2, 16, *grid, dtype=dtype)
        code = quantizer.project(h)
        assert code.z.dtype == dtype
        assert torch.equal(quantizer.embed(code.ids, (grid,)).to(dtype), code.z)
        assert torch.equal(quantizer.project(code.z).ids, code.ids)
    x = torch.randn(2, 16, *grid)  # not rounded to 8 bits: of two codes that are equally near, each may take another
    assert torch.equal(quantizer(x).z, quantizer.project(x).z)


def test_the_gradient_is_that_of_the_direction() -> None:
    def slope(of: Tensor, x: Tensor) -> Tensor:
        weights = torch.linspace(-1, 1, of.numel()).view_as(of)
        return torch.autograd.grad((weights * of).sum(), x)[0]

    x = torch.randn(1, 8, 2, 2, 2, requires_grad=True)
    torch.testing.assert_close(slope(E8()(x).z, x), slope(x / x.norm(dim=1, keepdim=True), x))
    assert bool(slope(E8()(torch.zeros_like(x) + 0 * x).z, x).isfinite().all())


def test_it_is_a_quantizer_and_installed() -> None:
    assert isinstance(E8(), Quantizer)
    assert "e8" in names("quantizers")
    built = tokenizer("lfq", quantizer={"name": "e8", "groups": 2})
    assert (built.spec.levels, built.spec.channels, built.spec.kind) == ((240, 240), 16, "ids")


def test_no_groups_are_refused() -> None:
    with pytest.raises(UserError, match="e8 needs at least 1 group of 8 channels, not 0"):
        E8(groups=0)
