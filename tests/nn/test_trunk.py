"""The transformer that generators share."""

from __future__ import annotations

import pytest
import torch
from tiny import stirred

from vidgen import UserError
from vidgen.nn.attention import Context
from vidgen.nn.cache import KVCache
from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import FinalLayer, FinalNorm, Trunk

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
    torch.testing.assert_close(FinalNorm(24)(y, c), torch.nn.functional.layer_norm(y, (24,), eps=1e-6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["joint", "alternate", "divided"])
def test_at_the_start_every_kind_of_block_is_the_identity(attention: str) -> None:
    trunk = Trunk(width=24, depth=3, heads=2, attention=attention, context=True)  # type: ignore[arg-type]
    x, c = torch.randn(2, 12, 24), torch.randn(2, 1, 24)
    y = trunk(x, c, table(trunk), frames=GRID[0], context=Context(torch.randn(2, 4, 24)))
    assert torch.equal(y, x)


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


SIZES = (1, 4, 1, 1, 5)


def test_blocks_are_the_same_mask_written_out(trunk: Trunk) -> None:
    stirred(trunk.double())
    x, c = torch.randn(2, 12, 24).double(), torch.randn(2, 12, 24).double()
    block = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    dense = trunk(x, c, table(trunk), block[:, None] >= block)
    torch.testing.assert_close(trunk(x, c, table(trunk), SIZES), dense, rtol=0, atol=1e-10)


def test_no_gradient_goes_from_a_block_to_one_before(trunk: Trunk) -> None:
    """Every token of its own block and of those before it is seen, none of those after."""
    stirred(trunk)
    x = torch.randn(1, 12, 24, requires_grad=True)
    y = trunk(x, torch.randn(1, 12, 24), table(trunk), SIZES)
    first = 0
    for size in SIZES:
        for token in {first, first + size - 1}:
            (slope,) = torch.autograd.grad(y[0, token].square().sum(), x, retain_graph=True)
            reached = slope[0].abs().sum(-1) > 0
            assert reached.tolist() == [other < first + size for other in range(12)]
        first += size


def test_positions_of_each_sample_are_its_own(trunk: Trunk) -> None:
    stirred(trunk)
    x, c, positions = torch.randn(3, 12, 24), torch.randn(3, 1, 24), 5 * torch.rand(3, 12, 3)
    together = trunk(x, c, rotary_table(positions, trunk.head_dim))
    for i in range(3):
        alone = trunk(x[i : i + 1], c[i : i + 1], rotary_table(positions[i], trunk.head_dim))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.fixture
def listening() -> Trunk:
    return stirred(Trunk(width=24, depth=2, heads=2, context=True))


def test_a_context_is_heard_where_its_mask_says(listening: Trunk) -> None:
    x, c, tokens = torch.randn(2, 12, 24), torch.randn(2, 1, 24), torch.randn(2, 5, 24)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    y = listening(x, c, table(listening), context=Context(tokens, mask))
    hidden = torch.where(mask.unsqueeze(-1), tokens, 100.0)
    torch.testing.assert_close(listening(x, c, table(listening), context=Context(hidden, mask)), y)
    fewer = listening(x[:1], c[:1], table(listening), context=Context(tokens[:1, [0, 1, 3]]))
    torch.testing.assert_close(y[:1], fewer, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(y[:1], listening(x[:1], c[:1], table(listening), context=Context(tokens[:1])), atol=1e-3)


def test_a_context_without_tokens_is_none(listening: Trunk) -> None:
    """A sample whose context was dropped, beside one whose was not, is what it is without; and its gradients are numbers."""
    x, c, tokens = torch.randn(2, 12, 24), torch.randn(2, 1, 24), torch.randn(2, 5, 24, requires_grad=True)
    mask = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    y = listening(x, c, table(listening), context=Context(tokens, mask))
    none = listening(x, c, table(listening))
    torch.testing.assert_close(y[0], none[0])
    assert not torch.allclose(y[1], none[1], atol=1e-3)
    y.square().sum().backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all()
    assert not tokens.grad[0].any() and tokens.grad[1, :3].any()
    assert all(weight.grad.isfinite().all() for weight in listening.parameters() if weight.grad is not None)


@pytest.mark.parametrize("context", [True, False])
def test_what_is_computed_again_has_the_same_gradients(context: bool) -> None:
    def gradients(checkpoint: bool) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)
        model = stirred(Trunk(width=24, depth=3, heads=2, context=context, checkpoint=checkpoint))
        x, c, told = torch.randn(2, 12, 24), torch.randn(2, 12, 24, requires_grad=True), torch.randn(2, 5, 24, requires_grad=True)
        runs: list[int] = []
        model.blocks[0].mlp.register_forward_hook(lambda *_: runs.append(1))
        y = model(x, c, table(model), SIZES, context=Context(told) if context else None)
        y.square().sum().backward()
        found = [c.grad, *([told.grad] if context else []), *(weight.grad for weight in model.parameters())]
        return [grad for grad in found if grad is not None], len(runs)

    (plain, once), (again, twice) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2) and len(plain) == len(again) > 10
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


