"""Root-mean-square normalisation that keeps the dtype of the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """``x / rms(x) * scale`` over the last dimension (Zhang and Sennrich, 2019).

    It sees one position at a time, so in a video model it is causal and per frame by construction. The result has the dtype of
    the input: under bf16 autocast the residual stream stays in bf16, where ``torch.nn.RMSNorm`` would promote it to fp32.

    Args:
        channels: size of the last dimension.
        affine: learn a scale per channel.
        eps: added to the mean square.
    """

    def __init__(self, channels: int, *, affine: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        scale = None if self.scale is None else self.scale.to(x.dtype)
        return nn.functional.rms_norm(x, x.shape[-1:], scale, self.eps)
