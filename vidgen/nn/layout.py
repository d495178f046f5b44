"""Where the tokens of a latent lie: their positions, scales and cells, in the order of its grids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from vidgen.latents import LatentSpec, Shape


@dataclass(frozen=True)
class Layout:
    """Where N tokens lie. It is shared by all who ask for the same: nobody writes into it.

    Attributes:
        positions: (N, 3) float32 centres (time, height, width) in cells of the full grid; time is absolute, as ``start`` is.
        scale: (N,) index of the token's scale, coarse to fine; 0 on a plain grid.
        cell: (N,) index along time of the full grid, counted from the latent's first cell; of a token that covers several, the
            first.
        sizes: tokens of each grid, in the order of ``latent.grids``: blocks for a trunk.
    """

    positions: Tensor
    scale: Tensor
    cell: Tensor
    sizes: tuple[int, ...]


@lru_cache(maxsize=64)
def token_layout(spec: LatentSpec, grids: tuple[Shape, ...], start: int = 0, device: torch.device | str | None = None) -> Layout:
    """The layout of a latent's tokens.

    Cell i of n over a full size s covers s / n cells from i s / n on, and its centre is at (i + 1/2) s / n - 1/2: 0 to s - 1 on
    the full grid itself, where these are :func:`vidgen.nn.rope.grid_positions`.

    Args:
        spec: of the latent.
        grids: ``latent.grids``, or ``spec.grids(shape, start)``.
        start: absolute index of the first cell.
        device: of the result.
    """
    scales = len(spec.scales or (1,))
    parts, offset = [], 0
    with torch.inference_mode(False):  # what was made for sampling is used in training too
        for first in range(0, len(grids), scales):
            piece = grids[first : first + scales]
            parts += [_grid(grid, piece[-1], offset, start, device) for grid in piece]
            offset += piece[-1][0]
        positions, cell = (torch.cat(field) for field in zip(*parts, strict=True))
        sizes = tuple(prod(grid) for grid in grids)
        index = torch.arange(len(grids), device=device) % scales
        scale = index.repeat_interleave(torch.tensor(sizes, device=device))
    return Layout(positions, scale, cell, sizes)


def _grid(grid: Shape, full: Shape, offset: int, start: int, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """Positions (n, 3) and cells (n,) of one grid over the ``full`` one, which begins ``offset`` cells after ``start``."""
    index = [torch.arange(size, device=device) for size in grid]
    axes = [(i + 0.5) * size / cells - 0.5 for i, cells, size in zip(index, grid, full, strict=True)]
    axes[0] = axes[0] + (start + offset)
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    return positions, (offset + index[0] * full[0] // grid[0]).repeat_interleave(grid[1] * grid[2])


def to_tokens(x: Tensor) -> Tensor:
    """(B, D, t, h, w) -> (B, t * h * w, D), in raster order as ids are."""
    return x.flatten(2).transpose(1, 2)


def from_tokens(x: Tensor, grid: Shape) -> Tensor:
    """(B, t * h * w, D) -> (B, D, t, h, w): the inverse of :func:`to_tokens`."""
    return x.transpose(1, 2).unflatten(2, grid)
