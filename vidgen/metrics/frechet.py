"""``frechet``: how far apart two sets of clips are as Gaussians in a feature space, with its error and for sets without end.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2

of means m and covariances S (Dowson & Landau 1982; Heusel et al. 2017 of images, Unterthiner et al. 2018 of videos). It is called
by the features that it is taken of: FVD is the distance of those of one particular network.

For any R with R^T R = S the last trace is the nuclear norm of R1 R2^T, the sum of its singular values, and also the sum of the
roots of the eigenvalues of R1 S2 R1^T. The latter takes half the time and is taken where no eigenvalue is so small that its root
loses digits; the former holds everywhere, with fewer clips than features too. No root of the product S1 S2 is taken: it has no
symmetry to lean on, and its root comes out complex and with half of its digits.

The distance of finite sets is biased upwards, by about a constant over their number: it falls as sets grow, and two distances can
be compared at equal numbers only. Chong & Forsyth, "Effectively Unbiased FID and Inception Score" (2020), therefore draw a line
through distances of subsets over 1/N and read it at 0. Here the line goes through the whole sets and the mean over their two
halves: at these two the curve is straightest, and as the halves hold every clip once, chance enters the intercept only as it
enters the value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.metrics.features import (
    BLOCKS,
    ONE,
    Estimate,
    FeatureSets,
    check_sets,
    dealt,
    jackknife_variance,
    rows_of,
    small_sets,
)
from vidgen.metrics.statistics import FeatureStats

EPSILON = torch.finfo(torch.float64).eps
PRECISE = 1e-10
"""What the roots of eigenvalues may lose by rounding, as a share of their sum."""

STRIP = 64
"""Columns of a product that are taken at once."""


def frechet_from_features(a: Tensor, b: Tensor, *, ddof: int = 1) -> Tensor:
    """The distance of two sets of features, (N, d) and (M, d): a float64 scalar, exactly 0 where they are the same.

    Args:
        a: rows of features; they need not be more than d.
        b: likewise.
        ddof: covariances are over N - ddof: 1 in TFGAN and most others, 0 in StyleGAN-V and what follows it.

    Raises:
        UserError: for sets of fewer than two, of different dimensions, or with numbers that are not finite.
    """
    a, b = check_sets(a, b, least=2)
    if min(len(a), len(b)) > a.shape[1]:
        value = _by_eigenvalues(_statistics(a), _statistics(b), ddof)
        if value is not None:
            return value
    return _by_singular_values(*(_normal(rows, ddof) for rows in (a, b)))


def frechet_from_stats(a: FeatureStats, b: FeatureStats, *, ddof: int = 1) -> Tensor:
    """The distance of two sets of which only statistics are left; see :func:`frechet_from_features`."""
    if a.n and b.n and a.dim != b.dim:
        raise UserError(f"Statistics of features of {a.dim} and of {b.dim} numbers cannot be compared: {ONE}.")
    value = _by_eigenvalues(a, b, ddof) if min(a.n, b.n) > a.dim > 0 else None
    if value is not None:
        return value
    return _by_singular_values(*(_Normal(stats.mean, _root(stats.covariance(ddof))) for stats in (a, b)))


def frechet(generated: Tensor, real: Tensor, *, ddof: int = 1) -> Estimate:
    """The distance of two sets of features, (N, d) and (M, d), with its error and its value for sets without end.

    The errors are the block jackknife's: each of :data:`BLOCKS` parts of either set is left out in turn, and the variances that
    the two sets bring are added. They are on the safe side (Efron & Stein 1981), the more so the more of the value is bias. (A
    bootstrap is no way out: rows drawn twice make sets smaller than they are and the distance larger.) Which row is in which
    block is drawn from what the rows hold, so their order makes no difference. Rows are taken to be independent: of a hundred
    samples of each context (``bair-prediction``) the error that is the generated side's comes out too small.

    Raises:
        UserError: as :func:`frechet_from_features`.
    """
    generated, real = check_sets(generated, real, least=2)
    value = frechet_from_features(generated, real, ddof=ddof)
    common = {"num_generated": len(generated), "num_real": len(real)}
    warnings = _warnings(len(generated), len(real), generated.shape[1])
    if min(len(generated), len(real)) < 2 * BLOCKS:
        few = f"Below {2 * BLOCKS} clips of a kind neither an error nor the value for sets without end can be told."
        return Estimate(value=float(value), **common, warnings=(*warnings, few))
    found = _jackknife(generated, real, ddof)
    return Estimate(
        value=float(value),
        standard_error=found.error,
        extrapolated=2 * float(value) - found.halves,
        extrapolated_error=found.extrapolated_error,
        **common,
        warnings=warnings,
    )


class Frechet(FeatureSets):
    """The Frechet distance of generated from real clips.

    Args:
        extractor: as in :class:`vidgen.metrics.features.FeatureSets`.
        ddof: covariances are over N - ddof.
        keep_features: whether all features are kept, which the errors and the value for sets without end are taken of. Without,
            there are statistics alone, and memory does not grow with the number of clips.
        reset_real_features: whether ``reset`` forgets the real clips too.
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        extractor: nn.Module | None = None,
        ddof: int = 1,
        keep_features: bool = True,
        reset_real_features: bool = True,
    ) -> None:
        super().__init__(extractor=extractor, reset_real_features=reset_real_features)
        if ddof not in (0, 1):
            raise UserError(f"A covariance is over N or over N - 1, so ddof is 0 or 1 and not {ddof}.")
        self.ddof, self.keep_features = ddof, keep_features

    def keep(self, name: str, features: Tensor) -> None:
        """Add rows to the state ``name``: as they are, or to the packed statistics that it then holds."""
        if self.keep_features:
            super().keep(name, features)
            return
        stats = self._stats(name) if len(getattr(self, name)) else FeatureStats(device=features.device)
        stats.update(features)
        setattr(self, name, [stats.packed()])

    def compute(self) -> Tensor:
        """The distance, a float64 scalar. Raises UserError for fewer than two clips of a kind."""
        if self.keep_features:
            return frechet_from_features(*self.sets(), ddof=self.ddof)
        return frechet_from_stats(self._stats("generated"), self._stats("real"), ddof=self.ddof)

    def estimate(self) -> Estimate:
        """The distance with all that belongs beside it, of all processes' clips: :func:`frechet`."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            if self.keep_features:
                return frechet(*self.sets(), ddof=self.ddof)
            generated, real = self._stats("generated"), self._stats("real")
            unknown = "Only statistics were kept, of which no error can be told: for one, use keep_features=true."
            return Estimate(
                value=float(frechet_from_stats(generated, real, ddof=self.ddof)),
                num_generated=generated.n,
                num_real=real.n,
                warnings=(*_warnings(generated.n, real.n, real.dim), unknown),
            )

    def _stats(self, name: str) -> FeatureStats:
        """What the state ``name`` holds: the statistics of one process after another, packed."""
        packed = rows_of(getattr(self, name), name)
        stats = FeatureStats(device=packed.device)
        for part in packed.split(packed.shape[1]):
            stats.merge(FeatureStats.unpacked(part))
        return stats


# The distance ---------------------------------------------------------------------------------------------------------------


def _statistics(rows: Tensor) -> FeatureStats:
    stats = FeatureStats(device=rows.device)
    stats.update(rows)
    return stats


def _by_eigenvalues(a: FeatureStats, b: FeatureStats, ddof: int) -> Tensor | None:
    """None where it would cost digits: an eigenvalue is exact to the size of the largest, and its root to that over itself."""
    root, failed = torch.linalg.cholesky_ex(a.scatter)
    if failed:
        return None
    product = _congruent(root, b.scatter).mT  # column after column, as LAPACK has matrices: nothing is turned round first
    values = torch.linalg.eigvalsh(product, UPLO="U") / ((a.n - ddof) * (b.n - ddof))
    overlap = values.clamp(min=0).sqrt()
    lost = (EPSILON * values[-1] / overlap).sum()
    if not lost <= PRECISE * overlap.sum():
        return None
    spread = a.scatter.trace() / (a.n - ddof) + b.scatter.trace() / (b.n - ddof)
    return _summed(a.mean - b.mean, spread, overlap.sum(), lost + len(values) * EPSILON * spread)


def _congruent(root: Tensor, scatter: Tensor) -> Tensor:
    """root^T scatter root, of a lower triangular root, and of the result the lower triangle: by strips a third of the work."""
    product = torch.zeros_like(scatter)
    for start in range(0, len(root), STRIP):
        rest, strip = slice(start, None), slice(start, start + STRIP)
        product[rest, strip] = root[rest, rest].T @ (scatter[rest, rest] @ root[rest, strip])
    return product


@dataclass(frozen=True)
class _Normal:
    """A normal distribution: its mean (d,), and a ``root`` (r, d) of its covariance root^T root."""

    mean: Tensor
    root: Tensor

    @property
    def spread(self) -> Tensor:
        """The trace of the covariance."""
        return self.root.square().sum()


def _normal(rows: Tensor, ddof: int) -> _Normal:
    mean = rows.mean(dim=0)
    root = (rows - mean) / math.sqrt(len(rows) - ddof)
    return _Normal(mean, torch.linalg.qr(root, mode="r").R if len(rows) > rows.shape[1] else root)


def _root(covariance: Tensor) -> Tensor:
    """Without the directions in which there is nothing but rounding, which the root would raise from 1e-16 to 1e-8."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * EPSILON * values[-1]
    return (vectors[:, kept] * values[kept].sqrt()).T


