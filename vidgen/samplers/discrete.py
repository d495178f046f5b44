"""Draws from softmaxes by inverse CDF: one uniform number a draw, so that samples are functions of their noise alone."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-9
"""The smallest nucleus: ``top_p`` below it keeps the most likely id alone."""


def sample_logits(
    logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Ids drawn from softmax(logits / temperature), truncated, with their log-probability under that very law.

    First ``top_k``, then ``top_p`` of what it leaves, renormalised (Fan et al., 2018; Holtzman et al., 2020; the order is that of
    VAR and of common language-model code). Both keep at least one id.

    Args:
        logits: (..., V), in float32 or float64; half precision is raised to float32.
        u: (...), uniform in [0, 1).
        temperature: 0 gives the most likely id; its law being a point, the log-probability is then that at temperature 1 without
            truncation, so that there is still an order of confidence.
        top_k: ids that are kept, the most likely ones, ties broken as ``torch.topk`` does; 0 keeps all.
        top_p: the fewest most likely ids that hold this much probability are kept; 1 keeps all.

    Returns:
        ids (...) in int64 and log-probabilities (...), in nats.
    """
    logits = precise(logits)
    if temperature == 0:
        likely, ids = logits.max(dim=-1)
        return ids, likely - logits.logsumexp(dim=-1)
    order = None
    if 0 < top_k < logits.shape[-1] or top_p < 1:
        logits, order = logits.topk(min(top_k, logits.shape[-1]) or logits.shape[-1], dim=-1)
    p = (logits / temperature).softmax(dim=-1)
    if top_p < 1:
        p = p * (p.cumsum(dim=-1) - p < max(top_p, LEAST))  # what comes before an id, of all that are likelier
    drawn, log_p = _invert(p, u)
    return (drawn if order is None else order.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)), log_p


def _invert(p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The index at which the cumulative sum of weights ``p`` (..., V) first exceeds ``u`` of the total: never one of weight 0."""
    cumulative = p.cumsum(dim=-1)
    total = cumulative[..., -1:]
    below = torch.nextafter(total, torch.zeros_like(total))  # u may round up to 1
    index = torch.searchsorted(cumulative, torch.minimum(u.unsqueeze(-1).to(p.dtype) * total, below), right=True)
    return index.squeeze(-1), (p.gather(-1, index) / total).log().squeeze(-1)


def precise(x: Tensor) -> Tensor:
    """``x`` in float32, where it is of less precision."""
    return x if x.dtype == torch.float64 else x.float()
