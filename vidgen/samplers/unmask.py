"""Decoding masked tokens in parallel: how many are revealed in each step, which ones, and the loop that draws them.

Sources: Chang et al., "MaskGIT" (2022), for the schedules, the exact counts and the confidence; Li et al., "Autoregressive Image
Generation without Vector Quantization" (2024), for masks by a truncated normal; Besnier et al., "Halton Scheduler for Masked
Generative Image Transformer" (2025); Lee et al., "Draft-and-Revise" (2022), for the passes that draw every token again.

Deviations: every step reveals at least one token for as long as there are any, so that no call of the network is wasted (MaskGIT
only sees that one is left for the last step); the Halton sequence has a third axis, time, in base 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vidgen.latents import Shape

Draw = Callable[[int, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(step, tokens (B, N, L), masked (B, N), indices (B, n) or None for all N) -> tokens (B, n, L) and their log-probabilities."""

SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda r: torch.cos(math.pi / 2 * r),
    "linear": lambda r: 1 - r,
    "square": lambda r: 1 - r.square(),
    "cubic": lambda r: 1 - r.pow(3),
    "sqrt": lambda r: 1 - r.sqrt(),
    "arccos": lambda r: torch.arccos(r) / (math.pi / 2),
}
"""The fraction of tokens that is masked at progress r in [0, 1], from 1 down to 0."""

ORDERS = ("auto", "confidence", "random", "halton")


def truncated_normal(u: Tensor, mean: float = 1.0, std: float = 0.25, low: float = 0.7, high: float = 1.0) -> Tensor:
    """Uniform numbers -> normal ones cut to [low, high], by the inverse of their distribution; MAR's mask ratios by default."""
    first, last = (torch.special.ndtr(torch.tensor((end - mean) / std, dtype=torch.float64)) for end in (low, high))
    x = mean + std * torch.special.ndtri(first + (last - first) * u.double())
    return x.clamp(low, high).to(u.dtype)


