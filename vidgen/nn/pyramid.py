"""Pyramids over a latent grid, coarse to fine: what is left at each scale, its way down to that scale's grid and up again.

Source: Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction" (2024), algorithms 1
and 2. A scale's grid is given by :func:`vidgen.latents.scale_grids`. Where all grids have as many cells in time, everything here
treats each of them by itself, so a pyramid is causal, and one frame is treated as in a video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Shape

SPATIAL = {"bicubic": "bicubic", "trilinear": "bilinear"}
"""The ways up, and what each is within a frame; in time both are linear."""


def area_down(x: Tensor, grid: Shape) -> Tensor:
    """(B, C, T, H, W) -> (B, C, *grid): each cell is the mean of those that it covers, wholly or in part."""
    return x if tuple(x.shape[2:]) == tuple(grid) else F.adaptive_avg_pool3d(x, grid)


def upsample(x: Tensor, grid: Shape, mode: str) -> Tensor:
    """(B, C, t, h, w) -> (B, C, *grid), frame by frame in space by ``mode`` of :data:`SPATIAL`, then linearly in time.

    Cells are areas, as in :func:`area_down`, so corners are not aligned; beyond the border its cells are repeated.
    """
    if tuple(x.shape[3:]) != tuple(grid[1:]):
        frames = x.transpose(1, 2).flatten(0, 1)
        frames = F.interpolate(frames, grid[1:], mode=SPATIAL[mode], align_corners=False)
        x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return x if x.shape[2] == grid[0] else F.interpolate(x, grid, mode="trilinear", align_corners=False)


def residual_pyramid(
    x: Tensor, grids: Sequence[Shape], mode: str = "trilinear", shown: Callable[[int, Tensor], Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """``x`` (B, C, T, H, W) as a pyramid without quantization, for continuous latents.

    Args:
        x: what is decomposed.
        grids: of the scales, coarse to fine, the last that of ``x``.
        mode: the way up, ``trilinear`` or ``bicubic``.
        shown: what is sent up in the place of what a scale, told by its number, holds; noise that later scales are to mend.

    Returns:
        per scale, what was left at its grid (B, C, *grid), and the sum (B, C, T, H, W) of what has been sent up so far; the last
        sum is ``x``, to rounding.
    """
    z = torch.zeros_like(x)
    residues, sums = [], []
    for scale, grid in enumerate(grids):
        residues.append(area_down(x - z, grid))
        sent = residues[-1] if shown is None else shown(scale, residues[-1])
        z = z + upsample(sent, (x.shape[2], x.shape[3], x.shape[4]), mode)
        sums.append(z)
    return residues, sums


def checked_scales(scales: Sequence[Sequence[float]], clip: int) -> tuple[tuple[float, float, float], ...]:
    """The scales of a pyramid as numbers.

    Raises:
        UserError: where they make none, or grow in time and ``clip``, the cells that have a pyramid of their own, is 0.
    """
    checked = tuple((float(t), float(h), float(w)) for t, h, w in scales)
    if not checked or checked[-1] != (1, 1, 1) or not all(0 < part <= 1 for scale in checked for part in scale):
        raise UserError("A pyramid's scales are fractions (t, h, w) of the grid, above 0 and at most 1, the last 1, 1, 1.")
    if clip < 0 or (not clip and any(scale[0] != 1 for scale in checked)):
        raise UserError("Scales that grow in time need clip, the cells that have a pyramid of their own: at least 1.")
    return checked


def split_scales(ids: Tensor, grids: Sequence[Shape]) -> list[Tensor]:
    """(B, N, L) ids as one (B, t*h*w, L) per scale; of ``grids``, which names all scales, as many as N cells fill.

    Raises:
        ValueError: where N cells end inside a scale, or are more than all.
    """
    scales, first = [], 0
    for t, h, w in grids:
        if first == ids.shape[1]:
            break
        scales.append(ids[:, first : first + t * h * w])
        first += t * h * w
    if first != ids.shape[1]:
        raise ValueError(f"{ids.shape[1]} ids do not end where one of the scales {[tuple(grid) for grid in grids]} does.")
    return scales


class Phi(nn.Module):
    """VAR's convolution of what has been upsampled, which mends the blur: phi(x) = (1 - ratio) x + ratio conv(x).

    It starts as the identity, where VAR's starts at random: codes that are means, or of one length, could not grow against it.

    Args:
        channels: of what is upsampled.
        ratio: of the convolution in the whole, 0.5 in VAR.
        time_kernel: 1 for a 3 x 3 convolution of each frame; 3 for one over time too, with zeros before the first and after
            the last cell, as around each frame.
    """

    def __init__(self, channels: int, *, ratio: float = 0.5, time_kernel: int = 1) -> None:
        super().__init__()
        self.ratio = ratio
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty(channels, channels, time_kernel, 3, 3)))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, t, h, w) -> the same shape, on the device and in the dtype of ``x``."""
        return (1 - self.ratio) * x + self.ratio * self._conv(x)

    def _conv(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x), self.bias.to(x)
        if weight.shape[2] > 1:
            return F.conv3d(x, weight, bias, padding=1)
        frames = F.conv2d(x.transpose(1, 2).flatten(0, 1), weight.squeeze(2), bias, padding=1)  # conv3d takes thrice as long here
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def nearest_tick(scale: int, scales: int, ticks: int) -> int:
    """Which of ``ticks`` shared :class:`Phi` serves scale ``scale`` of ``scales``: VAR's rule.

    The place of the scale, scale / (scales - 1), is held against ``ticks`` even places, from 1 / (2 ticks) to 1 less that; of
    four, from 1 / 12 to 11 / 12. Two may be equally near: what then decides is the rounding of float64, step by step as in VAR's
    release, whose ten scales take 0 0 1 1 1 2 2 3 3 3. A single scale is at 0, where VAR divides by zero.
    """
    start = 1 / 3 / ticks if ticks == 4 else 1 / 2 / ticks
    step = (1 - start - start) / max(ticks - 1, 1)
    places = [start + tick * step for tick in range(ticks - 1)] + [1 - start]
    place = scale / max(scales - 1, 1)
    return min(range(ticks), key=lambda tick: abs(places[tick] - place))
