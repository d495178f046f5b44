"""Scaled dot-product attention, by whichever way is fast on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

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


Mask: TypeAlias = "Tensor | tuple[int, ...] | Sparse | None"
"""Who sees whom: see :func:`attend_under`."""


def attend_under(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Attention under a mask of any kind: :func:`attend`'s, the sizes of :func:`attend_blocks`, or :func:`attend_sparse`'s."""
    if isinstance(mask, tuple):
        return attend_blocks(q, k, v, mask)
    return attend_sparse(q, k, v, mask) if isinstance(mask, Sparse) else attend(q, k, v, mask)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, heads, N, d) queries over (B, heads, M, d) keys and values -> (B, heads, N, d).

    ``mask`` broadcasts to (B, heads, N, M): True where a query may look.
    """
    if not _short(k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + scores.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))  # faster than to fill all heads' scores
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


@dataclass(frozen=True)
class Rows:
    """Segments of a sequence, side by side, that attend together.

    Attributes:
        tokens: how many they are together.
        seen: the segments of the sequence that any of them sees.
        mask: (tokens, tokens of ``seen``), True where a token may look; None where each sees all of them.
    """

    tokens: int
    seen: tuple[int, ...]
    mask: Tensor | None


@dataclass(frozen=True)
class Sparse:
    """Who sees whom where a token sees a small part of the sequence: see :func:`sparse`.

    Attributes:
        sizes: tokens of each segment.
        rows: of all segments, in their order.
    """

    sizes: tuple[int, ...]
    rows: tuple[Rows, ...]

    def dense(self) -> Tensor:
        """(N, N), True where a token may look."""
        places = torch.arange(sum(self.sizes)).split(self.sizes)
        wholes = []
        for row in self.rows:
            columns = torch.cat([places[segment] for segment in row.seen])
            whole = torch.zeros(row.tokens, sum(self.sizes), dtype=torch.bool)
            whole[:, columns] = True if row.mask is None else row.mask.cpu()
            wholes.append(whole)
        return torch.cat(wholes)


def sparse(table: Tensor, sizes: Sequence[int], runs: Sequence[int], device: torch.device) -> Sparse:
    """Segments that see one another whole or not at all.

    Args:
        table: (n, n), True where the tokens of a segment see those of another; each sees one at least.
        sizes: tokens of the n segments.
        runs: how many consecutive segments attend together, n in all: those that see much the same.
        device: of the masks.
    """
    counts, rows, first = torch.tensor(sizes), [], 0
    for run in runs:
        own = slice(first, first + run)
        (seen,) = table[own].any(dim=0).nonzero(as_tuple=True)
        part = table[own][:, seen]
        mask = part.repeat_interleave(counts[own], dim=0).repeat_interleave(counts[seen], dim=1).to(device)
        rows.append(Rows(sum(sizes[own]), tuple(seen.tolist()), None if bool(part.all()) else mask))
        first += run
    return Sparse(tuple(sizes), tuple(rows))


def attend_sparse(q: Tensor, k: Tensor, v: Tensor, sight: Sparse) -> Tensor:
    """(B, heads, N, d) attention in which each run of segments is given the keys of those that it sees, and of no others."""
    keys, values = k.split(sight.sizes, dim=-2), v.split(sight.sizes, dim=-2)
    pieces = []
    for row, part in zip(sight.rows, q.split([row.tokens for row in sight.rows], dim=-2), strict=True):
        own, told = (torch.cat([parts[segment] for segment in row.seen], dim=-2) for parts in (keys, values))
        pieces.append(attend(part, own, told, row.mask))
    return torch.cat(pieces, dim=-2)


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
