"""Layer normalisation that keeps the dtype of the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer norm over the last dimension with a learned scale and no shift.

    It sees one position at a time, so in a video model it is causal and per frame by construction. The result has the dtype of
    the input: under bf16 autocast the residual stream stays in bf16. One fused kernel: RMS norm, which torch decomposes, made a
    training step 10 to 15 % slower on CPUs.

    Args:
        channels: size of the last dimension.
        affine: learn a scale per channel.
        eps: added to the variance.
    """

    def __init__(self, channels: int, *, affine: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        scale = None if self.scale is None else self.scale.to(x.dtype)
        return nn.functional.layer_norm(x, x.shape[-1:], scale, None, self.eps).to(x.dtype)
