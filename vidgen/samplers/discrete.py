"""Draws from softmaxes by inverse CDF: one uniform number a draw, so that samples are functions of their noise alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidgen.errors import UserError

CHUNK, CPU_CHUNK = 2**26, 2**18
"""Logits that are worked on at a time, for the sake of memory; on a CPU what stays in its cache is three times as fast."""

LIKELY = 2048
"""Ids among which a nucleus is looked for first: four times faster than to sort a vocabulary of 2**14."""

LEAST = 1e-9
"""The smallest ``top_p``: below it the most likely id alone is kept."""


def check_truncation(levels: Sequence[int] | None, top_k: int, top_p: float) -> None:
    """Sees that there are ids to keep the likeliest of, where some are to be left out.

    Raises:
        UserError: for continuous latents, whose ``levels`` are None.
    """
    if levels is None and (top_k or top_p < 1):
        raise UserError("Continuous latents have no most likely ids to keep: leave top_k=0 and top_p=1, and use temperature.")


def sample_logits(
    logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Ids drawn from softmax(logits / temperature), truncated, with their log-probability under that very law.

    First ``top_k``, then ``top_p`` of what it leaves, renormalised (Fan et al., 2018; Holtzman et al., 2020; the order is that of
    VAR and of common language-model code). Both keep at least one id.

    Args:
        logits: (..., V); half precision is raised to float32.
        u: (...), uniform in [0, 1), in float32 or float64.
        temperature: 0 gives the most likely id; its law being a point, the log-probability is then that at temperature 1 without
            truncation, so that there is still an order of confidence.
        top_k: ids that are kept, the most likely ones, ties broken as ``torch.topk`` does; 0 keeps all.
        top_p: the fewest most likely ids that hold this much probability are kept; 1 keeps all.

    Returns:
        ids (...) in int64 and log-probabilities (...), in nats.
    """
    vocabulary = logits.shape[-1]
    rows = max(1, (CPU_CHUNK if logits.device.type == "cpu" else CHUNK) // vocabulary)
    chunks = zip(logits.reshape(-1, vocabulary).split(rows), u.reshape(-1, 1).split(rows), strict=True)
    drawn = [_draw(precise(some), one, temperature, top_k, top_p) for some, one in chunks]
    ids, log_p = (torch.cat(parts).view(u.shape) for parts in zip(*drawn, strict=True))
    return ids, log_p


def _draw(logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """:func:`sample_logits` of (rows, V) and (rows, 1): both (rows, 1)."""
    if temperature == 0:
        log_p, ids = logits.log_softmax(dim=-1).max(dim=-1, keepdim=True)
        return ids, log_p
    p, order = (logits / temperature).softmax(dim=-1), None
    if 0 < top_k < p.shape[-1]:
        p, order = p.topk(top_k, dim=-1)
        p = p / p.sum(dim=-1, keepdim=True)
    if top_p < 1:
        if order is None:
            p, order = _ranked(p, top_p)
        p = p * (p.cumsum(dim=-1) - p < max(top_p, LEAST))  # by what is likelier than an id
    index, log_p = _invert(p, u)
    return (index if order is None else order.gather(-1, index)), log_p


def _ranked(p: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """The largest of ``p`` (rows, V), falling, and where they are: at least so many that every row holds ``mass``."""
    largest = p.topk(min(LIKELY, p.shape[-1]), dim=-1)
    return largest if (largest[0].sum(dim=-1) >= mass).all() else p.sort(dim=-1, descending=True)


def _invert(p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Where the cumulative sum of weights ``p`` (rows, V) first exceeds ``u`` of their total: never at a weight of 0."""
    cumulative = p.cumsum(dim=-1)
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))  # u may round up to 1
    index = torch.searchsorted(cumulative, torch.minimum(u.to(p.dtype) * total, below), right=True)
    return index, (p.gather(-1, index) / total).log()


def precise(x: Tensor) -> Tensor:
    """``x`` in float32, where it is of less precision."""
    return x if x.dtype == torch.float64 else x.float()