def test_only_training_computes_again() -> None:
    model = stirred(Trunk(width=24, depth=1, heads=2, checkpoint=True)).eval()
    runs: list[int] = []
    model.blocks[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    model(torch.randn(2, 12, 24, requires_grad=True), torch.randn(2, 1, 24), table(model)).sum().backward()
    assert len(runs) == 1


FRAME_OF = torch.arange(12) // 6
PLACE_OF = torch.arange(12) % 6
WITHIN = {"frame": FRAME_OF[:, None] == FRAME_OF, "time": PLACE_OF[:, None] == PLACE_OF}


@pytest.mark.parametrize("each", [False, True], ids=["one condition and table", "one each"])
def test_alternate_attention_is_joint_attention_under_the_mask_of_a_frame_then_of_a_place(each: bool) -> None:
    """The same weights: even blocks under the one mask, odd ones under the other."""
    model = stirred(Trunk(width=24, depth=3, heads=2, attention="alternate").double())
    joint = Trunk(width=24, depth=3, heads=2).double()
    joint.load_state_dict(model.state_dict())
    x, c = torch.randn(2, 12, 24).double(), torch.randn(2, 12 if each else 1, 24).double()
    positions = 5 * torch.rand(2, 12, 3) if each else grid_positions(GRID)
    rope = rotary_table(positions.double(), model.head_dim)
    y = x
    for block, axis in zip(joint.blocks, ("frame", "time", "frame"), strict=True):
        y = block(y, torch.nn.functional.silu(c), rope, WITHIN[axis])
    torch.testing.assert_close(model(x, c, rope, frames=2), y, rtol=0, atol=1e-10)


def test_divided_attention_is_both_one_after_the_other() -> None:
    """By hand: x + gate attention(shifted and scaled norm of x) under the mask of a frame, then of a place, then the rest."""
    model = stirred(Trunk(width=24, depth=1, heads=2, attention="divided").double())
    x, c, rope = torch.randn(2, 12, 24).double(), torch.randn(2, 12, 24).double(), table(model)
    block = model.blocks[0]
    parts = block.modulation(torch.nn.functional.silu(c)).chunk(9, dim=-1)

    def shifted(y: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(y, (24,), eps=1e-6) * (1 + scale) + shift

    y = x + parts[2] * block.attention(shifted(x, *parts[:2]), rope, WITHIN["frame"])
    y = y + parts[8] * block.attention_time(shifted(y, *parts[6:8]), rope, WITHIN["time"])
    y = y + parts[5] * block.mlp(shifted(y, *parts[3:5]))
    torch.testing.assert_close(model(x, c, rope, frames=2), y, rtol=0, atol=1e-10)


def test_what_a_trunk_was_not_built_for_is_refused(trunk: Trunk) -> None:
    x, c, rope = torch.randn(2, 12, 24), torch.randn(2, 1, 24), table(trunk)
    with pytest.raises(ValueError, match="without context=True"):
        trunk(x, c, rope, context=Context(x))
    divided = Trunk(width=24, depth=1, heads=2, attention="divided")
    given: list[dict[str, object]] = [{}, {"frames": 2, "mask": SIZES}, {"frames": 2, "cache": KVCache(divided, 2, 12)}]
    for options in given:
        with pytest.raises(ValueError, match="divided attention needs frames, and takes no mask and no cache"):
            divided(x, c, rope, **options)
    with pytest.raises(UserError, match=r"no attention 'dividde'\. Did you mean 'divided'\? Use joint, alternate, divided\."):
        Trunk(width=24, depth=1, heads=2, attention="dividde")  # type: ignore[arg-type]


def test_names_of_weights_stay() -> None:
    """Models that were saved are loaded by these."""
    assert set(Trunk(width=8, depth=1, heads=2).state_dict()) == {
        f"blocks.0.{name}"
        for name in (
            *("attention.qkv.weight", "attention.qkv.bias", "attention.out.weight", "attention.out.bias"),
            *("attention.q_norm.scale", "attention.k_norm.scale", "modulation.weight", "modulation.bias"),
            *("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"),
        )
    }
    assert set(FinalLayer(8, 3).state_dict()) == {"modulation.weight", "modulation.bias", "linear.weight", "linear.bias"}


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
