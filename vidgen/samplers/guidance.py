"""Classifier-free guidance."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """``u + scale * (c - u)`` on every channel (Ho and Salimans, 2022).

    DiT's released code guides three channels only; here all are guided. Scale 1 is the conditional prediction itself.
    """
    return unconditional + scale * (conditional - unconditional)
