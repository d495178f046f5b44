"""Distances to the nearest rows, tile by tile: memory does not grow with N^2."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 2**22
"""Distances that are held at once, in float64 32 MiB."""


def tiles(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of rows of ``x`` (N, d) to all of ``y`` (M, d), some rows at a time: which, and (n, M)."""
    middle = y.mean(dim=0)  # distances are taken by products, which are exact to the size of the rows
    x, y = x - middle, y - middle
    step = max(1, TILE // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        yield rows, torch.cdist(x[rows], y, compute_mode="use_mm_for_euclid_dist")


def radii(x: Tensor, k: int) -> Tensor:
    """The distance of each row of ``x`` (N, d) to its ``k``-th nearest other one, (N,)."""
    return torch.cat([distance.kthvalue(k + 1, dim=1).values for _, distance in tiles(x, x)])


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of ``x`` the nearest of ``y``: its distance (N,) and its index (N,)."""
    index = torch.cat([distance.argmin(dim=1) for _, distance in tiles(x, y)])
    return (x - y[index]).norm(dim=1), index


def nearest_other(x: Tensor) -> Tensor:
    """The distance of each row of ``x`` to the nearest of the others, (N,)."""
    index = []
    for rows, distance in tiles(x, x):
        own = torch.arange(len(x), device=x.device)[rows]
        index.append(distance.scatter_(1, own[:, None], torch.inf).argmin(dim=1))
    return (x - x[torch.cat(index)]).norm(dim=1)