def _by_singular_values(a: _Normal, b: _Normal) -> Tensor:
    spread = a.spread + b.spread
    overlap = torch.linalg.svdvals(a.root @ b.root.T).sum()
    return _summed(a.mean - b.mean, spread, overlap, max(*a.root.shape, *b.root.shape) * EPSILON * spread)


def _summed(apart: Tensor, spread: Tensor, overlap: Tensor, rounding: Tensor) -> Tensor:
    """The distance; 0 where what is left of its terms is not more than their ``rounding``."""
    value = apart.square().sum() + spread - 2 * overlap
    return torch.where(value <= rounding, 0.0, value)


# Its error ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Jackknife:
    """What leaving out one block after another says.

    Attributes:
        error: of the distance.
        halves: the mean distance of the sets' halves.
        extrapolated_error: of twice the distance less that mean.
    """

    error: float
    halves: float
    extrapolated_error: float


def _jackknife(generated: Tensor, real: Tensor, ddof: int) -> _Jackknife:
    # The even blocks make one half and the odd ones the other.
    sets, places = (generated, real), (dealt(generated), dealt(real))
    parts = [
        [(rows[blocks % 2 == half], blocks[blocks % 2 == half] // 2) for rows, blocks in zip(sets, places, strict=True)]
        for half in (0, 1)
    ]
    halves = [frechet_from_features(a, b, ddof=ddof) for (a, _), (b, _) in parts]
    variance = extrapolated_variance = 0.0
    for side in (0, 1):
        whole = _without_each_block(sets[side], places[side], _normal(sets[1 - side], ddof), ddof)
        intercept = 2 * whole
        for half in (0, 1):
            (rows, blocks), (other, _) = parts[half][side], parts[half][1 - side]
            intercept[half::2] -= (_without_each_block(rows, blocks, _normal(other, ddof), ddof) + halves[1 - half]) / 2
        variance += jackknife_variance(whole)
        extrapolated_variance += jackknife_variance(intercept)
    return _Jackknife(math.sqrt(variance), float(sum(halves)) / 2, math.sqrt(extrapolated_variance))


def _without_each_block(rows: Tensor, blocks: Tensor, other: _Normal, ddof: int) -> Tensor:
    """The distance of rows (N, d) to the other distribution without each of their blocks.

    With R the other's root, the singular values sought are the roots of the eigenvalues of R S R^T, and of the rows' images in R
    all products are taken once: a block is left out of them by a difference.
    """
    n, mean = len(rows), rows.mean(dim=0)
    rows = rows - mean
    image, squares = rows @ other.root.T, rows.square().sum(dim=1)
    tall = n > image.shape[1]
    products = image.T @ image if tall else image @ image.T
    values = []
    for number in range(int(blocks.max()) + 1):
        left, kept = (blocks == number).nonzero().flatten(), (blocks != number).nonzero().flatten()
        shift = -rows[left].sum(dim=0) / len(kept)
        if tall:
            moved = other.root @ shift
            inner = products - image[left].T @ image[left] - len(kept) * torch.outer(moved, moved)
        else:
            inner = products[kept][:, kept]
            inner = inner - inner.mean(dim=0) - inner.mean(dim=1, keepdim=True) + inner.mean()
        spread = squares[kept].sum() - len(kept) * shift.square().sum()
        overlap = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
        apart = (mean + shift - other.mean).square().sum()
        free = len(kept) - ddof
        values.append(apart + spread / free + other.spread - 2 * overlap / math.sqrt(free))
    return torch.stack(values)


def _warnings(num_generated: int, num_real: int, dim: int) -> tuple[str, ...]:
    return small_sets(
        *(num_generated, num_real, dim),
        few="much of the distance is bias; compare at equal numbers",
        flat="the distance is mostly of what the clips lack",
    )
