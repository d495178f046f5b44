"""``jedi``: JEDi's kernel distance of two sets of clips; of features of its own network, V-JEPA's, it is JEDi.

A hundred times the biased MMD^2 by the kernel (x . y / d)^2. Source: Luo et al., "Beyond FVD" (2025). As each row's product with
itself counts, the value is never negative and falls as sets grow: compare at equal numbers only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.features import Estimate, FeatureSets
from vidgen.metrics.kernels import polynomial_mmd


def jedi(generated: Tensor, real: Tensor) -> Estimate:
    """JEDi's MMD of two sets of features, (N, d) and (M, d), with its jackknife error, which the paper does not have."""
    return polynomial_mmd(generated, real, degree=2, coef0=0.0, biased=True, scale=100.0)


class JEDi(FeatureSets):
    """JEDi's distance of generated from real clips; arguments as in :class:`vidgen.metrics.features.FeatureSets`."""

    higher_is_better = False
    least = 3

    def compute(self) -> Tensor:
        """The distance, a float64 scalar. Raises UserError for fewer than three clips of a kind."""
        return torch.tensor(jedi(*self.sets()).value, dtype=torch.float64)

    def estimate(self) -> Estimate:
        """The distance with its standard error, of all processes' clips."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return jedi(*self.sets())
