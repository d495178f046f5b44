"""Rectified flow, in the one time convention of this library: t = 0 is data, t = 1 is noise.

x_t = (1 - t) x + t e with e ~ N(0, I), and the velocity that a model learns is v = dx_t/dt = e - x. Sampling walks t from 1 to 0.
Sources: Liu et al., "Flow Straight and Fast" (2022); Esser et al., "Scaling Rectified Flow Transformers" (2024), for the
logit-normal noise levels and the shift. SiT counts time the other way: t here is 1 - t there, and v here is -v there. What a
velocity says of data and noise is in :mod:`vidgen.samplers.paths`, for this path and others.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point at noise level ``t`` (broadcast against ``x``) on the straight line from data to noise."""
    return (1 - t) * x + t * noise


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The velocity of the line from ``x`` to ``noise``."""
    return noise - x


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Moves noise levels towards noise (``shift`` > 1): shift t / (1 + (shift - 1) t); ends stay where they are."""
    return shift * t / (1 + (shift - 1) * t)


def logit_normal(shape: tuple[int, ...], mean: float, std: float, device: torch.device) -> Tensor:
    """Training noise levels sigmoid(mean + std * n)."""
    return torch.sigmoid(mean + std * torch.randn(shape, device=device))


def sampling_times(steps: int, shift: float = 1.0, device: torch.device | None = None) -> Tensor:
    """``steps`` + 1 noise levels from 1 to 0, even before the shift; float64, so that their ends are exact."""
    return shift_times(torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device), shift)
