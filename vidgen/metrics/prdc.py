"""``prdc``: precision, recall, density and coverage: whether samples look real, and whether all that is real is sampled.

A set's manifold is the union of balls around its clips, each reaching to its k-th nearest neighbour of the same set.

- *precision*: share of generated clips in the real manifold; *recall*: share of real clips in the generated one (Kynkaanniemi et
  al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019).
- *density*: in how many real balls a generated clip lies, over k; *coverage*: share of real balls that hold a generated clip
  (Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020), which an outlier among the real clips
  fools less.

A clip on the very edge of a ball is outside, as in Naeem et al.'s code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.metrics.features import BLOCKS, Estimate, FeatureSets, check_sets, dealt, jackknife_variance, small_sets
from vidgen.metrics.neighbours import radii, tiles


def prdc(generated: Tensor, real: Tensor, *, k: int = 5) -> dict[str, Tensor]:
    """``precision``, ``recall``, ``density`` and ``coverage`` of two sets of features, (N, d) and (M, d), as float64 scalars.

    All but density are in [0, 1]; density's mean is 1 where both sets are of one distribution.

    Raises:
        UserError: for sets of no more than ``k``, of different dimensions, or with numbers that are not finite.
    """
    generated, real = check_sets(generated, real, least=k + 1)
    generated_radii, real_radii = radii(generated, k), radii(real, k)
    inside = torch.zeros_like(generated_radii)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    for rows, distance in tiles(generated, real):
        within = distance < real_radii
        inside[rows] = within.sum(dim=1).double()
        covered |= within.any(dim=0)
        recalled |= (distance < generated_radii[rows, None]).any(dim=0)
    return {
        "precision": (inside > 0).double().mean(),
        "recall": recalled.double().mean(),
        "density": inside.mean() / k,
        "coverage": covered.double().mean(),
    }


def estimates(generated: Tensor, real: Tensor, *, k: int = 5) -> dict[str, Estimate]:
    """The four figures, each with its standard error: a block jackknife's over both sets, as of the Frechet distance.

    The errors are on the safe side, the more so the nearer a share is to 1; there are none for sets of fewer than two clips a
    block.

    Raises:
        UserError: as :func:`prdc`.
    """
    few = "the figures change with the number; compare at equal numbers"
    warnings = small_sets(len(generated), len(real), generated.shape[1], few=few, flat="neighbourhoods are far apart there")
    values, errors = prdc(generated, real, k=k), _errors(generated.double(), real.double(), k)
    return {
        name: Estimate(
            value=float(value),
            standard_error=errors.get(name),
            num_generated=len(generated),
            num_real=len(real),
            least=0.0,
            most=math.inf if name == "density" else 1.0,
            warnings=warnings,
        )
        for name, value in values.items()
    }


def _errors(generated: Tensor, real: Tensor, k: int) -> dict[str, float]:
    """Standard errors by leaving out one block of either set after another; none for sets that are too small for that."""
    if min(len(generated), len(real)) < 2 * max(BLOCKS, k):
        return {}
    variances: dict[str, float] = {}
    for side, rows in enumerate((generated, real)):
        blocks, sets, without = dealt(rows), [generated, real], []
        for block in range(BLOCKS):
            sets[side] = rows[blocks != block]
            without.append(prdc(*sets, k=k))
        for name in without[0]:
            variance = jackknife_variance(torch.stack([one[name] for one in without]))
            variances[name] = variances.get(name, 0.0) + variance
    return {name: math.sqrt(variance) for name, variance in variances.items()}


class PRDC(FeatureSets):
    """Precision, recall, density and coverage of generated against real clips.

    Args:
        extractor: as in :class:`vidgen.metrics.features.FeatureSets`.
        k: the neighbour that a ball reaches to.
        reset_real_features: whether ``reset`` forgets the real clips too.
    """

    higher_is_better = True

    def __init__(self, *, extractor: nn.Module | None = None, k: int = 5, reset_real_features: bool = True) -> None:
        super().__init__(extractor=extractor, reset_real_features=reset_real_features)
        if k < 1:
            raise UserError(f"A ball reaches to some neighbour, so k is at least 1 and not {k}.")
        self.k, self.least = k, k + 1

    def compute(self) -> dict[str, Tensor]:
        """Not one scalar but four, by name: :func:`prdc`."""
        return prdc(*self.sets(), k=self.k)

    def estimate(self) -> dict[str, Estimate]:
        """The four with what belongs beside them, of all processes' clips: :func:`estimates`."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return estimates(*self.sets(), k=self.k)
