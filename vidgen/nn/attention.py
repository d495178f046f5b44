"""Scaled dot-product attention, by whichever way is fast on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 512
"""On CPUs, sequences up to this long attend by two plain products: measured faster than the fused kernel, which wins beyond."""

PIECE = 64
"""Steps in time that attend together to a window, where a cell is a single token."""


@dataclass(frozen=True)
class Context:
    """What a model may look at besides its own tokens, by cross-attention: the words of a text, given frames.

    Attributes:
        tokens: (B, M, width).
        mask: (B, M), True where there is a token; None where all are. A sample may have none at all: to it the context is silent.
    """

    tokens: Tensor
    mask: Tensor | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, heads, N, d) queries over (B, heads, M, d) keys and values -> (B, heads, N, d).

    ``mask`` broadcasts to (B, heads, N, M): True where a query may look.
    """
    if not _short(k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def _short(k: Tensor) -> bool:
    return k.device.type == "cpu" and k.shape[-2] <= SHORT


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, N, d), the last N of the M tokens that ``k`` and ``v`` hold, each seeing itself and all before it."""
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == keys and not _short(k):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return attend(q, k, v, window_mask(queries, keys, keys, q.device) if queries > 1 else None)


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[int]) -> Tensor:
    """Attention whose tokens come in consecutive blocks: each sees its own block and all before it, as VAR's scales do.

    The mask is piecewise constant, so each block is one dense attention without any; blocks of one token in a row are causal.

    Args:
        q: (B, heads, N, d), the last N of the M tokens that ``k`` and ``v`` hold; those before them are seen by all.
        k: (B, heads, M, d).
        v: like ``k``.
        sizes: tokens of each block, N together.

    Raises:
        ValueError: where the blocks are not N tokens.
    """
    tokens, past = q.shape[-2], k.shape[-2] - q.shape[-2]
    if sum(sizes) != tokens:
        raise ValueError(f"Blocks of {tuple(sizes)} tokens are {sum(sizes)} together, and there are {tokens}.")
    pieces, first = [], 0
    for size, causal in _runs(sizes):
        last = first + size
        kind = attend_causal if causal else attend
        pieces.append(kind(q[..., first:last, :], k[..., : past + last, :], v[..., : past + last, :]))
        first = last
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-2)


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Sizes of what attends at once, and whether causally: blocks of one token in a row are one run."""
    for size, run in groupby(sizes):
        count = len(list(run))
        yield from [(count, True)] if size == 1 else [(size, False)] * count


def attend_window(q: Tensor, k: Tensor, v: Tensor, window: int, tokens: int = 1) -> Tensor:
    """Attention that is causal in time and sees a fixed number of cells, in memory that grows with the length and not its square.

    Tokens are in the order of time, ``tokens`` of them to a cell. Those of a cell see each other and the ``window - 1`` cells
    before theirs, as many as there are. Cells of more than one token attend one by one to what they see, without any mask.

    Args:
        q: (B, heads, T * tokens, d), the last T cells of those that ``k`` and ``v`` hold.
        k: (B, heads, (P + T) * tokens, d); P cells come before the first query's, as of the chunk before.
        v: like ``k``.
        window: cells that a query sees, its own included.
        tokens: tokens of a cell.
    """
    cells, past = q.shape[-2] // tokens, (k.shape[-2] - q.shape[-2]) // tokens
    step = 1 if tokens > 1 else max(window, PIECE)
    pieces = []
    for first in range(0, cells, step):
        last = min(first + step, cells)
        low, high = max(0, past + first - window + 1), past + last
        seen = slice(low * tokens, high * tokens)
        mask = window_mask(last - first, high - low, window, q.device) if last - first > 1 else None
        pieces.append(attend(q[..., first * tokens : last * tokens, :], k[..., seen, :], v[..., seen, :], mask))
    return torch.cat(pieces, dim=-2)


def window_mask(queries: int, keys: int, window: int, device: torch.device | None = None) -> Tensor:
    """(queries, keys): True where a key is the query's own step or one of the ``window - 1`` before; both end together."""
    age = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return (age >= 0) & (age < window)
