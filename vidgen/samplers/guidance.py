"""Classifier-free guidance: how predictions under more and under fewer conditions are joined, and how strongly at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Condition

Schedule = Literal["constant", "linear", "cosine"]


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """``u + scale * (c - u)`` on every channel (Ho and Salimans, 2022).

    DiT's released code guides three channels only; here all are guided. Scale 1 is the conditional prediction itself.
    """
    return unconditional + scale * (conditional - unconditional)


def guide_chain(predictions: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Separate scales for separate conditions: ``p_0 + sum_k s_k (p_k - p_(k-1))``, p_k knowing one condition more than p_(k-1).

    After Brooks et al., "InstructPix2Pix" (2023), equation 3, for any number of conditions. Equal scales are :func:`guide`
    between the last and the first; scales of 1 are the last prediction.
    """
    total = predictions[0]
    for more, fewer, scale in zip(predictions[1:], predictions, scales, strict=False):
        total = total + scale * (more - fewer)
    return total


def guidance_weight(
    scale: float, progress: float, interval: Sequence[float] = (0.0, 1.0), schedule: Schedule = "constant"
) -> float:
    """The scale of guidance at a ``progress`` of sampling, 0 at its first step and 1 at its last; 1 is none.

    Args:
        scale: the largest.
        progress: how far sampling has come.
        interval: the part of sampling that is guided, its ends included (Kynkaanniemi et al., 2024, whose interval is of noise
            levels).
        schedule: ``constant``; ``linear``, which rises from 1 to ``scale`` over the whole of sampling, as in Muse and VAR; or
            ``cosine``, which does so along half a cosine.
    """
    if not interval[0] <= progress <= interval[1]:
        return 1.0
    rise = {"constant": 1.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}[schedule]
    return 1 + (scale - 1) * rise


@dataclass(frozen=True)
class GuidanceOptions:
    """How a generator's samples are guided: its options ``guidance_scale``, ``guidance_interval`` and ``guidance_schedule``.

    Attributes:
        scale: where no other is asked for; 1 is no guidance.
        interval: as in :func:`guidance_weight`.
        schedule: likewise.

    Raises:
        UserError: on an interval or a schedule that is none, naming what is right.
    """

    scale: float = 1.0
    interval: Sequence[float] = (0.0, 1.0)
    schedule: Schedule = "constant"

    @property
    def steady(self) -> bool:
        """Whether guidance is the same at every step."""
        return self.schedule == "constant" and tuple(self.interval) == (0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise UserError(
                f"guidance_interval={list(self.interval)} is no part of the sampling; give [first,last] within [0,1]."
            )
        if self.schedule not in get_args(Schedule):
            hint = did_you_mean(self.schedule, get_args(Schedule))
            raise UserError(f"There is no guidance_schedule '{self.schedule}'.{hint} Use {', '.join(get_args(Schedule))}.")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The guidance of one sampling: made by :meth:`vidgen.conditioning.Conditioner.guide`, used at every step.

    A network runs once a step on all branches as one batch, branch after branch, and where the weights are 1 on the last alone:

        condition, copies = guidance.at(progress)
        out = guidance.join(network(x.repeat(copies, ...), condition), progress)

    Attributes:
        branches: conditions of ``batch`` clips each, from the fewest to all.
        scales: one a step from a branch to the next.
        batch: clips.
        options: when, and how they come to their full strength.
    """

    branches: tuple[Condition, ...]
    scales: tuple[float, ...]
    batch: int
    options: GuidanceOptions = GuidanceOptions()

    def weights(self, progress: float) -> tuple[float, ...]:
        """The scales at ``progress``; empty where nothing is guided there."""
        options = self.options
        found = tuple(guidance_weight(scale, progress, options.interval, options.schedule) for scale in self.scales)
        return found if any(weight != 1 for weight in found) else ()

    def at(self, *progress: float) -> tuple[Condition, int]:
        """The condition of the batch that the network runs on at ``progress``, and how many copies of the clips that is.

        Of several, where keys and values are kept from one to the next: all copies if any of them is guided.
        """
        if not any(self.weights(one) for one in progress):
            return self.branches[-1], 1
        return Condition.cat(self.branches, self.batch), len(self.branches)

    def join(self, predictions: Tensor, progress: float) -> Tensor:
        """The guided prediction from those of all copies."""
        weights = self.weights(progress)
        return guide_chain(predictions.chunk(len(self.branches)), weights) if weights else predictions
