"""``kvd``: the kernel distance of two sets of clips in a feature space, without the bias that the Frechet distance has.

The unbiased MMD^2 by the kernel (x . y / d + 1)^3. Source: Binkowski et al., "Demystifying MMD GANs" (2018), who call it KID
where the features are those of Inception; of features of videos it is KVD (Unterthiner et al. 2018). It is taken of all clips at
once, and not as the mean over random subsets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.features import Estimate, FeatureSets
from vidgen.metrics.kernels import polynomial_mmd


def kvd(generated: Tensor, real: Tensor) -> Estimate:
    """KVD of two sets of features, (N, d) and (M, d), with its jackknife error: see
    :func:`vidgen.metrics.kernels.polynomial_mmd`.

    It is 0 on average where both sets are of one distribution, and so negative as often as not.
    """
    return polynomial_mmd(generated, real, degree=3, coef0=1.0, biased=False)


class KVD(FeatureSets):
    """The kernel distance of generated from real clips; arguments as in :class:`vidgen.metrics.features.FeatureSets`."""

    higher_is_better = False
    least = 3

    def compute(self) -> Tensor:
        """The distance, a float64 scalar. Raises UserError for fewer than three clips of a kind."""
        return torch.tensor(kvd(*self.sets()).value, dtype=torch.float64)

    def estimate(self) -> Estimate:
        """The distance with its standard error, of all processes' clips."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return kvd(*self.sets())
