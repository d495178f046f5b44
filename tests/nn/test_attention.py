"""Attention over a window in time, against dense attention with the whole mask written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidgen.nn import attention
from vidgen.nn.attention import attend, attend_blocks, attend_under, attend_window, sparse


def dense(q: Tensor, k: Tensor, v: Tensor, window: int, tokens: int) -> Tensor:
    """Query by query: the softmax over those keys whose cell is the query's or one of the ``window - 1`` before it."""
    before = k.shape[-2] - q.shape[-2]
    rows = []
    for i in range(q.shape[-2]):
        cell = (before + i) // tokens
        seen = [j for j in range(k.shape[-2]) if cell - window < j // tokens <= cell]
        scores = (k[..., seen, :] @ q[..., i, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])
        rows.append((scores.softmax(-1)[..., None] * v[..., seen, :]).sum(-2))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize(("cells", "past"), [(1, 0), (1, 4), (7, 0), (7, 4)])
def test_a_window_is_dense_attention_under_a_mask(
    tokens: int, window: int, cells: int, past: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "PIECE", 3)  # so that a sequence is several pieces
    q = torch.randn(2, 2, cells * tokens, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, (past + cells) * tokens, 4, dtype=torch.float64)
    torch.testing.assert_close(attend_window(q, k, v, window, tokens), dense(q, k, v, window, tokens))


@pytest.mark.parametrize("tokens", [1, 2])
def test_no_gradient_comes_from_outside_the_window(tokens: int) -> None:
    q, k, v = torch.randn(3, 1, 1, 9 * tokens, 4, requires_grad=True).unbind()
    for cell in range(9):
        y = attend_window(q, k, v, 3, tokens)[:, :, cell * tokens : (cell + 1) * tokens]
        for given in (k, v):
            (slope,) = torch.autograd.grad(y.square().sum(), given, retain_graph=True)
            assert slope.isfinite().all()
            reached = slope.abs().sum(dim=(0, 1, 3)).view(9, tokens).sum(1) > 0
            # Before the window, and after the cell: nothing. A lone key's weight is 1 whatever the key.
            assert not reached[: max(0, cell - 2)].any()
            assert not reached[cell + 1 :].any()
            assert reached[cell] or (given is k and cell == 0 and tokens == 1)


@pytest.mark.parametrize("tokens", [1, 4])
def test_no_product_grows_with_the_length(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest table of scores is that of a window, so memory does not grow with the square of the length."""
    sizes: list[int] = []
    plain = attention.attend

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        sizes.append(q.shape[-2] * k.shape[-2])
        return plain(q, k, v, mask)

    monkeypatch.setattr(attention, "attend", watched)
    largest = []
    for cells in (200, 800):
        sizes.clear()
        q = torch.randn(1, 1, cells * tokens, 2)
        assert attend_window(q, q, q, 5, tokens).shape == q.shape
        largest.append(max(sizes))
    assert largest[0] == largest[1] < (200 * tokens) ** 2 / 4


def blocks_mask(sizes: tuple[int, ...], past: int) -> Tensor:
    """(N, past + N): True where a key is of the query's block or one before, or was there before all of them."""
    block = [-1] * past + [index for index, size in enumerate(sizes) for _ in range(size)]
    return torch.tensor([[key <= query for key in block] for query in block[past:]])


@pytest.mark.parametrize("short", [512, 2], ids=["plain", "fused"])
@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("sizes", [(1, 4, 9), (1,) * 7, (5, 1, 1, 1, 2, 2, 1), (6,), (1,)])
def test_blocks_are_dense_attention_under_a_mask(
    sizes: tuple[int, ...], past: int, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    q = torch.randn(2, 2, sum(sizes), 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, past + sum(sizes), 4, dtype=torch.float64)
    scores = (q @ k.mT / 2).masked_fill(~blocks_mask(sizes, past), -math.inf)
    torch.testing.assert_close(attend_blocks(q, k, v, sizes), scores.softmax(-1) @ v)
    torch.testing.assert_close(attend(q, k, v, blocks_mask(sizes, past)), scores.softmax(-1) @ v)


TABLES = {
    "two pieces that see what is whole of those before": (
        (1, 4, 4, 1, 4, 2),
        (3, 3),
        ((0, 0), (1, 0), (1, 1), (2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (4, 4), (5, 5)),
    ),
    "each alone": ((3, 2, 1), (1, 1, 1), ((0, 0), (1, 1), (2, 2))),
    "all see all": ((2, 3), (2,), ((0, 0), (0, 1), (1, 0), (1, 1))),
    "the past and no present": ((2, 3, 1), (1, 2), ((0, 0), (1, 0), (2, 0), (2, 1))),
}


@pytest.mark.parametrize("short", [512, 2], ids=["plain", "fused"])
@pytest.mark.parametrize("case", TABLES)
def test_segments_that_see_few_others_are_dense_attention_under_a_mask(
    case: str, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and slopes."""
    monkeypatch.setattr(attention, "SHORT", short)
    sizes, runs, pairs = TABLES[case]
    table = torch.zeros(len(sizes), len(sizes), dtype=torch.bool)
    table[tuple(zip(*pairs, strict=True))] = True
    places = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    mask = table[places][:, places]
    sight = sparse(table, sizes, runs, torch.device("cpu"))
    assert torch.equal(sight.dense(), mask)
    q, k, v = (torch.randn(2, 2, sum(sizes), 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = (q @ k.mT / 2).masked_fill(~mask, -math.inf).softmax(-1) @ v
    got = attend_under(q, k, v, sight)
    torch.testing.assert_close(got, expected)
    into = torch.randn_like(got)
    for ours, theirs in zip(*(torch.autograd.grad((x * into).sum(), (q, k, v)) for x in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_blocks_need_no_mask_unless_they_are_single_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor | None] = []
    plain = attention.attend

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        masks.append(mask)
        return plain(q, k, v, mask)

    monkeypatch.setattr(attention, "attend", watched)
    q = torch.randn(1, 1, 14, 2)
    attend_blocks(q, q, q, (1, 4, 9))
    assert masks == [None, None, None]
    attend_blocks(q, q, q, (1,) * 14)
    assert len(masks) == 4 and masks[3] is not None and masks[3].shape == (14, 14)


def test_blocks_of_another_number_of_tokens_are_refused() -> None:
    q = torch.randn(1, 1, 5, 2)
    with pytest.raises(ValueError, match=r"\(1, 3\) tokens are 4 together, and there are 5"):
        attend_blocks(q, q, q, (1, 3))
