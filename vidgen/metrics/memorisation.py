"""``memorisation``: whether samples lie nearer to training clips than clips do that the model has never seen.

Source: Meehan, Chaudhuri & Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models" (2020). With d(x) the
distance of a clip to the nearest training clip, the figure is the probability that d(sample) < d(held-out clip), ties counting
half: 1/2 where nothing is copied, 1 where everything is, and less than 1/2 where samples are farther from the data than real
clips are. Their test C_T is the same count as a z-score (Mann & Whitney's), here over the whole space at once and not cell by
cell: a model that copies in one region and strays in another can hide it, which is what the nearest clip of every sample is given
for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidgen.metrics.features import FeatureSets, any_rows, check_sets, rows_of
from vidgen.metrics.neighbours import nearest, nearest_other

CLOSE = 0.05
"""Share of held-out clips that are as near to a training clip as what is called close."""


@dataclass(frozen=True, kw_only=True)
class Copying:
    """What is said of a set of samples, and of each of them.

    Attributes:
        value: the probability that a sample lies nearer to the training clips than a held-out clip does.
        c_t: Meehan et al.'s z-score: below -3 samples are copies beyond chance, above 3 they are too far from the data.
        close: share of samples nearer to a training clip than all but :data:`CLOSE` of held-out clips; that much without copying.
        distance: (N,) of each sample to the nearest training clip.
        index: (N,) of that clip, in the order in which ``update`` was given them (process after process).
        num_generated: samples.
        num_training: training clips.
        num_held_out: held-out clips, or training clips in their stead.
        warnings: what to know, a sentence each.
    """

    value: float
    c_t: float
    close: float
    distance: Tensor
    index: Tensor
    num_generated: int
    num_training: int
    num_held_out: int
    warnings: tuple[str, ...] = ()


def memorisation(generated: Tensor, training: Tensor, held_out: Tensor | None = None) -> Copying:
    """How samples (N, d) lie to training clips (M, d), against how ``held_out`` clips (L, d) do.

    Without ``held_out``, each training clip's distance to the nearest other one stands for them. Clips that overlap, or are of
    one video, then make real distances look small, and copies hide.

    Raises:
        UserError: for fewer than two of a kind, different dimensions, or numbers that are not finite.
    """
    generated, training = check_sets(generated, training, least=2)
    warnings: tuple[str, ...] = ()
    if held_out is None:
        real = nearest_other(training)
        warnings = ("There are no held-out clips: training clips' distances to one another stand for them, which hides copies.",)
    else:
        real, _ = nearest(check_sets(held_out, training, least=2)[0], training)
    distance, index = nearest(generated, training)
    n, m = len(distance), len(real)
    ordered = real.sort().values
    # How many held-out clips are farther from the data than each sample, those as far counting half.
    farther = m - (torch.searchsorted(ordered, distance) + torch.searchsorted(ordered, distance, right=True)).double() / 2
    value = float(farther.mean()) / m
    return Copying(
        value=value,
        c_t=(0.5 - value) * n * m / math.sqrt(n * m * (n + m + 1) / 12),
        close=float((distance < real.quantile(CLOSE)).double().mean()),
        distance=distance,
        index=index,
        num_generated=n,
        num_training=len(training),
        num_held_out=m,
        warnings=warnings,
    )


class Memorisation(FeatureSets):
    """How near generated clips lie to training clips, by the measure of held-out ones.

    Args:
        extractor: as in :class:`vidgen.metrics.features.FeatureSets`.
        reset_real_features: whether ``reset`` forgets training and held-out clips too.
    """

    higher_is_better = False

    held_out: list[Tensor]

    def __init__(self, *, extractor: nn.Module | None = None, reset_real_features: bool = True) -> None:
        super().__init__(extractor=extractor, reset_real_features=reset_real_features)
        self.add_state("held_out", [], dist_reduce_fx="cat")

    def update(self, video: Tensor | None, real: Tensor | None = None, held_out: Tensor | None = None) -> None:
        """Take in generated clips ``video``, training clips ``real``, and clips that were ``held_out`` of the training.

        Each may be None, though not all of them. Raises UserError as :meth:`vidgen.metrics.features.FeatureSets.update`.
        """
        self.take({"generated": video, "real": real, "held_out": held_out})

    def compute(self) -> Tensor:
        """The probability that a sample lies nearer to the training clips than a held-out clip does, a float64 scalar."""
        return torch.tensor(self._copying().value, dtype=torch.float64)

    def estimate(self) -> Copying:
        """The same with its test, its warnings and every sample's nearest training clip, of all processes' clips."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._copying()

    def _copying(self) -> Copying:
        held_out = rows_of(self.held_out, "held-out") if any_rows(self.held_out) else None
        return memorisation(*self.sets(), held_out)