def lowest(scores: Tensor, count: Tensor) -> Tensor:
    """Which are the ``count`` (B,) lowest of each row of ``scores`` (B, N): exactly as many, of equals the first."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1) < count[:, None]


def draw_mask(ratio: Tensor, u: Tensor, known: Tensor) -> Tensor:
    """Random masks (B, N) over what is not ``known``: of U tokens of a row exactly floor(ratio U), at least 1, are masked.

    Args:
        ratio: (B,) between 0 and 1.
        u: (B, N) uniform numbers, whose order decides.
        known: (B, N), tokens that are never masked.
    """
    unknown = (~known).sum(dim=1)
    count = (ratio * unknown).floor().long().clamp_min(1).minimum(unknown)
    return lowest(u.masked_fill(known, math.inf), count)


def masked_counts(unknown: Tensor, steps: int, schedule: str) -> Tensor:
    """How many of ``unknown`` (B,) tokens are still masked after each step: (B, steps) integers that end at 0.

    As near to floor(U schedule(r)) at r = (step + 1) / steps as lets every step reveal at least one token for as long as there
    are any. Of fewer tokens than steps each is revealed by itself, and the last steps reveal none.
    """
    progress = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    index, total = torch.arange(steps), unknown.cpu()[:, None]
    wanted = (total * SCHEDULES[schedule](progress) + 1e-9).floor().long()
    falling = (wanted + index).cummin(dim=1).values  # one token a step at least
    return (falling.maximum(total.clamp_max(steps) - 1).minimum(total - 1) - index).clamp_min(0)  # and one left for each


@lru_cache(maxsize=64)
def halton_ranks(grid: Shape) -> Tensor:
    """(t*h*w,): when the Halton sequence (bases 5, 2, 3 along time, height, width) first visits each cell, as a rank.

    Any first part of this order is spread evenly over the grid, so tokens revealed together tell little of one another.
    """
    cells = math.prod(grid)
    points = 4 * cells
    while True:
        axes = [(_radical_inverse(points, base) * size).long() for base, size in zip((5, 2, 3), grid, strict=True)]
        visited = (axes[0] * grid[1] + axes[1]) * grid[2] + axes[2]
        first = torch.full((cells,), points).scatter_reduce(0, visited, torch.arange(points), "amin")
        if int(first.max()) < points:
            return first.argsort().argsort()
        points *= 2


def _radical_inverse(points: int, base: int) -> Tensor:
    """1, 2, ... ``points`` with their digits in ``base`` mirrored at the point: van der Corput's sequence, float64 in (0, 1).

    The fraction is a ratio of two integers, so that no rounding moves a point over the border of a cell.
    """
    rest, mirrored, scale = torch.arange(1, points + 1), torch.zeros(points, dtype=torch.long), 1
    while int(rest.max()) > 0:
        mirrored = mirrored * base + rest % base
        rest, scale = rest // base, scale * base
    return mirrored.double() / scale


def halton_order(grids: Sequence[Shape], scales: int, u: Tensor) -> Tensor:
    """(B, N) ranks of the tokens of ``grids``, each sample's sequence rolled by its own ``u`` (B,) in (0, 1).

    Scales of a pyramid (``scales`` grids a piece) follow one another, coarse to fine; the pieces of one scale advance together.
    """
    keys = []
    for index, grid in enumerate(grids):
        cells = math.prod(grid)
        ranks = halton_ranks(tuple(grid)).to(u.device)
        shift = (u.double() * cells).long()[:, None]
        keys.append(index % scales + ((ranks - shift) % cells + 0.5) / cells)
    return torch.cat(keys, dim=1).argsort(dim=1, stable=True).argsort(dim=1)


def annealed_gumbel(u: Tensor, temperature: float) -> Tensor:
    """(steps, B, N) uniform numbers -> Gumbel noise times ``temperature`` (1 - r), r = (step + 1) / steps: none in the last."""
    steps = len(u)
    fall = 1 - torch.arange(1, steps + 1, device=u.device, dtype=u.dtype) / steps
    return temperature * fall.view(-1, 1, 1) * -(-u.log()).log()


def by_confidence(draw: Draw, tokens: Tensor, known: Tensor, remaining: Tensor, noise: Tensor) -> Tensor:
    """Draws all masked tokens in each step and keeps those of which the network is most sure (MaskGIT, section 3.2).

    Sureness is the log-probability of what was drawn plus ``noise``. As what is kept depends on what was drawn, tokens are not a
    sample of the network's distribution, even one at a time: likely ones are preferred, unless the noise is large.

    Args:
        draw: the network and its head.
        tokens: (B, N, L), of which those that are ``known`` (B, N) stay as they are.
        known: tokens that are given.
        remaining: (B, steps) of :func:`masked_counts`, on the CPU.
        noise: (steps, B, N), of :func:`annealed_gumbel`.
    """
    masked, counts = ~known, remaining.to(tokens.device)
    for step in range(1 + int((remaining > 0).any(0).sum())):  # of fewer tokens than steps, the last reveal none
        drawn, log_probability = draw(step, tokens, masked, None)
        assert log_probability is not None
        tokens = torch.where(masked[..., None], drawn.to(tokens.dtype), tokens)  # what is masked again is not looked at
        sureness = (log_probability + noise[step]).masked_fill(~masked, math.inf)
        masked = lowest(sureness, counts[:, step])
    return tokens


def in_order(
    draw: Draw, tokens: Tensor, known: Tensor, remaining: Tensor, ranks: Tensor, *, first: int = 0, revise: bool = False
) -> Tensor:
    """Draws the tokens of each step together, in an order that is fixed from the start; only theirs are drawn.

    One token a step this is exact sampling, by the chain rule, whatever the order.

    Args:
        draw: the network and its head.
        tokens: (B, N, L), of which those that are ``known`` (B, N) stay as they are.
        known: tokens that are given.
        remaining: (B, steps) of :func:`masked_counts`, on the CPU.
        ranks: (B, N): the order.
        first: index of the first step.
        revise: all tokens are there already: in each step only those that it draws again are masked (Draft-and-Revise).
    """
    size = tokens.shape[1]
    unknown = (~known).sum(dim=1)
    total = remaining[:, :1].new_tensor(unknown.tolist())[:, None]
    ends = total - remaining
    starts = torch.cat([torch.zeros_like(total), ends[:, :-1]], dim=1)
    widest = (ends - starts).amax(dim=0).tolist()
    starts, counts = starts.to(tokens.device), (ends - starts).to(tokens.device)  # before the steps, which then never wait
    sequence = ranks.masked_fill(known, size).argsort(dim=1, stable=True)
    masked = torch.zeros_like(known) if revise else ~known
    for step, width in enumerate(widest):
        if width == 0:  # fewer tokens than steps
            break
        offset = torch.arange(width, device=tokens.device)
        at = sequence.gather(1, (starts[:, step, None] + offset) % size)
        chosen = offset < counts[:, step, None]
        if revise:
            masked = torch.zeros_like(known).scatter(1, at, chosen)
        drawn, _ = draw(first + step, tokens, masked, at)
        where = at[..., None].expand(-1, -1, tokens.shape[2])
        tokens = tokens.scatter(1, where, torch.where(chosen[..., None], drawn.to(tokens.dtype), tokens.gather(1, where)))
        masked = masked.scatter(1, at, masked.gather(1, at) & ~chosen)
    return tokens
