"""The transformer that generators share."""

from __future__ import annotations

import pytest
import torch
from tiny import stirred

from vidgen import UserError
from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import FinalLayer, Trunk

GRID = (2, 3, 2)


@pytest.fixture
def trunk() -> Trunk:
    return Trunk(width=24, depth=2, heads=2)


def table(trunk: Trunk) -> tuple[torch.Tensor, torch.Tensor]:
    return rotary_table(grid_positions(GRID), trunk.head_dim)


def test_at_the_start_the_trunk_is_the_identity_and_the_network_exactly_zero(trunk: Trunk) -> None:
    x, c = torch.randn(2, 12, 24), torch.randn(2, 1, 24)
    y = trunk(x, c, table(trunk))
    assert torch.equal(y, x)
    assert torch.equal(FinalLayer(24, 7)(y, c), torch.zeros(2, 12, 7))


def test_at_the_start_every_gate_has_a_slope(trunk: Trunk) -> None:
    """Exactly zero output must not mean that nothing can be learnt."""
    x, c = torch.randn(2, 12, 24), torch.randn(2, 1, 24)
    trunk(x, c, table(trunk)).square().sum().backward()
    for block in trunk.blocks:
        assert block.modulation.weight.grad.abs().sum() > 0


def test_one_condition_for_all_tokens_is_the_condition_of_the_clip(trunk: Trunk) -> None:
    stirred(trunk)
    final = stirred(FinalLayer(24, 7))
    x, c = torch.randn(2, 12, 24), torch.randn(2, 1, 24)
    whole = final(trunk(x, c, table(trunk)), c)
    each = final(trunk(x, c.expand(2, 12, 24).contiguous(), table(trunk)), c.expand(2, 12, 24))
    torch.testing.assert_close(whole, each)
    other = c.expand(2, 12, 24).clone()
    other[:, 5] += 1
    assert not torch.allclose(final(trunk(x, other, table(trunk)), other)[:, 5], whole[:, 5])


def test_a_mask_hides_tokens(trunk: Trunk) -> None:
    """With a mask that lets each token see itself and those before it, no token's output depends on a later one."""
    stirred(trunk)
    x = torch.randn(1, 12, 24, requires_grad=True)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    y = trunk(x, torch.randn(1, 1, 24), table(trunk), mask)
    for token in (0, 4, 11):
        (slope,) = torch.autograd.grad(y[0, token].square().sum(), x, retain_graph=True)
        reached = slope[0].abs().sum(-1) > 0
        assert reached.tolist() == [other <= token for other in range(12)]


def test_tokens_are_told_apart_by_their_positions_alone(trunk: Trunk) -> None:
    """Permuting tokens together with their positions permutes the output."""
    stirred(trunk)
    x, c, (cos, sin) = torch.randn(1, 12, 24), torch.randn(1, 1, 24), table(trunk)
    order = torch.randperm(12)
    y = trunk(x, c, (cos, sin))
    torch.testing.assert_close(trunk(x[:, order], c, (cos[order], sin[order])), y[:, order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trunk(x[:, order], c, (cos, sin)), y[:, order], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("width", "heads"), [(24, 5), (10, 2)])
def test_a_width_that_does_not_split_into_heads_is_refused(width: int, heads: int) -> None:
    with pytest.raises(UserError, match=f"width {width} .*{heads} heads"):
        Trunk(width=width, depth=1, heads=heads)


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("depth", 0), ("heads", 0), ("heads", -2), ("mlp_ratio", 0.01)])
def test_sizes_that_make_no_network_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^{option}={value} .* give {option}=1 or more\.$"):
        Trunk(**{"width": 24, "depth": 1, "heads": 2, option: value})
    Trunk(**{"width": 2, "depth": 1, "heads": 1, "mlp_ratio": 0.5})


@pytest.mark.slow
def test_compiled_the_trunk_gives_the_same(trunk: Trunk) -> None:
    stirred(trunk)
    x, c = torch.randn(2, 12, 24), torch.randn(2, 1, 24)
    torch.testing.assert_close(torch.compile(trunk)(x, c, table(trunk)), trunk(x, c, table(trunk)), rtol=1e-4, atol=1e-5)
