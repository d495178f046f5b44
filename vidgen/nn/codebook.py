"""What quantizers with a table of codes share: search, a start from data, and gradients through the choice of a code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgen.errors import UserError

SCORES = 2**20
"""Scores of rows against codes that are held at a time, 4 MB: a search's memory does not grow with rows times codes."""


def check_table(name: str, codes: int, channels: int) -> None:
    """Raises UserError where quantizer ``name`` is asked for a table that has no choice or no channels."""
    if codes < 2 or channels < 1:
        raise UserError(f"{name} needs codes of at least 2 and channels of at least 1, not {codes} and {channels}.")


def rows_of(x: Tensor) -> Tensor:
    """(B, C, t, h, w) -> (B*t*h*w, C), cells in the order of ids."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def cells_of(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`rows_of`: (B*t*h*w, C) -> (B, C, t, h, w), with B, t, h and w of ``like``."""
    return rows.view(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1)


@torch.no_grad()
def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """(N,) indices of the code (K, D) nearest to each row (N, D), by Euclidean distance; the first of equals,
    where the product's columns are rounded alike.

    One matrix product, argmin_k |e_k|^2 / 2 - x.e_k. Both are seen from the codes' mean: data far from the origin would lose
    their differences to rounding.
    """
    mean = codes.mean(dim=0)
    codes = codes - mean
    half = codes.square().sum(dim=1) / 2
    chunks = (rows - mean).split(max(64, SCORES // len(codes)))
    # min gives the place as well, at half of what argmin takes on a CPU.
    return torch.cat([torch.addmm(half, chunk, codes.T, alpha=-1).min(dim=1).indices for chunk in chunks])


@torch.no_grad()
def sums_by_code(rows: Tensor, ids: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """How many rows (N, D) each code was chosen for (codes,), and their sums (codes, D); both in the rows' dtype."""
    counts = torch.bincount(ids, minlength=codes).to(rows.dtype)
    return counts, rows.new_zeros(codes, rows.shape[1]).index_add_(0, ids, rows)


@torch.no_grad()
def draw(weights: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """``num`` different indices of ``weights`` (N,), one after another with probability proportional to what is left of them.

    By an exponential race: the first arrivals of N processes with these rates. No cumulative sum, so equal on every device.
    ``generator`` is the CPU's.
    """
    arrival = torch.empty(len(weights)).exponential_(generator=generator).to(weights)
    return (weights / arrival).topk(num).indices


@torch.no_grad()
def kmeans(rows: Tensor, num: int, *, rounds: int, unit: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``num`` centres (n, D) of the rows (N, D), n = min(num, N), and how many rows each has (n,).

    Lloyd's iterations from seeds by squared distance to the seeds so far (k-means++, Arthur and Vassilvitskii 2007), drawn in
    rounds of a quarter of the seeds so far (as k-means||, Bahmani et al. 2012, does): one pass over rows times centres in all.
    A centre that has lost its rows stays where it is, with count 0.

    Args:
        rows: finite.
        num: of centres.
        rounds: of Lloyd's iteration.
        unit: whether rows are of unit length and centres are to be (spherical k-means).
        generator: the CPU's.
    """
    num = min(num, len(rows))
    chosen = draw(rows.new_ones(len(rows)), 1, generator)
    distance = (rows - rows[chosen]).square().sum(dim=1)
    while len(chosen) < num:
        more = draw(distance, min(num - len(chosen), max(1, len(chosen) // 4)), generator)
        new = rows[more]
        distance = torch.minimum(distance, (rows - new[nearest(rows, new)]).square().sum(dim=1))
        chosen = torch.cat([chosen, more])
    centres = rows[chosen]
    for _ in range(rounds):
        counts, sums = sums_by_code(rows, nearest(rows, centres), num)
        means = F.normalize(sums, dim=1) if unit else sums / counts.clamp_min(1).unsqueeze(1)
        centres = torch.where(counts.unsqueeze(1) > 0, means, centres)
    return centres, torch.bincount(nearest(rows, centres), minlength=num).to(rows.dtype)


def pass_through(rows: Tensor, codes: Tensor, *, rotation: bool) -> Tensor:
    """The chosen codes (N, D), to the bit, with a gradient to the rows (N, D) as if nothing had been chosen.

    Args:
        rows: what was quantized.
        codes: what was chosen for them; no gradient goes to it.
        rotation: False for the straight-through estimator, whose gradient is the identity; True for the rotation trick (Fifty
            et al., "Restructuring Vector Quantization with the Rotation Trick", 2024, section 4.2): the gradient of
            |q|/|x| R x with the rotation R that takes x to q, held constant. With u, v the directions of x and q, and w that of
            u + v, R x = x - 2 w (w.x) + 2 v (u.x): two reflections and no matrix.
    """
    moved = rows
    if rotation:
        x, q = rows.detach(), codes.detach()
        length = x.norm(dim=1, keepdim=True).clamp_min(1e-6)
        u, v = x / length, F.normalize(q, dim=1, eps=1e-6)
        w = F.normalize(u + v, dim=1, eps=1e-6)
        turned = rows - 2 * w * (w * rows).sum(dim=1, keepdim=True) + 2 * v * (u * rows).sum(dim=1, keepdim=True)
        moved = turned * (q.norm(dim=1, keepdim=True) / length)
    return codes.detach() + (moved - moved.detach())
