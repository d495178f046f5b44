"""Scaled dot-product attention, by whichever way is fast on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 512
"""On CPUs, sequences up to this long attend by two plain products: measured faster than the fused kernel, which wins beyond."""

PIECE = 64
"""Steps in time that attend together to a window, where a cell is a single token."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, heads, N, d) queries over (B, heads, M, d) keys and values -> (B, heads, N, d).

    ``mask`` broadcasts to (B, heads, N, M): True where a query may look.
    """
    if q.device.type != "cpu" or k.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


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
