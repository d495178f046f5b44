"""Rotary position embedding over three axes, for grids of any size and length."""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.latents import Shape


def grid_positions(grid: Shape, start: float = 0, device: torch.device | None = None) -> Tensor:
    """(t*h*w, 3) coordinates of a grid's cells in raster order; time counts from ``start``."""
    axes = [torch.arange(size, device=device, dtype=torch.float32) for size in grid]
    axes[0] = axes[0] + start
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def rotary_table(positions: Tensor, head_dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., N, head_dim) for positions (..., N, 3).

    The head's pairs of channels are shared out to time, height and width, what is left over going to time; each axis has
    frequencies from 1 down to 1 / ``theta`` (Su et al., "RoFormer", 2021, per axis as in video transformers of today).
    """
    pairs = head_dim // 2
    space = pairs // 3
    angles = []
    for axis, count in enumerate((pairs - 2 * space, space, space)):
        frequencies = theta ** (-torch.arange(count, device=positions.device, dtype=torch.float32) / max(count, 1))
        angles.append(positions[..., axis, None] * frequencies)
    angle = torch.cat(angles, dim=-1)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns (..., heads, N, head_dim) by a :func:`rotary_table`, (N, head_dim), or (..., N, head_dim) where samples differ.

    Pairs are (i, i + head_dim / 2).
    """
    cos, sin = (part.to(x.dtype) if part.ndim == 2 else part.to(x.dtype).unsqueeze(-3) for part in table)
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-b, a], dim=-1), sin)
