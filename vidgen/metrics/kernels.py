"""Maximum mean discrepancy by polynomial kernels, which KVD and JEDi are, tile by tile: memory does not grow with N^2.

    k(x, y) = (x . y / d + c)^degree,    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

Source: Gretton et al., "A Kernel Two-Sample Test" (2012): *unbiased* leaves each row's product with itself out of the means,
*biased* has it in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vidgen.metrics.features import Estimate, check_sets, jackknife_variance, small_sets

TILE = 2**22
"""Values of the kernel that are held at once, in float64 32 MiB."""


def polynomial_mmd(generated: Tensor, real: Tensor, *, degree: int, coef0: float, biased: bool, scale: float = 1.0) -> Estimate:
    """MMD^2 of two sets of features, (N, d) and (M, d), times ``scale``, with its standard error.

    Rows are taken to be independent, and the error is the jackknife's that leaves out one after another. It needs only how much
    of the kernel's sums each row has, so it is exact and costs nothing; it is on the safe side on average (Efron & Stein 1981),
    which shows where both sets are of one distribution.

    Raises:
        UserError: for sets of fewer than three, of different dimensions, or with numbers that are not finite.
    """
    x, y = check_sets(generated, real, least=3)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + coef0) ** degree

    across, down = _sums(x, y, kernel)
    value, variance = -2 * across.mean() / len(y), 0.0
    for rows, crossed, other in ((x, across, len(y)), (y, down, len(x))):
        n, (own, _) = len(rows), _sums(rows, rows, kernel)
        itself = (rows.square().sum(dim=1) / rows.shape[1] + coef0) ** degree
        pairs = own.sum() if biased else (own - itself).sum()
        # Without row i, its row and its column of the products go.
        rest = pairs - 2 * own + itself if biased else pairs - 2 * (own - itself)
        total, fewer = (n * n, (n - 1) ** 2) if biased else (n * (n - 1), (n - 1) * (n - 2))
        without = rest / fewer - 2 * (crossed.sum() - crossed) / ((n - 1) * other)
        value = value + pairs / total
        variance += jackknife_variance(without)
    few = "much of the figure is bias; compare at equal numbers" if biased else "much of the figure is chance; see its error"
    return Estimate(
        value=scale * float(value),
        standard_error=scale * math.sqrt(variance),
        num_generated=len(x),
        num_real=len(y),
        warnings=small_sets(len(x), len(y), x.shape[1], few=few, flat="in what they all have in common nothing is compared"),
    )


def _sums(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The kernel of all pairs, summed over ``y`` (N,) and over ``x`` (M,)."""
    across, down = [], torch.zeros_like(y[:, 0])
    for part in x.split(max(1, TILE // len(y))):
        tile = kernel(part, y)
        across.append(tile.sum(dim=1))
        down += tile.sum(dim=0)
    return torch.cat(across), down
