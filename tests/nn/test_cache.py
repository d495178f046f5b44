"""Keys and values that are kept: what comes out is what the whole sequence gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny import stirred
from torch import Tensor

from vidgen.nn import attention
from vidgen.nn.attention import Context
from vidgen.nn.cache import KVCache
from vidgen.nn.rope import rotary_table
from vidgen.nn.trunk import Trunk

TOKENS, WIDTH = 14, 24
SCALES = (1, 4, 9)
MIXED = (3, 1, 1, 2, 1, 6)


@pytest.fixture(params=[512, 2], ids=["plain", "fused"])
def trunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Trunk:
    """Of float64, by both ways to attend."""
    monkeypatch.setattr(attention, "SHORT", request.param)
    return stirred(Trunk(width=WIDTH, depth=3, heads=2, context=True).double())


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, a condition for each, positions of their own in each sample."""
    x, c = torch.randn(2, batch, TOKENS, WIDTH, dtype=torch.float64)
    return x, c, 5 * torch.rand(batch, TOKENS, 3, dtype=torch.float64)


def stepwise(
    trunk: Trunk,
    parts: Sequence[int],
    x: Tensor,
    c: Tensor,
    positions: Tensor,
    context: Context | None = None,
    within: bool = False,
) -> Tensor:
    """The tokens part by part through a cache; each part is one block, or ``within`` it blocks of one token."""
    cache = KVCache(trunk, len(x), TOKENS)
    outputs, first = [], 0
    for size in parts:
        part = slice(first, first + size)
        rope = rotary_table(positions[:, part], trunk.head_dim)
        mask = (1,) * size if within else None
        outputs.append(trunk(x[:, part], c[:, part], rope, mask, cache=cache, context=context))
        first += size
        assert cache.length == first
    return torch.cat(outputs, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [SCALES, MIXED, (1,) * TOKENS])
def test_block_by_block_through_a_cache_is_the_whole_at_once(trunk: Trunk, sizes: tuple[int, ...]) -> None:
    x, c, positions = inputs()
    whole = trunk(x, c, rotary_table(positions, trunk.head_dim), sizes)
    torch.testing.assert_close(stepwise(trunk, sizes, x, c, positions), whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_causal_tokens_come_in_parts_of_any_size(trunk: Trunk) -> None:
    """A prefix at once, then more: blocks of one token within what is new."""
    x, c, positions = inputs()
    whole = trunk(x, c, rotary_table(positions, trunk.head_dim), (1,) * TOKENS)
    torch.testing.assert_close(stepwise(trunk, (5, 1, 8), x, c, positions, within=True), whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_context_is_made_once_and_kept(trunk: Trunk) -> None:
    x, c, positions = inputs()
    context = Context(torch.randn(2, 5, WIDTH, dtype=torch.float64), torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool())
    whole = trunk(x, c, rotary_table(positions, trunk.head_dim), SCALES, context=context)
    calls = []
    for block in trunk.blocks:
        block.cross.kv.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(stepwise(trunk, SCALES, x, c, positions, context), whole, rtol=0, atol=1e-10)
    assert len(calls) == len(trunk.blocks)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_in_lower_precision_too(dtype: torch.dtype, apart: float) -> None:
    trunk = stirred(Trunk(width=WIDTH, depth=3, heads=2))
    x, c, positions = (part.float() for part in inputs())
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        whole = trunk(x, c, rotary_table(positions, trunk.head_dim), SCALES)
        cached = stepwise(trunk, SCALES, x, c, positions)
    assert (cached - whole).abs().max() < apart * whole.std()


@torch.no_grad()
def test_what_blocks_make_of_a_condition_is_made_once_of_each(trunk: Trunk) -> None:
    x, c, positions = inputs()
    rope = rotary_table(positions, trunk.head_dim)
    calls: list[int] = []
    trunk.blocks[1].modulation.register_forward_hook(lambda *_: calls.append(1))
    cache = KVCache(trunk, 2, TOKENS)
    one, other = c[:, :1], c[:, 1:2]
    outputs = []
    for token in range(TOKENS):
        part = slice(token, token + 1)
        told = one if token < 5 else other
        outputs.append(trunk(x[:, part], told, (rope[0][:, part], rope[1][:, part]), cache=cache))
    assert len(calls) == 2
    each = torch.cat([one.expand(-1, 5, -1), other.expand(-1, TOKENS - 5, -1)], dim=1)
    torch.testing.assert_close(torch.cat(outputs, dim=1), trunk(x, each, rope, (1,) * TOKENS), rtol=0, atol=1e-10)


@torch.no_grad()
def test_what_is_dropped_is_not_seen_and_leaves_room(trunk: Trunk) -> None:
    """One block deep, where tokens hold nothing of others: the rest is as if the dropped had never been."""
    single = stirred(Trunk(width=WIDTH, depth=1, heads=2).double())
    x, c, positions = inputs()
    rope = rotary_table(positions, single.head_dim)
    cache = KVCache(single, 2, 12)
    single(x[:, :12], c[:, :12], (rope[0][:, :12], rope[1][:, :12]), cache=cache)
    cache.drop(2, 7)
    assert cache.length == 7
    last = single(x[:, 12:], c[:, 12:], (rope[0][:, 12:], rope[1][:, 12:]), cache=cache)
    assert cache.length == 9 and cache.blocks[0].held.nbytes == 2 * 2 * 12 * WIDTH * 8
    left = [0, 1, *range(7, 14)]
    expected = single(x[:, left], c[:, left], (rope[0][:, left], rope[1][:, left]))[:, -2:]
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_memory_is_taken_once(trunk: Trunk) -> None:
    x, c, positions = inputs()
    rope = rotary_table(positions, trunk.head_dim)
    cache = KVCache(trunk, 2, TOKENS)
    places = set()
    for token in range(TOKENS):
        part = slice(token, token + 1)
        trunk(x[:, part], c[:, part], (rope[0][:, part], rope[1][:, part]), cache=cache)
        places.add(tuple(block.held.data_ptr() for block in cache.blocks if block.held is not None))
    assert len(places) == 1
    assert cache.nbytes == 3 * 2 * (2 * TOKENS + 6) * WIDTH * 8  # keys and values, and what is made of the condition


@torch.no_grad()
def test_a_full_cache_and_tokens_of_another_batch_are_refused(trunk: Trunk) -> None:
    x, c, positions = inputs()
    rope = rotary_table(positions, trunk.head_dim)
    with pytest.raises(ValueError, match="2 x 13 tokens that holds 0 cannot take 2 x 14"):
        trunk(x, c, rope, cache=KVCache(trunk, 2, 13))
    with pytest.raises(ValueError, match="3 x 14 tokens"):
        trunk(x, c, rope, cache=KVCache(trunk, 3, 14))
    with pytest.raises(ValueError, match="0 to 1 are not among the 0"):
        KVCache(trunk, 2, 14).drop(0, 1)
